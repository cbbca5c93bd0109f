"""Documents that come again, left out: what a text says once is kept less by heart than what it says often.

A model learns what stands in a text many times at the price of all else, and can be made to say it again (Lee et al. 2022; Kandpal et al.
2022). Two documents are the same if they differ in white space alone; the first stays, as it is. A sentence that comes again inside of
documents that differ stays too.

References:
    Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better", arXiv:2107.06499.
    Kandpal, Wallace and Raffel 2022, "Deduplicating Training Data Mitigates Privacy Risks in Language Models", arXiv:2202.06539.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator

from keras_lm.corpora import Corpus


@dataclasses.dataclass
class Duplicates:
    """What was left out.

    Args:
        documents: Read, but for empty ones.
        left_out: Of these.
    """

    documents: int = 0
    left_out: int = 0

    def __add__(self, other: Duplicates) -> Duplicates:
        return Duplicates(self.documents + other.documents, self.left_out + other.left_out)

    def __str__(self) -> str:
        """One line for a terminal.

        >>> str(Duplicates(1000, 3))
        '3 of 1,000 documents came again and are left out'
        """
        return f"{self.left_out:,} of {self.documents:,} documents came again and are left out"


def deduplicated(corpus: Corpus, counts: dict[str, Duplicates] | None = None) -> Corpus:
    """The corpus with each document once; some 100 bytes of memory for each that is read.

    Empty documents stay: in a text that runs on they are empty lines. Splits of the corpus' own do not know of each other.

    Args:
        corpus: Any.
        counts: Takes what was left out of each stream of documents (that of the whole corpus, those of its splits): in its last pass.

    Example:

    >>> letters = Corpus(name="letters", documents=lambda: iter(["A letter", "Another", "A  letter "]))
    >>> list(deduplicated(letters).documents())
    ['A letter', 'Another']
    """
    counts = {} if counts is None else counts

    def once(name: str, documents: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
        def stream() -> Iterator[str]:
            own = counts[name] = Duplicates()
            seen: set[bytes] = set()
            for text in documents():
                words = " ".join(text.split())
                if not words:
                    yield text
                    continue
                own.documents += 1
                key = hashlib.blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest()
                if key in seen:
                    own.left_out += 1
                    continue
                seen.add(key)
                yield text

        return stream

    splits = {name: once(name, documents) for name, documents in corpus.splits.items()}
    return dataclasses.replace(corpus, documents=once("", corpus.documents), splits=splits)
