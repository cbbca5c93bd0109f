"""`keras_lm-inspect`: what goes on inside a trained model as it reads a text, as one page."""

from __future__ import annotations

import argparse
import pathlib
import sys
import time
from collections.abc import Sequence

from keras_lm.cli import options
from keras_lm.errors import UserError
from keras_lm.files import replacing
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings

_PARTS = ("attributions", "lens", "attention", "gates")
_MOST_TOKENS = 256  # what a page can show, and a browser draw at once

_EPILOG = """examples:
  keras_lm-inspect runs/quickstart --text 今天天气很 --out page.html
  keras_lm-inspect runs/quickstart --text 今天天气很 --target 好
  keras_lm-inspect runs/reviews --text 房间很干净，但是太吵。 --target negative
  keras_lm-inspect runs/quickstart --text 今天天气很 --show attention lens --layer block_2 --head 1
  keras_lm-inspect runs/lstm --text 今天天气很 --show gates

The page has all that the model has to show: which tokens speak for what it says next, or for a class (attributions); what it would say if
it ended at an earlier layer (lens); where each head looks (attention); gates, cell states and hidden states of recurrent layers (gates). It
needs nothing from outside, and can be sent as it is."""


def parser() -> options.Parser:
    result = options.Parser(prog="keras_lm-inspect", description="Look inside a trained model as it reads a text.", epilog=_EPILOG)
    result.add_argument("run", metavar="RUN", help="a run folder, of any task but vae")
    result.add_argument("--text", required=True, metavar="TEXT", help="what it reads; of a language model it is shown what comes next")
    result.add_argument("--target", metavar="TEXT", help="a token or a class whose score is explained (default: the most probable)")
    result.add_argument("--show", nargs="+", choices=_PARTS, metavar="PART", help=f"of {', '.join(_PARTS)} (default: all there is)")
    result.add_argument("--layer", metavar="NAME|N", help="the layer shown first (default: the last)")
    result.add_argument(
        "--head", type=options.whole_number(0), metavar="N", help="the head of attention shown first (default: the mean of all)"
    )
    result.add_argument("--out", default="page.html", metavar="FILE", help="the page to write (default: page.html)")
    return result


def inspect(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    out = pathlib.Path(given.out)
    if not given.text.strip():
        raise UserError("the text is empty: give at least one character that is not white space")
    if out.is_dir():
        raise UserError(f"{out} is a folder: give the name of a file")
    run = Run.open(given.run)
    _check(run.settings, given)

    options.start_tensorflow()
    from keras_lm.insight.inspection import inspect_text
    from keras_lm.insight.page import render
    from keras_lm.insight.reading import Reader

    began = time.monotonic()
    with options.Spinner("looking inside"):
        reader = Reader.of(run)
        tokens = len(reader.read(given.text).ids)
        if tokens > _MOST_TOKENS:
            raise UserError(f"the text has {tokens} tokens, and a page shows {_MOST_TOKENS}: shorten it")
        found = inspect_text(reader, given.text, target=given.target, show=given.show)
        page = render(found, about=f"{run.folder.name} · {run.settings.task} · {reader.model.name}", layer=given.layer, head=given.head)
    with replacing(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    size = out.stat().st_size / 1000
    print(f"{out}: {tokens} tokens, {size:,.0f} kB, in {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


def _check(settings: TrainingSettings, given: argparse.Namespace) -> None:
    """Refuses, before TensorFlow is started, what a run of these settings cannot show."""
    looks = settings.model == "transformer" or settings.reads_pairs
    asked = given.show or ()
    if settings.has_latent:
        raise UserError(f"{given.run} is a run of vae: keras_lm.tasks.latent shows what its vector holds")
    if not looks and ("attention" in asked or given.head is not None):
        raise UserError(f"{given.run} is a {settings.model}, which has no attention: --show gates attributions can be shown")
    if given.head is not None and asked and "attention" not in asked:
        raise UserError("--head is of attention: give --show attention too, or leave --show out")
    if settings.reads_pairs and (set(asked) - {"attention"} or given.target is not None):
        raise UserError(f"{given.run} is a run of {settings.task}, which can show its attention: leave --target and other parts out")
    if settings.model == "transformer" and "gates" in asked:
        raise UserError(f"{given.run} is a transformer, which has no gates: --show attention attributions lens can be shown")
    explained = settings.task in ("lm", "classification")
    if not explained and ("attributions" in asked or given.target is not None):
        raise UserError(f"{given.run} is a run of {settings.task}: attributions are of language models and classifiers")


def main() -> None:
    sys.exit(options.run(lambda: inspect(None), "keras_lm-inspect"))
