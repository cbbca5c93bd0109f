"""The random numbers of `counter_rng`, bit for bit, in NumPy: for generation without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)


def threefry(key: tuple[np.ndarray, np.ndarray], counter: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Twenty rounds of Threefry-2x32 on uint32 arrays of one shape, or shapes that broadcast."""
    keys = [*key, key[0] ^ key[1] ^ np.uint32(0x1BD11BDA)]
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[:4] if group % 2 == 0 else _ROTATIONS[4:]:
            x = x + y
            y = ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def uniforms(seed: np.ndarray, salt: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """Random numbers in [0, 1).

    Args:
        seed, salt: `(batch,)` int32: together they choose the sequence of each row.
        counters: `(batch, n)` int32: which numbers of each row's sequence.

    Returns:
        `(batch, n)` float32, multiples of 2⁻²⁴.

    Example:

    >>> numbers = uniforms(np.array([7, 8]), np.array([0, 0]), np.array([[0, 1, 2], [0, 1, 2]]))
    >>> numbers.shape, bool((numbers >= 0).all() and (numbers < 1).all())
    ((2, 3), True)
    """
    counter = np.asarray(counters).astype(np.uint32)
    key = (np.asarray(seed).astype(np.uint32)[:, None], np.asarray(salt).astype(np.uint32)[:, None])
    bits, _ = threefry(key, (counter, np.zeros_like(counter)))
    return (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def salts_of(prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """A number for each prompt that depends on every id of it and its distance from the end.

    Args:
        prompts: Ids without padding, at least one each.

    Returns:
        `(prompts,)` int32, as `counter_rng.salt_of`.

    Example:

    >>> salts, alone = salts_of([[5, 6], [6, 5]]), salts_of([[5, 6]])
    >>> salts.shape, bool(salts[0] == alone[0] != salts[1])
    ((2,), True)
    """
    ids = np.concatenate(prompts).astype(np.uint32)
    from_end = np.concatenate([np.arange(len(prompt), 0, -1, np.uint32) for prompt in prompts])
    mixed, _ = threefry((ids, from_end), (np.zeros_like(ids), np.zeros_like(ids)))
    ends = np.cumsum([len(prompt) for prompt in prompts])
    return np.add.reduceat(mixed, [0, *ends[:-1]], dtype=np.uint32).view(np.int32)
