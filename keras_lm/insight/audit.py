"""How much of what a language model writes stands word for word in what it learnt from, beside how much of what people wrote does.

Any text of a language shares runs with any large corpus: dates, names, phrases. So a number means something beside the same of text that
the model did not learn from either, out of the same corpus: excerpts of what was held out, as long as the texts. A model whose texts share
longer runs than those repeats what it read.

The text that was learnt from is made of the ids that lie in the run, so that the corpus is not needed, and secrets that were masked are
masked; it is read in parts, and none of it is held but one (`keras_lm.privacy.overlap`).
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_lm import cleaning, corpora, pipeline
from keras_lm.deduplication import deduplicated
from keras_lm.errors import UserError
from keras_lm.generation.settings import SamplingSettings
from keras_lm.privacy import desensitizing
from keras_lm.privacy.overlap import BREAK, CorpusSize, Overlap, in_parts, overlaps
from keras_lm.tokenizer_base import Tokenizer
from keras_lm.training.run import Run

PART_BYTES = 200_000_000
"""Of the corpus, compared at a time; eight bytes of memory each."""

_BLOCK = 1 << 20  # ids, or characters, at a time
_MOST_HELD_OUT = 50_000_000  # bytes of what was held out, from which excerpts are drawn
_UNKNOWN = b"\xfe"  # which no text holds, as what was unknown is not to be found


@dataclasses.dataclass(frozen=True)
class Audit:
    """What texts have in common with what a run learnt from.

    Attributes:
        texts: Of each text.
        held_out: Of an excerpt of what was held out for each, as long as it where there is one as long; empty where nothing was held out.
        corpus_bytes, parts: What was read, and in how many parts.
    """

    texts: Sequence[Overlap]
    held_out: Sequence[Overlap]
    corpus_bytes: int
    parts: int


def audit(run: Run, texts: Sequence[str], *, corpus: str | None = None, part_bytes: int = PART_BYTES, seed: int = 0) -> Audit:
    """Compares texts with what a run learnt from.

    Args:
        run: Of a language model.
        texts: What it wrote, or any other; they go through the cleaners of the run.
        corpus: A text to read in place of the run's ids, as the run's settings have it read: the part to learn from is compared with, and
            excerpts come from the rest.
        part_bytes: Of the corpus, compared at a time.
        seed: Chooses the excerpts.

    Raises:
        UserError: no text; a run of another task; ids or corpus that are gone.

    Example: `audit(run, sample(run, 100)).texts[0].longest`
    """
    check(run)
    clean = cleaning.compose(run.settings.clean)
    texts = [text.decode("utf-8", "replace") for text in clean(tf.constant(list(texts), tf.string)).numpy()] if texts else []
    if not any(texts):
        raise UserError("there is no text to compare: give at least one character")
    excerpts = _excerpts(_held_out(run, corpus), list(map(len, texts)), seed, anywhere=not run.settings.documents)
    longest = max(len(text.encode("utf-8", "replace")) for text in [*texts, *excerpts])
    size = CorpusSize()
    found = overlaps([*texts, *excerpts], in_parts(learnt_text(run, corpus=corpus), part_bytes, longest), size)
    return Audit(found[: len(texts)], found[len(texts) :], size.bytes, size.parts)


def sample(run: Run, number: int, settings: SamplingSettings | None = None, prompt: str = "", batch_size: int = 64) -> list[str]:
    """Texts that a run writes, the prompt left out.

    Args:
        run: Of a language model.
        number: How many.
        settings: How to sample; default `SamplingSettings()`.
        prompt: What they go on with; default nothing.
        batch_size: Texts drawn at a time.

    Raises:
        UserError: as `Run.make_generator` and `TextGenerator.generate`.
    """
    generator, settings, texts = run.make_generator(), settings or SamplingSettings(), []
    while len(texts) < number:
        own = dataclasses.replace(settings, num_samples=min(batch_size, number), seed=(settings.seed + len(texts)) % 2**31)
        texts += [text.text for text in generator.generate([prompt], own)]
    return texts[:number]


def learnt_text(run: Run, splits: Sequence[str] = ("train",), corpus: str | None = None) -> Iterator[bytes]:
    """The text that a run learnt from, in blocks of UTF-8; each document begins with `BREAK`, where the run reads documents.

    Args:
        run: Of a language model.
        splits: The parts of the corpus wanted.
        corpus: A text to read in place of the run's ids, as its settings say.

    Raises:
        UserError: ids or corpus that are gone.
    """
    if corpus is not None:
        for split in splits:
            yield from _read_anew(run, split, corpus)
        return
    tokens, writer = run.load_tokens(), _Writer(run.load_tokenizer())
    for split in splits:
        ids = tokens[split].ids
        for first in range(0, len(ids), _BLOCK):
            yield writer(np.asarray(ids[first : first + _BLOCK]))


def check(run: Run) -> None:
    """Refuses a run that cannot be audited, in no time.

    Raises:
        UserError: a run of another task than `lm`.
    """
    if run.settings.task != "lm":
        raise UserError(f"{run.folder} is a run of {run.settings.task}: what is compared with its corpus are the texts of --task lm")


class _Writer:
    """Ids → what they write, all at once."""

    def __init__(self, tokenizer: Tokenizer):
        pieces = tokenizer.pieces()
        for number in (tokenizer.pad_id, tokenizer.end_id):
            pieces[number] = b""
        pieces[tokenizer.unknown_id] = _UNKNOWN
        pieces[tokenizer.start_id] = BREAK
        self._bytes = np.frombuffer(b"".join(pieces), np.uint8)
        self._lengths = np.array([len(piece) for piece in pieces], np.int64)
        self._places = np.cumsum(self._lengths) - self._lengths

    def __call__(self, ids: np.ndarray) -> bytes:
        lengths = self._lengths[ids]
        shifts = self._places[ids] - (np.cumsum(lengths) - lengths)
        return self._bytes[np.repeat(shifts, lengths) + np.arange(lengths.sum())].tobytes()


def _read_anew(run: Run, wanted: str, source: str) -> Iterator[bytes]:
    settings = run.settings
    corpus = corpora.open_corpus(source, document=settings.document, errors=settings.errors, data_dir=settings.data_dir)
    if settings.desensitize:
        corpus = desensitizing.load(settings.desensitize, settings.names_file).corpus(corpus)
    if settings.deduplicate:
        corpus = deduplicated(corpus)
    mark = BREAK if settings.documents else b""
    pieces = (
        mark + text.encode("utf-8", "replace")
        for split, text in pipeline.split_texts(corpus, settings.split, settings.clean)
        if split == wanted
    )
    while block := b"".join(itertools.islice(pieces, 1000)):
        yield block


def _held_out(run: Run, corpus: str | None) -> list[str]:
    blocks, size = [], 0
    for block in learnt_text(run, ("validation", "test"), corpus):
        blocks.append(block)
        size += len(block)
        if size > _MOST_HELD_OUT:
            break
    documents = b"".join(blocks).split(BREAK)
    return [text for text in (document.decode("utf-8", "ignore") for document in documents) if text]


def _excerpts(documents: Sequence[str], lengths: Iterable[int], seed: int, anywhere: bool) -> list[str]:
    """For each length the beginning of a document (or any part of it) drawn from those as long; the longest there is where none is."""
    if not documents:
        return []
    draw = random.Random(f"excerpts {seed}")
    ordered = sorted(documents, key=len)
    sizes, result = list(map(len, ordered)), []
    for length in lengths:
        first = int(np.searchsorted(sizes, length))
        text = draw.choice(ordered[first:]) if first < len(ordered) else ordered[-1]
        start = draw.randrange(max(len(text) - length, 0) + 1) if anywhere else 0
        result.append(text[start : start + length])
    return result
