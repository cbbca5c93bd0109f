"""A system's process, seen from the benchmark."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from systems import THREADS

PAUSE = 0.4
"""Seconds between two turns: OpenMP's threads spin for 0.2 s after their work, and would take the next system's time."""
_LIMIT = 1800.0

ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": str(THREADS),
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "HF_HUB_OFFLINE": "1",
}
"""What every process here starts with."""


class Missing(Exception):
    """Something that the system needs is not installed."""


class Failed(Exception):
    """The system's process ended, or gave something else than asked for."""


class Worker:
    """One system at one piece of work, ready for its turns.

    Args:
        benchmark: Its package: `"generation"` or `"training"`.
        name: In the package's `SYSTEMS`.
        number: Which of its variants.
        work: What it has to do, a `Work` of that package.
        arguments: What else the package's `prepare` takes; JSON must be able to hold it.

    Raises:
        Missing: its library cannot be imported.
        Failed: it did not come up; the message holds the end of what it printed.
    """

    def __init__(self, benchmark: str, name: str, number: int, work: Any, **arguments: object):
        self.system = importlib.import_module(f"systems.{benchmark}").SYSTEMS[name][number]
        self.work, self.arguments = work, arguments
        self.idle_seconds = 0.0
        self._log = tempfile.TemporaryFile("w+")
        environment = {**ENVIRONMENT, **dict(self.system.environment)}
        fields, others = json.dumps(dataclasses.asdict(work)), json.dumps(arguments)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "systems.worker", benchmark, name, str(number), fields, others],
            cwd=Path(__file__).parents[1],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        self._unread = b""
        try:
            answer = self._answer()
        except BaseException:
            self.stop()
            raise
        if "missing" in answer:
            self.stop()
            raise Missing(answer["missing"])
        self._cpu: float = answer["cpu"]
        self.about: dict = answer["about"]

    def turn(self, at_least: float = 0.0, **request: object) -> dict:
        """One turn, again until that many seconds are full: `seconds` of the median one, `cpu_seconds` of all, `cores` (CPU time over
        time), and what the system gave for the last one."""
        time.sleep(PAUSE)
        try:
            self._process.stdin.write(json.dumps({"at_least": at_least, **request}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        answer = self._answer()
        self.idle_seconds += answer["idle_until"] - self._cpu
        self._cpu = answer["cpu"]
        spent = answer["cpu"] - answer["idle_until"]
        return {"seconds": answer["seconds"], "cpu_seconds": spent, "cores": spent / answer["all_seconds"], **answer["result"]}

    def stop(self) -> None:
        self._process.stdin.close()  # the worker's loop ends, and its folder goes
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _answer(self) -> dict:
        until = time.monotonic() + _LIMIT
        while b"\n" not in self._unread:
            if not select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                raise Failed(f"no answer in {_LIMIT:.0f} s")
            read = os.read(self._process.stdout.fileno(), 1 << 20)
            if not read:
                raise Failed(self._last_words())
            self._unread += read
        line, self._unread = self._unread.split(b"\n", 1)
        return json.loads(line)

    def _last_words(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return f"ended with status {self._process.returncode}: {lines[-1] if lines else 'nothing printed'}"
