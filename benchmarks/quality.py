"""How good the models are: trains each recipe with several seeds, and prints the held-out loss, its mean and its spread.

    python benchmarks/quality.py recipes/shakespeare-{simple-rnn,lstm,gru,transformer}.yaml
    python benchmarks/quality.py recipes/shakespeare-lstm.yaml --corpus tinyshakespeare.txt --seeds 0 1 2 3 4

Interrupted, it goes on where it was. Each seed is a run of its own under --out.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path

from systems.report import write_json

from keras_lm.training.run import Run, read_yaml, settings_from


@dataclasses.dataclass(frozen=True)
class Row:
    """What the seeds of a recipe came to; losses in nats a token."""

    recipe: str
    model: str
    parameters: int
    tokens: int
    losses: list[float]
    test_losses: list[float]
    minutes: list[float]

    def line(self) -> str:
        minutes = statistics.median(self.minutes)
        return (
            f"| {self.recipe} | {self.model} | {self.parameters:,} | {_spread(self.losses)} | {_spread(self.test_losses)} "
            f"| {min(self.losses):.3f} to {max(self.losses):.3f} | {minutes:.1f} | {self.tokens / minutes / 60:,.0f} |"
        )


def main() -> None:
    args = _arguments()
    recipes = {path.stem: read_yaml(path) for path in args.recipes}
    overrides = {name: value for name in ("corpus", "learning_rate") if (value := getattr(args, name)) is not None}
    overrides["sample_tokens"] = 0  # a sample changes nothing in the run, and its first one is compiled
    runs = {
        stem: [settings_from(recipe, f"{stem}.yaml", **overrides, seed=seed, out=str(args.out / f"{stem}-{seed}")) for seed in args.seeds]
        for stem, recipe in recipes.items()
    }
    from systems.runs import trained

    from keras_lm import plots

    rows, curves = [], {}
    for stem, seeds in runs.items():
        finished = []
        for settings in seeds:
            print(f"\n{stem}, seed {settings.seed}", flush=True)
            finished.append(trained(settings))
        rows.append(_row(stem, finished))
        curves[f"{rows[-1].model}, {rows[-1].parameters:,} parameters"] = [_curve(run) for run in finished]
        if args.json:  # after each recipe: a long run that is cut off leaves what it had
            write_json(args.json, rows, without=())
    plots.compared_curves(curves, args.out / "quality.png")
    print(f"\npython benchmarks/quality.py {' '.join(map(str, args.recipes))} --seeds {' '.join(map(str, args.seeds))}\n")
    print("| recipe | model | parameters | validation loss, mean ± standard deviation | test loss | range | minutes | tokens/s |")
    print("|---|---|---|---|---|---|---|---|")
    print(*(row.line() for row in rows), sep="\n")
    print(args.out / "quality.png")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE", help="YAML files of settings")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--corpus", help="in place of the recipes'")
    parser.add_argument("--learning-rate", type=float, help="in place of the recipes'")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="folder of the runs (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    return parser.parse_args()


def _row(stem: str, runs: list[Run]) -> Row:
    settings = runs[0].settings
    tests = [run.load_tokens()["test"] for run in runs]
    return Row(
        recipe=stem,
        model=settings.model,
        parameters=runs[0].load_model().count_params(),
        tokens=settings.steps * settings.batch_size * settings.sequence_length,
        losses=[min(line["val_loss"] for line in run.read_metrics()) for run in runs],
        test_losses=[run.load_evaluator()(tokens).loss for run, tokens in zip(runs, tests, strict=True) if len(tokens.ids) > 1],
        minutes=[_minutes(run) for run in runs],
    )


def _minutes(run: Run) -> float:
    """Of the training steps: tokens over their speed, evaluations and compiling left out."""
    lines = run.read_metrics()
    window = run.settings.batch_size * run.settings.sequence_length
    starts = [0, *(line["step"] for line in lines)]
    return sum((line["step"] - start) * window / line["tokens_per_second"] for start, line in zip(starts, lines, strict=False)) / 60


def _curve(run: Run) -> list[tuple[int, float]]:
    window = run.settings.batch_size * run.settings.sequence_length
    return [(line["step"] * window, line["val_loss"]) for line in run.read_metrics()]


def _spread(losses: list[float]) -> str:
    if not losses:
        return "-"
    return f"{statistics.mean(losses):.3f}" + (f" ± {statistics.stdev(losses):.3f}" if len(losses) > 1 else "")


if __name__ == "__main__":
    main()
