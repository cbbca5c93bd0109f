"""A run that leaves out documents that come again."""

import pytest

from keras_lm.cli.train import train as train_command
from keras_lm.errors import UserError
from keras_lm.training.preparation import prepare
from keras_lm.training.settings import TrainingSettings
from tests.privacy.test_runs import text_of

SMALL = {"model": "gru", "embedding_dim": 8, "num_layers": 1, "sequence_length": 8, "batch_size": 4, "steps": 1}


@pytest.fixture
def letters(tmp_path):
    lines = [f"letter {number}, call 138{number:08d}" for number in range(60)]
    (tmp_path / "letters.txt").write_text("\n".join(lines * 2) + "\n")
    return lines


@pytest.mark.parametrize("split", ["hash", "contiguous"])
def test_what_comes_again_is_read_once(letters, split, capsys):
    text = text_of(prepare(TrainingSettings(**SMALL, corpus="letters.txt", split=split, deduplicate=True, out="run")).folder)
    assert all(text.count(line) == 1 for line in letters)
    assert "60 of 120 documents came again and are left out" in capsys.readouterr().err
    text = text_of(prepare(TrainingSettings(**SMALL, corpus="letters.txt", split=split, out="again")).folder)
    assert all(text.count(line) == 2 for line in letters)


def test_masked_documents_that_have_become_the_same_are_one(letters):
    settings = TrainingSettings(**SMALL, corpus="letters.txt", deduplicate=True, desensitize=("phone",), out="run")
    text = text_of(prepare(settings).folder)
    assert text.count("<PHONE_1>") == 60 and "138" not in text


def test_what_has_no_text_alone_is_refused(letters):
    for fields in ({"task": "translation", "model": "gru"}, {"task": "classification"}):
        with pytest.raises(UserError, match="deduplicate is for --task lm, masked or vae"):
            TrainingSettings(**fields, deduplicate=True)
    with pytest.raises(UserError, match="leave deduplicate out"):
        train_command(["--tokens", "data", "--deduplicate", "--out", "run"])
