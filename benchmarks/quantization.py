"""What weights of 8 bits cost: the loss of a run's model on LiteRT, in both precisions, on the same held-out windows.

python benchmarks/quantization.py runs/quickstart
"""

from __future__ import annotations

import argparse
import itertools
import math

import numpy as np

from keras_lm.generation.litert import PRECISIONS, LiteRTSampler
from keras_lm.pipeline import evaluation_batches
from keras_lm.training.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--part", default="validation", help="the split to read (default: validation)")
    parser.add_argument("--batches", type=int, default=20, help="batches of 16 windows to read (default: 20)")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    model, ids = run.load_model(), run.load_tokens()[arguments.part].ids
    windows = evaluation_batches(ids, sequence_length=run.settings.sequence_length, batch_size=16)
    windows = list(itertools.islice(windows, arguments.batches))
    print(f"{run.folder}, {arguments.part}, the first {int(sum(weights.sum() for *_, weights in windows)):,} tokens")
    for precision in PRECISIONS:
        sampler = LiteRTSampler(model, precision=precision, end_id=3)
        total = sum(float((sampler.log_likelihood(inputs, targets) * weights).sum()) for inputs, targets, weights in windows)
        loss = -total / float(np.sum([weights.sum() for *_, weights in windows]))
        print(f"{precision:<8} loss {loss:.4f}  perplexity {math.exp(loss):.2f}")


if __name__ == "__main__":
    main()
