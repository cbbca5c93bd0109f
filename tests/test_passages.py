import itertools
import json
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st

from keras_lm import passages
from keras_lm.errors import UserError
from keras_lm.passages import Question, Questions, Window, examples, open_questions, read_squad, windows
from keras_lm.pipeline import split_of

PASSAGE = "鲁迅生于绍兴。《呐喊》是鲁迅的小说集，1923年出版。"


def asked(**changes):
    return {"id": "1", "question": "谁写了《呐喊》？", "answers": [{"text": "鲁迅", "answer_start": 12}], **changes}


def written(folder, *questions, context=PASSAGE, data=None):
    """A file in SQuAD's form: one passage with these questions, or whatever `data` is."""
    path = folder / "squad.json"
    content = {"version": "1.1", "data": [{"title": "x", "paragraphs": [{"context": context, "qas": list(questions)}]}]}
    path.write_text(json.dumps(content if data is None else data), encoding="utf-8")
    return path


def test_a_file_is_read(tmp_path):
    second = asked(id="b", question=" 何时出版？ ", answers=[{"text": "1923年", "answer_start": 19}, {"text": "1923", "answer_start": 19}])
    questions = read_squad(written(tmp_path, asked(), second))
    assert questions.questions == (
        Question("1", "谁写了《呐喊》？", PASSAGE, (("鲁迅", 12),)),
        Question("b", "何时出版？", PASSAGE, (("1923年", 19), ("1923", 19))),
    )
    assert (questions.name, len(questions), questions.repaired, questions.unanswerable) == ("squad.json", 2, 0, 0)
    assert open_questions(str(tmp_path / "squad.json")) == questions


def test_every_answer_stands_at_its_place(tmp_path):
    answers = [{"text": "鲁迅", "answer_start": start} for start in (0, 12, 9, 3, -1, 500)]
    found = read_squad(written(tmp_path, asked(answers=answers)))
    assert [start for _, start in found.questions[0].answers] == [0, 12, 12, 0, 0, 12]
    assert found.repaired == 4


def test_a_place_before_the_first_character_does_not_count_from_the_end(tmp_path):
    """Python's slices do."""
    found = read_squad(written(tmp_path, asked(answers=[{"text": "。", "answer_start": -1}])))
    assert found.questions[0].answers == (("。", 6),)


def test_places_are_characters_and_no_pieces_of_them(tmp_path):
    """JSON writes 𠮷 as two halves."""
    path = written(tmp_path, asked(answers=[{"text": "𠮷野", "answer_start": 2}]), context="在\n𠮷野家。")
    assert "\\ud842\\udfb7" in path.read_text()
    assert read_squad(path).questions[0].answers == (("𠮷野", 2),)


def test_questions_without_an_answer_are_counted_and_left_out_unless_asked_for(tmp_path):
    impossible = asked(
        id="2", question="他何时结婚？", answers=[], is_impossible=True, plausible_answers=[{"text": "1923年", "answer_start": 19}]
    )
    path = written(tmp_path, asked(is_impossible=False), impossible)
    found = read_squad(path)
    assert [question.id for question in found.questions] == ["1"] and found.unanswerable == 1
    kept = read_squad(path, unanswerable=True)
    assert [question.answers for question in kept.questions] == [(("鲁迅", 12),), ()] and kept.unanswerable == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"squad.json: SQuAD's form has a list 'data' here"),
        ({"data": {}}, r"squad.json: SQuAD's form has a list 'data' here"),
        ({"data": [{"title": "x"}]}, r"squad.json, data\[0\]: SQuAD's form has a list 'paragraphs'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, r"squad.json, data\[0\].paragraphs\[0\]: SQuAD's form has a text 'context'"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": ["y"]}]}]}, r"data\[0\].paragraphs\[0\].qas\[0\]: SQuAD's form has a text 'id'"),
        ({"data": []}, r"squad.json holds no question$"),
    ],
)
def test_another_form_is_refused_where_it_begins(tmp_path, data, message):
    with pytest.raises(UserError, match=message):
        read_squad(written(tmp_path, data=data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"question": " "}, r"question 1: the question is empty"),
        ({"question": 5}, r"question 1: SQuAD's form has a text 'question' here"),
        ({"answers": "鲁迅"}, r"question 1: SQuAD's form has a list 'answers' here"),
        ({"answers": [{"text": "鲁迅"}]}, r"question 1: SQuAD's form has a whole number 'answer_start' here"),
        ({"answers": [{"text": "", "answer_start": 0}]}, r"question 1: the answer is empty"),
        (
            {"answers": [{"text": "茅盾", "answer_start": 3}]},
            r"question 1: the answer '茅盾' is not in its passage, neither at 3 nor elsewhere",
        ),
        ({"answers": []}, r"question 1: it has no answer; where the passage has none, «is_impossible» should be true"),
        ({"is_impossible": True}, r"question 1: it is said to be impossible, and yet has an answer"),
        ({"question": "\ud842"}, r"question 1: the question holds half a character"),
    ],
)
def test_a_bad_question_is_named_in_one_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        read_squad(written(tmp_path, asked(id="0"), asked(**changes)))
    assert str(error.value).startswith(f"{tmp_path}/squad.json, question 1: ") and "\n" not in str(error.value)


def test_ids_and_passages_are_checked_too(tmp_path):
    with pytest.raises(UserError, match=r"squad.json, question 1: this id stands there twice"):
        read_squad(written(tmp_path, asked(), asked()))
    with pytest.raises(UserError, match=r"question 1: the passage is empty"):
        read_squad(written(tmp_path, asked(), context="\n"))
    with pytest.raises(UserError, match=r"squad.json holds no question that has an answer"):
        read_squad(written(tmp_path, asked(answers=[], is_impossible=True)))


def test_what_is_no_json_is_named_by_its_line(tmp_path):
    (tmp_path / "bad.json").write_text('{"data": [\n}')
    with pytest.raises(UserError, match=r"bad.json, line 2: this is not JSON: "):
        read_squad(tmp_path / "bad.json")
    (tmp_path / "latin.json").write_bytes(b'{\n"caf\xe9": 1}')
    with pytest.raises(UserError, match=r"latin.json, line 2: this is not UTF-8"):
        read_squad(tmp_path / "latin.json")
    with pytest.raises(UserError, match=r"no such file: none\.json"):
        open_questions("none.json")
    with pytest.raises(UserError, match="has no split 'train': splits are for tfds:NAME"):
        open_questions("none.json", split="train")


def numbered(count, passages_each=3):
    """Questions about numbered passages, some of which differ in marks and spaces alone."""
    return tuple(
        Question(f"{number}-{turn}", "几？", f"这是第{number}段。" + " \n"[: turn % 3], ((str(number), 3),))
        for number in range(count)
        for turn in range(passages_each)
    )


def test_no_passage_stands_in_two_splits():
    questions = Questions(name="numbers", questions=numbered(300))
    splits = questions.split()
    assert list(splits) == ["train", "validation", "test"] and splits["test"].name == "numbers, test"
    found = {name: {re.sub(r"\W", "", question.passage) for question in part.questions} for name, part in splits.items()}
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(found.values(), 2))
    assert sum(map(len, splits.values())) == len(questions) and all(map(len, splits.values()))
    for name, texts in found.items():
        assert all(split_of(text.encode()) == name for text in texts)


def test_splits_that_cannot_be_are_refused():
    questions = Questions(name="numbers", questions=numbered(2))
    with pytest.raises(UserError, match="numbers defines no splits of its own: split it by hash"):
        questions.split("given")
    with pytest.raises(UserError, match="must be hash or given, got 'contiguous'"):
        questions.split("contiguous")


def test_median_length_is_that_of_the_first_answers():
    lengths = [("a", 0)], [("bbb", 0), ("ccccccc", 0)], [], [("dddddd", 0)]
    questions = tuple(Question(str(number), "?", "x", tuple(own)) for number, own in enumerate(lengths))
    assert Questions(name="three", questions=questions).median_length == 3
    with pytest.raises(UserError, match="none: no question has an answer"):
        _ = Questions(name="none", questions=questions[2:3]).median_length


class TinySquad(tfds.core.GeneratorBasedBuilder):
    """In the form of squad, which XQuAD's is too, with a split of another name as XQuAD has."""

    VERSION = tfds.core.Version("3.0.0")

    def _info(self):
        answers = tfds.features.Sequence({"text": tfds.features.Text(), "answer_start": np.int32})
        texts = {name: tfds.features.Text() for name in ("id", "title", "context", "question")}
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({**texts, "answers": answers, "is_impossible": np.bool_}))

    def _split_generators(self, manager):
        return {"validation": self._one(12), "train": self._one(3), "translate-train": self._one(0)}

    def _one(self, start):
        answers = {"text": ["鲁迅"], "answer_start": [start]}
        own = {"id": "1", "title": "", "context": PASSAGE, "question": "谁写了？", "answers": answers, "is_impossible": False}
        yield "1", own
        yield "2", {**own, "id": "2", "answers": {"text": [], "answer_start": []}, "is_impossible": True}

    def _generate_examples(self):
        return {}


def test_tfds_is_read_as_a_file_is(tmp_path, capsys):
    TinySquad(data_dir=str(tmp_path)).download_and_prepare()
    found = open_questions("tfds:tiny_squad", data_dir=str(tmp_path))
    assert "loading tiny_squad with TensorFlow Datasets" in capsys.readouterr().err
    assert found.questions == tuple(Question("1", "谁写了？", PASSAGE, (("鲁迅", start),)) for start in (0, 12))
    assert (found.name, found.given, found.repaired, found.unanswerable) == ("tfds:tiny_squad", ("train", "validation"), 1, 2)
    assert {name: len(part) for name, part in found.split("given").items()} == {"train": 1, "validation": 1, "test": 0}
    assert found.questions[0].passage is found.questions[1].passage


def test_a_tfds_split_is_read_alone(tmp_path):
    TinySquad(data_dir=str(tmp_path)).download_and_prepare()
    found = open_questions("tfds:tiny_squad", split="translate-train", unanswerable=True, data_dir=str(tmp_path))
    assert {question.id for question in found.questions} == {"1", "2"} and found.name == "tfds:tiny_squad, translate-train"
    with pytest.raises(UserError, match="unknown split of 'tiny_squad' 'translate': did you mean 'translate-train'"):
        open_questions("tfds:tiny_squad", split="translate", data_dir=str(tmp_path))


def test_a_tfds_dataset_of_another_form_is_refused(tmp_path):
    with (
        tfds.testing.mock_data(num_examples=1),
        pytest.raises(UserError, match=r"'imdb_reviews' has no questions in SQuAD's form \(its features: "),
    ):
        open_questions("tfds:imdb_reviews", data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["squad", "squad/v2.0", "xquad/zh", "mlqa/zh"])
def test_the_real_datasets_have_the_features_that_are_read(name):
    """What TFDS says of them, without the data."""
    passages._check_features(name, tfds.builder(name, try_gcs=False).info)


@given(st.integers(1, 40), st.integers(1, 15), st.integers(1, 15))
def test_windows_overlap_and_cover_the_passage(length, room, stride):
    found = windows(7, "x" * length, 7 + room, stride)
    step = min(stride, room)
    assert found[0][0] == 0 and found[-1][1] == length
    assert all(end - start == min(room, length) for start, end in found)
    assert all(0 < later - earlier <= step for (earlier, _), (later, _) in itertools.pairwise(found))
    for size in range(1, room - step + 1):  # what the overlap holds is whole in some window, wherever it stands
        assert all(any(start <= place and place + size <= end for start, end in found) for place in range(length - size + 1))


def test_a_passage_that_fits_is_one_window():
    assert windows(4, "一二三四五六", longest=10, stride=1) == [(0, 6)]


def test_windows_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="a question of 10 characters leaves no room for its passage: 10 are read in all"):
        windows(10, "一二三", longest=10, stride=1)
    with pytest.raises(UserError, match="stride must be at least 1, got 0"):
        windows(4, "一二三", longest=10, stride=0)


def test_an_example_has_the_span_of_the_answer_or_none():
    question = Question("1", "何时？", PASSAGE, (("1923年", 19), ("鲁迅", 12)))
    found = examples(question, longest=13, stride=5)
    assert [PASSAGE[window.start : window.end] for window in found][:2] == ["鲁迅生于绍兴。《呐喊", "兴。《呐喊》是鲁迅的"]
    texts = [PASSAGE[window.start :][slice(*window.span)] if window.span else None for window in found]
    assert texts == [None, "鲁迅", "鲁迅", "1923年", "1923年"]
    assert examples(Question("2", "谁？", "没有。", ()), longest=10, stride=5) == [Window(0, 3, None)]


@given(st.integers(0, 27), st.integers(1, 6), st.integers(1, 12))
def test_spans_are_the_answer_wherever_it_stands(start, size, stride):
    text = PASSAGE[start : start + size]
    question = Question("1", "？", PASSAGE, ((text, start),)) if text else Question("1", "？", PASSAGE, ())
    found = examples(question, longest=13, stride=stride)
    for window in found:
        inside = window.start <= start and start + len(text) <= window.end and bool(text)
        assert (window.span is not None) == inside
        assert not inside or PASSAGE[window.start : window.end][slice(*window.span)] == text
