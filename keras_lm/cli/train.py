"""`keras_lm-train`: from a corpus to a trained model, its run folder and, if asked for, an export."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from keras_lm import corpora
from keras_lm.cli import options
from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.training.run import Run, check_free, read_yaml, settings_from
from keras_lm.training.settings import CHOICES, GROUPS, TrainingSettings

_MAY_CHANGE = ("steps", "patience", "checkpoint_every", "keep_checkpoints", "sample_prompt", "sample_tokens", "export", "out")

_EPILOG = """examples:
  keras_lm-train --corpus book.txt --model lstm --steps 500 --out runs/book
  keras_lm-train --config recipes/quickstart.yaml
  keras_lm-train --out runs/book --resume

The run folder holds settings.yaml, tokenizer/, tokens/, model.keras (the best so far), checkpoints/, metrics.jsonl,
samples.txt and curves.png. Ctrl-C saves first. Flags come on top of --config."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-train",
        usage="%(prog)s [--config FILE] [--resume] [flags]",
        description="Train a language model on text.",
        epilog=_EPILOG,
    )
    result.add_argument("--config", metavar="FILE", help="YAML file of 'field: value' lines, the fields being the flags below with _ for -")
    result.add_argument("--resume", action="store_true", help="go on with the run in --out from its last checkpoint")
    options.add_fields(result, TrainingSettings, GROUPS, CHOICES)
    return result


def train(arguments: Sequence[str] | None) -> int:
    given = vars(parser().parse_args(arguments))
    config, resume = given.pop("config"), given.pop("resume")
    recipe = read_yaml(config) if config else {}
    settings = settings_from(recipe, config or "", **given)
    run = _reopen(settings, {**recipe, **given}) if resume else None
    if run is None:
        check_free(settings.folder)
        if not settings.corpus.startswith("tfds:"):
            corpora.open_corpus(settings.corpus)  # a wrong name should not cost five seconds

    print("starting TensorFlow ...", file=sys.stderr, flush=True)
    options.start_tensorflow()
    from keras_lm.export import saved_model
    from keras_lm.training import loop

    finished = resume and any(line["step"] >= run.settings.steps for line in run.read_metrics())
    if finished:
        print(f"{run.folder} has all its {run.settings.steps} steps: nothing left to train (--steps N goes further)")
    try:
        run = run or loop.prepare(settings)
        result = loop.train(run, resume=resume)
    except loop.Interrupted:
        print(f"\nsaved; to go on: {options.command('keras_lm-train', '--out', str(run.folder), '--resume')}", file=sys.stderr)
        return 130
    print(f"best validation loss: {result.loss:.4f} nats a token (perplexity {result.perplexity:.2f}, ", end="")
    print(f"{result.bits_per_character:.3f} bits a character)")
    print(f"run: {run.folder}  (samples.txt, curves.png, metrics.jsonl, model.keras)")
    folder, export, prompt = str(run.folder), run.settings.export, run.settings.sample_prompt or "..."
    next_steps = [options.command("keras_lm-generate", folder, "--prompt", prompt), options.command("keras_lm-evaluate", folder)]
    if export:
        if not (finished and layout.is_export(export)):
            print(f"export: {saved_model.export_run(run)}")
        next_steps.append(options.command("keras_lm-generate", export, "--prompt", prompt) + "   # from the SavedModel")
    else:
        next_steps.append(options.command("keras_lm-export", folder, "--out", f"saved_models/{run.folder.name}"))
    print("next:", *next_steps, sep="\n  ")
    return 0


def _reopen(settings: TrainingSettings, asked: dict[str, object]) -> Run:
    run = Run.open(settings.folder)
    for name in asked:
        wanted, has = getattr(settings, name), getattr(run.settings, name)
        if name not in _MAY_CHANGE and wanted != has:
            raise UserError(
                f"{name} is {wanted!r} here but {has!r} in {run.folder}: a resumed run keeps its settings (steps may be raised)"
            )
    changes = {name: getattr(settings, name) for name in _MAY_CHANGE if name in asked}
    run = Run(run.folder, dataclasses.replace(run.settings, **changes))
    run.write_settings()
    return run


def main() -> None:
    sys.exit(options.run(lambda: train(None), "keras_lm-train"))
