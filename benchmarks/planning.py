"""Plans that models write, beside the planner: on problems that were held out, of the sizes learnt from and one larger.

    keras_lm-problems blocks --sizes 3:1 4:3 5:6 --count 200000 --out plans-blocks.txt
    keras_lm-train --config recipes/plans-blocks.yaml
    keras_lm-train --config recipes/plans-blocks-lstm.yaml
    python benchmarks/planning.py blocks --runs runs/plans-blocks runs/plans-blocks-lstm --sizes 3 4 5 6 --picture plans.png

No problem measured is one of those learnt from with other names. A plan is valid if unified-planning's validator says so, and optimal if
none is cheaper. «applicable» is the share of plans whose every step can be made, whether they lead to the goal or not. Milliseconds are
those of a batch, divided by its plans, the second time it is planned (the first compiles); states and rules of its problems included.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from systems.report import write_json

from keras_lm.planning.learned import Attempt, LearnedPlanner, fault
from keras_lm.planning.problems import WORLDS, Solved, made_up
from keras_lm.planning.rules import find_plan, is_valid
from keras_lm.planning.texts import WAYS
from keras_lm.training.run import Run


@dataclasses.dataclass(frozen=True)
class Row:
    """How one way of one model did on problems of one size."""

    model: str
    way: str
    size: int
    plans: int
    valid: float
    optimal: float
    applicable: float
    tokens: float
    milliseconds: float

    def line(self) -> str:
        shares = f"{self.valid:.1%} | {self.optimal:.1%} | {self.applicable:.1%}"
        return f"| {self.model} | {self.way} | {self.size} | {self.plans} | {shares} | {self.tokens:.0f} | {self.milliseconds:.0f} |"


def main() -> None:
    args = _arguments()
    rows: list[Row] = []
    problems = {size: list(made_up(args.domain, {size: 1}, args.count, seed=args.seed, held_out=True)) for size in args.sizes}
    if args.planner:
        rows += [_of_planner(size, solved) for size, solved in problems.items()]
        print(*(row.line() for row in rows), sep="\n", flush=True)
    for folder in args.runs:
        planner = LearnedPlanner(Run.open(folder).make_generator(), num_beams=args.num_beams)
        for size, solved in problems.items():
            for way in args.ways:
                rows.append(_of_model(folder, planner, way, size, solved, args.batch_size))
                print(rows[-1].line(), flush=True)
    print(
        "\n| model | way | size | plans | valid | optimal | applicable | tokens a plan | ms a plan |\n|---|---|---|---|---|---|---|---|---|"
    )
    print(*(row.line() for row in rows), sep="\n")
    if args.json:
        write_json(args.json, rows, without=())
    if args.picture:
        draw(rows, args.picture)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domain", choices=WORLDS)
    parser.add_argument("--runs", nargs="*", default=[], help="runs that have learnt plans")
    parser.add_argument("--sizes", nargs="+", type=int, default=[3, 4, 5, 6], help="default: 3 4 5 6")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="default: all")
    parser.add_argument("--count", type=int, default=100, help="problems of each size (default: 100)")
    parser.add_argument("--batch-size", type=int, default=20, help="problems side by side (default: 20)")
    parser.add_argument("--num-beams", type=int, default=8, help="default: 8")
    parser.add_argument("--seed", type=int, default=1, help="of the problems (default: 1)")
    parser.add_argument("--planner", action="store_true", help="find the plans by Fast Downward too, the cheapest")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the share of valid plans by size")
    return parser.parse_args()


def _of_planner(size: int, solved: Sequence[Solved]) -> Row:
    seconds, valid, optimal = 0.0, 0, 0
    for one in solved:
        start = time.perf_counter()
        plan = find_plan(one.problem)
        seconds += time.perf_counter() - start
        valid += is_valid(one.problem, plan.steps)
        optimal += plan.cost == one.problem.cost(one.steps)
    count = len(solved)
    return Row("Fast Downward", "-", size, count, valid / count, optimal / count, 1.0, 0.0, 1000 * seconds / count)


def _of_model(name: str, planner: LearnedPlanner, way: str, size: int, solved: Sequence[Solved], batch_size: int) -> Row:
    attempts: list[Attempt] = []
    seconds = 0.0
    for first in range(0, len(solved), batch_size):
        batch = [one.problem for one in solved[first : first + batch_size]]
        if not first:
            planner.plan(batch, way)
        start = time.perf_counter()
        attempts += planner.plan(batch, way)
        seconds += time.perf_counter() - start
    pairs = list(zip(solved, attempts, strict=True))
    valid = [not attempt.fault and is_valid(one.problem, attempt.steps) for one, attempt in pairs]
    cheapest = [one.problem.cost(attempt.steps) == one.problem.cost(one.steps) for one, attempt in pairs]
    optimal = [good and cheap for good, cheap in zip(valid, cheapest, strict=True)]
    able = [_applicable(one, attempt) for one, attempt in pairs]
    count = len(pairs)
    tokens = sum(attempt.num_tokens for attempt in attempts)
    return Row(name, way, size, count, sum(valid) / count, sum(optimal) / count, sum(able) / count, tokens / count, 1000 * seconds / count)


def _applicable(one: Solved, attempt: Attempt) -> bool:
    """Whether all steps could be made; a plan that cannot be read has some that cannot."""
    return not attempt.fault or (bool(attempt.steps) and not fault(dataclasses.replace(one.problem, goal=()), attempt.steps))


def draw(rows: Sequence[Row], path: Path) -> None:
    """The share of valid plans by size, a line for each way of each model."""
    from matplotlib.figure import Figure

    from keras_lm.plots import write_figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axis = figure.subplots()
    for model, way in dict.fromkeys((row.model, row.way) for row in rows):
        own = [row for row in rows if (row.model, row.way) == (model, way)]
        axis.plot([row.size for row in own], [row.valid for row in own], marker="o", label=Path(model).name + f", {way}" * (way in WAYS))
    axis.set(xlabel="size of the problem", ylabel="share of valid plans", ylim=(0, 1.03), xticks=sorted({row.size for row in rows}))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)  # the lines are everywhere
    write_figure(figure, path)


if __name__ == "__main__":
    main()
