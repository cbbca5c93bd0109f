"""Domains and problems in PDDL: types, constants, predicates, derived predicates, actions with conjunctions, negation, equality and costs.

What else PDDL can say (or, forall, when, numbers, time) is refused with its line.

References:
    McDermott et al. 1998, «PDDL — The Planning Domain Definition Language»; Fox and Long 2003, «PDDL2.1».
"""

from __future__ import annotations

import dataclasses
import pathlib
import re
from collections.abc import Iterator, Sequence

from keras_lm.errors import UserError
from keras_lm.planning.builder import DomainBuilder, Place, Placed, build_problem, predicate_literal, variables_of
from keras_lm.planning.domain import EQUAL, TOP, Domain, Literal, Problem


@dataclasses.dataclass(frozen=True)
class _Expression:
    """A word, or a list in parentheses, and where it begins."""

    content: str | tuple[_Expression, ...]
    place: Place

    @property
    def word(self) -> str:
        if not isinstance(self.content, str):
            raise self.place.error("there should be a name, not a list in parentheses")
        return self.content

    @property
    def parts(self) -> tuple[_Expression, ...]:
        if isinstance(self.content, str):
            raise self.place.error(f"there should be a list in parentheses, not {self.content}")
        return self.content

    @property
    def head(self) -> str:
        """The word that a list begins with; empty where there is none."""
        return self.parts[0].word if self.parts and isinstance(self.parts[0].content, str) else ""


def read_pddl_domain(path: pathlib.Path) -> Domain:
    """A domain from a file of PDDL.

    Raises:
        UserError: it cannot be read, or says what is not understood; the message has the line.
    """
    name, sections = _define(path, "domain")
    builder = DomainBuilder(name)
    for kind in (":requirements", ":functions"):  # what is needed shows itself where it is used
        sections = [one for one in sections if one.head != kind]
    for section in _of(sections, ":types"):
        builder.add_types({one: kind for one, kind, _ in _typed(section.parts[1:])}, section.place)
    for section in _of(sections, ":constants"):
        for one, kind, place in _typed(section.parts[1:]):
            builder.check_types({one: kind}, place)
            builder.constants[one] = kind
    for section in _of(sections, ":predicates"):
        for one in section.parts[1:]:
            builder.add_predicate(one.head, _variables(one.parts[1:], one.place), one.place)
    rules = _of(sections, ":derived")
    for number, section in enumerate(rules):
        if len(section.parts) != 3:
            raise section.place.error("a derived predicate is (:derived (name ?x ...) condition)")
        _, said, condition = section.parts
        own = _variables(said.parts[1:], said.place)
        parameters, conditions = _exists(condition, own)
        conclusion = predicate_literal(said.head, own)
        builder.add_rule(f"{said.head}-{number + 1}", parameters, conditions, conclusion, said.place)
    for section in _of(sections, ":action"):
        _action(builder, section)
    for section in sections:
        if section.head not in (":types", ":constants", ":predicates", ":derived", ":action"):
            raise section.place.error(f"{section.head or 'this'} is not understood in a domain")
    return builder.build(str(path))


def read_pddl_problem(path: pathlib.Path, domain: Domain) -> Problem:
    """A problem from a file of PDDL; errors as `read_pddl_domain`."""
    name, sections = _define(path, "problem")
    objects = [one for section in _of(sections, ":objects") for one in _typed(section.parts[1:])]
    facts: list[tuple[Literal, Place]] = []
    for section in _of(sections, ":init"):
        for one in section.parts[1:]:
            if one.head == "=" and one.parts[1:2] and not isinstance(one.parts[1].content, str):
                continue  # the number that a function begins with
            facts += _conjunction(one)
    goals = _of(sections, ":goal")
    goal = [literal for section in goals for one in section.parts[1:] for literal in _conjunction(one)]
    for section in sections:
        if section.head not in (":domain", ":objects", ":init", ":goal", ":metric", ":requirements"):
            raise section.place.error(f"{section.head or 'this'} is not understood in a problem")
        if section.head == ":domain" and section.parts[1:] and section.parts[1].word != domain.name:
            raise section.place.error(f"this is a problem of {section.parts[1].word}, not of {domain.name}")
    place = goals[0].place if goals else Place(str(path), 1)
    return build_problem(domain, objects, facts, goal, place, name=name)


def _action(builder: DomainBuilder, section: _Expression) -> None:
    name, *rest = section.parts[1:] or [None]
    if name is None:
        raise section.place.error("an action needs a name")
    fields = {}
    for key, value in zip(rest[::2], rest[1::2], strict=False):
        if key.word not in (":parameters", ":precondition", ":effect"):
            raise key.place.error(f"{key.word} is not understood in an action")
        fields[key.word] = value
    if len(rest) % 2:
        raise rest[-1].place.error(f"{name.word} has a field without a value")
    parameters = _variables(fields[":parameters"].parts, fields[":parameters"].place) if ":parameters" in fields else {}
    conditions = list(_conjunction(fields[":precondition"])) if ":precondition" in fields else []
    effects, cost = [], None
    for one in _and(fields[":effect"]) if ":effect" in fields else ():
        if one.head == "increase":
            if len(one.parts) != 3 or not isinstance(one.parts[2].content, str) or not re.fullmatch(r"\d+", one.parts[2].content):
                raise one.place.error("a cost is (increase (total-cost) NUMBER), with a whole number")
            cost = int(one.parts[2].content)
        else:
            effects += _conjunction(one)
    builder.add_action(name.word, parameters, conditions, effects, section.place, cost=1 if cost is None else cost)


def _define(path: pathlib.Path, kind: str) -> tuple[str, list[_Expression]]:
    """The name and the sections of `(define (kind name) ...)`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    whole = _expression(text, str(path))
    if whole.head != "define" or len(whole.parts) < 2 or whole.parts[1].head != kind or len(whole.parts[1].parts) != 2:
        raise whole.place.error(f"this is no {kind}: it should begin with (define ({kind} NAME)")
    return whole.parts[1].parts[1].word, list(whole.parts[2:])


def _expression(text: str, path: str) -> _Expression:
    """The one list that a file is."""
    open_lists: list[tuple[list[_Expression], Place]] = [([], Place(path, 1))]
    for number, line in enumerate(text.splitlines(), 1):
        place = Place(path, number)
        for symbol in re.findall(r"[()]|[^\s()]+", line.partition(";")[0].lower()):
            if symbol == "(":
                open_lists.append(([], place))
            elif symbol == ")":
                if len(open_lists) == 1:
                    raise place.error("there is a ) too many")
                parts, begin = open_lists.pop()
                open_lists[-1][0].append(_Expression(tuple(parts), begin))
            else:
                open_lists[-1][0].append(_Expression(symbol, place))
    if len(open_lists) > 1:
        raise open_lists[-1][1].error("this ( is never closed")
    found = open_lists[0][0]
    if len(found) != 1 or isinstance(found[0].content, str):
        raise Place(path, 1).error("the file should be one list, (define ...)")
    return found[0]


def _of(sections: Sequence[_Expression], kind: str) -> list[_Expression]:
    return [one for one in sections if one.head == kind]


def _typed(parts: Sequence[_Expression]) -> Iterator[tuple[str, str, Place]]:
    """`a b - kind c` as names with types; what has none is an object."""
    waiting: list[_Expression] = []
    found = iter(parts)
    for part in found:
        if part.content != "-":
            waiting.append(part)
            continue
        kind = next(found, None)
        if kind is None:
            raise part.place.error("a type is missing behind -")
        if kind.head if not isinstance(kind.content, str) else "":
            raise kind.place.error("one of several types (either) is not understood")
        yield from ((one.word, kind.word, one.place) for one in waiting)
        waiting = []
    yield from ((one.word, TOP, one.place) for one in waiting)


def _variables(parts: Sequence[_Expression], place: Place) -> dict[str, str]:
    found = list(_typed(parts))
    for name, _, where in found:
        if not name.startswith("?"):
            raise where.error(f"a variable begins with ?, unlike {name}")
    return variables_of(((name, kind) for name, kind, _ in found), place)


def _and(expression: _Expression) -> Sequence[_Expression]:
    if not expression.parts:
        return ()
    return expression.parts[1:] if expression.head == "and" else (expression,)


def _conjunction(expression: _Expression) -> Placed:
    """Literals that hold together."""
    found = []
    for one in _and(expression):
        if one.head == "and":
            found += _conjunction(one)
            continue
        positive, inner = True, one
        if one.head == "not":
            if len(one.parts) != 2:
                raise one.place.error("not is said of one thing")
            positive, inner = False, one.parts[1]
        if inner.head in ("or", "imply", "forall", "exists", "when", "increase", "decrease", "assign", "and", "not", "at start", "over"):
            raise inner.place.error(f"{inner.head} is not understood here: conditions are facts and their negations, joined by and")
        name = EQUAL if inner.head == "=" else inner.head
        found.append((predicate_literal(name, (part.word for part in inner.parts[1:]), positive), inner.place))
    return found


def _exists(expression: _Expression, own: dict[str, str]) -> tuple[dict[str, str], Placed]:
    """The variables and the conditions of a rule, whose condition may begin with exists."""
    if expression.head != "exists":
        return own, _conjunction(expression)
    if len(expression.parts) != 3:
        raise expression.place.error("exists is (exists (?x - type) condition)")
    more = _variables(expression.parts[1].parts, expression.place)
    return _exists(expression.parts[2], variables_of([*own.items(), *more.items()], expression.place))
