import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_lm.errors import UserError
from keras_lm.heads import PassageOnly
from keras_lm.tasks import answering
from keras_lm.tasks.answering import Answerer
from keras_lm.tokenizers import CharacterTokenizer

TOKENIZER = CharacterTokenizer.fit(["问题？一二三四五六七八九十甲乙"])


def finder(wanted: str = "甲乙"):
    """A model that knows one thing: that the answer begins with the one character and ends with the other."""
    ids = keras.Input([None], dtype="int32")
    numbers = [int(number) for number in TOKENIZER.tokenize([wanted])[0]]
    logits = ops.stack([ops.cast(ops.equal(ids, number), "float32") * 9 for number in numbers], axis=-1)
    return keras.Model(ids, PassageOnly()(logits, ids), name="answerer")


@pytest.fixture(scope="module")
def reader():
    return Answerer(finder(), TOKENIZER, longest=16, batch_size=4, jit_compile=False)


@pytest.mark.parametrize("place", [0, 1, 7, 8, 30, 57, 58])
def test_an_answer_is_found_wherever_it_stands_in_a_long_passage(reader, place):
    passage = "一二三四五六七八九十" * 6
    passage = passage[:place] + "甲乙" + passage[place + 2 :]
    (answer,) = reader.answer(["问题？"], [passage])
    assert (answer.text, answer.start) == ("甲乙", place)
    assert answer.probability > 0.9


def test_an_answer_does_not_depend_on_the_questions_beside_it(reader):
    passages = ["一甲二乙三", "甲三四乙", "乙一二甲", "十" * 40 + "甲乙", "一"]
    together = reader.answer(["问题？"] * 5, passages)
    for passage, answer in zip(passages, together, strict=True):
        alone = reader.answer(["问题？"], [passage])[0]
        assert (alone.text, alone.start) == (answer.text, answer.start)
        assert alone.probability == pytest.approx(answer.probability, abs=1e-6)
        assert passage.startswith(answer.text, answer.start)
    assert [answer.text for answer in together[:2]] == ["甲二乙", "甲三四乙"]
    assert reader.answer([], []) == []


def test_an_answer_is_no_longer_than_allowed():
    short = Answerer(finder(), TOKENIZER, longest=16, longest_answer=2, jit_compile=False)
    assert len(short.answer(["？"], ["甲一二三乙"])[0].text) <= 2


def test_progress_ends_at_the_number_of_questions(reader):
    told = []
    reader.answer(["问题？"] * 7, ["十" * 50] * 7, told.append)
    assert told[-1] == 7
    assert told == sorted(told)


@pytest.mark.parametrize(
    ("questions", "passages", "message"),
    [
        (["问题？", ""], ["一", "二"], "question 2 is empty"),
        (["问题？"], [" "], "the passage of question 1 is empty"),
        (["问" * 13], ["一"], "question 1 has 13 characters, which leaves no room for its passage: 13 are read in all"),
        (["问题？"], ["一", "二"], "1 questions need as many passages, got 2"),
        ("问题？", ["一"], "questions must be a list of texts, got one text"),
        (["\ud800"], ["一"], "question 1 holds half a character"),
    ],
)
def test_what_cannot_be_asked_is_refused(reader, questions, passages, message):
    with pytest.raises(UserError, match=message):
        reader.answer(questions, passages)


def test_other_models_and_tokenizers_are_refused(small_label_run):
    from keras_lm.tokenizers import ByteTokenizer

    with pytest.raises(UserError, match="not where a span begins and ends: give an answerer"):
        Answerer(small_label_run.load_model(), TOKENIZER, longest=16)
    with pytest.raises(UserError, match="give a tokenizer of kind char, not byte"):
        Answerer(finder(), ByteTokenizer(), longest=16)
    with pytest.raises(UserError, match="is a run of classification, not of answering"):
        Answerer.of(small_label_run)


def test_a_run_is_judged_on_whole_passages_beside_a_floor(small_answer_run):
    scores, said = answering.evaluate(small_answer_run, "test")
    questions = answering.held_out(small_answer_run, "test")
    assert (len(said), scores.questions, scores.rule) == (len(questions), len(questions), "mlqa")
    right = np.mean([answer.text == question.answers[0][0] for question, answer in zip(questions, said, strict=True)])
    assert scores.exact_match == pytest.approx(right)
    assert scores.exact_match > 0.8 > answering.floor(small_answer_run, "test").exact_match
    rows = answering.rows(small_answer_run, questions, said)
    assert rows[0] == (questions[0].question, questions[0].answers[0][0], said[0].text, f"{said[0].probability:.4f}")


def test_a_model_learns_from_labels_that_stand_where_the_answer_does(small_answer_run):
    """Every label of the training split, read back through the tokens on disk, spells its answer."""
    from keras_lm.label_batches import LabelledIds

    texts = LabelledIds(small_answer_run.load_tokens()["train"], small_answer_run.settings.sequence_length)
    tokenizer = small_answer_run.load_tokenizer()
    answers = {text for one in answering.held_out(small_answer_run, "train") for text, _ in one.answers}
    found = 0
    for number in range(len(texts)):
        (ids,), (first, last) = texts[number]
        if first:
            spelled = tokenizer.detokenize(tf.constant(ids[first : last + 1], tf.int32)[None])[0].numpy().decode()
            assert spelled in answers
            found += 1
    assert found >= len(answering.held_out(small_answer_run, "train"))


def test_an_unanswerable_question_is_left_out(tmp_path):
    asked = {"id": "1", "question": "谁？", "answers": [{"text": "甲", "answer_start": 0}]}
    never = {"id": "2", "question": "谁？", "answers": [], "is_impossible": True}
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": "甲乙", "qas": [asked, never]}]}]}), encoding="utf-8")
    from keras_lm.cloze import answering_questions

    parts = answering_questions("peoples-daily", str(path))
    assert [question.id for question in parts["test"].questions] == ["1"]
