"""`keras_lm-search` as a person types it."""

import gzip
import io
import json
import pathlib
import shutil
import subprocess
import sys
import time

import pytest

from keras_lm.cli import search
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings
from tests.cli.test_commands import COMMANDS, call, refused

COMMANDS["search"] = search.search
TEXTS = ["房间很好。", "早餐太小！", "电脑贵", "服务旧，真的", *(f"位置{word}" for word in "好不错太小大贵旧老")]


@pytest.fixture(scope="module")
def index(small_similar_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes")
    (folder / "texts.txt").write_text("\ufeff" + "\n\n \n".join(TEXTS) + "\r\n", encoding="utf-8")
    assert search.search([str(small_similar_run.folder), str(folder / "index"), "--build", str(folder / "texts.txt")]) == 0
    return folder / "index"


@pytest.fixture
def begun(tmp_path):
    """A run without a model: enough for what is refused before the work begins."""
    return Run.create(TrainingSettings(task="similarity", out="begun"), lambda folder: None)


def test_a_text_finds_itself_first(capsys, small_similar_run, index):
    status, out, error = call(capsys, "search", small_similar_run.folder, index, "--text", "早餐太小！", "-k", 3)
    assert status == 0, error
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["1.0000", "早餐太小！"]
    assert len(lines) == 3 and len({text for _, text in lines}) == 3 and {text for _, text in lines} < set(TEXTS)
    scores = [float(score) for score, _ in lines]
    assert scores == sorted(scores, reverse=True)


def test_several_queries_stand_above_what_was_found(capsys, small_similar_run, index, tmp_path):
    (tmp_path / "queries.txt").write_text("电脑贵\n\n早餐太小！\n", encoding="utf-8")
    status, out, error = call(capsys, "search", small_similar_run.folder, index, "--text", "房间\t很好。", "--file", "queries.txt", "-k", 1)
    assert status == 0, error
    lines = out.splitlines()
    assert lines[::2] == ["# 房间 很好。", "# 电脑贵", "# 早餐太小！"]
    assert lines[3::2] == ["1.0000\t电脑贵", "1.0000\t早餐太小！"]


def test_json_is_a_line_a_query_and_ten_texts_are_found_where_nothing_else_is_said(capsys, small_similar_run, index):
    status, out, _ = call(capsys, "search", small_similar_run.folder, index, "--json", "--text", "书", "早餐太小！")
    first, second = map(json.loads, out.splitlines())
    assert status == 0
    assert (first["query"], second["query"]) == ("书", "早餐太小！")
    assert len({found["text"] for found in first["found"]} & set(TEXTS)) == 10
    assert second["found"][0] == {"score": pytest.approx(1), "text": "早餐太小！"}


@pytest.mark.parametrize("source", ["gzip", "standard input"])
def test_an_index_is_the_same_whatever_its_texts_come_from(capsys, monkeypatch, small_similar_run, index, source):
    content = "\n".join([*TEXTS, ""]).encode()
    if source == "gzip":
        pathlib.Path("texts.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    status, out, error = call(capsys, "search", small_similar_run.folder, "new/index", "--build", "texts.gz" if source == "gzip" else "-")
    assert status == 0, error
    assert f"({len(TEXTS)} texts)" in out and f"keras_lm-search {small_similar_run.folder} new/index --text" in out
    for name in ("texts.bin", "vectors.faiss"):
        assert pathlib.Path("new/index", name).read_bytes() == (index / name).read_bytes()
    assert [path.name for path in pathlib.Path("new").iterdir()] == ["index"]


def test_texts_that_are_cut_are_told_once(capsys, small_similar_run, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(["长" * 23, "短" * 22] * 600), encoding="utf-8")
    status, out, error = call(capsys, "search", small_similar_run.folder, "index", "--build", "texts.txt")
    assert status == 0 and "(1,200 texts)" in out
    assert error.count("longer than 24 tokens") == 1 and "600 of the texts" in error


def test_an_index_of_another_model_is_refused(capsys, small_similar_run, index, tmp_path):
    shutil.copytree(small_similar_run.folder, tmp_path / "other")
    with open(tmp_path / "other" / "model.keras", "ab") as file:
        file.write(b" ")
    message = refused(capsys, "search", "other", index, "--text", "a")
    assert "was built with another model" in message


def test_a_bad_line_of_a_stream_leaves_no_index(capsys, monkeypatch, small_similar_run):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("房间\n".encode() + b"\xff\n")))
    assert "standard input, line 2: this is not UTF-8" in refused(capsys, "search", small_similar_run.folder, "index", "--build", "-")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n \n")))
    assert "there is no text to be searched" in refused(capsys, "search", small_similar_run.folder, "index", "--build", "-")
    assert not list(pathlib.Path().iterdir())


def test_wrong_input_is_one_line(capsys, begun, tmp_path):
    files = {
        "empty.txt": b"\n \n",
        "bad.txt": "好\n坏\n".encode() + b"\xff\n",
        "bad.gz": b"no gzip",
        "cut.gz": gzip.compress(b"text\n" * 999)[:-9],
    }
    for name, content in files.items():
        pathlib.Path(name).write_bytes(content)
    pathlib.Path("there").mkdir()
    pathlib.Path("there", "manifest.json").write_text("{}")
    for arguments, message in (
        (["--build", "none.txt"], "no such file: 'none.txt'"),
        (["--build", "empty.txt"], "empty.txt holds no text to be searched"),
        (["--build", "bad.txt"], "bad.txt, line 3: this is not UTF-8"),
        (["--build", "bad.gz"], "bad.gz is not a whole gzip file"),
        (["--build", "cut.gz"], "cut.gz is not a whole gzip file"),
        (["--build", "empty.txt", "-k", "3"], "-k and --json are for queries"),
        (["--build", "empty.txt", "--text", "a"], "give --build FILE to make an index, or --text or --file to search one"),
        ([], "give --build FILE to make an index, or --text or --file to search one"),
        (["--text", "a"], "new holds no index (no manifest.json): --build FILE makes one"),
        (["--text", "a", "-k", "0"], "-k must be at least 1, got 0"),
        (["--text", "a", "-k", "few"], "invalid int value: 'few'"),
        (["--file", "none.txt"], "no such file: 'none.txt'"),
    ):
        assert message in refused(capsys, "search", "begun", "new", *arguments)
        assert not pathlib.Path("new").exists()
    for arguments, message in (
        (["--build", "bad.txt"], "there is there already: give a new folder, or remove it first"),
        (["--text", "a", " "], "a query is empty"),
        (["--text", "\udcff"], "the query '\\udcff' is not UTF-8"),
        (["--file", "empty.txt"], "empty.txt holds no query"),
        (["--file", "bad.txt"], "bad.txt, line 3: this is not UTF-8"),
        (["--text", "a"], "begun has no model.keras yet: let it train up to its first evaluation"),
    ):
        assert message in refused(capsys, "search", "begun", "there", *arguments)
    assert "no such run: none" in refused(capsys, "search", "none", "new", "--text", "a")


def test_a_run_of_another_task_is_told_which_is_needed(capsys):
    Run.create(TrainingSettings(out="other"), lambda folder: None)
    message = refused(capsys, "search", "other", "new", "--build", __file__)
    assert message.endswith("other is a run of lm: texts are searched by one of --task similarity")


def test_without_faiss_it_is_said_before_the_work_begins(capsys, monkeypatch, begun):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'keras_lm[tasks]'" in refused(capsys, "search", "begun", "new", "--build", __file__)


def test_help_and_bad_arguments_answer_in_under_a_second(begun):
    def answer(*arguments):
        command = [sys.executable, "-c", "from keras_lm.cli.search import main; main()", *arguments]
        start = time.perf_counter()
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        return time.perf_counter() - start, result

    for arguments in (["--help"], ["none", "new", "--text", "a"], ["begun", "new", "--text", "a"], ["begun", "new", "--build", "none.txt"]):
        assert any(answer(*arguments)[0] < 1 for _ in range(3))  # a busy machine is not what is judged
        assert answer(*arguments)[1].returncode == (0 if arguments == ["--help"] else 2)
    assert "keras_lm-train --task similarity" in answer("--help")[1].stdout
