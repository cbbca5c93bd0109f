"""What stands on a model that has read a text, in place of its next token: a class for the text, a tag for each token, a span of tokens.

A body is a Keras model from ids `(batch, time)` int32, padded with 0 on the right, to a vector for each position. It is a language model
without its logits, which has read what stands to the left of a position, or an encoder, which has read both sides; so what a language model
or a masked one has learnt can be taken over (`take_body`). A head makes logits of the vectors.

References:
    Articles A2 (pre-training, then fine-tuning), A1 §6. Devlin et al. 2019, «BERT», §3.2; Radford et al. 2018, «Improving Language
    Understanding by Generative Pre-Training», §3.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf
from keras import ops

from keras_lm import models
from keras_lm.crf import CRF
from keras_lm.errors import UserError
from keras_lm.ngram_logits import NgramLogits
from keras_lm.pooling import Pooling
from keras_lm.recurrent_attention import ReverseText, read_both_ways
from keras_lm.sentence_vectors import summed_pair_loss, summed_pair_right
from keras_lm.tokenizer_base import END_ID

_CELLS = {"simple_rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


def text_body(
    kind: str,
    vocabulary_size: int,
    *,
    bidirectional: bool = True,
    embedding_dim: int = 256,
    num_layers: int = 2,
    dropout: float = 0.0,
    **arguments: object,
) -> keras.Model:
    """A model that reads a text.

    Args:
        kind: `simple_rnn`, `lstm`, `gru` or `transformer`.
        vocabulary_size: Number of ids.
        bidirectional: Whether a position knows what stands to its right as well (default). Without it the body is that of the language
            model of this kind; with it a Transformer is that of `keras_lm.models.transformer_encoder`, pre-norm, and a recurrent layer
            two, of which one reads backwards.
        embedding_dim: Width of a token's vector; for the transformer of the whole model.
        num_layers: Recurrent layers, in each direction, or blocks.
        dropout: Share dropped in training.
        **arguments: As the function of this kind in `keras_lm.models` takes them.

    Returns:
        A Functional `keras.Model`, `(batch, time)` int32 → `(batch, time, width)`.

    Raises:
        UserError: no such kind.

    Example:

    >>> ids = tf.constant([[5, 6, 7, 0]])
    >>> text_body("gru", 100, embedding_dim=8, hidden_dim=16, num_layers=1)(ids).shape
    TensorShape([1, 4, 32])
    >>> text_body("transformer", 100, bidirectional=False, embedding_dim=32, num_heads=2)(ids).shape
    TensorShape([1, 4, 32])
    """
    common = {"embedding_dim": embedding_dim, "num_layers": num_layers, "dropout": dropout}
    if not bidirectional:
        return body_of(models.get(kind)(vocabulary_size, **common, **arguments))
    if kind == "transformer":
        return models.transformer_encoder(vocabulary_size, norm_first=True, use_bias=False, epsilon=None, **common, **arguments)
    models.get(kind)
    return _recurrent_both_ways(kind, vocabulary_size, **common, **arguments)


def _recurrent_both_ways(
    kind: str, vocabulary_size: int, *, embedding_dim: int, num_layers: int, dropout: float, hidden_dim: int = 256
) -> keras.Model:
    ids = keras.Input([None], dtype="int32", name="ids")
    visible = ops.not_equal(ids, 0)
    x = keras.layers.Embedding(vocabulary_size, embedding_dim, name="embedding")(ids)
    for number in range(num_layers):
        forward, backward = read_both_ways(_CELLS[kind], hidden_dim, x, visible, f"{{}}_{number}")
        x = keras.layers.Concatenate()([forward, ReverseText()(backward, visible)])
        if dropout:
            x = keras.layers.Dropout(dropout)(x)
    return keras.Model(ids, x, name=f"{kind}_body")


def body_of(model: keras.Model) -> keras.Model:
    """The part of a language model that reads: from its ids to the vectors that its logits are made of.

    Args:
        model: One of `keras_lm.models.MODELS`, a masked language model, or a model with a head of this module.

    Raises:
        UserError: any other.

    Example:

    >>> body_of(models.lstm_lm(100, embedding_dim=8, hidden_dim=16)).output_shape
    (None, None, 16)
    """
    if isinstance(model, keras.Sequential):
        outputs = model.layers[-2].output
    elif model.name == "transformer_lm":
        outputs = model.get_layer("final_norm").output
    elif model.name in _FIRST_OF_HEAD:
        outputs = model.get_layer(_FIRST_OF_HEAD[model.name]).input
        outputs = outputs[0] if isinstance(outputs, list | tuple) else outputs
    else:
        raise UserError(f"the model {model.name} is none that a classifier or tagger can take over from")
    return keras.Model(model.inputs[0], outputs, name="body")


_FIRST_OF_HEAD = {
    "masked_lm": "head_dense",
    "classifier": "pooling",
    "tagger": "tags",
    "answerer": "span",
    "sentence_encoder": "sentence_pooling",
}
"""By the name of a model: the layer that its head begins with."""


def take_body(model: keras.Model, learnt: keras.Model) -> None:
    """Gives the body of `model` the weights of another's.

    Args:
        model: Whose weights are replaced, but for its head's.
        learnt: A language model, a masked one, or one with a head, of the same body.

    Raises:
        UserError: bodies of another form; the message names the first weight that differs.

    Example:

    >>> sizes = {"embedding_dim": 8, "hidden_dim": 16, "num_layers": 1}
    >>> language_model = models.gru_lm(100, **sizes)
    >>> model = classifier(text_body("gru", 100, bidirectional=False, **sizes), 2)
    >>> take_body(model, language_model)
    >>> bool(tf.reduce_all(model.layers[1].embeddings == language_model.layers[0].embeddings))
    True
    """
    targets, sources = _weights(body_of(model)), _weights(body_of(learnt))
    for target, source in zip(targets, sources, strict=False):
        if target.shape != source.shape:
            raise UserError(f"{target.path} is {target.shape} here, but {source.path} is {source.shape} in the model to start from")
    if len(targets) != len(sources):
        raise UserError(f"the model has {len(targets)} weights before its head, the one to start from {len(sources)}")
    for target, source in zip(targets, sources, strict=True):
        target.assign(source)


def _weights(body: keras.Model) -> list[keras.Variable]:
    return [variable for variable in body.variables if "seed_generator" not in variable.path]


def classifier(body: keras.Model, num_classes: int, *, pooling: str = "mean", dropout: float = 0.0, ngrams: int = 0) -> keras.Model:
    """A model that says what a text is.

    Args:
        body: From `text_body` or `body_of`; the classifier shares its layers.
        num_classes: How many classes there are.
        pooling: `"mean"` (default), `"max"` or `"last"`: what is made of a text's vectors.
        dropout: Share of the text's vector dropped in training, and of its runs.
        ngrams: Tokens of the longest runs that speak for classes by themselves, beside what the body makes of the text
            (`keras_lm.ngram_logits`). Default 0: none do.

    Returns:
        A Functional `keras.Model`, ids `(batch, time)` int32 → logits `(batch, num_classes)` float32.

    Example:

    >>> classifier(text_body("lstm", 100, embedding_dim=8, hidden_dim=16), 3)(tf.constant([[5, 6, 0]])).shape
    TensorShape([1, 3])
    """
    ids = body.inputs[0]
    x = Pooling(pooling, name="pooling")(body.outputs[0], ops.not_equal(ids, 0))
    if dropout:
        x = keras.layers.Dropout(dropout, name="head_dropout")(x)
    logits = keras.layers.Dense(num_classes, dtype="float32", name="classes")(x)
    if ngrams:
        logits = keras.layers.Add(dtype="float32", name="wide_and_deep")(
            [logits, NgramLogits(num_classes, ngrams, dropout=dropout, dtype="float32", name="ngrams")(ids)]
        )
    return keras.Model(ids, logits, name="classifier")


def tagger(
    body: keras.Model,
    num_tags: int,
    *,
    crf: bool = True,
    forbidden: Sequence[tuple[int, int]] = (),
    forbidden_start: Sequence[int] = (),
    forbidden_end: Sequence[int] = (),
) -> keras.Model:
    """A model that gives each token a tag.

    Args:
        body: As in `classifier`.
        num_tags: How many tags there are.
        crf: Whether tags are judged as a sequence (`keras_lm.crf`, default), or each for itself.
        forbidden, forbidden_start, forbidden_end: Pairs of tags that never follow each other, tags that no text begins with, and that none
            ends with, as `keras_lm.tagged` lists them; with `crf` they get no probability, without they are of no account.

    Returns:
        A Functional `keras.Model`, ids `(batch, time)` int32 → logits `(batch, time, num_tags)` float32: with `crf` what the tokens
        themselves speak for, to which `crf_of(model)` adds what follows what.

    Example:

    >>> tagger(text_body("gru", 100, embedding_dim=8, hidden_dim=16), 5)(tf.constant([[5, 6, 0]])).shape
    TensorShape([1, 3, 5])
    """
    x = keras.layers.Dense(num_tags, dtype="float32", name="tags")(body.outputs[0])
    if crf:
        never = {"forbidden": forbidden, "forbidden_start": forbidden_start, "forbidden_end": forbidden_end}
        x = CRF(num_tags, **never, dtype="float32", name="crf")(x)
    return keras.Model(body.inputs[0], x, name="tagger")


@keras.saving.register_keras_serializable(package="keras_lm")
class PassageOnly(keras.layers.Layer):
    """Lets a span begin and end in the passage alone, or at the first position, which says that it is not there.

    Call arguments:
        logits: `(batch, time, 2)`: for the first and the last token of the span.
        ids: `(batch, time)`: `start question end passage end`, padded with 0.

    Returns:
        `(batch, 2, time)`, -1e9 where no span can begin or end.
    """

    def call(self, logits: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
        ends = tf.cast(ids == END_ID, tf.int32)
        inside = (tf.cumsum(ends, axis=1) == 1) & (ends == 0)
        first = tf.range(tf.shape(ids)[1]) == 0
        return tf.where((inside | first)[:, None], tf.transpose(logits, [0, 2, 1]), tf.constant(-1e9, logits.dtype))

    def compute_output_shape(self, logits_shape: tuple, ids_shape: tuple) -> tuple:
        return logits_shape[0], logits_shape[2], logits_shape[1]


def answerer(body: keras.Model) -> keras.Model:
    """A model that finds the answer to a question in a passage.

    Args:
        body: As in `classifier`, of a model that reads both ways.

    Returns:
        A Functional `keras.Model`, ids `(batch, time)` int32, each row `start question end passage end` → logits `(batch, 2, time)`:
        where the answer begins, and where its last token stands. Position 0 says that the passage does not hold it.

    References:
        Devlin et al. 2019, §4.2 and §4.3.

    Example:

    >>> logits = answerer(text_body("gru", 100, embedding_dim=8, hidden_dim=16))(tf.constant([[2, 50, 3, 60, 61, 3, 0]]))
    >>> (logits[0] > -1e9).numpy().astype(int).tolist()
    [[1, 0, 0, 1, 1, 0, 0], [1, 0, 0, 1, 1, 0, 0]]
    """
    x = keras.layers.Dense(2, dtype="float32", name="span")(body.outputs[0])
    return keras.Model(body.inputs[0], PassageOnly(dtype="float32", name="passage_only")(x, body.inputs[0]), name="answerer")


def crf_of(model: keras.Model) -> CRF | None:
    """The CRF that a model ends with; `None` where there is none."""
    return next((layer for layer in model.layers if isinstance(layer, CRF)), None)


def summed_loss(model: keras.Model, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """The sum of -ln P of each label, times its weight.

    Args:
        model: What gave the logits; with a CRF the tags of a text are one thing, whose -ln P counts with the weight of one of them.
        labels: `(batch,)`, `(batch, time)` or, of spans, `(batch, 2)` int32; of pairs as `sentence_vectors.summed_pair_loss` takes them.
        logits: The same, and the classes as last axis; of pairs the vectors.
        weights: Of the shape of `labels`; 0 where there is no label. With a CRF all others of a row are equal, and stand together from the
            second position on, behind the start token.

    Returns:
        `()` float32.
    """
    if model.name == "sentence_encoder":
        return summed_pair_loss(logits, labels, weights)
    crf = crf_of(model)
    if crf is None:
        return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits) * weights)
    lengths = tf.math.count_nonzero(weights, axis=1, dtype=tf.int32)
    return -tf.reduce_sum(crf.log_likelihood(logits[:, 1:], labels[:, 1:], lengths) * tf.reduce_max(weights, axis=1))


def summed_right(model: keras.Model, ids: tf.Tensor, labels: tf.Tensor, logits: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """The sum of the weights of those labels that the model finds, `()` float32; arguments as those of `summed_loss`."""
    if model.name == "sentence_encoder":
        return summed_pair_right(logits, labels, weights)
    return tf.reduce_sum(tf.cast(best_labels(model, ids, logits) == labels, tf.float32) * weights)


def best_labels(model: keras.Model, ids: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """The most probable class of each text, `(batch,)` int32, the most probable tags, `(batch, time)`, or ends of a span, `(batch, 2)`.

    Args:
        model: What gave the logits.
        ids: `(batch, time)` int32: what it read.
        logits: `(batch, classes)`, `(batch, time, tags)` or `(batch, 2, time)`.
    """
    crf = crf_of(model)
    if crf is None:
        return tf.argmax(logits, axis=-1, output_type=tf.int32)
    between = tf.math.count_nonzero(ids, axis=1, dtype=tf.int32) - 2  # start and end have no tag
    return tf.pad(crf.decode(logits[:, 1:], tf.maximum(between, 0)), [[0, 0], [1, 0]])


def best_spans(logits: tf.Tensor, longest: int = 50) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """The best span of each row: it ends where it begins or behind, and does not begin at position 0; of equals the first.

    Args:
        logits: `(batch, 2, time)`, of an `answerer`, whose passages hold a token at least.
        longest: Most tokens of a span. Default 50.

    Returns:
        The first and the last token of each, `(batch,)` int32; how much higher the sum of their logits is than that of position 0, which
        says that there is none, `(batch,)` float32; and P(first) P(last).

    Example:

    >>> [part.numpy().round(2).tolist() for part in best_spans(tf.constant([[[9.0, 0.0, 1.0], [9.0, 4.0, 2.0]]]))]
    [[1], [1], [-14.0], [0.0]]
    """
    time = tf.shape(logits)[2]
    first, last = tf.range(time)[:, None], tf.range(time)[None]
    allowed = (first > 0) & (first <= last) & (last < first + longest)
    scores = tf.where(allowed, logits[:, 0, :, None] + logits[:, 1, None, :], logits.dtype.min)
    scores = tf.reshape(scores, [-1, time * time])
    best = tf.argmax(scores, axis=1, output_type=tf.int32)
    first, last = best // time, best % time
    probabilities = tf.nn.softmax(logits)
    chances = [tf.gather(probabilities[:, side], place, batch_dims=1) for side, place in enumerate((first, last))]
    score = tf.gather(scores, best, batch_dims=1) - logits[:, 0, 0] - logits[:, 1, 0]
    return first, last, score, chances[0] * chances[1]
