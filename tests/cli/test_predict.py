"""The commands for tasks with labels, as a person types them."""

import json
import pathlib
import subprocess
import time

import pytest

from keras_lm.cli import predict
from keras_lm.export.saved_model import export_run
from tests.cli.test_commands import BIN, COMMANDS, call, refused

COMMANDS["predict"] = predict.predict
SMALL = [
    *("--model", "gru", "--embedding-dim", "8", "--num-layers", "1", "--sequence-length", "16", "--batch-size", "8"),
    *("--steps", "4", "--evaluate-every", "2", "--xla", "off"),
]


@pytest.fixture(scope="module")
def exported(small_label_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports") / "texts"
    export_run(small_label_run, folder)
    return folder


def test_a_line_a_text_from_a_run_and_from_its_export(capsys, small_label_run, exported):
    texts = ["房间很好。", "早餐 糟糕\n真的", ""]
    status, out, error = call(capsys, "predict", small_label_run.folder, "--text", *texts)
    assert status == 0, error
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[0] for line in lines[:2]] == ["good", "bad"]
    assert [line[2] for line in lines] == ["房间很好。", "早餐 糟糕 真的", ""]
    assert call(capsys, "predict", exported, "--text", *texts)[1] == out


def test_json_has_all_probabilities_and_a_file_a_text_a_line(capsys, small_label_run, tmp_path):
    (tmp_path / "texts.txt").write_text("房间很好。\n\n早餐糟糕", encoding="utf-8")
    status, out, _ = call(capsys, "predict", small_label_run.folder, "--file", "texts.txt", "--json")
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [one["text"] for one in found] == ["房间很好。", "", "早餐糟糕"]
    assert set(found[0]["probabilities"]) == {"bad", "good"}


def test_a_tagger_marks_words(capsys, small_tag_run, tmp_path):
    assert call(capsys, "predict", small_tag_run.folder, "--text", "我喜欢书。")[1] == "我/r 喜欢/v 书/n 。/w\n"
    (line,) = call(capsys, "predict", small_tag_run.folder, "--text", "我喜欢书。", "--json")[1].splitlines()
    assert json.loads(line)["words"][0] == ["我", "r"]


def test_answers_and_cosines_come_a_line_each(capsys, small_answer_run, small_similar_run, tmp_path):
    passage = "《家》很有名，巴金在1931年写成了它。"
    status, out, error = call(capsys, "predict", small_answer_run.folder, "--text", "谁写的？", "哪年写的？", "--passage", passage)
    assert status == 0, error
    assert [line.split("\t")[0] for line in out.splitlines()] == ["巴金", "1931年"]
    (tmp_path / "asked.tsv").write_text(f"谁写的？\t{passage}\n", encoding="utf-8")
    found = json.loads(call(capsys, "predict", small_answer_run.folder, "--file", "asked.tsv", "--json")[1])
    assert (found["answer"], found["start"]) == ("巴金", passage.index("巴金"))
    texts = ["房间很好。", "说到房间，不错", "房间很好。", "说到电脑，老"]
    status, out, error = call(capsys, "predict", small_similar_run.folder, "--text", *texts)
    assert status == 0, error
    near, far = (float(line.split("\t")[0]) for line in out.splitlines())
    assert near > far + 0.2
    (tmp_path / "bad.tsv").write_text("one\ttwo\nonly one\n", encoding="utf-8")
    assert "bad.tsv, line 2: two texts with a tab between" in refused(capsys, "predict", small_similar_run.folder, "--file", "bad.tsv")
    assert "give an even number of them, got 3" in refused(capsys, "predict", small_similar_run.folder, "--text", *texts[:3])
    assert "--passage goes with --text and a run of answering" in refused(capsys, "predict", small_answer_run.folder, "--text", "谁？")


def test_evaluate_gives_scores_beside_a_floor_and_writes_what_was_said(capsys, small_label_run, small_tag_run, tmp_path):
    status, out, error = call(capsys, "evaluate", small_label_run.folder, "--written", "said.tsv")
    values = json.loads(out)
    assert status == 0, error
    assert {"loss", "accuracy", "macro_f1", "calibration_error", "texts", "floor"} <= set(values)
    lines = pathlib.Path("said.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == values["texts"]
    right = sum(line.split("\t")[1] == line.split("\t")[2] for line in lines)
    assert right / len(lines) == pytest.approx(values["accuracy"])
    values = json.loads(call(capsys, "evaluate", small_tag_run.folder)[1])
    assert {"f1", "tagged_f1", "unknown_recall", "floor"} <= set(values)


def test_evaluate_judges_answers_and_pairs(capsys, small_answer_run, small_similar_run):
    values = json.loads(call(capsys, "evaluate", small_answer_run.folder, "--part", "train", "--written", "said.tsv")[1])
    assert values["exact_match"] > 0.9 > values["floor"]["exact_match"]
    assert len(pathlib.Path("said.tsv").read_text(encoding="utf-8").splitlines()) == values["questions"]
    values = json.loads(call(capsys, "evaluate", small_similar_run.folder, "--part", "train")[1])
    assert values["mrr"] > 0.5
    assert {"recall", "ndcg", "k"} <= set(values["floor"])


@pytest.mark.slow
def test_from_a_table_to_an_export(capsys, tmp_path):
    (tmp_path / "texts.tsv").write_text("".join(f"text number {number}\t{number % 3}\n" for number in range(200)), encoding="utf-8")
    status, out, error = call(
        capsys, "train", "--task", "classification", "--corpus", "texts.tsv", *SMALL, "--out", "run", "--export", "saved_models/t"
    )
    assert status == 0, error
    assert "accuracy there" in out
    assert "keras_lm-predict saved_models/t" in out
    assert call(capsys, "train", "--out", "run", "--resume", "--steps", 6)[0] == 0
    assert call(capsys, "predict", "saved_models/t", "--text", "text number 9")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--task", "classification", "--corpus", "nothing.tsv"], "no such file: 'nothing.tsv' (known: reviews)"),
        (["train", "--task", "classification", "--test-corpus", "nothing.tsv"], "no such file: 'nothing.tsv'"),
        (["train", "--task", "tagging", "--corpus", "nothing.txt"], "no such file: 'nothing.txt' (known: peoples-daily)"),
        (["train", "--task", "classify"], "did you mean 'classification'?"),
        (["predict", "nothing", "--text", "a"], "no such run: nothing"),
    ],
)
def test_wrong_input_is_one_line(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_runs_of_other_tasks_are_sent_to_their_commands(capsys, small_run, small_label_run, exported):
    assert "is of lm, which writes text: keras_lm-generate shows it" in refused(capsys, "predict", small_run.folder, "--text", "a")
    assert "no such file: 'none.txt'" in refused(capsys, "predict", small_label_run.folder, "--file", "none.txt")
    assert "keras_lm-predict" in refused(capsys, "generate", small_label_run.folder, "--prompt", "a")
    assert "keras_lm-predict" in refused(capsys, "generate", exported, "--prompt", "a")
    assert "judged on its own corpus" in refused(capsys, "evaluate", small_label_run.folder, "--corpus", "kjv")
    assert "--xla" in refused(capsys, "export", small_label_run.folder, "--xla")
    assert "classification" in refused(capsys, "export", small_label_run.folder, "--format", "tflite")
    assert "classification" in refused(capsys, "export", small_label_run.folder, "--format", "transformers")


def test_help_and_bad_arguments_answer_in_under_a_second(tmp_path):
    for arguments in (["--help"], ["nothing", "--text", "a"], ["nothing"]):
        times = []
        for _ in range(3):  # the fastest: a busy machine is not what is judged
            begin = time.perf_counter()
            subprocess.run([BIN / "keras_lm-predict", *arguments], capture_output=True, check=False)
            times.append(time.perf_counter() - begin)
        assert min(times) < 1
