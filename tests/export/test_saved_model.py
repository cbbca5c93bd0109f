import ctypes
import json
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.export.saved_model import ExportedGenerator, export_model, export_run
from keras_lm.generation.decode import Knobs
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import TextGenerator
from keras_lm.tokenizers import TOKENIZERS, ByteTokenizer, CharacterTokenizer
from tests.test_models import SMALL

TEXTS = ["the statement is a class", "中国人民", "for x in range(10):\n    pass", "a"]


@pytest.fixture(scope="module")
def exported(small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_models") / "small"
    export_run(small_run, folder)
    return folder


def prompts_of(run, count):
    """Beginnings of real sentences of different lengths, from the test split."""
    ids = run.load_tokens()["test"].ids
    tokenizer = run.load_tokenizer()
    places = np.random.default_rng(0).integers(0, len(ids) - 40, count)
    rows = [ids[place : place + 3 + number % 30].tolist() for number, place in enumerate(places)]
    return [text.decode() for text in tokenizer.detokenize(tf.ragged.constant(rows, dtype=tf.int32)).numpy()]


def session_run(folder, signature, feeds):
    """The C++ session path, which TF Serving takes."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(folder))
        definition = graph.signature_def[signature]
        inputs = {definition.inputs[name].name: value for name, value in feeds.items()}
        return session.run({name: tensor.name for name, tensor in definition.outputs.items()}, inputs)


def test_a_hundred_prompts_give_the_text_of_the_library(small_run, exported):
    """`serving_default` in one batch of 100, through TensorFlow and through a C++ session, against the library, prompt by prompt."""
    prompts = prompts_of(small_run, 100)
    generator = TextGenerator(small_run.load_model(), small_run.load_tokenizer())
    expected = [generator.generate([prompt], SamplingSettings(seed=0))[0].text for prompt in prompts]
    loaded = tf.saved_model.load(str(exported / "1"))
    served = [text.decode() for text in loaded.signatures["serving_default"](prompts=tf.constant(prompts))["text"].numpy()]
    assert served == expected
    in_session = [text.decode() for text in session_run(exported / "1", "serving_default", {"prompts": prompts})["text"]]
    assert in_session == expected
    assert len(set(expected)) > 90


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


def test_score_is_the_log_likelihood_of_the_full_pass(small_run, exported):
    model, tokenizer = small_run.load_model(), small_run.load_tokenizer()
    texts = [*prompts_of(small_run, 5), "", "x" * 300]
    scores = ExportedGenerator(exported).score(texts)
    in_session = session_run(exported / "1", "score", {"texts": texts})
    for number, (text, score) in enumerate(zip(texts, scores, strict=True)):
        ids = [tokenizer.start_id, *tokenizer.tokenize(tf.constant([text])).to_list()[0]]
        log_probabilities = tf.nn.log_softmax(model(np.array([ids]))[0]).numpy()
        expected = sum(log_probabilities[place, token] for place, token in enumerate(ids[1:]))
        assert score["num_tokens"] == len(ids) - 1
        assert score["log_likelihood"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert score["perplexity"] == pytest.approx(np.exp(-expected / max(len(ids) - 1, 1)), rel=1e-3)
        assert in_session["log_likelihood"][number] == pytest.approx(score["log_likelihood"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if (name, kind) in (("transformer", "char"), ("lstm", "sentencepiece")) else pytest.mark.slow)
        for name in SMALL
        for kind in TOKENIZERS
    ],
)
def test_every_model_with_every_tokenizer(name, kind, tmp_path):
    """Loads and runs in a session, and gives what the library gives."""
    sizes = {"wordpiece": 120, "sentencepiece": 330}
    tokenizer = TOKENIZERS[kind].fit(TEXTS * 20, sizes.get(kind))
    model = models.get(name.partition("-")[0])(tokenizer.vocabulary_size, **{**SMALL[name], **_longer_context(name)})
    version = export_model(model, tokenizer, tmp_path / "model", clean=["whitespace"])
    generator = TextGenerator(model, tokenizer, clean=["whitespace"], jit_compile=False)
    expected = [generator.generate([text], SamplingSettings(max_new_tokens=32))[0].text for text in TEXTS]
    knobs = {"max_new_tokens": [32], "temperature": [0.8], "top_k": [0], "top_p": [1.0], "repetition_penalty": [1.0], "seed": [0]}
    outputs = session_run(version, "generate", {"prompts": TEXTS, **knobs})
    assert [text.decode() for text in outputs["text"]] == expected
    assert session_run(version, "score", {"texts": TEXTS})["num_tokens"].shape == (4,)
    metadata = json.loads((version / layout.METADATA).read_text())
    assert metadata["needs_tensorflow_text"] == (kind in ("wordpiece", "sentencepiece"))


def _longer_context(name):
    return {"context_length": 80} if name.startswith("transformer") else {}


def test_runs_with_tensorflow_alone(exported, tmp_path):
    """In a process that cannot import keras_lm."""
    program = """
        import sys
        sys.modules["keras_lm"] = None
        import tensorflow as tf
        loaded = tf.saved_model.load(sys.argv[1])
        print(loaded.signatures["serving_default"](prompts=tf.constant(["the "]))["text"].numpy()[0].decode())
    """
    arguments = [sys.executable, "-c", textwrap.dedent(program), str(exported / "1")]
    result = subprocess.run(arguments, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert result.stdout.strip()


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


def test_saved_model_cli_runs_it(exported):
    tool = pathlib.Path(sys.executable).parent / "saved_model_cli"
    arguments = [str(tool), "run", "--dir", str(exported / "1"), "--tag_set", "serve", "--signature_def", "serving_default"]
    arguments += ["--input_exprs", "prompts=['the ']"]
    result = subprocess.run(arguments, check=True, capture_output=True, text=True)
    assert "Result for output key text" in result.stdout


def test_no_defaults_of_the_signature_are_lost(exported):
    """The knobs' defaults stand in the SignatureDef, so that TF Serving's clients may leave them out."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        definition = tf.compat.v1.saved_model.load(session, ["serve"], str(exported / "1")).signature_def["generate"]
    assert set(definition.inputs) - set(definition.defaults) == {"prompts"}


@pytest.mark.parametrize("signature", ["serving_default", "score"])
def test_hazards(exported, signature):
    """An empty prompt, bytes that are not UTF-8, what was never seen, a batch of none."""
    name = {"serving_default": "prompts", "score": "texts"}[signature]
    outputs = session_run(exported / "1", signature, {name: ["", b"\xff\xfe the", "☃" * 5, "x" * 10_000]})
    for values in outputs.values():
        assert values.shape == (4,)
    for text in outputs.get("text", ()):
        text.decode()
    assert all(values.shape == (0,) for values in session_run(exported / "1", signature, {name: []}).values())


def test_bytes_come_out_as_valid_utf8(tmp_path):
    version = export_model(models.gru_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer(), tmp_path / "bytes")
    for text in session_run(version, "serving_default", {"prompts": ["中", "\xff", ""]})["text"]:
        text.decode()


def test_wild_knobs_are_bounded(exported):
    wild = {
        "max_new_tokens": [-5, 0, 10**9],
        "temperature": [-1.0],
        "top_k": [-3],
        "top_p": [7.0],
        "repetition_penalty": [0.0],
        "seed": [-1],
    }
    outputs = session_run(exported / "1", "generate", {"prompts": ["the "] * 3, **wild})
    assert outputs["num_tokens"][:2].tolist() == [1, 1]
    assert 1 <= outputs["num_tokens"][2] <= 4096


def test_a_bounded_context_keeps_the_end_of_a_prompt_and_room_for_the_text(tmp_path):
    tokenizer = CharacterTokenizer.fit(["abcdefgh"])
    model = models.transformer_lm(tokenizer.vocabulary_size, context_length=16, embedding_dim=16, num_layers=1)
    version = export_model(model, tokenizer, tmp_path / "model")
    greedy = {"temperature": [0.0], "top_k": [0], "top_p": [1.0], "repetition_penalty": [1.0], "seed": [0]}
    prompts = ["abcdefgh" * 4, "h" + "abcdefgh" * 3 + "abcdefg" + "h", "ab"]
    outputs = session_run(version, "generate", {"prompts": prompts, "max_new_tokens": [4], **greedy})
    library = TextGenerator(model, tokenizer, documents=False, jit_compile=False)
    short = library.generate(["efgh" + "abcdefgh"], temperature=0.0, max_new_tokens=4)[0].text
    assert outputs["text"][0].decode() == outputs["text"][1].decode() == short  # the last 16 - 4 tokens
    long = session_run(version, "generate", {"prompts": ["abcdefgh" * 4, "ab"], "max_new_tokens": [100], **greedy})
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


def test_folders_that_are_no_exports(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        layout.find(tmp_path / "nothing")
    with pytest.raises(UserError, match="holds no exported model"):
        layout.find(tmp_path)
    tf.saved_model.save(tf.Module(), str(tmp_path / "other" / "1"))
    with pytest.raises(UserError, match="is a SavedModel, but not one of keras_lm"):
        layout.find(tmp_path / "other")
