"""What a signature is: named tensors in, named tensors out, declared once for TensorFlow and for the export's metadata."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Input:
    """An input of a signature.

    Args:
        spec: Its dtype and shape; the first axis is the batch.
        default: What the SignatureDef holds for a client that leaves it out, with a batch of 1; `None`: it must be given.
        bounds: The range to which the graph clamps it.
    """

    spec: tf.TensorSpec
    default: np.ndarray | None = None
    bounds: tuple[float, float] | None = None


class Signature:
    """A function of named tensors, ready to be saved.

    Args:
        meaning: What it does, in a line.
        inputs: By name, in order; those without a default first.
        function: Takes the inputs in that order and gives a dictionary of outputs.

    Attributes:
        function: The `tf.function`, whose names and defaults are those of the SignatureDef.

    Example:

    >>> numbers = Input(tf.TensorSpec([None], tf.int32))
    >>> factor = Input(tf.TensorSpec([None], tf.int32), default=np.array([2], np.int32), bounds=(0, 9))
    >>> signature = Signature("Multiplies.", {"numbers": numbers, "factor": factor}, lambda a, b: {"products": a * b})
    >>> signature.describe()["inputs"]["factor"]
    {'dtype': 'int32', 'shape': ['batch'], 'default': 2, 'clamped_to': [0, 9]}
    """

    def __init__(self, meaning: str, inputs: dict[str, Input], function: Callable[..., dict[str, tf.Tensor]]):
        self.meaning = meaning
        self.inputs = inputs

        def call(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
            return function(*arguments)

        def parameter(name: str, given: Input) -> inspect.Parameter:
            default = inspect.Parameter.empty if given.default is None else tf.constant(given.default)
            return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default)

        # tf.function reads names and defaults from here, and writes them into the SignatureDef.
        call.__signature__ = inspect.Signature([parameter(*item) for item in inputs.items()])
        self.function = tf.function(call, input_signature=[given.spec for given in inputs.values()], autograph=False)

    def describe(self) -> dict[str, Any]:
        """Meaning, inputs and outputs as plain values, for JSON."""
        outputs = self.function.get_concrete_function().structured_outputs
        return {
            "meaning": self.meaning,
            "inputs": {name: _described(given) for name, given in self.inputs.items()},
            "outputs": {name: _tensor(output) for name, output in outputs.items()},
        }


def _described(given: Input) -> dict[str, Any]:
    result = _tensor(given.spec)
    if given.default is not None:
        first = given.default.flat[0] if given.default.size else 0.0
        result["default"] = float(str(first)) if given.default.dtype.kind == "f" else int(first)  # 0.8, not the float32 next to it
        if given.default.ndim > 1:
            result["default_shape"] = list(given.default.shape)
    if given.bounds is not None:
        result["clamped_to"] = list(given.bounds)
    return result


def _tensor(spec: Any) -> dict[str, Any]:
    return {"dtype": spec.dtype.name, "shape": ["batch", *spec.shape.as_list()[1:]]}
