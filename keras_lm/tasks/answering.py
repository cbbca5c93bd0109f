"""Answering: what a model finds in a passage when it is asked, and how good that is beside a floor that learnt nothing (article A2).

A passage that does not fit beside its question is read in windows that overlap. In each the model may say, at position 0, that the answer
is not there; how much more it speaks for a span than for that makes the spans of different windows comparable.

References:
    Devlin et al. 2019, «BERT» (arXiv:1810.04805), §4.2 and §4.3: the score of a span, and that of none; article A2, applications.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm.cloze import answering_questions
from keras_lm.errors import UserError
from keras_lm.heads import best_spans
from keras_lm.passages import Question, Questions, windows
from keras_lm.recurrent import run_model
from keras_lm.segmentation import HAN
from keras_lm.tasks.answer_floors import nearest_span
from keras_lm.tasks.answer_scores import AnswerScores, answer_scores
from keras_lm.tasks.text_batches import row_batches, text_rows
from keras_lm.tokenizer_base import Tokenizer
from keras_lm.tracing import by_shape
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings
from keras_lm.training.step import use_xla


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model answers from a passage.

    Attributes:
        text: The answer, a part of the passage.
        start: The character of the passage at which it begins.
        probability: That it begins there, times that it ends where it does; in its window, where it might also be nowhere.
    """

    text: str
    start: int
    probability: float


class Answerer:
    """A model with its tokenizer: questions and passages in, parts of the passages out.

    Args:
        model: From `keras_lm.heads.answerer`.
        tokenizer: The one it was trained with, whose tokens are characters.
        longest: Tokens that are read at a time: `start question end passage end`.
        batch_size: Windows read at a time; every batch has so many, so that few shapes are compiled.
        longest_answer: Most characters of an answer.
        jit_compile: Whether XLA compiles it.

    Raises:
        UserError: a model that finds no spans, a tokenizer of another kind, or `longest_answer` below 1.

    Example:

    >>> from keras_lm.heads import answerer, text_body
    >>> from keras_lm.tokenizers import CharacterTokenizer
    >>> model = answerer(text_body("gru", 20, embedding_dim=4, hidden_dim=4))
    >>> reader = Answerer(model, CharacterTokenizer.fit(["《呐喊》是谁写的？鲁迅"]), longest=32, jit_compile=False)
    >>> answer = reader.answer(["《呐喊》是谁写的？"], ["鲁迅写了《呐喊》。"])[0]
    >>> "鲁迅写了《呐喊》。".startswith(answer.text, answer.start)
    True
    """

    def __init__(
        self,
        model: keras.Model,
        tokenizer: Tokenizer,
        *,
        longest: int,
        batch_size: int = 32,
        longest_answer: int = 50,
        jit_compile: bool = True,
    ):
        shape = model.output_shape
        if len(shape) != 3 or shape[1] != 2:
            raise UserError(f"the model {model.name} gives {shape}, not where a span begins and ends: give an answerer")
        if tokenizer.kind != "char":
            raise UserError(f"answers are counted in characters: give a tokenizer of kind char, not {tokenizer.kind}")
        if longest_answer < 1:
            raise UserError(f"longest_answer must be at least 1, got {longest_answer}")
        self.model, self.tokenizer = model, tokenizer
        self.longest, self.batch_size, self.longest_answer = longest, batch_size, longest_answer
        read = lambda ids: best_spans(run_model(model, ids), longest_answer)
        self._read = by_shape(tf.function(read, jit_compile=jit_compile, autograph=False), compiled=jit_compile)

    @classmethod
    def of(cls, run: Run) -> Answerer:
        """That of a run of `--task answering`; compiled by XLA where its training was.

        Raises:
            UserError: a run of another task; as `Run.load_model`.
        """
        _check_task(run)
        sizes = {"longest": run.settings.sequence_length, "batch_size": run.settings.batch_size}
        return cls(run.load_model(), run.load_tokenizer(), **sizes, jit_compile=use_xla(run.settings))

    def answer(self, questions: Sequence[str], passages: Sequence[str], progress: Callable[[int], None] | None = None) -> list[Answer]:
        """The best span of each passage, be it cut into ever so many windows; of equals the first.

        Args:
            questions: Any number.
            passages: One for each; the same may come again.
            progress: Is told about how many questions are done; at the end, all.

        Raises:
            UserError: not as many questions as passages; an empty one; a question that leaves no room for its passage.
        """
        self._check(questions, passages)
        if not len(questions):
            return []
        texts = list(dict.fromkeys((*questions, *passages)))
        ids_of = dict(zip(texts, text_rows(texts, self.tokenizer, lambda strings: strings, sys.maxsize), strict=True))
        rows, cut, owners = [], [], []
        for number, (question, passage) in enumerate(zip(questions, passages, strict=True)):
            asked, read = ids_of[question], ids_of[passage]
            for start, end in windows(len(question), passage, self.longest - 3, stride=max(self._room(question) // 2, 1)):
                rows.append(np.concatenate([asked, read[1 + start : 1 + end], read[-1:]]))
                cut.append((len(asked), start))
                owners.append(number)
        told = progress and (lambda done: progress(done * len(questions) // len(rows)))
        first, last, scores, probabilities = self._spans(rows, told)
        borders = np.searchsorted(owners, np.arange(len(questions) + 1))
        answers = []
        for number, passage in enumerate(passages):
            best = borders[number] + int(scores[borders[number] : borders[number + 1]].argmax())
            before, start = cut[best]
            begin = start + int(first[best]) - before
            answers.append(Answer(passage[begin : begin + int(last[best] - first[best]) + 1], begin, float(probabilities[best])))
        return answers

    def _spans(self, rows: list[np.ndarray], progress: Callable[[int], None] | None) -> tuple[np.ndarray, ...]:
        """What `best_spans` finds in each row."""
        found = (np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64), np.zeros(len(rows)), np.zeros(len(rows)))
        done = 0
        for numbers, ids in row_batches(rows, self.longest, self.batch_size):
            for kept, values in zip(found, self._read(tf.constant(ids)), strict=True):
                kept[numbers] = values[: len(numbers)]
            done += len(numbers)
            if progress:
                progress(done)
        return found

    def _room(self, question: str) -> int:
        return self.longest - 3 - len(question)

    def _check(self, questions: Sequence[str], passages: Sequence[str]) -> None:
        for what, texts in (("questions", questions), ("passages", passages)):
            if isinstance(texts, str):
                raise UserError(f"{what} must be a list of texts, got one text: put it into brackets")
        if len(questions) != len(passages):
            raise UserError(f"{len(questions)} questions need as many passages, got {len(passages)}")
        for number, (question, passage) in enumerate(zip(questions, passages, strict=True), start=1):
            for what, text in ((f"question {number}", question), (f"the passage of question {number}", passage)):
                if not text.strip():
                    raise UserError(f"{what} is empty")
                if re.search("[\ud800-\udfff]", text):
                    raise UserError(f"{what} holds half a character (\\ud800 to \\udfff alone), which is not Unicode")
            if self._room(question) < 1:
                raise UserError(
                    f"question {number} has {len(question)} characters, which leaves no room for its passage: "
                    f"{self.longest - 3} are read in all"
                )


def questions_of(settings: TrainingSettings) -> dict[str, Questions]:
    """The questions of a run by split, with their whole passages.

    Raises:
        UserError: as `keras_lm.cloze.answering_questions`.
    """
    return answering_questions(settings.corpus, settings.test_corpus, settings.data_dir)


def evaluate(run: Run, part: str = "test", *, progress: Callable[[int], None] | None = None) -> tuple[AnswerScores, list[Answer]]:
    """The scores of a run on a split of its questions, and its answers; whole passages are read, in as many windows as they need.

    Args:
        run: Of `--task answering`.
        part: `train`, `validation` or `test`.
        progress: Is told the number of questions done.

    Returns:
        Scores by the rule for Chinese where most passages hold a Chinese character, else for English; and an answer to each question.

    Raises:
        UserError: the questions are not where they were; a run of another task.
    """
    questions = held_out(run, part)
    said = Answerer.of(run).answer([one.question for one in questions], [one.passage for one in questions], progress)
    return _scores(questions, [answer.text for answer in said]), said


def floor(run: Run, part: str = "test") -> AnswerScores:
    """The same of a span of the sentence that is most like the question, as long as the median of the answers to learn from."""
    _check_task(run)
    splits = questions_of(run.settings)
    questions, length = _some(splits[part], run, part), splits["train"].median_length
    return _scores(questions, [nearest_span(one.question, one.passage, length) for one in questions])


def held_out(run: Run, part: str) -> tuple[Question, ...]:
    """The questions of a split, read from the run's own corpus once more.

    Raises:
        UserError: it is not there any more, or no question falls into that part; a run of another task.
    """
    _check_task(run)
    return _some(questions_of(run.settings)[part], run, part)


def rows(run: Run, questions: Sequence[Question], said: Sequence[Answer]) -> list[tuple[str, ...]]:
    """For each question: the question, its right answers, the answer that was given, and its probability."""
    right = (" | ".join(dict.fromkeys(text for text, _ in one.answers)) for one in questions)
    return [(one.question, own, two.text, f"{two.probability:.4f}") for one, own, two in zip(questions, right, said, strict=True)]


def _scores(questions: Sequence[Question], said: Sequence[str]) -> AnswerScores:
    chinese = sum(bool(re.search(f"[{HAN}]", question.passage)) for question in questions)
    language = "zh" if 2 * chinese > len(questions) else "en"
    return answer_scores(said, [[text for text, _ in question.answers] for question in questions], language=language)


def _some(questions: Questions, run: Run, part: str) -> tuple[Question, ...]:
    if not len(questions):
        raise UserError(f"no question of {run.settings.corpus} falls into the {part} part")
    return questions.questions


def _check_task(run: Run) -> None:
    if run.settings.task != "answering":
        raise UserError(f"{run.folder} is a run of {run.settings.task}, not of answering")
