"""What the gates of a recurrent layer do along a text: every step of `keras_lm.cells`, with the weights of a trained model.

Keras' layers give their hidden states alone. The inputs of each layer are noted as the model reads (`models.run_layers`), and the steps
are taken once more from the equations, where everything has a name; the hidden states are those of the layer to 1e-5.

References:
    Articles A0 §4.2 and A4 §3, §4. Karpathy, Johnson and Fei-Fei 2015, «Visualizing and Understanding Recurrent Networks»
    (arXiv:1506.02078), §4.2, on gates that stay open or shut.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lm.cells import gru_step, lstm_step, simple_rnn_step
from keras_lm.errors import UserError, unknown_name
from keras_lm.insight.reading import Reader
from keras_lm.models import call_layer, run_layers
from keras_lm.recurrent_attention import ReverseText
from keras_lm.training.run import Run

_KINDS = {keras.layers.LSTM: "lstm", keras.layers.GRU: "gru", keras.layers.SimpleRNN: "simple_rnn"}


@dataclasses.dataclass(frozen=True)
class GateActivations:
    """A recurrent layer along a text.

    Attributes:
        layer: Its name in the model.
        kind: `lstm`, `gru` or `simple_rnn`.
        tokens: What it read, start and end included, in the order of the text; a layer that reads backwards came to the last one first.
        values: By name, `(tokens, units)` float32. `hidden` is of every kind, the state after each token; an LSTM has `cell` too, its
            memory. Gates go from 0, shut, to 1, open: `input_gate`, `forget_gate` and `output_gate` of an LSTM, `update_gate` (1 keeps
            the old state) and `reset_gate` of a GRU. `candidate` is what might be written, from -1 to 1.
    """

    layer: str
    kind: str
    tokens: tuple[str, ...]
    values: Mapping[str, np.ndarray]

    @property
    def gates(self) -> dict[str, np.ndarray]:
        """Those values that are gates."""
        return {name: value for name, value in self.values.items() if name.endswith("_gate")}


def gate_activations(subject: Run | Reader, text: str, layer: str | int = -1) -> GateActivations:
    """What the gates of a layer do as a run reads a text.

    Args:
        subject: A trained run, or a `Reader`, of a model with recurrent layers.
        text: One text.
        layer: The layer's name, or its number among the recurrent ones, from 0 or from the end; default the last.

    Raises:
        UserError: a model without recurrent layers, no such layer, or a text that cannot be read (`Reader.read`).

    Example:

    >>> from keras_lm.models import lstm_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> found = gate_activations(Reader(lstm_lm(260, embedding_dim=4, hidden_dim=6), ByteTokenizer()), "at")
    >>> found.tokens, found.values["cell"].shape
    (('<s>', 'a', 't'), (3, 6))
    >>> list(found.gates)
    ['input_gate', 'forget_gate', 'output_gate']
    """
    reader = Reader.of(subject)
    every = all_gate_activations(reader, text)
    names = [one.layer for one in every]
    if isinstance(layer, str):
        if layer not in names:
            raise unknown_name("recurrent layer", layer, names)
        return every[names.index(layer)]
    if not -len(every) <= layer < len(every):
        raise UserError(f"layer must be from 0 to {len(every) - 1}, or from the end, got {layer}; the layers are {', '.join(names)}")
    return every[layer]


def all_gate_activations(subject: Run | Reader, text: str) -> list[GateActivations]:
    """The same of all recurrent layers of a model, in their order; arguments and errors as in `gate_activations`."""
    reader = Reader.of(subject)
    reader.one_text("gates")
    if not any(isinstance(layer, keras.layers.RNN) for layer in reader.model._flatten_layers()):
        raise UserError(f"{reader.model.name} has no recurrent layer, and so no gates: its attention can be shown")
    reading = reader.read(text)
    return [
        GateActivations(layer.name, _KINDS[type(layer)], reading.tokens, layer_steps(layer, inputs, backward))
        for layer, inputs, backward in _recurrent_inputs(reader.model, tf.constant([reading.ids]))
    ]


def layer_steps(layer: keras.layers.RNN, inputs: np.ndarray, backward: bool = False) -> dict[str, np.ndarray]:
    """Every quantity of a recurrent layer as it goes along its inputs, from a state of zeros.

    Args:
        layer: A `keras.layers.LSTM`, `GRU` or `SimpleRNN` with its default activations.
        inputs: `(time, features)`, in the order in which the layer reads.
        backward: Whether that is the text from its end; the result is in the order of the text.

    Returns:
        The `values` of `GateActivations`.

    Raises:
        UserError: another layer, or other activations: other equations.

    Example:

    >>> layer = keras.layers.GRU(3)
    >>> layer.build((None, None, 2))
    >>> list(layer_steps(layer, np.ones([4, 2])))
    ['update_gate', 'reset_gate', 'candidate', 'hidden']
    """
    usual = type(layer) in _KINDS and layer.activation is keras.activations.tanh
    if not usual or getattr(layer, "recurrent_activation", keras.activations.sigmoid) is not keras.activations.sigmoid:
        raise UserError(f"{layer.name} is no LSTM, GRU or SimpleRNN with its usual activations: its steps are of other equations")
    step = _STEPS[type(layer)]
    cell, units = layer.cell, layer.units
    kernel, recurrent = (np.asarray(weight, np.float64) for weight in (cell.kernel, cell.recurrent_kernel))
    bias_shape = (2, 3 * units) if isinstance(layer, keras.layers.GRU) else kernel.shape[-1:]
    bias = np.asarray(cell.bias, np.float64) if layer.use_bias else np.zeros(bias_shape)
    values: dict[str, list[np.ndarray]] = {}
    state = {"hidden": np.zeros(units), "cell": np.zeros(units)}
    for x in np.asarray(inputs, np.float64):
        state = step(x, state, kernel, recurrent, bias)
        for name, value in state.items():
            values.setdefault(name, []).append(value)
    return {name: np.stack(rows[::-1] if backward else rows).astype(np.float32) for name, rows in values.items()}


def _lstm(x: np.ndarray, state: dict[str, np.ndarray], *weights: np.ndarray) -> dict[str, np.ndarray]:
    new = lstm_step(x, state["hidden"], state["cell"], *weights)
    gates = {"input_gate": new.input_gate, "forget_gate": new.forget_gate, "output_gate": new.output_gate}
    return {**gates, "candidate": new.candidate, "cell": new.c, "hidden": new.h}


def _gru(x: np.ndarray, state: dict[str, np.ndarray], *weights: np.ndarray) -> dict[str, np.ndarray]:
    new = gru_step(x, state["hidden"], *weights)
    return {"update_gate": new.update_gate, "reset_gate": new.reset_gate, "candidate": new.candidate, "hidden": new.h}


def _simple(x: np.ndarray, state: dict[str, np.ndarray], *weights: np.ndarray) -> dict[str, np.ndarray]:
    return {"hidden": simple_rnn_step(x, state["hidden"], *weights)}


_STEPS: dict[type, Callable[..., dict[str, np.ndarray]]] = {
    keras.layers.LSTM: _lstm,
    keras.layers.GRU: _gru,
    keras.layers.SimpleRNN: _simple,
}


def _recurrent_inputs(model: keras.Model, ids: tf.Tensor) -> list[tuple[keras.layers.RNN, np.ndarray, bool]]:
    """The recurrent layers of a model, what each reads of one text, `(time, features)`, and whether from the end."""
    found: list[tuple[keras.layers.RNN, np.ndarray, bool]] = []
    turned: list[tf.Tensor] = []

    def replace(layer: keras.Operation) -> Callable:
        def called(*inputs: Any, **kwargs: Any) -> Any:
            if isinstance(layer, keras.layers.RNN):
                found.append((layer, tf.cast(inputs[0][0], tf.float32).numpy(), any(inputs[0] is one for one in turned)))
            outputs = call_layer(layer, inputs, kwargs, training=False)
            if isinstance(layer, ReverseText):
                turned.append(outputs)
            return outputs

        return called

    run_layers(model, ids, replace)
    return found
