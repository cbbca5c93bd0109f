"""What the exports of keras_lm take and give, for clients that have nothing of keras_lm: names, types and defaults, and the command line
that the clients share.

Every input is a list with a value for each text, also where one value would do for all: a server that batches puts the requests of several
clients together row by row, and refuses a request whose inputs are of different lengths.
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

KNOBS: dict[str, int | float] = {
    "max_new_tokens": 128,
    "min_new_tokens": 0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "no_repeat_ngram_size": 0,
    "temperature": 0.8,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "seed": 0,
}
"""The knobs of `generate`, with their defaults; those that are whole numbers are int32, the others float32."""

TEXTS = {"serving_default": "prompts", "generate": "prompts", "score": "texts", "next_token": "prompts"}
"""The input that takes the texts, by signature."""

VALUES: dict[str, dict[str, int | float]] = {"serving_default": {}, "generate": KNOBS, "score": {}, "next_token": {"k": 10}}
"""The other inputs, by signature, with their defaults."""


def columns(signature: str, texts: Sequence[str], **values: Any) -> dict[str, list]:
    """Every input of a signature, a value for each text.

    Args:
        signature: One of `TEXTS`.
        texts: The prompts, or the texts to score.
        **values: Other inputs, each one value for all texts, or a list with one for each.

    Raises:
        ValueError: no such signature or input, a value that is no number, a list of another length.

    >>> columns("next_token", ["中国", "人民"], k=3)
    {'prompts': ['中国', '人民'], 'k': [3, 3]}
    >>> columns("generate", ["中国"], temprature=0.5)
    Traceback (most recent call last):
    ...
    ValueError: generate has no input temprature: did you mean temperature?
    """
    if signature not in TEXTS:
        raise ValueError(f"no signature {signature!r} (known: {', '.join(TEXTS)})")
    known = VALUES[signature]
    for name in values:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"{signature} has no input {name}" + (f": did you mean {nearest[0]}?" if nearest else ""))
    result: dict[str, list] = {TEXTS[signature]: list(texts)}
    for name, default in known.items():
        given = values.get(name, default)
        row = list(given) if isinstance(given, list | tuple) else [given] * len(texts)
        if len(row) != len(texts):
            raise ValueError(f"{name} has {len(row)} values for {len(texts)} texts")
        if isinstance(default, int) and not all(isinstance(value, int) for value in row):
            raise ValueError(f"{name} must be a whole number, got {given!r}")
        result[name] = [type(default)(value) for value in row]
    return result


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose errors are one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parser(program: str, description: str, server: str) -> Parser:
    """The flags that say where the server is and what it is asked for; `server` is the default of `--server`."""
    result = Parser(prog=program, description=description, allow_abbrev=False)
    result.add_argument("--server", default=server, help="where the server listens (default: %(default)s)")
    result.add_argument("--model", default="quickstart", help="the name in models.config (default: %(default)s)")
    version = result.add_mutually_exclusive_group()
    version.add_argument("--version", type=int, metavar="N", help="this version; default the newest that is loaded")
    version.add_argument("--label", help="the version that carries this label, such as stable or canary")
    result.add_argument("--timeout", type=float, metavar="SECONDS", default=60.0, help="how long to wait (default: %(default)s)")
    return result


def add_inputs(parser: Parser) -> None:
    """The flags for the signatures whose inputs are texts and numbers."""
    text = "a prompt, or a text to score; may be repeated"
    parser.add_argument("--prompt", "--text", dest="texts", metavar="TEXT", action="append", required=True, help=text)
    parser.add_argument("--signature", choices=list(TEXTS), default="generate", help="default: %(default)s")
    values = parser.add_argument_group("inputs of generate and next_token, the same for each text")
    for name, default in {**KNOBS, **VALUES["next_token"]}.items():
        flag = "--" + name.replace("_", "-")
        values.add_argument(flag, dest=name, type=type(default), default=argparse.SUPPRESS, help=f"default: {default}", metavar="N")


def given(options: argparse.Namespace) -> dict[str, list]:
    """The columns that the command line asks for."""
    values = {name: value for name, value in vars(options).items() if name in KNOBS or name == "k"}
    return columns(options.signature, options.texts, **values)


def show(texts: Sequence[str], outputs: Mapping[str, Sequence]) -> None:
    """Prints a line of JSON for each text, with what the server gave for it."""
    for number, text in enumerate(texts):
        row = {"input": text, **{name: column[number] for name, column in outputs.items()}}
        print(json.dumps(row, ensure_ascii=False), flush=True)


def fail(program: str, message: str) -> int:
    """Says in one line what is wrong; the status to end with."""
    print(f"{program}: {' '.join(message.split())}", file=sys.stderr)
    return 1
