"""The `step` signature: ids and state in, logits and state out, for a client that streams, or draws tokens in its own way.

The client keeps the state and need not understand it: whatever comes out beside `logits` goes in again with the next ids, and a text begins
without any. Each part has a row for each text:

- `position` `[batch]`: how many ids the row has read, padding included;
- `padding` `[batch]`: how many of the first ids are no text. Prompts of several lengths are padded on the left and read in one call;
- a tensor for each part of the model's memory: `[batch, units]` of a recurrent layer; `[batch, heads, time, head_dim]` of the keys and
  values of self-attention, which grow with each call. A client that wants shapes which stay the same begins with zeros of any `time`:
  what is there is filled before it grows.

Rows need not be at one position, so that a server may batch the steps of several clients; keys and values then need the same `time`. The
memory is float32 for a client, whatever the model computes in. An id outside the vocabulary is read as the unknown one.

Beside the signatures stand `read`, `extend` and `extend_one` for a server in Python (`keras_lm.export.decoder`): `Decoder.extend` as it
is, whose shapes follow from those of its inputs alone, so that XLA compiles it where it is called.
"""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lm.export.signature import Input, Signature
from keras_lm.generation.state import Decoder

_ANY = (0, 2**31 - 1)


def step_signature(decoder: Decoder, unknown_id: int) -> Signature:
    """`step` for a model.

    Args:
        decoder: The model.
        unknown_id: What an id outside the vocabulary is read as.
    """
    stepper = _Stepper(decoder, unknown_id)
    numbers = tf.TensorSpec([None], tf.int32)
    inputs = {"ids": Input(tf.TensorSpec([None, None], tf.int32)), "position": Input(numbers, np.zeros(1, np.int32), _ANY)}
    if stepper.pads:
        inputs["padding"] = Input(numbers, np.zeros(1, np.int32), _ANY)
    for name, (shape, _) in stepper.shapes().items():
        inputs[name] = Input(tf.TensorSpec(shape, tf.float32), stepper.memory[name].astype(np.float32))
    return Signature("Reads some more tokens: logits for the next one, and the state to give with it.", inputs, stepper)


def plain_functions(decoder: Decoder) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """`read`, `extend` and `extend_one` for a model: without checks and without growing, in the dtypes that the model computes in.

    - `read`: ids `(batch, n)` int32 and padding `(batch,)`, how many of the n are no text → `logits` `(batch, vocabulary)` and a state of
      n slots, by the names that `step` has.
    - `extend`: ids `(batch, 1)`, the slot `()` where they stand, padding and state → the same.
    - `extend_one`: of one row, whose products are made in parts for several cores (`keras_lm.products.product`).
    """
    stepper = _Stepper(decoder, unknown_id=0)

    def read(ids: tf.Tensor, padding: tf.Tensor) -> dict[str, tf.Tensor]:
        state = decoder.init_state(*tf.unstack(tf.shape(ids)))
        return stepper.named(*decoder.extend(ids, state, 0, padding))

    def extend(ids: tf.Tensor, start: tf.Tensor, padding: tf.Tensor, state: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        parts = [state[name] for name in stepper.memory]
        return stepper.named(*decoder.extend(ids, stepper.packed(parts), start, padding))

    def inputs(batch: int | None) -> list[Any]:
        numbers = [tf.TensorSpec(shape, tf.int32) for shape in ([batch, 1], [], [batch])]
        return [*numbers, {name: tf.TensorSpec([batch, *shape[1:]], dtype) for name, (shape, dtype) in stepper.shapes().items()}]

    reads = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)]
    wanted = {"read": (read, reads), "extend": (extend, inputs(None)), "extend_one": (extend, inputs(1))}
    return {name: tf.function(function, input_signature=given, autograph=False) for name, (function, given) in wanted.items()}


class _Stepper:
    def __init__(self, decoder: Decoder, unknown_id: int):
        self._decoder, self._unknown_id = decoder, unknown_id
        self._structure = decoder.init_state(1, 0)
        self.memory, self.grows, self._dtypes = {}, {}, []
        for path, part in keras.tree.flatten_with_path(self._structure):
            # Letters, digits and underscores: what a flag, a REST body and a Python call can all spell.
            name = re.sub(r"[^A-Za-z0-9]+", "_", "_".join(["state", *map(str, path)]))
            name = name if name not in self.memory else f"{name}_{len(self.memory)}"
            self.memory[name], self.grows[name] = part.numpy(), not isinstance(self._structure[path[0]], list)
            self._dtypes.append(part.dtype)
        self._recurrent = all(isinstance(memory, list) for memory in self._structure.values())
        # A recurrent layer beside attention takes padding in a text's first call alone, and the rows of a batch may be in other ones.
        self.pads = self._recurrent or not any(isinstance(memory, list) for memory in self._structure.values())

    def shapes(self) -> dict[str, tuple[list[int | None], tf.DType]]:
        """The shape of each part of the memory, `None` for the batch and for slots, and its dtype."""
        return {
            name: ([None, part.shape[1], None, *part.shape[3:]] if self.grows[name] else [None, *part.shape[1:]], dtype)
            for (name, part), dtype in zip(self.memory.items(), self._dtypes, strict=True)
        }

    def packed(self, parts: list[tf.Tensor]) -> dict[str, Any]:
        """The parts of the memory as a `Decoder` has them."""
        return keras.tree.pack_sequence_as(self._structure, parts)

    def named(self, logits: tf.Tensor, state: dict[str, Any]) -> dict[str, tf.Tensor]:
        """What a `Decoder` gave, by name."""
        return {"logits": logits, **dict(zip(self.memory, keras.tree.flatten(state), strict=True))}

    def __call__(self, ids: tf.Tensor, position: tf.Tensor, *state: tf.Tensor) -> dict[str, tf.Tensor]:
        rows, count = tf.unstack(tf.shape(ids))
        ids = tf.where((ids >= 0) & (ids < self._decoder.vocabulary_size), ids, self._unknown_id)
        padding, parts = (state[0], state[1:]) if self.pads else (tf.zeros([1], tf.int32), state)
        position, padding = (tf.maximum(tf.broadcast_to(value, [rows]), 0) for value in (position, padding))
        parts = [tf.broadcast_to(part, tf.concat([[rows], tf.shape(part)[1:]], axis=0)) for part in parts]
        parts = [tf.cast(part, dtype) for part, dtype in zip(parts, self._dtypes, strict=True)]
        logits, parts, position = (self._rows_alone if self._recurrent else self._rows_aligned)(ids, position, padding, count, parts)
        outputs = {"logits": logits, "position": position, **({"padding": padding} if self.pads else {})}
        return outputs | {name: tf.cast(part, tf.float32) for name, part in zip(self.memory, parts, strict=True)}

    def _rows_alone(self, ids, position, padding, count, parts) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        """The rows of a recurrent model know nothing of each other's positions: what is padding among these ids is all that matters."""
        logits, state = self._decoder.extend(ids, self.packed(parts), 0, tf.clip_by_value(padding - position, 0, count))
        return logits, keras.tree.flatten(state), position + count

    def _rows_aligned(self, ids, position, padding, count, parts) -> tuple[tf.Tensor, list[tf.Tensor], tf.Tensor]:
        """`Decoder.extend` wants the rows of a batch at one slot: rows that are not so far are moved to the right, and back."""
        growing = [part for part, grows in zip(parts, self.grows.values(), strict=True) if grows]
        room = tf.shape(growing[0])[2] if growing else self._decoder.context_length
        position = tf.minimum(position, room)
        start = tf.reduce_max(position)
        shift = start - position
        more = tf.maximum(start + count - room, 0)
        slots = tf.range(room + more)[None]

        def moved(parts: list[tf.Tensor], by: tf.Tensor) -> list[tf.Tensor]:
            places = tf.clip_by_value(slots + by[:, None], 0, room + more - 1)
            move = lambda part: tf.gather(part, places, axis=2, batch_dims=1)
            return [move(part) if grows else part for part, grows in zip(parts, self.grows.values(), strict=True)]

        wider = lambda part: tf.pad(part, [[0, 0], [0, 0], [0, more], *[[0, 0]] * (len(part.shape) - 3)])
        parts = [wider(part) if grows else part for part, grows in zip(parts, self.grows.values(), strict=True)]
        level = tf.reduce_all(shift == 0)
        parts = tf.cond(level, lambda: parts, lambda: moved(parts, -shift))
        logits, state = self._decoder.extend(ids, self.packed(parts), start, padding + shift)
        parts = keras.tree.flatten(state)
        return logits, tf.cond(level, lambda: parts, lambda: moved(parts, shift)), position + count
