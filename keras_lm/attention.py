"""Attention: softmax(QKᵀ/√d + mask) V, of a text over itself and of one text over another.

A layer that looks back at earlier positions offers two methods beside `call`, and the sampler decodes any model made of such layers:

- `init_cache(batch_size, length)`: what the layer remembers of up to `length` positions, empty: tensors `(batch, heads, length, ...)`, or
  `(batch, ...)` where it does not grow with the text;
- `extend(inputs, cache, start, padding)`: the outputs for `n` new positions `start ... start+n-1`, and the cache with them in it.

Positions are counted in slots that all rows of a batch share. Prompts of different lengths are padded on the left: row `b` has
`padding[b]` slots without text, which nothing attends to, and its text begins at position 0 in slot `padding[b]`.

What is read of another text, its `memory`, comes with the first call of `extend` (`start` is the number 0) and stays in the cache, under
names that begin with `MEMORY`. Its rows are padded on the right, and `memory_visible` says where they hold text.

References:
    Vaswani et al. 2017, «Attention Is All You Need» (the mask and the scaling that article A1 §4 leaves out); Su et al. 2021, «RoFormer»;
    Ainslie et al. 2023, «GQA».
"""

from __future__ import annotations

import itertools

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_lm.dropout import HashDropout
from keras_lm.products import apply_dense

Cache = dict[str, tf.Tensor]

MEMORY = "memory_"
"""What the names begin with under which a cache holds what does not grow: keys and values of another text."""


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
    both = tf.stack(angles(positions, x.shape[-1], base))
    # A sum over nothing is a scatter, and XLA fuses none with what comes after it: it would else compute cos and sin anew for each head of
    # each layer. `tf.tensor_scatter_nd_update` refuses a text of no tokens.
    cos, sin = tf.unstack(tf.math.unsorted_segment_sum(both, [0, 1], 2))
    return turn(x, cos, sin)


def angles(positions: tf.Tensor, head_dim: int, base: float = 10000.0) -> tuple[tf.Tensor, tf.Tensor]:
    """Cosine and sine of the angles of `rotate`, `(batch or 1, time, 1, head_dim / 2)` float32 each."""
    half = head_dim // 2
    turns = tf.cast(positions, tf.float32)[:, :, None, None] * base ** (-np.arange(half, dtype=np.float32) / half)
    return tf.cos(turns), tf.sin(turns)


def turn(x: tf.Tensor, cos: tf.Tensor, sin: tf.Tensor) -> tf.Tensor:
    """`rotate` by given `angles`."""
    cos, sin = tf.cast(cos, x.dtype), tf.cast(sin, x.dtype)
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return tf.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)


def projection(owner: keras.layers.Layer, name: str, outputs: int, stddev: float = 0.02) -> keras.layers.Dense:
    """A matrix of a layer, not built: with the bias, or without, that `owner.use_bias` says, and drawn with the deviation given."""
    draw = keras.initializers.RandomNormal(stddev=stddev)
    return keras.layers.Dense(outputs, use_bias=owner.use_bias, kernel_initializer=draw, dtype=owner.dtype_policy, name=name)


class _Attention(keras.layers.Layer):
    """What attention over the same and over another text have in common: the heads."""

    def __init__(
        self,
        num_heads: int,
        num_kv_heads: int | None = None,
        use_bias: bool = False,
        dropout: float = 0.0,
        output_stddev: float = 0.02,
        head_dim: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads or num_heads
        self.use_bias = use_bias
        self.dropout = dropout
        self.output_stddev = output_stddev
        self.head_dim = head_dim
        if num_heads % self.num_kv_heads:
            raise ValueError(f"num_kv_heads must divide num_heads: got {self.num_kv_heads} and {num_heads}")

    def _check_width(self, width: int) -> None:
        if self.head_dim is None:
            if width % self.num_heads:
                raise ValueError(f"num_heads must divide the width: got {self.num_heads} heads for a width of {width}")
            self.head_dim = width // self.num_heads

    def _build_output(self, width: int) -> None:
        self.output_projection = self._dense("output_projection", self.num_heads * self.head_dim, width, self.output_stddev)
        self.weights_dropout = HashDropout(self.dropout, dtype=self.dtype_policy, name="weights_dropout")

    def _dense(self, name: str, inputs: int, outputs: int, stddev: float = 0.02) -> keras.layers.Dense:
        layer = projection(self, name, outputs, stddev)
        layer.build((None, None, inputs))
        return layer

    def _attend(
        self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, visible: tf.Tensor | None, training: bool, causal: bool = True
    ) -> tf.Tensor:
        """Keys and values `(batch, keys, kv_heads, head_dim)`; `visible` as `(batch, kv_heads, heads a kv_head, queries, keys)`.

        Causal queries go block by block, each with the keys up to its end: none sees what comes later, so it need not be multiplied.
        """
        shape = tf.shape(query)
        query = tf.transpose(self._grouped(query), [0, 2, 3, 1, 4])  # (batch, kv_heads, heads a kv_head, queries, head_dim)
        key, value = tf.transpose(key, [0, 2, 3, 1]), tf.transpose(value, [0, 2, 1, 3])
        merged = []
        for start, end in _query_blocks(query.shape[3]) if causal else [(None, None)]:
            rows = query[:, :, :, start:end]
            scores = tf.matmul(_joined(rows), key[..., :end])
            scores = tf.reshape(scores, tf.concat([tf.shape(rows)[:4], [tf.shape(scores)[-1]]], axis=0))
            weights = self._weights(scores, visible if end is None or visible is None else visible[..., start:end, :end])
            weights = self.weights_dropout(tf.cast(weights, value.dtype), training=training)
            merged.append(tf.reshape(tf.matmul(_joined(weights), value[:, :, :end]), tf.shape(rows)))
        return self._merged(tf.transpose(tf.concat(merged, axis=3), [0, 3, 1, 2, 4]), shape)

    def _attend_to_cache(self, query: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
        """As `_attend`, over a cache. Key times query, in this order: in the other one XLA transposes the keys at every step."""
        shape = tf.shape(query)
        groups, shared = self.num_kv_heads, self.num_heads // self.num_kv_heads
        query = tf.transpose(self._grouped(query), [0, 2, 3, 1, 4])  # (batch, kv_heads, heads a kv_head, queries, head_dim)
        query = tf.reshape(query, [shape[0], groups, shared * shape[1], self.head_dim])
        scores = tf.linalg.matrix_transpose(tf.matmul(keys, query, transpose_b=True))
        weights = self._weights(tf.reshape(scores, [shape[0], groups, shared, shape[1], tf.shape(keys)[2]]), visible)
        weights = tf.reshape(tf.cast(weights, query.dtype), tf.shape(scores))
        merged = tf.reshape(tf.matmul(weights, values), [shape[0], groups, shared, shape[1], self.head_dim])
        return self._merged(tf.transpose(merged, [0, 3, 1, 2, 4]), shape)

    def _grouped(self, query: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(query)
        grouped = [shape[0], shape[1], self.num_kv_heads, self.num_heads // self.num_kv_heads, self.head_dim]
        return tf.reshape(query, grouped) * tf.cast(self.head_dim**-0.5, query.dtype)

    def _weights(self, scores: tf.Tensor, visible: tf.Tensor | None) -> tf.Tensor:
        scores = tf.cast(scores, tf.float32)
        return tf.nn.softmax(scores if visible is None else tf.where(visible, scores, -1e30))  # not -inf: a padded row sees nothing: NaN

    def _all_weights(self, query: tf.Tensor, key: tf.Tensor, visible: tf.Tensor | None) -> tf.Tensor:
        """`(batch, num_heads, queries, keys)`."""
        shape = tf.shape(query)
        scores = tf.einsum("bqgsd,bkgd->bgsqk", self._grouped(query), key)
        return tf.reshape(self._weights(scores, visible), [shape[0], self.num_heads, shape[1], tf.shape(key)[1]])

    def _merged(self, heads: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
        return apply_dense(self.output_projection, tf.reshape(heads, [shape[0], shape[1], self.num_heads * self.head_dim]))

    def _split(self, projected: tf.Tensor) -> tf.Tensor:
        """`(batch, time, n · head_dim)` → `(batch, time, n, head_dim)`."""
        shape = tf.shape(projected)
        return tf.reshape(projected, [shape[0], shape[1], projected.shape[-1] // self.head_dim, self.head_dim])

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "use_bias": self.use_bias,
            "dropout": self.dropout,
            "output_stddev": self.output_stddev,
            "head_dim": self.head_dim,
        }


@keras.saving.register_keras_serializable(package="keras_lm")
class SelfAttention(_Attention):
    """Multi-head attention of a text over itself.

    Args:
        num_heads: Number of query heads; must divide the width of the input.
        num_kv_heads: Number of key/value heads, each shared by `num_heads / num_kv_heads` query heads; default `num_heads`.
        rotary: Whether positions enter by rotating queries and keys (default); otherwise the input must carry them.
        use_bias: Whether the projections have biases; default `False`.
        dropout: Share of attention weights dropped in training.
        output_stddev: Standard deviation from which the output projection is drawn; the other one takes 0.02.
        causal: Whether a position sees itself and what came before alone (default), or all of the text, as in an encoder.
        head_dim: Width of a head; default the width of the input divided by `num_heads`.
        rotary_base: Wave length of the slowest turn of rotary positions.

    Call arguments:
        inputs: `(batch, time, width)`.
        visible: `(batch, time)` bool: where there is text; default everywhere. Without effect where `causal`, whose rows have no padding.

    Returns:
        `(batch, time, width)`.

    Raises:
        ValueError: heads that do not divide the width, or each other.

    Example:

    >>> layer = SelfAttention(num_heads=2)
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
        causal: bool = True,
        head_dim: int | None = None,
        rotary_base: float = 10000.0,
        **kwargs,
    ):
        super().__init__(num_heads, num_kv_heads, use_bias, dropout, output_stddev, head_dim, **kwargs)
        self.rotary = rotary
        self.causal = causal
        self.rotary_base = rotary_base

    def build(self, input_shape: tuple) -> None:
        width = input_shape[-1]
        self._check_width(width)
        if self.rotary and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head width: got {width} / {self.num_heads} = {self.head_dim}")
        # One projection for queries, keys and values: one matrix product in place of three.
        self.qkv = self._dense("qkv", width, (self.num_heads + 2 * self.num_kv_heads) * self.head_dim)
        self._build_output(width)

    def call(self, inputs: tf.Tensor, visible: tf.Tensor | None = None, training: bool = False) -> tf.Tensor:
        query, key, value = self._project(inputs, tf.range(ops.shape(inputs)[1])[None])
        return self._attend(query, key, value, self._mask(inputs, visible), training, self.causal)

    def weights_of(self, inputs: tf.Tensor, visible: tf.Tensor | None = None) -> tf.Tensor:
        """The attention weights of a text, `(batch, num_heads, queries, keys)` float32, for those who want to look."""
        query, key, _ = self._project(inputs, tf.range(ops.shape(inputs)[1])[None])
        return self._all_weights(query, key, self._mask(inputs, visible))

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
            cache = {name: tf.concat([rows[name], cache[name][:, :, count:]], axis=2) for name in rows}
            return self._attend(query, key, value, _visible_slots(slots, slots, padding), False), cache
        cache = {name: _write(cache[name], rows[name], slots) for name in rows}
        visible = _visible_slots(slots, tf.range(tf.shape(cache["key"])[2]), padding)
        return self._attend_to_cache(query, cache["key"], cache["value"], visible), cache

    def _mask(self, inputs: tf.Tensor, visible: tf.Tensor | None) -> tf.Tensor | None:
        if self.causal:
            time = tf.range(ops.shape(inputs)[1])
            return (time[:, None] >= time[None])[None, None, None]
        return None if visible is None else visible[:, None, None, None]

    def _project(self, inputs: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        projected = self._split(apply_dense(self.qkv, inputs))
        if self.rotary:
            turned = rotate(projected[:, :, : self.num_heads + self.num_kv_heads], positions, self.rotary_base)
            query, key = turned[:, :, : self.num_heads], turned[:, :, self.num_heads :]
        else:
            query, key = projected[:, :, : self.num_heads], projected[:, :, self.num_heads : -self.num_kv_heads]
        return query, key, projected[:, :, -self.num_kv_heads :]  # each (batch, time, heads, head_dim)

    def get_config(self) -> dict:
        return {**super().get_config(), "rotary": self.rotary, "causal": self.causal, "rotary_base": self.rotary_base}


@keras.saving.register_keras_serializable(package="keras_lm")
class CrossAttention(_Attention):
    """Multi-head attention of one text over another, its memory: the queries are the decoder's, keys and values the encoder's.

    Args:
        num_heads, num_kv_heads, use_bias, dropout, output_stddev, head_dim: As in `SelfAttention`.

    Call arguments:
        inputs: `(batch, time, width)`.
        memory: `(batch, memory_time, memory_width)`.
        memory_visible: `(batch, memory_time)` bool: where there is text.

    Returns:
        `(batch, time, width)`.

    Raises:
        ValueError: heads that do not divide the width, or each other.

    Example:

    >>> layer = CrossAttention(num_heads=2)
    >>> layer(tf.zeros([1, 5, 8]), tf.zeros([1, 3, 12]), tf.ones([1, 3], tf.bool)).shape
    TensorShape([1, 5, 8])
    """

    def build(self, inputs_shape: tuple, memory_shape: tuple, memory_visible_shape: tuple) -> None:
        self._check_width(inputs_shape[-1])
        self.query = self._dense("query", inputs_shape[-1], self.num_heads * self.head_dim)
        self.key_value = self._dense("key_value", memory_shape[-1], 2 * self.num_kv_heads * self.head_dim)
        self._build_output(inputs_shape[-1])

    def call(self, inputs: tf.Tensor, memory: tf.Tensor, memory_visible: tf.Tensor, training: bool = False) -> tf.Tensor:
        query, (key, value) = self._split(self.query(inputs)), self._keys_and_values(memory)
        return self._attend(query, key, value, memory_visible[:, None, None, None], training, causal=False)

    def weights_of(self, inputs: tf.Tensor, memory: tf.Tensor, memory_visible: tf.Tensor) -> tf.Tensor:
        """The attention weights, `(batch, num_heads, queries, keys)` float32, for those who want to look."""
        key, _ = self._keys_and_values(memory)
        return self._all_weights(self._split(self.query(inputs)), key, memory_visible[:, None, None, None])

    def remember(self, memory: tf.Tensor, memory_visible: tf.Tensor) -> Cache:
        """What steps need of a memory: keys and values `(batch, heads, memory_time, head_dim)`, and where there is text."""
        key, value = (tf.transpose(rows, [0, 2, 1, 3]) for rows in self._keys_and_values(memory))
        return {f"{MEMORY}key": key, f"{MEMORY}value": value, f"{MEMORY}visible": memory_visible}

    def attend_to(self, inputs: tf.Tensor, cache: Cache) -> tf.Tensor:
        """The outputs `(batch, n, width)` over what `remember` gave."""
        query = self._split(apply_dense(self.query, inputs))
        key, value, visible = (cache[MEMORY + name] for name in ("key", "value", "visible"))
        return self._attend_to_cache(query, key, value, visible[:, None, None, None])

    def _keys_and_values(self, memory: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        heads = self._split(self.key_value(memory))
        return heads[:, :, : self.num_kv_heads], heads[:, :, self.num_kv_heads :]


def _visible_slots(slots: tf.Tensor, key_slots: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
    visible = (key_slots[None, None] <= slots[None, :, None]) & (key_slots[None, None] >= padding[:, None, None])
    return visible[:, None, None]  # (batch, 1, 1, queries, keys)


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
