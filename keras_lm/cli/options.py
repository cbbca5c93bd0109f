"""From a settings dataclass to command-line flags, and from an exception to one line.

The docstring of the dataclass is the help: what stands there under `Args:` is what `--help` prints. A flag that is not given leaves
no trace, so that a recipe or a resumed run can tell what was asked for from what is a default.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import dataclasses
import difflib
import functools
import hashlib
import importlib.metadata
import inspect
import itertools
import os
import re
import shlex
import shutil
import sys
import tempfile
import threading
import time
import traceback
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

from keras_lm.errors import UserError


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line, with the nearest flag for one that does not exist."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None) -> argparse.Namespace:  # type: ignore[override]
        namespace, unknown = self.parse_known_args(args)
        if unknown:
            flag = unknown[0].partition("=")[0]
            nearest = difflib.get_close_matches(flag, list(self._option_string_actions), n=1)
            self.error(f"unknown argument {unknown[0]}" + (f": did you mean {nearest[0]}?" if nearest else f" (see {self.prog} --help)"))
        return namespace

    def error(self, message: str) -> typing.NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def add_fields(
    parser: argparse.ArgumentParser,
    settings: type,
    groups: Mapping[str, str],
    choices: Mapping[str, Sequence[str]] | None = None,
    only: Sequence[str] | None = None,
) -> None:
    """Adds a flag for each field of a dataclass.

    Args:
        parser: Gets the flags.
        settings: A dataclass whose docstring describes every field under `Args:`.
        groups: Headings of the help, by the field that each begins with; the first field must be there.
        choices: The words that a field takes, for the fields that take words.
        only: The fields that get a flag; default all.
    """
    described = argument_descriptions(settings.__doc__)
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if only is not None and field.name not in only:
            continue
        if field.name in groups:
            group = parser.add_argument_group(groups[field.name])
        flag = "--" + field.name.replace("_", "-")
        options = list(typing.get_args(hints[field.name]) if isinstance(hints[field.name], types.UnionType) else [hints[field.name]])
        kind = next(option for option in options if option is not types.NoneType)
        text = described[field.name].replace("%", "%%")
        if "default" not in text and field.default not in (None, "", ()):
            shown = ("yes" if field.default else "no") if kind is bool else field.default
            text += f" (default: {shown})"
        arguments: dict[str, object] = {"dest": field.name, "default": argparse.SUPPRESS, "help": text}
        if kind is bool:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **arguments)
        elif typing.get_origin(kind) is tuple:
            group.add_argument(flag, nargs="+", action=_Tuple, metavar="TEXT", **arguments)
        else:
            words = (choices or {}).get(field.name)
            metavar = "|".join(words) if words else {int: "N", float: "F", str: "TEXT"}[kind]
            group.add_argument(flag, type=_converter(kind), metavar=metavar, **arguments)


def argument_descriptions(docstring: str) -> dict[str, str]:
    """The entries of the `Args:` section of a docstring, by name.

    Example:

    >>> argument_descriptions('''Title.
    ...
    ...     Args:
    ...         size: How large,
    ...             in metres.
    ...         name: What it is called.
    ...
    ...     Raises:
    ...         ValueError: never.
    ... ''')
    {'size': 'How large, in metres.', 'name': 'What it is called.'}
    """
    text = inspect.cleandoc(docstring)  # Python 3.13 takes the indentation away itself
    section = re.search(r"^Args:\n(.*?)(?=\n\n|\Z)", text, re.DOTALL | re.MULTILINE).group(1)
    entries = re.findall(r"^ {4}(\w+): (.*?)(?=\n {4}\w|\Z)", section, re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


class _Tuple(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _converter(kind: type) -> Callable[[str], object]:
    def convert(text: str) -> object:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{'a whole number' if kind is int else 'a number'} is needed, got {text!r}") from None

    return convert


ASKED = {"answering": ("QUESTION", "--passage", "PASSAGE"), "similarity": ("...", "...")}
"""What stands behind `keras_lm-predict RUN --text`, by task, where it is not one text."""


def whole_number(least: int) -> Callable[[str], int]:
    """What `argparse` makes a whole number of, `least` or more."""

    def convert(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} on, got {text!r}")
        return int(text)

    return convert


def command(*words: str) -> str:
    """A command line to type next: a sibling of the running script, with its folder in front where the shell would not find it."""
    name, *arguments = words
    folder = os.path.dirname(sys.argv[0])
    if folder and not shutil.which(name):
        name = os.path.join(os.path.relpath(folder), name)
    return shlex.join([name, *arguments])


def run(main: Callable[[], int | None], program: str) -> int:
    """Calls a command's main function and turns what it raises into one line and a status.

    Returns:
        0 for success, 2 for bad input and for what the operating system refuses, 130 for Ctrl-C, 1 for anything else.
    """
    warnings.showwarning = functools.partial(_show_warning, program, warnings.showwarning)
    try:
        return main() or 0
    except UserError as error:
        message, status = str(error), 2
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone: nothing to flush to
        return 0
    except OSError as error:
        message, status = _describe(error), 2
    except Exception as error:  # the last resort: a person should not meet a traceback
        message, status = _tensorflow_error(error)
        if os.environ.get("KERAS_LM_TRACEBACK"):
            traceback.print_exc()
    print(f"{program}: {message}", file=sys.stderr)
    return status


def _show_warning(program: str, usual: Callable[..., None], message: Warning, category: type[Warning], *where: object) -> None:
    """What the library says to a person as one line; what Python says to programmers as ever."""
    if category is UserWarning:
        print(f"{program}: {message}", file=sys.stderr)
    else:
        usual(message, category, *where)


def _describe(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"


def _tensorflow_error(error: Exception) -> tuple[str, int]:
    first = str(error).strip().partition("\n")[0]
    if "tensorflow" in sys.modules:
        errors = sys.modules["tensorflow"].errors
        refused = (
            errors.ResourceExhaustedError,
            errors.PermissionDeniedError,
            errors.FailedPreconditionError,
            errors.NotFoundError,
            errors.UnknownError,
        )
        if isinstance(error, refused):
            return first, 2
    return f"unexpected {type(error).__name__}: {first} (KERAS_LM_TRACEBACK=1 shows where)", 1


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Imports of TensorFlow inside say nothing on standard error, unless they fail."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except BaseException:
            log.seek(0)
            os.write(saved, log.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)


class Spinner:
    """Shows on a terminal that something goes on which cannot say how far it is: a turning stroke and the seconds.

    Args:
        text: What goes on.
    """

    def __init__(self, text: str):
        self._text = text
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._turn, daemon=True)

    def __enter__(self) -> Spinner:
        if sys.stderr.isatty():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Takes the line away; more than once does no harm."""
        if self._thread.is_alive():
            self._end.set()
            self._thread.join()
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _turn(self) -> None:
        began = time.monotonic()
        for stroke in itertools.cycle("|/-\\"):
            print(f"\r{stroke} {self._text} ({time.monotonic() - began:.0f} s)", end="", file=sys.stderr, flush=True)
            if self._end.wait(0.15):
                return


def progress_bar(total: int, unit: str) -> Callable[[int], None] | None:
    """A bar on standard error, to be told how much is done; none where standard error is no terminal. TensorFlow has been started."""
    import keras

    if not sys.stderr.isatty():
        return None
    bar = keras.utils.Progbar(total, unit_name=unit)

    def show(done: int) -> None:
        # Keras' bar writes to standard output, which is for the result.
        stdout, sys.stdout = sys.stdout, sys.stderr
        try:
            bar.update(done)
        finally:
            sys.stdout = stdout

    return show


def keep_compilations() -> None:
    """Has XLA keep what it compiles in `$XDG_CACHE_HOME/keras_lm` (`~/.cache/keras_lm`), so that the second start does not compile again.

    A folder for each kind of processor and release of TensorFlow, as machine code is good for both alone. `KERAS_LM_XLA_CACHE` names
    another folder; empty, it switches this off, as does a flag of the kind in `TF_XLA_FLAGS`. To be called before TensorFlow is imported.
    """
    flag, flags = "--tf_xla_persistent_cache_directory", os.environ.get("TF_XLA_FLAGS", "")
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.environ.get("KERAS_LM_XLA_CACHE", os.path.join(home, "keras_lm", "xla"))
    if not folder or flag in flags:
        return
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = sorted({line for line in file if line.startswith(("model name", "flags"))})
        kind = hashlib.sha256("".join([*processor, importlib.metadata.version("tensorflow")]).encode()).hexdigest()[:16]
        os.makedirs(os.path.join(folder, kind), exist_ok=True)
    except OSError:  # no such file on this system, or a home that cannot be written to
        return
    os.environ["TF_XLA_FLAGS"] = f"{flags} {flag}={os.path.join(folder, kind)}".strip()


def keep_memory() -> None:
    """Has the C library keep memory that is freed, and take large buffers from a part of the heap that has pages of 2 MB.

    A step of training takes buffers of many MB and frees them. As glibc comes, it gives them back to the system, and each of their pages
    costs a fault at its next touch: 190,000 a second where a small Transformer is trained, a fifth of the time. Weights are read from end
    to end for every token that is drawn: in small pages a sixth of that time goes by looking for them (docs/performance.md, for both).
    With another C library, or where the system has no such pages, nothing happens.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # glibc's malloc.h
    with contextlib.suppress(AttributeError, OSError, ValueError):
        libc = ctypes.CDLL(None)
        libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        libc.mallopt(trim_threshold, 2**31 - 1)
        # The heap is made large in one go, before it is used: what it grows by later has small pages. Memory is taken when it is touched.
        libc.mallopt(top_pad, min(_LARGE_PAGES, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4))
        libc.mallopt(mmap_max, 0)
        libc.free(libc.malloc(ctypes.c_size_t(1 << 20)))
        libc.mallopt(top_pad, 1 << 20)
        _advise_large_pages(libc)


_LARGE_PAGES = 2032 << 20  # bytes: `mallopt` takes less than 2 GiB, and more than it keeps free would be given back


def _advise_large_pages(libc: ctypes.CDLL) -> None:
    """Asks for pages of 2 MB in the heap, as far as it reaches now."""
    size, advice = 2 << 20, 14  # MADV_HUGEPAGE of Linux
    with open("/proc/self/maps", encoding="utf-8") as file:
        (heap,) = (line.split()[0] for line in file if line.rstrip().endswith("[heap]"))
    begin, end = (int(border, 16) for border in heap.split("-"))
    begin, end = -(-begin // size) * size, end // size * size
    libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(max(0, end - begin)), advice)


def start_tensorflow() -> None:
    """Imports TensorFlow and Keras quietly; called once the arguments are known to be good."""
    keep_memory()
    with quiet_start():
        import keras  # noqa: F401
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
        tf.config.list_physical_devices()  # where there is no GPU, asking for one writes to standard error once
