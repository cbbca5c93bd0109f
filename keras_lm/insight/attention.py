"""What a model attends to, and every tensor between a source and its target.

Both functions follow the model that is there (`models.run_layers`) and note what passes by; nothing is computed in a second way. A block
of a Transformer is one layer to that walk: its own `call` is run with parts that say what they give.

References:
    Article A1, sections 2 to 4; Vaswani et al. 2017, «Attention Is All You Need»; Bahdanau et al. 2015, arXiv:1409.0473, whose figure 3
    is the first picture of such weights. Jain and Wallace 2019, arXiv:1902.10186: a weight says where a layer looked, not why a word came.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_lm.attention import CrossAttention, SelfAttention
from keras_lm.errors import UserError
from keras_lm.generation.pieces import TextStream
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import TextGenerator, source_ids
from keras_lm.layers import PositionEmbedding, TransformerBlock
from keras_lm.models import call_layer, encoder_of, run_layers
from keras_lm.token_names import token_names
from keras_lm.tokenizer_base import Tokenizer

STEPS = ("input", "embedding", "encoder", "self-attention", "feed-forward", "decoder", "output")
"""The seven steps of inference, as article A1 §3 numbers them: 输入处理, 词嵌入, 编码器, 自注意力, 前馈神经网络, 解码器, 输出生成."""

_WEIGHTS = "/weights"


def attention_maps(model: keras.Model, inputs: np.ndarray | tf.Tensor | Sequence[np.ndarray | tf.Tensor]) -> dict[str, np.ndarray]:
    """The weights of every attention in a model as it reads: where each position looks.

    Args:
        model: Any with attention: a causal language model, an encoder, an encoder-decoder. Dropout is off.
        inputs: Ids `(batch, time)`; one such array an input where there are several, e.g. `[source, target]`.

    Returns:
        By name, in the order of the layers, `(batch, heads, queries, keys)` float32; each row of keys sums to 1. Names are
        `block_0/attention` for a text over itself, `decoder_block_0/memory_attention` for a target over its source; the attention of a
        recurrent decoder has the name of its layer, and one head.

    Raises:
        UserError: ids that are no matrix; another number of inputs than the model has; a model without attention.

    Example:

    >>> from keras_lm.models import transformer_lm
    >>> model = transformer_lm(20, context_length=16, embedding_dim=8, num_layers=1, num_heads=2)
    >>> maps = attention_maps(model, np.array([[4, 5, 6]]))
    >>> {name: weights.shape for name, weights in maps.items()}
    {'block_0/attention': (1, 2, 3, 3)}
    >>> maps["block_0/attention"][0, 0, 0].tolist()  # the first position has itself alone to look at
    [1.0, 0.0, 0.0]
    """
    given = inputs if len(model.inputs) > 1 else [inputs]
    arrays = [tf.cast(tf.convert_to_tensor(ids), tf.int32) for ids in given]
    if len(arrays) != len(model.inputs):
        raise UserError(f"{model.name} has {len(model.inputs)} inputs, got {len(arrays)}")
    for ids in arrays:
        if ids.shape.rank != 2:
            raise UserError(f"ids must be (batch, time), got {tuple(ids.shape)}")
    found = attention_weights(model, arrays)
    if not found:
        raise UserError(f"{model.name} has no attention to look at")
    return {name: weights.numpy() for name, weights in found.items()}


def attention_weights(model: keras.Model, inputs: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
    """What `attention_maps` gives, as tensors, in a graph too; of a model without attention nothing.

    Args:
        model: As there.
        inputs: Ids `(batch, time)` int32, one tensor for each input of the model.
    """
    return {seen.name.removesuffix(_WEIGHTS): seen.value for seen in _walk(model, inputs).seen if seen.name.endswith(_WEIGHTS)}


@dataclasses.dataclass(frozen=True)
class InferenceStep:
    """One of the seven steps.

    Attributes:
        number: 1 to 7.
        name: As in `STEPS`.
        tensors: By name, in the order in which they were computed, without the axis of the batch.
    """

    number: int
    name: str
    tensors: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One turn of the loop that writes the target.

    Attributes:
        token: What was chosen.
        probability: Its probability.
        alternatives: The most probable tokens with their probabilities, best first. A token that is never written (padding, unknown,
            start) can stand among them.
    """

    token: str
    probability: float
    alternatives: list[tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class Inference:
    """What `inference_steps` gives.

    Attributes:
        source_tokens: Names of what the encoder read, the end token last.
        target_tokens: Names of what the decoder read, the start token first.
        written_tokens: At each place what was written after reading so far: `target_tokens` shifted by one.
        steps: The seven.
        choices: One for each token chosen.
        text: What was chosen, as text.
        finish_reason: Why it ended, as in `keras_lm.generation.text.Generated`.
    """

    source_tokens: list[str]
    target_tokens: list[str]
    written_tokens: list[str]
    steps: list[InferenceStep]
    choices: list[Choice]
    text: str
    finish_reason: str

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """Those of all steps, by name."""
        return {name: value for step in self.steps for name, value in step.tensors.items()}

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """Of every attention, `(heads, queries, keys)`, by the names that `attention_maps` gives."""
        return {name.removesuffix(_WEIGHTS): value for name, value in self.tensors.items() if name.endswith(_WEIGHTS)}

    def __str__(self) -> str:
        """A line a tensor: its step, its name, its shape."""
        rows = [(f"{step.number} {step.name}", name, value.shape) for step in self.steps for name, value in step.tensors.items()]
        first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
        return "\n".join(f"{step:{first}}  {name:{second}}  {shape}" for step, name, shape in rows)


def inference_steps(
    model: keras.Model, tokenizer: Tokenizer, source: str, target: str = "", *, top: int = 5, max_new_tokens: int = 64
) -> Inference:
    """The seven steps from a source to what an encoder-decoder writes for it, with every tensor on the way.

    They are numbered as article A1 §3 does. What it has wrong in them, by the numbers that `docs/articles.md` gives:

    1. input: ids and names of the source's tokens.
    2. embedding: a row of learned numbers for each token, and what positions add to it. Article: a one-hot vector (D16).
    3. encoder: what each block gives, and the memory: one vector a position. Article: one vector of fixed length for the whole text (D15).
    4. self-attention, which is inside each block of the encoder and not behind the encoder: scores QKᵀ/√d before the mask, weights, output.
       Article: Q·K is all (D13), with weights 1 and 0.5 (D16), where each row sums to 1.
    5. feed-forward, inside each block too: the hidden layer and the output. Article: a single layer (D14).
    6. decoder: in each block attention over the target so far, with a mask; attention over the memory; a feed-forward part. Article: a
       function of the memory alone, without the target so far.
    7. output: logits, probabilities, and the token chosen; it is read next, and so on to the end token. Article: the text at once.

    Positions that are rotary add nothing in step 2: they turn queries and keys in steps 4 and 6. In a recurrent encoder-decoder steps 4
    and 5 are empty, and scores are given of a Transformer alone.

    The decoder is causal, so that row t of its tensors is what turn t of the loop had: one pass over the finished target shows them all.

    Args:
        model: An encoder-decoder (`keras_lm.seq2seq`), trained.
        tokenizer: The one it was trained with.
        source: One text.
        target: What the target begins with; default nothing. The model goes on from there.
        top: How many alternatives to give in each turn.
        max_new_tokens: Most turns.

    Returns:
        An `Inference`. The tokens are those of `TextGenerator` with temperature 0, whose sampler chooses them.

    Raises:
        UserError: a model that is no encoder-decoder; an empty source, or one longer than the model was made for.

    Example:

    >>> from keras_lm.seq2seq import transformer_seq2seq
    >>> from keras_lm.tokenizers import CharacterTokenizer
    >>> tokenizer = CharacterTokenizer.fit(["我喜欢编程"])
    >>> model = transformer_seq2seq(tokenizer.vocabulary_size, context_length=16, embedding_dim=8, num_layers=1, num_heads=2)
    >>> inference = inference_steps(model, tokenizer, "我喜欢编程", max_new_tokens=3)
    >>> inference.source_tokens
    ['我', '喜', '欢', '编', '程', '</s>']
    >>> [step.name for step in inference.steps if "memory" in step.tensors]
    ['encoder']
    >>> inference.weights["encoder_block_0/attention"].shape  # (heads, queries, keys)
    (2, 6, 6)
    """
    if encoder_of(model) is None:
        raise UserError(f"{model.name} has no encoder: the seven steps are those of an encoder-decoder; attention_maps takes any model")
    if not source.strip():
        raise UserError("the source is empty: give at least one word")
    sources = source_ids(tokenizer, tf.constant([source])).to_list()
    lengths = [layer.context_length for layer in encoder_of(model).layers if getattr(layer, "context_length", None)]
    if len(sources[0]) > min(lengths, default=len(sources[0])):
        raise UserError(f"the source has {len(sources[0])} tokens; the model was made for {min(lengths)}: shorten it")
    begun = [tokenizer.start_id, *tokenizer.tokenize(tf.constant([target])).to_list()[0]]
    settings = SamplingSettings(temperature=0.0, max_new_tokens=max_new_tokens)
    sampler = TextGenerator(model, tokenizer, jit_compile=False).sampler
    (continuation,) = sampler.generate([begun], settings, sources=sources)
    chosen = continuation.ids
    read = [*begun, *chosen[:-1]]
    steps, probabilities = _steps(model, sources[0], read, chosen)
    names = readable_names(tokenizer)
    choices = [
        Choice(names[token], float(row[token]), [(names[other], float(row[other])) for other in np.argsort(-row, kind="stable")[:top]])
        for token, row in zip(chosen, probabilities[len(begun) - 1 :], strict=True)
    ]
    text = TextStream(tokenizer.pieces())
    return Inference(
        source_tokens=[names[token] for token in sources[0]],
        target_tokens=[names[token] for token in read],
        written_tokens=[names[token] for token in [*read[1:], chosen[-1]]],
        steps=steps,
        choices=choices,
        text=text.feed(chosen) + text.finish(),
        finish_reason=continuation.finish_reason,
    )


def _steps(model: keras.Model, source: list[int], read: list[int], chosen: list[int]) -> tuple[list[InferenceStep], np.ndarray]:
    """The seven steps, and the probabilities `(positions, vocabulary_size)`."""
    walk = _walk(model, [tf.constant([source]), tf.constant([read])])
    tensors: list[dict[str, np.ndarray]] = [{} for _ in STEPS]
    tensors[0]["source_ids"] = np.array(source)
    tensors[5]["target_ids"] = np.array(read)
    for seen in walk.seen:
        number, name = _place(seen, walk)
        value = tf.cast(seen.value, tf.float32) if seen.value.dtype.is_floating else seen.value
        tensors[number - 1].setdefault(name, value[0].numpy())
    tensors[2]["memory"] = tf.cast(walk.memory[0], tf.float32).numpy()
    probabilities = tf.nn.softmax(tf.cast(walk.logits[0], tf.float32)).numpy()
    tensors[6] |= {"probabilities": probabilities, "chosen_ids": np.array(chosen)}
    return [InferenceStep(number, *parts) for number, parts in enumerate(zip(STEPS, tensors, strict=True), start=1)], probabilities


def _place(seen: _Seen, walk: _Walk) -> tuple[int, str]:
    """The step that a tensor belongs to, and its name there."""
    if seen.value is walk.logits:
        return 7, "logits"
    if seen.value is walk.source_vectors:
        return 2, "source_embedding"
    if not seen.in_encoder:
        return 6, "target_embedding" if isinstance(seen.layer, keras.layers.Embedding) else seen.name
    if isinstance(seen.layer, TransformerBlock) and "/" in seen.name:
        return 5 if "/feed_forward/" in seen.name else 4, seen.name
    return 2 if isinstance(seen.layer, PositionEmbedding | keras.layers.Rescaling) else 3, seen.name


def readable_names(tokenizer: Tokenizer) -> list[str]:
    """What each id writes, spaces included, where that is text; else its name in files.

    Example:

    >>> from keras_lm.tokenizers import CharacterTokenizer
    >>> readable_names(CharacterTokenizer(["中", " "]))
    ['<pad>', '<unk>', '<s>', '</s>', '中', ' ']
    """
    texts = [piece.decode("utf-8", errors="replace") for piece in tokenizer.pieces()]
    return [text if text and "\ufffd" not in text else name for text, name in zip(texts, token_names(tokenizer), strict=True)]


class _Seen(NamedTuple):
    name: str
    layer: keras.Operation
    in_encoder: bool
    value: tf.Tensor


@dataclasses.dataclass
class _Walk:
    """What was seen on the way, in the order of the layers; the three below of an encoder-decoder alone."""

    logits: tf.Tensor
    seen: list[_Seen]
    source_vectors: tf.Tensor | None = None
    memory: tf.Tensor | None = None


def _walk(model: keras.Model, inputs: Sequence[tf.Tensor]) -> _Walk:
    """Runs a model without dropout and notes what its layers give, and what goes on inside attention and feed-forward parts."""
    walk = _Walk(logits=inputs[0], seen=[])
    encoder = encoder_of(model)

    def replace(layer: keras.Operation, in_encoder: bool = False) -> Callable:
        def tell(name: str, value: tf.Tensor) -> tf.Tensor:
            walk.seen.append(_Seen(name, layer, in_encoder, value))
            return value

        def called(*args: Any, **kwargs: Any) -> Any:
            if isinstance(layer, TransformerBlock):
                return tell(layer.name, _run_block(layer, tell, *args, **kwargs))
            if hasattr(layer, "weights_of"):
                return tell(layer.name, _run_attention(layer, layer.name, tell, *args, **kwargs))
            outputs = call_layer(layer, args, kwargs, training=False)
            is_new = isinstance(layer, keras.Layer) and not isinstance(layer, keras.layers.Dropout)
            return tell(layer.name, outputs) if is_new and tf.is_tensor(outputs) else outputs

        return called

    def encode(inputs: list[tf.Tensor], **_: Any) -> list[tf.Tensor]:
        outputs = run_layers(encoder, inputs, lambda layer: replace(layer, in_encoder=True))
        walk.source_vectors, walk.memory = inputs[0], outputs[0]
        return outputs

    replace_model = lambda inner: encode if inner is encoder else None
    walk.logits = run_layers(model, inputs if len(inputs) > 1 else inputs[0], replace, replace_model)
    return walk


class _Replaced:
    """A layer for whose own code some of its parts are others: `type(layer).call(_Replaced(layer, parts), ...)`."""

    def __init__(self, layer: keras.Layer, parts: Mapping[str, Callable]):
        self._layer, self._replacements = layer, parts

    def __getattr__(self, name: str) -> Any:
        if name in self._replacements:
            return self._replacements[name]
        found = getattr(self._layer, name)
        is_method = isinstance(found, types.MethodType) and found.__self__ is self._layer
        return types.MethodType(found.__func__, self) if is_method else found


def _run_block(block: TransformerBlock, tell: Callable[[str, tf.Tensor], tf.Tensor], *args: Any, **kwargs: Any) -> tf.Tensor:
    attend = lambda name: lambda *inputs, **_: _run_attention(getattr(block, name), f"{block.name}/{name}", tell, *inputs, output=True)
    hidden = _Replaced(block, {"activation": lambda x: tell(f"{block.name}/feed_forward/hidden", block.activation(x))})
    parts = {name: attend(name) for name in ("attention", "memory_attention")}
    parts["_feed_forward"] = lambda x: tell(f"{block.name}/feed_forward/output", type(block)._feed_forward(hidden, x))
    return type(block).call(_Replaced(block, parts), *args, **{**kwargs, "training": False})


def _run_attention(
    layer: keras.Layer, name: str, tell: Callable[[str, tf.Tensor], tf.Tensor], *args: Any, output: bool = False, **kwargs: Any
) -> tf.Tensor:
    """What the layer gives; its scores (of a Transformer) and its weights are told, and with `output` that too."""
    kwargs.pop("training", None)
    off = {"training": False} if getattr(layer, "_call_has_training_arg", False) else {}
    asked: Any = layer
    if isinstance(layer, SelfAttention | CrossAttention):

        def weights(scores: tf.Tensor, visible: tf.Tensor | None) -> tf.Tensor:
            shape = tf.shape(scores)  # (batch, kv_heads, heads a kv_head, queries, keys)
            tell(f"{name}/scores", tf.reshape(scores, [shape[0], layer.num_heads, shape[3], shape[4]]))
            return layer._weights(scores, visible)

        asked = _Replaced(layer, {"_weights": weights})
    tell(f"{name}{_WEIGHTS}", type(layer).weights_of(asked, *args, **kwargs))
    outputs = layer(*args, **kwargs, **off)
    return tell(f"{name}/output", outputs) if output else outputs
