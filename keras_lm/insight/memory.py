"""How far back a language model's loss reaches: its gradient in the input k steps before.

The gradient of the loss at step t in the vector of the token at step t - k says how much the loss changes if that vector does; training
can put right only what it reaches. Article A3 §3.1 has recurrent networks hold on to long-range dependencies; in a SimpleRNN the gradient
goes through one more matrix U diag(1 - h²) a step back, and usually shrinks by a factor each time.

It measures what the loss at this one token depends on, which is not all that a state holds: see `keras_lm.insight.recall` for that.

References:
    Hochreiter 1991; Bengio, Simard and Frasconi 1994; Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.models import call_layer, run_layers


def input_gradients(model: keras.Model, ids: np.ndarray | tf.Tensor, position: int = -1, batch_size: int = 32) -> np.ndarray:
    """Norms of the gradients of the loss at one position in the embedding vectors of all inputs.

    Args:
        model: Sequential or Functional, from ids to logits, with an `Embedding` first. Dropout is off.
        ids: `(windows, time + 1)` int32; the last `time` are the targets of the first.
        position: The step t whose loss, -ln P(token t + 1 | tokens up to t), is taken: 0 to `time - 1`, or from the end; default the last.
        batch_size: Windows a backward pass.

    Returns:
        `(windows, time)` float: ‖∂ loss at t / ∂ vector of input i‖₂. Zero for i > t where the model is causal.

    Raises:
        UserError: fewer than two tokens a window, a position outside it, or a model without an embedding.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> norms = input_gradients(gru_lm(20, embedding_dim=8, hidden_dim=12), np.array([[4, 5, 6, 7, 8]]), position=1)
    >>> (norms > 0).tolist()
    [[True, True, False, False]]
    """
    ids = np.asarray(ids)
    if ids.ndim != 2 or ids.shape[1] < 2:
        raise UserError(f"ids must be (windows, tokens) with two tokens or more, got {ids.shape}")
    time = ids.shape[1] - 1
    if not -time <= position < time:
        raise UserError(f"position must be from {-time} to {time - 1} in windows of {time} inputs, got {position}")
    parts = [
        _gradients(model, tf.constant(ids[row : row + batch_size], tf.int32), position % time) for row in range(0, len(ids), batch_size)
    ]
    return np.concatenate([tf.norm(part, axis=-1).numpy() for part in parts])


def gradient_reach(
    model: keras.Model, ids: np.ndarray | tf.Tensor, distances: int | None = None, position: int = -1, batch_size: int = 32
) -> np.ndarray:
    """The gradient of the loss at one step in the input k steps before it, over k: the mean of its norm over windows.

    Args:
        model: Sequential or Functional, from ids to logits, with an `Embedding` first. Dropout is off.
        ids: `(windows, time + 1)` int32; the last `time` are the targets of the first.
        distances: How many k, from 0 on; default all that the windows hold.
        position: As `input_gradients` takes it; default the last step of the windows.
        batch_size: Windows a backward pass.

    Returns:
        `(distances,)` float: at k the mean of ‖∂ loss at t / ∂ vector of input t - k‖₂; k = 0 is the token just read.

    Raises:
        UserError: as `input_gradients`, and distances that reach beyond the windows.

    Example:

    >>> from keras_lm.models import simple_rnn_lm
    >>> ids = np.random.default_rng(0).integers(4, 20, size=[8, 33])
    >>> gradient_reach(simple_rnn_lm(20, embedding_dim=8, hidden_dim=12), ids, distances=10).shape
    (10,)
    """
    norms = input_gradients(model, ids, position, batch_size)
    before = position % norms.shape[1] + 1
    if distances is None:
        distances = before
    if not 1 <= distances <= before:
        raise UserError(f"distances must be from 1 to {before}, the inputs up to that step, got {distances}")
    return norms[:, before - distances : before].mean(axis=0)[::-1]


def _gradients(model: keras.Model, ids: tf.Tensor, position: int) -> tf.Tensor:
    """`(windows, time, embedding_dim)`: windows do not meet, so the gradient of the sum of their losses is that of each."""
    vectors: list[tf.Tensor] = []

    def replace(layer: keras.Operation) -> Callable:
        def called(*inputs: object, **kwargs: object) -> tf.Tensor:
            outputs = call_layer(layer, inputs, kwargs, training=False)
            if isinstance(layer, keras.layers.Embedding) and not vectors:
                tape.watch(outputs)
                vectors.append(outputs)
            return outputs

        return called

    with tf.GradientTape() as tape:
        logits = run_layers(model, ids[:, :-1], replace)[:, position]
        loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(ids[:, position + 1], logits))
    if not vectors:
        raise UserError(f"{model.name} has no Embedding layer, so its inputs have no vectors")
    return tape.gradient(loss, vectors[0])
