"""The whole state of a run on disk: weights, optimizer, step, early stopping, carried recurrent states.

`tf.train.Checkpoint` writes the tensors, with a checksum each. Around it stands what it lacks: a checkpoint counts only when its folder has
been renamed to its name, so a save that was killed leaves nothing that could be taken for one; and a checkpoint that disk or network
has damaged is named and the one before it used.

Dropout has no state of its own to save: see `keras_lm.training.step`.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import sys
from collections.abc import Mapping

import keras
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.files import replacing_folder

_NAME = re.compile(r"step-(\d+)")


class Checkpointer:
    """Saves and restores the state of one training run.

    Args:
        folder: `RUN/checkpoints`.
        model: Its variables are saved, but for the seeds of random layers.
        optimizer: Built; its variables are saved.
        counters: Scalars by name that travel along (step, best loss ...), as `tf.Variable`s.
        states: Carried recurrent states, as `tf.Variable`s.
        keep: How many checkpoints to keep.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        model: keras.Model,
        optimizer: keras.Optimizer,
        counters: Mapping[str, tf.Variable],
        states: list[tf.Variable],
        keep: int,
    ):
        self._folder, self._keep = pathlib.Path(folder), keep
        weights = [variable.value for variable in model.variables if "seed_generator" not in variable.path]
        self._checkpoint = tf.train.Checkpoint(
            model=weights, optimizer=[variable.value for variable in optimizer.variables], counters=dict(counters), states=states
        )

    def steps(self) -> list[int]:
        """The steps of which there are checkpoints, in order."""
        names = [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []
        return sorted(int(match[1]) for match in map(_NAME.fullmatch, names) if match)

    def save(self, step: int) -> None:
        """Writes the state as it is, under the number `step`, and removes what is older than the last `keep`.

        Raises:
            UserError: no room, or no right to write. The checkpoints that are there stay.
        """
        target = self._folder / f"step-{step}"
        try:
            if target.exists():  # of a run that is gone over again: the same, or damaged
                shutil.rmtree(target)
            with replacing_folder(target) as temporary:
                self._checkpoint.write(str(temporary / "state"))
                for path in temporary.iterdir():
                    _flush(path)
                _flush(temporary)
            _flush(self._folder)
        except (OSError, tf.errors.OpError) as error:
            reason = str(error).strip().partition("\n")[0]
            steps = self.steps()
            last = f"the checkpoint of step {steps[-1]} is whole: make room and go on with --resume" if steps else "there is none yet"
            raise UserError(f"the checkpoint of step {step} cannot be written ({reason}); {last}") from None
        for old in self.steps()[: -self._keep]:
            shutil.rmtree(self._folder / f"step-{old}")

    def restore(self) -> None:
        """Takes the state of the last checkpoint that can be read; those that cannot are named on stderr.

        Raises:
            UserError: there is none, or none that can be read.
        """
        steps = self.steps()
        if not steps:
            raise UserError(f"{self._folder} holds no checkpoint: nothing to resume")
        for step in reversed(steps):
            path = self._folder / f"step-{step}"
            try:
                self._checkpoint.read(str(path / "state")).assert_consumed()
                return
            except (tf.errors.OpError, AssertionError, IndexError, ValueError) as error:
                reason = str(error).strip().partition("\n")[0]
                print(f"{path} cannot be read ({reason}): the one before it is used", file=sys.stderr, flush=True)
        raise UserError(f"none of the checkpoints in {self._folder} can be read: the run has to begin anew")

    def sweep(self, after: int) -> None:
        """Removes what a killed save left behind, and checkpoints of later steps than `after`: they could not be read."""
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            match = _NAME.fullmatch(path.name)
            if path.name.startswith(".step-") or (match and int(match[1]) > after):
                shutil.rmtree(path, ignore_errors=True)


def _flush(path: pathlib.Path) -> None:
    """Has the system write a file or a folder's list of names to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
