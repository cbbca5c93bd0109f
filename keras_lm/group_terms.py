"""Terms in pairs that differ in one group, gender, region, age or occupation, and templates to put them in: what fairness is measured with.

`group_terms.tsv` was written for this, in Chinese and English. The same pairs are put into templates, to see what a model makes of the
difference (`keras_lm.insight.fairness`), and exchanged in texts to learn from (`keras_lm.counterfactual`). Free of TensorFlow, so that the
command line can refuse a bad file at once.

References:
    Sheng et al. 2019, «The Woman Worked as a Babysitter» (arXiv:1909.01326) for templates that differ in one term; Blodgett et al. 2021,
    «Stereotyping Norwegian Salmon» for what goes wrong in such sets.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import os
import pathlib
import re
from collections.abc import Sequence

from keras_lm.errors import UserError, unknown_name

GROUPS = ("gender", "region", "age", "occupation")
"""What the terms of a pair differ in."""

CONTROL = "synonyms"
"""Pairs of terms that mean the same: what differences come to between words that should make none."""

LANGUAGES = ("zh", "en")
"""Chinese and English."""

SLOTS = ("person", "pronoun", "object", "possessive", "-")
"""What a term is: a noun, a pronoun (he, him, his), or one that is swapped in texts and no template takes."""

_SLOT = re.compile(r"\{(\w*)\}")
_FIELDS = {"pair": 6, "keep": 4, "template": 6}


@dataclasses.dataclass(frozen=True)
class TermPair:
    """Two terms that differ in one group.

    Attributes:
        group: Of `GROUPS`.
        language: Of `LANGUAGES`.
        slot: Of `SLOTS`.
        first, second: The terms; differences are the first's value less the second's.
    """

    group: str
    language: str
    slot: str
    first: str
    second: str

    def __str__(self) -> str:
        """
        >>> str(TermPair("gender", "zh", "pronoun", "他", "她"))
        '他/她'
        """
        return f"{self.first}/{self.second}"


@dataclasses.dataclass(frozen=True)
class Template:
    """A prompt with a place for a term, and two continuations of it.

    Attributes:
        group: Of `GROUPS`, or `any` for all of them.
        language: Of `LANGUAGES`.
        prompt: Holds `{subject}` or `{person}` once.
        favourable, unfavourable: The continuations, the first of which speaks better of the person, or gives the higher standing.
        line: Where it stands in its file, for messages; 0 is nowhere.
    """

    group: str
    language: str
    prompt: str
    favourable: str
    unfavourable: str
    line: int = dataclasses.field(default=0, compare=False)

    def takes(self, pair: TermPair) -> bool:
        """Whether a pair's terms can stand in the template."""
        slots = ("person", "pronoun") if "{subject}" in self.prompt else ("person",)
        return pair.language == self.language and self.group in ("any", pair.group) and pair.slot in slots

    def fill(self, term: str, slot: str) -> str:
        """The prompt with a term in it; in English a noun gets its article, and the beginning of a sentence its capital.

        >>> template = Template("any", "en", "{subject} was", "wise.", "foolish.")
        >>> template.fill("shepherd", "person"), template.fill("she", "pronoun")
        ('The shepherd was', 'She was')
        """
        english = self.language == "en"
        filler = f"the {term}" if english and slot == "person" and "{subject}" in self.prompt else term
        if english and self.prompt.startswith("{"):
            filler = filler[:1].upper() + filler[1:]
        return _SLOT.sub(lambda match: filler, self.prompt)

    def continuations(self) -> tuple[str, str]:
        """The two, each with the blank that English puts before it."""
        blank = " " if self.language == "en" else ""
        return blank + self.favourable, blank + self.unfavourable


@dataclasses.dataclass(frozen=True)
class GroupTerms:
    """What a file of terms and templates holds.

    Attributes:
        pairs: In the order of the file.
        templates: In the order of the file.
        keep: Words that are left alone where terms are swapped, `(group, language, word)`.

    Example:

    >>> terms = read_group_terms()
    >>> str(terms.pairs_of("gender", "zh")[0]), len(terms.templates) > 60
    ('他/她', True)
    """

    pairs: tuple[TermPair, ...]
    templates: tuple[Template, ...]
    keep: tuple[tuple[str, str, str], ...]

    def pairs_of(self, group: str, language: str | None = None) -> list[TermPair]:
        """The pairs of a group, of one language or of all."""
        return [pair for pair in self.pairs if pair.group == group and language in (None, pair.language)]

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups that the pairs belong to, in the order of the file."""
        return tuple(dict.fromkeys(pair.group for pair in self.pairs))


def read_group_terms(path: str | os.PathLike | None = None) -> GroupTerms:
    """Reads terms and templates.

    Args:
        path: A file in the form of `group_terms.tsv`, whose first lines say what it is. Groups of other names are welcome in it.
            Default the packaged one.

    Raises:
        UserError: no such file, not UTF-8, no pairs; or a line that cannot be used: the message has its number.
    """
    if path is None:
        source = "group_terms.tsv"
        text = importlib.resources.files("keras_lm").joinpath(source).read_text(encoding="utf-8")
    else:
        source = str(path)
        try:
            text = pathlib.Path(path).read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise UserError(f"{source}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{source} is not UTF-8: byte {error.start}") from None
    pairs: list[TermPair] = []
    templates: list[Template] = []
    keep: list[tuple[str, str, str]] = []
    seen: dict[tuple[str, str, str], TermPair] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            _read_line(number, [field.strip() for field in line.split("\t")], pairs, templates, keep, seen)
        except UserError as error:
            raise UserError(f"{source}, line {number}: {error}") from None
    if not pairs:
        raise UserError(f"{source} holds no pair of terms: give lines of pair, GROUP, LANGUAGE, SLOT, FIRST, SECOND, parted by tabs")
    return GroupTerms(tuple(pairs), tuple(templates), tuple(keep))


def _read_line(
    number: int,
    fields: list[str],
    pairs: list[TermPair],
    templates: list[Template],
    keep: list[tuple[str, str, str]],
    seen: dict[tuple[str, str, str], TermPair],
) -> None:
    kind = fields[0]
    if kind not in _FIELDS:
        raise UserError(f"begins with {kind!r}: it must be one of {', '.join(_FIELDS)}, and tabs part its fields")
    if len(fields) != _FIELDS[kind]:
        raise UserError(f"a {kind} has {_FIELDS[kind]} fields, parted by tabs, got {len(fields)}")
    if not all(fields):
        raise UserError(f"field {fields.index('') + 1} is empty")
    if fields[2] not in LANGUAGES:
        raise unknown_name("language", fields[2], LANGUAGES)
    if kind == "keep":
        keep.append((fields[1], fields[2], fields[3]))
    elif kind == "template":
        slots = _SLOT.findall(fields[3])
        if len(slots) != 1 or slots[0] not in ("subject", "person"):
            raise UserError(f"the prompt {fields[3]!r} must hold {{subject}} or {{person}}, once")
        if fields[4] == fields[5]:
            raise UserError(f"both continuations are {fields[4]!r}: they must differ")
        templates.append(Template(*fields[1:], line=number))
    else:
        pair = TermPair(*fields[1:])
        if pair.group == "any":
            raise UserError("a pair belongs to one group: any is for templates")
        if pair.slot not in SLOTS:
            raise unknown_name("slot", pair.slot, SLOTS)
        if pair.first.lower() == pair.second.lower():
            raise UserError(f"both terms are {pair.first!r}: they must differ")
        for term in (pair.first, pair.second):
            other = seen.setdefault((pair.group, pair.language, term.lower()), pair)
            if other is not pair and {other.slot, pair.slot} != {"object", "possessive"}:
                raise UserError(f"{term!r} stands in {other} already: swapped, it could be one thing only")
        pairs.append(pair)


def check_groups(groups: Sequence[str], known: Sequence[str] = GROUPS) -> None:
    """Refuses groups that there are not, and one named twice.

    Raises:
        UserError: the message lists those that there are.
    """
    for place, group in enumerate(groups):
        if group not in known:
            raise unknown_name("group", group, known)
        if group in groups[:place]:
            raise UserError(f"the group {group} is named twice")
