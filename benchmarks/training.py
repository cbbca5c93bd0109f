"""Training, our step beside its peers: tokens a second, in one run.

    python benchmarks/training.py
    python benchmarks/training.py --work W4-2x512 --systems keras_lm torch --json rows.json

Peers come with `pip install keras_lm[bench]`; those that are missing are left out. `torch_compile` needs a C++ compiler.

As in `generation.py` only what was measured side by side is compared: each system runs in a process of its own, all of them are up at once
for a work, and they take turns of as many steps, for some rounds. All begin with the same weights, read the same batches and have the same
optimizer; their parameters are counted and their first losses compared, so that nobody is fast by doing less. The activation is the
model's choice and costs what it costs: all have the same one, which stands beside the figures.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path

from systems import THREADS
from systems.process import Failed, Worker
from systems.report import write_json
from systems.rounds import measure, processor, say, start, take_turns
from systems.training import SYSTEMS
from systems.training.report import Row, ratios, table, targets
from systems.training.works import ACTIVATIONS, WORKS, Work

_COMPARED = 5
"""First steps, one at a time, whose losses are compared."""
_TOLERANCE = 1e-3
"""Nats a token. Rounding alone moves the fifth loss by less than a tenth of it."""


def main() -> None:
    args = _arguments()
    works = [_as_asked(WORKS[name], args) for name in args.work]
    limit = measure("products")
    left_out: set[str] = set()
    measured: dict[Worker, list[dict]] = {}
    same: set[Worker] = set()
    rows: list[Row] = []
    for work in works:
        same |= _run_work(work, args, left_out, measured)
        limit = max(limit, measure("products"))  # again, since something else may have run in the first second
        rows = [_row(worker, results, limit, worker in same) for worker, results in measured.items()]
        if args.json:  # after each work: a long run that is cut off leaves what it had
            write_json(args.json, [row for row in rows if row.same], without=("activation", "cores", "same"))
    print("python benchmarks/training.py", *sys.argv[1:])
    print(
        f"{processor()}, {THREADS} threads; the median of {args.rounds} rounds" + (", SHORTENED: not to be compared" if args.quick else "")
    )
    for work in works:
        print(work)
    print(f"Big float32 products: {limit / 1e9:.0f} billion operations/s", end="\n\n")
    print("\n\n".join(text for text in (table(rows), ratios(rows), targets(rows)) if text))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", choices=WORKS, default=list(WORKS), metavar="W", help=f"of {', '.join(WORKS)}; default: all")
    parser.add_argument(
        "--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME", help=f"of {', '.join(SYSTEMS)}; default: all"
    )
    parser.add_argument("--activation", choices=ACTIVATIONS, default=ACTIVATIONS[0], help="of the Transformers; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each system whose median is taken (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--quick", action="store_true", help="one round and a quarter of the steps, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.rounds = 1
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    return args


def _as_asked(work: Work, args: argparse.Namespace) -> Work:
    if args.quick:
        work = dataclasses.replace(work, steps=max(1, work.steps // 4))
    return dataclasses.replace(work, activation=args.activation) if work.kind == "transformer" else work


def _run_work(work: Work, args: argparse.Namespace, left_out: set[str], measured: dict[Worker, list[dict]]) -> set[Worker]:
    """All systems at one work, in turns; adds the results of each, the first steps before the rounds.

    Returns:
        Those that did the same as the others.
    """
    say(str(work))
    with tempfile.TemporaryDirectory(prefix="keras_lm_bench_") as folder, contextlib.ExitStack() as stack:
        batches = str(Path(folder) / "batches.npy")
        measure("training.batches", json.dumps(dataclasses.asdict(work)), _COMPARED + args.rounds * work.steps, batches)
        firsts: dict[Worker, list[dict]] = {}
        asked = {name: SYSTEMS[name] for name in args.systems}
        for worker in start("training", asked, work, left_out, stack, batches=batches):
            try:
                firsts[worker] = [worker.turn(steps=1) for _ in range(_COMPARED)]
            except Failed as error:
                say(f"  {worker.system} failed and is left out: {error}")
                continue
            seconds = [result["seconds"] for result in firsts[worker]]
            say(f"  {worker.system}: {worker.about['parameters']:,} parameters; first step {seconds[0]:.1f} s, fifth {seconds[-1]:.2f} s")
        same = _same(firsts)
        results = take_turns([(worker, {"steps": work.steps}) for worker in firsts], args.rounds)
        for worker, later in zip(firsts, results, strict=True):
            measured[worker] = [firsts[worker][0], *later]
        return same


def _same(firsts: dict[Worker, list[dict]]) -> set[Worker]:
    """Those with as many parameters as the median system and losses within the tolerance of the median ones; says what each has."""
    losses = {worker: [result["loss"] for result in results] for worker, results in firsts.items()}
    middle = [statistics.median_low(column) for column in zip(*losses.values(), strict=True)]
    parameters = statistics.median_low(worker.about["parameters"] for worker in firsts) if firsts else 0
    same = set()
    for worker, own in losses.items():
        differences = [abs(loss - other) for loss, other in zip(own, middle, strict=True)]
        if all(difference <= _TOLERANCE for difference in differences) and worker.about["parameters"] == parameters:
            same.add(worker)
        said = " ".join(f"{loss:.4f}" for loss in own)
        verdict = "as the others" if worker in same else "NOT as the others: marked, and not in the JSON"
        say(f"    {worker.system}: losses {said}, at most {max(differences):.1e} from the median: {verdict}")
    return same


def _row(worker: Worker, results: list[dict], limit: float, same: bool) -> Row:
    first, *later = results
    work, system = worker.work, worker.system
    speed = work.steps * work.tokens_a_step / statistics.median(result["seconds"] for result in later)
    return Row(
        work=work.name,
        system=system.label,
        ours=system.ours,
        activation=work.activation,
        tokens_per_second=round(speed, 1),
        fraction_of_limit=round(speed * work.operations_a_token / limit, 4),
        first_step_seconds=round(first["seconds"], 3),
        cores=statistics.median(result["cores"] for result in later),
        same=same,
    )


if __name__ == "__main__":
    main()
