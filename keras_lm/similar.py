"""Pairs of sentences that people scored: how alike are the two? And what is compared without a model.

Article A3 §2 says that discriminative models tell whether two sentences are alike. They are judged by how well their own scores, such as
cosines of sentence vectors, go up and down with those that people gave: by correlation, since the scales need not be the same.

References:
    Cer et al. 2017 (arXiv:1708.00055: STS-B); Reimers, Beyer and Gurevych 2016, «Task-Oriented Intrinsic Evaluation of Semantic Textual
    Similarity», who say why Spearman's correlation and not Pearson's; articles A3 §2 and §5.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence

import numpy as np

from keras_lm.classical.bag_of_words import BagOfWords
from keras_lm.corpora import read_files
from keras_lm.embeddings.vectors import WordVectors, is_number
from keras_lm.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredPairs:
    """Pairs of sentences, each with the score that people gave it.

    Args:
        name: What messages and tables call them.
        firsts: The first sentence of each.
        seconds: The second.
        scores: How alike they are; STS-B goes from 0 (not at all) to 5 (the same).

    Raises:
        UserError: not the same number of each.

    Example:

    >>> pairs = ScoredPairs(name="greetings", firsts=("早上好",), seconds=("早安",), scores=(5.0,))
    >>> len(pairs)
    1
    """

    name: str
    firsts: tuple[str, ...]
    seconds: tuple[str, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        if not len(self.firsts) == len(self.seconds) == len(self.scores):
            raise UserError(
                f"{self.name}: {len(self.firsts)} first sentences, {len(self.seconds)} second ones and {len(self.scores)} scores "
                "are no pairs"
            )

    def __len__(self) -> int:
        return len(self.scores)

    def split(self) -> dict[str, ScoredPairs]:
        """`train`, `validation` and `test`, about 90/5/5: pairs that have a sentence in common stand in the same, so that none is in two.

        What decides is a hash of the first, in alphabetical order, of all the sentences that hang together so.
        """
        from keras_lm.pipeline import SPLITS, split_of  # here, since TensorFlow comes with it

        part_of = {first: split_of(root.encode()) for first, root in _connected(self.firsts, self.seconds).items()}
        rows = list(zip(self.firsts, self.seconds, self.scores, strict=True))
        parts = {name: [row for row in rows if part_of[row[0]] == name] for name in SPLITS}
        columns = {name: tuple(zip(*own, strict=True)) if own else ((), (), ()) for name, own in parts.items()}
        return {
            name: ScoredPairs(name=f"{self.name}, {name}", firsts=firsts, seconds=seconds, scores=scores)
            for name, (firsts, seconds, scores) in columns.items()
        }


def _connected(firsts: Sequence[str], seconds: Sequence[str]) -> dict[str, str]:
    """For each sentence the first of those that it is connected with, by pairs that have one in common."""
    roots = {sentence: sentence for sentence in (*firsts, *seconds)}

    def root(sentence: str) -> str:
        while roots[sentence] != sentence:
            roots[sentence] = roots[roots[sentence]]  # halves the way for the next one
            sentence = roots[sentence]
        return sentence

    for first, second in zip(firsts, seconds, strict=True):
        one, other = sorted([root(first), root(second)])
        roots[other] = one
    return {sentence: root(sentence) for sentence in roots}


def read_scored(path: str | os.PathLike) -> ScoredPairs:
    """Reads a file of lines, UTF-8, plain or `.gz`; empty lines are passed over.

    A line is `SENTENCE TAB SENTENCE TAB SCORE`, or as STS-B has it: genre, file, year, number, score and the two sentences (sources may
    follow). A first line that says `score` where the score should stand names the columns. One that says `sentence1`, `sentence2` and
    `score` anywhere, as in GLUE's files, says which columns are read.

    Args:
        path: Of the file.

    Raises:
        UserError: no such file, no pair, a line of another form, an empty sentence, or a score that is no number; the message has the
            line's number.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "pairs.tsv")
    >>> _ = path.write_text("一个女孩在梳头。\\t女孩给头发做发型。\\t3.5\\n", encoding="utf-8")
    >>> read_scored(path)
    ScoredPairs(name='pairs.tsv', firsts=('一个女孩在梳头。',), seconds=('女孩给头发做发型。',), scores=(3.5,))
    """
    if not os.path.isfile(path):
        raise UserError(f"no such file of scored pairs: {str(path)!r}")
    columns: tuple[int, int, int] | None = None
    rows: list[tuple[str, str, float]] = []
    for number, line in enumerate(read_files([(os.fspath(path), 0, None)], "line", "strict"), start=1):
        if not line.strip():
            continue
        fields = [field.strip() for field in line.split("\t")]
        if columns is None:
            columns, is_head = _columns(fields)
            if is_head:
                continue
        rows.append(_row(fields, columns, f"{path}, line {number}"))
    if not rows:
        raise UserError(f"{path} holds no pairs: its lines should be a sentence, a tab, a sentence, a tab and a score")
    firsts, seconds, scores = zip(*rows, strict=True)
    return ScoredPairs(name=os.path.basename(path), firsts=firsts, seconds=seconds, scores=scores)


_PLAIN, _STS = (0, 1, 2), (5, 6, 4)


def _columns(fields: Sequence[str]) -> tuple[tuple[int, int, int], bool]:
    """Where the sentences and the score of a line stand, by the first; and whether that names the columns."""
    if {"sentence1", "sentence2", "score"} <= set(fields):
        return (fields.index("sentence1"), fields.index("sentence2"), fields.index("score")), True
    columns = _STS if len(fields) >= 7 else _PLAIN
    return columns, len(fields) > max(columns) and fields[columns[2]].lower() == "score"


def _row(fields: Sequence[str], columns: tuple[int, int, int], where: str) -> tuple[str, str, float]:
    if len(fields) <= max(columns) or (columns == _PLAIN and len(fields) != 3):
        wanted = "a sentence, a sentence and a score between tabs" if columns == _PLAIN else f"{max(columns) + 1} columns or more"
        raise UserError(f"{where}: {wanted} should stand here, there {'is 1 column' if len(fields) == 1 else f'are {len(fields)} columns'}")
    first, second, score = (fields[column] for column in columns)
    if not first or not second:
        raise UserError(f"{where}: the {'second' if first else 'first'} sentence is empty")
    if not is_number(score) or not math.isfinite(float(score)):
        raise UserError(f"{where}: the score should be a number, got {score[:40]!r}")
    return first, second, float(score)


def spearman(predicted: Sequence[float] | np.ndarray, right: Sequence[float] | np.ndarray) -> float:
    """Spearman's correlation: how well the one goes up where the other does, whatever the scales; -1 to 1.

    Args:
        predicted: A number for each pair, such as a cosine.
        right: The scores of people.

    Raises:
        UserError: fewer than two numbers, other numbers of them, one that is not finite, numbers that are all the same, or SciPy missing.

    Example:

    >>> spearman([0.1, 0.2, 0.9], [1, 2, 3])
    1.0
    """
    return _correlation("spearmanr", predicted, right)


def pearson(predicted: Sequence[float] | np.ndarray, right: Sequence[float] | np.ndarray) -> float:
    """Pearson's correlation: how near to a straight line they go together; -1 to 1. Arguments and errors are those of `spearman`.

    Example:

    >>> round(pearson([0.1, 0.2, 0.9], [1, 2, 3]), 3)
    0.918
    """
    return _correlation("pearsonr", predicted, right)


def _correlation(name: str, predicted: Sequence[float] | np.ndarray, right: Sequence[float] | np.ndarray) -> float:
    try:
        import scipy.stats
    except ImportError:
        raise UserError("correlations come with SciPy: pip install 'keras_lm[tasks]'") from None
    both = [np.asarray(values, np.float64) for values in (predicted, right)]
    if both[0].shape != both[1].shape or both[0].ndim != 1:
        raise UserError(f"{len(predicted)} predicted scores cannot be compared with {len(right)} right ones: a number for each is needed")
    if len(both[0]) < 2:
        raise UserError(f"a correlation needs two pairs at least, got {len(both[0])}")
    for kind, values in zip(("predicted", "right"), both, strict=True):
        if not np.isfinite(values).all():
            raise UserError(f"{kind} score number {np.flatnonzero(~np.isfinite(values))[0] + 1} is not finite")
        if (values == values[0]).all():
            raise UserError(f"all {kind} scores are {values[0]:g}: where nothing varies there is no correlation")
    return float(getattr(scipy.stats, name)(*both).statistic)


def averaged_vectors(texts: Sequence[str], vectors: WordVectors, segmenter: Callable[[str], list[str]]) -> np.ndarray:
    """Texts as the mean of their words' vectors, of length one: the floor for sentence vectors.

    Args:
        texts: Any number of `str`.
        vectors: Of words; a word that has none is left out, but for one that has in lower case.
        segmenter: Text → words, such as `keras_lm.segmentation.segmenter()` gives it; white space around a word does not count.

    Returns:
        `(texts, dimensions)` float32, the product of two rows is their cosine; a row of zeros where no word has a vector.

    Example:

    >>> vectors = WordVectors(["猫", "狗"], np.array([[3.0, 4.0], [0.0, 5.0]]))
    >>> averaged_vectors(["猫！", "鱼"], vectors, list).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    _check_texts(texts)
    means = np.zeros([len(texts), vectors.dimensions], np.float32)
    for number, text in enumerate(texts):
        forms = ((word.strip(), word.strip().lower()) for word in segmenter(text))
        found = [next((form for form in own if form in vectors), None) for own in forms]
        known = [vectors[form] for form in found if form is not None]
        if known:
            means[number] = np.mean(known, axis=0)
    return unit_length(means)


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors `(texts, dimensions)`, each brought to length one; zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def row_cosines(firsts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """The cosine of each row of the one with the same row of the other: `(pairs, dimensions)` twice → `(pairs,)`; 0 where one is zeros.

    Example:

    >>> row_cosines(np.array([[1.0, 0.0], [2.0, 2.0]]), np.array([[3.0, 4.0], [1.0, 1.0]])).round(3).tolist()
    [0.6, 1.0]
    """
    return np.sum(unit_length(firsts) * unit_length(seconds), axis=1)


def tf_idf_cosines(pairs: ScoredPairs, bag: BagOfWords) -> np.ndarray:
    """The cosine of the two sentences of each pair as bags of words: the floor that knows only which words both have.

    Args:
        pairs: To be compared.
        bag: Fitted on other texts of the kind, or on these sentences: it reads no scores.

    Returns:
        `(pairs,)` float64.

    Example:

    >>> pairs = ScoredPairs(name="two", firsts=("水开了", "水开了"), seconds=("水开", "好人"), scores=(4, 0))
    >>> bag = BagOfWords.fit([*pairs.firsts, *pairs.seconds], words="characters")
    >>> tf_idf_cosines(pairs, bag).round(2).tolist()
    [0.75, 0.0]
    """
    firsts, seconds = bag.vectors(pairs.firsts), bag.vectors(pairs.seconds)
    products, *squares = (
        np.asarray(one.multiply(other).sum(axis=1)).ravel() for one, other in ((firsts, seconds), (firsts, firsts), (seconds, seconds))
    )
    lengths = np.sqrt(squares[0] * squares[1])
    return products / np.where(lengths == 0, 1, lengths)


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise UserError("texts must be a list of texts, got one text: put it into brackets")
