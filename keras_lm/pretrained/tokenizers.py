"""The tokenizers that transformers saves beside a model. None is read yet: they are refused by name."""

from __future__ import annotations

import json
import os
import pathlib

from keras_lm.errors import UserError
from keras_lm.tokenizers import Tokenizer

_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")


def load_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """The tokenizer that transformers wrote into `folder`.

    Raises:
        UserError: always, for now: no tokenizer there, or one that is not read yet.
    """
    folder = pathlib.Path(folder)
    if not any((folder / name).is_file() for name in _FILES):
        raise UserError(f"{folder} holds no tokenizer ({', '.join(_FILES)})")
    try:
        kind = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("tokenizer_class", "a tokenizer")
    except (OSError, ValueError):
        kind = "a tokenizer"
    raise UserError(f"{folder} has {kind} of transformers, which this library does not read yet: give one of its own")
