"""Writing a word of the source without knowing it: an output that copies.

Of names and numbers that a model has seen a few times, or never, it cannot say that they are probable; but it can point at them. Short
training sets are where that matters most: a thousand headlines teach few words, and where to look for them nevertheless. Names are longer
than one token, and what follows the token just written is known: where it stands in the source, the place behind it is the likely one.

References:
    See, Liu and Manning 2017, «Get To The Point: Summarization with Pointer-Generator Networks» (arXiv:1704.04368), §2.2; Gu et al. 2016,
    «Incorporating Copying Mechanism in Sequence-to-Sequence Learning» (arXiv:1603.06393), §3.3, whose selective read tells the decoder in
    another way where the token just written stands.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_lm.attention import MEMORY, Cache


@keras.saving.register_keras_serializable(package="keras_lm")
class PointerGenerator(keras.layers.Layer):
    """P(w) = g softmax(logits)_w + (1 - g) Σ a_j over the places j of the source where w stands.

    g = σ(uᵀs + c) and a = softmax(s W mᵀ/√d + (v₁ᵀs + b₁) F₁ + (v₂ᵀs + b₂) F₂), where F₁ is 1 behind a token that is the one just written
    and F₂ behind two that are the two just written, in their order. So a run is copied in its order, and the state says where it ends.

    The attention is one of its own, so that it serves behind any decoder. It gives ln P, whose softmax is P: losses and samplers take it
    as logits.

    Call arguments:
        inputs: Logits, `(batch, time, vocabulary_size)`.
        states: What the logits were made from, `(batch, time, width)`.
        written: Ids that the decoder read, `(batch, time)` int32: at each time the token just written.
        memory: `(batch, memory_time, memory_width)`.
        memory_visible: `(batch, memory_time)` bool: where there is text.
        source: Its ids, `(batch, memory_time)` int32.

    Returns:
        `(batch, time, vocabulary_size)`: ln P.

    Example:

    >>> layer = PointerGenerator()
    >>> source = tf.constant([[5, 7, 7]])
    >>> log_p = layer(tf.zeros([1, 2, 9]), tf.zeros([1, 2, 4]), tf.constant([[2, 5]]), tf.zeros([1, 3, 6]), source > 0, source)
    >>> tf.exp(log_p)[0].numpy().round(3)[:, [4, 5, 7]]  # a ninth each from the generator, and a third for each place; halved
    array([[0.056, 0.222, 0.389],
           [0.056, 0.162, 0.45 ]], dtype=float32)

    In its second row 5 was written, behind which a 7 stands.
    """

    def build(
        self,
        inputs_shape: tuple,
        states_shape: tuple,
        written_shape: tuple,
        memory_shape: tuple,
        memory_visible_shape: tuple,
        source_shape: tuple,
    ) -> None:
        self.key = keras.layers.Dense(states_shape[-1], use_bias=False, dtype=self.dtype_policy, name="key")
        self.key.build((None, None, memory_shape[-1]))
        self.gate = keras.layers.Dense(1, dtype=self.dtype_policy, name="gate")
        self.gate.build((None, None, states_shape[-1]))
        self.onward = keras.layers.Dense(2, bias_initializer="ones", dtype=self.dtype_policy, name="onward")
        self.onward.build((None, None, states_shape[-1]))

    def call(
        self,
        inputs: tf.Tensor,
        states: tf.Tensor,
        written: tf.Tensor,
        memory: tf.Tensor,
        memory_visible: tf.Tensor,
        source: tf.Tensor,
    ) -> tf.Tensor:
        before = _shifted(written, 1)
        return self._mixed(inputs, states, written, before, self.remember(memory, memory_visible, source))

    def init_cache(self, batch_size: int | tf.Tensor, length: int | tf.Tensor) -> Cache:
        return {"written": tf.zeros([batch_size, 1], tf.int32)}

    def extend(
        self,
        inputs: tf.Tensor,
        cache: Cache,
        start: int | tf.Tensor,
        padding: tf.Tensor,
        states: tf.Tensor,
        written: tf.Tensor,
        memory: tf.Tensor | None = None,
        memory_visible: tf.Tensor | None = None,
        source: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Cache]:
        if isinstance(start, int) and start == 0:
            cache = {**cache, **self.remember(memory, memory_visible, source)}
        before = tf.concat([cache["written"], written[:, :-1]], axis=1)
        return self._mixed(inputs, states, written, before, cache), {**cache, "written": written[:, -1:]}

    def remember(self, memory: tf.Tensor, memory_visible: tf.Tensor, source: tf.Tensor) -> Cache:
        """What steps need of a source: what its positions answer to, where there is text, and its ids."""
        return {f"{MEMORY}key": self.key(memory), f"{MEMORY}visible": memory_visible, f"{MEMORY}source": source}

    def weights_of(
        self,
        inputs: tf.Tensor,
        states: tf.Tensor,
        written: tf.Tensor,
        memory: tf.Tensor,
        memory_visible: tf.Tensor,
        source: tf.Tensor,
    ) -> tf.Tensor:
        """Where it points, `(batch, 1, queries, keys)` float32, for those who want to look."""
        cache = self.remember(memory, memory_visible, source)
        return tf.exp(self._log_weights(states, written, _shifted(written, 1), cache))[:, None]

    def _log_weights(self, states: tf.Tensor, written: tf.Tensor, before: tf.Tensor, cache: Cache) -> tf.Tensor:
        key, source = cache[f"{MEMORY}key"], cache[f"{MEMORY}source"]
        scores = tf.matmul(tf.cast(states, key.dtype) * tf.cast(key.shape[-1] ** -0.5, key.dtype), key, transpose_b=True)
        behind = tf.equal(_shifted(source, 1)[:, None], written[:, :, None])
        behind_two = tf.logical_and(behind, tf.equal(_shifted(source, 2)[:, None], before[:, :, None]))
        one, two = tf.split(self.onward(states), 2, axis=-1)
        scores += one * tf.cast(behind, scores.dtype) + two * tf.cast(behind_two, scores.dtype)
        return tf.nn.log_softmax(tf.where(cache[f"{MEMORY}visible"][:, None], tf.cast(scores, tf.float32), -1e30))

    def _mixed(self, logits: tf.Tensor, states: tf.Tensor, written: tf.Tensor, before: tf.Tensor, cache: Cache) -> tf.Tensor:
        logits = tf.cast(logits, tf.float32)
        gate = tf.cast(self.gate(states), tf.float32)
        places = tf.one_hot(cache[f"{MEMORY}source"], logits.shape[-1])  # (batch, memory_time, vocabulary_size)
        pointed = tf.matmul(tf.exp(self._log_weights(states, written, before, cache)), places)
        generated = tf.math.log_sigmoid(gate) + tf.nn.log_softmax(logits)
        copied = tf.math.log_sigmoid(-gate) + tf.math.log(pointed + 1e-20)
        highest = tf.stop_gradient(tf.maximum(generated, copied))
        mixed = highest + tf.math.log(tf.exp(generated - highest) + tf.exp(copied - highest))
        return tf.cast(mixed, self.compute_dtype)

    def compute_output_shape(self, inputs_shape: tuple, *_: tuple) -> tuple:
        return tuple(inputs_shape)


def _shifted(ids: tf.Tensor, by: int) -> tf.Tensor:
    """Of each place the id that stands `by` places before it, 0 where none does."""
    return tf.pad(ids, [[0, 0], [by, 0]])[:, :-by]
