"""Scores against those of torchmetrics, which others wrote, against NLTK's words, and against counts made by hand."""

import random

import pytest
from nltk.tokenize import NLTKWordTokenizer

from keras_lm.errors import UserError
from keras_lm.tasks.answer_scores import AnswerScores, _cmrc_units, answer_score, answer_scores


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [  # as torchmetrics 1.9 has them, which counts by evaluate-v1.1.py; 1,271 random texts agreed too
        ("the Denver Broncos", ["Denver Broncos", "The Denver Broncos", "Broncos"], 1, 1),
        ("in the year 2016, in February", ["February 7, 2016", "2016"], 0, 0.5),
        ("U.S. Army", ["US army"], 1, 1),
        ("a well-known theory", ["The wellknown theories", "theories"], 0, 0.5),
        ("Levi's Stadium in Santa Clara", ["Santa Clara, California", "Levi's Stadium"], 0, 0.5714286),
        ("gold gold gold", ["gold, gold"], 0, 0.8),
        ("“golden anniversary”", ["golden anniversary"], 0, 0),
        ("another theatre", ["an other theatre"], 0, 0.5),
        ("", ["gold"], 0, 0),
        ("Beyoncé and Bruno Mars", ["Bruno Mars and Coldplay", "Bruno Mars"], 0, 0.75),
    ],
)
def test_english_is_counted_as_squads_script_does(prediction, answers, exact, f1):
    assert answer_score(prediction, answers, language="en") == pytest.approx((exact, f1), abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("《北京大学》。", ["北京大学"], 1, 1),
        ("在北京大学", ["北京大学"], 0, 2 * 4 / (5 + 4)),
        ("大学北京", ["北京大学"], 0, 1),  # the order does not count
        ("NFL 联盟", ["nfl联盟"], 1, 1),
        ("1 000元", ["1000元"], 0, 2 * 1 / (3 + 2)),
        ("24 次", ["24次", "二十四次"], 1, 1),
        ("3.5亿", ["35亿"], 1, 1),
        ("the 北", ["北"], 0, 2 * 1 / (2 + 1)),  # no article in Chinese
        ("北北", ["北京"], 0, 2 * 1 / (2 + 2)),
        ("", ["北京"], 0, 0),
    ],
)
def test_chinese_is_counted_as_mlqas_script_does(prediction, answers, exact, f1):
    assert answer_score(prediction, answers) == pytest.approx((exact, f1))


def test_in_english_mlqa_passes_over_other_marks_than_squad_does():
    assert answer_score("“golden anniversary”", ["the golden anniversary"], language="en", rule="mlqa") == (1, 1)
    assert answer_score("«中文» a", ["中文"], language="en", rule="mlqa") == (1, 1)
    assert answer_score("中国", ["中文"], language="en", rule="mlqa") == (0, 0)  # one word each: characters are words in Chinese alone


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("《北京大学》。", ["北京大学"], 1, 1),
        ("大学北京", ["北京大学"], 0, 2 * 2 / (4 + 4)),  # the longest run is 北京, or 大学
        ("北大京学", ["北京大学", "北大"], 0, 2 * 2 / (4 + 2)),
        ("美国NFL 联盟", ["nfl联盟"], 0, 2 * 3 / (5 + 3)),
        ("NFL联盟", ["nfl 联盟"], 0, 1),  # exact match counts the space
        ("3.5亿", ["3.5亿元"], 0, 2 * 2 / (2 + 3)),
        ("‘北京’", ["‘北京"], 1, 1),  # the closing quotation mark is passed over, and the opening one is not
        ("‘北京’", ["北京"], 0, 2 * 2 / (3 + 2)),
        ("well-known", ["wellknown"], 1, 1),
        ("", ["北京"], 0, 0),
    ],
)
def test_chinese_is_counted_as_cmrcs_script_does(prediction, answers, exact, f1):
    assert answer_score(prediction, answers, rule="cmrc") == pytest.approx((exact, f1))


def test_what_is_not_chinese_is_cut_as_nltk_cuts_it():
    """Without quotation marks, which NLTK tells apart, and without n't."""
    parts = [
        "U.S.",
        "3.5",
        "1,000",
        "24%",
        "$5",
        "(NFL)",
        "[a]",
        "Mr.",
        "U.S.A.,",
        "c++",
        "C#",
        "x@y.com",
        "Who?",
        "end.",
        "that's",
        "we'll",
    ]
    choose = random.Random(0)
    for _ in range(1_000):
        text = " ".join(choose.choices([*parts, "…", "——", "12", ";", "&", "x,y", "a;b"], k=choose.randint(1, 6)))
        own = text.lower().translate(dict.fromkeys(map(ord, "-:_*^/\\~`+=")))
        assert _cmrc_units(text) == NLTKWordTokenizer().tokenize(own), text
    assert _cmrc_units("在U.S.的 24%") == ["在", "u.s", ".", "的", "24", "%"]


@pytest.mark.parametrize("rule", ["squad", "mlqa", "cmrc"])
def test_where_there_is_no_answer_nothing_is_right(rule):
    assert answer_score("", [], rule=rule) == (1, 1)
    assert answer_score("北京", [], rule=rule) == (0, 0)
    assert answer_score("", ["北京"], rule=rule) == (0, 0)


@pytest.mark.parametrize("rule", ["squad", "mlqa", "cmrc"])
def test_scores_are_means_of_the_best_over_answers(rule):
    predictions, answers = ["x y", "z", "北京"], [["y", "x  Y"], ["w"], []]
    assert answer_scores(predictions, answers, rule=rule) == AnswerScores(
        exact_match=pytest.approx((answer_score("x y", ["x  Y"], rule=rule)[0]) / 3), f1=pytest.approx(1 / 3), questions=3, rule=rule
    )


def test_a_language_brings_its_rule():
    assert answer_scores(["a"], [["a"]]).rule == "mlqa"
    assert answer_scores(["a"], [["a"]], language="en").rule == "squad"


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], []), {}, "there are no answers to judge"),
        ((["a"], [["a"], ["b"]]), {}, "1 answers are to be judged, but right ones are there for 2 questions"),
        ((["a", "b"], [["a"], "b"]), {}, r"the right answers to question 2 must be a list, got 'b': \['b'\] is a list of one"),
        ((["a"], [["a"]]), {"language": "de"}, r"unknown language of answers 'de'.*known: en, zh"),
        ((["a"], [["a"]]), {"language": "de", "rule": "mlqa"}, "unknown language of answers 'de'"),
        ((["a"], [["a"]]), {"rule": "mqla"}, "unknown rule for answers 'mqla': did you mean 'mlqa'"),
    ],
)
def test_what_cannot_be_judged_is_refused(arguments, options, message):
    with pytest.raises(UserError, match=message):
        answer_scores(*arguments, **options)
