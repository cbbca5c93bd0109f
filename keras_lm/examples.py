"""What a task with labels learns from: texts, or two of them, with what is to be said of them, by the split that they fall into.

The names of the labels are known before the first text is read, and numbered in their order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator

from keras_lm import labelled, passages, similar, tagged
from keras_lm.cloze import answering_questions
from keras_lm.corpora import read_files
from keras_lm.errors import UserError
from keras_lm.pairs import names, open_pairs, source_key, split_pairs
from keras_lm.shards import SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """A text with what is to be said of it.

    Args:
        text: The text.
        labels: The number of its label, or of the label of each of its characters; of a question the tokens at which the answer begins and
            ends, behind a start token, the question and an end token, or twice 0 where this part of the passage does not hold it; of two
            texts how alike they are, from 0.0 to 1.0, or a number that all pairs with this first text share.
        second: The passage that the text asks about, or the text that belongs to it.
    """

    text: str
    labels: tuple[float, ...]
    second: str | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The one text, or both."""
        return (self.text,) if self.second is None else (self.text, self.second)


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

    @property
    def unlearnt(self) -> tuple[str, ...]:
        """The classes that no text to learn from has: the model hardly gives them."""
        learnt = {label for example in self.splits["train"] for label in example.labels}
        return tuple(name for number, name in enumerate(self.classes) if number not in learnt)

    def only(self, number: int | None, seed: int) -> Examples:
        """The same with at most `number` texts to learn from: those first by a hash of seed and text, so that 100 are among 1,000."""
        if number is None or number >= len(self.splits["train"]):
            return self
        drawn = sorted(self.splits["train"], key=lambda example: hashlib.blake2b(f"{seed} {example.text}".encode()).digest())
        return dataclasses.replace(self, splits={**self.splits, "train": tuple(drawn[:number])})

    def with_texts(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> Examples:
        """The same with other texts: `change` takes those of an example and gives as many."""

        def changed(example: Example) -> Example:
            text, *second = change(example.texts)
            return dataclasses.replace(example, text=text, second=second[0] if second else None)

        return dataclasses.replace(self, splits={name: tuple(map(changed, own)) for name, own in self.splits.items()})

    def rows(self) -> Iterator[tuple[str, tuple[str, ...], tuple[float, ...]]]:
        """`(split, texts, labels)` of each, as `keras_lm.label_batches.encode_labelled` takes them."""
        return ((split, example.texts, example.labels) for split in SPLITS for example in self.splits[split])


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
    classes = _lines(class_names) if class_names else None
    data = labelled.reviews() if corpus == "reviews" else labelled.read_labelled(corpus, classes)
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


def answering_examples(corpus: str, test_corpus: str | None = None, data_dir: str | None = None, *, longest: int) -> Examples:
    """Questions with the passages that they are about; one for each window that a passage is cut into.

    Args:
        corpus: `peoples-daily` (questions made of its sentences), a file in SQuAD's form, or `tfds:NAME[/CONFIG]`.
        test_corpus: Another such file, which is held out whole.
        data_dir: Folder of prepared TensorFlow datasets.
        longest: Characters of a question and a window together.

    Raises:
        UserError: as `keras_lm.passages.open_questions`; a question that leaves no room; no question to learn from or to validate on.
    """
    parts = answering_questions(corpus, test_corpus, data_dir)
    splits = {
        name: tuple(example for question in part.questions for example in _windows(question, longest)) for name, part in parts.items()
    }
    return _filled(Examples(name=corpus, classes=(), splits=splits), "question")


def _windows(question: passages.Question, longest: int) -> Iterator[Example]:
    asked = question.question
    stride = max((longest - len(asked)) // 2, 1)
    for window in passages.examples(question, longest=longest, stride=stride):
        before = len(asked) + 2
        span = (0, 0) if window.span is None else (before + window.span[0], before + window.span[1] - 1)
        yield Example(text=asked, labels=span, second=question.passage[window.start : window.end])


def similarity_examples(corpus: str, test_corpus: str | None = None, data_dir: str | None = None) -> Examples:
    """Pairs of texts that belong together, or that people gave scores.

    Args:
        corpus: What `keras_lm.pairs.open_pairs` opens, of which a headline is the first text; or a file of pairs with scores, as
            `keras_lm.similar.read_scored` reads it. Scores are brought to 0 to 1, the least and the greatest of the file.
        test_corpus: Another file of the same form, which is held out whole.
        data_dir: Folder of prepared TensorFlow datasets.

    Raises:
        UserError: as those two; scores that are all the same; no pair to learn from or to validate on.
    """
    if not _has_scores(corpus):
        parts: dict[str, list[tuple[str, str]]] = {name: [] for name in SPLITS}
        for split, first, second in split_pairs(open_pairs(corpus, task="summarization", data_dir=data_dir, swap=corpus == "headlines")):
            parts[split].append((first, second))
        if test_corpus:
            parts["train"] += parts["test"]
            parts["test"] = list(open_pairs(test_corpus).pairs())
        keys = {key: number for number, key in enumerate(dict.fromkeys(source_key(first) for own in parts.values() for first, _ in own))}
        splits = {
            name: tuple(Example(text=first, labels=(keys[source_key(first)],), second=second) for first, second in own)
            for name, own in parts.items()
        }
        return _filled(Examples(name=corpus, classes=(), splits=splits), "pair")
    scored = similar.read_scored(corpus)
    least, most = min(scored.scores), max(scored.scores)
    if least == most:
        raise UserError(f"all pairs of {corpus} have the score {least:g}: where nothing varies there is nothing to learn")
    rated = scored.split()
    rows = {name: list(zip(part.firsts, part.seconds, part.scores, strict=True)) for name, part in rated.items()}
    if test_corpus:
        other = similar.read_scored(test_corpus)
        rows["train"] += rows["test"]
        rows["test"] = list(zip(other.firsts, other.seconds, other.scores, strict=True))
    splits = {
        name: tuple(
            Example(text=first, labels=(min(max((score - least) / (most - least), 0.0), 1.0),), second=second)
            for first, second, score in own
        )
        for name, own in rows.items()
    }
    return _filled(Examples(name=corpus, classes=(), splits=splits), "pair")


def _has_scores(corpus: str) -> bool:
    """Whether the first line of a file has three columns or more."""
    if corpus in names() or corpus.startswith("tfds:") or not os.path.isfile(corpus):
        return False
    lines = (line for line in read_files([(corpus, 0, None)], "line", "strict") if line.strip())
    return next(lines, "").count("\t") >= 2


def _checked(examples: Examples, what: str) -> Examples:
    learnt = {label for example in examples.splits["train"] for label in example.labels}
    if len(learnt) == 1:
        (only,) = learnt
        raise UserError(
            f"all texts of {examples.name} to learn from have one label, {examples.classes[only]!r}: two {what} at least are needed"
        )
    return _filled(examples, "text")


def _filled(examples: Examples, what: str) -> Examples:
    if not examples.splits["train"]:
        raise UserError(f"{examples.name} has no {what} to learn from: give more of them")
    if not examples.splits["validation"]:
        raise UserError(f"no {what} of {examples.name} falls into the validation split: give more of them")
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
