"""GloVe: vectors of words whose products are the logarithms of how often two words stand near each other.

First the pairs of words are counted over the text, a pair `d` words apart as 1/d; then the weighted squared error between
w_i·w̃_j + b_i + b̃_j and ln X_ij is minimised over the pairs that occur, with AdaGrad. Counts are sorted integers, as those of n-grams are;
the batches come from tf.data, and XLA runs a loop over many at a time.

References:
    Pennington, Socher and Manning 2014, «GloVe: Global Vectors for Word Representation». Articles A0 §3.1, A2, history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_lm.classical.counting import check_ids
from keras_lm.errors import UserError
from keras_lm.tokenizer_base import NUM_SPECIAL, START_ID

_STEPS = 256  # batches that one call of the compiled loop reads


@dataclasses.dataclass(frozen=True, kw_only=True)
class GloVeSettings:
    """How vectors are learnt. The defaults suit a text of a million words; for its billions the paper has `x_max` 100, a rate of 0.05.

    Args:
        dimensions: Of a vector.
        window: Words to each side; a word `d` away counts as 1/d.
        x_max: The count from which on a pair has its full weight.
        alpha: Power with which the weight grows up to there.
        learning_rate: Of AdaGrad.
        epochs: Passes over the pairs.
        min_count: Words with fewer occurrences get no vector.
        batch_size: Pairs an update.
        seed: Decides the order of the pairs and the first vectors.

    Raises:
        UserError: a value out of range; the message names it.
    """

    dimensions: int = 100
    window: int = 10
    x_max: float = 10.0
    alpha: float = 0.75
    learning_rate: float = 0.1
    epochs: int = 15
    min_count: int = 5
    batch_size: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dimensions", "window", "epochs", "min_count", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("x_max", "alpha", "learning_rate"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be over 0, got {getattr(self, name)}")


def cooccurrences(
    ids: np.ndarray, vocabulary_size: int, *, window: int = 10, keep: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often each two words stand near each other.

    Args:
        ids: `(tokens,)`; pairs do not reach across a start token. Words that are not kept still take their place in the distance.
        vocabulary_size: The number of ids.
        window: Most words to each side.
        keep: `(vocabulary,)` bool, which ids count; default all but the special ones.

    Returns:
        Words, neighbours, int32, and counts, float32, `(pairs,)` each, sorted by word and neighbour; each pair stands there both ways.

    Example:

    >>> words, neighbours, counts = cooccurrences(np.array([4, 5, 6]), 7, window=2)
    >>> list(zip(words.tolist(), neighbours.tolist(), counts.tolist()))
    [(4, 5, 1.0), (4, 6, 0.5), (5, 4, 1.0), (5, 6, 1.0), (6, 4, 0.5), (6, 5, 1.0)]
    """
    ids = np.asarray(ids[:], np.int64)
    check_ids(ids, vocabulary_size)
    if keep is None:
        keep = np.arange(vocabulary_size) >= NUM_SPECIAL
    document, kept = np.cumsum(ids == START_ID), keep[ids]
    found, weights = np.zeros(0, np.int64), np.zeros(0)
    for distance in range(1, min(window, len(ids) - 1) + 1):
        near = kept[:-distance] & kept[distance:] & (document[:-distance] == document[distance:])
        left, right = ids[:-distance][near], ids[distance:][near]
        numbers, counts = np.unique(np.concatenate([left * vocabulary_size + right, right * vocabulary_size + left]), return_counts=True)
        found, places = np.unique(np.concatenate([found, numbers]), return_inverse=True)
        weights = np.bincount(places, np.concatenate([weights, counts / distance]))
    return (found // vocabulary_size).astype(np.int32), (found % vocabulary_size).astype(np.int32), weights.astype(np.float32)


def glove(
    ids: np.ndarray,
    vocabulary_size: int,
    settings: GloVeSettings | None = None,
    *,
    progress: Callable[[int, int, float], None] | None = None,
) -> np.ndarray:
    """Learns a vector for each id.

    Args:
        ids: `(tokens,)`, as `pipeline.Tokens.ids` are.
        vocabulary_size: The number of ids.
        settings: Default `GloVeSettings()`.
        progress: Is told the pairs read, how many there are to read in all epochs, and the mean loss of a pair since it was last told.

    Returns:
        `(vocabulary, dimensions)` float32, w + w̃ as in the paper. Rows of special tokens and of ids with fewer than `min_count`
        occurrences are 0.

    Raises:
        UserError: an empty text, or no two words that occur `min_count` times near each other.

    Example:

    >>> text = np.tile([4, 5, 6, 7, 8, 9], 50)
    >>> glove(text, 10, GloVeSettings(dimensions=8, epochs=1)).shape
    (10, 8)
    """
    settings = settings or GloVeSettings()
    ids = np.asarray(ids[:], np.int64)
    if not len(ids):
        raise UserError("there is nothing to learn vectors from: the text is empty")
    check_ids(ids, vocabulary_size)
    occurrences = np.bincount(ids, minlength=vocabulary_size)
    keep = (occurrences >= settings.min_count) & (np.arange(vocabulary_size) >= NUM_SPECIAL)
    words, neighbours, counts = cooccurrences(ids, vocabulary_size, window=settings.window, keep=keep)
    if not len(words):
        raise UserError(f"no two words that occur {settings.min_count} times (min_count) stand near each other")
    generator = np.random.default_rng(settings.seed)
    width = settings.dimensions + 1  # the last number is the bias
    tables = [tf.constant(generator.uniform(-0.5 / width, 0.5 / width, [vocabulary_size, width]), tf.float32) for _ in range(2)]
    squares = [tf.ones([vocabulary_size, width]) for _ in range(2)]
    run = _training_loop(settings)
    state, total, read = (*tables, *squares), settings.epochs * len(words), 0
    for batches, live, pairs in _batches(words, neighbours, counts, settings):
        state, loss = run(state, batches, live)
        read += int(pairs)
        if progress:
            progress(read, total, float(loss) / int(pairs))
    vectors = (state[0] + state[1]).numpy()[:, :-1]
    return np.where(keep[:, None], vectors, 0)


def loss_of(vectors: tf.Tensor, context_vectors: tf.Tensor, counts: tf.Tensor, x_max: float, alpha: float) -> tf.Tensor:
    """f(X)·(w·w̃ + b + b̃ - ln X)² / 2 for each pair, with f(X) = (X / x_max)^alpha up to 1.

    Args:
        vectors, context_vectors: w and b, w̃ and b̃, `(pairs, dimensions + 1)`.
        counts: X, `(pairs,)`.

    Returns:
        `(pairs,)`.
    """
    weights = tf.minimum(1.0, (counts / x_max) ** alpha)
    products = tf.reduce_sum(vectors[:, :-1] * context_vectors[:, :-1], axis=1) + vectors[:, -1] + context_vectors[:, -1]
    return weights * tf.square(products - tf.math.log(counts)) / 2


def _training_loop(settings: GloVeSettings) -> Callable:
    def step(state: tuple, words: tf.Tensor, neighbours: tf.Tensor, counts: tf.Tensor) -> tuple:
        rows = [tf.gather(table, ids) for table, ids in zip(state[:2], (words, neighbours), strict=True)]
        with tf.GradientTape() as tape:
            tape.watch(rows)
            # Places that fill up the last batch have count 0, weight 0 and the logarithm of 1.
            losses = tf.where(counts > 0, loss_of(*rows, tf.maximum(counts, 1e-6), settings.x_max, settings.alpha), 0.0)
            loss = tf.reduce_sum(losses)
        changed, sums = [], []
        for table, squares, ids, gradient in zip(state[:2], state[2:], (words, neighbours), tape.gradient(loss, rows), strict=True):
            # A batch's own gradients count too: a frequent word stands in it many times, and without them its step would be far too long.
            squares = tf.tensor_scatter_nd_add(squares, ids[:, None], tf.square(gradient))
            step_size = settings.learning_rate * tf.math.rsqrt(tf.gather(squares, ids))
            changed.append(tf.tensor_scatter_nd_sub(table, ids[:, None], step_size * gradient))
            sums.append(squares)
        return (*changed, *sums), loss

    @tf.function(jit_compile=True, autograph=False)
    def run(state: tuple, batches: tuple, live: tf.Tensor) -> tuple:
        def body(number: tf.Tensor, state: tuple, loss: tf.Tensor) -> tuple:
            state, more = step(state, *(part[number] for part in batches))
            return number + 1, state, loss + more

        return tf.while_loop(lambda number, *_: number < live, body, (0, state, 0.0))[1:]

    return run


def _batches(words: np.ndarray, neighbours: np.ndarray, counts: np.ndarray, settings: GloVeSettings) -> tf.data.Dataset:
    """All epochs' pairs, in another order each, as `(batches, live, pairs)`: arrays for many batches, how many of these hold pairs."""
    size = len(words)
    steps = min(_STEPS, -(-size // settings.batch_size))
    chunk = steps * settings.batch_size
    number = -(-size // chunk)
    columns = [tf.constant(column) for column in (words, neighbours, counts)]

    def prepare(place: tf.Tensor) -> tuple:
        epoch, start = place // number, place % number * chunk
        many = tf.minimum(chunk, size - start)
        # A permutation that any part of can be had alone: `random_index_shuffle` (Mitchell et al. 2021).
        seed = tf.stack([settings.seed, epoch])
        order = tf.random.experimental.index_shuffle(start + tf.range(many), seed, size - 1)
        batches = [tf.reshape(tf.pad(tf.gather(column, order), [[0, chunk - many]]), [steps, -1]) for column in columns]
        return tuple(batches), (many + settings.batch_size - 1) // settings.batch_size, many

    return tf.data.Dataset.range(settings.epochs * number, output_type=tf.int32).map(prepare, num_parallel_calls=1).prefetch(2)
