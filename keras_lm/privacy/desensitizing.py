"""Desensitisation (数据脱敏) of texts to learn from: secrets become placeholders such as <电话1> or <PHONE_1> (article A3 §8).

It is done to documents before they are cleaned, split and tokenized, so that no later station meets a secret: a model cannot repeat what it
never read. A placeholder says what stood there and has a number, by the order in which a document first mentions each: the same number of a
telephone, however it is written, is the same placeholder throughout that document, and another number another one. Documents do not
know of each other, so that placeholders cannot be followed from one to the next.

Prompts are not masked: who writes one has the number already and may want it in the answer, and nothing of it stays in the model. So it
is no cleaner of a run, and no export holds it. Who wants it masks a prompt by the same call.

What is found is what the patterns know (`recognisers`), the names of a list (`names`), and where asked for what presidio finds
(`presidio`). Numbers in words (一三八...), addresses and names that are in no list stay: `benchmarks/privacy.py` measures what is found.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from keras_lm.corpora import Corpus
from keras_lm.errors import UserError, unknown_name
from keras_lm.files import replacing
from keras_lm.privacy import presidio
from keras_lm.privacy.names import Names, read_names
from keras_lm.privacy.recognisers import RECOGNISERS, Recogniser, Span, may_hold_numbers, narrow
from keras_lm.segmentation import HAN

KINDS = ("all", *RECOGNISERS, "name", "presidio")
"""What `--desensitize` takes: `all` is every kind of number, and `name` where there is a list."""

PLACEHOLDERS: dict[str, tuple[str, str]] = {
    "email": ("邮箱", "EMAIL"),
    "mac": ("MAC地址", "MAC"),
    "ip": ("IP地址", "IP"),
    "id_card": ("身份证", "ID_CARD"),
    "bank_card": ("银行卡", "BANK_CARD"),
    "phone": ("电话", "PHONE"),
    "plate": ("车牌", "PLATE"),
    "name": ("姓名", "NAME"),
    "other": ("隐私", "PRIVATE"),
}
"""What a kind is called in a Chinese text and in another; a text with Chinese characters is Chinese."""

REPORT = "desensitized.json"
"""The report of what was masked, in the folder of a run or of a tokenized corpus."""

_MASKED = re.compile(
    "<(?:" + "|".join(f"{chinese}|{english}_" for chinese, english in PLACEHOLDERS.values()) + ")([0-9]{1,9})>", re.IGNORECASE
)
_MAY_BE_WIDE = re.compile("[\uff21-\uff5a]").search  # letters, as in names
_IS_CHINESE = re.compile(f"[{HAN}]").search


@dataclasses.dataclass
class Report:
    """What was masked, without the secrets.

    Args:
        documents: Read.
        masked_documents: Those in which anything was masked.
        masked: How often each kind was.
    """

    documents: int = 0
    masked_documents: int = 0
    masked: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def __add__(self, other: Report) -> Report:
        return Report(self.documents + other.documents, self.masked_documents + other.masked_documents, self.masked + other.masked)

    def __str__(self) -> str:
        """One line for a terminal.

        >>> str(Report(1000, 3, collections.Counter(phone=4, email=1)))
        'masked in 3 of 1,000 documents: 4 phone, 1 email'
        """
        counts = ", ".join(f"{number:,} {kind}" for kind, number in self.masked.most_common()) or "nothing"
        return f"masked in {self.masked_documents:,} of {self.documents:,} documents: {counts}"

    def write(self, path: str | os.PathLike) -> None:
        """As JSON."""
        values = dataclasses.asdict(self) | {"masked": dict(sorted(self.masked.items()))}
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike) -> Report:
        """What `write` wrote."""
        values = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        return cls(**{**values, "masked": collections.Counter(values["masked"])})


class Desensitizer:
    """Masks secrets: a text in, a text out.

    Args:
        kinds: Of `RECOGNISERS`, or `all` of them; default all.
        names: Names of persons to mask.
        recogniser: One more, such as `keras_lm.privacy.presidio.recogniser()`; what the others find first is theirs.

    Call arguments:
        text: One document.

    Returns:
        The document with placeholders; the same text if there is no secret. What was masked before stays as it is.

    Raises:
        UserError: an unknown kind.

    Example:

    >>> mask = Desensitizer(names=["李雷"])
    >>> mask("李雷的手机是138 1234 5678，邮箱lilei@example.com；再打１３８１２３４５６７８或13987654321。")
    '<姓名1>的手机是<电话1>，邮箱<邮箱1>；再打<电话1>或<电话2>。'
    >>> mask("Call me at (212) 555-0123.")
    'Call me at <PHONE_1>.'
    """

    def __init__(self, kinds: Sequence[str] = ("all",), names: Iterable[str] = (), recogniser: Recogniser | None = None) -> None:
        for kind in kinds:
            if kind != "all" and kind not in RECOGNISERS:
                raise unknown_name("kind", kind, ("all", *RECOGNISERS))
        self._numbers = [find for kind, find in RECOGNISERS.items() if kind in kinds or "all" in kinds]
        names = tuple(names)
        self._others = [*([Names(names)] if names else ()), *([recogniser] if recogniser else ())]

    def __call__(self, text: str) -> str:
        return self.document((text,))[0]

    def find(self, text: str) -> list[Span]:
        """The secrets of a text in their order; none overlaps another, nor what is masked already."""
        recognisers = [*self._numbers, *self._others] if may_hold_numbers(text) else self._others
        if not recognisers:
            return []
        work = narrow(text) if recognisers is not self._others or _MAY_BE_WIDE(text) else text
        covered = _Places(match.span() for match in (_MASKED.finditer(work) if "<" in work else ()))
        found: list[Span] = []
        while True:
            new = []
            for recogniser in recognisers:
                for span in sorted(recogniser(work), key=lambda span: (span.start - span.end, span.start)):  # the longest first
                    if covered.add(span.start, span.end):
                        new.append(span)
            if not new:
                return sorted(found)
            found += new
            # Once masked, a secret stands no more in the way of a number beside it, and a second masking would find that.
            parts, done = [], 0
            for span in sorted(new):
                parts += [work[done : span.start], "<", _COVER * (span.end - span.start - 2), ">"]
                done = span.end
            work = "".join([*parts, work[done:]])

    def document(self, texts: Sequence[str], report: Report | None = None) -> tuple[str, ...]:
        """Masks a document that consists of several texts, such as a source and its target, whose placeholders share their numbers.

        Args:
            texts: Of the document.
            report: Counts it.
        """
        found = [self.find(text) for text in texts]
        counts = collections.Counter(span.kind for spans in found for span in spans)
        if report is not None:
            report.documents += 1
            report.masked_documents += bool(counts)
            report.masked += counts
        if not counts:
            return tuple(texts)
        earlier = max((int(match[1]) for text in texts for match in _MASKED.finditer(text)), default=0)
        numbers: dict[str, dict[str, int]] = {}  # by kind and key
        result = []
        for text, spans in zip(texts, found, strict=True):
            parts, done, chinese = [], 0, _IS_CHINESE(text) is not None
            for span in spans:
                kind = span.kind if span.kind in PLACEHOLDERS else "other"
                own = numbers.setdefault(kind, {})
                number = own.setdefault(span.key, earlier + len(own) + 1)
                label = PLACEHOLDERS[kind][0] if chinese else f"{PLACEHOLDERS[kind][1]}_"
                parts += [text[done : span.start], f"<{label}{number}>"]
                done = span.end
            result.append("".join([*parts, text[done:]]))
        return tuple(result)

    def corpus(self, corpus: Corpus, reports: dict[str, Report] | None = None) -> Corpus:
        """The corpus with its documents masked.

        Args:
            corpus: Any.
            reports: Takes a report of each stream of documents (that of the whole corpus, those of its splits): of its last pass.
        """
        reports = {} if reports is None else reports

        def masked(name: str, documents: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
            def stream() -> Iterator[str]:
                report = reports[name] = Report()
                for text in documents():
                    yield self.document((text,), report)[0]

            return stream

        splits = {name: masked(name, documents) for name, documents in corpus.splits.items()}
        return dataclasses.replace(corpus, documents=masked("", corpus.documents), splits=splits)


_COVER = "\ue000"  # of the private use area, which no pattern knows


class _Places:
    """Parts of a text of which none overlaps another; `bisect` finds where a new one would stand."""

    def __init__(self, places: Iterable[tuple[int, int]]) -> None:
        self._places = sorted(places)

    def add(self, start: int, end: int) -> bool:
        """Takes the part in, if it overlaps none."""
        number = bisect.bisect(self._places, (start, end))
        if (number and self._places[number - 1][1] > start) or (number < len(self._places) and self._places[number][0] < end):
            return False
        self._places.insert(number, (start, end))
        return True


def load(kinds: Sequence[str], names_file: str | None = None) -> Desensitizer:
    """What `--desensitize` and `--names-file` ask for; the last is kept.

    Args:
        kinds: Of `KINDS`.
        names_file: Of the names, one a line.

    Raises:
        UserError: an unknown kind, `name` without a file or a file without `name` or `all`, a file that cannot be used, or presidio is not
            installed.

    Example:

    >>> load(["phone"])("13812345678, a@example.com")
    '<PHONE_1>, a@example.com'
    """
    check(kinds, names_file)
    return _load(tuple(kinds), read_names(names_file) if names_file is not None else ())


@functools.lru_cache(maxsize=1)
def _load(kinds: tuple[str, ...], names: tuple[str, ...]) -> Desensitizer:
    recogniser = presidio.presidio_recogniser() if "presidio" in kinds else None
    return Desensitizer([kind for kind in kinds if kind not in ("name", "presidio")], names, recogniser)


def check(kinds: Sequence[str], names_file: str | None = None) -> None:
    """Refuses what `load` refuses, in no time.

    Raises:
        UserError: as `load`.
    """
    check_kinds(kinds)
    if "presidio" in kinds:
        presidio.check_installed()
    if "name" in kinds and names_file is None:
        raise UserError("names_file is needed to mask names: give a file of them, one a line")
    if names_file is not None and not {"name", "all"} & set(kinds):
        raise UserError("names_file is for the kinds name and all: add one of them to desensitize")
    if names_file is not None:
        read_names(names_file)


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuses kinds that there are not.

    Raises:
        UserError: the message lists those that there are.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise unknown_name("kind to desensitize", kind, KINDS)
