"""Vectors, searches and scores beside what NumPy, SciPy and scikit-learn make of the same vectors and texts."""

import dataclasses
import itertools
import os
import pathlib
import random
import shutil
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import scipy.stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, top_k_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity, paired_cosine_distances

from keras_lm.errors import UserError
from keras_lm.examples import Example
from keras_lm.heads import tagger, text_body
from keras_lm.sentence_vectors import sentence_encoder
from keras_lm.tasks import similarity
from keras_lm.tasks.index import VectorIndex
from keras_lm.tasks.similarity import SentenceVectors, fingerprint, index_texts, nearest, searches
from keras_lm.tokenizers import ByteTokenizer
from keras_lm.training.data import examples_of
from keras_lm.training.run import Run
from keras_lm.training.settings import TrainingSettings

KNOWN = "房间早餐服务位置这本书电脑很好不错太小大贵花钱旧老说到真的"


def texts_drawn(draw, number, length):
    """Different texts of characters that the small run knows."""
    return list(dict.fromkeys("".join(draw.choices(KNOWN, k=length)) for _ in range(number)))


def of_corpus(run, path, rows):
    """The run, as if these were its pairs."""
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return dataclasses.replace(run, settings=dataclasses.replace(run.settings, corpus=str(path)))


@pytest.fixture(scope="module")
def pair_run(small_similar_run, tmp_path_factory):
    """A third of the first texts have two second ones; a second one has some characters of its first."""
    draw = random.Random(0)
    firsts = texts_drawn(draw, 450, 8)
    rows = [(first, "".join([*draw.sample(first, 3), *draw.choices(KNOWN, k=6)])) for first in [*firsts, *firsts[:150]]]
    return of_corpus(small_similar_run, tmp_path_factory.mktemp("pairs") / "pairs.tsv", rows)


@pytest.fixture(scope="module")
def rated_run(small_similar_run, tmp_path_factory):
    """Sentences of six characters, and how many of them are the same."""
    draw = random.Random(0)
    firsts = texts_drawn(draw, 600, 6)
    seconds = ["".join(one if draw.random() < 0.5 else draw.choice(KNOWN) for one in first) for first in firsts]
    same = (sum(one == other for one, other in zip(*pair, strict=True)) for pair in zip(firsts, seconds, strict=True))
    rows = zip(firsts, seconds, map(str, same), strict=True)
    return of_corpus(small_similar_run, tmp_path_factory.mktemp("rated") / "rated.tsv", rows)


@pytest.fixture(scope="module")
def encoder(small_similar_run):
    return SentenceVectors.of(small_similar_run)


def test_a_vector_does_not_depend_on_the_texts_beside_it(encoder):
    texts = ["房间很好。", "", "x" * 500, "说到电脑，老", "🙂"] * 9
    together = encoder.vectors(texts)
    for number in range(5):
        np.testing.assert_allclose(encoder.vectors([texts[number]])[0], together[number], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert together.dtype == np.float32
    assert encoder.vectors([]).shape == (0, encoder.width)


def test_what_is_beyond_the_context_is_not_read_and_is_told(encoder):
    start = "房间很好太小旧贵" * 2 + "早餐不错太大"  # with start and end the 24 tokens that are read
    np.testing.assert_array_equal(encoder.vectors([start + "老"]), encoder.vectors([start]))
    assert np.abs(encoder.vectors([start[:-1]]) - encoder.vectors([start])).max() > 1e-3
    assert encoder.longer([start, start + "老", "", start * 2]) == 2


def test_progress_comes_to_the_number_of_texts(encoder):
    told = []
    encoder.vectors(["房间很好。"] * 40, told.append)
    assert told[-1] == 40 and told == sorted(told)


def test_similarities_are_cosines(encoder):
    firsts, seconds = ["房间很好。", "", "早餐", "贵"], ["房间很好。", "老", "服务", "x" * 100]
    found = encoder.similarities(firsts, seconds)
    np.testing.assert_allclose(found, 1 - paired_cosine_distances(encoder.vectors(firsts), encoder.vectors(seconds)), atol=1e-5)
    assert found[0] == pytest.approx(1) and found.dtype == np.float32


@pytest.mark.parametrize("places", [1, 7, 10, 99])
@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix])
def test_the_nearest_are_those_of_a_whole_sort_and_of_equals_the_first(places, form):
    draw = np.random.default_rng(places)
    queries, texts = draw.integers(-2, 3, [300, 4]), draw.integers(-2, 3, [50, 4])  # small numbers, so that many are equal
    found = nearest(form(queries), form(texts), places)
    np.testing.assert_array_equal(found, np.argsort(-(queries @ texts.T), axis=1, kind="stable")[:, :places])
    assert found.dtype == np.int64


def test_first_texts_that_count_as_one_have_their_second_texts_in_common():
    pairs = [("Hi.", 4, "嗨"), ("Bye.", 7, "再见"), ("hi!", 4, "你好"), ("Hi.", 4, "您好"), ("Ciao", 9, "再见")]
    asked = searches([Example(text=text, labels=(number,), second=second) for text, number, second in pairs])
    assert asked.queries == ("Hi.", "Bye.", "hi!", "Ciao")
    assert asked.texts == ("嗨", "再见", "你好", "您好")
    assert asked.right == ({0, 2, 3}, {1}, {0, 2, 3}, {1})


def test_pairs_that_belong_together_are_judged_as_searches_by_scikit_learn(pair_run, encoder):
    told = []
    scores, found = similarity.evaluate(pair_run, "train", progress=told.append)
    pairs = examples_of(pair_run.settings).splits["train"]
    asked = searches(pairs)
    products = encoder.vectors(asked.queries) @ encoder.vectors(asked.texts).T
    right = _marked(asked)
    assert set(right.sum(axis=1)) == {1, 2}
    assert scores.ndcg == pytest.approx(ndcg_score(right, products, k=10), abs=1e-6)
    single, labels = right.sum(axis=1) == 1, range(len(asked.texts))
    hits = np.array([[asked.texts.index(text) in own for text in row] for row, own in zip(found, asked.right, strict=True)])
    top = top_k_accuracy_score(right[single].argmax(axis=1), products[single], k=10, labels=labels)
    assert hits[single].any(axis=1).mean() == pytest.approx(top)
    assert scores.recall == pytest.approx((hits.sum(axis=1) / right.sum(axis=1)).mean())
    assert (scores.k, scores.queries, told[-1]) == (10, len(asked.queries), len(pairs))
    assert 0 < scores.recall < 1


def test_what_was_found_can_be_read(pair_run):
    pairs, (_, found) = similarity.held_out(pair_run, "test"), similarity.evaluate(pair_run)
    lines = similarity.rows(pair_run, pairs, found)
    right = {line[0]: line[1].split(" | ") for line in lines}
    assert list(right) == list(searches(pairs).queries)
    assert all(pair.second in right[pair.text] for pair in pairs)
    assert [list(line[2:]) for line in lines] == found


def test_pairs_with_scores_are_judged_by_scipy(rated_run, encoder):
    told = []
    scores, cosines = similarity.evaluate(rated_run, "validation", progress=told.append)
    pairs = similarity.held_out(rated_run, "validation")
    right = [pair.labels[0] for pair in pairs]
    np.testing.assert_allclose(cosines, encoder.similarities([pair.text for pair in pairs], [pair.second for pair in pairs]), atol=1e-5)
    assert scores.spearman == pytest.approx(scipy.stats.spearmanr(cosines, right).statistic)
    assert scores.pearson == pytest.approx(scipy.stats.pearsonr(cosines, right).statistic)
    assert scores.pairs == len(pairs) == told[-1]
    assert similarity.rows(rated_run, pairs, cosines)[0] == (*pairs[0].texts, f"{right[0]:.4f}", f"{cosines[0]:.4f}")


def test_the_floor_of_pairs_with_scores_is_scikit_learns_tf_idf(rated_run):
    splits = examples_of(rated_run.settings).splits
    bag, pairs = _fitted(splits["train"]), splits["test"]
    cosines = cosine_similarity(bag.transform(pair.text for pair in pairs), bag.transform(pair.second for pair in pairs)).diagonal()
    floor, right = similarity.floor(rated_run), [pair.labels[0] for pair in pairs]
    assert floor.spearman == pytest.approx(scipy.stats.spearmanr(cosines, right).statistic, abs=0.01)  # of equals rounding decides
    assert floor.pearson == pytest.approx(scipy.stats.pearsonr(cosines, right).statistic)
    assert floor.pairs == len(pairs)


def test_the_floor_of_pairs_that_belong_together_is_scikit_learns_tf_idf(pair_run):
    splits = examples_of(pair_run.settings).splits
    bag, asked = _fitted(splits["train"]), searches(splits["train"])
    cosines = cosine_similarity(bag.transform(asked.queries), bag.transform(asked.texts))
    floor, precision = similarity.floor(pair_run, "train"), label_ranking_average_precision_score(_marked(asked), cosines)
    assert floor.ndcg == pytest.approx(ndcg_score(_marked(asked), cosines, k=10), abs=1e-3)
    assert 0 < floor.mrr < 1 and abs(floor.mrr - precision) < 0.1
    assert floor.queries == len(asked.queries)


def _marked(asked):
    """`(queries, texts)`: where a text is right for a query."""
    return np.array([[number in own for number in range(len(asked.texts))] for own in asked.right])


def _fitted(pairs):
    return TfidfVectorizer(analyzer=_pieces).fit(dict.fromkeys(text for pair in pairs for text in pair.texts))


def _pieces(text):
    """Characters and pairs of them, but for white space."""
    characters = [character for character in text.lower() if character.strip()]
    return [*characters, *map(" ".join, itertools.pairwise(characters))]


def test_an_index_of_a_stream_finds_what_a_product_finds(small_similar_run, encoder, tmp_path):
    texts = [f"{text}\n{text[:2]}" for text in texts_drawn(random.Random(1), 1100, 6)]
    told = []
    index, longer = index_texts(small_similar_run, iter(texts), tmp_path / "new" / "index", progress=told.append)
    assert len(index) == len(texts) == told[-1] > 1024  # more than are read at a time
    assert longer == 0
    queries = encoder.vectors(["说到房间，不错", "早餐很好。"])
    scores, numbers = index.search(queries, 5)
    products = queries @ encoder.vectors(texts).T
    np.testing.assert_allclose(scores, -np.sort(-products, axis=1)[:, :5], atol=1e-5)
    np.testing.assert_allclose(scores, np.take_along_axis(products, numbers, axis=1), atol=1e-5)
    assert index.texts(numbers[0]) == [texts[number] for number in numbers[0]]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["index"]
    assert VectorIndex.open(tmp_path / "new" / "index", fingerprint(small_similar_run.folder)).texts([0]) == texts[:1]


def test_neither_texts_nor_vectors_are_held_while_an_index_is_made(small_similar_run, monkeypatch, tmp_path):
    class Drawn:
        width = 256
        vectors = staticmethod(lambda texts: np.random.normal(size=(len(texts), 256)).astype(np.float32))
        longer = staticmethod(len)

    monkeypatch.setattr(SentenceVectors, "of", lambda run: Drawn())
    tracemalloc.start()
    index, longer = index_texts(small_similar_run, (f"{number} {'x' * 1000}" for number in range(20_000)), tmp_path / "index")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(index) == longer == 20_000
    assert peak < 10_000_000  # of 20 MB of text, and 20 of vectors


def test_an_index_that_is_not_finished_leaves_nothing_behind(small_similar_run, tmp_path):
    def broken():
        yield "房间"
        raise UserError("line 2 is none")

    with pytest.raises(UserError, match="line 2 is none"):
        index_texts(small_similar_run, broken(), tmp_path / "index")
    with pytest.raises(UserError, match="there is no text to be searched"):
        index_texts(small_similar_run, [], tmp_path / "index")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="is there already: give a new folder, or remove it first"):
        index_texts(small_similar_run, broken(), tmp_path)


def test_the_fingerprint_is_that_of_model_and_tokenizer(small_similar_run, tmp_path):
    whole = fingerprint(small_similar_run.folder)
    for name in ("model.keras", "tokenizer"):
        folder = tmp_path / f"other-{name}"
        shutil.copytree(small_similar_run.folder, folder)
        assert fingerprint(folder) == whole
        path = folder / name
        changed = path if path.is_file() else max(path.iterdir(), key=os.path.getsize)
        changed.write_bytes(changed.read_bytes() + b" ")
        assert fingerprint(folder) != whole
        path.rename(tmp_path / name)
        with pytest.raises(UserError, match=rf"other-{name} has no {name}"):
            fingerprint(folder)


def test_what_cannot_be_compared_is_refused(encoder):
    for judge in (SentenceVectors.of, similarity.evaluate, similarity.floor):
        with pytest.raises(UserError, match="other is a run of lm: vectors of texts are made by one of --task similarity"):
            judge(Run(pathlib.Path("other"), TrainingSettings()))
    with pytest.raises(UserError, match="texts must be a list of texts, got one text"):
        encoder.vectors("房间")
    with pytest.raises(UserError, match="2 first texts and 1 second ones are no pairs"):
        encoder.similarities(["a", "b"], ["c"])
    with pytest.raises(UserError, match=r"the model tagger gives \(None, None, 3\), no vector a text"):
        SentenceVectors(tagger(text_body("gru", 260, embedding_dim=4, hidden_dim=4), 3), ByteTokenizer(), longest=8)


def test_a_part_without_pairs_is_told(pair_run, tmp_path):
    splits = examples_of(pair_run.settings).splits
    run = of_corpus(pair_run, tmp_path / "some.tsv", [pair.texts for part in ("train", "validation") for pair in splits[part]])
    for judge in (similarity.evaluate, similarity.floor):
        with pytest.raises(UserError, match=r"no pair of .*some.tsv falls into the test part"):
            judge(run)


def test_compiled_or_not_the_vectors_are_the_same():
    model = sentence_encoder(text_body("transformer", 260, embedding_dim=8, num_layers=1, num_heads=2, context_length=16))
    texts = ["red cat", "", "白船", "a longer text than that"]
    one, other = (SentenceVectors(model, ByteTokenizer(), longest=16, jit_compile=jit).vectors(texts) for jit in (False, True))
    np.testing.assert_allclose(one, other, atol=1e-5)
