"""`keras_lm-prepare`: from text of any size to a folder of tokens that training streams."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence

from keras_lm import corpora
from keras_lm.cli import options
from keras_lm.preparation import prepare as preparation
from keras_lm.preparation.settings import CHOICES, GROUPS, PreparationSettings
from keras_lm.privacy import desensitizing

_EPILOG = """examples:
  keras_lm-prepare --corpus 'books/*.txt' --tokenizer sentencepiece --out data/books
  keras_lm-prepare --corpus wiki.txt --document paragraph --workers 8 --out data/wiki
  keras_lm-prepare --corpus letters.txt --desensitize all --names-file names.txt --out data/letters
  keras_lm-prepare --corpus more.txt --tokenizer-from runs/quickstart --out data/more
  keras_lm-prepare --out data/wiki --resume

The folder holds tokenizer/, the shards of each split (TFRecord files of ids) and manifest.json (counts, checksums), which is written last.
What was interrupted goes on with --resume and ends with the same files; in a finished folder --resume makes damaged shards again.
How the text is cut for the workers follows from the corpus alone: the number of workers changes nothing in the files."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-prepare",
        usage="%(prog)s --corpus TEXT [TEXT ...] [--out FOLDER] [flags]\n       %(prog)s --out FOLDER --resume",
        description="Tokenize a large corpus into shards, with many processes.",
        epilog=_EPILOG,
    )
    result.add_argument("--resume", action="store_true", help="go on with the preparation in --out")
    options.add_fields(result, PreparationSettings, GROUPS, CHOICES)
    return result


def prepare(arguments: Sequence[str] | None) -> int:
    given = vars(parser().parse_args(arguments))
    resume = given.pop("resume")
    if resume:
        folder = given.pop("out", None) or PreparationSettings(**given).folder
        settings = preparation.stored_settings(folder, **given)
    else:
        settings = PreparationSettings(**given)
        preparation.check_free(settings.folder)
        desensitizing.check(settings.desensitize, settings.names_file)
        for source in settings.corpus:  # a wrong name should not cost five seconds
            if not source.startswith("tfds:"):
                corpora.open_corpus(source)

    print("starting TensorFlow ...", file=sys.stderr, flush=True)
    with options.quiet_start():
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")
    meter = _Meter()
    try:
        done = preparation.prepare(settings, resume=resume, report=meter)
    except KeyboardInterrupt:
        meter.end()
        again = options.command("keras_lm-prepare", "--out", settings.folder, "--resume")
        print(f"interrupted; to go on: {again}", file=sys.stderr)
        return 130
    finally:
        meter.end()
    if not done.bytes:
        print(f"{done.folder} is whole: nothing left to do")
    else:
        size, seconds = done.bytes / 1e6, max(done.seconds, 1e-9)
        print(f"tokenized {size:,.1f} MB of text in {seconds:,.1f} s with {done.processes} process{'es' * (done.processes > 1)}: ", end="")
        print(f"{size / seconds:,.2f} MB/s, {done.tokens / seconds:,.0f} tokens/s")
    splits = done.manifest["splits"]
    counts = ", ".join(f"{name} {entry['tokens']:,}" for name, entry in splits.items())
    shards = sum(len(entry["shards"]) for entry in splits.values())
    print(f"{shlex.quote(str(done.folder))}: tokens: {counts}; shards: {shards}; vocabulary: {done.manifest['vocabulary_size']:,}")
    if settings.desensitize:
        print(f"{desensitizing.Report.read(done.folder / desensitizing.REPORT)}  ({desensitizing.REPORT})")
    print("next: " + options.command("keras_lm-train", "--tokens", str(done.folder)))
    return 0


class _Meter:
    """How far a preparation is: on a terminal a line that moves, in a log one line every half minute."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._what, self._began, self._printed = "", 0.0, 0.0

    def __call__(self, what: str, size: int, total: int, tokens: int) -> None:
        now = time.monotonic()
        if what != self._what:
            self.end()
            self._what, self._began, self._printed = what, now, now
            if not self._terminal:
                print(f"{what} ({total / 1e6:,.1f} MB of text) ...", file=sys.stderr, flush=True)
        if now - self._printed >= (0.2 if self._terminal else 30):
            self._printed = now
            line = _progress(what, size, total, tokens, now - self._began)
            print(f"\r{line}\x1b[K" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Takes the line away."""
        if self._terminal and self._what:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _progress(what: str, size: int, total: int, tokens: int, seconds: float) -> str:
    """One line: the share done, speed, and the time that is left.

    >>> _progress("tokenizing", 250_000_000, 1_000_000_000, 200_000_000, 10.0)
    'tokenizing:  25 % of 1,000 MB, 25.0 MB/s, 20,000,000 tokens/s, 0:30 left'
    """
    speed = size / seconds if seconds else 0.0
    parts = [f"{what}: {100 * size / total if total else 0:3.0f} % of {total / 1e6:,.0f} MB", f"{speed / 1e6:,.1f} MB/s"]
    if tokens:
        parts.append(f"{tokens / seconds:,.0f} tokens/s")
    if speed:
        left = round(max(total - size, 0) / speed)
        parts.append(f"{left // 60}:{left % 60:02d} left")
    return ", ".join(parts)


def main() -> None:
    sys.exit(options.run(lambda: prepare(None), "keras_lm-prepare"))
