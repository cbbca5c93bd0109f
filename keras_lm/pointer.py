"""Writing a word of the source without knowing it: an output that copies.

Of names and numbers that a model has seen a few times, or never, it cannot say that they are probable; but it can point at them. Short
training sets are where that matters most: a thousand headlines teach few words, and where to look for them nevertheless.

References:
    See, Liu and Manning 2017, «Get To The Point: Summarization with Pointer-Generator Networks» (arXiv:1704.04368), §2.2; Gu et al. 2016,
    «Incorporating Copying Mechanism in Sequence-to-Sequence Learning» (arXiv:1603.06393).
"""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_lm.attention import MEMORY, Cache


@keras.saving.register_keras_serializable(package="keras_lm")
class PointerGenerator(keras.layers.Layer):
    """P(w) = g softmax(logits)_w + (1 - g) Σ a_j over the places j of the source where w stands; g = σ(uᵀs + c), a = softmax(s W mᵀ/√d).

    The attention is one of its own, so that it serves behind any decoder. It gives ln P, whose softmax is P: losses and samplers take it
    as logits.

    Call arguments:
        inputs: Logits, `(batch, time, vocabulary_size)`.
        states: What the logits were made from, `(batch, time, width)`.
        memory: `(batch, memory_time, memory_width)`.
        memory_visible: `(batch, memory_time)` bool: where there is text.
        source: Its ids, `(batch, memory_time)` int32.

    Returns:
        `(batch, time, vocabulary_size)`: ln P.

    Example:

    >>> layer = PointerGenerator()
    >>> source = tf.constant([[5, 7, 7]])
    >>> log_p = layer(tf.zeros([1, 2, 9]), tf.zeros([1, 2, 4]), tf.zeros([1, 3, 6]), source > 0, source)
    >>> tf.exp(log_p)[0, 0].numpy().round(3)[[4, 5, 7]]  # a ninth each from the generator, and a third for each place; halved
    array([0.056, 0.222, 0.389], dtype=float32)
    """

    def build(
        self, inputs_shape: tuple, states_shape: tuple, memory_shape: tuple, memory_visible_shape: tuple, source_shape: tuple
    ) -> None:
        self.key = keras.layers.Dense(states_shape[-1], use_bias=False, dtype=self.dtype_policy, name="key")
        self.key.build((None, None, memory_shape[-1]))
        self.gate = keras.layers.Dense(1, dtype=self.dtype_policy, name="gate")
        self.gate.build((None, None, states_shape[-1]))

    def call(self, inputs: tf.Tensor, states: tf.Tensor, memory: tf.Tensor, memory_visible: tf.Tensor, source: tf.Tensor) -> tf.Tensor:
        return self._mixed(inputs, states, self.remember(memory, memory_visible, source))

    def init_cache(self, batch_size: int | tf.Tensor, length: int | tf.Tensor) -> Cache:
        return {}

    def extend(
        self,
        inputs: tf.Tensor,
        cache: Cache,
        start: int | tf.Tensor,
        padding: tf.Tensor,
        states: tf.Tensor,
        memory: tf.Tensor | None = None,
        memory_visible: tf.Tensor | None = None,
        source: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Cache]:
        if isinstance(start, int) and start == 0:
            cache = self.remember(memory, memory_visible, source)
        return self._mixed(inputs, states, cache), cache

    def remember(self, memory: tf.Tensor, memory_visible: tf.Tensor, source: tf.Tensor) -> Cache:
        """What steps need of a source: what its positions answer to, where there is text, and its ids."""
        return {f"{MEMORY}key": self.key(memory), f"{MEMORY}visible": memory_visible, f"{MEMORY}source": source}

    def weights_of(
        self, inputs: tf.Tensor, states: tf.Tensor, memory: tf.Tensor, memory_visible: tf.Tensor, source: tf.Tensor
    ) -> tf.Tensor:
        """Where it points, `(batch, 1, queries, keys)` float32, for those who want to look."""
        return tf.exp(self._log_weights(states, self.remember(memory, memory_visible, source)))[:, None]

    def _log_weights(self, states: tf.Tensor, cache: Cache) -> tf.Tensor:
        key = cache[f"{MEMORY}key"]
        scores = tf.matmul(tf.cast(states, key.dtype) * tf.cast(key.shape[-1] ** -0.5, key.dtype), key, transpose_b=True)
        return tf.nn.log_softmax(tf.where(cache[f"{MEMORY}visible"][:, None], tf.cast(scores, tf.float32), -1e30))

    def _mixed(self, logits: tf.Tensor, states: tf.Tensor, cache: Cache) -> tf.Tensor:
        logits = tf.cast(logits, tf.float32)
        gate = tf.cast(self.gate(states), tf.float32)
        places = tf.one_hot(cache[f"{MEMORY}source"], logits.shape[-1])  # (batch, memory_time, vocabulary_size)
        pointed = tf.matmul(tf.exp(self._log_weights(states, cache)), places)
        generated = tf.math.log_sigmoid(gate) + tf.nn.log_softmax(logits)
        copied = tf.math.log_sigmoid(-gate) + tf.math.log(pointed + 1e-20)
        highest = tf.stop_gradient(tf.maximum(generated, copied))
        mixed = highest + tf.math.log(tf.exp(generated - highest) + tf.exp(copied - highest))
        return tf.cast(mixed, self.compute_dtype)

    def compute_output_shape(self, inputs_shape: tuple, *_: tuple) -> tuple:
        return tuple(inputs_shape)
