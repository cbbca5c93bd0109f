"""Any causal model, step by step: what it remembers of a text, and how to extend that text by some tokens.

A model is written once, as its full forward pass. Here its layers are walked: a recurrent layer gives its cell and states, a layer with a
cache its `init_cache` and `extend` (see `keras_lm.attention`), a position-wise layer is simply called, and any other is refused by name.
A cache is a structure of tensors laid out `(batch, heads, time, ...)`; the states of a recurrent layer are `(batch, ...)`.
The full pass and the stepwise one agree; `tests/generation/test_state.py` holds every model to it.

Of an encoder-decoder the target is what is extended. Its encoder is a model of its own, called `encoder`, inside; it reads the source once,
in the first call, and what the layers behind it need of that stays in their caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_lm.attention import MEMORY
from keras_lm.models import encoder_of, run_layers
from keras_lm.products import apply_dense, apply_reversed, product
from keras_lm.recurrent import run_model, run_recurrent

State = dict[str, Any]
"""By layer name: a cache of `keras_lm.attention`, or a list of a recurrent layer's states."""

_SOURCE = "source ids"  # no layer's name has a space

POSITION_WISE = (
    keras.layers.Activation,
    keras.layers.Add,
    keras.layers.Average,
    keras.layers.Concatenate,
    keras.layers.Dense,
    keras.layers.Dropout,
    keras.layers.Embedding,
    keras.layers.Identity,
    keras.layers.LayerNormalization,
    keras.layers.LeakyReLU,
    keras.layers.Multiply,
    keras.layers.ReLU,
    keras.layers.Rescaling,
    keras.layers.RMSNormalization,
    keras.layers.Subtract,
    keras.layers.TimeDistributed,
)
"""Keras layers whose output at a position depends on their input at that position alone."""


class Decoder:
    """A model as prefill and step, in one method: `extend`.

    Args:
        model: A built causal Sequential or Functional model from ids to logits, or an encoder-decoder from source and target ids.

    Attributes:
        encoder: The part that reads the source; `None` for a model that has none.
        source_dim: The width of a source that is one vector, as that of `keras_lm.vae.latent_decoder`; `None` where sources are ids.
        context_length: The longest text in tokens, or `None` where nothing bounds it (recurrent models).
        vocabulary_size: The width of the logits.

    Raises:
        ValueError: a layer that cannot be decoded step by step; the message says what to add or to change.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> decoder = Decoder(gru_lm(100, embedding_dim=8, hidden_dim=8))
    >>> state = decoder.init_state(batch_size=2, length=16)
    >>> logits, state = decoder.extend(tf.constant([[5, 6, 7], [0, 8, 9]]), state, start=0, padding=tf.constant([0, 1]))
    >>> logits.shape
    TensorShape([2, 100])
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.encoder = encoder_of(model)
        self.source_dim: int | None = None if self.encoder is None else model.inputs[0].shape[1]
        layers = list(_leaves(model, self.encoder))
        for layer in layers:
            _check(layer)
        if len({layer.name for layer in layers}) != len(layers):
            raise ValueError("two layers have the same name: give each its own")
        self._remembering = [layer for layer in layers if _remembers(layer)]
        self._read_by_row = _read_by_row(layers)
        lengths = [layer.context_length for layer in layers if getattr(layer, "context_length", None)]
        self.context_length: int | None = min(lengths, default=None)
        self.vocabulary_size: int = model.outputs[0].shape[-1]

    def init_state(self, batch_size: int | tf.Tensor, length: int | tf.Tensor, source: tf.Tensor | None = None) -> State:
        """The state before any text, with room for `length` slots; an encoder-decoder wants its `source`, ids `(batch, source_time)`."""
        state: State = {
            layer.name: layer.get_initial_state(batch_size) if _is_recurrent(layer) else layer.init_cache(batch_size, length)
            for layer in self._remembering
        }
        if (source is None) != (self.encoder is None):
            raise ValueError(f"{self.model.name} {'reads no source' if self.encoder is None else 'needs a source'}")
        return state if source is None else {**state, _SOURCE: source}

    def input_rows(self) -> tf.Tensor | None:
        """What each token adds to the gates of the first recurrent layer, `(vocabulary, gates)`, where that is less than its input kernel.

        Embedding and kernel are two matrices one after the other; multiplied once, a step looks a row up in place of reading the kernel.
        `None` for models whose first layers are not an embedding of fewer tokens than columns and an LSTM or GRU.
        """
        if self._read_by_row is None:
            return None
        embedding, layer = self._read_by_row
        return tf.matmul(tf.convert_to_tensor(embedding.embeddings), tf.convert_to_tensor(layer.cell.kernel))

    def extend(
        self, ids: tf.Tensor, state: State, start: int | tf.Tensor, padding: tf.Tensor, input_rows: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, State]:
        """Reads some more tokens.

        Args:
            ids: `(batch, n)` int32: the tokens of slots `start ... start+n-1`.
            state: What `init_state` or `extend` gave.
            start: Scalar: the first slot; the Python number 0 at the beginning of a text.
            padding: `(batch,)` int32: row `b` has no text in its first `padding[b]` slots.
            input_rows: What the method of that name gives, to be read in place of the kernel when a single token is.

        Returns:
            Logits `(batch, vocabulary_size)` float32 for what follows the last token, and the new state.
        """
        return self._walk(ids, state, start, padding, last_only=True, input_rows=input_rows)

    def extend_all(self, ids: tf.Tensor, state: State, start: int | tf.Tensor, padding: tf.Tensor) -> tuple[tf.Tensor, State]:
        """As `extend`, with the logits of every new position: `(batch, n, vocabulary_size)`."""
        return self._walk(ids, state, start, padding, last_only=False)

    def extend_hidden(self, ids: tf.Tensor, state: State, start: int | tf.Tensor, padding: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, State]:
        """As `extend`, with what the output layer reads of every new position, `(batch, n, width)`, between logits and state.

        Raises:
            ValueError: a model that does not end in a position-wise layer of its own.
        """
        hidden: list[tf.Tensor] = []
        logits, state = self._walk(ids, state, start, padding, last_only=True, hidden=hidden)
        if not hidden:
            raise ValueError(f"{self.model.name} has no output layer of its own, so its last hidden vectors are not known")
        return logits, hidden[-1], state

    def num_slots(self, state: State) -> int | None:
        """How many slots the caches in it have, or `None` where there are none: the state of a recurrent model does not grow."""
        caches = [state[layer.name] for layer in self._remembering if not _is_recurrent(layer)]
        return next((part.shape[2] for cache in caches for name, part in cache.items() if _grows(name, part)), None)

    def moved(self, state: State, shift: tf.Tensor, length: int | tf.Tensor) -> State:
        """The state with its first `shift` slots dropped and room for `length` slots; what lies behind the text is not defined.

        A `shift` below 0 moves it back, and what lies before the text is not defined either.
        """

        def move(name: str, part: tf.Tensor) -> tf.Tensor:
            return moved_slots(part, 2, shift, length) if _grows(name, part) else part

        return {
            layer.name: state[layer.name] if _is_recurrent(layer) else {name: move(name, part) for name, part in state[layer.name].items()}
            for layer in self._remembering
        }

    def take_rows(self, state: State, rows: tf.Tensor, same_sources: bool = False) -> State:
        """The state of a batch made of the given `rows` of this one, `(new batch,)` int32: to repeat, reorder or drop texts.

        Where each row takes the place of one with the `same_sources`, as in a beam search, what was kept of the source stays where it is.
        """

        def take(part: State) -> State:
            return {
                name: value if same_sources and name.startswith(MEMORY) else take(value) if isinstance(value, dict) else gather(value)
                for name, value in part.items()
            }

        gather = lambda value: tf.nest.map_structure(lambda tensor: tf.gather(tensor, rows), value)
        return take(state)

    def _walk(
        self,
        ids: tf.Tensor,
        state: State,
        start: int | tf.Tensor,
        padding: tf.Tensor,
        last_only: bool,
        hidden: list[tf.Tensor] | None = None,
        input_rows: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, State]:
        state = dict(state)
        source = state.pop(_SOURCE, None)
        # A scan over slots that hold text in every row needs no mask; only the first one can hold padding.
        begins = isinstance(start, int) and start == 0
        mask = tf.range(tf.shape(ids)[1])[None] >= padding[:, None] if begins else None
        output_layer = (
            self.model.outputs[0]._keras_history.operation if not isinstance(self.model, keras.Sequential) else self.model.layers[-1]
        )

        def replace(layer: keras.Operation) -> Callable:
            def recurrent(x: tf.Tensor, initial_state: Any = None, **_: Any) -> tf.Tensor:
                if initial_state is not None and begins:
                    state[layer.name] = tf.nest.flatten(initial_state)
                if x.shape[1] == 1 and mask is None:
                    by_row = input_rows is not None and layer is self._read_by_row[1]
                    from_input = tf.gather(input_rows, ids[:, 0]) if by_row else None
                    output, state[layer.name] = step_cell(layer.cell, x[:, 0], state[layer.name], from_input)
                    return output[:, None]
                outputs, state[layer.name] = run_recurrent(layer, x, state[layer.name], mask)
                return outputs

            def cached(x: tf.Tensor, *memory: tf.Tensor, training: Any = None, **kwargs: tf.Tensor) -> tf.Tensor:
                outputs, state[layer.name] = layer.extend(x, state[layer.name], start, padding, *memory, **kwargs)
                return outputs

            def position_wise(*inputs: Any, **kwargs: Any) -> tf.Tensor:
                if last_only and layer is output_layer and len(inputs) == 1 and len(inputs[0].shape) == 3:
                    if hidden is not None:
                        hidden.append(inputs[0])
                    inputs = (inputs[0][:, -1:],)  # the logits of a prompt's inner positions are the dearest thing nobody reads
                if type(layer) is keras.layers.ReversibleEmbedding and kwargs.get("reverse"):
                    return apply_reversed(layer, *inputs)
                return apply_dense(layer, *inputs) if type(layer) is keras.layers.Dense else layer(*inputs, **kwargs)

            return recurrent if _is_recurrent(layer) else cached if _remembers(layer) else position_wise

        inputs = ids if self.encoder is None else [ids if source is None else source, ids]

        def encode(inputs: list[tf.Tensor], **_: Any) -> list[tf.Tensor]:
            if source is not None:
                return run_model(self.encoder, inputs)
            # Behind the first call nothing of the encoder is read: what it gave is in the caches.
            return tf.nest.map_structure(lambda _: tf.zeros([]), self.encoder.output)

        encoder = lambda model: encode if model is self.encoder else None
        logits = tf.cast(run_layers(self.model, inputs, replace, encoder), tf.float32)
        return (logits[:, -1] if last_only else logits), state


def moved_slots(part: tf.Tensor, axis: int, shift: int | tf.Tensor, length: int | tf.Tensor) -> tf.Tensor:
    """A tensor with room for `length` slots on an axis, of which number i holds what was in number i + `shift`, or 0 where none was.

    Args:
        part: At least one axis; that of the slots may have any size.
        axis: The slots'.
        shift: Scalar; below 0 the tensor is moved towards the end.
        length: Scalar; static for XLA.

    Example:

    >>> moved_slots(tf.constant([10, 11, 12]), 0, 1, 4).numpy().tolist(), moved_slots(tf.constant([10, 11, 12]), 0, -1, 2).numpy().tolist()
    ([11, 12, 0, 0], [0, 10])
    """
    # Rolled, a row is copied whole; gathered, XLA looks up the slot of each number of it. A slice would be compiled for each `shift`.
    axes = range(part.shape.rank)
    filled = tf.pad(part, [[0, length] if number == axis else [0, 0] for number in axes])
    rolled = tf.roll(filled, tf.clip_by_value(-shift, -tf.shape(part)[axis], length), axis)
    return tf.slice(rolled, [0 for _ in axes], [length if number == axis else tf.shape(part)[number] for number in axes])


def step_cell(
    cell: keras.layers.Layer, x: tf.Tensor, states: list[tf.Tensor], from_input: tf.Tensor | None = None
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """`cell(x, states)` without dropout; for Keras' LSTM and GRU written out, with their products by `product`.

    Args:
        cell: Any recurrent cell.
        x: `(batch, width)`.
        states: As the cell gives them.
        from_input: `x` times the input kernel, `(batch, gates)`, where that is known already.

    Returns:
        Output `(batch, units)` and the new states.

    References:
        Hochreiter and Schmidhuber 1997 (the cell of articles A0, A2, A3 §4.2); Cho et al. 2014.
    """
    if _is_written_out(cell) and from_input is None:
        from_input = product(x, tf.convert_to_tensor(cell.kernel))
    if _is_written_out(cell) and type(cell) is keras.layers.LSTMCell:
        hidden, memory = states
        gates = from_input + product(hidden, tf.convert_to_tensor(cell.recurrent_kernel))
        i, f, candidate, o = tf.split(gates + cell.bias if cell.use_bias else gates, 4, axis=1)
        memory = cell.recurrent_activation(f) * memory + cell.recurrent_activation(i) * cell.activation(candidate)
        hidden = cell.recurrent_activation(o) * cell.activation(memory)
        return hidden, [hidden, memory]
    if _is_written_out(cell):
        (hidden,) = states
        bias = tf.convert_to_tensor(cell.bias)
        from_input = tf.split(from_input + bias[0], 3, axis=1)
        from_state = tf.split(product(hidden, tf.convert_to_tensor(cell.recurrent_kernel)) + bias[1], 3, axis=1)
        z, r = (cell.recurrent_activation(a + b) for a, b in zip(from_input[:2], from_state[:2], strict=True))
        hidden = z * hidden + (1 - z) * cell.activation(from_input[2] + r * from_state[2])
        return hidden, [hidden]
    return cell(x, states, training=False)


def _is_written_out(cell: keras.layers.Layer) -> bool:
    known = type(cell) is keras.layers.LSTMCell or (type(cell) is keras.layers.GRUCell and cell.reset_after and cell.use_bias)
    return known and cell.compute_dtype == cell.variable_dtype


def _read_by_row(layers: list[keras.Operation]) -> tuple[keras.layers.Embedding, keras.layers.RNN] | None:
    """The embedding and the recurrent layer of `Decoder.input_rows`."""
    first, *others = [layer for layer in layers if not isinstance(layer, keras.layers.Dropout)][:2] or [None]
    if type(first) is not keras.layers.Embedding or not others or not _is_recurrent(others[0]):
        return None
    plain = first.quantization_mode is None and first.compute_dtype == first.variable_dtype
    return (first, others[0]) if plain and first.input_dim <= first.output_dim and _is_written_out(others[0].cell) else None


def _leaves(model: keras.Model, encoder: keras.Model | None = None) -> Iterator[keras.Operation]:
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer) or layer is encoder:
            continue
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _grows(name: str, part: tf.Tensor) -> bool:
    return not name.startswith(MEMORY) and len(part.shape) > 2


def _is_recurrent(layer: keras.Operation) -> bool:
    return isinstance(layer, keras.layers.RNN)


def _remembers(layer: keras.Operation) -> bool:
    return _is_recurrent(layer) or (hasattr(layer, "init_cache") and hasattr(layer, "extend"))


def _check(layer: keras.Operation) -> None:
    if _is_recurrent(layer):
        if not layer.return_sequences:
            raise ValueError(f"layer {layer.name} predicts once a window: give it return_sequences=True")
        if layer.go_backwards:
            raise ValueError(f"layer {layer.name} reads backwards, so it sees the tokens it should predict")
    elif getattr(layer, "causal", True) is False:
        raise ValueError(f"layer {layer.name} sees the whole text, so it sees the tokens it should predict: give it causal=True")
    elif not _remembers(layer) and not isinstance(layer, POSITION_WISE):
        raise ValueError(
            f"layer {layer.name} ({type(layer).__name__}) cannot be decoded step by step: give it `init_cache(batch_size, length)` and "
            "`extend(inputs, cache, start, padding)` as in keras_lm.attention, or, if it treats each position alone, "
            "add its class to keras_lm.generation.state.POSITION_WISE"
        )
