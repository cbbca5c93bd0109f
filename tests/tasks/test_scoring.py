"""Scores against sacrebleu's and rouge-score's own functions, and against counts made by hand."""

import sys

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer

from keras_lm.errors import UserError
from keras_lm.tasks.scoring import exact_match, rouge_units, summary_scores, translation_scores

CHINESE = ["我喜欢写程序。", "今天的天气很好！", "他昨天没有来上学。"]
CHINESE_REFERENCES = [
    ["我喜欢编写程序。", "我爱写程序。"],
    ["今天天气真好！", "今天的天气真不错。"],
    ["他昨天没来上学。", "昨天他没有上学。"],
]
ENGLISH = ["The cat sat on the mats.", "It rains, and nobody came.", "He said that the price was 3.5 dollars."]
ENGLISH_REFERENCES = [["The cat sits on a mat."], ["It was raining, nobody came."], ["He said the price was 3.5 dollars."]]


def test_bleu_and_chrf_are_sacrebleus_in_chinese():
    streams = [list(stream) for stream in zip(*CHINESE_REFERENCES, strict=True)]
    scores = translation_scores(CHINESE, CHINESE_REFERENCES)
    assert scores.bleu == sacrebleu.corpus_bleu(CHINESE, streams, tokenize="zh").score > 20
    assert scores.chrf == sacrebleu.corpus_chrf(CHINESE, streams).score > 20
    assert scores.texts == 3
    assert "nrefs:2|" in scores.signature and "tok:zh" in scores.signature


def test_bleu_and_chrf_are_sacrebleus_in_english():
    streams = [[own[0] for own in ENGLISH_REFERENCES]]
    scores = translation_scores(ENGLISH, ENGLISH_REFERENCES, language="en")
    assert scores.bleu == sacrebleu.corpus_bleu(ENGLISH, streams).score > 20
    assert scores.chrf == sacrebleu.corpus_chrf(ENGLISH, streams).score
    assert "tok:13a" in scores.signature


def test_sources_may_have_different_numbers_of_references():
    references = [CHINESE_REFERENCES[0], CHINESE_REFERENCES[1][:1], [*CHINESE_REFERENCES[2], "他昨天没有来。"]]
    streams = [
        [own[0] for own in references],
        [references[0][1], None, references[2][1]],
        [None, None, references[2][2]],
    ]
    scores = translation_scores(CHINESE, references)
    assert scores.bleu == sacrebleu.corpus_bleu(CHINESE, streams, tokenize="zh").score
    assert scores.chrf == sacrebleu.corpus_chrf(CHINESE, streams).score
    assert "nrefs:var" in scores.signature


def test_what_is_missing_is_no_reference():
    """A text with fewer references scores as it does where it stands alone: None is not an empty reference, whose length would count."""
    padded = translation_scores(CHINESE[:2], [CHINESE_REFERENCES[0], CHINESE_REFERENCES[1][:1]])
    repeated = translation_scores(CHINESE[:2], [CHINESE_REFERENCES[0], CHINESE_REFERENCES[1][:1] * 2])
    assert (padded.bleu, padded.chrf) == (repeated.bleu, repeated.chrf)


def test_a_right_translation_scores_100():
    scores = translation_scores(["我喜欢编程。"], [["我爱写程序。", "我喜欢编程。"]])
    assert scores.bleu == pytest.approx(100) and scores.chrf == pytest.approx(100)


def test_rouge_is_rouge_scores_in_english():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    own = [scorer.score(references[0], text) for text, references in zip(ENGLISH, ENGLISH_REFERENCES, strict=True)]
    scores = summary_scores(ENGLISH, ENGLISH_REFERENCES, language="en")
    for ours, kind in ((scores.rouge1, "rouge1"), (scores.rouge2, "rouge2"), (scores.rouge_l, "rougeL")):
        assert 0 < ours == sum(score[kind].fmeasure for score in own) / len(own)
    assert scores.texts == 3


def test_rouge_is_rouge_scores_in_chinese():
    class Characters(Tokenizer):
        def tokenize(self, text):
            return [character for character in text if character not in "。！，"]

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Characters())
    own = [scorer.score_multi(references, text) for text, references in zip(CHINESE, CHINESE_REFERENCES, strict=True)]
    scores = summary_scores(CHINESE, CHINESE_REFERENCES)
    for ours, kind in ((scores.rouge1, "rouge1"), (scores.rouge2, "rouge2"), (scores.rouge_l, "rougeL")):
        assert 0 < ours == sum(score[kind].fmeasure for score in own) / len(own)


def test_rouge_by_hand():
    scores = summary_scores(["会议在京举行"], [["会议今天举行"]])  # four of six characters, two of five pairs
    assert scores.rouge1 == scores.rouge_l == pytest.approx(4 / 6)
    assert scores.rouge2 == pytest.approx(2 / 5)


def test_of_several_summaries_the_nearest_counts():
    one = summary_scores(["会议在京举行"], [["会议今天举行"]])
    assert summary_scores(["会议在京举行"], [["没有", "会议今天举行"]]) == one


def test_units_are_characters_words_and_numbers():
    assert rouge_units("增长８．８％，WTO谈判 in Geneva") == ["增", "长", "８", "８", "wto", "谈", "判", "in", "geneva"]


def test_an_empty_answer_scores_nothing():
    assert summary_scores([""], [["会议"]]).rouge1 == 0
    assert translation_scores([""], [["会议"]]).bleu == 0
    assert exact_match([""], [["会议"]]) == 0


def test_exact_match_is_to_the_letter():
    assert exact_match(["abc", "abc.", "x"], [["abc"], ["abc"], ["y", "x"]]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("judge", [translation_scores, summary_scores, exact_match])
@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ([], [], "there are no texts to judge"),
        (["a"], [["a"], ["b"]], "1 texts are to be judged, but references are there for 2"),
        (["a", "b"], [["a"], []], "text 2 has no reference"),
        (["ab", "b"], [["ab"], "b"], r"the references of text 2 must be a list, got 'b': \['b'\] is a list of one"),
    ],
)
def test_what_cannot_be_judged_is_refused(judge, hypotheses, references, message):
    with pytest.raises(UserError, match=message):
        judge(hypotheses, references)


@pytest.mark.parametrize(("judge", "module"), [(translation_scores, "sacrebleu"), (summary_scores, "rouge_score")])
def test_missing_packages_say_what_to_install(monkeypatch, judge, module):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    name = module.replace("_", "-")
    with pytest.raises(UserError, match=rf'this is counted by {name}: pip install "keras_lm\[tasks\]" \(or pip install {name}\)'):
        judge(["a"], [["a"]])
