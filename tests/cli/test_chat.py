"""`keras_lm-chat` as a person and as a script uses it, with a model that says the same poem to every turn."""

import functools
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from keras_lm import models
from keras_lm.cli import chat, options
from keras_lm.tasks.chat import ChatSession
from keras_lm.tasks.conversation import ChatFormat, Conversation, Turn
from keras_lm.tokenizers import CharacterTokenizer
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings
from tests.conftest import scripted_model

POEM = "床前明月光，疑是地上霜。"
COMMAND = [sys.executable, "-c", "from keras_lm.cli.chat import main; main()"]


def make_run(folder, tokenizer, model, **settings):
    run = Run(folder, TrainingSettings(out=str(folder), **settings))
    tokenizer.save(folder / "tokenizer")
    model.save(folder / "model.keras")
    run.write_settings()
    return folder


def poet(folder, said):
    """A run whose model says this after every colon, and which knows a few characters more."""
    tokenizer = CharacterTokenizer.fit([f"问：你好\n答：再见{said}甲乙"])
    return make_run(folder, tokenizer, scripted_model(tokenizer.tokenize([f"：{said}"]).to_list()[0], tokenizer.vocabulary_size))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return poet(tmp_path_factory.mktemp("run"), f"{POEM}\n问：")


@functools.cache
def generator(folder):
    return MAKE(Run.open(folder), jit_compile=False)


MAKE = Run.make_generator


@pytest.fixture(autouse=True)
def _one_generator(monkeypatch):
    monkeypatch.setattr(Run, "make_generator", lambda run: generator(run.folder))


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command in this process, with lines of standard input or bytes. Gives status, standard output and standard error."""

    def run(lines, *arguments):
        data = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        return finish(capsys, arguments)

    return run


@pytest.fixture
def typed(monkeypatch, capsys):
    """The same at a terminal, where an exception among the lines is Ctrl-C or Ctrl-D."""

    def run(lines, *arguments):
        following = iter([*lines, EOFError()])

        def read(prompt=""):
            line = next(following)
            if isinstance(line, BaseException):
                raise line
            return line

        monkeypatch.setattr("builtins.input", read)
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        return finish(capsys, arguments)

    return run


def finish(capsys, arguments):
    try:
        status = options.run(lambda: chat.chat([str(argument) for argument in arguments]), "keras_lm-chat")
    except SystemExit as exit:
        status = exit.code
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_help_answers_in_under_a_second():
    subprocess.run([*COMMAND, "--help"], check=True, capture_output=True)  # once to write the byte code
    start = time.monotonic()
    result = subprocess.run([*COMMAND, "--help"], check=True, capture_output=True, text=True)
    assert time.monotonic() - start < 1
    for word in ("usage: keras_lm-chat RUN", "examples:", "/retry", "--temperature", "--history"):
        assert word in result.stdout
    for word in ("--num-samples", "--num-beams", "--draft", "--when-full"):
        assert word not in result.stdout


def test_nothing_of_it_imports_tensorflow():
    program = (
        "import sys, keras_lm.cli.chat\nprint([name for name in ('tensorflow', 'keras', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.fixture
def bad(tmp_path, run):
    """Things that are given by mistake."""
    for name, settings in (("translator", {"task": "translation"}), ("classifier", {"task": "classification"}), ("half", {})):
        (tmp_path / name).mkdir()
        Run(tmp_path / name, TrainingSettings(out=name, **settings)).write_settings()
    (tmp_path / "export" / "1").mkdir(parents=True)
    (tmp_path / "export" / "1" / "saved_model.pb").touch()
    (tmp_path / "talk.json").write_text("{\n'turns': 3}")
    return str(run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["nosuch"], "no such run: nosuch"),
        (["."], ". holds no run (no settings.yaml there)"),
        (["half"], "half has no model.keras yet"),
        (["export"], "export is an export, whose texts know no stop strings on the way: chat with the run folder"),
        (["model.tflite"], "model.tflite is an export"),
        (["classifier"], "classifier is a run of classification, which knows no turns"),
        (["translator"], "translator is a run of translation, which knows no turns: chat with a language model"),
        (["RUN", "--format", "chatlm"], "unknown format 'chatlm': did you mean 'chatml'?"),
        (["RUN", "--top-p", "2"], "top_p must be over 0 and at most 1, got 2.0"),
        (["RUN", "--tempreature", "2"], "unknown argument --tempreature: did you mean --temperature?"),
        (["RUN", "--longest", "1"], "longest must be at least 2, a token read and one written, got 1"),
        (
            ["RUN", "--longest", "8", "--max-new-tokens", "8"],
            "max_new_tokens must be under the 8 tokens that conversation and answer share",
        ),
        (["RUN", "--longest", "x"], "argument --longest: invalid int value: 'x'"),
        (["RUN", "--history", "talk.json"], "talk.json, line 2: this is no JSON"),
        (["RUN", "--history", "export"], "export cannot be read: Is a directory"),
        (["RUN", "--history", "talk.json/talk.json"], "talk.json cannot be written: "),
        (["RUN", "--system", "\ud800"], "system must be Unicode text"),
    ],
)
def test_bad_arguments_are_refused_before_tensorflow(bad, call, monkeypatch, arguments, message):
    monkeypatch.setattr(options, "start_tensorflow", lambda: pytest.fail("TensorFlow was started"))
    status, out, error = call(["你好"], *(bad if argument == "RUN" else argument for argument in arguments))
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert error.startswith("keras_lm-chat: ")
    assert message in error


def test_each_line_of_a_pipe_is_a_turn(call, run):
    status, out, error = call(["你好", "", "  ", "再见"], run)
    assert (status, out, error) == (0, f"{POEM}\n{POEM}\n", "")
    assert call(b"\xe4\xbd\xa0\xe5\xa5\xbd", run)[1] == f"{POEM}\n"  # no line feed at the end
    assert call([], run) == (0, "", "")


def test_lines_that_are_commands(call, run, tmp_path):
    lines = ["/system 甲", "你好", "/save talk.json", "再见", "/undo", "/save other.json", "/retry", "/load talk.json", " /甲乙", "/help"]
    status, out, error = call([*lines, "/save last.json", "/quit", "再见"], run, "--unknown", "replace")
    assert status == 0, error
    assert out == f"{POEM}\n" * 4
    assert "(saved: 1 turn)\n(taken back: 再见)\n(saved: 1 turn)\n(going on after 1 turn)\n" in error
    assert "/retry" in error
    assert Conversation.load("talk.json") == Conversation.load("other.json") == Conversation("甲", (Turn("你好", POEM),))
    assert Conversation.load("last.json").turns == (Turn("你好", POEM), Turn("/甲乙", POEM))
    assert call(["/system 甲", "/system", "/save talk.json"], run)[0] == 0
    assert Conversation.load("talk.json") == Conversation()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["/undo"], "line 2 of the input: nothing has been said yet: there is nothing to take back"),
        (["/retry"], "line 2 of the input: nothing has been said yet"),
        (["/udno"], "line 2 of the input: unknown command '/udno': did you mean '/undo'?"),
        (["/"], "line 2 of the input: unknown command '/'"),
        (["/save"], "line 2 of the input: /save needs the name of a file"),
        (["/undo all"], "line 2 of the input: /undo takes nothing behind it, got 'all'"),
        (["/load nosuch"], "line 2 of the input: no such file: nosuch"),
        (["/save ."], "line 2 of the input: . is a folder: give the name of a file"),
        (["雪？"], "line 2 of the input: characters never seen in training: 雪 ？ (--unknown replace goes on without them)"),
        (["/system 雪"], "line 2 of the input: characters never seen in training: 雪"),
    ],
)
def test_the_first_line_that_cannot_be_used_ends_a_script(call, run, lines, message):
    status, out, error = call(["", *lines, "你好"], run)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert error.startswith(f"keras_lm-chat: {message}")


def test_what_is_not_utf8_is_named_by_its_line(call, run):
    status, out, error = call("你好\n".encode() + b"\xff\n", run)
    assert (status, out, error) == (2, f"{POEM}\n", "keras_lm-chat: line 2 of the input: this is not UTF-8\n")


def test_a_history_goes_on(call, run):
    assert call(["你好"], run, "--history", "talks/talk.json", "--system", "甲")[0] == 0
    first = Conversation("甲", (Turn("你好", POEM),))
    assert Conversation.load("talks/talk.json") == first
    status, out, error = call(["再见", "/nosuch"], run, "--history", "talks/talk.json")
    assert (status, out) == (2, f"{POEM}\n")
    assert error.startswith("(going on after 1 turn)\n")
    assert Conversation.load("talks/talk.json") == Conversation("甲", (*first.turns, Turn("再见", POEM)))
    assert call(["/undo"], run, "--history", "talks/talk.json", "--system", "乙")[0] == 0
    assert Conversation.load("talks/talk.json") == Conversation("乙", first.turns)
    assert os.listdir("talks") == ["talk.json"]


def test_at_a_terminal_a_mistake_ends_nothing(typed, run):
    status, out, error = typed(["/udno", "雪", "/load nosuch", "你好"], run, "--history", "talk.json")
    assert (status, out) == (0, f"{POEM}\n")
    lines = [line for line in error.splitlines() if "keras_lm-chat: " in line]
    assert len(lines) == 3
    assert "did you mean '/undo'" in lines[0]
    assert Conversation.load("talk.json").turns == (Turn("你好", POEM),)


def test_ctrl_c_stops_an_answer_and_at_the_prompt_the_chat(typed, run, monkeypatch):
    stream = generator(run).sampler.stream

    def interrupted(after):
        def chunks(*arguments, **options):
            yield from itertools.islice(stream(*arguments, **options), after)
            raise KeyboardInterrupt

        monkeypatch.setattr(generator(run).sampler, "stream", chunks)

    interrupted(1)
    status, out, error = typed(["你好", "/save talk.json", KeyboardInterrupt(), "再见"], run)
    assert (status, out) == (0, f"{POEM[:8]}\n")
    assert "(stopped)" in error
    assert Conversation.load("talk.json").turns == (Turn("你好", POEM[:8]),)

    interrupted(0)
    status, out, error = typed(["你好", "/save talk.json"], run)
    assert (status, out) == (0, "\n")
    assert "(stopped before anything was said: all is as it was before)" in error
    assert Conversation.load("talk.json").turns == ()


def test_ctrl_c_ends_a_script(call, run, monkeypatch):
    monkeypatch.setattr(generator(run).sampler, "stream", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
    status, _, error = call(["你好", "再见"], run)
    assert (status, error) == (130, "keras_lm-chat: interrupted\n")


def test_what_the_model_cannot_know_is_said(call, run):
    status, _, error = call([], run, "--format", "en")
    assert status == 0, error
    assert "turns are written with characters never seen in training (U s e r : ' ' A i t a)" in error
    assert call(["你好"], run, "--max-new-tokens", "5") == (0, f"{POEM[:5]}\n", "(cut off at --max-new-tokens 5)\n")
    status, _, error = call(["你好"] * 4, run, "--max-new-tokens", "16", "--longest", "50")
    assert [line for line in error.splitlines() if "no longer shown" in line] == [
        "(the model is no longer shown the first 1 turn)",
        "(the model is no longer shown the first 2 turns)",
    ]


def test_knobs_are_those_of_the_session(call, tmp_path):
    tokenizer = CharacterTokenizer.fit(["User: Assistant\nabc"])
    tmp_path = tmp_path / "run"
    tmp_path.mkdir()
    folder = make_run(tmp_path, tokenizer, models.gru_lm(tokenizer.vocabulary_size, embedding_dim=4, hidden_dim=4, num_layers=1))
    knobs = {"seed": 3, "temperature": 1.5, "top_k": 9, "max_new_tokens": 10, "stop": ("a",), "forbid": ("\n",)}
    session = ChatSession(generator(folder), ChatFormat.named("en"), **knobs)
    expected = [session.say("ab").text, session.say("ba").text, session.retry().text]
    flags = ["--seed", 3, "--temperature", 1.5, "--top-k", 9, "--max-new-tokens", 10, "--stop", "a", "--forbid", "\n", "--format", "en"]
    status, out, error = call(["ab", "ba", "/retry"], folder, *flags)
    assert (status, out) == (0, "".join(f"{text}\n" for text in expected)), error
    assert len(set(expected)) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
def test_at_a_real_terminal(tmp_path):
    """An answer that would not end, ended by Ctrl-C; Ctrl-D; the answer has stayed."""
    import fcntl
    import pty
    import termios

    endless = tmp_path / "endless"
    endless.mkdir()
    poet(endless, "床前床")
    master, slave = pty.openpty()

    def own_terminal():
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command = [*COMMAND, str(endless), "--max-new-tokens", "100000", "--history", "talk.json"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own_terminal)
    os.close(slave)
    shown = b""

    def wait_for(text):
        nonlocal shown
        while text.encode() not in shown:
            shown += os.read(master, 4096)
        shown = shown.partition(text.encode())[2]

    wait_for("> ")
    os.write(master, "你好\n".encode())
    wait_for("床前床前床前")
    os.write(master, b"\x03")
    wait_for("(stopped)")
    wait_for("> ")
    os.write(master, b"\x04")
    assert process.wait(timeout=60) == 0
    (turn,) = json.loads(pathlib.Path("talk.json").read_text(encoding="utf-8"))["turns"]
    assert turn["user"] == "你好"
    assert turn["answer"].startswith("床前床前")


@pytest.mark.slow
def test_a_real_pipe(run):
    """Line by line, as a program would that waits for each answer before it asks on."""
    process = subprocess.Popen([*COMMAND, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for turn in ("你好", "再见"):
        process.stdin.write(f"{turn}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{POEM}\n"
    process.stdin.close()
    assert process.wait(timeout=60) == 0
