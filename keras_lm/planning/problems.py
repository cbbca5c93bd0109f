"""Planning problems made up by the thousand, each with its cheapest plan, to learn from and to measure with.

A world is made of some size, all its states are found (`keras_lm.planning.space`), and pairs of them are drawn: one as the beginning, of
the other some facts as the goal. Objects get names that are drawn anew. Two problems that differ in names alone have the same
`fingerprint`, by which some are held out: no form of them is learnt from.

References:
    Article A0 §2.3 and §3.4. Weisfeiler and Leman 1968, on which graphs are the same but for names. The blocks and the deliveries are
    after the first two International Planning Competitions (McDermott 2000; Bacchus 2001).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from keras_lm.errors import UserError, unknown_name
from keras_lm.planning.domain import Atom, Domain, Literal, Problem, Step
from keras_lm.planning.reading import read_domain
from keras_lm.planning.space import Space

HELD_OUT = 10
"""One problem of so many is held out."""


@dataclasses.dataclass(frozen=True)
class World:
    """How problems of a domain are made up.

    Args:
        make: From a size to a problem without a goal, from whose beginning every state of interest can be reached.
        wanted: The predicates that goals are made of.
        names: What objects of a type are called, more than any problem needs.
    """

    make: Callable[[Domain, int], Problem]
    wanted: tuple[str, ...]
    names: Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Solved:
    """A problem and the cheapest of its plans."""

    problem: Problem
    steps: tuple[Step, ...]
    size: int


def _blocks(domain: Domain, size: int) -> Problem:
    names = [f"block-{number}" for number in range(size)]
    facts = {Atom(said, (name,)) for name in names for said in ("on-table", "clear")} | {Atom("hand-empty")}
    return Problem(domain, dict.fromkeys(names, "block"), frozenset(facts), ())


def _deliveries(domain: Domain, size: int) -> Problem:
    """Two cities, a place and an airport in each, a truck for each and an aeroplane; the size is the number of parcels."""
    objects, facts = {"plane": "aeroplane"}, {Atom("at", ("plane", "airport-0"))}
    for number in range(2):
        city, airport, place, truck = (f"{kind}-{number}" for kind in ("city", "airport", "place", "truck"))
        objects |= {city: "city", airport: "airport", place: "place", truck: "truck"}
        facts |= {Atom("in-city", (airport, city)), Atom("in-city", (place, city)), Atom("at", (truck, place))}
    for number in range(size):
        objects[f"parcel-{number}"] = "parcel"
        facts.add(Atom("lies", (f"parcel-{number}", "place-0")))
    return Problem(domain, objects, frozenset(facts), ())


WORLDS: dict[str, World] = {
    "blocks": World(_blocks, ("on",), {"block": tuple("abcdefghijkl")}),
    "deliveries": World(
        _deliveries,
        ("lies",),
        {
            "parcel": ("letter", "chair", "lamp", "book", "clock", "vase", "rug", "desk"),
            "place": ("depot", "home", "school", "shop", "bank", "mill"),
            "airport": ("field", "runway", "strip", "hub"),
            "city": ("north", "south", "east", "west"),
            "truck": ("van", "lorry", "cart", "pickup"),
            "aeroplane": ("jet", "glider"),
        },
    ),
}
"""The domains whose problems can be made up; the size of a problem is the number of its blocks, or of its parcels."""


def made_up(domain: str, sizes: Mapping[int, float], count: int, *, seed: int = 0, held_out: bool = False) -> Iterator[Solved]:
    """Problems with their plans, in any order of sizes.

    Args:
        domain: A name of `WORLDS`.
        sizes: The share of each size.
        count: How many.
        seed: Decides them all.
        held_out: Whether they are of those that are held out, or of the others.

    Raises:
        UserError: no such domain; a size below 1, or one whose states are too many.

    Example:

    >>> problems = list(made_up("blocks", {3: 1}, 5, seed=1))
    >>> len(problems), len(problems[0].problem.objects)
    (5, 3)
    """
    if domain not in WORLDS:
        raise unknown_name("domain", domain, WORLDS)
    if not sizes or min(sizes) < 1 or count < 1:
        raise UserError(f"sizes and the number of problems must be at least 1, got {sorted(sizes)} and {count}")
    random = np.random.default_rng([seed, held_out])
    total = sum(sizes.values())
    order = random.choice(list(sizes), count, p=[share / total for share in sizes.values()])
    sources = {size: _of_size(domain, size, random, held_out) for size in sizes}
    for size in order:
        yield next(sources[size])


def _of_size(domain: str, size: int, random: np.random.Generator, held_out: bool) -> Iterator[Solved]:
    """Goal after goal, each with some beginnings, for finding the ways to a goal takes longer than going one."""
    world, space = WORLDS[domain], _space(domain, size)
    while True:
        final = space.facts(int(random.integers(len(space.edges))))
        goal = tuple(Literal(fact) for fact in sorted(final) if fact.predicate in world.wanted)
        if not goal:
            continue
        distances = space.distances(goal)
        for start in random.integers(len(space.edges), size=_STARTS):
            problem = dataclasses.replace(space.problem, facts=space.facts(int(start)), goal=goal)
            if (int(fingerprint(problem), 16) % HELD_OUT == 0) is held_out:
                steps = space.along(distances, int(start))
                if steps is not None:
                    yield _renamed(problem, steps, world, size, random)


_STARTS = 32


@functools.lru_cache(maxsize=16)
def _space(domain: str, size: int) -> Space:
    return Space(WORLDS[domain].make(read_domain(domain), size))


def _renamed(problem: Problem, steps: Sequence[Step], world: World, size: int, random: np.random.Generator) -> Solved:
    new = _names(problem, {kind: random.permutation(names).tolist() for kind, names in world.names.items()})
    return Solved(renamed(problem, new), tuple(Step(step.action, tuple(new[name] for name in step.arguments)) for step in steps), size)


def _names(problem: Problem, names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """For each object the next name of its type."""
    new: dict[str, str] = {}
    for kind, known in names.items():
        own = [name for name, of_kind in problem.objects.items() if of_kind == kind]
        if len(own) > len(known):
            raise UserError(f"there are names for {len(known)} objects of type {kind}, not for {len(own)}: choose a smaller problem")
        new |= zip(own, known, strict=False)
    return new


def renamed(problem: Problem, names: Mapping[str, str]) -> Problem:
    """A problem with other names for its objects, which then stand in the order of their names.

    Args:
        problem: Of which nothing else changes.
        names: The new name of each object.
    """
    return dataclasses.replace(
        problem,
        objects={names[name]: problem.objects[name] for name in sorted(problem.objects, key=names.__getitem__)},
        facts=frozenset(fact.where(names) for fact in problem.facts),
        goal=tuple(sorted(literal.where(names) for literal in problem.goal)),
        names={names[name]: texts for name, texts in problem.names.items()},
    )


def familiar_names(problem: Problem) -> dict[str, str]:
    """For each object its own name where a model can have met it, in problems made up here, and else one that it can have met.

    Raises:
        UserError: more objects than there are such names.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> familiar_names(read_problem("blocks"))
    {'a': 'a', 'b': 'b', 'c': 'c', 'd': 'd'}
    >>> familiar_names(read_problem("deliveries"))["north-truck"]
    'van'
    """
    world = WORLDS.get(problem.domain.name)
    if world is None or all(name in world.names.get(kind, ()) for name, kind in problem.objects.items()):
        return {name: name for name in problem.objects}
    return _names(problem, world.names)


def fingerprint(problem: Problem) -> str:
    """Sixteen digits that are the same for problems that differ in the names of their objects alone.

    Each object is described by its type, then again and again by the facts and parts of the goal it stands in and what they say of the
    objects beside it. Problems that are not the same have the same digits by chance alone, or where such descriptions cannot tell them.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> blocks = read_problem("blocks")
    >>> other = {"a": "d", "b": "c", "c": "b", "d": "a"}
    >>> renamed = dataclasses.replace(
    ...     blocks, facts=frozenset(fact.where(other) for fact in blocks.facts), goal=tuple(part.where(other) for part in blocks.goal)
    ... )
    >>> fingerprint(renamed) == fingerprint(blocks)
    True
    """
    said = [(fact.predicate, True, fact.arguments) for fact in problem.facts]
    said += [(f"goal {one.atom.predicate}", one.positive, one.atom.arguments) for one in problem.goal]
    colors: dict[str, object] = dict(problem.objects)
    for _ in problem.objects:
        seen: dict[str, list] = {name: [] for name in problem.objects}
        for predicate, positive, arguments in said:
            described = tuple(colors[name] for name in arguments)
            for place, name in enumerate(arguments):
                seen[name].append((predicate, positive, place, described))
        before = len(set(colors.values()))
        colors = {name: _digest((colors[name], *sorted(seen[name]))) for name in seen}
        if len(set(colors.values())) == before:
            break
    whole = sorted((predicate, positive, tuple(colors[name] for name in arguments)) for predicate, positive, arguments in said)
    return _digest(tuple(whole))


def _digest(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()
