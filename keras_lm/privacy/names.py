"""Names of persons from a list: whole words in scripts with spaces, the longest match in Chinese.

Which words are names a list says better than a pattern: 高明 is a name and means brilliant, «Will» begins questions. What is not in the
list is not found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from keras_lm.errors import UserError
from keras_lm.files import read_text
from keras_lm.privacy.recognisers import Span, narrow
from keras_lm.segmentation import HAN

_WORD = re.compile(rf"[^\W{HAN}]+")  # a Chinese character may stand beside a word of another script
_IS_HAN = re.compile(f"[{HAN}]").match


class Names:
    """Finds the names of a list.

    Args:
        names: Each of two characters or more. In a text more white space may stand between the words of a name, and a name of several words
            may stand in capitals.

    Call arguments:
        text: After `recognisers.narrow`.

    Returns:
        A span for each name found, of the kind `name`.

    Example:

    >>> find = Names(["欧阳", "欧阳娜娜", "Mary Ann Smith", "Mark"])
    >>> [span.key for span in find("欧阳娜娜和欧阳都认识Mark。MARY ANN\\nSMITH went to the Market.")]
    ['欧阳娜娜', '欧阳', 'Mark', 'Mary Ann Smith']
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._han: set[str] = set()
        self._longest: dict[str, int] = {}  # of the Chinese names that begin with the same two characters
        words: dict[str, dict[str, str]] = {}
        for name in (" ".join(narrow(name).split()) for name in names):
            if _IS_HAN(name):
                self._han.add(name)
                self._longest[name[:2]] = max(len(name), self._longest.get(name[:2], 0))
                continue
            for spelling in {name, name.upper()} if " " in name else {name}:
                first = _WORD.match(spelling)
                words.setdefault(first.group() if first else spelling[0], {})[spelling] = name
        self._spelled = {
            first: [
                (re.compile(r"\s+".join(map(re.escape, spelling.split())) + rf"(?![^\W{HAN}])"), spellings[spelling])
                for spelling in longest
            ]
            for first, spellings in words.items()
            for longest in [sorted(spellings, key=len, reverse=True)]
        }
        self._first = re.compile(f"[{re.escape(''.join({name[0] for name in self._han}))}]") if self._han else None
        self._initial = re.compile(f"[{re.escape(''.join({first[0] for first in self._spelled}))}]") if self._spelled else None

    def __call__(self, text: str) -> Iterator[Span]:
        if self._first:
            yield from self._chinese(text)
        if self._initial:
            yield from self._words(text)

    def _chinese(self, text: str) -> Iterator[Span]:
        done = 0
        for match in self._first.finditer(text):
            start = match.start()
            longest = self._longest.get(text[start : start + 2], 0) if start >= done else 0
            for end in range(start + longest, start + 1, -1):
                if text[start:end] in self._han:
                    yield Span(start, end, "name", text[start:end])
                    done = end
                    break

    def _words(self, text: str) -> Iterator[Span]:
        done = 0
        for initial in self._initial.finditer(text):
            start = initial.start()
            if start < done:
                continue
            word = _WORD.match(text, start)
            done = word.end()
            if start and _WORD.match(text, start - 1, start):  # inside a word
                continue
            for pattern, name in self._spelled.get(word.group(), ()):
                if match := pattern.match(text, start):
                    yield Span(*match.span(), "name", name)
                    done = match.end()
                    break


def read_names(path: str | os.PathLike) -> tuple[str, ...]:
    """Reads a file of names, one a line, UTF-8; empty lines are passed over.

    Raises:
        UserError: no such file, not UTF-8, no name, or a name of one character, which would mask ordinary words.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "names.txt")
    >>> _ = path.write_text("王小明\\nMary Ann Smith\\n", encoding="utf-8")
    >>> read_names(path)
    ('王小明', 'Mary Ann Smith')
    """
    names = []
    for number, line in enumerate(read_text(path).removeprefix("\ufeff").splitlines(), start=1):
        name = " ".join(line.split())
        if len(name) == 1:
            raise UserError(f"{path}, line {number}: a name of one character would mask ordinary words: give names of two or more")
        if name and not re.match(r"\w", name):
            raise UserError(f"{path}, line {number}: a name must begin with a letter, got {name!r}")
        if name:
            names.append(name)
    if not names:
        raise UserError(f"{path} is empty: it should hold names, one a line")
    return tuple(names)
