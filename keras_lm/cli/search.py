"""`keras_lm-search`: which texts mean most nearly what a query means?"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import importlib.util
import itertools
import json
import pathlib
import sys
import zlib
from collections.abc import Iterator, Sequence

from keras_lm.cli import options
from keras_lm.errors import UserError
from keras_lm.training.run import Run

_BLOCK = 256  # queries answered before any of them is printed
_PLACES = 10

_EPILOG = """examples:
  keras_lm-train --task similarity --out runs/similarity
  keras_lm-search runs/similarity indexes/news --build news.txt
  keras_lm-search runs/similarity indexes/news --text 今年的粮食产量 "another query"
  keras_lm-search runs/similarity indexes/news --file queries.txt -k 3 --json > found.jsonl

Prints the nearest texts, best first, a line each: the cosine of its vector with the query's, a tab, the text. Several queries stand above
what was found, behind "# "."""


def parser() -> options.Parser:
    result = options.Parser(prog="keras_lm-search", description="Search texts by what they mean.", epilog=_EPILOG)
    result.add_argument("run", metavar="RUN", help="a run folder of --task similarity")
    result.add_argument("index", metavar="INDEX", help="the folder of the index: a new one for --build")
    result.add_argument(
        "--build", metavar="FILE", help="make the index of a file of UTF-8 text (.gz too), a text a line; - reads standard input"
    )
    result.add_argument("--text", nargs="+", metavar="QUERY", help="search it")
    result.add_argument("--file", metavar="FILE", help="search it for each line of a file, which may be as for --build")
    result.add_argument("-k", type=int, metavar="N", help=f"how many texts to find for each query (default: {_PLACES})")
    result.add_argument("--json", action="store_true", help="a line of JSON a query")
    return result


def search(arguments: Sequence[str] | None) -> int:
    given = parser().parse_args(arguments)
    asked = given.text is not None or given.file is not None
    if asked == (given.build is not None):
        raise UserError("give --build FILE to make an index, or --text or --file to search one")
    if given.build is not None and (given.k is not None or given.json):
        raise UserError("-k and --json are for queries: leave them out where an index is made")
    run = Run.open(given.run)
    if run.settings.task != "similarity":
        raise UserError(f"{given.run} is a run of {run.settings.task}: texts are searched by one of --task similarity")
    if importlib.util.find_spec("faiss") is None:
        raise UserError("vectors are searched by faiss: pip install 'keras_lm[tasks]' (or pip install faiss-cpu)")
    for path in (given.build, given.file):
        if path not in (None, "-") and not pathlib.Path(path).is_file():
            raise UserError(f"no such file: {path!r}")
    return _build(run, given.index, given.build) if given.build is not None else _search(run, given)


def _build(run: Run, folder: str, path: str) -> int:
    if pathlib.Path(folder).exists():
        raise UserError(f"{folder} is there already: give a new folder, or remove it first")
    total = None if path == "-" else sum(1 for _ in _texts(path))  # which finds a line that is not UTF-8 before the work begins
    if total == 0:
        raise UserError(f"{path} holds no text to be searched")
    _start()
    from keras_lm.tasks.similarity import index_texts

    progress = options.progress_bar(total, "text")
    index, longer = index_texts(run, _texts(path), folder, progress=progress)
    if progress and total is None:  # a bar that knows no end ends no line
        print(file=sys.stderr)
    if longer:
        longest = run.settings.sequence_length
        print(f"{longer:,} of the texts are longer than {longest} tokens: what is behind them is not searched", file=sys.stderr)
    print(f"index: {folder}  ({len(index):,} texts)")
    print("next:", options.command("keras_lm-search", str(run.folder), folder, "--text", "..."), sep="\n  ")
    return 0


def _search(run: Run, given: argparse.Namespace) -> int:
    k = _PLACES if given.k is None else given.k
    if k < 1:
        raise UserError(f"-k must be at least 1, got {k}")
    if not (pathlib.Path(given.index) / "manifest.json").is_file():
        raise UserError(f"{given.index} holds no index (no manifest.json): --build FILE makes one")
    for query in given.text or ():
        _check_query(query)
    queries = itertools.chain(given.text or (), _texts(given.file) if given.file is not None else ())
    block = list(itertools.islice(queries, _BLOCK))
    if not block:
        raise UserError(f"{given.file} holds no query")
    _start()
    from keras_lm.tasks.index import VectorIndex
    from keras_lm.tasks.similarity import SentenceVectors, fingerprint

    index = VectorIndex.open(given.index, fingerprint(run.folder))
    encoder = SentenceVectors.of(run)
    several = len(block) > 1
    while block:
        scores, numbers = index.search(encoder.vectors(block), k)
        for query, own, found in zip(block, scores.tolist(), numbers, strict=True):
            texts = index.texts(found)
            if given.json:
                rows = [{"score": score, "text": text} for score, text in zip(own, texts, strict=True)]
                print(json.dumps({"query": query, "found": rows}, ensure_ascii=False))
                continue
            if several:
                print(f"# {_one_line(query)}")
            for score, text in zip(own, texts, strict=True):
                print(f"{score:.4f}\t{_one_line(text)}")
        sys.stdout.flush()
        block = list(itertools.islice(queries, _BLOCK))
    return 0


def _start() -> None:
    options.keep_compilations()
    print("starting TensorFlow ...", file=sys.stderr, flush=True)
    options.start_tensorflow()


def _check_query(query: str) -> None:
    if not query.strip():
        raise UserError("a query is empty: give at least one character")
    try:
        query.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"the query {query!r} is not UTF-8") from None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _texts(path: str) -> Iterator[str]:
    """The lines of a file, or of standard input, but for the empty ones."""
    name = "standard input" if path == "-" else path
    opened = contextlib.nullcontext(sys.stdin.buffer) if path == "-" else gzip.open(path) if path.endswith(".gz") else open(path, "rb")
    with opened as file:
        try:
            for number, line in enumerate(file, start=1):
                text = line.decode("utf-8").rstrip("\r\n")
                text = text.removeprefix("\ufeff") if number == 1 else text
                if text.strip():
                    yield text
        except UnicodeDecodeError:
            raise UserError(f"{name}, line {number}: this is not UTF-8") from None
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{name} is not a whole gzip file: {error}") from None


def main() -> None:
    sys.exit(options.run(lambda: search(None), "keras_lm-search"))
