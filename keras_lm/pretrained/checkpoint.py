"""A checkpoint's folder on disk: `config.json`, and the tensors in `model.safetensors` or in shards of it.

Nothing else is read. The older form, `pytorch_model.bin`, is a pickle, and a pickle can run any code while it is read.

References:
    The safetensors format: https://huggingface.co/docs/safetensors.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_lm.errors import UserError
from keras_lm.files import replacing

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_OTHER_FORMS = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack")
_FLOATS = ("F64", "F32", "F16", "BF16")


class Checkpoint:
    """The settings and the tensors of a folder; a tensor is read when it is asked for.

    Args:
        folder: As `save_pretrained` of transformers writes it.

    Attributes:
        config: What `config.json` holds.
        shapes: By the name of each tensor, its shape.

    Raises:
        UserError: no such folder, a file that is missing or damaged, a checkpoint in another form than safetensors.

    Example: `Checkpoint("gpt2").shapes["wte.weight"]` is `(50257, 768)`.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = pathlib.Path(folder)
        if not self.folder.is_dir():
            what = "is a file" if self.folder.exists() else "is no folder here"
            raise UserError(f"{folder} {what}: give a folder as save_pretrained of transformers writes it (nothing is downloaded)")
        self.config: dict[str, Any] = _read_json(self.folder / CONFIG)
        self._files: dict[str, Any] = {}
        self._where: dict[str, Any] = {}
        for file in self._file_names():
            opened = self._open(file)
            self._where.update(dict.fromkeys(opened.keys(), opened))
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(file.get_slice(name).get_shape()) for name, file in sorted(self._where.items())
        }

    def read(self, name: str) -> np.ndarray:
        """The tensor called `name`, in float32.

        Raises:
            UserError: it holds no numbers of 16, 32 or 64 bits with a fraction.
        """
        kind = self._where[name].get_slice(name).get_dtype()
        if kind not in _FLOATS:
            raise UserError(f"{self.folder}: {name} is of type {kind}; {', '.join(_FLOATS)} can be read (is the checkpoint quantized?)")
        return self._where[name].get_tensor(name).astype(np.float32)

    def _file_names(self) -> list[str]:
        if (self.folder / WEIGHTS).is_file():
            return [WEIGHTS]
        if (self.folder / INDEX).is_file():
            index = _read_json(self.folder / INDEX).get("weight_map")
            if not isinstance(index, dict) or not all(isinstance(file, str) and pathlib.Path(file).name == file for file in index.values()):
                raise UserError(f"{self.folder / INDEX} is damaged: weight_map must name a file of the folder for each tensor")
            return sorted(set(index.values()))
        other = next((name for name in _OTHER_FORMS if (self.folder / name).is_file()), None)
        if other:
            kind = f"{other}, a pickle, which can run any code when it is read" if "pytorch" in other else other
            raise UserError(f"{self.folder} holds {kind}: safetensors only; save it anew with save_pretrained of transformers 5")
        raise UserError(f"{self.folder} holds no {WEIGHTS}")

    def _open(self, file: str) -> Any:
        from safetensors import SafetensorError, safe_open

        path = self.folder / file
        try:
            return safe_open(path, framework="numpy")
        except FileNotFoundError:
            raise UserError(f"{self.folder} holds no {file}, which {INDEX} names: copy the whole folder") from None
        except SafetensorError as error:
            with path.open("rb") as content:
                pickled = content.read(2) in (b"PK", b"\x80\x02", b"\x80\x04")
            reason = "it is a pickle, whatever its name says" if pickled else str(error)
            raise UserError(f"{path} is no whole safetensors file: {reason}") from None


def check_free(folder: str | os.PathLike) -> pathlib.Path:
    """Refuses a folder that holds anything: one checkpoint's files must not lie among another's.

    Raises:
        UserError: it does, or is a file.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} {'holds something already' if folder.is_dir() else 'is a file'}: choose another folder")
    return folder


def write(folder: pathlib.Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes `config.json` and `model.safetensors`, as `save_pretrained` does."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    write_json(folder / CONFIG, config)
    with replacing(folder / WEIGHTS) as temporary:  # which others may read, unlike what safetensors makes
        try:
            save_file(dict(tensors), temporary, metadata={"format": "pt"})  # transformers reads no file that does not say so
        except SafetensorError as error:
            raise UserError(f"{WEIGHTS} cannot be written: {error}") from None


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} holds no {path.name}: give a folder as save_pretrained of transformers writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} must hold an object")
    return values
