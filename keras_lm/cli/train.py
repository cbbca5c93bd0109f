"""`keras_lm-train`: from a corpus to a trained model, its run folder and, if asked for, an export."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from keras_lm import corpora, pairs
from keras_lm.cli import options
from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.privacy import desensitizing
from keras_lm.training.cluster import Cluster
from keras_lm.training.run import Run, check_free, check_tensorboard, read_yaml, settings_from
from keras_lm.training.settings import CHOICES, GROUPS, LABELLED, TrainingSettings

_MAY_CHANGE = (
    *("steps", "patience", "checkpoint_every", "keep_checkpoints", "sample_prompt", "sample_tokens", "tensorboard", "export", "out"),
    *("strategy", "worker_timeout", "data_service", "data_service_workers"),
)

_EPILOG = """examples:
  keras_lm-train --corpus book.txt --model lstm --steps 500 --out runs/book
  keras_lm-train --config recipes/quickstart.yaml
  keras_lm-train --tokens data/wiki --steps 100000 --out runs/wiki
  keras_lm-train --task translation --corpus pairs.tsv --tokenizer sentencepiece --out runs/translator
  keras_lm-train --task classification --corpus texts.tsv --model lstm --out runs/classifier
  keras_lm-train --task vae --corpus sentences.txt --model lstm --free-bits 0.35 --kl-steps 1000 --out runs/sentences
  keras_lm-train --corpus letters.txt --desensitize all --names-file names.txt --out runs/letters
  keras_lm-train --out runs/book --resume
  keras_lm-train --corpus book.txt --model lstm --dry-run
  keras_lm-train --corpus book.txt --model lstm --find-learning-rate rates.png

The run folder holds settings.yaml, tokenizer/, tokens/, model.keras (the best so far), checkpoints/, metrics.jsonl and
metrics.csv, samples.txt and curves.png. Ctrl-C saves first. Flags come on top of --config. Resumed, a run ends with the
very weights of one that was never stopped, even if it was killed."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-train",
        usage="%(prog)s [--config FILE] [--resume | --dry-run | --find-learning-rate FILE] [flags]",
        description="Train a language model on text.",
        epilog=_EPILOG,
    )
    result.add_argument("--config", metavar="FILE", help="YAML file of 'field: value' lines, the fields being the flags below with _ for -")
    mode = result.add_mutually_exclusive_group()
    mode.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in --out from its last checkpoint; where --corpus or --tokens is given it is begun if it is not there yet",
    )
    mode.add_argument("--dry-run", action="store_true", help="say what the run would take: parameters, memory, time; write nothing")
    mode.add_argument(
        "--find-learning-rate", metavar="FILE", help="try growing learning rates, draw the losses to FILE (.png, .svg, .pdf), suggest one"
    )
    options.add_fields(result, TrainingSettings, GROUPS, CHOICES)
    return result


def train(arguments: Sequence[str] | None) -> int:
    given = vars(parser().parse_args(arguments))
    config, resume, dry_run, rates = (given.pop(name) for name in ("config", "resume", "dry_run", "find_learning_rate"))
    recipe = read_yaml(config) if config else {}
    settings = settings_from(recipe, config or "", **given)
    asked = {**recipe, **given}
    run = _reopen(settings, asked) if resume and _is_begun(settings, asked) else None
    if run is None:
        if not (dry_run or rates):
            check_free(settings.folder)
        if settings.tokens:
            _check_tokens(settings.tokens, asked)
        elif not settings.corpus.startswith("tfds:"):  # a wrong name should not cost five seconds
            _check_corpus(settings)
        desensitizing.check(settings.desensitize, settings.names_file)
        if settings.pretrained:
            from keras_lm.pretrained.checkpoint import Checkpoint

            Checkpoint(settings.pretrained)
        if settings.start_from:
            settings.check_same_model(Run.open(settings.start_from).settings)
        if settings.word_vectors:
            _check_vectors(settings.word_vectors, settings.embedding_dim)
    if (run.settings if run else settings).tensorboard:
        check_tensorboard()
    if (run.settings if run else settings).strategy == "multiworker":
        Cluster.from_environment()

    print("starting TensorFlow ...", file=sys.stderr, flush=True)
    options.start_tensorflow()
    if dry_run or rates:
        return _try_out(settings, rates)
    return _train(settings, run)


def _train(settings: TrainingSettings, run: Run | None) -> int:
    from keras_lm.export import saved_model
    from keras_lm.training import loop
    from keras_lm.training.distribution import Distribution
    from keras_lm.training.preparation import prepare
    from keras_lm.vae_evaluation import collapse

    resume = run is not None
    settings = run.settings if run else settings
    devices = Distribution(settings.strategy, settings.worker_timeout)
    finished = resume and any(line["step"] >= run.settings.steps for line in run.read_metrics())
    if finished:
        print(f"{run.folder} has all its {run.settings.steps} steps: nothing left to train (--steps N goes further)")
    try:
        run = run or prepare(settings, devices)
        result = loop.train(run, resume=resume, distribution=devices)
    except loop.Interrupted:
        print(f"\nsaved; to go on: {options.command('keras_lm-train', '--out', str(run.folder), '--resume')}", file=sys.stderr)
        return 130
    if not devices.is_chief:
        return 0
    print(_best(result, run.settings.task))
    if run.settings.has_latent and (collapsed := collapse(result)):
        print(collapsed, file=sys.stderr)
    print(f"run: {run.folder}  ({'samples.txt, ' if run.settings.writes else ''}curves.png, metrics.jsonl, model.keras)")
    folder, export, prompt = str(run.folder), run.settings.export, run.settings.sample_prompt or "..."
    texts = options.ASKED.get(run.settings.task, ("...",))
    words = ("keras_lm-generate", "--prompt", prompt) if run.settings.writes else ("keras_lm-predict", "--text", *texts)
    next_steps = [options.command(words[0], folder, *words[1:]), options.command("keras_lm-evaluate", folder)]
    if run.settings.task == "masked":
        next_steps[0] = options.command("keras_lm-train", "--task", "classification", "--start-from", folder)
    elif export:
        if not (finished and layout.is_export(export)):
            print(f"export: {saved_model.export_run(run)}")
        next_steps.append(options.command(words[0], export, *words[1:]) + "   # from the SavedModel")
    else:
        next_steps.append(options.command("keras_lm-export", folder, "--out", f"saved_models/{run.folder.name}"))
    if run.settings.task == "similarity":
        next_steps.append(options.command("keras_lm-search", folder, "INDEX", "--build", "texts.txt"))
    print("next:", *next_steps, sep="\n  ")
    return 0


def _best(result: Any, task: str) -> str:
    """The result of the best model in words."""
    if hasattr(result, "accuracy"):
        unit = "a pair" if task == "similarity" else "nats a label"
        return f"best validation loss: {result.loss:.4f} {unit} (accuracy there {result.accuracy:.4f})"
    if not hasattr(result, "bits_per_character"):
        return f"best validation loss: {result.loss:.4f} nats a hidden token (perplexity {result.perplexity:.2f})"
    perplexity = f"perplexity {result.perplexity:.2f}, {result.bits_per_character:.3f} bits a character"
    if hasattr(result, "kl"):
        units = f"{result.active_units} of {result.latent_dim} units active"
        return f"best validation bound: {result.loss:.4f} nats a token ({perplexity}; KL {result.kl:.2f} nats a sentence, {units})"
    return f"best validation loss: {result.loss:.4f} nats a token ({perplexity})"


def _check_corpus(settings: TrainingSettings) -> None:
    """Refuses a corpus that is not there, before TensorFlow is started.

    Raises:
        UserError: no such name, package or file.
    """
    if not settings.reads_labels:
        (pairs.open_pairs if settings.reads_pairs else corpora.open_corpus)(settings.corpus)
        return
    packaged = LABELLED[settings.task]
    if settings.corpus == packaged:
        corpora.open_corpus("peoples-daily")  # which lies in the package that all come from
    elif settings.task == "similarity" and not pathlib.Path(settings.corpus).is_file():
        pairs.open_pairs(settings.corpus)
        return
    for path in (settings.corpus if settings.corpus != packaged else None, settings.test_corpus, settings.class_names):
        if path is not None and not pathlib.Path(path).is_file():
            raise UserError(f"no such file: {path!r}" + (f" (known: {packaged})" if path == settings.corpus else ""))


def _try_out(settings: TrainingSettings, rates: str | None) -> int:
    """`--dry-run` and `--find-learning-rate`: on a run that is thrown away."""
    from keras_lm import plots
    from keras_lm.training import estimate, range_test
    from keras_lm.training.preparation import prepare

    with tempfile.TemporaryDirectory() as scratch:
        run = prepare(dataclasses.replace(settings, out=f"{scratch}/run"))
        if rates is None:
            print(estimate.report(run, estimate.estimate(run)))
            return 0
        curve = range_test.range_test(run, progress=options.progress_bar(100, "step"))
    plots.learning_rates(curve.rates, curve.losses, curve.steepest, rates)
    print(f"the loss falls fastest at a learning rate of {curve.steepest:.2g}: --learning-rate {curve.steepest:.2g}  ({rates} shows it)")
    return 0


def _is_begun(settings: TrainingSettings, asked: dict[str, object]) -> bool:
    """Whether there is a run to go on with; if not, and the command says enough to begin it, it is begun."""
    return (pathlib.Path(settings.folder) / "settings.yaml").exists() or not {"corpus", "tokens"} & set(asked)


def _check_tokens(folder: str, asked: dict[str, object]) -> None:
    if not (pathlib.Path(folder) / "manifest.json").is_file():
        raise UserError(f"{folder} holds no tokenized corpus (no manifest.json): keras_lm-prepare makes one")
    fields = ("corpus", "document", "errors", "clean", "desensitize", "names_file", "split", "tokenizer", "vocabulary_size")
    decided = [name for name in fields if name in asked]
    if decided:
        raise UserError(f"tokens is a corpus that is tokenized already: leave {', '.join(decided)} out")


def _check_vectors(path: str, embedding_dim: int) -> None:
    from keras_lm.embeddings.vectors import check_width, read_dimensions  # which import NumPy

    check_width(read_dimensions(path), embedding_dim)


def _reopen(settings: TrainingSettings, asked: dict[str, object]) -> Run:
    run = Run.open(settings.folder)
    differing = [name for name in asked if name not in _MAY_CHANGE and getattr(settings, name) != getattr(run.settings, name)]
    if differing:
        words = ", ".join(f"{name} is {getattr(settings, name)!r} here but {getattr(run.settings, name)!r} there" for name in differing)
        raise UserError(f"a resumed run keeps its settings ({', '.join(_MAY_CHANGE[:-1])} may change); in {run.folder}: {words}")
    changes = {name: getattr(settings, name) for name in _MAY_CHANGE if name in asked}
    run = Run(run.folder, dataclasses.replace(run.settings, **changes))
    if run.settings.strategy != "multiworker" or Cluster.from_environment().is_chief:
        run.write_settings()
    return run


def main() -> None:
    sys.exit(options.run(lambda: train(None), "keras_lm-train"))
