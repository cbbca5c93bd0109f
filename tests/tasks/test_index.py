"""Searches against NumPy's own products, the graph's against exact ones, measures against scikit-learn's."""

import json
import sys
import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score

from keras_lm.errors import UserError
from keras_lm.tasks.index import VectorIndex, ranking_scores


def clustered(number, dimensions=48, clusters=200, seed=0):
    """Vectors of length one around means, as those of texts are."""
    draw = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(size=(clusters, dimensions))
    vectors = means[draw.integers(clusters, size=number)] + draw.normal(size=(number, dimensions))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def names(number):
    return (f"文本 {place}\n" for place in range(number))


def test_the_exact_index_finds_what_numpy_finds(tmp_path):
    vectors, queries = clustered(20_000, dimensions=16), clustered(20, dimensions=16, seed=1)
    index = VectorIndex.build(vectors, names(20_000), "model", tmp_path / "index")
    scores, numbers = index.search(queries, 10)
    products = queries @ vectors.T
    assert index.kind == "exact" and len(index) == 20_000 and index.dimensions == 16
    assert np.array_equal(numbers, np.argsort(-products, axis=1)[:, :10])
    assert np.allclose(scores, -np.sort(-products, axis=1)[:, :10], atol=1e-6)
    assert scores.dtype == np.float32 and numbers.dtype == np.int64
    assert index.texts(numbers[3]) == [f"文本 {number}\n" for number in numbers[3]]


@pytest.mark.parametrize("clusters", [100, 10_000])
def test_the_graph_finds_nearly_all_that_the_exact_index_finds(tmp_path, clusters):
    vectors, queries = clustered(10_000, clusters=clusters), clustered(200, clusters=clusters, seed=1)
    exact = VectorIndex.build(vectors, names(10_000), "model", tmp_path / "exact")
    graph = VectorIndex.build(vectors, names(10_000), "model", tmp_path / "graph", exact_up_to=9_999)
    assert (exact.kind, graph.kind) == ("exact", "graph")
    (right_scores, right), (scores, found) = exact.search(queries, 10), graph.search(queries, 10)
    assert ranking_scores(found, right, k=10).recall > 0.98
    assert np.allclose(scores, np.take_along_axis(queries @ vectors.T, found, axis=1), atol=1e-6)
    for one, other in zip(graph.search(queries, 10, exact=True), (right_scores, right), strict=True):
        assert np.allclose(one, other, atol=1e-6)


def test_the_graph_gives_as_many_as_were_asked_for(tmp_path):
    vectors = np.repeat(clustered(30), 100, axis=0)  # a hundred times each: such a graph falls to pieces
    index = VectorIndex.build(vectors, names(3_000), "model", tmp_path / "graph", exact_up_to=100)
    for k in (150, 5_000):
        scores, numbers = index.search(vectors[::100], k)
        assert numbers.shape == (30, min(k, 3_000)) and (numbers >= 0).all()
        assert all(len(set(row)) == len(row) for row in numbers.tolist())
        assert (np.diff(scores, axis=1) <= 1e-6).all()


def test_an_index_opens_as_it_was_built(tmp_path):
    vectors = clustered(300)
    mapped = np.lib.format.open_memmap(tmp_path / "vectors.npy", "w+", np.float32, vectors.shape)
    mapped[:] = vectors
    built = VectorIndex.build(mapped, names(300), "model", tmp_path / "index", exact_up_to=100)
    opened = VectorIndex.open(tmp_path / "index", "model")
    for one, other in zip(built.search(vectors[:9], 5), opened.search(vectors[:9], 5), strict=True):
        assert np.array_equal(one, other)
    assert opened.texts([299, 0, 0]) == ["文本 299\n", "文本 0\n", "文本 0\n"]


def test_texts_stay_on_disk(tmp_path):
    text = "字" * 10_000
    VectorIndex.build(np.ones([500, 2], np.float32), (text for _ in range(500)), "model", tmp_path / "index")
    assert (tmp_path / "index" / "texts.bin").stat().st_size == 500 * 30_000
    tracemalloc.start()
    index = VectorIndex.open(tmp_path / "index", "model")
    assert index.texts([7, 499]) == [text, text]
    assert tracemalloc.get_traced_memory()[1] < 3_000_000  # of 15
    tracemalloc.stop()


def test_an_index_of_another_model_is_refused(tmp_path):
    VectorIndex.build(np.eye(3, dtype=np.float32), ["a", "b", "c"], "a" * 64, tmp_path / "index")
    with pytest.raises(UserError, match=r"built with another model \(fingerprint a{16}, this one's is b{16}\): take that one, or build"):
        VectorIndex.open(tmp_path / "index", "b" * 64)


@pytest.mark.parametrize("name", ["vectors.faiss", "texts.bin", "offsets.npy"])
def test_damaged_files_are_refused_by_name(tmp_path, name):
    VectorIndex.build(np.eye(3, dtype=np.float32), ["a", "b", "c"], "model", tmp_path / "index")
    path = tmp_path / "index" / name
    content = path.read_bytes()
    for changed, message in (
        (content[:-1] + bytes([content[-1] ^ 1]), "is altered: its SHA-256 is not the manifest's"),
        (content[:-1], f"has {len(content) - 1} bytes, and the manifest says {len(content)}"),
    ):
        path.write_bytes(changed)
        with pytest.raises(UserError, match=f"index/{name} {message}: the index has to be built again"):
            VectorIndex.open(tmp_path / "index", "model")
    path.unlink()
    with pytest.raises(UserError, match=f"index/{name} is missing: the index has to be built again"):
        VectorIndex.open(tmp_path / "index", "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: {**manifest, "format": 99}, r"manifest.json is of a later release of keras_lm \(format 99, this one reads 1\)"),
        (lambda manifest: {**manifest, "files": {}}, "manifest.json is damaged: 'vectors.faiss'"),
        (lambda manifest: [], "manifest.json is damaged: "),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, change, message):
    VectorIndex.build(np.eye(3, dtype=np.float32), ["a", "b", "c"], "model", tmp_path / "index")
    path = tmp_path / "index" / "manifest.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=message):
        VectorIndex.open(tmp_path / "index", "model")


def test_where_no_index_lies_is_said(tmp_path):
    with pytest.raises(UserError, match=r"holds no index \(no manifest.json\)"):
        VectorIndex.open(tmp_path, "model")


@pytest.mark.parametrize(
    ("vectors", "texts", "message"),
    [
        (np.eye(3), ["a", "b"], "there are 3 vectors, but 2 texts"),
        (np.ones(3), ["a", "b", "c"], r"vectors must be of shape \(texts, dimensions\), and one at least, got \(3,\)"),
        (np.ones([0, 3]), [], r"vectors must be of shape .* got \(0, 3\)"),
        (np.array([[0.0], [np.nan]]), ["a", "b"], "vector 1 holds a number that is not finite"),
        (np.eye(3), "abc", "texts must be many, got one"),
        (np.eye(3), ["a", "b", "\ud842"], "text 2 holds half a character"),
    ],
)
def test_what_makes_no_index_leaves_nothing_behind(tmp_path, vectors, texts, message):
    with pytest.raises(UserError, match=message):
        VectorIndex.build(vectors, texts, "model", tmp_path / "index")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_kept(tmp_path):
    (tmp_path / "index").mkdir()
    with pytest.raises(UserError, match="index is there already: give a new folder, or remove it first"):
        VectorIndex.build(np.eye(3), ["a", "b", "c"], "model", tmp_path / "index")


def test_searches_that_cannot_be_are_refused(tmp_path):
    index = VectorIndex.build(np.eye(3), ["a", "b", "c"], "model", tmp_path / "index")
    with pytest.raises(UserError, match=r"queries must be of shape \(queries, 3\), got \(1, 2\)"):
        index.search(np.ones([1, 2]), 1)
    with pytest.raises(UserError, match="query 0 holds a number that is not finite"):
        index.search(np.full([1, 3], np.inf), 1)
    with pytest.raises(UserError, match="k must be at least 1, got 0"):
        index.search(np.ones([1, 3]), 0)
    with pytest.raises(UserError, match="text 3 is none of the 3"):
        index.texts([3])
    with pytest.raises(UserError, match="text -1 is none of the 3"):
        index.texts([-1])


def test_without_faiss_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"vectors are searched by faiss: pip install 'keras_lm\[tasks\]' \(or pip install faiss-cpu\)"):
        VectorIndex.open(tmp_path, "model")


@pytest.mark.parametrize("k", [1, 3, 10, 30])
def test_ndcg_is_scikit_learns(k):
    draw = np.random.default_rng(k)
    scores, gains = draw.normal(size=(50, 30)), draw.integers(0, 4, size=(50, 30))
    found = ranking_scores(np.argsort(-scores, axis=1), [dict(enumerate(own)) for own in gains], k)
    assert found.ndcg == pytest.approx(ndcg_score(gains, scores, k=k))
    assert found.queries == 50 and found.k == k


def test_recall_and_mrr_are_scikit_learns_where_one_text_is_right():
    draw = np.random.default_rng(0)
    scores, right = draw.normal(size=(200, 12)), draw.integers(12, size=200)
    rankings = np.argsort(-scores, axis=1)
    for k in (1, 3, 11):
        found = ranking_scores(rankings, right[:, None], k)
        assert found.recall == pytest.approx(top_k_accuracy_score(right, scores, k=k, labels=range(12)))
    found = ranking_scores(rankings, right[:, None], 12)
    assert (found.recall, found.mrr) == (1, pytest.approx(label_ranking_average_precision_score(np.eye(12)[right], scores)))


def test_measures_by_hand():
    found = ranking_scores([[5, 7, 9, 1], [2, 4, 6, 8]], [{1, 9, 3, 11}, {8}], k=3)
    assert found.recall == (1 / 4 + 0) / 2  # the fourth place does not count
    assert found.mrr == (1 / 3 + 0) / 2
    best = 1 + 1 / np.log2(3) + 1 / 2
    assert found.ndcg == pytest.approx((1 / 2 / best + 0) / 2)


def test_a_right_ranking_scores_1_however_few_places_it_has():
    assert ranking_scores([[3, 1]], [{1: 1.0, 3: 2.0}], k=10).ndcg == 1
    assert ranking_scores([[]], [{1}], k=10) == ranking_scores([[2, 4]], [{1}], k=10)


@pytest.mark.parametrize(
    ("numbers", "relevant", "k", "message"),
    [
        ([[1]], [{1}], 0, "k must be at least 1, got 0"),
        ([], [], 1, "there are 0 rankings, and right texts for 0 queries"),
        ([[1]], [{1}, {2}], 1, "there are 1 rankings, and right texts for 2 queries"),
        ([[1], [2]], [{1}, {2: 0}], 1, "query 2 has no right text"),
        ([[1, 1]], [{1}], 2, "the ranking of query 1 has a text twice"),
    ],
)
def test_rankings_that_cannot_be_judged_are_refused(numbers, relevant, k, message):
    with pytest.raises(UserError, match=message):
        ranking_scores(numbers, relevant, k)
