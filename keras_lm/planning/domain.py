"""What a planning problem is made of: types, facts, rules by which facts follow from facts, and actions that change them.

A fact is an atom, `at(parcel, depot)`. What is not said, and does not follow, is false. A predicate is static where no action changes it.
Rules may refer to each other, and to themselves where what they say is static; `Domain` refuses what has no clear meaning.

References:
    Article A0 §2.3 and §3.4. Ghallab, Nau, Traverso 2004, «Automated Planning», ch. 2; McDermott et al. 1998, «PDDL».
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from keras_lm.errors import UserError

TOP = "object"
"""The type of which all others are."""
EQUAL = "="
"""The predicate of an object and itself, which every domain has."""


class Atom(NamedTuple):
    """A predicate of objects, or of variables that stand for them.

    Example:

    >>> str(Atom("at", ("parcel", "depot"))), str(Atom("raining"))
    ('at(parcel, depot)', 'raining')
    """

    predicate: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.predicate == EQUAL:
            return " = ".join(self.arguments)
        return f"{self.predicate}({', '.join(self.arguments)})" if self.arguments else self.predicate

    def where(self, values: Mapping[str, str]) -> Atom:
        """With objects in place of variables."""
        return Atom(self.predicate, tuple(values.get(name, name) for name in self.arguments))


class Literal(NamedTuple):
    """An atom that is so, or is not."""

    atom: Atom
    positive: bool = True

    def __str__(self) -> str:
        return str(self.atom) if self.positive else f"not {self.atom}"

    def where(self, values: Mapping[str, str]) -> Literal:
        return Literal(self.atom.where(values), self.positive)

    def holds(self, facts: Iterable[Atom]) -> bool:
        """Whether it is so where `facts`, and no others, are."""
        if self.atom.predicate == EQUAL:
            return (self.atom.arguments[0] == self.atom.arguments[1]) == self.positive
        return (self.atom in facts) == self.positive


Texts = Mapping[str, str]
"""By language (`en`, `zh`) what something is in words, with `{name}` for its parameters."""


@dataclasses.dataclass(frozen=True)
class Predicate:
    """What can be said of objects.

    Args:
        parameters: Their types, by the name that `text` has for them.
        text: `{"en": "{thing} is at {place}"}`.
    """

    parameters: Mapping[str, str]
    text: Texts = dataclasses.field(default_factory=dict)

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(self.parameters.values())


@dataclasses.dataclass(frozen=True)
class Rule:
    """A fact that follows from others.

    Args:
        parameters: The types of its variables.
        conditions: What has to be so, for some objects.
        conclusion: What then is so as well.
        text: In words.
    """

    parameters: Mapping[str, str]
    conditions: tuple[Literal, ...]
    conclusion: Atom
    text: Texts = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Action:
    """What can be done.

    Args:
        parameters: The types of its variables.
        conditions: What has to be so before.
        effects: What is so afterwards; the rest stays as it was.
        cost: A whole number, 0 or more. Default 1.
        text: In words.
    """

    parameters: Mapping[str, str]
    conditions: tuple[Literal, ...]
    effects: tuple[Literal, ...]
    cost: int = 1
    text: Texts = dataclasses.field(default_factory=dict)


class Step(NamedTuple):
    """An action on objects: one step of a plan.

    Example:

    >>> str(Step("drive", ("truck", "depot", "home")))
    'drive(truck, depot, home)'
    """

    action: str
    arguments: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(Atom(self.action, self.arguments))


@dataclasses.dataclass(frozen=True)
class Domain:
    """Types, predicates, rules and actions.

    Args:
        name: Of the domain.
        types: The type that each is a kind of; `object` above them all.
        predicates, rules, actions: By name.
        constants: Objects that every problem has: their types.
        names: Of constants, in words.

    Raises:
        UserError: an effect that a rule decides, a rule that leads back to itself over what changes, or to its own opposite.
    """

    name: str
    types: Mapping[str, str]
    predicates: Mapping[str, Predicate]
    rules: Mapping[str, Rule]
    actions: Mapping[str, Action]
    constants: Mapping[str, str] = dataclasses.field(default_factory=dict)
    names: Mapping[str, Texts] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, action in self.actions.items():
            for effect in action.effects:
                if effect.atom.predicate in self.derived:
                    raise UserError(f"action {name} changes {effect.atom.predicate}, which rules decide: let it change what they go by")
        for predicate in sorted(self.derived):
            if predicate not in self.static and predicate in self._below(predicate):
                raise UserError(f"the rules of {predicate} lead back to it over facts that actions change: write it as effects of actions")
        self.strata  # noqa: B018 — is refused where there are none

    def is_a(self, kind: str, wanted: str) -> bool:
        """Whether things of one type are of another as well."""
        while kind != wanted and kind != TOP:
            kind = self.types[kind]
        return wanted in (kind, TOP)

    @functools.cached_property
    def derived(self) -> frozenset[str]:
        """Predicates that rules conclude."""
        return frozenset(rule.conclusion.predicate for rule in self.rules.values())

    @functools.cached_property
    def static(self) -> frozenset[str]:
        """Predicates that no action changes, directly or by way of rules."""
        changed = {effect.atom.predicate for action in self.actions.values() for effect in action.effects}
        return frozenset(name for name in self.predicates if name not in changed and not self._below(name) & changed)

    def _below(self, predicate: str) -> set[str]:
        """The predicates that those rules go by which conclude this one, and so on."""
        found, waiting = set(), [predicate]
        while waiting:
            wanted = waiting.pop()
            for rule in self.rules.values():
                if rule.conclusion.predicate == wanted:
                    new = {condition.atom.predicate for condition in rule.conditions} - found - {EQUAL}
                    found |= new
                    waiting += sorted(new)
        return found

    @functools.cached_property
    def strata(self) -> tuple[tuple[str, ...], ...]:
        """The rules' names in layers: what a rule denies is decided in a layer before its own."""
        level = dict.fromkeys(self.predicates, 0)
        for _ in range(len(self.predicates) + 1):
            before = dict(level)
            for rule in self.rules.values():
                for condition in rule.conditions:
                    if condition.atom.predicate != EQUAL:
                        least = level[condition.atom.predicate] + (not condition.positive)
                        level[rule.conclusion.predicate] = max(level[rule.conclusion.predicate], least)
            if level == before:
                layers = sorted({level[rule.conclusion.predicate] for rule in self.rules.values()})
                return tuple(tuple(name for name, rule in self.rules.items() if level[rule.conclusion.predicate] == one) for one in layers)
        raise UserError(f"the rules of domain {self.name} make a fact follow from its own opposite")


@dataclasses.dataclass(frozen=True)
class Problem:
    """Objects, what is so to begin with, and what is wanted.

    Args:
        domain: What can be said and done.
        objects: The type of each, constants among them.
        facts: Those that are given.
        goal: What has to be so in the end.
        names: Of objects, in words.
        name: Of the problem.
    """

    domain: Domain
    objects: Mapping[str, str]
    facts: frozenset[Atom]
    goal: tuple[Literal, ...]
    names: Mapping[str, Texts] = dataclasses.field(default_factory=dict)
    name: str = "problem"

    @functools.cached_property
    def of_type(self) -> dict[str, tuple[str, ...]]:
        """The objects of each type, those of its kinds included."""
        kinds = [TOP, *self.domain.types]
        return {kind: tuple(name for name, own in self.objects.items() if self.domain.is_a(own, kind)) for kind in kinds}

    def after(self, facts: frozenset[Atom], step: Step) -> frozenset[Atom]:
        """The facts, without those that follow by rules, when a step has been made; whether it can be is not asked."""
        action = self.domain.actions[step.action]
        values = dict(zip(action.parameters, step.arguments, strict=True))
        effects = [effect.where(values) for effect in action.effects]
        removed = {effect.atom for effect in effects if not effect.positive}
        return frozenset(facts - removed | {effect.atom for effect in effects if effect.positive})

    def cost(self, plan: Sequence[Step]) -> int:
        """Of all steps together."""
        return sum(self.domain.actions[step.action].cost for step in plan)
