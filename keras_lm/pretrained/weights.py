"""The variables of a model as the tensors of a checkpoint, in both directions.

transformers keeps a linear layer's kernel as `(outputs, inputs)`, and queries, keys and values as three layers; here it is
`(inputs, outputs)`, and one layer.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_lm.pretrained.architectures import Architecture


@dataclasses.dataclass(frozen=True)
class Weight:
    """A variable of a model, and the tensors that it is written as.

    Attributes:
        variable: The variable; `None` for a bias that the model does not have, which is written as zeros.
        shapes: By the name of each tensor, its shape.
        transposed: Whether a tensor is the transpose of its part of the variable.
    """

    variable: Any
    shapes: Mapping[str, tuple[int, ...]]
    transposed: bool = False

    def assign(self, read: Callable[[str], np.ndarray]) -> None:
        """Gives the variable its values from the tensors that `read` gives."""
        parts = [read(name).T if self.transposed else read(name) for name in self.shapes]
        self.variable.assign(np.concatenate(parts, axis=-1))

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors by name, in float32."""
        widths = [shape[0 if self.transposed else -1] for shape in self.shapes.values()]
        whole = np.zeros(sum(widths), np.float32) if self.variable is None else keras.ops.convert_to_numpy(self.variable)
        for name, part in zip(self.shapes, np.split(whole, np.cumsum(widths)[:-1], axis=-1), strict=True):
            yield name, np.ascontiguousarray(part.T if self.transposed else part, np.float32)


def weights(architecture: Architecture, model: keras.Model) -> Iterator[Weight]:
    """Every variable of a model that `architecture.build` made, with the tensors it is written as."""
    layers = {layer.name: layer for layer in model.layers}
    blocks = sum(name.startswith("block_") for name in layers)
    for path, names in architecture.layers.items():
        if path.partition(".")[0].format(n=0) not in layers:
            continue  # the head for masked tokens, of a model that has none
        for number in range(blocks if "{n}" in path else 1):
            first, *inside = path.format(n=number).split(".")
            *holders, layer = itertools.accumulate(inside, getattr, initial=layers[first])
            if isinstance(names, str):
                parts = {names.format(n=number): None}
            else:
                attention = holders[-1]
                heads = (attention.num_heads, attention.num_kv_heads, attention.num_kv_heads)
                parts = {name.format(n=number): count * attention.head_dim for name, count in zip(names, heads, strict=True)}
            yield from _of_layer(architecture, layer, parts)
    embedding = layers["embedding"]
    if not embedding.tie_weights:
        width, rows = embedding.reverse_embeddings.shape
        yield Weight(embedding.reverse_embeddings, {f"{architecture.output}.weight": (rows, width)}, transposed=True)


def _of_layer(architecture: Architecture, layer: keras.layers.Layer, parts: Mapping[str, int | None]) -> Iterator[Weight]:
    """The weights of a layer that is written as `parts`: names, and how many of the layer's outputs each has (`None`: all)."""
    if isinstance(layer, keras.layers.Dense):
        inputs, outputs = layer.kernel.shape
        shapes = {name: (inputs, width or outputs) for name, width in parts.items()}
        transposed = architecture.transposed
        yield Weight(layer.kernel, {f"{name}.weight": shape[::-1] if transposed else shape for name, shape in shapes.items()}, transposed)
        if layer.use_bias or architecture.always_biased:
            yield Weight(layer.bias, {f"{name}.bias": (width or outputs,) for name, width in parts.items()})
        return
    (name,) = parts
    for ours, theirs in (("embeddings", "weight"), ("gamma", "weight"), ("scale", "weight"), ("beta", "bias"), ("bias", "bias")):
        variable = getattr(layer, ours, None)
        if isinstance(variable, keras.Variable):
            yield Weight(variable, {f"{name}.{theirs}": tuple(variable.shape)})
