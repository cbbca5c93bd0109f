"""Dropout whose random numbers cost next to nothing.

Under XLA on a CPU TensorFlow's random numbers take longer than the products around them, and XLA computes them anew wherever a mask is
used, forward and backward: 0.66 s a step with Keras' layer and 0.17 s with this one, or without any (`docs/performance.md`). Here a mask is
a function of the place of a number and of the seed, by a hash of a few operations on whole numbers. It is the same under XLA and without.

References:
    Srivastava et al. 2014, «Dropout: A Simple Way to Prevent Neural Networks from Overfitting». The hash is Wellons' lowbias32.
"""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="keras_lm")
class HashDropout(keras.layers.Dropout):
    """`keras.layers.Dropout` with another source of random numbers, good enough to drop with and not for more.

    Args:
        rate: Share dropped; what stays is divided by `1 - rate`.

    Call arguments:
        inputs: Any shape.
        training: Whether anything is dropped.

    Returns:
        The shape and dtype of `inputs`.

    Example:

    >>> kept = HashDropout(0.25, seed=1)(tf.ones([100, 100]), training=True) > 0
    >>> bool(0.73 < tf.reduce_mean(tf.cast(kept, tf.float32)) < 0.77)
    True
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        return hash_dropout(self, inputs) if training else inputs


def hash_dropout(layer: keras.layers.Dropout, inputs: tf.Tensor) -> tf.Tensor:
    """What a `keras.layers.Dropout` gives in training, with the random numbers of this module, drawn by the layer's own seed.

    Example:

    >>> kept = hash_dropout(keras.layers.Dropout(0.25, seed=1), tf.ones([100, 100]))
    >>> bool(tf.reduce_all(kept == HashDropout(0.25, seed=1)(tf.ones([100, 100]), training=True)))
    True
    """
    if not layer.rate:
        return inputs
    bits = random_bits(layer.seed_generator.next(), tf.size(inputs))
    keep = tf.reshape(bits >= tf.constant(round(layer.rate * 2**32), tf.uint32), tf.shape(inputs))
    return tf.where(keep, inputs / tf.cast(1 - layer.rate, inputs.dtype), tf.zeros_like(inputs))


def random_bits(seed: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """uint32 `(size,)`, a function of the place and of `seed`, `(2,)` whole numbers."""
    seed = tf.cast(tf.convert_to_tensor(seed), tf.uint32)
    places = tf.cast(tf.range(size), tf.uint32)
    return _mixed(tf.bitwise.bitwise_xor(_mixed(places + _mixed(seed[0])), _mixed(_mixed(seed[1]) + seed[0])))


def _mixed(x: tf.Tensor) -> tf.Tensor:
    """uint32 → uint32 of which each bit depends on all bits of `x`."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = _folded(x, shift) * tf.constant(factor, tf.uint32)
    return _folded(x, 15)


def _folded(x: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.bitwise_xor(x, tf.bitwise.right_shift(x, tf.constant(shift, tf.uint32)))
