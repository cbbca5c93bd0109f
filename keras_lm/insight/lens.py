"""What a model would say if it ended earlier: the next token, read off every layer (the «logit lens»).

Blocks of a Transformer add to one stream of vectors, which the last normalisation and the output matrix turn into logits. So the same two
can be applied to what stands in the stream after any block: the blocks behind it are left out, and all else runs as it does. That is how
it is done here, for any model whose blocks have outputs of the form of their inputs, its head included: a masked model, a tagger, a
classifier.

In stacked recurrent networks each layer has a language of its own, since none adds to what it reads; where the widths are equal the output
matrix can be applied to an earlier layer all the same, and the answer is mostly noise. It says how much the later layer translates.

References:
    nostalgebraist 2020, «interpreting GPT: the logit lens»; Belrose et al. 2023, «Eliciting Latent Predictions from Transformers with the
    Tuned Lens» (arXiv:2303.08112), on where the plain lens misleads: early layers, and models whose stream turns as it goes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.insight.reading import Reader
from keras_lm.layers import TransformerBlock
from keras_lm.models import call_layer, run_layers
from keras_lm.training.run import Run


@dataclasses.dataclass(frozen=True)
class LogitLens:
    """What a model says after each of its layers.

    Attributes:
        layers: Names of the layers; `embedding` stands for none, the last for the whole model.
        tokens: What stands at each position; for a classifier, which says one thing of a text, the whole of it.
        candidates: `(layers, positions, top)` names of tokens, classes or tags, the most probable first.
        probabilities: Theirs, of the same shape, float32.
        entropy: `(layers, positions)` in nats: how undecided each distribution is.
        divergence: `(layers, positions)` in nats: KL of the model's own distribution from the layer's; 0 in the last row.
    """

    layers: tuple[str, ...]
    tokens: tuple[str, ...]
    candidates: np.ndarray
    probabilities: np.ndarray
    entropy: np.ndarray
    divergence: np.ndarray


def logit_lens(subject: Run | Reader, text: str, top: int = 5) -> LogitLens:
    """The distributions that a run reads off every layer along a text.

    Args:
        subject: A trained run, or a `Reader`, of a Transformer, or of a stack of recurrent layers of equal widths.
        text: One text.
        top: How many of the most probable to name; at most as many as there are.

    Raises:
        UserError: a model without logits, one layer of which cannot be left out; a text that cannot be read (`Reader.read`).

    Example:

    >>> from keras_lm.models import transformer_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> model = transformer_lm(260, context_length=16, embedding_dim=8, num_layers=2, num_heads=2)
    >>> lens = logit_lens(Reader(model, ByteTokenizer()), "at", top=3)
    >>> lens.layers, lens.candidates.shape
    (('embedding', 'block_0', 'block_1'), (3, 3, 3))
    >>> lens.divergence[-1].tolist()
    [0.0, 0.0, 0.0]
    """
    reader = Reader.of(subject)
    reader.one_text("distributions by layer")
    model = reader.model
    if not reader.names_outputs:
        raise UserError(f"{model.name} gives no distribution over names: its attention or gates can be shown")
    if top < 1:
        raise UserError(f"top must be at least 1, got {top}")
    reading = reader.read(text)
    layers = _layers(model, tf.constant([reading.ids]))
    names, count = np.array(reader.output_names, object), min(top, len(reader.output_names))
    candidates, probabilities, entropy, divergence = [], [], [], []
    final = None
    for _, logits in reversed(layers):  # the whole model first: the others are compared with it
        log_p = tf.nn.log_softmax(tf.reshape(logits, [-1, logits.shape[-1]])).numpy()
        final = log_p if final is None else final
        best = np.argsort(-log_p, axis=-1, kind="stable")[:, :count]
        candidates.append(names[best])
        probabilities.append(np.exp(np.take_along_axis(log_p, best, axis=-1)))
        entropy.append(-np.sum(np.exp(log_p) * log_p, axis=-1))
        divergence.append(np.sum(np.exp(final) * (final - log_p), axis=-1))
    one = len(final) == 1 and len(reading.ids) > 1
    own = "".join(reading.tokens[reading.first : reading.after])
    stacked = (np.stack(rows[::-1]) for rows in (candidates, probabilities, entropy, divergence))
    return LogitLens(tuple(name for name, _ in layers), (own,) if one else reading.tokens, *stacked)


def _layers(model: keras.Model, ids: tf.Tensor) -> list[tuple[str, tf.Tensor]]:
    """By layer, what the model gives without those behind it, logits `(1, ..., names)`; the embedding, where it can be read, first."""
    blocks = [layer for layer in model.layers if isinstance(layer, TransformerBlock | keras.layers.RNN)]
    if not blocks:
        raise UserError(f"{model.name} has neither blocks nor recurrent layers that could be left out")
    widths = [layer.output.shape[-1] for layer in blocks]
    if isinstance(blocks[0], keras.layers.RNN):
        if not _is_stack(model, blocks) or len(set(widths)) > 1:
            raise UserError(
                f"{model.name} has recurrent layers that do not stand one upon the other in equal widths: none can be left out, "
                "so its layers give no distributions; gates and attributions can be shown"
            )
        embedded = blocks[0].input.shape[-1] == widths[0]
    else:
        embedded = True
    if len(blocks) == 1 and not embedded:
        raise UserError(
            f"{model.name} has one recurrent layer, of another width ({widths[0]}) than its embedding: there is no earlier layer to read "
            "from; gates and attributions can be shown"
        )
    runs = [(blocks[number].name, _cut(model, ids, blocks[number + 1 :])) for number in range(len(blocks))]
    return [("embedding", _cut(model, ids, blocks)), *runs] if embedded else runs


def _is_stack(model: keras.Model, blocks: list[keras.Layer]) -> bool:
    """Whether each recurrent layer reads what the one before gave, dropout between them not counted."""
    inside = model.layers[model.layers.index(blocks[0]) : model.layers.index(blocks[-1]) + 1]
    return all(isinstance(layer, keras.layers.RNN | keras.layers.Dropout) for layer in inside)


def _cut(model: keras.Model, ids: tf.Tensor, left_out: list[keras.Layer]) -> tf.Tensor:
    """The model without dropout and without these layers, each of which hands on what it is given."""

    def replace(layer: keras.Operation) -> Callable:
        def called(*inputs: Any, **kwargs: Any) -> Any:
            if any(layer is one for one in left_out):
                return inputs[0]
            return call_layer(layer, inputs, kwargs, training=False)

        return called

    return tf.cast(run_layers(model, ids, replace), tf.float32)
