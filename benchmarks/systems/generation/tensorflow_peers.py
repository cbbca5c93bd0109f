"""Peers on TensorFlow: KerasHub's GPT-2, and the loop of TensorFlow's text-generation tutorial."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from systems.generation.works import END_ID, TEMPERATURE, TOP_K, Work, decoder_weights


class KerasHub:
    """`GPT2CausalLM.generate`, compiled by XLA as it is by default."""

    def __init__(self, work: Work, batch: int, precision: str, folder: Path):
        import keras_hub

        self.new_tokens = work.new_tokens
        backbone = keras_hub.models.GPT2Backbone(
            vocabulary_size=work.vocabulary_size,
            num_layers=work.num_layers,
            num_heads=work.num_heads,
            hidden_dim=work.embedding_dim,
            intermediate_dim=4 * work.embedding_dim,
            dropout=0.0,
            max_sequence_length=work.context_length,
        )
        _assign(backbone, work)
        samplers = {"greedy": keras_hub.samplers.GreedySampler(), "top_k": keras_hub.samplers.TopKSampler(k=TOP_K, temperature=TEMPERATURE)}
        self.models = {}
        for strategy, sampler in samplers.items():  # a model each, since compiling with another sampler drops the function compiled before
            self.models[strategy] = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
            self.models[strategy].compile(sampler=sampler)

    def generate(self, prompts: np.ndarray, strategy: str) -> Sequence[Sequence[int]]:
        inputs = {
            "token_ids": np.pad(prompts, [[0, 0], [0, self.new_tokens]]),
            "padding_mask": np.pad(np.ones_like(prompts), [[0, 0], [0, self.new_tokens]]),
        }
        outputs = self.models[strategy].generate(inputs, stop_token_ids=None)
        return np.asarray(outputs["token_ids"])[:, prompts.shape[1] :].tolist()


def _assign(backbone, work: Work) -> None:
    weights = decoder_weights(work)
    width, heads = work.embedding_dim, work.num_heads
    backbone.token_embedding.embeddings.assign(weights["embedding"])
    backbone.position_embedding.position_embeddings.assign(weights["positions"])
    backbone.layer_norm.gamma.assign(weights["final_norm.gamma"])
    backbone.layer_norm.beta.assign(weights["final_norm.beta"])
    for number, layer in enumerate(backbone.transformer_layers):
        attention = layer._self_attention_layer
        kernels, biases = np.split(weights[f"{number}.qkv.kernel"], 3, axis=1), np.split(weights[f"{number}.qkv.bias"], 3)
        for dense, kernel, bias in zip((attention.query_dense, attention.key_dense, attention.value_dense), kernels, biases, strict=True):
            dense.kernel.assign(kernel.reshape(width, heads, width // heads))
            dense.bias.assign(bias.reshape(heads, width // heads))
        attention.output_dense.kernel.assign(weights[f"{number}.output.kernel"].reshape(heads, width // heads, width))
        attention.output_dense.bias.assign(weights[f"{number}.output.bias"])
        for name, norm in (("attention_norm", layer._self_attention_layer_norm), ("feed_forward_norm", layer._feedforward_layer_norm)):
            norm.gamma.assign(weights[f"{number}.{name}.gamma"])
            norm.beta.assign(weights[f"{number}.{name}.beta"])
        for name, dense in (("widen", layer._feedforward_intermediate_dense), ("narrow", layer._feedforward_output_dense)):
            dense.kernel.assign(weights[f"{number}.{name}.kernel"])
            dense.bias.assign(weights[f"{number}.{name}.bias"])


class TutorialLoop:
    """One compiled step that takes and gives the states, called once a character from Python.

    Ids instead of strings, so that looking characters up is not counted against it.

    References:
        https://www.tensorflow.org/text/tutorials/text_generation
    """

    def __init__(self, work: Work, batch: int, precision: str, folder: Path):
        import keras
        import tensorflow as tf

        self.new_tokens = work.new_tokens
        embedding = keras.layers.Embedding(work.vocabulary_size, work.embedding_dim)
        recurrent = [keras.layers.LSTM(work.hidden_dim, return_sequences=True, return_state=True) for _ in range(work.num_layers)]
        output = keras.layers.Dense(work.vocabulary_size)

        class Model(keras.Model):
            def __init__(self):
                super().__init__()
                self.embedding, self.recurrent, self.output_layer = embedding, recurrent, output

            def call(self, ids, states=None, return_state=False, training=False):
                x, after = self.embedding(ids), []
                for number, layer in enumerate(self.recurrent):
                    x, *state = layer(x, initial_state=None if states is None else states[number], training=training)
                    after.append(state)
                x = self.output_layer(x)
                return (x, after) if return_state else x

        model = Model()
        never = np.zeros(work.vocabulary_size, np.float32)
        never[END_ID] = -np.inf
        mask = tf.constant(never)

        @tf.function
        def one_step(ids, states=None):
            logits, states = model(ids, states=states, return_state=True)
            logits = logits[:, -1] / TEMPERATURE + mask
            return tf.random.categorical(logits, num_samples=1), states

        self.one_step = one_step

    def generate(self, prompts: np.ndarray, strategy: str) -> Sequence[Sequence[int]]:
        import tensorflow as tf

        ids, states, result = tf.constant(prompts, tf.int64), None, []
        for _ in range(self.new_tokens):
            ids, states = self.one_step(ids, states=states)
            result.append(ids)
        return tf.concat(result, axis=1).numpy().tolist()
