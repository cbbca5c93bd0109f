"""A checkpoint that is trained on: the same loop, the same run folder, the same export."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import transformers

from keras_lm.cli.export import main as export_main
from keras_lm.cli.train import train
from keras_lm.errors import UserError
from keras_lm.export.saved_model import ExportedGenerator
from keras_lm.generation.settings import SamplingSettings
from keras_lm.pretrained import load, save
from keras_lm.tokenizers import ByteTokenizer
from keras_lm.training.data import make_evaluator
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings
from tests.pretrained.checkpoints import bert, gpt2, saved
from tests.pretrained.test_tokenizers import mixed, trained, without_names

TEXT = "\n".join(f"the cat number {number} sat on the mat with {number % 7} friends" for number in range(400))
FLAGS = ["--sequence-length", "16", "--batch-size", "8", "--warmup-steps", "0", "--sample-tokens", "0", "--evaluate-every", "4"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small GPT-2 with its tokenizer, as transformers saves both."""
    theirs = trained("gpt2", without_names(mixed(1000)))
    folder = saved(gpt2(vocab_size=theirs.get_vocab_size(), n_positions=32), tmp_path_factory.mktemp("checkpoint") / "gpt2")
    theirs.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "cats.txt"
    path.write_text(TEXT)
    return str(path)


@pytest.mark.slow
def test_it_is_trained_resumed_exported_and_saved_back(checkpoint, corpus, tmp_path, monkeypatch):
    """The checkpoint itself is needed no more once the run has begun."""
    folder = tmp_path / "gpt2"
    shutil.copytree(checkpoint, folder)
    flags = ["--pretrained", str(folder), "--corpus", corpus, *FLAGS]
    assert train([*flags, "--steps", "8", "--learning-rate", "0.01", "--out", str(tmp_path / "whole")]) == 0
    assert train([*flags, "--steps", "4", "--schedule", "constant", "--out", str(tmp_path / "parts")]) == 0
    assert train([*flags, "--steps", "8", "--schedule", "constant", "--out", str(tmp_path / "one")]) == 0
    shutil.rmtree(folder)
    assert train(["--resume", "--steps", "8", "--out", str(tmp_path / "parts")]) == 0

    run = Run.open(tmp_path / "whole")
    untrained, best = run.load_pretrained(), run.load_model()
    tokens = run.load_tokens()["validation"]
    before, after = (make_evaluator(run.settings, model)(tokens).loss for model in (untrained, best))
    assert after < before - 1
    assert run.load_tokenizer().vocabulary_size == best.output_shape[-1]
    one, parts = (Run.open(tmp_path / name).load_model().get_weights() for name in ("one", "parts"))
    for first, second in zip(one, parts, strict=True):
        np.testing.assert_array_equal(first, second)

    monkeypatch.setattr("sys.argv", ["keras_lm-export", str(run.folder), "--out", str(tmp_path / "saved_models" / "cats")])
    with pytest.raises(SystemExit) as ended:
        export_main()
    assert ended.value.code in (0, None)
    settings = SamplingSettings(temperature=0.0, max_new_tokens=8)
    exported = ExportedGenerator(tmp_path / "saved_models" / "cats").generate(["the cat"], settings)
    assert [one.text for one in exported] == [one.text for one in run.make_generator().generate(["the cat"], settings)]
    assert save(best, run.load_tokenizer(), tmp_path / "back", documents=True) == ""
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert theirs("the cat")["input_ids"][0] == run.load_tokenizer().start_id
    assert load(tmp_path / "back").tokenizer.tokenize(["the cat"]).to_list() == run.load_tokenizer().tokenize(["the cat"]).to_list()


@pytest.mark.slow
def test_between_documents_the_end_stands_once(checkpoint, corpus, tmp_path):
    """In GPT-2 it is the start of the next document as well."""
    assert train(["--pretrained", str(checkpoint), "--corpus", corpus, *FLAGS, "--steps", "1", "--out", str(tmp_path / "run")]) == 0
    run = Run.open(tmp_path / "run")
    ids, end = np.asarray(run.load_tokens()["train"].ids), run.load_tokenizer().end_id
    places = np.flatnonzero(ids == end)
    assert len(places) > 300
    assert np.diff(places).min() > 1
    assert ids[-1] == end


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_dim": 32}, "embedding_dim is the checkpoint's"),
        ({"tokenizer": "byte"}, "tokenizer is the checkpoint's"),
        ({"task": "translation"}, "pretrained is for --task lm, classification and similarity, not for translation"),
    ],
)
def test_fields_that_the_checkpoint_decides_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        TrainingSettings(pretrained="somewhere", **changes)


def test_checkpoints_that_cannot_go_on(checkpoint, corpus, tmp_path):
    flags = ["--corpus", corpus, "--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match="is no folder here"):
        train([*flags, "--pretrained", str(tmp_path / "missing")])
    with pytest.raises(UserError, match="sequence_length must be at most 32"):
        train([*flags, "--pretrained", str(checkpoint), "--sequence-length", "64"])
    with pytest.raises(UserError, match="holds no tokenizer"):
        train([*flags, "--pretrained", str(saved(gpt2(), tmp_path / "bare")), "--sequence-length", "16"])
    save(load(saved(bert(vocab_size=260), tmp_path / "theirs")).model, ByteTokenizer(), tmp_path / "bert")
    with pytest.raises(UserError, match="holds a bert, which reads both ways"):
        train([*flags, "--pretrained", str(tmp_path / "bert"), "--sequence-length", "16"])
    labels = ["--task", "classification", "--corpus", "reviews", "--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match="holds a gpt2, which reads from left to right: classification goes on with a BERT"):
        train([*labels, "--pretrained", str(checkpoint), "--sequence-length", "16"])
    with pytest.raises(UserError, match="sequence_length must be at most 32"):
        train([*labels, "--pretrained", str(tmp_path / "bert"), "--sequence-length", "64"])
    assert not (tmp_path / "run").exists()
