"""From ids to text piece by piece: nothing is given out that a later id could still change."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence


class TextStream:
    """The text of a row of ids that come a few at a time.

    Held back are a character of which only the first bytes have come, and an end that could still become a stop string. All that is given
    out, joined, is the whole text up to the earliest place where a stop string stands. Bytes that are no UTF-8 become U+FFFD.

    Args:
        pieces: What each id writes (`Tokenizer.pieces`).
        stop: Strings at which the text ends; they are not part of it.

    Attributes:
        stopped: Whether the text has ended at a stop string; later ids are ignored.

    Example:

    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> stream = TextStream(ByteTokenizer().pieces(), stop=["。\\n"])
    >>> ids = [byte + 4 for byte in "好。\\n再见".encode()]
    >>> [stream.feed([id]) for id in ids[:3]]
    ['', '', '好']
    >>> stream.feed(ids[3:]), stream.stopped
    ('', True)
    """

    def __init__(self, pieces: Sequence[bytes], stop: Sequence[str] = ()):
        self.stopped = False
        self._pieces = pieces
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, ids: Iterable[int]) -> str:
        """The text that is certain after these ids and was not before."""
        return self._give(self._decoder.decode(b"".join(self._pieces[token] for token in ids)), final=False)

    def finish(self) -> str:
        """The rest, when no ids follow."""
        return self._give(self._decoder.decode(b"", final=True), final=True)

    def _give(self, text: str, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = min((place for place in map(text.find, self._stop) if place >= 0), default=None)
        certain = len(text) if final else min((self._beginning(text, stop) for stop in self._stop), default=len(text))
        # A stop string that begins before one that was found may still be under way, and would then be the earlier.
        self.stopped = found is not None and found <= certain
        if self.stopped:
            text, certain = text[:found], found
        self._held = text[certain:]
        return text[:certain]

    @staticmethod
    def _beginning(text: str, stop: str) -> int:
        """Where `text` ends with a beginning of `stop`, the longest one that is not all of it; the end of `text` if nowhere."""
        sizes = range(min(len(text), len(stop) - 1), 0, -1)
        return len(text) - next((size for size in sizes if stop.startswith(text[-size:])), 0)
