"""The console scripts as a person types them: the main functions in this process, and real processes where that matters."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from keras_lm.cli import evaluate, export, generate, options, train
from keras_lm.export import layout

COMMANDS = {"train": train.train, "generate": generate.generate, "evaluate": evaluate.evaluate, "export": export.export}
BIN = pathlib.Path(sys.executable).parent
SMALL = "--embedding-dim 16 --num-layers 1 --sequence-length 8 --batch-size 4 --steps 4 --evaluate-every 2 --sample-tokens 5".split()  # noqa: SIM905


def call(capsys, command, *arguments):
    """Runs a command in this process. Returns status, standard output, standard error."""
    try:
        status = options.run(lambda: COMMANDS[command]([str(argument) for argument in arguments]), f"keras_lm-{command}")
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def refused(capsys, command, *arguments):
    """Runs a command that must end with status 2 and one line. Returns the line."""
    status, _, error = call(capsys, command, *arguments)
    assert status == 2
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith(f"keras_lm-{command}:")]
    assert len(lines) == 1
    assert error.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"{one} plus {two} is {one + two}" for one in range(15) for two in range(15)))
    return path


@pytest.fixture(scope="module")
def exported(small_run, tmp_path_factory):
    from keras_lm.export.saved_model import export_run

    folder = tmp_path_factory.mktemp("saved_models") / "small"
    export_run(small_run, folder)
    return folder


@pytest.mark.parametrize(
    "arguments", [["train", "--help"], ["generate", "--help"], ["evaluate", "--help"], ["export", "--help"], ["problems", "--help"]]
)
def test_help_answers_in_under_a_second(arguments):
    command, flag = arguments
    subprocess.run([BIN / f"keras_lm-{command}", flag], check=True, capture_output=True)  # once to write the byte code
    start = time.monotonic()
    result = subprocess.run([BIN / f"keras_lm-{command}", flag], check=True, capture_output=True, text=True)
    assert time.monotonic() - start < 1
    assert "usage:" in result.stdout
    assert "example" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--corpus", "nosuch.txt"], "no such corpus file: 'nosuch.txt'"),
        (["train", "--corpus", "peples-daily"], "did you mean 'peoples-daily'"),
        (["train", "--model", "lstn"], "did you mean 'lstm'"),
        (["train", "--tokenizer", "wordpeice"], "did you mean 'wordpiece'"),
        (["train", "--word-vectors", "nosuch.txt"], "no such file of word vectors: nosuch.txt"),
        (["train", "--word-vectors", ""], "word_vectors must be a file, got ''"),
        (
            ["train", "--word-vectors", __file__],
            "test_commands.py, line 1: neither the number of words and dimensions nor a word and its vector",
        ),
        (
            ["train", "--tokenizer", "word", "--vocabulary-size", "10"],
            "vocabulary_size must be at least 262 for the tokenizer word, got 10",
        ),
        (["train", "--corpus", "/dev/null"], "no such corpus file"),
        (["train", "--stpes", "3"], "unknown argument --stpes: did you mean --steps?"),
        (["train", "--config", "nosuch.yaml"], "no such file: nosuch.yaml"),
        (["train", "--steps", "-3"], "steps must be at least 1, got -3"),
        (["train", "--steps", "few"], "a whole number is needed, got 'few'"),
        (["train", "--num-heads", "7"], "num_heads must be a divisor of embedding_dim (256), got 7"),
        (["train", "--out", "nosuch", "--resume"], "no such run: nosuch"),
        (["train", "--resume", "--dry-run"], "not allowed with argument --resume"),
        (["train", "--strategy", "mirored"], "did you mean 'mirrored'"),
        (["train", "--strategy", "multiworker"], "needs the variable TF_CONFIG on every worker"),
        (["train", "--strategy", "mirrored", "--model", "gru", "--stateful"], "stateful is for one device"),
        (["train", "--precision", "float16"], "unknown precision 'float16'"),
        (["train", "--ema", "1"], "ema must be at least 0 and under 1, got 1.0"),
        (["generate", "nosuch", "--prompt", "a"], "no such run: nosuch"),
        (["generate", ".", "--prompt", "a"], "holds neither a run (settings.yaml) nor an export (saved_model.pb)"),
        (["generate", "nosuch"], "give one of --prompt TEXT, --from-prior and --between TEXT TEXT"),
        (["generate", "nosuch", "--prompt", ""], "the prompt is empty: give at least one character"),
        (["generate", "nosuch", "--prompt", "a", "--top-p", "0"], "top_p must be over 0 and at most 1, got 0.0"),
        (["generate", "nosuch", "--prompt", "a", "--top-p", "2"], "top_p must be over 0 and at most 1, got 2.0"),
        *(
            (
                ["generate", "nosuch", "--prompt", "a", "--logit-bias", bias],
                f"logit_bias must be TOKEN=NUMBER, finite or -inf, got {bias!r}",
            )
            for bias in ("x", "x=inf", "x=nan")
        ),
        (["generate", "nosuch", "--prompt", "a", "--when-full", "stap"], "unknown when_full 'stap': did you mean 'stop'?"),
        (["generate", "nosuch", "--prompt", "a", "--stream", "--num-samples", "2"], "--stream prints one text: leave --num-samples out"),
        (
            ["generate", "nosuch", "--prompt", "a", "--num-beams", "2", "--top-p", "0.5"],
            "--top-p is for sampling: beam search does not know it",
        ),
        (["generate", "nosuch", "--prompt", "a", "--alpha", "2"], "alpha must be from 0 to 1, got 2.0"),
        (["generate", "nosuch", "--prompt", "a", "--alpha", "0.5", "--draft", "lookup"], "exclude each other"),
        (["generate", "nosuch", "--prompt", "a", "--max-new-tokens", "0"], "max_new_tokens must be at least 1, got 0"),
        (["evaluate", "nosuch"], "no such run: nosuch"),
        (["export", "nosuch"], "no such run: nosuch"),
        (["export", "nosuch", "--format", "tflight"], "unknown format 'tflight': did you mean 'tflite'?"),
        (["export", "nosuch", "--format", "tflite", "--quantize", "int4"], "unknown quantize 'int4': did you mean 'int8'?"),
        (["export", "nosuch", "--quantize", "int8"], "--quantize is for LiteRT: add --format tflite"),
        (["export", "nosuch", "--format", "tflite", "--xla"], "--xla is for a SavedModel: leave it or --format tflite out"),
        (["export", "nosuch", "--format", "transformers", "--xla"], "--xla is for a SavedModel: leave it or --format transformers out"),
        (["export", "nosuch", "--format", "transformers", "--quantize", "int8"], "--quantize is for LiteRT: add --format tflite"),
    ],
)
def test_bad_arguments_answer_in_under_a_second(arguments, message):
    command, *rest = arguments
    start = time.monotonic()
    result = subprocess.run([BIN / f"keras_lm-{command}", *rest], capture_output=True, text=True)
    assert time.monotonic() - start < 1
    assert result.returncode == 2
    assert result.stderr.startswith(f"keras_lm-{command}: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_the_whole_way(capsys, text):
    """Train, generate, evaluate, export, and generate from the export."""
    status, out, _ = call(capsys, "train", "--corpus", text, "--model", "gru", *SMALL, "--out", "run", "--export", "saved_models/small")
    assert status == 0
    assert "best validation loss" in out
    assert "keras_lm-generate run --prompt" in out
    assert pathlib.Path("saved_models/small/1/saved_model.pb").is_file()

    knobs = ["--prompt", "3 plus", "--max-new-tokens", 12, "--seed", 3, "--temperature", 0.9, "--top-k", 10, "--top-p", 0.9]
    status, from_run, _ = call(capsys, "generate", "run", *knobs)
    assert status == 0
    assert from_run.startswith("3 plus")
    for folder in ("saved_models/small", "saved_models/small/1"):
        assert call(capsys, "generate", folder, *knobs)[1] == from_run

    status, out, _ = call(capsys, "evaluate", "run")
    assert status == 0
    assert out.count("\n") == 1
    result = json.loads(out)
    assert result["part"] == "test"
    assert {"loss", "perplexity", "bits_per_character", "bits_per_byte"} <= set(result)

    status, out, _ = call(capsys, "export", "run", "--out", "saved_models/small")
    assert (status, layout.versions("saved_models/small")) == (0, [1, 2])


def test_export_refuses_before_tensorflow(capsys, small_run, exported, tmp_path):
    """What is no run, and where nothing may be written."""
    (tmp_path / "file").touch()
    assert "is an export already" in refused(capsys, "export", exported)
    assert "is an export already" in refused(capsys, "export", exported / "1")
    for out, message in (
        ("file", "file is a file: choose another folder"),
        (exported / "1", f"give the folder that holds the versions, {exported}"),
        (small_run.folder, "holds no export but other things"),
    ):
        assert message in refused(capsys, "export", small_run.folder, "--out", out)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "settings.yaml").write_text((small_run.folder / "settings.yaml").read_text())
    assert "half has no model.keras yet" in refused(capsys, "export", "half")


@pytest.mark.slow
def test_export_with_xla_says_what_the_server_needs(capsys, small_run):
    status, out, error = call(capsys, "export", small_run.folder, "--out", "saved_models/small", "--xla")
    assert status == 0
    assert "exporting" in error
    assert "--xla_cpu_compilation_enabled=true" in out
    assert layout.find("saved_models/small")[1]["xla"]


@pytest.mark.slow
def test_export_for_transformers(capsys, text, small_run):
    """What that library then writes is what `keras_lm-generate` writes."""
    import transformers

    command = ["train", "--corpus", text, "--model", "transformer", *SMALL, "--out", "run", "--export", "saved_models/small"]
    assert call(capsys, *command, "--clean", "lower", "--no-tied")[0] == 0
    status, out, error = call(capsys, "export", "run", "--format", "transformers")
    assert status == 0
    assert "export: saved_models/run-transformers\n" in out
    assert "the tokenizer there does not clean texts as the run does (lower)" in error
    knobs = ["--temperature", 0, "--max-new-tokens", 4]
    expected = call(capsys, "generate", "run", "--prompt", "3 plus", *knobs)[1]
    pipeline = transformers.pipeline("text-generation", "saved_models/run-transformers")
    written = pipeline("3 plus", do_sample=False, max_new_tokens=4, suppress_tokens=[0, 1, 2])[0]["generated_text"]
    assert written == expected.removesuffix("\n")

    assert "holds something already" in refused(capsys, "export", "run", "--format", "transformers")
    message = refused(capsys, "export", small_run.folder, "--format", "transformers")
    assert "holds a gru: transformers has the form of a Transformer language model alone" in message
    assert not pathlib.Path(f"saved_models/{small_run.folder.name}-transformers").exists()


@pytest.mark.slow
def test_export_for_litert(capsys, small_run):
    arguments = [small_run.folder, "--out", "saved_models/small", "--format", "tflite", "--quantize", "int8"]
    status, out, _ = call(capsys, "export", *arguments)
    assert status == 0
    assert "keras_lm-generate saved_models/small/model-int8.tflite --prompt" in out
    assert pathlib.Path("saved_models/small/model-int8.tflite").is_file()
    assert call(capsys, "export", small_run.folder, "--out", "saved_models/small")[0] == 0  # beside it
    assert layout.versions("saved_models/small") == [1]


def test_evaluate_another_corpus(capsys, small_run, text):
    result = json.loads(call(capsys, "evaluate", small_run.folder, "--corpus", text)[1])
    characters = sum(map(len, text.read_text().split("\n")))
    assert (result["part"], result["characters"], result["unknown_tokens"]) == ("all", characters, 0)
    assert result["tokens"] == characters + 2 * 225 - 1
    assert "give one of them" in refused(capsys, "evaluate", small_run.folder, "--corpus", text, "--part", "test")


def test_evaluate_gives_the_loss_of_training(capsys, small_run):
    result = json.loads(call(capsys, "evaluate", small_run.folder, "--part", "validation")[1])
    assert result["loss"] == pytest.approx(min(line["val_loss"] for line in small_run.read_metrics()), abs=1e-6)


@pytest.mark.parametrize("source", ["run", "export"])
def test_characters_never_seen(capsys, small_run, exported, source):
    folder = small_run.folder if source == "run" else exported
    assert "characters never seen in training: ☃ 雪 (--unknown replace" in refused(capsys, "generate", folder, "--prompt", "a ☃雪")
    status, out, _ = call(capsys, "generate", folder, "--prompt", "a ☃", "--unknown", "replace", "--max-new-tokens", 3)
    assert (status, out[:3]) == (0, "a ☃")


@pytest.mark.slow
def test_prompt_longer_than_the_context(capsys, text):
    call(capsys, "train", "--corpus", text, "--model", "transformer", *SMALL, "--out", "run", "--export", "saved_models/t")
    for folder in ("run", "saved_models/t"):
        line = refused(capsys, "generate", folder, "--prompt", "1 plus 2 is 3")
        assert "tokens; the context of 8 has room for 7" in line


@pytest.mark.slow
def test_stop_strings(capsys, small_run):
    free = call(capsys, "generate", small_run.folder, "--prompt", "The ", "--seed", 1)[1]
    stop = re.search("[a-z]{2}", free[8:]).group()
    stopped = call(capsys, "generate", small_run.folder, "--prompt", "The ", "--seed", 1, "--stop", "☃", stop)[1]
    assert stopped == free[: free.index(stop, 4)] + "\n"


@pytest.mark.slow
def test_a_stream_prints_the_same_text(capsys, small_run):
    arguments = ["generate", small_run.folder, "--prompt", "The ", "--seed", 1, "--max-new-tokens", 30]
    assert call(capsys, *arguments, "--stream") == call(capsys, *arguments)


@pytest.mark.slow
def test_several_texts_and_their_log_probabilities(capsys, small_run):
    out = call(capsys, "generate", small_run.folder, "--prompt", "The ", "--num-samples", 2, "--max-new-tokens", 4, "--top-logprobs", 2)[1]
    first, second = out.split("-" * 20 + "\n")
    for text in (first, second):
        lines = text.splitlines()
        assert text.startswith("The ")
        assert len([line for line in lines if re.match(r"'.*' +-\d+\.\d\d   '.*' -\d+\.\d\d  '.*' -\d+\.\d\d$", line)]) == 4


@pytest.mark.slow
def test_searches_and_constraints(capsys, small_run):
    arguments = ["generate", small_run.folder, "--prompt", "The ", "--max-new-tokens", 6]
    beams = call(capsys, *arguments, "--num-beams", 3, "--num-samples", 2)[1]
    assert beams.count("The ") == 2
    assert call(capsys, *arguments, "--alpha", 0.0)[1] == call(capsys, *arguments, "--temperature", 0)[1]
    digits = call(capsys, *arguments, "--allow", "[0-9]{3}")[1]
    assert re.fullmatch(r"The \d{3}\n", digits)
    assert "is recurrent" in refused(capsys, *arguments, "--draft", "lookup")


@pytest.mark.slow
def test_a_text_follows_a_grammar(capsys, small_run, tmp_path):
    file = tmp_path / "sum.lark"
    file.write_text('start: start "+" DIGIT | DIGIT\nDIGIT: "0".."9"', encoding="utf-8")
    arguments = ["generate", small_run.folder, "--prompt", "The ", "--max-new-tokens", 7]
    for flags in ([], ["--stream"], ["--num-beams", 2], ["--alpha", 0.1]):
        assert re.fullmatch(r"The \d(\+\d)*\n", call(capsys, *arguments, "--grammar", file, *flags)[1])
    assert "raise max_new_tokens from 1" in refused(capsys, *arguments[:-1], 1, "--allow", "[0-9]{3}")


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (None, [], "sum.lark is no file, and of the packaged grammars there is json"),
        ("start: b", [], "Rule 'b' used but not defined"),
        ('begin: "a"', [], "it has no rule 'start' to start with"),
        ('start: "a"', ["--allow", "a"], "--grammar, --allow and --draft exclude each other"),
        ('start: "a"', ["--draft", "lookup"], "--grammar, --allow and --draft exclude each other"),
    ],
)
def test_grammars_that_cannot_be_used(capsys, small_run, tmp_path, content, flags, message):
    file = tmp_path / "sum.lark"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    assert message in refused(capsys, "generate", small_run.folder, "--prompt", "a", "--grammar", file, *flags)


def test_an_export_says_what_it_cannot(capsys, exported):
    for flags in (["--stream"], ["--num-beams", 2], ["--allow", "a"], ["--grammar", "json"], ["--num-samples", 2]):
        assert "run folder" in refused(capsys, "generate", exported, "--prompt", "a", *flags)


@pytest.mark.slow
def test_the_second_start_compiles_nothing_and_says_the_same(small_run, tmp_path):
    command = [BIN / "keras_lm-generate", small_run.folder, "--prompt", "The ", "--seed", "1", "--max-new-tokens", "20"]
    environment = {**os.environ, "KERAS_LM_XLA_CACHE": str(tmp_path / "kept")}
    outputs = []
    for _ in range(2):
        outputs.append(subprocess.run(command, env=environment, check=True, capture_output=True, text=True))
        kept = sorted(path.name for path in (tmp_path / "kept").rglob("*.pb"))
    assert kept
    assert outputs[0].stdout == outputs[1].stdout
    assert outputs[1].stderr == ""


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        (b"", [], "has 0 characters: a language model needs text"),
        (b"x", [], "has 1 characters: a language model needs text"),
        (b"too short", ["--split", "contiguous"], "shorter than one window of 8"),
        (b"caf\xe9\n", [], "is not UTF-8: byte 0xe9 at offset 3; convert it, or go on with --errors replace"),
    ],
)
def test_corpora_that_cannot_be_used(capsys, tmp_path, content, flags, message):
    (tmp_path / "bad.txt").write_bytes(content)
    small = SMALL if b"too short" not in content else [*SMALL[:5], "16", *SMALL[6:]]
    line = refused(capsys, "train", "--corpus", "bad.txt", *small, *flags, "--out", "run")
    assert message.replace("window of 8", "window of 16") in line
    assert not pathlib.Path("run").exists()


@pytest.mark.slow
def test_errors_replace_goes_on(capsys, text):
    text.write_bytes(b"caf\xe9\n" + text.read_bytes())
    status, _, _ = call(capsys, "train", "--corpus", text, "--model", "gru", *SMALL, "--out", "run", "--errors", "replace")
    assert status == 0


def test_recipe_with_an_unknown_field(capsys):
    pathlib.Path("r.yaml").write_text("modle: gru\n")
    assert "r.yaml: unknown field 'modle': did you mean 'model'" in refused(capsys, "train", "--config", "r.yaml")


@pytest.mark.slow
def test_flags_come_on_top_of_a_recipe(capsys, text):
    pathlib.Path("r.yaml").write_text("corpus: text.txt\nmodel: lstm\nsteps: 100\nout: run\n")
    call(capsys, "train", "--config", "r.yaml", *SMALL, "--model", "gru")
    settings = pathlib.Path("run/settings.yaml").read_text()
    assert "model: gru\n" in settings and "steps: 4\n" in settings


def test_a_run_is_not_overwritten_and_keeps_its_settings(capsys, text):
    flags = ["--corpus", text, "--model", "gru", *SMALL, "--out", "run"]
    assert call(capsys, "train", *flags)[0] == 0
    before = pathlib.Path("run/metrics.jsonl").read_text()
    assert "run already holds a run: go on with it by --resume" in refused(capsys, "train", *flags)
    line = refused(capsys, "train", "--out", "run", "--resume", "--learning-rate", "0.5", "--steps", "6", "--seed", "3")
    assert "learning_rate is 0.5 here but 0.001 there, seed is 3 here but 0 there" in line
    assert "steps is" not in line
    assert pathlib.Path("run/metrics.jsonl").read_text() == before
    assert call(capsys, "train", "--out", "run", "--resume", "--steps", "6")[0] == 0
    assert [json.loads(line)["step"] for line in pathlib.Path("run/metrics.jsonl").read_text().splitlines()] == [2, 4, 6]


@pytest.mark.slow
def test_resume_begins_a_run_that_is_not_there_yet(capsys, text):
    flags = ["--corpus", text, "--model", "gru", *SMALL, "--out", "run", "--resume"]
    assert call(capsys, "train", *flags)[0] == 0
    status, output, _ = call(capsys, "train", *flags)
    assert status == 0 and "nothing left to train" in output


def test_a_dry_run_says_what_the_run_would_take_and_writes_nothing(capsys, text):
    status, output, _ = call(capsys, "train", "--corpus", text, "--model", "lstm", *SMALL, "--steps", "1000", "--dry-run")
    assert status == 0
    size = len(set(text.read_text()) - {"\n"}) + 4  # and four that are reserved
    parameters = 16 * size + 4 * 16 * (16 + 16 + 1) + 16 * size + size
    assert f"lstm, {parameters:,} parameters" in output
    assert f"weights {4 * parameters / 1000:.3g} kB" in output and f"optimizer {8 * parameters / 1000:.3g} kB" in output
    assert "the run     1,000 steps" in output and "tokens/s" in output
    assert "energy      unavailable: " in output or re.search(r"energy      \S+ mJ a token, \w", output)
    products = 4 * 16 * (16 + 16) + 16 * size  # of one token, forward
    counted = re.search(r"arithmetic  ([0-9,]+) floating-point operations a token", output)
    assert 5.5 * products < int(counted[1].replace(",", "")) <= 6 * products  # nobody needs the gradient in the first state
    assert sorted(os.listdir()) == ["text.txt"]


@pytest.mark.slow
def test_the_learning_rate_finder_draws_and_suggests(capsys, text):
    flags = ["--corpus", text, "--model", "gru", *SMALL, "--find-learning-rate", "rates.png"]
    status, output, _ = call(capsys, "train", *flags)
    assert status == 0
    suggested = float(re.search(r"--learning-rate (\S+)", output)[1])
    assert 1e-4 < suggested < 1
    assert pathlib.Path("rates.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(os.listdir()) == ["rates.png", "text.txt"]


@pytest.mark.slow
def test_what_tensorboard_reads_is_what_was_measured(capsys, text):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert call(capsys, "train", "--corpus", text, "--model", "gru", *SMALL, "--out", "run", "--tensorboard")[0] == 0
    events = EventAccumulator("run/tensorboard")
    events.Reload()
    lines = [json.loads(line) for line in pathlib.Path("run/metrics.jsonl").read_text().splitlines()]
    for name in ("val_loss", "learning_rate", "gradient_norm"):
        points = [(event.step, tensor.item()) for event in events.Tensors(name) for tensor in [_number(event)]]
        assert points == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines]


def _number(event):
    import tensorflow as tf

    return tf.make_ndarray(event.tensor_proto)


def start_training(text, *flags):
    command = [BIN / "keras_lm-train", "--corpus", text, "--model", "gru", *SMALL, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_saves_and_prints_how_to_go_on(capsys, text, number):
    process = start_training(text, "--steps", "100000", "--evaluate-every", "20", "--out", "run")
    metrics = pathlib.Path("run/metrics.jsonl")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (metrics.is_file() and metrics.read_text()):
        time.sleep(0.1)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "saved; to go on: " in error
    assert "keras_lm-train --out run --resume" in error
    assert "Traceback" not in error
    assert call(capsys, "generate", "run", "--prompt", "1", "--max-new-tokens", 3)[0] == 0
    reached = json.loads(metrics.read_text().splitlines()[-1])["step"]
    assert call(capsys, "train", "--out", "run", "--resume", "--steps", reached + 20)[0] == 0


def test_a_corpus_larger_than_what_is_read_is_refused_before_tensorflow(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "settings.yaml").write_text("model: gru\n")
    start = time.monotonic()
    result = subprocess.run([BIN / "keras_lm-train", "--corpus", "pydoc", "--out", "taken"], capture_output=True, text=True)
    assert time.monotonic() - start < 1
    assert (result.returncode, "already holds a run" in result.stderr) == (2, True)


NAMESPACE = shutil.which("unshare") and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not NAMESPACE, reason="needs the right to mount (a private mount namespace)")
@pytest.mark.parametrize(("options_of_mount", "message"), [("size=200k", "No space left on device"), ("ro", "Read-only file system")])
def test_a_full_or_read_only_disk(tmp_path, text, options_of_mount, message):
    (tmp_path / "disk").mkdir()
    train = f"{BIN}/keras_lm-train --corpus text.txt --model gru {' '.join(SMALL)} --out disk/run"
    command = f"mount -t tmpfs -o {options_of_mount} none disk && exec {train}"
    result = subprocess.run(["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert message.lower() in result.stderr.splitlines()[-1].lower()
    assert result.stderr.splitlines()[-1].startswith("keras_lm-train: ")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not NAMESPACE, reason="needs the right to mount (a private mount namespace)")
def test_a_disk_that_fills_while_exporting(small_run, tmp_path):
    """No version appears, not even half of one; what was there stays."""
    (tmp_path / "disk").mkdir()
    look = "find disk -mindepth 1 | sort | tee look >&2; exit $status"
    command = f"mount -t tmpfs -o size=300k none disk && {BIN}/keras_lm-export {small_run.folder} --out disk/model; status=$?; {look}"
    result = subprocess.run(["unshare", "--mount", "sh", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert (tmp_path / "look").read_text().split() == ["disk/model"]
    line = next(line for line in result.stderr.splitlines() if line.startswith("keras_lm-export: "))
    assert "No space left on device" in line
    assert "Traceback" not in result.stderr


def test_a_broken_pipe_is_no_error(small_run):
    command = f"{BIN}/keras_lm-evaluate --help | head -1"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert "Traceback" not in result.stderr
