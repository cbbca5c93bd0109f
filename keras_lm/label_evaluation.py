"""How good a model is that says something of a text: loss and accuracy on texts it has not seen, and what it says of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.heads import summed_loss, summed_right
from keras_lm.label_batches import LabelledIds, LabelledTokens, label_evaluation_batches
from keras_lm.recurrent import run_model
from keras_lm.tracing import by_shape


@dataclasses.dataclass(frozen=True)
class LabelEvaluation:
    """What a classifier or tagger makes of texts with labels.

    Attributes:
        loss: Mean of -ln P(label), in nats a label; of pairs with scores the mean square of what cosines are off.
        accuracy: Share of the labels that are the most probable ones; of pairs as `sentence_vectors.summed_pair_right` has it.
        labels: How many labels there were: of texts, tokens, ends of spans, or pairs.
    """

    loss: float
    accuracy: float
    labels: int


class LabelEvaluator:
    """Evaluates one model again and again, compiled by XLA once for each width of a batch.

    Args:
        model: One of `keras_lm.heads`, or a sentence encoder.
        sequence_length: Tokens to which a text is cut.
        batch_size: Texts a batch.
        jit_compile: Whether XLA compiles it.

    Example:

    >>> import numpy as np
    >>> from keras_lm.heads import classifier, text_body
    >>> model = classifier(text_body("gru", 20, embedding_dim=4, hidden_dim=4), 2)
    >>> counts = {"characters": 3, "bytes": 3, "documents": 2, "unknown": 0}
    >>> texts = LabelledTokens(ids=np.array([2, 10, 11, 3, 2, 12, 3]), labels=np.array([1, 0]), ends=np.array([1, 2]), **counts)
    >>> LabelEvaluator(model, sequence_length=8, batch_size=2)(texts).labels
    2
    """

    result_type = LabelEvaluation

    def __init__(self, model: keras.Model, *, sequence_length: int, batch_size: int, jit_compile: bool = True):
        self.model, self.sequence_length, self.batch_size = model, sequence_length, batch_size

        @tf.function(jit_compile=jit_compile, autograph=False)
        def judged(ids: tf.Tensor, labels: tf.Tensor, weights: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = run_model(model, ids)
            return summed_loss(model, labels, logits, weights), summed_right(model, ids, labels, logits, weights)

        self._judged = by_shape(judged, compiled=jit_compile)

    def __call__(
        self,
        tokens: LabelledTokens,
        progress: Callable[[int], None] | None = None,
        *,
        share: tuple[int, int] = (0, 1),
        combine: Callable[[list[float]], list[float]] = list,
    ) -> LabelEvaluation:
        """One pass over `tokens`.

        Args:
            tokens: What to evaluate on.
            progress: Is told the number of labels done.
            share, combine: As `keras_lm.evaluation.Evaluator` takes them; a model with labels is evaluated by one process.

        Raises:
            UserError: no labels.
        """
        if not len(tokens.labels):
            raise UserError("there is no text with a label to evaluate on: give more texts, or --test-corpus")
        total = right = done = 0.0
        for ids, targets in label_evaluation_batches(LabelledIds(tokens, self.sequence_length), batch_size=self.batch_size):
            loss, correct = self._judged(tf.constant(ids), *map(tf.constant, targets))
            total, right, done = total + float(loss), right + float(correct), done + float(targets[1].sum())
            if progress:
                progress(int(done))
        return LabelEvaluation(loss=total / done, accuracy=right / done, labels=int(done))
