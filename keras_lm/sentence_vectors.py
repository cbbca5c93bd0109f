"""A vector for a text, so that texts that mean the like point the same way: what search compares.

Two texts are read by the same model, each for itself, and compared by the cosine of their vectors. Of pairs that belong together, such as
a headline and its article, it is learnt by contrast: among all second texts of a batch each first text has to find its own. Of pairs that
people gave scores, the cosine is to be the score.

References:
    Article A3 §2 and §5. Reimers and Gurevych 2019, «Sentence-BERT» (arXiv:1908.10084), §3, the regression objective; Gao, Yao and Chen
    2021, «SimCSE» (arXiv:2104.08821), equation 1 and its temperature; van den Oord, Li and Vinyals 2018 (arXiv:1807.03748: InfoNCE).
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops

from keras_lm.pooling import Pooling

TEMPERATURE = 0.05


def sentence_encoder(body: keras.Model, *, pooling: str = "mean", dropout: float = 0.0) -> keras.Model:
    """A model that makes a vector of a text.

    Args:
        body: From `keras_lm.heads.text_body` or `body_of`; the encoder shares its layers.
        pooling: `"mean"` (default), `"max"` or `"last"`: what is made of the tokens' vectors.
        dropout: Share of the text's vector dropped in training.

    Returns:
        A Functional `keras.Model`, ids `(batch, time)` int32 → `(batch, width)` float32 of length one.

    Example:

    >>> from keras_lm.heads import text_body
    >>> vectors = sentence_encoder(text_body("gru", 100, embedding_dim=8, hidden_dim=16))(tf.constant([[2, 50, 3], [2, 3, 0]]))
    >>> vectors.shape, tf.norm(vectors, axis=1).numpy().round(4).tolist()
    (TensorShape([2, 32]), [1.0, 1.0])
    """
    ids = body.inputs[0]
    x = Pooling(pooling, dtype="float32", name="sentence_pooling")(body.outputs[0], ops.not_equal(ids, 0))
    if dropout:
        x = keras.layers.Dropout(dropout, dtype="float32", name="head_dropout")(x)
    return keras.Model(ids, keras.layers.UnitNormalization(dtype="float32", name="unit")(x), name="sentence_encoder")


def summed_pair_loss(vectors: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """The sum of the losses of pairs, each times its weight.

    Args:
        vectors: `(2 x pairs, width)`, of length one: those of the first texts, then those of the second ones.
        labels: `(pairs,)`. Float32: the cosine that the two should have, and the loss is the square of what it is off. Int32: a number for
            each first text, and the loss is -ln P of finding the own second text among all of the batch, and the other way round, halved;
            another second text of the same first one is left out.
        weights: `(pairs,)` float32; 0 for padding.

    Returns:
        `()` float32.

    Example:

    >>> vectors = tf.constant([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]])
    >>> round(float(summed_pair_loss(vectors, tf.constant([1.0, 1.0]), tf.ones(2))), 4)
    0.04
    """
    if labels.dtype.is_floating:
        return tf.reduce_sum(tf.square(_cosines(vectors) - labels) * weights)
    logits = _products(vectors, labels, weights) / TEMPERATURE
    own = tf.range(tf.shape(labels)[0])
    both = [tf.nn.sparse_softmax_cross_entropy_with_logits(own, one) for one in (logits, tf.transpose(logits))]
    return tf.reduce_sum((both[0] + both[1]) / 2 * weights)


def summed_pair_right(vectors: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """The sum of the weights of those pairs that are told right, `()` float32; arguments as those of `summed_pair_loss`.

    A pair with a score is, whose cosine is on the same side of one half; one without, whose second text is nearest to the first.
    """
    if labels.dtype.is_floating:
        right = (_cosines(vectors) >= 0.5) == (labels >= 0.5)
    else:
        right = tf.argmax(_products(vectors, labels, weights), axis=1, output_type=tf.int32) == tf.range(tf.shape(labels)[0])
    return tf.reduce_sum(tf.cast(right, tf.float32) * weights)


def _cosines(vectors: tf.Tensor) -> tf.Tensor:
    firsts, seconds = tf.split(vectors, 2)
    return tf.reduce_sum(firsts * seconds, axis=1)


def _products(vectors: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """`(pairs, pairs)`: each first text by each second one, far below any cosine where the two are not to be told apart."""
    firsts, seconds = tf.split(vectors, 2)
    same = (labels[:, None] == labels[None]) | (weights[None] == 0) | (weights[:, None] == 0)
    apart = tf.linalg.set_diag(same, tf.zeros_like(weights, tf.bool))
    return tf.where(apart, tf.constant(-1e4, vectors.dtype), tf.matmul(firsts, seconds, transpose_b=True))
