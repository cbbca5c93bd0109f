"""The progress bar of a training run: on a terminal a bar that moves, in a log one line an evaluation."""

from __future__ import annotations

import sys
import time

import keras


class ProgressBar(keras.callbacks.Callback):
    """Shows loss, perplexity and tokens/s as running means since the last evaluation."""

    _shown = ("loss", "perplexity", "tokens_per_second", "val_loss", "val_perplexity")

    def __init__(self) -> None:
        super().__init__()
        self._terminal = sys.stdout.isatty()
        self._bar: keras.utils.Progbar | None = None
        self._printed = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        print(f"Evaluation {epoch + 1}/{self.params['epochs']}", flush=True)
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
