"""How exports lie on disk; free of TensorFlow, so that the command line can look before it loads."""

from __future__ import annotations

import json
import os
import pathlib
import zipfile
from typing import Any

from keras_lm.errors import UserError
from keras_lm.training.run import Run

METADATA = pathlib.Path("assets.extra") / "keras_lm.json"
"""What an export says of itself, readable without loading it."""

TOKENIZER = pathlib.Path("assets.extra") / "tokenizer"
"""A copy of the tokenizer, for people and tools; the graph holds its own."""

WARMUP = pathlib.Path("assets.extra") / "tf_serving_warmup_requests"
"""What TF Serving asks a version before others may; the name is TF Serving's."""

README = pathlib.Path("assets.extra") / "README.md"
"""What a person must know to serve a version that needs more than the usual."""

_BESIDE = (".tflite", ".json", ".md", ".pbtxt", ".txt", ".config")
"""What may lie beside versions: LiteRT models and their vocabulary, notes, a server's settings."""


def versions(folder: str | os.PathLike) -> list[int]:
    """The versions in `saved_models/NAME`, as TF Serving sees them: folders whose names are numbers, smallest first."""
    folder = pathlib.Path(folder)
    return sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdigit()) if folder.is_dir() else []


def is_export(folder: str | os.PathLike) -> bool:
    """Whether `folder` is an export, or holds versions of one."""
    folder = pathlib.Path(folder)
    return (folder / "saved_model.pb").is_file() or any((folder / str(number) / "saved_model.pb").is_file() for number in versions(folder))


def find(folder: str | os.PathLike) -> tuple[pathlib.Path, dict[str, Any]]:
    """The version folder to load, the newest where `folder` holds several, and its metadata.

    Raises:
        UserError: no export of this library there.
    """
    folder = pathlib.Path(folder)
    if not (folder / "saved_model.pb").is_file():
        whole = [number for number in versions(folder) if (folder / str(number) / "saved_model.pb").is_file()]
        if not whole:
            raise UserError(f"{folder} holds no exported model" if folder.exists() else f"no such folder: {folder}")
        folder = folder / str(whole[-1])
    if not (folder / METADATA).is_file():
        raise UserError(f"{folder} is a SavedModel, but not one of keras_lm (no {METADATA})")
    return folder, json.loads((folder / METADATA).read_text(encoding="utf-8"))


def check_run(run: Run) -> None:
    """Refuses a run that cannot be exported, before anything is loaded.

    Raises:
        UserError: it has no model yet, or not all of its files are whole.
    """
    model = run.folder / "model.keras"
    if not model.is_file():
        raise UserError(f"{run.folder} has no model.keras yet: let it train up to its first evaluation (--resume goes on)")
    if not zipfile.is_zipfile(model):
        raise UserError(f"{model} is not whole (cut off in copying?): copy it again, or train the run anew")
    if not (run.folder / "tokenizer" / "tokenizer.json").is_file():
        raise UserError(f"{run.folder} holds no tokenizer/tokenizer.json: copy the whole run folder")


def check_target(folder: str | os.PathLike) -> pathlib.Path:
    """Refuses a folder that exports should not be written into; one that does not exist yet, is empty, or holds exports is good.

    Raises:
        UserError: it is a file, a version itself, or holds something else: a run, another tool's model.
    """
    folder = pathlib.Path(folder)
    if not folder.exists():
        return folder
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: choose another folder for the export")
    if (folder / "saved_model.pb").is_file():
        raise UserError(f"{folder} is one version of an export: give the folder that holds the versions, {folder.parent}")
    numbers = versions(folder)
    for number in numbers:
        if not (folder / str(number) / METADATA).is_file():
            raise UserError(
                f"{folder / str(number)} is no export of keras_lm: choose another folder, so that no model is mixed with another"
            )
    others = [
        path.name for path in sorted(folder.iterdir()) if path.name[0] != "." and path.suffix not in _BESIDE and not path.name.isdigit()
    ]
    if others and not numbers:
        raise UserError(f"{folder} holds no export but other things ({others[0]}): choose another folder")
    return folder


def flush(folder: pathlib.Path) -> None:
    """Has the disk hold every file in `folder`: what cannot be written for want of room fails here, before anybody sees it."""
    for path in sorted(folder.rglob("*"), reverse=True):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
