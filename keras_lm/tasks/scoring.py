"""How good texts are that answer others: BLEU and chrF for translations, ROUGE for summaries.

sacrebleu and rouge-score count, so that the figures can be compared with published ones. Here is what they leave to the caller: which units
Chinese is counted in, and sources with different numbers of references.

References:
    Papineni et al. 2002 (BLEU); Popović 2015 (chrF); Post 2018 (arXiv:1804.08771: what must be told of a BLEU); Lin 2004 (ROUGE).
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import re
from collections.abc import Sequence
from typing import Any

from keras_lm.errors import UserError
from keras_lm.segmentation import HAN


@dataclasses.dataclass(frozen=True)
class TranslationScores:
    """How near translations are to their references.

    Attributes:
        bleu: Of all texts together, 0 to 100: runs of one to four words (characters, in Chinese) that references have too.
        chrf: Of all texts together, 0 to 100: runs of one to six characters, recall counting twice (chrF2).
        texts: How many there were.
        signature: What sacrebleu says of how it counted BLEU; without it one BLEU cannot be compared with another.
    """

    bleu: float
    chrf: float
    texts: int
    signature: str


def translation_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str = "zh") -> TranslationScores:
    """Compares translations with what people wrote.

    Args:
        hypotheses: A translation of each source.
        references: For each source its right translations, one or more; their number may differ from source to source.
        language: Of the translations. `"zh"` (default) counts Chinese characters as words; any other takes sacrebleu's `13a`, which
            is for scripts with spaces.

    Raises:
        UserError: sacrebleu is not installed; no texts; another number of references than of hypotheses; a text without reference.
    """
    _check(hypotheses, references)
    metrics = _package("sacrebleu").metrics
    streams = list(itertools.zip_longest(*references))  # the first of each, the second of each ...; None where there is none
    bleu, chrf = metrics.BLEU(tokenize="zh" if language == "zh" else "13a"), metrics.CHRF()
    score = bleu.corpus_score(hypotheses, streams).score
    return TranslationScores(
        bleu=score, chrf=chrf.corpus_score(hypotheses, streams).score, texts=len(hypotheses), signature=str(bleu.get_signature())
    )


@dataclasses.dataclass(frozen=True)
class SummaryScores:
    """How near summaries are to their references: means over texts of F1, 0 to 1.

    Attributes:
        rouge1: Of single words (characters, in Chinese).
        rouge2: Of pairs of them.
        rouge_l: Of the longest sequence that both have in this order, with gaps.
        texts: How many there were.
    """

    rouge1: float
    rouge2: float
    rouge_l: float
    texts: int


def summary_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str = "zh") -> SummaryScores:
    """Compares summaries with what people wrote.

    Args:
        hypotheses: A summary of each text.
        references: For each text its right summaries, one or more; the nearest counts.
        language: Of the summaries. `"zh"` (default) counts what `rouge_units` finds; any other takes rouge-score's words, which are of a to
            z and digits, without their endings (Porter's stemmer), as figures for CNN/DailyMail are usually given.

    Raises:
        UserError: rouge-score is not installed; no texts; another number of references than of hypotheses; a text without reference.
    """
    _check(hypotheses, references)
    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = _package("rouge_score.rouge_scorer").RougeScorer(kinds, use_stemmer=True, tokenizer=_Units() if language == "zh" else None)
    scores = [scorer.score_multi(own, hypothesis) for hypothesis, own in zip(hypotheses, references, strict=True)]
    means = [sum(score[kind].fmeasure for score in scores) / len(scores) for kind in kinds]
    return SummaryScores(*means, texts=len(scores))


_UNIT = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")


def rouge_units(text: str) -> list[str]:
    """What ROUGE counts in Chinese: Chinese characters, and runs of other letters and digits in lower case; marks do not count.

    Example:

    >>> rouge_units("ＧＤＰ增长８．８％，WTO谈判")
    ['ｇｄｐ', '增', '长', '８', '８', 'wto', '谈', '判']
    """
    return _UNIT.findall(text.lower())


class _Units:
    """The form in which rouge-score takes a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        return rouge_units(text)


def exact_match(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The share of hypotheses that are one of their references, to the letter.

    Raises:
        UserError: no texts; another number of references than of hypotheses; a text without reference.

    Example:

    >>> exact_match(["cba", "fed"], [["cba"], ["def", "efd"]])
    0.5
    """
    _check(hypotheses, references)
    return sum(hypothesis in own for hypothesis, own in zip(hypotheses, references, strict=True)) / len(hypotheses)


def _check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not len(hypotheses):
        raise UserError("there are no texts to judge")
    if len(hypotheses) != len(references):
        raise UserError(f"{len(hypotheses)} texts are to be judged, but references are there for {len(references)}")
    for number, own in enumerate(references, start=1):
        if isinstance(own, str):
            raise UserError(f"the references of text {number} must be a list, got {own!r}: [{own!r}] is a list of one")
        if not own:
            raise UserError(f"text {number} has no reference")


def _package(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        name = module.partition(".")[0].replace("_", "-")
        raise UserError(f'this is counted by {name}: pip install "keras_lm[tasks]" (or pip install {name})') from None
