"""Floating-point operations, counted as they are executed.

A function is run once, operation by operation, and every product of matrices it makes is counted by the shapes it has: m n k
multiplications and as many additions for `(m, k)` by `(k, n)`. Loops, padding, gradients and what is masked away count as often as they are
computed, which no formula of a model's parameters knows. Sums, activations, softmax and the optimizer's arithmetic are left out, as is
usual: beside the products they are few.

References:
    Kaplan et al. 2020, arXiv:2001.08361, §2.1 (what is counted, and the rule of thumb of 6 operations a parameter and token).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_callbacks

_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")


def count_flops(function: Callable, *args: Any) -> int:
    """Runs `function(*args)` once, without graphs, and counts.

    Args:
        function: Any function of TensorFlow; what it changes (weights, states) it does change.
        *args: Its arguments.

    Returns:
        The floating-point operations of its products of matrices.

    Raises:
        NotImplementedError: a kind of product that is not counted.

    Example:

    >>> count_flops(tf.matmul, tf.zeros([2, 3]), tf.zeros([3, 5]))
    60
    """
    total = 0

    def note(kind: str | bytes, inputs: Sequence, attributes: Sequence, outputs: Sequence, op_name: Any = None, graph: Any = None) -> None:
        nonlocal total
        kind = tf.compat.as_str(kind)
        if graph is not None:
            return  # Keras builds one to find out shapes; nothing is computed in it
        if kind in _PRODUCTS:
            named = {tf.compat.as_str(name): value for name, value in zip(attributes[::2], attributes[1::2], strict=True)}
            turned = named.get("transpose_a") or named.get("adj_x")
            total += 2 * math.prod(outputs[0].shape) * inputs[0].shape[-2 if turned else -1]
        elif kind == "Einsum" or kind.startswith("Conv"):
            raise NotImplementedError(f"{kind} is not counted: add it to keras_lm.training.flops")

    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    op_callbacks.add_op_callback(note)
    try:
        function(*args)
    finally:
        op_callbacks.remove_op_callback(note)
        tf.config.run_functions_eagerly(eagerly)
    return total
