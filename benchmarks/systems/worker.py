"""The process a system runs in: builds the model, says so, then does one turn for each line it reads.

Requests and answers are lines of JSON on stdin and stdout. What libraries print goes to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

from systems import THREADS, Unavailable


def _claim_stdout() -> TextIO:
    """A stream to the parent that no library knows of: descriptor 1 becomes another name of stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def limit_cores() -> None:
    """Every library sizes its pools by the cores it may run on; so no setting of any one of them is needed, and none can escape."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("benchmark", help="a package here")
    parser.add_argument("system")
    parser.add_argument("number", type=int, help="which of the system's variants")
    parser.add_argument("work", type=json.loads, help="the fields of the benchmark's Work")
    parser.add_argument("arguments", type=json.loads, help="what else its prepare() takes")
    args = parser.parse_args()
    answers = _claim_stdout()
    limit_cores()

    def answer(**fields: object) -> None:
        answers.write(json.dumps(fields) + "\n")

    benchmark = importlib.import_module(f"systems.{args.benchmark}")
    system = benchmark.SYSTEMS[args.system][args.number]
    with tempfile.TemporaryDirectory(prefix="keras_lm_bench_") as folder:
        try:
            turn, about = benchmark.prepare(system, benchmark.Work(**args.work), Path(folder), **args.arguments)
        except ImportError as error:
            answer(missing=f"{error}; pip install keras_lm[bench]")
            return
        except Unavailable as error:
            answer(missing=str(error))
            return
        answer(about=about, cpu=time.process_time())
        for line in sys.stdin:
            request = json.loads(line)
            at_least = request.pop("at_least")
            cpu, begin, seconds = time.process_time(), time.perf_counter(), list[float]()
            while not seconds or sum(seconds) < at_least:
                result = turn(**request)
                seconds.append(time.perf_counter() - begin - sum(seconds))
            answer(seconds=statistics.median(seconds), all_seconds=sum(seconds), idle_until=cpu, cpu=time.process_time(), result=result)


if __name__ == "__main__":
    main()
