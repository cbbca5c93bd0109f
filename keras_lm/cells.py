"""The recurrent cells from their equations: one step each, in NumPy, every gate named.

For reading and for pictures; models are trained with `keras.layers`, whose weights these take as they are and whose numbers they give.
In all of them `x` is the input at this step, `h` the state before it, W the kernel, U the recurrent kernel, b the bias; σ is the logistic
function, ⊙ the product of numbers in the same place.

References:
    Articles A0 §4.2, A4 §3 and §4, put right: an LSTM forgets (D2), its state goes through tanh on the way out (D22), a GRU has no
    output gate and updates its state once (D23), and an RNN feeds its state back, it does not add up its outputs (D20).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from keras_lm.errors import UserError


class LSTMStep(NamedTuple):
    """What a step of an LSTM computes; each `(..., units)`.

    Args:
        h: The new state, which the next layer and the next step see.
        c: The new memory, which only the next step sees.
        input_gate, forget_gate, output_gate: From 0, closed, to 1, open.
        candidate: What might be written, from -1 to 1.
    """

    h: np.ndarray
    c: np.ndarray
    input_gate: np.ndarray
    forget_gate: np.ndarray
    candidate: np.ndarray
    output_gate: np.ndarray


class GRUStep(NamedTuple):
    """What a step of a GRU computes; each `(..., units)`.

    Args:
        h: The new state.
        update_gate: From 0, replaced, to 1, kept (as in Keras and Cho et al.; Chung et al. 2014 have it the other way round).
        reset_gate: How much of the old state the candidate sees.
        candidate: What might be written, from -1 to 1.
    """

    h: np.ndarray
    update_gate: np.ndarray
    reset_gate: np.ndarray
    candidate: np.ndarray


def simple_rnn_step(x: np.ndarray, h: np.ndarray, kernel: np.ndarray, recurrent_kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """h' = tanh(x W + h U + b).

    Args:
        x: `(..., features)`.
        h: `(..., units)`.
        kernel: `(features, units)`.
        recurrent_kernel: `(units, units)`.
        bias: `(units,)`.

    Returns:
        The new state, `(..., units)`.

    Example:

    >>> simple_rnn_step(np.array([1.0]), np.array([0.0]), np.array([[0.5]]), np.array([[0.8]]), np.array([0.0])).round(4)
    array([0.4621])

    References:
        Elman 1990, «Finding Structure in Time».
    """
    return np.tanh(x @ kernel + h @ recurrent_kernel + bias)


def lstm_step(x: np.ndarray, h: np.ndarray, c: np.ndarray, kernel: np.ndarray, recurrent_kernel: np.ndarray, bias: np.ndarray) -> LSTMStep:
    """i, f, o = σ(x W + h U + b), g = tanh(x W + h U + b), each with its own columns; c' = f⊙c + i⊙g; h' = o⊙tanh(c').

    Args:
        x: `(..., features)`.
        h, c: `(..., units)`.
        kernel: `(features, 4 * units)`: the columns of i, f, g and o side by side, as Keras keeps them.
        recurrent_kernel: `(units, 4 * units)`.
        bias: `(4 * units,)`.

    Example:

    >>> zeros = np.zeros([1, 4])
    >>> step = lstm_step(np.array([0.0]), np.array([0.0]), np.array([1.0]), zeros, zeros, np.zeros(4))
    >>> step.c, step.h.round(4)  # all gates half open: half of the memory is left
    (array([0.5]), array([0.2311]))

    References:
        Hochreiter and Schmidhuber 1997, «Long Short-Term Memory»; the forget gate: Gers et al. 2000.
    """
    i, f, g, o = np.split(x @ kernel + h @ recurrent_kernel + bias, 4, axis=-1)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * c + i * g
    return LSTMStep(o * np.tanh(c), c, i, f, g, o)


def gru_step(x: np.ndarray, h: np.ndarray, kernel: np.ndarray, recurrent_kernel: np.ndarray, bias: np.ndarray) -> GRUStep:
    """z, r = σ(x W + b + h U + d), g = tanh(x W + b + r⊙(h U + d)), each with its own columns; h' = z⊙h + (1 - z)⊙g.

    Args:
        x: `(..., features)`.
        h: `(..., units)`.
        kernel: `(features, 3 * units)`: the columns of z, r and g side by side, as Keras keeps them.
        recurrent_kernel: `(units, 3 * units)`.
        bias: `(2, 3 * units)`: b, then d (`keras.layers.GRU` with `reset_after=True`, its default).

    Raises:
        UserError: a bias of another shape, as weights made with `reset_after=False` have: they are of another equation.

    Example:

    >>> zeros = np.zeros([1, 3])
    >>> gru_step(np.array([0.0]), np.array([1.0]), zeros, zeros, np.zeros([2, 3])).h
    array([0.5])

    References:
        Cho et al. 2014, «Learning Phrase Representations using RNN Encoder-Decoder» (arXiv:1406.1078), equations 5 to 8, with the
        reset after the product, as cuDNN and Keras have it; Chung et al. 2014 (arXiv:1412.3555) have z and 1 - z in each other's place.
    """
    if np.shape(bias) != (2, np.shape(kernel)[-1]):
        raise UserError(f"bias must be (2, {np.shape(kernel)[-1]}), as keras.layers.GRU(reset_after=True) has it, got {np.shape(bias)}")
    from_input, from_state = x @ kernel + bias[0], h @ recurrent_kernel + bias[1]
    (zx, rx, gx), (zh, rh, gh) = np.split(from_input, 3, axis=-1), np.split(from_state, 3, axis=-1)
    z, r = sigmoid(zx + zh), sigmoid(rx + rh)
    g = np.tanh(gx + r * gh)
    return GRUStep(z * h + (1 - z) * g, z, r, g)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """σ(x) = 1 / (1 + exp(-x)), any shape; through tanh, which does not overflow.

    Example:

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    return 0.5 * (1 + np.tanh(0.5 * x))
