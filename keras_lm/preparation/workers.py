"""The processes that read and tokenize sections, and the jobs they do.

Threads would share one interpreter, and half of the work is Python's: reading, splitting, hashing. Each process imports TensorFlow once and
keeps to its share of the cores. It watches its parent: a parent that is killed leaves nobody behind.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from keras_lm.errors import UserError
from keras_lm.files import replacing_folder
from keras_lm.preparation.sections import Section
from keras_lm.preparation.settings import PreparationSettings
from keras_lm.privacy.desensitizing import REPORT, Report

Progress = Callable[[int, int], None]
"""Is told the bytes of text and the tokens done so far."""

_BATCH = 1 << 20  # characters counted at a time


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a section lies in the one text of `--split contiguous`.

    Args:
        first: Whether nothing comes before it, not even a separator.
        border: Characters from its beginning to where `validation` begins; negative if that lies before it.
    """

    first: bool
    border: int


def section_texts(
    section: Section, settings: PreparationSettings, place: Place | None, reports: dict[str, Report] | None = None
) -> Iterator[tuple[str, str]]:
    """The `(split, text)` pairs of a section, as `pipeline.split_texts` gives them for the corpus.

    Args:
        section, settings: What to read, and how.
        place: For `contiguous`.
        reports: As `Section.open` takes them.
    """
    from keras_lm import pipeline

    corpus = section.open(settings, reports)
    if place is None:
        return pipeline.split_texts(corpus, settings.split, settings.clean)
    return pipeline.split_pieces(pipeline.text_pieces(corpus, settings.clean, first=place.first), place.border)


@dataclasses.dataclass(frozen=True)
class Work:
    """What a process must know to do a job on a section.

    Args:
        settings: Of the preparation.
        sections: Of the corpus.
        folder: Of the tokenized corpus; holds `tokenizer/` by the time that sections are encoded.
    """

    settings: PreparationSettings
    sections: Sequence[Section]
    folder: pathlib.Path

    def measure(self, number: int, place: None, progress: Progress) -> tuple[int, int, int]:
        """Documents of a section, their characters after cleaning, and the length of its separator."""
        from keras_lm import pipeline

        corpus, documents, characters = self.sections[number].open(self.settings), 0, 0
        separator = len(corpus.separator)
        for text in pipeline.text_pieces(corpus, self.settings.clean, first=False):
            documents += 1
            characters += len(text) - separator
            if documents % 1024 == 0:
                progress(characters, 0)
        return documents, characters, separator

    def characters(self, number: int, place: Place | None, progress: Progress) -> dict[str, int]:
        """How often each character stands in the training text of a section."""
        import numpy as np

        counts: collections.Counter[int] = collections.Counter()
        batch, size, done = [], 0, 0

        def flush() -> None:
            points = np.frombuffer("".join(batch).encode("utf-32-le"), np.uint32)
            numbers = np.bincount(points)
            present = np.flatnonzero(numbers)
            counts.update(dict(zip(present.tolist(), numbers[present].tolist(), strict=True)))
            batch.clear()

        for split, text in section_texts(self.sections[number], self.settings, place):
            size += len(text)
            if split == "train":
                batch.append(text)
            if size >= _BATCH:
                done, size = done + size, 0
                flush()
                progress(done, 0)
        flush()
        return {chr(point): count for point, count in counts.items()}

    def encode(self, number: int, place: Place | None, progress: Progress) -> dict[str, Any]:
        """Tokenizes a section into `parts/NUMBER`, which appears whole; returns what its `part.json` says."""
        reports: dict[str, Report] = {}
        with replacing_folder(self.folder / "parts" / f"{number:05d}") as temporary:
            texts = section_texts(self.sections[number], self.settings, place, reports)
            part = self._encoder.write(texts, temporary, shard_tokens=self.settings.shard_tokens, progress=progress)
            for counts in part.values():
                for shard in counts["shards"]:
                    shard["section"] = number
            if self.settings.desensitize:
                sum(reports.values(), Report()).write(temporary / REPORT)
            (temporary / "part.json").write_text(json.dumps(part), encoding="utf-8")
        return part

    @functools.cached_property
    def _encoder(self) -> Any:
        from keras_lm import pipeline, tokenizers

        return pipeline.Encoder(tokenizers.load(self.folder / "tokenizer"), self.settings.documents)


class Workers:
    """Processes that do jobs, as a context manager; a single one is this process itself.

    Args:
        work: What they must know.
        processes: How many at most; no more than sections.
    """

    def __init__(self, work: Work, processes: int):
        self.work = work
        self.processes = max(1, min(processes, len(work.sections)))
        self._workers: list[tuple[Any, multiprocessing.connection.Connection]] = []

    def __enter__(self) -> Workers:
        if self.processes > 1:
            context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
            threads = max(1, len(os.sched_getaffinity(0)) // self.processes) if hasattr(os, "sched_getaffinity") else 1
            for _ in range(self.processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, self.work, threads), daemon=True)
                process.start()
                theirs.close()
                self._workers.append((process, ours))
        return self

    def __exit__(self, *_: object) -> None:
        for process, connection in self._workers:
            connection.close()
            process.terminate()
        for process, _ in self._workers:
            process.join()

    def run(self, job: str, places: Mapping[int, Place | None], progress: Progress) -> Iterator[tuple[int, Any]]:
        """Does a job on sections.

        Args:
            job: The name of a method of `Work`.
            places: The sections by number, and what the job takes of each.
            progress: Is told the bytes of text and the tokens that all have done so far.

        Yields:
            Number of a section and its result, as they come.

        Raises:
            UserError: from the job, or because a process was killed.
        """
        pending, done = collections.deque(sorted(places)), dict.fromkeys(places, (0, 0))

        def advance(number: int, size: int, tokens: int) -> None:
            done[number] = (min(size, self.work.sections[number].size), tokens)
            progress(*map(sum, zip(*done.values(), strict=True)))

        def finished(number: int) -> None:
            advance(number, self.work.sections[number].size, done[number][1])

        if self.processes == 1:
            for number in pending:
                result = getattr(self.work, job)(number, places[number], lambda size, tokens, number=number: advance(number, size, tokens))
                finished(number)
                yield number, result
            return
        connections = {connection: process for process, connection in self._workers}
        idle, busy = list(connections), {}
        while pending or busy:
            while pending and idle:
                connection, number = idle.pop(0), pending.popleft()
                busy[connection] = number
                with contextlib.suppress(BrokenPipeError):  # it has died: reading from it says so
                    connection.send((job, number, places[number]))
            for connection in multiprocessing.connection.wait(list(busy)):
                try:
                    kind, value = connection.recv()
                except (EOFError, ConnectionResetError):
                    raise _died(connections[connection]) from None
                if kind == "failed":
                    raise value
                if kind == "progress":
                    advance(busy[connection], *value)
                else:
                    number = busy.pop(connection)
                    idle.append(connection)
                    finished(number)
                    yield number, value


def _died(process: Any) -> UserError:
    process.join()
    how = f"killed by signal {-process.exitcode}" if process.exitcode < 0 else f"status {process.exitcode}"
    return UserError(f"a worker process ended ({how}): --resume goes on; with fewer --workers it takes less memory")


def _serve(connection: multiprocessing.connection.Connection, work: Work, threads: int) -> None:
    """What a worker process runs: jobs come in, progress and results go out, until the other side closes or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with _quiet():
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(2)
    spoken = 0.0

    def progress(size: int, tokens: int) -> None:
        nonlocal spoken
        if time.monotonic() - spoken > 0.2:
            spoken = time.monotonic()
            connection.send(("progress", (size, tokens)))

    while True:
        try:
            job, number, place = connection.recv()
        except (EOFError, OSError):
            return
        try:
            connection.send(("done", getattr(work, job)(number, place, progress)))
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:
            if os.environ.get("KERAS_LM_TRACEBACK"):
                traceback.print_exc()
            known = isinstance(error, UserError | OSError)
            connection.send(("failed", error if known else RuntimeError(f"{type(error).__name__}: {error}")))


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What TensorFlow says on standard error when it is imported is lost; errors come as exceptions."""
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
