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
from keras_lm.files import replacing
from keras_lm.training.run import Run
from keras_lm.training.settings import CHOICES

_EPILOG = """examples:
  keras_lm-evaluate runs/quickstart
  keras_lm-evaluate runs/quickstart --part validation
  keras_lm-evaluate runs/quickstart --corpus other.txt
  keras_lm-evaluate runs/translation --num-beams 4 --written translations.tsv

Prints one line of JSON: loss (nats a token), perplexity, bits_per_character, bits_per_byte, and the counts behind them. Of a run of
--task translation or summarization what it writes for the sources is judged too, by BLEU and chrF or by ROUGE, beside a floor: the
translation of the most similar sentence trained on, or the text's own beginning."""


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
    result.add_argument("--num-beams", type=int, default=4, metavar="N", help="for runs of pairs: width of the beam search (default: 4)")
    result.add_argument("--written", metavar="FILE", help="for runs of pairs: write source, text and references, a line a source, to FILE")
    result.add_argument("--data-dir", metavar="FOLDER", help="for --corpus tfds:...: folder of prepared datasets")
    return result


def evaluate(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    if given.part and given.corpus:
        raise UserError("--part is of the run's own corpus, --corpus another: give one of them")
    run = Run.open(given.run)
    pairs = run.settings.reads_pairs
    if pairs and given.corpus:
        raise UserError(f"--corpus is for language models: a run of {run.settings.task} is judged on its own pairs")
    if given.written and not pairs:
        raise UserError("--written is for runs of translation and summarization")
    if given.num_beams < 1:
        raise UserError(f"--num-beams must be at least 1, got {given.num_beams}")
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
        result = evaluator(tokens, progress=None if pairs else options.progress_bar(len(tokens.ids) - 1, "token"))
    values = {"corpus": given.corpus or settings.corpus, "part": part, **dataclasses.asdict(result)}
    if pairs:
        values |= _judge(run, part, given.num_beams, given.written)
    print(json.dumps(values, ensure_ascii=False))
    return 0


def _judge(run: Run, part: str, num_beams: int, written: str | None) -> dict[str, object]:
    """What a run of pairs writes for the sources of a split, in figures; and into a file, if it is to be read."""
    from keras_lm.tasks import summarization, translation
    from keras_lm.tasks.references import references
    from keras_lm.tasks.scoring import exact_match

    task = translation if run.settings.task == "translation" else summarization
    right = references(run, part)
    scores, texts = task.evaluate(run, part, num_beams=num_beams, progress=options.progress_bar(len(right), "text"))
    if written:
        line = lambda *cells: "\t".join(" ".join(cell.split()) for cell in cells) + "\n"
        with replacing(pathlib.Path(written)) as temporary:
            lines = (line(source, text, *right[source]) for source, text in zip(right, texts, strict=True))
            temporary.write_text("".join(lines), encoding="utf-8")
    exact = exact_match(texts, list(right.values()))
    return {"num_beams": num_beams, **dataclasses.asdict(scores), "exact": exact, "floor": dataclasses.asdict(task.floor(run, part))}


def main() -> None:
    sys.exit(options.run(lambda: evaluate(None), "keras_lm-evaluate"))
