"""N-gram models as ARPA files, the text form that KenLM, SRILM and others read and write.

A line holds log10 P, the words, and log10 of the weight for backing off. What separates words in such a file is white space, so the tokens
of a tokenizer need names without any: `keras_lm.token_names` makes them. KenLM reads files of order 2 and above.

References:
    Stolcke 2002, «SRILM»; its manual page ngram-format(5).
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Sequence

import numpy as np

from keras_lm.classical.counting import NGramIndex
from keras_lm.classical.ngram import NGramModel
from keras_lm.errors import UserError
from keras_lm.files import read_text, replacing
from keras_lm.token_names import END, PAD, START, UNKNOWN

NEVER = -99.0
"""What stands for the logarithm of 0."""


def write_arpa(model: NGramModel, path: str | os.PathLike, names: Sequence[str]) -> None:
    """Writes a model.

    Args:
        model: To be written.
        path: Of the file; it appears whole or not at all.
        names: One for each id, as `token_names` gives them. Orders that no text was long enough for are left out of the file.

    Raises:
        UserError: another number of names than the model has ids, one that is empty or holds white space, one that stands twice.

    Example:

    >>> import tempfile
    >>> from keras_lm.token_names import token_names
    >>> from keras_lm.tokenizers import CharacterTokenizer
    >>> tokenizer = CharacterTokenizer(["a", "b"])
    >>> model = NGramModel.fit(np.array([2, 4, 5, 3, 2, 4, 3]), 2, vocabulary_size=6, smoothing="mle")
    >>> path = f"{tempfile.mkdtemp()}/model.arpa"
    >>> write_arpa(model, path, token_names(tokenizer))
    >>> again, names = read_arpa(path)
    >>> names, again.order, np.exp(again.log_probabilities(np.array([2, 4, 5]))).tolist()
    (['<pad>', '<unk>', '<s>', '</s>', 'a', 'b'], 2, [nan, 1.0, 0.5])
    """
    _check_names(names, model.vocabulary_size)
    names = np.array(names, object)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        rows = [np.arange(size) for size in itertools.takewhile(bool, map(model.index.size, range(1, model.order + 1)))]
        rows[0] = rows[0][names[rows[0]] != PAD]
        file.write("\\data\\\n" + "".join(f"ngram {order}={len(part)}\n" for order, part in enumerate(rows, start=1)))
        texts = names
        for order, part in enumerate(rows, start=1):
            if order > 1:
                texts = texts[model.index.parents(order)] + " " + names[model.index.words(order)]
            values, weights = (_log10(array[order - 1][part]) for array in (model.log_probabilities_of, model.log_backoffs_of))
            values = np.minimum(values, 0)  # what rounding left above, which KenLM refuses
            file.write(f"\n\\{order}-grams:\n")
            if order < len(rows):
                lines = (f"{value:.7g}\t{text}\t{weight:.7g}\n" for value, text, weight in zip(values, texts[part], weights, strict=True))
            else:
                lines = (f"{value:.7g}\t{text}\n" for value, text in zip(values, texts[part], strict=True))
            file.writelines(lines)
        file.write("\n\\end\\\n")


def _check_names(names: Sequence[str], size: int) -> None:
    if len(names) != size:
        raise UserError(f"the model has {size} ids, but there are {len(names)} names")
    taken = set()
    for number, name in enumerate(names):
        if len(name.split()) != 1 or len(name.split()[0]) != len(name):
            raise UserError(f"the name {name!r} of id {number} is empty or holds white space, which separates words in the file")
        if name in taken:
            raise UserError(f"the name {name!r} of id {number} stands twice among the names")
        taken.add(name)


def read_arpa(path: str | os.PathLike, names: Sequence[str] | None = None) -> tuple[NGramModel, list[str]]:
    """Reads a model.

    Args:
        path: Of the file.
        names: One for each id of the vocabulary it is to have. Words of the file that are not among them are refused; names that the file
            has not get the probability of `<unk>`. Default: the file's own words, the special ones first.

    Returns:
        The model, and the name of each of its ids.

    Raises:
        UserError: a damaged file, named with the line, or a word that is not among `names`.

    Example: `write_arpa` has one.
    """
    return _Reader(path).read(names)


class _Reader:
    def __init__(self, path: str | os.PathLike):
        self.path = path
        self.lines = read_text(path).split("\n")
        self.place = 0

    def read(self, names: Sequence[str] | None) -> tuple[NGramModel, list[str]]:
        sizes = self._sizes()
        self._expect("\\1-grams:")
        unigrams = self._section(1, sizes[0], len(sizes))
        words = [text for _, text, _ in unigrams]
        if len(set(words)) != len(words):
            raise self._damaged("a word stands twice among the 1-grams")
        names = (
            [PAD, UNKNOWN, START, END, *(word for word in words if word not in (PAD, UNKNOWN, START, END))]
            if names is None
            else list(names)
        )
        number_of = {name: number for number, name in enumerate(names)}
        strange = next((word for word in words if word not in number_of), None)
        if strange is not None:
            raise UserError(f"{self.path} has the word {strange!r}, which the vocabulary has not: it is of another tokenizer")
        values, weights = self._first(unigrams, number_of, len(names))
        index = NGramIndex([], len(names))
        for order in range(2, len(sizes) + 1):
            self._expect(f"\\{order}-grams:")
            index, value, weight = self._extended(index, self._section(order, sizes[order - 1], len(sizes)), number_of)
            values.append(value)
            weights.append(weight)
        self._expect("\\end\\")
        return NGramModel(index, values, weights, start_id=number_of.get(START, -1)), names

    def _sizes(self) -> list[int]:
        self._expect("\\data\\")
        sizes = []
        while match := re.fullmatch(r"ngram (\d+)\s*=\s*(\d+)\s*", self._line()):
            if int(match[1]) != len(sizes) + 1:
                raise self._damaged(f"the number of {len(sizes) + 1}-grams should stand here")
            sizes.append(int(match[2]))
            self.place += 1
        if not sizes:
            raise self._damaged("the number of 1-grams should stand here")
        return sizes

    def _section(self, order: int, size: int, highest: int) -> list[tuple[float, str, float]]:
        """`(log10 P, words, log10 of the weight)` of each line."""
        begin, self.place = self.place, self.place + size
        entries = []
        for number, line in enumerate(self.lines[begin : self.place]):
            fields = line.rstrip("\r").split("\t")
            if len(fields) == 1:
                parts = line.split()
                fields = [parts[0] if parts else "", " ".join(parts[1 : order + 1]), *parts[order + 1 :]]
            try:
                value, text, weight = float(fields[0]), fields[1], float(fields[2]) if len(fields) == 3 else 0.0
                whole = len(text.split(" ")) == order and 2 <= len(fields) <= (3 if order < highest else 2)
            except (ValueError, IndexError):
                whole = False
            if not (whole and value < math.inf and weight < math.inf):  # NaN is neither
                self.place = begin + number
                raise self._damaged(f"a {order}-gram should stand here: log10 P, {order} words, log10 of the weight")
            if value > 0:
                self.place = begin + number
                raise self._damaged(f"log10 P is {value:g}: a probability above 1")
            entries.append((value, text, weight))
        if len(entries) != size:
            self.place = len(self.lines) - 1
            raise self._damaged(f"the file ends within the {order}-grams: {len(entries)} of {size}")
        return entries

    def _first(self, entries, number_of: dict[str, int], size: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        values, weights = np.full(size, -np.inf), np.zeros(size)
        places = [number_of[text] for _, text, _ in entries]
        unknown = next((value for value, text, _ in entries if text == UNKNOWN), NEVER)
        missing = np.ones(size, bool)
        missing[[*places, *(number_of[name] for name in (PAD, START) if name in number_of)]] = False
        values[missing] = _natural(np.array([unknown]))
        values[places] = _natural(np.array([value for value, _, _ in entries]))
        weights[places] = _natural(np.array([weight for _, _, weight in entries]))
        return [values], [weights]

    def _extended(self, index: NGramIndex, entries, number_of: dict[str, int]) -> tuple[NGramIndex, np.ndarray, np.ndarray]:
        order, first = index.order + 1, self.place - len(entries)
        try:
            ids = np.array([[number_of[word] for word in text.split(" ")] for _, text, _ in entries], np.int64).reshape(-1, order)
        except KeyError as error:
            self.place = next(
                first + place for place, (_, text, _) in enumerate(entries) if any(word not in number_of for word in text.split(" "))
            )
            raise self._damaged(f"the word {error.args[0]!r} is not among the 1-grams") from None
        parents = ids[:, 0]
        for length in range(2, order):
            parents = index.find(length, parents, ids[:, length - 1])
        if (parents < 0).any():
            self.place = first + int(np.argmax(parents < 0))
            raise self._damaged(f"the first {order - 1} words of this {order}-gram are not among the {order - 1}-grams")
        keys = parents * index.vocabulary_size + ids[:, -1]
        ranks = np.argsort(keys, kind="stable")
        twice = np.flatnonzero(np.diff(keys[ranks]) == 0)
        if len(twice):
            self.place = first + int(ranks[twice[0] + 1])
            raise self._damaged(f"this {order}-gram stands twice")
        keys_below = [index.keys(length) for length in range(2, order)]
        columns = (np.array([entry[column] for entry in entries])[ranks] for column in (0, 2))
        return NGramIndex([*keys_below, keys[ranks]], index.vocabulary_size), *(_natural(column) for column in columns)

    def _line(self) -> str:
        return self.lines[self.place] if self.place < len(self.lines) else ""

    def _expect(self, text: str) -> None:
        while self.place < len(self.lines) and not self._line().strip():
            self.place += 1
        if self._line().strip() != text:
            raise self._damaged(f"{text} should stand here")
        self.place += 1

    def _damaged(self, what: str) -> UserError:
        return UserError(f"{self.path}, line {min(self.place, len(self.lines) - 1) + 1}: {what}")


def _log10(values: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(values), NEVER, values.astype(np.float64) / math.log(10))


def _natural(values: np.ndarray) -> np.ndarray:
    return np.where(values <= NEVER, -np.inf, values * math.log(10))
