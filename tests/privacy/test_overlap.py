"""Runs that texts have in common with a corpus, beside those that `str.find` finds and those of difflib."""

import difflib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_lm.errors import UserError
from keras_lm.privacy import overlap
from keras_lm.privacy.overlap import BREAK, CorpusSize, Part, SuffixArray, in_parts, overlaps

ALPHABETS = ("ab", "中国人中", "aé中😀", "\x00\x01a")


def matches_by_find(text, documents):
    """From each character on the longest run, by asking Python for ever longer ones."""
    result = []
    for start in range(len(text)):
        length = 0
        while start + length < len(text) and any(text[start : start + length + 1] in document for document in documents):
            length += 1
        result.append(length)
    return result


def as_bytes(documents):
    return b"".join(BREAK + document.encode() for document in documents)


@given(
    st.sampled_from(ALPHABETS).flatmap(
        lambda letters: st.tuples(
            st.lists(st.text(letters, min_size=1, max_size=30), min_size=1, max_size=4),
            st.lists(st.text(letters, max_size=20), min_size=1, max_size=4).filter(any),
        )
    ),
    st.integers(4, 200),
)
def test_runs_are_those_that_are_found_one_by_one(case, most):
    documents, texts = case
    longest = max(len(text.encode()) for text in texts)
    for parts in ([Part(as_bytes(documents))], list(in_parts([as_bytes(documents)], most, longest))):
        for found, text in zip(overlaps(texts, parts), texts, strict=True):
            assert found.text == text and found.matches.tolist() == matches_by_find(text, documents)
            if found.longest:
                document = documents[found.document]
                assert document[found.position : found.position + found.longest] == found.span
                assert found.span in found.around
            else:
                assert found.document == -1


@given(st.text("abc", min_size=1, max_size=60), st.text("abc", min_size=1, max_size=30), st.integers(3, 80), st.integers(1, 7))
def test_one_long_text_in_parts_loses_no_run(corpus, text, most, block):
    blocks = [corpus.encode()[first : first + block] for first in range(0, len(corpus), block)]
    (found,) = overlaps([text], in_parts(blocks, most, len(text)))
    assert found.document == -1 or (found.document == 0 and corpus[found.position :].startswith(found.span))
    assert found.matches.tolist() == matches_by_find(text, [corpus])


def test_the_longest_run_is_that_of_difflib():
    draw = random.Random(0)
    corpus = "".join(draw.choices("天地玄黄宇宙洪荒", k=3000))
    texts = [corpus[first : first + 9] + "".join(draw.choices("天地玄黄宇宙洪荒", k=40)) for first in (5, 800, 2900)]
    for text, found in zip(texts, overlaps(texts, [Part(corpus.encode())]), strict=True):
        assert found.longest == difflib.SequenceMatcher(None, corpus, text, autojunk=False).find_longest_match().size >= 9


def test_long_repetitions_are_counted_to_their_end():
    corpus, text = "ab" * 5000 + "c", "ab" * 3000 + "d" + "ab" * 10
    (found,) = overlaps([text], [Part(corpus.encode())])
    assert found.longest == 6000 and found.matches[6000] == 0 and found.matches[6001] == 20


def test_a_run_begins_and_ends_with_a_character():
    assert "中".encode()[:2] == "丰".encode()[:2]  # which begin alike
    (found,) = overlaps(["丰"], [Part("中".encode())])
    assert found.longest == 0
    (found,) = overlaps(["a中"], [Part("a丰".encode())])
    assert found.span == "a"


def test_novelty_counts_runs_of_n():
    (found,) = overlaps(["abcd"], [Part(b"abxcd")])
    assert [found.novel(n) for n in (1, 2, 3, 4, 5)] == [(0, 4), (1, 3), (2, 2), (1, 1), (0, 0)]


def test_what_was_read_is_told():
    size = CorpusSize()
    overlaps(["a"], in_parts([as_bytes(["中国", "a", "b"])], 5, 1), size)
    assert (size.parts, size.bytes) == (3, 12)  # one byte twice, where a document was cut


def test_bad_input_is_refused(monkeypatch):
    with pytest.raises(UserError, match="no text to compare"):
        overlaps(["", ""], [Part(b"a")])
    with pytest.raises(UserError, match="corpus to compare with has no text"):
        overlaps(["a"], [])
    with pytest.raises(UserError, match="from 1 to 2,147,483,632 bytes, got 0"):
        SuffixArray(b"")
    monkeypatch.setattr(overlap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs pydivsufsort: pip install"):
        SuffixArray(b"a")


def test_starts_may_be_chosen():
    lengths, places = SuffixArray(b"banana").longest(b"xanab", np.array([1, 3]), np.array([4, 1]))
    assert lengths.tolist() == [3, 1] and places[0] in (1, 3)
