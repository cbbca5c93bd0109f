"""Runs that begin with the weights of another: made-up pairs before real ones, much text before little."""

import pathlib
import shutil

import numpy as np
import pytest

from keras_lm.errors import UserError
from keras_lm.training import loop
from keras_lm.training.preparation import prepare
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings

BASE = {
    "embedding_dim": 16,
    "num_layers": 1,
    "num_heads": 2,
    "sequence_length": 16,
    "batch_size": 4,
    "warmup_steps": 2,
    "xla": "off",
    "sample_tokens": 0,
    "steps": 6,
    "evaluate_every": 3,
}
PAIRS = {"task": "summarization", "model": "gru", "pointer": True}
FORMS = {
    "pairs": (PAIRS, [f"{word} and {word[::-1]}\t{word}" for number in range(300) if (word := f"w{number * 7919 % 997}")]),
    "text": ({"model": "transformer"}, [f"{number} plus {number + 1} is {2 * number + 1}" for number in range(300)]),
}


@pytest.fixture(params=FORMS)
def form(request, tmp_path):
    settings, lines = FORMS[request.param]
    (tmp_path / "much.tsv").write_text("\n".join(lines))
    (tmp_path / "little.tsv").write_text("\n".join(line.replace("1", "3") for line in lines[100:250]))
    return settings


def made(**changes):
    return TrainingSettings(**{**BASE, "corpus": "much.tsv", **changes})


def test_a_run_begins_where_the_other_ended_and_needs_it_no_more(form):
    first = prepare(made(**form, out="first"))
    ended = loop.train(first)
    weights = first.load_model().get_weights()
    second = prepare(made(**form, corpus="little.tsv", start_from="first", dropout=0.3, out="second"))
    assert second.load_tokenizer().pieces() == first.load_tokenizer().pieces()
    shutil.rmtree("first")
    begun = loop.first_model(second)
    for one, other in zip(begun.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(getattr(layer, "rate", 0) == 0.3 for layer in begun._flatten_layers())  # its own dropout, all the same
    assert loop.train(second).loss < ended.loss
    assert any(np.any(one != other) for one, other in zip(second.load_model().get_weights(), weights, strict=True))
    assert loop.train(Run.open("second"), resume=True).loss > 0


def test_what_does_not_fit_is_refused_and_leaves_nothing(form):
    first = prepare(made(**form, out="first"))
    begin = {**form, "start_from": "first", "out": "second"}
    with pytest.raises(UserError, match=r"first has no model\.keras yet: train it up to its first evaluation"):
        prepare(made(**begin))
    loop.first_model(first).save(first.folder / "model.keras")
    with pytest.raises(UserError, match=r"embedding_dim is 32 here, but 16 in first, which the run is to start from: make it the same"):
        prepare(made(**{**begin, "embedding_dim": 32}))
    other = {"task": "lm", "model": "gru"} if "task" in form else {"task": "translation", "model": "transformer"}
    with pytest.raises(UserError, match=r"(reads_pairs|attention|pointer) is"):
        prepare(made(**{**begin, **other, "pointer": False}))
    with pytest.raises(UserError, match="no such run: nowhere"):
        prepare(made(**{**begin, "start_from": "nowhere"}))
    for name, value in {"vocabulary_size": 300, "pretrained": "folder"}.items():
        with pytest.raises(UserError, match=r"leave it out|is for --task lm"):
            made(**{**begin, name: value})
    assert not pathlib.Path("second").exists()
