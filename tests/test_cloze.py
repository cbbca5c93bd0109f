"""Questions made of marked sentences: examples by hand, what holds for a whole newspaper, and splits without a leak."""

import dataclasses
import json
import re
import subprocess
import sys

import pytest

from keras_lm import cloze
from keras_lm.cloze import QUESTION_WORDS, answering_questions, cloze_questions, peoples_daily_cloze
from keras_lm.errors import UserError
from keras_lm.passages import Question, Questions
from keras_lm.pipeline import split_of
from keras_lm.tagged import TaggedText, TaggedTexts, peoples_daily_tagged
from keras_lm.tasks.answer_floors import sentences


def marked(*lines):
    """Texts of `word/tag word/tag`."""
    pairs = [[pair.split("/") for pair in line.split()] for line in lines]
    texts = tuple(TaggedText(words=tuple(word for word, _ in own), tags=tuple(tag for _, tag in own)) for own in pairs)
    return TaggedTexts(name="made up", texts=texts)


def asked(*lines):
    return [(question.question, *question.answers[0]) for question in cloze_questions(marked(*lines)).questions]


LI = "李/nr 雷/nr 住/v 在/p 北京/ns 。/w"
LONG = "他/r 每天/r 骑车/v 上班/v ，/w 走遍/v 了/u 那里/r 的/u 大街小巷/n 。/w"  # a sentence without a name, 19 characters


@pytest.fixture(scope="module")
def newspaper():
    return peoples_daily_cloze()


def test_sentences_with_names_of_the_rest_become_questions():
    text = "本报/r 讯/Ng 李/nr 雷/nr 昨天/t 到/v 上海/ns 。/w 他/r 在/p 上海/ns 大学/n 读书/v ！/w "
    text += "“/w 上海/ns 真/d 大/a 。/w ”/w 李/nr 雷/nr 说/v 。/w"
    questions = cloze_questions(marked(text))
    assert questions.questions == (
        Question("1", "谁昨天到上海？", "他在上海大学读书！“上海真大。”李雷说。", (("李雷", 16),)),
        Question("2", "他在哪里的大学读书？", "本报讯李雷昨天到上海。“上海真大。”李雷说。", (("上海", 8),)),
        Question("3", "“哪里真大？”", "本报讯李雷昨天到上海。他在上海大学读书！李雷说。", (("上海", 8),)),
    )
    assert (questions.name, questions.given) == ("made up", (split_of("".join(re.findall(r"(\S+)/", text)).encode()),) * 3)


def test_each_kind_of_name_has_its_question_word():
    for tag, word in (("nr", "谁"), ("nrf", "谁"), ("ns", "哪里"), ("nt", "哪个机构"), ("nz", "什么")):
        name = f"甲乙/{tag}"
        assert asked(f"{name} 昨天/t 来/v 过/u 。/w {LONG} 都/d 说/v {name} 好/a ，/w") == [(f"{word}昨天来过？", "甲乙", 21)]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f"{LI} {LONG} 都/d 说/v 李/nr 雷雷/nr 好/a", "another name that begins with it"),
        (f"{LI} {LONG} 都/d 说/v 李雷/nz 好/a", "a name of another kind"),
        (f"雷/nr 住/v 在/p 那里/r 。/w {LONG} 都/d 说/v 雷/nr 好/a", "one character"),
        (f"李/nr 雷/nr 好/a 。/w {LONG} 李/nr 雷/nr 好/a", "a question of four characters"),
        (f"{LI} 他/r 走遍/v 了/u 大街小巷/n 。/w 李/nr 雷/nr 好/a", "a passage of thirteen"),
        (f"李/nr 雷/nr {'骑车/v ' * 30} 。/w {LONG} 李/nr 雷/nr 好/a", "a question of 62"),
        (f"李/nr 雷/nr 说/v 李/nr 雷/nr 好/a 。/w {LONG} 李/nr 雷/nr 好/a", "the name once more in the question"),
        (f"李/nr 雷/nr 主席/n 也/d 来/v 了/u 。/w {LONG} 李/nr 雷/nr 好/a", "a title behind the name"),
        (f"（/w 李/nr 雷/nr 昨天/t 来/v 了/u 。/w {LONG} 李/nr 雷/nr ）/w", "half of a pair of brackets"),
        (f"李/nr 雷/nr 住/v 在/p 北京/ns {LONG.removesuffix(' 。/w')} 李/nr 雷/nr", "no sentence that ends"),
        (f"新华社/nt 北京/ns １日/t 电/n 他/r 来/v 了/u 。/w {LONG} 在/p 北京/ns 开会/v", "a name in the dateline alone"),
    ],
)
def test_what_makes_no_good_question_is_left_out(line, why):
    with pytest.raises(UserError, match="no question can be made of made up: no sentence has a name that stands in the rest"):
        asked(line)


def test_a_place_before_its_part_is_not_asked_for_but_the_part_is():
    line = f"他/r 住/v 在/p 河北省/ns 张家口/ns 。/w {LONG} 河北省/ns 好/a ，/w 张家口/ns 也/d 好/a"
    assert asked(line) == [("他住在河北省哪里？", "张家口", 24)]


def test_a_text_is_asked_three_times_at_most():
    questions = cloze_questions(marked(" ".join([LI, *(f"李/nr 雷/nr 走/v 了/u {number}/m 天/q 。/w" for number in range(10, 20))])))
    assert [question.question for question in questions.questions] == ["谁住在北京？", "谁走了10天？", "谁走了11天？"]


def test_questions_of_one_text_stand_in_the_split_of_the_whole_text():
    """Their passages differ by a sentence, so that a hash of each would put them apart."""
    texts = marked(
        *(f"第{number}/m 次/q 李/nr 雷/nr 来/v 了/u 。/w {LI} 明天/t 李/nr 雷/nr 回/v 家/n 。/w {LONG}" for number in range(100, 400))
    )
    questions = cloze_questions(texts)
    parts, text_parts = questions.split("given"), texts.split()
    numbers = {name: [re.search(r"\d+", one.passage + one.question)[0] for one in part.questions] for name, part in parts.items()}
    for name, part in text_parts.items():
        assert numbers[name] == [re.search(r"\d+", text.text)[0] for text in part.texts for _ in range(3)] != []
    hashed = questions.split("hash")
    assert any(one in hashed["train"].questions for one in parts["test"].questions)


def test_every_answer_in_the_newspaper_stands_where_it_is_said_to(newspaper):
    assert len(newspaper) > 5000
    for one in newspaper.questions:
        ((answer, start),) = one.answers
        assert one.passage.startswith(answer, start)
        assert answer not in one.question
        assert 6 <= len(one.question) <= 60
        assert "？" in one.question[-3:]
        assert len(one.passage) >= 20
        assert any(word in one.question for word in QUESTION_WORDS.values())
    assert len({one.id for one in newspaper.questions}) == len(newspaper)


def test_the_newspapers_questions_are_held_back_with_their_texts(newspaper):
    parts = newspaper.split("given")
    assert (newspaper.name, sum(map(len, parts.values()))) == ("peoples-daily", len(newspaper))
    assert all(0.03 < len(parts[name]) / len(newspaper) < 0.07 for name in ("validation", "test"))
    test = [text.text for text in peoples_daily_tagged().split()["test"].texts]
    without_one = {text[:start] + text[end:] for text in test for start, end in sentences(text)}
    assert sum(one.passage in without_one for one in parts["test"].questions) > 0.95 * len(parts["test"])  # brackets are cut otherwise
    assert not any(one.passage in without_one for name in ("train", "validation") for one in parts[name].questions)


def squad(path, number, first=0):
    """A file of as many passages with a question each."""
    paragraphs = [
        {
            "context": f"{count}年很冷。",
            "qas": [{"id": f"{count}", "question": "哪年冷？", "answers": [{"text": f"{count}年", "answer_start": 0}]}],
        }
        for count in range(first, first + number)
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    return str(path)


def test_a_file_is_split_by_the_hash_of_its_passages(tmp_path):
    parts = answering_questions(squad(tmp_path / "cold.json", 100))
    assert list(parts) == ["train", "validation", "test"]
    assert sum(map(len, parts.values())) == 100
    for name, part in parts.items():
        assert all(split_of(one.passage.removesuffix("。").encode()) == name for one in part.questions)


def test_a_test_corpus_is_held_out_whole_and_the_rest_learnt_from(tmp_path):
    corpus, other = squad(tmp_path / "cold.json", 100), squad(tmp_path / "other.json", 7, first=500)
    without, parts = answering_questions(corpus), answering_questions(corpus, other)
    assert {one.id for one in parts["test"].questions} == {str(count) for count in range(500, 507)}
    assert parts["validation"] == without["validation"]
    assert set(parts["train"].questions) == {*without["train"].questions, *without["test"].questions}


def test_a_dataset_has_its_own_splits_where_it_has_those_to_learn_from(monkeypatch):
    questions = tuple(Question(str(number), "?", f"x{number}", (("x", 0),)) for number in range(60))
    found = Questions(name="tfds:made", questions=questions, given=("train", "validation") * 30)
    monkeypatch.setattr(cloze, "open_questions", lambda source, data_dir: found if (source, data_dir) == ("tfds:made", "there") else None)
    parts = answering_questions("tfds:made", data_dir="there")
    assert [[int(one.id) % 2 for one in part.questions] for part in parts.values()] == [[0] * 30, [1] * 30, []]
    found = dataclasses.replace(found, given=("test",) * 60)  # as XQuAD, which was made to test with
    parts = answering_questions("tfds:made", data_dir="there")
    assert {name: len(part) for name, part in parts.items()} == {name: len(part) for name, part in found.split("hash").items()}


def test_the_newspaper_is_split_as_its_questions_are_given(newspaper, monkeypatch):
    monkeypatch.setattr(cloze, "peoples_daily_cloze", lambda: newspaper)
    assert answering_questions("peoples-daily") == newspaper.split("given")


def test_reading_questions_imports_no_tensorflow():
    program = f"import sys, {cloze.__name__}; print('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip() == "False"
