"""A system's process, seen from the benchmark."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from systems import SYSTEMS, THREADS
from systems.works import Work

PAUSE = 0.4
"""Seconds between two turns: OpenMP's threads spin for 0.2 s after their work, and would take the next system's time."""
_LIMIT = 1800.0


class Missing(Exception):
    """The system's library is not installed."""


class Failed(Exception):
    """The system's process ended, or gave something else than asked for."""


class Worker:
    """One system at one precision, at one work and batch size, ready to generate.

    Args:
        name: In `SYSTEMS`.
        number: Which of its precisions.
        work: What it has to do.
        batch: Rows at a time.

    Raises:
        Missing: its library cannot be imported.
        Failed: it did not come up; the message holds the end of what it printed.
    """

    def __init__(self, name: str, number: int, work: Work, batch: int):
        self.system = SYSTEMS[name][number]
        self.work, self.batch = work, batch
        self.idle_seconds = 0.0
        self._log = tempfile.TemporaryFile("w+")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(THREADS),
            "CUDA_VISIBLE_DEVICES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "HF_HUB_OFFLINE": "1",
            **dict(self.system.environment),
        }
        command = [sys.executable, "-m", "systems.worker", name, str(number), work.name, str(batch), str(work.new_tokens)]
        self._process = subprocess.Popen(
            command, cwd=Path(__file__).parents[1], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
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
        self.note: str = answer["note"]

    def generate(self, strategy: str) -> dict:
        """Generates once: `seconds`, `cores` (CPU time over time), and the `ids` of the first row."""
        time.sleep(PAUSE)
        try:
            self._process.stdin.write(json.dumps({"strategy": strategy}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        answer = self._answer()
        if answer["lengths"] != [self.work.new_tokens] * self.batch:
            raise Failed(f"{self.work.new_tokens} tokens were asked for in each of {self.batch} rows, got {answer['lengths']}")
        if not all(0 <= number < self.work.vocabulary_size for number in answer["ids"]):
            raise Failed("ids outside the vocabulary")
        self.idle_seconds += answer["idle_until"] - self._cpu
        self._cpu = answer["cpu"]
        return {"seconds": answer["seconds"], "cores": (answer["cpu"] - answer["idle_until"]) / answer["seconds"], "ids": answer["ids"]}

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
