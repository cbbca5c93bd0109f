"""What short runs of tokens say of a text by themselves: the wide part of a wide and deep classifier.

References:
    Cheng et al. 2016, «Wide & Deep Learning for Recommender Systems» (arXiv:1606.07792), §3; Joulin et al. 2017, «Bag of Tricks for
    Efficient Text Classification» (arXiv:1607.01759), §2.2, on runs of words in buckets.
"""

from __future__ import annotations

import keras
import tensorflow as tf

_SCALE = 10.0
"""Of what a run says, so that steps of 0.001 get somewhere: with 10 a table alone was better than with 3 or 1 (docs/performance.md)."""


@keras.saving.register_keras_serializable(package="keras_lm")
class NgramLogits(keras.layers.Layer):
    """A linear classifier of the tokens, pairs of them and so on that a text has, each of which is in one of many buckets.

    Args:
        num_classes: How many classes there are.
        longest: Tokens of the longest runs. Default 2.
        buckets: Rows of the table; runs that share one speak with one voice. Default 262,144.
        dropout: Share of the runs that are left out in training. Default 0.

    Call arguments:
        ids: `(batch, time)` int32, padded with 0 on the right.

    Returns:
        `(batch, num_classes)`: 10 times the sum of the runs' rows, divided by the square root of how many there are; before anything is
        learnt 0, as for a text without tokens.

    Example:

    >>> layer = NgramLogits(2)
    >>> layer(tf.constant([[2, 7, 3, 0]])).numpy().tolist()
    [[0.0, 0.0]]
    """

    def __init__(self, num_classes: int, longest: int = 2, *, buckets: int = 2**18, dropout: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.longest, self.buckets = num_classes, longest, buckets
        self.dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, ids_shape: tuple) -> None:
        self.table = self.add_weight(name="table", shape=(self.buckets, self.num_classes), initializer="zeros")

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        runs, there = self._runs(ids)
        weights = tf.cast(there, self.compute_dtype)
        number = tf.reduce_sum(weights, axis=1, keepdims=True)
        rows = tf.gather(tf.convert_to_tensor(self.table), runs)
        said = tf.reduce_sum(rows * self.dropout(weights, training=training)[..., None], axis=1)
        return _SCALE * said / tf.sqrt(tf.maximum(number, 1))

    def _runs(self, ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The bucket of each run, `(batch, longest x time)`, and whether there is one."""
        bucket, there = tf.zeros_like(ids), tf.ones_like(ids, tf.bool)
        runs, real = [], []
        for further in range(self.longest):
            token = tf.pad(ids[:, further:], [[0, 0], [0, tf.minimum(further, tf.shape(ids)[1])]])
            there &= token != 0
            bucket = tf.math.floormod(bucket * 4093 + token * 1009 + further, self.buckets)  # below 2**31 for a million ids
            runs.append(bucket)
            real.append(there)
        return tf.concat(runs, axis=1), tf.concat(real, axis=1)

    def compute_output_shape(self, ids_shape: tuple) -> tuple:
        return ids_shape[0], self.num_classes

    def get_config(self) -> dict:
        own = {"num_classes": self.num_classes, "longest": self.longest, "buckets": self.buckets, "dropout": self.dropout.rate}
        return {**super().get_config(), **own}
