import ctypes
import json
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from benchmarks.export_parity import library_texts, odd_prompts
from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.export.saved_model import ExportedGenerator, export_model, export_run
from keras_lm.export.served import BOUNDS
from keras_lm.generation.decode import Knobs, dtype_of
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import TextGenerator
from keras_lm.tokenizers import TOKENIZERS, ByteTokenizer, CharacterTokenizer
from tests.export.session import Served
from tests.test_models import SMALL

TEXTS = ["the statement is a class", "中国人民", "for x in range(10):\n    pass", "a"]


@pytest.fixture(scope="module")
def exported(small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_models") / "small"
    export_run(small_run, folder)
    return folder


@pytest.fixture(scope="module")
def served(exported):
    return Served(exported / "1")


def prompts_of(run, count):
    """Beginnings of real sentences of different lengths, from the test split."""
    ids = run.load_tokens()["test"].ids
    tokenizer = run.load_tokenizer()
    places = np.random.default_rng(0).integers(0, len(ids) - 40, count)
    rows = [ids[place : place + 3 + number % 30].tolist() for number, place in enumerate(places)]
    return [text.decode() for text in tokenizer.detokenize(tf.ragged.constant(rows, dtype=tf.int32)).numpy()]


def test_a_hundred_prompts_give_the_text_of_the_library(small_run, exported, served):
    """`serving_default` in one batch of 100, through TensorFlow and through a C++ session, against the library, prompt by prompt."""
    prompts = prompts_of(small_run, 100)
    generator = TextGenerator(small_run.load_model(), small_run.load_tokenizer())
    results = [generator.generate([prompt], SamplingSettings(seed=0))[0] for prompt in prompts]
    loaded = tf.saved_model.load(str(exported / "1"))
    in_python = {name: tensor.numpy() for name, tensor in loaded.signatures["serving_default"](prompts=tf.constant(prompts)).items()}
    for outputs in (in_python, served("serving_default", {"prompts": prompts})):
        assert [text.decode() for text in outputs["text"]] == [result.text for result in results]
        assert outputs["num_tokens"].tolist() == [result.num_tokens for result in results]
        assert [reason.decode() for reason in outputs["finish_reason"]] == [result.finish_reason for result in results]
    assert len({result.text for result in results}) > 90


@pytest.mark.slow
def test_odd_prompts_give_the_text_of_the_library(small_run, served):
    """Chinese, English, mixed, emoji, nothing, 10,000 characters, bytes that are not UTF-8."""
    prompts = odd_prompts(small_run, 60)
    assert b"" in prompts and max(map(len, prompts)) >= 10_000
    outputs = served("serving_default", {"prompts": prompts})
    assert [text.decode() for text in outputs["text"]] == library_texts(small_run, prompts)


def test_next_token_gives_the_models_own_probabilities(small_run, served):
    model, tokenizer = small_run.load_model(), small_run.load_tokenizer()
    prompts, wanted = ["the ", "", "x" * 300, "the st"], [3, 1, 10**9, -4]
    outputs = served("next_token", {"prompts": prompts, "k": wanted})
    most = min(100, tokenizer.vocabulary_size)
    assert outputs["ids"].shape == outputs["tokens"].shape == outputs["probabilities"].shape == (4, most)
    pieces = [piece.decode("utf-8", "replace") for piece in tokenizer.pieces()]
    for row, (prompt, k) in enumerate(zip(prompts, (3, 1, most, 1), strict=True)):
        ids = [tokenizer.start_id, *tokenizer.tokenize(tf.constant([prompt])).to_list()[0]]
        expected = tf.nn.softmax(model(np.array([ids]))[0, -1]).numpy()
        chosen = outputs["ids"][row, :k]
        np.testing.assert_allclose(outputs["probabilities"][row, :k], np.sort(expected)[::-1][:k], atol=1e-5)
        np.testing.assert_allclose(outputs["probabilities"][row, :k], expected[chosen], atol=1e-5)
        assert [token.decode() for token in outputs["tokens"][row, :k]] == [pieces[token] for token in chosen]
        assert set(outputs["ids"][row, k:]) <= {-1}
        assert set(outputs["tokens"][row, k:]) <= {b""}
        assert not outputs["probabilities"][row, k:].any()
    assert served("next_token", {"prompts": prompts})["ids"].shape == (4, 10)


def test_bytes_of_a_bounded_context(tmp_path):
    """A prompt longer than the context loses its beginning; what is no character alone comes out as U+FFFD."""
    model = models.transformer_lm(260, context_length=16, embedding_dim=16, num_layers=1)
    served = Served(export_model(model, ByteTokenizer(), tmp_path / "model", documents=False))
    prompt = "a long prompt, longer than sixteen bytes"
    outputs = served("next_token", {"prompts": [prompt], "k": [100]})
    ids = np.frombuffer(prompt.encode(), np.uint8).astype(np.int32)[-16:] + 4
    expected = tf.nn.softmax(model(ids[None])[0, -1]).numpy()
    np.testing.assert_allclose(outputs["probabilities"][0], np.sort(expected)[::-1][:100], atol=1e-5)
    assert "\ufffd" in [token.decode() for token in outputs["tokens"][0]]
    for text in served("serving_default", {"prompts": ["中", b"\xff", ""]})["text"]:
        text.decode()


def test_generate_takes_the_knobs(small_run, exported):
    settings = SamplingSettings(max_new_tokens=25, temperature=0.9, top_k=20, top_p=0.95, repetition_penalty=1.2, seed=5)
    prompts = prompts_of(small_run, 8)
    generator = TextGenerator(small_run.load_model(), small_run.load_tokenizer())
    assert ExportedGenerator(exported).generate(prompts, settings) == generator.generate(prompts, settings)


def test_a_knob_a_row(exported):
    generate = tf.saved_model.load(str(exported / "1")).signatures["generate"]
    rows = {"max_new_tokens": [3, 5, 3, 30], "temperature": [0.0, 0.0, 1.0, 1.0], "top_k": [0, 0, 1, 0]}
    knobs = {**vars(Knobs.of(SamplingSettings(seed=1), 1)), **{name: tf.constant(values) for name, values in rows.items()}}
    outputs = generate(prompts=tf.constant(["the "] * 4), **knobs)
    text = outputs["text"].numpy()
    assert outputs["num_tokens"].numpy()[:3].tolist() == [3, 5, 3]
    assert text[0] == text[2] == text[1][:3]
    assert outputs["finish_reason"].numpy()[0] == b"length"


def test_score_is_the_log_likelihood_of_the_full_pass(small_run, exported, served):
    model, tokenizer = small_run.load_model(), small_run.load_tokenizer()
    texts = [*prompts_of(small_run, 5), "", "x" * 300]
    scores = ExportedGenerator(exported).score(texts)
    with pytest.raises(UserError, match="only texts are scored"):
        ExportedGenerator(exported).score(texts, texts)
    in_session = served("score", {"texts": texts})
    for number, (text, score) in enumerate(zip(texts, scores, strict=True)):
        ids = [tokenizer.start_id, *tokenizer.tokenize(tf.constant([text])).to_list()[0]]
        log_probabilities = tf.nn.log_softmax(model(np.array([ids]))[0]).numpy()
        expected = sum(log_probabilities[place, token] for place, token in enumerate(ids[1:]))
        assert score["num_tokens"] == len(ids) - 1
        assert score["log_likelihood"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert score["perplexity"] == pytest.approx(np.exp(-expected / max(len(ids) - 1, 1)), rel=1e-3)
        assert in_session["log_likelihood"][number] == pytest.approx(score["log_likelihood"], rel=1e-4, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if (name, kind) == ("lstm", "sentencepiece") else pytest.mark.slow)
        for name in SMALL
        for kind in TOKENIZERS
    ],
)
def test_every_model_with_every_tokenizer(name, kind, tmp_path):
    """Loads and runs in a session, and gives what the library gives."""
    sizes = {"wordpiece": 120, "sentencepiece": 330, "word": 330}
    tokenizer = TOKENIZERS[kind].fit(TEXTS * 20, sizes.get(kind))
    model = models.get(name.partition("-")[0])(tokenizer.vocabulary_size, **{**SMALL[name], **_longer_context(name)})
    version = export_model(model, tokenizer, tmp_path / "model", clean=["whitespace"])
    generator = TextGenerator(model, tokenizer, clean=["whitespace"], jit_compile=False)
    expected = [generator.generate([text], SamplingSettings(max_new_tokens=32))[0].text for text in TEXTS]
    served = Served(version)
    outputs = served("generate", {"prompts": TEXTS, "max_new_tokens": [32]})
    assert [text.decode() for text in outputs["text"]] == expected
    assert served("score", {"texts": TEXTS})["num_tokens"].shape == (4,)
    assert served("next_token", {"prompts": TEXTS})["ids"].shape == (4, 10)
    assert served("step", {"ids": [[5, 6]]})["logits"].shape == (1, tokenizer.vocabulary_size)
    metadata = json.loads((version / layout.METADATA).read_text())
    assert metadata["needs_tensorflow_text"] == (kind in ("wordpiece", "sentencepiece", "word"))


def _longer_context(name):
    return {"context_length": 80} if name.startswith("transformer") else {}


@pytest.mark.slow
def test_runs_where_xla_is_switched_off(exported):
    """As TF Serving is by default, in a process of its own, since the switch has no way back."""
    program = f"""
        import ctypes, pathlib, sys
        import tensorflow as tf
        library = ctypes.CDLL(str(pathlib.Path(tf.__file__).parent / "libtensorflow_cc.so.2"))
        library._ZN10tensorflow21DisableXlaCompilationEv()
        try:
            tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1))
        except tf.errors.OpError:
            print("XLA is off")
        loaded = tf.saved_model.load({str(exported / "1")!r})
        print(loaded.signatures["serving_default"](prompts=tf.constant(["the "]))["text"].shape)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True)
    assert result.stdout.splitlines() == ["XLA is off", "(1,)"]
    assert hasattr(ctypes, "CDLL")


@pytest.mark.slow
def test_saved_model_cli_runs_it(exported):
    tool = pathlib.Path(sys.executable).parent / "saved_model_cli"
    arguments = [str(tool), "run", "--dir", str(exported / "1"), "--tag_set", "serve", "--signature_def", "serving_default"]
    arguments += ["--input_exprs", "prompts=['the ']"]
    result = subprocess.run(arguments, check=True, capture_output=True, text=True)
    assert "Result for output key text" in result.stdout


def test_no_defaults_of_the_signature_are_lost(served):
    """The knobs' defaults stand in the SignatureDef, so that TF Serving's clients may leave them out."""
    required = {"serving_default": {"prompts"}, "generate": {"prompts"}, "score": {"texts"}, "next_token": {"prompts"}, "step": {"ids"}}
    for name, needed in required.items():
        assert set(served.definitions[name].inputs) - set(served.definitions[name].defaults) == needed


@pytest.mark.parametrize("signature", ["serving_default", "generate", "score", "next_token"])
def test_hazards(served, signature):
    """An empty prompt, bytes that are not UTF-8, what was never seen, a batch of none."""
    name = "texts" if signature == "score" else "prompts"
    outputs = served(signature, {name: ["", b"\xff\xfe the", "☃" * 5, "x" * 10_000]})
    for values in outputs.values():
        assert values.shape[0] == 4
        assert values.dtype == object or np.isfinite(values).all()
    for text in outputs.get("text", ()):
        text.decode()
    assert all(values.shape[0] == 0 for values in served(signature, {name: []}).values())


def test_wild_knobs_are_bounded(served):
    outputs = served("generate", {"prompts": ["the "] * 3, "max_new_tokens": [-5, 0, 10**9]})
    assert outputs["num_tokens"][:2].tolist() == [1, 1]
    assert 1 <= outputs["num_tokens"][2] <= 4096


@pytest.mark.parametrize("knob", [knob for knob in Knobs.names() if knob != "max_new_tokens"])
def test_a_knob_of_any_value_gives_a_text(served, knob):
    """Out of range it is the nearest that is allowed; no number is the default. Together with the others at their ends, too."""
    whole = dtype_of(knob) == tf.int32
    wild = [-(2**31), -1, 0, 2**31 - 1] if whole else [-np.inf, -1.0, 0.0, 1e-38, 1e38, np.inf, np.nan]
    dtype = dtype_of(knob).as_numpy_dtype
    prompts = ["the "] * len(wild)
    outputs = served("generate", {"prompts": prompts, "max_new_tokens": [8], knob: np.array(wild, dtype)})
    least, most = BOUNDS[knob]
    nearest = np.clip(np.where(np.isnan(wild), getattr(SamplingSettings(), knob), wild), least, most).astype(dtype)
    clamped = served("generate", {"prompts": prompts, "max_new_tokens": [8], knob: nearest})
    for name, values in outputs.items():
        assert values.tolist() == clamped[name].tolist()
    assert (outputs["num_tokens"] >= 1).all()
    assert not (outputs["finish_reason"] == b"blocked").any()
    extreme = {other: np.array([BOUNDS[other][1]], dtype_of(other).as_numpy_dtype) for other in Knobs.names() if "penalty" in other}
    served("generate", {"prompts": prompts, "max_new_tokens": [8], **extreme, knob: np.array(wild, dtype)})["text"][0].decode()


def test_the_metadata_describes_the_signatures(exported, served):
    """Readable without loading, and the same as what the SignatureDef says."""
    described = layout.find(exported)[1]["signatures"]
    assert set(described) == set(served.definitions) - {"__saved_model_init_op"}
    for name, signature in described.items():
        definition = served.definitions[name]
        for kind, infos in (("inputs", definition.inputs), ("outputs", definition.outputs)):
            assert set(signature[kind]) == set(infos)
            for key, info in infos.items():
                assert signature[kind][key]["dtype"] == tf.as_dtype(info.dtype).name
                sizes = [None if size.size == -1 else size.size for size in info.tensor_shape.dim]
                assert sizes == [None, *signature[kind][key]["shape"][1:]]
        for key, default in definition.defaults.items():
            given = signature["inputs"][key]
            values = tf.make_ndarray(default).ravel()
            assert values.size == 0 or values[0] == values.dtype.type(given["default"])
            assert list(tf.make_ndarray(default).shape) == given.get("default_shape", [1])
    assert described["generate"]["inputs"]["top_p"]["clamped_to"] == [1e-6, 1.0]
    assert described["generate"]["inputs"]["temperature"]["default"] == pytest.approx(0.8)


@pytest.mark.slow
def test_a_bounded_context_keeps_the_end_of_a_prompt_and_room_for_the_text(tmp_path):
    tokenizer = CharacterTokenizer.fit(["abcdefgh"])
    model = models.transformer_lm(tokenizer.vocabulary_size, context_length=16, embedding_dim=16, num_layers=1)
    served = Served(export_model(model, tokenizer, tmp_path / "model"))
    greedy = {"temperature": [0.0]}
    prompts = ["abcdefgh" * 4, "h" + "abcdefgh" * 3 + "abcdefg" + "h", "ab"]
    outputs = served("generate", {"prompts": prompts, "max_new_tokens": [4], **greedy})
    library = TextGenerator(model, tokenizer, documents=False, jit_compile=False)
    short = library.generate(["efgh" + "abcdefgh"], temperature=0.0, max_new_tokens=4)[0].text
    assert outputs["text"][0].decode() == outputs["text"][1].decode() == short  # the last 16 - 4 tokens
    long = served("generate", {"prompts": ["abcdefgh" * 4, "ab"], "max_new_tokens": [100], **greedy})
    assert (long["num_tokens"] <= [8, 13]).all()  # half the context, and all of what the short prompt leaves


def test_versions_count_up_and_hold_what_they_say(small_run, exported, tmp_path):
    first = export_run(small_run, tmp_path / "model")
    second = export_run(small_run, tmp_path / "model")
    assert (first.name, second.name) == ("1", "2")
    assert layout.find(tmp_path / "model")[0] == second
    assert not [path for path in (tmp_path / "model").iterdir() if path.name.startswith(".")]
    metadata = layout.find(exported)[1]
    assert metadata["settings"]["model"] == "gru"
    assert metadata["metrics"]["val_loss"] == min(line["val_loss"] for line in small_run.read_metrics())
    weights = (second / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert weights < 1.2 * 4 * metadata["parameters"] + 10_000  # stored once


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    model = models.gru_lm(50, embedding_dim=8, hidden_dim=8)
    with pytest.raises(UserError, match="the model knows 50 tokens, the tokenizer 260: give the tokenizer that the model was trained with"):
        export_model(model, ByteTokenizer(), tmp_path / "model")
    assert not (tmp_path / "model").exists()
