"""Keras as it is: models of its own layers alone, `compile` and `fit` with their defaults."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from systems.keras_weights import assign_lstm
from systems.training.batches import dataset
from systems.training.works import BETAS, CLIP_NORM, EPSILON, LEARNING_RATE, WEIGHT_DECAY, Work, initial_weights


def _lstm(work: Work):
    import keras

    recurrent = [keras.layers.LSTM(work.hidden_dim, return_sequences=True) for _ in range(work.num_layers)]
    model = keras.Sequential(
        [
            keras.Input([None], dtype="int32"),
            keras.layers.Embedding(work.vocabulary_size, work.embedding_dim),
            *recurrent,
            keras.layers.Dense(work.vocabulary_size),
        ]
    )
    assign_lstm(model, initial_weights(work))
    return model


def _transformer(work: Work):
    import keras

    width, heads = work.embedding_dim, work.num_heads
    activation = (lambda x: keras.activations.gelu(x, approximate=True)) if work.activation == "gelu_tanh" else work.activation
    weights = initial_weights(work)

    def norm(x, name: str):
        layer = keras.layers.LayerNormalization(epsilon=1e-5)
        x = layer(x)
        layer.gamma.assign(weights[f"{name}.gamma"])
        layer.beta.assign(weights[f"{name}.beta"])
        return x

    def dense(x, outputs: int, name: str, function=None):
        layer = keras.layers.Dense(outputs, activation=function, use_bias=False)
        x = layer(x)
        layer.kernel.assign(weights[f"{name}.kernel"])
        return x

    def attention(x, number: int):
        layer = keras.layers.MultiHeadAttention(heads, width // heads, use_bias=False)
        x = layer(x, x, use_causal_mask=True)
        kernels = np.split(weights[f"{number}.qkv.kernel"], 3, axis=1)
        for part, kernel in zip((layer.query_dense, layer.key_dense, layer.value_dense), kernels, strict=True):
            part.kernel.assign(kernel.reshape(width, heads, width // heads))
        layer.output_dense.kernel.assign(weights[f"{number}.output.kernel"].reshape(heads, width // heads, width))
        return x

    ids = keras.Input([work.sequence_length], dtype="int32")
    embedding = keras.layers.ReversibleEmbedding(work.vocabulary_size, width)
    positions = keras.layers.Embedding(work.sequence_length, width)
    x = embedding(ids) + positions(keras.ops.cumsum(keras.ops.ones_like(ids[0])) - 1)
    for number in range(work.num_layers):
        x = x + attention(norm(x, f"{number}.attention_norm"), number)
        widened = dense(norm(x, f"{number}.feed_forward_norm"), 4 * width, f"{number}.widen", activation)
        x = x + dense(widened, width, f"{number}.narrow")
    model = keras.Model(ids, embedding(norm(x, "final_norm"), reverse=True))
    embedding.embeddings.assign(weights["embedding"])
    positions.embeddings.assign(weights["positions"])
    return model


class Fit:
    """`model.fit` on the pipeline's batches; a turn is one call of it, which is one epoch."""

    def __init__(self, work: Work, batches: Path, folder: Path):
        import keras

        self.work, self.done = work, 0
        self.model = _lstm(work) if work.kind == "lstm" else _transformer(work)
        optimizer = keras.optimizers.AdamW(
            LEARNING_RATE,
            weight_decay=WEIGHT_DECAY,
            beta_1=BETAS[0],
            beta_2=BETAS[1],
            epsilon=EPSILON,
            global_clipnorm=CLIP_NORM,
        )
        optimizer.exclude_from_weight_decay([variable for variable in self.model.trainable_variables if len(variable.shape) < 2])
        self.model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        self.parameters = self.model.count_params()

    def train(self, steps: int) -> float:
        history = self.model.fit(dataset(self.work, self.done), steps_per_epoch=steps, verbose=0)
        self.done += steps
        return history.history["loss"][-1]
