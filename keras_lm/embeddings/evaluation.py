"""What vectors of words are worth: do their cosines rank pairs of words as people do, and are analogies answered?

References:
    Finkelstein et al. 2001 (WordSim-353), Hill et al. 2015 (SimLex-999); Mikolov et al. 2013 (arXiv:1301.3781), whose file
    `questions-words.txt` gave analogies their form. gensim carries all three among its test data.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from keras_lm.embeddings.vectors import WordVectors, is_number
from keras_lm.errors import UserError
from keras_lm.files import read_text


@dataclasses.dataclass(frozen=True)
class Similarity:
    """How vectors rank pairs of words.

    Args:
        spearman: Spearman's correlation between cosines and people's ratings; NaN for fewer than two pairs.
        pairs: Pairs both of whose words have vectors.
        left_out: The other pairs.
    """

    spearman: float
    pairs: int
    left_out: int


def word_similarity(vectors: WordVectors, path: str | os.PathLike) -> Similarity:
    """Compares cosines with ratings.

    Args:
        vectors: To be judged.
        path: Of a file whose lines hold word, word and rating, between tabs; lines that begin with `#` are left out, and a first line
            without a number.

    Raises:
        UserError: no such file, a line of another form, or scikit-learn (and with it SciPy) missing.

    Example:

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "pairs.tsv"
    >>> _ = file.write_text("\\n".join(["cat\\tdog\\t8", "cat\\tcar\\t1", "dog\\tcar\\t2", "cat\\tyak\\t5"]))
    >>> word_similarity(WordVectors(["cat", "dog", "car"], np.array([[1.0, 0.1], [1.0, 0.4], [0.1, 1.0]])), file)
    Similarity(spearman=1.0, pairs=3, left_out=1)
    """
    try:
        import scipy.stats
    except ImportError:
        raise UserError("Spearman's correlation comes with SciPy: pip install 'keras_lm[tasks]'") from None
    cosines, ratings, left_out = [], [], 0
    for number, line in _lines(path):
        fields = line.split("\t")
        if len(fields) < 3 or not is_number(fields[2]):
            if number == 1:
                continue
            raise UserError(f"{path}, line {number}: two words and a number between tabs are due, got {line!r}")
        one, other = fields[:2]
        if one in vectors and other in vectors:
            cosines.append(vectors.similarity(one, other))
            ratings.append(float(fields[2]))
        else:
            left_out += 1
    spearman = float(scipy.stats.spearmanr(cosines, ratings).statistic) if len(cosines) > 1 else float("nan")
    return Similarity(spearman, len(cosines), left_out)


@dataclasses.dataclass(frozen=True)
class Analogies:
    """How many analogies were answered.

    Args:
        sections: For each section right answers and questions all of whose words have vectors.
        left_out: The other questions.
    """

    sections: dict[str, tuple[int, int]]
    left_out: int

    @property
    def accuracy(self) -> float:
        """The share of right answers; NaN where there was no question."""
        right, asked = (sum(values) for values in zip(*self.sections.values(), strict=True)) if self.sections else (0, 0)
        return right / asked if asked else float("nan")


def word_analogies(vectors: WordVectors, path: str | os.PathLike) -> Analogies:
    """Asks for the fourth word: a is to b as c is to which? The word nearest to b - a + c, the three left out.

    Args:
        vectors: To be judged.
        path: Of a file whose lines hold four words each, below lines `: SECTION`.

    Raises:
        UserError: no such file, or a line of another form.

    Example:

    >>> import pathlib, tempfile
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "questions.txt"
    >>> _ = file.write_text(": family\\nman king woman queen")
    >>> vectors = WordVectors(["king", "queen", "man", "woman"], np.array([[3.0, 1.0], [3.0, -1.0], [1.0, 1.0], [1.0, -1.0]]))
    >>> word_analogies(vectors, file).sections
    {'family': (1, 1)}
    """
    questions: dict[str, list[list[int]]] = {}
    section, left_out = "", 0
    for number, line in _lines(path):
        if line.startswith(":"):
            section = line[1:].strip()
            continue
        words = line.split()
        if len(words) != 4:
            raise UserError(f"{path}, line {number}: four words are due, got {line!r}")
        if all(word in vectors for word in words):
            questions.setdefault(section, []).append([vectors.row(word) for word in words])
        else:
            left_out += 1
    return Analogies({name: _answered(vectors, np.array(rows)) for name, rows in questions.items()}, left_out)


def _answered(vectors: WordVectors, rows: np.ndarray) -> tuple[int, int]:
    right, unit = 0, vectors.unit
    for start in range(0, len(rows), 256):
        a, b, c, wanted = rows[start : start + 256].T
        cosines = (unit[b] - unit[a] + unit[c]) @ unit.T  # (questions, words); the length of the left side changes no order
        for given in (a, b, c):
            cosines[np.arange(len(a)), given] = -np.inf
        right += int((cosines.argmax(axis=1) == wanted).sum())
    return right, len(rows)


def _lines(path: str | os.PathLike) -> list[tuple[int, str]]:
    lines = read_text(path).splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
