"""`keras_lm.generation.decode.decode` compiled by XLA inside a SavedModel, where sizes are known only when a request comes.

XLA compiles a function for each shape of its inputs. Here the same two functions as in the library's `Sampler` are kept in the graph and
meet few shapes: rows, the width of the prompts and the room for the text are rounded up to powers of two. That they are compiled at run
time, in the process that serves, is why such an export needs a server that lets XLA compile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import tensorflow as tf

from keras_lm.generation.decode import Carry, Knobs, Rules, advance, begin
from keras_lm.generation.sampler import SMALLEST
from keras_lm.generation.state import Decoder

NARROWEST = 32
"""Prompts are padded to this many tokens at least: reading them takes no longer than a compilation that would be saved."""

_POWERS = [1 << power for power in range(21)]


def bucket(size: tf.Tensor, least: int = 1) -> tf.Tensor:
    """The smallest power of two that is at least `size` and `least`, both up to 2²⁰.

    Args:
        size: `()` int32.

    Example:

    >>> [bucket(tf.constant(size), least=4).numpy().item() for size in (1, 4, 5, 64)]
    [4, 4, 8, 64]
    """
    powers = tf.constant(_POWERS)
    return tf.gather(powers, tf.searchsorted(powers, tf.maximum(size, least)[None])[0])


def padded_rows(tensor: tf.Tensor, rows: tf.Tensor, value: int = 0) -> tf.Tensor:
    """`(batch, ...)` → `(rows, ...)`, with `value` in the rows behind."""
    behind = [[0, rows - tf.shape(tensor)[0]], *[[0, 0]] * (len(tensor.shape) - 1)]
    return tf.pad(tensor, behind, constant_values=value)


def jit(function: Callable) -> tf.types.experimental.PolymorphicFunction:
    """The function, compiled by XLA for each shape it meets."""
    return tf.function(function, jit_compile=True, autograph=False)


class CompiledDecode:
    """`decode` with its two parts compiled; called in a graph that is not.

    Args:
        decoder: The model.

    Call arguments:
        As those of `decode`, without the decoder.
    """

    def __init__(self, decoder: Decoder):
        self._least_slots = min(SMALLEST, decoder.context_length or SMALLEST)

        def read(prompt: tf.Tensor, padding: tf.Tensor, room: tf.Tensor) -> Carry:
            # XLA wants the number of slots when it compiles. The shape of an input is known then, the value of one is not.
            return begin(decoder, prompt, padding, slots=tf.shape(room)[0])

        def write(end_id: int, carry: Carry, numbers: dict, bias: tf.Tensor, room: tf.Tensor, until: tf.Tensor) -> Carry:
            return advance(decoder, carry, Knobs(**numbers), Rules(end_id=end_id, bias=bias), room=room, until=until)

        self._read = jit(read)
        self._write = functools.cache(lambda end_id: jit(functools.partial(write, end_id)))

    def __call__(
        self, prompt: tf.Tensor, padding: tf.Tensor, knobs: Knobs, rules: Rules, *, capacity: tf.Tensor, room: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        batch, width = tf.unstack(tf.shape(prompt))
        rows = bucket(batch)
        slots = bucket(width - tf.reduce_min(padding) - 1 + capacity, self._least_slots)
        given = (prompt, padding, room, vars(knobs))
        fill = (0, width - 1, 0, dict.fromkeys(given[3], 0))
        given = tf.nest.map_structure(lambda tensor, value: padded_rows(tensor, rows, value), given, fill)
        run = lambda given: self._run(*given, rules, tf.zeros([slots], tf.bool), capacity)
        # Where the graph says that there is one row, its products are made in parts for several cores (`keras_lm.products.product`).
        one = lambda: tf.nest.map_structure(lambda tensor: tf.ensure_shape(tensor, [1, *tensor.shape[1:]]), given)
        ids, lengths, reasons = tf.cond(rows == 1, lambda: run(one()), lambda: run(given))
        return ids[:batch], lengths[:batch], reasons[:batch]

    def _run(
        self,
        prompt: tf.Tensor,
        padding: tf.Tensor,
        room: tf.Tensor,
        numbers: dict[str, tf.Tensor],
        rules: Rules,
        slots: tf.Tensor,
        capacity: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        carry = self._read(prompt, padding, slots)
        carry = self._write(rules.end_id)(carry, numbers, rules.bias, room, capacity)
        ids = tf.gather(carry["history"], carry["start"] + 1 + tf.range(capacity))
        ids = tf.where(tf.range(capacity)[:, None] < carry["length"], ids, 0)
        return tf.transpose(ids), carry["length"], tf.maximum(carry["reason"], 0)
