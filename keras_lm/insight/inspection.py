"""All that can be seen of one text inside a run, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_lm.errors import UserError, unknown_name
from keras_lm.insight.attention import attention_maps, inference_steps
from keras_lm.insight.attributions import Attributions, attributions
from keras_lm.insight.gates import GateActivations, all_gate_activations
from keras_lm.insight.lens import LogitLens, logit_lens
from keras_lm.insight.reading import Reader
from keras_lm.models import encoder_of
from keras_lm.training.run import Run


@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """Where the heads of one attention look.

    Attributes:
        name: As `keras_lm.insight.attention.attention_maps` calls it.
        queries: The tokens that look.
        keys: The tokens looked at.
        weights: `(heads, queries, keys)` float32; each row sums to 1.
    """

    name: str
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    weights: np.ndarray


def text_attention(subject: Run | Reader, text: str) -> list[AttentionMap]:
    """Where every attention of a run looks in a text, in the order of the layers.

    Args:
        subject: A trained run, or a `Reader`, of a Transformer or of an encoder-decoder; the latter writes for the text what it finds
            best, and its decoder is shown along that.
        text: One text.

    Raises:
        UserError: a model without attention; the message says what can be shown. A text that cannot be read (`Reader.read`).

    Example:

    >>> from keras_lm.models import transformer_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> model = transformer_lm(260, context_length=16, embedding_dim=8, num_layers=1, num_heads=2)
    >>> [(found.name, found.keys, found.weights.shape) for found in text_attention(Reader(model, ByteTokenizer()), "at")]
    [('block_0/attention', ('<s>', 'a', 't'), (2, 3, 3))]
    """
    reader = Reader.of(subject)
    if encoder_of(reader.model) is not None:
        return _pair_attention(reader, text)
    reading = reader.read(text)
    try:
        found = attention_maps(reader.model, [list(reading.ids)])
    except UserError as error:
        raise UserError(f"{error}: gates and attributions can be shown") from None
    return [AttentionMap(name, reading.tokens, reading.tokens, weights[0]) for name, weights in found.items()]


def _pair_attention(reader: Reader, text: str) -> list[AttentionMap]:
    reader.read(text)  # refuses what is too long, and says how much fits
    inference = inference_steps(reader.model, reader.tokenizer, reader.cleaned(text))
    source, target = tuple(inference.source_tokens), tuple(inference.target_tokens)
    maps = []
    for name, weights in inference.weights.items():
        over_itself = name.startswith("decoder") and name.endswith("/attention")
        maps.append(AttentionMap(name, source if name.startswith("encoder") else target, target if over_itself else source, weights))
    return maps


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was seen of a text.

    Attributes:
        text: The text.
        classifies: Whether the model is a classifier.
        writes: Whether it says at each position which token is next.
        attention, gates, attributions, lens: What `text_attention`, `all_gate_activations`, `attributions` and `logit_lens` give; `None`
            where that was not asked for, or the model has none.
        missing: By the name of such a part, why it has none.
    """

    text: str
    classifies: bool
    writes: bool
    attention: Sequence[AttentionMap] | None
    gates: Sequence[GateActivations] | None
    attributions: Attributions | None
    lens: LogitLens | None
    missing: Mapping[str, str]


PARTS: Mapping[str, Callable[[Reader, str, str | None], Any]] = {
    "attributions": attributions,
    "lens": lambda reader, text, _: logit_lens(reader, text),
    "attention": lambda reader, text, _: text_attention(reader, text),
    "gates": lambda reader, text, _: all_gate_activations(reader, text),
}
"""What can be shown, by name."""


def inspect_text(subject: Run | Reader, text: str, *, target: str | None = None, show: Sequence[str] | None = None) -> Inspection:
    """All that can be seen of a text inside a run.

    Args:
        subject: A trained run, or a `Reader`.
        text: One text.
        target: What the attributions explain, as `attributions` takes it.
        show: The parts wanted, of `PARTS`, each of which must be there. Default all that the model has; for the others it is said why not.

    Raises:
        UserError: a text that cannot be read, a target that is none, a part that is unknown, or one asked for that the model has not.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> found = inspect_text(Reader(gru_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer()), "at")
    >>> list(found.missing)
    ['attention']
    """
    reader = Reader.of(subject)
    reader.read(text)
    parts: dict[str, Any] = dict.fromkeys(PARTS)
    missing: dict[str, str] = {}
    for name in PARTS if show is None else show:
        if name not in PARTS:
            raise unknown_name("part", name, PARTS)
        try:
            parts[name] = PARTS[name](reader, text, target)
        except UserError as error:
            if show is not None or (name == "attributions" and target is not None):
                raise
            missing[name] = str(error)
    return Inspection(text, reader.model.name == "classifier", reader.writes, missing=missing, **parts)
