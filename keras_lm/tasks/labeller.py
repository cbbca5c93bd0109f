"""What a trained classifier or tagger says of texts: strings in, names of labels out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm import cleaning, tagged
from keras_lm.errors import UserError
from keras_lm.heads import best_labels
from keras_lm.recurrent import run_model
from keras_lm.tasks.text_batches import row_batches, text_rows
from keras_lm.tokenizer_base import Tokenizer
from keras_lm.tracing import by_shape
from keras_lm.training.run import Run
from keras_lm.training.step import use_xla


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a classifier says of a text.

    Attributes:
        label: The most probable class.
        probability: Its probability.
        probabilities: Of all classes, by name, in their order.
    """

    label: str
    probability: float
    probabilities: dict[str, float]


class Labeller:
    """A model with its tokenizer and the names of its labels.

    Args:
        model: A classifier or tagger of `keras_lm.heads`.
        tokenizer: The one it was trained with.
        classes: The names of the labels, in the order of their numbers.
        longest: Tokens to which a text is cut, its start and end counted.
        clean: Cleaners, as `keras_lm.cleaning.compose` takes them.
        batch_size: Texts read at a time; every batch has so many, so that few shapes are compiled.
        jit_compile: Whether XLA compiles it.

    Raises:
        UserError: another number of labels than the model knows.

    Example:

    >>> from keras_lm.heads import classifier, text_body
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> model = classifier(text_body("gru", 260, embedding_dim=4, hidden_dim=4), 2)
    >>> labeller = Labeller(model, ByteTokenizer(), ["bad", "good"], longest=32)
    >>> sorted(labeller.classify(["A fine day."])[0].probabilities)
    ['bad', 'good']
    """

    def __init__(
        self,
        model: keras.Model,
        tokenizer: Tokenizer,
        classes: Sequence[str],
        *,
        longest: int,
        clean: Sequence[str] = (),
        batch_size: int = 32,
        jit_compile: bool = True,
    ):
        if model.output_shape[-1] != len(classes):
            raise UserError(f"the model knows {model.output_shape[-1]} labels, but there are {len(classes)} names: give those of its run")
        self.model, self.tokenizer, self.classes = model, tokenizer, tuple(classes)
        self.longest, self.batch_size = longest, batch_size
        self._clean = cleaning.compose(clean)

        @tf.function(jit_compile=jit_compile, autograph=False)
        def read(ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = run_model(model, ids)
            return tf.nn.softmax(logits), best_labels(model, ids, logits)

        self._read = by_shape(read, compiled=jit_compile)

    @classmethod
    def of(cls, run: Run) -> Labeller:
        """That of a run whose task has labels; compiled by XLA where its training was.

        Raises:
            UserError: a run of another task; as `Run.load_model`.
        """
        if run.settings.task not in ("classification", "tagging"):
            raise UserError(f"{run.folder} is a run of {run.settings.task}, not of classification or tagging")
        settings = run.settings
        sizes = {"longest": settings.sequence_length, "batch_size": settings.batch_size, "clean": settings.clean}
        return cls(run.load_model(), run.load_tokenizer(), run.load_labels(), **sizes, jit_compile=use_xla(run.settings))

    def probabilities(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """The probability of each class, `(texts, classes)` float32.

        Args:
            texts: Any number. What is longer than `longest` is cut; of an empty text start and end are read.
            progress: Is told the number of texts done.
        """
        result = np.zeros([len(texts), len(self.classes)], np.float32)
        done = 0
        for numbers, ids in self._batches(texts):
            result[numbers] = self._read(tf.constant(ids))[0][: len(numbers)]
            done += len(numbers)
            if progress:
                progress(done)
        return result

    def classify(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> list[Prediction]:
        """A `Prediction` for each text; arguments as those of `probabilities`."""
        predictions = []
        for row in self.probabilities(texts, progress).tolist():
            best = int(np.argmax(row))
            predictions.append(Prediction(self.classes[best], row[best], dict(zip(self.classes, row, strict=True))))
        return predictions

    def tag(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> list[list[tuple[str, str]]]:
        """The words of each text with their tags, `(word, tag)`; joined they are the text.

        Args:
            texts: Any number. A long one is read in parts, cut where sentences end, and nothing of it is lost.
            progress: Is told the number of parts done.
        """
        parts = [(number, part) for number, text in enumerate(texts) for part in tagged.cut_text(text, self.longest - 2)]
        found: list[list[str]] = [[] for _ in parts]
        done = 0
        for numbers, ids in self._batches([part for _, part in parts]):
            labels = self._read(tf.constant(ids))[1].numpy()
            for number, row in zip(numbers.tolist(), labels, strict=False):
                found[number] = [self.classes[label] for label in row[1 : 1 + len(parts[number][1])]]
            done += len(numbers)
            if progress:
                progress(done)
        words: list[list[tuple[str, str]]] = [[] for _ in texts]
        for (number, part), labels in zip(parts, found, strict=True):
            words[number] += tagged.from_labels(part, labels)
        return words

    def _batches(self, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return row_batches(text_rows(texts, self.tokenizer, self._clean, self.longest), self.longest, self.batch_size)
