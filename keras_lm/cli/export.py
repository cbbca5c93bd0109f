"""`keras_lm-export`: a run as a SavedModel that TF Serving takes as it is, as one file for LiteRT, or as transformers has its models."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from keras_lm.cli import options
from keras_lm.errors import UserError, unknown_name
from keras_lm.export import layout
from keras_lm.training.run import Run

FORMATS = ("savedmodel", "tflite", "transformers")
QUANTIZE = ("float16", "int8")

_EPILOG = """examples:
  keras_lm-export runs/quickstart                                  saved_models/quickstart/1, then 2 ...
  keras_lm-export runs/quickstart --xla                            the next version, compiled where it is served
  keras_lm-export runs/quickstart --format tflite --quantize int8  saved_models/quickstart/model-int8.tflite
  keras_lm-export runs/quickstart --format transformers            saved_models/quickstart-transformers

A SavedModel takes strings and gives strings: TF Serving, or TensorFlow alone, runs it without keras_lm. TF Serving serves the largest
version; each appears whole, never half. What a version offers stands in its assets.extra/keras_lm.json. For transformers a Transformer
language model becomes the GPT-2, Llama or StarCoder2 that computes the same."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-export",
        description="Export a trained model: with its tokenizer and the sampler as one SavedModel, for LiteRT, or for transformers.",
        epilog=_EPILOG,
    )
    result.add_argument("run", metavar="RUN", help="a run folder, as keras_lm-train writes it")
    result.add_argument("--out", metavar="FOLDER", help="where it goes; default saved_models/ and the name of the run's folder")
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
    if given.xla and given.format != "savedmodel":
        raise UserError(f"--xla is for a SavedModel: leave it or --format {given.format} out")
    if layout.is_export(given.run):
        raise UserError(f"{given.run} is an export already: give the run folder that it was made from")
    run = Run.open(given.run)
    layout.check_run(run)
    out = given.out or f"saved_models/{pathlib.Path(given.run).resolve().name}"
    if run.settings.task == "masked":
        raise UserError(
            f"{run.folder} is a run of masked, which says nothing by itself: start a run of another task from it (--start-from)"
        )
    if run.settings.reads_labels and (given.xla or given.format != "savedmodel"):
        what = "--xla" if given.xla else f"--format {given.format}"
        raise UserError(f"{what} is for models that write text: a run of {run.settings.task} becomes a SavedModel without it")
    if given.format == "transformers":
        return _transformers(run, given.out or f"{out}-transformers")
    layout.check_target(out)

    _start(run)
    with options.Spinner("exporting"):
        written = _lite(run, out, given.quantize) if lite else _saved_model(run, out, given.xla)
    print(f"export: {written}")
    words = ("keras_lm-predict", "--text") if run.settings.reads_labels else ("keras_lm-generate", "--prompt")
    texts = options.ASKED.get(run.settings.task, ("...",))
    next_steps = [options.command(words[0], str(written) if lite else out, words[1], *texts)]
    if not lite:
        next_steps.append(options.command("saved_model_cli", "show", "--dir", str(written), "--all"))
    if given.xla:
        next_steps.append("tensorflow_model_server --xla_cpu_compilation_enabled=true ...  (without that flag this version is not served)")
    print("next:", *next_steps, sep="\n  ")
    return 0


def _transformers(run: Run, out: str) -> int:
    from keras_lm.pretrained.checkpoint import check_free

    check_free(out)
    if run.settings.model != "transformer" or run.settings.task != "lm":
        what = f"a model for {run.settings.task}" if run.settings.task != "lm" else f"a {run.settings.model}"
        raise UserError(f"{run.folder} holds {what}: transformers has the form of a Transformer language model alone")
    _start(run)
    from keras_lm.pretrained.saving import save

    with options.Spinner("exporting"):
        missing = save(run.load_model(), run.load_tokenizer(), out, documents=run.settings.documents)
    if missing:
        print(missing, file=sys.stderr)
    if run.settings.clean:
        print(f"the tokenizer there does not clean texts as the run does ({', '.join(run.settings.clean)})", file=sys.stderr)
    print(f"export: {out}")
    print("next (in Python):", f'transformers.pipeline("text-generation", "{out}")("...")', sep="\n  ")
    return 0


def _start(run: Run) -> None:
    print("starting TensorFlow ...", file=sys.stderr, flush=True)
    options.start_tensorflow()
    print(f"exporting {run.folder} ...", file=sys.stderr, flush=True)


def _saved_model(run: Run, out: str, xla: bool) -> pathlib.Path:
    from keras_lm.export.saved_model import export_run

    return export_run(run, out, xla=xla)


def _lite(run: Run, out: str, quantize: str | None) -> pathlib.Path:
    from keras_lm.export.tflite import export_tflite

    return export_tflite(run, out, quantize)


def main() -> None:
    sys.exit(options.run(lambda: export(None), "keras_lm-export"))
