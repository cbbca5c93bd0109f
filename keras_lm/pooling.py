"""One vector for a text, of those that a model has made for its tokens."""

from __future__ import annotations

import keras
import tensorflow as tf

POOLINGS = ("mean", "max", "last")


@keras.saving.register_keras_serializable(package="keras_lm")
class Pooling(keras.layers.Layer):
    """One vector of a text's many: their mean, the largest number in each place, or the vector of the last token.

    Args:
        kind: `"mean"` (default), `"max"` or `"last"`.

    Call arguments:
        inputs: `(batch, time, width)`.
        visible: `(batch, time)` bool: where there is text; padding is on the right.

    Returns:
        `(batch, width)`; zeros for a text without tokens.

    Raises:
        ValueError: another kind.

    Example:

    >>> x = tf.constant([[[1.0], [5.0], [9.0]]])
    >>> visible = tf.constant([[True, True, False]])
    >>> [float(Pooling(kind)(x, visible)[0, 0]) for kind in POOLINGS]
    [3.0, 5.0, 5.0]
    """

    def __init__(self, kind: str = "mean", **kwargs):
        super().__init__(**kwargs)
        if kind not in POOLINGS:
            raise ValueError(f"kind must be one of {', '.join(POOLINGS)}, got {kind!r}")
        self.kind = kind

    def call(self, inputs: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
        real = tf.cast(visible, inputs.dtype)[:, :, None]
        if self.kind == "max":
            lowest = tf.reduce_max(tf.where(visible[:, :, None], inputs, inputs.dtype.min), axis=1)
            return tf.where(tf.reduce_any(visible, axis=1)[:, None], lowest, tf.zeros_like(lowest))
        if self.kind == "last":
            after = tf.pad(real[:, 1:], [[0, 0], [0, 1], [0, 0]])
            return tf.reduce_sum(inputs * (real - after), axis=1)
        return tf.reduce_sum(inputs * real, axis=1) / tf.maximum(tf.reduce_sum(real, axis=1), 1)

    def compute_output_shape(self, inputs_shape: tuple, visible_shape: tuple) -> tuple:
        return inputs_shape[0], inputs_shape[-1]

    def get_config(self) -> dict:
        return {**super().get_config(), "kind": self.kind}
