"""`keras_lm-audit`: how much of what a language model writes stands word for word in what it learnt from."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from keras_lm import corpora
from keras_lm.cli import options
from keras_lm.errors import UserError
from keras_lm.files import replacing
from keras_lm.generation.settings import SamplingSettings
from keras_lm.training.run import Run

if TYPE_CHECKING:
    from keras_lm.insight.audit import Audit
    from keras_lm.privacy.overlap import Overlap

_PART = 200  # megabytes
_MOST_PART = 2000
_MEMORY = 8  # bytes for each of a part

_EPILOG = """examples:
  keras_lm-audit runs/quickstart
  keras_lm-audit runs/quickstart --samples 1000 --temperature 1 -n 4 8 16 --out audit.json
  keras_lm-audit runs/quickstart --texts written.txt
  keras_lm-audit runs/quickstart --corpus peoples-daily

Each text is compared with the text that the run learnt from, which is made of the ids in its folder: the longest run of characters that
stands there too, and how many runs of n characters (n-grams) do not. Beside it stands the same of text of the corpus that was held out, as
long as the texts: a model that repeats what it read shares longer runs than that. The corpus is compared in parts, so that it may be larger
than memory."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-audit",
        usage="%(prog)s RUN [--texts FILE | --samples N] [flags]",
        description="Compare what a trained model writes with what it learnt from, word for word.",
        epilog=_EPILOG,
    )
    result.add_argument("run", metavar="RUN", help="a run folder of --task lm")
    what = result.add_mutually_exclusive_group()
    what.add_argument("--texts", metavar="FILE", help="compare these texts, one a line (or a paragraph, as the run reads its corpus)")
    what.add_argument(
        "--samples", type=options.whole_number(1), metavar="N", help="compare this many texts, which the run writes (default: 100)"
    )
    result.add_argument("--prompt", default="", metavar="TEXT", help="what the texts that it writes go on with (default: nothing)")
    result.add_argument(
        "--corpus", metavar="FILE|NAME", help="read this in place of the run's ids, as the run's settings say: where those are gone"
    )
    result.add_argument(
        "-n",
        nargs="+",
        type=options.whole_number(1),
        default=[2, 4, 8, 16, 32],
        metavar="N",
        help="n-grams to count (default: 2 4 8 16 32)",
    )
    result.add_argument(
        "--part-size",
        type=options.whole_number(1),
        default=_PART,
        metavar="MB",
        help=f"of the corpus at a time; {_MEMORY} MB of memory each (default: {_PART})",
    )
    result.add_argument("--show", type=int, default=3, metavar="N", help="print the N longest runs and where they stand (default: 3)")
    result.add_argument("--out", metavar="FILE", help="write all of it, text by text, as JSON")
    options.add_fields(result, SamplingSettings, {"max_new_tokens": "sampling"}, only=_SAMPLING)
    return result


_SAMPLING = ("max_new_tokens", "temperature", "top_k", "top_p", "seed")


def audit(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    knobs = {name: value for name, value in vars(given).items() if name in _SAMPLING}
    settings = SamplingSettings(**knobs)
    if given.texts is not None and (asked := [name for name in knobs if name != "seed"] + ["prompt"] * bool(given.prompt)):
        raise UserError(f"--texts is compared as it is: leave --{asked[0].replace('_', '-')} out")
    run = Run.open(given.run)
    _check(run, given)

    options.keep_compilations()
    options.start_tensorflow()
    from keras_lm.insight.audit import audit as compare
    from keras_lm.insight.audit import sample

    began = time.monotonic()
    if given.texts is None:
        with options.Spinner("loading, compiling and writing"):
            texts = sample(run, given.samples or 100, settings, given.prompt)
        origin = f"{len(texts):,} texts that {run.folder} writes"
    else:
        texts = list(filter(str.strip, corpora.open_corpus(given.texts, document=run.settings.document).documents()))
        origin = f"{len(texts):,} texts of {given.texts}"
    with options.Spinner("comparing with what was learnt"):
        found = compare(run, texts, corpus=given.corpus, part_bytes=given.part_size * 1_000_000, seed=settings.seed)
    parts = f" in {found.parts} parts" if found.parts > 1 else ""
    print(f"{origin}, beside {found.corpus_bytes / 1e6:,.1f} MB that it learnt from{parts}")
    _print_runs(found)
    _print_novelty(found, given.n)
    _print_longest(found.texts, given.show)
    if given.out:
        _write(found, given.n, pathlib.Path(given.out))
    print(f"in {time.monotonic() - began:.1f} s" + (f": {given.out}" if given.out else ""), file=sys.stderr)
    return 0


def _check(run: Run, given: argparse.Namespace) -> None:
    """Refuses, before TensorFlow is started, what cannot be compared."""
    if run.settings.task != "lm":
        raise UserError(f"{given.run} is a run of {run.settings.task}: what is compared with its corpus are the texts of --task lm")
    if given.texts is None and not (run.folder / "model.keras").is_file():
        raise UserError(f"{given.run} has no model.keras yet: let it train up to its first evaluation, or give --texts FILE")
    if given.texts is not None and not pathlib.Path(given.texts).is_file():
        raise UserError(f"no such file of texts: {given.texts}")
    if given.texts is not None and not pathlib.Path(given.texts).read_bytes().strip():
        raise UserError(f"{given.texts} is empty: give a text on each line")
    if given.corpus is None and not (run.tokens_folder / "manifest.json").is_file():
        raise UserError(f"the ids that {given.run} learnt from are gone ({run.tokens_folder}): give its text by --corpus")
    if given.corpus is not None and not given.corpus.startswith("tfds:"):
        corpora.open_corpus(given.corpus)
    if given.out and pathlib.Path(given.out).is_dir():
        raise UserError(f"{given.out} is a folder: give the name of a file")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1_000_000 if hasattr(os, "sysconf") else None
    most = min(_MOST_PART, memory // _MEMORY) if memory else _MOST_PART
    if given.part_size > most:
        raise UserError(f"--part-size must be at most {most} on this machine ({_MEMORY} MB of memory each), got {given.part_size}")
    from keras_lm.privacy.overlap import check_installed

    check_installed()


def _columns(found: Audit) -> dict[str, Sequence[Overlap]]:
    return {"these texts": found.texts, **({"held out": found.held_out} if found.held_out else {})}


def _print_runs(found: Audit) -> None:
    import numpy as np

    print("\nlongest run that stands there too, in characters\n")
    print("| | median | 90 % | 99 % | longest | whole texts |\n|---|---|---|---|---|---|")
    for name, own in _columns(found).items():
        sizes = np.array([one.longest for one in own])
        cells = [f"{value:.0f}" for value in np.percentile(sizes, [50, 90, 99], method="higher")]
        whole = sum(bool(one.text) and one.longest == len(one.text) for one in own)
        print(f"| {name} | " + " | ".join([*cells, str(sizes.max()), f"{whole} of {len(own):,}"]) + " |")


def _print_novelty(found: Audit, sizes: Iterable[int]) -> None:
    columns = _columns(found)
    print("\nshare of the n-grams that do not stand there\n\n| n | " + " | ".join(columns) + " |\n|---" + "|---" * len(columns) + "|")
    short = []
    for n in dict.fromkeys(sizes):
        shares = [_novelty(own, n) for own in columns.values()]
        print(f"| {n} | " + " | ".join("-" if share is None else f"{share:.1%}" for share in shares) + " |")
        short += [n] if shares[0] is None else []
    if short:
        print(f"\nno text has {min(short)} characters: there are no n-grams of that size to count")


def _novelty(own: Sequence[Overlap], n: int) -> float | None:
    new, all_of_them = map(sum, zip(*(one.novel(n) for one in own), strict=True))
    return new / all_of_them if all_of_them else None


def _print_longest(texts: Sequence[Overlap], number: int) -> None:
    ranked = sorted(enumerate(texts, 1), key=lambda pair: -pair[1].longest)[: max(number, 0)]
    for place, one in ranked:
        if one.longest:
            where = f"document {one.document + 1:,} of the training text, character {one.position + 1:,}"
            print(f"\n{one.longest} characters of text {place}: {_line(one.span)}\n  {where}: ...{_line(one.around)}...")


def _line(text: str) -> str:
    return " ".join(text.split()) if len(text) <= 300 else " ".join(f"{text[:140]} ... {text[-140:]}".split())


def _write(found: Audit, sizes: Iterable[int], path: pathlib.Path) -> None:
    def described(own: Sequence[Overlap]) -> list[dict[str, Any]]:
        return [
            {
                "text": one.text,
                "longest": one.longest,
                "span": one.span,
                "start": one.start,
                "document": one.document,
                "position": one.position,
                "novel": {n: list(one.novel(n)) for n in sizes},
            }
            for one in own
        ]

    values = {"corpus_bytes": found.corpus_bytes, "parts": found.parts, "novelty": {}}
    values["novelty"] = {name: {n: _novelty(own, n) for n in sizes} for name, own in _columns(found).items()}
    values |= {"texts": described(found.texts), "held_out": described(found.held_out)}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    sys.exit(options.run(lambda: audit(None), "keras_lm-audit"))
