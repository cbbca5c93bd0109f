"""Classification: how good a run's classes are, and those of a bag of words that learnt from the same texts (articles A0-A2)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from keras_lm.classical.bag_of_words import BagOfWordsClassifier
from keras_lm.errors import UserError
from keras_lm.examples import Example
from keras_lm.tasks.labeller import Labeller, Prediction
from keras_lm.training.data import examples_of
from keras_lm.training.run import Run


@dataclasses.dataclass(frozen=True)
class ClassificationScores:
    """How often classes are right.

    Attributes:
        accuracy: Share of the texts whose class is right.
        macro_f1: F1 of each class that occurs, averaged.
        calibration_error: How far probabilities are from shares of right answers: over ten bins of the probability of the class that was
            chosen, the mean distance, weighted by their texts (expected calibration error).
        texts: How many there were.

    References:
        Guo et al. 2017, «On Calibration of Modern Neural Networks» (arXiv:1706.04599).
    """

    accuracy: float
    macro_f1: float
    calibration_error: float
    texts: int


def classification_scores(probabilities: np.ndarray, labels: Sequence[int]) -> ClassificationScores:
    """Compares what a classifier says with what is right.

    Args:
        probabilities: `(texts, classes)`.
        labels: The right class of each text, by number.

    Example:

    >>> classification_scores(np.array([[0.9, 0.1], [0.6, 0.4]]), [0, 1])
    ClassificationScores(accuracy=0.5, macro_f1=0.3333333333333333, calibration_error=0.35, texts=2)
    """
    labels = np.asarray(labels)
    chosen, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = chosen == labels
    f1 = []
    for number in np.unique(np.concatenate([labels, chosen])):
        both = np.count_nonzero((labels == number) & (chosen == number))
        f1.append(2 * both / (np.count_nonzero(labels == number) + np.count_nonzero(chosen == number)))
    bins = np.minimum((confidence * 10).astype(int), 9)
    error = sum(abs(right[bins == number].sum() - confidence[bins == number].sum()) for number in range(10)) / len(labels)
    return ClassificationScores(float(right.mean()), float(np.mean(f1)), float(error), len(labels))


def confusion(probabilities: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """`(classes, classes)` int64: how many texts of the class of the row were said to be of that of the column."""
    classes = probabilities.shape[1]
    return np.bincount(np.asarray(labels) * classes + probabilities.argmax(axis=1), minlength=classes**2).reshape(classes, classes)


def evaluate(
    run: Run, part: str = "test", *, progress: Callable[[int], None] | None = None
) -> tuple[ClassificationScores, list[Prediction]]:
    """The scores of a run on a split of its texts, and what it says of each.

    Args:
        run: Of `--task classification`.
        part: `train`, `validation` or `test`.
        progress: Is told the number of texts done.

    Raises:
        UserError: the texts are not where they were; a run of another task.
    """
    examples = held_out(run, part)
    predictions = Labeller.of(run).classify([example.text for example in examples], progress)
    probabilities = np.array([list(prediction.probabilities.values()) for prediction in predictions])
    return classification_scores(probabilities, [example.labels[0] for example in examples]), predictions


def floor(run: Run, part: str = "test") -> ClassificationScores:
    """The same of TF-IDF of characters and pairs and logistic regression, taught on the run's own training texts."""
    train, judged = examples_of(run.settings).splits["train"], held_out(run, part)
    bag = BagOfWordsClassifier.fit([one.text for one in train], [one.labels[0] for one in train])
    probabilities = np.zeros([len(judged), len(run.load_labels())])
    probabilities[:, list(bag.classes)] = bag.predict_probabilities([one.text for one in judged])  # few texts may not show all classes
    return classification_scores(probabilities, [one.labels[0] for one in judged])


def held_out(run: Run, part: str) -> tuple[Example, ...]:
    """The texts of a split with their labels, read from the run's own corpus once more.

    Raises:
        UserError: it is not there any more, or no text falls into that part.
    """
    found = examples_of(run.settings).splits[part]
    if not found:
        raise UserError(f"no text of {run.settings.corpus} falls into the {part} part")
    return found


def rows(run: Run, examples: Sequence[Example], said: Sequence[Prediction]) -> list[tuple[str, ...]]:
    """For each text: the text, its class, the class that was said, and its probability."""
    names = run.load_labels()
    return [(one.text, names[one.labels[0]], two.label, f"{two.probability:.4f}") for one, two in zip(examples, said, strict=True)]
