"""Functions that are called with few shapes, each of which is compiled once and for good."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def by_shape(function: tf.types.experimental.PolymorphicFunction) -> Callable[..., Any]:
    """The function, with its graphs kept by the shapes of the tensors that it is called with.

    TensorFlow keeps them too, but takes several shapes for a mistake, and warns. Batches as wide as their longest text have several.

    Args:
        function: A `tf.function` whose arguments are tensors, or tuples, lists and dictionaries of them.

    Example:

    >>> double = by_shape(tf.function(lambda x: x + x))
    >>> [double(tf.ones([width])).shape[0] for width in range(1, 9)]
    [1, 2, 3, 4, 5, 6, 7, 8]
    """
    known: dict[tuple, Callable] = {}

    def call(*arguments: Any) -> Any:
        arguments = tf.nest.map_structure(tf.convert_to_tensor, arguments)
        shapes = tuple((*tensor.shape, tensor.dtype) for tensor in tf.nest.flatten(arguments))
        if shapes not in known:
            known[shapes] = function.get_concrete_function(*arguments)
        return known[shapes](*arguments)

    return call
