"""The vectors inside a language model as it reads: what each layer gives at each position.

A word's vector in the embedding is the same wherever the word stands; the vector that the last hidden layer gives at it is made of
everything to its left (Peters et al. 2018, arXiv:1802.05365, call such vectors contextual). Article A4 §2.2 speaks of both as one.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.models import call_layer, run_layers


def layer_states(model: keras.Model, ids: np.ndarray | tf.Tensor) -> dict[str, np.ndarray]:
    """What each layer of a language model gives, the embedding first and the logits left out.

    Args:
        model: Sequential or Functional, from ids to logits.
        ids: `(batch, time)` int32.

    Returns:
        By layer name, in their order, `(batch, time, units)` float32; dropout does nothing here and is left out.

    Raises:
        UserError: ids that are no matrix.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> states = layer_states(gru_lm(20, embedding_dim=8, hidden_dim=12), np.array([[4, 5, 6]]))
    >>> [array.shape for array in states.values()]
    [(1, 3, 8), (1, 3, 12), (1, 3, 12)]
    """
    ids = tf.convert_to_tensor(ids)
    if ids.shape.rank != 2:
        raise UserError(f"ids must be (batch, time), got {tuple(ids.shape)}")
    given: dict[str, tf.Tensor] = {}

    def replace(layer: keras.Operation) -> Callable:
        def called(*inputs: object, **kwargs: object) -> tf.Tensor:
            outputs = call_layer(layer, inputs, kwargs, training=False)
            if not isinstance(layer, keras.layers.Dropout):
                given.setdefault(layer.name, outputs)  # a tied output layer is the embedding: the first call counts
            return outputs

        return called

    logits = run_layers(model, tf.cast(ids, tf.int32), replace)
    return {name: tf.cast(value, tf.float32).numpy() for name, value in given.items() if value is not logits}


def hidden_states(model: keras.Model, ids: np.ndarray | tf.Tensor) -> np.ndarray:
    """What the output layer of a language model reads: the states of its last hidden layer.

    Args:
        model: Sequential or Functional, from ids to logits.
        ids: `(batch, time)` int32.

    Returns:
        `(batch, time, units)` float32.

    Raises:
        UserError: ids that are no matrix.

    Example:

    >>> from keras_lm.models import transformer_lm
    >>> model = transformer_lm(20, context_length=16, embedding_dim=8)
    >>> hidden_states(model, np.array([[4, 5, 6]])).shape
    (1, 3, 8)
    """
    return list(layer_states(model, ids).values())[-1]
