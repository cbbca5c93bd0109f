"""What a run's model reads, by its task: windows of text, or pairs of texts. The loop asks here, and knows nothing of either."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import tensorflow as tf

from keras_lm import pipeline
from keras_lm.evaluation import Evaluator, PairEvaluator
from keras_lm.input_service import served_batches
from keras_lm.pairs import open_pairs, split_pairs
from keras_lm.parallel import PairIds, pair_batches
from keras_lm.training.settings import TrainingSettings
from keras_lm.training.step import use_xla


def pairs_of(settings: TrainingSettings) -> Iterator[tuple[str, str, str]]:
    """One pass over the pairs of a run's corpus, `(split, source, target)`, before they are cleaned.

    Raises:
        UserError: no such corpus.
    """
    options = {"errors": settings.errors, "data_dir": settings.data_dir, "simplified": settings.simplified, "swap": settings.swap}
    return split_pairs(open_pairs(settings.corpus, task=settings.task, **options), settings.split)


def batches_of(
    settings: TrainingSettings, tokens: pipeline.Tokens, *, start_step: int = 0, rows: tuple[int, int] | None = None
) -> Iterator[tuple]:
    """The training batches of a run, `(inputs, targets)`, without end.

    Args:
        settings: Of the run.
        tokens: Its training split.
        start_step: Number of the first batch.
        rows: First and end of the rows of each batch that this process reads; default all.
    """
    order = {"batch_size": settings.batch_size, "seed": settings.seed, "start_step": start_step, "rows": rows}
    if settings.reads_pairs:
        return pair_batches(PairIds(tokens.ids, settings.sequence_length), **order)
    order |= {"sequence_length": settings.sequence_length, "stateful": settings.stateful}
    if settings.data_service:
        service = {"service": settings.data_service, "num_workers": settings.data_service_workers}
        return iter(served_batches(tokens.ids, **service, **order))
    return iter(pipeline.training_batches(tokens.ids, **order))


def make_evaluator(settings: TrainingSettings, model: keras.Model) -> Evaluator:
    """An `Evaluator` of `model` with the windows, or the pairs, that the run evaluates with."""
    sizes = {"sequence_length": settings.sequence_length, "batch_size": settings.batch_size, "jit_compile": use_xla(settings)}
    if settings.reads_pairs:
        return PairEvaluator(model, **sizes)
    return Evaluator(model, stateful=settings.stateful, **sizes)


def tokens_in(targets: tf.Tensor | tuple[tf.Tensor, tf.Tensor]) -> int:
    """How many tokens a batch asks for: those of its targets that are no padding."""
    if isinstance(targets, tuple):
        return int(tf.math.count_nonzero(targets[0]))
    return int(tf.size(targets))
