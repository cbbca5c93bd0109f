"""All states that can be reached from the beginning of a problem, and the steps between them: for problems of few objects.

Each fact that an action changes is a bit, and a state a whole number; actions and rules are put on objects once, beforehand. From here
come the cheapest plans of thousands of problems that differ in beginning and goal alone, and the automaton that holds a model to the rules.

References:
    Article A0 §3.4. Dijkstra 1959, «A Note on Two Problems in Connexion with Graphs».
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from keras_lm.errors import UserError
from keras_lm.planning.domain import EQUAL, Atom, Literal, Problem, Step
from keras_lm.planning.inference import FactIndex, closure, matches

MOST_STATES = 100_000
"""More are refused: the table of their steps would fill the memory."""


class _Condition(NamedTuple):
    """Bits that have to be there, and bits that must not."""

    present: int
    absent: int

    def holds(self, state: int) -> bool:
        return state & self.present == self.present and not state & self.absent


class Space:
    """The states of a problem, found breadth first from its beginning, which is state 0.

    Args:
        problem: Its goal is not asked for.
        most: States; more are refused. Default `MOST_STATES`.

    Attributes:
        steps: Every action on all objects for which what never changes allows it.
        edges: For each state the steps that can be made in it, `(step, state)`: places in `steps`, in their order, and states.

    Raises:
        UserError: more than `most` states.

    Example:

    >>> from keras_lm.planning import read_problem
    >>> blocks = read_problem("blocks")
    >>> space = Space(blocks)
    >>> len(space.edges), [str(step) for step in space.plan(blocks.goal)][:2]
    (125, ['unstack(c, a)', 'stack(c, d)'])
    """

    def __init__(self, problem: Problem, most: int = MOST_STATES):
        self.problem = problem
        domain = problem.domain
        self._fixed = FactIndex(fact for fact in closure(problem).facts if fact.predicate in domain.static)
        self._bits: dict[Atom, int] = {}
        self._rules: list[list[tuple[_Condition, int]]] = []
        for layer in domain.strata:
            rules = [domain.rules[name] for name in layer if domain.rules[name].conclusion.predicate not in domain.static]
            ground = [(rule, values) for rule in rules for values in self._bindings(rule.parameters, rule.conditions)]
            self._rules.append(
                [(self._condition(rule.conditions, values), self._bit(rule.conclusion.where(values))) for rule, values in ground]
            )
        self.steps: list[Step] = []
        self._changes: list[tuple[_Condition, int, int]] = []
        for name, action in domain.actions.items():
            for values in self._bindings(action.parameters, action.conditions):
                effects = [one.where(values) for one in action.effects]
                added, removed = (self._mask(one.atom for one in effects if one.positive is kind) for kind in (True, False))
                self.steps.append(Step(name, tuple(values.values())))
                self._changes.append((self._condition(action.conditions, values), added, removed))
        self._costs = [domain.actions[step.action].cost for step in self.steps]
        self._states: list[int] = []
        self.edges: list[list[tuple[int, int]]] = []
        self._explore(self._mask(fact for fact in problem.facts if fact.predicate not in domain.static), most)

    def plan(self, goal: Sequence[Literal], start: int = 0) -> list[Step] | None:
        """The cheapest plan from a state to a goal, `None` if there is none: of several the shortest, of these the first by `steps`."""
        return self.along(self.distances(goal), start)

    def distances(self, goal: Sequence[Literal]) -> list[float]:
        """How far each state is from a goal, for `along`; infinite where there is no way."""
        far = [math.inf] * len(self.edges)
        waiting = [(0, state) for state in self.satisfying(goal)]
        for _, state in waiting:
            far[state] = 0
        before: list[list[tuple[int, int]]] = [[] for _ in self.edges]
        for source, edges in enumerate(self.edges):
            for step, target in edges:
                before[target].append((step, source))
        while waiting:
            distance, state = heapq.heappop(waiting)
            if distance == far[state]:
                for step, source in before[state]:
                    if (new := distance + self._length(step)) < far[source]:
                        far[source] = new
                        heapq.heappush(waiting, (new, source))
        return far

    def along(self, distances: Sequence[float], start: int = 0) -> list[Step] | None:
        """As `plan`, for a goal whose `distances` are known."""
        if distances[start] == math.inf:
            return None
        found, state = [], start
        while distances[state]:
            nearer = (edge for edge in self.edges[state] if distances[edge[1]] + self._length(edge[0]) == distances[state])
            step, state = next(nearer)
            found.append(self.steps[step])
        return found

    def satisfying(self, goal: Sequence[Literal]) -> list[int]:
        """The states in which a goal holds."""
        fixed = [one for one in goal if one.atom.predicate == EQUAL or one.atom.predicate in self.problem.domain.static]
        if not all(one.holds(self._fixed) for one in fixed):
            return []
        wanted = self._condition(goal, {})
        return [place for place, state in enumerate(self._states) if wanted.holds(self._closed(state))]

    def facts(self, state: int) -> frozenset[Atom]:
        """What is so in a state, without what follows by rules."""
        static = self.problem.domain.static
        changed = frozenset(atom for atom, bit in self._bits.items() if self._states[state] & bit)
        return changed | frozenset(fact for fact in self.problem.facts if fact.predicate in static)

    def _length(self, step: int) -> int:
        """Its cost, and behind that the number of steps, so that what costs nothing is not done over and over."""
        return self._costs[step] << 32 | 1

    def _bindings(self, parameters: Mapping[str, str], conditions: Sequence[Literal]) -> Iterator[dict[str, str]]:
        """Objects for variables, in the objects' order, as far as what never changes allows."""
        fixed = [one for one in conditions if one.atom.predicate == EQUAL or one.atom.predicate in self.problem.domain.static]
        order = {name: place for place, name in enumerate(self.problem.objects)}
        found = matches(self.problem, parameters, fixed, self._fixed)
        yield from sorted(found, key=lambda values: [order[one] for one in values.values()])

    def _condition(self, conditions: Iterable[Literal], values: Mapping[str, str]) -> _Condition:
        """Of what changes; the rest has been seen to."""
        changing = [one.where(values) for one in conditions if one.atom.predicate not in {EQUAL, *self.problem.domain.static}]
        return _Condition(*(self._mask(one.atom for one in changing if one.positive is kind) for kind in (True, False)))

    def _mask(self, atoms: Iterable[Atom]) -> int:
        mask = 0
        for atom in atoms:
            mask |= self._bit(atom)
        return mask

    def _bit(self, atom: Atom) -> int:
        return self._bits.setdefault(atom, 1 << len(self._bits))

    def _closed(self, state: int) -> int:
        """A state with what follows from it."""
        for layer in self._rules:
            before = None
            while before != state:
                before = state
                for condition, conclusion in layer:
                    if condition.holds(state):
                        state |= conclusion
        return state

    def _explore(self, first: int, most: int) -> None:
        places = {first: 0}
        self._states.append(first)
        for state in self._states:  # which grows
            whole = self._closed(state)
            edges = []
            for step, (condition, added, removed) in enumerate(self._changes):
                if condition.holds(whole):
                    after = state & ~removed | added
                    target = places.setdefault(after, len(places))
                    if target == len(self._states):
                        self._states.append(after)
                    edges.append((step, target))
            self.edges.append(edges)
            if len(self._states) > most:
                raise UserError(f"more than {most:,} states can be reached in {self.problem.name}: choose a problem of fewer objects")
