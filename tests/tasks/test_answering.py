"""A model made by hand, which sees certain characters, on passages of any length; a run on its own questions."""

import json
import re
import statistics

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_lm.cloze import answering_questions
from keras_lm.errors import UserError
from keras_lm.heads import answerer, classifier, tagger, text_body
from keras_lm.label_batches import LabelledIds
from keras_lm.tasks import answering
from keras_lm.tasks.answer_floors import nearest_span
from keras_lm.tasks.answer_scores import answer_scores
from keras_lm.tasks.answering import Answer, Answerer, questions_of
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer
from keras_lm.training.data import examples_of

ALPHABET = "。首尾次末？！"
"""What the model made by hand knows: where an answer may begin, where it may end, and both not as well."""

LOGITS = {"首": (9.0, 0.0), "次": (8.0, 0.0), "尾": (0.0, 9.0), "末": (0.0, 8.0)}


@keras.saving.register_keras_serializable(package="tests")
class Doubt(keras.layers.Layer):
    """Adds 3 to both logits of position 0 for each `token` that is read."""

    def __init__(self, token, **arguments):
        super().__init__(**arguments)
        self.token = token

    def call(self, x, ids):
        count = ops.cast(ops.count_nonzero(ids == self.token, axis=1), "float32")
        first = ops.cast(ops.arange(ops.shape(ids)[1]) == 0, "float32")
        return x + 3 * count[:, None, None] * first[None, :, None]

    def compute_output_shape(self, x_shape, ids_shape):
        return x_shape


@pytest.fixture(scope="module")
def tokenizer():
    return CharacterTokenizer(ALPHABET)


@pytest.fixture(scope="module")
def by_hand(tokenizer):
    """An answerer whose logits are `LOGITS`, by the character alone; each ！ of a window speaks for «not here»."""
    ids = keras.Input([None], dtype="int32")
    table = keras.layers.Embedding(tokenizer.vocabulary_size, 2)
    body = keras.Model(ids, Doubt(4 + ALPHABET.index("！"))(table(ids), ids))
    model = answerer(body)
    table.set_weights([np.array([*[(0, 0)] * 4, *(LOGITS.get(character, (0, 0)) for character in ALPHABET)], np.float32)])
    model.get_layer("span").set_weights([np.eye(2), np.zeros(2)])
    return model


def reader(by_hand, tokenizer, longest, **options):
    return Answerer(by_hand, tokenizer, longest=longest, batch_size=4, jit_compile=False, **options)


@pytest.mark.parametrize("place", [0, 1, 7, 13, 16, 26, 100, 255, 493])
def test_an_answer_is_found_wherever_it_stands_in_a_long_passage(by_hand, tokenizer, place):
    passage = "。" * place + "首。。。。尾" + "。" * (500 - 6 - place)
    found = reader(by_hand, tokenizer, 24).answer(["？？"], [passage])[0]
    assert (found.text, found.start) == ("首。。。。尾", place)
    assert found.probability > 0.9


def test_a_passage_in_windows_is_answered_as_in_one(by_hand, tokenizer):
    """Where the best span is no longer than what windows overlap by: half of the 16 characters beside the question."""
    draw = np.random.default_rng(0)
    passages = []
    for length in (1, 5, 16, 17, 40, 90):
        characters = list("。" * length)
        start = int(draw.integers(length))
        characters[start] = "首"
        characters[min(start + int(draw.integers(1, 8)), length - 1)] = "末"
        passages.append("".join(characters))
    questions = ["？？？？？"] * len(passages)
    whole = reader(by_hand, tokenizer, 200, longest_answer=8).answer(questions, passages)
    cut = reader(by_hand, tokenizer, 24, longest_answer=8).answer(questions, passages)
    assert [(one.text, one.start) for one in cut] == [(one.text, one.start) for one in whole]
    assert len({one.start for one in whole}) > 3


def test_windows_are_compared_by_what_speaks_against_none(by_hand, tokenizer):
    """首尾 has the higher sum; but what stands around it says that it is no answer."""
    passage = "首尾！！。。。。" + "。" * 30 + "次末"
    assert reader(by_hand, tokenizer, 12).answer(["？"], [passage]) == [Answer("次末", 38, pytest.approx(0.98, abs=0.02))]
    assert reader(by_hand, tokenizer, 12).answer(["？"], [passage.replace("！", "。")])[0].start == 0


def test_of_equal_spans_the_first_is_taken(by_hand, tokenizer):
    passage = "。" * 30 + "首尾" + "。" * 30 + "首尾"
    assert reader(by_hand, tokenizer, 12).answer(["？"], [passage])[0].start == 30


def test_an_answer_is_no_longer_than_allowed_and_within_the_passage(by_hand, tokenizer):
    passage = "尾。首。。末。尾"
    texts = [reader(by_hand, tokenizer, 24, longest_answer=most).answer(["首尾？"], [passage])[0].text for most in (9, 6, 5, 4, 3, 1)]
    assert texts == ["首。。末。尾", "首。。末。尾", "首。。末", "首。。末", "尾", "尾"]


def test_characters_that_the_tokenizer_does_not_know_count_as_one(by_hand, tokenizer):
    passage = "a\0\n🙂é\u0301\ufeff首𠮷\0尾\r\n\0"
    found = reader(by_hand, tokenizer, 12).answer(["x\0？"], [passage])[0]
    assert (found.text, found.start) == ("首𠮷\0尾", passage.index("首"))


def test_an_answer_does_not_depend_on_the_questions_beside_it():
    texts = "我喜欢编程，他住在北京。谁？"
    model = answerer(text_body("gru", 40, embedding_dim=8, hidden_dim=8, num_layers=1))
    own = Answerer(model, CharacterTokenizer.fit([texts]), longest=16, batch_size=3, jit_compile=False)
    questions = ["谁？", "他住在哪？", "喜欢？", "？"]
    passages = [texts, texts * 5, "我", texts[::-1] * 2]
    together = own.answer(questions, passages)
    for number, found in enumerate(together):
        alone = own.answer([questions[number]], [passages[number]])[0]
        assert (alone.text, alone.start) == (found.text, found.start)
        assert alone.probability == pytest.approx(found.probability, rel=1e-4)
        assert passages[number].startswith(found.text, found.start)
        assert 0 < found.probability < 1
    assert own.answer([], []) == []


def test_progress_comes_to_the_number_of_questions(by_hand, tokenizer):
    told = []
    reader(by_hand, tokenizer, 12).answer(["？"] * 11, ["首。尾" * number for number in range(1, 12)], told.append)
    assert told == sorted(told)
    assert told[-1] == 11


@pytest.mark.parametrize(
    ("questions", "passages", "message"),
    [
        (["？", " "], ["首", "首"], "^question 2 is empty$"),
        (["？", "？", "？"], ["首", "\n", ""], "^the passage of question 2 is empty$"),
        (["？", "？" * 9], ["首", "首"], "^question 2 has 9 characters, which leaves no room for its passage: 9 are read in all$"),
        (["？"], ["首\ud83d"], "^the passage of question 1 holds half a character"),
        (["？"], [], "^1 questions need as many passages, got 0$"),
        ("？", ["首"], "^questions must be a list of texts, got one text: put it into brackets$"),
        (["？"], "首", "^passages must be a list of texts, got one text"),
    ],
)
def test_bad_questions_are_told_with_their_number(by_hand, tokenizer, questions, passages, message):
    own = reader(by_hand, tokenizer, 12)
    assert own.answer(["？" * 8], ["。首尾"])[0].start == 1  # the longest question that leaves room
    with pytest.raises(UserError, match=message):
        own.answer(questions, passages)


def test_other_models_tokenizers_and_lengths_are_refused(by_hand, tokenizer):
    body = text_body("gru", 20, embedding_dim=4, hidden_dim=4)
    for model in (tagger(body, 2), classifier(body, 2)):
        with pytest.raises(UserError, match=f"the model {model.name} gives .*: give an answerer"):
            Answerer(model, tokenizer, longest=24)
    with pytest.raises(UserError, match="answers are counted in characters: give a tokenizer of kind char, not byte"):
        Answerer(by_hand, ByteTokenizer(), longest=24)
    with pytest.raises(UserError, match="longest_answer must be at least 1, got 0"):
        Answerer(by_hand, tokenizer, longest=24, longest_answer=0)


def test_a_run_of_another_task_is_refused(small_label_run):
    for function in (Answerer.of, answering.evaluate, answering.floor, lambda run: answering.held_out(run, "test")):
        with pytest.raises(UserError, match="is a run of classification, not of answering"):
            function(small_label_run)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_what_a_run_is_judged_on_is_what_it_was_taught_or_not(small_answer_run, part):
    learnt = {(one.text, one.second) for one in examples_of(small_answer_run.settings).splits[part]}
    own = questions_of(small_answer_run.settings)[part].questions
    assert {question for question, _ in learnt} == {one.question for one in own}
    assert all(any(one.question == question and passage in one.passage for one in own) for question, passage in learnt)


def test_a_run_is_judged_on_its_own_questions(small_answer_run):
    told = []
    scores, said = answering.evaluate(small_answer_run, "train", progress=told.append)
    questions = answering.held_out(small_answer_run, "train")
    right = [[text for text, _ in one.answers] for one in questions]
    assert scores == answer_scores([answer.text for answer in said], right, language="zh")
    assert told[-1] == scores.questions == len(questions)
    assert all(one.passage.startswith(answer.text, answer.start) for one, answer in zip(questions, said, strict=True))
    lines = answering.rows(small_answer_run, questions, said)
    assert lines[0] == (questions[0].question, right[0][0], said[0].text, f"{said[0].probability:.4f}")
    assert len(lines) == len(questions)


def test_a_run_has_learnt_more_than_the_floor_knows(small_answer_run):
    scores, floor = answering.evaluate(small_answer_run)[0], answering.floor(small_answer_run)
    assert scores.exact_match > 0.8 > floor.exact_match
    assert (floor.questions, floor.rule) == (scores.questions, scores.rule)


def test_a_model_learns_from_labels_that_stand_where_the_answer_does(small_answer_run):
    """Every label of the training split, read back through the tokens on disk, spells its answer."""
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
    parts = answering_questions(str(path), str(path))
    assert [question.id for question in parts["test"].questions] == ["1"]


def test_the_floor_is_the_nearest_span_of_the_usual_length(small_answer_run):
    questions = answering.held_out(small_answer_run, "train")
    length = statistics.median_low(len(one.answers[0][0]) for one in questions)
    spans = [nearest_span(one.question, one.passage, length) for one in questions]
    right = [[text for text, _ in one.answers] for one in questions]
    assert answering.floor(small_answer_run, "train") == answer_scores(spans, right)


def test_an_english_run_is_counted_in_words(small_answer_run, monkeypatch):
    """A Chinese character in one passage of many makes no Chinese of them."""
    english = [("Who wrote it?", "Lu Xun (鲁迅) wrote it.", "Lu Xun"), *[("Who came?", "The cat came.", "the cat")] * 2]
    questions = tuple(
        answering.Question(str(number), question, passage, ((answer, 0),)) for number, (question, passage, answer) in enumerate(english)
    )
    part = answering.Questions(name="english", questions=questions)
    monkeypatch.setattr(answering, "questions_of", lambda _: {"train": part, "test": part})
    assert answering.floor(small_answer_run).rule == "squad"


def test_a_part_without_a_question_is_told(small_answer_run, monkeypatch):
    none = answering.Questions(name="none", questions=())
    monkeypatch.setattr(answering, "questions_of", lambda _: {"test": none, "train": none})
    for function in (answering.evaluate, answering.floor):
        with pytest.raises(UserError, match=re.escape(f"no question of {small_answer_run.settings.corpus} falls into the test part")):
            function(small_answer_run)
