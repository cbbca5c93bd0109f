"""`keras_lm-chat`: a conversation with a run's model, at the terminal or from a pipe."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Generator, Sequence

from keras_lm.cli import options
from keras_lm.errors import UserError, unknown_name
from keras_lm.export import layout
from keras_lm.generation.settings import SamplingSettings
from keras_lm.tasks.chat import ChatSession, shared
from keras_lm.tasks.conversation import FORMATS, ChatFormat, Conversation, Turn
from keras_lm.training.run import Run

_PROGRAM = "keras_lm-chat"

_COMMANDS = {
    "undo": "take the last turn back",
    "retry": "answer the last turn anew, with the next seed",
    "save": "FILE: save the conversation",
    "load": "FILE: go on with a conversation that was saved",
    "system": "TEXT: another text ahead of all turns; without TEXT none",
    "help": "this list",
    "quit": "end, as Ctrl-D does",
}

_HELP = "\n".join(f"  /{name:<8}{text}" for name, text in _COMMANDS.items())

_EPILOG = f"""at the prompt:
{_HELP}
  Ctrl-C ends an answer, which is kept as far as it came, and at the prompt the chat. A space before a slash makes it part of a turn.

examples:
  keras_lm-chat runs/dialogues --temperature 0.7 --top-k 40
  keras_lm-chat runs/dialogues --format en --system "A talk between a teacher and a pupil." --history talk.json
  printf '你好\\n再见\\n' | keras_lm-chat runs/dialogues --seed 3

A model answers as the texts do that it was trained on: train it on conversations in the form of --format, several lines a document
(keras_lm-train --document paragraph), for example

  问：你好                          User: Hello
  答：你好！                        Assistant: Hello!

Without a terminal each line of standard input is a turn; answers go to standard output, all else to standard error, and the first line
that cannot be used ends it with status 2. What no longer fits into the model's context beside --max-new-tokens (unless given, at most half
of the context) is left out by whole turns, the oldest first. The first answer waits for the sampler to be compiled, as keras_lm-generate
does."""


_WITHOUT_MEANING = ("num_samples", "top_logprobs", "when_full")
"""Settings of the sampler that one answer within its context does not ask for."""


def parser() -> options.Parser:
    result = options.Parser(prog=_PROGRAM, usage="%(prog)s RUN [flags]", description="Chat with a trained language model.", epilog=_EPILOG)
    result.add_argument("run", metavar="RUN", help="a run folder")
    result.add_argument("--format", metavar="|".join(FORMATS), default="zh", help="how turns are written down (default: zh)")
    result.add_argument("--system", metavar="TEXT", help="a text ahead of all turns; with --history in place of the saved one")
    result.add_argument(
        "--history", metavar="FILE", help="go on with the conversation in FILE, where there is one; it is saved there after each turn"
    )
    result.add_argument(
        "--longest", type=int, metavar="N", help="tokens that the model is shown at most, its answer among them (default: its context)"
    )
    result.add_argument(
        "--unknown",
        choices=("refuse", "replace"),
        default="refuse",
        help="characters of a turn never seen in training: refuse, or replace by the unknown token",
    )
    knobs = [field.name for field in dataclasses.fields(SamplingSettings) if field.name not in _WITHOUT_MEANING]
    options.add_fields(result, SamplingSettings, {"max_new_tokens": "sampling"}, only=knobs)
    return result


def chat(arguments: Sequence[str] | None) -> int:
    given = vars(parser().parse_args(arguments))
    folder, name, system, history, longest, unknown = (
        given.pop(flag) for flag in ("run", "format", "system", "history", "longest", "unknown")
    )
    form = ChatFormat.named(name, system or "")
    shared(longest=longest, **given)
    run = _open(folder)
    if history is not None:
        (Conversation.load(history) if pathlib.Path(history).exists() else Conversation(form.system)).save(history)

    options.keep_compilations()
    options.start_tensorflow()
    with options.Spinner("loading"):
        session = ChatSession(run.make_generator(), form, longest=longest, **given)
    if history is not None:
        session.load(history)
        if system is not None:
            session.format = form
        if session.history:
            _note(f"going on after {_count(len(session.history), 'turn')}")
    _check_known(session, session.format.system, unknown)
    _warn_of_format(session)
    _converse(session, history, unknown)
    return 0


def _open(folder: str) -> Run:
    if folder.endswith(".tflite") or layout.is_export(folder):
        raise UserError(f"{folder} is an export, whose texts know no stop strings on the way: chat with the run folder")
    run = Run.open(folder)
    if run.settings.task != "lm":
        raise UserError(f"{folder} is a run of {run.settings.task}, which knows no turns: chat with a language model (--task lm)")
    layout.check_run(run)
    return run


def _converse(session: ChatSession, history: str | None, unknown: str) -> None:
    """Turns and commands, a line each, up to the end."""
    interactive = sys.stdin.isatty()
    if interactive:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  input() edits lines with it
        _note("/help lists what else can be typed")
    for number in itertools.count(1):
        answered = session.answer
        try:
            line = _read(interactive)
            if line is None or _handle(session, line, unknown):
                return
        except UserError as error:
            if not interactive:
                raise UserError(f"line {number} of the input: {error}") from None
            print(f"{_PROGRAM}: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            if not interactive:
                raise
            print()
            _note("stopped" if session.answer is not answered else "stopped before anything was said: all is as it was before")
        if history is not None:
            session.save(history)


def _read(interactive: bool) -> str | None:
    """The next line; `None` at the end."""
    try:
        if not interactive:  # as bytes: the text layer decodes ahead, and a mistake further on would be laid to this line
            return sys.stdin.buffer.readline().decode() or None
        if sys.stdout.isatty():
            return input("> ")
        print("> ", end="", file=sys.stderr, flush=True)  # answers alone go into what is no terminal
        return input()
    except UnicodeDecodeError:
        raise UserError("this is not UTF-8") from None
    except (EOFError, KeyboardInterrupt):
        if not interactive:
            raise
        print(file=sys.stderr)
        return None


def _handle(session: ChatSession, line: str, unknown: str) -> bool:
    """Does what a line says. Returns whether it ends the chat."""
    if not line.startswith("/"):
        if line.strip():
            _check_known(session, line, unknown)
            _print_answer(session, session.stream(line))
        return False
    name, rest, *_ = *line[1:].split(maxsplit=1), "", ""
    rest = rest.strip()
    if name not in _COMMANDS:
        raise unknown_name("command", f"/{name}", [f"/{known}" for known in _COMMANDS])
    if name in ("save", "load") and not rest:
        raise UserError(f"/{name} needs the name of a file")
    if rest and name not in ("save", "load", "system"):
        raise UserError(f"/{name} takes nothing behind it, got {rest!r}")
    match name:
        case "undo":
            _note(f"taken back: {session.undo().user}")
        case "retry":
            _print_answer(session, session.stream_retry())
        case "save":
            session.save(pathlib.Path(rest).expanduser())
            _note(f"saved: {_count(len(session.history), 'turn')}")
        case "load":
            session.load(pathlib.Path(rest).expanduser())
            _note(f"going on after {_count(len(session.history), 'turn')}")
        case "system":
            _check_known(session, rest, unknown)
            session.format = dataclasses.replace(session.format, system=rest)
        case "help":
            print(_HELP, file=sys.stderr)
    return name == "quit"


def _print_answer(session: ChatSession, pieces: Generator[str, None, None]) -> None:
    before = session.answer.turns_cut if session.answer else 0
    with contextlib.closing(pieces), options.Spinner("answering") as spinner:
        for piece in pieces:
            spinner.stop()
            print(piece, end="", flush=True)
    print(flush=True)
    if session.answer.turns_cut > before:
        _note(f"the model is no longer shown the first {_count(session.answer.turns_cut, 'turn')}")
    if session.answer.finish_reason == "length":
        _note(f"cut off at --max-new-tokens {session.settings.max_new_tokens}")


def _check_known(session: ChatSession, text: str, unknown: str) -> None:
    if unknown == "refuse" and (characters := session.unknown_characters(text)):
        raise UserError(f"characters never seen in training: {_shown(characters)} (--unknown replace goes on without them)")


def _warn_of_format(session: ChatSession) -> None:
    form = dataclasses.replace(session.format, system="")
    if characters := session.unknown_characters(form.text([Turn("", "")])):
        print(
            f"{_PROGRAM}: turns are written with characters never seen in training ({_shown(characters)}), so the model cannot know them "
            "from the text: train it on such turns, or try another --format",
            file=sys.stderr,
        )


def _shown(characters: Sequence[str]) -> str:
    return " ".join(repr(character) if character.isspace() or not character.isprintable() else character for character in characters[:10])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _note(text: str) -> None:
    print(f"({text})", file=sys.stderr, flush=True)


def main() -> None:
    sys.exit(options.run(lambda: chat(None), _PROGRAM))
