"""Similarity: texts as vectors, to be compared and searched, and how good those of a run are beside TF-IDF (article A3 §2 and §5).

Pairs that people gave scores are judged by how well the cosines go up and down with them. Of pairs that belong together each first text
asks among all the second ones, as a search does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from keras_lm import cleaning, shards, similar
from keras_lm.classical.bag_of_words import BagOfWords
from keras_lm.errors import UserError
from keras_lm.examples import Example
from keras_lm.recurrent import run_model
from keras_lm.tasks.index import RankingScores, VectorIndex, ranking_scores
from keras_lm.tasks.text_batches import row_batches, text_rows
from keras_lm.tokenizer_base import Tokenizer
from keras_lm.tracing import by_shape
from keras_lm.training.data import examples_of
from keras_lm.training.run import Run
from keras_lm.training.step import use_xla

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

PLACES = 10
"""How many of the texts found count where a run is judged."""

_QUERIES = 256  # whose products with all texts are held at a time
_BLOCK = 1024  # texts read before the vectors of any are written


class SentenceVectors:
    """A sentence encoder with its tokenizer: strings in, vectors out.

    Args:
        model: From `keras_lm.sentence_vectors.sentence_encoder`.
        tokenizer: The one it was trained with.
        longest: Tokens to which a text is cut, its start and end counted.
        clean: Cleaners, as `keras_lm.cleaning.compose` takes them.
        batch_size: Texts read at a time; every batch has so many, so that few shapes are compiled.
        jit_compile: Whether XLA compiles it.

    Attributes:
        width: Numbers of a vector.

    Raises:
        UserError: a model that makes no vector of a text.

    Example:

    >>> from keras_lm.heads import text_body
    >>> from keras_lm.sentence_vectors import sentence_encoder
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> model = sentence_encoder(text_body("gru", 260, embedding_dim=4, hidden_dim=4))
    >>> encoder = SentenceVectors(model, ByteTokenizer(), longest=32, jit_compile=False)
    >>> encoder.vectors(["A fine day.", "A bad one."]).shape
    (2, 8)
    >>> encoder.similarities(["A fine day."], ["A fine day."]).round(3).tolist()
    [1.0]
    """

    def __init__(
        self,
        model: keras.Model,
        tokenizer: Tokenizer,
        *,
        longest: int,
        clean: Sequence[str] = (),
        batch_size: int = 32,
        jit_compile: bool = True,
    ):
        if len(model.output_shape) != 2:
            raise UserError(f"the model {model.name} gives {model.output_shape}, no vector a text: give a sentence encoder")
        self.model, self.tokenizer, self.width = model, tokenizer, model.output_shape[-1]
        self.longest, self.batch_size = longest, batch_size
        self._clean = cleaning.compose(clean)
        read = tf.function(lambda ids: run_model(model, ids), jit_compile=jit_compile, autograph=False)
        self._read = by_shape(read, compiled=jit_compile)

    @classmethod
    def of(cls, run: Run) -> SentenceVectors:
        """That of a run of `--task similarity`; compiled by XLA where its training was.

        Raises:
            UserError: a run of another task; as `Run.load_model`.
        """
        _check_task(run)
        settings = run.settings
        sizes = {"longest": settings.sequence_length, "batch_size": settings.batch_size, "clean": settings.clean}
        return cls(run.load_model(), run.load_tokenizer(), **sizes, jit_compile=use_xla(run.settings))

    def vectors(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> np.ndarray:
        """A vector of length one for each text; the product of two is their cosine.

        Args:
            texts: Any number. What is longer than `longest` is cut; of an empty text start and end are read.
            progress: Is told the number of texts done.

        Returns:
            `(texts, width)` float32.

        Raises:
            UserError: one text in place of many.
        """
        result = np.zeros([len(texts), self.width], np.float32)
        done = 0
        for numbers, ids in row_batches(self._rows(texts, self.longest), self.longest, self.batch_size):
            result[numbers] = self._read(ids)[: len(numbers)]
            done += len(numbers)
            if progress:
                progress(done)
        return result

    def similarities(self, firsts: Sequence[str], seconds: Sequence[str]) -> np.ndarray:
        """The cosine of each text with the other one of its pair, `(pairs,)` float32.

        Raises:
            UserError: not as many of the one as of the other.
        """
        if len(firsts) != len(seconds):
            raise UserError(f"{len(firsts)} first texts and {len(seconds)} second ones are no pairs")
        return similar.row_cosines(self.vectors(firsts), self.vectors(seconds))

    def longer(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than `longest`, so that their ends are not read."""
        return sum(len(row) > self.longest for row in self._rows(texts, self.longest + 1))

    def _rows(self, texts: Sequence[str], longest: int) -> list[np.ndarray]:
        if isinstance(texts, str):
            raise UserError("texts must be a list of texts, got one text: put it into brackets")
        return text_rows(texts, self.tokenizer, self._clean, longest)


def fingerprint(folder: str | os.PathLike) -> str:
    """What tells a run whose vectors stand in an index from others: SHA-256 over its model and its tokenizer's files, in hexadecimal.

    Args:
        folder: Of the run.

    Raises:
        UserError: it has no model yet, or no tokenizer.
    """
    model, tokenizer = pathlib.Path(folder) / "model.keras", pathlib.Path(folder) / "tokenizer"
    if not model.is_file():
        raise UserError(f"{folder} has no model.keras yet: let it train up to its first evaluation (--resume goes on)")
    if not tokenizer.is_dir():
        raise UserError(f"{folder} has no tokenizer: copy the whole run folder, or train the run anew")
    return hashlib.sha256(f"{shards.checksum(model)} {shards.fingerprint(tokenizer)}".encode()).hexdigest()


def index_texts(
    run: Run, texts: Iterable[str], folder: str | os.PathLike, *, progress: Callable[[int], None] | None = None
) -> tuple[VectorIndex, int]:
    """Makes an index of texts, which need not be in memory: they and their vectors wait on the disk, beside the new folder.

    Args:
        run: Of `--task similarity`: makes the vectors.
        texts: Read once, so that they may be a stream.
        folder: Must not be there yet; appears whole or not at all.
        progress: Is told the number of texts done.

    Returns:
        The index; and how many texts were longer than the run's context, whose ends do not count.

    Raises:
        UserError: as `SentenceVectors.of` and `VectorIndex.build`; no text.
    """
    folder = pathlib.Path(folder)
    if folder.exists():  # found out now, and not when all vectors are made
        raise UserError(f"{folder} is there already: give a new folder, or remove it first")
    model, encoder = fingerprint(run.folder), SentenceVectors.of(run)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        waiting, path = pathlib.Path(scratch, "texts"), pathlib.Path(scratch, "vectors")
        done = longer = 0
        with waiting.open("w", encoding="ascii") as lines, path.open("wb") as numbers:
            for block in _blocks(texts, _BLOCK):
                lines.writelines(json.dumps(text) + "\n" for text in block)
                numbers.write(encoder.vectors(block).tobytes())
                done += len(block)
                longer += encoder.longer(block)
                if progress:
                    progress(done)
        if not done:
            raise UserError("there is no text to be searched")
        vectors = np.memmap(path, np.float32, "r", shape=(done, encoder.width))
        with waiting.open(encoding="ascii") as lines:
            return VectorIndex.build(vectors, map(json.loads, lines), model, folder), longer


def _blocks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    block: list[str] = []
    for text in texts:
        block.append(text)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


@dataclasses.dataclass(frozen=True)
class SimilarityScores:
    """How well cosines go together with the scores that people gave.

    Attributes:
        spearman: Whether they go up where the scores do, whatever the scales; -1 to 1.
        pearson: How near to a straight line.
        pairs: How many there were.
    """

    spearman: float
    pearson: float
    pairs: int


@dataclasses.dataclass(frozen=True)
class Searches:
    """Pairs that belong together as searches.

    Attributes:
        queries: The different first texts, in their order.
        texts: The different second ones, among which each query looks for its own.
        right: For each query the numbers of its own. First texts that differ in case and punctuation alone have theirs in common.
    """

    queries: tuple[str, ...]
    texts: tuple[str, ...]
    right: tuple[frozenset[int], ...]


def searches(pairs: Sequence[Example]) -> Searches:
    """What pairs that belong together ask for.

    Example:

    >>> pairs = [("猫", 0, "养猫"), ("狗", 1, "养狗"), ("猫", 0, "抓鼠")]
    >>> searches([Example(text=text, labels=(number,), second=second) for text, number, second in pairs])
    Searches(queries=('猫', '狗'), texts=('养猫', '养狗', '抓鼠'), right=(frozenset({0, 2}), frozenset({1})))
    """
    number_of = {text: number for number, text in enumerate(dict.fromkeys(pair.second for pair in pairs))}
    own: dict[float, set[int]] = {}
    for pair in pairs:
        own.setdefault(pair.labels[0], set()).add(number_of[pair.second])
    label_of = {pair.text: pair.labels[0] for pair in pairs}
    return Searches(tuple(label_of), tuple(number_of), tuple(frozenset(own[label]) for label in label_of.values()))


def evaluate(
    run: Run, part: str = "test", *, progress: Callable[[int], None] | None = None
) -> tuple[SimilarityScores, np.ndarray] | tuple[RankingScores, list[list[str]]]:
    """How good the vectors of a run are on a split of its pairs.

    Args:
        run: Of `--task similarity`.
        part: `train`, `validation` or `test`.
        progress: Is told the number of pairs done.

    Returns:
        Of pairs with scores `SimilarityScores` and their cosines `(pairs,)` float32. Of pairs that belong together `RankingScores` over
        the first ten places and for each query of `searches` the texts found, best first; every query is compared with every text.

    Raises:
        UserError: the pairs are not where they were; a run of another task.
    """
    _check_task(run)
    pairs = held_out(run, part)
    texts = _different_texts(pairs)
    row_of = {text: row for row, text in enumerate(texts)}
    vectors = SentenceVectors.of(run).vectors(texts, progress and (lambda done: progress(done * len(pairs) // len(texts))))
    of = lambda wanted: vectors[[row_of[text] for text in wanted]]
    if _are_scored(pairs):
        cosines = similar.row_cosines(of(pair.text for pair in pairs), of(pair.second for pair in pairs))
        return _similarity_scores(cosines, pairs), cosines
    asked = searches(pairs)
    found = nearest(of(asked.queries), of(asked.texts), PLACES)
    return ranking_scores(found, asked.right, PLACES), [[asked.texts[number] for number in row] for row in found.tolist()]


def floor(run: Run, part: str = "test") -> SimilarityScores | RankingScores:
    """The same of TF-IDF of characters and pairs of them, counted on the run's own training texts; arguments as those of `evaluate`."""
    _check_task(run)
    splits = examples_of(run.settings).splits
    pairs = _some(splits[part], run, part)
    bag = BagOfWords.fit(_different_texts(splits["train"]), words="characters", ngrams=2)
    if _are_scored(pairs):
        firsts, seconds, scores = zip(*((pair.text, pair.second, pair.labels[0]) for pair in pairs), strict=True)
        scored = similar.ScoredPairs(name=run.settings.corpus, firsts=firsts, seconds=seconds, scores=scores)
        return _similarity_scores(similar.tf_idf_cosines(scored, bag), pairs)
    asked = searches(pairs)
    return ranking_scores(nearest(bag.vectors(asked.queries), bag.vectors(asked.texts), PLACES), asked.right, PLACES)


def nearest(queries: np.ndarray | csr_matrix, texts: np.ndarray | csr_matrix, places: int) -> np.ndarray:
    """The texts whose vectors have the largest products with each query's, all compared.

    Args:
        queries: `(queries, dimensions)`, an array, or sparse.
        texts: `(texts, dimensions)` of the same kind.
        places: How many for each query; no more come than there are texts.

    Returns:
        Their numbers, `(queries, places)` int64, best first; of equals the first.

    Example:

    >>> nearest(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]), 2).tolist()
    [[2, 1]]
    """
    places, turned = min(places, texts.shape[0]), texts.T if isinstance(texts, np.ndarray) else texts.T.tocsr()
    found = np.zeros([queries.shape[0], places], np.int64)
    for start in range(0, len(found), _QUERIES):
        products = queries[start : start + _QUERIES] @ turned
        products = products if isinstance(products, np.ndarray) else products.toarray()
        least = np.partition(products, -places, axis=1)[:, -places]  # where sorting them all would take longer than the product
        for row, (own, bound) in enumerate(zip(products, least, strict=True), start=start):
            near = np.flatnonzero(own >= bound)
            found[row] = near[np.argsort(-own[near], kind="stable")][:places]
    return found


def held_out(run: Run, part: str) -> tuple[Example, ...]:
    """The pairs of a split, read from the run's own corpus once more.

    Raises:
        UserError: it is not there any more, or no pair falls into that part.
    """
    return _some(examples_of(run.settings).splits[part], run, part)


def rows(run: Run, pairs: Sequence[Example], said: np.ndarray | list[list[str]]) -> list[tuple[str, ...]]:
    """What `evaluate` said, to be read: of pairs with scores both texts, the score from 0 to 1 and the cosine; of others the query, its own
    texts and those found."""
    if _are_scored(pairs):
        return [(*pair.texts, f"{pair.labels[0]:.4f}", f"{cosine:.4f}") for pair, cosine in zip(pairs, said, strict=True)]
    asked = searches(pairs)
    own = (" | ".join(asked.texts[number] for number in sorted(right)) for right in asked.right)
    return [(query, right, *found) for query, right, found in zip(asked.queries, own, said, strict=True)]


def _are_scored(pairs: Sequence[Example]) -> bool:
    """Whether people gave the pairs scores; if not, they belong together."""
    return isinstance(pairs[0].labels[0], float)


def _different_texts(pairs: Iterable[Example]) -> list[str]:
    """All texts of the pairs, each once, in their order."""
    return list(dict.fromkeys(text for pair in pairs for text in pair.texts))


def _some(pairs: tuple[Example, ...], run: Run, part: str) -> tuple[Example, ...]:
    if not pairs:
        raise UserError(f"no pair of {run.settings.corpus} falls into the {part} part")
    return pairs


def _check_task(run: Run) -> None:
    if run.settings.task != "similarity":
        raise UserError(f"{run.folder} is a run of {run.settings.task}: vectors of texts are made by one of --task similarity")


def _similarity_scores(cosines: np.ndarray, pairs: Sequence[Example]) -> SimilarityScores:
    right = [pair.labels[0] for pair in pairs]
    return SimilarityScores(similar.spearman(cosines, right), similar.pearson(cosines, right), len(pairs))
