"""A SavedModel that takes strings and gives strings: tokenizer, model and sampler in one graph, for TF Serving or TensorFlow alone.

Signatures (every input and output has the batch as its first axis, so that TF Serving can batch requests):

- `serving_default`: `prompts` → `text`, with the default knobs;
- `generate`: `prompts` and the numbers of `SamplingSettings`, each `[batch]` or `[1]` → `text`, `num_tokens`, `finish_reason`;
- `score`: `texts` → `log_likelihood`, `num_tokens`, `perplexity`.

No XLA inside: TF Serving switches it off by default, and a signature that needs it loads and then fails at every call.

A row's text depends on its own prompt, knobs and seed, not on the requests it is batched with. A prompt that is too long loses its
beginning; the number of new tokens is bounded by the model's context. Bytes that are not UTF-8 become U+FFFD, on the way in and out.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_lm import cleaning
from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.files import replacing_folder
from keras_lm.generation.decode import FINISH_REASONS, Knobs, Rules, bias_against, decode, dtype_of, left_padded
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from keras_lm.generation.text import Generated, prompt_ids
from keras_lm.tokenizers import Tokenizer
from keras_lm.training.run import Run

_SCORE_WINDOW = 128  # tokens of a text that a recurrent model scores at a time
_MOST_TOKENS = 4096  # of a prompt, and of new ones, for models without a bounded context


class _Served(tf.Module):
    """What is saved. It tracks the raw variables, not the Keras model: the saver copies Keras' own variables, and the copies are
    missing in a C++ session, where TF Serving looks for them."""

    def __init__(self, model: keras.Model, tokenizer: Tokenizer, clean: Sequence[str], documents: bool, defaults: SamplingSettings):
        super().__init__()
        self.weights = [variable.value for variable in model.variables]
        self.tokenizer = tokenizer
        decoder = Decoder(model)
        cleaner = cleaning.compose(clean)
        context = decoder.context_length

        pieces = tokenizer.pieces()
        never = (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id)
        bias = bias_against(never, decoder.vocabulary_size).numpy()

        def complete_any(prompts: tf.Tensor, knobs: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
            nothing = lambda: (tf.zeros([0], tf.string), tf.zeros([0], tf.int32), tf.zeros([0], tf.string))
            return tf.cond(tf.size(prompts) > 0, lambda: complete(prompts, knobs), nothing)

        def complete(prompts: tf.Tensor, given: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
            rows = tf.shape(prompts)[:1]
            knobs = Knobs(**{name: tf.broadcast_to(_bounded(name, given[name]), rows) for name in Knobs.names()})
            ids = prompt_ids(tokenizer, cleaner(_valid_utf8(prompts)), documents)
            longest = tf.cast(tf.reduce_max(ids.row_lengths()), tf.int32)
            width = 1 + tf.maximum(tf.minimum(longest, context - 1 if context else _MOST_TOKENS), 1)
            prompt, padding = left_padded(ids, width)
            if context:  # what is kept of a prompt leaves room for the new tokens, but they may not push out more than half of it
                padding = tf.maximum(padding, width - (context - tf.minimum(knobs.max_new_tokens, context // 2)))
                room = context - (width - padding)
            else:
                room = tf.fill(rows, _MOST_TOKENS)
            capacity = tf.reduce_max(tf.minimum(knobs.max_new_tokens, room))
            rules = Rules(end_id=tokenizer.end_id, bias=tf.constant(bias))
            new, lengths, reasons = decode(decoder, prompt, padding, knobs, rules, capacity=capacity, room=room)
            text = tf.strings.reduce_join(tf.gather(tf.constant(pieces), new), axis=1)  # behind a text's end stands padding: no piece
            return _valid_utf8(text), lengths, tf.gather(tf.constant(FINISH_REASONS), reasons)

        default = {name: tf.constant([getattr(defaults, name)], dtype_of(name)) for name in Knobs.names()}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="prompts")], autograph=False)
        def serving_default(prompts):
            return {"text": complete_any(prompts, {name: tf.constant(value.numpy()) for name, value in default.items()})[0]}

        def generate(prompts, *knobs):
            text, lengths, reasons = complete_any(prompts, dict(zip(default, knobs, strict=True)))
            return {"text": text, "num_tokens": lengths, "finish_reason": reasons}

        # tf.function reads names and defaults from the signature, and so they come into the SignatureDef.
        parameter = lambda name, **default: inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, **default)
        generate.__signature__ = inspect.Signature(
            [parameter("prompts"), *(parameter(name, default=value) for name, value in default.items())]
        )
        specs = [tf.TensorSpec([None], tf.string), *(tf.TensorSpec([None], dtype_of(name)) for name in default)]
        generate = tf.function(generate, input_signature=specs, autograph=False)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")], autograph=False)
        def score(texts):
            ids = tokenizer.tokenize(cleaner(_valid_utf8(texts)))
            if documents:
                ids = tf.concat([tf.fill([tf.shape(texts)[0], 1], tokenizer.start_id), ids], axis=1)
            log_likelihood, count = _log_likelihood(decoder, ids)
            mean = tf.math.divide_no_nan(log_likelihood, tf.cast(count, tf.float32))
            return {"log_likelihood": log_likelihood, "num_tokens": count, "perplexity": tf.exp(-mean)}

        self.functions = {"serving_default": serving_default, "generate": generate, "score": score}


def _bounded(knob: str, value: tf.Tensor) -> tf.Tensor:
    """What a client sends, brought into the range that `SamplingSettings` allows."""
    least, most = _BOUNDS[knob]
    return value if least is None else tf.clip_by_value(value, least, most)


_BOUNDS = {
    "max_new_tokens": (1, _MOST_TOKENS),
    "min_new_tokens": (0, _MOST_TOKENS),
    "repetition_penalty": (1e-6, 1e6),
    "presence_penalty": (-1e6, 1e6),
    "frequency_penalty": (-1e6, 1e6),
    "no_repeat_ngram_size": (0, _MOST_TOKENS),
    "temperature": (0.0, 1e6),
    "top_k": (0, 2**31 - 1),
    "top_p": (1e-6, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (1e-6, 1.0),
    "epsilon_cutoff": (0.0, 1.0),
    "eta_cutoff": (0.0, 1.0),
    "seed": (None, None),
}


def _valid_utf8(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace", replace_control_characters=False)


def _log_likelihood(decoder: Decoder, ids: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Sum of ln P(token | tokens before it) over all but the first token of each row, and how many those are.

    A text longer than the context is cut into windows that know nothing of each other, as in `keras_lm.evaluation`.
    """
    window = decoder.context_length or _SCORE_WINDOW
    count = tf.maximum(tf.cast(ids.row_lengths(), tf.int32) - 1, 0)
    windows = -(-tf.reduce_max(tf.concat([count, [1]], axis=0)) // window)
    dense = ids.to_tensor(shape=[None, None])
    dense = tf.pad(dense, [[0, 0], [0, tf.maximum(windows * window + 1 - tf.shape(dense)[1], 0)]])
    batch = tf.shape(dense)[0]

    def add(number, total, state):
        start = number * window
        piece = dense[:, start : start + window + 1]
        inputs, targets = tf.ensure_shape(piece[:, :-1], [None, window]), piece[:, 1:]
        if decoder.context_length is None:  # states go on; padding is on the right, where nothing follows
            logits, state = decoder.extend_all(inputs, state, start, tf.zeros([batch], tf.int32))
        else:
            logits = decoder.model(inputs, training=False)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
        real = tf.cast(start + tf.range(window)[None] < count[:, None], tf.float32)
        return number + 1, total - tf.reduce_sum(losses * real, axis=1), state

    state = decoder.init_state(batch, window) if decoder.context_length is None else {}
    carried = (tf.constant(0), tf.zeros([batch]), state)
    shapes = tf.nest.map_structure(lambda tensor: tensor.shape, carried)
    _, total, _ = tf.while_loop(lambda number, *_: number < windows, add, carried, shape_invariants=shapes)
    return total, count


def default_settings(decoder: Decoder) -> SamplingSettings:
    """The knobs that `serving_default` uses: those of `SamplingSettings`, but at most half a bounded context of new tokens."""
    settings = SamplingSettings()
    if decoder.context_length is None:
        return settings
    return SamplingSettings(max_new_tokens=max(1, min(settings.max_new_tokens, decoder.context_length // 2)))


def export_model(
    model: keras.Model,
    tokenizer: Tokenizer,
    folder: str | os.PathLike,
    *,
    clean: Sequence[str] = (),
    documents: bool = True,
    settings: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> pathlib.Path:
    """Writes the next version of an export.

    Args:
        model: A causal model from ids to logits.
        tokenizer: The one it was trained with.
        folder: `saved_models/NAME`; the version goes to the next number inside, and appears there whole.
        clean, documents: As in `keras_lm.generation.text.TextGenerator`.
        settings: The run's settings, for the metadata.
        metrics: The run's validation result, for the metadata.

    Returns:
        The version's folder.

    Example:

    >>> import tempfile
    >>> from keras_lm.models import gru_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> version = export_model(gru_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer(), tempfile.mkdtemp())
    >>> loaded = tf.saved_model.load(version)
    >>> loaded.signatures["serving_default"](prompts=tf.constant(["a", "b"]))["text"].shape
    TensorShape([2])
    """
    folder = pathlib.Path(folder)
    decoder = Decoder(model)
    defaults = default_settings(decoder)
    module = _Served(model, tokenizer, clean, documents, defaults)
    version = folder / str(max(layout.versions(folder), default=0) + 1)
    metadata = {
        "model": model.name,
        "parameters": model.count_params(),
        "tokenizer": tokenizer.kind,
        "vocabulary_size": tokenizer.vocabulary_size,
        "context_length": decoder.context_length,
        "clean": list(clean),
        "documents": documents,
        "needs_tensorflow_text": tokenizer.needs_tensorflow_text or bool(cleaning.NEEDS_TENSORFLOW_TEXT & set(clean)),
        "defaults": {name: getattr(defaults, name) for name in Knobs.names()},
        "settings": settings or {},
        "metrics": metrics or {},
        "versions": {name: importlib.metadata.version(name) for name in ("keras_lm", "tensorflow", "keras")},
    }
    with replacing_folder(version) as temporary:
        tf.saved_model.save(module, str(temporary), signatures=module.functions)
        tokenizer.save(temporary / layout.TOKENIZER)
        (temporary / layout.METADATA).write_text(json.dumps(metadata, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return version


class ExportedGenerator:
    """An export, used from Python as `TextGenerator` is.

    Args:
        folder: A version's folder, or the one that holds versions: the newest is taken.

    Raises:
        UserError: no export there.

    Example: `ExportedGenerator("saved_models/quickstart").generate(["我们"], SamplingSettings(seed=1))`
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder, self.metadata = layout.find(folder)
        if self.metadata["needs_tensorflow_text"]:
            cleaning.tensorflow_text()
        self._loaded = tf.saved_model.load(str(self.folder))  # must stay alive as long as its signatures

    def generate(self, prompts: Sequence[str], settings: SamplingSettings | None = None) -> list[Generated]:
        """Goes on with each prompt, as `TextGenerator.generate` does; a text ends where the model's context does."""
        settings = settings or SamplingSettings()
        for name in ("logit_bias", "forbid", "allow", "top_logprobs"):
            if getattr(settings, name) not in ((), "", None):
                raise UserError(f"an export does not know {name}: generate from the run folder")
        if settings.num_samples > 1 or settings.when_full == "slide":
            raise UserError("an export gives one text for a prompt, within the context: generate from the run folder")
        knobs = vars(Knobs.of(settings, len(prompts)))
        outputs = self._loaded.signatures["generate"](prompts=tf.constant(list(prompts), tf.string), **knobs)
        results = []
        for text, count, reason in zip(*(outputs[name].numpy() for name in ("text", "num_tokens", "finish_reason")), strict=True):
            text, reason = text.decode(), reason.decode()
            found = [place for place in map(text.find, settings.stop) if place >= 0]
            results.append(Generated(text[: min(found)] if found else text, int(count), "stop" if found else reason))
        return results

    def score(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """What the `score` signature gives, a dictionary a text."""
        outputs = self._loaded.signatures["score"](texts=tf.constant(list(texts), tf.string))
        columns = {name: tensor.numpy().tolist() for name, tensor in outputs.items()}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def export_run(run: Run, folder: str | os.PathLike | None = None) -> pathlib.Path:
    """Exports the best model of a run.

    Args:
        run: The run.
        folder: `saved_models/NAME`; default the run's own `export` setting.

    Returns:
        The version's folder.
    """
    best = min(run.read_metrics(), key=lambda line: line["val_loss"], default={})
    return export_model(
        run.load_model(),
        run.load_tokenizer(),
        folder or run.settings.export,
        clean=run.settings.clean,
        documents=run.settings.documents,
        settings=dataclasses.asdict(run.settings),
        metrics=best,
    )
