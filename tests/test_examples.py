import json
import re

import pytest

from keras_lm.errors import UserError
from keras_lm.examples import answering_examples, classification_examples, similarity_examples, tagging_examples
from keras_lm.pipeline import split_of


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "texts.tsv"
    path.write_text("".join(f"text number {number}\t{'even' if number % 2 == 0 else 'odd'}\n" for number in range(200)), encoding="utf-8")
    return str(path)


def test_texts_fall_into_splits_by_their_hash(table):
    examples = classification_examples(table)
    assert examples.classes == ("even", "odd")
    for name, part in examples.splits.items():
        assert all(split_of(example.text.encode()) == name for example in part)
    assert sum(map(len, examples.splits.values())) == 200
    assert all(example.labels == (int(example.text.split()[-1]) % 2,) for example in examples.splits["train"])


def test_a_test_corpus_is_held_out_whole_and_the_rest_learnt_from(table, tmp_path):
    other = tmp_path / "other.tsv"
    other.write_text("one more\todd\n", encoding="utf-8")
    examples = classification_examples(table, str(other))
    assert [example.text for example in examples.splits["test"]] == ["one more"]
    assert len(examples.splits["train"]) + len(examples.splits["validation"]) == 200


def test_a_label_never_seen_in_training_is_refused_with_its_line(table, tmp_path):
    other = tmp_path / "other.tsv"
    other.write_text("one more\todd\nanother\tprime\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"other.tsv, line 2: the label 'prime' is none of the classes even, odd"):
        classification_examples(table, str(other))


def test_numbers_are_labels_by_the_names_of_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("finance\nsport\n", encoding="utf-8")
    (tmp_path / "news.tsv").write_text("".join(f"text {number}\t{number % 2}\n" for number in range(100)), encoding="utf-8")
    assert classification_examples(str(tmp_path / "news.tsv"), class_names=str(tmp_path / "names.txt")).classes == ("finance", "sport")
    (tmp_path / "names.txt").write_text("finance\nfinance\n", encoding="utf-8")
    with pytest.raises(UserError, match="names a class twice"):
        classification_examples(str(tmp_path / "news.tsv"), class_names=str(tmp_path / "names.txt"))
    with pytest.raises(UserError, match=r"nothing.txt cannot be read as names of classes"):
        classification_examples(str(tmp_path / "news.tsv"), class_names=str(tmp_path / "nothing.txt"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("a text\tone\n" * 40, "one label, 'one': two classes at least are needed"),
        ("a text\tone\nno tab\n", r"line 2: a text, a tab and a label should stand here"),
        ("", "is empty"),
    ],
)
def test_files_that_are_no_labelled_texts_are_refused(lines, message, tmp_path):
    (tmp_path / "texts.tsv").write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        classification_examples(str(tmp_path / "texts.tsv"))


def test_labels_that_no_text_to_learn_from_has_are_named(table, tmp_path):
    examples = classification_examples(table)
    assert examples.unlearnt == ()
    (tmp_path / "names.txt").write_text("finance\nsport\nweather\n", encoding="utf-8")
    (tmp_path / "news.tsv").write_text("".join(f"text {number}\t{number % 2}\n" for number in range(100)), encoding="utf-8")
    assert classification_examples(str(tmp_path / "news.tsv"), class_names=str(tmp_path / "names.txt")).unlearnt == ("weather",)


def test_fewer_texts_are_among_more_and_another_seed_draws_others(table):
    examples = classification_examples(table)
    few, more = (set(examples.only(number, seed=0).splits["train"]) for number in (10, 50))
    assert (len(few), len(more)) == (10, 50)
    assert few < more
    assert set(examples.only(10, seed=1).splits["train"]) != few
    assert examples.only(10, seed=0).splits["test"] == examples.splits["test"]


def test_characters_have_the_labels_of_their_words_and_long_texts_are_cut(tmp_path):
    path = tmp_path / "marked.txt"
    names = "甲乙丙丁戊己庚辛壬癸"
    path.write_text("".join(f"{one}{other}/nr 喜欢/v 编程/vn 。/w\n" for one in names for other in names), encoding="utf-8")
    examples = tagging_examples(str(path), longest=5)
    assert [examples.classes[label] for label in examples.splits["train"][0].labels] == ["B-nr", "E-nr", "B-v", "E-v"]
    assert all(len(example.text) <= 5 for part in examples.splits.values() for example in part)
    assert {example.text for example in examples.splits["train"]} > {"编程。"}


def test_held_out_texts_with_tags_of_their_own_are_left_out_and_counted(tmp_path):
    (tmp_path / "marked.txt").write_text("".join(f"第{number}/m 次/q\n" for number in range(60)), encoding="utf-8")
    (tmp_path / "other.txt").write_text("第1/m 次/q\n好/a\n", encoding="utf-8")
    examples = tagging_examples(str(tmp_path / "marked.txt"), str(tmp_path / "other.txt"), longest=20)
    assert examples.unknown == 1
    assert len(examples.splits["test"]) == 1


def squad(path, number=60):
    """A file of questions whose answer is a number, far into a long passage."""
    paragraphs = []
    for count in range(number):
        passage = f"编号{count}的仓库很大。" + "里面有许多书。" * (count % 9) + f"其中最旧的一本写于{1500 + count}年。"
        asked = {"id": str(count), "question": "最旧的书写于哪年？", "answers": [{"text": f"{1500 + count}年", "answer_start": 0}]}
        paragraphs.append({"context": passage, "qas": [asked]})
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    return str(path)


def test_an_answer_stands_where_its_labels_say(tmp_path):
    examples = answering_examples(squad(tmp_path / "books.json"), longest=40)
    held = 0
    for example in (example for part in examples.splits.values() for example in part):
        assert len(example.text) + len(example.second) <= 40
        first, last = example.labels
        if (first, last) == (0, 0):
            assert not re.search(r"写于\d{4}年", example.second)
            continue
        held += 1
        read = ["start", *example.text, "end", *example.second, "end"]
        assert re.fullmatch(r"1\d{3}年", "".join(read[first : last + 1]))
    assert held >= 60


def test_a_question_that_leaves_no_room_is_refused(tmp_path):
    with pytest.raises(UserError, match="a question of 9 characters leaves no room for its passage: 9 are read in all"):
        answering_examples(squad(tmp_path / "books.json"), longest=9)


def test_pairs_with_scores_and_pairs_that_belong_together_are_told_apart_by_their_columns(tmp_path):
    rows = [f"text {number}\tother {number}" for number in range(60)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    together = similarity_examples(str(tmp_path / "pairs.tsv"))
    labels = [example.labels[0] for part in together.splits.values() for example in part]
    assert all(isinstance(label, int) for label in labels)
    assert len(set(labels)) == 60
    (tmp_path / "scored.tsv").write_text("".join(f"{row}\t{number % 6}\n" for number, row in enumerate(rows)), encoding="utf-8")
    scored = similarity_examples(str(tmp_path / "scored.tsv"))
    for example in (example for part in scored.splits.values() for example in part):
        assert example.labels == (int(example.text.split()[1]) % 6 / 5,)
    (tmp_path / "same.tsv").write_text("".join(f"{row}\t3\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match=r"all pairs of .* have the score 3: where nothing varies"):
        similarity_examples(str(tmp_path / "same.tsv"))


def test_a_test_corpus_of_pairs_is_held_out_whole(tmp_path):
    for name, first in (("train", 0), ("test", 100)):
        rows = (f"text {number}\tother {number}\t{number % 6}\n" for number in range(first, first + 60))
        (tmp_path / f"{name}.tsv").write_text("".join(rows), encoding="utf-8")
    examples = similarity_examples(str(tmp_path / "train.tsv"), str(tmp_path / "test.tsv"))
    assert [example.text for example in examples.splits["test"]] == [f"text {number}" for number in range(100, 160)]
    assert len(examples.splits["train"]) + len(examples.splits["validation"]) == 60


def test_headlines_ask_for_their_articles():
    examples = similarity_examples("headlines")
    assert all(len(example.text) <= 30 < len(example.second) for example in examples.splits["test"])
