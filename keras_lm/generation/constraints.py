"""How a constraint is made: from a regular expression, or a list of strings, to edges between states, each with a token.

First comes an automaton over bytes: outlines-core's for a regular expression, a prefix tree for strings. Then every state is taken together
with the prefix tree of all tokens, and both are walked at once, byte by byte: a token whose last byte is reached is an edge. What cannot
reach an end is cut off, so that no text runs into a dead end. NumPy throughout; `keras_lm.generation.automata` runs the result.

References:
    Willard and Louf 2023, «Efficient Guided Generation for Large Language Models».
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from keras_lm.errors import UserError
from keras_lm.text_codec import NUM_SPECIAL


@dataclasses.dataclass(frozen=True, eq=False)
class ByteAutomaton:
    """An automaton over bytes.

    Args:
        keys: `(edges,)`, ascending: `state << 8 | byte`.
        targets: `(edges,)`: the state each edge leads to.
        first: The state of the empty text.
        accepting: `(states,)` bool: where a text may end.
    """

    keys: np.ndarray
    targets: np.ndarray
    first: int
    accepting: np.ndarray

    @classmethod
    def of(cls, edges: Iterable[tuple[int, int, int]], first: int, accepting: Iterable[int]) -> ByteAutomaton:
        """From `(state, byte, state)` triples, where states may be any numbers."""
        flat = np.fromiter(itertools.chain.from_iterable(edges), np.int64).reshape(-1, 3)
        ends = np.fromiter(accepting, np.int64)
        names, numbers = np.unique(np.concatenate([flat[:, 0], flat[:, 2], ends, [first]]), return_inverse=True)
        sources, targets, ends, first = np.split(numbers, np.cumsum([len(flat), len(flat), len(ends)]))
        keys = sources << 8 | flat[:, 1]
        order = np.argsort(keys)
        return cls(keys[order], targets[order], int(first[0]), np.isin(np.arange(len(names)), ends))

    def step(self, states: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The states after one byte each, -1 where there is none."""
        if not self.keys.size:
            return np.full(len(states), -1)
        wanted = states << 8 | values
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where(self.keys[places] == wanted, self.targets[places], -1)


@dataclasses.dataclass(frozen=True, eq=False)
class TokenEdges:
    """An automaton over tokens, whose first state is 0: `(edges,)` sources, tokens and targets, sorted; `(states,)` bool accepting."""

    sources: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray
    accepting: np.ndarray


def read_pattern(pattern: str) -> ByteAutomaton:
    """The automaton of a regular expression, for texts that match it as a whole.

    Raises:
        UserError: a pattern that cannot be read or that no text matches.

    Example:

    >>> automaton = read_pattern("[ab]c?")
    >>> (automaton.step(np.array([automaton.first] * 2), np.array([ord("b"), ord("c")])) >= 0).tolist()
    [True, False]
    """
    import outlines_core

    inner = pattern.removeprefix("^")  # the whole text is matched anyway, and the library refuses it
    try:
        if "unbalanced parenthesis" in _complaint(inner):  # it would close the group below
            raise ValueError("")
        index = outlines_core.Index(rf"{_BEFORE.decode()}(?:{inner})\z|", _symbols())
    except ValueError as error:
        if "no transitions from state" in str(error):
            raise UserError(f"the pattern {shown(pattern)} has a part that no text matches") from None
        reason = " ".join(str(error).split()).removeprefix("Failed to build DFA ").removeprefix("error building NFA")
        reason = reason or _complaint(inner) or "neither look-around nor back-references are known, nor all of Python's escapes"
        raise UserError(f"the pattern {shown(pattern)} cannot be used: {reason}") from None
    transitions = index.get_transitions()
    edges = ((state, value, target) for state, row in transitions.items() for value, target in row.items() if value < 256)
    return ByteAutomaton.of(edges, transitions[index.get_initial_state()][_BEFORE_ID], index.get_final_states())


# outlines-core seeks the leftmost match, and the first alternative of it: a|ab would take «a» and never get to «ab». `\z` makes it follow
# all alternatives to the end of the text. It also builds an automaton that seeks a match anywhere, which nobody uses and which may grow
# exponentially; the empty alternative keeps that one small. Both need something in front of the text: line feeds, so that (?m)^ holds
# behind them, and two, read as one symbol, because an edge that follows an empty match is dropped.
_BEFORE, _BEFORE_ID, _END_ID = b"\n\n", 257, 256


@functools.cache
def _symbols():
    import outlines_core

    return outlines_core.Vocabulary(_END_ID, {**{bytes([value]): [value] for value in range(256)}, _BEFORE: [_BEFORE_ID]})


def _complaint(pattern: str) -> str:
    """What Python has to say against a pattern, for outlines-core gives no reason."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return str(error)
    return ""


def read_strings(strings: Iterable[str]) -> ByteAutomaton:
    """The automaton of a list of strings: a prefix tree, for which outlines-core takes ten times as long."""
    edges, ends = prefix_tree(string.encode() for string in strings)
    return ByteAutomaton.of(((key >> 8, key & 255, node) for key, node in edges.items()), 0, ends)


def prefix_tree(strings: Iterable[bytes]) -> tuple[dict[int, int], list[int]]:
    """`node << 8 | byte` → node, from the root 0 on, and the node at which each string ends.

    Example:

    >>> edges, ends = prefix_tree([b"ab", b"a"])
    >>> {(key >> 8, chr(key & 255)): node for key, node in edges.items()}, ends
    ({(0, 'a'): 1, (1, 'b'): 2}, [2, 1])
    """
    edges: dict[int, int] = {}
    ends = []
    for string in strings:
        node = 0
        for value in string:
            node = edges.setdefault(node << 8 | value, len(edges) + 1)
        ends.append(node)
    return edges, ends


def token_edges(automaton: ByteAutomaton, pieces: Sequence[bytes], name: str, special: Collection[int] = range(NUM_SPECIAL)) -> TokenEdges:
    """From an automaton over bytes to one over the tokens of a tokenizer.

    Args:
        automaton: Over bytes.
        pieces: What each id writes; those of `special`, and ids that write nothing, get no edge.
        name: What the automaton came from, for the message.
        special: The ids that stand for no text.

    Raises:
        UserError: no sequence of tokens leads from the first state to an accepting one.
    """
    sources, tokens, targets = _walk(automaton, pieces, special)
    states = len(automaton.accepting)
    reached = _reachable(sources, targets, np.array([automaton.first]), states)
    useful = _reachable(targets, sources, np.flatnonzero(automaton.accepting & reached), states) & reached
    if not useful[automaton.first]:
        raise UserError(f"no text that this tokenizer can write matches the {name}")
    useful[automaton.first] = False
    kept = np.concatenate([[automaton.first], np.flatnonzero(useful)])
    number = np.full(states, -1)
    number[kept] = np.arange(len(kept))
    inside = (number[sources] >= 0) & (number[targets] >= 0)
    sources, tokens, targets = number[sources[inside]], tokens[inside], number[targets[inside]]
    order = np.argsort(sources * len(pieces) + tokens)
    return TokenEdges(sources[order], tokens[order], targets[order], automaton.accepting[kept])


def _walk(automaton: ByteAutomaton, pieces: Sequence[bytes], special: Collection[int]) -> tuple[np.ndarray, ...]:
    """All `(state, token, state)` edges, in any order."""
    ids = np.array([token for token, piece in enumerate(pieces) if piece and token not in special], np.int64)
    tree, ends = prefix_tree(pieces[token] for token in ids)
    keys, nodes = np.fromiter(tree.keys(), np.int64, len(tree)), np.fromiter(tree.values(), np.int64, len(tree))
    order = np.argsort(keys)
    values, nodes = keys[order] & 255, nodes[order]  # the byte and the node of every child, those of one parent side by side
    children = np.searchsorted(keys[order] >> 8, np.arange(len(tree) + 2))
    order = np.argsort(ends, kind="stable")
    ids = ids[order]  # those that end at one node side by side
    endings = np.searchsorted(np.array(ends, np.int64)[order], np.arange(len(tree) + 2))
    found = []
    for chunk in range(0, len(automaton.accepting), _CHUNK):
        origin = state = np.arange(chunk, min(chunk + _CHUNK, len(automaton.accepting)))
        node = np.zeros_like(origin)
        while origin.size:
            which, child = _spans(children[node], children[node + 1])
            state = automaton.step(state[which], values[child])
            alive = state >= 0
            origin, state, node = origin[which[alive]], state[alive], nodes[child[alive]]
            which, place = _spans(endings[node], endings[node + 1])
            found.append((origin[which], ids[place], state[which]))
    return tuple(map(np.concatenate, zip(*found, strict=True)))


_CHUNK = 256  # states walked at once, which bounds the memory


def _spans(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of many ranges in a row, each with the index of its range: [2, 7], [4, 8] → [0, 0, 1], [2, 3, 7]."""
    sizes = stops - starts
    which = np.repeat(np.arange(len(sizes)), sizes)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + starts[which]


def _reachable(sources: np.ndarray, targets: np.ndarray, seeds: np.ndarray, states: int) -> np.ndarray:
    """Which states can be reached from `seeds`, themselves included: `(states,)` bool."""
    return distances(sources, targets, seeds, states) < UNREACHABLE


def distances(sources: np.ndarray, targets: np.ndarray, seeds: np.ndarray, states: int) -> np.ndarray:
    """The fewest edges from any of `seeds` to each state, `UNREACHABLE` where there is no way: `(states,)`.

    Example:

    >>> distances(np.array([0, 1, 0]), np.array([1, 2, 2]), np.array([0]), 4).tolist() == [0, 1, 1, UNREACHABLE]
    True
    """
    order = np.argsort(sources, kind="stable")
    starts, targets = np.searchsorted(sources[order], np.arange(states + 1)), targets[order]
    found, distance = np.full(states, UNREACHABLE), 0
    while seeds.size:
        found[seeds] = distance
        following = targets[_spans(starts[seeds], starts[seeds + 1])[1]]
        seeds, distance = np.unique(following[found[following] == UNREACHABLE]), distance + 1
    return found


UNREACHABLE = 1 << 30


def shown(text: str) -> str:
    """A text as a message quotes it: in one line, and not too long."""
    return repr(text if len(text) <= 60 else text[:57] + "...")
