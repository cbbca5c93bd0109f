"""How systems are measured side by side: all up at once, one turn each in every round, and a watch on what else keeps the cores busy."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from systems import System
from systems.process import ENVIRONMENT, Failed, Missing, Worker


def say(text: str) -> None:
    """A note beside the results."""
    print(text, file=sys.stderr, flush=True)


def start(
    benchmark: str,
    systems: dict[str, tuple[System, ...]],
    work: Any,
    left_out: set[str],
    stack: contextlib.ExitStack,
    **arguments: object,
) -> Iterator[Worker]:
    """The systems that do this work, each started when the one before has made its first calls.

    Args:
        benchmark: The package of the systems.
        systems: By name, those that are asked for.
        work: A `Work` of that package.
        left_out: Names of those that are missing, to which others are added.
        stack: Stops the processes when it is left.
        arguments: As `Worker` takes them.
    """
    for name, variants in systems.items():
        for number, system in enumerate(variants):
            if work.kind not in system.kinds or name in left_out:
                continue
            try:
                worker = Worker(benchmark, name, number, work, **arguments)
            except Missing as missing:
                left_out.add(name)
                say(f"  {system.label} left out: {missing}")
                continue
            except Failed as error:
                say(f"  {system} failed and is left out: {error}")
                continue
            stack.callback(worker.stop)
            if worker.about.get("note"):
                say(f"  {system}: {worker.about['note']}")
            yield worker


def take_turns(turns: Sequence[tuple[Worker, dict]], rounds: int) -> list[list[dict]]:
    """One turn after the other, for some rounds.

    Args:
        turns: Who, and what is asked for.
        rounds: How often each.

    Returns:
        The results of each turn, a round each. On stderr stands what disturbed them.
    """
    results: list[list[dict]] = [[] for _ in turns]
    workers = {worker for worker, _ in turns}
    for worker in workers:
        worker.idle_seconds = 0.0
    begin, busy = time.perf_counter(), _busy_seconds()
    for number in range(rounds):
        for own, (worker, request) in zip(results, turns, strict=True):
            own.append(worker.turn(**request))
        say(f"  round {number + 1} of {rounds}")
    seconds = time.perf_counter() - begin
    for worker in workers:
        if worker.idle_seconds > 0.01 * seconds:
            say(f"  {worker.system} was busy for {worker.idle_seconds:.1f} of {seconds:.0f} s out of its turn: the numbers suffer")
    others = _busy_seconds() - busy - sum(result["cpu_seconds"] for own in results for result in own)
    # Not even ratios survive it: threads that spin at a barrier lose far more to a stranger on one core than threads that sleep.
    if others > 0.05 * seconds:
        say(f"  something else was busy for {others:.1f} of {seconds:.0f} s: these numbers say nothing")
    return results


def _busy_seconds() -> float:
    """CPU seconds of the whole machine since it started, what a hypervisor withheld included; 0 where Linux does not say."""
    with contextlib.suppress(OSError):
        user, nice, system, _idle, _wait, *interrupts_and_stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
        return (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def measure(module: str, *arguments: object) -> Any:
    """What a module of this package prints as JSON, run as a process of its own: a limit of the machine."""
    command = [sys.executable, "-m", f"systems.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{module} failed: {done.stderr.strip()}")
    return json.loads(done.stdout)


def processor() -> str:
    """The machine's name for the head of a table."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
