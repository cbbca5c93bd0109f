import base64
import json
import re

import numpy as np
import pytest

from keras_lm import insight_plots, models
from keras_lm.errors import UserError
from keras_lm.insight.attention import attention_maps
from keras_lm.insight.inspection import PARTS, inspect_text, text_attention
from keras_lm.insight.page import render
from keras_lm.insight.reading import Reader
from keras_lm.seq2seq import rnn_seq2seq, transformer_seq2seq
from keras_lm.tokenizers import ByteTokenizer

TOKENIZER = ByteTokenizer()
SMALL = {"embedding_dim": 16, "num_heads": 2, "num_layers": 2, "context_length": 32}
EVIL = "</script><b>$ & __DATA__"


@pytest.fixture(scope="module")
def transformer():
    return Reader(models.transformer_lm(260, **SMALL), TOKENIZER)


@pytest.fixture(scope="module")
def seen(transformer):
    return inspect_text(transformer, EVIL)


def data_of(page):
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def test_attention_has_its_tokens(transformer):
    found = text_attention(transformer, "at")
    maps = attention_maps(transformer.model, [list(transformer.read("at").ids)])
    assert [one.name for one in found] == list(maps) and found[0].queries == found[0].keys == ("<s>", "a", "t")
    np.testing.assert_array_equal(found[1].weights, maps["block_1/attention"][0])


@pytest.mark.parametrize("make", [transformer_seq2seq, rnn_seq2seq])
def test_an_encoder_decoder_is_shown_along_what_it_writes(make):
    small = SMALL if make is transformer_seq2seq else {"embedding_dim": 16, "hidden_dim": 8}
    found = inspect_text(Reader(make(260, **small), TOKENIZER), "at")
    assert set(found.missing) == {"attributions", "lens", "gates"}
    for one in found.attention:
        assert one.weights.shape[1:] == (len(one.queries), len(one.keys)), one.name
        assert one.keys[-1] == "</s>" or one.name.startswith("decoder")


def test_the_page_holds_what_was_seen_and_needs_nothing_else(seen):
    page = render(seen, about="a <run>", layer="block_0", head=1)
    data = data_of(page)
    assert data["text"] == EVIL and page.count("</script>") == 2
    assert not re.search(r"(?:src|href)=|https?://|@import|url\(", page)
    assert "<title>&lt;/script&gt;&lt;b&gt;" in page
    assert data["chosen"] == {"attention": 0, "gates": 0, "head": 1}
    weights = data["attention"][0]["weights"]
    values = np.frombuffer(base64.b64decode(weights["data"]), np.uint8).reshape(weights["shape"]) / 255
    np.testing.assert_allclose(values, seen.attention[0].weights, atol=1 / 255)
    found = data["attributions"]
    assert sum(found["integrated"]) == pytest.approx(found["score"] - found["baseline_score"], abs=2e-3)
    assert data["lens"]["layers"] == ["embedding", "block_0", "block_1"] and data["lens"]["following"]
    assert [name for name, _ in data["missing"]] == ["gates"]


def test_a_layer_can_be_named_or_numbered(seen):
    assert data_of(render(seen, about=""))["chosen"] == {"attention": 1, "gates": 0, "head": -1}
    for layer in ("0", "block_0", "block_0/attention"):
        assert data_of(render(seen, about="", layer=layer))["chosen"]["attention"] == 0
    with pytest.raises(UserError, match="unknown layer 'blok_1/attention': did you mean 'block_1/attention'"):
        render(seen, about="", layer="blok_1/attention")
    with pytest.raises(UserError, match="head must be from 0 to 1, got 2"):
        render(seen, about="", head=2)


def test_gates_are_packed_with_like_units_together():
    found = inspect_text(Reader(models.lstm_lm(260, embedding_dim=8, hidden_dim=6), TOKENIZER), "at", show=["gates"])
    (_, last) = data_of(render(found, about=""))["gates"]
    assert last["kind"] == "lstm" and sorted(last["order"]) == list(range(6))
    packed = last["values"]["forget_gate"]
    values = np.frombuffer(base64.b64decode(packed["data"]), np.uint8).reshape(packed["shape"]) / 255
    np.testing.assert_allclose(values, found.gates[1].values["forget_gate"][:, last["order"]], atol=1 / 255)


def test_parts_that_were_asked_for_must_be_there(transformer):
    recurrent = Reader(models.gru_lm(260, embedding_dim=8, hidden_dim=8), TOKENIZER)
    with pytest.raises(UserError, match="no attention to look at: gates and attributions can be shown"):
        inspect_text(recurrent, "at", show=["attention"])
    with pytest.raises(UserError, match="no gates: its attention can be shown"):
        inspect_text(transformer, "at", show=["gates"])
    with pytest.raises(UserError, match="unknown part 'gate': did you mean 'gates'"):
        inspect_text(recurrent, "at", show=["gate"])
    with pytest.raises(UserError, match="is 2 tokens of this tokenizer"):
        inspect_text(transformer, "at", target="no")
    with pytest.raises(UserError, match="the model reads 31 at a time: shorten it"):
        inspect_text(transformer, "a" * 32)
    found = inspect_text(recurrent, "at", show=["gates"])
    assert found.attention is found.lens is found.attributions is None and len(found.gates) == 2 and not found.missing
    with pytest.raises(UserError, match="no attention is shown, and so no head"):
        render(found, about="", head=0)
    assert set(PARTS) == {"attributions", "lens", "attention", "gates"}


def test_pictures_are_drawn(seen, tmp_path):
    found = seen.attributions
    figures = {
        "bars": insight_plots.attribution_bars(found.integrated, found.left_out, found.tokens, found.target, tmp_path / "bars.png"),
        "lens": insight_plots.lens_map(
            seen.lens.candidates[..., 0], seen.lens.probabilities[..., 0], seen.lens.layers, seen.lens.tokens, tmp_path / "lens.png"
        ),
    }
    gates = inspect_text(Reader(models.lstm_lm(260, embedding_dim=8, hidden_dim=6), TOKENIZER), "at", show=["gates"]).gates[0]
    figures["gates"] = insight_plots.gate_map(gates.values, gates.tokens, tmp_path / "gates.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 5000 for name in figures)
    assert [axes.get_title() != "" for axes in figures["gates"].axes[:6]] == [True] * 6
    with pytest.raises(UserError, match="3 positions need as many tokens, got 1"):
        insight_plots.gate_map(gates.values, ["a"])
