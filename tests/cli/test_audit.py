"""`keras_lm-audit` as a person types it."""

import json
import shutil
import subprocess
import time

import numpy as np
import pytest

from keras_lm import pipeline
from keras_lm.cli import audit
from keras_lm.corpora import open_corpus
from keras_lm.insight.audit import _excerpts, learnt_text
from keras_lm.privacy.overlap import BREAK
from keras_lm.training.preparation import prepare
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings
from tests.cli.test_commands import BIN, COMMANDS, call, refused

COMMANDS["audit"] = audit.audit
SENTENCES = [f"第{number}天：老师说{word}，学生写{number * 7}。" for number in range(40) for word in ("天气很好", "下雨了")]


@pytest.fixture(scope="module")
def untrained(tmp_path_factory) -> Run:
    """A run that has read its corpus and not begun: for texts that come from a file."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "text.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    small = {"model": "gru", "embedding_dim": 8, "num_layers": 1, "sequence_length": 8, "batch_size": 4, "steps": 1}
    return prepare(TrainingSettings(**small, corpus=str(folder / "text.txt"), out=str(folder / "run")))


def learnt(split="train"):
    return [text for text in SENTENCES if pipeline.split_of(text.encode()) == split]


def test_what_a_run_writes_is_compared_with_what_it_learnt_from(capsys, small_run, tmp_path):
    status, out, error = call(
        capsys, "audit", small_run.folder, "--samples", "6", "--max-new-tokens", "20", "-n", "2", "8", "--out", tmp_path / "audit.json"
    )
    assert status == 0, error
    assert "6 texts that" in out and "| these texts |" in out and "| held out |" in out and "characters of text" in out
    values = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    corpus = b"".join(learnt_text(small_run)).decode("utf-8", "ignore")
    assert len(values["texts"]) == len(values["held_out"]) == 6
    for one in values["texts"]:
        assert one["span"] in corpus and one["text"][one["start"] :].startswith(one["span"])
        assert one["novel"]["2"][0] == sum(one["text"][place : place + 2] not in corpus for place in range(len(one["text"]) - 1))


def test_a_copy_is_found_where_it_stands_and_what_is_new_is_not(capsys, untrained, tmp_path):
    copied = learnt()[3]
    (tmp_path / "written.txt").write_text(f"{copied}\n全新的话\n\n", encoding="utf-8")
    out_file = tmp_path / "audit.json"
    status, out, error = call(capsys, "audit", untrained.folder, "--texts", "written.txt", "-n", "4", "100", "--out", out_file)
    assert status == 0, error
    assert f"{len(copied)} characters of text 1: {copied}" in out and "document 4 of the training text, character 1" in out
    assert "1 of 2" in out and "no text has 100 characters" in out and "| 100 | - |" in out
    first, second = json.loads(out_file.read_text(encoding="utf-8"))["texts"]
    assert (first["document"], first["position"], first["longest"]) == (3, 0, len(copied)) and second["longest"] <= 1


def test_ids_and_the_corpus_itself_give_the_same(capsys, untrained, tmp_path):
    (tmp_path / "written.txt").write_text(SENTENCES[0][:9] + "\n", encoding="utf-8")
    answers = []
    for flags in ([], ["--corpus", untrained.settings.corpus]):
        out_file = tmp_path / "audit.json"
        assert call(capsys, "audit", untrained.folder, "--texts", "written.txt", "--out", out_file, *flags)[0] == 0
        answers.append(json.loads(out_file.read_text(encoding="utf-8")))
    assert answers[0] == answers[1]


@pytest.mark.parametrize("tokenizer", ["char", "byte", "wordpiece", "sentencepiece", "word"])
@pytest.mark.parametrize("split", ["hash", "contiguous"])
def test_the_text_that_is_read_is_that_of_the_corpus(tmp_path, tokenizer, split):
    text = [*SENTENCES, "The 1st line,  with  spaces.", "ALL é 😀"]
    (tmp_path / "text.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    small = {"model": "gru", "embedding_dim": 8, "num_layers": 1, "sequence_length": 8, "batch_size": 4, "steps": 1}
    size = {"vocabulary_size": 400} if tokenizer in ("wordpiece", "sentencepiece") else {}
    run = prepare(TrainingSettings(**small, **size, corpus="text.txt", tokenizer=tokenizer, split=split, out="run"))
    corpus = open_corpus("text.txt")
    for name in ("train", "validation"):
        parts = [part for own, part in pipeline.split_texts(corpus, split) if own == name]
        expected = b"".join(BREAK + part.encode() for part in parts) if split == "hash" else "".join(parts).encode()
        if tokenizer not in ("char", "wordpiece") or name == "train":  # of which characters that were not learnt are unknown
            assert b"".join(learnt_text(run, (name,))) == expected


def test_a_corpus_is_read_in_parts(capsys, untrained, tmp_path, monkeypatch):
    from keras_lm.insight import audit as library

    written = [SENTENCES[0], SENTENCES[-1]]
    whole = library.audit(untrained, written)
    parts = library.audit(untrained, written, part_bytes=300)
    assert parts.parts > 3 and whole.parts == 1
    for one, other in zip((*whole.texts, *whole.held_out), (*parts.texts, *parts.held_out), strict=True):
        assert one.span == other.span and np.array_equal(one.matches, other.matches)


def test_excerpts_are_as_long_as_the_texts():
    documents = ["a" * 5, "b" * 10, "c" * 30]
    assert list(map(len, _excerpts(documents, [4, 10, 25, 99], 0, anywhere=False))) == [4, 10, 25, 30]
    assert _excerpts([], [3], 0, anywhere=False) == []
    assert _excerpts(["abcdef"], [2] * 50, 0, anywhere=True) != ["ab"] * 50


def test_what_cannot_be_compared_is_refused_before_tensorflow_is_started(capsys, untrained, small_pair_run, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "nothing.txt").touch()
    run = untrained.folder
    assert "no such run: nosuch" in refused(capsys, "audit", "nosuch")
    assert "holds no run" in refused(capsys, "audit", tmp_path)
    assert "is a run of translation" in refused(capsys, "audit", small_pair_run.folder)
    assert "has no model.keras yet" in refused(capsys, "audit", run)
    assert "no such file of texts: nosuch.txt" in refused(capsys, "audit", run, "--texts", "nosuch.txt")
    assert "empty.txt is empty" in refused(capsys, "audit", run, "--texts", "empty.txt")
    assert "no such corpus file: 'nosuch.txt'" in refused(
        capsys, "audit", run, "--texts", untrained.settings.corpus, "--corpus", "nosuch.txt"
    )
    assert "has 0 characters" in refused(capsys, "audit", run, "--texts", untrained.settings.corpus, "--corpus", "nothing.txt")
    assert "must be a whole number from 1 on, got '0'" in refused(capsys, "audit", run, "-n", "0")
    assert "must be a whole number from 1 on, got '-3'" in refused(capsys, "audit", run, "--samples", "-3")
    assert "not allowed with argument" in refused(capsys, "audit", run, "--samples", "3", "--texts", "empty.txt")
    assert "leave --temperature out" in refused(capsys, "audit", run, "--texts", "empty.txt", "--temperature", "1")
    assert "--part-size must be at most" in refused(capsys, "audit", run, "--texts", untrained.settings.corpus, "--part-size", "9999999")
    assert "is a folder: give the name of a file" in refused(capsys, "audit", run, "--texts", untrained.settings.corpus, "--out", ".")


def test_a_run_whose_ids_are_gone_says_what_to_do(capsys, untrained, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(untrained.folder, copy)
    shutil.rmtree(copy / "tokens")
    message = refused(capsys, "audit", copy, "--texts", untrained.settings.corpus)
    assert "the ids that" in message and "are gone" in message and "give its text by --corpus" in message
    assert call(capsys, "audit", copy, "--texts", untrained.settings.corpus, "--corpus", untrained.settings.corpus)[0] == 0


@pytest.mark.parametrize("arguments", [["--help"], ["nosuch"]])
def test_it_answers_in_under_a_second(arguments):
    command = [BIN / "keras_lm-audit", *arguments]
    subprocess.run(command, capture_output=True, check=False)  # once to write the byte code
    start = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert time.monotonic() - start < 1
    assert "examples:" in result.stdout or "no such run" in result.stderr
