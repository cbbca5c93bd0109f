"""A run as a LiteRT bundle (formerly TensorFlow Lite): one file of builtin ops that any LiteRT client runs, and one that says how.

    FOLDER/model.tflite           float32
    FOLDER/model-float16.tflite   half the size
    FOLDER/model-int8.tflite      a quarter
    FOLDER/vocabulary.json        for all of them

What goes into a model and comes out is written in `keras_lm.generation.litert_convert`. `vocabulary.json` holds:

- `context_length` (null: unbounded), `vocabulary_size`, `special` (the ids of padding, unknown, start and end), `documents` (whether a
  prompt begins with the start token; an empty one always does), `chunk` (the tokens that `prefill` reads; null: there is no `prefill`);
- `memory`: the inputs that keep what was read, each `name`, `kind` and `sizes` as in `litert_runtime.Memory`, in the order of the columns
  of `rows`: `heads * head_dim` or `units` columns each;
- `text`: the tokenizer's `kind` with its `vocabulary` (what ids from 4 on write: `▁` for the space and `##` inside a word in WordPiece) or
  SentencePiece `model` in base64, the `clean`ers, and `classes` of code points as ranges;
- `defaults` (the knobs), `model`, `parameters`, `settings`, `metrics`, `versions`.

A client reads a prompt but its last token by `prefill` (what is behind the text in the last chunk is ignored) or `decode`, then token after
token by `decode`, and each time writes the rows into slot number `position` of the caches and 0 there into the mask. With few ids, `decode`
can choose the tokens as well (`litert_convert.FEW_IDS`).
`keras_lm.export.tflite_generator` is such a client.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError, unknown_name
from keras_lm.export.saved_model import default_settings
from keras_lm.export.tflite_generator import FORMAT, SUFFIX, VOCABULARY
from keras_lm.files import replacing
from keras_lm.generation.litert_convert import PRECISIONS, convert, memories
from keras_lm.generation.numpy_filters import KNOBS
from keras_lm.generation.state import Decoder
from keras_lm.models import encoder_of
from keras_lm.tokenizers import TOKENIZERS, Tokenizer
from keras_lm.training.run import Run

_CHUNK = 32  # tokens of a prompt that are read at a time
_SLOTS = 256  # of the caches as the file declares them, where nothing bounds the context


def export_tflite(run: Run, folder: str | os.PathLike | None = None, quantize: str | None = None) -> pathlib.Path:
    """Exports the best model of a run for LiteRT.

    Args:
        run: The run.
        folder: Where the files go; default the run's own `export` setting. Files of the same names are replaced.
        quantize: `"float16"` or `"int8"`; default float32.

    Returns:
        The `.tflite` written.

    Raises:
        UserError: no such precision.
    """
    best = min(run.read_metrics(), key=lambda line: line["val_loss"], default={})
    return export_lite_model(
        run.load_model(),
        run.load_tokenizer(),
        folder or run.settings.export,
        quantize=quantize,
        clean=run.settings.clean,
        documents=run.settings.documents,
        settings=dataclasses.asdict(run.settings),
        metrics=best,
    )


def export_lite_model(
    model: keras.Model,
    tokenizer: Tokenizer,
    folder: str | os.PathLike,
    *,
    quantize: str | None = None,
    clean: Sequence[str] = (),
    documents: bool = True,
    settings: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> pathlib.Path:
    """Writes a model for LiteRT, and the vocabulary beside it; each file appears whole or not at all.

    Args:
        model: A causal model from ids to logits.
        tokenizer: The one it was trained with.
        folder: `saved_models/NAME`; beside versions of a SavedModel the files do no harm.
        quantize: `"float16"` or `"int8"`; default float32.
        clean, documents: As in `keras_lm.generation.text.TextGenerator`.
        settings: The run's settings, for the metadata.
        metrics: The run's validation result, for the metadata.

    Returns:
        The `.tflite` written.

    Raises:
        UserError: no such precision; an encoder-decoder; a tokenizer that came with a checkpoint.

    Example:

    >>> import tempfile
    >>> from keras_lm.models import gru_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> path = export_lite_model(gru_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer(), tempfile.mkdtemp(), quantize="int8")
    >>> path.name, sorted(file.name for file in path.parent.iterdir())
    ('model-int8.tflite', ['model-int8.tflite', 'vocabulary.json'])
    """
    if encoder_of(model) is not None:
        raise UserError("a LiteRT file takes language models alone: an encoder-decoder is exported as a SavedModel")
    if tokenizer.kind not in TOKENIZERS:
        raise UserError(f"a LiteRT file takes no {tokenizer.kind} tokenizer: a model with it is exported as a SavedModel")
    if quantize not in (None, *PRECISIONS):
        raise unknown_name("quantize", quantize, PRECISIONS)
    folder, decoder = pathlib.Path(folder), Decoder(model)
    context = decoder.context_length
    kept, defaults = memories(model), default_settings(decoder)
    chunk = min(_CHUNK, context) if context and all(entry.kind != "state" for entry in kept) else None
    content = convert(model, slots=context or _SLOTS, chunk=chunk, precision=quantize or "float32")
    metadata = {
        "format": FORMAT,
        "model": model.name,
        "parameters": model.count_params(),
        "context_length": context,
        "vocabulary_size": tokenizer.vocabulary_size,
        "special": {name: getattr(tokenizer, f"{name}_id") for name in ("pad", "unknown", "start", "end")},
        "documents": documents,
        "chunk": chunk,
        "memory": [dataclasses.asdict(entry) for entry in kept],
        "defaults": {name: getattr(defaults, name) for name in KNOBS},
        "settings": settings or {},
        "metrics": metrics or {},
        "versions": {name: importlib.metadata.version(name) for name in ("keras_lm", "tensorflow", "keras")},
        "text": describe_text(tokenizer, clean),
    }
    path = folder / f"model{'' if quantize in (None, 'float32') else f'-{quantize}'}{SUFFIX}"
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    with replacing(folder / VOCABULARY) as temporary:
        temporary.write_text(json.dumps(metadata, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def describe_text(tokenizer: Tokenizer, clean: Sequence[str]) -> dict[str, Any]:
    """What `keras_lm.text_codec.TextCodec` needs to do what the tokenizer and the cleaners do.

    Example:

    >>> from keras_lm.tokenizers import CharacterTokenizer
    >>> describe_text(CharacterTokenizer(["a"]), ["lower"])
    {'kind': 'char', 'vocabulary': ['a'], 'clean': ['lower'], 'classes': {}}
    """
    result: dict[str, Any] = {"kind": tokenizer.kind}
    if tokenizer.kind in ("sentencepiece", "word"):
        result["model"] = base64.b64encode(tokenizer._model).decode()
    elif hasattr(tokenizer, "vocabulary"):
        result["vocabulary"] = list(tokenizer.vocabulary)
    needed = [*clean, tokenizer.kind]
    return {**result, "clean": list(clean), "classes": {name: _ranges(_CLASSES[name]) for kind in needed for name in _NEEDS.get(kind, ())}}


_CLASSES = {
    "blank": r"\p{Zs}",
    "format": r"\p{Cf}",
    "letter": r"[^\s\p{N}\p{P}\p{S}\p{Han}\p{Hiragana}\p{Katakana}]",
    "digit": r"\p{N}",
}
"""As `keras_lm.cleaning` and the words of `WordPieceTokenizer` have them."""

_NEEDS = {"control": ("format",), "whitespace": ("blank",), "wordpiece": ("letter", "digit")}


def _ranges(pattern: str) -> list[list[int]]:
    """The code points that match, as TensorFlow's regular expressions know them: first and last of each run."""
    code_points = np.array([number for number in range(0x110000) if not 0xD800 <= number < 0xE000])
    matches = tf.strings.regex_full_match(tf.strings.unicode_encode(code_points[:, None].astype(np.int32), "UTF-8"), pattern).numpy()
    found = code_points[matches]
    ends = np.flatnonzero(np.diff(found) > 1)
    return np.stack([np.concatenate([found[:1], found[ends + 1]]), np.concatenate([found[ends], found[-1:]])], axis=1).tolist()
