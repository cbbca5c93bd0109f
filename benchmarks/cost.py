"""What every recipe takes: parameters, arithmetic, memory, speed and, where the machine tells it, energy.

    python benchmarks/cost.py                                   # all of recipes/
    python benchmarks/cost.py recipes/quickstart.yaml recipes/words.yaml --seconds 10
    python benchmarks/cost.py --corpora FOLDER                  # where tinyshakespeare.txt, tatoeba-en-zh.tsv and the like lie

Each recipe is prepared and some of its steps are made in a process of its own, as `keras_lm-train --dry-run` does; nothing is kept. A run
that a recipe starts from and that is not there is made by its own recipe with a single step: what its weights are changes no cost. A file
that is not there is named in the recipe's row.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import io
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from keras_lm.cli.options import quiet_start

if TYPE_CHECKING:
    from keras_lm.training.settings import TrainingSettings

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
_FILES = {"tfds:tiny_shakespeare": "tinyshakespeare.txt"}  # a corpus of TensorFlow Datasets, and its text as a file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", type=Path, help="YAML files of settings (default: all of recipes/)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of steps that are measured, compiling aside (default: %(default)s)")
    parser.add_argument("--corpora", type=Path, metavar="FOLDER", help="where the files that recipes name lie (default: where this is run)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    args = parser.parse_args()
    print("python benchmarks/cost.py " + " ".join(sys.argv[1:]), flush=True)
    rows = []
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as scratch,
        concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn, initializer=start, max_tasks_per_child=1) as processes,
    ):
        for recipe in args.recipes or sorted(RECIPES.glob("*.yaml")):
            begin = time.monotonic()
            processes.submit(make_start, recipe, args.corpora or Path(), Path(scratch)).result()
            row = processes.submit(measure, recipe, args.seconds, args.corpora or Path(), Path(scratch)).result()
            rows.append(row)
            print(f"{recipe.stem}: {row['missing'] or 'measured'}, {time.monotonic() - begin:.0f} s", flush=True)
    print("\n" + table(rows))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def start() -> None:
    """Of a process: TensorFlow comes without its messages."""
    with quiet_start():
        import tensorflow  # noqa: F401


def measure(recipe: Path, seconds: float, corpora: Path, scratch: Path) -> dict:
    """The row of a recipe.

    Args:
        recipe: A YAML file of settings.
        seconds: Of steps that are measured.
        corpora: Folder of the files that recipes name.
        scratch: Folder of the runs that others start from.
    """
    from keras_lm.errors import UserError
    from keras_lm.training.estimate import estimate
    from keras_lm.training.preparation import prepare
    from keras_lm.training.run import read_yaml
    from keras_lm.training.settings import TrainingSettings

    given = read_yaml(recipe)
    row = {
        "recipe": recipe.stem,
        "task": given.get("task", TrainingSettings.task),
        "model": given.get("model", TrainingSettings.model),
        "missing": "",
    }
    with tempfile.TemporaryDirectory() as folder, _silence():
        try:
            found = estimate(prepare(settings := _settings(recipe, corpora, scratch, f"{folder}/run")), seconds=seconds)
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


def make_start(recipe: Path, corpora: Path, scratch: Path) -> None:
    """Makes the run that a recipe starts from, if it is not there; in a process of its own, as `measure` tells a process's memory."""
    from keras_lm.errors import UserError
    from keras_lm.training.loop import train
    from keras_lm.training.preparation import prepare
    from keras_lm.training.run import read_yaml

    out = _start_of(read_yaml(recipe), scratch)
    if not out or out.is_dir():
        return
    with contextlib.suppress(UserError, OSError), _silence():  # `measure` will say what is not there
        of_start = recipe.with_name(f"{out.name}.yaml")
        make_start(of_start, corpora, scratch)
        settings = _settings(of_start, corpora, scratch, str(out))
        train(prepare(dataclasses.replace(settings, steps=1, warmup_steps=0, evaluate_every=1, export=None)))


def _settings(recipe: Path, corpora: Path, scratch: Path, out: str) -> TrainingSettings:
    from keras_lm.training.run import read_yaml, settings_from

    given = read_yaml(recipe)
    for name in ("corpus", "test_corpus", "class_names"):
        here = corpora / _FILES.get(given.get(name), str(given.get(name)))
        if name in given and here.is_file():
            given[name] = str(here)
    if begins := _start_of(given, scratch):
        given["start_from"] = str(begins)
    return settings_from(given, str(recipe), out=out)


def _start_of(given: dict, scratch: Path) -> Path | None:
    if (named := given.get("start_from")) is None:
        return None
    return Path(named) if Path(named).is_dir() else scratch / Path(named).name


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


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
            f"{row['run_seconds'] / 60:.1f} min, {row['run_flops'] / 1e12:.1f} × 10¹² |"
        )
    reasons = sorted({row["energy"] for row in rows if not row["missing"] and row["joules_a_token"] is None})
    return "\n".join(lines + [f"\nEnergy {reason}." for reason in reasons])


if __name__ == "__main__":
    main()
