"""The language models: recurrent ones as `keras.Sequential` lists, the decoder-only Transformer, and the encoder.

Each is a Keras model from ids `(batch, time)` int32 to logits `(batch, time, vocabulary_size)` float32: a prediction at every position
(not one a window), no softmax inside (the loss takes logits), and the vocabulary's embedding in front. The encoder gives its states in
place of logits, and `masked_lm` puts logits behind them.

References:
    Articles A3 §4.1 (SimpleRNN), A0 §5, A2 §4, A3 §4.2 and A4 §5 (LSTM), A4 §3.1.3 (GRU), A1 §4 (Transformer), put right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_lm.dropout import HashDropout
from keras_lm.errors import unknown_name
from keras_lm.layers import OutputBias, PositionEmbedding, TransformerBlock, gelu_tanh, normalization

POSITIONS = ("rotary", "learned")


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
    gated: bool = False,
    epsilon: float | None = None,
    head_dim: int | None = None,
    rotary_base: float = 10000.0,
) -> keras.Model:
    """A decoder-only Transformer with pre-norm blocks.

    With `positions="learned"`, `use_bias=True` and `activation="gelu_tanh"` it is GPT-2; with `normalization_kind="rms"`, `gated=True` and
    `activation="silu"` it is Llama.

    Args:
        vocabulary_size: Number of ids.
        context_length: The longest text in tokens.
        embedding_dim: Width of the model.
        num_layers: Number of blocks.
        num_heads: Number of query heads; divides `embedding_dim`, unless `head_dim` is given.
        num_kv_heads: Number of key/value heads; default as many.
        feed_forward_dim: Hidden width of the feed-forward part; default four times `embedding_dim`.
        positions: `"rotary"` (default) or `"learned"`.
        normalization_kind: `"layer"` (default) or `"rms"`.
        activation: Of the feed-forward part: a name of Keras', or `"gelu_tanh"` for `keras_lm.layers.gelu_tanh`.
        tied: Whether the output matrix is the embedding's (Press and Wolf 2016); default.
        use_bias: Whether projections have biases.
        dropout: Share dropped in training.
        gated, epsilon, head_dim, rotary_base: As in `TransformerBlock`.

    Returns:
        A functional `keras.Model`, `(batch, time)` int32 → `(batch, time, vocabulary_size)` float32.

    Raises:
        ValueError: heads that do not divide the width; an unknown kind of positions or normalisation.

    Example:

    >>> transformer_lm(100, context_length=16, embedding_dim=32)(tf.zeros([2, 5], tf.int32)).shape
    TensorShape([2, 5, 100])
    """
    _check_positions(positions)
    embedding = reversible_embedding(vocabulary_size, embedding_dim, tied)
    ids = keras.Input([None], dtype="int32", name="ids")
    x = embedding(ids)
    if positions == "learned":
        x = PositionEmbedding(context_length, name="positions")(x)
    if dropout:
        x = HashDropout(dropout)(x)
    for number in range(num_layers):
        x = TransformerBlock(
            num_heads=num_heads,
            feed_forward_dim=feed_forward_dim or 4 * embedding_dim,
            context_length=context_length,
            num_kv_heads=num_kv_heads,
            rotary=positions == "rotary",
            use_bias=use_bias,
            activation=_activation(activation),
            normalization=normalization_kind,
            dropout=dropout,
            output_stddev=0.02 * (2 * num_layers) ** -0.5,
            gated=gated,
            epsilon=epsilon,
            head_dim=head_dim,
            rotary_base=rotary_base,
            name=f"block_{number}",
        )(x)
    x = normalization(normalization_kind, epsilon, name="final_norm")(x)
    return keras.Model(ids, embedding(x, reverse=True), name="transformer_lm")


def transformer_encoder(
    vocabulary_size: int,
    *,
    context_length: int = 128,
    embedding_dim: int = 256,
    num_layers: int = 4,
    num_heads: int = 4,
    feed_forward_dim: int | None = None,
    num_token_types: int = 2,
    reads_types: bool = False,
    positions: str = "learned",
    normalization_kind: str = "layer",
    activation: str = "gelu",
    norm_first: bool = False,
    use_bias: bool = True,
    epsilon: float = 1e-12,
    dropout: float = 0.0,
    pad_id: int = 0,
) -> keras.Model:
    """A Transformer that reads the whole of a text, to the left and to the right of each token; the defaults are BERT's form.

    Args:
        vocabulary_size: Number of ids.
        context_length: The longest text in tokens.
        embedding_dim: Width of the model.
        num_layers: Number of blocks.
        num_heads: Number of heads; divides `embedding_dim`.
        feed_forward_dim: Hidden width of the feed-forward parts; default four times `embedding_dim`.
        num_token_types: Number of types a token can have: the first and the second text of a pair are 0 and 1.
        reads_types: Whether the types are a second input, `(batch, time)` int32; by default all are 0.
        positions: `"learned"` (default) or `"rotary"`.
        normalization_kind: `"layer"` (default) or `"rms"`.
        activation: As in `transformer_lm`.
        norm_first: Pre-norm, or normalised after each addition (default).
        use_bias: Whether projections have biases.
        epsilon: Of the normalisations.
        dropout: Share dropped in training.
        pad_id: The id of padding, which nothing attends to; texts are padded on the right.

    Returns:
        A functional `keras.Model`, `(batch, time)` int32 → `(batch, time, embedding_dim)`; with `reads_types` from `[ids, types]`.

    Raises:
        ValueError: heads that do not divide the width; an unknown kind of positions or normalisation.

    Example:

    >>> encoder = transformer_encoder(100, context_length=16, embedding_dim=32, num_layers=1)
    >>> encoder(tf.constant([[5, 6, 7, 0]])).shape
    TensorShape([1, 4, 32])

    References:
        Devlin et al. 2019, «BERT».
    """
    _check_positions(positions)
    ids = keras.Input([None], dtype="int32", name="ids")
    types = keras.Input([None], dtype="int32", name="token_types") if reads_types else ops.zeros_like(ids)
    visible = ops.not_equal(ids, pad_id)
    x = reversible_embedding(vocabulary_size, embedding_dim, tied=True)(ids)
    if positions == "learned":
        x = PositionEmbedding(context_length, name="positions")(x)
    draw = keras.initializers.RandomNormal(stddev=0.02)
    type_embedding = keras.layers.Embedding(num_token_types, embedding_dim, embeddings_initializer=draw, name="type_embedding")
    x = keras.layers.Add(name="typed")([x, type_embedding(types)])
    x = normalization(normalization_kind, epsilon, name="embedding_norm")(x)
    if dropout:
        x = HashDropout(dropout)(x)
    for number in range(num_layers):
        x = TransformerBlock(
            num_heads=num_heads,
            feed_forward_dim=feed_forward_dim or 4 * embedding_dim,
            context_length=context_length,
            rotary=positions == "rotary",
            use_bias=use_bias,
            activation=_activation(activation),
            normalization=normalization_kind,
            dropout=dropout,
            causal=False,
            norm_first=norm_first,
            epsilon=epsilon,
            name=f"block_{number}",
        )(x, visible=visible)
    if norm_first:
        x = normalization(normalization_kind, epsilon, name="final_norm")(x)
    return keras.Model([ids, types] if reads_types else ids, x, name="transformer_encoder")


def masked_lm(encoder: keras.Model) -> keras.Model:
    """An encoder that says which token stands, or stood, at each position: BERT's head for masked tokens behind it.

    Args:
        encoder: What `transformer_encoder` gives; it shares its layers, and so its weights, with the model that is made.

    Returns:
        A functional `keras.Model` from the encoder's inputs to logits `(batch, time, vocabulary_size)` float32.

    Example:

    >>> encoder = transformer_encoder(100, context_length=16, embedding_dim=32, num_layers=1)
    >>> masked_lm(encoder)(tf.constant([[5, 6, 7, 0]])).shape
    TensorShape([1, 4, 100])

    References:
        Devlin et al. 2019, «BERT», §3.1.
    """
    embedding = encoder.get_layer("embedding")
    block = next(layer for layer in encoder.layers if isinstance(layer, TransformerBlock))
    draw = keras.initializers.RandomNormal(stddev=0.02)
    x = keras.layers.Dense(embedding.output_dim, block.activation, kernel_initializer=draw, name="head_dense")(encoder.output)
    x = normalization(block.normalization, block.epsilon, name="head_norm")(x)
    return keras.Model(encoder.input, OutputBias(dtype="float32", name="head_bias")(embedding(x, reverse=True)), name="masked_lm")


def reversible_embedding(vocabulary_size: int, embedding_dim: int, tied: bool) -> keras.layers.ReversibleEmbedding:
    """The embedding of a Transformer, which makes its logits too: by the same matrix, if `tied`."""
    draw = keras.initializers.RandomNormal(stddev=0.02)
    return keras.layers.ReversibleEmbedding(
        vocabulary_size, embedding_dim, tie_weights=tied, embeddings_initializer=draw, reverse_dtype="float32", name="embedding"
    )


def _activation(name: str) -> str | Callable[[tf.Tensor], tf.Tensor]:
    return gelu_tanh if name == "gelu_tanh" else name


def _check_positions(positions: str) -> None:
    if positions not in POSITIONS:
        raise ValueError(f"positions must be {' or '.join(POSITIONS)}, got {positions!r}")


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


def encoder_of(model: keras.Model) -> keras.Model | None:
    """The part of an encoder-decoder that reads the source: the model called `encoder` inside it. `None` for any other model."""
    return next((layer for layer in model.layers if isinstance(layer, keras.Model) and layer.name == "encoder"), None)


def run_layers(
    model: keras.Model,
    inputs: tf.Tensor | Sequence[tf.Tensor],
    replace: Callable[[keras.Operation], Callable],
    replace_model: Callable[[keras.Model], Callable | None] = lambda model: None,
) -> tf.Tensor:
    """Runs a Sequential or Functional model with each layer called through `replace(layer)` in its stead.

    This is how a model that is written once is run in other ways: with recurrent states carried in and out, or step by step.

    Args:
        model: A built Sequential or Functional model; models inside it are entered.
        inputs: `(batch, time)` ids, or one tensor an input of the model.
        replace: From a layer to the function that is called with the layer's arguments.
        replace_model: The same for a model inside; where it gives `None`, the model is entered.

    Raises:
        ValueError: a subclassed model, whose layers cannot be known.
    """

    def enter(operation: keras.Operation) -> Callable:
        if isinstance(operation, keras.Model):
            return replace_model(operation) or (lambda x, **_: run_layers(operation, x, replace, replace_model))
        return replace(operation)

    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            inputs = enter(layer)(inputs)
        return inputs
    if not hasattr(model, "_run_through_graph"):
        raise ValueError(f"{model.name} is neither Sequential nor Functional, so its layers cannot be followed")
    return model._run_through_graph(inputs, operation_fn=enter)


def call_layer(layer: keras.Operation, inputs: Sequence[Any], given: Mapping[str, Any], training: bool) -> Any:
    """A layer as `run_layers` calls it, told whether dropout acts where it wants to know.

    Args:
        layer: The layer.
        inputs: What it is called with by place.
        given: What it is called with by name; a `training` among it is not heard.
        training: Whether dropout acts.

    Example:

    >>> call_layer(keras.layers.Dropout(0.5), [tf.ones([2])], {"training": None}, training=False).numpy().tolist()
    [1.0, 1.0]
    """
    told = {"training": training} if getattr(layer, "_call_has_training_arg", False) else {}
    return layer(*inputs, **{**given, **told})
