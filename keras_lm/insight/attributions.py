"""Which tokens of a text speak for what a model says: integrated gradients, and leaving tokens out.

What is explained is a score. Of a language model it is ln P(target | text), the target being the token asked for, by default the most
probable one that may be written; of a classifier the log-odds of a class, ln P/(1 - P), which unlike ln P still moves where the model is
sure.

Integrated gradients go from a baseline to the text and sum up what each token's vector adds to the score on the way. The baseline has a
vector of zeros for each token of the text; start and end, which are no part of what was said, keep theirs. What is summed up must be the
difference of the two scores (completeness), and that holds for any piece of the way too. So the quadrature checks itself: a piece whose
sum misses the difference of the scores at its ends is halved. Models that normalise their input need that, as nearly all of the score is
decided close to the baseline.

Leaving a token out is reading the text without it: what follows moves up. A difference, not a slope: where two tokens say the same, neither
counts, while integrated gradients share it between them.

References:
    Sundararajan, Taly and Yan 2017, «Axiomatic Attribution for Deep Networks» (arXiv:1703.01365). Li, Monroe and Jurafsky 2016,
    «Understanding Neural Networks through Representation Erasure» (arXiv:1612.08220). Atanasova et al. 2020 (arXiv:2009.13295): the two
    disagree often, and neither is the truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError, unknown_name
from keras_lm.insight.reading import Reader, Reading
from keras_lm.models import call_layer, run_layers
from keras_lm.ngram_logits import NgramLogits
from keras_lm.recurrent import run_model
from keras_lm.similar import spearman
from keras_lm.training.run import Run

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
_ROWS = 32  # points of the path, or texts, read at a time

ValueAndGradient = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From points `(points, tokens, embedding_dim)` to their scores `(points,)` and the gradients of these."""


class PathIntegral(NamedTuple):
    """What `integrate` gives.

    Args:
        attributions: `(tokens,)`: what each token's vector adds to the score between baseline and text.
        baseline_score, score: At the two ends.
        gap: The sum of the attributions less the difference of the scores: what the quadrature missed.
        gradients: How many were computed.
    """

    attributions: np.ndarray
    baseline_score: float
    score: float
    gap: float
    gradients: int


@dataclasses.dataclass(frozen=True)
class Attributions:
    """What each token of a text counts for.

    Attributes:
        tokens: The text's own, without start and end.
        target: The token or the class whose score is explained.
        alternatives: The five most probable tokens or classes with their probabilities, best first.
        score: Of the text: ln P(target) of a language model, log-odds of a classifier.
        baseline_score: The same where each token of the text is a vector of zeros.
        integrated: `(tokens,)` float32: integrated gradients. They sum to `score - baseline_score + gap`.
        gap: How far from complete they are.
        gradients: How many were computed for them.
        left_out: `(tokens,)` float32: the score less that of the text without the token.
        correlation: Spearman's, of the two; `None` where there is none (two tokens at least, and SciPy, are needed).
    """

    tokens: tuple[str, ...]
    target: str
    alternatives: tuple[tuple[str, float], ...]
    score: float
    baseline_score: float
    integrated: np.ndarray
    gap: float
    gradients: int
    left_out: np.ndarray
    correlation: float | None


def attributions(subject: Run | Reader, text: str, target: str | None = None, *, tolerance: float = 1e-3) -> Attributions:
    """What the tokens of a text count for, by both methods.

    Args:
        subject: A trained run, or a `Reader`, of a language model or a classifier.
        text: One text; of a language model it is explained what comes next.
        target: A class, or a text of one token. Default the most probable.
        tolerance: How far the integrated gradients may be from complete, in nats.

    Raises:
        UserError: a run of another task; no such class, or a target of more than one token; a text that cannot be read (`Reader.read`).

    Example:

    >>> from keras_lm.models import gru_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> found = attributions(Reader(gru_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer()), "at", "e")
    >>> found.tokens, found.target
    (('a', 't'), 'e')
    >>> bool(abs(found.integrated.sum() - (found.score - found.baseline_score)) < 1e-3)
    True
    """
    reader = Reader.of(subject)
    reading, explained = reader.read(text), _Explained(reader)
    if any(isinstance(layer, NgramLogits) for layer in reader.model.layers):
        raise UserError("what runs of tokens say by themselves (ngrams) has no gradient: leave_one_out takes any classifier")
    probabilities = explained.probabilities(reading)
    number = explained.target(target, probabilities)
    path = integrate(*_path(explained, reading, number), tolerance=tolerance)
    left_out = _left_out(explained, reading, number)
    own = slice(reading.first, reading.after)
    integrated = path.attributions[own].astype(np.float32)
    names = reader.output_names
    best = np.argsort(-probabilities, kind="stable")[:5]
    return Attributions(
        tokens=reading.tokens[own],
        target=names[number],
        alternatives=tuple((names[one], float(probabilities[one])) for one in best),
        score=path.score,
        baseline_score=path.baseline_score,
        integrated=integrated,
        gap=path.gap,
        gradients=path.gradients,
        left_out=left_out,
        correlation=_correlation(integrated, left_out),
    )


def leave_one_out(subject: Run | Reader, text: str, target: str | None = None) -> np.ndarray:
    """The score of a text less that without each of its tokens, `(tokens,)` float32; arguments and errors as in `attributions`."""
    reader = Reader.of(subject)
    reading, explained = reader.read(text), _Explained(reader)
    return _left_out(explained, reading, explained.target(target, explained.probabilities(reading)))


def integrate(
    value_and_gradient: ValueAndGradient, inputs: np.ndarray, baseline: np.ndarray, *, tolerance: float = 1e-3, most: int = 8192
) -> PathIntegral:
    """Integrated gradients of any score of vectors, by Gauss-Legendre quadrature in pieces that are halved until they are complete.

    Args:
        value_and_gradient: Gives scores and their gradients.
        inputs: `(tokens, embedding_dim)`: the end of the path.
        baseline: The same: its beginning.
        tolerance: At most what the pieces miss, added up without their signs.
        most: Gradients after which it ends all the same; the gap says how far it came.

    Returns:
        A `PathIntegral`.

    Example: of a linear score w·x each token has its own share, w·(x - x').

    >>> weights = np.array([[1.0, 2.0], [3.0, 0.0]])
    >>> linear = lambda x: ((x * weights).sum(axis=(1, 2)), np.broadcast_to(weights, x.shape))
    >>> found = integrate(linear, np.array([[1.0, 1.0], [2.0, 5.0]]), np.zeros([2, 2]))
    >>> found.attributions.round(6).tolist(), found.gradients
    ([3.0, 6.0], 10)
    """
    way = np.asarray(inputs, np.float64) - baseline
    ends = {}  # scores at the ends of pieces
    pieces: dict[tuple[float, float], tuple[np.ndarray, float]] = {}  # attributions of each, and what they miss
    waiting, gradients = [(0.0, 1.0)], 0
    while waiting:
        new_ends = sorted({place for piece in waiting for place in piece} - ends.keys())
        nodes = [0.5 * (first + last) + 0.5 * (last - first) * node for first, last in waiting for node in _NODES]
        places = np.array([*new_ends, *nodes])
        values, slopes = value_and_gradient((baseline + places[:, None, None] * way).astype(np.float32))
        gradients += len(places)
        ends |= dict(zip(new_ends, np.asarray(values, np.float64)[: len(new_ends)].tolist(), strict=True))
        along = (np.asarray(slopes, np.float64)[len(new_ends) :] * way).sum(axis=-1).reshape(len(waiting), len(_NODES), -1)
        for (first, last), rows in zip(waiting, along, strict=True):
            share = 0.5 * (last - first) * (_WEIGHTS @ rows)
            pieces[first, last] = share, abs(share.sum() - (ends[last] - ends[first]))
        missed = sum(miss for _, miss in pieces.values())
        if missed <= tolerance or gradients >= most:
            break
        halved = [piece for piece, (_, miss) in pieces.items() if miss > tolerance / (2 * len(pieces))]
        waiting = [half for first, last in halved for half in ((first, 0.5 * (first + last)), (0.5 * (first + last), last))]
        for piece in halved:
            del pieces[piece]
    total = sum(share for share, _ in pieces.values())
    return PathIntegral(total, ends[0.0], ends[1.0], float(total.sum() - (ends[1.0] - ends[0.0])), gradients)


class _Explained:
    """The score of a model: what it takes, and of which of its logits it is made."""

    def __init__(self, reader: Reader):
        reader.one_text("attributions")
        self.reader = reader
        self.classifies = reader.model.name == "classifier"
        if not (self.classifies or reader.writes):
            raise UserError(f"attributions are of language models and classifiers: {reader.model.name} can show its layers")

    def logits(self, outputs: tf.Tensor) -> tf.Tensor:
        """`(batch, names)` float32: of the class, or of the token behind the text."""
        return tf.cast(outputs if self.classifies else outputs[:, -1], tf.float32)

    def score(self, outputs: tf.Tensor, number: int) -> tf.Tensor:
        """`(batch,)`."""
        log_p = tf.nn.log_softmax(self.logits(outputs))
        if not self.classifies:
            return log_p[:, number]
        others = tf.concat([log_p[:, :number], log_p[:, number + 1 :]], axis=1)
        return log_p[:, number] - tf.reduce_logsumexp(others, axis=1)

    def probabilities(self, reading: Reading) -> np.ndarray:
        return tf.nn.softmax(self.logits(run_model(self.reader.model, tf.constant([reading.ids]))))[0].numpy()

    def target(self, target: str | None, probabilities: np.ndarray) -> int:
        """The number of the class or the token that is meant."""
        reader = self.reader
        if target is None:
            allowed = probabilities.copy()
            if not self.classifies:
                allowed[list(reader.tokenizer.never)] = -1
            return int(allowed.argmax())
        if self.classifies:
            if target not in reader.classes:
                raise unknown_name("class", target, reader.classes)
            return reader.classes.index(target)
        ids = reader.tokenizer.tokenize(tf.constant([target])).to_list()[0]
        if target in reader.token_names and (len(ids) != 1 or ids[0] == reader.tokenizer.unknown_id):
            return reader.token_names.index(target)  # the end token has a name, and no text
        if len(ids) != 1 or ids[0] == reader.tokenizer.unknown_id:
            described = "is unknown to" if ids == [reader.tokenizer.unknown_id] else f"is {len(ids)} tokens of"
            raise UserError(f"the target {target!r} {described} this tokenizer: give one token, as the model writes one after the other")
        return ids[0]


def _path(explained: _Explained, reading: Reading, number: int) -> tuple[ValueAndGradient, np.ndarray, np.ndarray]:
    """The arguments of `integrate`."""
    model = explained.reader.model
    (vectors,) = _through(model, tf.constant([reading.ids]), None)[1]
    inputs = tf.cast(vectors[0], tf.float32).numpy()
    baseline = inputs.copy()
    baseline[reading.first : reading.after] = 0
    ids = tf.tile(tf.constant([reading.ids]), [_ROWS, 1])

    @tf.function(autograph=False, jit_compile=False)
    def run(points: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(points)
            scores = explained.score(_through(model, ids, points)[0], number)
        return scores, tape.gradient(scores, points)  # rows do not meet

    def value_and_gradient(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for part in _chunks(points):
            rows = np.concatenate([part, np.repeat(part[-1:], _ROWS - len(part), axis=0)])  # one shape, one graph
            parts.append([tensor.numpy()[: len(part)] for tensor in run(tf.constant(rows))])
        values, gradients = zip(*parts, strict=True)
        return np.concatenate(values), np.concatenate(gradients)

    return value_and_gradient, inputs, baseline


def _through(model: keras.Model, ids: tf.Tensor, points: tf.Tensor | None) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """What a model gives, without dropout, if these are the vectors of its tokens; `None`: their own. And the vectors."""
    vectors: list[tf.Tensor] = []

    def replace(layer: keras.Operation) -> Callable:
        def called(*inputs: Any, **kwargs: Any) -> Any:
            if isinstance(layer, keras.layers.Embedding) and not vectors:
                vectors.append(layer(*inputs) if points is None else tf.cast(points, layer.compute_dtype))
                return vectors[0]
            return call_layer(layer, inputs, kwargs, training=False)

        return called

    outputs = run_layers(model, ids, replace)
    if not vectors:
        raise UserError(f"{model.name} has no Embedding layer, so its tokens have no vectors")
    return outputs, vectors


def _left_out(explained: _Explained, reading: Reading, number: int) -> np.ndarray:
    if len(reading.ids) == 1:
        raise UserError("without its one token there is nothing left to read: give at least two")
    model = explained.reader.model
    score = lambda rows: explained.score(run_model(model, tf.constant(rows, tf.int32)), number).numpy()
    without = np.array([[*reading.ids[:place], *reading.ids[place + 1 :]] for place in range(reading.first, reading.after)])
    whole = score([reading.ids])[0]
    return whole - np.concatenate([score(part) for part in _chunks(without)])


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS))


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    try:
        return spearman(one, other)
    except UserError:
        return None
