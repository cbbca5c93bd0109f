"""The process a system runs in: builds the model, says so, then generates once for each line it reads.

Requests and answers are lines of JSON on stdin and stdout. What libraries print goes to stderr.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

from systems import SYSTEMS, THREADS
from systems.works import WORKS, prompts


def _claim_stdout() -> TextIO:
    """A stream to the parent that no library knows of: descriptor 1 becomes another name of stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def _limit_cores() -> None:
    """Every library sizes its pools by the cores it may run on; so no setting of any one of them is needed, and none can escape."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("system")
    parser.add_argument("number", type=int, help="which of the system's precisions")
    parser.add_argument("work")
    parser.add_argument("batch", type=int)
    parser.add_argument("new_tokens", type=int)
    args = parser.parse_args()
    answers = _claim_stdout()
    _limit_cores()

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")

    work = dataclasses.replace(WORKS[args.work], new_tokens=args.new_tokens)
    system = SYSTEMS[args.system][args.number]
    with tempfile.TemporaryDirectory(prefix="keras_lm_bench_") as folder:
        try:
            adapter = system.load()(work, args.batch, system.precision, Path(folder))
        except ImportError as error:
            answer(missing=str(error))
            return
        rows = prompts(work, args.batch)
        answer(ready=True, note=getattr(adapter, "note", ""), cpu=time.process_time())
        for line in sys.stdin:
            cpu, begin = time.process_time(), time.perf_counter()
            ids = adapter.generate(rows, json.loads(line)["strategy"])
            seconds, end_cpu = time.perf_counter() - begin, time.process_time()
            answer(seconds=seconds, idle_until=cpu, cpu=end_cpu, lengths=[len(row) for row in ids], ids=[int(number) for number in ids[0]])


if __name__ == "__main__":
    main()
