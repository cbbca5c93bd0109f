"""From logits to the next token: small pure functions on `(batch, vocabulary)` float32, with a knob a row.

Every knob is a `(batch,)` tensor and has a value that switches it off, so that changing it compiles nothing. A filter leaves a token's
logit as it is or sets it to -inf. None of them sorts the vocabulary: the k-th largest value, and the smallest probability inside the
nucleus, are found bit by bit, which is exact and takes 32 passes whatever k or p is.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

FORBIDDEN = float("-inf")


def apply_repetition_penalty(logits: tf.Tensor, counts: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    """Makes tokens that have occurred less likely: logit/penalty where it is positive, logit·penalty where it is negative.

    Args:
        logits: `(batch, vocabulary)`.
        counts: `(batch, vocabulary)` int32: how often each token has occurred, prompt included.
        penalty: `(batch,)`; 1 switches it off.

    References:
        Keskar et al. 2019, «CTRL».
    """
    penalty = penalty[:, None]
    return tf.where(counts > 0, tf.where(logits > 0, logits / penalty, logits * penalty), logits)


def apply_temperature(logits: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """logits / temperature; rows at temperature 0 are left alone, for `choose` takes their largest logit."""
    return logits / tf.where(temperature > 0, temperature, 1.0)[:, None]


def keep_top_k(logits: tf.Tensor, top_k: tf.Tensor) -> tf.Tensor:
    """Keeps the k largest logits, and any that equal the k-th.

    Args:
        logits: `(batch, vocabulary)`.
        top_k: `(batch,)` int32; 0 switches it off.

    References:
        Fan et al. 2018, «Hierarchical Neural Story Generation».

    Example:

    >>> keep_top_k(tf.constant([[1.0, 3.0, 2.0]]), tf.constant([2])).numpy().tolist()
    [[-inf, 3.0, 2.0]]
    """

    def keep() -> tf.Tensor:
        order = _order(logits)
        wanted = tf.where(top_k > 0, top_k, tf.shape(logits)[-1])

        def enough(threshold: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.cast(order >= threshold[:, None], tf.int32), axis=-1) >= wanted

        return tf.where(order >= _largest(enough, tf.zeros_like(wanted))[:, None], logits, FORBIDDEN)

    return tf.cond(tf.reduce_any(top_k > 0), keep, lambda: logits)


def keep_top_p(logits: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """Keeps the nucleus: the smallest set of most probable tokens whose probabilities sum to at least p, and any that equal its last.

    Args:
        logits: `(batch, vocabulary)`.
        top_p: `(batch,)` in (0, 1]; 1 switches it off.

    References:
        Holtzman et al. 2020, «The Curious Case of Neural Text Degeneration».

    Example:

    >>> kept = keep_top_p(tf.math.log([[0.5, 0.3, 0.2]]), tf.constant([0.7]))
    >>> tf.math.is_finite(kept).numpy().tolist()
    [[True, True, False]]
    """

    def keep() -> tf.Tensor:
        probabilities = tf.nn.softmax(logits)
        order = _order(probabilities)

        def enough(threshold: tf.Tensor) -> tf.Tensor:
            return tf.reduce_sum(tf.where(order >= threshold[:, None], probabilities, 0.0), axis=-1) >= top_p

        nucleus = order >= _largest(enough, tf.zeros_like(top_p, tf.int32))[:, None]
        return tf.where(nucleus | (top_p >= 1.0)[:, None], logits, FORBIDDEN)

    return tf.cond(tf.reduce_any(top_p < 1.0), keep, lambda: logits)


def choose(logits: tf.Tensor, uniform: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
    """Draws from softmax(logits) by inverting the cumulative distribution; rows at temperature 0 take the largest logit.

    One random number a row is enough, so a row's text does not depend on what else is in the batch.

    Args:
        logits: `(batch, vocabulary)`.
        uniform: `(batch,)` in [0, 1).
        temperature: `(batch,)`.

    Returns:
        `(batch,)` int32.

    Example:

    >>> choose(tf.math.log([[0.5, 0.5], [0.5, 0.5]]), tf.constant([0.3, 0.8]), tf.ones([2])).numpy().tolist()
    [0, 1]
    """
    greedy = tf.argmax(logits, axis=-1, output_type=tf.int32)

    def draw() -> tf.Tensor:
        # In blocks, because XLA computes a running sum over n values in n² steps: √n blocks of √n values cost n.
        size = logits.shape[-1]
        block = max(1, round(size**0.5))
        blocks = -(-size // block)
        weights = tf.exp(logits - tf.reduce_max(logits, axis=-1, keepdims=True))
        weights = tf.reshape(tf.pad(weights, [[0, 0], [0, blocks * block - size]]), [-1, blocks, block])
        sums = tf.reduce_sum(weights, axis=-1)
        upto = tf.cumsum(sums, axis=-1)  # (batch, blocks)
        target = uniform * upto[:, -1]
        which = tf.minimum(tf.reduce_sum(tf.cast(upto <= target[:, None], tf.int32), axis=-1), blocks - 1)
        rest = target - (tf.gather(upto, which, batch_dims=1) - tf.gather(sums, which, batch_dims=1))
        inside = tf.gather(weights, which, batch_dims=1)  # (batch, block)
        place = tf.reduce_sum(tf.cast(tf.cumsum(inside, axis=-1) <= rest[:, None], tf.int32), axis=-1)
        # Rounding may carry the target past the last token of the block, or onto one that is forbidden.
        chosen = tf.gather(inside, tf.minimum(place, block - 1), batch_dims=1)
        place = tf.where((place < block) & (chosen > 0), place, tf.argmax(inside, axis=-1, output_type=tf.int32))
        return which * block + place

    drawn = tf.cond(tf.reduce_any(temperature > 0), draw, lambda: greedy)
    return tf.where(temperature > 0, drawn, greedy)


def _order(values: tf.Tensor) -> tf.Tensor:
    """int32 that compare as the float32 `values` do (the bits of a float are ordered like integers, negative ones backwards)."""
    bits = tf.bitcast(values, tf.int32)
    return tf.where(bits >= 0, bits, tf.bitwise.bitwise_xor(bits, 0x7FFFFFFF))


def _largest(enough: Callable[[tf.Tensor], tf.Tensor], like: tf.Tensor) -> tf.Tensor:
    """The largest int32 `t` a row for which `enough(t)` holds, where it holds for small `t` and no longer for large ones."""
    threshold = tf.fill(tf.shape(like), tf.int32.min)
    for bit in range(31, -1, -1):
        # The highest bit turns the smallest number into 0: in two's complement that is an addition that wraps.
        higher = threshold + tf.constant(tf.int32.min if bit == 31 else 1 << bit, tf.int32)
        threshold = tf.where(enough(higher), higher, threshold)
    return threshold
