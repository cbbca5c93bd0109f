"""What the training benchmark compares: the work (`works`) and one adapter a system.

An adapter has one constructor, one method and one number:

- `__init__(work, batches, folder)` builds the model with the weights that all systems begin with; `batches` is the file of `batches.py`,
  for those that do not read through `keras_lm.pipeline`; `folder` is empty and its own;
- `train(steps)` goes on for as many steps, and returns their mean loss;
- `parameters`: how many numbers are trained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from systems import BOUND, System
from systems.training.works import Work

_EITHER = ("transformer", "lstm")

SYSTEMS: dict[str, tuple[System, ...]] = {
    "keras_lm": (
        System(label="keras_lm XLA", adapter="training.ours:Xla", kinds=_EITHER, ours=True),
        System(label="keras_lm graph", adapter="training.ours:Graph", kinds=_EITHER, ours=True),
    ),
    "torch": (System(label="PyTorch eager", adapter="training.torch_peers:Eager", kinds=_EITHER, environment=BOUND),),
    "torch_compile": (System(label="PyTorch compiled", adapter="training.torch_peers:Compiled", environment=BOUND),),
    "keras": (System(label="Keras fit", adapter="training.keras_peers:Fit", kinds=_EITHER),),
}
"""By the name that `--systems` takes."""


def prepare(system: System, work: Work, folder: Path, batches: str) -> tuple[Callable[[int], dict], dict]:
    """Builds the adapter; a turn is some steps, and gives their mean `loss`."""
    adapter = system.load()(work, Path(batches), folder)
    return lambda steps: {"loss": adapter.train(steps)}, {"parameters": adapter.parameters}
