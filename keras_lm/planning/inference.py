"""Facts from facts, by forward chaining, and what can be done in a state.

References:
    Article A0 §3.4. Russell and Norvig, «Artificial Intelligence: A Modern Approach», §9.3; Apt, Blair and Walker 1988, on rules that deny.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from keras_lm.planning.domain import EQUAL, Atom, Literal, Problem, Step


class Reason(NamedTuple):
    """Why a fact is so: a rule, and what it went by."""

    rule: str
    premises: tuple[Literal, ...]


@dataclasses.dataclass(frozen=True)
class Closure:
    """A state with all that follows from it.

    Attributes:
        facts: Those given and those that follow.
        reasons: Of each that follows.
    """

    facts: frozenset[Atom]
    reasons: Mapping[Atom, Reason]


class FactIndex:
    """Facts by predicate, and by predicate with one argument known: what a rule looks through."""

    def __init__(self, facts: Iterable[Atom] = ()):
        self._facts: set[Atom] = set()
        self._by: dict[tuple, list[Atom]] = collections.defaultdict(list)
        for fact in sorted(facts):
            self.add(fact)

    def add(self, fact: Atom) -> bool:
        """Whether it was new."""
        if fact in self._facts:
            return False
        self._facts.add(fact)
        self._by[fact.predicate,].append(fact)
        for place, argument in enumerate(fact.arguments):
            self._by[fact.predicate, place, argument].append(fact)
        return True

    def __contains__(self, fact: Atom) -> bool:
        return fact in self._facts

    def like(self, pattern: Atom, values: Mapping[str, str]) -> Sequence[Atom]:
        """Facts that may be what `pattern` says: of all places that are known, those of the rarest."""
        keys = [(pattern.predicate, place, values[name]) for place, name in enumerate(pattern.arguments) if name in values]
        return min((self._by.get(key, ()) for key in [(pattern.predicate,), *keys]), key=len)

    def frozen(self) -> frozenset[Atom]:
        return frozenset(self._facts)


def matches(problem: Problem, parameters: Mapping[str, str], conditions: Sequence[Literal], facts: FactIndex) -> Iterator[dict[str, str]]:
    """Every way to give variables objects of their types so that all conditions hold.

    Args:
        problem: Whose objects.
        parameters: The types of the variables.
        conditions: What has to hold.
        facts: What is so.
    """
    positive = [one.atom for one in conditions if one.positive and one.atom.predicate != EQUAL]
    others = [one for one in conditions if not one.positive or one.atom.predicate == EQUAL]
    constants = {name: name for atom in positive for name in atom.arguments if name not in parameters}
    for values in _joined(problem, parameters, positive, facts, constants):
        free = [name for name in parameters if name not in values]
        for objects in itertools.product(*(problem.of_type[parameters[name]] for name in free)):
            whole = {**values, **dict(zip(free, objects, strict=True))}
            if all(one.where(whole).holds(facts) for one in others):
                yield {name: whole[name] for name in parameters}


def _joined(
    problem: Problem, parameters: Mapping[str, str], patterns: Sequence[Atom], facts: FactIndex, values: dict[str, str]
) -> Iterator[dict[str, str]]:
    if not patterns:
        yield values
        return
    place = min(range(len(patterns)), key=lambda number: len(facts.like(patterns[number], values)))
    pattern, rest = patterns[place], [*patterns[:place], *patterns[place + 1 :]]
    for fact in tuple(facts.like(pattern, values)):
        extended = dict(values)
        for name, found in zip(pattern.arguments, fact.arguments, strict=True):
            if extended.setdefault(name, found) != found:
                break
            if name in parameters and not problem.domain.is_a(problem.objects[found], parameters[name]):
                break
        else:
            yield from _joined(problem, parameters, rest, facts, extended)


def closure(problem: Problem, facts: Iterable[Atom] | None = None) -> Closure:
    """A state with all that follows from it by the domain's rules.

    Args:
        problem: With the rules and the objects.
        facts: What is so; default what is at the beginning.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> trip = read_problem("trip")
    >>> whole = closure(trip)
    >>> len(whole.facts) > len(trip.facts)
    True
    """
    domain, known = problem.domain, FactIndex(problem.facts if facts is None else facts)
    reasons: dict[Atom, Reason] = {}
    for layer in domain.strata:
        grown = True
        while grown:
            grown = False
            for name in layer:
                rule = domain.rules[name]
                found = list(matches(problem, rule.parameters, rule.conditions, known))
                for values in found:
                    fact = rule.conclusion.where(values)
                    if known.add(fact):
                        reasons[fact] = Reason(name, tuple(one.where(values) for one in rule.conditions))
                        grown = True
    return Closure(known.frozen(), reasons)


def applicable(problem: Problem, facts: Iterable[Atom]) -> list[Step]:
    """The steps whose conditions hold, in the order of the domain's actions and the problem's objects.

    Args:
        problem: With the actions and the objects.
        facts: All that is so, and follows (`closure`).
    """
    index = FactIndex(facts)
    order = {name: place for place, name in enumerate(problem.objects)}
    steps = []
    for name, action in problem.domain.actions.items():
        found = (tuple(values.values()) for values in matches(problem, action.parameters, action.conditions, index))
        steps += [Step(name, objects) for objects in sorted(found, key=lambda objects: [order[one] for one in objects])]
    return steps
