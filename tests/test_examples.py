import pytest

from keras_lm.errors import UserError
from keras_lm.examples import classification_examples, tagging_examples
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
