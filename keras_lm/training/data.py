"""What a run's model reads, by its task: windows of text, pairs of texts, texts with labels. The loop asks here, and knows of none."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_lm import pipeline
from keras_lm.augmentation import compose
from keras_lm.evaluation import DocumentEvaluator, Evaluator, MaskedEvaluator, PairEvaluator
from keras_lm.examples import Examples, answering_examples, classification_examples, similarity_examples, tagging_examples
from keras_lm.input_service import served_batches
from keras_lm.label_batches import LabelledIds, label_batches
from keras_lm.label_evaluation import LabelEvaluator
from keras_lm.masking import masked_batches
from keras_lm.pairs import open_pairs, split_pairs
from keras_lm.parallel import DocumentIds, PairIds, pair_batches
from keras_lm.privacy import desensitizing
from keras_lm.privacy.desensitizing import Report
from keras_lm.tokenizers import Tokenizer
from keras_lm.training.settings import TrainingSettings
from keras_lm.training.step import use_xla
from keras_lm.vae_evaluation import VAEEvaluator
from keras_lm.word_dropout import word_dropout


def pairs_of(settings: TrainingSettings, report: Report | None = None) -> Iterator[tuple[str, str, str]]:
    """One pass over the pairs of a run's corpus, `(split, source, target)`, masked as the settings ask and not yet cleaned.

    Args:
        settings: Of the run.
        report: Counts what is masked; a pair is a document.

    Raises:
        UserError: no such corpus.
    """
    options = {"errors": settings.errors, "data_dir": settings.data_dir, "simplified": settings.simplified, "swap": settings.swap}
    pairs = split_pairs(open_pairs(settings.corpus, task=settings.task, **options), settings.split)
    if not settings.desensitize:
        return pairs
    mask = desensitizing.load(settings.desensitize, settings.names_file)
    return ((split, *mask.document(pair, report)) for split, *pair in pairs)


def examples_of(settings: TrainingSettings, report: Report | None = None) -> Examples:
    """The texts with labels of a run, by split, masked as the settings ask.

    The last that were read are kept, as long as their files stay as they are.

    Args:
        settings: Of the run.
        report: Counts what is masked; an example is a document.

    Raises:
        UserError: as the functions of `keras_lm.examples`.
    """
    files = (settings.corpus, settings.test_corpus, settings.class_names)
    state = tuple((path.stat().st_mtime_ns, path.stat().st_size) for path in map(Path, filter(None, files)) if path.is_file())
    found = _read_examples(settings.task, *files, settings.data_dir, settings.sequence_length, state)
    found = found.only(settings.examples, settings.seed)
    if not settings.desensitize:
        return found
    mask = desensitizing.load(settings.desensitize, settings.names_file)
    return found.with_texts(lambda texts: mask.document(texts, report))


@functools.lru_cache(maxsize=1)
def _read_examples(
    task: str, corpus: str, held_out: str | None, class_names: str | None, data_dir: str | None, sequence_length: int, state: tuple
) -> Examples:
    if task == "classification":
        return classification_examples(corpus, held_out, class_names)
    if task == "tagging":
        return tagging_examples(corpus, held_out, longest=sequence_length - 2)  # beside start and end
    if task == "answering":
        return answering_examples(corpus, held_out, data_dir, longest=sequence_length - 3)  # and one end more between
    return similarity_examples(corpus, held_out, data_dir)


def batches_of(
    settings: TrainingSettings, tokens: pipeline.Tokens, tokenizer: Tokenizer, *, start_step: int = 0, rows: tuple[int, int] | None = None
) -> Iterator[tuple]:
    """The training batches of a run, `(inputs, targets)`, without end.

    Args:
        settings: Of the run.
        tokens: Its training split.
        tokenizer: The one that made them.
        start_step: Number of the first batch.
        rows: First and end of the rows of each batch that this process reads; default all.
    """
    batches = _batches(settings, tokens, tokenizer, start_step, rows)
    if settings.augment:
        batches = _augmented(batches, settings, tokenizer, start_step)
    return _with_words_dropped(batches, settings, tokenizer, start_step) if settings.word_dropout else batches


def _batches(
    settings: TrainingSettings, tokens: pipeline.Tokens, tokenizer: Tokenizer, start_step: int, rows: tuple[int, int] | None
) -> Iterator[tuple]:
    order = {"batch_size": settings.batch_size, "seed": settings.seed, "start_step": start_step}
    if settings.reads_labels:
        return label_batches(LabelledIds(tokens, settings.sequence_length), **order)
    if settings.task == "masked":
        windows = pipeline.training_batches(tokens.ids, sequence_length=settings.sequence_length, **order).as_numpy_iterator()
        return masked_batches(windows, tokenizer.vocabulary_size, seed=settings.seed, start_step=start_step, rows=rows)
    order |= {"rows": rows}
    if settings.reads_pairs:
        return pair_batches(PairIds(tokens.ids, settings.sequence_length), **order)
    if settings.reads_documents:
        batches = pair_batches(DocumentIds(tokens.ids, settings.sequence_length), **order)
        return batches if settings.has_latent else ((inputs, targets) for (_, inputs), targets in batches)
    order |= {"sequence_length": settings.sequence_length, "stateful": settings.stateful}
    if settings.data_service:
        service = {"service": settings.data_service, "num_workers": settings.data_service_workers}
        return iter(served_batches(tokens.ids, **service, **order))
    return iter(pipeline.training_batches(tokens.ids, **order))


def _augmented(batches: Iterator[tuple], settings: TrainingSettings, tokenizer: Tokenizer, start_step: int) -> Iterator[tuple]:
    """Changes a half of the texts of each batch, drawn anew at each step, so that each text is read as it stands as well."""
    change = compose(settings.augment, settings.augment_share)
    for step, (ids, targets) in zip(itertools.count(start_step), batches):
        width = ids.shape[1]
        rows = tokenizer.tokenize(change(tokenizer.detokenize(ids), (settings.seed, step)))[:, : width - 2]
        edge = lambda token, rows=rows: tf.fill([rows.nrows(), 1], tf.constant(token, rows.dtype))
        changed = tf.concat([edge(tokenizer.start_id), rows, edge(tokenizer.end_id)], axis=1).to_tensor(0, shape=[None, width])
        drawn = np.random.default_rng([settings.seed, step, _AUGMENTED]).random(ids.shape[0]) < 0.5
        yield tf.where(drawn[:, None], changed, ids), targets


def _with_words_dropped(batches: Iterator[tuple], settings: TrainingSettings, tokenizer: Tokenizer, start_step: int) -> Iterator[tuple]:
    """Hides tokens of what is read, of a VAE from its decoder; what is asked for stays."""
    kept = (tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id)
    for step, (ids, targets) in zip(itertools.count(start_step), batches):
        hidden = lambda ids, step=step: word_dropout(ids, (settings.seed, step), settings.word_dropout, tokenizer.unknown_id, kept=kept)
        yield (ids[0], hidden(ids[1])) if settings.has_latent else hidden(ids), targets


_AUGMENTED = 3  # beside the numbers of `masking`: another stream of random numbers


def make_evaluator(settings: TrainingSettings, model: keras.Model) -> Evaluator | LabelEvaluator | VAEEvaluator:
    """An evaluator of `model` with the windows, the pairs or the texts that the run evaluates with."""
    sizes = {"sequence_length": settings.sequence_length, "batch_size": settings.batch_size, "jit_compile": use_xla(settings)}
    if settings.reads_labels:
        return LabelEvaluator(model, **sizes)
    if settings.task == "masked":
        return MaskedEvaluator(model, **sizes)
    if settings.reads_pairs:
        return PairEvaluator(model, **sizes)
    if settings.has_latent:
        return VAEEvaluator(model, **sizes)
    if settings.reads_documents:
        return DocumentEvaluator(model, **sizes)
    return Evaluator(model, stateful=settings.stateful, **sizes)


def tokens_in(inputs: tf.Tensor | tuple[tf.Tensor, tf.Tensor], targets: tf.Tensor | tuple[tf.Tensor, tf.Tensor]) -> int:
    """How many tokens a batch has for the speed: those of its targets that are no padding; of texts with labels those that are read."""
    if not isinstance(targets, tuple):
        return int(tf.size(targets))
    read = targets[0] if isinstance(inputs, tuple) else inputs
    return int(tf.math.count_nonzero(read))
