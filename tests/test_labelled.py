import collections
import gzip

import pytest

from keras_lm.corpora import open_corpus
from keras_lm.errors import UserError
from keras_lm.labelled import LabelledTexts, read_labelled, reviews
from keras_lm.pipeline import split_of, split_texts


def test_reviews_to_read_are_held_back_as_those_with_labels_are():
    parts = reviews().split()
    read = {name: set() for name in parts}
    for split, text in split_texts(open_corpus("reviews"), "hash"):
        read[split].add(text)
    for name, part in parts.items():
        assert set(part.texts) <= read[name]
    assert sum(map(len, read.values())) - sum(map(len, parts.values())) < 100  # those that stand under both labels


def test_reviews_are_different_texts_with_one_label_each():
    data = reviews()
    assert len(data) == len(set(data.texts)) == 17_363
    assert collections.Counter(data.labels) == {0: 9_078 - 47, 1: 8_379 - 47}
    assert data.classes == ("negative", "positive")
    assert all(text == text.strip() != "" for text in data.texts)


def test_splits_are_by_the_text_and_share_none():
    data = reviews()
    splits = data.split()
    assert list(splits) == ["train", "validation", "test"]
    assert sum(map(len, splits.values())) == len(data)
    for name, part in splits.items():
        assert all(split_of(text.encode()) == name for text in part.texts[:200])
        assert part.classes == data.classes
    label_of = dict(zip(data.texts, data.labels, strict=True))
    assert all(label_of[text] == label for text, label in zip(splits["test"].texts, splits["test"].labels, strict=True))


def test_a_split_may_be_empty():
    splits = LabelledTexts(name="two", texts=("我喜欢编程",), labels=(0,), classes=("a",)).split()
    assert [len(part) for part in splits.values()] == [1, 0, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [((0,), "small: 2 texts, but 1 labels"), ((0, 2), "small: labels must be from 0 to 1, got 2"), ((0, -1), "got -1")],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        LabelledTexts(name="small", texts=("a", "b"), labels=labels, classes=("x", "y"))


def test_a_file_is_read(tmp_path):
    (tmp_path / "news.tsv").write_text("股市\t上涨\tfinance\r\n\n球队获胜 \tsport\n", encoding="utf-8")
    data = read_labelled(tmp_path / "news.tsv")
    assert data == LabelledTexts(name="news.tsv", texts=("股市\t上涨", "球队获胜"), labels=(0, 1), classes=("finance", "sport"))
    with gzip.open(tmp_path / "news.gz", "wt", encoding="utf-8") as file:
        file.write("球队获胜\tsport\n")
    assert read_labelled(tmp_path / "news.gz", data.classes).labels == (1,)


def test_labels_are_names_or_numbers_of_classes(tmp_path):
    (tmp_path / "numbers.tsv").write_text("a\t10\nb\t9\nc\t10\n")
    assert read_labelled(tmp_path / "numbers.tsv").classes == ("9", "10")  # as numbers, not as text
    assert read_labelled(tmp_path / "numbers.tsv").labels == (1, 0, 1)
    (tmp_path / "mixed.tsv").write_text("a\t1\nb\tsport\n")
    assert read_labelled(tmp_path / "mixed.tsv", ["finance", "sport"]).labels == (1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tx\nno tab\n", r"bad.tsv, line 2: a text, a tab and a label should stand here"),
        ("a\tx\n\n\tx\n", r"bad.tsv, line 3: a text, a tab and a label"),
        ("a\t\n", r"bad.tsv, line 1: a text, a tab and a label"),
        ("a\tx\nb\tz\n", r"bad.tsv, line 2: the label 'z' is none of the classes x, y"),
        ("a\t2\n", r"bad.tsv, line 1: the label '2' is none"),
        ("\n", r"bad.tsv is empty: it should hold lines"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    (tmp_path / "bad.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_labelled(tmp_path / "bad.tsv", ["x", "y"])


def test_what_is_no_such_file_is_said(tmp_path):
    with pytest.raises(UserError, match="no such file of labelled texts"):
        read_labelled(tmp_path / "none.tsv")
    (tmp_path / "latin.tsv").write_bytes(b"caf\xe9\tx\n")
    with pytest.raises(UserError, match="is not UTF-8: byte 0xe9 at offset 3"):
        read_labelled(tmp_path / "latin.tsv")
