"""Matrix products as a CPU likes them: the numbers are those of Keras' layers, the form is what XLA turns into fast code."""

from __future__ import annotations

import math

import keras
import tensorflow as tf
from keras import ops


def product(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """x · kernel; where `x` has few rows, in parts that several cores can take.

    XLA runs a matrix-vector product on one core of a CPU, but the products of a batch beside each other. Cut along the inputs, the kernel
    stays where it lies: rows of a matrix are a batch of smaller ones. Twice as fast on two cores. Of two to sixteen rows, large matrices
    take up to 40 % less time so: XLA hands the products of a batch with their sum to YNNPACK, and a product alone to Eigen
    (`docs/performance.md`).

    Args:
        x: `(..., inputs)`.
        kernel: `(inputs, outputs)`.

    Returns:
        `(..., outputs)`.

    Example:

    >>> product(tf.ones([1, 1, 4]), tf.ones([4, 3])).numpy().tolist()
    [[[4.0, 4.0, 4.0]]]
    """
    inputs, outputs = kernel.shape
    rows = _number_of_rows(x)
    count = _parts_of_one_row(inputs, outputs) if rows == 1 else _parts_of_few_rows(inputs, outputs)
    if rows > _MOST_ROWS or inputs % count or count == 1:
        return ops.matmul(x, kernel)
    part = inputs // count
    cut = tf.transpose(tf.reshape(x, [rows, count, part]), [1, 0, 2])
    parts = tf.matmul(cut, tf.reshape(kernel, [count, part, outputs]))
    return tf.reshape(tf.reduce_sum(parts, axis=0), [*x.shape[:-1], outputs])


def _parts_of_one_row(inputs: int, outputs: int) -> int:
    return _PARTS if inputs * outputs < _LARGE or inputs % (2 * _PARTS) else 2 * _PARTS


def _parts_of_few_rows(inputs: int, outputs: int) -> int:
    """1 where nothing is gained: for matrices that lie in a cache, and for wide ones, as over a vocabulary, whose parts are long to sum."""
    if inputs * outputs < _LARGE or outputs > 4 * inputs:
        return 1
    return 2 * _PARTS if inputs < 1024 else 4 * _PARTS


_PARTS = 4
_MOST_ROWS = 16  # of 32 some products are slower in parts, of 64 all
_MOST_PARTS = 64
_LARGE = 1 << 20  # numbers in a matrix from which on twice as many parts are faster: it lies in no cache


def apply_dense(layer: keras.layers.Dense, x: tf.Tensor) -> tf.Tensor:
    """`layer(x)`, by `product` where `x` has few rows."""
    if _number_of_rows(x) > _MOST_ROWS or layer.quantization_mode is not None or layer.compute_dtype != layer.variable_dtype:
        return layer(x)
    y = product(x, tf.convert_to_tensor(layer.kernel))
    return layer.activation(y if layer.bias is None else y + layer.bias)


def apply_reversed(layer: keras.layers.ReversibleEmbedding, x: tf.Tensor) -> tf.Tensor:
    """`layer(x, reverse=True)`: logits over the rows of the embedding, which is used where it lies; of one row, in parts.

    As Keras writes it, XLA makes a loop of it that sums one number after the other (`docs/performance.md`).
    """
    if not layer.tie_weights or layer.logit_soft_cap or layer.quantization_mode is not None:
        return layer(x, reverse=True)
    dtype = layer.reverse_dtype or x.dtype
    rows = tf.cast(tf.reshape(x, [-1, x.shape[-1]]), dtype)
    embeddings = tf.cast(tf.cast(layer.embeddings, layer.compute_dtype), dtype)  # rounded, as Keras does on the way into a call
    large = layer.input_dim * x.shape[-1] >= 4 * _LARGE  # less than that gains less than the calls cost outside XLA
    count = _number_of_parts(layer.input_dim) if _number_of_rows(x) == 1 and large else 1
    if count > 1:
        # A batch, which several cores share. XLA runs slices one after the other, and makes one product of a row that is not repeated.
        rows = tf.broadcast_to(rows, [count, 1, x.shape[-1]])
        logits = tf.matmul(rows, tf.reshape(embeddings, [count, -1, x.shape[-1]]), transpose_b=True)
    else:
        logits = tf.matmul(rows, embeddings, transpose_b=True)
    return tf.reshape(logits, tf.concat([tf.shape(x)[:-1], [layer.input_dim]], axis=0))


def _number_of_parts(outputs: int) -> int:
    """The least number from `_PARTS` to `_MOST_PARTS` of equal parts that the rows of a matrix can be cut into, or 1."""
    return next((count for count in range(_PARTS, _MOST_PARTS + 1) if outputs % count == 0), 1)


def _number_of_rows(x: tf.Tensor) -> float:
    """Of vectors to be multiplied on a CPU; infinite where the graph does not say it, and on other devices, which need no parts."""
    on_cpu = not tf.config.list_physical_devices("GPU") and not tf.config.list_physical_devices("TPU")
    rows = x.shape[:-1].num_elements() if on_cpu else None
    return math.inf if rows is None else rows
