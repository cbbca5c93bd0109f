"""The whole state of a run on disk: weights, optimizer, dropout's seeds, step, early stopping, carried recurrent states.

`tf.train.CheckpointManager` writes it: of what Keras and TensorFlow offer, it alone came through kills in the middle of a save. Dropout's
seed generators are listed by hand, since neither Keras' nor TensorFlow's own tracking of a model stores them.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping

import keras
import tensorflow as tf

from keras_lm.errors import UserError


class Checkpointer:
    """Saves and restores the state of one training run.

    Args:
        folder: `RUN/checkpoints`.
        model: Its variables are saved, seed generators included.
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
        folder = pathlib.Path(folder)
        self._checkpoint = tf.train.Checkpoint(
            model=[variable.value for variable in model.variables],
            optimizer=[variable.value for variable in optimizer.variables],
            counters=dict(counters),
            states=states,
        )
        for leftover in folder.glob("*.tempstate*"):  # of a save that was killed
            leftover.unlink(missing_ok=True)
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=keep)

    def save(self, step: int) -> None:
        """Writes the state as it is, under the number `step`."""
        self._manager.save(checkpoint_number=step)

    def restore(self) -> None:
        """Takes the state of the last checkpoint.

        Raises:
            UserError: there is none, or it cannot be read.
        """
        latest = self._manager.latest_checkpoint
        if latest is None:
            raise UserError(f"{self._manager.directory} holds no checkpoint: nothing to resume")
        try:
            self._checkpoint.restore(latest).assert_consumed()
        except (tf.errors.OpError, AssertionError, IndexError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"the checkpoint {latest} cannot be read: {reason}") from None
