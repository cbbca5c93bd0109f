"""From a Keras model to a LiteRT file (formerly TensorFlow Lite): the step that generation takes, as a flat buffer of builtin ops.

A file has one or two signatures. `decode` reads one token a row; `prefill`, where there are caches, a fixed number of tokens of one text.

- Inputs: `ids` `(batch, n)` int32; where positions matter, `position` `(batch,)` int32, that of the first of the n tokens; in models with
  caches, `mask` `(batch, 1, 1, slots)` float32, 0 where a slot of the caches holds text of that row and -1e9 elsewhere; and each memory by
  its name, as `Memory` lays it out, the caches of many rows in parts (`Memory.parts`).
- Outputs: `rows` `(batch, n, sum of widths)` float32, what the memories take in of each token, in their order; and of `decode` alone,
  `logits` `(batch, vocabulary)` float32. `prefill` gives none: the last token of a prompt is read by `decode`.
- Where there are at most `FEW_IDS`, `decode` also chooses the next token: `token` `(batch,)` int32, the size of the vocabulary where all
  are forbidden. For that it takes `bias` `(batch, vocabulary)` float32, which is added to the logits (-inf forbids), and, `(batch, 1)`
  each, `temperature`, `top_k` int32 (the size of the vocabulary or more: off), `top_p` (2: off) and `uniform`, a random number in [0, 1).
  Greedy is temperature 1, top-k 1, top-p 2, uniform 0. Who chooses from the logits may leave all five at 0.

Who runs a file writes the rows into the memories: no cache is copied, and the new tokens' attention to themselves is a score of its own
beside those to the cache. No shape inside depends on the number of slots, so that caches may be made longer while a text grows (resize
the inputs): attention to what is not there yet costs nothing.

In 8 bits, a matrix has a scale for each output and sums are float32 (dynamic range). The converter would leave embeddings in float32, so
they are written as whole numbers with a scale for each row; a matrix that is embedding and output in one is stored once.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_lm.attention import SelfAttention, angles, turn
from keras_lm.errors import UserError
from keras_lm.generation.litert_runtime import Memory
from keras_lm.layers import PositionEmbedding, TransformerBlock
from keras_lm.models import run_layers

PRECISIONS = ("float32", "float16", "int8")
"""How the weights are stored: as they are, in half of the bytes, or in 8 bits with a scale for each output."""

FEW_IDS = 300
"""The largest vocabulary, that of bytes among them, of which a file chooses tokens itself: LiteRT sorts more slowly than NumPy, and cannot
leave it out where nobody asks."""


def convert(model: keras.Model, *, batch: int = 1, slots: int, chunk: int | None = None, precision: str = "float32") -> bytes:
    """The file of a model.

    Args:
        model: A causal Sequential or Functional model from ids to logits; its weights are taken as they are now.
        batch: Rows that `decode` reads.
        slots: The length of the caches as the file declares it.
        chunk: How many tokens `prefill` reads; `None`: no such signature. Recurrent models have none.
        precision: One of `PRECISIONS`.

    Raises:
        UserError: no such precision.
        ValueError: a layer with a memory that is neither recurrent nor one of `keras_lm.layers`.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> content = convert(gru_lm(50, embedding_dim=8, hidden_dim=8), slots=16)
    >>> content[4:8]
    b'TFL3'
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    # The converter does not find the variables of a Keras 3 model, and weights as constants of a graph cost twenty times their size.
    weights = _Weights(model, precision)
    steps = {"decode": _step(model, weights, "decode", batch, 1, slots)}
    if chunk is not None and all(memory.kind != "state" for memory in memories(model)):
        steps["prefill"] = _step(model, weights, "prefill", 1, chunk, slots)
    with tempfile.TemporaryDirectory() as folder:  # through a SavedModel, since `from_concrete_functions` drops the name of a single one
        tf.saved_model.save(weights, folder, signatures=steps)
        return _converted(folder, list(steps), precision)


class _Weights(tf.Module):
    """The weights of a model as variables of TensorFlow's own, and the tables of its embeddings in whole numbers where 8 bits are due."""

    def __init__(self, model: keras.Model, precision: str):
        super().__init__()
        self.tables: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        looked_up = [layer.embeddings for layer in _flat_layers(model) if hasattr(layer, "embeddings")] if precision == "int8" else []
        self._pairs = []
        for variable in model.variables:
            value = variable.numpy()
            if any(variable is table for table in looked_up):
                whole, scales = self.tables[variable.path] = whole_numbers(value)
                value = whole * scales  # the converter then stores the numbers that are there already where the table is also the output
            self._pairs.append((variable, tf.Variable(value, trainable=False)))

    def scope(self) -> keras.StatelessScope:
        """In which the model's variables are these."""
        return keras.StatelessScope(state_mapping=[(variable, own.read_value()) for variable, own in self._pairs])


def _converted(folder: str, signatures: list[str], precision: str) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=signatures)
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def memories(model: keras.Model) -> list[Memory]:
    """What the model keeps of a text, in the order of the columns of `rows`."""
    result = []
    for layer in _flat_layers(model):
        name = _name(layer)
        if isinstance(layer, TransformerBlock | SelfAttention):
            attention = layer.attention if isinstance(layer, TransformerBlock) else layer
            result += [Memory(f"{name}_{part}", "cache", (attention.num_kv_heads, attention.head_dim)) for part in ("key", "value")]
        elif isinstance(layer, keras.layers.RNN):
            states = layer.get_initial_state(1)
            result += [Memory(f"{name}_{number}", "state", (state.shape[-1],)) for number, state in enumerate(states)]
        elif hasattr(layer, "init_cache") and not isinstance(layer, PositionEmbedding):
            raise ValueError(
                f"layer {layer.name} ({type(layer).__name__}) keeps a cache of its own kind, which LiteRT is not told how to fill"
            )
    return result


def values_of(model: keras.Model, state: dict[str, Any]) -> list[np.ndarray]:
    """A `Decoder`'s state as `memories` are laid out."""
    values: list[np.ndarray] = []
    for layer in _flat_layers(model):
        kept = state.get(layer.name)
        if isinstance(kept, dict) and kept:
            values += [kept[part].numpy() for part in ("key", "value")]
        elif isinstance(kept, list | tuple):
            values += [tensor.numpy() for tensor in kept]
    return values


def _step(model: keras.Model, weights: _Weights, name: str, batch: int, count: int, slots: int) -> tf.types.experimental.ConcreteFunction:
    memory, layers = memories(model), _flat_layers(model)
    specs: dict[str, tf.TensorSpec] = {"ids": tf.TensorSpec([batch, count], tf.int32)}
    if any(isinstance(layer, PositionEmbedding) or getattr(layer, "rotary", False) for layer in layers):
        specs["position"] = tf.TensorSpec([batch], tf.int32)
    if any(entry.kind == "cache" for entry in memory):
        specs["mask"] = tf.TensorSpec([batch, 1, 1, slots])
    for entry in memory:
        specs |= {part: tf.TensorSpec(entry.shape(rows.stop - rows.start, slots)) for part, rows in entry.parts(batch).items()}
    vocabulary_size = model.output_shape[-1]
    chooses = name == "decode" and vocabulary_size <= FEW_IDS
    if chooses:
        specs |= {"bias": tf.TensorSpec([batch, vocabulary_size]), "top_k": tf.TensorSpec([batch, 1], tf.int32)}
        specs |= {knob: tf.TensorSpec([batch, 1]) for knob in ("temperature", "top_p", "uniform")}
    specs = {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in specs.items()}

    def step(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        with weights.scope():
            walk = _Walk(dict(zip(specs, tensors, strict=True)), weights.tables)
            logits = run_layers(model, walk.given["ids"], walk.replace)
            rows = [tf.reshape(walk.rows[entry.name], [batch, count, entry.width]) for entry in memory]
        outputs = {"rows": tf.concat(rows, axis=-1)} if rows else {}
        if name == "prefill":
            return outputs
        # The decoding step has one place a row: taken by a slice, LiteRT would copy the logits number by number on one core.
        outputs["logits"] = tf.cast(tf.reshape(logits, [batch, vocabulary_size]), tf.float32)
        if chooses:
            knobs = {knob: walk.given[knob] for knob in ("bias", "temperature", "top_k", "top_p", "uniform")}
            outputs["token"] = choose(outputs["logits"], **knobs)
        return outputs

    return tf.function(step, input_signature=list(specs.values()), autograph=False).get_concrete_function()


def choose(logits: tf.Tensor, bias: tf.Tensor, temperature: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """What `numpy_filters.Filters.draw` gives where nothing but these knobs decides, in operations that LiteRT has.

    Args:
        logits: `(batch, vocabulary)` float32.
        bias, temperature, top_k, top_p, uniform: As `decode` takes them.

    Returns:
        `(batch,)` int32; the size of the vocabulary where all are forbidden.

    Example:

    >>> knobs = {"bias": tf.zeros([1, 3]), "temperature": tf.ones([1, 1]), "top_k": tf.constant([[2]]), "top_p": tf.constant([[2.0]])}
    >>> [choose(tf.constant([[1.0, 3.0, 2.0]]), uniform=tf.constant([[uniform]]), **knobs).numpy().tolist() for uniform in (0.1, 0.9)]
    [[1], [2]]
    """
    logits = (logits + bias) / temperature
    weights = tf.exp(logits - tf.reduce_max(logits, axis=1, keepdims=True))
    weights = tf.where(weights > 0, weights, 0.0)  # not a number, where all are forbidden: such cannot be sorted
    last = tf.clip_by_value(top_k, 1, weights.shape[1]) - 1
    largest, _ = tf.math.top_k(weights, weights.shape[1])
    at_rank = lambda rank: tf.gather(largest, rank, axis=1, batch_dims=1)
    upto = tf.cumsum(tf.where(largest >= at_rank(last), largest, 0.0), axis=1)
    missing = tf.reduce_sum(tf.cast(upto < top_p * upto[:, -1:], tf.int32), axis=1, keepdims=True)
    upto = tf.cumsum(tf.where(weights >= at_rank(tf.minimum(missing, last)), weights, 0.0), axis=1)
    return tf.reduce_sum(tf.cast(upto <= uniform * upto[:, -1:], tf.int32), axis=1)


class _Walk:
    """The layers of a model, each called for n tokens a row with its memory given, for `run_layers`; and the rows that come of it."""

    def __init__(self, given: dict[str, tf.Tensor], tables: Mapping[str, tuple[np.ndarray, np.ndarray]]):
        self.given, self.rows = given, dict[str, tf.Tensor]()
        self._tables = tables
        self._batch, self._count = given["ids"].shape
        if "position" in given:
            self._positions = given["position"][:, None] + tf.range(self._count)[None] if self._count > 1 else given["position"][:, None]

    def replace(self, layer: keras.Operation) -> Callable:
        def call(*inputs: tf.Tensor, **kwargs: Any) -> tf.Tensor:
            if len(inputs) > 1:
                return layer(*inputs, **kwargs)
            (x,) = inputs
            if isinstance(layer, keras.layers.Embedding):
                return self._embedding(layer, x, **kwargs)
            if isinstance(layer, PositionEmbedding):
                positions = tf.minimum(self._positions, layer.context_length - 1) if self._count > 1 else self._positions
                return x + self._rows_of(layer.embeddings, positions)
            if isinstance(layer, SelfAttention):
                return self._attention(_name(layer), layer, x)
            if isinstance(layer, TransformerBlock):
                x = layer.add_branch(x, layer.attention_norm, lambda x: self._attention(_name(layer), layer.attention, x))
                return layer.add_branch(x, layer.feed_forward_norm, lambda x: self._feed_forward(layer, x))
            if isinstance(layer, keras.layers.RNN):
                return self._recurrent(layer, x)
            return self._dense(layer, x) if type(layer) is keras.layers.Dense else layer(x, **kwargs)

        return call

    def _embedding(self, layer: keras.layers.Embedding, x: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        if not kwargs.get("reverse"):
            return self._rows_of(layer.embeddings, x)
        if getattr(layer, "tie_weights", False) and getattr(layer, "logit_soft_cap", None) is None:
            table = tf.convert_to_tensor(layer.embeddings)
            x = tf.reshape(x, [self._batch * self._count, x.shape[-1]])
            return tf.reshape(tf.matmul(x, table, transpose_b=True), [self._batch, self._count, table.shape[0]])
        return layer(x, **kwargs)

    def _rows_of(self, table: keras.Variable, places: tf.Tensor) -> tf.Tensor:
        if table.path not in self._tables:
            return tf.gather(tf.convert_to_tensor(table), places)
        whole, scales = self._tables[table.path]
        # The scales as whole numbers too: the converter would make 8 bits of a table of floats.
        unit = np.float32(scales.max() * 2.0**-30)
        steps = np.round(scales / unit).astype(np.int32)
        return tf.cast(tf.gather(whole, places), tf.float32) * (tf.cast(tf.gather(steps, places), tf.float32) * unit)

    def _dense(self, layer: keras.layers.Dense, x: tf.Tensor) -> tf.Tensor:
        if layer.quantization_mode is not None:
            return layer(x)
        flat = tf.matmul(tf.reshape(x, [self._batch * self._count, x.shape[-1]]), tf.convert_to_tensor(layer.kernel))
        y = tf.reshape(flat, [self._batch, self._count, flat.shape[-1]])
        return layer.activation(y if layer.bias is None else y + layer.bias)

    def _feed_forward(self, layer: TransformerBlock, x: tf.Tensor) -> tf.Tensor:
        hidden = layer.activation(self._dense(layer.gate if layer.gated else layer.widen, x))
        return self._dense(layer.narrow, hidden * self._dense(layer.widen, x) if layer.gated else hidden)

    def _attention(self, name: str, layer: SelfAttention, x: tf.Tensor) -> tf.Tensor:
        batch, count, groups, width = self._batch, self._count, layer.num_kv_heads, layer.head_dim
        shared = layer.num_heads // groups
        heads = tf.reshape(self._dense(layer.qkv, x), [batch, count, layer.num_heads + 2 * groups, width])
        # As slices: XNNPACK knows no uneven split, which would cut the step into a part of its own for each layer.
        some = lambda number, begin, of: tf.slice(of, [0, 0, begin, 0], [batch, count, number, width])
        value = some(groups, layer.num_heads + groups, heads)
        if layer.rotary:
            heads = turn(some(layer.num_heads + groups, 0, heads), *angles(self._positions, width, layer.rotary_base))
        query, key = some(layer.num_heads, 0, heads), some(groups, layer.num_heads, heads)
        self.rows[f"{name}_key"], self.rows[f"{name}_value"] = key, value
        query, key, value = (self._heads_first(tensor) for tensor in (query * width**-0.5, key, value))
        new = [tf.reshape(query, [batch, groups, shared * count, width]), key, value, self.given["mask"]]
        keys, values = (Memory(f"{name}_{kept}", "cache", (groups, width)).parts(batch) for kept in ("key", "value"))
        of_part = lambda rows: [tensor[rows, :, :, :] for tensor in new] if len(keys) > 1 else new
        caches = zip(keys.values(), keys, values, strict=True)
        attended = [self._attend(*of_part(rows), *(self.given[cache] for cache in names)) for rows, *names in caches]
        merged = tf.reshape(tf.concat(attended, axis=0), [batch, layer.num_heads, count, width])
        merged = merged if count == 1 else tf.transpose(merged, [0, 2, 1, 3])
        return self._dense(layer.output_projection, tf.reshape(merged, [batch, count, layer.num_heads * width]))

    def _attend(self, query: tf.Tensor, key: tf.Tensor, value: tf.Tensor, mask: tf.Tensor, keys: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
        """Some rows' attention to their caches, `(rows, heads, slots, head_dim)`, and to the new tokens."""
        rows, groups, queries, _ = query.shape
        count = self._count
        # A product of one row is cheaper written out: LiteRT copies the whole cache into an order of its own before it multiplies matrices.
        if queries == 1:
            to_cache = tf.reshape(tf.reduce_sum(keys * query, axis=-1), [rows, groups, 1, -1])
        else:
            to_cache = tf.matmul(query, keys, transpose_b=True)
        if count == 1:
            to_new = tf.reduce_sum(query * key, axis=-1, keepdims=True)
        else:
            later = np.triu(np.full([count, count], -1e9, np.float32), 1)
            to_new = tf.matmul(query, key, transpose_b=True) + np.tile(later, [queries // count, 1])
        weights = tf.nn.softmax(tf.concat([to_new, to_cache + mask], axis=-1))
        of_new = weights[..., :1] * value if count == 1 else tf.matmul(weights[..., :count], value)
        if queries == 1:
            by_slot = tf.reshape(weights[..., 1:], [rows, groups, -1, 1])
            of_cache = tf.reduce_sum(values * by_slot, axis=2, keepdims=True)
        else:
            of_cache = tf.matmul(weights[..., count:], values)
        return of_cache + of_new

    def _heads_first(self, x: tf.Tensor) -> tf.Tensor:
        batch, count, heads, width = x.shape
        return tf.reshape(x, [batch, heads, 1, width]) if count == 1 else tf.transpose(x, [0, 2, 1, 3])

    def _recurrent(self, layer: keras.layers.RNN, x: tf.Tensor) -> tf.Tensor:
        names = [f"{_name(layer)}_{number}" for number, _ in enumerate(layer.get_initial_state(1))]
        # Keras' own cell: `state.step_cell` cuts its products in parts, which helps XLA and hinders LiteRT.
        output, states = layer.cell(x[:, 0], [self.given[name] for name in names], training=False)
        self.rows |= dict(zip(names, states, strict=True))
        return output[:, None]


def whole_numbers(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row as whole numbers from -127 to 127 and a scale: `(rows, width)` float32 → the same shape int8, and `(rows, 1)` float32.

    Example:

    >>> whole, scales = whole_numbers(np.array([[0.5, -1.27], [0.0, 0.0]], np.float32))
    >>> whole.tolist(), [round(scale, 4) for scale in scales[:, 0].tolist()]
    ([[50, -127], [0, 0]], [0.01, 1.0])
    """
    largest = np.abs(table).max(axis=1, keepdims=True)
    scales = np.where(largest > 0, largest / np.float32(127), np.float32(1)).astype(np.float32)
    return np.clip(np.round(table / scales), -127, 127).astype(np.int8), scales


def _name(layer: keras.Operation) -> str:
    """As an input can be called."""
    return re.sub(r"\W", "_", layer.name)


def _flat_layers(model: keras.Model) -> list[keras.Operation]:
    nested = (_flat_layers(layer) if isinstance(layer, keras.Model) else [layer] for layer in model.layers)
    return list(itertools.chain.from_iterable(nested))
