"""A run is a folder: `settings.yaml`, `tokenizer/`, `tokens/`, `model.keras`, `checkpoints/`, `metrics.jsonl`, `samples.txt`, `curves.png`.

Everything downstream takes that folder: generation, evaluation, export, a notebook.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from keras_lm.errors import UserError, unknown_name
from keras_lm.files import replacing
from keras_lm.training.settings import CHOICES, TrainingSettings


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
        for leftover in ("tokenizer", "tokens"):  # of a run that was killed while it was being prepared
            shutil.rmtree(folder / leftover, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            prepare(folder)
            run = cls(folder, settings)
            run.write_settings()
        except BaseException:
            for path in folder.iterdir() if existed else ():
                shutil.rmtree(path, ignore_errors=True)
            if not existed:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        return run

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
        from keras_lm import pipeline

        return pipeline.load_tokens(self.folder / "tokens")

    def load_model(self) -> Any:
        """The run's best model so far, a `keras.Model`.

        Raises:
            UserError: training has not come as far as its first evaluation.
        """
        path = self.folder / "model.keras"
        if not path.is_file():
            raise UserError(f"{self.folder} has no model.keras yet: let it train up to its first evaluation (--resume goes on)")
        import keras

        import keras_lm.layers  # noqa: F401  registers the layers that the file names

        return keras.saving.load_model(path, compile=False)

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Adds a line to `metrics.jsonl`."""
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`; one that was cut off in writing is left out."""
        path = self.folder / "metrics.jsonl"
        lines = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return lines

    def append_sample(self, step: int, text: str) -> None:
        """Adds a sample text to `samples.txt`."""
        with (self.folder / "samples.txt").open("a", encoding="utf-8") as file:
            file.write(f"{_SAMPLE}{step}\n{text}\n\n")

    def rewind(self, step: int) -> None:
        """Drops the metrics and samples of later steps than `step`, which a resumed run writes anew."""
        lines = [json.dumps(line, ensure_ascii=False) + "\n" for line in self.read_metrics() if line["step"] <= step]
        with replacing(self.folder / "metrics.jsonl") as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        samples = self.folder / "samples.txt"
        if samples.is_file():
            _, *blocks = samples.read_text(encoding="utf-8").split(_SAMPLE)
            kept = [_SAMPLE + block for block in blocks if int(block.partition("\n")[0]) <= step]
            with replacing(samples) as temporary:
                temporary.write_text("".join(kept), encoding="utf-8")


_SAMPLE = "=== step "


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
    if folder.is_dir() and {path.name for path in folder.iterdir()} - {"tokenizer", "tokens"}:
        raise UserError(f"{folder} is not empty and holds no run: choose another --out")
    return folder


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
