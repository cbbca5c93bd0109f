"""How many float32 operations a second two threads do in products of big matrices: the limit of training, which is little else.

Run as a process of its own, because BLAS must be told before NumPy is imported how many threads to take.
"""

from __future__ import annotations

import os

from systems import THREADS

os.environ["OPENBLAS_NUM_THREADS"] = str(THREADS)

import json
import sys
import time

import numpy as np


def product_speed(size: int = 2048, rounds: int = 15) -> float:
    """Operations a second, additions and multiplications counted apart, the best of several rounds.

    Args:
        size: Rows and columns of the matrices.
        rounds: How often it is measured.
    """
    one, other = np.random.default_rng(0).standard_normal([2, size, size], np.float32)
    result = np.empty_like(one)
    best = 0.0
    for _ in range(rounds):
        begin = time.perf_counter()
        np.matmul(one, other, out=result)
        best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best


if __name__ == "__main__":
    json.dump(product_speed(), sys.stdout)
