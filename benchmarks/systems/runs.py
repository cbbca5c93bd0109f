"""Runs that a benchmark trains: each in a folder of its own, gone on with where it was interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

from keras_lm.errors import UserError
from keras_lm.training import loop
from keras_lm.training.preparation import prepare
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings


def trained(settings: TrainingSettings, callbacks: Sequence[keras.callbacks.Callback] = ()) -> Run:
    """The run of `settings`, trained to its end; one that lies in its folder already is gone on with.

    Args:
        settings: Of the run.
        callbacks: As `keras_lm.training.loop.train` takes them.

    Raises:
        UserError: the run in the folder has other settings.
    """
    begun = (Path(settings.folder) / "settings.yaml").exists()
    if begun:
        run = Run.open(settings.folder)
        if run.settings != settings:
            raise UserError(f"{settings.folder} holds a run of other settings: remove it, or choose another --out")
    else:
        run = prepare(settings)
    loop.train(run, resume=begun, callbacks=callbacks)
    return run
