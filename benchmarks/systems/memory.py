"""How fast two threads read memory: the limit of decoding at batch 1, which reads every weight once a token.

Run as a process of its own, because BLAS must be told before NumPy is imported to keep to the thread that calls it.
"""

from __future__ import annotations

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import json
import sys
import threading
import time

import numpy as np

from systems import THREADS


def read_bandwidth(size: int, rounds: int = 7, seconds: float = 0.15) -> float:
    """Bytes a second, the best of several rounds.

    Args:
        size: Of the working set in bytes, shared out among the threads.
        rounds: How often it is measured.
        seconds: How long each takes about.
    """
    parts = np.array_split(np.ones(size // 4, np.float32), THREADS)
    passes = max(2, int(seconds * 20e9 / size))
    best = 0.0
    for _ in range(rounds):
        barrier = threading.Barrier(THREADS + 1)

        def read(part: np.ndarray) -> None:
            barrier.wait()
            for _ in range(passes):
                np.dot(part, part)  # one read of the part, without the GIL
            barrier.wait()

        threads = [threading.Thread(target=read, args=[part]) for part in parts]
        for thread in threads:
            thread.start()
        barrier.wait()
        begin = time.perf_counter()
        barrier.wait()
        best = max(best, passes * size / (time.perf_counter() - begin))
        for thread in threads:
            thread.join()
    return best


if __name__ == "__main__":
    json.dump([read_bandwidth(int(size)) for size in sys.argv[1:]], sys.stdout)
