"""What pre-training gives: tasks with labels, learnt from few labels and many, from nothing and from a model that has read much text.

    keras_lm-train --config recipes/pretrain-masked.yaml && keras_lm-train --config recipes/pretrain-causal.yaml
    python benchmarks/understanding.py --cases reviews words topics --examples 100 1000 all --data ../shared/data --picture gains.png
    python benchmarks/understanding.py --cases reviews --examples 1000 --starts masked --tune full head lora

Every run has the form of the model that was pre-trained, reads its characters one by one, and is kept under --out: interrupted, the
benchmark goes on where it was. The seed draws the labels that are learnt from, the weights and the order; what is judged is the same test
split, with the weights that were best on the validation split. A run from nothing learns its characters from its own texts.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import statistics
from pathlib import Path

from systems.report import write_json

from keras_lm.training.run import Run, read_yaml, settings_from

RECIPES = Path(__file__).parent.parent / "recipes"
STEPS = {100: 100, 1_000: 300, None: 1_000}
"""By the number of labels."""
STARTS = ("nothing", "masked", "causal", "reviews")
"""Nothing, or the run of `recipes/pretrain-NAME.yaml`."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A task on some data, the score that it is judged by, and how many tokens of a text are read."""

    settings: dict[str, object]
    score: str
    sequence_length: int


CASES = {
    "reviews": Case({"task": "classification", "corpus": "reviews", "pooling": "mean", "label_smoothing": 0.1}, "accuracy", 96),
    "words": Case({"task": "tagging", "corpus": "peoples-daily"}, "tagged_f1", 64),
    "topics": Case(
        {
            "task": "classification",
            "corpus": "{data}/thucnews_dev.txt",
            "test_corpus": "{data}/thucnews_test.txt",
            "class_names": "{data}/thucnews_class.txt",
            "pooling": "mean",
            "label_smoothing": 0.1,
        },
        "accuracy",
        32,
    ),
    "answers": Case({"task": "answering", "corpus": "peoples-daily"}, "f1", 192),
    "similar": Case(
        {"task": "similarity", "corpus": "{data}/zh_STS-B.train.tsv", "test_corpus": "{data}/zh_STS-B.test.tsv"}, "spearman", 64
    ),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """What the seeds of a setting came to."""

    case: str
    start: str
    tune: str
    examples: int | None
    score: str
    values: list[float]
    trained: int

    def line(self) -> str:
        spread = f" ± {statistics.stdev(self.values):.3f}" if len(self.values) > 1 else ""
        labels = "all" if self.examples is None else f"{self.examples:,}"
        return (
            f"| {self.case} | {labels} | {self.start} | {self.tune} | {self.trained:,} "
            f"| {self.score} {statistics.mean(self.values):.3f}{spread} |"
        )


def main() -> None:
    args = _arguments()
    from systems.runs import trained

    rows: list[Row] = []
    floors: dict[tuple[str, int | None], list[float]] = {}
    for name in args.cases:
        for examples in args.examples:
            for start in [one for one in args.starts if one != "causal" or name != "answers"]:  # which are found from both sides
                for tune in args.tune if start != "nothing" else ["full"]:
                    runs = []
                    for seed in args.seeds:
                        print(f"\n{name}, {examples or 'all'} labels, from {start}, {tune}, seed {seed}", flush=True)
                        runs.append(trained(_settings(args, name, examples, start, tune, seed)))
                    values = [_score(run, name) for run in runs]
                    rows.append(Row(name, start, tune, examples, CASES[name].score, values, _trained(runs[0])))
                    print(rows[-1].line(), flush=True)
            if args.floors:
                floors[name, examples] = [_floor(run, name) for run in runs]
    print(f"\npython benchmarks/understanding.py --cases {' '.join(args.cases)} --seeds {' '.join(map(str, args.seeds))}\n")
    print("| task | labels | begins with | learns | weights that learn | score |\n|---|---|---|---|---|---|")
    print(*(row.line() for row in rows), sep="\n")
    for (name, examples), values in floors.items():
        print(f"| {name} | {examples or 'all'} | floor | - | - | {CASES[name].score} {statistics.mean(values):.3f} |")
    if args.json:
        write_json(args.json, rows, without=())
    if args.picture:
        draw(rows, args.picture)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["reviews", "words", "topics"], help="default: %(default)s")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=["nothing", "masked", "causal"], help="default: %(default)s")
    parser.add_argument("--tune", nargs="+", choices=("full", "head", "lora"), default=["full"], help="what learns (default: full)")
    parser.add_argument("--examples", nargs="+", type=lambda text: None if text == "all" else int(text), default=[100, 1_000, None])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="default: %(default)s")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of pretrain-masked and the like (default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of thucnews_*.txt and zh_STS-B.*.tsv")
    parser.add_argument("--floors", action="store_true", help="judge the floor of each task too, taught on the same labels")
    parser.add_argument("--out", type=Path, default=Path("runs/understanding"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the scores by labels")
    return parser.parse_args()


def _settings(args: argparse.Namespace, name: str, examples: int | None, start: str, tune: str, seed: int):
    case = CASES[name]
    recipe = read_yaml(RECIPES / "pretrain-masked.yaml")
    model = {field: recipe[field] for field in ("model", "embedding_dim", "num_layers", "num_heads", "dropout")}
    own = {field: value.format(data=args.data) if isinstance(value, str) else value for field, value in case.settings.items()}
    steps = next(steps for most, steps in STEPS.items() if most is None or (examples is not None and examples <= most))
    rate = args.learning_rate * (3 if tune != "full" else 1)  # of what is not learnt nothing can be spoilt
    labels = "all" if examples is None else examples
    values = {
        **model,
        **own,
        "sequence_length": case.sequence_length,
        "batch_size": 16,
        "bidirectional": start != "causal",
        "tune": tune,
        "examples": examples,
        "seed": seed,
        "steps": steps,
        "evaluate_every": max(steps // 5, 25),
        "learning_rate": rate,
        "warmup_steps": steps // 10,
        "xla": "off",  # each width of batch would be compiled, which takes longer than such a run
        "out": str(args.out / f"{name}-{labels}-{start}-{tune}-{seed}"),
    }
    if start != "nothing":
        values["start_from"] = str(args.runs / f"pretrain-{start}")
    return settings_from(values, name)


def _score(run: Run, name: str) -> float:
    scores, _ = importlib.import_module(f"keras_lm.tasks.{run.settings.task}").evaluate(run)
    return getattr(scores, CASES[name].score)


def _floor(run: Run, name: str) -> float:
    return getattr(importlib.import_module(f"keras_lm.tasks.{run.settings.task}").floor(run), CASES[name].score)


def _trained(run: Run) -> int:
    from keras_lm.training.loop import first_model

    return sum(weight.shape.num_elements() for weight in first_model(run).trainable_variables)


def draw(rows: list[Row], path: Path) -> None:
    """Scores by the number of labels, a panel a task, with the spread of the seeds."""
    from matplotlib.figure import Figure

    from keras_lm.plots import write_figure

    cases = list(dict.fromkeys(row.case for row in rows))
    figure = Figure(figsize=(4 * len(cases), 3.2), layout="constrained")
    axes = figure.subplots(1, len(cases), squeeze=False)
    for axis, case in zip(axes[0], cases, strict=True):
        own = [row for row in rows if row.case == case and row.tune == "full"]
        for start in dict.fromkeys(row.start for row in own):
            line = [row for row in own if row.start == start]
            places = [f"{row.examples:,}" if row.examples else "all" for row in line]
            spread = [statistics.stdev(row.values) if len(row.values) > 1 else 0 for row in line]
            axis.errorbar(places, [statistics.mean(row.values) for row in line], spread, marker="o", capsize=3, label=f"from {start}")
        axis.set(title=case, xlabel="labels", ylabel=own[0].score.replace("_", " "))
        axis.grid(alpha=0.3)
        axis.legend()
    write_figure(figure, path)


if __name__ == "__main__":
    main()
