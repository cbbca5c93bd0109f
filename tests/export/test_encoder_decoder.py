"""Exports of encoder-decoders: strings in, strings out, and the same as the library."""

import json
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.export.saved_model import ExportedGenerator, default_settings, export_model, export_run
from keras_lm.export.tflite import export_tflite
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from keras_lm.generation.text import TextGenerator
from keras_lm.parallel import PairIds
from keras_lm.tasks.references import references
from keras_lm.tokenizers import TOKENIZERS, ByteTokenizer
from tests.export.session import Served
from tests.test_seq2seq import SMALL, build

SOURCES = ["3 plus 14", "7 plus 7", "0 plus 19", "1", "plus", "19 plus 19"]


@pytest.fixture(scope="module")
def exported(small_pair_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_models") / "pairs"
    export_run(small_pair_run, folder)
    return folder


@pytest.fixture(scope="module")
def served(exported):
    return Served(exported / "1")


@pytest.fixture(scope="module")
def generator(small_pair_run):
    return small_pair_run.make_generator(jit_compile=False)


def decoded(values):
    return [value.decode() for value in values]


def test_the_sources_of_a_split_give_the_text_of_the_library(small_pair_run, generator, exported, served):
    """`serving_default` in one batch, through TensorFlow and through a C++ session, against the library."""
    sources = [*references(small_pair_run, "test"), *SOURCES]
    results = generator.generate(sources, max_new_tokens=128)
    in_python = tf.saved_model.load(str(exported / "1")).signatures["serving_default"](sources=tf.constant(sources))
    for outputs in ({name: tensor.numpy() for name, tensor in in_python.items()}, served("serving_default", {"sources": sources})):
        assert decoded(outputs["text"]) == [result.text for result in results]
        assert outputs["num_tokens"].tolist() == [result.num_tokens for result in results]
        assert decoded(outputs["finish_reason"]) == [result.finish_reason for result in results]
    assert len({result.text for result in results}) > 5


@pytest.mark.slow
def test_generate_takes_the_knobs(generator, exported, served):
    settings = SamplingSettings(max_new_tokens=9, temperature=1.2, top_k=12, top_p=0.95, repetition_penalty=1.2, seed=5)
    outside = ExportedGenerator(exported)
    assert outside.reads_sources
    assert outside.generate(SOURCES, settings) == generator.generate(SOURCES, settings)
    assert outside.generate(SOURCES) == generator.generate(SOURCES)  # the most probable tokens
    rows = served("generate", {"sources": ["3 plus 14"] * 3, "max_new_tokens": [1, 2, 10**9], "temperature": [0.0]})
    assert rows["num_tokens"][:2].tolist() == [1, 2]
    assert rows["text"][2].startswith(rows["text"][1])


def test_a_row_does_not_depend_on_its_batch(served):
    knobs = {"temperature": [1.0], "seed": [3]}
    together = served("generate", {"sources": SOURCES, **knobs})["text"].tolist()
    first = served("generate", {"sources": SOURCES[:1], **knobs})["text"].tolist()
    assert together[:1] == first
    scores = {"sources": SOURCES, "targets": ["三加一四"] * 6}
    whole = served("score", scores)["log_likelihood"]
    for row in range(6):
        alone = served("score", {name: values[row : row + 1] for name, values in scores.items()})
        np.testing.assert_allclose(alone["log_likelihood"][0], whole[row], rtol=1e-4)


def test_score_adds_up_to_the_numbers_of_the_evaluator(small_pair_run, served):
    right = references(small_pair_run, "test")
    pairs = [(source, target) for source, targets in right.items() for target in targets]
    outputs = served("score", {"sources": [source for source, _ in pairs], "targets": [target for _, target in pairs]})
    result = small_pair_run.load_evaluator()(small_pair_run.load_tokens()["test"])
    assert outputs["num_tokens"].sum() == result.tokens
    assert -outputs["log_likelihood"].sum() / result.tokens == pytest.approx(result.loss, rel=1e-4)
    np.testing.assert_allclose(outputs["perplexity"], np.exp(-outputs["log_likelihood"] / outputs["num_tokens"]), rtol=1e-4)


def test_score_from_python(exported, served):
    outside, targets = ExportedGenerator(exported), ["三加一四"] * len(SOURCES)
    expected = served("score", {"sources": SOURCES, "targets": targets})
    scores = outside.score(SOURCES, targets)
    assert [score["num_tokens"] for score in scores] == expected["num_tokens"].tolist()
    np.testing.assert_allclose([score["log_likelihood"] for score in scores], expected["log_likelihood"], rtol=1e-4)
    with pytest.raises(UserError, match=r"score\(sources, targets\)"):
        outside.score(SOURCES)
    with pytest.raises(UserError, match="6 sources, but 1 targets"):
        outside.score(SOURCES, ["三"])


def test_a_source_that_is_too_long_is_read_from_its_beginning(small_pair_run, generator, served):
    long = "13 plus 4" + " plus 4" * 500
    with pytest.warns(UserWarning, match="the model reads the first 16"):
        (expected,) = generator.generate([long])
    outputs = served("serving_default", {"sources": [long, "7 plus 7"]})
    assert outputs["text"][0].decode() == expected.text
    assert outputs["text"][0] == served("serving_default", {"sources": [long[:16] + "9" * 300]})["text"][0]


@pytest.mark.parametrize("signature", ["serving_default", "generate", "score"])
def test_hazards(served, signature):
    """An empty source, bytes that are not UTF-8, what was never seen, a batch of none."""
    sources = ["", b"\xff\xfe 3", "☃" * 5, "3" * 10_000, "7 plus 7"]
    targets = {"targets": ["", b"\xff", "☃", "三" * 10_000, "七加七"]} if signature == "score" else {}
    outputs = served(signature, {"sources": sources, **targets})
    for values in outputs.values():
        assert values.shape[0] == 5
        assert values.dtype == object or np.isfinite(values).all()
    decoded(outputs.get("text", ()))
    nothing = {name: np.array([], object) for name in ("sources", *targets)}
    assert all(values.shape[0] == 0 for values in served(signature, nothing).values())


def test_what_must_be_given_and_what_stands_in_the_metadata(exported, served):
    required = {"serving_default": {"sources"}, "generate": {"sources"}, "score": {"sources", "targets"}}
    described = layout.find(exported)[1]
    assert set(described["signatures"]) == set(required) == set(served.definitions) - {"__saved_model_init_op"}
    for name, needed in required.items():
        assert set(served.definitions[name].inputs) - set(served.definitions[name].defaults) == needed
        assert set(described["signatures"][name]["inputs"]) == set(served.definitions[name].inputs)
    assert described["reads_sources"]
    assert described["defaults"]["temperature"] == 0.0
    assert described["settings"]["task"] == "translation"


@pytest.mark.slow
def test_it_runs_without_this_library(generator, exported):
    """In a process that has TensorFlow alone, with XLA switched off, as TF Serving has it."""
    program = f"""
        import ctypes, json, pathlib, sys
        sys.modules["keras_lm"] = None
        import tensorflow as tf
        library = ctypes.CDLL(str(pathlib.Path(tf.__file__).parent / "libtensorflow_cc.so.2"))
        library._ZN10tensorflow21DisableXlaCompilationEv()
        loaded = tf.saved_model.load({str(exported / "1")!r})
        text = loaded.signatures["serving_default"](sources=tf.constant({SOURCES!r}))["text"]
        print(json.dumps([one.decode() for one in text.numpy()]))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True, text=True)
    assert json.loads(result.stdout) == [one.text for one in generator.generate(SOURCES)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in SMALL for kind in TOKENIZERS if kind != "word" or name in ("transformer", "gru-luong")],
)
def test_every_form_with_every_tokenizer(name, kind, tmp_path):
    """Loads and runs in a session, and gives what the library gives; of a bounded context all is used."""
    texts = ["the statement is a class", "中国人民", "for x in range(10):\n    pass", "a", "😀 the"]
    tokenizer = TOKENIZERS[kind].fit(texts * 20, {"wordpiece": 120, "sentencepiece": 330, "word": 330}.get(kind))
    model = build(name, tokenizer.vocabulary_size)
    for variable in model.trainable_variables:
        variable.assign(variable * 3)
    version = export_model(model, tokenizer, tmp_path / "model", clean=["whitespace"], longest_source=12)
    generator = TextGenerator(model, tokenizer, clean=["whitespace"], jit_compile=False, longest_source=12)
    defaults = default_settings(Decoder(model))
    assert defaults.temperature == 0.0
    assert defaults.max_new_tokens == (15 if name.startswith("transformer") else 128)
    served = Served(version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = generator.generate(texts, max_new_tokens=20)
    outputs = served("generate", {"sources": texts, "max_new_tokens": [20]})
    assert decoded(outputs["text"]) == [result.text for result in expected]
    assert decoded(outputs["finish_reason"]) == [result.finish_reason for result in expected]
    assert served("score", {"sources": texts, "targets": texts})["num_tokens"].shape == (5,)


@pytest.mark.slow
def test_a_target_longer_than_the_context_is_scored_up_to_it(tmp_path):
    """As the evaluator cuts it, without an end."""
    model = build("transformer", 260)  # context 16
    served = Served(export_model(model, ByteTokenizer(), tmp_path / "model"))
    target = "a target that is far too long for it"
    outputs = served("score", {"sources": ["abc"], "targets": [target]})
    ids = [2, *(byte + 4 for byte in target.encode())]
    source, given = np.array([[byte + 4 for byte in b"abc"] + [3]]), np.array([ids[:16]])
    expected = tf.nn.log_softmax(model([source, given])[0]).numpy()[np.arange(16), ids[1:17]].sum()
    assert outputs["num_tokens"].tolist() == [16]
    assert outputs["log_likelihood"][0] == pytest.approx(expected, rel=1e-4)
    assert PairIds(np.array([2, 4, 3, *ids, 3]), longest=16)[0][1].tolist() == ids[:17]


def test_xla_and_litert_are_refused_in_one_line(small_pair_run, tmp_path):
    with pytest.raises(UserError, match=r"^an encoder-decoder is exported without XLA: leave --xla out$"):
        export_run(small_pair_run, tmp_path / "xla", xla=True)
    with pytest.raises(UserError, match=r"^[^\n]*encoder-decoder[^\n]*$"):
        export_tflite(small_pair_run, tmp_path / "lite")
    assert not list(tmp_path.iterdir())


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    with pytest.raises(UserError, match="the model knows 50 tokens, the tokenizer 260"):
        export_model(build("gru-luong", 50), ByteTokenizer(), tmp_path / "model")
