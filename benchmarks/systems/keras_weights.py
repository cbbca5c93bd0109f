"""Weights into Keras models, by the names that the benchmarks use."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def assign_transformer(model, weights: Mapping[str, np.ndarray]) -> None:
    """Gives this library's Transformer its weights.

    Args:
        model: From `keras_lm.transformer_lm`.
        weights: `embedding`, `positions`, `final_norm.*`, and for each layer `n.` before `attention_norm.*`, `qkv.*`, `output.*`,
            `feed_forward_norm.*`, `widen.*`, `narrow.*`; the stars are Keras' names.
    """
    for key, value in weights.items():
        path, _, attribute = key.rpartition(".")
        number, _, name = path.rpartition(".")
        if not path:
            layer, attribute = model.get_layer(key), "embeddings"
        elif not number:
            layer = model.get_layer(name)
        else:
            block = model.get_layer(f"block_{number}")
            inside = {"qkv": block.attention.qkv, "output": block.attention.output_projection}
            layer = inside[name] if name in inside else getattr(block, name)
        getattr(layer, attribute).assign(value)


def assign_lstm(model, weights: Mapping[str, np.ndarray]) -> None:
    """Gives a Sequential of embedding, LSTMs and dense output its weights.

    Args:
        model: `keras_lm.lstm_lm`, or any of the same layers.
        weights: `embedding`, for each LSTM `n.kernel`, `n.recurrent_kernel`, `n.bias`, and `output.kernel`, `output.bias`.
    """
    embedding, *recurrent, output = model.layers
    embedding.embeddings.assign(weights["embedding"])
    for number, layer in enumerate(recurrent):
        for name in ("kernel", "recurrent_kernel", "bias"):
            getattr(layer.cell, name).assign(weights[f"{number}.{name}"])
    output.kernel.assign(weights["output.kernel"])
    output.bias.assign(weights["output.bias"])
