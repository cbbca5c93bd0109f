"""The language models: recurrent ones as `keras.Sequential` lists, and the decoder-only Transformer.

Each is a Keras model from ids `(batch, time)` int32 to logits `(batch, time, vocabulary_size)` float32: a prediction at every position
(not one a window), no softmax inside (the loss takes logits), and the vocabulary's embedding in front.

References:
    Articles A3 §4.1 (SimpleRNN), A0 §5, A2 §4, A3 §4.2 and A4 §5 (LSTM), A4 §3.1.3 (GRU), A1 §4 (Transformer), put right.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from keras_lm.errors import unknown_name
from keras_lm.layers import PositionEmbedding, TransformerBlock, normalization


def simple_rnn_lm(
    vocabulary_size: int, *, embedding_dim: int = 256, hidden_dim: int = 256, num_layers: int = 2, dropout: float = 0.0
) -> keras.Sequential:
    """A language model of Elman networks, h_t = tanh(W x_t + U h_{t-1} + b) (A3 §4.1).

    Args:
        vocabulary_size: Number of ids.
        embedding_dim: Width of a token's vector.
        hidden_dim: Width of the hidden state of each layer.
        num_layers: Number of recurrent layers.
        dropout: Share of the vectors between layers dropped in training.

    Returns:
        A built `keras.Sequential`, `(batch, time)` int32 → `(batch, time, vocabulary_size)` float32.

    Example:

    >>> model = simple_rnn_lm(100, embedding_dim=8, hidden_dim=16)
    >>> [type(layer).__name__ for layer in model.layers]
    ['Embedding', 'SimpleRNN', 'SimpleRNN', 'Dense']
    >>> model(tf.zeros([2, 5], tf.int32)).shape
    TensorShape([2, 5, 100])
    """
    return _recurrent(keras.layers.SimpleRNN, "simple_rnn_lm", vocabulary_size, embedding_dim, hidden_dim, num_layers, dropout)


def lstm_lm(
    vocabulary_size: int, *, embedding_dim: int = 256, hidden_dim: int = 256, num_layers: int = 2, dropout: float = 0.0
) -> keras.Sequential:
    """A language model of LSTMs, c_t = f⊙c_{t-1} + i⊙g, h_t = o⊙tanh(c_t); arguments as in `simple_rnn_lm`.

    References:
        Hochreiter and Schmidhuber 1997; Gers et al. 2000 (the forget gate, which article A0 §4.2 leaves out).

    Example:

    >>> lstm_lm(100, num_layers=1)(tf.zeros([2, 5], tf.int32)).shape
    TensorShape([2, 5, 100])
    """
    return _recurrent(keras.layers.LSTM, "lstm_lm", vocabulary_size, embedding_dim, hidden_dim, num_layers, dropout)


def gru_lm(
    vocabulary_size: int, *, embedding_dim: int = 256, hidden_dim: int = 256, num_layers: int = 2, dropout: float = 0.0
) -> keras.Sequential:
    """A language model of GRUs, h_t = z⊙h_{t-1} + (1-z)⊙h̃ (Cho et al. 2014, in Keras' form); arguments as in `simple_rnn_lm`.

    Example:

    >>> gru_lm(100, num_layers=1)(tf.zeros([2, 5], tf.int32)).shape
    TensorShape([2, 5, 100])
    """
    return _recurrent(keras.layers.GRU, "gru_lm", vocabulary_size, embedding_dim, hidden_dim, num_layers, dropout)


def _recurrent(
    layer: type[keras.layers.RNN], name: str, vocabulary_size: int, embedding_dim: int, hidden_dim: int, num_layers: int, dropout: float
) -> keras.Sequential:
    layers = [keras.Input([None], dtype="int32"), keras.layers.Embedding(vocabulary_size, embedding_dim)]
    for _ in range(num_layers):
        layers.append(layer(hidden_dim, return_sequences=True))  # every state, not the last alone: a prediction at each position
        if dropout:
            layers.append(keras.layers.Dropout(dropout))
    layers.append(keras.layers.Dense(vocabulary_size, dtype="float32"))  # logits: the loss applies the softmax
    return keras.Sequential(layers, name=name)


def transformer_lm(
    vocabulary_size: int,
    *,
    context_length: int = 128,
    embedding_dim: int = 256,
    num_layers: int = 4,
    num_heads: int = 4,
    num_kv_heads: int | None = None,
    feed_forward_dim: int | None = None,
    positions: str = "rotary",
    normalization_kind: str = "layer",
    activation: str = "gelu",
    tied: bool = True,
    use_bias: bool = False,
    dropout: float = 0.0,
) -> keras.Model:
    """A decoder-only Transformer with pre-norm blocks.

    Args:
        vocabulary_size: Number of ids.
        context_length: The longest text in tokens.
        embedding_dim: Width of the model.
        num_layers: Number of blocks.
        num_heads: Number of query heads; divides `embedding_dim`.
        num_kv_heads: Number of key/value heads; default as many.
        feed_forward_dim: Hidden width of the feed-forward part; default four times `embedding_dim`.
        positions: `"rotary"` (default) or `"learned"`.
        normalization_kind: `"layer"` (default) or `"rms"`.
        activation: Of the feed-forward part.
        tied: Whether the output matrix is the embedding's (Press and Wolf 2016); default.
        use_bias: Whether projections have biases.
        dropout: Share dropped in training.

    Returns:
        A functional `keras.Model`, `(batch, time)` int32 → `(batch, time, vocabulary_size)` float32.

    Raises:
        ValueError: heads that do not divide the width; an unknown kind of positions or normalisation.

    Example:

    >>> transformer_lm(100, context_length=16, embedding_dim=32)(tf.zeros([2, 5], tf.int32)).shape
    TensorShape([2, 5, 100])
    """
    if positions not in ("rotary", "learned"):
        raise ValueError(f"positions must be rotary or learned, got {positions!r}")
    embedding = keras.layers.ReversibleEmbedding(
        vocabulary_size,
        embedding_dim,
        tie_weights=tied,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=0.02),
        reverse_dtype="float32",
        name="embedding",
    )
    ids = keras.Input([None], dtype="int32", name="ids")
    x = embedding(ids)
    if positions == "learned":
        x = PositionEmbedding(context_length, name="positions")(x)
    if dropout:
        x = keras.layers.Dropout(dropout)(x)
    for number in range(num_layers):
        x = TransformerBlock(
            num_heads=num_heads,
            feed_forward_dim=feed_forward_dim or 4 * embedding_dim,
            context_length=context_length,
            num_kv_heads=num_kv_heads,
            rotary=positions == "rotary",
            use_bias=use_bias,
            activation=activation,
            normalization=normalization_kind,
            dropout=dropout,
            output_stddev=0.02 * (2 * num_layers) ** -0.5,
            name=f"block_{number}",
        )(x)
    x = normalization(normalization_kind, name="final_norm")(x)
    return keras.Model(ids, embedding(x, reverse=True), name="transformer_lm")


MODELS: dict[str, Callable[..., keras.Model]] = {
    "simple_rnn": simple_rnn_lm,
    "lstm": lstm_lm,
    "gru": gru_lm,
    "transformer": transformer_lm,
}
"""The models by the name that `--model` takes."""


def get(kind: str) -> Callable[..., keras.Model]:
    """The function that builds the model called `kind`.

    Raises:
        UserError: no such model; the message names the nearest.
    """
    if kind not in MODELS:
        raise unknown_name("model", kind, MODELS)
    return MODELS[kind]


def run_layers(model: keras.Model, inputs: tf.Tensor, replace: Callable[[keras.Operation], Callable]) -> tf.Tensor:
    """Runs a Sequential or Functional model with each layer called through `replace(layer)` in its stead.

    This is how a model that is written once is run in other ways: with recurrent states carried in and out, or step by step.

    Args:
        model: A built Sequential or Functional model with one input and one output; models inside it are entered.
        inputs: `(batch, time)` ids.
        replace: From a layer to the function that is called with the layer's arguments.

    Raises:
        ValueError: a subclassed model, whose layers cannot be known.
    """

    def enter(operation: keras.Operation) -> Callable:
        if isinstance(operation, keras.Model):
            return lambda x, **_: run_layers(operation, x, replace)
        return replace(operation)

    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            inputs = enter(layer)(inputs)
        return inputs
    if not hasattr(model, "_run_through_graph"):
        raise ValueError(f"{model.name} is neither Sequential nor Functional, so its layers cannot be followed")
    return model._run_through_graph(inputs, operation_fn=enter)
