"""`keras_lm-predict`: what a trained model says of texts: their class, their words, the answer in a passage, how alike they are."""

from __future__ import annotations

import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

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
  keras_lm-predict runs/answers --text 谁写了《呐喊》？ --passage 《呐喊》是鲁迅的小说集。
  keras_lm-predict runs/similar --text 水开了 水烧开了
  keras_lm-predict saved_models/reviews --text 房间很干净        from the SavedModel

Prints a line a text, with tabs between: of classification label, probability and text; of answering answer, probability and question; of
similarity the cosine of two texts that follow each other, and both; of tagging the words, as word/tag word/tag. In a FILE a line is a text;
for answering a question, a tab and its passage; for similarity two texts with a tab between."""


def parser() -> options.Parser:
    result = options.Parser(prog="keras_lm-predict", description="Say what texts are, or what stands in them.", epilog=_EPILOG)
    result.add_argument("run", metavar="RUN|EXPORT", help="a run folder of --task " + ", ".join(_TASKS) + ", or an export of one")
    given = result.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", nargs="+", metavar="TEXT", help="texts; for answering questions, for similarity two or four or more")
    given.add_argument("--file", metavar="FILE", help="a file of UTF-8 text (.gz too), a text a line; - reads standard input")
    result.add_argument("--passage", metavar="TEXT", help="for answering: the passage that holds the answers")
    result.add_argument("--json", action="store_true", help="a line of JSON a text, with all that is known")
    return result


def predict(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    exported = layout.is_export(given.run)
    task = layout.find(given.run)[1].get("task", "lm") if exported else Run.open(given.run).settings.task
    if task not in _TASKS:
        what = (
            "says nothing by itself: start a run of another task from it" if task == "masked" else "writes text: keras_lm-generate shows it"
        )
        raise UserError(f"{given.run} is of {task}, which {what}")
    if given.file not in (None, "-") and not pathlib.Path(given.file).is_file():
        raise UserError(f"no such file: {given.file!r}")
    if (given.passage is not None) != (task == "answering" and given.text is not None):
        raise UserError("--passage goes with --text and a run of answering: both, or a --file of question TAB passage")
    if task == "similarity" and given.text and len(given.text) % 2:
        raise UserError(f"texts are compared two by two: give an even number of them, got {len(given.text)}")

    print("starting TensorFlow ...", file=sys.stderr, flush=True)
    options.start_tensorflow()
    model = _opened(given.run, task, exported)
    rows = _TASKS[task]
    for first, texts in _blocks(given.text, given.file):
        items: list = texts
        if task in ("answering", "similarity"):
            items = [(text, given.passage) for text in texts] if given.passage is not None else _pairs(texts, first, given.file)
        progress = options.progress_bar(len(items), "text") if given.file else None
        for found, plain in rows(model, items, progress):
            print(json.dumps(found, ensure_ascii=False) if given.json else plain)
        sys.stdout.flush()
    return 0


def _opened(folder: str, task: str, exported: bool) -> Any:
    if exported:
        from keras_lm.export.labelled import ExportedLabeller

        return ExportedLabeller(folder)
    run = Run.open(folder)
    if task == "answering":
        from keras_lm.tasks.answering import Answerer

        return Answerer.of(run)
    if task == "similarity":
        from keras_lm.tasks.similarity import SentenceVectors

        return SentenceVectors.of(run)
    from keras_lm.tasks.labeller import Labeller

    return Labeller.of(run)


Rows = Iterator[tuple[dict[str, Any], str]]
Progress = Callable[[int], None] | None


def _classes(model: Any, texts: list[str], progress: Progress) -> Rows:
    for text, said in zip(texts, model.classify(texts, progress), strict=True):
        found = {"text": text, "label": said.label, "probability": said.probability, "probabilities": said.probabilities}
        yield found, f"{said.label}\t{said.probability:.4f}\t{_line(text)}"


def _words(model: Any, texts: list[str], progress: Progress) -> Rows:
    for text, words in zip(texts, model.tag(texts, progress), strict=True):
        yield {"text": text, "words": words}, " ".join(f"{word}/{tag}" for word, tag in words)


def _answers(model: Any, asked: list[tuple[str, str]], progress: Progress) -> Rows:
    questions, passages = zip(*asked, strict=True)
    for question, said in zip(questions, model.answer(questions, passages, progress), strict=True):
        found = {"question": question, "answer": said.text, "start": said.start, "probability": said.probability}
        yield found, f"{_line(said.text)}\t{said.probability:.4f}\t{_line(question)}"


def _cosines(model: Any, texts: list[tuple[str, str]], progress: Progress) -> Rows:
    vectors = model.vectors([text for pair in texts for text in pair], progress and (lambda done: progress(done // 2)))
    for (first, second), cosine in zip(texts, (vectors[::2] * vectors[1::2]).sum(axis=1).tolist(), strict=True):
        yield {"first": first, "second": second, "cosine": cosine}, f"{cosine:.4f}\t{_line(first)}\t{_line(second)}"


_TASKS = {"classification": _classes, "tagging": _words, "answering": _answers, "similarity": _cosines}


def _line(text: str) -> str:
    return " ".join(text.split())


def _pairs(texts: list[str], first: int, path: str | None) -> list[tuple[str, str]]:
    """Of lines of a file, the first of which has this number, what stands before and behind the tab; or texts two by two."""
    if path is None:
        return list(zip(texts[::2], texts[1::2], strict=True))
    cut = [tuple(part.strip() for part in line.split("\t")) for line in texts]
    for number, parts in enumerate(cut, start=first):
        if len(parts) != 2 or not all(parts):
            raise UserError(f"{path}, line {number}: two texts with a tab between should stand here")
    return cut


def _blocks(texts: Sequence[str] | None, path: str | None) -> Iterator[tuple[int, list[str]]]:
    """The number of the first of some texts and these, so that a large file is never held."""
    if texts is not None:
        yield 1, list(texts)
        return
    lines = iter(sys.stdin) if path == "-" else read_files([(path, 0, None)], "line", "strict")
    block: list[str] = []
    first = 1
    for line in lines:
        block.append(line.rstrip("\n"))
        if len(block) == _BLOCK:
            yield first, block
            first += len(block)
            block = []
    if block:
        yield first, block


def main() -> None:
    sys.exit(options.run(lambda: predict(None), "keras_lm-predict"))
