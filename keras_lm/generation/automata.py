"""Two automata that the sampler steps beside the model: which tokens may come next, and whether a stop string has come.

A text under a constraint is led to an end: near its limit no token may come behind which too few are left to end the text.

Both are tables, made once in NumPy, and pure functions on `(batch,)` int32 states that run eagerly, in a graph and under XLA. A token is
the bytes it writes (`Tokenizer.pieces`), so strings may begin and end inside tokens. The sizes of the tables are rounded up to powers of
two, so that another pattern or another stop string compiles nothing.

References:
    Willard and Louf 2023, «Efficient Guided Generation for Large Language Models»: a regular expression as an automaton over tokens.
    Aho and Corasick 1975, «Efficient String Matching»: all stop strings at once, a step a byte.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.generation import constraints
from keras_lm.tokenizer_base import NUM_SPECIAL

FREE, START = -1, 0
"""The state of a row without a constraint, and the state in which every constraint begins."""

UNREACHABLE = constraints.UNREACHABLE
"""The `distance` of a state from which no text can end."""


class ConstraintTensors(NamedTuple):
    """The tables of a `Constraint`, as `allowed` and `advance` take them."""

    starts: tf.Tensor
    tokens: tf.Tensor
    targets: tf.Tensor
    accepting: tf.Tensor
    distance: tf.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Constraint:
    """An automaton over tokens, its edges in compressed rows. `of` makes one of its edges.

    Args:
        starts: `(states + 1,)` int32: the edges of state s are those from `starts[s]` up to `starts[s + 1]`. State 0 is the first.
        tokens: `(edges,)` int32: the token of each edge, ascending within a state.
        targets: `(edges,)` int32: the state each edge leads to.
        accepting: `(states,)` int32: 1 where the text may end.
        distance: `(states,)` int32: the fewest tokens after which the text may end, `UNREACHABLE` where it never may.
    """

    starts: np.ndarray
    tokens: np.ndarray
    targets: np.ndarray
    accepting: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(cls, edges: constraints.TokenEdges) -> Constraint:
        """The automaton of edges that are sorted by their sources, and by their tokens within one. States from which no text can end do
        no harm: their distance says so."""
        starts = np.searchsorted(edges.sources, np.arange(len(edges.accepting) + 1))
        distance = constraints.distances(edges.targets, edges.sources, np.flatnonzero(edges.accepting), len(edges.accepting))
        return cls(*(values.astype(np.int32) for values in (starts, edges.tokens, edges.targets, edges.accepting, distance)))

    @property
    def degree(self) -> int:
        """At least the most edges of any state."""
        return _padded(int(np.diff(self.starts).max()), 64)

    def tensors(self) -> ConstraintTensors:
        """The tables as tensors, padded."""
        states, edges = _padded(len(self.starts), 64), _padded(len(self.tokens), 1024)
        return ConstraintTensors(
            starts=_filled(self.starts, states, len(self.tokens)),
            tokens=_filled(self.tokens, edges, 0),
            targets=_filled(self.targets, edges, 0),
            accepting=_filled(self.accepting, states, 0),
            distance=_filled(self.distance, states, 0),
        )


class Pattern(Protocol):
    """What `allow` takes: `Regex`, `Choice`, `keras_lm.generation.grammar.Grammar`, or what else can be hashed and has this method."""

    def compile(self, pieces: Sequence[bytes], special: Collection[int] = range(NUM_SPECIAL)) -> Constraint:
        """The automaton over the tokens of one tokenizer.

        Args:
            pieces: What each id writes (`Tokenizer.pieces`).
            special: The ids that are never used (`Tokenizer.special_ids`).

        Raises:
            UserError: nothing that these tokens can write is allowed.
        """


@dataclasses.dataclass(frozen=True)
class Regex:
    """Texts that a regular expression matches as a whole.

    Args:
        pattern: In the syntax of Rust's regex crate: Python's without look-around and back-references, and with `\\p{Han}`.

    Example:

    >>> from keras_lm.tokenizers import CharacterTokenizer
    >>> tokenizer = CharacterTokenizer(["a", "b", "c"])
    >>> constraint = Regex("a+b").compile(tokenizer.pieces())
    >>> tables, state, left = constraint.tensors(), tf.constant([START]), tf.constant([9])
    >>> allowed(tables, constraint.degree, state, left, tokenizer.vocabulary_size, tokenizer.end_id).numpy().tolist()
    [[False, False, False, False, True, False, False]]

    References:
        https://docs.rs/regex/latest/regex/#syntax
    """

    pattern: str

    def compile(self, pieces: Sequence[bytes], special: Collection[int] = range(NUM_SPECIAL)) -> Constraint:
        """As `Pattern.compile`.

        Raises:
            UserError: a pattern that cannot be read, that no text matches, or whose texts these tokens cannot write.
        """
        name = f"pattern {constraints.shown(self.pattern)}"
        return Constraint.of(constraints.token_edges(constraints.read_pattern(self.pattern), pieces, name, special))


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a list of texts; those that a tokenizer cannot write are left out.

    Args:
        strings: At least one.

    Raises:
        UserError: no strings.

    Example:

    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> int(Choice(["yes", "no"]).compile(ByteTokenizer().pieces()).accepting.sum())
    2
    """

    strings: Sequence[str]

    def __post_init__(self) -> None:
        if isinstance(self.strings, str) or not self.strings:
            raise UserError(f"strings must be a list of at least one string, got {self.strings!r}")
        object.__setattr__(self, "strings", tuple(self.strings))

    def compile(self, pieces: Sequence[bytes], special: Collection[int] = range(NUM_SPECIAL)) -> Constraint:
        """As `Pattern.compile`."""
        name = f"choice of {constraints.shown(', '.join(self.strings))}"
        return Constraint.of(constraints.token_edges(constraints.read_strings(self.strings), pieces, name, special))


def joined(parts: Sequence[Constraint | None]) -> tuple[Constraint | None, np.ndarray]:
    """Several constraints as one, in which every text begins in a state of its own.

    Args:
        parts: One object as often as it is wanted, it is kept once; `None` for a free text.

    Returns:
        The whole, `None` if all are free; and where each of `parts` begins in it, `(parts,)` int32.

    Example:

    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> first, second = (Choice([text]).compile(ByteTokenizer().pieces()) for text in ("ab", "cde"))
    >>> whole, places = joined([first, None, second, first])
    >>> whole.distance.tolist(), places.tolist()
    ([2, 1, 0, 3, 2, 1, 0], [0, -1, 3, 0])
    """
    kept = list(dict.fromkeys(part for part in parts if part is not None))
    if not kept:
        return None, np.full(len(parts), FREE, np.int32)
    states = np.cumsum([0, *(len(part.accepting) for part in kept)], dtype=np.int32)
    edges = np.cumsum([0, *(len(part.tokens) for part in kept)], dtype=np.int32)
    firsts = dict(zip(kept, states[:-1], strict=True))
    whole = Constraint(
        starts=np.concatenate([*(part.starts[:-1] + offset for part, offset in zip(kept, edges[:-1], strict=True)), edges[-1:]]),
        tokens=np.concatenate([part.tokens for part in kept]),
        targets=np.concatenate([part.targets + firsts[part] for part in kept]),
        accepting=np.concatenate([part.accepting for part in kept]),
        distance=np.concatenate([part.distance for part in kept]),
    )
    return whole, np.array([FREE if part is None else firsts[part] for part in parts], np.int32)


def allowed(tables: ConstraintTensors, degree: int, state: tf.Tensor, left: tf.Tensor, vocabulary_size: int, end_id: int) -> tf.Tensor:
    """Which tokens may come next: in a free row all, elsewhere those with an edge, and the end where the text may end.

    Behind an edge the text must be able to end within what is left. Where too little is left from the beginning, every edge is allowed.

    Args:
        tables: Of one constraint.
        degree: Of the same constraint; static.
        state: `(batch,)` int32; `FREE` in rows without a constraint.
        left: `(batch,)` int32: how many tokens may still come, this one included.
        vocabulary_size: The number of ids; static.
        end_id: The token that ends a text.

    Returns:
        `(batch, vocabulary_size)` bool.
    """
    places, tokens = _edges(tables, degree, state)
    after = tf.gather(tables.distance, tf.gather(tables.targets, places))  # (batch, degree)
    hurried = tf.gather(tables.distance, tf.maximum(state, 0)) <= left  # a row that cannot end in time takes all
    useful = (after < left[:, None]) | ~hurried[:, None]
    tokens = tf.where((tokens >= 0) & useful, tokens, vocabulary_size)  # what may not come goes to a column that is cut off
    rows = tf.zeros_like(tokens) + tf.range(tf.shape(tokens)[0])[:, None]
    shape = [tf.shape(tokens)[0], vocabulary_size + 1]
    marked = tf.scatter_nd(tf.stack([rows, tokens], axis=-1), tf.ones_like(tokens), shape)[:, :vocabulary_size] > 0
    accepting = tf.gather(tables.accepting, tf.maximum(state, 0)) > 0
    ends = accepting[:, None] & (tf.range(vocabulary_size) == end_id)
    return marked | ends | (state < 0)[:, None]


def advance(tables: ConstraintTensors, degree: int, state: tf.Tensor, token: tf.Tensor) -> tf.Tensor:
    """The state after a token. Free rows stay free, and a token without an edge (the end, padding behind it) changes nothing.

    Args:
        tables, degree, state: As in `allowed`.
        token: `(batch,)` int32.

    Returns:
        `(batch,)` int32.
    """
    places, tokens = _edges(tables, degree, state)
    taken = (tokens == token[:, None]) & (tokens >= 0) & (state >= 0)[:, None]
    target = tf.reduce_max(tf.where(taken, tf.gather(tables.targets, places), -1), axis=-1)
    return tf.where(target >= 0, target, state)


def _padded(size: int, least: int) -> int:
    return max(least, 1 << max(0, size - 1).bit_length())


def _filled(values: np.ndarray, size: int, value: int) -> tf.Tensor:
    return tf.constant(np.pad(values, [0, size - len(values)], constant_values=value))


def _edges(tables: ConstraintTensors, degree: int, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the edges of each state lie, and their tokens, -1 for none: both `(batch, degree)`."""
    row = tf.maximum(state, 0)
    places = tf.gather(tables.starts, row)[:, None] + tf.range(degree)
    real = places < tf.gather(tables.starts, row + 1)[:, None]
    places = tf.where(real, places, 0)
    return places, tf.where(real, tf.gather(tables.tokens, places), -1)


class StopTensors(NamedTuple):
    """The tables of `StopStrings`, as `watch` takes them."""

    next: tf.Tensor
    hit: tf.Tensor


class PieceTensors(NamedTuple):
    """The tables of a `PieceTable`, as `watch` takes them."""

    values: tf.Tensor
    lengths: tf.Tensor


class PieceTable:
    """What each token writes, as a rectangle. It depends on the tokenizer alone: build it once.

    Args:
        pieces: What each id writes (`Tokenizer.pieces`).

    Attributes:
        values: `(vocabulary, longest)` int32: the bytes, zeros behind them.
        lengths: `(vocabulary,)` int32: their number.
    """

    def __init__(self, pieces: Sequence[bytes]):
        self.lengths = np.array([len(piece) for piece in pieces], np.int32)
        self.values = np.zeros([len(pieces), max(1, self.lengths.max())], np.int32)
        self.values[np.arange(self.values.shape[1]) < self.lengths[:, None]] = np.frombuffer(b"".join(pieces), np.uint8)

    def tensors(self) -> PieceTensors:
        """The tables as tensors."""
        return PieceTensors(tf.constant(self.values), tf.constant(self.lengths))


class StopStrings:
    """An Aho-Corasick automaton over bytes, which finds all of several strings at once.

    Args:
        stop: Any number of strings, in UTF-8; none, and nothing is ever found.

    Attributes:
        next: `(nodes, 256)` int32: the node after a byte. Node 0 is the first.
        hit: `(nodes,)` bool: whether a string ends there.

    Raises:
        UserError: an empty string.

    Example:

    >>> stop, pieces = StopStrings([b"ab"]), PieceTable([b"x", b"xa", b"bx"])
    >>> node, hit = watch(stop.tensors(), pieces.tensors(), tf.constant([0]), tf.constant([1]))
    >>> watch(stop.tensors(), pieces.tensors(), node, tf.constant([2]))[1].numpy().tolist()
    [True]
    """

    def __init__(self, stop: Sequence[bytes]):
        if not all(stop):
            raise UserError("a stop string must not be empty")
        edges, ends = constraints.prefix_tree(stop)
        size = _padded(len(edges) + 1, 64)
        self.next = np.zeros([size, 256], np.int32)
        self.hit = np.zeros(size, bool)
        self.hit[ends] = True
        children = collections.defaultdict(list)
        for key, node in edges.items():
            children[key >> 8].append((key & 255, node))
        # Breadth first: a node goes where its longest proper suffix that is a node goes, but for its own children.
        waiting = collections.deque([(0, 0)])
        while waiting:
            node, suffix = waiting.popleft()
            self.hit[node] |= self.hit[suffix]
            self.next[node] = self.next[suffix]
            for value, child in children[node]:
                waiting.append((child, int(self.next[suffix, value]) if node else 0))
                self.next[node, value] = child

    def tensors(self) -> StopTensors:
        """The tables as tensors."""
        return StopTensors(tf.constant(self.next), tf.constant(self.hit))


def watch(stop: StopTensors, pieces: PieceTensors, node: tf.Tensor, token: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads a token in each row, byte by byte.

    Args:
        stop: The strings to look for.
        pieces: What the tokens write.
        node: `(batch,)` int32; 0 before the first token.
        token: `(batch,)` int32.

    Returns:
        The new node, `(batch,)` int32, and whether a string ended inside the token or at its end, `(batch,)` bool.
    """
    values, lengths = tf.gather(pieces.values, token), tf.gather(pieces.lengths, token)  # (batch, longest), (batch,)
    following = tf.reshape(stop.next, [-1])

    def read(place: tf.Tensor, node: tf.Tensor, hit: tf.Tensor):
        inside = place < lengths
        node = tf.where(inside, tf.gather(following, node * 256 + tf.gather(values, place, axis=1)), node)
        return place + 1, node, hit | (inside & tf.gather(stop.hit, node))

    carried = (tf.constant(0), node, tf.zeros_like(node, tf.bool))
    if pieces.values.shape[1] <= _UNROLLED:
        for _ in range(pieces.values.shape[1]):
            carried = read(*carried)
    else:
        longest = tf.reduce_max(lengths)
        carried = tf.while_loop(lambda place, *_: place < longest, read, carried)
    return carried[1], carried[2]


_UNROLLED = 8
