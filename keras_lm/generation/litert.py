"""The sampler on LiteRT (formerly TensorFlow Lite): for CPUs, with weights of 32 or 8 bits.

Reading a token at batch 1 takes as long as reading the weights from memory, so weights of a quarter of the size go up to four times as
fast. Prompts are still read by the Keras model; the steps after it run in a LiteRT interpreter, and the tokens are chosen by
`decode.draw`, as everywhere: every knob and rule of `Sampler` works here.

The converted step takes the caches as inputs and gives back the new rows alone, which are then written into the interpreter's own memory:
no cache is copied. The new token's attention to itself is a score of its own beside those to the cache.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.generation.decode import Carry, Knobs, Rules, draw
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.state import step_cell
from keras_lm.layers import CausalSelfAttention, PositionEmbedding, TransformerBlock
from keras_lm.models import run_layers

PRECISIONS = ("float32", "int8")
"""How the weights are stored: as they are, or in 8 bits with a scale for each output (dynamic range: sums and states stay float32)."""


class LiteRTSampler(Sampler):
    """A `Sampler` whose steps run in LiteRT.

    Args:
        model, end_id, never, pieces, jit_compile: As in `Sampler`; `jit_compile` is for the prompt and the choice of tokens. The weights
            are converted at the first call for a batch size: what is trained afterwards is not seen.
        precision: One of `PRECISIONS`.
        num_threads: For the interpreter; default as many as there are cores.

    Raises:
        UserError: LiteRT is not installed (`pip install keras_lm[tflite]`), or no such precision.
        ValueError: a layer with a cache that is not one of `keras_lm.layers`.

    Example: `LiteRTSampler(model, precision="int8", end_id=3).generate([[5, 6]], SamplingSettings())`
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        precision: str = "float32",
        end_id: int,
        never: Sequence[int] = (),
        pieces: Sequence[bytes] | None = None,
        jit_compile: bool = True,
        num_threads: int | None = None,
    ):
        super().__init__(model, end_id=end_id, never=never, pieces=pieces, jit_compile=jit_compile)
        if precision not in PRECISIONS:
            raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
        self.precision = precision
        self._num_threads = num_threads
        self._steps: dict[tuple[int, int], _Step] = {}

    def log_likelihood(self, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """ln P of each target as the converted weights give it: what a precision costs.

        Args:
            inputs, targets: `(batch, time)` int32, as the pipeline gives them.

        Returns:
            `(batch, time)` float32.
        """
        batch, time = inputs.shape
        step, padding = self._step(batch, time), np.zeros(batch, np.int32)
        step.load(self.decoder.init_state(batch, time), padding, start=0)
        result = np.zeros([batch, time], np.float32)
        for place in range(time):
            logprobs = tf.nn.log_softmax(step.run(inputs[:, place], place, padding)).numpy()
            result[:, place] = logprobs[np.arange(batch), targets[:, place]]
        return result

    def _step(self, batch: int, slots: int) -> _Step:
        if (batch, slots) not in self._steps:
            self._steps[batch, slots] = _Step(self.decoder.model, batch, slots, self.precision, self._num_threads)
        return self._steps[batch, slots]

    def _advance(self, carry: Carry, knobs: Knobs, rules: Rules, room: np.ndarray, until: int) -> Carry:
        step = self._step(batch=carry["history"].shape[1], slots=carry["history"].shape[0] - 1)
        start, padding = int(carry["start"]), carry["padding"].numpy()
        number = int(carry["step"])
        if number == 0:
            step.load(carry["state"], padding, start)
        carry = {name: value for name, value in carry.items() if name != "state"}
        tables, knobs, room = (rules.bias, rules.stop, rules.pieces, rules.constraint), vars(knobs), tf.constant(room)

        def traced(logits, carry, knobs, tables, room):
            bias, stop, pieces, constraint = tables
            return draw(logits, carry, Knobs(**knobs), Rules(rules.end_id, bias, stop, pieces, constraint, rules.degree), room=room)

        shapes = [tuple(tensor.shape) for tensor in tf.nest.flatten((carry, tables)) if tensor is not None]
        function = self._function("draw", traced, *shapes, rules.degree, *(table is None for table in tables))
        choose = None
        while number < until and (carry["reason"].numpy() < 0).any():
            logits = tf.constant(step.run(carry["token"].numpy(), start + number, padding))
            if choose is None:  # found once: looking a function up by its inputs takes longer than running it
                choose = function.get_concrete_function(logits, carry, knobs, tables, room)
            carry = choose(logits, carry, knobs, tables, room)
            number += 1
        return {**carry, "state": None}


class _Step:
    """One token for each row of a batch, as a LiteRT model, with the memory of the texts inside its interpreter."""

    def __init__(self, model: keras.Model, batch: int, slots: int, precision: str, num_threads: int | None):
        self._model, self._batch, self._slots = model, batch, slots
        self._embedding: np.ndarray | None = None
        self._weights = [(variable, variable.numpy()) for variable in model.variables]
        interpreter = _interpreter(self._convert(precision), num_threads)
        self._interpreter = interpreter
        self._inputs = {item["name"]: item["index"] for item in interpreter.get_input_details()}
        numbers = {int(item["name"].partition("_")[2] or 0): item["index"] for item in interpreter.get_output_details()}
        self._outputs = [numbers[number] for number in sorted(numbers)]  # Identity, Identity_1, ...: as the function returned them

    def load(self, state: dict[str, Any], padding: np.ndarray, start: int) -> None:
        """Takes over what the Keras model remembers of the prompts."""
        for name, shape in self._memory.items():
            layer, _, part = name.rpartition(".")
            value = state[layer][part if part in ("key", "value") else int(part)].numpy()
            self._view(name)[:] = np.swapaxes(value, -1, -2) if part == "key" else value
            assert tuple(value.shape[:1]) == tuple(shape[:1])
        slots = np.arange(self._slots)
        visible = (slots >= padding[:, None]) & (slots < start)
        self._view("mask")[:] = np.where(visible, 0.0, -1e9)

    def run(self, tokens: np.ndarray, slot: int, padding: np.ndarray) -> np.ndarray:
        """Reads a token in each row, `(batch,)`; gives logits `(batch, vocabulary)`."""
        self._view("vectors")[:] = self._embedding[tokens][:, None]
        if "positions" in self._inputs:
            self._view("positions")[:] = np.maximum(slot - padding, 0)[:, None]
        self._interpreter.invoke()
        for name, index in zip(self._memory, self._outputs[1:], strict=True):
            rows, memory = self._interpreter.get_tensor(index), self._view(name)
            if name.endswith(".key"):
                memory[..., slot] = rows
            elif name.endswith(".value"):
                memory[:, :, slot] = rows
            else:
                memory[:] = rows
        self._view("mask")[:, slot] = 0.0
        return self._interpreter.get_tensor(self._outputs[0])

    def _view(self, name: str) -> np.ndarray:
        # Not kept: LiteRT refuses to run while somebody holds a view of its memory.
        return self._interpreter.tensor(self._inputs[name])()

    def _convert(self, precision: str) -> bytes:
        batch, slots, model = self._batch, self._slots, self._model
        specs: dict[str, tf.TensorSpec] = {}
        for layer in _flat_layers(model):
            if isinstance(layer, TransformerBlock | CausalSelfAttention):
                attention = layer.attention if isinstance(layer, TransformerBlock) else layer
                groups, width = attention.num_kv_heads, attention.head_dim
                specs[f"{layer.name}.key"] = tf.TensorSpec([batch, groups, width, slots])
                specs[f"{layer.name}.value"] = tf.TensorSpec([batch, groups, slots, width])
            elif isinstance(layer, keras.layers.RNN):
                for number, state in enumerate(layer.get_initial_state(1)):
                    specs[f"{layer.name}.{number}"] = tf.TensorSpec([batch, state.shape[-1]])
            elif isinstance(layer, keras.layers.Embedding):
                self._embedding = np.asarray(layer.embeddings)
            elif hasattr(layer, "init_cache") and not isinstance(layer, PositionEmbedding):
                raise ValueError(
                    f"layer {layer.name} ({type(layer).__name__}) keeps a cache of its own kind, which LiteRT is not told how to fill"
                )
        self._memory = {name: spec.shape for name, spec in specs.items()}
        specs = {"vectors": tf.TensorSpec([batch, 1, self._embedding.shape[1]]), "mask": tf.TensorSpec([batch, slots]), **specs}
        if any(isinstance(layer, PositionEmbedding) or _is_rotary(layer) for layer in _flat_layers(model)):
            specs["positions"] = tf.TensorSpec([batch, 1], tf.int32)
        specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name.replace("/", "_")) for name, spec in specs.items()}

        def step(*tensors: tf.Tensor) -> list[tf.Tensor]:
            given = dict(zip(specs, tensors, strict=True))
            new: dict[str, tf.Tensor] = {}

            def attend(layer_name: str, attention: CausalSelfAttention, x: tf.Tensor) -> tf.Tensor:
                query, key, value = attention._project(x, given.get("positions"))
                groups, shared = attention.num_kv_heads, attention.num_heads // attention.num_kv_heads
                query = tf.reshape(query * attention.head_dim**-0.5, [batch, groups, shared, attention.head_dim])
                new[f"{layer_name}.key"], new[f"{layer_name}.value"] = key[:, 0], value[:, 0]  # (batch, groups, head_dim)
                to_cache = tf.matmul(query, given[f"{layer_name}.key"]) + given["mask"][:, None, None]
                to_itself = tf.reduce_sum(query * key[:, 0, :, None], axis=-1, keepdims=True)
                weights = tf.nn.softmax(tf.concat([to_cache, to_itself], axis=-1))
                merged = tf.matmul(weights[..., :slots], given[f"{layer_name}.value"]) + weights[..., slots:] * value[:, 0, :, None]
                return attention.output_projection(tf.reshape(merged, [batch, 1, -1]))

            def replace(layer: keras.Operation) -> Callable:
                def call(x: tf.Tensor, **kwargs: Any) -> tf.Tensor:
                    if isinstance(layer, keras.layers.Embedding) and not kwargs.get("reverse"):
                        return given["vectors"]
                    if isinstance(layer, PositionEmbedding):
                        return x + tf.gather(tf.convert_to_tensor(layer.embeddings), given["positions"])
                    if isinstance(layer, CausalSelfAttention):
                        return attend(layer.name, layer, x)
                    if isinstance(layer, TransformerBlock):
                        x = x + attend(layer.name, layer.attention, layer.attention_norm(x))
                        return x + layer._feed_forward(x)
                    if isinstance(layer, keras.layers.RNN):
                        states = [given[name] for name in given if name.rpartition(".")[0] == layer.name]
                        output, states = step_cell(layer.cell, x[:, 0], states)
                        new.update({f"{layer.name}.{number}": state for number, state in enumerate(states)})
                        return output[:, None]
                    return layer(x, **kwargs)

                return lambda *inputs, **kwargs: call(*inputs, **kwargs) if len(inputs) == 1 else layer(*inputs, **kwargs)

            # Weights as constants: the converter does not find the variables of a Keras 3 model.
            with keras.StatelessScope(state_mapping=[(variable, tf.constant(value)) for variable, value in self._weights]):
                logits = run_layers(model, tf.zeros([batch, 1], tf.int32), replace)
            return [tf.cast(logits[:, 0], tf.float32), *(new[name] for name in self._memory)]

        concrete = tf.function(step, input_signature=list(specs.values()), autograph=False).get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
        if precision == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


def _interpreter(content: bytes, num_threads: int | None):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise UserError("LiteRT is not installed: pip install 'keras_lm[tflite]'") from None
    interpreter = Interpreter(model_content=content, num_threads=num_threads or os.cpu_count())
    interpreter.allocate_tensors()
    return interpreter


def _flat_layers(model: keras.Model) -> list[keras.Operation]:
    nested = (_flat_layers(layer) if isinstance(layer, keras.Model) else [layer] for layer in model.layers)
    return list(itertools.chain.from_iterable(nested))


def _is_rotary(layer: keras.Operation) -> bool:
    return isinstance(layer, TransformerBlock | CausalSelfAttention) and layer.rotary
