"""`keras_lm-problems`: planning problems made up by the thousand, with their plans, as text to learn from."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from keras_lm.cli import options
from keras_lm.files import replacing
from keras_lm.planning.problems import HELD_OUT, WORLDS, made_up
from keras_lm.planning.texts import plan_text, problem_text

_EPILOG = f"""examples:
  keras_lm-problems blocks --sizes 3:1 4:3 5:6 --count 200000 --out plans-blocks.txt
  keras_lm-train --config recipes/plans-blocks.yaml
  keras_lm-plan blocks --learned runs/plans-blocks

Each line is a problem and the cheapest of its plans: what is known | what is wanted → what to do. One problem of {HELD_OUT} (with all that
differ from it in names alone) is held out and never written without --held-out. docs/planning.md says more."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-problems",
        usage="%(prog)s DOMAIN --out FILE [flags]",
        description="Make up planning problems, solve them, and write them as text.",
        epilog=_EPILOG,
    )
    result.add_argument("domain", choices=WORLDS, metavar="DOMAIN", help=f"one of {', '.join(WORLDS)}")
    result.add_argument("--out", required=True, metavar="FILE", help="the file to write")
    result.add_argument(
        "--sizes",
        nargs="+",
        type=_size,
        default=[(3, 1.0), (4, 3.0), (5, 6.0)],
        metavar="SIZE[:SHARE]",
        help="numbers of blocks, or of parcels, and how often each comes (default: 3:1 4:3 5:6)",
    )
    result.add_argument("--count", type=options.whole_number(1), default=200_000, metavar="NUMBER", help="of problems (default: 200000)")
    result.add_argument("--seed", type=int, default=0, help="decides them all (default: 0)")
    result.add_argument("--held-out", action="store_true", help="write those that are held out, and no others")
    return result


def problems(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    start = shown = time.monotonic()
    with replacing(given.out) as temporary, temporary.open("w", encoding="utf-8") as file:
        found = made_up(given.domain, dict(given.sizes), given.count, seed=given.seed, held_out=given.held_out)
        for number, solved in enumerate(found, 1):
            file.write(f"{problem_text(solved.problem)}{plan_text(solved.steps)}\n")
            if sys.stderr.isatty() and (now := time.monotonic()) - shown > 2:
                shown = now
                left = (now - start) / number * (given.count - number)
                print(f"\r{number:,} of {given.count:,} problems, about {left:,.0f} s left ", end="", file=sys.stderr, flush=True)
    if shown != start:
        print(file=sys.stderr)
    print(f"{given.out}: {given.count:,} problems of {given.domain}, made in {time.monotonic() - start:,.1f} s")
    return 0


def _size(text: str) -> tuple[int, float]:
    size, _, share = text.partition(":")
    try:
        found = int(size), float(share or 1)
    except ValueError:
        found = 0, 0.0
    if found[0] < 1 or not 0 < found[1] < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, with :SHARE behind it or not, got {text!r}")
    return found


def main() -> None:
    sys.exit(options.run(lambda: problems(None), "keras_lm-problems"))
