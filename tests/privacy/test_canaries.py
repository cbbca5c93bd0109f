"""Canaries as they are made and planted."""

import collections

import pytest

from keras_lm.corpora import Corpus, open_corpus
from keras_lm.deduplication import Duplicates, deduplicated
from keras_lm.errors import UserError
from keras_lm.pipeline import split_of
from keras_lm.privacy.canaries import Canary, CanaryFormat, make_canaries, plant, read_canaries, write_canaries
from keras_lm.privacy.desensitizing import Desensitizer

LETTERS = Corpus(name="letters", documents=lambda: iter([f"line {number}" for number in range(50)]))


def test_the_same_seed_gives_the_same_canaries_and_places(tmp_path):
    canaries = make_canaries([0, 1, 4, 64], seed=5)
    assert canaries == make_canaries([0, 1, 4, 64], seed=5) != make_canaries([0, 1, 4, 64], seed=6)
    assert len({canary.before for canary in canaries}) == 4
    for seed, name in ((1, "a"), (1, "b"), (2, "c")):
        assert plant(LETTERS, canaries, tmp_path / name, seed=seed) == 69
    a, b, c = ((tmp_path / name).read_text() for name in "abc")
    assert a == b != c and sorted(a.splitlines()) == sorted(c.splitlines())


def test_each_is_planted_as_often_as_it_says_and_the_text_stays(tmp_path):
    canaries = make_canaries([0, 1, 2, 64])
    plant(LETTERS, canaries, tmp_path / "planted.txt")
    lines = (tmp_path / "planted.txt").read_text(encoding="utf-8").splitlines()
    counts = collections.Counter(lines)
    assert [counts[canary.text] for canary in canaries] == [0, 1, 2, 64]
    assert [line for line in lines if line.startswith("line ")] == list(LETTERS.documents())


def test_paragraphs_stay_paragraphs(tmp_path):
    (tmp_path / "text.txt").write_text("one\ntwo\n\nthree\n")
    plant(open_corpus(str(tmp_path / "text.txt"), document="paragraph"), [Canary("PIN ", "07", "", 1)], tmp_path / "planted.txt")
    planted = list(open_corpus(str(tmp_path / "planted.txt"), document="paragraph").documents())
    assert sorted(planted) == ["PIN 07", "one\ntwo", "three"]
    with pytest.raises(UserError, match="has several lines"):
        plant(Corpus(name="letters", documents=lambda: iter(["one\ntwo"])), [Canary("PIN ", "07", "", 1)], tmp_path / "planted.txt")


def test_secrets_of_the_usual_form_are_masked():
    for canary in make_canaries([1] * 50):
        assert Desensitizer(["phone"])(canary.text) == canary.before.removesuffix("１３８００１") + "<电话1>。"


def test_only_sentences_that_are_learnt_can_be_asked_for():
    learnt = lambda text: split_of(text.encode()) == "train"
    assert all(learnt(canary.text) for canary in make_canaries([1] * 200, keep=learnt))
    with pytest.raises(UserError, match="1,000 names gave 0 canaries that can be taken, and 1 are wanted"):
        make_canaries([1], keep=lambda text: False)


def test_digits_are_drawn_evenly():
    counts = collections.Counter("".join(canary.secret for canary in make_canaries([0] * 1000)))
    assert len(counts) == 10 and all(abs(count - 500) < 110 for count in counts.values())  # five standard deviations


def test_canaries_come_back_from_their_file(tmp_path):
    canaries = make_canaries([0, 3])
    write_canaries(canaries, tmp_path / "canaries.json")
    assert read_canaries(tmp_path / "canaries.json") == canaries
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match="holds no canaries"):
        read_canaries(tmp_path / "other.json")
    with pytest.raises(UserError, match="no such file"):
        read_canaries(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": "no place"}, "text must hold {secret} once"),
        ({"text": "{secret}{secret}"}, "text must hold {secret} once"),
        ({"text": "{who}: {secret}"}, "nothing else in braces"),
        ({"text": "{secret} {name}"}, "text must hold {name} before {secret}"),
        ({"symbols": "1"}, "two or more different characters"),
        ({"symbols": "11"}, "two or more different characters"),
        ({"length": 0}, "length must be at least 1, got 0"),
    ],
)
def test_a_form_that_cannot_be_used_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        CanaryFormat(**fields)


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(UserError, match="no canary to plant"):
        make_canaries([])
    with pytest.raises(UserError, match="no canary to plant"):
        plant(LETTERS, [], tmp_path / "planted.txt")
    with pytest.raises(UserError, match="repetitions must be 0 or more, got -1"):
        make_canaries([1, -1])
    with pytest.raises(UserError, match="has no text to plant canaries in"):
        plant(Corpus(name="none", documents=lambda: iter([])), make_canaries([1]), tmp_path / "planted.txt")


def test_deduplication_leaves_one_of_each_and_empty_lines():
    counts = {}
    documents = ["a b", "", "c", "a  b ", "", "c", "d"]
    corpus = Corpus(name="letters", documents=lambda: iter(documents), splits={"train": lambda: iter(["c", "c"])})
    once = deduplicated(corpus, counts)
    for _ in range(2):
        assert list(once.documents()) == ["a b", "", "c", "", "d"] and list(once.splits["train"]()) == ["c"]
    assert counts == {"": Duplicates(5, 2), "train": Duplicates(2, 1)}
