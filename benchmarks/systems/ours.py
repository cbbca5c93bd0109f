"""This library's samplers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from systems.works import END_ID, TEMPERATURE, TOP_K, TOP_P, Work, decoder_weights

_PRECISIONS = {"f32": "float32", "int8": "int8"}


def _gelu(x):
    """GELU in the tanh form of GPT-2, which two of the peers know alone."""
    import keras

    return keras.activations.gelu(x, approximate=True)


def build_model(work: Work):
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
        activation=_gelu,
        use_bias=True,
    )
    weights = decoder_weights(work)
    model.get_layer("embedding").embeddings.assign(weights["embedding"])
    model.get_layer("positions").embeddings.assign(weights["positions"])
    places = {"final_norm": model.get_layer("final_norm")}
    for number in range(work.num_layers):
        block = model.get_layer(f"block_{number}")
        places |= {
            f"{number}.attention_norm": block.attention_norm,
            f"{number}.qkv": block.attention.qkv,
            f"{number}.output": block.attention.output_projection,
            f"{number}.feed_forward_norm": block.feed_forward_norm,
            f"{number}.widen": block.widen,
            f"{number}.narrow": block.narrow,
        }
    for name, layer in places.items():
        first, second = ("gamma", "beta") if name.endswith("norm") else ("kernel", "bias")
        getattr(layer, first).assign(weights[f"{name}.{first}"])
        getattr(layer, second).assign(weights[f"{name}.{second}"])
    return model


class Xla:
    """`Sampler`: one function compiled by XLA."""

    def __init__(self, work: Work, batch: int, precision: str, folder: Path):
        self.new_tokens = work.new_tokens
        self.sampler = self.make_sampler(work, precision)

    def make_sampler(self, work: Work, precision: str):
        from keras_lm.generation.sampler import Sampler

        return Sampler(build_model(work), end_id=END_ID, never=(END_ID,))

    def generate(self, prompts: np.ndarray, strategy: str) -> Sequence[Sequence[int]]:
        from keras_lm.generation.settings import SamplingSettings

        knobs = {
            "greedy": {"temperature": 0.0},
            "top_k": {"temperature": TEMPERATURE, "top_k": TOP_K},
            "top_p": {"temperature": TEMPERATURE, "top_p": TOP_P},
            "sample": {"temperature": TEMPERATURE},
        }[strategy]
        texts = self.sampler.generate(prompts.tolist(), SamplingSettings(max_new_tokens=self.new_tokens, **knobs))
        return [text.ids for text in texts]


class LiteRT(Xla):
    """`LiteRTSampler`: the step as a flat buffer, run by LiteRT."""

    def make_sampler(self, work: Work, precision: str):
        from keras_lm.generation.litert import LiteRTSampler

        return LiteRTSampler(build_model(work), precision=_PRECISIONS[precision], end_id=END_ID, never=(END_ID,))
