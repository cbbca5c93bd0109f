import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.export import layout
from keras_lm.export.compiled import bucket
from keras_lm.export.saved_model import export_model
from keras_lm.tokenizers import CharacterTokenizer
from tests.export.session import Served


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """A Transformer, exported plainly and with XLA."""
    tokenizer = CharacterTokenizer.fit(["abcdefghij "])
    model = models.transformer_lm(tokenizer.vocabulary_size, context_length=64, embedding_dim=16, num_layers=1, num_heads=2)
    folder = tmp_path_factory.mktemp("saved_models") / "model"
    return [export_model(model, tokenizer, folder, xla=xla) for xla in (False, True)]


def test_buckets_are_powers_of_two():
    sizes = np.arange(1, 300, dtype=np.int32)
    found = [bucket(tf.constant(size)).numpy() for size in sizes]
    assert found == [1 << int(size - 1).bit_length() for size in sizes]


@pytest.mark.slow
def test_the_same_answers_as_without_xla(versions):
    """Every signature, in a C++ session: one row and several, short prompts and such as are longer than the context."""
    plain, compiled = map(Served, versions)
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefghij "), length)) for length in (3, 70, 0, 40, 20)]
    knobs = {"max_new_tokens": [40], "top_k": [5], "no_repeat_ngram_size": [3], "seed": [7]}
    for prompts in (texts, texts[:1], []):
        asked = [("serving_default", {"prompts": prompts}), ("generate", {"prompts": prompts, **knobs})]
        others = {"attention": {"texts": prompts}, "score": {"texts": prompts}, "next_token": {"prompts": prompts, "k": [3]}}
        asked += others.items() if len(prompts) != 1 else []
        for signature, inputs in asked:
            expected = plain(signature, inputs)
            for name, values in compiled(signature, inputs).items():
                assert values.shape == expected[name].shape
                if values.dtype == np.float32:
                    np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)
                else:
                    assert values.tolist() == expected[name].tolist()
    ids = np.array([[5, 6, 7]], np.int32)
    np.testing.assert_allclose(compiled("step", {"ids": ids})["logits"], plain("step", {"ids": ids})["logits"], atol=1e-5)


_COUNTS = """
    import json, os, pathlib, sys
    folder, version = sys.argv[1:]
    os.environ["XLA_FLAGS"] = f"--xla_dump_to={folder}"
    import tensorflow as tf
    from tests.export.session import Served
    from tests.export.test_warmup import recorded

    count = lambda: len(list(pathlib.Path(folder).glob("*.before_optimizations.txt")))
    served, counts = Served(version), []
    for _, signature, inputs in recorded(version):
        served(signature, inputs)
    counts.append(count())
    for length in range(0, 90, 7):
        for rows in range(1, 9):
            served("serving_default", {"prompts": ["abcdefghij"[:rows] * length] * rows})
    for knobs in ({"max_new_tokens": [3]}, {"top_k": [4]}, {"temperature": [0.0], "max_new_tokens": [30]}):
        served("generate", {"prompts": ["abc"], **knobs})
    counts.append(count())
    print(json.dumps(counts))
"""


@pytest.mark.slow
def test_nothing_compiles_behind_the_warm_up(versions, repository, tmp_path):
    """Prompts of any length, up to eight rows, any knobs: what they need, the requests that a server warms up with have compiled."""
    arguments = [sys.executable, "-c", textwrap.dedent(_COUNTS), str(tmp_path / "dump"), str(versions[1])]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    result = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    warm, after = json.loads(result.stdout.splitlines()[-1])
    assert after == warm
    # For each of four sizes of batch: two widths of prompts read, one writing, one score, two widths of a next token.
    assert warm == 4 * 6


def test_it_says_what_it_needs(versions):
    assert [layout.find(version)[1]["xla"] for version in versions] == [False, True]
    assert "--xla_cpu_compilation_enabled=true" in (versions[1] / layout.README).read_text()
    assert not (versions[0] / layout.README).exists()


@pytest.mark.slow
def test_only_the_compiled_version_fails_where_xla_is_switched_off(versions):
    """As TF Serving is by default, in a process of its own, since the switch has no way back; `step` works in both."""
    program = """
        import ctypes, pathlib, sys
        import tensorflow as tf
        from tests.export.session import Served
        library = ctypes.CDLL(str(pathlib.Path(tf.__file__).parent / "libtensorflow_cc.so.2"))
        library._ZN10tensorflow21DisableXlaCompilationEv()
        for version in sys.argv[1:]:
            served = Served(version)
            for signature, inputs in (("serving_default", {"prompts": ["abc"]}), ("step", {"ids": [[5]]})):
                try:
                    served(signature, inputs)
                    print("answers")
                except tf.errors.OpError:
                    print("fails")
    """
    arguments = [sys.executable, "-c", textwrap.dedent(program), *map(str, versions)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment)
    assert result.stdout.split() == ["answers", "answers", "fails", "answers"]
