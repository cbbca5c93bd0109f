"""Domains and problems from files: YAML, described here, or PDDL (`keras_lm.planning.pddl`).

A domain, with words in any language for what it says:

    name: deliveries
    types: {place: object, truck: object}
    predicates:
      at: {parameters: {truck: truck, place: place}, text: {en: "{truck} is at {place}", zh: "{truck}在{place}"}}
      road: {parameters: {here: place, there: place}}
    rules:
      both-ways: {parameters: {a: place, b: place}, if: "road(a, b)", then: "road(b, a)"}
    actions:
      drive:
        parameters: {truck: truck, here: place, there: place}
        if: at(truck, here), road(here, there), here != there
        effects: not at(truck, here), at(truck, there)
        text: {en: "drive {truck} from {here} to {there}"}

A problem:

    domain: deliveries.yaml
    objects: {place: [depot, home], truck: [van]}
    facts: at(van, depot), road(depot, home)
    goal: at(van, home)
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Collection, Iterator

import yaml

from keras_lm.errors import UserError, unknown_name
from keras_lm.planning.builder import DomainBuilder, Place, Placed, build_problem, predicate_literal
from keras_lm.planning.domain import EQUAL, Domain, Literal, Problem, Texts

_PACKAGED = pathlib.Path(__file__).parent / "domains"

PACKAGED = tuple(sorted(path.stem for path in _PACKAGED.glob("*.yaml") if not path.stem.endswith("-problem")))
"""Domains that are part of the package; each has a problem of the same name."""


def read_domain(path: str | os.PathLike) -> Domain:
    """A domain from a file.

    Args:
        path: `.yaml` or `.pddl`, or the name of one of `PACKAGED`.

    Raises:
        UserError: the file cannot be read, or something in it cannot be; the message has the line.

    Example:

    >>> sorted(read_domain("blocks").actions)
    ['pick-up', 'put-down', 'stack', 'unstack']
    """
    file = _PACKAGED / f"{path}.yaml" if path in PACKAGED else pathlib.Path(path)
    if file.suffix == ".pddl":
        from keras_lm.planning.pddl import read_pddl_domain

        return read_pddl_domain(file)
    return _domain(_read(file), file)


def read_problem(path: str | os.PathLike, domain: str | os.PathLike | None = None) -> Problem:
    """A problem from a file.

    Args:
        path: `.yaml` or `.pddl`, or the name of one of `PACKAGED`, for the problem that comes with it.
        domain: File of the domain. Default: the one that the problem names, beside it or packaged; a PDDL file names none.

    Raises:
        UserError: as `read_domain`.

    Example:

    >>> [str(one) for one in read_problem("blocks").goal]
    ['on(a, b)', 'on(b, c)', 'on(c, d)']
    """
    file = _PACKAGED / f"{path}-problem.yaml" if path in PACKAGED else pathlib.Path(path)
    if file.suffix == ".pddl":
        from keras_lm.planning.pddl import read_pddl_problem

        if domain is None:
            raise UserError(f"{path} needs the file of its domain as well")
        return read_pddl_problem(file, read_domain(domain))
    root = _read(file)
    if domain is None:
        name = root.needed("domain").text()
        beside = file.parent / name
        domain = beside if name not in PACKAGED and beside.suffix else name
        if domain == name and name not in PACKAGED:
            raise root.needed("domain").place.error(f"{name} is no file, and of the packaged domains there are {', '.join(PACKAGED)}")
    return _problem(root, file, read_domain(domain))


class _Entry:
    """A node of a YAML file with its place."""

    def __init__(self, node: yaml.Node, path: pathlib.Path):
        self.node, self._path = node, path
        self.place = Place(str(path), node.start_mark.line + 1)

    def items(self, allowed: Collection[str] | None = None) -> Iterator[tuple[str, _Entry]]:
        """Keys and values of a mapping, in their order."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.place.error(f"there should be a mapping, name: value, not {_shown(self.node)}")
        seen = set()
        for key, value in self.node.value:
            name = _Entry(key, self._path).text()
            here = Place(str(self._path), key.start_mark.line + 1)
            if allowed is not None and name not in allowed:
                raise here.error(unknown_name("field", name, allowed))
            if name in seen:
                raise here.error(f"{name} comes twice")
            seen.add(name)
            yield name, _Entry(value, self._path)

    def needed(self, name: str) -> _Entry:
        found = next((value for key, value in self.items() if key == name), None)
        if found is None:
            raise self.place.error(f"{name} is missing")
        return found

    def text(self) -> str:
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.place.error(f"there should be text, not {_shown(self.node)}; in brackets commas need quotes")
        return self.node.value

    def texts(self) -> list[_Entry]:
        """The entries of a list, or the one that stands in its place."""
        if isinstance(self.node, yaml.SequenceNode):
            return [_Entry(node, self._path) for node in self.node.value]
        return [self]

    def whole_number(self) -> int:
        if not re.fullmatch(r"\d+", self.text()):
            raise self.place.error(f"there should be a whole number, 0 or more, not {self.text()!r}")
        return int(self.text())

    def words(self) -> Texts:
        """By language; one text alone is for all of them."""
        if isinstance(self.node, yaml.ScalarNode):
            return {"": self.text()}
        return {language: value.text() for language, value in self.items()}

    def mapping(self) -> dict[str, str]:
        return {name: value.text() for name, value in self.items()}

    def literals(self) -> Placed:
        """`at(a, b), not c, a != b`, or a list of such."""
        return [(literal, one.place) for one in self.texts() for literal in _literals(one.text(), one.place)]


def _shown(node: yaml.Node) -> str:
    return {"scalar": "text", "sequence": "a list", "mapping": "a mapping"}[node.id]


_NAME = r"[^\s(),=!]+"
_LITERAL = re.compile(
    rf"\s*(?:(?P<left>{_NAME})\s*(?P<sign>!?=)\s*(?P<right>{_NAME})|(?P<no>not\s+)?(?P<name>{_NAME})\s*(?:\((?P<of>[^()]*)\))?)\s*(?:,|$)"
)


def _literals(text: str, place: Place) -> Iterator[Literal]:
    start = 0
    while start < len(text):
        found = _LITERAL.match(text, start)
        if not found:
            raise place.error(f"{text[start:].strip()!r} should read like at(a, b), not at(a, b), a = b or a != b, with commas between")
        start = found.end()
        if found["sign"]:
            yield predicate_literal(EQUAL, (found["left"], found["right"]), found["sign"] == "=")
        else:
            arguments = [one.strip() for one in found["of"].split(",")] if found["of"] and found["of"].strip() else []
            yield predicate_literal(found["name"], arguments, not found["no"])


def _read(path: pathlib.Path) -> _Entry:
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    except yaml.YAMLError as error:
        line = error.problem_mark.line + 1 if getattr(error, "problem_mark", None) else 1
        raise UserError(f"{path}, line {line}: {getattr(error, 'problem', None) or 'this is not YAML'}") from None
    if node is None:
        raise UserError(f"{path} is empty")
    return _Entry(node, path)


def _domain(root: _Entry, path: pathlib.Path) -> Domain:
    parts = dict(root.items(("name", "types", "constants", "names", "predicates", "rules", "actions")))
    builder = DomainBuilder(parts["name"].text() if "name" in parts else path.stem)
    if "types" in parts:
        builder.add_types(parts["types"].mapping(), parts["types"].place)
    if "constants" in parts:
        for kind, values in parts["constants"].items():
            builder.check_types({"": kind}, values.place)
            builder.constants.update((value.text(), kind) for value in values.texts())
    if "names" in parts:
        builder.names.update((name, value.words()) for name, value in parts["names"].items())
    for name, entry in parts["predicates"].items() if "predicates" in parts else ():
        own = dict(entry.items(("parameters", "text")))
        builder.add_predicate(name, _parameters(own, builder), entry.place, _words(own))
    for name, entry in parts["rules"].items() if "rules" in parts else ():
        own = dict(entry.items(("parameters", "if", "then", "text")))
        conclusions = entry.needed("then").literals()
        if len(conclusions) != 1:
            raise entry.place.error(f"rule {name} should conclude one fact, not {len(conclusions)}")
        conditions = own["if"].literals() if "if" in own else []
        builder.add_rule(name, _parameters(own, builder), conditions, conclusions[0][0], conclusions[0][1], _words(own))
    for name, entry in parts["actions"].items() if "actions" in parts else ():
        own = dict(entry.items(("parameters", "if", "effects", "cost", "text")))
        conditions, effects = (own[part].literals() if part in own else [] for part in ("if", "effects"))
        cost = own["cost"].whole_number() if "cost" in own else 1
        builder.add_action(name, _parameters(own, builder), conditions, effects, entry.place, cost=cost, text=_words(own))
    return builder.build(str(path))


def _parameters(parts: dict[str, _Entry], builder: DomainBuilder) -> dict[str, str]:
    found = dict(parts["parameters"].items()) if "parameters" in parts else {}
    for name, kind in found.items():
        builder.check_types({name: kind.text()}, kind.place)
    return {name: kind.text() for name, kind in found.items()}


def _words(parts: dict[str, _Entry]) -> Texts:
    return parts["text"].words() if "text" in parts else {}


def _problem(root: _Entry, path: pathlib.Path, domain: Domain) -> Problem:
    parts = dict(root.items(("domain", "name", "objects", "names", "facts", "goal")))
    objects = [
        (one.text(), kind, one.place) for kind, values in (parts["objects"].items() if "objects" in parts else ()) for one in values.texts()
    ]
    facts = parts["facts"].literals() if "facts" in parts else []
    names = {name: value.words() for name, value in parts["names"].items()} if "names" in parts else {}
    goal = root.needed("goal").literals()
    name = parts["name"].text() if "name" in parts else path.stem
    return build_problem(domain, objects, facts, goal, root.place, names=names, name=name)
