"""Facts, steps and plans in words, and why each step can be made: which facts are there, since when, and by which rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from keras_lm.planning.domain import EQUAL, Literal, Problem, Step
from keras_lm.planning.inference import Closure, closure

LANGUAGES: dict[str, dict[str, str]] = {
    "en": {
        "not": "it is not so that {}",
        "same": "{} and {} are the same",
        "given": "given",
        "step": "since step {}",
        "rule": "by rule {}",
        "unsaid": "nothing says so",
        "from": "{}, because {}",
        "and": " and ",
        "aside": "{} ({})",
        "why": "    because {} ({})",
        "line": "{}. {}",
        "beginning": "beginning",
    },
    "zh": {
        "not": "并非{}",
        "same": "{}就是{}",
        "given": "已知",
        "step": "第{}步之后",
        "rule": "按规则“{}”",
        "unsaid": "没有说是这样",
        "from": "{}，因为{}",
        "and": "，并且",
        "aside": "{}（{}）",
        "why": "    因为{}（{}）",
        "line": "{}. {}",
        "beginning": "开始",
    },
}


@dataclasses.dataclass(frozen=True)
class Explained:
    """A step in words.

    Attributes:
        step: Of the plan.
        text: What is done.
        because: What has to be so for it, and why it is, each in words.
    """

    step: Step
    text: str
    because: tuple[tuple[str, str], ...]


def say(problem: Problem, literal: Literal, language: str = "en") -> str:
    """A fact, or its negation, in words; as it is written where the domain has no words for it.

    Example:

    >>> from keras_lm.planning import Atom, read_problem
    >>> say(read_problem("deliveries"), Literal(Atom("lies", ("letter", "depot"))))
    'the letter lies at the depot'
    >>> say(read_problem("deliveries"), Literal(Atom("lies", ("letter", "depot"))), "zh")
    '信放在仓库'
    """
    words = LANGUAGES[language]
    names = [_name(problem, one, language) for one in literal.atom.arguments]
    if literal.atom.predicate == EQUAL:
        text = words["same"].format(*names)
    else:
        predicate = problem.domain.predicates[literal.atom.predicate]
        text = _filled(predicate.text, dict(zip(predicate.parameters, names, strict=True)), language, str(literal.atom))
    return text if literal.positive else words["not"].format(text)


def say_step(problem: Problem, step: Step, language: str = "en") -> str:
    """A step in words.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> say_step(read_problem("blocks"), Step("stack", ("a", "b")), "zh")
    '把a放到b上面'
    """
    action = problem.domain.actions[step.action]
    names = [_name(problem, one, language) for one in step.arguments]
    return _filled(action.text, dict(zip(action.parameters, names, strict=True)), language, str(step))


def explain(problem: Problem, steps: Sequence[Step], language: str = "en") -> list[Explained]:
    """Why a plan can be carried out, step by step.

    Args:
        problem: Of which the plan is.
        steps: A plan that is valid.
        language: `en` (default) or `zh`.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> for step in explain(read_problem("blocks"), [Step("unstack", ("c", "a"))]):
    ...     print(step.text, step.because)
    take c off a (('c is on a', 'given'), ('nothing is on c', 'given'), ('the hand is empty', 'given'))
    """
    words = LANGUAGES[language]
    facts, since, found = problem.facts, dict.fromkeys(problem.facts, 0), []
    for number, step in enumerate(steps, 1):
        action = problem.domain.actions[step.action]
        values = dict(zip(action.parameters, step.arguments, strict=True))
        state = closure(problem, facts)
        reasons = []
        for condition in (one.where(values) for one in action.conditions):
            if condition.atom.predicate != EQUAL:
                reasons.append((say(problem, condition, language), _why(problem, condition, state, since, words, language)))
        found.append(Explained(step, say_step(problem, step, language), tuple(reasons)))
        after = problem.after(facts, step)
        since |= dict.fromkeys(after - facts, number)
        facts = after
    return found


def lines(explained: Sequence[Explained], language: str = "en") -> list[str]:
    """What `explain` gives, to be printed."""
    words, result = LANGUAGES[language], []
    for number, one in enumerate(explained, 1):
        result.append(words["line"].format(number, one.text))
        result += [words["why"].format(*reason) for reason in one.because]
    return result


def _why(problem: Problem, literal: Literal, state: Closure, since: Mapping, words: Mapping[str, str], language: str) -> str:
    if not literal.positive:
        return words["unsaid"]
    reason = state.reasons.get(literal.atom)
    if reason is None:
        step = since.get(literal.atom, 0)
        return words["step"].format(step) if step else words["given"]
    rule = problem.domain.rules[reason.rule]
    parts = [
        words["aside"].format(say(problem, one, language), _why(problem, one, state, since, words, language))
        for one in reason.premises
        if one.atom.predicate != EQUAL
    ]
    named = words["rule"].format(_filled(rule.text, {}, language, reason.rule))
    return words["from"].format(named, words["and"].join(parts)) if parts else named


def _name(problem: Problem, name: str, language: str) -> str:
    own = problem.names.get(name, {})
    return own.get(language, own.get("", name))


def _filled(text: Mapping[str, str], values: Mapping[str, str], language: str, default: str) -> str:
    found = text.get(language, text.get(""))
    if found is None:
        return default
    for name, value in values.items():
        found = found.replace("{" + name + "}", value)
    return found
