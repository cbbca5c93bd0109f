"""A folder that the transformers library saved, as a model of this library.

Example: `load("gpt2").model` samples, is trained, exported and served as any other model is.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from keras_lm import models, tokenizers
from keras_lm.errors import UserError
from keras_lm.pretrained.architectures import ARCHITECTURES, Architecture
from keras_lm.pretrained.checkpoint import CONFIG, Checkpoint
from keras_lm.pretrained.settings import arguments
from keras_lm.pretrained.tokenizer_files import OURS
from keras_lm.pretrained.tokenizers import load_tokenizer
from keras_lm.pretrained.weights import Weight, weights
from keras_lm.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What a checkpoint holds.

    Attributes:
        model: For GPT-2, Llama and the like `(batch, time)` ids → `(batch, time, vocabulary_size)` logits; for BERT the same logits where
            the checkpoint has the head for masked tokens, otherwise the states `(batch, time, width)`.
        tokenizer: The tokenizer; `None` where the folder has none that can be read, and `no_tokenizer` says why.
        config: What `config.json` holds.
        no_tokenizer: Why there is no tokenizer.
    """

    model: keras.Model
    tokenizer: Tokenizer | None
    config: dict[str, Any]
    no_tokenizer: str = ""

    @property
    def encoder(self) -> keras.Model:
        """The model without a head for masked tokens: from ids to states `(batch, time, width)`.

        Raises:
            UserError: a model that reads from left to right.
        """
        if self.model.name == "masked_lm":
            return keras.Model(self.model.input, self.model.get_layer("head_dense").input, name="transformer_encoder")
        if self.model.name != "transformer_encoder":
            raise UserError(f"a {self.config['model_type']} model reads from left to right: it is no encoder")
        return self.model


def load(folder: str | os.PathLike, *, dropout: float | None = None, reads_types: bool = False) -> Pretrained:
    """Reads GPT-2, BERT, Llama, Mistral or StarCoder2 as `save_pretrained` of transformers writes them.

    Weights of 16 bits become float32. Nothing is downloaded, and no code in the folder is run.

    Args:
        folder: Holds `config.json`, `model.safetensors` or its shards, and the tokenizer.
        dropout: Share dropped in training; default the checkpoint's own.
        reads_types: For BERT, whether the types of tokens (first or second text) are a second input; by default all are 0.

    Raises:
        UserError: a folder without these files or with damaged ones; an architecture or a setting that is not supported; a tensor that is
            missing, left over or of another shape. The message names what it is.

    Example:

    >>> import tempfile
    >>> from keras_lm.pretrained import save
    >>> folder = tempfile.mkdtemp() + "/tiny"
    >>> _ = save(models.transformer_lm(100, context_length=16, embedding_dim=8, positions="learned"), None, folder)
    >>> load(folder).model.output_shape
    (None, None, 100)
    """
    checkpoint = Checkpoint(folder)
    path = checkpoint.folder / CONFIG
    try:
        architecture = _architecture(checkpoint.config)
        values = arguments(architecture, checkpoint.config, dropout)
        if reads_types and architecture.build is not models.transformer_encoder:
            raise UserError(f"{architecture.model_type} has no types of tokens: leave reads_types out")
        model = architecture.build(**values, **({"reads_types": True} if reads_types else {}))
    except ValueError as error:  # a UserError is one; so are the words of a layer that cannot be
        raise UserError(f"{path}: {error}") from None
    if _has_head(checkpoint):
        model = models.masked_lm(model)
    _assign(architecture, checkpoint, list(weights(architecture, model)))
    try:
        return Pretrained(model=model, tokenizer=_tokenizer(checkpoint.folder), config=checkpoint.config)
    except UserError as error:
        return Pretrained(model=model, tokenizer=None, config=checkpoint.config, no_tokenizer=str(error))


def _tokenizer(folder: pathlib.Path) -> Tokenizer:
    """Of a model that was made here, the tokenizer it was made with; otherwise what transformers wrote."""
    return tokenizers.load(folder / OURS) if (folder / OURS).is_dir() else load_tokenizer(folder)


def _architecture(config: dict[str, Any]) -> Architecture:
    known = ", ".join(ARCHITECTURES)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in ARCHITECTURES:
        raise UserError(f"model_type {kind!r} is not supported (known: {known})")
    architecture = ARCHITECTURES[kind]
    for name in config.get("architectures") or ():
        if name not in architecture.classes:
            raise UserError(f"architecture {name!r} is not supported (known for {kind}: {', '.join(architecture.classes)})")
    return architecture


def _has_head(checkpoint: Checkpoint) -> bool:
    classes = checkpoint.config.get("architectures")
    if classes:
        return bool({"BertForMaskedLM", "BertForPreTraining"} & set(classes))
    return any(name.startswith("cls.predictions.") for name in checkpoint.shapes)


def _assign(architecture: Architecture, checkpoint: Checkpoint, wanted: list[Weight]) -> None:
    """Gives each variable its tensors, once it is sure that all of them are there and no others."""
    present = {_current_name(architecture, name): name for name in checkpoint.shapes}
    bare = not any(name.startswith(architecture.prefix) for name in present)
    name_in_file = lambda name: present.get(name.removeprefix(architecture.prefix) if bare else name)
    shapes = {name: shape for weight in wanted for name, shape in weight.shapes.items()}
    missing = [name for name in shapes if name_in_file(name) is None]
    if missing:
        raise UserError(f"{checkpoint.folder} lacks {_listed(missing)}, which {architecture.model_type} needs")
    for name, shape in shapes.items():
        found = checkpoint.shapes[name_in_file(name)]
        if found != shape:
            raise UserError(f"{checkpoint.folder}: {name_in_file(name)} has the shape {found}, {CONFIG} asks for {shape}")
    used = {name_in_file(name) for name in shapes}
    tied = {f"{architecture.output}.weight": architecture.layers["embedding"] + ".weight"}
    tied[f"{architecture.output}.bias"] = f"{architecture.layers.get('head_bias')}.bias"
    for name in set(checkpoint.shapes) - used:
        twin = tied.get(name)
        if twin in shapes and not np.array_equal(checkpoint.read(name), checkpoint.read(name_in_file(twin))):
            raise UserError(f"{checkpoint.folder}: {name} is not {name_in_file(twin)}, to which {CONFIG} ties it")
        if twin in shapes or re.search(architecture.unneeded, name):
            used.add(name)
    left = sorted(set(checkpoint.shapes) - used)
    if left:
        raise UserError(f"{checkpoint.folder} has {_listed(left)}, which a {architecture.model_type} of {CONFIG} does not know")
    for weight in wanted:
        weight.assign(lambda name: checkpoint.read(name_in_file(name)))


def _current_name(architecture: Architecture, name: str) -> str:
    for old, new in architecture.renamed.items():
        if name.endswith(old):
            return name.removesuffix(old) + new
    return name


def _listed(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first} and {len(others)} more" if others else first
