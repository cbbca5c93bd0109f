"""How exports lie on disk; free of TensorFlow, so that the command line can look before it loads."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from keras_lm.errors import UserError

METADATA = pathlib.Path("assets.extra") / "keras_lm.json"
"""What an export says of itself, readable without loading it."""

TOKENIZER = pathlib.Path("assets.extra") / "tokenizer"
"""A copy of the tokenizer, for people and tools; the graph holds its own."""


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
