"""Words and their vectors: files that gensim and word2vec read, the nearest words, analogies.

References:
    Mikolov et al. 2013, «Efficient Estimation of Word Representations in Vector Space» (arXiv:1301.3781); articles A0 §3.1 and A2, history.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from keras_lm.errors import UserError
from keras_lm.files import replacing


class WordVectors:
    """Words, and a vector for each.

    Args:
        words: None twice, none with white space.
        vectors: `(words, dimensions)` float32.

    Example:

    >>> vectors = WordVectors(["king", "queen", "man", "woman"], np.array([[3.0, 1.0], [3.0, -1.0], [1.0, 1.0], [1.0, -1.0]]))
    >>> vectors.nearest("king", 1)[0][0]
    'man'
    >>> vectors.analogy("man", "king", "woman", 1)[0][0]
    'queen'
    """

    def __init__(self, words: Sequence[str], vectors: np.ndarray):
        self.words = list(words)
        self.vectors = np.asarray(vectors, np.float32)
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.words):
            raise UserError(f"{len(self.words)} words need vectors of shape ({len(self.words)}, dimensions), got {self.vectors.shape}")
        self._rows = {word: row for row, word in enumerate(self.words)}
        if len(self._rows) != len(self.words):
            raise UserError("a word stands twice among the vectors")
        self.unit = self.vectors / np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), 1e-12)

    @property
    def dimensions(self) -> int:
        return self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self._rows

    def __getitem__(self, word: str) -> np.ndarray:
        """The vector of a word, `(dimensions,)`."""
        return self.vectors[self.row(word)]

    def row(self, word: str) -> int:
        """The number of a word.

        Raises:
            UserError: it has no vector; the message names the most similar spelling that has.
        """
        if word not in self._rows:
            near = difflib.get_close_matches(word, (other for other in self.words if other[:1] == word[:1]), n=1)
            raise UserError(f"{word!r} has no vector{f': did you mean {near[0]!r}?' if near else ''}")
        return self._rows[word]

    def similarity(self, one: str, other: str) -> float:
        """The cosine of two words' vectors."""
        return float(self.unit[self.row(one)] @ self.unit[self.row(other)])

    def nearest(self, word: str, number: int = 10) -> list[tuple[str, float]]:
        """The words whose vectors have the largest cosine with that of `word`, itself left out.

        Raises:
            UserError: a word without a vector, or a number below 1.
        """
        return self._nearest(self.unit[self.row(word)], number, [self.row(word)])

    def analogy(self, a: str, b: str, c: str, number: int = 10) -> list[tuple[str, float]]:
        """What is to `c` as `b` is to `a`: the words nearest to b - a + c (vectors of length 1), the three left out.

        Raises:
            UserError: as `nearest`.
        """
        rows = [self.row(word) for word in (a, b, c)]
        return self._nearest(self.unit[rows[1]] - self.unit[rows[0]] + self.unit[rows[2]], number, rows)

    def _nearest(self, vector: np.ndarray, number: int, without: Sequence[int]) -> list[tuple[str, float]]:
        if number < 1:
            raise UserError(f"number must be at least 1, got {number}")
        cosines = self.unit @ (vector / max(float(np.linalg.norm(vector)), 1e-12))
        cosines[list(without)] = -np.inf
        number = min(number, len(self.words) - len(set(without)))
        best = np.argpartition(-cosines, max(number - 1, 0))[:number]
        return [(self.words[row], float(cosines[row])) for row in best[np.argsort(-cosines[best], kind="stable")]]

    def only(self, words: Sequence[str]) -> WordVectors:
        """Those of `words` that have a vector, in their order.

        Raises:
            UserError: none has.
        """
        found = [word for word in words if word in self]
        if not found:
            raise UserError(f"none of the {len(words)} tokens has a vector: are these vectors of words, and the tokens something else?")
        return WordVectors(found, self.vectors[[self.row(word) for word in found]])

    def save(self, path: str | os.PathLike) -> None:
        """Writes word2vec's format: text, or binary if the name ends in `.bin`. gensim's `KeyedVectors.load_word2vec_format` reads both.

        Raises:
            UserError: a word that is empty or holds a space or a line feed, which end it in such a file.
        """
        unfit = next((word for word in self.words if not word or " " in word or "\n" in word), None)
        if unfit is not None:
            raise UserError(f"the word {unfit!r} is empty or holds a space or a line feed, which end a word in such a file")
        binary = pathlib.Path(path).suffix == ".bin"
        with replacing(path) as temporary, temporary.open("wb") as file:
            file.write(f"{len(self)} {self.dimensions}\n".encode())
            for word, vector in zip(self.words, self.vectors, strict=True):
                if binary:
                    file.write(word.encode() + b" " + vector.astype("<f4").tobytes() + b"\n")
                else:
                    file.write(f"{word} {' '.join(map(repr, map(float, vector)))}\n".encode())

    @classmethod
    def load(cls, path: str | os.PathLike) -> WordVectors:
        """Reads a file of word2vec's format, binary if its name ends in `.bin`, else text; GloVe's, which has no first line, too.

        Raises:
            UserError: no such file, or one that is damaged; the message says in which line, or at which word.
        """
        path = pathlib.Path(path)
        with _opened(path) as file:
            return cls(*(_read_binary(path, file) if path.suffix == ".bin" else _read_text(path, file)))


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"no such file of word vectors: {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _read_first_line(path: pathlib.Path, file: BinaryIO) -> tuple[int | None, int, list[bytes]]:
    """The number of words, `None` where the line does not say, of dimensions, and the line's fields."""
    first = file.readline(1 << 20).split()
    if len(first) == 2 and all(field.isdigit() for field in first):
        if not (int(first[0]) and int(first[1])):
            raise UserError(f"{path}, line 1: {int(first[0])} words of {int(first[1])} dimensions are no vectors")
        return int(first[0]), int(first[1]), first
    if path.suffix == ".bin":
        raise UserError(f"{path}, line 1: the number of words and of dimensions is due")
    if len(first) < 2 or not all(map(is_number, first[1:])):
        raise UserError(f"{path}, line 1: neither the number of words and dimensions nor a word and its vector")
    return None, len(first) - 1, first


def is_number(field: str | bytes) -> bool:
    """Whether a field of a file is a number."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def _read_text(path: pathlib.Path, file: BinaryIO) -> tuple[list[str], np.ndarray]:
    words, rows, seen = [], [], set()
    size, dimensions, first = _read_first_line(path, file)

    def damaged(number: int, what: str, line: list[bytes]) -> UserError:
        hint = " (is it a binary file? Its name has to end in .bin)" if b"\0" in b" ".join(line) else ""
        return UserError(f"{path}, line {number}: {what}{hint}")

    def fields() -> Iterator[tuple[int, list[bytes]]]:
        if size is None:
            yield 1, first
        for number, line in enumerate(file, 2):
            yield number, line.rstrip(b" \r\n").split(b" ")

    for number, (word, *values) in fields():
        if len(values) != dimensions:
            what = f"a word and {dimensions} numbers are due, there are {len(values)} after the first field"
            raise damaged(number, what, [word, *values])
        try:
            rows.append(np.array(values, np.float32))
            words.append(word.decode("utf-8"))
        except ValueError:
            raise damaged(number, "what should be a number, or UTF-8, is not", [word, *values]) from None
        if not np.isfinite(rows[-1]).all():
            raise UserError(f"{path}, line {number}: the vector of {words[-1]!r} holds a number that is not finite")
        if words[-1] in seen:
            raise UserError(f"{path}, line {number}: {words[-1]!r} stands there twice")
        seen.add(words[-1])
    if not words:
        raise UserError(f"{path} holds no vectors")
    if size is not None and len(words) != size:
        raise UserError(f"{path}, line 1: {size} words are announced, but {len(words)} follow: the file is cut off or was changed")
    return words, np.stack(rows)


def _read_binary(path: pathlib.Path, file: BinaryIO) -> tuple[list[str], np.ndarray]:
    size, dimensions, _ = _read_first_line(path, file)
    rest, start, words = file.read(), 0, []
    if len(rest) < 4 * size * dimensions:
        raise UserError(f"{path}, line 1: {size} words of {dimensions} dimensions are announced, which is more than the file holds")
    vectors = np.zeros([size, dimensions], np.float32)
    for number in range(size):
        end = rest.find(b" ", start)
        values = rest[end + 1 : end + 1 + 4 * dimensions]
        if end < 0 or len(values) < 4 * dimensions:
            raise UserError(f"{path}, word {number + 1} of {size}: the file ends here")
        try:
            words.append(rest[start:end].lstrip(b"\n").decode("utf-8"))
        except UnicodeDecodeError:
            raise UserError(f"{path}, word {number + 1} of {size}: it is not UTF-8") from None
        vectors[number] = np.frombuffer(values, "<f4")
        start = end + 1 + 4 * dimensions
    if rest[start:].strip():
        raise UserError(f"{path}, line 1: {size} words are announced, but more follow them: the file was changed")
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(f"{path}, word {bad[0] + 1} of {size}: the vector of {words[bad[0]]!r} holds a number that is not finite")
    return words, vectors


def vectors_of(names: Sequence[str], table: np.ndarray) -> WordVectors:
    """The rows of a table that were learnt, which is those that are not all 0, with the names of their ids.

    Args:
        names: One for each id, as `keras_lm.token_names.word_names` gives them.
        table: `(vocabulary, dimensions)`, as `word2vec` and `glove` return it.
    """
    table = np.asarray(table)
    rows = np.flatnonzero(np.any(table != 0, axis=1))
    return WordVectors([names[row] for row in rows], table[rows])


def check_width(dimensions: int, embedding_dim: int) -> None:
    """Refuses vectors that do not fit an embedding of this width.

    Raises:
        UserError: another number of dimensions.
    """
    if dimensions != embedding_dim:
        raise UserError(
            f"the word vectors have {dimensions} dimensions, but the model's embedding {embedding_dim}: "
            f"--embedding-dim {dimensions}, or other vectors"
        )


def read_dimensions(path: str | os.PathLike) -> int:
    """How many dimensions the vectors of a file have, by its first line alone.

    Raises:
        UserError: no such file, or a first line that does not say.
    """
    path = pathlib.Path(path)
    with _opened(path) as file:
        return _read_first_line(path, file)[1]


def start_embedding(model: Any, names: Sequence[str], vectors: WordVectors) -> int:
    """Lets a language model's embedding begin with vectors that were learnt before (article A3 §8).

    They are brought to the scale of the embedding as it was made, so that the first steps of training are as large as they would have been.
    Ids without a vector keep what they had.

    Args:
        model: A `keras.Model` with an `Embedding` among its layers.
        names: One for each id, as `keras_lm.token_names.word_names` gives them.
        vectors: As wide as the embedding.

    Returns:
        How many ids have a vector.

    Raises:
        UserError: vectors of another width, or none of the names among them.
    """
    import keras

    embedding = next(layer for layer in model.layers if isinstance(layer, keras.layers.Embedding)).embeddings
    table = np.array(embedding, np.float32)
    check_width(vectors.dimensions, table.shape[1])
    ids = [number for number, name in enumerate(names) if name in vectors]
    found = vectors.only(names).vectors
    table[ids] = found * (np.std(table) / max(float(np.std(found)), 1e-12))
    embedding.assign(table)
    return len(ids)
