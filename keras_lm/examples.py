"""What a task with labels learns from: texts, each with its label or with a label a character, by the split that it falls into.

The names of the labels are known before the first text is read, and numbered in their order.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator

from keras_lm import labelled, tagged
from keras_lm.errors import UserError
from keras_lm.shards import SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """A text with what is to be said of it.

    Args:
        text: The text.
        labels: The number of its label, or of the label of each of its characters.
    """

    text: str
    labels: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """Texts with labels by split.

    Args:
        name: What messages call them.
        classes: The names of the labels.
        splits: `train`, `validation` and `test`.
        unknown: Texts of `validation` and `test` that were left out because a label of theirs stands nowhere in `train`.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, tuple[Example, ...]]
    unknown: int = 0

    def only(self, number: int | None, seed: int) -> Examples:
        """The same with at most `number` texts to learn from: those first by a hash of seed and text, so that 100 are among 1,000."""
        if number is None or number >= len(self.splits["train"]):
            return self
        drawn = sorted(self.splits["train"], key=lambda example: hashlib.blake2b(f"{seed} {example.text}".encode()).digest())
        return dataclasses.replace(self, splits={**self.splits, "train": tuple(drawn[:number])})

    def rows(self) -> Iterator[tuple[str, str, tuple[int, ...]]]:
        """`(split, text, labels)` of each, as `keras_lm.label_batches.encode_labelled` takes them."""
        return ((split, example.text, example.labels) for split in SPLITS for example in self.splits[split])


def classification_examples(corpus: str, test_corpus: str | None = None, class_names: str | None = None) -> Examples:
    """Texts with a class each.

    Args:
        corpus: `reviews`, or a file of lines `text TAB label`.
        test_corpus: Another file of such lines, which is held out whole; of `corpus` 95 % are then learnt from. Default: 90/5/5 by a hash
            of each text.
        class_names: A file of the names of the classes, a line each, where labels are numbers. Default: the labels that `corpus` has.

    Raises:
        UserError: no such file or package, a line that is not of that form, a label that is none, one class only, no text to learn from.
    """
    names = _lines(class_names) if class_names else None
    data = labelled.reviews() if corpus == "reviews" else labelled.read_labelled(corpus, names)
    parts = data.split()
    if test_corpus:
        held_out = labelled.read_labelled(test_corpus, data.classes)
        learnt = [parts["train"], parts["test"]]
        parts["train"] = dataclasses.replace(
            data, texts=sum((part.texts for part in learnt), ()), labels=sum((part.labels for part in learnt), ())
        )
        parts["test"] = held_out
    splits = {
        name: tuple(Example(text=text, labels=(label,)) for text, label in zip(part.texts, part.labels, strict=True))
        for name, part in parts.items()
    }
    return _checked(Examples(name=data.name, classes=data.classes, splits=splits), "classes")


def tagging_examples(corpus: str, test_corpus: str | None = None, *, longest: int) -> Examples:
    """Texts whose words are marked, with a label for each character (`keras_lm.tagged`).

    Args:
        corpus: `peoples-daily`, or a file of lines of `word/tag`.
        test_corpus: Another such file, which is held out whole.
        longest: Texts are cut at ends of sentences, and if need be elsewhere, to this many characters.

    Raises:
        UserError: as `classification_examples`.
    """
    data = tagged.peoples_daily_tagged() if corpus == "peoples-daily" else tagged.read_tagged(corpus)
    parts = {name: part.texts for name, part in data.split().items()}
    if test_corpus:
        parts["train"] += parts["test"]
        parts["test"] = tagged.read_tagged(test_corpus).texts
    pieces = {name: [piece for text in texts for piece in tagged.cut(text.words, text.tags, longest)] for name, texts in parts.items()}
    classes = tuple(tagged.label_names(sorted({tag for piece in pieces["train"] for tag in piece.tags})))
    number_of = {name: number for number, name in enumerate(classes)}
    splits, unknown = {}, 0
    for name, own in pieces.items():
        spelled = [(piece.text, tagged.to_labels(piece.words, piece.tags)) for piece in own]
        known = [(text, labels) for text, labels in spelled if all(label in number_of for label in labels)]
        unknown += len(spelled) - len(known)
        splits[name] = tuple(Example(text=text, labels=tuple(number_of[label] for label in labels)) for text, labels in known)
    return _checked(Examples(name=data.name, classes=classes, splits=splits, unknown=unknown), "tags")


def _checked(examples: Examples, what: str) -> Examples:
    train = examples.splits["train"]
    learnt = {label for example in train for label in example.labels}
    if not train:
        raise UserError(f"{examples.name} has no text to learn from: give more texts")
    if len(learnt) < 2:
        (only,) = learnt
        raise UserError(
            f"all texts of {examples.name} to learn from have one label, {examples.classes[only]!r}: two {what} at least are needed"
        )
    if not examples.splits["validation"]:
        raise UserError(f"no text of {examples.name} falls into the validation split: give more texts")
    return examples


def _lines(path: str) -> tuple[str, ...]:
    try:
        with open(path, encoding="utf-8") as file:
            names = tuple(line.strip() for line in file if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as names of classes, a line each ({error.__class__.__name__})") from None
    if len(set(names)) != len(names):
        raise UserError(f"{path} names a class twice")
    return names
