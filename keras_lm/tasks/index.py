"""Searching a corpus by vectors: which texts mean most nearly what a query means? (article A3 §5)

    FOLDER/
      vectors.faiss     the vectors, as faiss lays them out
      texts.bin         the texts in UTF-8, one behind the other
      offsets.npy       where each begins, and where the last ends
      manifest.json     which model made the vectors; the size and the checksum of each file

What is searched is the inner product, which for vectors of length one is the cosine. Up to a hundred thousand vectors each query is
compared with all of them. Beyond, the way to its nearest ones is found along a graph of neighbours (HNSW), which misses a few: of 20,000
vectors drawn at random it found 99.8 % of the ten nearest, where cells around means (IVF), an eighth of which were looked into, found
87 %. The texts stay on disk and are read when they are asked for.

References:
    Douze et al. 2024, «The Faiss library» (arXiv:2401.08281); Malkov and Yashunin 2016 (arXiv:1603.09320: HNSW); Manning, Raghavan and
    Schütze 2008, «Introduction to Information Retrieval», chapter 8, for the measures.
"""

from __future__ import annotations

import array
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from keras_lm.errors import UserError
from keras_lm.files import replacing_folder
from keras_lm.shards import checksum

FORMAT = 1
EXACT_UP_TO = 100_000
_NEIGHBOURS, _FOLLOWED = 32, 128  # of each vector in the graph; how many are followed at a time in a search
_FILES = ("vectors.faiss", "texts.bin", "offsets.npy")
_BLOCK = 1 << 14  # vectors added at a time, so that those of a mapped file need not be in memory


class VectorIndex:
    """Texts on disk and their vectors, to be searched.

    `build` makes one, `open` opens it.

    Attributes:
        folder: Where it lies.
        kind: `exact`, or `graph`.
        dimensions: Of a vector.

    Example:

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "index"
    >>> vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    >>> index = VectorIndex.build(vectors, ["a cat", "a dog", "a catfish"], "model-1", folder)
    >>> scores, numbers = index.search(np.array([[0, 1]], np.float32), 2)
    >>> scores.round(2).tolist(), index.texts(numbers[0])
    ([[1.0, 0.800000011920929]], ['a dog', 'a catfish'])
    """

    def __init__(self, folder: pathlib.Path, manifest: Mapping[str, Any], index: Any, offsets: np.ndarray):
        self.folder, self.kind, self.dimensions = folder, manifest["kind"], manifest["dimensions"]
        self._index, self._offsets = index, offsets

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        texts: Iterable[str],
        model_fingerprint: str,
        folder: str | os.PathLike,
        *,
        exact_up_to: int = EXACT_UP_TO,
    ) -> VectorIndex:
        """Writes an index into a new folder, which appears whole or not at all, and opens it.

        Args:
            vectors: `(texts, dimensions)`; an array, or one that is mapped from a file (`np.load(..., mmap_mode="r")`).
            texts: As many, read once, so that they may be a stream.
            model_fingerprint: What tells the model that made the vectors from others, such as `shards.checksum` of its file.
            folder: Must not be there yet.
            exact_up_to: Up to how many vectors each query is compared with all. Default 100,000.

        Raises:
            UserError: the folder is there, faiss is not installed, vectors of another shape, none, or some that are not finite; another
                number of texts than of vectors.
        """
        faiss, folder = _faiss(), pathlib.Path(folder)
        if folder.exists():
            raise UserError(f"{folder} is there already: give a new folder, or remove it first")
        if vectors.ndim != 2 or not vectors.size:
            raise UserError(f"vectors must be of shape (texts, dimensions), and one at least, got {vectors.shape}")
        with replacing_folder(folder) as temporary:
            offsets = _write_texts(texts, temporary / "texts.bin")
            if len(offsets) - 1 != len(vectors):
                raise UserError(f"there are {len(vectors)} vectors, but {len(offsets) - 1} texts")
            np.save(temporary / "offsets.npy", offsets)
            kind = "exact" if len(vectors) <= exact_up_to else "graph"
            faiss.write_index(_filled(faiss, vectors, kind), os.fspath(temporary / "vectors.faiss"))
            files = {name: {"bytes": (temporary / name).stat().st_size, "checksum": checksum(temporary / name)} for name in _FILES}
            manifest = {"format": FORMAT, "kind": kind, "texts": len(vectors), "dimensions": vectors.shape[1], "model": model_fingerprint}
            text = json.dumps({**manifest, "files": files}, ensure_ascii=False, indent=1) + "\n"
            (temporary / "manifest.json").write_text(text, encoding="utf-8")
        return cls.open(folder, model_fingerprint)

    @classmethod
    def open(cls, folder: str | os.PathLike, model_fingerprint: str) -> VectorIndex:
        """Opens an index: every file is compared with its checksum, the vectors are loaded, the texts stay on disk.

        Args:
            folder: Where it lies.
            model_fingerprint: Of the model that will make the vectors of the queries.

        Raises:
            UserError: no index there, one of another model, or a file that is missing, cut short or altered; faiss is not installed.
        """
        faiss, folder = _faiss(), pathlib.Path(folder)
        manifest = _read_manifest(folder)
        if manifest["model"] != model_fingerprint:
            raise UserError(
                f"the index in {folder} was built with another model (fingerprint {manifest['model'][:16]}, this one's is "
                f"{model_fingerprint[:16]}): take that one, or build the index anew"
            )
        for name, entry in zip(_FILES, manifest["entries"], strict=True):
            _check_file(folder / name, *entry)
        try:
            index = faiss.read_index(os.fspath(folder / "vectors.faiss"))
            offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{folder} is of a release of faiss that this one cannot read: {str(error).splitlines()[-1]}") from None
        return cls(folder, manifest, index, offsets)

    def search(self, queries: np.ndarray, k: int, *, exact: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The texts whose vectors have the largest product with each query's.

        Args:
            queries: `(queries, dimensions)`.
            k: How many for each; no more come than there are texts.
            exact: Whether to compare with all vectors where there is a graph too, such as to see what the graph misses. Default: no.

        Returns:
            Scores `(queries, k)` float32, best first, and the numbers of the texts `(queries, k)` int64, from 0 in the order they came in.

        Raises:
            UserError: queries of another shape or not finite, or k below 1.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dimensions:
            raise UserError(f"queries must be of shape (queries, {self.dimensions}), got {queries.shape}")
        if k < 1:
            raise UserError(f"k must be at least 1, got {k}")
        queries, k = _checked(queries, "query"), min(k, len(self))
        if self.kind == "exact":
            return self._index.search(queries, k)
        if exact:
            return self._index.storage.search(queries, k)
        scores, numbers = self._index.search(queries, k, params=_faiss().SearchParametersHNSW(efSearch=max(_FOLLOWED, k)))
        lacking = np.flatnonzero((numbers < 0).any(axis=1))  # the graph is not always in one piece
        if len(lacking):
            scores[lacking], numbers[lacking] = self._index.storage.search(queries[lacking], k)
        return scores, numbers

    def texts(self, numbers: Iterable[int]) -> list[str]:
        """The texts of these numbers, read from disk.

        Raises:
            UserError: no text has such a number.
        """
        found = []
        with (self.folder / "texts.bin").open("rb") as file:
            for number in map(int, numbers):
                if not 0 <= number < len(self):
                    raise UserError(f"text {number} is none of the {len(self)} in {self.folder}, which go from 0 on")
                start, end = self._offsets[number : number + 2].tolist()
                file.seek(start)
                found.append(file.read(end - start).decode("utf-8"))
        return found


def _write_texts(texts: Iterable[str], path: pathlib.Path) -> np.ndarray:
    if isinstance(texts, str):
        raise UserError("texts must be many, got one: put it into brackets")
    offsets = array.array("q", [0])  # 8 bytes a text, where a list would take 40
    with path.open("wb") as file:
        for number, text in enumerate(texts):
            try:
                offsets.append(offsets[-1] + file.write(text.encode("utf-8")))
            except UnicodeEncodeError:
                raise UserError(f"text {number} holds half a character (\\ud800 to \\udfff alone), which is not Unicode") from None
    return np.array(offsets, np.int64)


def _filled(faiss: ModuleType, vectors: np.ndarray, kind: str) -> Any:
    """The vectors as faiss keeps them, added in blocks."""
    dimensions = vectors.shape[1]
    product = faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexFlatIP(dimensions) if kind == "exact" else faiss.IndexHNSWFlat(dimensions, _NEIGHBOURS, product)
    for start in range(0, len(vectors), _BLOCK):
        index.add(_checked(vectors[start : start + _BLOCK], "vector", start))
    return index


def _checked(vectors: np.ndarray, kind: str, first: int = 0) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, np.float32)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(f"{kind} {first + bad[0]} holds a number that is not finite")
    return vectors


def _read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] > FORMAT:
            raise UserError(f"{path} is of a later release of keras_lm (format {manifest['format']}, this one reads {FORMAT})")
        entries = [(manifest["files"][name]["bytes"], manifest["files"][name]["checksum"]) for name in _FILES]
        return {"entries": entries, **{name: manifest[name] for name in ("kind", "texts", "dimensions", "model")}}
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} holds no index (no manifest.json)") from None
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged: {error}") from None


def _check_file(path: pathlib.Path, size: int, digest: str) -> None:
    remedy = "the index has to be built again"
    if not path.is_file():
        raise UserError(f"{path} is missing: {remedy}")
    if path.stat().st_size != size:
        raise UserError(f"{path} has {path.stat().st_size} bytes, and the manifest says {size}: {remedy}")
    if checksum(path) != digest:
        raise UserError(f"{path} is altered: its SHA-256 is not the manifest's: {remedy}")


def _faiss() -> ModuleType:
    try:
        import faiss
    except ModuleNotFoundError:
        raise UserError("vectors are searched by faiss: pip install 'keras_lm[tasks]' (or pip install faiss-cpu)") from None
    return faiss


@dataclasses.dataclass(frozen=True)
class RankingScores:
    """How good rankings are: means over queries, 0 to 1, of what the first k places hold.

    Attributes:
        recall: The share of the right texts that are there.
        mrr: One over the place of the first right one; 0 if there is none.
        ndcg: The gains there, each divided by log2(1 + place), over the most that any ranking could have.
        k: How many places count.
        queries: How many there were.
    """

    recall: float
    mrr: float
    ndcg: float
    k: int
    queries: int


def ranking_scores(
    numbers: np.ndarray | Sequence[Sequence[int]], relevant: Sequence[Iterable[int] | Mapping[int, float]], k: int
) -> RankingScores:
    """Compares rankings with what is right.

    Args:
        numbers: For each query the numbers of texts, best first, as `VectorIndex.search` gives them; what stands behind place k is not
            read.
        relevant: For each query the numbers of the right texts; or the gain of each, above 0 where some are more right than others.
        k: How many places count.

    Raises:
        UserError: no queries, another number of rankings, a query without a right text, a text that stands twice in a ranking, k below 1.

    Example:

    >>> ranking_scores([[7, 3, 5], [2, 4, 6]], [{3}, {2, 9}], k=3)
    RankingScores(recall=0.75, mrr=0.75, ndcg=0.622038473168458, k=3, queries=2)
    """
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}")
    if not len(relevant) or len(numbers) != len(relevant):
        raise UserError(f"there are {len(numbers)} rankings, and right texts for {len(relevant)} queries: one for each is needed")
    discounts = 1 / np.log2(np.arange(2, k + 2))
    scores = []
    for query, (ranking, right) in enumerate(zip(numbers, relevant, strict=True), start=1):
        gains = (
            {int(number): gain for number, gain in right.items()} if isinstance(right, Mapping) else {int(number): 1 for number in right}
        )
        gains = {number: gain for number, gain in gains.items() if gain > 0}
        if not gains:
            raise UserError(f"query {query} has no right text")
        first = [int(number) for number in ranking[:k]]
        if len(set(first)) < len(first):
            raise UserError(f"the ranking of query {query} has a text twice")
        found = np.array([gains.get(number, 0) for number in first], np.float64)
        best = np.sort(np.fromiter(gains.values(), np.float64))[::-1][:k]
        places = np.flatnonzero(found)
        ndcg = (found @ discounts[: len(found)]) / (best @ discounts[: len(best)])
        scores.append((len(places) / len(gains), 1 / (places[0] + 1) if len(places) else 0.0, ndcg))
    recall, mrr, ndcg = np.mean(scores, axis=0).tolist()
    return RankingScores(recall, mrr, ndcg, k, len(scores))
