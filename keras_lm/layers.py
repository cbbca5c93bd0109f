"""What Keras does not have for a Transformer: its block, its positions, its activations.

A layer that looks back at earlier positions offers `init_cache` and `extend`, as `keras_lm.attention` describes.

References:
    Vaswani et al. 2017, «Attention Is All You Need»; Xiong et al. 2020, «On Layer Normalization in the Transformer Architecture»; Shazeer
    2020, «GLU Variants Improve Transformer».
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_lm.attention import MEMORY, Cache, CrossAttention, SelfAttention, projection
from keras_lm.dropout import HashDropout
from keras_lm.products import apply_dense


@keras.saving.register_keras_serializable(package="keras_lm")
def gelu_tanh(x: tf.Tensor) -> tf.Tensor:
    """GELU in the approximation that GPT-2 is trained with: x·½(1 + tanh(√(2/π)(x + 0.044715 x³))), any shape.

    Written with one exponential, x / (1 + exp(-2u)), which is the same number: XLA takes a third of the time of tanh for a row on a CPU.

    Example:

    >>> x = tf.constant([-20.0, -1.0, 0.0, 2.0])
    >>> bool(np.allclose(gelu_tanh(x), keras.activations.gelu(x, approximate=True), atol=1e-6))
    True

    References:
        Hendrycks and Gimpel 2016, «Gaussian Error Linear Units».
    """
    twice = np.float32(2 * np.sqrt(2 / np.pi)) * (x + 0.044715 * x * x * x)
    return x / (1.0 + ops.exp(ops.minimum(-twice, 80.0)))  # bounded: what overflows here is no number in the gradient


NORMALIZATIONS = ("layer", "rms")


def normalization(kind: str, epsilon: float | None = None, **kwargs) -> keras.layers.Layer:
    """`LayerNormalization` for `"layer"`, `RMSNormalization` for `"rms"`, by default with the usual epsilons, 1e-5 and 1e-6."""
    if kind == "layer":
        return keras.layers.LayerNormalization(epsilon=epsilon or 1e-5, **kwargs)
    if kind == "rms":
        return keras.layers.RMSNormalization(epsilon=epsilon or 1e-6, **kwargs)
    raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {kind!r}")


def _with_policies(layer: keras.layers.Layer, config: dict) -> dict:
    """The config of a layer with what `quantize` has made of the layers inside: they are built anew from it when a model is loaded."""
    quantized = [part for part in layer._flatten_layers(include_self=False) if getattr(part, "quantization_mode", None)]
    if not quantized or isinstance(layer.dtype_policy, keras.dtype_policies.DTypePolicyMap):
        return config
    policies = keras.dtype_policies.DTypePolicyMap(default_policy=layer.dtype_policy)
    for part in quantized:
        policies[part.path] = part.dtype_policy
    return {**config, "dtype": keras.dtype_policies.serialize(policies)}


@keras.saving.register_keras_serializable(package="keras_lm")
class TransformerBlock(keras.layers.Layer):
    """A block of a Transformer: attention over the text, over another one if it has one, and a feed-forward part, each added to its input.

    With the defaults a pre-norm decoder block: `x + attention(norm(x))`, then `x + feed_forward(norm(x))`.

    Args:
        num_heads, num_kv_heads, rotary, use_bias, causal, head_dim, rotary_base: As in `SelfAttention`; an encoder's are not causal.
        feed_forward_dim: Width of the hidden layer of the feed-forward part (two layers, not one as in article A1 §4).
        context_length: The longest text, in tokens, the model is made for; it bounds the sampler's cache.
        activation: Of the feed-forward part; default `"gelu"`.
        normalization: `"layer"` (default) or `"rms"`.
        dropout: Share dropped in training: of attention weights and of each branch.
        output_stddev: Standard deviation from which the last matrix of each branch is drawn (GPT-2 scales it by the depth).
        cross: Whether the block attends to a memory, as the decoder of an encoder-decoder does, between the other two parts.
        norm_first: Pre-norm (default), or normalised after each addition, as in the original Transformer and in BERT.
        gated: Whether the hidden layer is multiplied by a second one without activation (with `"silu"`: SwiGLU, as in Llama).
        epsilon: Of the normalisations; default 1e-5, for `"rms"` 1e-6.

    Call arguments:
        inputs: `(batch, time, width)`.
        visible: `(batch, time)` bool: where there is text, for blocks that are not causal; default everywhere.
        memory, memory_visible: As in `CrossAttention`, for blocks that attend to one.

    Returns:
        `(batch, time, width)`.

    Example:

    >>> block = TransformerBlock(num_heads=2, feed_forward_dim=32, context_length=16)
    >>> block(tf.zeros([1, 5, 8])).shape
    TensorShape([1, 5, 8])
    """

    def __init__(
        self,
        num_heads: int,
        feed_forward_dim: int,
        context_length: int,
        num_kv_heads: int | None = None,
        rotary: bool = True,
        use_bias: bool = False,
        activation: str = "gelu",
        normalization: str = "layer",
        dropout: float = 0.0,
        output_stddev: float = 0.02,
        causal: bool = True,
        cross: bool = False,
        norm_first: bool = True,
        gated: bool = False,
        epsilon: float | None = None,
        head_dim: int | None = None,
        rotary_base: float = 10000.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.feed_forward_dim = feed_forward_dim
        self.context_length = context_length
        self.num_kv_heads = num_kv_heads or num_heads
        self.rotary = rotary
        self.use_bias = use_bias
        self.activation = keras.activations.get(activation)
        self.normalization = normalization
        self.dropout = dropout
        self.output_stddev = output_stddev
        self.causal = causal
        self.cross = cross
        self.norm_first = norm_first
        self.gated = gated
        self.epsilon = epsilon
        self.head_dim = head_dim
        self.rotary_base = rotary_base

    def build(self, inputs_shape: tuple, memory_shape: tuple | None = None, **other_shapes: tuple) -> None:
        policy, width = self.dtype_policy, inputs_shape[-1]
        heads = {"num_heads": self.num_heads, "num_kv_heads": self.num_kv_heads, "head_dim": self.head_dim, "use_bias": self.use_bias}
        drawn = {"dropout": self.dropout, "output_stddev": self.output_stddev, "dtype": policy}
        positions = {"rotary": self.rotary, "rotary_base": self.rotary_base, "causal": self.causal}
        self.attention_norm = self._norm("attention_norm", inputs_shape)
        self.attention = SelfAttention(**heads, **positions, **drawn, name="attention")
        self.feed_forward_norm = self._norm("feed_forward_norm", inputs_shape)
        # Made before what is built below: each takes its seed when it is made, and the same seed is to give the same weights as ever.
        self.widen = projection(self, "widen", self.feed_forward_dim)
        self.narrow = projection(self, "narrow", width, self.output_stddev)
        self.attention.build(inputs_shape)
        if self.cross:
            self.memory_norm = self._norm("memory_norm", inputs_shape)
            self.memory_attention = CrossAttention(**heads, **drawn, name="memory_attention")
            self.memory_attention.build(inputs_shape, memory_shape, None)
        self.widen.build(inputs_shape)
        if self.gated:
            self.gate = projection(self, "gate", self.feed_forward_dim)
            self.gate.build(inputs_shape)
        self.narrow.build((*inputs_shape[:-1], self.feed_forward_dim))
        self.branch_dropout = HashDropout(self.dropout, dtype=policy, name="branch_dropout")

    def _norm(self, name: str, shape: tuple) -> keras.layers.Layer:
        layer = normalization(self.normalization, self.epsilon, dtype=self.dtype_policy, name=name)
        layer.build(shape)
        return layer

    def call(
        self,
        inputs: tf.Tensor,
        visible: tf.Tensor | None = None,
        memory: tf.Tensor | None = None,
        memory_visible: tf.Tensor | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        branch = lambda outputs: self.branch_dropout(outputs, training=training)
        x = self.add_branch(inputs, self.attention_norm, lambda x: branch(self.attention(x, visible, training=training)))
        if self.cross:
            x = self.add_branch(x, self.memory_norm, lambda x: branch(self.memory_attention(x, memory, memory_visible, training=training)))
        return self.add_branch(x, self.feed_forward_norm, lambda x: branch(self._feed_forward(x)))

    def init_cache(self, batch_size: int | tf.Tensor, length: int | tf.Tensor) -> Cache:
        return self.attention.init_cache(batch_size, length)

    def extend(
        self,
        inputs: tf.Tensor,
        cache: Cache,
        start: int | tf.Tensor,
        padding: tf.Tensor,
        memory: tf.Tensor | None = None,
        memory_visible: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Cache]:
        remembered = {name: value for name, value in cache.items() if name.startswith(MEMORY)}
        if self.cross and isinstance(start, int) and start == 0:
            remembered = self.memory_attention.remember(memory, memory_visible)

        def attend(x: tf.Tensor) -> tf.Tensor:
            nonlocal cache
            outputs, cache = self.attention.extend(x, cache, start, padding)
            return outputs

        x = self.add_branch(inputs, self.attention_norm, attend)
        if self.cross:
            x = self.add_branch(x, self.memory_norm, lambda x: self.memory_attention.attend_to(x, remembered))
        return self.add_branch(x, self.feed_forward_norm, self._feed_forward), {**cache, **remembered}

    def add_branch(self, x: tf.Tensor, norm: keras.layers.Layer, branch: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        """What a part of the block makes of `x`: the part is `branch`, and `norm` stands before it or after the sum."""
        return x + branch(norm(x)) if self.norm_first else norm(x + branch(x))

    def _feed_forward(self, x: tf.Tensor) -> tf.Tensor:
        if self.gated:
            return apply_dense(self.narrow, self.activation(apply_dense(self.gate, x)) * apply_dense(self.widen, x))
        return apply_dense(self.narrow, self.activation(apply_dense(self.widen, x)))

    def get_config(self) -> dict:
        return {
            **_with_policies(self, super().get_config()),
            "num_heads": self.num_heads,
            "feed_forward_dim": self.feed_forward_dim,
            "context_length": self.context_length,
            "num_kv_heads": self.num_kv_heads,
            "rotary": self.rotary,
            "use_bias": self.use_bias,
            "activation": keras.activations.serialize(self.activation),
            "normalization": self.normalization,
            "dropout": self.dropout,
            "output_stddev": self.output_stddev,
            "causal": self.causal,
            "cross": self.cross,
            "norm_first": self.norm_first,
            "gated": self.gated,
            "epsilon": self.epsilon,
            "head_dim": self.head_dim,
            "rotary_base": self.rotary_base,
        }


@keras.saving.register_keras_serializable(package="keras_lm")
class PositionEmbedding(keras.layers.Layer):
    """Adds a learned vector for each position (Radford et al. 2018).

    Args:
        context_length: The number of positions there are vectors for.

    Call arguments:
        inputs: `(batch, time, width)`, time at most `context_length`.

    Returns:
        `(batch, time, width)`.

    Raises:
        ValueError: a text longer than `context_length`, where its length is known.

    Example:

    >>> PositionEmbedding(context_length=16)(tf.zeros([1, 5, 8])).shape
    TensorShape([1, 5, 8])
    """

    def __init__(self, context_length: int, **kwargs):
        super().__init__(**kwargs)
        self.context_length = context_length

    def build(self, input_shape: tuple) -> None:
        draw = keras.initializers.RandomNormal(stddev=0.02)
        self.embeddings = self.add_weight(shape=(self.context_length, input_shape[-1]), initializer=draw, name="embeddings")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        if inputs.shape[1] is not None and inputs.shape[1] > self.context_length:
            raise ValueError(
                f"a text of {inputs.shape[1]} tokens is longer than the context of {self.context_length} the model was made for"
            )
        return inputs + tf.cast(self.embeddings, inputs.dtype)[: ops.shape(inputs)[1]]

    def init_cache(self, batch_size: int | tf.Tensor, length: int | tf.Tensor) -> Cache:
        return {}

    def extend(self, inputs: tf.Tensor, cache: Cache, start: int | tf.Tensor, padding: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        positions = start + tf.range(tf.shape(inputs)[1])[None] - padding[:, None]
        positions = tf.clip_by_value(positions, 0, self.context_length - 1)  # padded slots have positions below 0
        return inputs + tf.gather(tf.cast(self.embeddings, inputs.dtype), positions), cache

    def get_config(self) -> dict:
        return {**super().get_config(), "context_length": self.context_length}


@keras.saving.register_keras_serializable(package="keras_lm")
class SinusoidalPositions(PositionEmbedding):
    """Adds sines and cosines of the position, as the original Transformer does; nothing of it is learnt.

    Args:
        context_length: The longest text, in tokens.

    Call arguments, returns: As in `PositionEmbedding`.

    Raises:
        ValueError: as there; an odd width.

    Example:

    >>> SinusoidalPositions(context_length=16)(tf.zeros([1, 5, 8]))[0, 0].numpy().tolist()
    [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]

    References:
        Vaswani et al. 2017, §3.5; sines come first here, and then the cosines.
    """

    def build(self, input_shape: tuple) -> None:
        if input_shape[-1] % 2:
            raise ValueError(f"sinusoidal positions need an even width, got {input_shape[-1]}")
        half = input_shape[-1] // 2
        angles = np.arange(self.context_length)[:, None] / 10000.0 ** (np.arange(half) / half)
        self.embeddings = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


@keras.saving.register_keras_serializable(package="keras_lm")
class OutputBias(keras.layers.Layer):
    """Adds a learned number to each logit, as an embedding used backwards has none.

    Call arguments:
        inputs: `(..., vocabulary_size)`.

    Returns:
        `(..., vocabulary_size)`.

    Example:

    >>> OutputBias()(tf.ones([1, 2])).numpy().tolist()
    [[1.0, 1.0]]
    """

    def build(self, input_shape: tuple) -> None:
        self.bias = self.add_weight(shape=(input_shape[-1],), initializer="zeros", name="bias")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + tf.cast(self.bias, inputs.dtype)
