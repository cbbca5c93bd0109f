"""`keras_lm-export`: a run as a SavedModel that TF Serving takes as it is, or as one file for LiteRT."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from keras_lm.cli import options
from keras_lm.errors import UserError, unknown_name
from keras_lm.export import layout
from keras_lm.training.run import Run

FORMATS = ("savedmodel", "tflite")
QUANTIZE = ("float16", "int8")

_EPILOG = """examples:
  keras_lm-export runs/quickstart                                  saved_models/quickstart/1, then 2 ...
  keras_lm-export runs/quickstart --xla                            the next version, compiled where it is served
  keras_lm-export runs/quickstart --format tflite --quantize int8  saved_models/quickstart/model-int8.tflite

A SavedModel takes strings and gives strings: TF Serving, or TensorFlow alone, runs it without keras_lm. TF Serving serves the largest
version; each appears whole, never half. What a version offers stands in its assets.extra/keras_lm.json."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-export",
        description="Export a trained model: with its tokenizer and the sampler as one SavedModel, or for LiteRT (phones, small machines).",
        epilog=_EPILOG,
    )
    result.add_argument("run", metavar="RUN", help="a run folder, as keras_lm-train writes it")
    result.add_argument("--out", metavar="FOLDER", help="where versions go; default saved_models/ and the name of the run's folder")
    result.add_argument("--format", metavar="|".join(FORMATS), default=FORMATS[0], help="what to write (default: savedmodel)")
    result.add_argument("--quantize", metavar="|".join(QUANTIZE), help="with --format tflite: smaller weights; default float32")
    result.add_argument(
        "--xla",
        action="store_true",
        help="a SavedModel that XLA compiles while it serves: faster, but TF Serving then needs --xla_cpu_compilation_enabled=true",
    )
    return result


def export(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    if given.format not in FORMATS:
        raise unknown_name("format", given.format, FORMATS)
    if given.quantize not in (None, *QUANTIZE):
        raise unknown_name("quantize", given.quantize, QUANTIZE)
    lite = given.format == "tflite"
    if given.quantize and not lite:
        raise UserError("--quantize is for LiteRT: add --format tflite")
    if given.xla and lite:
        raise UserError("--xla is for a SavedModel: leave it or --format tflite out")
    if layout.is_export(given.run):
        raise UserError(f"{given.run} is an export already: give the run folder that it was made from")
    run = Run.open(given.run)
    layout.check_run(run)
    out = given.out or f"saved_models/{pathlib.Path(given.run).resolve().name}"
    layout.check_target(out)

    print("starting TensorFlow ...", file=sys.stderr, flush=True)
    options.start_tensorflow()
    print(f"exporting {run.folder} ...", file=sys.stderr, flush=True)
    with options.Spinner("exporting"):
        written = _lite(run, out, given.quantize) if lite else _saved_model(run, out, given.xla)
    print(f"export: {written}")
    next_steps = [options.command("keras_lm-generate", str(written) if lite else out, "--prompt", "...")]
    if not lite:
        next_steps.append(options.command("saved_model_cli", "show", "--dir", str(written), "--all"))
    if given.xla:
        next_steps.append("tensorflow_model_server --xla_cpu_compilation_enabled=true ...  (without that flag this version is not served)")
    print("next:", *next_steps, sep="\n  ")
    return 0


def _saved_model(run: Run, out: str, xla: bool) -> pathlib.Path:
    from keras_lm.export.saved_model import export_run

    return export_run(run, out, xla=xla)


def _lite(run: Run, out: str, quantize: str | None) -> pathlib.Path:
    from keras_lm.export.tflite import export_tflite

    return export_tflite(run, out, quantize)


def main() -> None:
    sys.exit(options.run(lambda: export(None), "keras_lm-export"))
