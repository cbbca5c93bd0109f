"""What the benchmarks have in common. Each has a package of its own here, `generation` and `training`, with

- `works`: what every system is given, a dataclass `Work`, and `WORKS` by name;
- one adapter a system, which imports its library in its methods or in a module that nothing else loads, so that a missing one costs
  only its rows;
- `SYSTEMS`: tuples of `System`, by the name that `--systems` takes;
- `prepare(system, work, folder, **arguments)`: builds the adapter; returns the function that is called and timed once a turn, its keywords
  the turn's and its result a dictionary that JSON can hold, and a dictionary of what there is to say of the system before.

A system runs in a process of its own (`worker`, seen from the benchmark as `process.Worker`), and takes turns with the others (`rounds`).
"""

from __future__ import annotations

import dataclasses
import importlib

THREADS = 2
"""Every system gets as many."""

BOUND = (("OMP_PROC_BIND", "true"),)
"""Threads of OpenMP wait for each other by spinning. Unbound, both were seen on one core: a hundredth of the speed in llama.cpp."""


class Unavailable(Exception):
    """What a system needs is not on this machine, and no package of ours brings it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """One line of the table before it is run.

    Args:
        label: As printed.
        adapter: `module:class` in this package.
        kinds: The kinds of work it does.
        ours: Whether it is this library.
        environment: Variables its process starts with.
    """

    label: str
    adapter: str
    kinds: tuple[str, ...] = ("transformer",)
    ours: bool = False
    environment: tuple[tuple[str, str], ...] = ()

    def load(self) -> type:
        module, name = self.adapter.split(":")
        return getattr(importlib.import_module(f"systems.{module}"), name)

    def __str__(self) -> str:
        return self.label
