"""Checkpoints as the transformers library saves them, read into models of this library and written from them.

The names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {"Pretrained": "loading", "load": "loading", "save": "saving", "sentence_vectors": "sentences"}
"""Public names, and the module that each lives in."""

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'keras_lm.pretrained' has no attribute {name!r}")
    return getattr(importlib.import_module(f"keras_lm.pretrained.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC]
