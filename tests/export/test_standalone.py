"""Exports without this library: in a fresh virtual environment that holds TensorFlow, tensorflow-text, what they need, and no more."""

import importlib.metadata
import json
import os
import subprocess
import sys
import textwrap
import venv

import numpy as np
import pytest

from keras_lm import models
from keras_lm.export.saved_model import default_settings, export_model, export_run
from keras_lm.generation.state import Decoder
from keras_lm.generation.text import TextGenerator
from keras_lm.tasks.labeller import Labeller
from keras_lm.tokenizers import TOKENIZERS
from tests.test_models import SMALL

pytestmark = pytest.mark.slow

PROMPTS = ["the statement is a class", "中国人民", "for x in range(10):\n    pass", "a", "", "😀 the"]
CORPUS = [*PROMPTS, "the lazy dog", "人民的中国"] * 20

KINDS = {
    "char-transformer": ("char", "transformer", False),
    "byte-gru": ("byte", "gru", False),
    "wordpiece-lstm": ("wordpiece", "lstm", False),
    "sentencepiece-simple_rnn": ("sentencepiece", "simple_rnn", False),
    "char-transformer-xla": ("char", "transformer", True),
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The interpreter of the environment. It takes a minute or two."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in ("tensorflow", "tensorflow-text")]
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *wanted], check=True, capture_output=True)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """By kind: the version's folder, whether it needs tensorflow_text, and what the library says."""
    made = {}
    for name, (tokenizer, model, xla) in KINDS.items():
        tokenizer = TOKENIZERS[tokenizer].fit(CORPUS, {"wordpiece": 120, "sentencepiece": 330}.get(tokenizer))
        sizes = {**SMALL[model], **({"context_length": 96} if model == "transformer" else {})}
        model = models.get(model)(tokenizer.vocabulary_size, **sizes)
        version = export_model(model, tokenizer, tmp_path_factory.mktemp("saved_models") / name, xla=xla)
        generator = TextGenerator(model, tokenizer, jit_compile=xla)
        settings = default_settings(Decoder(model))
        texts = [generator.generate([prompt], settings)[0].text for prompt in PROMPTS]
        made[name] = {"version": str(version), "needs_text": tokenizer.needs_tensorflow_text, "texts": texts, "xla": xla}
    return made


_PROGRAM = """
    import concurrent.futures, ctypes, importlib.util, json, pathlib, sys

    assert importlib.util.find_spec("keras_lm") is None
    exports, prompts, xla_off = json.loads(sys.stdin.read())
    import tensorflow as tf
    if any(export["needs_text"] for export in exports.values()):
        import tensorflow_text
    if xla_off:  # as TF Serving does it
        library = ctypes.CDLL(str(pathlib.Path(tf.__file__).parent / "libtensorflow_cc.so.2"))
        library._ZN10tensorflow21DisableXlaCompilationEv()

    decoded = lambda texts: [text.decode() for text in texts]
    results = {}
    for name, export in exports.items():
        loaded = tf.saved_model.load(export["version"])
        in_python = lambda: decoded(loaded.signatures["serving_default"](prompts=tf.constant(prompts))["text"].numpy())
        session = tf.compat.v1.Session(graph=tf.Graph())
        with session.graph.as_default():
            signatures = tf.compat.v1.saved_model.load(session, ["serve"], export["version"]).signature_def

        def in_session(signature="serving_default", key="prompts", output="text"):
            definition = signatures[signature]
            feeds = {definition.inputs[name].name: tf.make_ndarray(value) for name, value in definition.defaults.items()}
            return session.run(definition.outputs[output].name, {**feeds, definition.inputs[key].name: prompts})

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            at_once = [threads.submit(in_python if number % 2 else lambda: decoded(in_session())) for number in range(8)]
        results[name] = {"python": in_python(), "session": decoded(in_session()), "threads": [one.result() for one in at_once]}
        results[name]["next"] = in_session("next_token", "prompts", "ids").shape
        results[name]["scores"] = in_session("score", "texts", "perplexity").tolist()
    print(json.dumps(results))
"""


def run(bare, tmp_path, exports, xla_off):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    given = json.dumps([exports, PROMPTS, xla_off])
    arguments = [bare, "-c", textwrap.dedent(_PROGRAM)]
    result = subprocess.run(arguments, input=given, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("xla", [False, True])
def test_the_same_text_as_the_library(bare, exports, tmp_path, xla):
    """Through `tf.saved_model.load`, a C++ session, and both from eight threads at once; with XLA switched off what is made without it."""
    chosen = {name: export for name, export in exports.items() if export["xla"] == xla}
    results = run(bare, tmp_path, chosen, xla_off=not xla)
    assert set(results) == set(chosen)
    for name, export in chosen.items():
        expected = export["texts"]
        assert results[name]["python"] == expected, name
        assert results[name]["session"] == expected, name
        assert results[name]["threads"] == [expected] * 8, name
        assert results[name]["next"] == [len(PROMPTS), 10]
        assert np.isfinite(results[name]["scores"]).all()


@pytest.mark.parametrize("name", KINDS)
def test_saved_model_cli_gives_the_same_text(bare, exports, tmp_path, name):
    """The tool knows no flag for libraries of operations: for sub-words it is started from Python, behind the import."""
    export = exports[name]
    program = "from tensorflow.python.tools import saved_model_cli; saved_model_cli.main()"
    arguments = ["run", "--dir", export["version"], "--tag_set", "serve", "--signature_def", "serving_default"]
    arguments += ["--input_exprs", f"prompts={[prompt.encode() for prompt in PROMPTS]!r}", "--outdir", str(tmp_path)]
    if export["needs_text"]:
        plain = subprocess.run([bare.parent / "saved_model_cli", *arguments], capture_output=True, text=True)
        assert plain.returncode
        assert "Op type not registered" in plain.stderr
        command = [bare, "-c", f"import tensorflow_text; {program}", *arguments]
    else:
        command = [bare.parent / "saved_model_cli", *arguments]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    assert [text.decode() for text in np.load(tmp_path / "text.npy", allow_pickle=True)] == export["texts"]


_LABELS = """
    import ctypes, importlib.util, json, pathlib, sys

    assert importlib.util.find_spec("keras_lm") is None
    versions, texts = json.loads(sys.stdin.read())
    import tensorflow as tf
    library = ctypes.CDLL(str(pathlib.Path(tf.__file__).parent / "libtensorflow_cc.so.2"))
    library._ZN10tensorflow21DisableXlaCompilationEv()  # as TF Serving does it

    results = {}
    for output, version in versions.items():
        loaded = tf.saved_model.load(version)
        in_python = loaded.signatures["serving_default"](texts=tf.constant(texts))[output].numpy()
        session = tf.compat.v1.Session(graph=tf.Graph())
        with session.graph.as_default():
            definition = tf.compat.v1.saved_model.load(session, ["serve"], version).signature_def["serving_default"]
        in_session = session.run(definition.outputs[output].name, {definition.inputs["texts"].name: texts})
        results[output] = [[text.decode() for text in found] for found in (in_python, in_session)]
    print(json.dumps(results))
"""


def test_classifiers_and_taggers_say_what_the_library_says(bare, small_label_run, small_tag_run, tmp_path):
    texts = ["房间很好。", "早餐糟糕，真的。", "我喜欢书。", ""]
    versions = {"label": export_run(small_label_run, tmp_path / "texts"), "marked": export_run(small_tag_run, tmp_path / "words")}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    given = json.dumps([{name: str(version) for name, version in versions.items()}, texts])
    arguments = [bare, "-c", textwrap.dedent(_LABELS)]
    result = subprocess.run(arguments, input=given, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    results = json.loads(result.stdout.splitlines()[-1])
    assert results["label"] == [[prediction.label for prediction in Labeller.of(small_label_run).classify(texts)]] * 2
    marked = [" ".join(f"{word}/{tag}" for word, tag in words) for words in Labeller.of(small_tag_run).tag(texts)]
    assert results["marked"] == [marked] * 2


def test_nothing_of_ours_is_in_that_environment(bare):
    names = subprocess.run([bare, "-m", "pip", "list", "--format", "freeze"], check=True, capture_output=True, text=True).stdout.lower()
    assert "tensorflow==" in names and "tensorflow-text==" in names
    assert "keras_lm" not in names and "keras-lm" not in names
    assert sys.executable != str(bare)
