"""Sentence VAEs: an encoder makes a distribution over vectors of a sentence, a decoder writes a sentence from a vector z drawn from it.

Each is a Functional Keras model from `[source, target]`, as the encoder-decoders of `keras_lm.seq2seq`, where the target is the source
itself. What goes from one to the other is z alone, which the decoder gets at every position: added to its inputs, and once more before
the logits. In training z is drawn, otherwise it is the mean.

Training minimises -ln P(text | z) + w KL(q(z | text) || N(0, 1)). A decoder that can write well by itself soon leaves z alone: the
posterior collapses to the prior. Against it stand the weight w, which rises from 0 to 1 (`kl_weight`), free bits (`kl_cost`), and tokens
hidden from the decoder (`keras_lm.word_dropout`).

References:
    Bowman et al. 2016, «Generating Sentences from a Continuous Space» (arXiv:1511.06349); Kingma and Welling 2014 (arXiv:1312.6114);
    Kingma et al. 2016 (arXiv:1606.04934), appendix C.8, for free bits; Fu et al. 2019 (arXiv:1903.10145) for a weight that rises anew;
    Dieng et al. 2019 (arXiv:1807.04863) for z before the logits; Long et al. 2019 (arXiv:1911.03976) for the pooling.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import keras
import tensorflow as tf
from keras import ops

from keras_lm.attention import MEMORY, Cache
from keras_lm.dropout import HashDropout, random_bits
from keras_lm.layers import PositionEmbedding, TransformerBlock, normalization
from keras_lm.models import encoder_of, reversible_embedding, run_layers
from keras_lm.pooling import Pooling
from keras_lm.recurrent_attention import ReverseText, read_both_ways
from keras_lm.seq2seq import encoder_inputs, pair_inputs

_CELLS = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
POSITIONS = ("rotary", "learned")


@keras.saving.register_keras_serializable(package="keras_lm")
class Latent(keras.layers.Layer):
    """Draws z = mean + σ ε in training, ε from N(0, 1); otherwise z is the mean.

    The sampler steps through it: at the first call it keeps z, and later ones read it there.

    Args:
        seed: Of what it draws; default another one each time.

    Call arguments:
        posterior: `(batch, 2 x latent_dim)`: means, then logarithms of variances.
        training: Whether z is drawn.

    Returns:
        `(batch, 1, latent_dim)`: z, to be added to what stands at each position.

    Example:

    >>> posterior = tf.constant([[0.5, -1.0, 0.0, 0.0]])
    >>> Latent()(posterior).numpy().tolist()
    [[[0.5, -1.0]]]
    >>> bool(tf.reduce_all(Latent(seed=1)(posterior, training=True) == Latent()(posterior)))
    False

    References:
        Kingma and Welling 2014, §2.4 (the reparametrisation).
    """

    def __init__(self, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, posterior: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training:
            return tf.split(posterior, 2, axis=-1)[0][:, None]
        return draw(posterior, self.seed_generator.next())[:, None]

    def init_cache(self, batch_size: int | tf.Tensor, length: int | tf.Tensor) -> Cache:
        return {}

    def extend(self, posterior: tf.Tensor, cache: Cache, start: int | tf.Tensor, padding: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        if isinstance(start, int) and start == 0:
            cache = {f"{MEMORY}z": self(posterior)}
        return cache[f"{MEMORY}z"], cache

    def compute_output_shape(self, posterior_shape: tuple) -> tuple:
        return posterior_shape[0], 1, posterior_shape[-1] // 2

    def get_config(self) -> dict:
        return {**super().get_config(), "seed": self.seed}


def draw(posterior: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draws z from posteriors.

    Args:
        posterior: `(batch, 2 x latent_dim)`: means, then logarithms of variances.
        seed: `(2,)` whole numbers, which decide what is drawn, under XLA and without.

    Returns:
        `(batch, latent_dim)`.

    Example:

    >>> z = draw(tf.tile([[3.0, 0.0]], [10_000, 1]), tf.constant([1, 2]))
    >>> bool(abs(tf.reduce_mean(z) - 3) < 0.05), bool(abs(tf.math.reduce_std(z) - 1) < 0.05)
    (True, True)
    """
    mean, log_variance = tf.split(posterior, 2, axis=-1)
    bits = tf.bitwise.right_shift(random_bits(seed, tf.size(mean)), tf.constant(8, tf.uint32))
    uniform = (tf.cast(bits, tf.float32) + 0.5) * 2.0**-24
    noise = tf.reshape(tf.math.ndtri(uniform), tf.shape(mean))
    return mean + tf.exp(0.5 * log_variance) * tf.cast(noise, mean.dtype)


def kl_of_units(posterior: tf.Tensor) -> tf.Tensor:
    """KL(N(mean, variance) || N(0, 1)) of each unit, in nats.

    Args:
        posterior: `(batch, 2 x latent_dim)`: means, then logarithms of variances.

    Returns:
        `(batch, latent_dim)` float32.

    Example:

    >>> kl_of_units(tf.constant([[0.0, 2.0, 0.0, 0.0]])).numpy().tolist()
    [[0.0, 2.0]]
    """
    mean, log_variance = tf.split(tf.cast(posterior, tf.float32), 2, axis=-1)
    return 0.5 * (tf.square(mean) + tf.exp(log_variance) - 1.0 - log_variance)


def kl_cost(posterior: tf.Tensor, weights: tf.Tensor, free_bits: float) -> tf.Tensor:
    """What the KL of a batch costs in training.

    Args:
        posterior: `(batch, 2 x latent_dim)`.
        weights: `(batch,)`: of each sentence.
        free_bits: Nats a unit that cost nothing: a unit whose mean over the batch is less counts with as much, and has no gradient.

    Returns:
        `()` float32: the sum over sentences and units.

    Example:

    >>> float(kl_cost(tf.constant([[0.0, 2.0, 0.0, 0.0]]), tf.constant([1.0]), free_bits=0.5))
    2.5
    """
    total = tf.reduce_sum(weights)
    mean = tf.linalg.matvec(kl_of_units(posterior), weights, transpose_a=True) / total  # (latent_dim,)
    return total * tf.reduce_sum(tf.maximum(mean, free_bits))


def kl_weight(step: tf.Tensor, *, steps: int, rising: int, cycles: int = 1) -> tf.Tensor:
    """The weight of the KL at a step: in each cycle it rises from 0 to 1 in a line, and stays there.

    Args:
        step: Scalar of any integer type: how many steps were made before.
        steps: Of the whole run.
        rising: Steps in which it rises; 0: it is 1 from the beginning.
        cycles: Equal parts of the run, in each of which it rises anew.

    Returns:
        `()` float32.

    Example:

    >>> [float(kl_weight(tf.constant(step), steps=100, rising=20, cycles=2)) for step in (0, 10, 20, 49, 50, 60)]
    [0.0, 0.5, 1.0, 1.0, 0.0, 0.5]
    """
    if not rising:
        return tf.constant(1.0)
    return tf.minimum(tf.cast(step % -(-steps // cycles), tf.float32) / rising, 1.0)


def recurrent_vae(
    vocabulary_size: int,
    *,
    cell: str = "lstm",
    latent_dim: int = 16,
    embedding_dim: int = 256,
    hidden_dim: int = 256,
    num_layers: int = 1,
    dropout: float = 0.0,
) -> keras.Model:
    """A VAE whose encoder reads both ways and whose decoder is the language model of this cell (`keras_lm.models`), given z.

    The encoder's vectors are pooled by their largest numbers: from the last ones alone little of a sentence is learnt (Long et al. 2019).

    Args:
        vocabulary_size: Number of ids.
        cell: `"lstm"` (default) or `"gru"`.
        latent_dim: Width of z.
        embedding_dim: Width of a token's vector.
        hidden_dim: Width of a layer's states, in each direction.
        num_layers: Recurrent layers of the encoder, in each direction, and of the decoder.
        dropout: Share dropped in training of the vectors between layers, and of those that the encoder reads.

    Returns:
        A functional `keras.Model`, `[(batch, source_time), (batch, target_time)]` int32 → `(batch, target_time, vocabulary_size)` float32.

    Raises:
        ValueError: an unknown cell.

    Example:

    >>> model = recurrent_vae(100, latent_dim=4, embedding_dim=8, hidden_dim=16)
    >>> model([tf.constant([[5, 6, 7, 3]]), tf.constant([[2, 5, 6, 7]])]).shape
    TensorShape([1, 4, 100])
    """
    if cell not in _CELLS:
        raise ValueError(f"cell must be one of {', '.join(_CELLS)}, got {cell!r}")
    layer = _CELLS[cell]
    drop = lambda x: HashDropout(dropout)(x) if dropout else x  # a layer each: one shared over two models would not load
    embedding = keras.layers.Embedding(vocabulary_size, embedding_dim, name="embedding")
    source, target = pair_inputs()
    vectors, visible = encoder_inputs(embedding_dim)
    x = drop(vectors)
    for number in range(num_layers):
        ways = read_both_ways(layer, hidden_dim, x, visible, f"encoder_{{}}_{number}")
        if number < num_layers - 1:
            x = drop(keras.layers.Concatenate()([ways[0], ReverseText()(ways[1], visible)]))
    most = keras.layers.Concatenate()([Pooling("max")(way, visible) for way in ways])
    z = _latent(source, embedding, vectors, visible, most, latent_dim)
    x = _with_latent(embedding(target), z, "input")
    for number in range(num_layers):
        x = drop(layer(hidden_dim, return_sequences=True, name=f"decoder_{number}")(x))
    logits = keras.layers.Dense(vocabulary_size, dtype="float32", name="logits")(_with_latent(x, z, "output"))
    return keras.Model([source, target], logits, name="recurrent_vae")


def transformer_vae(
    vocabulary_size: int,
    *,
    latent_dim: int = 16,
    context_length: int = 128,
    embedding_dim: int = 256,
    num_layers: int = 2,
    num_heads: int = 4,
    feed_forward_dim: int | None = None,
    positions: str = "rotary",
    normalization_kind: str = "layer",
    tied: bool = True,
    dropout: float = 0.0,
) -> keras.Model:
    """A VAE of Transformers: an encoder whose vectors are pooled by their largest numbers, and `keras_lm.models.transformer_lm`, given z.

    Args:
        vocabulary_size: Number of ids.
        latent_dim: Width of z.
        context_length: The longest sentence in tokens.
        embedding_dim: Width of the model.
        num_layers: Blocks of the encoder, and of the decoder.
        num_heads: Heads; divides `embedding_dim`.
        feed_forward_dim: Hidden width of the feed-forward parts; default four times `embedding_dim`.
        positions: `"rotary"` (default) or `"learned"`.
        normalization_kind: `"layer"` (default) or `"rms"`.
        tied: Whether the output matrix is the embedding's.
        dropout: Share dropped in training.

    Returns:
        As `recurrent_vae`.

    Raises:
        ValueError: heads that do not divide the width; an unknown kind of positions or normalisation.

    Example:

    >>> model = transformer_vae(100, latent_dim=4, context_length=16, embedding_dim=32, num_layers=1)
    >>> model([tf.constant([[5, 6, 7, 3]]), tf.constant([[2, 5, 6, 7]])]).shape
    TensorShape([1, 4, 100])
    """
    if positions not in POSITIONS:
        raise ValueError(f"positions must be {' or '.join(POSITIONS)}, got {positions!r}")
    embedding = reversible_embedding(vocabulary_size, embedding_dim, tied)

    def begin(x: keras.KerasTensor, side: str) -> keras.KerasTensor:
        if positions == "learned":
            x = PositionEmbedding(context_length, name=f"{side}_positions")(x)
        return HashDropout(dropout, name=f"{side}_dropout")(x) if dropout else x

    def block(name: str, **kwargs: bool) -> TransformerBlock:
        return TransformerBlock(
            num_heads=num_heads,
            feed_forward_dim=feed_forward_dim or 4 * embedding_dim,
            context_length=context_length,
            rotary=positions == "rotary",
            normalization=normalization_kind,
            dropout=dropout,
            output_stddev=0.02 * (2 * num_layers) ** -0.5,
            name=name,
            **kwargs,
        )

    source, target = pair_inputs()
    vectors, visible = encoder_inputs(embedding_dim)
    x = begin(vectors, "source")
    for number in range(num_layers):
        x = block(f"encoder_block_{number}", causal=False)(x, visible=visible)
    x = Pooling("max", name="pooling")(normalization(normalization_kind, name="encoder_norm")(x), visible)
    z = _latent(source, embedding, vectors, visible, x, latent_dim)
    x = begin(_with_latent(embedding(target), z, "input"), "target")
    for number in range(num_layers):
        x = block(f"decoder_block_{number}")(x)
    x = _with_latent(normalization(normalization_kind, name="decoder_norm")(x), z, "output")
    return keras.Model([source, target], embedding(x, reverse=True), name="transformer_vae")


def _latent(
    source: keras.KerasTensor,
    embedding: keras.layers.Layer,
    vectors: keras.KerasTensor,
    visible: keras.KerasTensor,
    read: keras.KerasTensor,
    latent_dim: int,
) -> keras.KerasTensor:
    """z of a source, `(batch, 1, latent_dim)`; `read` is what an encoder makes of `vectors`, `(batch, width)`."""
    posterior = keras.layers.Dense(2 * latent_dim, dtype="float32", name="posterior")(read)
    encoder = keras.Model([vectors, visible], posterior, name="encoder")
    return Latent(dtype="float32", name="latent")(encoder([embedding(source), ops.not_equal(source, 0)]))


def _with_latent(x: keras.KerasTensor, z: keras.KerasTensor, side: str) -> keras.KerasTensor:
    of_latent = keras.layers.Dense(x.shape[-1], use_bias=False, name=f"latent_to_{side}")(z)
    return keras.layers.Add(name=f"{side}_with_latent")([x, of_latent])


VAES: dict[str, Callable[..., keras.Model]] = {
    "lstm": recurrent_vae,
    "gru": functools.partial(recurrent_vae, cell="gru"),
    "transformer": transformer_vae,
}
"""The sentence VAEs by the name that `--model` takes."""


def is_vae(model: keras.Model) -> bool:
    """Whether a model is one of `VAES`."""
    return any(isinstance(layer, Latent) for layer in model.layers)


def posterior_of(model: keras.Model) -> keras.Model:
    """The part of a VAE that reads: from ids `(batch, time)` int32, each row with its end token, to `(batch, 2 x latent_dim)` float32.

    It shares the layers of `model`, as what the two functions below give does.

    Example:

    >>> posterior_of(recurrent_vae(100, latent_dim=4, hidden_dim=16))(tf.constant([[5, 6, 3, 0]])).shape
    TensorShape([1, 8])
    """
    return keras.Model(model.inputs[0], model.get_layer("latent").input, name="posterior_of")


def with_posterior(model: keras.Model) -> keras.Model:
    """The VAE with a second output: the posterior that its z is drawn from, which the KL is made of."""
    return keras.Model(model.inputs, [model.outputs[0], model.get_layer("latent").input], name="with_posterior")


def latent_decoder(model: keras.Model) -> keras.Model:
    """The part of a VAE that writes: from z, `(batch, latent_dim)` float32, and target ids to logits.

    To the sampler it is an encoder-decoder whose source is z.

    Example:

    >>> decoder = latent_decoder(recurrent_vae(100, latent_dim=4, hidden_dim=16))
    >>> decoder([tf.zeros([1, 4]), tf.constant([[2, 5, 6]])]).shape
    TensorShape([1, 3, 100])
    """
    reader, latent_dim = encoder_of(model), model.get_layer("latent").output.shape[-1]
    z, target = keras.Input([latent_dim], name="z"), keras.Input([None], dtype="int32", name="target")
    given = keras.Input([latent_dim], name="given")
    certain = keras.layers.Concatenate(name="certain")([given, ops.zeros_like(given)])
    encoder = keras.Model(given, certain, name="encoder")  # z is the mean of this posterior
    latent = Latent(dtype="float32", name="latent")  # its own: the model's has one input, which the functions above ask for
    logits = run_layers(
        model,
        [target, target],  # the first goes to the encoder, in whose place z stands
        lambda layer: latent if isinstance(layer, Latent) else layer,
        lambda inner: (lambda *_, **__: encoder(z)) if inner is reader else None,
    )
    return keras.Model([z, target], logits, name="latent_decoder")
