"""What a recurrent decoder needs to look at a source: attention inside its steps or after them, and texts read from their end.

A layer that looks at a memory takes it as `keras_lm.attention` describes, so that the sampler can step through it.

References:
    Bahdanau et al. 2015, «Neural Machine Translation by Jointly Learning to Align and Translate» (arXiv:1409.0473), §3.1 and appendix A;
    Luong et al. 2015, «Effective Approaches to Attention-based Neural Machine Translation» (arXiv:1508.04025), §3.1. Articles A2, A3 §4.3.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_lm.attention import MEMORY, Cache


@keras.saving.register_keras_serializable(package="keras_lm")
class AdditiveAttentionGRU(keras.layers.Layer):
    """A GRU each of whose steps first asks the memory: e_j = vᵀ tanh(W s + U m_j), c = Σ softmax(e)_j m_j, s' = GRU([x, c], s).

    Args:
        units: Width of the state, and of the hidden layer of the attention.

    Call arguments:
        inputs: `(batch, time, width)`.
        memory: `(batch, memory_time, memory_width)`.
        memory_visible: `(batch, memory_time)` bool: where there is text.
        initial_state: `(batch, units)`; default zeros.

    Returns:
        `(batch, time, units + memory_width)`: the states, each beside what it had found.

    Example:

    >>> layer = AdditiveAttentionGRU(4)
    >>> layer(tf.zeros([1, 5, 8]), tf.zeros([1, 3, 6]), tf.ones([1, 3], tf.bool)).shape
    TensorShape([1, 5, 10])
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(
        self, inputs_shape: tuple, memory_shape: tuple, memory_visible_shape: tuple, initial_state_shape: tuple | None = None
    ) -> None:
        width, memory_width = inputs_shape[-1], memory_shape[-1]
        self.cell = keras.layers.GRUCell(self.units, dtype=self.dtype_policy, name="cell")
        self.cell.build((None, width + memory_width))
        dense = lambda name, use_bias: keras.layers.Dense(self.units, use_bias=use_bias, dtype=self.dtype_policy, name=name)
        self.query, self.key = dense("query", True), dense("key", False)
        self.query.build((None, self.units))
        self.key.build((None, None, memory_width))
        self.score = self.add_weight(
            shape=(self.units,), initializer=keras.initializers.RandomNormal(stddev=self.units**-0.5), name="score"
        )

    def call(self, inputs: tf.Tensor, memory: tf.Tensor, memory_visible: tf.Tensor, initial_state: tf.Tensor | None = None) -> tf.Tensor:
        batch, time = tf.shape(inputs)[0], inputs.shape[1] or tf.shape(inputs)[1]
        state = tf.zeros([batch, self.units], self.compute_dtype) if initial_state is None else initial_state
        return self._run(inputs, state, self.remember(memory, memory_visible), tf.ones([batch, time], tf.bool))[0]

    def init_cache(self, batch_size: int | tf.Tensor, length: int | tf.Tensor) -> Cache:
        return {"state": tf.zeros([batch_size, self.units], self.compute_dtype)}

    def extend(
        self,
        inputs: tf.Tensor,
        cache: Cache,
        start: int | tf.Tensor,
        padding: tf.Tensor,
        memory: tf.Tensor | None = None,
        memory_visible: tf.Tensor | None = None,
        initial_state: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Cache]:
        if isinstance(start, int) and start == 0:
            state = cache["state"] if initial_state is None else initial_state
            cache = {**self.remember(memory, memory_visible), "state": state}
        live = start + tf.range(tf.shape(inputs)[1])[None] >= padding[:, None]
        outputs, state = self._run(inputs, cache["state"], cache, live)
        return outputs, {**cache, "state": state}

    def remember(self, memory: tf.Tensor, memory_visible: tf.Tensor) -> Cache:
        """What steps need of a memory: itself, what its positions answer to, and where there is text."""
        return {f"{MEMORY}key": self.key(memory), f"{MEMORY}value": memory, f"{MEMORY}visible": memory_visible}

    def weights_of(
        self, inputs: tf.Tensor, memory: tf.Tensor, memory_visible: tf.Tensor, initial_state: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The attention weights, `(batch, 1, queries, keys)` float32, for those who want to look."""
        states = self(inputs, memory, memory_visible, initial_state)[..., : self.units]
        first = tf.zeros_like(states[:, :1]) if initial_state is None else initial_state[:, None]
        before = tf.concat([first, states[:, :-1]], axis=1)  # what asked was the state before the step
        asked = self.query(before)[:, :, None] + self.key(memory)[:, None]
        return self._weights(asked, memory_visible[:, None])[:, None]

    def _weights(self, asked: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
        scores = tf.cast(tf.reduce_sum(tf.tanh(asked) * tf.cast(self.score, asked.dtype), axis=-1), tf.float32)
        return tf.nn.softmax(tf.where(visible, scores, -1e30))

    def _run(self, inputs: tf.Tensor, state: tf.Tensor, cache: Cache, live: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Outputs `(batch, time, units + memory_width)` and the last state; where not `live`, `(batch, time)`, the state stays as it is."""
        key, value, visible = (cache[MEMORY + name] for name in ("key", "value", "visible"))
        time, width = inputs.shape[1] or tf.shape(inputs)[1], inputs.shape[-1]
        kernel, recurrent = (tf.cast(weight, inputs.dtype) for weight in (self.cell.kernel, self.cell.recurrent_kernel))
        bias = tf.cast(self.cell.bias, inputs.dtype)
        from_input = tf.transpose(tf.matmul(inputs, kernel[:width]) + bias[0], [1, 0, 2])  # those of all steps in one product
        live = tf.transpose(live)[:, :, None]

        def step(number: tf.Tensor, state: tf.Tensor, outputs: tf.TensorArray) -> tuple:
            weights = self._weights(self.query(state)[:, None] + key, visible)
            found = tf.squeeze(tf.matmul(tf.cast(weights, value.dtype)[:, None], value), axis=1)
            x = tf.split(from_input[number] + tf.matmul(found, kernel[width:]), 3, axis=1)
            h = tf.split(tf.matmul(state, recurrent) + bias[1], 3, axis=1)
            update, reset = tf.sigmoid(x[0] + h[0]), tf.sigmoid(x[1] + h[1])
            new = update * state + (1 - update) * tf.tanh(x[2] + reset * h[2])
            new = tf.where(live[number], new, state)
            return number + 1, new, outputs.write(number, tf.concat([new, found], axis=1))

        outputs = tf.TensorArray(inputs.dtype, size=time, element_shape=[inputs.shape[0], self.units + value.shape[-1]])
        limit = inputs.shape[1]
        _, state, outputs = tf.while_loop(
            lambda number, *_: number < time, step, (tf.constant(0), state, outputs), maximum_iterations=limit, swap_memory=False
        )
        return tf.transpose(outputs.stack(), [1, 0, 2]), state

    def compute_output_shape(self, inputs_shape: tuple, memory_shape: tuple, *_: tuple, **__: tuple) -> tuple:
        return (*inputs_shape[:2], self.units + memory_shape[-1])

    def get_config(self) -> dict:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="keras_lm")
class DotAttention(keras.layers.Layer):
    """Asks the memory with each state and joins the two: a = softmax(h W mᵀ/√d), h̃ = tanh(V [Σ a m; h]).

    Args:
        units: Width of the outputs.

    Call arguments:
        inputs: `(batch, time, width)`: states of a recurrent layer.
        memory: `(batch, memory_time, memory_width)`.
        memory_visible: `(batch, memory_time)` bool: where there is text.

    Returns:
        `(batch, time, units)`.

    Example:

    >>> layer = DotAttention(4)
    >>> layer(tf.zeros([1, 5, 8]), tf.zeros([1, 3, 6]), tf.ones([1, 3], tf.bool)).shape
    TensorShape([1, 5, 4])
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, inputs_shape: tuple, memory_shape: tuple, memory_visible_shape: tuple) -> None:
        width, memory_width = inputs_shape[-1], memory_shape[-1]
        self.key = keras.layers.Dense(width, use_bias=False, dtype=self.dtype_policy, name="key")
        self.key.build((None, None, memory_width))
        self.join = keras.layers.Dense(self.units, activation="tanh", dtype=self.dtype_policy, name="join")
        self.join.build((None, None, width + memory_width))

    def call(self, inputs: tf.Tensor, memory: tf.Tensor, memory_visible: tf.Tensor) -> tf.Tensor:
        return self._attend(inputs, self.remember(memory, memory_visible))

    def init_cache(self, batch_size: int | tf.Tensor, length: int | tf.Tensor) -> Cache:
        return {}

    def extend(
        self,
        inputs: tf.Tensor,
        cache: Cache,
        start: int | tf.Tensor,
        padding: tf.Tensor,
        memory: tf.Tensor | None = None,
        memory_visible: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, Cache]:
        if isinstance(start, int) and start == 0:
            cache = self.remember(memory, memory_visible)
        return self._attend(inputs, cache), cache

    def remember(self, memory: tf.Tensor, memory_visible: tf.Tensor) -> Cache:
        """As `AdditiveAttentionGRU.remember`."""
        return {f"{MEMORY}key": self.key(memory), f"{MEMORY}value": memory, f"{MEMORY}visible": memory_visible}

    def weights_of(self, inputs: tf.Tensor, memory: tf.Tensor, memory_visible: tf.Tensor) -> tf.Tensor:
        """The attention weights, `(batch, 1, queries, keys)` float32, for those who want to look."""
        return self._weights(inputs, self.remember(memory, memory_visible))[:, None]

    def _weights(self, inputs: tf.Tensor, cache: Cache) -> tf.Tensor:
        key = cache[f"{MEMORY}key"]
        scores = tf.matmul(inputs * tf.cast(key.shape[-1] ** -0.5, inputs.dtype), key, transpose_b=True)
        return tf.nn.softmax(tf.where(cache[f"{MEMORY}visible"][:, None], tf.cast(scores, tf.float32), -1e30))

    def _attend(self, inputs: tf.Tensor, cache: Cache) -> tf.Tensor:
        value = cache[f"{MEMORY}value"]
        found = tf.matmul(tf.cast(self._weights(inputs, cache), value.dtype), value)
        return self.join(tf.concat([found, inputs], axis=-1))

    def get_config(self) -> dict:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable(package="keras_lm")
class ReverseText(keras.layers.Layer):
    """Turns texts round where they stand: what is padded behind them stays there.

    Call arguments:
        inputs: `(batch, time, width)`.
        visible: `(batch, time)` bool: where there is text, from the first position on.

    Returns:
        `(batch, time, width)`.

    Example:

    >>> x = tf.constant([[[1.0], [2.0], [9.0]]])
    >>> ReverseText()(x, tf.constant([[True, True, False]])).numpy().ravel().tolist()
    [2.0, 1.0, 9.0]
    """

    def call(self, inputs: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
        return tf.reverse_sequence(inputs, tf.reduce_sum(tf.cast(visible, tf.int32), axis=1), seq_axis=1)


@keras.saving.register_keras_serializable(package="keras_lm")
class TextEnd(keras.layers.Layer):
    """The vector at each text's last position; zeros for a text of none.

    Call arguments:
        inputs: `(batch, time, width)`.
        visible: `(batch, time)` bool: where there is text, from the first position on.

    Returns:
        `(batch, width)`.

    Example:

    >>> x = tf.constant([[[1.0], [2.0], [9.0]]])
    >>> TextEnd()(x, tf.constant([[True, True, False]])).numpy().tolist()
    [[2.0]]
    """

    def call(self, inputs: tf.Tensor, visible: tf.Tensor) -> tf.Tensor:
        length = tf.reduce_sum(tf.cast(visible, tf.int32), axis=1)
        last = tf.range(tf.shape(inputs)[1])[None] == length[:, None] - 1
        return tf.reduce_sum(tf.where(last[:, :, None], inputs, tf.zeros_like(inputs)), axis=1)


def read_both_ways(
    layer: type[keras.layers.RNN], units: int, x: keras.KerasTensor, visible: keras.KerasTensor, names: str
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """A text read by two recurrent layers, one of which begins at its end.

    The second is given the text reversed, its padding still behind it: Keras' own `go_backwards` would begin with the padding.

    Args:
        layer: `keras.layers.SimpleRNN`, `LSTM` or `GRU`.
        units: Width of each.
        x: `(batch, time, width)`, symbolic.
        visible: `(batch, time)` bool, symbolic: where there is text.
        names: Of the layers, with `{}` for `forward` and `backward`.

    Returns:
        Two tensors `(batch, time, units)`: the states, and those of the second in the order in which it read.
    """
    forward = layer(units, return_sequences=True, name=names.format("forward"))(x)
    return forward, layer(units, return_sequences=True, name=names.format("backward"))(ReverseText()(x, visible))
