"""`keras_lm-evaluate`: how good a run's model is, as one line of JSON."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import tempfile
from collections.abc import Sequence

from keras_lm import corpora
from keras_lm.cli import options
from keras_lm.errors import UserError
from keras_lm.training.run import Run
from keras_lm.training.settings import CHOICES

_EPILOG = """examples:
  keras_lm-evaluate runs/quickstart
  keras_lm-evaluate runs/quickstart --part validation
  keras_lm-evaluate runs/quickstart --corpus other.txt

Prints one line of JSON: loss (nats a token), perplexity, bits_per_character, bits_per_byte, and the counts behind them."""


def parser() -> options.Parser:
    result = options.Parser(prog="keras_lm-evaluate", description="Evaluate a trained model on text it has not seen.", epilog=_EPILOG)
    result.add_argument("run", metavar="RUN", help="a run folder")
    result.add_argument(
        "--part",
        choices=("train", "validation", "test"),
        help="part of the run's own corpus; default test, or validation where there is no test",
    )
    result.add_argument("--corpus", metavar="NAME|PATH|tfds:NAME", help="evaluate on all of another corpus instead")
    result.add_argument(
        "--document", choices=CHOICES["document"], default="line", help="for --corpus: what one document of a text file is (default: line)"
    )
    result.add_argument(
        "--errors", choices=CHOICES["errors"], default="strict", help="for --corpus: bytes that are not UTF-8 (default: strict)"
    )
    result.add_argument("--data-dir", metavar="FOLDER", help="for --corpus tfds:...: folder of prepared datasets")
    return result


def evaluate(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    if given.part and given.corpus:
        raise UserError("--part is of the run's own corpus, --corpus another: give one of them")
    run = Run.open(given.run)
    if given.corpus and not given.corpus.startswith("tfds:"):
        corpora.open_corpus(given.corpus)

    options.start_tensorflow()
    from keras_lm import pipeline

    settings = run.settings
    evaluator = run.load_evaluator()
    with tempfile.TemporaryDirectory() as scratch:
        if given.corpus:
            corpus = corpora.open_corpus(given.corpus, document=given.document, errors=given.errors, data_dir=given.data_dir)
            texts = pipeline.whole_texts(corpus, settings.documents, settings.clean)
            tokens = pipeline.encode(texts, run.load_tokenizer(), pathlib.Path(scratch) / "tokens", documents=settings.documents)["test"]
            part = "all"
        else:
            parts = run.load_tokens()
            part = given.part or ("test" if len(parts["test"].ids) > 1 else "validation")
            tokens = parts[part]
        result = evaluator(tokens, progress=options.progress_bar(len(tokens.ids) - 1, "token"))
    print(json.dumps({"corpus": given.corpus or settings.corpus, "part": part, **dataclasses.asdict(result)}, ensure_ascii=False))
    return 0


def main() -> None:
    sys.exit(options.run(lambda: evaluate(None), "keras_lm-evaluate"))
