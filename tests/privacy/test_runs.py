"""Masked corpora on their way to a run: no file of it holds a secret, and the report counts each document once."""

import dataclasses
import json
import pathlib

import pytest

from keras_lm import shards, tokenizers
from keras_lm.cli.prepare import prepare as prepare_command
from keras_lm.cli.train import train as train_command
from keras_lm.errors import UserError
from keras_lm.preparation.prepare import prepare as prepare_corpus
from keras_lm.preparation.prepare import stored_settings
from keras_lm.preparation.settings import PreparationSettings
from keras_lm.training.data import examples_of, pairs_of
from keras_lm.training.preparation import prepare
from keras_lm.training.settings import TrainingSettings

SMALL = {"model": "gru", "embedding_dim": 8, "num_layers": 1, "sequence_length": 8, "batch_size": 4, "steps": 1}
LINES = [f"第{number}封信：李雷的手机是138{number:08d}，王芳没有。" for number in range(60)]


@pytest.fixture
def letters(tmp_path: pathlib.Path) -> str:
    (tmp_path / "names.txt").write_text("李雷\n", encoding="utf-8")
    (tmp_path / "letters.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return "letters.txt"


def text_of(folder: pathlib.Path) -> str:
    """All text of a run, or of a tokenized corpus."""
    tokens = folder / "tokens" if (folder / "tokens").exists() else folder
    tokenizer, manifest = tokenizers.load(folder / "tokenizer"), shards.read_manifest(tokens)
    ids = [int(token) for name in manifest["splits"] for token in shards.open_ids(tokens, manifest, name)[:]]
    return tokenizer.detokenize([ids]).numpy()[0].decode()


@pytest.mark.parametrize("split", ["hash", "contiguous"])
def test_a_run_and_a_preparation_hold_no_secret(letters, split):
    masking = {"corpus": letters, "desensitize": ("all",), "names_file": "names.txt", "split": split}
    run = prepare(TrainingSettings(**SMALL, **masking, out="run"))
    prepared = prepare_corpus(PreparationSettings(**{**masking, "corpus": (letters,)}, workers=1, out="data"))
    for folder in (run.folder, prepared.folder):
        text = text_of(folder)
        assert "138" not in text and "李雷" not in text and "<姓名1>的手机是<电话1>" in text and "王芳" in text
        report = json.loads((folder / "desensitized.json").read_text())
        assert report == {"documents": 60, "masked_documents": 60, "masked": {"name": 60, "phone": 60}}
        assert (
            "138" not in (folder / "tokenizer" / "tokenizer.json").read_text() and "李雷" not in (folder / "desensitized.json").read_text()
        )
    assert prepared.manifest["desensitize"] == ["all"]
    assert prepare(TrainingSettings(**SMALL, tokens="data", out="from_tokens")).settings.desensitize == ("all",)


def test_without_the_flag_nothing_is_masked(letters):
    run = prepare(TrainingSettings(**SMALL, corpus=letters, out="run"))
    assert LINES[0] in text_of(run.folder) and not (run.folder / "desensitized.json").exists()


def test_pairs_and_examples_are_masked(tmp_path):
    (tmp_path / "pairs.tsv").write_text("Call 212-555-0123\t打212-555-0123\n", encoding="utf-8")
    settings = TrainingSettings(task="translation", corpus="pairs.tsv", model="gru", desensitize=("phone",))
    assert [pair for _, *pair in pairs_of(settings)] == [["Call <PHONE_1>", "打<电话1>"]]
    (tmp_path / "texts.tsv").write_text("".join(f"好{line}\tgood\n坏{line}\tbad\n" for line in LINES), encoding="utf-8")
    settings = TrainingSettings(task="classification", corpus="texts.tsv", desensitize=("phone",))
    for own in examples_of(settings).splits.values():
        assert all("的手机是<电话1>，" in example.text for example in own)
    plain = examples_of(dataclasses.replace(settings, desensitize=()))
    assert all("的手机是138" in example.text for example in plain.splits["train"])


def test_a_changed_list_of_names_is_not_gone_on_with(letters, tmp_path):
    settings = PreparationSettings(corpus=(letters,), desensitize=("all",), names_file="names.txt", workers=1, out="data")
    prepare_corpus(settings)
    (tmp_path / "names.txt").write_text("李雷\n王芳\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"names\.txt has changed since"):
        prepare_corpus(stored_settings("data"), resume=True)
    with pytest.raises(UserError, match=r"desensitize is .* here but"):
        stored_settings("data", desensitize=("phone",))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--desensitize", "phones"], "unknown kind to desensitize 'phones': did you mean 'phone'"),
        (["--desensitize", "name"], "names_file is needed"),
        (["--desensitize", "all", "--names-file", "none.txt"], r"no such file: none\.txt"),
        (["--desensitize", "all", "--names-file", "empty.txt"], r"empty\.txt is empty"),
        (["--names-file", "names.txt"], "names_file is for the kinds name and all"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(letters, tmp_path, flags, message):
    (tmp_path / "empty.txt").write_text("")
    for command in (train_command, prepare_command):
        with pytest.raises(UserError, match=message):
            command(["--corpus", letters, "--out", "made", *flags])
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("task", ["tagging", "answering"])
def test_tasks_whose_labels_are_of_characters_refuse_it(task):
    with pytest.raises(UserError, match="desensitize must be empty"):
        TrainingSettings(task=task, desensitize=("all",))


def test_the_command_says_what_was_masked(letters, capsys):
    assert prepare_command(["--corpus", letters, "--desensitize", "phone", "--workers", "1", "--out", "data"]) == 0
    assert "masked in 60 of 60 documents: 60 phone  (desensitized.json)" in capsys.readouterr().out
