"""What LiteRT files of a run are worth: size, what their weights cost, and how fast they write.

    python benchmarks/tflite.py runs/quickstart
    python benchmarks/tflite.py runs/quickstart --json rows.json

Each precision is exported and then used as `keras_lm-generate model.tflite` does, without TensorFlow. «first text» is the wall time from
the start of that command to its first character, the median of five, as is the speed. «logits» is the largest difference to the Keras
model's.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_lm.export.tflite import export_tflite
from keras_lm.export.tflite_generator import TFLiteGenerator
from keras_lm.files import replacing
from keras_lm.generation.litert_convert import PRECISIONS
from keras_lm.generation.numpy_filters import log_softmax
from keras_lm.generation.settings import SamplingSettings
from keras_lm.training.run import Run

_ROUNDS = 5
_SMALLER, _DEARER = 3.5, 1.0
"""What 8 bits should give: times smaller, and percent of perplexity at most."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One file.

    Args:
        megabytes, ratio: Of the `.tflite`, and how much smaller than the float32 one.
        logits: The largest difference to the Keras model's.
        perplexity, cost_percent: On the validation tokens, and over the Keras model's.
        tokens_per_second: At batch 1, prompt included.
        first_text_seconds: From the start of the command.
    """

    precision: str
    megabytes: float
    ratio: float
    logits: float
    perplexity: float
    cost_percent: float
    tokens_per_second: float
    first_text_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--part", default="validation", help="the split to read (default: %(default)s)")
    parser.add_argument("--tokens", type=int, default=20000, help="how many of it (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    windows = _windows(run, arguments.part, arguments.tokens)
    expected, plain = _by_keras(run, windows)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: export_tflite(run, folder, None if name == "float32" else name) for name in PRECISIONS}
        for name, path in paths.items():
            difference, perplexity = _quality(path, windows, expected)
            rows.append(
                Row(
                    name,
                    round(path.stat().st_size / 1e6, 2),
                    round(paths["float32"].stat().st_size / path.stat().st_size, 2),
                    float(f"{difference:.2g}"),
                    round(perplexity, 3),
                    round(100 * (perplexity / plain - 1), 3),
                    round(_speed(path, run.settings.sample_prompt), 1),
                    round(_first_text(path, run.settings.sample_prompt), 2),
                )
            )
    print(f"python benchmarks/tflite.py {' '.join(sys.argv[1:])}")
    print(f"{run.folder}, {arguments.part}, {sum(len(targets) for _, targets in windows):,} tokens; Keras: perplexity {plain:.3f}\n")
    print(_table(rows))
    if arguments.json:
        with replacing(arguments.json) as temporary:
            temporary.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")


def _windows(run: Run, part: str, tokens: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets, `(time,)` each, that know nothing of each other."""
    ids, size = np.asarray(run.load_tokens()[part].ids[: tokens + 1], np.int32), run.settings.sequence_length
    starts = range(0, len(ids) - 1, size)
    return [(ids[start : start + size][: len(ids) - 1 - start], ids[start + 1 : start + 1 + size]) for start in starts]


def _by_keras(run: Run, windows: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, float]:
    """The Keras model's logits for the first window, and its perplexity over all."""
    model = run.load_model()
    logits = [model(inputs[None], training=False).numpy()[0] for inputs, _ in windows]
    return logits[0], _perplexity(log_softmax(row)[np.arange(len(row)), targets] for row, (_, targets) in zip(logits, windows, strict=True))


def _quality(path: Path, windows: list[tuple[np.ndarray, np.ndarray]], expected: np.ndarray) -> tuple[float, float]:
    step = TFLiteGenerator(path).step
    step.begin()
    found = np.concatenate([step.run(token[None]) for token in windows[0][0]])
    perplexity = _perplexity(step.log_likelihood(inputs[None], targets[None])[0] for inputs, targets in windows)
    return float(np.abs(found - expected).max()), perplexity


def _perplexity(log_likelihoods: Iterator[np.ndarray]) -> float:
    return math.exp(-float(np.concatenate(list(log_likelihoods)).mean(dtype=np.float64)))


def _speed(path: Path, prompt: str) -> float:
    generator = TFLiteGenerator(path)
    room = (generator.metadata["context_length"] or 256) - len(generator.encode(prompt))
    # Texts that do not end, so that each precision writes as many tokens.
    settings = SamplingSettings(max_new_tokens=room, min_new_tokens=room, top_k=40)
    seconds = []
    for _ in range(_ROUNDS + 1):
        begin = time.perf_counter()
        generator.generate(prompt, settings)
        seconds.append(time.perf_counter() - begin)
    return room / statistics.median(seconds[1:])


def _first_text(path: Path, prompt: str) -> float:
    command = [sys.executable, "-c", "from keras_lm.cli.generate import main; main()", str(path), "--prompt", prompt]
    seconds = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        with subprocess.Popen(
            [*command, "--stream", "--max-new-tokens", "9"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            if not process.stdout.read(1):
                raise RuntimeError(f"{path} gave no text")
            seconds.append(time.perf_counter() - begin)
            process.stdout.read()
    return statistics.median(seconds)


def _table(rows: list[Row]) -> str:
    lines = ["| weights | MB | smaller | logits | perplexity | cost | tokens/s | first text |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        lines.append(
            f"| {row.precision} | {row.megabytes} | {row.ratio} x | {row.logits} | {row.perplexity} | {row.cost_percent:+.3f} % "
            f"| {row.tokens_per_second:,.0f} | {row.first_text_seconds} s |"
        )
    eight = rows[-1]
    met = lambda good: "met" if good else "MISSED"
    return "\n".join(
        [
            *lines,
            "",
            f"8 bits: {eight.ratio} times smaller (at least {_SMALLER}: {met(eight.ratio >= _SMALLER)}), "
            f"perplexity {eight.cost_percent:+.3f} % (below {_DEARER} %: {met(eight.cost_percent < _DEARER)})",
        ]
    )


if __name__ == "__main__":
    main()
