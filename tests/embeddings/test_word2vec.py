import numpy as np
import pytest
import tensorflow as tf
from gensim.models import Word2Vec

from keras_lm.embeddings import word2vec as module
from keras_lm.embeddings.vectors import vectors_of
from keras_lm.embeddings.word2vec import Word2VecSettings, keep_probabilities, word2vec
from keras_lm.errors import UserError


def topics(documents=400, length=30, seed=0):
    """Documents of two kinds, whose words are 4 to 23 and 24 to 43: what a vector can learn is which kind a word belongs to."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 2, documents)
    return np.concatenate([[2, *(rng.integers(0, 20, length) + 4 + 20 * kind), 3] for kind in kinds])


SMALL = Word2VecSettings(dimensions=16, epochs=4, subsample=0.0, block=64, shared_negatives=32, learning_rate=0.05)


@pytest.mark.parametrize("architecture", ["skip_gram", "cbow"])
def test_words_of_one_kind_become_neighbours(architecture):
    settings = Word2VecSettings(
        architecture=architecture, dimensions=16, epochs=8, subsample=0.0, block=64, shared_negatives=32, learning_rate=0.1
    )
    table = word2vec(topics(), 44, settings)
    vectors = vectors_of([str(number) for number in range(44)], table)
    for word in range(4, 44):
        near = [int(name) for name, _ in vectors.nearest(str(word), 5)]
        assert all((other < 24) == (word < 24) for other in near)


@pytest.mark.parametrize("architecture", ["skip_gram", "cbow"])
def test_loss_and_gradient_are_those_of_the_pairs_one_by_one(architecture):
    """A block against its sum over pairs, the drawn words in proportion, as the paper writes it."""
    settings = Word2VecSettings(architecture=architecture, dimensions=8, window=3, negatives=5, block=16, shared_negatives=12)
    rng = np.random.default_rng(0)
    size = settings.block + 2 * settings.window
    document = np.repeat([-1, 0, 1, -1], [3, 9, 7, 3])
    reach = rng.integers(1, 4, settings.block)
    inner = settings.block if architecture == "skip_gram" else size
    v, u, n = (rng.normal(size=[rows, 8]) for rows in (inner, size + settings.block - inner, settings.shared_negatives))
    softplus = lambda x: np.log1p(np.exp(x))
    expected, pairs = 0.0, 0
    for place in range(settings.block):
        own = place + settings.window
        near = [
            own + distance
            for distance in range(-reach[place], reach[place] + 1)
            if distance and document[own + distance] == document[own] >= 0
        ]
        pairs += len(near)
        if architecture == "skip_gram":
            for other in near:
                expected += softplus(-v[place] @ u[other]) + 5 * np.mean(softplus(n @ v[place]))
        elif near:
            mean = v[near].mean(axis=0)
            expected += softplus(-mean @ u[place]) + 5 * np.mean(softplus(n @ mean))
    neighbours = module._neighbours(tf.constant(document), tf.constant(reach), settings)
    loss_of = module._skip_gram if architecture == "skip_gram" else module._cbow
    loss = loss_of(*(tf.constant(part, tf.float32) for part in (v, u, n)), neighbours, settings)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert float(sum(map(tf.reduce_sum, neighbours.values()))) == pairs > 20


def test_frequent_words_are_left_out_as_gensim_does():
    counts = {"the": 5000, "of": 900, "word": 60, "rare": 5}
    model = Word2Vec(vector_size=2, sample=1e-2, min_count=1)
    model.build_vocab_from_freq(counts)
    theirs = [model.wv.get_vecattr(word, "sample_int") / (2**32 - 1) for word in counts]
    assert np.allclose(keep_probabilities(np.array([*counts.values()]), 1e-2), theirs, atol=1e-6)
    assert keep_probabilities(np.array([0, 3]), 0.0).tolist() == [0, 1]


def test_a_chunk_holds_each_kept_word_once_and_its_real_neighbours(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 128)
    ids = topics(documents=10)
    counts = np.bincount(ids, minlength=44)
    counts[:4] = 0
    settings = Word2VecSettings(window=2, block=32, shared_negatives=8, subsample=0.0, epochs=2)
    seen = []
    for (word, document, reach, drawn), live, tokens in module._chunks(ids, counts, settings):
        assert word.shape == document.shape == (4, 36)
        assert set(np.unique(reach)) <= {1, 2}
        assert drawn.shape == (4, 8)
        assert int(tf.reduce_min(drawn)) >= 4
        inner = word.numpy()[: int(live), 2:-2][document.numpy()[: int(live), 2:-2] >= 0]
        seen += inner.tolist()
        assert int(tokens) <= 128
    assert seen == [*ids[ids >= 4].tolist()] * 2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_vectors():
    first, second = word2vec(topics(), 44, SMALL), word2vec(topics(), 44, SMALL)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, word2vec(topics(), 44, Word2VecSettings(**{**vars(SMALL), "seed": 1})))


def test_rare_and_special_ids_get_no_vector():
    ids = np.concatenate([topics(), [44] * 4, [45] * 5])
    table = word2vec(ids, 46, SMALL)
    empty = np.flatnonzero(~table.any(axis=1)).tolist()
    assert empty == [0, 1, 2, 3, 44]


def test_progress_tells_what_is_left():
    told = []
    word2vec(topics(), 44, SMALL, progress=lambda *values: told.append(values))
    assert told[-1][0] == told[-1][1] == 4 * len(topics())
    assert told[-1][2] < told[0][2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "skipgram"}, "did you mean 'skip_gram'"),
        ({"dimensions": 0}, "dimensions must be at least 1"),
        ({"subsample": 1.0}, "subsample must be at least 0 and under 1"),
        ({"learning_rate": 1e-5}, "learning_rate must be at least min_learning_rate"),
        ({"learning_rate": 0.0}, "learning_rate must be at least min_learning_rate"),
    ],
)
def test_bad_settings_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        Word2VecSettings(**change)


def test_a_text_without_words_is_refused():
    with pytest.raises(UserError, match="the text is empty"):
        word2vec(np.array([], np.int32), 10)
    with pytest.raises(UserError, match=r"ids must be from 0 to 9, .* got 4 to 10"):
        word2vec(np.array([4, 10] * 9), 10)
    with pytest.raises(UserError, match=r"no word occurs 5 times \(min_count\)"):
        word2vec(np.array([2, 4, 5, 3]), 10)


@pytest.mark.parametrize("change", [{"learning_rate": 100.0}, {"block": 2048, "shared_negatives": 4}, {"negatives": 500}])
def test_no_setting_lets_the_vectors_grow_without_bounds(change):
    """Gradients of a block are added up, and each of 40 words stands in it many times."""
    losses = []
    settings = Word2VecSettings(**{**vars(SMALL), "epochs": 10, **change})
    table = word2vec(topics(), 44, settings, progress=lambda *values: losses.append(values[2]))
    assert np.isfinite(table).all()
    assert np.linalg.norm(table, axis=1).max() < 100
