"""The `attention` signature: where each head of a causal Transformer looks as it reads a text, for a client that draws it.

The weights are those of `keras_lm.insight.attention`, of the first tokens alone: their number grows with the square of a text's length, and
REST writes each as a decimal.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from keras_lm.export.signature import Input, Signature
from keras_lm.generation.state import Decoder
from keras_lm.insight.attention import attention_weights, readable_names
from keras_lm.tokenizers import Tokenizer

LONGEST = 64
"""The most tokens of a text that are looked at, the start token among them."""


def attention_signature(decoder: Decoder, tokenizer: Tokenizer, ids_of: Callable[[tf.Tensor], tf.RaggedTensor]) -> Signature | None:
    """`attention` for a model: `texts` → `tokens` `(batch, time)` and `weights` `(batch, layers, heads, queries, keys)` float32.

    Behind the end of a text stand '' and 0.

    Args:
        decoder: The model.
        tokenizer: Names the tokens.
        ids_of: Texts `(batch,)` → what the model reads of them, `(batch, (tokens))` int32.

    Returns:
        `None` where there is no attention, or not one number of heads in all layers, which a tensor needs.
    """
    heads = {weights.shape[1] for weights in attention_weights(decoder.model, [tf.zeros([1, 1], tf.int32)]).values()}
    if len(heads) != 1:
        return None
    longest = min(LONGEST, decoder.context_length or LONGEST)

    def attend(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.size(texts)
        rows_of_ids = ids_of(tf.cond(rows > 0, lambda: texts, lambda: tf.constant([""])))[:, :longest]  # one of nothing has a width
        lengths = tf.cast(rows_of_ids.row_lengths(), tf.int32)
        ids = rows_of_ids.to_tensor(tokenizer.pad_id, shape=[None, None])
        real = tf.sequence_mask(lengths, tf.shape(ids)[1])  # what is behind a text's end is not seen from before it
        weights = tf.stack(list(attention_weights(decoder.model, [ids]).values()), axis=1)
        weights = tf.where(real[:, None, None, :, None], tf.cast(weights, tf.float32), 0.0)
        return {"tokens": tf.where(real, tf.gather(tf.constant(readable_names(tokenizer)), ids), "")[:rows], "weights": weights[:rows]}

    meaning = f"Where each layer and head looks as it reads the first {longest} tokens of each text."
    return Signature(meaning, {"texts": Input(tf.TensorSpec([None], tf.string))}, attend)
