"""One task with one setting changed at a time: what augmentation, penalties and optimizers are worth.

    python benchmarks/ablation.py recipes/reviews-few.yaml --vary "" augment=[synonym] augment=[delete] augment=[swap] augment=[noise]
    python benchmarks/ablation.py recipes/reviews-few.yaml --vary "" l1=1e-6 l2=1e-5 word_dropout=0.1 optimizer=sgd,learning_rate=0.1

Each variant is the recipe with those fields, YAML's way of writing, and is trained with every seed; "" is the recipe itself. What is judged
are the weights that were best on the validation split. Interrupted, it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
import statistics
from pathlib import Path
from typing import Any

import yaml
from systems.report import write_json

from keras_lm.training.run import read_yaml, settings_from


@dataclasses.dataclass(frozen=True)
class Row:
    """What the seeds of a variant came to: the task's first score on the test split and on the validation split."""

    variant: str
    score: str
    validation: list[float]
    test: list[float]
    steps: list[int]

    def line(self) -> str:
        best = statistics.median(self.steps)
        return f"| {self.variant or 'as it is'} | {_spread(self.validation)} | {_spread(self.test)} | {best:,.0f} |"


def main() -> None:
    args = _arguments()
    recipe = read_yaml(args.recipe)
    variants = {variant: {**recipe, **_fields(variant)} for variant in args.vary}
    runs = {
        variant: [
            settings_from(
                values, args.recipe.name, seed=seed, export=None, out=str(args.out / f"{args.recipe.stem}-{_slug(variant)}-{seed}")
            )
            for seed in args.seeds
        ]
        for variant, values in variants.items()
    }
    from systems.runs import trained

    rows = []
    for variant, seeds in runs.items():
        finished = []
        for settings in seeds:
            print(f"\n{variant or 'as it is'}, seed {settings.seed}", flush=True)
            finished.append(trained(settings))
        task = importlib.import_module(f"keras_lm.tasks.{finished[0].settings.task}")
        scores = {part: [task.evaluate(run, part)[0] for run in finished] for part in ("validation", "test")}
        name = dataclasses.fields(scores["test"][0])[0].name
        best = [min(run.read_metrics(), key=lambda line: line["val_loss"])["step"] for run in finished]
        rows.append(Row(variant, name, *([getattr(one, name) for one in scores[part]] for part in ("validation", "test")), best))
        print(rows[-1].line(), flush=True)
    command = " ".join(f'"{variant}"' for variant in args.vary)
    print(f"\npython benchmarks/ablation.py {args.recipe} --seeds {' '.join(map(str, args.seeds))} --vary {command}\n")
    print(f"| changed | {rows[0].score}, validation | {rows[0].score}, test | best step |\n|---|---|---|---|")
    print(*(row.line() for row in rows), sep="\n")
    if args.json:
        write_json(args.json, rows, without=())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="a YAML file of settings, of a task with labels")
    parser.add_argument("--vary", nargs="+", required=True, metavar="FIELD=VALUE[,FIELD=VALUE]", help="the variants")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    return parser.parse_args()


def _fields(variant: str) -> dict[str, Any]:
    """`a=1,b=[x, y]` as a mapping."""
    parts = re.findall(r"(\w+)=(\[[^\]]*\]|[^,]*)", variant)
    return {name: yaml.safe_load(value) for name, value in parts}


def _slug(variant: str) -> str:
    return re.sub(r"\W+", "-", variant).strip("-") or "plain"


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
