"""From corpora of any size to a folder of shards: what `keras_lm-prepare` does.

Each section of the corpus is tokenized by one process into a folder of its own under `parts/`, which appears whole; when all are there,
their shards get their names, and the manifest is written last. What is killed goes on from the sections that are finished and ends with
the same files, byte for byte. `preparation.json` says where the sections lie; it stays, so that a shard that was damaged later can be made
again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from keras_lm.errors import UserError
from keras_lm.files import replacing, replacing_folder
from keras_lm.preparation import sections as cutting
from keras_lm.preparation.sections import Section
from keras_lm.preparation.settings import PreparationSettings, tokenizer_folder
from keras_lm.preparation.workers import Place, Work, Workers, section_texts
from keras_lm.privacy import desensitizing
from keras_lm.privacy.desensitizing import REPORT

Report = Callable[[str, int, int, int], None]
"""Is told what goes on, the bytes of text done and in all (as far as they are known), and the tokens done."""

MAY_CHANGE = ("errors", "workers", "out")
"""Settings that a preparation may go on with otherwise than it began."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What a preparation has made.

    Attributes:
        folder: Of the tokenized corpus.
        manifest: What its `manifest.json` says.
        bytes, tokens: Text and tokens that this call tokenized: what was there before is not counted.
        seconds: That this took, without learning a vocabulary.
        processes: That did it.
    """

    folder: pathlib.Path
    manifest: Mapping[str, Any]
    bytes: int
    tokens: int
    seconds: float
    processes: int


def prepare(settings: PreparationSettings, *, resume: bool = False, report: Report | None = None) -> Prepared:
    """Tokenizes the corpora of `settings` into `settings.folder`.

    Args:
        settings: What to do; with `resume` those of `stored_settings`.
        resume: Whether to go on with what was begun there; of a folder that is finished, the damaged shards are made again.
        report: Is told how far it is.

    Raises:
        UserError: a corpus, tokenizer or folder that cannot be used.

    Example: `prepare(PreparationSettings(corpus=("books/*.txt",), tokenizer="byte", out="data/books"))`
    """
    folder = pathlib.Path(settings.folder)
    if not resume:
        check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        try:
            return _Preparation(settings, folder, resume, report or (lambda *_: None)).run()
        except UserError:
            if not resume and not any((folder / "parts").glob("[0-9]*")):
                shutil.rmtree(folder, ignore_errors=True)  # nothing was made that could be gone on with
            raise


def check_free(folder: str | os.PathLike) -> None:
    """Refuses a folder that a new preparation would write over.

    Raises:
        UserError: it holds a tokenized corpus, finished or not, or anything else.
    """
    folder = pathlib.Path(folder)
    if (folder / "manifest.json").exists():
        raise UserError(f"{folder} already holds a tokenized corpus: choose another --out (--resume makes damaged shards again)")
    if (folder / "preparation.json").exists():
        raise UserError(f"{folder} holds a preparation that is not finished: go on with it by --resume, or delete the folder")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is {'not empty' if folder.is_dir() else 'a file'}: choose another --out")


def stored_settings(folder: str | os.PathLike, **changes: Any) -> PreparationSettings:
    """The settings of a preparation that was begun in `folder`.

    Args:
        folder: Where.
        **changes: Fields that come on top; only those of `MAY_CHANGE` may differ.

    Raises:
        UserError: nothing was begun there, or a setting differs.
    """
    folder = pathlib.Path(folder)
    stored = _stored(folder)["settings"]
    stored = {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}
    begun = PreparationSettings(**{**stored, "out": os.fspath(folder)})
    for name, value in changes.items():
        if name not in MAY_CHANGE and getattr(begun, name) != value:
            raise UserError(f"{name} is {value!r} here but {getattr(begun, name)!r} in {folder}: a resumed preparation keeps its settings")
    return dataclasses.replace(begun, **changes)


def _stored(folder: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "preparation.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} holds no preparation to go on with (no preparation.json)") from None
    except ValueError as error:
        raise UserError(f"{folder / 'preparation.json'} is damaged ({error}): delete the folder and begin anew") from None


@contextlib.contextmanager
def _alone(folder: pathlib.Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(f"another keras_lm-prepare is at work in {folder}") from None
    finally:
        os.close(descriptor)


class _Preparation:
    def __init__(self, settings: PreparationSettings, folder: pathlib.Path, resume: bool, report: Report):
        self.settings, self.folder, self.report = settings, folder, report
        if settings.desensitize:
            desensitizing.check(settings.desensitize, settings.names_file)  # what cannot be used is refused before the work begins
        for leftover in folder.glob(".*-*"):  # of a process that was killed while it wrote
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for leftover in (folder / "parts").glob(".*"):
            shutil.rmtree(leftover)
        if resume:
            self.plan = _stored(folder)
            self.sections = [Section.from_json(values) for values in self.plan["sections"]]
            self._check_files()
        else:
            self.sections = cutting.cut(settings)
            self.plan = {"files": self._files(), "sections": [section.as_json() for section in self.sections]}
        self._write_plan()

    def run(self) -> Prepared:
        from keras_lm import shards

        finished = shards.is_corpus(self.folder)
        needed = self._damaged() if finished else range(len(self.sections))
        wanted = [number for number in needed if not self._part(number).is_file()]
        work = Work(self.settings, self.sections, self.folder)
        processes = self.settings.processes if wanted else 1
        began, size, tokens = time.monotonic(), 0, 0
        with Workers(work, processes) as workers:
            if wanted:
                self._measure(workers)
                self._learn(workers)
                began = time.monotonic()
                places = {number: self._place(number) for number in wanted}
                for _, part in workers.run("encode", places, self._reporter("tokenizing", wanted)):
                    size += sum(counts["bytes"] for counts in part.values())
                    tokens += sum(counts["tokens"] for counts in part.values())
            seconds = time.monotonic() - began
        if finished:
            self._mend(needed)
        else:
            self._finish()
        shutil.rmtree(self.folder / "parts", ignore_errors=True)
        return Prepared(self.folder, shards.read_manifest(self.folder), size, tokens, seconds, workers.processes)

    def _part(self, number: int) -> pathlib.Path:
        return self.folder / "parts" / f"{number:05d}" / "part.json"

    def _place(self, number: int) -> Place | None:
        return Place(*self.plan["places"][number]) if "places" in self.plan else None

    def _reporter(self, what: str, numbers: Sequence[int] | None = None) -> Callable[[int, int], None]:
        total = sum(self.sections[number].size for number in (range(len(self.sections)) if numbers is None else numbers))
        self.report(what, 0, total, 0)
        return lambda size, tokens: self.report(what, size, total, tokens)

    def _measure(self, workers: Workers) -> None:
        """For `contiguous`: where each section lies in the one text, and where nine tenths of that end."""
        if self.settings.split != "contiguous" or "places" in self.plan:
            return
        results = dict(workers.run("measure", dict.fromkeys(range(len(self.sections))), self._reporter("measuring")))
        length, first, begins = 0, True, []
        for number in range(len(self.sections)):
            documents, characters, separator = results[number]
            begins.append((first, length))
            if documents:
                length += characters + separator * (documents - first)
                first = False
        border = length * 9 // 10
        self.plan["places"] = [(first, border - begin) for first, begin in begins]
        self._write_plan()

    def _learn(self, workers: Workers) -> None:
        """Writes `tokenizer/`, learnt from the training text or copied from where it is."""
        from keras_lm import tokenizers

        folder, settings = self.folder / "tokenizer", self.settings
        if folder.is_dir():
            return
        if settings.tokenizer_from is not None:
            with replacing_folder(folder) as temporary:
                shutil.copytree(tokenizer_folder(settings.tokenizer_from), temporary, dirs_exist_ok=True)
            return
        kind = settings.tokenizer or "char"
        if kind == "char":
            places = {number: self._place(number) for number in range(len(self.sections))}
            counts: Counter[str] = Counter()
            for _, found in workers.run("characters", places, self._reporter("counting characters")):
                counts.update(found)
            tokenizer = tokenizers.CharacterTokenizer.from_counts(counts, settings.vocabulary_size)
        else:
            tokenizer = tokenizers.get(kind).fit(self._sample(), settings.vocabulary_size)
        with replacing_folder(folder) as temporary:
            tokenizer.save(temporary)

    def _sample(self) -> Iterator[str]:
        """Training text to learn from: all of it, or the beginning of each section in proportion."""
        total, room = sum(section.size for section in self.sections), self.settings.vocabulary_sample * 1_000_000
        seen = 0
        for number, section in enumerate(self.sections):
            left = None if room >= total else room * section.size // total
            for split, text in section_texts(section, self.settings, self._place(number)):
                if split != "train":
                    continue
                if left is not None and left <= 0:
                    break
                size = len(text.encode())
                left = None if left is None else left - size
                seen += size
                self.report("learning", seen, min(room, total), 0)
                yield text

    def _finish(self) -> None:
        from keras_lm import pipeline, shards, tokenizers

        settings = self.settings
        parts = [(self._part(number).parent, json.loads(self._part(number).read_text())) for number in range(len(self.sections))]
        if not any(counts["tokens"] for _, part in parts for counts in part.values()):
            shutil.rmtree(self.folder)
            raise UserError(f"the corpus {' '.join(settings.corpus)} has no text")
        encoder = pipeline.Encoder(tokenizers.load(self.folder / "tokenizer"), settings.documents)
        origin = {"corpus": list(settings.corpus), "document": settings.document, "clean": list(settings.clean), "split": settings.split}
        origin["desensitize"] = list(settings.desensitize)
        if settings.desensitize:
            masked = (desensitizing.Report.read(part / REPORT) for part, _ in parts)
            sum(masked, desensitizing.Report()).write(self.folder / REPORT)
        fingerprint = shards.fingerprint(self.folder / "tokenizer")
        shards.finish(self.folder, parts, {**origin, **encoder.description(fingerprint)})

    def _damaged(self) -> list[int]:
        """The sections that damaged shards came from."""
        from keras_lm import shards

        shards.check_tokenizer(self.folder, self.folder / "tokenizer")
        files = set(shards.damaged(self.folder))
        splits = shards.read_manifest(self.folder)["splits"].values()
        return sorted({shard["section"] for split in splits for shard in split["shards"] if shard["file"] in files})

    def _mend(self, numbers: Sequence[int]) -> None:
        """Puts the shards of sections that were made again where the damaged ones were."""
        from keras_lm import shards

        for number in numbers:
            part = json.loads(self._part(number).read_text())
            for split, entry in shards.read_manifest(self.folder)["splits"].items():
                old = [shard for shard in entry["shards"] if shard["section"] == number]
                if [shard["checksum"] for shard in old] != [shard["checksum"] for shard in part[split]["shards"]]:
                    raise UserError(f"the corpus behind {self.folder} gives other tokens than it did: delete the folder and begin anew")
                for shard, new in zip(old, part[split]["shards"], strict=True):
                    made = self._part(number).parent / new["file"]
                    if made.exists():  # if not, it was put there before an interruption
                        os.replace(made, self.folder / shard["file"])

    def _write_plan(self) -> None:
        values = {name: value for name, value in dataclasses.asdict(self.settings).items() if name not in ("workers", "out")}
        with replacing(self.folder / "preparation.json") as temporary:
            temporary.write_text(
                json.dumps({"settings": values, **{name: self.plan[name] for name in self.plan if name != "settings"}}) + "\n"
            )

    def _files(self) -> dict[str, list[int]]:
        paths = dict.fromkeys(path for section in self.sections for path, _, _ in section.ranges)
        if self.settings.names_file is not None:
            paths[self.settings.names_file] = None
        return {path: [os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in paths}

    def _check_files(self) -> None:
        for path, stored in self.plan["files"].items():
            if not os.path.isfile(path):
                raise UserError(f"{path}, a file of the corpus, is not there any more")
            status = os.stat(path)
            if [status.st_size, status.st_mtime_ns] != stored:
                raise UserError(f"{path} has changed since {self.folder} was begun: delete that folder and begin anew")
