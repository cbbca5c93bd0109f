import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_lm import models
from keras_lm.cli import generate
from keras_lm.errors import UserError
from keras_lm.export.tflite import export_lite_model, export_tflite
from keras_lm.export.tflite_generator import TFLiteGenerator
from keras_lm.generation.litert_runtime import Step
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import TextGenerator
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer

PROMPT = "The value of the expression "
KNOBS = {
    "temperature": 0.9,
    "top_k": 30,
    "top_p": 0.95,
    "min_p": 0.01,
    "typical_p": 0.97,
    "epsilon_cutoff": 1e-4,
    "eta_cutoff": 1e-4,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.05,
    "no_repeat_ngram_size": 4,
    "min_new_tokens": 5,
    "seed": 7,
}


def context_model(context=160, vocabulary_size=260):
    """A Transformer whose choices do not hang on the last bit, with room for several lengths of the caches."""
    model = models.transformer_lm(vocabulary_size, context_length=context, embedding_dim=32, num_layers=2, num_heads=4, num_kv_heads=2)
    for variable in model.trainable_variables:
        variable.assign(variable * 3)
    return model


@pytest.fixture(scope="module")
def bundle(small_run, tmp_path_factory):
    """The files of a recurrent run, and its generator in TensorFlow."""
    folder = tmp_path_factory.mktemp("bundle")
    for quantize in (None, "int8"):
        export_tflite(small_run, folder, quantize)
    generator = TextGenerator(small_run.load_model(), small_run.load_tokenizer(), documents=small_run.settings.documents, jit_compile=False)
    return folder, generator


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    model, folder = context_model(), tmp_path_factory.mktemp("transformer")
    path = export_lite_model(model, ByteTokenizer(), folder)
    return path, TextGenerator(model, ByteTokenizer(), jit_compile=False)


def test_float32_gives_the_text_of_the_library(bundle):
    folder, generator = bundle
    lite = TFLiteGenerator(folder / "model.tflite")
    for settings in (
        SamplingSettings(temperature=0.0, max_new_tokens=40),
        SamplingSettings(**KNOBS, max_new_tokens=40),
        SamplingSettings(num_samples=2, seed=3, max_new_tokens=30, stop=("e", "ing "), logit_bias=("x=3",), forbid=("t",)),
    ):
        expected = generator.generate([PROMPT], settings)
        assert lite.generate(PROMPT, settings) == [(text.text, text.finish_reason) for text in expected]
        assert "".join(lite.stream(PROMPT, settings)) == expected[0].text


@pytest.mark.parametrize("prompt", ["a", "a prompt of one chunk and some tokens", "x" * 33, "it is longer than the first caches are: " * 3])
def test_a_prompt_read_in_chunks_gives_the_text_of_the_library(transformer, prompt):
    path, generator = transformer
    lite = TFLiteGenerator(path)
    for settings in (SamplingSettings(temperature=0.0, max_new_tokens=200), SamplingSettings(**KNOBS, max_new_tokens=90)):
        (expected,) = generator.generate([prompt], settings)
        assert lite.generate(prompt, settings) == [(expected.text, expected.finish_reason)]
        assert lite.generate(prompt, settings) == [(expected.text, expected.finish_reason)]  # nothing is left of the text before


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"top_p": 0.9, "seed": 3}], ids=str)
def test_choices_go_on_while_the_caches_grow(transformer, settings, monkeypatch):
    path, generator = transformer
    allocate = Step._allocate

    def poisoned(self, room):
        allocate(self, room)
        self._views["uniform"][:] = np.nan  # what lies there is by chance often 0

    monkeypatch.setattr(Step, "_allocate", poisoned)
    settings = SamplingSettings(**settings, max_new_tokens=140)
    (expected,) = generator.generate([PROMPT], settings)
    assert TFLiteGenerator(path).generate(PROMPT, settings) == [(expected.text, expected.finish_reason)]


def test_any_client_can_run_the_file(transformer):
    """With nothing but the signatures and `vocabulary.json`, caches as long as the file declares them."""
    path, generator = transformer
    described = json.loads((path.parent / "vocabulary.json").read_text())
    interpreter = Interpreter(model_path=str(path))
    prefill, decode = (interpreter.get_signature_runner(name) for name in ("prefill", "decode"))
    ids = np.random.default_rng(0).integers(4, 260, 50).astype(np.int32)
    given = {name: np.zeros(details["shape"], details["dtype"]) for name, details in decode.get_input_details().items()}
    given["mask"][:] = -1e9
    chunk, position = described["chunk"], 0

    def write(rows):
        column = 0
        for memory in described["memory"]:
            heads, width = memory["sizes"]
            for offset in range(rows.shape[1]):
                row = rows[0, offset, column : column + heads * width]
                given[memory["name"]][0, :, position + offset] = row.reshape(heads, width)
            column += heads * width
        given["mask"][..., position : position + rows.shape[1]] = 0

    read = {name: given[name] for name in prefill.get_input_details()}
    write(prefill(**{**read, "ids": ids[None, :chunk], "position": np.array([0], np.int32)})["rows"])
    position = chunk
    for token in ids[chunk:]:
        result = decode(**{**given, "ids": np.array([[token]], np.int32), "position": np.array([position], np.int32)})
        write(result["rows"])
        position += 1
    expected = generator.model(ids[None]).numpy()[0, -1]
    np.testing.assert_allclose(result["logits"][0], expected, atol=2e-4)
    assert result["token"].tolist() == [260]  # nobody asked for one
    given |= {"temperature": np.ones([1, 1], np.float32), "top_k": np.array([[1]], np.int32), "top_p": np.array([[2]], np.float32)}
    result = decode(**{**given, "ids": ids[None, -1:], "position": np.array([position - 1], np.int32)})
    assert result["token"].tolist() == [result["logits"].argmax()]


def test_the_file_holds_builtin_operations_alone(transformer):
    details = Interpreter(model_path=str(transformer[0]))._get_ops_details()
    names = {operation["op_name"] for operation in details}
    assert "FULLY_CONNECTED" in names
    assert not any(name.startswith("Flex") or "CUSTOM" in name for name in names)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformer", pytest.param("lstm", marks=pytest.mark.slow)])
def test_sizes_and_what_they_cost(kind, tmp_path):
    """A model of the quickstart's size, embedding and output in one, and one that keeps them apart."""
    keras_model = (
        models.transformer_lm(4619, context_length=64, embedding_dim=256, num_layers=2)
        if kind == "transformer"
        else models.lstm_lm(4619, embedding_dim=256, hidden_dim=256, num_layers=1)
    )
    tokenizer = CharacterTokenizer([chr(0x4E00 + number) for number in range(4615)])
    paths = {name: export_lite_model(keras_model, tokenizer, tmp_path, quantize=name) for name in (None, "float16", "int8")}
    size = {name: path.stat().st_size for name, path in paths.items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model-float16.tflite",
        "model-int8.tflite",
        "model.tflite",
        "vocabulary.json",
    ]
    assert size[None] < 4.1 * keras_model.count_params()
    assert size[None] > 1.9 * size["float16"]
    assert size[None] > 3.5 * size["int8"]
    ids = np.random.default_rng(0).integers(4, 4619, [1, 20]).astype(np.int32)
    logits = keras_model(ids).numpy()[0]
    for name, tolerance in ((None, 1e-5), ("float16", 0.002), ("int8", 0.03)):
        step = TFLiteGenerator(paths[name]).step
        step.begin()
        found = np.concatenate([step.run(token) for token in ids.T])
        assert np.abs(found - logits).max() < tolerance * np.abs(logits).max(), name


def test_the_command_imports_no_tensorflow(bundle):
    program = (
        "import sys\n"
        "from keras_lm.cli.generate import generate\n"
        "status = generate(sys.argv[1:])\n"
        "print([name for name in ('tensorflow', 'keras', 'tensorflow_text') if name in sys.modules], status)"
    )
    folder, generator = bundle
    arguments = [str(folder / "model.tflite"), "--prompt", PROMPT, "--max-new-tokens", "20", "--seed", "5", "--top-k", "9"]
    expected = generator.generate([PROMPT], max_new_tokens=20, seed=5, top_k=9)[0].text
    for extra in ([], ["--stream"]):
        result = subprocess.run([sys.executable, "-c", program, *arguments, *extra], check=True, capture_output=True, text=True)
        assert result.stdout == f"{PROMPT}{expected}\n[] 0\n"
        assert result.stderr == ""


def refusal(*arguments):
    with pytest.raises(UserError) as caught:
        generate.generate([str(argument) for argument in arguments])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_refused(bundle, transformer, tmp_path, monkeypatch):
    folder, _ = bundle
    model = folder / "model.tflite"
    assert "no such file" in refusal(tmp_path / "none.tflite", "--prompt", "a")
    assert "characters never seen in training: 中" in refusal(model, "--prompt", "a中")
    assert "does not know --allow" in refusal(model, "--prompt", "a", "--allow", "a+")
    assert "does not know --top-logprobs" in refusal(model, "--prompt", "a", "--top-logprobs", "2")
    assert "--when-full slide" in refusal(model, "--prompt", "a", "--when-full", "slide")
    assert "--num-beams" in refusal(model, "--prompt", "a", "--num-beams", "3")
    assert "'ab' is 2 tokens of" in refusal(model, "--prompt", "a", "--forbid", "ab")
    assert "the context of 160 has room for 159" in refusal(transformer[0], "--prompt", "a" * 160)

    alone = tmp_path / "alone.tflite"
    shutil.copy(model, alone)
    assert "holds no vocabulary.json" in refusal(alone, "--prompt", "a")
    vocabulary = tmp_path / "vocabulary.json"
    vocabulary.write_text("{")
    assert "is damaged" in refusal(alone, "--prompt", "a")
    vocabulary.write_text("[]")
    assert "not of this release" in refusal(alone, "--prompt", "a")
    shutil.copy(transformer[0].parent / "vocabulary.json", vocabulary)
    assert "do not belong together" in refusal(alone, "--prompt", "a")
    alone.write_bytes(b"PK\x03\x04 something else")
    assert "is not a LiteRT file" in refusal(alone, "--prompt", "a")
    alone.write_bytes(model.read_bytes()[:1000])
    assert "cannot be read" in refusal(alone, "--prompt", "a")

    function = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec([1])])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], tf.Module())
    alone.write_bytes(converter.convert())
    assert "not of keras_lm" in refusal(alone, "--prompt", "a")

    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert "pip install 'keras_lm[tflite]'" in refusal(model, "--prompt", "a")


def test_a_bundle_is_replaced_whole_or_not_at_all(small_run, tmp_path, monkeypatch):
    path = export_tflite(small_run, tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr("keras_lm.export.tflite.convert", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export_tflite(small_run, tmp_path)
    assert path.read_bytes() == before
    with pytest.raises(UserError, match="did you mean 'int8'"):
        export_tflite(small_run, tmp_path, "int9")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.tflite", "vocabulary.json"]
