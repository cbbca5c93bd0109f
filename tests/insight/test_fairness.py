import dataclasses
import itertools
import json
import os
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import insight_plots, models
from keras_lm.errors import UserError
from keras_lm.generation.text import TextGenerator
from keras_lm.group_terms import CONTROL, GROUPS, LANGUAGES, read_group_terms
from keras_lm.insight import fairness_page
from keras_lm.insight.fairness import (
    MEASURES,
    judge_differences,
    likelihood_differences,
    paired_prompts,
    positive_class,
    readable_prompts,
    sampled_sentiment,
    sentiment_score,
)
from keras_lm.insight.fairness_report import Probe, probe, summarize
from keras_lm.insight.paired_statistics import holm, mean_interval
from keras_lm.insight.reading import Reader
from keras_lm.models import MODELS
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer

TERMS = read_group_terms()
SIZES = {"embedding_dim": 16, "num_layers": 1}
BYTES = ByteTokenizer()


CHROMIUM = os.environ.get("KERAS_LM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def share_of_vowels(texts, progress=None):
    return np.array([sum(character in "aeiou" for character in text) / max(len(text), 1) for text in texts])


@pytest.fixture(scope="module")
def transformer():
    return Reader(models.transformer_lm(260, context_length=96, num_heads=2, **SIZES), BYTES)


@pytest.fixture(scope="module")
def prompts():
    return paired_prompts(TERMS, ["gender", "age"], "en")[::9]


def full_forward(reader, text_before, text_after):
    """ln P of the second text, and of both, by one plain call of the model."""
    before, after = (reader.tokenizer.tokenize(tf.constant([text])).to_list()[0] for text in (text_before, text_after))
    ids = [*([reader.tokenizer.start_id] if reader.begins else []), *before, *after]
    logits = reader.model(np.array([ids[:-1]], np.int32)).numpy()[0].astype(np.float64)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    each = logits[np.arange(len(ids) - 1), ids[1:]]
    return each[len(each) - len(after) :].sum(), each.sum()


def test_prompts_differ_in_the_term_alone():
    for language in LANGUAGES:
        found = paired_prompts(TERMS, GROUPS, language)
        assert len({(one.first, one.second) for one in found}) == len({(one.pair, one.template) for one in found}) == len(found)
        for one in found:
            first, second = one.pair.first.lower(), one.pair.second.lower()
            border = r"\b" if language == "en" else ""
            assert re.sub(f"{border}{first}{border}", second, one.first.lower(), count=1) == one.second.lower()
            assert one.continuations[0] != one.continuations[1]


@pytest.mark.parametrize(("name", "begins"), [("transformer", True), ("gru", False)])
def test_differences_are_those_of_the_full_forward_pass(name, begins, prompts):
    sizes = {"context_length": 96, "num_heads": 2} if name == "transformer" else {"hidden_dim": 12}
    reader = Reader(MODELS[name](260, **sizes, **SIZES), BYTES, begins=begins)
    prompts = prompts[::20]
    found = likelihood_differences(reader, prompts, batch_size=7)
    for number, one in enumerate(prompts):
        pairs = itertools.product((one.first, one.second), one.continuations)
        ((fg, whole_fg), (fb, whole_fb), (sg, whole_sg), (sb, whole_sb)) = (full_forward(reader, *pair) for pair in pairs)
        assert found["favour"][number] == pytest.approx((fg - fb) - (sg - sb), abs=2e-4)
        assert found["continuation"][number] == pytest.approx(((fg - sg) + (fb - sb)) / 2, abs=2e-4)
        assert found["sentence"][number] == pytest.approx(((whole_fg - whole_sg) + (whole_fb - whole_sb)) / 2, abs=2e-3)


def test_the_frequency_of_a_term_is_in_the_sentence_alone():
    """A model whose next token depends on nothing: what is frequent is probable, and no term changes what comes behind it."""
    model = keras.Sequential([keras.Input([None], dtype="int32"), keras.layers.Embedding(260, 4), keras.layers.Dense(260)])
    bias = np.random.default_rng(0).normal(size=260).astype(np.float32)
    model.set_weights([np.zeros((260, 4), np.float32), np.zeros((4, 260), np.float32), bias])
    found = likelihood_differences(Reader(model, BYTES), paired_prompts(TERMS, ["occupation"], "en"))
    np.testing.assert_allclose(found["favour"], 0, atol=1e-5)
    np.testing.assert_allclose(found["continuation"], 0, atol=1e-5)
    assert np.abs(found["sentence"]).max() > 1
    rows = summarize(paired_prompts(TERMS, ["occupation"], "en"), {name: np.round(values, 4) for name, values in found.items()})
    assert not any(row.significant for row in rows)


def test_a_model_that_takes_both_terms_for_one_gives_zero():
    """Symmetric by construction: the embeddings of 他 and 她 are the same."""
    tokenizer = CharacterTokenizer.fit(
        iter([text for one in paired_prompts(TERMS, ["gender"], "zh") for text in (one.first, one.second, *one.continuations)])
    )
    he, she = (tokenizer.tokenize(tf.constant([term])).to_list()[0][0] for term in "他她")
    reader = Reader(models.gru_lm(tokenizer.vocabulary_size, embedding_dim=16, hidden_dim=16, num_layers=1), tokenizer)
    embedding = reader.model.layers[0].embeddings
    rows = embedding.numpy()
    rows[she] = rows[he]
    embedding.assign(rows)
    prompts = paired_prompts(TERMS, ["gender"], "zh")
    found = likelihood_differences(reader, prompts)
    own = np.array([str(one.pair) == "他/她" for one in prompts])
    for measure in ("favour", "continuation"):
        np.testing.assert_allclose(found[measure][own], 0, atol=1e-5)
        assert np.abs(found[measure][~own]).mean() > 1e-4
    generator = TextGenerator(reader.model, tokenizer, jit_compile=False)
    ours = [one for one in prompts if str(one.pair) == "他/她"][:3]
    assert np.all(judge_differences(share_of_vowels, ours) == 0)
    assert sampled_sentiment(generator, share_of_vowels, ours, samples=2, max_new_tokens=4).tolist() == [0.0, 0.0, 0.0]


def test_exchanged_terms_change_the_sign(transformer):
    one = paired_prompts(TERMS, ["age"], "en")[3]
    other = dataclasses.replace(one, first=one.second, second=one.first)
    found = likelihood_differences(transformer, [one, other])
    for values in found.values():
        assert values[0] == pytest.approx(-values[1], abs=1e-6) != 0


def test_sentiment_is_that_of_the_new_text_alone(transformer, prompts):
    generator = TextGenerator(transformer.model, BYTES, jit_compile=False)
    seen = []

    def score(texts, progress=None):
        seen.append(list(texts))
        return share_of_vowels(texts)

    few = prompts[:3]
    found = sampled_sentiment(generator, score, few, samples=2, max_new_tokens=6, seed=3, batch_size=4)
    assert [len(texts) for texts in seen] == [6, 6] and found.shape == (3,)
    for one, first in zip(few, seen[0][::2], strict=True):
        assert not first.startswith(one.first)
    means = [share_of_vowels(texts).reshape(3, 2).mean(axis=1) for texts in seen]
    np.testing.assert_allclose(found, means[0] - means[1])
    again = sampled_sentiment(generator, share_of_vowels, few, samples=2, max_new_tokens=6, seed=3, batch_size=4)
    np.testing.assert_array_equal(found, again)
    np.testing.assert_allclose(
        judge_differences(share_of_vowels, few), share_of_vowels([one.first for one in few]) - share_of_vowels([one.second for one in few])
    )


def test_the_unit_is_the_template():
    prompts = paired_prompts(TERMS, ["region"], "zh")
    templates = list(dict.fromkeys(one.template for one in prompts))
    values = np.array([templates.index(one.template) / 10 for one in prompts])  # each pair alike
    rows = summarize(prompts, {"favour": values, "sentence": values, "judge": values})
    whole, *pairs = [row for row in rows if row.measure == "favour"]
    expected = mean_interval(np.arange(len(templates)) / 10)
    assert (whole.low, whole.high) == pytest.approx(expected) and whole.templates == len(templates) and whole.pair is None
    assert all((row.low, row.high) == pytest.approx(expected) for row in pairs)
    assert all(row.p is None and row.corrected is None and not row.significant for row in rows if row.measure == "sentence")
    for judge in (False, True):  # two models, two families
        family = [row for row in rows if row.p is not None and (row.measure == "judge") == judge]
        assert [row.corrected for row in family] == pytest.approx(holm([row.p for row in family]).tolist())
        assert len(family) == len(pairs) + 1


def test_synonyms_are_a_control_and_not_tested():
    prompts = paired_prompts(TERMS, ["age", CONTROL], "zh")
    rows = summarize(prompts, {"favour": np.ones(len(prompts))})
    assert all((row.p is None) == (row.corrected is None) == (row.group == CONTROL) for row in rows)
    assert {row.group for row in rows} == {"age", CONTROL}


def test_terms_that_the_model_has_no_tokens_for_are_left_out_and_named():
    texts = [text for one in paired_prompts(TERMS, ["gender"], "zh") for text in (one.first, one.second, *one.continuations)]
    tokenizer = CharacterTokenizer.fit(iter([text.replace("姑", "").replace("懒", "") for text in texts]))
    reader = Reader(models.gru_lm(tokenizer.vocabulary_size, embedding_dim=8, hidden_dim=8), tokenizer)
    kept, missing = readable_prompts(reader, paired_prompts(TERMS, ["gender"], "zh"))
    assert missing == ["{subject}平时很 ...", "姑娘"] or missing == ["姑娘", "{subject}平时很 ..."]
    assert not any("姑娘" in one.second or "平时" in one.first for one in kept) and len(kept) > 250
    with pytest.raises(UserError, match=r"no tokens for any of the .* prompts: give another --language"):
        readable_prompts(reader, paired_prompts(TERMS, ["gender"], "en"))


def test_bad_input_is_refused(prompts, small_pair_run, small_label_run, small_tag_run):
    with pytest.raises(UserError, match="unknown group 'gendre': did you mean 'gender'"):
        paired_prompts(TERMS, ["gendre"], "zh")
    with pytest.raises(UserError, match="the group gender has no pair in en that a template takes"):
        paired_prompts(dataclasses.replace(TERMS, templates=TERMS.templates[:3]), ["gender"], "en")
    with pytest.raises(UserError, match=r"他/她 \(gender\) stands in 3 templates, and an interval needs 6"):
        paired_prompts(dataclasses.replace(TERMS, templates=TERMS.templates[:3]), ["gender"], "zh")
    short = Reader(models.transformer_lm(260, context_length=24, num_heads=2, **SIZES), BYTES)
    with pytest.raises(UserError, match=r"line \d+ of the templates, is \d+ tokens long, and the model reads 24: shorten it"):
        likelihood_differences(short, prompts)
    with pytest.raises(UserError, match="is a run of translation: paired prompts are for language models"):
        probe(small_pair_run)
    with pytest.raises(UserError, match="is a run of tagging: sentiment is told by one of --task classification"):
        sentiment_score(small_tag_run)
    with pytest.raises(UserError, match="unknown class 'god': did you mean 'good'"):
        sentiment_score(small_label_run, "god")
    with pytest.raises(UserError, match="which of the classes a, b is the positive one"):
        positive_class(["a", "b"])
    with pytest.raises(UserError, match="samples must be at least 1, got 0"):
        sampled_sentiment(None, None, prompts, samples=0)
    classifier = Reader.of(small_label_run)
    with pytest.raises(UserError, match="does not go on with a text"):
        likelihood_differences(classifier, prompts)


def data_of(page):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def test_the_page_holds_what_was_found_and_needs_nothing_else(transformer):
    prompts = [one for one in paired_prompts(TERMS, ["gender", "age"], "en") if one.pair.first in ("he", "king", "youth")]
    found = likelihood_differences(transformer, prompts)
    judged = {**found, "sentiment": found["favour"] / 9, "judge": found["favour"] / 3}
    page = fairness_page.render(
        Probe(prompts, ["</script><b>"], judged, summarize(prompts, judged)), about="a <run> __DATA__", details={"samples": 4}
    )
    assert page.count("</script>") == 2 and "<title>公平性 · Fairness · a &lt;run&gt; __DATA__</title>" in page
    assert not re.search(r"(?:src|href)=|https?://|@import|url\(", page)
    data = data_of(page)
    assert list(data["measures"]) == list(MEASURES) and data["groups"] == ["gender", "age"]
    (whole, *_) = data["measures"]["favour"]
    assert whole["pair"] is None and whole["low"] <= whole["mean"] <= whole["high"]
    largest = max(abs(found["favour"]))
    assert max(abs(one["favour"]) for one in data["largest"]) == pytest.approx(largest, abs=1e-5)
    for words in (
        "没有发现不等于没有",
        "Nothing found is not nothing there",
        "情感模型自己也有偏向",
        "The sentiment model leans too",
        "Zero is no certificate",
    ):
        assert words in page


@pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine: apt-get install chromium, or KERAS_LM_CHROMIUM=/its/path")
def test_the_page_speaks_both_languages_and_fits_a_phone(transformer, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    prompts = [one for one in paired_prompts(TERMS, ["gender"], "en") if one.pair.first in ("he", "king")]
    found = likelihood_differences(transformer, prompts)
    (tmp_path / "page.html").write_text(
        fairness_page.render(Probe(prompts, [], found, summarize(prompts, found)), about="run"), encoding="utf-8"
    )
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for locale, shown, button in (("en-US", "What such a probe cannot show", "中文"), ("zh-CN", "这样的探测不能说明什么", "English")):
            page, complaints = browser.new_context(locale=locale, viewport={"width": 390, "height": 844}).new_page(), []
            page.on("pageerror", lambda error, complaints=complaints: complaints.append(str(error)))
            page.on("console", lambda message, complaints=complaints: complaints.append(message.text))
            page.goto((tmp_path / "page.html").as_uri())
            assert page.locator("#limits h2").inner_text() == shown and page.locator("#language").inner_text() == button
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert page.locator("section[data-measure=favour] .dot").count() == 3
            page.locator("#language").click()
            assert page.locator("#limits h2").inner_text() != shown and not complaints
        browser.close()


def test_a_picture_is_drawn(tmp_path):
    rows = {"plain · 原样": [(0.1, 0.0, 0.3), (0.0, -0.1, 0.1)], "other": [(0.0, -0.1, 0.1)] * 2}
    figure = insight_plots.difference_ranges({"一 · one": rows, "二 · two": rows}, ["他/她", "he/she"], tmp_path / "ranges.png")
    assert (tmp_path / "ranges.png").stat().st_size > 5000 and len(figure.axes) == 2
    with pytest.raises(UserError, match="2 positions need as many tokens, got 1"):
        insight_plots.difference_ranges({"one": rows}, ["a"])
