"""Questions about passages, whose answers stand in the passage word for word: SQuAD's form.

To answer is then to choose a span: a place where the answer begins, and one where it ends. Places count characters, not tokens, so that the
data know nothing of a tokenizer. Splits are by the passage: a model is asked about texts that it has never read. A passage longer than what
a model reads is cut into windows that overlap.

References:
    Rajpurkar et al. 2016 (arXiv:1606.05250: SQuAD) and 2018 (arXiv:1806.03822: questions without an answer); Artetxe et al. 2020
    (arXiv:1910.11856: XQuAD); articles A0 §6, A1 §6, A2 applications.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import statistics
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from keras_lm.corpora import load_tfds
from keras_lm.errors import UserError, unknown_name
from keras_lm.files import read_text
from keras_lm.pairs import source_key


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, the passage that it is about, and its right answers.

    Args:
        id: What tells it from the others of its source.
        question: Its text.
        passage: What it is about.
        answers: The text of each right answer, and at which character of the passage it begins; none where the passage does not say.
    """

    id: str
    question: str
    passage: str
    answers: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Questions:
    """Questions about passages.

    Args:
        name: What messages and tables call them.
        questions: Any number of `Question`.
        given: The split of each question, where the source defines splits; empty if it does not.
        repaired: How many answers did not stand where the source says, and were found elsewhere in the passage.
        unanswerable: How many questions of the source have no answer, whether they were left out or not.

    Example:

    >>> asked = Question("1", "谁写了《呐喊》？", "《呐喊》是鲁迅的小说集。", (("鲁迅", 5),))
    >>> questions = Questions(name="books", questions=(asked,))
    >>> len(questions), questions.median_length
    (1, 2)
    """

    name: str
    questions: tuple[Question, ...]
    given: tuple[str, ...] = ()
    repaired: int = 0
    unanswerable: int = 0

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def median_length(self) -> int:
        """Of the first answer of each question, in characters.

        Raises:
            UserError: no question has an answer.
        """
        lengths = [len(question.answers[0][0]) for question in self.questions if question.answers]
        if not lengths:
            raise UserError(f"{self.name}: no question has an answer")
        return statistics.median_low(lengths)

    def split(self, mode: str = "hash") -> dict[str, Questions]:
        """`train`, `validation` and `test`.

        Args:
            mode: `hash` (default): 90/5/5 by a hash of the letters of each passage, so that no passage stands in two of them. `given`: as
                the source has them.

        Raises:
            UserError: another mode, or `given` where the source defines no splits.
        """
        from keras_lm.pipeline import SPLITS, split_of  # here, since TensorFlow comes with it

        if mode == "hash":
            own = [split_of(source_key(question.passage).encode()) for question in self.questions]
        elif mode == "given":
            if not self.given:
                raise UserError(f"{self.name} defines no splits of its own: split it by hash")
            own = self.given
        else:
            raise UserError(f"the split of questions must be hash or given, got {mode!r}")
        placed = list(zip(self.questions, own, strict=True))
        return {
            name: Questions(name=f"{self.name}, {name}", questions=tuple(question for question, split in placed if split == name))
            for name in SPLITS
        }


def open_questions(source: str, *, split: str | None = None, unanswerable: bool = False, data_dir: str | None = None) -> Questions:
    """Reads the questions that `source` names.

    Args:
        source: A file in SQuAD's form, or `tfds:NAME[/CONFIG]`, such as `tfds:squad` and `tfds:xquad/zh`.
        split: For `tfds:`, the split to read. Default: those that are called `train`, `validation` or `test`; XQuAD has machine
            translations besides.
        unanswerable: Whether questions without an answer are kept. Default: they are counted and left out.
        data_dir: For `tfds:`: the folder that holds prepared datasets; default TFDS' own.

    Raises:
        UserError: no such file or dataset, or a question that cannot be used; see `read_squad`.
    """
    if source.startswith("tfds:"):
        return _tfds(source.removeprefix("tfds:"), split, unanswerable, data_dir)
    if split is not None:
        raise UserError(f"{source} is a file, which has no split {split!r}: splits are for tfds:NAME")
    return read_squad(source, unanswerable=unanswerable)


def read_squad(path: str | os.PathLike, *, unanswerable: bool = False) -> Questions:
    """Reads a JSON file in the form of SQuAD, version 1.1 or 2.0, which XQuAD, MLQA, CMRC 2018 and others share.

    An answer that does not stand where the file says is looked for in the passage; the nearest place counts, and `repaired` says how often.

    Args:
        path: Of the file, UTF-8.
        unanswerable: Whether questions that have no answer (`is_impossible`) are kept. Default: they are counted and left out.

    Raises:
        UserError: no such file, not JSON, another form, an empty question, an answer that is not in its passage, an id that stands twice,
            or no question. The message names the file and the question.

    Example:

    >>> import pathlib, tempfile
    >>> asked = {"id": "1", "question": "谁写了《呐喊》？", "answers": [{"text": "鲁迅", "answer_start": 5}]}
    >>> data = {"data": [{"paragraphs": [{"context": "《呐喊》是鲁迅的小说集。", "qas": [asked]}]}]}
    >>> path = pathlib.Path(tempfile.mkdtemp(), "books.json")
    >>> _ = path.write_text(json.dumps(data))
    >>> read_squad(path).questions
    (Question(id='1', question='谁写了《呐喊》？', passage='《呐喊》是鲁迅的小说集。', answers=(('鲁迅', 5),)),)
    """
    text = read_text(path)
    try:
        data = json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: this is not JSON: {error.msg}") from None
    return _collected(os.path.basename(path), str(path), _entries(data, str(path)), unanswerable)


class _Entry(NamedTuple):
    """A question as its source has it, not yet checked."""

    where: str
    id: str
    question: str
    passage: str
    answers: list[tuple[str, int]]
    impossible: bool
    split: str = ""


def _entries(data: Any, path: str) -> Iterator[_Entry]:
    for number, article in enumerate(_field(data, "data", list, path)):
        for place, paragraph in enumerate(_field(article, "paragraphs", list, f"{path}, data[{number}]")):
            where = f"{path}, data[{number}].paragraphs[{place}]"
            passage = _field(paragraph, "context", str, where)
            for turn, entry in enumerate(_field(paragraph, "qas", list, where)):
                own = f"{path}, question {_field(entry, 'id', str, f'{where}.qas[{turn}]')}"
                answers = [
                    (_field(answer, "text", str, own), _field(answer, "answer_start", int, own))
                    for answer in _field(entry, "answers", list, own)
                ]
                question, impossible = _field(entry, "question", str, own), bool(entry.get("is_impossible"))
                yield _Entry(own, entry["id"], question, passage, answers, impossible)


_KINDS = {list: "a list", str: "a text", int: "a whole number"}


def _field(holder: Any, key: str, kind: type, where: str) -> Any:
    value = holder.get(key) if isinstance(holder, dict) else None
    if not isinstance(value, kind):
        raise UserError(f"{where}: SQuAD's form has {_KINDS[kind]} {key!r} here, and this file has not")
    return value


def _collected(name: str, source: str, entries: Iterable[_Entry], unanswerable: bool) -> Questions:
    questions, given, seen = [], [], set()
    without = repaired = 0
    for entry in entries:
        if (entry.split, entry.id) in seen:
            raise UserError(f"{entry.where}: this id stands there twice")
        seen.add((entry.split, entry.id))
        answers, moved = _checked(entry)
        repaired += moved
        without += not answers
        if answers or unanswerable:
            questions.append(Question(entry.id, entry.question.strip(), entry.passage, answers))
            given.append(entry.split)
    if not questions:
        raise UserError(f"{source} holds no question{' that has an answer' if without else ''}")
    return Questions(
        name=name, questions=tuple(questions), given=tuple(given) if all(given) else (), repaired=repaired, unanswerable=without
    )


def _checked(entry: _Entry) -> tuple[tuple[tuple[str, int], ...], int]:
    """The answers at their true places, and how many had another."""
    for kind, text in (("question", entry.question), ("passage", entry.passage), *(("answer", text) for text, _ in entry.answers)):
        if not text.strip():
            raise UserError(f"{entry.where}: the {kind} is empty")
        if re.search("[\ud800-\udfff]", text):
            raise UserError(f"{entry.where}: the {kind} holds half a character (\\ud800 to \\udfff alone), which is not Unicode")
    if entry.impossible and entry.answers:
        raise UserError(f"{entry.where}: it is said to be impossible, and yet has an answer")
    if not entry.impossible and not entry.answers:
        raise UserError(f"{entry.where}: it has no answer; where the passage has none, «is_impossible» should be true")
    places = [_nearest_place(entry.passage, text, start) for text, start in entry.answers]
    for (text, start), place in zip(entry.answers, places, strict=True):
        if place is None:
            raise UserError(f"{entry.where}: the answer {text[:40]!r} is not in its passage, neither at {start} nor elsewhere")
    answers = tuple((text, place) for (text, _), place in zip(entry.answers, places, strict=True))
    return answers, sum(place != start for place, (_, start) in zip(places, entry.answers, strict=True))


def _nearest_place(passage: str, text: str, start: int) -> int | None:
    if start >= 0 and passage.startswith(text, start):
        return start
    places = (found.start() for found in re.finditer(f"(?={re.escape(text)})", passage))
    return min(places, key=lambda place: abs(place - start), default=None)


def _tfds(name: str, split: str | None, unanswerable: bool, data_dir: str | None) -> Questions:
    tfds, parts, info = load_tfds(name, data_dir)
    _check_features(name, info)
    chosen = [part for part in parts if part in ("train", "validation", "test")] if split is None else [split]
    if not set(chosen) <= set(parts):
        raise unknown_name(f"split of {name!r}", split, parts)
    source = f"tfds:{name}" + (f", {split}" if split else "")
    passages: dict[str, str] = {}  # each once: a hundred questions may share one

    def entries() -> Iterator[_Entry]:
        for part in chosen:
            for example in tfds.as_numpy(parts[part]):
                own, question, passage = (example[key].decode("utf-8") for key in ("id", "question", "context"))
                texts, starts = (example["answers"][key].tolist() for key in ("text", "answer_start"))
                answers = [(text.decode("utf-8"), start) for text, start in zip(texts, starts, strict=True)]
                impossible = bool(example.get("is_impossible", False))
                where = f"tfds:{name}, {part}, question {own}"
                yield _Entry(where, own, question, passages.setdefault(passage, passage), answers, impossible, part)

    return _collected(source, source, entries(), unanswerable)


def _check_features(name: str, info: Any) -> None:
    features = dict(info.features) if hasattr(info.features, "items") else {}
    answers = getattr(features.get("answers"), "feature", {})
    if not {"id", "question", "context"} <= set(features) or not {"text", "answer_start"} <= set(answers):
        raise UserError(f"the dataset {name!r} has no questions in SQuAD's form (its features: {', '.join(features) or 'none'})")


def windows(question_length: int, passage: str, longest: int, stride: int) -> list[tuple[int, int]]:
    """Where a passage is cut, so that each part fits beside the question.

    Args:
        question_length: Characters of the question.
        passage: What is cut.
        longest: Characters that fit, those of the question included.
        stride: Characters from the beginning of a window to that of the next; an answer no longer than the rest, `longest` less the
            question and less `stride`, stands whole in one of them. A stride beyond what fits becomes what fits.

    Returns:
        Start and end of each window; the last ends where the passage does, and is as wide as the others.

    Raises:
        UserError: a question that leaves no room, or a stride below 1.

    Example:

    >>> windows(4, "一二三四五六七八九十", longest=10, stride=3)
    [(0, 6), (3, 9), (4, 10)]
    """
    room = longest - question_length
    if room < 1:
        raise UserError(f"a question of {question_length} characters leaves no room for its passage: {longest} are read in all")
    if stride < 1:
        raise UserError(f"stride must be at least 1, got {stride}")
    last = max(len(passage) - room, 0)
    return [(start, min(start + room, len(passage))) for start in (*range(0, last, min(stride, room)), last)]


@dataclasses.dataclass(frozen=True)
class Window:
    """Part of a passage, as a model reads it with the question.

    Attributes:
        start, end: Where it stands in the passage.
        span: Where the answer stands in the window, end exclusive; `None` where it is not there as a whole.
    """

    start: int
    end: int
    span: tuple[int, int] | None


def examples(question: Question, *, longest: int, stride: int) -> list[Window]:
    """A window each of what a model learns from: with the first right answer that stands in it as a whole, or with none.

    Args:
        question: With its passage.
        longest, stride: As `windows` takes them.

    Raises:
        UserError: as `windows`.

    Example:

    >>> asked = Question("1", "谁写了？", "《呐喊》是鲁迅的小说集。", (("鲁迅", 5),))
    >>> examples(asked, longest=11, stride=5)
    [Window(start=0, end=7, span=(5, 7)), Window(start=5, end=12, span=(0, 2))]
    """
    found = []
    for start, end in windows(len(question.question), question.passage, longest, stride):
        inside = [(place - start, place - start + len(text)) for text, place in question.answers if start <= place <= end - len(text)]
        found.append(Window(start, end, inside[0] if inside else None))
    return found
