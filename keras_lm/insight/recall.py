"""Associative recall over distance: a pair of key and value is shown, and some steps later the key is asked for its value.

Which value goes with which key is drawn anew in every sequence, so nothing can be learnt by heart: the answer stands in the context and
nowhere else. A recurrent network has to hold all pairs in a state of fixed size; a Transformer can look them up where they stand.

A pair is one token, a question another, and the answer is the pair once more: `k3=1 k0=2 k3? k3=1`. With key and value as two tokens, as
in the multi-query recall of «Zoology», a network has first to learn to join neighbours, which a Transformer of two blocks had not done
after 2000 steps; here the question is memory alone.

References:
    Article A4 §2.2 (attention, long distances). Graves, Wayne and Danihelka 2014, arXiv:1410.5401, §4.3. Ba et al. 2016,
    arXiv:1610.06258, §4.1. Arora et al. 2023, «Zoology», arXiv:2312.04927.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm import models
from keras_lm.errors import UserError, unknown_name
from keras_lm.recurrent import run_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecallTask:
    """Sequences of key-value pairs in which keys are asked for at known distances.

    Ids: `key * num_values + value` for a pair, then one for each question, then one for a blank.

    Args:
        num_keys: Number of keys, which is also the largest number of pairs in a sequence.
        num_values: Number of values; a guess is right once in as many.
        length: Tokens of a training sequence.
        max_distance: Steps between a pair and its question in training: from 1 to this many, evenly.

    Raises:
        UserError: a size that leaves no room, e.g. a distance beyond the sequence.

    Example:

    >>> task = RecallTask(num_keys=6, num_values=3, length=14, max_distance=4)
    >>> ids, distances = task.sequences(1, seed=5)
    >>> print(task.describe(ids[0]))
    k4=1 k3=1 k5=0 k2=0 k4? k4=1 k2? k2=0 k0=0 k1=0 k0? k0=0 k1? k1=0
    >>> distances.tolist()
    [[0, 0, 0, 0, 4, 0, 3, 0, 0, 0, 2, 0, 3, 0]]
    """

    num_keys: int = 24
    num_values: int = 4
    length: int = 48
    max_distance: int = 24

    def __post_init__(self) -> None:
        for name, low in (("num_keys", 1), ("num_values", 2), ("length", 3), ("max_distance", 1)):
            if getattr(self, name) < low:
                raise UserError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if self.max_distance > self.length - 2:
            raise UserError(
                f"max_distance must be at most {self.length - 2} in {self.length} tokens (a pair before, an answer after), "
                f"got {self.max_distance}"
            )

    @property
    def vocabulary_size(self) -> int:
        """Pairs, questions and the blank."""
        return self.num_keys * self.num_values + self.num_keys + 1

    def sequences(self, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequences for training: pairs, and questions among them, each key shown once and asked at most once.

        Args:
            count: How many.
            seed: The same seed gives the same sequences.

        Returns:
            Ids `(count, length)` int32, and of the same shape the distance of each question to its pair, 0 where none is asked.
        """
        rng, rows = np.random.default_rng(seed), np.arange(count)
        keys = np.argsort(rng.random([count, self.num_keys]), axis=1)  # (count, num_keys): by the order in which they are shown
        pairs = keys * self.num_values + rng.integers(self.num_values, size=keys.shape)
        ids = np.full([count, self.length], self.vocabulary_size - 1)
        distances = np.zeros([count, self.length], np.int32)
        open_pair = np.full([count, self.length], -1)  # the number of the pair shown at a place, until it is asked
        num_shown, asked = np.zeros(count, int), np.full(count, -1)
        for place in range(self.length):
            distance = rng.integers(1, self.max_distance + 1, size=count)
            at = np.maximum(place - distance, 0)
            pair = open_pair[rows, at]
            free = asked < 0
            ask = free & (place >= distance) & (pair >= 0) & ((rng.random(count) < _ASK) | (num_shown == self.num_keys))
            show = free & ~ask & (num_shown < self.num_keys)
            ids[~free, place] = pairs[rows, asked][~free]
            ids[ask, place] = self._question(keys[rows, pair][ask])
            distances[ask, place] = distance[ask]
            open_pair[rows[ask], at[ask]] = -1
            ids[show, place] = pairs[rows[show], num_shown[show]]
            open_pair[show, place] = num_shown[show]
            num_shown += show
            asked = np.where(ask, pair, -1)
        return ids.astype(np.int32), distances

    def questions(self, count: int, distance: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Sequences for a test: all keys are shown, then one is asked. Only which one depends on the distance, not how many there are.

        Every value stands there equally often, so that to answer with a frequent one helps nothing.

        Args:
            count: How many.
            distance: Steps from the pair to the question: 1 is the last pair, `num_keys` the first.
            seed: The same seed gives the same pairs, whatever the distance.

        Returns:
            Ids `(count, num_keys + 1)` int32, the question last, and answers `(count,)` int32.

        Raises:
            UserError: a distance beyond the first pair.
        """
        if not 1 <= distance <= self.num_keys:
            raise UserError(f"distance must be from 1 to {self.num_keys}, the number of keys, got {distance}")
        rng = np.random.default_rng(seed)
        keys = np.argsort(rng.random([count, self.num_keys]), axis=1)
        values = rng.permuted(np.tile(np.arange(self.num_keys) % self.num_values, [count, 1]), axis=1)
        pairs = keys * self.num_values + values
        ids = np.concatenate([pairs, self._question(keys[:, [-distance]])], axis=1)
        return ids.astype(np.int32), pairs[:, -distance].astype(np.int32)

    def describe(self, ids: Sequence[int]) -> str:
        """A sequence in a form that can be read: `k3=1` a pair, `k3?` a question, `_` a blank."""
        return " ".join(map(self._name, map(int, ids)))

    def _question(self, key: np.ndarray) -> np.ndarray:
        return self.num_keys * self.num_values + key

    def _name(self, token: int) -> str:
        if token == self.vocabulary_size - 1:
            return "_"
        key = token - self.num_keys * self.num_values
        return f"k{key}?" if key >= 0 else f"k{token // self.num_values}={token % self.num_values}"


_ASK = 0.4  # how often a key is asked where one may be: with more, too few pairs are open at a time


def recall_model(kind: str, task: RecallTask, parameters: int, seed: int = 0) -> keras.Model:
    """One of the four language models with as many parameters as the others.

    Args:
        kind: `simple_rnn`, `lstm` or `gru`, of one layer; or `transformer`, of two blocks. Vectors are 64 wide.
        task: Gives the vocabulary and the longest sequence.
        parameters: The number of them to come as near to as the width allows: the state's, or that of the feed-forward part.
        seed: The weights are drawn from it.

    Returns:
        The model, within 2 % of `parameters`.

    Raises:
        UserError: no such model, or a number of parameters that it cannot have.

    Example:

    >>> recall_model("lstm", RecallTask(), 80_000).count_params()
    80160
    """
    if kind not in models.MODELS:
        raise unknown_name("model", kind, models.MODELS)
    shape = {"embedding_dim": 64, "num_layers": 1}
    if kind == "transformer":
        shape |= {"num_layers": 2, "num_heads": 2, "context_length": max(task.length, task.num_keys + 1)}

    def build(width: int) -> keras.Model:
        width_of = {"feed_forward_dim" if kind == "transformer" else "hidden_dim": width}
        return models.MODELS[kind](task.vocabulary_size, **shape, **width_of)

    width = _nearest_width(lambda width: build(width).count_params(), parameters)
    keras.utils.set_random_seed(seed)
    model = build(width)
    if abs(model.count_params() - parameters) > 0.02 * parameters:
        raise UserError(f"no {kind} for this task has {parameters:,} parameters: the nearest has {model.count_params():,}")
    return model


def train_recall(
    model: keras.Model,
    task: RecallTask,
    *,
    steps: int = 800,
    learning_rate: float | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> float:
    """Trains a model to answer, by Keras' `fit`: Adam, warm-up over a tenth of the steps, then a cosine; only answers count in the loss.

    Args:
        model: From ids to logits over the task's vocabulary.
        task: What is to be learnt.
        steps: Updates, each of `batch_size` sequences that come once.
        learning_rate: The largest; default what `LEARNING_RATES` holds for the model's name.
        batch_size: Sequences a step.
        seed: The sequences are drawn from it.

    Returns:
        The mean loss of the last tenth of the steps, in nats an answer.

    Raises:
        UserError: no rate for a model of this name.
    """
    if learning_rate is None:
        if model.name not in LEARNING_RATES:
            raise UserError(f"give a learning_rate: none is known for {model.name}")
        learning_rate = LEARNING_RATES[model.name]
    ids, distances = task.sequences(steps * batch_size, seed)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps, alpha=0.05, warmup_target=learning_rate, warmup_steps=max(1, steps // 10))
    trained = OnFastPath(model)
    trained.compile(
        keras.optimizers.Adam(schedule, beta_2=0.99, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=True,
    )
    last = max(1, steps // 10) * batch_size
    losses = []
    for part in (slice(None, -last), slice(-last, None)):
        rows, weights = ids[part], (distances[part, :-1] > 0).astype(np.float32)
        if len(rows):
            weights *= weights.size / weights.sum()  # so that the mean over places is one over answers
            history = trained.fit(rows[:, :-1], rows[:, 1:], sample_weight=weights, batch_size=batch_size, shuffle=False, verbose=0)
            losses += history.history["loss"]
    return losses[-1]


def recall_accuracy(model: keras.Model, task: RecallTask, distances: Sequence[int], count: int = 1000, seed: int = 1_000_000) -> np.ndarray:
    """The share of questions answered right, by distance, in sequences with all keys shown and one asked.

    Args:
        model: From ids to logits over the task's vocabulary.
        task: With what it was trained.
        distances: Steps between pair and question, 1 to `num_keys`.
        count: Questions at each distance; the pairs before them are the same.
        seed: Of the sequences: another one than the training's. A guess is right in `1 / num_values` of them, on the mean over distances.

    Returns:
        `(len(distances),)` float.

    Raises:
        UserError: a distance beyond the first pair.
    """
    answer = tf.function(lambda ids: tf.argmax(run_model(model, ids)[:, -1], axis=-1, output_type=tf.int32), jit_compile=True)
    shares = []
    for distance in distances:
        ids, answers = task.questions(count, distance, seed)
        shares.append(float(np.mean(answer(tf.constant(ids)).numpy() == answers)))
    return np.array(shares)


LEARNING_RATES = {"simple_rnn_lm": 3e-3, "lstm_lm": 2e-2, "gru_lm": 2e-2, "transformer_lm": 3e-3}
"""The largest rate of each model: of 1e-3, 3e-3, 1e-2, 2e-2 and 4e-2 the one after which it answered best (`benchmarks/memory.py --rates`).

For the LSTM 4e-2 was as good with one seed and worse with two others; the Transformer answers all with any of the first four.
"""


class OnFastPath(keras.Model):
    """A model whose recurrent layers run as `run_model` has them."""

    def __init__(self, model: keras.Model):
        super().__init__()
        self.model = model

    def call(self, ids: tf.Tensor, training: bool = False) -> tf.Tensor:
        return run_model(self.model, ids, training=training)


def _nearest_width(count: Callable[[int], int], wanted: int) -> int:
    """The width whose `count`, a polynomial of degree 2 in it, comes nearest to `wanted`."""
    coefficients = np.polyfit([1, 2, 3], [count(width) for width in (1, 2, 3)], 2)
    widths = np.arange(1, 1 << 14)
    return int(widths[np.argmin(np.abs(np.polyval(coefficients, widths) - wanted))])
