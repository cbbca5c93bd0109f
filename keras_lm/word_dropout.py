"""Word dropout: whole tokens hidden from a model while it learns, so that it leans on no single one (article A2 §3).

Which tokens is a function of the seed and of where a token stands, by the hash of `dropout`: the same whatever happened before, under XLA
and without.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from keras_lm.dropout import _mixed
from keras_lm.errors import UserError
from keras_lm.tokenizer_base import END_ID, PAD_ID, START_ID, UNKNOWN_ID


def word_dropout(
    ids: tf.Tensor,
    seed: tf.Tensor | Sequence[int],
    rate: float,
    unknown_id: int = UNKNOWN_ID,
    *,
    kept: Sequence[int] = (PAD_ID, START_ID, END_ID),
    whole_words: bool = False,
) -> tf.Tensor:
    """Replaces tokens by the unknown one.

    Args:
        ids: `(batch, time)` int32.
        seed: Two whole numbers, e.g. a run's seed and the step; `(2,)` of any integer type, or a pair.
        rate: Share of the tokens that are replaced, at least 0 and less than 1.
        unknown_id: What they become; default 1, as our tokenizers have it.
        kept: Ids that are never replaced; default padding, start and end.
        whole_words: Whether a token that stands in a row several times is replaced everywhere there or nowhere, as Gal and Ghahramani have
            it; default each place for itself, as Iyyer et al. do.

    Returns:
        `(batch, time)` int32.

    Raises:
        UserError: a rate that is not at least 0 and less than 1.

    Example:

    >>> word_dropout(tf.constant([[2, 7, 8, 9, 10, 3, 0]]), seed=(1, 4), rate=0.5).numpy().tolist()
    [[2, 1, 8, 9, 10, 3, 0]]

    References:
        Gal and Ghahramani 2016, «A Theoretically Grounded Application of Dropout in Recurrent Neural Networks» (arXiv:1512.05287), §4.2;
        Iyyer et al. 2015, «Deep Unordered Composition Rivals Syntactic Methods for Text Classification»;
        Bowman et al. 2016, «Generating Sentences from a Continuous Space» (arXiv:1511.06349), §3.1, for a decoder's inputs.
    """
    if not 0 <= rate < 1:
        raise UserError(f"rate must be at least 0 and less than 1, got {rate}")
    if not rate:
        return tf.convert_to_tensor(ids)
    ids = tf.convert_to_tensor(ids)
    first, second = (_mixed(tf.cast(part, tf.uint32)) for part in (seed[0], seed[1]))
    rows = tf.cast(tf.range(tf.shape(ids)[0])[:, None], tf.uint32)
    columns = tf.cast(ids if whole_words else tf.range(tf.shape(ids)[1])[None], tf.uint32)
    places = tf.bitwise.bitwise_xor(_mixed(rows + first), _mixed(columns + _mixed(second)))  # (batch, time)
    dropped = _mixed(places + first) < tf.constant(min(round(rate * 2**32), 2**32 - 1), tf.uint32)
    for special in kept:
        dropped &= ids != special
    return tf.where(dropped, tf.constant(unknown_id, ids.dtype), ids)
