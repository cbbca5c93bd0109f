"""`keras_lm-evaluate`: how good a run's model is, as one line of JSON."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterable, Sequence

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
  keras_lm-evaluate runs/headlines --min-new-tokens 18

Prints one line of JSON: loss (nats a token), perplexity, bits_per_character, bits_per_byte, and the counts behind them. Of a run of
--task translation or summarization what it writes for the sources is judged too, by BLEU and chrF or by ROUGE, beside a floor: the
translation of the most similar sentence trained on, or the text's own beginning. Of --task classification accuracy and F1, beside a bag of
words that learnt from the same texts; of --task tagging F1 of the words found, and of words with their tags, beside jieba; of --task
answering exact match and F1, beside the span nearest to the question; of --task similarity Spearman's correlation with the scores, or how
often the text that belongs to another is found, beside TF-IDF. Of --task vae loss and perplexity are bounds, made up of reconstruction and
kl (nats a sentence); active_units says how much of the vector is used, and importance_weighted_perplexity is a tighter bound. All compare
with the perplexity of a language model trained on the same corpus with --by-document."""


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
    result.add_argument(
        "--min-new-tokens",
        type=int,
        default=0,
        metavar="N",
        help="for runs of pairs: fewest tokens of what is written; short headlines and summaries cost ROUGE (default: 0, off)",
    )
    result.add_argument(
        "--written",
        metavar="FILE",
        help="write a line for each text to FILE: source, text and references of pairs; of labels text, what is right, what was said",
    )
    result.add_argument(
        "--importance-samples",
        type=int,
        default=10,
        metavar="N",
        help="for a vae: vectors a sentence for the tighter bound; 0 is off (default: 10)",
    )
    result.add_argument("--data-dir", metavar="FOLDER", help="for --corpus tfds:...: folder of prepared datasets")
    return result


def evaluate(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    if given.part and given.corpus:
        raise UserError("--part is of the run's own corpus, --corpus another: give one of them")
    run = Run.open(given.run)
    examples = run.settings.reads_pairs or run.settings.reads_labels
    if examples and given.corpus:
        raise UserError(f"--corpus is for language models: a run of {run.settings.task} is judged on its own corpus")
    if given.written and not examples:
        raise UserError("--written is for runs of pairs and of texts with labels")
    if given.num_beams < 1:
        raise UserError(f"--num-beams must be at least 1, got {given.num_beams}")
    if given.min_new_tokens < 0:
        raise UserError(f"--min-new-tokens must be 0 or more, got {given.min_new_tokens}")
    if given.importance_samples < 0:
        raise UserError(f"--importance-samples must be 0 or more, got {given.importance_samples}")
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
        result = evaluator(tokens, progress=None if examples else options.progress_bar(len(tokens.ids) - 1, "token"))
        values = {"corpus": given.corpus or settings.corpus, "part": part, **dataclasses.asdict(result)}
        if settings.has_latent:
            values |= _judge_vae(evaluator, tokens, result, given.importance_samples)
    if run.settings.reads_pairs:
        values |= _judge(run, part, {"num_beams": given.num_beams, "min_new_tokens": given.min_new_tokens}, given.written)
    elif examples:
        values |= _judge_labels(run, part, given.written)
    print(json.dumps(values, ensure_ascii=False))
    return 0


def _judge(run: Run, part: str, search: dict[str, int], written: str | None) -> dict[str, object]:
    """What a run of pairs writes for the sources of a split, in figures; and into a file, if it is to be read."""
    from keras_lm.tasks import summarization, translation
    from keras_lm.tasks.references import references
    from keras_lm.tasks.scoring import exact_match

    task = translation if run.settings.task == "translation" else summarization
    right = references(run, part)
    scores, texts = task.evaluate(run, part, **search, progress=options.progress_bar(len(right), "text"))
    if written:
        _write(written, ((source, text, *right[source]) for source, text in zip(right, texts, strict=True)))
    exact = exact_match(texts, list(right.values()))
    return {**search, **dataclasses.asdict(scores), "exact": exact, "floor": dataclasses.asdict(task.floor(run, part))}


def _judge_vae(evaluator, tokens, result, samples: int) -> dict[str, object]:
    """What else is to be said of a VAE: a tighter bound, and whether its vector is used."""
    from keras_lm.vae_evaluation import collapse

    collapsed = collapse(result)
    if collapsed:
        print(f"keras_lm-evaluate: {collapsed}", file=sys.stderr)
    more: dict[str, object] = {"collapsed": collapsed is not None}
    if samples:
        bar = options.progress_bar(samples * result.tokens, "token")
        more |= {"importance_samples": samples, "importance_weighted_perplexity": evaluator.importance_weighted(tokens, samples, bar)}
    return more


def _judge_labels(run: Run, part: str, written: str | None) -> dict[str, object]:
    """What a run says of the texts of a split, in figures; and into a file, if it is to be read."""
    task = importlib.import_module(f"keras_lm.tasks.{run.settings.task}")
    held_out = task.held_out(run, part)
    scores, said = task.evaluate(run, part, progress=options.progress_bar(len(held_out), "text"))
    if written:
        _write(written, task.rows(run, held_out, said))
    return {**dataclasses.asdict(scores), "floor": dataclasses.asdict(task.floor(run, part))}


def _write(path: str, rows: Iterable[Sequence[str]]) -> None:
    """Rows as lines of cells between tabs."""
    with replacing(pathlib.Path(path)) as temporary:
        temporary.write_text("".join("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    sys.exit(options.run(lambda: evaluate(None), "keras_lm-evaluate"))
