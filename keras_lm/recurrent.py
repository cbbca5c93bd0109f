"""Keras' recurrent layers, run fast: their weights, their numbers, another loop.

Keras leaves it to automatic differentiation to walk back through the loop of an LSTM, which then adds to the gradients of all weights at
every step. Here a layer is three parts: one product with the kernel for the inputs of all steps; a loop over what hangs on the step before,
h U and the gates; and a gradient written by hand, whose loop gives da alone, the gradient of what goes into the gates. Those of the weights
are then one product each over all steps, as dU = Σ_t h_{t-1}ᵀ da_t (Appleyard et al. 2016). Where a layer reads an embedding of fewer
tokens than columns, the two matrices are multiplied once, and rows are looked up.

`LSTM`, `GRU` and `SimpleRNN` with their default activations take this way; with dropout inside the layer, with other cells and with
anything unusual Keras' own loop runs. A `keras.layers.Dropout` between them draws as `keras_lm.dropout` does: Keras' random numbers take
longer under XLA than all the rest of a small LSTM. On a CPU XLA is a tenth to a quarter faster than the graph without it. On a GPU without
XLA, `run_model` leaves the layers to Keras and cuDNN; how fast the loop here is on a GPU has not been measured.

References:
    Elman 1990 (SimpleRNN). Hochreiter and Schmidhuber 1997; Gers et al. 2000 (LSTM). Cho et al. 2014, arXiv:1406.1078 (GRU).
    Appleyard, Kočiský and Blunsom 2016, arXiv:1604.01946 (the products over all steps).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext  # nothing public says whether XLA compiles

from keras_lm.dropout import hash_dropout
from keras_lm.models import call_layer, run_layers

States = dict[str, list[tf.Tensor]]
"""By layer name, the states of a recurrent layer: `[h]`, or `[h, c]` of an LSTM, each `(batch, hidden_dim)`."""


def run_model(model: keras.Model, ids: tf.Tensor | Sequence[tf.Tensor], training: bool = False) -> tf.Tensor:
    """`model(ids, training=training)` to 1e-5, with its recurrent layers on the fast path.

    Args:
        model: Any language model; one without layers that could gain is simply called.
        ids: `(batch, time)` int32; a list where the model has several inputs.
        training: Whether dropout acts.

    Returns:
        Logits `(batch, time, vocabulary_size)` float32.

    Example:

    >>> from keras_lm.models import lstm_lm
    >>> model, ids = lstm_lm(20, embedding_dim=8, hidden_dim=12), tf.constant([[4, 5, 6]])
    >>> bool(tf.reduce_all(tf.abs(run_model(model, ids) - model(ids)) < 1e-5))
    True
    """
    cudnn = tf.config.list_physical_devices("GPU") and not GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())
    if cudnn or not any(_gains(layer, training) for layer in model._flatten_layers()):
        return model(ids, training=training)
    return _walk(model, ids, None, training)


def run_stateful(model: keras.Model, ids: tf.Tensor, states: States, training: bool = False) -> tuple[tf.Tensor, States]:
    """A recurrent language model whose states are carried between windows, and no gradient with them (article A1 §5, put right).

    Args:
        model: One of the recurrent models, or any Sequential or Functional model whose memory is in recurrent layers alone.
        ids: `(batch, time)` int32.
        states: By layer name, what `zero_states` or the previous call gave.
        training: Whether dropout acts.

    Returns:
        Logits `(batch, time, vocabulary_size)` and the states after the last position.
    """
    states = dict(states)
    return _walk(model, ids, states, training), states


def zero_states(model: keras.Model, batch_size: int) -> States:
    """The states of a recurrent model before any text, by layer name."""
    return {layer.name: layer.get_initial_state(batch_size) for layer in model.layers if isinstance(layer, keras.layers.RNN)}


def run_recurrent(
    layer: keras.layers.RNN, inputs: tf.Tensor, states: list[tf.Tensor], mask: tf.Tensor | None = None, training: bool = False
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """A recurrent layer with its states explicit.

    Args:
        layer: `SimpleRNN`, `LSTM`, `GRU` or an `RNN` around any cell.
        inputs: `(batch, time, width)`.
        states: What the layer held before, as `layer.get_initial_state(batch)` lists it.
        mask: `(batch, time)` bool; where false the states stay as they are. `None`: true everywhere.
        training: Whether dropout acts.

    Returns:
        Outputs `(batch, time, hidden_dim)` and the states after the last position. Where the mask is false, the output is the one before
        it, and zero where there was none.
    """
    if not _written_out(layer.cell, training):
        # A bare RNN around the same cell: it takes no cuDNN path, which can neither be compiled by XLA nor start from padded rows.
        runner = keras.layers.RNN(layer.cell, return_sequences=True, return_state=True, dtype=layer.dtype_policy)
        outputs, *states = runner(inputs, initial_state=states, mask=mask, training=training)
        return outputs, states
    inputs = tf.cast(tf.transpose(inputs, [1, 0, 2]), layer.cell.compute_dtype)  # (time, batch, width)
    return _run(layer.cell, lambda kernel, bias: tf.matmul(inputs, kernel) + bias, states, mask)


def _walk(model: keras.Model, ids: tf.Tensor, states: States | None, training: bool) -> tf.Tensor:
    """The model by its layers; `states` are read and replaced. `None`: zero, and Keras runs the layers that gain nothing here."""
    looked_up: dict[int, tuple] = {}  # by the `id` of its outputs: these, which keeps the `id` theirs, the embedding and its ids

    def replace(layer: keras.Operation) -> Callable:
        def recurrent(x: tf.Tensor, initial_state: Any = None) -> tf.Tensor:
            if initial_state is not None:
                before = tf.nest.flatten(initial_state)
            else:
                before = layer.get_initial_state(tf.shape(x)[0]) if states is None else states[layer.name]
            if id(x) in looked_up and _written_out(layer.cell, training):
                _, embedding, ids = looked_up[id(x)]
                outputs, after = _run(layer.cell, lambda *weights: _rows(embedding, ids, *weights), before)
            else:
                outputs, after = run_recurrent(layer, x, before, training=training)
            if states is not None:
                states[layer.name] = [tf.stop_gradient(state) for state in after]
            return outputs

        def called(*inputs: object, **kwargs: object) -> tf.Tensor:
            if isinstance(layer, keras.layers.RNN):
                masked = getattr(inputs[0], "_keras_mask", None) is not None
                if states is not None or (_gains(layer, training) and not masked):
                    return recurrent(inputs[0], kwargs.get("initial_state"))
            if training and type(layer) is keras.layers.Dropout and layer.noise_shape is None:
                return hash_dropout(layer, inputs[0])
            outputs = call_layer(layer, inputs, kwargs, training)
            if _is_small(layer):
                looked_up[id(outputs)] = outputs, layer, inputs[0]
            return outputs

        return called

    return run_layers(model, ids, replace)


def _is_small(layer: keras.Operation) -> bool:
    """Whether a layer is an embedding of fewer tokens than columns, and nothing more."""
    small = type(layer) is keras.layers.Embedding and layer.input_dim <= layer.output_dim and not layer.mask_zero
    return small and layer.quantization_mode is None and layer.compute_dtype == layer.variable_dtype


def _rows(embedding: keras.layers.Embedding, ids: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """The outputs of an embedding times a kernel, `(time, batch, columns)`, looked up in the product of the two matrices.

    With 65 characters in 256 columns a seventh (LSTM 2 x 512) to a fifth (1 x 1024) of all arithmetic is saved.
    """
    return tf.gather(tf.matmul(tf.convert_to_tensor(embedding.embeddings), kernel) + bias, tf.transpose(ids))


def _gains(layer: keras.Operation, training: bool) -> bool:
    """Whether the outputs of this layer are those of `run_recurrent` from zero states."""
    usual = type(layer) in (keras.layers.LSTM, keras.layers.GRU, keras.layers.SimpleRNN) and _written_out(layer.cell, training)
    unusual = ("return_state", "go_backwards", "stateful", "zero_output_for_mask", "activity_regularizer")
    return usual and layer.return_sequences and not any(getattr(layer, name) for name in unusual)


def _written_out(cell: keras.layers.Layer, training: bool) -> bool:
    """Whether a cell is one of those below."""
    if type(cell) not in _CELLS or cell.activation is not keras.activations.tanh:
        return False
    sigmoid = getattr(cell, "recurrent_activation", keras.activations.sigmoid) is keras.activations.sigmoid
    return sigmoid and not (training and (cell.dropout or cell.recurrent_dropout))


def _parts(cell: keras.layers.Layer) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
    """Kernel, the bias that goes with it, and what the loop multiplies states by, in the dtype the cell computes in."""
    variables = [cell.kernel, cell.recurrent_kernel, *([cell.bias] if cell.use_bias else [])]
    kernel, recurrent, *bias = (tf.cast(tf.convert_to_tensor(variable), cell.compute_dtype) for variable in variables)
    bias = bias[0] if bias else tf.zeros([kernel.shape[1]], kernel.dtype)
    if type(cell) is not keras.layers.GRUCell:
        return kernel, bias, [recurrent]
    units = cell.units
    if not cell.reset_after:
        return kernel, bias, [recurrent[:, : 2 * units], recurrent[:, 2 * units :]]
    of_input, of_state = tf.unstack(bias) if cell.use_bias else (bias, tf.zeros_like(bias))
    # Two of the three biases of the state go with those of the input; the third is multiplied by the reset gate.
    return kernel, of_input + tf.concat([of_state[: 2 * units], tf.zeros_like(of_state[:units])], 0), [recurrent, of_state[2 * units :]]


def _run(cell: keras.layers.Layer, project: Callable, states: list[tf.Tensor], mask: tf.Tensor | None = None) -> tuple[tf.Tensor, list]:
    """What `run_recurrent` gives; `project` makes of kernel and bias what the inputs add to the gates, `(time, batch, columns)`."""
    kernel, bias, weights = _parts(cell)
    states = [tf.cast(state, kernel.dtype) for state in states]
    mask = None if mask is None else tf.transpose(mask)[:, :, None]  # (time, batch, 1)
    recurrence = _CELLS[type(cell)] if getattr(cell, "reset_after", True) else _GRUResetBefore
    outputs, *states = _scan(recurrence, project(kernel, bias), weights, states, mask)
    if mask is not None:
        outputs = tf.where(tf.cumsum(tf.cast(mask, tf.int32)) > 0, outputs, tf.zeros_like(outputs))
    return tf.transpose(outputs, [1, 0, 2]), states


def _scan(
    recurrence: type[_Recurrence], projected: tf.Tensor, weights: list[tf.Tensor], states: list[tf.Tensor], mask: tf.Tensor | None
) -> list[tf.Tensor]:
    """Hidden states after each step, `(time, batch, units)`, and all states after the last, with the gradient of the module's docstring."""
    steps = projected.shape[0] or tf.shape(projected)[0]

    def chosen(step: tf.Tensor, new: list[tf.Tensor], old: list[tf.Tensor]) -> list[tf.Tensor]:
        if mask is not None:
            new = [tf.where(mask[step], one, other) for one, other in zip(new, old, strict=True)]
        return [tf.ensure_shape(one, other.shape) for one, other in zip(new, old, strict=True)]

    def arrays(widths: list[int]) -> list[tf.TensorArray]:
        return [tf.TensorArray(projected.dtype, steps, element_shape=[projected.shape[1], width]) for width in widths]

    def write(into: list[tf.TensorArray], step: tf.Tensor, values: list[tf.Tensor]) -> list[tf.TensorArray]:
        return [array.write(step, value) for array, value in zip(into, values, strict=True)]

    @tf.custom_gradient
    def scan(projected: tf.Tensor, weights: list[tf.Tensor], first: list[tf.Tensor]) -> tuple[list[tf.Tensor], Callable]:
        units = first[0].shape[1]

        def forward(step: tf.Tensor, states: list[tf.Tensor], history: list, kept: list) -> tuple:
            new, keep = recurrence.forward(projected[step], states, weights)
            new = chosen(step, new, states)
            return step + 1, new, write(history, step, new), write(kept, step, keep)

        loop = (0, first, arrays([units] * len(first)), arrays([units] * recurrence.kept))
        _, last, history, kept = tf.while_loop(lambda step, *_: step < steps, forward, loop)
        after, kept = [array.stack() for array in history], [array.stack() for array in kept]

        def gradient(d_outputs: tf.Tensor, *d_last: tf.Tensor) -> tuple:
            before = [tf.concat([state[None], stacked[:-1]], axis=0) for state, stacked in zip(first, after, strict=True)]

            def backward(step: tf.Tensor, d_states: list[tf.Tensor], d_projected: list) -> tuple:
                at = lambda stacked: [tensor[step] for tensor in stacked]
                d_states = [d_states[0] + d_outputs[step], *d_states[1:]]
                d_x, d_before = recurrence.backward(d_states, at(before), at(after), at(kept), weights)
                (d_x,) = chosen(step, [d_x], [tf.zeros_like(d_x)])
                return step - 1, chosen(step, d_before, d_states), write(d_projected, step, [d_x])

            loop = (steps - 1, list(d_last), arrays([projected.shape[2]]))
            _, d_first, (d_projected,) = tf.while_loop(lambda step, *_: step >= 0, backward, loop)
            d_projected = d_projected.stack()
            flat = lambda tensor: tf.reshape(tensor, [-1, tensor.shape[-1]])  # (time * batch, columns)
            d_weights = recurrence.weights(flat(before[0]), [flat(tensor) for tensor in kept], flat(d_projected))
            return d_projected, d_weights, d_first

        return [after[0], *last], gradient

    return scan(projected, weights, states)


class _Recurrence:
    """One step of a cell, forward and backward; h, c and all gates are `(batch, units)`, `x` is `(batch, columns)`.

    Attributes:
        kept: How many tensors `forward` keeps for `backward`.
    """

    kept: int

    @staticmethod
    def forward(x: tf.Tensor, states: list, weights: list) -> tuple[list, list]:
        """States after the step, and what to keep; `x` has been multiplied by the kernel."""

    @staticmethod
    def backward(d_states: list, before: list, after: list, kept: list, weights: list) -> tuple[tf.Tensor, list]:
        """Gradients of `x` and of the states before the step, from those of the states after it."""

    @staticmethod
    def weights(before: tf.Tensor, kept: list, d_x: tf.Tensor) -> list:
        """Gradients of the weights, of all steps at once: tensors are `(time * batch, ...)`, `before` is the h before each step."""
        return [tf.matmul(before, d_x, transpose_a=True)]


def _sigmoid(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * tf.tanh(0.5 * x) + 0.5  # for tf.sigmoid XLA takes an exponential and divides: 1 % of a training step


class _SimpleRNN(_Recurrence):
    """h' = tanh(x + h U); da = dh' ⊙ (1 - h'²), dh = da Uᵀ, dU = hᵀ da."""

    kept = 0

    @staticmethod
    def forward(x, states, weights):
        return [tf.tanh(x + tf.matmul(states[0], weights[0]))], []

    @staticmethod
    def backward(d_states, before, after, kept, weights):
        d_x = d_states[0] * (1 - after[0] * after[0])
        return d_x, [tf.matmul(d_x, weights[0], transpose_b=True)]


class _LSTM(_Recurrence):
    """a = x + h U, cut into i, f, g, o: σ of a but tanh for g; c' = f ⊙ c + i ⊙ g, h' = o ⊙ tanh(c').

    dc' += dh' ⊙ o ⊙ (1 - tanh²(c')); da = [dc'⊙g⊙i(1-i), dc'⊙c⊙f(1-f), dc'⊙i⊙(1-g²), dh'⊙tanh(c')⊙o(1-o)];
    dh = da Uᵀ, dc = dc' ⊙ f, dU = hᵀ da.
    """

    kept = 4

    @staticmethod
    def forward(x, states, weights):
        h, c = states
        i, f, g, o = tf.split(x + tf.matmul(h, weights[0]), 4, axis=1)
        i, f, g, o = _sigmoid(i), _sigmoid(f), tf.tanh(g), _sigmoid(o)
        c = f * c + i * g
        return [o * tf.tanh(c), c], [i, f, g, o]

    @staticmethod
    def backward(d_states, before, after, kept, weights):
        (d_h, d_c), (i, f, g, o), squashed = d_states, kept, tf.tanh(after[1])
        d_c += d_h * o * (1 - squashed * squashed)
        d_x = [d_c * g * i * (1 - i), d_c * before[1] * f * (1 - f), d_c * i * (1 - g * g), d_h * squashed * o * (1 - o)]
        d_x = tf.concat(d_x, axis=1)
        return d_x, [tf.matmul(d_x, weights[0], transpose_b=True), d_c * f]


class _GRU(_Recurrence):
    """z, r = σ(x_zr + h U_zr), n = h U_n + b, g = tanh(x_g + r ⊙ n), h' = z ⊙ h + (1-z) ⊙ g (Keras' `reset_after=True`).

    da_g = dh' ⊙ (1-z) ⊙ (1-g²), da_z = dh' ⊙ (h-g) ⊙ z(1-z), da_r = da_g ⊙ n ⊙ r(1-r); with e = [da_z, da_r, da_g ⊙ r]:
    dh = dh' ⊙ z + e Uᵀ, dU = hᵀ e, db = Σ da_g ⊙ r.
    """

    kept = 4

    @staticmethod
    def forward(x, states, weights):
        (h,), (kernel, bias) = states, weights
        x_z, x_r, x_g = tf.split(x, 3, axis=1)
        z, r, n = tf.split(tf.matmul(h, kernel), 3, axis=1)
        z, r, n = _sigmoid(x_z + z), _sigmoid(x_r + r), n + bias
        g = tf.tanh(x_g + r * n)
        return [z * h + (1 - z) * g], [z, r, n, g]

    @staticmethod
    def backward(d_states, before, after, kept, weights):
        (d_h,), (z, r, n, g) = d_states, kept
        d_g = d_h * (1 - z) * (1 - g * g)
        d_zr = [d_h * (before[0] - g) * z * (1 - z), d_g * n * r * (1 - r)]
        d_before = d_h * z + tf.matmul(tf.concat([*d_zr, d_g * r], axis=1), weights[0], transpose_b=True)
        return tf.concat([*d_zr, d_g], axis=1), [d_before]

    @staticmethod
    def weights(before, kept, d_x):
        d_zr, d_g = tf.split(d_x, [2 * before.shape[1], before.shape[1]], axis=1)
        d_n = d_g * kept[1]
        return [tf.matmul(before, tf.concat([d_zr, d_n], axis=1), transpose_a=True), tf.reduce_sum(d_n, axis=0)]


class _GRUResetBefore(_Recurrence):
    """As `_GRU`, with g = tanh(x_g + (r ⊙ h) U_g) (Cho et al. 2014; `reset_after=False`).

    With q = da_g U_gᵀ: da_r = q ⊙ h ⊙ r(1-r), dh = dh' ⊙ z + q ⊙ r + [da_z, da_r] U_zrᵀ, dU_zr = hᵀ [da_z, da_r], dU_g = (r ⊙ h)ᵀ da_g.
    """

    kept = 3

    @staticmethod
    def forward(x, states, weights):
        (h,), (kernel_zr, kernel_g) = states, weights
        x_z, x_r, x_g = tf.split(x, 3, axis=1)
        z, r = tf.split(tf.matmul(h, kernel_zr), 2, axis=1)
        z, r = _sigmoid(x_z + z), _sigmoid(x_r + r)
        g = tf.tanh(x_g + tf.matmul(r * h, kernel_g))
        return [z * h + (1 - z) * g], [z, r, g]

    @staticmethod
    def backward(d_states, before, after, kept, weights):
        (d_h,), (h,), (z, r, g) = d_states, before, kept
        d_g = d_h * (1 - z) * (1 - g * g)
        d_reset = tf.matmul(d_g, weights[1], transpose_b=True)
        d_zr = tf.concat([d_h * (h - g) * z * (1 - z), d_reset * h * r * (1 - r)], axis=1)
        return tf.concat([d_zr, d_g], axis=1), [d_h * z + d_reset * r + tf.matmul(d_zr, weights[0], transpose_b=True)]

    @staticmethod
    def weights(before, kept, d_x):
        d_zr, d_g = tf.split(d_x, [2 * before.shape[1], before.shape[1]], axis=1)
        return [tf.matmul(before, d_zr, transpose_a=True), tf.matmul(kept[1] * before, d_g, transpose_a=True)]


_CELLS = {keras.layers.SimpleRNNCell: _SimpleRNN, keras.layers.LSTMCell: _LSTM, keras.layers.GRUCell: _GRU}
