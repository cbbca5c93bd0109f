"""A run is a folder: `settings.yaml`, `versions.json`, `tokenizer/`, `tokens/`, `model.keras`, `checkpoints/`, `metrics.jsonl` and the same
as `metrics.csv`, `samples.txt`, `curves.png`; `labels.json` where its task has labels, `desensitized.json` where secrets were masked.

Everything downstream takes that folder: generation, evaluation, export, a notebook.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib.metadata
import importlib.util
import io
import json
import os
import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from keras_lm.errors import UserError, unknown_name
from keras_lm.files import replacing
from keras_lm.training.settings import CHOICES, TrainingSettings

FORMAT = 2
"""The form of a run folder; a run of another one cannot be resumed."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The folder of a training run.

    Args:
        folder: Where it is.
        settings: What its `settings.yaml` holds.

    Example: `Run.open("runs/quickstart").load_model()`
    """

    folder: pathlib.Path
    settings: TrainingSettings

    @classmethod
    def open(cls, folder: str | os.PathLike) -> Run:
        """Opens a run that exists.

        Raises:
            UserError: the folder holds no run, or its settings cannot be read.
        """
        folder = pathlib.Path(folder)
        path = folder / "settings.yaml"
        if not path.is_file():
            raise UserError(f"{folder} holds no run (no settings.yaml there)" if folder.is_dir() else f"no such run: {folder}")
        return cls(folder, settings_from(read_yaml(path), str(path)))

    @classmethod
    def create(cls, settings: TrainingSettings, prepare: Callable[[pathlib.Path], None]) -> Run:
        """Makes the folder of a new run.

        Args:
            settings: Say where, and are written down last: a folder with a `settings.yaml` is whole.
            prepare: Fills the folder (tokenizer, tokens); if it fails, what it wrote is removed.

        Raises:
            UserError: the folder holds a run, or anything else. Nothing is overwritten.
        """
        folder = check_free(settings.folder)
        existed = folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in _unfinished(folder):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        try:
            prepare(folder)
            run = cls(folder, settings)
            with replacing(folder / "versions.json") as temporary:
                temporary.write_text(json.dumps({"format": FORMAT, **_libraries()}, indent=1) + "\n", encoding="utf-8")
            run.write_settings()
        except BaseException:
            for path in _unfinished(folder):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            if not existed:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return run

    def check_version(self) -> None:
        """Refuses a run whose folder has another form; says on stderr if the libraries are others than those it was begun with.

        Raises:
            UserError: it was begun with a version of this library that wrote another form.
        """
        path = self.folder / "versions.json"
        begun = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if begun.get("format") != FORMAT:
            version = f"keras_lm {begun['keras_lm']}" if "keras_lm" in begun else "an older keras_lm"
            raise UserError(
                f"{self.folder} was begun with {version}, whose runs cannot be resumed by {_libraries()['keras_lm']}: train anew, "
                "or go on with that version"
            )
        changed = [f"{name} {begun.get(name)} -> {version}" for name, version in _libraries().items() if begun.get(name) != version]
        if changed:
            print(
                f"begun with other versions ({', '.join(changed)}): the result may differ in the last digits", file=sys.stderr, flush=True
            )

    def write_settings(self) -> None:
        """Writes `settings.yaml`."""
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self.settings).items()}
        with replacing(self.folder / "settings.yaml") as temporary:
            temporary.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")

    def load_tokenizer(self) -> Any:
        """The run's `keras_lm.tokenizers.Tokenizer`."""
        from keras_lm import tokenizers

        return tokenizers.load(self.folder / "tokenizer")

    def load_tokens(self) -> dict[str, Any]:
        """The run's tokenized corpus: `keras_lm.pipeline.Tokens` by split."""
        from keras_lm import label_batches, parallel, pipeline

        if self.settings.reads_labels:
            return label_batches.load_labelled(self.tokens_folder)
        return (parallel.load_pair_tokens if self.settings.reads_pairs else pipeline.load_tokens)(self.tokens_folder)

    def load_labels(self) -> tuple[str, ...]:
        """The names of the labels of a run whose task has them, in the order of their numbers.

        Raises:
            UserError: the file is missing or damaged.
        """
        path = self.folder / LABELS
        try:
            return tuple(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise UserError(f"{path} is missing or damaged: copy the whole run folder, or train the run anew") from None

    @property
    def tokens_folder(self) -> pathlib.Path:
        """Where the tokenized corpus lies: in the run, or where `keras_lm-prepare` wrote it."""
        return pathlib.Path(self.settings.tokens) if self.settings.tokens else self.folder / "tokens"

    def load_pretrained(self) -> Any:
        """The model that a run with `pretrained` or `start_from` began with, a `keras.Model`."""
        return _load_model(self.folder / PRETRAINED)

    def load_model(self) -> Any:
        """The run's best model so far, a `keras.Model`.

        Raises:
            UserError: training has not come as far as its first evaluation.
        """
        path = self.folder / "model.keras"
        if not path.is_file():
            raise UserError(f"{self.folder} has no model.keras yet: let it train up to its first evaluation (--resume goes on)")
        return _load_model(path)

    def load_evaluator(self) -> Any:
        """A `keras_lm.evaluation.Evaluator` of `load_model()`, with the windows or the pairs that the run evaluates with.

        Raises:
            UserError: as `load_model`.
        """
        from keras_lm.training.data import make_evaluator

        return make_evaluator(self.settings, self.load_model())

    def make_generator(self, model: Any = None, **options: Any) -> Any:
        """A `keras_lm.generation.text.TextGenerator` of `model`, by default `load_model()`, with the run's tokenizer.

        Args:
            model: A model of the run.
            **options: As `TextGenerator` takes them.
        """
        from keras_lm.generation.text import TextGenerator

        settings = self.settings
        if not settings.writes:
            raise UserError(f"{self.folder} is a run of {settings.task}, which writes no text: keras_lm-predict says what it finds in one")
        own = {"clean": settings.clean, "documents": settings.documents}
        if settings.reads_pairs or settings.has_latent:
            own["longest_source"] = settings.sequence_length
        return TextGenerator(self.load_model() if model is None else model, self.load_tokenizer(), **own, **options)

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`, and to its table `metrics.csv`."""
        self._write_metrics([*self.read_metrics(), line])

    def _write_metrics(self, lines: list[Mapping[str, Any]]) -> None:
        with replacing(self.folder / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
        table = io.StringIO()
        writer = csv.DictWriter(table, fieldnames=dict.fromkeys(name for line in lines for name in line), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
        with replacing(self.folder / "metrics.csv") as temporary:
            temporary.write_text(table.getvalue(), encoding="utf-8")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`."""
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def append_sample(self, step: int, text: str) -> None:
        """Adds a sample text to `samples.txt`."""
        self._write_samples([*self._read_samples(), (step, f"{text}\n\n")])

    def _read_samples(self) -> list[tuple[int, str]]:
        path = self.folder / "samples.txt"
        _, *blocks = path.read_text(encoding="utf-8").split(_SAMPLE) if path.is_file() else [""]
        heads = (block.partition("\n") for block in blocks)
        return [(int(step), text) for step, _, text in heads]

    def _write_samples(self, samples: list[tuple[int, str]]) -> None:
        with replacing(self.folder / "samples.txt") as temporary:
            temporary.write_text("".join(f"{_SAMPLE}{step}\n{text}" for step, text in samples), encoding="utf-8")

    def rewind(self, step: int) -> None:
        """Drops the metrics and samples of later steps than `step`, which a resumed run writes anew, and what a killed write left."""
        for name in _WRITTEN:
            stem, _, suffix = name.rpartition(".")
            for leftover in self.folder.glob(f".{stem}-*.{suffix}"):
                leftover.unlink(missing_ok=True)
        self._write_metrics([line for line in self.read_metrics() if line["step"] <= step])
        if samples := self._read_samples():
            self._write_samples([sample for sample in samples if sample[0] <= step])


LABELS = "labels.json"
"""The names of the labels, in the folder of a run whose task has them."""

PRETRAINED = "pretrained.keras"
"""The model that a run begins with, in its folder, so that it needs the checkpoint or the other run no more."""

_WRITTEN = ("settings.yaml", "model.keras", "metrics.jsonl", "metrics.csv", "samples.txt", "curves.png")
_SAMPLE = "=== step "


def _load_model(path: pathlib.Path) -> Any:
    import keras

    import keras_lm.heads
    import keras_lm.seq2seq
    import keras_lm.vae  # noqa: F401  registers the layers that the file names

    return keras.saving.load_model(path, compile=False)


def _unfinished(folder: pathlib.Path) -> list[pathlib.Path]:
    """What a run that was killed while it was being prepared has left: all of it but `settings.yaml`, which comes last."""
    names = re.compile(
        r"tokenizer|tokens|word_vectors\.bin|pretrained\.keras|labels\.json|desensitized\.json|versions\.json|"
        r"\.(tokenizer|tokens|word_vectors|pretrained|labels|desensitized|versions|settings)-.*"
    )
    return [path for path in folder.iterdir() if names.fullmatch(path.name)]


def _libraries() -> dict[str, str]:
    """The versions that decide what a run's numbers are; known without importing anything."""
    return {name: importlib.metadata.version(name) for name in ("keras_lm", "tensorflow", "keras")}


def check_free(folder: str | os.PathLike) -> pathlib.Path:
    """Refuses a folder that a new run would overwrite.

    Raises:
        UserError: it holds a run, or anything else, or is a file.
    """
    folder = pathlib.Path(folder)
    if (folder / "settings.yaml").exists():
        raise UserError(f"{folder} already holds a run: go on with it by --resume, or choose another --out")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another --out")
    if folder.is_dir() and set(folder.iterdir()) - set(_unfinished(folder)):
        raise UserError(f"{folder} is not empty and holds no run: choose another --out")
    return folder


def check_tensorboard() -> None:
    """Refuses what would fail later.

    Raises:
        UserError: TensorBoard, whose formats `tf.summary` writes, is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UserError('--tensorboard needs TensorBoard: pip install "keras_lm[tensorboard]"')


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        UserError: no such file, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no such file: {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold 'field: value' lines")
    return values


def settings_from(values: Mapping[str, Any], source: str, **overrides: Any) -> TrainingSettings:
    """Settings from a mapping, as a recipe holds it.

    Args:
        values: Field names and values; lists stand for tuples.
        source: What messages call the mapping.
        **overrides: Fields that come on top.

    Raises:
        UserError: an unknown field (the nearest is named), or a value that is refused.
    """
    known = [field.name for field in dataclasses.fields(TrainingSettings)]
    for name in values:
        if name not in known:
            raise UserError(f"{source}: {unknown_name('field', str(name), known)}")
    cleaned = {name: _from_yaml(name, value) for name, value in values.items()}
    try:
        return TrainingSettings(**{**cleaned, **overrides})
    except UserError as error:
        raise UserError(f"{source}: {error}" if not overrides else str(error)) from None


def _from_yaml(name: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, bool) and name in CHOICES:  # YAML 1.1 reads the words on and off as truth values
        return "on" if value else "off"
    if isinstance(value, str) and name in _NUMBERS:  # and 1e-3 as text, for want of a point
        with contextlib.suppress(ValueError):
            return float(value)
    return value


_NUMBERS = {field.name for field in dataclasses.fields(TrainingSettings) if field.type == "float"}
