"""`keras_lm-prepare` as a person types it."""

import json
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from keras_lm import pipeline, shards, tokenizers
from keras_lm.cli import options, prepare

PROGRAM = [sys.executable, "-c", "from keras_lm.cli.prepare import main; main()"]


def call(capsys, *arguments):
    """Runs the command in this process. Returns status, standard output, standard error."""
    try:
        status = options.run(lambda: prepare.prepare([str(argument) for argument in arguments]), "keras_lm-prepare")
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{number} 春眠不觉晓, the line\n" for number in range(2000)), encoding="utf-8")
    return path


def test_help_answers_in_under_a_second():
    subprocess.run([*PROGRAM, "--help"], check=True, capture_output=True)  # once to write the byte code
    start = time.monotonic()
    result = subprocess.run([*PROGRAM, "--help"], check=True, capture_output=True, text=True)
    assert time.monotonic() - start < 1
    assert "examples:" in result.stdout
    assert all(f"--{field.replace('_', '-')}" in result.stdout for field in prepare.PreparationSettings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "corpus must name a text"),
        (["--corpus", "nosuch.txt"], "no such corpus file: 'nosuch.txt'"),
        (["--corpus", "pydco"], "did you mean 'pydoc'"),
        (["--corpus", "pydoc", "--tokenizer", "bite"], "did you mean 'byte'"),
        (["--corpus", "pydoc", "--workers", "0"], "workers must be at least 1, got 0"),
        (["--corpus", "pydoc", "--worker", "2"], "unknown argument --worker: did you mean --workers?"),
        (["--corpus", "pydoc", "--shard-tokens", "many"], "a whole number is needed, got 'many'"),
        (["--corpus", "pydoc", "--tokenizer-from", "nosuch"], "nosuch holds no tokenizer"),
        (["--out", "nosuch", "--resume"], "nosuch holds no preparation to go on with"),
        (["--resume"], "corpus must name a text"),
    ],
)
def test_bad_arguments_answer_in_under_a_second(arguments, message):
    start = time.monotonic()
    result = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True)
    assert time.monotonic() - start < 1
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("keras_lm-prepare: ")
    assert message in result.stderr


def test_the_whole_way(capsys, text):
    status, out, error = call(capsys, "--corpus", text, "pydoc", "--tokenizer", "char", "--workers", 1, "--out", "data/text")
    assert status == 0
    assert "counting characters" in error
    assert "tokenizing" in error
    assert " MB/s, " in out
    assert " tokens/s\n" in out
    manifest = json.loads(pathlib.Path("data/text/manifest.json").read_text())
    assert f"train {manifest['splits']['train']['tokens']:,}" in out
    assert manifest["corpus"] == [str(text), "pydoc"]
    tokenizer = tokenizers.load("data/text/tokenizer")
    tokens = pipeline.load_tokens("data/text")
    records = tf.data.TFRecordDataset(sorted(map(str, pathlib.Path("data/text").glob("train-*.tfrecord"))))
    ids = np.concatenate([tf.io.decode_raw(record, manifest["dtype"]).numpy() for record in records])
    assert np.array_equal(ids, tokens["train"].ids)
    lines = text.read_text(encoding="utf-8").splitlines()
    end = int(np.flatnonzero(ids == tokenizer.end_id)[0])
    assert tokenizer.detokenize([ids[: end + 1].tolist()]).numpy()[0].decode() == next(
        line for line in lines if pipeline.split_of(line.encode()) == "train"
    )

    status, out, error = call(capsys, "--out", "data/text", "--resume")
    assert (status, out.splitlines()[0]) == (0, "data/text is whole: nothing left to do")
    status, out, error = call(capsys, "--corpus", text, "--out", "data/text")
    assert (status, out) == (2, "")
    assert "data/text already holds a tokenized corpus" in error
    status, out, error = call(capsys, "--out", "data/text", "--resume", "--split", "contiguous")
    assert status == 2
    assert "split is 'contiguous' here but 'hash' in data/text" in error


def test_a_run_and_a_prepared_corpus_with_its_tokenizer_fit(capsys, text, small_run):
    status, _, _ = call(capsys, "--corpus", text, "--tokenizer-from", small_run.folder, "--workers", 1, "--out", "data")
    assert status == 0
    shards.check_tokenizer("data", small_run.load_tokenizer())


def test_an_altered_shard_is_made_again(capsys, text):
    call(capsys, "--corpus", text, "--tokenizer", "byte", "--workers", 1, "--out", "data")
    (path,) = pathlib.Path("data").glob("train-*")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000] + b"x" + whole[1001:])
    status, out, _ = call(capsys, "--out", "data", "--resume")
    assert status == 0
    assert out.startswith("tokenized ")
    assert path.read_bytes() == whole


def test_interrupting_says_how_to_go_on(capsys, text, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare.preparation, "prepare", interrupted)
    status, out, error = call(capsys, "--corpus", text, "--out", "data")
    assert (status, out) == (130, "")
    assert error.splitlines()[-1].endswith("keras_lm-prepare --out data --resume")
