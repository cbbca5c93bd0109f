"""`keras_lm-predict`: what a trained classifier or tagger says of texts."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Iterator, Sequence

from keras_lm.cli import options
from keras_lm.corpora import read_files
from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.training.run import Run

_BLOCK = 1024  # texts predicted before any of them is printed

_EPILOG = """examples:
  keras_lm-predict runs/reviews --text 房间很干净，服务也好。 "never again"
  keras_lm-predict runs/reviews --file texts.txt --json > answers.jsonl
  keras_lm-predict runs/words --text 我喜欢编程
  keras_lm-predict saved_models/reviews --text 房间很干净        from the SavedModel

Prints a line a text: of a classifier label, probability and text, with tabs between; of a tagger the words, as word/tag word/tag."""


def parser() -> options.Parser:
    result = options.Parser(prog="keras_lm-predict", description="Say what texts are, or mark their words.", epilog=_EPILOG)
    result.add_argument("run", metavar="RUN|EXPORT", help="a run folder of --task classification or tagging, or an export of one")
    given = result.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", nargs="+", metavar="TEXT", help="texts")
    given.add_argument("--file", metavar="FILE", help="a file of UTF-8 text (.gz too), a text a line; - reads standard input")
    result.add_argument("--json", action="store_true", help="a line of JSON a text, with the probabilities of all classes")
    return result


def predict(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    exported = layout.is_export(given.run)
    task = layout.find(given.run)[1].get("task", "lm") if exported else Run.open(given.run).settings.task
    if task not in ("classification", "tagging"):
        what = (
            "says nothing by itself: start a run of another task from it" if task == "masked" else "writes text: keras_lm-generate shows it"
        )
        raise UserError(f"{given.run} is of {task}, which {what}")
    if given.file not in (None, "-") and not pathlib.Path(given.file).is_file():
        raise UserError(f"no such file: {given.file!r}")

    print("starting TensorFlow ...", file=sys.stderr, flush=True)
    options.start_tensorflow()
    if exported:
        from keras_lm.export.labelled import ExportedLabeller

        labeller = ExportedLabeller(given.run)
    else:
        from keras_lm.tasks.labeller import Labeller

        labeller = Labeller.of(Run.open(given.run))
    for texts in _blocks(given.text, given.file):
        progress = options.progress_bar(len(texts), "text") if given.file else None
        if task == "classification":
            for text, prediction in zip(texts, labeller.classify(texts, progress), strict=True):
                found = {"text": text, "label": prediction.label, "probability": prediction.probability}
                line = json.dumps({**found, "probabilities": prediction.probabilities}, ensure_ascii=False)
                print(line if given.json else f"{prediction.label}\t{prediction.probability:.4f}\t{' '.join(text.split())}")
        else:
            for text, words in zip(texts, labeller.tag(texts, progress), strict=True):
                plain = " ".join(f"{word}/{tag}" for word, tag in words)
                print(json.dumps({"text": text, "words": words}, ensure_ascii=False) if given.json else plain)
        sys.stdout.flush()
    return 0


def _blocks(texts: Sequence[str] | None, path: str | None) -> Iterator[list[str]]:
    """Texts, some at a time, so that a large file is never held."""
    if texts is not None:
        yield list(texts)
        return
    lines = iter(sys.stdin) if path == "-" else read_files([(path, 0, None)], "line", "strict")
    block: list[str] = []
    for line in lines:
        block.append(line.rstrip("\n"))
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


def main() -> None:
    sys.exit(options.run(lambda: predict(None), "keras_lm-predict"))
