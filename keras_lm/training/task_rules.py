"""What a task of `TrainingSettings` asks of the other fields; free of TensorFlow, as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from keras_lm.errors import UserError

if TYPE_CHECKING:
    from keras_lm.training.settings import TrainingSettings

PAIRS = {"translation": "translations", "summarization": "headlines"}
"""The corpus of a task that reads pairs, where none is given."""

LABELLED = {"classification": "reviews", "tagging": "peoples-daily", "answering": "peoples-daily", "similarity": "headlines"}
"""The same of a task that reads texts with labels."""

_LABELLED = "classification, tagging, answering or similarity"

_FOR_LABELS = ("test_corpus", "examples")
"""What only tasks with labels know, and what only one of them does."""
_FOR_TASK = {
    "pooling": ("classification", "similarity"),
    "ngrams": ("classification",),
    "crf": ("tagging",),
    "class_names": ("classification",),
    "by_document": ("lm",),
    "latent_dim": ("vae",),
    "kl_steps": ("vae",),
    "kl_cycles": ("vae",),
    "free_bits": ("vae",),
}


def check_task(settings: TrainingSettings) -> None:
    """Refuses fields that the task of the settings does not know, or wants otherwise; gives it its own corpus where none was named.

    Raises:
        UserError: the message names the field.
    """
    for name in ("swap", "simplified", "pointer"):
        if getattr(settings, name) and not settings.reads_pairs:
            raise UserError(f"{name} is for pairs: give --task translation or summarization")
    for name in _FOR_LABELS:
        if getattr(settings, name) is not None and not settings.reads_labels:
            raise UserError(f"{name} is for texts with labels: give --task {_LABELLED}")
    for name, tasks in _FOR_TASK.items():
        if getattr(settings, name) != getattr(type(settings), name) and settings.task not in tasks:
            raise UserError(f"{name} is for --task {' or '.join(tasks)}, not for {settings.task}")
    if settings.deduplicate and (settings.reads_pairs or settings.reads_labels):
        raise UserError(f"deduplicate is for --task lm, masked or vae, whose corpus is text alone, not for {settings.task}")
    if settings.deduplicate and settings.tokens:
        raise UserError("tokens is a corpus that is tokenized already: leave deduplicate out")
    if not settings.bidirectional and not settings.reads_labels:
        raise UserError(f"bidirectional is for texts with labels: give --task {_LABELLED}")
    if settings.augment and settings.task != "classification":
        raise UserError(f"augment is for --task classification, not for {settings.task}")
    if settings.counterfactual:
        if settings.reads_pairs or settings.reads_labels:
            raise UserError(f"counterfactual is for lm, masked and vae, not for {settings.task}")
        settings.require("split", settings.split != "contiguous", "hash or given with counterfactual, which copies documents")
        if settings.tokens:
            raise UserError("counterfactual is for a corpus, not for tokens, which keras_lm-prepare has written: give --corpus")
    if settings.word_dropout and (settings.reads_pairs or settings.task == "masked" or settings.strategy != "none"):
        what = f"strategy {settings.strategy}" if settings.strategy != "none" else settings.task
        raise UserError(f"word_dropout is for lm, vae and tasks with labels on one device, not for {what}")
    if settings.tune != "full" and not (settings.reads_labels and (settings.start_from or settings.pretrained)):
        raise UserError(f"tune {settings.tune} is for a task with labels that begins with another run: give --start-from or --pretrained")
    if settings.tune == "lora" and settings.model != "transformer":
        raise UserError(f"tune lora is for the transformer, not for {settings.model}")
    if settings.task == "masked":
        _check_masked(settings)
    elif settings.reads_pairs or settings.reads_labels:
        _check_examples(settings)
    elif settings.reads_documents:
        _check_documents(settings)


def _check_documents(settings: TrainingSettings) -> None:
    """What a sentence VAE asks, and a language model that reads a document at a time."""
    what = "vae" if settings.has_latent else "by_document"
    settings.require("split", settings.split != "contiguous", f"hash or given for {what}, which reads documents")
    for name in ("stateful", "data_service", "pretrained"):
        if getattr(settings, name):
            raise UserError(f"{name} is for windows cut out of a text, not for {what}")
    if not settings.has_latent:
        return
    if settings.model == "simple_rnn":
        raise UserError("model must be lstm, gru or transformer for vae, got 'simple_rnn'")
    if settings.word_vectors:
        raise UserError("word_vectors is for --task lm, not for vae")
    if settings.strategy != "none":
        raise UserError("strategy is for --task lm and pairs, not for vae")
    if settings.model == "transformer" and (settings.num_kv_heads or settings.num_heads) != settings.num_heads:
        raise UserError("num_kv_heads is for --task lm, not for vae")


def _check_masked(settings: TrainingSettings) -> None:
    if settings.model != "transformer":
        raise UserError(f"model must be transformer for masked, got {settings.model!r}")
    for name in ("stateful", "data_service", "num_kv_heads", "export"):
        if getattr(settings, name):
            raise UserError(f"{name} is for --task lm, not for masked")


def _check_examples(settings: TrainingSettings) -> None:
    """What tasks have in common that read pairs, or texts with labels."""
    if settings.corpus == "peoples-daily":  # the default, which holds neither
        object.__setattr__(settings, "corpus", {**PAIRS, **LABELLED}[settings.task])
    if settings.reads_pairs and settings.model not in ("gru", "transformer"):
        raise UserError(f"model must be gru or transformer for {settings.task}, got {settings.model!r}")
    if settings.split == "contiguous" and settings.reads_pairs:
        raise UserError("split must be hash or given for pairs, got 'contiguous'")
    for name in ("tokens", "word_vectors", "stateful", "data_service"):
        if getattr(settings, name):
            raise UserError(f"{name} is for --task lm, not for {settings.task}")
    if settings.model == "transformer" and (settings.num_kv_heads or settings.num_heads) != settings.num_heads:
        raise UserError(f"num_kv_heads is for --task lm, not for {settings.task}")
    if settings.reads_labels:
        _check_labels(settings)


def _check_labels(settings: TrainingSettings) -> None:
    settings.require("split", settings.split == "hash", f"hash for {settings.task} (--test-corpus holds out a file)")
    for name in ("document", "errors", "sample_prompt"):
        if getattr(settings, name) != getattr(type(settings), name):
            raise UserError(f"{name} is for models that write text, not for {settings.task}")
    for name in ("strategy", "accumulate"):
        if getattr(settings, name) != getattr(type(settings), name):
            raise UserError(f"{name} is for --task lm and pairs, not for {settings.task}")
    if settings.task in ("tagging", "answering"):
        settings.require("tokenizer", settings.tokenizer == "char", f"char for {settings.task}, whose labels are of characters")
        for name in ("clean", "desensitize"):
            settings.require(name, not getattr(settings, name), f"empty for {settings.task}, whose labels are of the text as it stands")
    if settings.task in ("answering", "similarity"):
        settings.require("label_smoothing", not settings.label_smoothing, f"0 for {settings.task}, which has no classes")
    if settings.task == "answering":
        settings.require("bidirectional", settings.bidirectional, "true for answering: what ends an answer stands behind it")
        settings.require("sequence_length", settings.sequence_length >= 8, "at least 8 for answering")
    if settings.task == "tagging":
        settings.require("label_smoothing", not (settings.crf and settings.label_smoothing), "0 with a crf, which is asked for whole texts")
