"""What is shown of a training run while it goes on: a bar on a terminal, a line an evaluation in a log; and TensorBoard."""

from __future__ import annotations

import os
import pathlib
import sys
import time
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_lm.training.run import check_tensorboard


class ProgressBar(keras.callbacks.Callback):
    """Shows loss, perplexity, the gradients' norm and tokens/s as running means since the last evaluation, and the time that is left.

    Args:
        steps: Of the whole run.
    """

    _shown = ("loss", "perplexity", "gradient_norm", "tokens_per_second", "val_loss", "val_perplexity", "val_accuracy")

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._terminal = sys.stdout.isatty()
        self._bar: keras.utils.Progbar | None = None
        self._printed = 0.0
        self._steps = steps
        self._first: tuple[float, int] | None = None  # when this process had made its first evaluation, and at which step

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        step = int((logs or {}).get("step", 0))
        left = ""
        if self._first is not None:
            begin, first = self._first
            left = f", about {duration((time.monotonic() - begin) / (step - first) * (self._steps - step))} left"
        elif epoch:
            self._first = time.monotonic(), step
        print(f"Evaluation {epoch + 1}/{self.params['epochs']} (step {step:,} of {self._steps:,}{left})", flush=True)
        self._bar = keras.utils.Progbar(
            self.params["steps"], verbose=1 if self._terminal else 2, stateful_metrics=self._shown, unit_name="step"
        )
        self._printed = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self._terminal:
            self._bar.update(batch + 1, self._values(logs), finalize=False)
        elif time.monotonic() - self._printed > 30:  # a sign of life in a log
            self._printed = time.monotonic()
            values = " - ".join(f"{name}: {value:.4g}" for name, value in self._values(logs))
            print(f"{batch + 1}/{self.params['steps']} - {values}", flush=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._bar.update(self.params["steps"], self._values(logs), finalize=True)
        sys.stdout.flush()

    def _values(self, logs: dict | None) -> list[tuple[str, float]]:
        return [(name, logs[name]) for name in self._shown if name in (logs or {})]


def duration(seconds: float) -> str:
    """A time as people say it.

    Example:

    >>> duration(42), duration(600), duration(6000)
    ('42 s', '10 min', '1 h 40 min')
    """
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


class TensorBoard(keras.callbacks.Callback):
    """Writes losses, gradient norm and speed for TensorBoard: `tensorboard --logdir RUN/tensorboard`.

    Args:
        folder: `RUN/tensorboard`.
        step: Says how many steps the run has made.
        every: Steps between two points of the training curves.
    """

    def __init__(self, folder: str | os.PathLike, step: Callable[[], int], every: int = 10):
        super().__init__()
        check_tensorboard()
        self._folder, self._step, self._every = pathlib.Path(folder), step, every

    def on_train_begin(self, logs: dict | None = None) -> None:
        # After a kill, points between the last checkpoint and the kill are drawn twice, the second time at the same place.
        self._writer = tf.summary.create_file_writer(str(self._folder), flush_millis=10_000)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if (batch + 1) % self._every == 0:
            self._write(logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._write(logs)
        self._writer.flush()

    def on_train_end(self, logs: dict | None = None) -> None:
        self._writer.close()

    def _write(self, logs: dict | None) -> None:
        with self._writer.as_default(step=self._step()):
            for name, value in (logs or {}).items():
                tf.summary.scalar(name, value)
