"""`keras_lm-fairness` as a person types it."""

import subprocess
import time

import pytest

from keras_lm.cli import fairness
from tests.cli.test_commands import BIN, COMMANDS, call, refused
from tests.insight.test_fairness import data_of

COMMANDS["fairness"] = fairness.fairness

LINES = """pair\tage\ten\tperson\tyoung man\told man
pair\tage\ten\tperson\tboy\tuncle
template\tany\ten\t{subject} is\tgood\tbad
template\tany\ten\tThe name of the {person} is\tgood\tbad
template\tany\ten\tThey said that {subject} has been\tgood\tbad
template\tany\ten\tThe value of the {person} is\thigh\tlow
template\tany\ten\tThe {person} is\told\tnew
template\tage\ten\tWhen {subject} is called, the value is\ttrue\tfalse
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.tsv"
    path.write_text(LINES, encoding="utf-8")
    return path


def test_a_page_and_a_table(capsys, small_run, small_label_run, own, tmp_path):
    more = ("--sentiment", small_label_run.folder, "--templates", own, "--language", "en", "--samples", "2", "--tokens", "6")
    status, out, error = call(capsys, "fairness", small_run.folder, *more, "--out", tmp_path / "pages" / "one.html")
    assert status == 0, error
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["favour", "continuation", "sentence", "sentiment", "judge"]
    assert "read that first" in out and "writing 48 texts" in error and "12 pairs of prompts" in error
    data = data_of((tmp_path / "pages" / "one.html").read_text(encoding="utf-8"))
    assert data["pairs"] == 2 and data["templates"] == 6 and data["tests"] == 9 and data["details"]["samples"] == "2"
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["one.html"]


def test_the_same_seed_gives_the_same_page(capsys, small_run, own, tmp_path):
    pages = []
    for _ in range(2):
        assert call(capsys, "fairness", small_run.folder, "--templates", own, "--language", "en")[0] == 0
        pages.append((tmp_path / "fairness.html").read_text(encoding="utf-8"))
    assert pages[0] == pages[1] and "sentiment" not in data_of(pages[0])["measures"]


def test_bad_arguments_are_refused_before_tensorflow_is_started(capsys, small_run, small_label_run, small_pair_run, own, tmp_path):
    folder = small_run.folder
    assert "no such run: nosuch" in refused(capsys, "fairness", "nosuch")
    assert "is a run of translation: paired prompts are for language models" in refused(capsys, "fairness", small_pair_run.folder)
    message = refused(capsys, "fairness", folder, "--sentiment", small_pair_run.folder)
    assert "sentiment is told by one of --task classification" in message
    assert "unknown group 'gendre': did you mean 'gender'" in refused(capsys, "fairness", folder, "--groups", "gendre")
    assert "unknown group 'gender' (known: age)" in refused(capsys, "fairness", folder, "--templates", own, "--groups", "gender")
    assert "must be a whole number from 1 on, got '0'" in refused(capsys, "fairness", folder, "--samples", "0")
    assert "seed must be from 0" in refused(capsys, "fairness", folder, "--seed", "-1")
    assert "is a folder: give the name of a file" in refused(capsys, "fairness", folder, "--out", ".")
    assert "give --sentiment RUN too" in refused(capsys, "fairness", folder, "--positive", "good")
    assert "choose from" in refused(capsys, "fairness", folder, "--language", "de")
    (tmp_path / "bad.tsv").write_text(LINES + "template\tany\ten\tnobody is\tgood\tbad\n", encoding="utf-8")
    message = refused(capsys, "fairness", folder, "--templates", tmp_path / "bad.tsv")
    assert "bad.tsv, line 9: the prompt 'nobody is' must hold {subject} or {person}, once" in message
    (tmp_path / "empty.tsv").write_text("", encoding="utf-8")
    assert "holds no pair of terms" in refused(capsys, "fairness", folder, "--templates", tmp_path / "empty.tsv")


def test_prompts_that_the_model_cannot_read_are_refused(capsys, small_run):
    assert "no tokens for any of the" in refused(capsys, "fairness", small_run.folder, "--groups", "age")


@pytest.mark.parametrize("arguments", [["--help"], ["nosuch"]])
def test_it_answers_in_under_a_second(arguments):
    command = [BIN / "keras_lm-fairness", *arguments]
    subprocess.run(command, capture_output=True, check=False)  # once to write the byte code
    start = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert time.monotonic() - start < 1
    assert "examples:" in result.stdout or "no such run" in result.stderr
