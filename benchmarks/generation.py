"""Generation, our samplers beside their peers: tokens a second, in one run.

    python benchmarks/generation.py
    python benchmarks/generation.py --work W1 --systems keras_lm keras_hub --json rows.json

Peers come with `pip install keras_lm[bench]`; those that are missing are left out.

Machines drift by more than systems differ, so only what was measured side by side is compared: each system runs in a process of its own,
all of them are up at once for a batch size, and they take turns, one generation each, for some rounds. The others sleep meanwhile, which is
checked. All decoders have the same weights, and their greedy ids are compared, so that nobody is fast by doing less.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from systems import SYSTEMS, THREADS
from systems.process import Failed, Missing, Worker
from systems.report import Row, ratios, table, targets, write_json
from systems.works import BYTES_A_WEIGHT, WORKS, Work

_STRATEGIES = ("greedy", "top_k", "top_p")
_REFERENCE = "transformers"


def main() -> None:
    args = _arguments()
    works = [_shortened(WORKS[name]) if args.quick else WORKS[name] for name in args.work]
    limits = _bandwidths(works, args.systems)
    left_out: set[str] = set()
    measured: dict[tuple[Worker, str], list[dict]] = {}
    rows: list[Row] = []
    for work in works:
        for batch in work.batch_sizes:
            if not args.batches or batch in args.batches:
                measured |= _run_group(work, batch, args, left_out)
                # Again, since it is the best that counts, and something else may have run in the first second.
                again = _bandwidths(works, args.systems)
                limits = {size: max(speed, again[size]) for size, speed in limits.items()}
                rows = [_row(worker, strategy, results, limits) for (worker, strategy), results in measured.items()]
                if args.json:
                    write_json(args.json, rows)  # after each group: a long run that is cut off leaves what it had
    print("python benchmarks/generation.py", *sys.argv[1:])
    print(
        f"{_processor()}, {THREADS} threads; the median of {args.rounds} rounds" + (", SHORTENED: not to be compared" if args.quick else "")
    )
    for work in works:
        print(work)
    print("Memory read: " + ", ".join(f"{size / 1e6:.0f} MB {speed / 1e9:.1f} GB/s" for size, speed in sorted(limits.items())), end="\n\n")
    print("\n\n".join(text for text in (table(rows), ratios(rows), targets(rows)) if text))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS), metavar="W", help=f"of {', '.join(WORKS)}; default: all")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME", help=f"of {', '.join(SYSTEMS)}; default: all"
    )
    parser.add_argument("--batches", nargs="+", type=int, metavar="N", help="only these batch sizes of each work")
    parser.add_argument("--strategies", nargs="+", choices=_STRATEGIES, default=_STRATEGIES, help="default: all; top_p is ours alone")
    parser.add_argument("--rounds", type=int, default=5, help="generations of each system whose median is taken (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--quick", action="store_true", help="one round and an eighth of the tokens, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.rounds = 1
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def _shortened(work: Work) -> Work:
    return dataclasses.replace(work, new_tokens=work.new_tokens // 8)


def _run_group(work: Work, batch: int, args: argparse.Namespace, left_out: set[str]) -> dict[tuple[Worker, str], list[dict]]:
    """All systems at one work and batch size, in turns; the results of each at each strategy, the first call before the rounds."""
    _note(f"{work}, batch {batch}")
    with contextlib.ExitStack() as stack:
        turns: dict[tuple[Worker, str], list[dict]] = {}
        for worker in _start(work, batch, args, left_out, stack):
            strategies = [name for name in work.strategies if name in worker.system.strategies and name in (*args.strategies, "sample")]
            try:
                turns |= {(worker, strategy): [worker.generate(strategy)] for strategy in strategies}
            except Failed as error:
                _note(f"  {_label(worker)} failed and is left out: {error}")
                continue
            _note(f"  {_label(worker)}: " + ", ".join(f"first {name} {turns[worker, name][0]['seconds']:.1f} s" for name in strategies))
        _compare_ids(turns)
        for worker in {worker for worker, _ in turns}:
            worker.idle_seconds = 0.0
        begin, busy = time.perf_counter(), _busy_seconds()
        for number in range(args.rounds):
            for strategy in work.strategies:
                for worker, own in turns:
                    if own == strategy:
                        turns[worker, own].append(worker.generate(strategy))
            _note(f"  round {number + 1} of {args.rounds}")
        seconds = time.perf_counter() - begin
        _check_idle({worker for worker, _ in turns}, seconds)
        own = sum(result["seconds"] * result["cores"] for results in turns.values() for result in results[1:])
        _check_others(_busy_seconds() - busy - own, seconds)
        return turns


def _start(work: Work, batch: int, args: argparse.Namespace, left_out: set[str], stack: contextlib.ExitStack):
    """The systems that do this work, each started when the one before has made its first calls."""
    for name in args.systems:
        for number, system in enumerate(SYSTEMS[name]):
            if work.kind not in system.kinds or name in left_out:
                continue
            try:
                worker = Worker(name, number, work, batch)
            except Missing as missing:
                left_out.add(name)
                _note(f"  {system.label} left out: {missing}" + ("" if system.ours else "; pip install keras_lm[bench]"))
                continue
            except Failed as error:
                _note(f"  {system.label} {system.precision} failed and is left out: {error}")
                continue
            stack.callback(worker.stop)
            if worker.note:
                _note(f"  {_label(worker)}: {worker.note}")
            yield worker


def _row(worker: Worker, strategy: str, results: list[dict], limits: dict[int, float]) -> Row:
    first, *later = results
    work, system, batch = worker.work, worker.system, worker.batch
    speed = batch * work.new_tokens / statistics.median(result["seconds"] for result in later)
    size = _weight_bytes(work, system.precision)
    return Row(
        work=work.name,
        system=system.label,
        ours=system.ours,
        batch=batch,
        precision=system.precision,
        strategy=strategy,
        tokens_per_second=round(speed, 2),
        fraction_of_limit=round(speed * size / (batch * limits[size]), 4),
        first_call_seconds=round(first["seconds"], 3),
        cores=statistics.median(result["cores"] for result in later),
    )


def _compare_ids(turns: dict[tuple[Worker, str], list[dict]]) -> None:
    """Says how far the greedy ids of each system are those of the reference; f32 ones may part at a near tie, int8 ones sooner."""
    greedy = {worker: results[0]["ids"] for (worker, strategy), results in turns.items() if strategy == "greedy"}
    if len(greedy) < 2:
        return
    reference = next((w for w in greedy if w.system.label == _REFERENCE), next(iter(greedy)))
    wanted = greedy[reference]
    _note(f"  greedy ids of the first row as {_label(reference)} has them ({len(set(wanted))} different ones):")
    for worker, ids in greedy.items():
        if worker is not reference:
            same = next((place for place, (a, b) in enumerate(zip(ids, wanted, strict=True)) if a != b), len(wanted))
            _note(f"    {_label(worker)}: the first {same} of {len(wanted)}")


def _check_idle(workers: set[Worker], seconds: float) -> None:
    for worker in workers:
        if worker.idle_seconds > 0.01 * seconds:
            _note(f"  {_label(worker)} was busy for {worker.idle_seconds:.1f} of {seconds:.0f} s out of its turn: the numbers suffer")


def _check_others(busy: float, seconds: float) -> None:
    # Not even ratios survive it: threads that spin at a barrier lose far more to a stranger on one core than threads that sleep.
    if busy > 0.05 * seconds:
        _note(f"  something else was busy for {busy:.1f} of {seconds:.0f} s: these numbers say nothing")


def _busy_seconds() -> float:
    """CPU seconds of the whole machine since it started, what a hypervisor withheld included; 0 where Linux does not say."""
    with contextlib.suppress(OSError):
        user, nice, system, _idle, _wait, *interrupts_and_stolen = map(int, Path("/proc/stat").read_text().split()[1:9])
        return (user + nice + system + sum(interrupts_and_stolen)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _weight_bytes(work: Work, precision: str) -> int:
    return int(work.weights_a_step * BYTES_A_WEIGHT[precision])


def _bandwidths(works: list[Work], names: list[str]) -> dict[int, float]:
    """Bytes of weights → bytes a second that two threads read of that many."""
    systems = [system for name in names for system in SYSTEMS[name]]
    sizes = sorted({_weight_bytes(work, system.precision) for work in works for system in systems if work.kind in system.kinds})
    command = [sys.executable, "-m", "systems.memory", *map(str, sizes)]
    output = subprocess.run(command, cwd=Path(__file__).parent, check=True, stdout=subprocess.PIPE).stdout
    return dict(zip(sizes, json.loads(output), strict=True))


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _label(worker: Worker) -> str:
    return f"{worker.system.label} {worker.system.precision}"


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
