"""What a text has word for word in common with a corpus: from each of its characters on, the longest run that stands there too.

The corpus is a suffix array of its UTF-8 bytes (Manber and Myers 1990), by libdivsufsort: five bytes of memory for each of its bytes, and
three while it is made. All places of all texts are looked up at once, by a binary search whose steps are NumPy operations that compare
eight bytes at a time and skip what both ends of the range have in common already. A corpus that is larger than one array is read in parts:
the longest run is the longest of all parts.

Runs are counted in characters. Texts begin them where a character begins, so that in the corpus they do as well: no character of UTF-8
holds the beginning of another.

References:
    Manber and Myers 1990, "Suffix Arrays: A New Method for On-Line String Searches"; Lee et al. 2022, arXiv:2107.06499.
    McCoy et al. 2023, "How Much Do Language Models Copy From Their Training Data?", arXiv:2111.09509, for the novelty of n-grams.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from keras_lm.errors import UserError

BREAK = b"\xff"
"""Stands between two documents: no text holds this byte, so no run goes from one into the next."""

MOST_BYTES = 2**31 - 16
"""Of one suffix array, whose places are numbers of 32 bits."""

_BOUNDS = np.array([1 << (8 * number) for number in range(1, 8)], np.uint64)


class SuffixArray:
    """All suffixes of a text in their order.

    Args:
        text: UTF-8, with `BREAK` where no run may go on; up to `MOST_BYTES`.

    Raises:
        UserError: a text that is empty or too long, or pydivsufsort is not installed.

    Example:

    >>> array = SuffixArray("天气很好".encode())
    >>> lengths, places = array.longest("很好天".encode(), np.array([0, 3, 6]), np.array([9, 6, 3]))
    >>> lengths.tolist(), places.tolist()
    ([6, 3, 3], [6, 9, 0])
    """

    def __init__(self, text: bytes):
        check_installed()
        from pydivsufsort import divsufsort

        if not 0 < len(text) <= MOST_BYTES:
            raise UserError(f"a suffix array holds from 1 to {MOST_BYTES:,} bytes, got {len(text):,}: read the corpus in parts")
        self.size = len(text)
        self._bytes = np.zeros(self.size + 8, np.uint8)  # so that eight bytes can be read anywhere
        self._bytes[: self.size] = np.frombuffer(text, np.uint8)
        self._suffixes = divsufsort(self._bytes[: self.size])
        self._words = _words(self._bytes)

    def longest(self, texts: bytes, starts: np.ndarray, rooms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The longest run from each start on.

        Args:
            texts: UTF-8.
            starts: Places in it, `(starts,)`.
            rooms: How many bytes a run from there may have, `(starts,)`.

        Returns:
            Bytes of the longest run that stands in the corpus, and a place where it does, each `(starts,)` int64.
        """
        count, words = len(starts), _words(np.concatenate([np.frombuffer(texts, np.uint8), np.zeros(8, np.uint8)]))
        starts, rooms = np.asarray(starts, np.int64), np.asarray(rooms, np.int64)
        low, high = np.full(count, -1, np.int64), np.full(count, self.size, np.int64)
        common_low, common_high = np.zeros(count, np.int64), np.zeros(count, np.int64)
        active = np.arange(count)
        while len(active):
            middle = (low[active] + high[active]) >> 1
            places = self._suffixes[middle].astype(np.int64)
            common = np.minimum(common_low[active], common_high[active])
            common, after = self._compare(words, starts[active], rooms[active], places, common)
            up, down = active[after], active[~after]
            low[up], common_low[up] = middle[after], common[after]
            high[down], common_high[down] = middle[~after], common[~after]
            active = active[high[active] - low[active] > 1]
        nearer = np.where(common_low >= common_high, low, high)
        return np.maximum(common_low, common_high), self._suffixes[np.clip(nearer, 0, self.size - 1)].astype(np.int64)

    def _compare(
        self, words: np.ndarray, starts: np.ndarray, rooms: np.ndarray, places: np.ndarray, common: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """How many bytes each text and suffix have in common, of which `common` are known, and whether the text comes after the suffix."""
        common, after = common.copy(), np.zeros(len(starts), bool)
        limits = np.minimum(rooms, self.size - places)
        rest = np.arange(len(starts))
        while len(rest):
            ours = words[starts[rest] + common[rest]].astype(np.uint64)
            theirs = self._words[places[rest] + common[rest]].astype(np.uint64)
            same = 7 - np.searchsorted(_BOUNDS, ours ^ theirs, side="right")
            equal = ours == theirs
            same[equal] = 8
            reached = common[rest] + same
            over = reached >= limits[rest]
            common[rest] = np.minimum(reached, limits[rest])
            # A suffix that is over is the beginning of the text, which comes after it; a text that is over comes before.
            after[rest] = np.where(over, rooms[rest] > limits[rest], ours > theirs)
            rest = rest[equal & ~over]
        return common, after

    def around(self, place: int, before: int, length: int, behind: int) -> bytes:
        """The bytes about a place, up to the next `BREAK` on both sides."""
        text = self._bytes
        left = text[max(place - before, 0) : place].tobytes().rpartition(BREAK)[2]
        right = text[place + length : min(place + length + behind, self.size)].tobytes().partition(BREAK)[0]
        return left + text[place : place + length].tobytes() + right

    def position(self, place: int) -> tuple[int, int]:
        """How many `BREAK`s stand before a place, and how many characters since the last."""
        breaks = np.flatnonzero(self._bytes[:place] == BREAK[0])
        since = self._bytes[breaks[-1] + 1 if len(breaks) else 0 : place]
        return len(breaks), _characters(since)


def _words(values: np.ndarray) -> np.ndarray:
    """Eight bytes from each place on as a number, the first of most weight; a view."""
    return np.ndarray(shape=(len(values) - 7,), dtype=">u8", buffer=values, strides=(1,))


@dataclasses.dataclass(frozen=True)
class Overlap:
    """What one text has in common with a corpus.

    Attributes:
        text: The text.
        matches: From each character on, how many stand in the corpus as they do here, `(characters,)` int64.
        start: Where the longest run begins in the text, in characters.
        document: The document of the corpus that it was found in, from 0 on; -1 where nothing was.
        position: Its character there at which the run begins.
        around: The run where it was found, with some text on both sides.
    """

    text: str
    matches: np.ndarray
    start: int
    document: int
    position: int
    around: str

    @property
    def longest(self) -> int:
        """Characters of the longest run."""
        return int(self.matches.max(initial=0))

    @property
    def span(self) -> str:
        """The longest run; the first of several."""
        return self.text[self.start : self.start + self.longest]

    def novel(self, n: int) -> tuple[int, int]:
        """How many of the text's runs of `n` characters do not stand in the corpus, and how many there are: 0 where it is shorter."""
        count = max(len(self.text) - n + 1, 0)
        return int((self.matches[:count] < n).sum()), count


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a corpus.

    Args:
        text: UTF-8; each document begins with `BREAK`, or it has none and is one text.
        breaks: How many `BREAK`s stand before the part.
        position: How many characters stand between the last of these and the part.
    """

    text: bytes
    breaks: int = 0
    position: int = 0


@dataclasses.dataclass
class CorpusSize:
    """What was read of a corpus: the parts, and their bytes, those of runs that may go over a border twice."""

    parts: int = 0
    bytes: int = 0


def overlaps(texts: Sequence[str], parts: Iterable[Part], size: CorpusSize | None = None, context: int = 20) -> list[Overlap]:
    """What texts have in common with a corpus.

    Args:
        texts: Any number.
        parts: The corpus, as `in_parts` cuts it.
        size: Takes what was read.
        context: Characters shown on both sides of where the longest run was found, about.

    Returns:
        One for each text.

    Raises:
        UserError: no text, only empty ones, or a corpus without text.

    Example:

    >>> (found,) = overlaps(["今天天气很差"], [Part(BREAK + "他说天气很好".encode() + BREAK + "明天".encode())])
    >>> found.span, found.document, found.position, found.matches.tolist(), found.novel(2)
    ('天气很', 0, 2, [0, 1, 3, 2, 1, 0], (3, 5))
    """
    if not any(texts):
        raise UserError("there is no text to compare: give at least one character")
    data = [text.encode("utf-8", "replace") for text in texts]
    whole = b"".join(data)
    begins = (np.frombuffer(whole, np.uint8) & 0xC0) != 0x80
    starts = np.flatnonzero(begins)
    edges = np.append(starts, len(whole))
    ends = np.repeat(np.cumsum([len(one) for one in data]), [len(text) for text in texts])
    first = np.cumsum([0, *map(len, texts)])
    best = np.zeros(len(starts), np.int64)
    found: list[tuple[int, int, int, str]] = [(0, -1, 0, "")] * len(texts)  # start, document, position, around
    size = size or CorpusSize()
    for part in parts:
        array = SuffixArray(part.text)
        lengths, places = array.longest(whole, starts, ends - starts)
        matches = np.searchsorted(edges, starts + lengths, side="right") - 1 - np.arange(len(starts))  # whole characters
        for number, text in enumerate(texts):
            if not text:
                continue
            own = slice(first[number], first[number + 1])
            start = int(matches[own].argmax())
            if matches[own][start] <= best[own].max():
                continue
            place, length = int(places[own][start]), int(edges[own.start + start + matches[own][start]] - starts[own][start])
            breaks, position = array.position(place)
            shown = array.around(place, 4 * context, length, 4 * context).decode("utf-8", "ignore")
            document = max(part.breaks + breaks - 1, 0)
            found[number] = (start, document, position if breaks else part.position + position, shown)
        best = np.maximum(best, matches)
        size.parts, size.bytes = size.parts + 1, size.bytes + array.size
    if not size.bytes:
        raise UserError("the corpus to compare with has no text")
    return [Overlap(text, best[first[number] : first[number + 1]], *found[number]) for number, text in enumerate(texts)]


def in_parts(blocks: Iterable[bytes], most: int, longest: int) -> Iterator[Part]:
    """Cuts a corpus into parts for `overlaps`, so that no run of up to `longest` bytes is cut.

    Args:
        blocks: The corpus, in blocks of any sizes; each document begins with `BREAK`, or it has none and is one text.
        most: Bytes of a part, about.
        longest: Bytes of the longest text that will be compared.

    Yields:
        Parts. Cut is before a `BREAK` where one is near the end; else the next part begins with the last `longest` bytes of this one.

    Example:

    >>> [part.text for part in in_parts([b"\\xffone\\xfftwo", b"s\\xffthree"], most=8, longest=3)]
    [b'\\xffone', b'\\xfftwos', b'\\xffthree']
    >>> list(in_parts([b"abcdefgh"], most=6, longest=2))
    [Part(text=b'abcdef', breaks=0, position=0), Part(text=b'efgh', breaks=0, position=4)]
    """
    most = max(min(most, MOST_BYTES), 2 * longest + 1)
    held, breaks, position = bytearray(), 0, 0
    for block in blocks:
        for first in range(0, len(block), most):
            held += block[first : first + most]
            while len(held) > most:
                cut = held.rfind(BREAK, 1, most + 1)
                yield Part(bytes(held[: cut if cut > 0 else most]), breaks, position)
                done = bytes(held[: cut if cut > 0 else most - longest])
                position = _characters(np.frombuffer(done.rpartition(BREAK)[2], np.uint8)) + (0 if BREAK in done else position)
                breaks += done.count(BREAK)
                del held[: len(done)]
    if held:
        yield Part(bytes(held), breaks, position)


def _characters(values: np.ndarray) -> int:
    """How many characters begin in these bytes."""
    return int(np.count_nonzero((values & 0xC0) != 0x80))


def check_installed() -> None:
    """Refuses what would fail later.

    Raises:
        UserError: pydivsufsort is not installed.
    """
    if importlib.util.find_spec("pydivsufsort") is None:
        raise UserError('comparing with a corpus needs pydivsufsort: pip install "keras_lm[audit]"')
