"""Generation, our samplers beside their peers: tokens a second, in one run.

    python benchmarks/generation.py
    python benchmarks/generation.py --work W1 --systems keras_lm keras_hub --json rows.json

Peers come with `pip install keras_lm[bench]`; those that are missing are left out.

Machines drift by more than systems differ, so only what was measured side by side is compared: each system runs in a process of its own,
all of them are up at once for a batch size, and they take turns for some rounds: a generation, or the median of as many as fill a second.
The others sleep meanwhile, which is checked. All decoders have the same weights, and their greedy ids are compared, so that nobody is fast
by doing less.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import sys
from pathlib import Path

from systems import THREADS
from systems.generation import SYSTEMS
from systems.generation.report import Row, ratios, table, targets
from systems.generation.works import BYTES_A_WEIGHT, WORKS, Work
from systems.process import Failed, Worker
from systems.report import write_json
from systems.rounds import measure, processor, say, start, take_turns

_STRATEGIES = ("greedy", "top_k", "top_p")
_REFERENCE = "transformers"
_TURN = 1.0
"""Seconds that a turn takes at least: a generation of a tenth of a second alone would say more of how a process wakes up."""


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
                    write_json(args.json, rows, without=("cores",))  # after each group: a long run that is cut off leaves what it had
    print("python benchmarks/generation.py", *sys.argv[1:])
    print(
        f"{processor()}, {THREADS} threads; the median of {args.rounds} rounds" + (", SHORTENED: not to be compared" if args.quick else "")
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
    say(f"{work}, batch {batch}")
    with contextlib.ExitStack() as stack:
        turns: dict[tuple[Worker, str], list[dict]] = {}
        asked = {name: SYSTEMS[name] for name in args.systems}
        for worker in start("generation", asked, work, left_out, stack, batch=batch):
            strategies = [name for name in work.strategies if name in worker.system.strategies and name in (*args.strategies, "sample")]
            try:
                turns |= {(worker, strategy): [worker.turn(strategy=strategy)] for strategy in strategies}
            except Failed as error:
                say(f"  {worker.system} failed and is left out: {error}")
                continue
            say(f"  {worker.system}: " + ", ".join(f"first {name} {turns[worker, name][0]['seconds']:.1f} s" for name in strategies))
        _compare_ids(turns)
        order = [(worker, own) for strategy in work.strategies for worker, own in turns if own == strategy]
        at_least = 0.0 if args.quick else _TURN
        results = take_turns([(worker, {"strategy": strategy, "at_least": at_least}) for worker, strategy in order], args.rounds)
        for key, later in zip(order, results, strict=True):
            turns[key] += later
        return turns


def _row(worker: Worker, strategy: str, results: list[dict], limits: dict[int, float]) -> Row:
    first, *later = results
    work, system, batch = worker.work, worker.system, worker.arguments["batch"]
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
    say(f"  greedy ids of the first row as {reference.system} has them ({len(set(wanted))} different ones):")
    for worker, ids in greedy.items():
        if worker is not reference:
            same = next((place for place, (a, b) in enumerate(zip(ids, wanted, strict=True)) if a != b), len(wanted))
            say(f"    {worker.system}: the first {same} of {len(wanted)}")


def _weight_bytes(work: Work, precision: str) -> int:
    return int(work.weights_a_step * BYTES_A_WEIGHT[precision])


def _bandwidths(works: list[Work], names: list[str]) -> dict[int, float]:
    """Bytes of weights → bytes a second that two threads read of that many."""
    systems = [system for name in names for system in SYSTEMS[name]]
    sizes = sorted({_weight_bytes(work, system.precision) for work in works for system in systems if work.kind in system.kinds})
    return dict(zip(sizes, measure("memory", *sizes), strict=True))


if __name__ == "__main__":
    main()
