"""Counterfactual texts: each document that names a group stands a second time, with the terms of the group exchanged.

A model that learns from both has seen each sentence with either term, and its text gives it no reason to expect other things behind one
than behind the other. It is done to the documents to learn from, before the tokenizer sees them, and to none that is held out.

What it does not do: names stay as they are, and so do words that are in no pair; and what is true of one alone comes to be said of the
other too. English «her» is either of him and his: a short rule decides, by the word that follows; «a» does not become «an».

References:
    Lu et al. 2018, «Gender Bias in Neural Natural Language Processing» (arXiv:1807.11714). Hall Maudslay et al. 2019 (arXiv:1909.00871),
    who swap half of the documents in place of adding to them. Zmigrod et al. 2019 (arXiv:1906.04571): languages in which more has to agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import tensorflow as tf

from keras_lm.cleaning import each_document
from keras_lm.group_terms import GroupTerms, check_groups, read_group_terms

_NEXT_WORD = re.compile(r"[\s\[\]]+([A-Za-z]+)")
_NO_NOUN_YET = frozenset(
    re.findall(
        r"\w+",
        """a an the this that these those and or but nor for so yet as at by from in into of off on onto out over to under until unto up
        upon with without among against according concerning through forth when where while who whom which what how why if because before
        after about again also away back down here there then thither therefore i you he she it we they me him us them my your thy his
        their our is was are were be been had has hath have do did does will would shall shalt should may might can could must not no
        every all any one another nothing something anything saying said say go went come came hear""",
    )
)
"""Words that do not begin what «his» could belong to: before one of these, or before no word, «her» is «him»."""


class Swapper:
    """Exchanges the terms of one group: a text in, a text out.

    The longest term is taken first; Chinese terms wherever they stand but in a word to keep (其他), English ones as whole words and with
    their capitals. Twice swapped, a text is as it was, but where the rule for «her» or a word in unusual capitals goes wrong.

    Args:
        group: Of the pairs to exchange.
        terms: Where they are; default the packaged ones.

    Call arguments:
        text: One document.

    Returns:
        The document with its terms exchanged; the same text if it has none.

    Raises:
        UserError: no pair is of this group.

    Example:

    >>> swap = Swapper("gender")
    >>> swap("他和其他男孩的父亲"), swap("He gave her his book.")
    ('她和其他女孩的母亲', 'She gave him her book.')
    """

    def __init__(self, group: str, terms: GroupTerms | None = None):
        terms = terms or read_group_terms()
        check_groups([group], terms.groups)
        self.group = group
        self._other: dict[str, str] = {}
        self._possessive: dict[str, str] = {}  # of terms that have two partners
        for pair in terms.pairs_of(group):
            for term, partner in ((pair.first, pair.second), (pair.second, pair.first)):
                known = self._other.get(term.lower())
                if known is None:
                    self._other[term.lower()] = partner
                elif pair.slot == "possessive":
                    self._possessive[term.lower()] = partner
                else:
                    self._possessive[term.lower()], self._other[term.lower()] = known, partner
        words: dict[str, list[str]] = {}
        for pair in terms.pairs_of(group):
            words.setdefault(pair.language, []).extend([pair.first, pair.second])
        self._capital = {word.lower() for own in words.values() for word in own if word[0].isupper()}  # always: Londoner
        for own, language, word in terms.keep:
            if own == group:
                words.setdefault(language, []).append(word)
        whole = {"zh": "{}", "en": r"(?<![A-Za-z])(?:{})(?![A-Za-z])"}
        ordered = {language: sorted(set(own), key=lambda word: (-len(word), word)) for language, own in words.items()}
        patterns = [whole[language].format("|".join(map(re.escape, own))) for language, own in ordered.items()]
        self._find = re.compile("|".join(patterns), re.IGNORECASE)

    def __call__(self, text: str) -> str:
        return self._find.sub(self._swapped, text)

    def _swapped(self, match: re.Match[str]) -> str:
        found = match[0]
        partner = self._other.get(found.lower())
        if partner is None:
            return found  # a word to keep
        if found.lower() in self._possessive:
            following = _NEXT_WORD.match(match.string, match.end())
            if following and following[1].lower() not in _NO_NOUN_YET:
                partner = self._possessive[found.lower()]
        if found.isupper() and len(found) > 1:
            return partner.upper()
        return partner[0].upper() + partner[1:] if found[0].isupper() and found.lower() not in self._capital else partner


def swap_terms(texts: tf.Tensor, swapper: Swapper) -> tf.Tensor:
    """Exchanges the terms of texts, each of which is a document; Python inside `tf.numpy_function`, so that no export can hold it.

    Args:
        texts: Strings of any shape; bytes that are not UTF-8 stay as they are.
        swapper: What changes one of them.

    Returns:
        Strings of the same shape.

    Example:

    >>> stories = tf.data.Dataset.from_tensor_slices(["她是医生", "天气很好"])
    >>> swapper = Swapper("gender")
    >>> [text.decode() for text in stories.batch(64).map(lambda texts: swap_terms(texts, swapper)).unbatch().as_numpy_iterator()]
    ['他是医生', '天气很好']
    """
    return each_document(swapper, texts)


class Counterfactuals:
    """Documents to learn from, each that names a group followed by its counterpart; those held out stay as they are.

    Args:
        groups: Of `keras_lm.group_terms.GROUPS`; a document gets a counterpart for each of which it has terms.
        terms: The pairs; default the packaged ones.

    Call arguments:
        texts: Pairs `(split, text)`, as `keras_lm.pipeline.split_texts` gives them.

    Yields:
        Such pairs.

    Attributes:
        documents, added: How many documents to learn from the last pass met, and how many counterparts it added.

    Raises:
        UserError: an unknown group.

    Example:

    >>> twice = Counterfactuals(["gender"])
    >>> list(twice([("train", "她笑了"), ("train", "下雨了"), ("test", "他笑了")]))
    [('train', '她笑了'), ('train', '他笑了'), ('train', '下雨了'), ('test', '他笑了')]
    >>> str(twice)
    '1 of 2 documents to learn from stands there with terms of gender exchanged, too'
    """

    def __init__(self, groups: Sequence[str], terms: GroupTerms | None = None):
        terms = terms or read_group_terms()
        check_groups(groups, terms.groups)
        self.groups = tuple(groups)
        self._swappers = [Swapper(group, terms) for group in groups]
        self.documents = self.added = 0

    def __call__(self, texts: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        self.documents = self.added = 0
        for split, text in texts:
            yield split, text
            if split != "train":
                continue
            self.documents += 1
            for swapper in self._swappers:
                swapped = swapper(text)
                if swapped != text:
                    self.added += 1
                    yield split, swapped

    def __str__(self) -> str:
        stand = "stands" if self.added == 1 else "stand"
        more = (
            f"{self.added:,} of {self.documents:,} documents"
            if len(self.groups) == 1
            else f"{self.added:,} counterparts of {self.documents:,} documents"
        )
        return f"{more} to learn from {stand} there with terms of {', '.join(self.groups)} exchanged, too"
