"""Does a model go on differently behind two terms that differ in one group alone? A probe over paired prompts (article A2, fairness).

Templates with two continuations, one of which speaks better of the person, are filled with the two terms of a pair
(`keras_lm.group_terms`). Five differences are taken, each the first term's value less the second's:

- `continuation`: ln P(continuation | prompt), in nats, the mean of the two continuations. The text is the same on both sides and stands
  behind the term, so that the frequency of the term itself does not enter: the term is what is conditioned on.
- `favour`: by how much the favourable continuation is more probable than the other, ln P(favourable | prompt) less
  ln P(unfavourable | prompt), in nats. It takes out as well that anything is less expected behind a rare term: to be looked at first.
- `sentence`: ln P of the whole sentence, in nats. It holds ln P(term), which is frequency in the corpus and no judgment: shown for
  comparison, and not tested.
- `sentiment`: how probable a classifier finds it that what the model writes behind the prompt, by itself and without the term, is positive.
- `judge`: the same classifier on the bare prompts, terms included. It is the classifier's own difference: with the term before its
  eyes, it would bring that into any verdict on the model.

The unit is the template: values of one are averaged over samples, and those of a group over its pairs, before intervals and tests
(`keras_lm.insight.paired_statistics`) see them. All tests of the language model are one family, and those of the judge another. Pairs of
synonyms are measured along with the groups and not tested: no two words are treated quite alike, and a group is worth a word where its
terms make more of a difference than synonyms do.

References:
    Sheng et al. 2019 (arXiv:1909.01326): paired prompts, and what is written behind them. Kurita et al. 2019 (arXiv:1906.07337):
    association, against the prior probability of the term. Huang et al. 2020 (arXiv:1911.03064): sentiment of continuations, and
    counterfactual terms. Kiritchenko and Mohammad 2018 (arXiv:1805.04508): sentiment classifiers differ themselves. Blodgett et al. 2020
    (arXiv:2005.14050): what such figures do not say.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError, unknown_name
from keras_lm.generation.text import TextGenerator
from keras_lm.group_terms import GroupTerms, Template, TermPair, check_groups
from keras_lm.insight.paired_statistics import LEAST
from keras_lm.insight.reading import Reader
from keras_lm.recurrent import run_model
from keras_lm.tasks.labeller import Labeller
from keras_lm.training.run import Run

MEASURES = ("favour", "continuation", "sentence", "sentiment", "judge")
"""The differences, in the order in which they are shown."""

UNTESTED = ("sentence",)
"""Those that are shown for comparison alone."""

POSITIVE = ("positive", "pos", "good", "正面", "好评")
"""Names under which the positive class of a sentiment run is found."""

Progress = Callable[[int], None] | None


@dataclasses.dataclass(frozen=True)
class PairedPrompt:
    """A template with either term of a pair in it.

    Attributes:
        pair: The terms.
        template: The template.
        first, second: The prompts.
        continuations: The favourable and the unfavourable one, each with the blank before it that its language has.
    """

    pair: TermPair
    template: Template
    first: str
    second: str
    continuations: tuple[str, str]


def paired_prompts(terms: GroupTerms, groups: Sequence[str], language: str) -> list[PairedPrompt]:
    """All templates of a language with all pairs of some groups that fit in them.

    Args:
        terms: Pairs and templates.
        groups: Of `terms.groups`.
        language: `zh` or `en`.

    Returns:
        Group by group, pair by pair, in the order of the file.

    Raises:
        UserError: an unknown group, one without a pair that a template takes, or a pair with fewer than six templates.

    Example:

    >>> from keras_lm.group_terms import read_group_terms
    >>> one = paired_prompts(read_group_terms(), ["gender"], "zh")[0]
    >>> one.first, one.second, one.continuations
    ('他做事很', '她做事很', ('认真。', '马虎。'))
    """
    check_groups(groups, terms.groups)
    result = []
    for group in groups:
        found = [
            PairedPrompt(pair, template, *(template.fill(term, pair.slot) for term in (pair.first, pair.second)), template.continuations())
            for pair in terms.pairs_of(group, language)
            for template in terms.templates
            if template.takes(pair)
        ]
        if not found:
            raise UserError(f"the group {group} has no pair in {language} that a template takes: give such lines, or another --language")
        for pair, count in _templates(found).items():
            if count < LEAST:
                raise UserError(f"{pair} ({group}) stands in {count} templates, and an interval needs {LEAST}: give more templates")
        result += found
    return result


def _templates(prompts: Sequence[PairedPrompt]) -> Counter[TermPair]:
    return Counter(one.pair for one in prompts)


def readable_prompts(reader: Reader, prompts: Sequence[PairedPrompt]) -> tuple[list[PairedPrompt], list[str]]:
    """The prompts whose every character the model has a token for.

    Args:
        reader: Of a language model.
        prompts: From `paired_prompts`.

    Returns:
        These prompts, and what was left out: terms and templates that hold an unknown token, and pairs that too few templates are left for.

    Raises:
        UserError: nothing is left, or a prompt with a continuation is longer than the model's context.
    """
    texts = {text for one in prompts for text in (one.pair.first, one.pair.second, one.template.fill("", "-"), *one.continuations)}
    texts |= {one.first for one in prompts} | {one.second for one in prompts}  # capitals
    ordered = sorted(texts)
    unknown = {text for text, ids in zip(ordered, _ids(reader, ordered), strict=True) if reader.tokenizer.unknown_id in ids}
    kept, missing = [], {}
    for one in prompts:
        why = [text for text in (one.pair.first, one.pair.second) if text in unknown]
        if not why and unknown & {one.first, one.second, one.template.fill("", "-"), *one.continuations}:
            why = [f"{one.template.prompt} ..."]
        missing.update(dict.fromkeys(why))
        if not why:
            kept.append(one)
    few = [pair for pair, count in _templates(kept).items() if count < LEAST]
    missing.update(dict.fromkeys(map(str, few)))
    kept = [one for one in kept if one.pair not in few]
    if not kept:
        raise UserError(
            f"the model has no tokens for any of the {len(prompts)} prompts: give another --language, or --templates of your own"
        )
    return kept, list(missing)


def _ids(reader: Reader, texts: Sequence[str]) -> list[list[int]]:
    return reader.tokenizer.tokenize(tf.constant([reader.cleaned(text) for text in texts])).to_list()


def likelihood_differences(
    subject: Run | Reader, prompts: Sequence[PairedPrompt], *, batch_size: int = 64, progress: Progress = None
) -> dict[str, np.ndarray]:
    """Differences of log-likelihood between the two sides of paired prompts.

    Prompt and continuation are turned into tokens apart, so that the tokens of the continuation are the same on both sides.

    Args:
        subject: A trained run of `lm`, or a `Reader` of a language model.
        prompts: From `paired_prompts`.
        batch_size: Texts at a time.
        progress: Is told the number of texts done, of four for each prompt.

    Returns:
        `favour`, `continuation` and `sentence`, each `(prompts,)` float64 in nats; the module says what they are. Of a model that reads no
        start token, `sentence` leaves out the first token.

    Raises:
        UserError: a run that is no language model, or a text longer than the model's context.

    Example:

    >>> from keras_lm.group_terms import read_group_terms
    >>> from keras_lm.models import gru_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> reader = Reader(gru_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer())
    >>> found = likelihood_differences(reader, paired_prompts(read_group_terms(), ["age"], "en")[:3])
    >>> {name: values.shape for name, values in found.items()}
    {'favour': (3,), 'continuation': (3,), 'sentence': (3,)}
    """
    reader = language_reader(subject)
    first = [reader.tokenizer.start_id] if reader.begins else []
    prompt_ids = _ids(reader, [text for one in prompts for text in (one.first, one.second)])
    following = _ids(reader, [text for one in prompts for text in one.continuations])
    rows, cuts = [], []
    for number, one in enumerate(prompts):
        for side in range(2):
            for which in range(2):
                before, after = [*first, *prompt_ids[2 * number + side]], following[2 * number + which]
                if reader.longest is not None and len(before) + len(after) - 1 > reader.longest:
                    text = (one.first, one.second)[side] + one.continuations[which]
                    where = f", line {one.template.line} of the templates" if one.template.line else ""
                    raise UserError(
                        f"{text!r}{where}, is {len(before) + len(after)} tokens long, and the model reads {reader.longest}: shorten it"
                    )
                rows.append(before + after)
                cuts.append(len(before))
    whole, behind = _log_probabilities(reader, rows, cuts, batch_size, progress)
    whole, behind = whole.reshape(-1, 2, 2), behind.reshape(-1, 2, 2)  # (prompts, sides, continuations)
    difference = behind[:, 0] - behind[:, 1]
    return {
        "favour": difference[:, 0] - difference[:, 1],
        "continuation": difference.mean(axis=1),
        "sentence": (whole[:, 0] - whole[:, 1]).mean(axis=1),
    }


def _log_probabilities(
    reader: Reader, rows: Sequence[Sequence[int]], cuts: Sequence[int], batch_size: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of ln P of each row's tokens: of all but the first, and of those from its cut on."""
    model = reader.model

    @tf.function(reduce_retracing=True, autograph=False)
    def read(ids: tf.Tensor) -> tf.Tensor:
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(ids[:, 1:], run_model(model, ids[:, :-1]))

    width = max(map(len, rows))
    result = np.zeros((2, len(rows)))
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        ids = np.full(
            [batch_size, width], reader.tokenizer.pad_id, np.int32
        )  # what a causal model reads behind a row changes nothing in it
        for row, own in zip(ids, part, strict=False):
            row[: len(own)] = own
        values = read(tf.constant(ids)).numpy().astype(np.float64)
        for number, own in enumerate(part, start):
            value = values[number - start, : len(own) - 1]
            result[:, number] = value.sum(), value[max(cuts[number] - 1, 0) :].sum()
        if progress:
            progress(min(start + batch_size, len(rows)))
    return result[0], result[1]


def language_reader(subject: Run | Reader) -> Reader:
    """The reader of a language model.

    Raises:
        UserError: a run of another task, or a model that does not go on with one text.
    """
    if isinstance(subject, Run):
        check_language_run(subject)
    reader = Reader.of(subject)
    reader.one_text("fairness")
    if not reader.writes:
        raise UserError(f"{reader.model.name} does not go on with a text: paired prompts are for language models")
    return reader


def check_language_run(run: Run) -> None:
    """Refuses a run that is no language model.

    Raises:
        UserError: the message says what is needed.
    """
    if run.settings.task != "lm":
        raise UserError(f"{run.folder} is a run of {run.settings.task}: paired prompts are for language models (--task lm)")


class Score(Protocol):
    """What says of texts how positive they are."""

    def __call__(self, texts: Sequence[str], progress: Progress = None) -> np.ndarray:
        """The probability that each text is positive, `(texts,)`."""


def positive_class(classes: Sequence[str], wanted: str | None = None) -> int:
    """The number of the class that stands for positive.

    Args:
        classes: Their names.
        wanted: Its name; default one of `POSITIVE`.

    Raises:
        UserError: no such class.

    Example:

    >>> positive_class(["negative", "positive"])
    1
    """
    if wanted is not None:
        if wanted not in classes:
            raise unknown_name("class", wanted, classes)
        return list(classes).index(wanted)
    found = [number for number, name in enumerate(classes) if name.lower() in POSITIVE]
    if len(found) != 1:
        raise UserError(f"which of the classes {', '.join(classes)} is the positive one? Give --positive NAME")
    return found[0]


def sentiment_score(run: Run, positive: str | None = None) -> Score:
    """A score of a trained run of `classification`.

    Args:
        run: Whose classes are sentiments.
        positive: The name of the positive one; default one of `POSITIVE`.

    Raises:
        UserError: a run of another task, or it is not known which class is positive.
    """
    if run.settings.task != "classification":
        raise UserError(f"{run.folder} is a run of {run.settings.task}: sentiment is told by one of --task classification")
    labeller = Labeller.of(run)
    number = positive_class(labeller.classes, positive)
    return lambda texts, progress=None: labeller.probabilities(texts, progress)[:, number].astype(np.float64)


def sampled_sentiment(
    generator: TextGenerator,
    score: Score,
    prompts: Sequence[PairedPrompt],
    *,
    samples: int = 4,
    max_new_tokens: int = 32,
    min_new_tokens: int = 8,
    temperature: float = 1.0,
    seed: int = 0,
    batch_size: int = 128,
    progress: Progress = None,
) -> np.ndarray:
    """Differences in sentiment of what a model writes behind either prompt of a pair.

    Both sides are drawn with the same seeds. The classifier is given the new text alone, without prompt and term.

    Args:
        generator: As `Run.make_generator` makes it.
        score: What judges the texts.
        prompts: From `paired_prompts`.
        samples: Texts behind each prompt; their scores are averaged.
        max_new_tokens, min_new_tokens, temperature: As `SamplingSettings` has them; 1.0 is the model itself.
        seed: Of the first text.
        batch_size: Texts drawn at a time.
        progress: Is told the number of texts done, of two times `samples` for each prompt.

    Returns:
        `(prompts,)` differences of probabilities, from -1 to 1.

    Raises:
        UserError: a number under 1; a prompt that fills the context.
    """
    if samples < 1:
        raise UserError(f"samples must be at least 1, got {samples}")
    knobs = {"max_new_tokens": max_new_tokens, "min_new_tokens": min(min_new_tokens, max_new_tokens), "temperature": temperature}
    values = np.zeros((2, len(prompts)))
    done, rows = 0, max(batch_size // samples, 1)
    for side, name in enumerate(("first", "second")):
        texts: list[str] = []
        for start in range(0, len(prompts), rows):
            part = [getattr(one, name) for one in prompts[start : start + rows]]
            filled = part + part[-1:] * (rows - len(part))  # one batch size, which is compiled once
            drawn = generator.generate(filled, num_samples=samples, seed=(seed + start * samples) % 2**31, **knobs)
            texts += [one.text for one in drawn[: len(part) * samples]]
            done += len(part) * samples
            if progress:
                progress(done)
        values[side] = score(texts).reshape(len(prompts), samples).mean(axis=1)
    return values[0] - values[1]


def judge_differences(score: Score, prompts: Sequence[PairedPrompt]) -> np.ndarray:
    """The classifier's own differences: what it makes of the bare prompts, `(prompts,)`."""
    return score([one.first for one in prompts]) - score([one.second for one in prompts])
