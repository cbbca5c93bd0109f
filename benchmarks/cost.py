"""What every recipe takes: parameters, arithmetic, memory, speed and, where the machine tells it, energy.

    python benchmarks/cost.py                                   # all of recipes/
    python benchmarks/cost.py recipes/quickstart.yaml recipes/words.yaml --seconds 10

Each recipe is prepared and some of its steps are made in a process of its own, as `keras_lm-train --dry-run` does; nothing is kept. What
begins from a run that is not there, or reads a file that has yet to be made, is named.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import multiprocessing
import sys
from pathlib import Path

RECIPES = Path(__file__).resolve().parent.parent / "recipes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, help="YAML files of settings (default: all of recipes/)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of steps that are measured, compiling aside (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    args = parser.parse_args()
    print("python benchmarks/cost.py " + " ".join(sys.argv[1:]), flush=True)
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        for recipe in args.recipes or sorted(RECIPES.glob("*.yaml")):
            row = processes.submit(measure, recipe, args.seconds).result()
            rows.append(row)
            print(f"{recipe.stem}: {row['missing'] or row['run_seconds']}", flush=True)
    print("\n" + table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def measure(recipe: Path, seconds: float) -> dict:
    """The row of a recipe."""
    import contextlib
    import dataclasses
    import io
    import tempfile

    from keras_lm.errors import UserError
    from keras_lm.training.estimate import estimate
    from keras_lm.training.preparation import prepare
    from keras_lm.training.run import read_yaml, settings_from

    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        settings = dataclasses.replace(settings_from(read_yaml(recipe), str(recipe)), out=f"{scratch}/run")
        row = {"recipe": recipe.stem, "task": settings.task, "model": settings.model, "missing": ""}
        try:
            found = estimate(prepare(settings), seconds=seconds)
        except (UserError, OSError) as error:
            return {**row, "missing": str(error)}
    evaluations = -(-settings.steps // settings.evaluate_every)
    joules = found.energy.joules
    return row | {
        "parameters": sum(found.parameters.values()),
        "flops_a_token": round(found.step_flops / found.step_tokens),
        "flops_a_second": found.step_flops / found.step_seconds,
        "peak_bytes": found.peak_bytes,
        "tokens_per_second": found.step_tokens / found.step_seconds,
        "joules_a_token": None if joules is None else joules / found.measured_tokens,
        "energy": found.energy.source,
        "run_flops": found.step_flops * settings.steps,
        "run_seconds": settings.steps * found.step_seconds + evaluations * found.evaluation_seconds,
    }


def table(rows: list[dict]) -> str:
    """Markdown."""
    lines = [
        "| recipe | task, model | parameters | operations a token | 10⁹ a second | memory | tokens/s | energy a token | the run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        begin = f"| {row['recipe']} | {row['task']}, {row['model']} |"
        if row["missing"]:
            lines.append(f"{begin} {row['missing']} | | | | | | |")
            continue
        energy = "unavailable" if row["joules_a_token"] is None else f"{1000 * row['joules_a_token']:.3g} mJ"
        lines.append(
            f"{begin} {row['parameters']:,} | {row['flops_a_token'] / 1e6:.2f} million | {row['flops_a_second'] / 1e9:.1f} | "
            f"{row['peak_bytes'] / 1e9:.2f} GB | {row['tokens_per_second']:,.0f} | {energy} | "
            f"{row['run_seconds'] / 60:.0f} min, {row['run_flops'] / 1e12:.1f} × 10¹² |"
        )
    reasons = sorted({row["energy"] for row in rows if not row["missing"] and row["joules_a_token"] is None})
    return "\n".join(lines + [f"\nEnergy {reason}." for reason in reasons])


if __name__ == "__main__":
    main()
