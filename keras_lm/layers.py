"""What Keras does not have for a causal Transformer: self-attention with a cache, rotary and learned positions, the pre-norm block.

A layer that looks back at earlier positions offers two methods beside `call`, and the sampler decodes any model made of such layers:

- `init_cache(batch_size, length)`: what the layer remembers of up to `length` positions, empty;
- `extend(inputs, cache, start, padding)`: the outputs for `n` new positions `start ... start+n-1`, and the cache with them in it.

Positions are counted in slots that all rows of a batch share. Prompts of different lengths are padded on the left: row `b` has
`padding[b]` slots without text, which nothing attends to, and its text begins at position 0 in slot `padding[b]`.

References:
    Vaswani et al. 2017, «Attention Is All You Need» (the mask and the scaling that article A1 §4 leaves out); Su et al. 2021, «RoFormer»;
    Ainslie et al. 2023, «GQA»; Xiong et al. 2020, «On Layer Normalization in the Transformer Architecture».
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

Cache = dict[str, tf.Tensor]


def product(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """x · kernel; where `x` is one row, in parts that several cores can take.

    XLA runs a matrix-vector product on one core of a CPU, but the products of a batch beside each other. Cut along the inputs, the kernel
    stays where it lies: rows of a matrix are a batch of smaller ones. Twice as fast on two cores (`docs/performance.md`).

    Args:
        x: `(..., inputs)`.
        kernel: `(inputs, outputs)`.

    Returns:
        `(..., outputs)`.

    Example:

    >>> product(tf.ones([1, 1, 4]), tf.ones([4, 3])).numpy().tolist()
    [[[4.0, 4.0, 4.0]]]
    """
    inputs, outputs = kernel.shape
    if not _is_one_row(x) or inputs % _PARTS:
        return ops.matmul(x, kernel)
    part = inputs // _PARTS
    parts = tf.matmul(tf.reshape(x, [_PARTS, 1, part]), tf.reshape(kernel, [_PARTS, part, outputs]))
    return tf.reshape(tf.reduce_sum(parts, axis=0), [*x.shape[:-1], outputs])


_PARTS = 4


def apply_dense(layer: keras.layers.Dense, x: tf.Tensor) -> tf.Tensor:
    """`layer(x)`, by `product` where `x` is one row."""
    if not _is_one_row(x) or layer.quantization_mode is not None or layer.compute_dtype != layer.variable_dtype:
        return layer(x)
    y = product(x, tf.convert_to_tensor(layer.kernel))
    return layer.activation(y if layer.bias is None else y + layer.bias)


def apply_reversed(layer: keras.layers.ReversibleEmbedding, x: tf.Tensor) -> tf.Tensor:
    """`layer(x, reverse=True)`: logits over the rows of the embedding, which is used where it lies.

    As Keras writes it, XLA makes a loop of it that sums one number after the other (`docs/performance.md`).
    """
    if not layer.tie_weights or layer.logit_soft_cap or layer.quantization_mode is not None:
        return layer(x, reverse=True)
    dtype = layer.reverse_dtype or x.dtype
    rows = tf.cast(tf.reshape(x, [-1, x.shape[-1]]), dtype)
    embeddings = tf.cast(tf.cast(layer.embeddings, layer.compute_dtype), dtype)  # rounded, as Keras does on the way into a call
    logits = tf.matmul(rows, embeddings, transpose_b=True)
    return tf.reshape(logits, tf.concat([tf.shape(x)[:-1], [layer.input_dim]], axis=0))


def _is_one_row(x: tf.Tensor) -> bool:
    on_cpu = not tf.config.list_physical_devices("GPU") and not tf.config.list_physical_devices("TPU")
    return x.shape[:-1].num_elements() == 1 and on_cpu


def rotate(x: tf.Tensor, positions: tf.Tensor, base: float = 10000.0) -> tf.Tensor:
    """Rotary positions: turns each pair `(x[i], x[i + head_dim/2])` by an angle proportional to the position.

    Args:
        x: `(batch, time, heads, head_dim)`, head_dim even.
        positions: `(batch or 1, time)` int32.
        base: Wave length of the slowest turn, in radians a position.

    Returns:
        The shape and dtype of `x`.

    Example:

    >>> turned = rotate(tf.ones([1, 2, 1, 2]), tf.constant([[0, 1]]))
    >>> bool(np.allclose(turned[0, 1, 0], [np.cos(1) - np.sin(1), np.cos(1) + np.sin(1)]))
    True
    """
    half = x.shape[-1] // 2
    frequencies = base ** (-np.arange(half, dtype=np.float32) / half)
    angles = tf.cast(positions, tf.float32)[:, :, None, None] * frequencies  # (batch, time, 1, head_dim / 2)
    cos, sin = tf.cast(tf.cos(angles), x.dtype), tf.cast(tf.sin(angles), x.dtype)
    first, second = x[..., :half], x[..., half:]
    return tf.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)


@keras.saving.register_keras_serializable(package="keras_lm")
class CausalSelfAttention(keras.layers.Layer):
    """Multi-head self-attention in which a position sees itself and what came before: softmax(QKᵀ/√d + mask) V.

    Args:
        num_heads: Number of query heads; must divide the width of the input.
        num_kv_heads: Number of key/value heads, each shared by `num_heads / num_kv_heads` query heads; default `num_heads`.
        rotary: Whether positions enter by rotating queries and keys (default); otherwise the input must carry them.
        use_bias: Whether the projections have biases; default `False`.
        dropout: Share of attention weights dropped in training.
        output_stddev: Standard deviation from which the output projection is drawn; the other one takes 0.02.

    Call arguments:
        inputs: `(batch, time, width)`.

    Returns:
        `(batch, time, width)`.

    Raises:
        ValueError: heads that do not divide the width, or each other.

    Example:

    >>> layer = CausalSelfAttention(num_heads=2)
    >>> layer(tf.zeros([1, 5, 8])).shape
    TensorShape([1, 5, 8])
    """

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int | None = None,
        rotary: bool = True,
        use_bias: bool = False,
        dropout: float = 0.0,
        output_stddev: float = 0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.rotary = rotary
        self.use_bias = use_bias
        self.dropout = dropout
        self.output_stddev = output_stddev
        if num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads: got {self.num_kv_heads} and {num_heads}")

    def build(self, input_shape: tuple) -> None:
        width = input_shape[-1]
        if width % self.num_heads:
            raise ValueError(f"num_heads must divide the width: got {self.num_heads} heads for a width of {width}")
        self.head_dim = width // self.num_heads
        if self.rotary and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head width: got {width} / {self.num_heads} = {self.head_dim}")
        # One projection for queries, keys and values: one matrix product in place of three.
        self.qkv = keras.layers.Dense(
            (self.num_heads + 2 * self.num_kv_heads) * self.head_dim,
            use_bias=self.use_bias,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.02),
            dtype=self.dtype_policy,
            name="qkv",
        )
        self.qkv.build(input_shape)
        self.output_projection = keras.layers.Dense(
            width,
            use_bias=self.use_bias,
            kernel_initializer=keras.initializers.RandomNormal(stddev=self.output_stddev),
            dtype=self.dtype_policy,
            name="output_projection",
        )
        self.output_projection.build((*input_shape[:-1], width))
        self.weights_dropout = keras.layers.Dropout(self.dropout, dtype=self.dtype_policy, name="weights_dropout")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        time = ops.shape(inputs)[1]
        query, key, value = self._project(inputs, tf.range(time)[None])
        visible = tf.range(time)[:, None] >= tf.range(time)[None]
        return self._attend(query, key, value, visible[None, None, None], training)

    def init_cache(self, batch_size: int | tf.Tensor, length: int | tf.Tensor) -> Cache:
        # Heads before time: the two products over the cache are then batches of plain matrices, and XLA does not copy it to transpose it.
        shape = [batch_size, self.num_kv_heads, length, self.head_dim]
        return {"key": tf.zeros(shape, self.compute_dtype), "value": tf.zeros(shape, self.compute_dtype)}

    def extend(self, inputs: tf.Tensor, cache: Cache, start: int | tf.Tensor, padding: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        count = tf.shape(inputs)[1] if inputs.shape[1] is None else inputs.shape[1]
        slots = start + tf.range(count)
        query, key, value = self._project(inputs, slots[None] - padding[:, None])
        rows = {"key": tf.transpose(key, [0, 2, 1, 3]), "value": tf.transpose(value, [0, 2, 1, 3])}  # (batch, heads, time, head_dim)
        if isinstance(start, int) and start == 0:  # nothing came before: no need to look at the empty rest of the cache
            cache = {name: tf.concat([rows[name], cache[name][:, :, count:]], axis=2) for name in cache}
            return self._attend(query, key, value, self._visible(slots, slots, padding), False), cache
        cache = {name: _write(cache[name], rows[name], slots) for name in cache}
        visible = self._visible(slots, tf.range(tf.shape(cache["key"])[2]), padding)
        return self._attend_to_cache(query, cache, visible), cache

    def _visible(self, slots: tf.Tensor, key_slots: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
        visible = (key_slots[None, None] <= slots[None, :, None]) & (key_slots[None, None] >= padding[:, None, None])
        return visible[:, None, None]  # (batch, 1, 1, queries, keys)

    def _project(self, inputs: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        projected = apply_dense(self.qkv, inputs)
        shape = tf.shape(projected)
        projected = tf.reshape(projected, [shape[0], shape[1], self.num_heads + 2 * self.num_kv_heads, self.head_dim])
        if self.rotary:
            turned = rotate(projected[:, :, : self.num_heads + self.num_kv_heads], positions)
            query, key = turned[:, :, : self.num_heads], turned[:, :, self.num_heads :]
        else:
            query, key = projected[:, :, : self.num_heads], projected[:, :, self.num_heads : -self.num_kv_heads]
        return query, key, projected[:, :, -self.num_kv_heads :]  # each (batch, time, heads, head_dim)

    def _attend(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, visible: tf.Tensor, training: bool) -> tf.Tensor:
        """Keys and values `(batch, keys, kv_heads, head_dim)`; `visible` as `(batch, kv_heads, heads a kv_head, queries, keys)`.

        Queries go block by block, each with the keys up to its end: none of them sees what comes later, so it need not be multiplied.
        """
        shape = tf.shape(query)
        query = tf.transpose(self._grouped(query), [0, 2, 3, 1, 4])  # (batch, kv_heads, heads a kv_head, queries, head_dim)
        key, value = tf.transpose(key, [0, 2, 3, 1]), tf.transpose(value, [0, 2, 1, 3])
        merged = []
        for start, end in _query_blocks(query.shape[3]):
            rows = query[:, :, :, start:end]
            scores = tf.matmul(_joined(rows), key[..., :end])
            scores = tf.reshape(scores, tf.concat([tf.shape(rows)[:4], [tf.shape(scores)[-1]]], axis=0))
            weights = self._weights(scores, visible[..., start:end, :end])
            weights = self.weights_dropout(tf.cast(weights, value.dtype), training=training)
            merged.append(tf.reshape(tf.matmul(_joined(weights), value[:, :, :end]), tf.shape(rows)))
        return self._merged(tf.transpose(tf.concat(merged, axis=3), [0, 3, 1, 2, 4]), shape)

    def _attend_to_cache(self, query: tf.Tensor, cache: Cache, visible: tf.Tensor) -> tf.Tensor:
        """As `_attend`, over a cache. Key times query, in this order: in the other one XLA transposes the keys at every step."""
        shape = tf.shape(query)
        groups, shared = self.num_kv_heads, self.num_heads // self.num_kv_heads
        query = tf.transpose(self._grouped(query), [0, 2, 3, 1, 4])  # (batch, kv_heads, heads a kv_head, queries, head_dim)
        query = tf.reshape(query, [shape[0], groups, shared * shape[1], self.head_dim])
        scores = tf.linalg.matrix_transpose(tf.matmul(cache["key"], query, transpose_b=True))
        weights = self._weights(tf.reshape(scores, [shape[0], groups, shared, shape[1], tf.shape(cache["key"])[2]]), visible)
        weights = tf.reshape(tf.cast(weights, query.dtype), tf.shape(scores))
        merged = tf.reshape(tf.matmul(weights, cache["value"]), [shape[0], groups, shared, shape[1], self.head_dim])
        return self._merged(tf.transpose(merged, [0, 3, 1, 2, 4]), shape)

    def _grouped(self, query: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(query)
        grouped = [shape[0], shape[1], self.num_kv_heads, self.num_heads // self.num_kv_heads, self.head_dim]
        return tf.reshape(query, grouped) * tf.cast(self.head_dim**-0.5, query.dtype)

    def _weights(self, scores: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(tf.where(visible, tf.cast(scores, tf.float32), -1e30))  # not -inf: a padded row sees nothing: NaN

    def _merged(self, heads: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
        return apply_dense(self.output_projection, tf.reshape(heads, [shape[0], shape[1], self.num_heads * self.head_dim]))

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "rotary": self.rotary,
            "use_bias": self.use_bias,
            "dropout": self.dropout,
            "output_stddev": self.output_stddev,
        }


def _query_blocks(count: int | None) -> list[tuple[int | None, int | None]]:
    """Where blocks of queries begin and end: two from 64 on, four from 256 on, which is what measured best; all in one if not known."""
    blocks = 1 if count is None or count < 64 else 2 if count < 256 else 4
    if blocks == 1:
        return [(None, None)]
    return list(itertools.pairwise(count * number // blocks for number in range(blocks + 1)))


def _joined(rows: tf.Tensor) -> tf.Tensor:
    """`(batch, kv_heads, heads a kv_head, n, width)` with the heads that share keys and values in one matrix."""
    shape = tf.shape(rows)
    return tf.reshape(rows, [shape[0], shape[1], shape[2] * shape[3], shape[4]])


def _write(cache: tf.Tensor, rows: tf.Tensor, slots: tf.Tensor) -> tf.Tensor:
    """Puts `(batch, heads, n, head_dim)` into the n `slots` of `(batch, heads, time, head_dim)`."""
    shape = tf.shape(rows)
    places = tf.meshgrid(tf.range(shape[0]), tf.range(shape[1]), slots, indexing="ij")
    return tf.tensor_scatter_nd_update(cache, tf.stack(places, axis=-1), rows)


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


def normalization(kind: str, **kwargs) -> keras.layers.Layer:
    """`LayerNormalization` for `"layer"`, `RMSNormalization` for `"rms"`, with the usual epsilons."""
    if kind == "layer":
        return keras.layers.LayerNormalization(epsilon=1e-5, **kwargs)
    if kind == "rms":
        return keras.layers.RMSNormalization(epsilon=1e-6, **kwargs)
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
    """A pre-norm decoder block: `x + attention(norm(x))`, then `x + feed_forward(norm(x))`.

    Args:
        num_heads, num_kv_heads, rotary, use_bias: As in `CausalSelfAttention`.
        feed_forward_dim: Width of the hidden layer of the feed-forward part (two layers, not one as in article A1 §4).
        context_length: The longest text, in tokens, the model is made for; it bounds the sampler's cache.
        activation: Of the feed-forward part; default `"gelu"`.
        normalization: `"layer"` (default) or `"rms"`.
        dropout: Share dropped in training: of attention weights and of both branches.
        output_stddev: Standard deviation from which the last matrix of both branches is drawn (GPT-2 scales it by the depth).

    Call arguments:
        inputs: `(batch, time, width)`.

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

    def build(self, input_shape: tuple) -> None:
        policy = self.dtype_policy
        self.attention_norm = normalization(self.normalization, dtype=policy, name="attention_norm")
        self.attention = CausalSelfAttention(
            self.num_heads, self.num_kv_heads, self.rotary, self.use_bias, self.dropout, self.output_stddev, dtype=policy, name="attention"
        )
        self.feed_forward_norm = normalization(self.normalization, dtype=policy, name="feed_forward_norm")
        draw = keras.initializers.RandomNormal
        self.widen = keras.layers.Dense(
            self.feed_forward_dim, use_bias=self.use_bias, kernel_initializer=draw(stddev=0.02), dtype=policy, name="widen"
        )
        self.narrow = keras.layers.Dense(
            input_shape[-1], use_bias=self.use_bias, kernel_initializer=draw(stddev=self.output_stddev), dtype=policy, name="narrow"
        )
        for layer in (self.attention_norm, self.attention, self.feed_forward_norm, self.widen):
            layer.build(input_shape)
        self.narrow.build((*input_shape[:-1], self.feed_forward_dim))
        self.branch_dropout = keras.layers.Dropout(self.dropout, dtype=policy, name="branch_dropout")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        x = inputs + self.branch_dropout(self.attention(self.attention_norm(inputs), training=training), training=training)
        return x + self.branch_dropout(self._feed_forward(x), training=training)

    def init_cache(self, batch_size: int | tf.Tensor, length: int | tf.Tensor) -> Cache:
        return self.attention.init_cache(batch_size, length)

    def extend(self, inputs: tf.Tensor, cache: Cache, start: int | tf.Tensor, padding: tf.Tensor) -> tuple[tf.Tensor, Cache]:
        attended, cache = self.attention.extend(self.attention_norm(inputs), cache, start, padding)
        x = inputs + attended
        return x + self._feed_forward(x), cache

    def _feed_forward(self, x: tf.Tensor) -> tf.Tensor:
        return apply_dense(self.narrow, self.activation(apply_dense(self.widen, self.feed_forward_norm(x))))

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
