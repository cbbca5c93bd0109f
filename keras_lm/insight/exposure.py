"""What a model has kept of canaries: how high the planted secret ranks among all that could have been, and whether sampling writes it.

The exposure of a canary is log2 |R| - log2 rank, where R are all secrets of its form and the rank is that of the planted one by the
model's probability: 0 bits for the last, log2 |R| for the first. A secret that the model never read has a rank by chance, whatever the
model is like, as it was drawn by chance: 1 / ln 2 = 1.44 bits in the mean.

The rank is exact. Candidates are the leaves of a tree of tokens, which is walked with the states that the model keeps of a text, many
branches of many canaries at once: what is common to candidates is read once. A branch whose beginning is less probable than the whole
planted secret holds none that ranks before it, and is left.

References:
    Carlini, Liu, Erlingsson, Kos and Song 2019, "The Secret Sharer", arXiv:1802.08232; there the rank is estimated, and the whole
    sentence scored. Here the secret alone is, given what stands before it, which is how one would ask for it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from keras_lm.generation.text import TextGenerator
from keras_lm.insight.reading import Reader
from keras_lm.privacy.canaries import Canary, CanaryFormat
from keras_lm.tracing import by_shape
from keras_lm.training.run import Run

CHANCE = 1 / math.log(2)
"""Bits of exposure, in the mean, of a secret that a model knows nothing of."""


@dataclasses.dataclass(frozen=True)
class Exposure:
    """What a model has kept of one canary.

    Attributes:
        canary: The canary.
        bits: -log2 P(secret | what stands before it), from the first token on in which candidates differ.
        rank: Of the planted secret among the candidates, from 1 on: one more than there are more probable ones.
        candidates: How many secrets there could be.
    """

    canary: Canary
    bits: float
    rank: int
    candidates: int

    @property
    def exposure(self) -> float:
        """Bits: log2 candidates - log2 rank."""
        return math.log2(self.candidates) - math.log2(self.rank)


def exposures(
    subject: Run | Reader,
    canaries: Sequence[Canary],
    form: CanaryFormat | None = None,
    *,
    batch_size: int = 1024,
    jit_compile: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[Exposure]:
    """Exact ranks of canaries.

    Args:
        subject: A run of a language model, or a `Reader` of one.
        canaries: Of one form.
        form: That form; default `CanaryFormat()`.
        batch_size: Branches read at a time, each with a state of its own.
        jit_compile: Whether XLA compiles the reading.
        progress: Is told the number of canaries done; a batch of them is walked together.

    Returns:
        One for each canary, in their order.

    Raises:
        UserError: no canaries; a model that does not go on with one text; a canary of another form; characters that the tokenizer does not
            know; secrets whose tokens are not the same behind all canaries; a canary longer than the model's context.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> from keras_lm.privacy.canaries import make_canaries
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> form = CanaryFormat(text="PIN {secret}", symbols="0123456789", length=2)
    >>> reader = Reader(gru_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer())
    >>> (found,) = exposures(reader, make_canaries([0], form), form, batch_size=8, jit_compile=False)
    >>> found.candidates, 1 <= found.rank <= 100
    (100, True)
    """
    form = form or CanaryFormat()
    reader = Reader.of(subject)
    _check(reader, canaries, form)
    prefixes, rows = _tokens(reader, canaries, form)
    tree = _Tree(rows)
    longest = max(map(len, prefixes))
    walk = _Walk(reader.model, tree, slots=longest + tree.depth, batch_size=batch_size, jit_compile=jit_compile)
    if walk.decoder.context_length and longest + tree.depth - 1 > walk.decoder.context_length:
        have = longest + tree.depth - 1
        raise UserError(f"a canary has {have} tokens, and the model reads {walk.decoder.context_length}: make its text shorter")
    secrets = {secret: number for number, secret in enumerate(form.secrets())}
    results: list[Exposure] = []
    for first in range(0, len(canaries), batch_size):
        own = canaries[first : first + batch_size]
        numbers = np.array([secrets[canary.secret] for canary in own])
        scores, before = walk(prefixes[first : first + batch_size], numbers, longest)
        results += [
            Exposure(canary, -score / math.log(2), 1 + int(count), form.candidates)
            for canary, score, count in zip(own, scores.tolist(), before.tolist(), strict=True)
        ]
        if progress:
            progress(len(results))
    return results


def extraction(
    subject: Run | TextGenerator,
    canaries: Sequence[Canary],
    settings: SamplingSettings | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Whether sampling writes a secret: the share of texts that go on with it behind what stands before it.

    Args:
        subject: A run of a language model, or a generator.
        canaries: To ask for.
        settings: How to sample, and how many texts of each; default 100 from the model's own distribution (temperature 1).
        progress: Is told the number of canaries done.

    Returns:
        For each canary a share from 0 to 1.

    Raises:
        UserError: no canaries, or a run that writes no text.

    Example:

    >>> from keras_lm.models import gru_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> generator = TextGenerator(gru_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer(), jit_compile=False)
    >>> extraction(generator, [Canary("PIN ", "0742", ".")], SamplingSettings(num_samples=2, temperature=1.0))
    [0.0]
    """
    if not canaries:
        raise UserError("there is no canary to ask for: keras_lm.privacy.canaries makes them")
    generator = subject.make_generator() if isinstance(subject, Run) else subject
    longest = max(len(row) for row in generator.tokenizer.tokenize(tf.constant([canary.secret for canary in canaries])).to_list())
    settings = settings or SamplingSettings(num_samples=100, temperature=1.0)
    settings = dataclasses.replace(settings, max_new_tokens=longest, min_new_tokens=0)
    shares = []
    for number, canary in enumerate(canaries, 1):
        texts = generator.generate([canary.before], settings)
        shares.append(sum(text.text.startswith(canary.secret) for text in texts) / len(texts))
        if progress:
            progress(number)
    return shares


def _check(reader: Reader, canaries: Sequence[Canary], form: CanaryFormat) -> None:
    if not canaries:
        raise UserError("there is no canary to rank: keras_lm.privacy.canaries makes them")
    if not reader.writes:
        raise UserError(f"exposure is of models that go on with a text: {reader.model.name} writes none")
    reader.one_text("exposures")
    for canary in canaries:
        if len(canary.secret) != form.length or set(canary.secret) - set(form.symbols):
            raise UserError(f"the secret {canary.secret!r} is none of the {form.candidates:,} of its form: give the form it was made with")


_CHECKED = 1000  # candidates of each canary but the first, of which all are looked at


def _tokens(reader: Reader, canaries: Sequence[Canary], form: CanaryFormat) -> tuple[list[list[int]], np.ndarray]:
    """What is read before the candidates of each canary differ, and what from there on.

    Returns:
        Ids for each canary, the start token first where the model reads one, and `(candidates, longest)` int32, -1 behind the end of one.
        The latter are the same behind all canaries, or there would be a tree for each: that is looked at.
    """
    secrets = list(form.secrets())
    ids = _rows(reader, canaries[0].before, secrets)
    if (ids == reader.tokenizer.unknown_id).any():
        unknown = " ".join(reader.tokenizer.unknown_characters(canaries[0].before + form.symbols))
        raise UserError(f"the tokenizer does not know {unknown}: take characters that stand in the text it was learnt from")
    differing = np.flatnonzero((ids != ids[0]).any(axis=0))
    found = ids[:, differing[0] :]
    length = int((found[0] >= 0).sum())
    plain = reader.tokenizer.kind in ("char", "byte")  # whose ids do not depend on what stands beside them
    some = [0] if plain else np.unique(np.linspace(0, len(secrets) - 1, min(len(secrets), _CHECKED)).astype(int)).tolist()
    prefixes = []
    for canary in canaries:
        own = _rows(reader, canary.before, [secrets[number] for number in some])
        after = int((own[0] >= 0).sum()) - length
        expected = found[some][:, : own.shape[1] - after]
        if (own[:, :after] != own[0, :after]).any() or (own[:, after:] != expected).any():
            raise UserError(
                f"the tokenizer {reader.tokenizer.kind} makes other tokens of the secrets behind {canary.before!r} than behind "
                f"{canaries[0].before!r}: let the same words, or a space, stand right before the secret in all"
            )
        prefixes.append([*[reader.tokenizer.start_id] * int(reader.begins), *own[0, :after].tolist()])
    return prefixes, found


def _rows(reader: Reader, before: str, secrets: Sequence[str]) -> np.ndarray:
    """`(secrets, longest)`: tokens of each behind what stands before it, and -1."""
    texts = reader._clean(tf.constant([before + secret for secret in secrets]))
    return reader.tokenizer.tokenize(texts).to_tensor(-1).numpy()


class _Tree:
    """Candidates as a tree of tokens, level by level.

    Args:
        rows: `(candidates, depth)`, -1 behind the end of those that are shorter.

    Attributes:
        nodes: At each depth the number of the node that each candidate goes through, `(candidates,)`; behind its end the last one's.
        tokens: At each depth from 1 on the token that leads to a node, `(nodes,)`.
        first: At each depth the first child of each node at the next, `(nodes + 1,)`; a node's children stand together.
        ends: At each depth whether a candidate ends at the node, `(nodes,)`.
    """

    def __init__(self, rows: np.ndarray):
        self.depth = rows.shape[1]
        self.used, columns = np.unique(rows, return_inverse=True)
        columns = columns.reshape(rows.shape)
        self.lengths = (rows >= 0).sum(axis=1)
        self.nodes, self.tokens, self.first, self.ends = [np.zeros(len(rows), np.int64)], [np.zeros(1, np.int32)], [], [np.zeros(1, bool)]
        for depth in range(self.depth):
            there = self.lengths > depth
            keys = self.nodes[-1][there] * len(self.used) + columns[there, depth]
            different, numbers = np.unique(keys, return_inverse=True)
            nodes = self.nodes[-1].copy()
            nodes[there] = numbers
            parents = different // len(self.used)
            self.first.append(np.searchsorted(parents, np.arange(len(self.tokens[-1]) + 1)))
            self.tokens.append((different % len(self.used)).astype(np.int32))
            ends = np.zeros(len(different), bool)
            ends[nodes[self.lengths == depth + 1]] = True
            self.nodes.append(nodes)
            self.ends.append(ends)


@dataclasses.dataclass
class _Branches:
    """Nodes of one depth that are still to be read: the state of what comes before each, and where it stands.

    Attributes:
        state, rows: Row `rows[i]` of `state` is what was read before the node's token.
        canaries, nodes: Whose, and which, `(branches,)`.
        scores: ln P of the tokens up to the node's, `(branches,)`.
    """

    depth: int
    state: Any
    rows: np.ndarray
    canaries: np.ndarray
    nodes: np.ndarray
    scores: np.ndarray

    def parts(self, size: int) -> Iterator[_Branches]:
        for first in range(0, len(self.rows), size):
            part = slice(first, first + size)
            yield _Branches(self.depth, self.state, self.rows[part], self.canaries[part], self.nodes[part], self.scores[part])


class _Walk:
    """Counts the candidates before the planted ones; all shapes are of one size, so that two graphs are drawn."""

    def __init__(self, model: Any, tree: _Tree, slots: int, batch_size: int, jit_compile: bool):
        self.tree, self.batch_size = tree, batch_size
        self.decoder = Decoder(model)
        used = tf.constant(np.maximum(tree.used, 0), tf.int32)

        def probabilities(logits: tf.Tensor) -> tf.Tensor:  # of the tokens of the tree, (batch, used)
            return tf.gather(tf.nn.log_softmax(logits), used, axis=1)

        @tf.function(jit_compile=jit_compile, autograph=False)
        def begin(ids: tf.Tensor, padding: tf.Tensor) -> tuple[tf.Tensor, dict]:
            logits, state = self.decoder.extend(ids, self.decoder.init_state(batch_size, slots), 0, padding)
            return probabilities(logits), state

        @tf.function(jit_compile=jit_compile, autograph=False)
        def step(tokens: tf.Tensor, state: dict, rows: tf.Tensor, start: tf.Tensor, padding: tf.Tensor) -> tuple[tf.Tensor, dict]:
            logits, state = self.decoder.extend(tokens[:, None], self.decoder.take_rows(state, rows), start, padding)
            return probabilities(logits), state

        self._begin, self._step = by_shape(begin, compiled=jit_compile), by_shape(step, compiled=jit_compile)

    def __call__(self, prefixes: Sequence[Sequence[int]], planted: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
        """ln P of the planted candidates, and how many others are more probable, each `(canaries,)`."""
        count = len(prefixes)
        self._longest, self._planted = longest, planted
        self._padding = np.array([longest - len(row) for row in prefixes], np.int32)
        ids = np.zeros((self.batch_size, longest), np.int32)
        for number, row in enumerate(prefixes):
            ids[number, longest - len(row) :] = row
        padding = np.zeros(self.batch_size, np.int32)
        padding[:count] = self._padding
        known, state = self._begin(ids, padding)
        known = known.numpy()[:count].astype(np.float64)
        self._targets = self._score_planted(known, state)
        self._before = np.zeros(count, np.int64)
        everyone = np.arange(count)
        roots = _Branches(0, state, everyone, everyone, np.zeros(count, np.int64), np.zeros(count))
        waiting = self._below(roots, known, state)
        while waiting:  # the deepest first: few states are held
            branches = waiting.pop()
            waiting += self._below(branches, *self._read(branches))
        return self._targets, self._before

    def _score_planted(self, known: np.ndarray, state: Any) -> np.ndarray:
        """ln P of the planted candidates, read token by token as all others are."""
        tree, planted, everyone = self.tree, self._planted, np.arange(len(known))
        scores = np.zeros(len(known))
        for depth in range(1, tree.depth + 1):
            nodes, going = tree.nodes[depth][planted], tree.lengths[planted] >= depth
            scores += np.where(going, known[everyone, tree.tokens[depth][nodes]], 0)
            if depth < tree.depth:
                known, state = self._read(_Branches(depth, state, everyone, everyone, nodes, scores))
        return scores

    def _read(self, branches: _Branches) -> tuple[np.ndarray, Any]:
        """Reads the tokens of up to a batch of branches: ln P of what may follow, `(branches, used)`, and the state."""
        size = len(branches.rows)
        filled = lambda values: np.concatenate([values, np.zeros(self.batch_size - size)]).astype(np.int32)
        tokens = np.maximum(self.tree.used, 0)[self.tree.tokens[branches.depth][branches.nodes]]
        start = np.int32(self._longest + branches.depth - 1)
        known, state = self._step(filled(tokens), branches.state, filled(branches.rows), start, filled(self._padding[branches.canaries]))
        return known.numpy()[:size].astype(np.float64), state

    def _below(self, branches: _Branches, known: np.ndarray, state: Any) -> list[_Branches]:
        """What follows branches that were read: candidates that end are counted, and what may hold more probable ones is given on."""
        tree, depth = self.tree, branches.depth
        first = tree.first[depth][branches.nodes]
        numbers = tree.first[depth][branches.nodes + 1] - first
        rows = np.repeat(np.arange(len(first)), numbers)
        children = np.arange(len(rows)) + (first - np.cumsum(numbers) + numbers)[rows]
        depth += 1
        scores = branches.scores[rows] + known[rows, tree.tokens[depth][children]]
        canaries = branches.canaries[rows]
        better, ending = scores > self._targets[canaries], tree.ends[depth][children]
        planted = self._planted[canaries]
        own = (tree.lengths[planted] == depth) & (tree.nodes[depth][planted] == children)
        np.add.at(self._before, canaries[better & ending & ~own], 1)
        going = better & ~ending
        found = _Branches(depth, state, rows[going], canaries[going], children[going], scores[going])
        return list(found.parts(self.batch_size))
