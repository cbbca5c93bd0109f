"""A SavedModel that takes strings and gives strings: tokenizer, model and sampler in one graph, for TF Serving or TensorFlow alone.

Signatures (every input and output has the batch as its first axis, so that TF Serving can batch requests):

- `serving_default`: `prompts` → `text`, `num_tokens`, `finish_reason`, with the default knobs;
- `generate`: the same with the numbers of `SamplingSettings`, each `[batch]` or `[1]` and with a default in the SignatureDef;
- `score`: `texts` → `log_likelihood`, `num_tokens`, `perplexity`;
- `next_token`: `prompts` and `k` → `tokens`, `ids`, `probabilities`, best first;
- `step`: ids and state → logits and state, for clients that stream (`keras_lm.export.stepping`);
- `attention`, of a model that has it: `texts` → `tokens`, `weights`, for pictures (`keras_lm.export.attending`).

An encoder-decoder has three: `serving_default` and `generate` take `sources` in place of prompts, and by default the most probable token at
each step; `score` takes `sources` and `targets`. A sentence VAE has these, and two more: `encode`, `texts` → `vectors`, `deviations`; and
`decode`, `vectors` → what `generate` gives, with the default knobs.

No XLA inside: TF Serving switches it off by default, and a signature that needs it loads and then fails at every call. `xla=True` writes a
version for servers that have it on (`keras_lm.export.compiled`).

A prompt that is too long loses its beginning; the number of new tokens is bounded by the model's context. Bytes that are not UTF-8 become
U+FFFD, on the way in and out. A knob out of range is clamped, and one that is no number becomes its default (`keras_lm.export.served`).
A classifier or tagger has `serving_default` alone: `texts` → `label`, `probability`, `probabilities`, `classes`, or `characters`,
`labels`, `marked`.

Names, shapes, defaults and ranges stand in `assets.extra/keras_lm.json`, which can be read without loading anything.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
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
from keras_lm.export.labelled import ServedLabeller
from keras_lm.export.served import Served
from keras_lm.export.warmup import write_requests
from keras_lm.files import replacing_folder
from keras_lm.generation.decode import Knobs
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from keras_lm.generation.text import Generated
from keras_lm.tokenizers import Tokenizer
from keras_lm.training.run import Run

_NOTES = (
    "An input with a default may be left out where the server knows SignatureDef defaults: TF Serving over gRPC, not over REST.",
    "A value of shape [1] holds for every row; a server that batches requests needs a value for each row.",
    "A number outside clamped_to is taken for the nearest end of it; one that is no number (NaN) for the default.",
    "A prompt longer than the context leaves for the new tokens loses its beginning; bytes that are not UTF-8 become U+FFFD.",
    "finish_reason: length, end (the model ended the text), context (the context is full) or blocked (nothing may follow).",
    "attention: of each text's first tokens alone, 64 at most; layers, heads, queries, keys; '' and 0 behind a text's end.",
    "step: what comes out beside logits goes in again with the next ids; without it a text begins. Rows are padded on the left.",
)

_LABEL_NOTES = (
    "A text longer than `longest` tokens, start and end counted, loses its end; bytes that are not UTF-8 become U+FFFD.",
    "Of a tagger `labels` has for each character B, M, E or S (begin, middle, end of a word, or one by itself), a hyphen and the tag.",
)

_XLA_README = """# This version compiles with XLA while it serves

TensorFlow Serving switches XLA off unless it is told otherwise, and then every call of this version fails. Start it with

    tensorflow_model_server --xla_cpu_compilation_enabled=true ...

Python needs nothing. Prompts are padded to powers of two (32 tokens at least), and so are the rows of a batch and the room for the text:
each combination is compiled when it is first met, which takes seconds. The requests in `tf_serving_warmup_requests` compile the usual
ones while the server loads this version; without the flag they fail there, and so does the version's loading. `step` and `attention` are
not compiled.
"""


def default_settings(decoder: Decoder) -> SamplingSettings:
    """The knobs that `serving_default` uses: those of `SamplingSettings`, but at most half a bounded context of new tokens.

    Of an encoder-decoder greedy ones, since there one right answer is asked for, and all of its context.
    """
    settings = SamplingSettings()
    if decoder.encoder is not None:
        return SamplingSettings(temperature=0.0, max_new_tokens=(decoder.context_length or settings.max_new_tokens + 1) - 1)
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
    xla: bool = False,
    longest_source: int | None = None,
) -> pathlib.Path:
    """Writes the next version of an export.

    Args:
        model: A causal model from ids to logits, or an encoder-decoder.
        tokenizer: The one it was trained with.
        folder: `saved_models/NAME`; the version goes to the next number inside, and appears there whole.
        clean, documents, longest_source: As in `keras_lm.generation.text.TextGenerator`.
        settings: The run's settings, for the metadata.
        metrics: The run's validation result, for the metadata.
        xla: Whether XLA compiles the signatures, in the process that serves them; default no.

    Returns:
        The version's folder.

    Raises:
        UserError: a folder that holds something else, a tokenizer of another vocabulary, an encoder-decoder with `xla`.
        ValueError: a model that cannot be decoded step by step.

    Example:

    >>> import tempfile
    >>> from keras_lm.models import gru_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> version = export_model(gru_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer(), tempfile.mkdtemp())
    >>> loaded = tf.saved_model.load(version)
    >>> loaded.signatures["serving_default"](prompts=tf.constant(["a", "b"]))["text"].shape
    TensorShape([2])
    """
    folder = layout.check_target(folder)
    decoder = Decoder(model)
    if decoder.vocabulary_size != tokenizer.vocabulary_size:
        sizes = f"{decoder.vocabulary_size} tokens, the tokenizer {tokenizer.vocabulary_size}"
        raise UserError(f"the model knows {sizes}: give the tokenizer that the model was trained with")
    if xla and decoder.encoder is not None:
        raise UserError("an encoder-decoder is exported without XLA: leave --xla out")
    defaults = default_settings(decoder)
    module = Served(model, tokenizer, clean=clean, documents=documents, defaults=defaults, xla=xla, longest_source=longest_source)
    described = {
        "model": model.name,
        "parameters": model.count_params(),
        "context_length": decoder.context_length,
        "reads_sources": decoder.encoder is not None,
        "documents": documents,
        "xla": xla,
        "defaults": {name: getattr(defaults, name) for name in Knobs.names()},
        "notes": list(_NOTES),
        "settings": settings or {},
        "metrics": metrics or {},
    }
    return _write(folder, module, tokenizer, clean, described)


def export_labeller(
    model: keras.Model,
    tokenizer: Tokenizer,
    classes: Sequence[str],
    folder: str | os.PathLike,
    *,
    longest: int,
    clean: Sequence[str] = (),
    settings: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> pathlib.Path:
    """Writes the next version of an export of a model that says something of texts.

    Args:
        model: Of `keras_lm.heads`, or a sentence encoder.
        tokenizer: The one it was trained with.
        classes: The names of the labels, in the order of their numbers; none for a model that has no labels.
        folder, clean, settings, metrics: As in `export_model`.
        longest: Tokens to which a text is cut.

    Returns:
        The version's folder.

    Raises:
        UserError: a folder that holds something else, another number of names than the model knows.
    """
    folder = layout.check_target(folder)
    task = _TASKS[model.name]
    if task in ("classification", "tagging") and model.output_shape[-1] != len(classes):
        raise UserError(f"the model knows {model.output_shape[-1]} labels, but there are {len(classes)} names: give those of its run")
    module = ServedLabeller(model, tokenizer, classes, longest=longest, clean=clean)
    described = {
        "model": model.name,
        "task": task,
        "parameters": model.count_params(),
        "longest": longest,
        "width": model.output_shape[-1],
        "classes": list(classes),
        "xla": False,
        "notes": list(_LABEL_NOTES),
        "settings": settings or {},
        "metrics": metrics or {},
    }
    return _write(folder, module, tokenizer, clean, described)


_TASKS = {"classifier": "classification", "tagger": "tagging", "answerer": "answering", "sentence_encoder": "similarity"}
"""By the name of a model."""


def _write(folder: pathlib.Path, module: tf.Module, tokenizer: Tokenizer, clean: Sequence[str], described: dict[str, Any]) -> pathlib.Path:
    """Writes the module as the next version, with its metadata and warm-up requests; it appears whole."""
    version = folder / str(max(layout.versions(folder), default=0) + 1)
    needs_text = tokenizer.needs_tensorflow_text or bool(cleaning.NEEDS_TENSORFLOW_TEXT & set(clean))
    libraries = ("keras_lm", "tensorflow", "keras", *(["tensorflow-text"] if needs_text else []))
    metadata = {
        **described,
        "tokenizer": tokenizer.kind,
        "vocabulary_size": tokenizer.vocabulary_size,
        "clean": list(clean),
        "needs_tensorflow_text": needs_text,
        "signatures": {name: signature.describe() for name, signature in module.entries.items()},
        "versions": {name: importlib.metadata.version(name) for name in libraries},
    }
    with replacing_folder(version) as temporary:
        functions = {name: signature.function for name, signature in module.entries.items()}
        tf.saved_model.save(module, str(temporary), signatures=functions)
        tokenizer.save(temporary / layout.TOKENIZER)
        (temporary / layout.METADATA).write_text(json.dumps(metadata, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        if described["xla"]:
            (temporary / layout.README).write_text(_XLA_README, encoding="utf-8")
        name, context = folder.resolve().name, described.get("context_length", described.get("longest"))
        write_requests(temporary / layout.WARMUP, module.entries, tokenizer, name=name, context_length=context, xla=described["xla"])
        layout.flush(temporary)
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

    @property
    def reads_sources(self) -> bool:
        """Whether it is an encoder-decoder, whose prompts are sources."""
        return self.metadata.get("reads_sources", False)

    def generate(self, prompts: Sequence[str], settings: SamplingSettings | None = None) -> list[Generated]:
        """Goes on with each prompt, as `TextGenerator.generate` does; a text ends where the model's context does."""
        settings = settings or (SamplingSettings(temperature=0.0) if self.reads_sources else SamplingSettings())
        for name in ("logit_bias", "forbid", "allow", "top_logprobs"):
            if getattr(settings, name) not in ((), "", None):
                raise UserError(f"an export does not know {name}: generate from the run folder")
        if settings.num_samples > 1 or settings.when_full == "slide":
            raise UserError("an export gives one text for a prompt, within the context: generate from the run folder")
        knobs = vars(Knobs.of(settings, len(prompts)))
        text = {"sources" if self.reads_sources else "prompts": tf.constant(list(prompts), tf.string)}
        outputs = self._loaded.signatures["generate"](**text, **knobs)
        results = []
        for text, count, reason in zip(*(outputs[name].numpy() for name in ("text", "num_tokens", "finish_reason")), strict=True):
            text, reason = text.decode(), reason.decode()
            found = [place for place in map(text.find, settings.stop) if place >= 0]
            results.append(Generated(text[: min(found)] if found else text, int(count), "stop" if found else reason))
        return results

    def score(self, texts: Sequence[str], targets: Sequence[str] | None = None) -> list[dict[str, float]]:
        """What the `score` signature gives, a dictionary a text.

        Args:
            texts: To be scored; of an encoder-decoder the sources.
            targets: Of an encoder-decoder a target for each source, which is scored.

        Raises:
            UserError: targets where none are read, no targets where they are, or another number of them.
        """
        if self.reads_sources != (targets is not None):
            raise UserError("an encoder-decoder scores targets: score(sources, targets)" if self.reads_sources else "only texts are scored")
        if targets is not None and len(targets) != len(texts):
            raise UserError(f"there are {len(texts)} sources, but {len(targets)} targets")
        columns = {"texts": texts} if targets is None else {"sources": texts, "targets": targets}
        outputs = self._loaded.signatures["score"](**{name: tf.constant(list(column), tf.string) for name, column in columns.items()})
        columns = {name: tensor.numpy().tolist() for name, tensor in outputs.items()}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def export_run(run: Run, folder: str | os.PathLike | None = None, *, xla: bool = False) -> pathlib.Path:
    """Exports the best model of a run.

    Args:
        run: The run.
        folder: `saved_models/NAME`; default the run's own `export` setting.
        xla: As in `export_model`.

    Returns:
        The version's folder.

    Raises:
        UserError: a run that is not whole, or a folder that holds something else.
    """
    layout.check_run(run)
    best = min(run.read_metrics(), key=lambda line: line["val_loss"], default={})
    settings = run.settings
    of_run = {"clean": settings.clean, "settings": dataclasses.asdict(settings), "metrics": best}
    folder = folder or settings.export
    if settings.reads_labels:
        if xla:
            raise UserError(f"a run of {settings.task} is exported without XLA: leave --xla out")
        model, tokenizer, classes = run.load_model(), run.load_tokenizer(), run.load_labels()
        return export_labeller(model, tokenizer, classes, folder, longest=settings.sequence_length, **of_run)
    if not settings.writes:
        raise UserError(f"a run of {settings.task} says nothing by itself: start a run of another task from it (--start-from)")
    source = settings.sequence_length if settings.reads_pairs or settings.has_latent else None
    model, tokenizer = run.load_model(), run.load_tokenizer()
    return export_model(model, tokenizer, folder, documents=settings.documents, longest_source=source, xla=xla, **of_run)
