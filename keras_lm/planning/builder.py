"""Domains and problems put together from what a file says, each part checked where it stands: the file and its line are in the message."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from keras_lm.errors import UserError, unknown_name
from keras_lm.planning.domain import EQUAL, TOP, Action, Atom, Domain, Literal, Predicate, Problem, Rule, Texts


@dataclasses.dataclass(frozen=True)
class Place:
    """Where something stands in a file, for messages."""

    path: str
    line: int

    def error(self, message: object) -> UserError:
        return UserError(f"{self.path}, line {self.line}: {message}")


Placed = Sequence[tuple[Literal, Place]]
"""Literals, and where each stands."""


class DomainBuilder:
    """Takes types first, then constants and predicates, then rules and actions."""

    def __init__(self, name: str):
        self.name = name
        self.types: dict[str, str] = {}
        self.constants: dict[str, str] = {}
        self.names: dict[str, Texts] = {}
        self.predicates: dict[str, Predicate] = {}
        self.rules: dict[str, Rule] = {}
        self.actions: dict[str, Action] = {}

    def add_types(self, parents: Mapping[str, str], place: Place) -> None:
        """Each type and the one it is a kind of, which may stand further below."""
        for name, parent in parents.items():
            if name == TOP:
                raise place.error(f"{TOP} is the type of all others: leave it out")
            if parent not in parents and parent != TOP:
                raise place.error(unknown_name("type", parent, [*parents, TOP]))
        self.types.update(parents)
        for name in parents:
            seen, kind = {name}, parents[name]
            while kind != TOP:
                if kind in seen:
                    raise place.error(f"type {name} is a kind of itself")
                seen.add(kind)
                kind = parents[kind]

    def add_predicate(self, name: str, parameters: Mapping[str, str], place: Place, text: Texts | None = None) -> None:
        if name in self.predicates:
            raise place.error(f"predicate {name} is there already")
        self.check_types(parameters, place)
        self.predicates[name] = Predicate(dict(parameters), text or {})

    def add_rule(
        self, name: str, parameters: Mapping[str, str], conditions: Placed, conclusion: Literal, place: Place, text: Texts | None = None
    ) -> None:
        if name in self.rules:
            raise place.error(f"rule {name} is there already")
        self.check_types(parameters, place)
        self.check([*conditions, (conclusion, place)], parameters)
        if not conclusion.positive or conclusion.atom.predicate == EQUAL:
            raise place.error(f"a rule concludes what is so, as in on(a, b), not {conclusion}")
        self.rules[name] = Rule(dict(parameters), tuple(one for one, _ in conditions), conclusion.atom, text or {})

    def add_action(
        self,
        name: str,
        parameters: Mapping[str, str],
        conditions: Placed,
        effects: Placed,
        place: Place,
        *,
        cost: int = 1,
        text: Texts | None = None,
    ) -> None:
        if name in self.actions:
            raise place.error(f"action {name} is there already")
        self.check_types(parameters, place)
        self.check([*conditions, *effects], parameters)
        for effect, where in effects:
            if effect.atom.predicate == EQUAL:
                raise where.error(f"no action makes {effect.atom} so")
        if cost < 0:
            raise place.error(f"cost must be 0 or more, got {cost}")
        kept = (tuple(one for one, _ in part) for part in (conditions, effects))
        self.actions[name] = Action(dict(parameters), *kept, cost, text or {})

    def check_types(self, parameters: Mapping[str, str], place: Place) -> None:
        for kind in parameters.values():
            if kind not in self.types and kind != TOP:
                raise place.error(unknown_name("type", kind, [*self.types, TOP]))

    def check(self, literals: Placed, known: Mapping[str, str]) -> None:
        """Refuses an unknown predicate, too few or many arguments, an unknown name, an object of another type."""
        check(literals, self.predicates, self.types, {**self.constants, **known})

    def build(self, path: str) -> Domain:
        if not self.actions and not self.rules:
            raise UserError(f"{path} has neither actions nor rules")
        try:
            return Domain(self.name, self.types, self.predicates, self.rules, self.actions, self.constants, self.names)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def check(literals: Placed, predicates: Mapping[str, Predicate], types: Mapping[str, str], known: Mapping[str, str]) -> None:
    """As `DomainBuilder.check`; `known` are the types of objects and variables."""
    for literal, place in literals:
        name, arguments = literal.atom
        if name != EQUAL and name not in predicates:
            raise place.error(unknown_name("predicate", name, predicates))
        wanted = (TOP, TOP) if name == EQUAL else predicates[name].types
        if len(arguments) != len(wanted):
            raise place.error(f"{name} is said of {len(wanted)}, not of {len(arguments)}: {literal.atom}")
        for argument, kind in zip(arguments, wanted, strict=True):
            if argument not in known:
                raise place.error(unknown_name("object or variable", argument, known))
            own = known[argument]
            while own not in (kind, TOP):
                own = types[own]
            if own != kind and kind != TOP:
                raise place.error(f"{argument} is a {known[argument]}, but {name} is said of a {kind}: {literal.atom}")


def build_problem(
    domain: Domain,
    objects: Iterable[tuple[str, str, Place]],
    facts: Placed,
    goal: Placed,
    place: Place,
    *,
    names: Mapping[str, Texts] | None = None,
    name: str = "problem",
) -> Problem:
    """A problem, checked.

    Args:
        domain: What it is of.
        objects: Name, type and place of each.
        facts, goal: With their places.
        place: Of the whole.
        names: Of objects in words.
        name: Of the problem.

    Raises:
        UserError: as `check`; an object that comes twice or whose type there is not; a fact that is none; no goal; one that cannot be.
    """
    kinds = dict(domain.constants)
    for own, kind, where in objects:
        if own in kinds:
            raise where.error(f"object {own} is there already")
        if kind not in domain.types and kind != TOP:
            raise where.error(unknown_name("type", kind, [*domain.types, TOP]))
        kinds[own] = kind
    for own in names or {}:
        if own not in kinds:
            raise place.error(unknown_name("object", own, kinds))
    check([*facts, *goal], domain.predicates, domain.types, kinds)
    for fact, where in facts:
        if not fact.positive or fact.atom.predicate == EQUAL:
            raise where.error(f"what is not said is not so: leave out {fact}")
        if fact.atom.predicate in domain.derived and fact.atom.predicate not in domain.static:
            raise where.error(f"{fact.atom.predicate} is for rules to conclude: give the facts that they go by")
    if not goal:
        raise place.error("there is no goal")
    return Problem(
        domain,
        kinds,
        frozenset(fact.atom for fact, _ in facts),
        tuple(dict.fromkeys(one for one, _ in goal)),
        {**domain.names, **(names or {})},
        name,
    )


def variables_of(parameters: Iterable[tuple[str, str]], place: Place) -> dict[str, str]:
    """Variables with their types, none twice."""
    found: dict[str, str] = {}
    for name, kind in parameters:
        if name in found:
            raise place.error(f"parameter {name} comes twice")
        found[name] = kind
    return found


def predicate_literal(name: str, arguments: Iterable[str], positive: bool = True) -> Literal:
    return Literal(Atom(name, tuple(arguments)), positive)
