"""Keras' own ways stay open: a `.keras` file in plain Keras, `model.export`, `model.quantize`."""

import json
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings
from tests.test_models import SMALL

IDS = np.random.default_rng(0).integers(4, 40, [2, 9]).astype(np.int32)


def _slow(name):
    return () if name == "gru" else (pytest.mark.slow,)


_EACH = [pytest.param(name, marks=_slow(name)) for name in SMALL]


def model_of(name):
    keras.utils.set_random_seed(1)
    return models.get(name.partition("-")[0])(40, **SMALL[name])


def saved(model, folder):
    path = folder / "model.keras"
    model.save(path)
    return path


_LOAD = """
    import json, sys
    if sys.argv[3] == "alone":
        sys.modules["keras_lm"] = None
    else:
        import keras_lm.layers
    import keras
    model = keras.saving.load_model(sys.argv[1], compile=False)
    print(json.dumps(model(keras.ops.array(json.loads(sys.argv[2]))).numpy().tolist()))
"""


@pytest.mark.parametrize(
    ("name", "way"),
    [*(pytest.param(name, "alone", marks=pytest.mark.slow) for name in ("gru", "lstm")), ("transformer", "with keras_lm.layers")],
)
def test_a_keras_file_loads_in_plain_keras(name, way, tmp_path):
    """A recurrent model is made of Keras' layers and needs nothing else; a Transformer needs the import that registers ours."""
    model = model_of(name)
    arguments = [sys.executable, "-c", textwrap.dedent(_LOAD), str(saved(model, tmp_path)), json.dumps(IDS.tolist()), way]
    result = subprocess.run(arguments, check=True, capture_output=True, text=True)
    np.testing.assert_allclose(json.loads(result.stdout.splitlines()[-1]), model(IDS), atol=1e-5)


@pytest.mark.slow
def test_a_transformer_without_the_import_says_what_is_missing(tmp_path):
    path = saved(model_of("transformer"), tmp_path)
    arguments = [sys.executable, "-c", textwrap.dedent(_LOAD), str(path), "[[5]]", "alone"]
    result = subprocess.run(arguments, capture_output=True, text=True)
    assert result.returncode
    assert "TransformerBlock" in result.stderr


@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_keras_exports_serve_the_logits(name, tmp_path):
    """`model.export`. (Its `format="litert"` writes files with TensorFlow's own operations, which no interpreter of LiteRT runs.)"""
    model = model_of(name)
    model.export(tmp_path / "model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_allclose(loaded.serve(tf.constant(IDS)), model(IDS), atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method")
@pytest.mark.parametrize("name", _EACH)
def test_keras_quantizes(name):
    """Dense layers and embeddings in 8 bits: near the same logits, and a text comes out."""
    model = model_of(name)
    logits = model(IDS).numpy()
    model.quantize("int8")
    assert np.corrcoef(model(IDS).numpy().ravel(), logits.ravel())[0, 1] > 0.99
    (text,) = Sampler(model, end_id=3, jit_compile=False).generate([[5, 6]], SamplingSettings(max_new_tokens=4, temperature=0.0))
    assert len(text.ids) >= 1


@pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method")
@pytest.mark.parametrize("name", _EACH)
def test_a_quantized_model_is_the_same_after_loading(name, tmp_path):
    model = model_of(name)
    model.quantize("int8")
    reloaded = keras.saving.load_model(saved(model, tmp_path), compile=False)
    np.testing.assert_allclose(reloaded(IDS), model(IDS), atol=1e-5)
