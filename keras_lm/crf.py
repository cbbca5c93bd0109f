"""Labels that hang together: a linear chain over the scores that a model gives each position by itself.

A model that labels each position alone may begin a word and never end it. A conditional random field scores whole sequences,

    score(y) = start[y_1] + Σ_t emissions[t, y_t] + Σ_t transitions[y_t, y_{t+1}] + end[y_n],    P(y) = exp(score(y)) / Z,

where Z sums over all sequences: label by label, by the forward algorithm. Its step is a matrix of exponentials times another, which is
some ten times as fast as exponentials of all sums of a score and a transition. Scores are shifted by the highest so far, and transitions by
the highest into each label, so that nothing is too large; sums that are then e^-140 of the highest or less count as that, and so do
transitions that lie 70 or more below, but for forbidden ones. So P comes out too small where labels contradict each other by as much, never
too large.

The functions are pure, of static shapes, and XLA compiles them; texts stand at the left, and whatever is behind their ends does not count.

References:
    Lafferty, McCallum and Pereira 2001, «Conditional Random Fields»; Viterbi 1967; Huang, Xu and Yu 2015 (arXiv:1508.01991), a CRF on top
    of a recurrent network; Xue 2003, Chinese words as labels of characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf

FORBIDDEN = -1e4
"""The score of what may not be: e to it is 0 in every float, and a sum of some hundred of them is still a number."""

_HIGHEST = 70.0  # ln of the largest exponential of a score, so that sums and gradients, scaled ones too, stay in the range of float32
_SMALLEST = 4e-31  # e^-70: what exponentials and their sums count as that are less


def crf_log_likelihood(
    emissions: tf.Tensor, tags: tf.Tensor, lengths: tf.Tensor, transitions: tf.Tensor, start: tf.Tensor, end: tf.Tensor
) -> tf.Tensor:
    """ln P of the tags of each text.

    Args:
        emissions: Score of each tag at each position, `(batch, time, num_tags)`; time at least 1.
        tags: The right tags, `(batch, time)` int32; anything behind a text's end.
        lengths: Of each text, `(batch,)` int32, 0 to time.
        transitions: Score of the tag in the column behind that of the row, `(num_tags, num_tags)`.
        start, end: Scores of a text's first and last tag, `(num_tags,)`.

    Returns:
        `(batch,)` float32, at most 0; exactly 0 for a text of length 0.

    Example:

    >>> alike = tf.constant([[2.0, 0.0], [0.0, 2.0]])
    >>> log_p = crf_log_likelihood(tf.zeros([1, 3, 2]), tf.constant([[1, 1, 1]]), tf.constant([3]), alike, tf.zeros([2]), tf.zeros([2]))
    >>> round(float(tf.exp(log_p)[0]), 3)  # e^4 of 2 e^4 + 4 e^2 + 2
    0.388
    """
    emissions, lengths, transitions, start, end = _prepared(emissions, lengths, transitions, start, end)
    score = _score(emissions, tags, lengths, transitions, start, end)
    return score - _log_partition(emissions, lengths, transitions, start, end)


def crf_decode(emissions: tf.Tensor, lengths: tf.Tensor, transitions: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """The most probable tags of each text, by Viterbi's algorithm.

    Args:
        emissions, lengths, transitions, start, end: As `crf_log_likelihood` takes them.

    Returns:
        `(batch, time)` int32, 0 behind a text's end. Of sequences that are equally probable, any.

    Example:

    >>> emissions = tf.constant([[[1.0, 0.0], [0.0, 0.5], [1.0, 0.0]]])
    >>> alike = tf.constant([[2.0, 0.0], [0.0, 2.0]])
    >>> crf_decode(emissions, tf.constant([3]), alike, tf.zeros([2]), tf.zeros([2])).numpy().tolist()  # alone, the second would be a 1
    [[0, 0, 0]]
    """
    emissions, lengths, transitions, start, end = _prepared(emissions, lengths, transitions, start, end)
    emissions = tf.transpose(emissions, [1, 0, 2])  # (time, batch, num_tags)

    positions = tf.range(tf.shape(emissions)[0])

    def forward(best: tf.Tensor, here: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        position, emissions = here
        return tf.where(position == 0, start, tf.reduce_max(best[:, :, None] + transitions, axis=1)) + emissions

    best = tf.scan(forward, (positions, emissions), tf.zeros_like(emissions[0]))  # (time, batch, num_tags)
    into = tf.transpose(transitions)

    # The way back finds again what led to each tag, on the best path alone: a maximum is a plain sum in XLA, its place is not.
    def backward(after: tf.Tensor, here: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        position, best = here
        ahead = tf.where((position == lengths - 1)[:, None], end, tf.gather(into, after))
        return tf.where(position < lengths, tf.argmax(best + ahead, axis=-1, output_type=tf.int32), 0)

    tags = tf.scan(backward, (positions, best), tf.zeros_like(lengths), reverse=True)
    return tf.transpose(tags)


def crf_marginals(emissions: tf.Tensor, lengths: tf.Tensor, transitions: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """P of each tag at each position, over all sequences: the gradient of ln Z with respect to the emissions.

    Args:
        emissions, lengths, transitions, start, end: As `crf_log_likelihood` takes them.

    Returns:
        `(batch, time, num_tags)` float32, 0 behind a text's end.

    Example:

    >>> emissions = tf.math.log([[[0.9, 0.1], [0.5, 0.5]]])
    >>> crf_marginals(emissions, tf.constant([2]), tf.constant([[9.0, 0.0], [0.0, 9.0]]), tf.zeros([2]), tf.zeros([2])).numpy().round(2)
    array([[[0.9, 0.1],
            [0.9, 0.1]]], dtype=float32)
    """
    emissions, lengths, *weights = _prepared(emissions, lengths, transitions, start, end)
    with tf.GradientTape() as tape:
        tape.watch(emissions)
        log_z = _log_partition(emissions, lengths, *weights)
    return tape.gradient(log_z, emissions)


def _prepared(emissions: tf.Tensor, lengths: tf.Tensor, *weights: tf.Tensor) -> list[tf.Tensor]:
    """float32 and int32; emissions are 0 behind a text's end, and at most 0 before it: P is the same, and sums are small."""
    lengths = tf.cast(lengths, tf.int32)
    inside = tf.sequence_mask(lengths, tf.shape(emissions)[1])[:, :, None]
    emissions = tf.where(inside, tf.cast(emissions, tf.float32), 0.0)
    emissions -= tf.stop_gradient(tf.reduce_max(emissions, axis=-1, keepdims=True))
    return [emissions, lengths, *(tf.cast(weight, tf.float32) for weight in weights)]


def _score(
    emissions: tf.Tensor, tags: tf.Tensor, lengths: tf.Tensor, transitions: tf.Tensor, start: tf.Tensor, end: tf.Tensor
) -> tf.Tensor:
    """Of these tags, `(batch,)`."""
    inside = tf.sequence_mask(lengths, tf.shape(emissions)[1])  # (batch, time)
    tags = tf.where(inside, tf.cast(tags, tf.int32), 0)
    emitted = tf.where(inside, tf.gather(emissions, tags, batch_dims=2), 0.0)
    passed = tf.gather_nd(transitions, tf.stack([tags[:, :-1], tags[:, 1:]], axis=-1))
    passed = tf.where(inside[:, 1:], passed, 0.0)
    last = tf.gather(tags, tf.maximum(lengths - 1, 0), batch_dims=1)
    edges = tf.where(lengths > 0, tf.gather(start, tags[:, 0]) + tf.gather(end, last), 0.0)
    return tf.reduce_sum(emitted, axis=1) + tf.reduce_sum(passed, axis=1) + edges


def _log_partition(emissions: tf.Tensor, lengths: tf.Tensor, transitions: tf.Tensor, start: tf.Tensor, end: tf.Tensor) -> tf.Tensor:
    """ln Z, `(batch,)`."""
    scores = _forward(tf.transpose(emissions, [1, 0, 2]), lengths, transitions, start)
    return tf.where(lengths > 0, tf.reduce_logsumexp(scores + end, axis=-1), 0.0)


def _forward(emissions: tf.Tensor, lengths: tf.Tensor, transitions: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """ln of the sum over all beginnings that end with each tag, `(batch, num_tags)`, at the last position of each text.

    The gradient is written out: automatic differentiation adds to that of the transitions at every step, which takes three times as long as
    all the rest, and here it is one product over all steps.

    Args:
        emissions: `(time, batch, num_tags)`.
        lengths: `(batch,)`.
        transitions: `(num_tags, num_tags)`.
        start: `(num_tags,)`.
    """
    time = tf.shape(emissions)[0]
    inside = tf.transpose(tf.sequence_mask(lengths, time))[:, :, None]  # (time, batch, 1)

    @tf.custom_gradient
    def run(emissions: tf.Tensor, transitions: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        highest = tf.reduce_max(transitions, axis=0)  # into each tag
        factors = tf.where(transitions > FORBIDDEN / 2, tf.maximum(tf.exp(transitions - highest), _SMALLEST), 0.0)

        def exponentials(scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """Of scores less the second result, that is."""
            shift = tf.reduce_max(scores, axis=-1, keepdims=True) - _HIGHEST
            return tf.exp(scores - shift), shift

        def step(before: tuple[tf.Tensor, tf.Tensor], here: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, tf.Tensor]:
            position, inside, emissions = here
            shares, shift = exponentials(before[0])
            summed = tf.maximum(tf.matmul(shares, factors), _SMALLEST)
            scores = tf.where(position == 0, start, tf.math.log(summed) + shift + highest) + emissions
            return tf.where(inside, scores, before[0]), summed

        nothing = tf.zeros_like(emissions[0])
        scores, summed = tf.scan(step, (tf.range(time), inside, emissions), (nothing, nothing))

        def gradient(d_last: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            shares, _ = exponentials(tf.concat([nothing[None], scores[:-1]], axis=0))
            inverse = tf.where(inside, 1 / summed, 0.0)

            def back(d_scores: tf.Tensor, here: tuple[tf.Tensor, ...]) -> tf.Tensor:
                inside, shares, inverse = here
                return tf.where(inside, tf.matmul(d_scores * inverse, factors, transpose_b=True) * shares, d_scores)

            d_before = tf.scan(back, (inside, shares, inverse), d_last, reverse=True)
            d_scores = tf.concat([d_before[1:], d_last[None]], axis=0)
            d_emissions = tf.where(inside, d_scores, 0.0)
            flat = lambda tensor: tf.reshape(tensor[1:], [-1, tensor.shape[-1]])  # (time * batch, num_tags)
            d_factors = tf.matmul(flat(shares), flat(d_scores * inverse), transpose_a=True)
            # Where a factor is 0, so is the gradient; the product may be infinite.
            d_transitions = tf.where(factors > 0, factors * d_factors, 0.0)
            return d_emissions, d_transitions, tf.reduce_sum(d_emissions[0], axis=0)

        return scores[-1], gradient

    return run(emissions, transitions, start)


@keras.saving.register_keras_serializable(package="keras_lm")
class CRF(keras.layers.Layer):
    """The weights of a linear chain, behind the scores of each position.

    As a layer it changes nothing, so that it stands at the end of a Functional model and is saved with it; a loss is made of
    `log_likelihood`, and tags of `decode`. With its weights at 0, as they begin, it is a softmax at each position.

    Args:
        num_tags: Number of tags.
        forbidden: Pairs `(tag, tag behind it)` that never stand together; they score `FORBIDDEN` and learn nothing. Some sequence of each
            length must be left. Default: none.
        forbidden_start: Tags that no text begins with. Default: none.
        forbidden_end: Tags that no text ends with. Default: none.

    Call arguments:
        inputs: Scores, `(batch, time, num_tags)`.

    Returns:
        The inputs.

    Raises:
        ValueError: a number of tags below 1, a forbidden tag that is none, or inputs of another width.

    Example:

    >>> layer = CRF(3, forbidden=[(0, 1)])
    >>> emissions = layer(tf.constant([[[2.0, 0.0, 0.5], [0.0, 2.0, 1.0]]]))
    >>> layer.decode(emissions, tf.constant([2])).numpy().tolist()
    [[0, 2]]

    References:
        Lafferty, McCallum and Pereira 2001.
    """

    def __init__(
        self,
        num_tags: int,
        forbidden: Iterable[Sequence[int]] = (),
        forbidden_start: Iterable[int] = (),
        forbidden_end: Iterable[int] = (),
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)
        if num_tags < 1:
            raise ValueError(f"num_tags must be at least 1, got {num_tags}")
        self.num_tags = num_tags
        self.supports_masking = True
        # Tables: Keras looks into each of 20,000 pairs, which 44 parts of speech come to, whenever it saves or loads, for seconds.
        self.forbidden = self._table("forbidden", forbidden, 2)
        self.forbidden_start = self._table("forbidden_start", forbidden_start, 1)
        self.forbidden_end = self._table("forbidden_end", forbidden_end, 1)

    def _table(self, name: str, tags: Iterable, dimensions: int) -> np.ndarray:
        table = np.zeros([self.num_tags] * dimensions, bool)
        places = np.array(list(tags), np.int64).reshape(-1, dimensions)
        strange = places[(places < 0) | (places >= self.num_tags)]
        if strange.size:
            raise ValueError(f"{name}: tags must be from 0 to {self.num_tags - 1}, got {strange[0]}")
        table[tuple(places.T)] = True
        return table

    def build(self, input_shape: tuple) -> None:
        if input_shape[-1] != self.num_tags:
            raise ValueError(f"a CRF of {self.num_tags} tags needs as many scores at each position, got {input_shape[-1]}")
        shapes = {"transitions": (self.num_tags, self.num_tags), "start": (self.num_tags,), "end": (self.num_tags,)}
        self.transitions, self.start, self.end = (
            self.add_weight(shape=shape, initializer="zeros", name=name) for name, shape in shapes.items()
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        return tuple(input_shape)

    def scores(self) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Transitions `(num_tags, num_tags)`, start and end `(num_tags,)`, float32, as the functions take them: with what is forbidden."""
        weights = ((self.forbidden, self.transitions), (self.forbidden_start, self.start), (self.forbidden_end, self.end))
        return tuple(tf.where(mask, FORBIDDEN, tf.convert_to_tensor(weight)) for mask, weight in weights)

    def log_likelihood(self, emissions: tf.Tensor, tags: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """ln P of the tags of each text, `(batch,)`: `crf_log_likelihood`."""
        return crf_log_likelihood(emissions, tags, lengths, *self.scores())

    def decode(self, emissions: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """The most probable tags of each text, `(batch, time)` int32: `crf_decode`."""
        return crf_decode(emissions, lengths, *self.scores())

    def marginals(self, emissions: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
        """P of each tag at each position, `(batch, time, num_tags)`: `crf_marginals`."""
        return crf_marginals(emissions, lengths, *self.scores())

    def get_config(self) -> dict:
        rows = ["".join("01"[value] for value in row) for row in self.forbidden.tolist()]
        return {
            **super().get_config(),
            "num_tags": self.num_tags,
            "forbidden": rows if self.forbidden.any() else [],
            "forbidden_start": np.flatnonzero(self.forbidden_start).tolist(),
            "forbidden_end": np.flatnonzero(self.forbidden_end).tolist(),
        }

    @classmethod
    def from_config(cls, config: dict) -> CRF:
        rows = config.get("forbidden")
        if rows and isinstance(rows[0], str):
            config = {**config, "forbidden": [(i, j) for i, row in enumerate(rows) for j, value in enumerate(row) if value == "1"]}
        return cls(**config)
