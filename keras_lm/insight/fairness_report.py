"""What a probe over paired prompts comes to: means, intervals and tests by pair and by group.

`keras_lm.insight.fairness` says what is measured, `keras_lm.insight.paired_statistics` how intervals and tests are made.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from keras_lm.group_terms import CONTROL, GroupTerms, Template, read_group_terms
from keras_lm.insight.fairness import (
    MEASURES,
    UNTESTED,
    PairedPrompt,
    Progress,
    check_language_run,
    judge_differences,
    language_reader,
    likelihood_differences,
    paired_prompts,
    readable_prompts,
    sampled_sentiment,
    sentiment_score,
)
from keras_lm.insight.paired_statistics import holm, mean_interval, sign_flip_p
from keras_lm.training.run import Run


@dataclasses.dataclass(frozen=True)
class Difference:
    """What one measure comes to, for a pair or for a group.

    Attributes:
        measure: Of `MEASURES`.
        group: The group.
        pair: The pair, or `None` for all pairs of the group together.
        mean: Over templates; nats, or a difference of probabilities.
        low, high: Its 95 % confidence interval.
        size: Mean absolute difference over pairs and templates: how much it matters at all which term stands there, in whichever direction.
        templates: How many there are.
        p: Of the sign-flip test; `None` where it is not tested, as synonyms are not.
        corrected: The same, corrected by Holm's method for all tests of the same model.
    """

    measure: str
    group: str
    pair: str | None
    mean: float
    low: float
    high: float
    size: float
    templates: int
    p: float | None = None
    corrected: float | None = None

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is under 0.05."""
        return self.corrected is not None and self.corrected < 0.05


def summarize(prompts: Sequence[PairedPrompt], measured: Mapping[str, np.ndarray], *, seed: int = 0) -> list[Difference]:
    """Means, intervals and tests by pair and by group.

    The tests of the language model, of all measures, groups and pairs, are corrected together, and those of the sentiment model by
    themselves. Intervals are not corrected.

    Args:
        prompts: From `paired_prompts`.
        measured: By measure, `(prompts,)`.
        seed: Of what is drawn for intervals and tests.

    Returns:
        Measure by measure, group by group, the group itself first and then its pairs.

    Example:

    >>> prompts = paired_prompts(read_group_terms(), ["gender"], "zh")
    >>> rows = summarize(prompts, {"favour": np.zeros(len(prompts))})
    >>> len(rows), rows[0].pair, rows[0].mean, rows[1].pair, rows[1].corrected
    (14, None, 0.0, '他/她', 1.0)
    """
    rows = []
    groups = dict.fromkeys(one.pair.group for one in prompts)
    for measure in (name for name in MEASURES if name in measured):
        values = np.asarray(measured[measure], np.float64)
        for group in groups:
            chosen = [number for number, one in enumerate(prompts) if one.pair.group == group]
            rows.append(_difference(measure, group, None, _by_template(prompts, values, chosen), values[chosen], seed))
            for pair in dict.fromkeys(prompts[number].pair for number in chosen):
                own = values[[number for number in chosen if prompts[number].pair == pair]]
                rows.append(_difference(measure, group, str(pair), own, own, seed))
    corrected: dict[int, float] = {}
    for judge in (False, True):
        tested = [number for number, row in enumerate(rows) if row.p is not None and (row.measure == "judge") == judge]
        corrected.update(zip(tested, holm([rows[number].p or 0.0 for number in tested]).tolist(), strict=True))
    return [dataclasses.replace(row, corrected=corrected.get(number)) for number, row in enumerate(rows)]


def _by_template(prompts: Sequence[PairedPrompt], values: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """The mean of each template over its pairs."""
    found: dict[Template, list[float]] = {}
    for number in chosen:
        found.setdefault(prompts[number].template, []).append(values[number])
    return np.array([np.mean(own) for own in found.values()])


def _difference(measure: str, group: str, pair: str | None, units: np.ndarray, values: np.ndarray, seed: int) -> Difference:
    low, high = mean_interval(units, seed=seed)
    p = None if measure in UNTESTED or group == CONTROL else sign_flip_p(units, seed=seed)
    return Difference(measure, group, pair, float(units.mean()), low, high, float(np.abs(values).mean()), len(units), p)


@dataclasses.dataclass(frozen=True)
class Probe:
    """What was found of a run.

    Attributes:
        prompts: Those that were read.
        missing: Terms and templates that were left out, since the model has no tokens for them.
        measured: By measure, `(prompts,)`.
        rows: What `summarize` makes of it.
    """

    prompts: Sequence[PairedPrompt]
    missing: Sequence[str]
    measured: Mapping[str, np.ndarray]
    rows: Sequence[Difference]

    @property
    def tests(self) -> int:
        """How many tests of the language model were corrected for each other."""
        return sum(row.corrected is not None and row.measure != "judge" for row in self.rows)


def probe(
    run: Run,
    *,
    sentiment: Run | None = None,
    positive: str | None = None,
    terms: GroupTerms | None = None,
    groups: Sequence[str] | None = None,
    language: str = "zh",
    samples: int = 4,
    max_new_tokens: int = 32,
    seed: int = 0,
    watch: Callable[[str, int], Progress] = lambda what, total: None,
) -> Probe:
    """Measures a run with paired prompts.

    Args:
        run: A trained run of `lm`.
        sentiment: A trained run of `classification` that tells sentiment; default none, and no sentiment is measured.
        positive: The name of its positive class, as `sentiment_score` takes it.
        terms: Pairs and templates; default the packaged ones.
        groups: Default all that the terms have in this language.
        language: `zh` or `en`.
        samples: Texts written behind each prompt, where there is a sentiment run.
        max_new_tokens: Their length in tokens.
        seed: Decides what is drawn.
        watch: Is told what begins and its size, and gives what is told how much is done.

    Raises:
        UserError: runs of other tasks, unknown groups, prompts that the model has no tokens or no room for.

    Example: `probe(Run.open("runs/quickstart"), sentiment=Run.open("runs/reviews"), groups=["gender"]).rows[0].mean`
    """
    check_language_run(run)
    score = None if sentiment is None else sentiment_score(sentiment, positive)
    terms = terms or read_group_terms()
    reader = language_reader(run)
    fitting = {
        pair.group: None for template in terms.templates for pair in terms.pairs if template.takes(pair) and pair.language == language
    }
    chosen = paired_prompts(terms, groups or [group for group in terms.groups if group in fitting] or terms.groups, language)
    prompts, missing = readable_prompts(reader, chosen)
    measured = likelihood_differences(reader, prompts, progress=watch("reading", 4 * len(prompts)))
    if score is not None:
        generator = run.make_generator(reader.model)
        drawn = watch("writing", 2 * samples * len(prompts))
        measured["sentiment"] = sampled_sentiment(
            generator, score, prompts, samples=samples, max_new_tokens=max_new_tokens, seed=seed, progress=drawn
        )
        measured["judge"] = judge_differences(score, prompts)
    return Probe(prompts, missing, measured, summarize(prompts, measured, seed=seed))
