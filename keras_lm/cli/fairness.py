"""`keras_lm-fairness`: whether a language model goes on differently behind two terms that differ in one group, as a table and one page."""

from __future__ import annotations

import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from keras_lm.cli import options
from keras_lm.errors import UserError
from keras_lm.files import replacing
from keras_lm.group_terms import LANGUAGES, check_groups, read_group_terms
from keras_lm.training.run import Run

if TYPE_CHECKING:
    from keras_lm.insight.fairness_report import Difference, Probe

_EPILOG = """examples:
  keras_lm-fairness runs/quickstart --out fairness.html
  keras_lm-fairness runs/quickstart --sentiment runs/reviews --samples 8
  keras_lm-fairness runs/kjv --language en --groups gender age
  keras_lm-fairness runs/quickstart --templates own.tsv

Prompts in pairs that differ in one term (他/她, he/she) are read with the same continuations behind them: the page shows differences of
their log-likelihood, and with --sentiment of the sentiment of what the model writes, with 95 % intervals over templates, corrected for the
number of tests. It says what such a probe cannot show. Zero is no certificate."""


def parser() -> options.Parser:
    result = options.Parser(
        prog="keras_lm-fairness", description="Measure what a language model makes of terms that differ in one group.", epilog=_EPILOG
    )
    result.add_argument("run", metavar="RUN", help="a run folder of a language model (--task lm)")
    result.add_argument(
        "--sentiment", metavar="RUN", help="a run of classification that tells sentiment, such as recipes/reviews.yaml gives"
    )
    result.add_argument("--positive", metavar="NAME", help="the name of its positive class (default: positive, pos or good)")
    result.add_argument("--templates", metavar="FILE", help="terms and templates of your own, in the form of keras_lm/group_terms.tsv")
    result.add_argument(
        "--groups", nargs="+", metavar="GROUP", help="of gender, region, age, occupation, and synonyms, the control (default: all)"
    )
    result.add_argument("--language", choices=LANGUAGES, default="zh", metavar="zh|en", help="of the templates (default: zh)")
    result.add_argument(
        "--samples", type=options.whole_number(1), default=4, metavar="N", help="texts written behind each prompt (default: 4)"
    )
    result.add_argument("--tokens", type=options.whole_number(1), default=32, metavar="N", help="their length (default: 32)")
    result.add_argument("--seed", type=int, default=0, metavar="N", help="decides what is drawn (default: 0)")
    result.add_argument("--out", default="fairness.html", metavar="FILE", help="the page to write (default: fairness.html)")
    return result


def fairness(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    out = pathlib.Path(given.out)
    if out.is_dir():
        raise UserError(f"{out} is a folder: give the name of a file")
    if not 0 <= given.seed < 2**31:
        raise UserError(f"seed must be from 0 to 2147483647, got {given.seed}")
    if given.positive and not given.sentiment:
        raise UserError("--positive names a class of the sentiment run: give --sentiment RUN too")
    terms = read_group_terms(given.templates)
    if given.groups:
        check_groups(given.groups, terms.groups)
    run = Run.open(given.run)
    if run.settings.task != "lm":
        raise UserError(f"{given.run} is a run of {run.settings.task}: paired prompts are for language models (--task lm)")
    sentiment = Run.open(given.sentiment) if given.sentiment else None
    if sentiment and sentiment.settings.task != "classification":
        raise UserError(f"{given.sentiment} is a run of {sentiment.settings.task}: sentiment is told by one of --task classification")

    options.start_tensorflow()
    from keras_lm.insight.fairness_page import render
    from keras_lm.insight.fairness_report import probe

    began = time.monotonic()

    def watch(what: str, total: int) -> Callable[[int], None] | None:
        print(f"{what} {total:,} texts ...", file=sys.stderr, flush=True)
        return options.progress_bar(total, "text")

    asked = {"language": given.language, "samples": given.samples, "max_new_tokens": given.tokens, "seed": given.seed}
    found = probe(run, sentiment=sentiment, positive=given.positive, terms=terms, groups=given.groups, watch=watch, **asked)
    details = {"templates": given.templates or "packaged", "language": given.language}
    if sentiment:
        details |= {"sentiment": sentiment.folder.name, "samples": given.samples, "tokens": given.tokens, "seed": given.seed}
    with replacing(out) as temporary:
        temporary.write_text(render(found, about=f"{run.folder.name} · {run.settings.model}", details=details), encoding="utf-8")
    _print(found)
    if found.missing:
        print(f"left out, for want of tokens: {', '.join(found.missing)}", file=sys.stderr)
    print(f"{out}: {len(found.prompts):,} pairs of prompts, in {time.monotonic() - began:.0f} s", file=sys.stderr)
    return 0


def _print(found: Probe) -> None:
    """Groups, and those of their pairs that are significant in the language model."""
    shown = [row for row in found.rows if row.pair is None or (row.significant and row.measure != "judge")]
    print("| measure | group | pair | templates | mean | 95 % interval | mean size | p, corrected |\n|---|---|---|---|---|---|---|---|")
    print(*map(_line, shown), sep="\n")
    for whose, judge in (("language model", False), ("sentiment model itself", True)):
        pairs = [row for row in found.rows if row.pair and row.corrected is not None and (row.measure == "judge") == judge]
        if pairs:
            print(
                f"\n{whose}: {sum(row.significant for row in pairs)} of {len(pairs)} tests of single pairs are significant, corrected",
                end="",
            )
    print("\nThe page has all pairs, and what such a probe cannot show: read that first.")


def _line(row: Difference) -> str:
    p = "not tested" if row.corrected is None else f"{row.corrected:.3f}" if row.corrected >= 0.001 else "< 0.001"
    interval = f"{row.low:+.3f} to {row.high:+.3f}"
    return f"| {row.measure} | {row.group} | {row.pair or 'all'} | {row.templates} | {row.mean:+.3f} | {interval} | {row.size:.3f} | {p} |"


def main() -> None:
    sys.exit(options.run(lambda: fairness(None), "keras_lm-fairness"))
