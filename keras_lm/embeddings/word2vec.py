"""Word2Vec: vectors of words that tell a word's real neighbours from words drawn at random.

The loss is not a squared error between probabilities, as article A0 §4.1 has it (D1), but the negative log-likelihood of telling them
apart: -ln σ(v·u) of a word and a neighbour, -ln σ(-v·u) of the word and each of `negatives` drawn words.

What makes it fast: a block of consecutive words is read at once. The table is read and written once a word, not once a pair; a word and
the words around it are multiplied row by row, and with the drawn words, which a block shares, as one matrix product. The drawn words are
more than `negatives` and count in proportion, so the expected gradient is that of drawing anew for each pair (Ji et al. 2016). tf.data
prepares the blocks on one core while XLA runs a loop over them on the others.

References:
    Mikolov et al. 2013, «Distributed Representations of Words and Phrases and their Compositionality» (arXiv:1310.4546): negative
    sampling, subsampling; Mikolov et al. 2013 (arXiv:1301.3781): skip-gram and CBOW; Ji et al. 2016, «Parallelizing Word2Vec in Shared and
    Distributed Memory» (arXiv:1604.04661); İrsoy et al. 2021 (arXiv:2012.15332): the gradient of CBOW, which other programs do not divide
    by the number of neighbours, so that ours wants a higher learning rate. Articles A0 §3.1 and §4.1, A2, history.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_lm.classical.counting import check_ids
from keras_lm.errors import UserError, unknown_name
from keras_lm.tokenizer_base import NUM_SPECIAL, START_ID

_CHUNK = 1 << 17  # tokens that one call of the compiled loop reads
# A block's gradients are added up. A step along the sum of c gradients of -ln σ(v·u) goes too far once rate * c * |v|² / 4 is over 2; this
# bounds rate * c, for vectors whose length does not get far over 2.
_LONGEST_STEP = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Word2VecSettings:
    """How vectors are learnt; the defaults are those of word2vec and gensim where these have them.

    Args:
        architecture: `skip_gram` (a word tells its neighbours) or `cbow` (the mean of the neighbours tells the word).
        dimensions: Of a vector.
        window: Most words to each side; for each word a width from 1 to this is drawn, so that near words count more.
        negatives: Drawn words a pair, k of the paper.
        subsample: Words with a share of the text above it are left out at random, the more the more frequent; 0 is off.
        learning_rate: At the beginning; falls in a straight line. Default 0.025, for cbow 0.1.
        min_learning_rate: At the end.
        epochs: Passes over the text.
        min_count: Words with fewer occurrences get no vector.
        block: Words read at once. Their gradients are added up; the more there are, the smaller is the share of them that frequent
            words can take in.
        shared_negatives: Drawn words that a block shares; half of the block or more keeps each one's part small.
        seed: Decides everything that is drawn: the same seed gives the same vectors on the same machine.

    Raises:
        UserError: a value out of range; the message names it.

    Example:

    >>> Word2VecSettings(window=0)
    Traceback (most recent call last):
    ...
    keras_lm.errors.UserError: window must be at least 1, got 0
    """

    architecture: str = "skip_gram"
    dimensions: int = 100
    window: int = 5
    negatives: int = 5
    subsample: float = 1e-3
    learning_rate: float | None = None
    min_learning_rate: float = 1e-4
    epochs: int = 5
    min_count: int = 5
    block: int = 256
    shared_negatives: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in ("skip_gram", "cbow"):
            raise unknown_name("architecture", self.architecture, ["skip_gram", "cbow"])
        for name in ("dimensions", "window", "negatives", "epochs", "min_count", "block", "shared_negatives"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.subsample < 1:
            raise UserError(f"subsample must be at least 0 and under 1, got {self.subsample}")
        if not 0 < self.min_learning_rate <= self.initial_learning_rate:
            raise UserError(f"learning_rate must be at least min_learning_rate ({self.min_learning_rate}), got {self.learning_rate}")

    @property
    def initial_learning_rate(self) -> float:
        return (0.1 if self.architecture == "cbow" else 0.025) if self.learning_rate is None else self.learning_rate


def word2vec(
    ids: np.ndarray,
    vocabulary_size: int,
    settings: Word2VecSettings | None = None,
    *,
    progress: Callable[[int, int, float], None] | None = None,
) -> np.ndarray:
    """Learns a vector for each id.

    Args:
        ids: `(tokens,)`, as `pipeline.Tokens.ids` are: documents in a row, each begun by a start token, or one text.
        vocabulary_size: The number of ids.
        settings: Default `Word2VecSettings()`.
        progress: Is told the tokens read, how many there are to read in all epochs, and the mean loss since it was last told: of a pair, or
            for cbow of a word.

    Returns:
        `(vocabulary, dimensions)` float32. Rows of special tokens and of ids with fewer than `min_count` occurrences are 0.

    Raises:
        UserError: an empty text, ids that the vocabulary has not, or no word that occurs `min_count` times.

    Example:

    >>> text = np.tile([4, 5, 6, 7, 8, 9], 50)
    >>> word2vec(text, 10, Word2VecSettings(dimensions=8, epochs=1)).shape
    (10, 8)
    """
    settings = settings or Word2VecSettings()
    ids = np.asarray(ids[:], np.int32)
    if not len(ids):
        raise UserError("there is nothing to learn vectors from: the text is empty")
    check_ids(ids, vocabulary_size)
    counts = np.bincount(ids, minlength=vocabulary_size)
    counts[:NUM_SPECIAL] = 0
    counts[counts < settings.min_count] = 0
    if not counts.any():
        raise UserError(f"no word occurs {settings.min_count} times (min_count): more text, or a smaller min_count")
    generator = np.random.default_rng(settings.seed)
    width = settings.dimensions
    words = tf.constant(generator.uniform(-0.5 / width, 0.5 / width, [vocabulary_size, width]), tf.float32)
    contexts = tf.zeros([vocabulary_size, width])
    train = _training_loop(settings, *_crowds(counts, settings))
    total, read = settings.epochs * len(ids), 0
    for blocks, live, tokens in _chunks(ids, counts, settings):
        rates = [_learning_rate(settings, done / total) for done in (read, read + int(tokens))]
        words, contexts, loss, pairs = train(words, contexts, blocks, live, tf.constant(rates, tf.float32))
        read += int(tokens)
        if progress:
            progress(read, total, float(loss) / max(float(pairs), 1.0))
    return np.where(counts[:, None] > 0, words.numpy(), 0)


def _learning_rate(settings: Word2VecSettings, done: float) -> float:
    return max(settings.initial_learning_rate * (1 - done), settings.min_learning_rate)


def keep_probabilities(counts: np.ndarray, subsample: float) -> np.ndarray:
    """The probability with which an occurrence of each word is kept, `(vocabulary,)` float32; 0 for words without counts.

    That of word2vec's program, √(t/f) + t/f for a share f of the text, which differs a little from the paper's √(t/f).

    Example:

    >>> keep_probabilities(np.array([0, 10, 90]), 0.01).round(3)
    array([0.   , 0.416, 0.117], dtype=float32)
    """
    if not subsample:
        return (counts > 0).astype(np.float32)
    ratio = subsample * counts.sum() / np.maximum(counts, 1)
    return np.where(counts > 0, np.minimum(np.sqrt(ratio) + ratio, 1), 0).astype(np.float32)


def _crowds(counts: np.ndarray, settings: Word2VecSettings) -> tuple[np.ndarray, np.ndarray]:
    """How many gradients a block adds up, on average and at least, for each word and for it as a neighbour: `(vocabulary,)`."""
    kept = counts * keep_probabilities(counts, settings.subsample)
    occurrences = np.maximum(settings.block * kept / kept.sum(), 1)
    pairs = settings.window + 1 if settings.architecture == "skip_gram" else 1
    noise = counts**0.75 / np.sum(counts**0.75)
    drawn = settings.block * pairs * settings.negatives * np.maximum(noise, 1 / settings.shared_negatives)
    return occurrences * pairs * (1 + settings.negatives), occurrences * pairs + drawn


def _chunks(ids: np.ndarray, counts: np.ndarray, settings: Word2VecSettings) -> tf.data.Dataset:
    """All epochs' text as `(blocks, live, tokens)`: arrays for a chunk's blocks, how many of these hold words, how many tokens they are."""
    block, window = settings.block, settings.window
    chunk = min(_CHUNK, -(-len(ids) // block) * block)
    number = -(-len(ids) // chunk)
    most = chunk // block
    text = tf.constant(ids)
    keep = tf.constant(keep_probabilities(counts, settings.subsample))
    noise = np.cumsum(counts**0.75)
    noise = tf.constant(noise / noise[-1], tf.float32)

    def prepare(place: tf.Tensor) -> tuple:
        draw = lambda shape, what: tf.random.stateless_uniform(shape, [settings.seed, place * 4 + what])
        start = place % number * chunk
        part = text[start : start + chunk]
        document = tf.cumsum(tf.cast(part == START_ID, tf.int32))
        kept = draw(tf.shape(part), 0) < tf.gather(keep, part)
        word, document = tf.boolean_mask(part, kept), tf.boolean_mask(document, kept)
        live = (tf.size(word) + block - 1) // block
        # Around the text a window of nothing, which no word has for a neighbour; then blocks that overlap by a window to each side.
        margin = [[window, most * block + window - tf.size(word)]]
        word, document = tf.pad(word, margin), tf.pad(document, margin, constant_values=-1)
        framed = lambda values: tf.gather(values, tf.range(most)[:, None] * block + tf.range(block + 2 * window)[None])
        reach = tf.cast(draw([most, block], 1) * window, tf.int32) + 1  # words to each side
        drawn = tf.searchsorted(noise, tf.reshape(draw([most, settings.shared_negatives], 2), [-1]), side="right")
        drawn = tf.reshape(tf.minimum(drawn, len(counts) - 1), [most, settings.shared_negatives])
        return (framed(word), framed(document), reach, drawn), live, tf.size(part)

    return tf.data.Dataset.range(settings.epochs * number, output_type=tf.int32).map(prepare, num_parallel_calls=1).prefetch(2)


def _training_loop(settings: Word2VecSettings, word_crowds: np.ndarray, context_crowds: np.ndarray) -> Callable:
    """The compiled loop over a chunk's blocks."""
    loss_of = _skip_gram if settings.architecture == "skip_gram" else _cbow
    bounds = [tf.constant(_LONGEST_STEP / crowds, tf.float32) for crowds in (word_crowds, context_crowds)]

    def step(
        words: tf.Tensor, contexts: tf.Tensor, word: tf.Tensor, document: tf.Tensor, reach: tf.Tensor, drawn: tf.Tensor, rate: tf.Tensor
    ):
        neighbours = _neighbours(document, reach, settings)
        inner = word[settings.window : -settings.window]
        inputs, outputs = (word, inner) if settings.architecture == "cbow" else (inner, word)
        v, u, n = tf.gather(words, inputs), tf.gather(contexts, outputs), tf.gather(contexts, drawn)
        with tf.GradientTape() as tape:
            tape.watch([v, u, n])
            loss = loss_of(v, u, n, neighbours, settings)
        dv, du, dn = tape.gradient(loss, [v, u, n])
        words, contexts = (
            tf.tensor_scatter_nd_sub(table, rows[:, None], tf.minimum(rate, tf.gather(bound, rows))[:, None] * gradient)
            for table, rows, bound, gradient in zip(
                (words, contexts), (inputs, tf.concat([outputs, drawn], 0)), bounds, (dv, tf.concat([du, dn], 0)), strict=True
            )
        )
        pairs = tf.add_n(list(neighbours.values()))
        return words, contexts, loss, tf.reduce_sum(tf.minimum(pairs, 1.0) if settings.architecture == "cbow" else pairs)

    @tf.function(jit_compile=True, autograph=False)
    def train(words: tf.Tensor, contexts: tf.Tensor, blocks: tuple, live: tf.Tensor, rates: tf.Tensor) -> tuple:
        def body(number: tf.Tensor, words: tf.Tensor, contexts: tf.Tensor, loss: tf.Tensor, pairs: tf.Tensor) -> tuple:
            rate = rates[0] + (rates[1] - rates[0]) * tf.cast(number / tf.maximum(live, 1), tf.float32)
            words, contexts, more, count = step(words, contexts, *(part[number] for part in blocks), rate)
            return number + 1, words, contexts, loss + more, pairs + count

        return tf.while_loop(lambda number, *_: number < live, body, (0, words, contexts, 0.0, 0.0))[1:]

    return train


def _neighbours(document: tf.Tensor, reach: tf.Tensor, settings: Word2VecSettings) -> dict[int, tf.Tensor]:
    """For each distance, -window to window, whether the word so far off counts as a neighbour: `(block,)` of 0 and 1."""
    window, block = settings.window, settings.block
    own = document[window : window + block]
    return {
        distance: tf.cast(
            (reach >= abs(distance)) & (document[window + distance : window + distance + block] == own) & (own >= 0), tf.float32
        )
        for distance in (*range(-window, 0), *range(1, window + 1))
    }


def _skip_gram(v: tf.Tensor, u: tf.Tensor, n: tf.Tensor, neighbours: dict[int, tf.Tensor], settings: Word2VecSettings) -> tf.Tensor:
    """v: the words `(block, dimensions)`; u: all that may be neighbours `(block + 2 window, dimensions)`; n: the drawn words."""
    loss = 0.0
    for distance, counts in neighbours.items():
        start = settings.window + distance
        loss += tf.reduce_sum(counts * tf.nn.softplus(-tf.reduce_sum(v * u[start : start + settings.block], axis=1)))
    pairs = tf.add_n(list(neighbours.values()))
    weight = settings.negatives / settings.shared_negatives
    return loss + weight * tf.reduce_sum(pairs[:, None] * tf.nn.softplus(tf.matmul(v, n, transpose_b=True)))


def _cbow(v: tf.Tensor, u: tf.Tensor, n: tf.Tensor, neighbours: dict[int, tf.Tensor], settings: Word2VecSettings) -> tf.Tensor:
    """v: all that may be neighbours `(block + 2 window, dimensions)`; u: the words `(block, dimensions)`; n: the drawn words."""
    total = tf.add_n(
        [
            counts[:, None] * v[settings.window + distance : settings.window + distance + settings.block]
            for distance, counts in neighbours.items()
        ]
    )
    pairs = tf.add_n(list(neighbours.values()))
    mean = total / tf.maximum(pairs, 1.0)[:, None]
    has = tf.cast(pairs > 0, tf.float32)
    loss = tf.reduce_sum(has * tf.nn.softplus(-tf.reduce_sum(mean * u, axis=1)))
    weight = settings.negatives / settings.shared_negatives
    return loss + weight * tf.reduce_sum(has[:, None] * tf.nn.softplus(tf.matmul(mean, n, transpose_b=True)))
