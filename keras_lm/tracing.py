"""Functions that are called with few shapes, whose graphs are drawn once and for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def by_shape(function: tf.types.experimental.PolymorphicFunction, *, compiled: bool) -> Callable[..., Any]:
    """The function, with its graphs kept by the shapes of the tensors that it is called with, or by their ranks.

    TensorFlow keeps them too, but takes several shapes for a mistake, and warns. Batches as wide as their longest text have several.

    Args:
        function: A `tf.function` whose arguments are tensors, or tuples, lists and dictionaries of them.
        compiled: Whether XLA compiles it, which it does for one shape at a time. What it does not compile has one graph for all shapes of
            the same ranks: to draw a graph for each takes longer than a short run.

    Example:

    >>> double = by_shape(tf.function(lambda x: x + x), compiled=False)
    >>> [double(tf.ones([width])).shape[0] for width in range(1, 9)]
    [1, 2, 3, 4, 5, 6, 7, 8]
    """
    known: dict[tuple, Callable] = {}
    shape_of = (lambda tensor: tensor.shape) if compiled else (lambda tensor: [None] * tensor.shape.rank)

    def call(*arguments: Any) -> Any:
        arguments = tf.nest.map_structure(tf.convert_to_tensor, arguments)
        if tf.config.functions_run_eagerly():  # somebody looks at each operation
            return function(*arguments)
        specs = tf.nest.map_structure(lambda tensor: tf.TensorSpec(shape_of(tensor), tensor.dtype), arguments)
        key = tuple((*spec.shape, spec.dtype) for spec in tf.nest.flatten(specs))
        if key not in known:
            known[key] = function.get_concrete_function(*specs)
        return known[key](*arguments)

    return call
