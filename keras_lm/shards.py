"""A tokenized corpus on disk: shards of ids as TFRecord files, and a manifest that says what they hold.

    FOLDER/
      train-00000-of-00003.tfrecord ...   a split's ids, in order; `validation` and `test` likewise
      manifest.json                       counts, checksums, the tokenizer's fingerprint; written last
      tokenizer/                          where `keras_lm-prepare` wrote the folder

Each record holds `record_tokens` ids as they lie in memory, the last record of a shard fewer. So any tool reads them
(`tf.data.TFRecordDataset`, then `tf.io.decode_raw`), and the place of any id follows by arithmetic: a record is framed by 12 bytes before
it (its length, and a checksum of that) and 4 behind (its own checksum). `ShardedIds` reads windows that way, with `pread`: pages of a file
mapped into memory would count as this process' own, and a corpus may be larger than memory.
"""

from __future__ import annotations

import bisect
import collections
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.files import replacing
from keras_lm.tokenizers import Tokenizer

SPLITS = ("train", "validation", "test")
FORMAT = 1
RECORD_TOKENS = 4096
SHARD_TOKENS = 1 << 25  # 64 MiB of 16-bit ids
COUNTS = ("tokens", "characters", "bytes", "documents", "unknown")
_HEAD, _FRAME = 12, 16  # bytes around a record: before it, and in all
_OPEN_FILES = 256


def file_size(tokens: int, dtype: np.dtype | str, record_tokens: int = RECORD_TOKENS) -> int:
    """Bytes of a shard of so many ids.

    >>> file_size(5000, "uint16")
    10032
    """
    return tokens * np.dtype(dtype).itemsize + -(-tokens // record_tokens) * _FRAME


class ShardedIds:
    """The ids of a split as a read-only sequence that lies on disk: sliced like an array, read when sliced.

    Args:
        shards: Path and number of ids of each shard, in order.
        dtype: Of the ids.
        record_tokens: Ids a record.

    Call arguments of `ids[a:b]`: a slice gives an array `(b - a,)`, an index one id. `len`, `dtype`, `shape` and `np.asarray` (which reads
    everything) are as for an array of one axis. Several threads may read at once.

    Example:

    >>> import tempfile
    >>> with ShardWriter(tempfile.mkdtemp(), "train", "uint16") as writer:
    ...     writer.write(np.arange(10_000))
    >>> ids = ShardedIds([(writer.folder / shard["file"], shard["tokens"]) for shard in writer.shards], "uint16")
    >>> len(ids), ids[4094:4099].tolist(), int(ids[-1])
    (10000, [4094, 4095, 4096, 4097, 4098], 9999)
    """

    def __init__(self, shards: Sequence[tuple[str | os.PathLike, int]], dtype: np.dtype | str, record_tokens: int = RECORD_TOKENS):
        self.dtype, self.record_tokens = np.dtype(dtype), record_tokens
        self.paths = [os.fspath(path) for path, _ in shards]
        self.starts = [0, *itertools.accumulate(tokens for _, tokens in shards)]  # where each shard begins, and the end of the last
        self._lock = threading.Lock()
        self._files: collections.OrderedDict[int, int] = collections.OrderedDict()  # descriptors of open shards, the last used at the end
        weakref.finalize(self, _close, self._files)

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def shape(self) -> tuple[int]:
        """`(tokens,)`."""
        return (len(self),)

    def __getitem__(self, key: int | slice) -> np.ndarray | np.generic:
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return np.asarray(self)[key]
            return self._read(start, max(stop, start))
        index = range(len(self))[key]  # negative ones from the end, and an IndexError beyond it
        return self._read(index, index + 1)[0]

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("ids on disk cannot be had as an array without a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def __repr__(self) -> str:
        return f"ShardedIds({len(self):,} ids of {self.dtype} in {len(self.paths)} shards)"

    def _read(self, start: int, stop: int) -> np.ndarray:
        shard = bisect.bisect_right(self.starts, start) - 1
        parts = []
        while start < stop:
            end = min(stop, self.starts[shard + 1])
            if end > start:
                parts.append(self._read_shard(shard, start - self.starts[shard], end - self.starts[shard]))
            start, shard = end, shard + 1
        return parts[0] if len(parts) == 1 else np.concatenate([np.zeros(0, self.dtype), *parts])

    def _read_shard(self, shard: int, start: int, stop: int) -> np.ndarray:
        size, record = self.dtype.itemsize, self.record_tokens
        place = lambda token: token * size + token // record * _FRAME + _HEAD
        begin = place(start)
        length = place(stop - 1) + size - begin
        with self._lock:
            data = os.pread(self._descriptor(shard), length, begin)
        if len(data) != length:
            raise UserError(f"{self.paths[shard]} ends too soon: the shard was cut while it was being read")
        if length == (stop - start) * size:
            return np.frombuffer(data, self.dtype)
        cuts = range((start // record + 1) * record, stop, record)  # where the next record begins, its frame before it
        edges = [start, *cuts, stop]
        pieces = (data[place(one) - begin : place(other - 1) + size - begin] for one, other in itertools.pairwise(edges))
        return np.frombuffer(b"".join(pieces), self.dtype)

    def _descriptor(self, shard: int) -> int:
        if shard not in self._files:
            if len(self._files) >= _OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = os.open(self.paths[shard], os.O_RDONLY | os.O_CLOEXEC)
        self._files.move_to_end(shard)
        return self._files[shard]


def _close(files: dict[int, int]) -> None:
    for descriptor in files.values():
        os.close(descriptor)
    files.clear()


class ShardWriter:
    """Writes the ids of a split into shards, one after the other, as a context manager.

    Args:
        folder: Exists.
        name: What the file names begin with.
        dtype: Of the ids on disk.
        shard_tokens: Ids a shard, rounded up to whole records.

    Attributes:
        shards: What the manifest says of each finished shard: `file`, `tokens`, `bytes`, `checksum`.
    """

    def __init__(self, folder: str | os.PathLike, name: str, dtype: np.dtype | str, shard_tokens: int = SHARD_TOKENS):
        self.folder, self.name, self.dtype = pathlib.Path(folder), name, np.dtype(dtype)
        self.shard_records = -(-shard_tokens // RECORD_TOKENS)
        self.shards: list[dict[str, Any]] = []
        self._rest = np.zeros(0, self.dtype)
        self._writer: tf.io.TFRecordWriter | None = None
        self._records = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            if len(self._rest):
                self._write_record(self._rest)
            self._finish_shard()
        elif self._writer:
            self._writer.close()

    def write(self, ids: np.ndarray) -> None:
        """Adds ids `(n,)`."""
        ids = np.concatenate([self._rest, np.asarray(ids, self.dtype)])
        whole = len(ids) - len(ids) % RECORD_TOKENS
        for start in range(0, whole, RECORD_TOKENS):
            self._write_record(ids[start : start + RECORD_TOKENS])
        self._rest = ids[whole:]

    def _write_record(self, ids: np.ndarray) -> None:
        if self._writer is None:
            self._tokens, self._records = 0, 0
            self._path = self.folder / f"{self.name}-{len(self.shards):05d}.tfrecord"
            self._writer = tf.io.TFRecordWriter(str(self._path))
        self._writer.write(ids.tobytes())
        self._tokens += len(ids)
        self._records += 1
        if self._records == self.shard_records:
            self._finish_shard()

    def _finish_shard(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        with self._path.open("rb+") as file:
            os.fsync(file.fileno())
        size = self._path.stat().st_size
        self.shards.append({"file": self._path.name, "tokens": self._tokens, "bytes": size, "checksum": checksum(self._path)})


def checksum(path: str | os.PathLike, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, in hexadecimal; `progress` is told the number of bytes read after each piece."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        buffer = memoryview(bytearray(1 << 20))
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
            if progress:
                progress(size)
    return digest.hexdigest()


def fingerprint(tokenizer: Tokenizer | str | os.PathLike) -> str:
    """What tells one tokenizer from another: SHA-256 over the files of its folder, or of the folder that it would save.

    Example:

    >>> from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer
    >>> fingerprint(ByteTokenizer()) == fingerprint(ByteTokenizer())
    True
    >>> fingerprint(CharacterTokenizer("ab")) == fingerprint(CharacterTokenizer("ba"))
    False
    """
    if isinstance(tokenizer, Tokenizer):
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save(folder)
            return fingerprint(folder)
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(tokenizer).iterdir()):
        if path.is_file() and not path.name.startswith("."):
            digest.update(f"{path.name}\0{checksum(path)}\n".encode())
    return digest.hexdigest()


def finish(folder: str | os.PathLike, parts: Sequence[tuple[pathlib.Path, Mapping[str, Any]]], description: Mapping[str, Any]) -> None:
    """Gives the shards of all parts their names in `folder` and writes the manifest: done again after an interruption, it goes on.

    Args:
        folder: Of the corpus.
        parts: For each part, in order, its folder and, by split, its counts and `shards`.
        description: What the manifest says besides; `dtype` must be in it.
    """
    folder = pathlib.Path(folder)
    splits: dict[str, Any] = {}
    for split in SPLITS:
        shards = [(part / shard["file"], shard) for part, counts in parts for shard in counts[split]["shards"]]
        splits[split] = {name: sum(counts[split][name] for _, counts in parts) for name in COUNTS}
        splits[split]["shards"] = []
        for number, (path, shard) in enumerate(shards):
            name = f"{split}-{number:05d}-of-{len(shards):05d}.tfrecord"
            if path.exists():
                os.replace(path, folder / name)
            splits[split]["shards"].append({**shard, "file": name})
    with replacing(folder / "manifest.json") as temporary:
        manifest = {"format": FORMAT, **description, "record_tokens": RECORD_TOKENS, "versions": _versions(), "splits": splits}
        temporary.write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("keras_lm", "tensorflow", "tensorflow-text", "sentencepiece")}


def is_corpus(folder: str | os.PathLike) -> bool:
    """Whether `folder` holds a tokenized corpus, finished."""
    return (pathlib.Path(folder) / "manifest.json").is_file()


def read_manifest(folder: str | os.PathLike) -> dict[str, Any]:
    """What `manifest.json` says.

    Raises:
        UserError: no such file, not whole, or of a later release.
    """
    path = pathlib.Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] > FORMAT:
            raise UserError(f"{path} is of a later release of keras_lm (format {manifest['format']}, this one reads {FORMAT})")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} holds no tokenized corpus (no manifest.json)") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {error}") from None
    return manifest


def open_ids(folder: str | os.PathLike, manifest: Mapping[str, Any], split: str) -> ShardedIds:
    """The ids of a split; that every shard is there, and as long as it should be, is checked.

    Raises:
        UserError: a shard is missing or has another size.
    """
    folder, shards = pathlib.Path(folder), manifest["splits"][split]["shards"]
    for shard in shards:
        path = folder / shard["file"]
        if not path.is_file():
            raise UserError(f"{path} is missing: {_remedy(folder)}")
        if path.stat().st_size != shard["bytes"]:
            raise UserError(f"{path} has {path.stat().st_size} bytes, and the manifest says {shard['bytes']}: {_remedy(folder)}")
    return ShardedIds([(folder / shard["file"], shard["tokens"]) for shard in shards], manifest["dtype"], manifest["record_tokens"])


def verify(folder: str | os.PathLike, progress: Callable[[int, int], None] | None = None) -> None:
    """Reads every shard and compares it with its checksum.

    Args:
        folder: Of the corpus.
        progress: Is told the bytes read and the bytes in all.

    Raises:
        UserError: names the first shard that is missing, cut short or altered, and says what to do.
    """
    folder, manifest = pathlib.Path(folder), read_manifest(folder)
    for split in manifest["splits"]:
        open_ids(folder, manifest, split)
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    total, done = sum(shard["bytes"] for shard in shards), 0

    def count(size: int) -> None:
        nonlocal done
        done += size
        if progress:
            progress(done, total)

    for shard in shards:
        found = checksum(folder / shard["file"], count)
        if found != shard["checksum"]:
            raise UserError(
                f"{folder / shard['file']} is altered: its SHA-256 is {found[:16]}..., and the manifest says "
                f"{shard['checksum'][:16]}...: {_remedy(folder)}"
            )


def damaged(folder: str | os.PathLike) -> list[str]:
    """The files of the shards that are missing, cut short or altered."""
    folder, manifest = pathlib.Path(folder), read_manifest(folder)
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    return [shard["file"] for shard in shards if not _is_whole(folder / shard["file"], shard)]


def _is_whole(path: pathlib.Path, shard: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == shard["bytes"] and checksum(path) == shard["checksum"]


def _remedy(folder: pathlib.Path) -> str:
    if (folder / "preparation.json").is_file():
        return f"keras_lm-prepare --out {folder} --resume makes it again"
    return "the corpus has to be tokenized again"


def check_tokenizer(folder: str | os.PathLike, tokenizer: Tokenizer | str | os.PathLike) -> None:
    """Refuses a tokenizer that is not the one behind the ids.

    Args:
        folder: Of the corpus.
        tokenizer: The tokenizer, or its folder.

    Raises:
        UserError: its fingerprint is another than the manifest's.
    """
    wanted, found = read_manifest(folder)["tokenizer"], fingerprint(tokenizer)
    if wanted != found:
        name = "this tokenizer" if isinstance(tokenizer, Tokenizer) else f"the tokenizer in {tokenizer}"
        raise UserError(
            f"{name} did not write the ids in {folder} (fingerprints {found[:16]}... and {wanted[:16]}...): "
            f"prepare the corpus with it (keras_lm-prepare --tokenizer-from), or take the one that belongs to the ids"
        )
