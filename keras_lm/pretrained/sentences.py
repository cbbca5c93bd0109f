"""Texts as vectors whose products say how alike they mean: the mean of an encoder's states, of length one.

References:
    Reimers and Gurevych 2019, «Sentence-BERT»; Wang et al. 2020, «MiniLM».
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.layers import TransformerBlock
from keras_lm.pretrained.loading import Pretrained


def sentence_vectors(
    pretrained: Pretrained, texts: Sequence[str] | tf.RaggedTensor, *, max_tokens: int | None = None, batch_size: int = 32
) -> np.ndarray:
    """A vector of length one for each text, from an encoder of the sentence-transformers kind (mean pooling).

    Args:
        pretrained: A loaded BERT with its tokenizer.
        texts: Any number of texts; or their ids, `(texts, (tokens))` int32 with start and end, where another tokenizer made them.
        max_tokens: The most tokens of a text that are read, start and end included; default the model's context.
        batch_size: Texts read at a time; texts of like lengths are read together.

    Returns:
        `(texts, width)` float32; the product of two rows is their cosine.

    Raises:
        UserError: a model that is no encoder, or texts without a tokenizer.

    Example: `a, b = sentence_vectors(load("all-MiniLM-L6-v2"), ["A man is eating.", "Someone eats."])`, then `a @ b`
    """
    encoder = pretrained.encoder
    context = next(layer.context_length for layer in encoder.layers if isinstance(layer, TransformerBlock))
    most = min(max_tokens or context, context)
    ids = texts if isinstance(texts, tf.RaggedTensor) else _framed_ids(pretrained, texts, most)
    ids = ids[:, :most]
    lengths = ids.row_lengths().numpy()
    order = np.argsort(lengths, kind="stable")
    vectors = np.zeros([len(order), encoder.output_shape[-1]], np.float32)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        vectors[chosen] = _mean(encoder, tf.gather(ids, chosen).to_tensor(pretrained.config.get("pad_token_id") or 0), lengths[chosen])
    return vectors


def _framed_ids(pretrained: Pretrained, texts: Sequence[str], most: int) -> tf.RaggedTensor:
    """Ids between the tokenizer's start and end, `most` at most."""
    tokenizer = pretrained.tokenizer
    if tokenizer is None:
        raise UserError(f"sentence vectors need a tokenizer: {pretrained.no_tokenizer}")
    ids = tokenizer.tokenize(tf.constant(list(texts), tf.string))[:, : most - 2]
    rows = tf.shape(ids)[0]
    return tf.concat([tf.fill([rows, 1], tokenizer.start_id), ids, tf.fill([rows, 1], tokenizer.end_id)], axis=1)


def _mean(encoder: keras.Model, ids: tf.Tensor, lengths: np.ndarray) -> tf.Tensor:
    states = tf.cast(encoder(ids, training=False), tf.float32)
    real = tf.sequence_mask(lengths, tf.shape(ids)[1], tf.float32)[:, :, None]
    mean = tf.reduce_sum(states * real, axis=1) / tf.reduce_sum(real, axis=1)
    return tf.math.l2_normalize(mean, axis=1)
