"""`keras_lm-inspect` as a person types it."""

import subprocess
import time

import pytest

from keras_lm.cli import inspect
from tests.cli.test_commands import BIN, COMMANDS, call, refused
from tests.insight.test_inspection import data_of

COMMANDS["inspect"] = inspect.inspect


def test_a_page_of_a_language_model(capsys, small_run, tmp_path):
    status, out, error = call(capsys, "inspect", small_run.folder, "--text", "The value is", "--out", tmp_path / "pages" / "one.html")
    assert status == 0 and out == "" and "one.html: " in error
    data = data_of((tmp_path / "pages" / "one.html").read_text(encoding="utf-8"))
    assert data["text"] == "The value is" and data["attributions"]["score_name"] == "ln P"
    assert {"gates", "attributions"} <= data.keys() and "attention" not in data
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["one.html"]


def test_a_page_of_a_classifier_for_one_class(capsys, small_label_run, tmp_path):
    status, _, error = call(capsys, "inspect", small_label_run.folder, "--text", "房间很好", "--target", "bad")
    assert status == 0, error
    data = data_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert data["attributions"]["target"] == "bad" and data["attributions"]["tokens"] == list("房间很好")
    assert data["attributions"]["score"] < 0
    assert "unknown class 'baad'" in refused(capsys, "inspect", small_label_run.folder, "--text", "房间很好", "--target", "baad")
    message = refused(capsys, "inspect", small_label_run.folder, "--text", "很" * 23)
    assert "the text has 23 tokens, and the model reads 22 at a time: shorten it" in message


def test_a_page_of_a_translator(capsys, small_pair_run, tmp_path):
    status, _, error = call(capsys, "inspect", small_pair_run.folder, "--text", "3 plus 14", "--head", "0")
    assert status == 0, error
    (one,) = data_of((tmp_path / "page.html").read_text(encoding="utf-8"))["attention"]
    assert one["keys"] == [*"3 plus 14", "</s>"] and one["queries"][0] == "<s>"


def test_what_a_run_cannot_show_is_refused_before_tensorflow_is_started(capsys, small_run, small_pair_run, small_tag_run, small_vae_run):
    gru = small_run.folder, "--text", "The"
    assert "is a gru, which has no attention: --show gates attributions can be shown" in refused(
        capsys, "inspect", *gru, "--show", "attention"
    )
    assert "which has no attention" in refused(capsys, "inspect", *gru, "--head", "1")
    assert "the text is empty" in refused(capsys, "inspect", small_run.folder, "--text", " ")
    assert "choose from" in refused(capsys, "inspect", *gru, "--show", "gate")
    assert "must be a whole number from 0 on, got '-1'" in refused(capsys, "inspect", *gru, "--head", "-1")
    assert "is a folder: give the name of a file" in refused(capsys, "inspect", *gru, "--out", ".")
    assert "which can show its attention" in refused(capsys, "inspect", small_pair_run.folder, "--text", "3", "--show", "gates")
    assert "attributions are of" in refused(capsys, "inspect", small_tag_run.folder, "--text", "我", "--target", "r")
    assert "is a run of vae" in refused(capsys, "inspect", small_vae_run.folder, "--text", "我")
    assert "no such run: nosuch" in refused(capsys, "inspect", "nosuch", "--text", "a")


def test_a_text_that_no_page_holds_is_refused(capsys, small_run):
    message = refused(capsys, "inspect", small_run.folder, "--text", "The " * 100)
    assert "the text has 401 tokens, and a page shows 256: shorten it" in message


@pytest.mark.parametrize("arguments", [["--help"], ["nosuch", "--text", "a"]])
def test_it_answers_in_under_a_second(arguments):
    command = [BIN / "keras_lm-inspect", *arguments]
    subprocess.run(command, capture_output=True, check=False)  # once to write the byte code
    start = time.monotonic()
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert time.monotonic() - start < 1
    assert "examples:" in result.stdout or "no such run" in result.stderr
