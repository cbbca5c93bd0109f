"""Encoder-decoders: a source is read whole, and a target written with an eye on it.

Each is a Functional Keras model from `[source, target]`, ids `(batch, source_time)` and `(batch, target_time)` int32, to logits
`(batch, target_time, vocabulary_size)` float32: at each position what comes next in the target. Sources are padded with 0 on the right.
One vocabulary, and one embedding, serves both sides.

The encoder is a model of its own, called `encoder`, behind the embedding. It gives one vector a position, not a single one for the whole
text (D15 of the articles), and where those stand for text. What looks at them are layers of the decoder; so the sampler steps through the
target as it does through any text, and reads the source once (`keras_lm.generation.state`).

References:
    Sutskever et al. 2014 (arXiv:1409.3215); Bahdanau et al. 2015 (arXiv:1409.0473); Luong et al. 2015 (arXiv:1508.04025); Vaswani et al.
    2017 (arXiv:1706.03762). Articles A1 §2 to §4, A2, A3 §4.3.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import ops

from keras_lm.dropout import HashDropout
from keras_lm.layers import PositionEmbedding, SinusoidalPositions, TransformerBlock, normalization
from keras_lm.models import reversible_embedding
from keras_lm.pointer import PointerGenerator
from keras_lm.recurrent_attention import AdditiveAttentionGRU, DotAttention, ReverseText, TextEnd, read_both_ways

POSITIONS = ("rotary", "learned", "sinusoidal")
ATTENTIONS = ("bahdanau", "luong")


def transformer_seq2seq(
    vocabulary_size: int,
    *,
    context_length: int = 128,
    embedding_dim: int = 256,
    num_layers: int = 3,
    num_encoder_layers: int | None = None,
    num_heads: int = 4,
    feed_forward_dim: int | None = None,
    positions: str = "rotary",
    normalization_kind: str = "layer",
    activation: str = "gelu",
    norm_first: bool = True,
    use_bias: bool = False,
    tied: bool = True,
    pointer: bool = False,
    dropout: float = 0.0,
) -> keras.Model:
    """The Transformer as it was first described: an encoder, and a decoder that attends to it.

    With `positions="sinusoidal"`, `norm_first=False`, `activation="relu"` and `use_bias=True` it is the original; the defaults are those
    of `keras_lm.models.transformer_lm`.

    Args:
        vocabulary_size: Number of ids, of both sides together.
        context_length: The longest source, and the longest target, in tokens.
        embedding_dim: Width of the model.
        num_layers: Number of the decoder's blocks.
        num_encoder_layers: Number of the encoder's; default as many.
        num_heads: Number of heads; divides `embedding_dim`.
        feed_forward_dim: Hidden width of the feed-forward parts; default four times `embedding_dim`.
        positions: `"rotary"` (default), `"learned"` or `"sinusoidal"`.
        normalization_kind: `"layer"` (default) or `"rms"`.
        activation: Of the feed-forward parts.
        norm_first: Pre-norm (default), or post-norm as in the original.
        use_bias: Whether projections have biases.
        tied: Whether the output matrix is the embedding's.
        pointer: Whether tokens of the source can be copied (`keras_lm.pointer`).
        dropout: Share dropped in training.

    Returns:
        A functional `keras.Model`, `[(batch, source_time), (batch, target_time)]` int32 → `(batch, target_time, vocabulary_size)` float32.

    Raises:
        ValueError: heads that do not divide the width; an unknown kind of positions or normalisation.

    Example:

    >>> import tensorflow as tf
    >>> model = transformer_seq2seq(100, context_length=16, embedding_dim=32, num_layers=1)
    >>> model([tf.constant([[5, 6, 7, 3]]), tf.constant([[2, 8]])]).shape
    TensorShape([1, 2, 100])
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    embedding = reversible_embedding(vocabulary_size, embedding_dim, tied)

    def begin(x: keras.KerasTensor, side: str) -> keras.KerasTensor:
        if positions == "sinusoidal":
            x = keras.layers.Rescaling(embedding_dim**0.5, name=f"{side}_scale")(x)  # beside sines of length 1, as Vaswani et al. §3.4
            x = SinusoidalPositions(context_length, name=f"{side}_positions")(x)
        elif positions == "learned":
            x = PositionEmbedding(context_length, name=f"{side}_positions")(x)
        return HashDropout(dropout, name=f"{side}_dropout")(x) if dropout else x

    def block(side: str, number: int, count: int, branches: int, **kwargs: bool) -> TransformerBlock:
        return TransformerBlock(
            num_heads=num_heads,
            feed_forward_dim=feed_forward_dim or 4 * embedding_dim,
            context_length=context_length,
            rotary=positions == "rotary",
            use_bias=use_bias,
            activation=activation,
            normalization=normalization_kind,
            dropout=dropout,
            output_stddev=0.02 * (branches * count) ** -0.5,
            norm_first=norm_first,
            name=f"{side}_block_{number}",
            **kwargs,
        )

    source, target = pair_inputs()
    vectors, visible = encoder_inputs(embedding_dim)
    x = begin(vectors, "source")
    encoder_layers = num_encoder_layers or num_layers
    for number in range(encoder_layers):
        x = block("encoder", number, encoder_layers, 2, causal=False)(x, visible=visible)
    if norm_first:
        x = normalization(normalization_kind, name="encoder_norm")(x)
    encoder = keras.Model([vectors, visible], [x, visible], name="encoder")
    memory, memory_visible = encoder([embedding(source), ops.not_equal(source, 0)])
    x = begin(embedding(target), "target")
    for number in range(num_layers):
        x = block("decoder", number, num_layers, 3, cross=True)(x, memory=memory, memory_visible=memory_visible)
    if norm_first:
        x = normalization(normalization_kind, name="decoder_norm")(x)
    logits = embedding(x, reverse=True)
    if pointer:
        logits = PointerGenerator(dtype="float32", name="pointer")(logits, x, target, memory, memory_visible, source)
    return keras.Model([source, target], logits, name="transformer_seq2seq")


def rnn_seq2seq(
    vocabulary_size: int,
    *,
    attention: str = "bahdanau",
    embedding_dim: int = 256,
    hidden_dim: int = 256,
    num_layers: int = 1,
    tied: bool = True,
    pointer: bool = False,
    dropout: float = 0.0,
) -> keras.Model:
    """Gated recurrent networks that read both ways, and one that writes with attention over what was read.

    With `"bahdanau"` the state before each step asks the memory, and what it finds enters the step; with `"luong"` the state after each
    step asks, and what it finds goes to the output. Where there are several layers in the decoder, the last one asks.

    Args:
        vocabulary_size: Number of ids, of both sides together.
        attention: `"bahdanau"` (additive, default) or `"luong"` (a product, scaled).
        embedding_dim: Width of a token's vector.
        hidden_dim: Width of the decoder's states, and of the encoder's in each direction.
        num_layers: Recurrent layers of the encoder, in each direction, and of the decoder.
        tied: Whether the output matrix is the embedding's.
        pointer: Whether tokens of the source can be copied (`keras_lm.pointer`).
        dropout: Share of the vectors between layers dropped in training.

    Returns:
        A functional `keras.Model`, `[(batch, source_time), (batch, target_time)]` int32 → `(batch, target_time, vocabulary_size)` float32.

    Raises:
        ValueError: an unknown kind of attention.

    Example:

    >>> import tensorflow as tf
    >>> model = rnn_seq2seq(100, attention="luong", embedding_dim=16, hidden_dim=16)
    >>> model([tf.constant([[5, 6, 7, 3]]), tf.constant([[2, 8]])]).shape
    TensorShape([1, 2, 100])
    """
    if attention not in ATTENTIONS:
        raise ValueError(f"attention must be one of {', '.join(ATTENTIONS)}, got {attention!r}")
    embedding = reversible_embedding(vocabulary_size, embedding_dim, tied)
    drop = lambda x: HashDropout(dropout)(x) if dropout else x  # a layer each: one shared over two models would not load
    source, target = pair_inputs()
    vectors, visible = encoder_inputs(embedding_dim)
    x, ends = drop(vectors), []
    for number in range(num_layers):
        forward, backward = read_both_ways(keras.layers.GRU, hidden_dim, x, visible, f"encoder_{{}}_{number}")
        last = keras.layers.Concatenate()([TextEnd()(forward, visible), TextEnd()(backward, visible)])
        ends.append(keras.layers.Dense(hidden_dim, activation="tanh", name=f"bridge_{number}")(last))
        x = drop(keras.layers.Concatenate()([forward, ReverseText()(backward, visible)]))
    encoder = keras.Model([vectors, visible], [x, visible, *ends], name="encoder")
    memory, memory_visible, *states = encoder([embedding(source), ops.not_equal(source, 0)])
    x = drop(embedding(target))
    for number, state in enumerate(states):
        if attention == "bahdanau" and number == num_layers - 1:
            x = AdditiveAttentionGRU(hidden_dim, name=f"decoder_{number}")(x, memory, memory_visible, initial_state=state)
        else:
            x = keras.layers.GRU(hidden_dim, return_sequences=True, name=f"decoder_{number}")(x, initial_state=state)
    if attention == "luong":
        x = DotAttention(hidden_dim, name="attention")(x, memory, memory_visible)
    x = drop(x)
    if x.shape[-1] != embedding_dim:
        x = keras.layers.Dense(embedding_dim, name="to_embedding")(x)  # the embedding's width, to be used backwards
    logits = embedding(x, reverse=True)
    if pointer:
        logits = PointerGenerator(dtype="float32", name="pointer")(logits, x, target, memory, memory_visible, source)
    return keras.Model([source, target], logits, name="rnn_seq2seq")


def pair_inputs() -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Source and target ids, `(batch, time)` int32."""
    return keras.Input([None], dtype="int32", name="source"), keras.Input([None], dtype="int32", name="target")


def encoder_inputs(embedding_dim: int) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The vectors of a source and where they stand for text."""
    return keras.Input([None, embedding_dim], name="source_vectors"), keras.Input([None], dtype="bool", name="source_visible")


SEQ2SEQ: dict[str, Callable[..., keras.Model]] = {"gru": rnn_seq2seq, "transformer": transformer_seq2seq}
"""The encoder-decoders by the name that `--model` takes."""
