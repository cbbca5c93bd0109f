"""Random numbers as a pure function of (seed, salt, step): Threefry-2x32 in plain tensor operations.

TensorFlow's stateless generators give other numbers under XLA than without it, even for the same algorithm and seed; an export would then
write other text than the library. This one gives the same bits everywhere, and a key a row in one call.

References:
    Salmon et al. 2011, «Parallel Random Numbers: As Easy as 1, 2, 3»; the test holds its published vectors.
"""

from __future__ import annotations

import tensorflow as tf

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def threefry(key: tuple[tf.Tensor, tf.Tensor], counter: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    """Twenty rounds of Threefry-2x32 on uint32 tensors of one shape, or shapes that broadcast."""
    keys = [*key, tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(*key), tf.constant(0x1BD11BDA, tf.uint32))]
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[:4] if group % 2 == 0 else _ROTATIONS[4:]:
            x = x + y
            left = tf.bitwise.left_shift(y, tf.constant(rotation, tf.uint32))
            y = tf.bitwise.bitwise_xor(tf.bitwise.bitwise_or(left, tf.bitwise.right_shift(y, tf.constant(32 - rotation, tf.uint32))), x)
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + tf.constant(group + 1, tf.uint32)
    return x, y


def uniforms(seed: tf.Tensor, salt: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
    """Random numbers in [0, 1).

    Args:
        seed, salt: `(batch,)` int32: together they choose the sequence of each row.
        counters: `(batch, n)` int32: which numbers of each row's sequence.

    Returns:
        `(batch, n)` float32, multiples of 2⁻²⁴.

    Example:

    >>> numbers = uniforms(tf.constant([7, 8]), tf.constant([0, 0]), tf.constant([[0, 1, 2], [0, 1, 2]])).numpy()
    >>> numbers.shape, bool((numbers >= 0).all() and (numbers < 1).all())
    ((2, 3), True)
    """
    counter = tf.cast(counters, tf.uint32)
    key = (tf.cast(seed, tf.uint32)[:, None], tf.cast(salt, tf.uint32)[:, None])
    bits, _ = threefry(key, (counter, tf.zeros_like(counter)))
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def salt_of(ids: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
    """A number that depends on every id of a row and its distance from the end, not on the padding in front.

    Args:
        ids: `(batch, n)` int32, padded on the left.
        padding: `(batch,)` int32: how many of the n are padding.

    Returns:
        `(batch,)` int32.
    """
    slots = tf.zeros_like(ids) + tf.range(tf.shape(ids)[1])
    distance = tf.shape(ids)[1] - slots
    words = tf.cast(ids, tf.uint32), tf.cast(distance, tf.uint32)
    mixed, _ = threefry(words, (tf.zeros_like(words[0]), tf.zeros_like(words[0])))
    return tf.reduce_sum(tf.where(slots >= padding[:, None], tf.bitcast(mixed, tf.int32), 0), axis=1)  # the sum wraps, which is meant
