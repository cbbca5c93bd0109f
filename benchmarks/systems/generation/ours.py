"""This library's samplers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from systems.generation.works import END_ID, TEMPERATURE, TOP_K, TOP_P, Work, decoder_weights
from systems.keras_weights import assign_transformer

_PRECISIONS = {"f32": "float32", "int8": "int8"}


def _gelu(x):
    """GELU in the tanh form of GPT-2, which two of the peers know alone."""
    import keras

    return keras.activations.gelu(x, approximate=True)


def build_model(work: Work, activation=_gelu):
    """The model of `keras_lm` for this work, a Transformer with the weights that all systems share."""
    import keras_lm

    if work.kind == "lstm":
        return keras_lm.lstm_lm(
            work.vocabulary_size, embedding_dim=work.embedding_dim, hidden_dim=work.hidden_dim, num_layers=work.num_layers
        )
    model = keras_lm.transformer_lm(
        work.vocabulary_size,
        context_length=work.context_length,
        embedding_dim=work.embedding_dim,
        num_layers=work.num_layers,
        num_heads=work.num_heads,
        positions="learned",
        activation=activation,
        use_bias=True,
    )
    assign_transformer(model, decoder_weights(work))
    return model


def _settings(work: Work, strategy: str):
    from keras_lm.generation.settings import SamplingSettings

    knobs = {
        "greedy": {"temperature": 0.0},
        "top_k": {"temperature": TEMPERATURE, "top_k": TOP_K},
        "top_p": {"temperature": TEMPERATURE, "top_p": TOP_P},
        "sample": {"temperature": TEMPERATURE},
    }[strategy]
    return SamplingSettings(max_new_tokens=work.new_tokens, **knobs)


class Xla:
    """`Sampler`, compiled by XLA, with caches that grow as they do in a process that lives long: by 32 slots, at batch 1 by 128; with
    memory kept as the commands keep it."""

    def __init__(self, work: Work, batch: int, precision: str, folder: Path):
        from keras_lm.cli.options import keep_memory

        keep_memory()
        self.work = work
        self.sampler = self.make_sampler(batch, precision)

    def make_sampler(self, batch: int, precision: str):
        from keras_lm.generation.sampler import Sampler
        from keras_lm.layers import gelu_tanh

        return Sampler(build_model(self.work, gelu_tanh), end_id=END_ID, never=(END_ID,), cache_step=128 if batch == 1 else 32)

    def generate(self, prompts: np.ndarray, strategy: str) -> Sequence[Sequence[int]]:
        return [text.ids for text in self.sampler.generate(prompts.tolist(), _settings(self.work, strategy))]


class LiteRT(Xla):
    """The step as a flat buffer, run by LiteRT: one row as `keras_lm-generate model.tflite` does, without TensorFlow, several by
    `LiteRTSampler`."""

    def __init__(self, work: Work, batch: int, precision: str, folder: Path):
        self.step = None
        super().__init__(work, batch, precision, folder)
        if batch == 1:
            from keras_lm.generation.litert_convert import convert, memories
            from keras_lm.generation.litert_runtime import Step

            model = self.sampler.decoder.model
            content = convert(model, slots=work.context_length, chunk=work.prompt_length, precision=_PRECISIONS[precision])
            self.step = Step(content, memories(model))

    def make_sampler(self, batch: int, precision: str):
        from keras_lm.generation.litert import LiteRTSampler

        return LiteRTSampler(build_model(self.work), precision=_PRECISIONS[precision], end_id=END_ID, never=(END_ID,))

    def generate(self, prompts: np.ndarray, strategy: str) -> Sequence[Sequence[int]]:
        if self.step is None:
            return super().generate(prompts, strategy)
        from keras_lm.generation.growing_texts import Texts

        (ids,) = prompts
        bias = np.zeros(self.work.vocabulary_size, np.float32)
        bias[END_ID] = -np.inf
        room = self.work.context_length - len(ids)
        texts = Texts.of_prompt(ids, _settings(self.work, strategy), seed=0, bias=bias, room=room, end_id=END_ID)
        self.step.begin()
        self.step.read(ids[:-1])
        new, token, follow = [], ids[-1:], texts.follow(self.step)
        while texts.running:
            token = follow(token)
            new.append(int(token[0]))
        return [new]
