"""`keras_lm-export`: a run as a SavedModel that TF Serving takes as it is."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from keras_lm.cli import options
from keras_lm.training.run import Run

_EPILOG = """example:
  keras_lm-export runs/quickstart --out saved_models/quickstart

Writes saved_models/quickstart/1, then 2 ...: TF Serving serves the largest. Each version appears whole, never half."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-export", description="Export a trained model, its tokenizer and the sampler as one SavedModel.", epilog=_EPILOG
    )
    result.add_argument("run", metavar="RUN", help="a run folder")
    result.add_argument("--out", metavar="FOLDER", help="where versions go; default saved_models/ and the name of the run's folder")
    return result


def export(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    run = Run.open(given.run)
    out = given.out or f"saved_models/{pathlib.Path(given.run).resolve().name}"

    print("starting TensorFlow ...", file=sys.stderr, flush=True)
    options.start_tensorflow()
    from keras_lm.export.saved_model import export_run

    print(f"exporting {run.folder} ...", file=sys.stderr, flush=True)
    version = export_run(run, out)
    print(f"export: {version}")
    next_steps = [
        options.command("keras_lm-generate", out, "--prompt", "..."),
        options.command("saved_model_cli", "show", "--dir", str(version), "--all"),
    ]
    print("next:", *next_steps, sep="\n  ")
    return 0


def main() -> None:
    sys.exit(options.run(lambda: export(None), "keras_lm-export"))
