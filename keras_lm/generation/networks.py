"""How a context-free grammar becomes an automaton over bytes: a recursive transition network, unfolded as deep as rules may nest.

Each rule is an automaton over symbols; an edge with a rule's name is a call, which remembers on a stack where to go on behind it. Bounded,
the stacks are finitely many, and all of them that a text may have come to together are one state of the automaton over bytes.

Only what needs a stack is bounded. A rule that begins with itself becomes a loop, and one that ends with itself a jump to its beginning; a
call behind which nothing is left to do needs no place on the stack. Of the calls that lead a rule back into itself those count that stand
between two other parts, as in `"(" expression ")"`; should some recursion hold no such call, all of its calls that need a place count.

References:
    Woods 1970, «Transition Network Grammars for Natural Language Analysis».
    Brzozowski 1962, «Canonical regular expressions and minimal state graphs for definite events»: reversed and made deterministic twice.
"""

from __future__ import annotations

import collections
import dataclasses
import graphlib
from collections.abc import Collection, Iterable, Mapping, Sequence

from keras_lm.errors import UserError
from keras_lm.generation.constraints import ByteAutomaton

Rules = Mapping[str, Collection[Sequence[str]]]
"""The productions of each rule: the names of rules and terminals. Names with `__` in front are parts of the rules that use them."""

MOST_STATES = 100_000
"""Beyond these a grammar is refused."""


def unfolded(rules: Rules, terminals: Mapping[str, ByteAutomaton], start: str, depth: int) -> ByteAutomaton:
    """The automaton of the texts of a grammar in which rules nest no deeper than `depth`.

    Args:
        rules: The grammar.
        terminals: What each name that is no rule's stands for.
        start: The rule of a whole text.
        depth: The most calls that count, one within the other.

    Raises:
        UserError: indirect left recursion, too many states, or no text at all.

    Example:

    >>> import numpy as np
    >>> from keras_lm.generation.constraints import read_strings
    >>> rules = {"start": [["(", "start", ")"], ["x"]]}
    >>> automaton = unfolded(rules, {name: read_strings([name]) for name in "()x"}, "start", 1)
    >>> letters = np.array([ord(letter) for letter in "(x)"])
    >>> (automaton.step(np.full(3, automaton.first), letters) >= 0).tolist()  # what a text may begin with
    [True, True, False]
    """
    network = _network(rules, terminals, start)
    stacks = _Stacks(network, {name: bool(automaton.accepting[automaton.first]) for name, automaton in terminals.items()}, start, depth)
    rows, ends, firsts = _side_by_side(terminals)
    begin = len(rows)  # where no terminal has begun
    rows.append({})
    ends.append(True)

    origin = frozenset([(begin, stacks.bottom)])
    numbers, waiting = {origin: 0}, [origin]
    edges, accepting = [], []
    while waiting:
        places = waiting.pop()
        number = numbers[places]
        following: dict[int, set[tuple[int, int]]] = collections.defaultdict(set)
        for place, stack in places:
            for value, target in rows[place].items():
                following[value].add((target, stack))
            if ends[place]:
                begun, whole = stacks.going_on(stack)
                for name, later in begun:
                    for value, target in rows[firsts[name]].items():
                        following[value].add((target, later))
                if whole and (not accepting or accepting[-1] != number):
                    accepting.append(number)
        for value, reached in following.items():
            reached = frozenset(reached)
            if reached not in numbers:
                numbers[reached] = len(numbers)
                waiting.append(reached)
            edges.append((number, value, numbers[reached]))
        if len(numbers) > MOST_STATES:
            raise UserError(f"the grammar has more than {MOST_STATES} states at depth {depth}: lower depth, or nest fewer rules")
    if not accepting:
        raise UserError(
            f"the grammar has no text at depth {depth}: raise depth, or give its rules an alternative that does not lead back to them"
        )
    return ByteAutomaton.of(edges, 0, accepting)


def _side_by_side(terminals: Mapping[str, ByteAutomaton]) -> tuple[list[dict[int, int]], list[bool], dict[str, int]]:
    """All terminals as one automaton: the edges and whether a terminal ends at each state, and the first state of each terminal."""
    rows: list[dict[int, int]] = []
    ends: list[bool] = []
    firsts = {}
    for name, automaton in terminals.items():
        offset = len(rows)
        firsts[name] = offset + automaton.first
        ends.extend(automaton.accepting.tolist())
        rows.extend({} for _ in automaton.accepting)
        for key, target in zip(automaton.keys.tolist(), automaton.targets.tolist(), strict=True):
            rows[offset + (key >> 8)][key & 255] = offset + target
    return rows, ends, firsts


@dataclasses.dataclass(frozen=True)
class _Network:
    """The automata of all rules side by side.

    Attributes:
        edges: The symbol and the target of each edge, by state.
        final: Whether a rule ends, by state.
        firsts: The first state of each rule.
        counted: The edges, as `(state, rule)`, that make a text deeper.
    """

    edges: list[dict[str, int]]
    final: list[bool]
    firsts: dict[str, int]
    counted: set[tuple[int, str]]

    def last(self, state: int) -> bool:
        """Whether nothing is left to do in a state but to go back."""
        return self.final[state] and not self.edges[state]


def _network(rules: Rules, terminals: Mapping[str, ByteAutomaton], start: str) -> _Network:
    _refuse_indirect_left_recursion(rules, _empty(rules, terminals))
    network = _Network([], [], {}, set())
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name in network.firsts:
            continue
        offset = len(network.edges)
        edges, final = _automaton(rules, name)
        network.firsts[name] = offset
        network.final.extend(final)
        network.edges.extend({symbol: offset + target for symbol, target in row.items()} for row in edges)
        waiting.extend(symbol for row in edges for symbol in row if symbol in rules)
    _count(network)
    return network


def _count(network: _Network) -> None:
    """Finds the calls that count, so that every recursion that needs the stack holds one."""
    owner = {}
    for name, first in network.firsts.items():
        states = [first]
        while states:
            state = states.pop()
            if state not in owner:
                owner[state] = name
                states.extend(network.edges[state].values())
    calls = [(state, name, target) for state, row in enumerate(network.edges) for name, target in row.items() if name in network.firsts]

    def recursive(calls: Iterable[tuple[int, str, int]]) -> list[tuple[int, str, int]]:
        graph = collections.defaultdict(set)
        for state, name, _ in calls:
            graph[owner[state]].add(name)
        reached = {name: _reached(graph, name) for name in network.firsts}
        return [(state, name, target) for state, name, target in calls if owner[state] in reached[name]]

    between = [
        (state, name) for state, name, target in recursive(calls) if state != network.firsts[owner[state]] and not network.final[target]
    ]
    network.counted.update(between)
    others = recursive([call for call in calls if call[:2] not in network.counted])
    network.counted.update((state, name) for state, name, target in others if not network.last(target))


def _reached(graph: Mapping[str, Collection[str]], name: str) -> set[str]:
    """What can be reached from a node, itself included."""
    reached, waiting = {name}, [name]
    while waiting:
        new = set(graph.get(waiting.pop(), ())) - reached
        reached |= new
        waiting.extend(new)
    return reached


def _empty(rules: Rules, terminals: Mapping[str, ByteAutomaton]) -> set[str]:
    """The symbols that may stand for no text at all."""
    empty = {name for name, automaton in terminals.items() if automaton.accepting[automaton.first]}
    before = -1
    while before < len(empty):
        before = len(empty)
        empty |= {name for name, productions in rules.items() if any(empty.issuperset(symbols) for symbols in productions)}
    return empty


def _refuse_indirect_left_recursion(rules: Rules, empty: Collection[str]) -> None:
    before: dict[str, set[str]] = {name: set() for name in rules}  # what may stand at the beginning of each rule
    for name, productions in rules.items():
        for symbols in productions:
            for place, symbol in enumerate(symbols):
                if symbol in rules and (place, symbol) != (0, name):
                    before[name].add(symbol)
                if symbol not in empty:
                    break
    try:
        graphlib.TopologicalSorter(before).prepare()
    except graphlib.CycleError as error:
        way = " → ".join(name for name in reversed(error.args[1]) if not name.startswith("__"))
        raise UserError(f"the grammar has indirect left recursion, {way}: let each rule begin with another part, or with itself") from None


def _automaton(rules: Rules, rule: str) -> tuple[list[dict[str, int]], list[bool]]:
    """The smallest automaton over symbols of one rule, its parts put in, its own recursion at either end made into loops."""
    edges: list[tuple[int, str | None, int]] = []
    states = 2

    def write(name: str, begin: int, end: int) -> None:
        nonlocal states
        for symbols in rules[name]:
            state, goal = begin, end
            if symbols and symbols[0] == name:
                state, symbols = end, symbols[1:]
            if symbols and symbols[-1] == name:
                goal, symbols = begin, symbols[:-1]
            for symbol in symbols:
                if symbol.startswith("__") and symbol in rules:
                    edges.append((state, None, states))
                    state, states = states + 1, states + 2
                    write(symbol, state - 1, state)
                else:
                    edges.append((state, symbol, states))
                    state, states = states, states + 1
            edges.append((state, None, goal))

    write(rule, 0, 1)
    firsts, finals = {0}, {1}
    for _ in range(2):
        edges, firsts, finals = _deterministic([(target, symbol, state) for state, symbol, target in edges], finals, firsts)
    rows: list[dict[str, int]] = [{} for _ in range(1 + max([0, *(max(state, target) for state, _, target in edges)]))]
    for state, symbol, target in edges:
        rows[state][symbol] = target
    return rows, [state in finals for state in range(len(rows))]


def _deterministic(
    edges: Iterable[tuple[int, str | None, int]], firsts: Collection[int], finals: Collection[int]
) -> tuple[list[tuple[int, str, int]], set[int], set[int]]:
    """The subset construction, with edges that read nothing (`None`): edges, the first state, which is 0, and the final ones."""
    after: dict[int, dict[str | None, set[int]]] = collections.defaultdict(lambda: collections.defaultdict(set))
    for state, symbol, target in edges:
        after[state][symbol].add(target)

    def closed(states: Iterable[int]) -> frozenset[int]:
        found, waiting = set(states), list(states)
        while waiting:
            new = after[waiting.pop()].get(None, set()) - found
            found |= new
            waiting.extend(new)
        return frozenset(found)

    first = closed(firsts)
    numbers, waiting, found = {first: 0}, [first], []
    while waiting:
        subset = waiting.pop()
        for symbol in sorted({symbol for state in subset for symbol in after[state] if symbol is not None}):
            reached = closed({target for state in subset for target in after[state].get(symbol, ())})
            if reached not in numbers:
                numbers[reached] = len(numbers)
                waiting.append(reached)
            found.append((numbers[subset], symbol, numbers[reached]))
    return found, {0}, {number for subset, number in numbers.items() if not subset.isdisjoint(finals)}


class _Stacks:
    """Stacks, each a number: a state of the network to go on from, the stack below it, and how many calls that count may still be made.

    Args:
        network: Of the grammar.
        empty: Whether each terminal may stand for no text.
        start: The rule of a whole text.
        depth: The most calls that count.

    Attributes:
        bottom: Where a text begins.
    """

    def __init__(self, network: _Network, empty: Mapping[str, bool], start: str, depth: int):
        self._network, self._empty = network, empty
        self._numbers: dict[tuple[int, int, int], int] = {}
        self._stacks: list[tuple[int, int, int]] = []
        self._known: dict[int, tuple[list[tuple[str, int]], bool]] = {}
        self.bottom = self._number(network.firsts[start], -1, depth)

    def _number(self, state: int, below: int, left: int) -> int:
        if below >= 0 and self._network.last(state):
            return below
        stack = (state, below, left)
        if stack not in self._numbers:
            self._numbers[stack] = len(self._stacks)
            self._stacks.append(stack)
        return self._numbers[stack]

    def going_on(self, stack: int) -> tuple[list[tuple[str, int]], bool]:
        """The terminals that may come next, each with the stack behind it, and whether the text may end."""
        if stack in self._known:
            return self._known[stack]
        begun, whole = [], False
        seen, waiting = {stack}, [stack]
        while waiting:
            state, below, left = self._stacks[waiting.pop()]
            reached = []
            if self._network.final[state]:
                whole |= below < 0
                if below >= 0:
                    reached.append(below)
            for symbol, target in self._network.edges[state].items():
                later = self._number(target, below, left)
                if symbol in self._empty:
                    begun.append((symbol, later))
                    if self._empty[symbol]:
                        reached.append(later)
                elif left >= (cost := (state, symbol) in self._network.counted):
                    reached.append(self._number(self._network.firsts[symbol], later, left - cost))
            new = set(reached) - seen
            seen |= new
            waiting.extend(new)
        self._known[stack] = begun, whole
        return begun, whole
