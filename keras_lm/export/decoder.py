"""A decoder over an export: what `keras_lm.generation.state.Decoder` offers, with a SavedModel's functions in place of layers."""

from __future__ import annotations

import pathlib
from typing import Any

import tensorflow as tf

from keras_lm import cleaning
from keras_lm.errors import UserError
from keras_lm.generation.state import moved_slots

State = dict[str, tf.Tensor]
"""By the names of the `step` signature."""


class ExportedDecoder:
    """The model of an export, step by step.

    Args:
        folder: One version's folder.
        metadata: What it says of itself (`keras_lm.export.layout.find`).

    Attributes:
        context_length: The longest text in tokens, or `None` where nothing bounds it.
        vocabulary_size: The width of the logits.
        compiles: Whether XLA can compile it. Not so older exports, which have `step` alone: its shapes depend on the values of its inputs.

    Raises:
        UserError: an export that is no language model.
    """

    def __init__(self, folder: pathlib.Path, metadata: dict[str, Any]):
        step = metadata["signatures"].get("step")
        if step is None:
            raise UserError(f"{folder} is no language model: it has no step, and what it says is asked of its signatures")
        if metadata["needs_tensorflow_text"]:
            cleaning.tensorflow_text()
        self._loaded = tf.saved_model.load(str(folder))  # must stay alive as long as its functions
        self.context_length: int | None = metadata["context_length"]
        self.vocabulary_size: int = metadata["vocabulary_size"]
        self.compiles = hasattr(self._loaded, "extend")
        if not self.compiles and "padding" not in step["inputs"]:
            raise UserError(f"{folder} was written by an older version, whose steps of such a model read no padding: export it again")
        self._shapes = {name: given["shape"] for name, given in step["inputs"].items() if name.startswith("state_")}
        outputs = self._loaded.extend.concrete_functions[0].structured_outputs if self.compiles else {}
        self._dtypes = {name: outputs[name].dtype if self.compiles else tf.float32 for name in self._shapes}

    def init_state(self, batch_size: int | tf.Tensor, length: int | tf.Tensor) -> State:
        """As `Decoder.init_state`."""
        sizes = {name: [batch_size, *(length if size is None else size for size in shape[1:])] for name, shape in self._shapes.items()}
        return {name: tf.zeros(size, self._dtypes[name]) for name, size in sizes.items()}

    def input_rows(self) -> None:
        """As `Decoder.input_rows`, which an export has none of."""

    def extend(
        self, ids: tf.Tensor, state: State, start: int | tf.Tensor, padding: tf.Tensor, input_rows: None = None
    ) -> tuple[tf.Tensor, State]:
        """As `Decoder.extend`; of the beginning of a text, or of one more token."""
        if not self.compiles:
            position = tf.fill(tf.shape(padding), start)
            outputs = self._loaded.signatures["step"](ids=ids, position=position, padding=padding, **state)
        elif isinstance(start, int) and start == 0:
            outputs = self._loaded.read(ids, padding)
        else:
            extend = self._loaded.extend_one if ids.shape[0] == 1 else self._loaded.extend
            outputs = extend(ids, start, padding, state)
        # `step` takes any number of rows and lets memory grow, and so does not say that shapes stay what they were.
        logits = tf.ensure_shape(outputs["logits"], [ids.shape[0], self.vocabulary_size])
        return logits, {name: tf.ensure_shape(outputs[name], state[name].shape) for name in self._shapes}

    def moved(self, state: State, shift: tf.Tensor, length: int | tf.Tensor) -> State:
        """As `Decoder.moved`."""
        grows = lambda name: None in self._shapes[name][1:]
        return {name: moved_slots(part, 2, shift, length) if grows(name) else part for name, part in state.items()}

    def take_rows(self, state: State, rows: tf.Tensor) -> State:
        """As `Decoder.take_rows`."""
        return {name: tf.gather(part, rows) for name, part in state.items()}
