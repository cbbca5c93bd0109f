"""The page in a browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.export.saved_model import export_model
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import TextGenerator
from keras_lm.insight.attention import attention_maps
from keras_lm.serving.settings import Limits
from keras_lm.serving.versions import Model
from keras_lm.tokenizers import CharacterTokenizer
from tests.conftest import scripted_model
from tests.serving.conftest import load_quickly, serving

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
expect = playwright.expect

CHROMIUM = os.environ.get("KERAS_LM_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason="no Chromium on this machine: apt-get install chromium, or KERAS_LM_CHROMIUM=/its/path"
)

SOMETHING = re.compile(".")
PATIENCE = 120_000  # milliseconds, on a machine that has other things to do


@pytest.fixture(scope="module")
def generator():
    """A Transformer that has learnt nothing, and never ends a text: the last normalisation adds 1, and the end token weighs -1.

    The embeddings are small, so that no token is much more probable than another and two seeds never write the same.
    """
    keras.utils.set_random_seed(0)
    tokenizer = CharacterTokenizer.fit(["ab中国 \n"])
    sizes = {"context_length": 2048, "embedding_dim": 16, "num_layers": 2, "num_heads": 2}
    model = models.transformer_lm(tokenizer.vocabulary_size, **sizes)
    embeddings = np.random.default_rng(0).normal(0, 0.1, [tokenizer.vocabulary_size, 16])
    embeddings[tokenizer.end_id] = -1.0
    model.get_layer("embedding").set_weights([embeddings])
    model.get_layer("final_norm").set_weights([np.ones(16), np.ones(16)])
    return TextGenerator(model, tokenizer, jit_compile=False)


def exported(generator, folder):
    export_model(generator.sampler.decoder.model, generator.tokenizer, folder)
    return folder


@contextlib.contextmanager
def page_of(folder, token=None):
    """The address of a page for an export."""
    model = Model(folder.name, folder, Limits(), load=load_quickly)
    model.load()
    with serving([model], token=token) as address:
        yield f"{address}/"


@pytest.fixture(scope="module")
def folder(generator, tmp_path_factory):
    return exported(generator, tmp_path_factory.mktemp("saved_models") / "tiny")


@pytest.fixture(scope="module")
def url(folder):
    with page_of(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, url):
    """Opens the page as a browser of some kind shows it, and waits for the model's name."""
    contexts, complaints = [], []

    def open_page(address=url, card=SOMETHING, **options):
        contexts.append(browser.new_context(**{"locale": "en-US", **options}))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # What the server refuses a browser reports by itself; all else, above all what the security policy forbids, must not be.
        page.on("console", lambda message: "Failed to load" in message.text or complaints.append(message.text))
        page.goto(address)
        if card:
            expect(page.locator("#card")).to_have_text(card)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def generate(page, prompt="ab", **knobs):
    """Fills in the form and waits for the end of the text; returns the text."""
    page.fill("#prompt", prompt)
    for name, value in knobs.items():
        page.fill(f"#{name}", str(value))
    page.keyboard.press("Control+Enter")
    ended(page)
    return written(page)


def ended(page):
    expect(page.locator("#said")).to_have_text(SOMETHING)


def written(page):
    return "".join(page.locator("#output .token").all_text_contents())


def figures(page):
    return dict(zip(page.locator("#figures dt").all_text_contents(), page.locator("#figures dd").all_text_contents(), strict=True))


def tip(page):
    """Token and share of each row of the tooltip, and the row that was chosen."""
    rows = page.locator("#tip div")
    pieces, shares = rows.locator(".piece").all_text_contents(), rows.locator(".share").all_text_contents()
    (chosen,) = page.locator("#tip .chosen .piece").all_text_contents()
    return dict(zip(pieces, shares, strict=True)), chosen


def canned(page, *events):
    """Answers the next request with these events."""
    body = "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in events)
    page.route("**/v1/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))


def piece(text, *tokens, reason=None):
    logprobs = {"tokens": list(tokens), "token_logprobs": [np.log(0.4)] * len(tokens), "top_logprobs": [{token: -1.0} for token in tokens]}
    return {"choices": [{"text": text, "finish_reason": reason, "logprobs": logprobs}]}


def test_the_text_and_its_probabilities_are_those_of_the_library(generator, opened):
    page = opened()
    expect(page.locator("#prompt")).to_be_focused()
    text = generate(page, "ab", max_tokens=40, temperature=0.9, top_k=6)
    settings = SamplingSettings(max_new_tokens=40, temperature=0.9, top_k=6, seed=int(page.input_value("#seed")), top_logprobs=5)
    (expected,) = generator.generate(["ab"], settings)
    assert text == expected.text
    assert page.locator("#output .given").text_content() == "ab"
    spans = page.locator("#output .token")
    for number, token in enumerate(expected.tokens):
        share = np.exp(token.logprob)
        level = sum(share < border for border in (0.9, 0.5, 0.2, 0.05, 0.01))
        assert f"p{level}" in spans.nth(number).get_attribute("class").split()
    shown = figures(page)
    assert shown["Tokens"] == str(expected.num_tokens)
    assert shown["First token"].endswith(" ms")


def test_arrow_keys_go_through_the_alternatives(generator, opened):
    page = opened()
    generate(page, "ab", max_tokens=12, seed=5)
    settings = SamplingSettings(max_new_tokens=12, seed=5, top_logprobs=5)
    (expected,) = generator.generate(["ab"], settings)
    page.locator('#output .token[tabindex="0"]').focus()
    for place, token in enumerate(expected.tokens):
        if place:
            page.keyboard.press("ArrowRight")
        rows, chosen = tip(page)
        named = {" ": "␣", "\n": "⏎"}
        wanted = {named.get(text, text): np.exp(logprob) for text, logprob in token.alternatives}
        assert chosen == named.get(token.text, token.text)
        assert set(wanted) <= set(rows) <= {*wanted, chosen}
        shares = [float(share.strip("< %")) for share in rows.values()]
        assert shares == sorted(shares, reverse=True)
        for text, share in wanted.items():
            assert float(rows[text].strip("< %")) == pytest.approx(100 * share, rel=0.06, abs=0.01)
    page.keyboard.press("Home")
    assert tip(page)[1] == expected.text[0].replace(" ", "␣").replace("\n", "⏎")
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()


def test_the_same_seed_gives_the_same_text_and_another_is_drawn_by_default(opened):
    page = opened()
    first, seed = generate(page, max_tokens=30), page.input_value("#seed")
    second = generate(page)
    assert page.input_value("#seed") != seed
    assert second != first
    assert generate(page, seed=seed) == first
    assert not page.is_checked("#fresh")
    assert generate(page) == first
    assert page.locator("#output .given").count() == 1  # nothing of the texts before is left


def test_stop_strings_and_how_a_text_ended(opened):
    page = opened()
    whole = generate(page, max_tokens=60, seed=3)
    assert figures(page)["Ended"] == "at the number of new tokens"
    cut = generate(page, stops="\\n\n中中")
    assert cut == re.split("\n|中中", whole)[0] != whole
    assert figures(page)["Ended"] == "at its end, or at a stop string"


def test_escape_stops_and_what_stands_there_stays(opened):
    page = opened()
    page.fill("#prompt", "ab")
    page.fill("#max_tokens", "2000")
    page.locator("#generate").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#output .token").nth(3)).to_be_visible()
    expect(page.locator("#stop")).to_be_focused()
    page.keyboard.press("Escape")
    ended(page)
    assert figures(page)["Ended"] == "stopped by you"
    assert 0 < len(written(page)) < 2000
    expect(page.locator("#generate")).to_be_focused()
    assert generate(page, max_tokens=3)
    page.fill("#max_tokens", "2000")
    page.click("#generate")
    page.click("#stop")
    ended(page)


def test_text_that_comes_later_than_its_tokens(opened):
    """A character of three bytes, a stop string held back, several tokens in one event, and tokens without text at the end."""
    page = opened()
    end = {"choices": [{"text": "", "finish_reason": "stop", "logprobs": None}]}
    events = [
        piece("", "\ufffd"),
        piece("", "\ufffd"),
        piece("中", "\ufffd"),
        piece("ab", "a", "bc"),
        piece("", "de"),
        piece("cdef g", "f", " g"),
    ]
    canned(page, *events, piece("", "\n"), end, {"choices": [], "usage": {"completion_tokens": 9}}, "[DONE]")
    generate(page)
    assert page.locator("#output .token").all_text_contents() == ["中", "a", "bc", "de", "f", " g"]
    page.locator("#output .token").first.hover()
    assert page.locator("#tip p").text_content() == "probability 6.4 %, of 3 tokens"
    assert figures(page)["Tokens"] == "9"


def test_errors_are_shown_in_one_line(folder, opened):
    with page_of(folder) as address:
        page = opened(address)
        error = page.locator("#error")
        for name, value, message in (
            ("top_p", "1.5", "Top-p: 0.01 to 1"),
            ("max_tokens", "0", "New tokens: at least 1"),
            ("max_tokens", "2.5", "New tokens: a number is needed"),
            ("max_tokens", "5000", "max_tokens is 5000: at most 4096 are allowed"),
            ("seed", "-1", "Seed: 0 to 2147483647"),
        ):
            before = page.input_value(f"#{name}")
            page.fill(f"#{name}", value)
            page.click("#generate")
            expect(error).to_have_text(message)
            page.fill(f"#{name}", before)
        assert generate(page, max_tokens=5)
        expect(error).to_be_hidden()
        canned(page, piece("a", "a"), {"error": {"message": "the model was taken away"}})
        page.click("#generate")
        expect(error).to_have_text("the model was taken away")
        page.unroute("**/v1/completions")
        canned(page, piece("a", "a"))
        page.click("#generate")
        expect(error).to_have_text("The connection broke off.")
        assert written(page) == "a"
        page.unroute("**/v1/completions")
    page.click("#generate")
    expect(error).to_have_text("The server does not answer: is it still running?")
    expect(page.locator("#generate")).to_be_visible()


def test_a_token_is_asked_for_and_kept_in_the_tab(folder, opened):
    with page_of(folder, token="a secret") as address:
        page = opened(address, card=None)
        expect(page.locator("#token")).to_be_focused()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#error")).to_be_visible()
        page.fill("#token", "a secret")
        page.keyboard.press("Enter")
        expect(page.locator("#card")).to_have_text(SOMETHING)
        expect(page.locator("#key")).to_be_hidden()
        assert generate(page, max_tokens=5)
        assert "Bearer $TOKEN" in page.locator("#curl").text_content()
        assert "a secret" not in page.locator("#curl").text_content()
        assert "a secret" not in page.evaluate("JSON.stringify({...localStorage}) + document.cookie + location.href")
        page.reload()
        expect(page.locator("#card")).to_have_text(SOMETHING)


def test_attention_is_drawn_and_read_out(generator, opened):
    page = opened()
    text = generate(page, "ab", max_tokens=6, seed=1)
    page.click("#attention summary")
    page.click("#look")
    picture = page.locator("#picture")
    expect(picture).to_be_visible()
    tokenizer = generator.tokenizer
    ids = [tokenizer.start_id, *tokenizer.tokenize(tf.constant(["ab" + text])).to_list()[0]]
    maps = list(attention_maps(generator.sampler.decoder.model, np.array([ids])).values())
    names = ["<s>", *("ab" + text).replace(" ", "␣").replace("\n", "⏎")]
    assert page.locator("#layer option").all_text_contents() == ["1", "2"]
    assert page.locator("#head option").all_text_contents() == ["mean", "1", "2"]
    page.locator("#picture").focus()
    for layer, head in itertools.product(range(2), (None, 0, 1)):
        page.select_option("#layer", label=str(layer + 1))
        page.select_option("#head", label="mean" if head is None else str(head + 1))
        weights = maps[layer][0].mean(axis=0) if head is None else maps[layer][0, head]
        picture.focus()
        for _ in range(len(ids)):
            page.keyboard.press("ArrowUp")
        for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
        query, seen, share = re.fullmatch("«(.+)» looks at «(.+)»: (.+)", page.locator("#cell").text_content()).groups()
        assert (query, seen) == (names[2], names[1])
        assert float(share.strip("< %")) == pytest.approx(100 * weights[2, 1], rel=0.06, abs=0.01)
    coloured = (
        "picture.getContext('2d').getImageData(0, 0, picture.width, picture.height).data.filter((value, at) => at % 4 == 3 && value).length"
    )
    assert page.evaluate(coloured) > 1000


def test_what_a_model_writes_is_no_markup_and_a_model_without_attention_has_no_picture(opened, tmp_path):
    text = "<img src=x>"
    tokenizer = CharacterTokenizer(list(text))
    ids = tokenizer.tokenize(tf.constant([text])).to_list()[0]
    generator = TextGenerator(scripted_model([*ids, tokenizer.end_id], tokenizer.vocabulary_size), tokenizer, jit_compile=False)
    with page_of(exported(generator, tmp_path / "scripted")) as address:
        page = opened(address)
        assert generate(page, "<", temperature=0) == text[1:]
        expect(page.locator("#attention")).to_be_hidden()
        page.locator("#output .token").first.hover()
        assert tip(page)[1] == "i"
        assert page.locator("#output img, #tip img").count() == 0


def test_the_command_shown_gives_the_text_shown(opened):
    page = opened()
    text = generate(page, 'it\'s "ab"\n中', max_tokens=12)
    page.click("details:has(#curl) summary")
    answer = subprocess.run(["bash", "-c", page.locator("#curl").text_content()], check=True, capture_output=True, text=True)
    events = [json.loads(line[6:]) for line in answer.stdout.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events if event["choices"]) == text


def test_text_and_command_can_be_copied(opened):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    text = generate(page, max_tokens=10)
    page.click("#copy")
    expect(page.locator("#copy")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == text
    page.click("details:has(#curl) summary")
    page.click("#copyCurl")
    expect(page.locator("#copyCurl")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#curl").text_content()


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_both_languages(opened, locale):
    page = opened(locale=locale)
    words = page.evaluate("WORDS")
    assert set(words["zh"]) == set(words["en"])
    assert set(words["zh"]["reasons"]) == set(words["en"]["reasons"])
    assert all(re.search("[\u4e00-\u9fff：]|Top|Min", word) for name, word in words["zh"].items() if isinstance(word, str))
    first, second = ("zh", "en") if locale == "zh-CN" else ("en", "zh")
    generate(page, max_tokens=5)
    for language in (first, second):
        expect(page.locator("#generate")).to_have_text(words[language]["generate"])
        assert page.evaluate("document.documentElement.lang")[:2] == language
        assert words[language]["tokens"] in figures(page)
        page.click("#language")
    page.click("#language")
    page.reload()  # the choice is kept
    expect(page.locator("#generate")).to_have_text(words[second]["generate"])


def test_every_control_has_a_name(opened):
    page = opened()
    nameless = """() => [...document.querySelectorAll("input, select, textarea, button, canvas, summary")].filter((control) =>
        !control.getAttribute("aria-label") && ![...(control.labels || [])].some((label) => label.textContent.trim())
        && !control.textContent.trim()).map((control) => control.id)"""
    assert page.evaluate(nameless) == []


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(opened, locale, scheme):
    """360 points wide: nothing scrolls sideways, and a tap shows the alternatives inside the window."""
    viewport = {"width": 360, "height": 740}
    page = opened(locale=locale, color_scheme=scheme, viewport=viewport, has_touch=True, is_mobile=True)
    page.locator("#knobs summary").tap()
    page.fill("#prompt", "ab " * 30)
    page.fill("#max_tokens", "60")
    page.locator("#generate").tap()
    ended(page)
    page.locator("#attention summary").tap()
    page.locator("#look").tap()
    expect(page.locator("#picture")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    visible = page.locator("#output .token:not(.line)").last
    visible.tap()
    expect(page.locator("#tip")).to_be_visible()
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    assert box["y"] >= 0 and box["y"] + box["height"] <= 740


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shades_grow_darker_or_brighter_and_text_on_them_can_be_read(opened, scheme):
    """By lightness alone, as one sees who tells no colours apart; contrast by WCAG, 4.5 at least."""
    page = opened(color_scheme=scheme)
    colours = page.evaluate("""() => {
        const of = (item, name) => getComputedStyle(item)[name].match(/[\\d.]+/g).map(Number);
        return { paper: of(document.body, "backgroundColor"), ink: of(document.body, "color"),
                 shades: [1, 2, 3, 4, 5].map((level) => of(document.querySelector(`.swatch.p${level}`), "backgroundColor")) };
    }""")
    paper, ink = np.array(colours["paper"][:3]), np.array(colours["ink"][:3])
    shades = [np.array(shade[:3]) * shade[3] + paper * (1 - shade[3]) for shade in colours["shades"]]
    linear = lambda colour: np.where(colour / 255 <= 0.04045, colour / 255 / 12.92, ((colour / 255 + 0.055) / 1.055) ** 2.4)
    luminance = lambda colour: float(linear(colour) @ [0.2126, 0.7152, 0.0722])
    contrast = lambda one, two: (max(luminance(one), luminance(two)) + 0.05) / (min(luminance(one), luminance(two)) + 0.05)
    assert all(contrast(ink, shade) >= 4.5 for shade in shades)
    apart = [contrast(one, two) for one, two in itertools.pairwise([paper, *shades])]
    assert min(apart) > 1.08
    levels = [luminance(shade) for shade in [paper, *shades]]
    assert levels == sorted(levels, reverse=scheme == "light")
