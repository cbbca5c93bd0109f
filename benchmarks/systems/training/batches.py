"""The first batches of a work as a file, for the systems that do not read through `keras_lm.pipeline`: all learn the same windows.

Run as a process of its own, so that neither the benchmark nor a peer has TensorFlow beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from systems.training.works import Work, text_ids


def dataset(work: Work, start_step: int = 0):
    """The batches as a training run of this library reads them, from one on."""
    from keras_lm import pipeline

    return pipeline.training_batches(
        text_ids(work), sequence_length=work.sequence_length, batch_size=work.batch_size, start_step=start_step
    )


def write(work: Work, count: int, path: Path) -> None:
    """`(count, 2, batch, time)` int32: the inputs and the targets of each."""
    np.save(path, np.stack([np.stack(pair) for pair in dataset(work).take(count).as_numpy_iterator()]))


if __name__ == "__main__":
    write(Work(**json.loads(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3]))
    json.dump(None, sys.stdout)
