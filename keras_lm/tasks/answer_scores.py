"""How good answers are: exact match and F1, by the rules of the official scripts.

Which marks are passed over, what a word is and what two answers share are the rules' own, and figures compare only where the rule is the
same:

- `squad` (SQuAD v1.1): words between spaces, in lower case, without ASCII's punctuation and without a, an, the; F1 of the words that both
  have, in any order. Chinese has no spaces: all between two spaces counts as one word.
- `mlqa` (MLQA): the same without Unicode's punctuation. In Chinese each character is a word, and there are no articles.
- `cmrc` (CMRC 2018): each Chinese character as a word too, but what counts is the longest run that both have.

References:
    Rajpurkar et al. 2016 (arXiv:1606.05250), and 2018 (arXiv:1806.03822) for questions without an answer; Lewis et al. 2020
    (arXiv:1910.07475); Cui et al. 2019 (arXiv:1810.07366); their scripts evaluate-v1.1.py, mlqa_evaluation_v1.py, cmrc2018_evaluate.py.
"""

from __future__ import annotations

import collections
import dataclasses
import difflib
import re
import string
import unicodedata
from collections.abc import Callable, Sequence

from keras_lm.errors import UserError, unknown_name

LANGUAGES = ("en", "zh")


@dataclasses.dataclass(frozen=True)
class AnswerScores:
    """How near answers are to the right ones: means over questions, 0 to 1 (a hundredth of what the scripts print).

    Attributes:
        exact_match: The share that is one of the right answers, but for what the rule passes over.
        f1: The harmonic mean of the share of the answer that is right, and of the right answer that it has.
        questions: How many there were.
        rule: How it was counted.
    """

    exact_match: float
    f1: float
    questions: int
    rule: str


def answer_scores(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], *, language: str = "zh", rule: str | None = None
) -> AnswerScores:
    """Compares answers with the right ones.

    Args:
        predictions: An answer to each question; an empty one says that there is none.
        answers: The right answers to each question, of which the nearest counts; none where the question has no answer.
        language: `"zh"` (default) or `"en"`.
        rule: `"squad"`, `"mlqa"` or `"cmrc"`. Default: `mlqa` for Chinese, `squad` for English.

    Raises:
        UserError: an unknown language or rule, no questions, another number of answers than of predictions, or answers that are no list.

    Example:

    >>> answer_scores(["the Broncos", "in 2016"], [["Broncos"], ["2016", "February 2016"]], language="en")
    AnswerScores(exact_match=0.5, f1=0.8333333333333333, questions=2, rule='squad')
    """
    rule = rule or default_rule(language)
    _check_questions(predictions, answers)
    scores = [answer_score(prediction, own, language=language, rule=rule) for prediction, own in zip(predictions, answers, strict=True)]
    exact_match, f1 = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    return AnswerScores(exact_match, f1, len(scores), rule)


def answer_score(prediction: str, answers: Sequence[str], *, language: str = "zh", rule: str | None = None) -> tuple[float, float]:
    """Exact match (0 or 1) and F1 of one answer; each the best over the right answers.

    Args:
        prediction, answers, language, rule: As `answer_scores` takes them, of one question.

    Raises:
        UserError: an unknown language or rule.

    Example:

    >>> answer_score("在北京大学", ["北京大学", "北大"])
    (0.0, 0.8888888888888888)
    """
    rule = rule or default_rule(language)
    if rule not in _RULES:
        raise unknown_name("rule for answers", rule, _RULES)
    compared, units, shared = _RULES[rule](language)
    if not answers:  # as SQuAD 2.0 has it: nothing is the right answer
        nothing = float(not units(prediction))
        return nothing, nothing
    own = units(prediction)
    exact = max(float(compared(prediction) == compared(answer)) for answer in answers)
    return exact, max(_f1(shared(own, right), len(own), len(right)) for right in map(units, answers))


def default_rule(language: str) -> str:
    """The rule that a language is counted by where none is named.

    Raises:
        UserError: an unknown language.
    """
    if language not in LANGUAGES:
        raise unknown_name("language of answers", language, LANGUAGES)
    return "squad" if language == "en" else "mlqa"


def _f1(shared: int, found: int, right: int) -> float:
    return 2 * shared / (found + right) if shared else 0.0


def _common(found: list[str], right: list[str]) -> int:
    return (collections.Counter(found) & collections.Counter(right)).total()


def _longest_run(found: list[str], right: list[str]) -> int:
    return difflib.SequenceMatcher(None, found, right, autojunk=False).find_longest_match().size


def _without_articles(text: str) -> str:
    return re.sub(r"\b(?:a|an|the)\b", " ", text)


_ASCII_MARKS = dict.fromkeys(map(ord, string.punctuation))


def _squad_words(text: str) -> list[str]:
    return _without_articles(text.lower().translate(_ASCII_MARKS)).split()


_HAN = re.compile("([\u4e00-\u9fa5])")  # the scripts' range, narrower than `segmentation.HAN`


def _mlqa_units(text: str, language: str) -> list[str]:
    marks = lambda character: character in string.punctuation or unicodedata.category(character).startswith("P")
    bare = "".join(character for character in text.lower() if not marks(character))
    return (_without_articles(bare) if language == "en" else _HAN.sub(r" \1 ", bare)).split()


_CMRC_MARKS = dict.fromkeys(map(ord, "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"))
_CMRC_WORD = re.compile(
    r"""[;@\#$%&?!()\[\]{}<>"«»‘„\u2012-\u2015]"""  # what stands alone
    r"""|\.{2,}|,(?!\d)|\.(?=[\])}>"'» ]*$)"""  # full stops and commas do, but for those inside a word or number
    r"""|'(?:re|ve|ll|[mtsdn])\b|'"""
    r"""|(?:[^\s;@\#$%&?!()\[\]{}<>"«»‘„\u2012-\u2015'.,]|,(?=\d)|\.(?!\.|[\])}>"'» ]*$))+"""
)  # as NLTK's word_tokenize, by which the script cuts what is not Chinese, but for n't and the like


def _cmrc_text(text: str) -> str:
    return text.lower().strip().translate(_CMRC_MARKS)


def _cmrc_units(text: str) -> list[str]:
    return [unit for part in _HAN.split(_cmrc_text(text)) for unit in _CMRC_WORD.findall(part)]


_Rule = tuple[Callable[[str], object], Callable[[str], list[str]], Callable[[list[str], list[str]], int]]


def _mlqa(language: str) -> _Rule:
    if language not in LANGUAGES:
        raise unknown_name("language of answers", language, LANGUAGES)
    units = lambda text: _mlqa_units(text, language)
    return units, units, _common


_RULES: dict[str, Callable[[str], _Rule]] = {
    "squad": lambda language: (_squad_words, _squad_words, _common),
    "mlqa": _mlqa,
    "cmrc": lambda language: (_cmrc_text, _cmrc_units, _longest_run),
}
"""What exact match compares, what F1 counts, and how it counts what two answers share."""


def _check_questions(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> None:
    if not len(predictions):
        raise UserError("there are no answers to judge")
    if len(predictions) != len(answers):
        raise UserError(f"{len(predictions)} answers are to be judged, but right ones are there for {len(answers)} questions")
    for number, own in enumerate(answers, start=1):
        if isinstance(own, str):
            raise UserError(f"the right answers to question {number} must be a list, got {own!r}: [{own!r}] is a list of one")
