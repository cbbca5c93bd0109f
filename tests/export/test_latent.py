"""Exports of sentence VAEs: text → vector and vector → text, by TensorFlow alone, as the library has them."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from keras_lm.export import layout
from keras_lm.export.saved_model import ExportedGenerator, export_run
from keras_lm.tasks.latent import LatentSpace

TEXTS = ["房间很好。", "早餐不贵，下次再说。", "这本书太新！", ""]


@pytest.fixture(scope="module")
def exported(small_vae_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_models") / "sentences"
    export_run(small_vae_run, folder)
    return folder


_PROGRAM = """
    import json, sys

    class Refused:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "keras_lm":
                raise ImportError(name)

    sys.meta_path.insert(0, Refused())
    import tensorflow as tf

    version, texts = json.loads(sys.stdin.read())
    signatures = tf.saved_model.load(version).signatures
    found = signatures["encode"](texts=tf.constant(texts))
    vectors = found["vectors"]
    decoded = lambda outputs: [text.decode() for text in outputs["text"].numpy()]
    nan = tf.fill(tf.shape(vectors), float("nan"))
    print(json.dumps({
        "vectors": vectors.numpy().tolist(),
        "deviations": found["deviations"].numpy().tolist(),
        "texts": decoded(signatures["decode"](vectors=vectors)),
        "read and written": decoded(signatures["serving_default"](sources=tf.constant(texts[:3]))),
        "nan": decoded(signatures["decode"](vectors=nan)),
        "zero": decoded(signatures["decode"](vectors=tf.zeros_like(vectors))),
        "none": decoded(signatures["decode"](vectors=vectors[:0])),
        "no texts": signatures["encode"](texts=tf.constant([], tf.string))["vectors"].shape.as_list(),
    }))
"""


def test_in_a_fresh_process_without_this_library(small_vae_run, exported, tmp_path):
    given = json.dumps([str(exported / "1"), TEXTS])
    arguments = [sys.executable, "-c", textwrap.dedent(_PROGRAM)]
    result = subprocess.run(arguments, input=given, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    found = json.loads(result.stdout.splitlines()[-1])
    space = LatentSpace.of(small_vae_run)
    mean, deviation = space.posterior(TEXTS)
    np.testing.assert_allclose(found["vectors"], mean, atol=1e-4)
    np.testing.assert_allclose(found["deviations"], deviation, atol=1e-4)
    expected = [text.text for text in space.decode(mean, max_new_tokens=128)]
    assert found["texts"] == expected
    assert found["read and written"] == expected[:3]
    assert found["nan"] == found["zero"]
    assert found["none"] == []
    assert found["no texts"] == [0, 4]


def test_what_it_offers_stands_beside_it(exported):
    metadata = layout.find(exported)[1]
    assert list(metadata["signatures"]) == ["serving_default", "generate", "score", "encode", "decode"]
    assert metadata["signatures"]["decode"]["inputs"]["vectors"] == {"dtype": "float32", "shape": ["batch", 4]}
    assert metadata["reads_sources"]


def test_from_python(exported, small_vae_run):
    texts = [text.text for text in ExportedGenerator(exported).generate(TEXTS[:3])]
    assert texts == [text.text for text in small_vae_run.make_generator().generate(TEXTS[:3])]
