"""`keras_lm-plan` as a person types it."""

import json
import pathlib
import subprocess
import sys
import time

import pytest

from keras_lm.cli import options, plan, problems, train

BIN = pathlib.Path(sys.executable).parent


def call(capsys, *arguments):
    try:
        status = options.run(lambda: plan.plan([str(one) for one in arguments]), "keras_lm-plan")
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_plan_is_printed_step_by_step_and_how_good_it_is_beside_it(capsys):
    status, out, err = call(capsys, "blocks")
    assert status == 0
    assert out.splitlines() == [
        "1. take c off a",
        "2. put c on d",
        "3. pick up b from the table",
        "4. put b on c",
        "5. pick up a from the table",
        "6. put a on b",
    ]
    assert "6 steps, cost 6 (no plan is cheaper)" in err


def test_every_step_is_explained_in_chinese(capsys):
    status, out, _ = call(capsys, "trip", "--language", "zh", "--explain")
    assert status == 0
    assert "1. 小林在家带上身份证\n    因为小林在家（已知）\n" in out
    assert "按规则“有票又有证件才可以上车”" in out


def test_json_holds_the_steps_and_the_reasons(capsys):
    status, out, _ = call(capsys, "deliveries", "--any", "--json")
    found = json.loads(out)
    assert status == 0
    assert not found["optimal"] and found["cost"] >= 16
    assert found["steps"][-1]["text"].startswith("unload ")


def test_what_is_known_and_what_follows(capsys):
    status, out, _ = call(capsys, "deliveries", "--known")
    assert status == 0
    assert "the letter lies at the depot\n" in out
    assert "the house and the southern airport are in the same city\tby rule one-city\n" in out


def test_a_goal_that_holds_already(capsys, tmp_path):
    path = tmp_path / "done.yaml"
    path.write_text("domain: blocks\nobjects: {block: a}\nfacts: on-table(a)\ngoal: on-table(a)\n")
    status, out, err = call(capsys, path)
    assert (status, out) == (0, "")
    assert "the goal holds already: there is nothing to do" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("goal: on(a, b)\nfacts: on(b, a), hand-empty", "on(a, b) cannot be reached: on(a, b) needs "),
        ("goal: onto(a, b)", "line 3: unknown predicate 'onto'"),
        ("goal: on(a)", "line 3: on is said of 2, not of 1: on(a)"),
    ],
)
def test_what_cannot_be_is_one_line(capsys, tmp_path, text, message):
    path = tmp_path / "problem.yaml"
    path.write_text("domain: blocks\nobjects: {block: [a, b]}\n" + text + "\n")
    status, out, err = call(capsys, path)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err


@pytest.mark.parametrize("arguments", [["--help"], ["nothing.yaml"], ["blocks", "--time-limit", "0"], ["blocks", "--langage", "zh"]])
def test_help_and_bad_arguments_answer_at_once(arguments):
    start = time.monotonic()
    result = subprocess.run([BIN / "keras_lm-plan", *arguments], capture_output=True, text=True)
    assert time.monotonic() - start < 2  # of which most is Python, on a busy machine
    assert result.returncode == (0 if arguments == ["--help"] else 2)
    assert "Traceback" not in result.stderr
    if arguments != ["--help"]:
        assert len(result.stderr.splitlines()) == 1


def test_problems_are_made_up_learnt_and_planned_by_the_model(tmp_path, capsys):
    """The way of docs/planning.md, with a model that has learnt next to nothing: held to the rules it does what can be done."""
    lines = tmp_path / "blocks.txt"
    status = options.run(lambda: problems.problems(["blocks", "--sizes", "2:1", "3:2", "--count", "300", "--out", str(lines)]), "x")
    assert status == 0 and "300 problems of blocks" in capsys.readouterr().out
    written = lines.read_text(encoding="utf-8").splitlines()
    assert len(written) == 300 and all(line.count("|") == line.count("→") == 1 for line in written)
    run = str(tmp_path / "run")
    shape = ["--model", "gru", "--embedding-dim", "16", "--hidden-dim", "16", "--sequence-length", "64", "--sample-tokens", "0"]
    arguments = ["--corpus", str(lines), "--tokenizer", "wordpiece", "--vocabulary-size", "60", *shape, "--steps", "20", "--out", run]
    assert options.run(lambda: train.train([*arguments, "--evaluate-every", "20"]), "keras_lm-train") == 0
    capsys.readouterr()
    status, out, err = call(capsys, "blocks", "--learned", run, "--way", "constrained")
    assert status == 2 and "the model's plan leads to no goal: after" in err and "cannot be done" not in err
    status, out, err = call(capsys, "blocks", "--learned", run)
    assert (status, bool(out)) in ((0, True), (2, False)) and "cannot be done" not in err


def test_wrong_sizes_are_refused(capsys):
    with pytest.raises(SystemExit):
        problems.parser().parse_args(["blocks", "--sizes", "three", "--out", "x"])
    assert "must be a whole number of at least 1, with :SHARE behind it or not, got 'three'" in capsys.readouterr().err
