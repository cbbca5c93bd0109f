import collections

import numpy as np
import pytest

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.insight.senses import (
    SenseExample,
    context_means,
    load_senses,
    sense_separation,
    sense_states,
    static_vectors,
)
from keras_lm.insight.states import hidden_states
from keras_lm.tokenizers import CharacterTokenizer


@pytest.fixture(scope="module")
def examples():
    return load_senses()


@pytest.fixture(scope="module")
def tokenizer(examples):
    return CharacterTokenizer.fit([example.sentence for example in examples])


def test_the_set_is_whole(examples):
    assert len({example.sentence for example in examples}) == len(examples)
    counts = collections.Counter((example.word, example.sense) for example in examples)
    words = collections.Counter(word for word, _ in counts)
    assert len(words) >= 10
    assert set(words.values()) == {2}
    assert min(counts.values()) >= 8
    for example in examples:
        assert example.sentence.count(example.word) == 1
        assert len(example.left) > len(example.word), f"nothing stands left of {example.word} in {example.sentence}"
        assert len(example.sentence) - len(example.left) >= 1


def test_static_vectors_are_at_chance_by_construction(examples, tokenizer):
    matrix = np.random.default_rng(0).normal(size=[tokenizer.vocabulary_size, 16])
    for found in sense_separation(static_vectors(matrix, tokenizer, examples), examples):
        assert found.accuracy == pytest.approx(found.chance) == pytest.approx(7 / 15)
        assert found.silhouette == 0


def test_an_oracle_is_always_right(examples):
    sense_of = {example.word: example.sense for example in reversed(examples)}
    vectors = [np.array([1.0, example.sense == sense_of[example.word]]) for example in examples]
    for found in sense_separation(np.array(vectors), examples):
        assert found.accuracy == 1
        assert found.silhouette == pytest.approx(1)


def test_separation_is_that_of_scikit_learn(examples):
    from sklearn import metrics, neighbors

    vectors = np.random.default_rng(0).normal(size=[len(examples), 8])
    for found in sense_separation(vectors, examples):
        rows = [number for number, example in enumerate(examples) if example.word == found.word]
        senses = np.array([examples[number].sense for number in rows])
        assert found.silhouette == pytest.approx(metrics.silhouette_score(vectors[rows], senses, metric="cosine"))
        right = 0
        for row, sense in zip(rows, senses, strict=True):
            others = [other for other in rows if other != row]
            classifier = neighbors.KNeighborsClassifier(1, metric="cosine")
            right += classifier.fit(vectors[others], [examples[other].sense for other in others]).predict(vectors[[row]])[0] == sense
        assert found.accuracy == pytest.approx(right / len(rows))


def test_separation_by_hand():
    """Vectors at 0 and 60, at 90 and 180 degrees: 1 - cosine is 0.5 and 1 within a sense."""
    angles = np.deg2rad([0, 60, 90, 180])
    examples = [SenseExample("难", sense, "难") for sense in "aabb"]
    found = sense_separation(np.stack([np.cos(angles), np.sin(angles)], axis=1), examples)[0]
    far = 1 - np.cos(np.deg2rad([90, 180, 30, 120]))  # from 0 to the two of b; from 60 to them
    a, b = [0.5, 0.5, 1, 1], [far[:2].mean(), far[2:].mean(), far[[0, 2]].mean(), far[[1, 3]].mean()]
    assert found.silhouette == pytest.approx(np.mean([(two - one) / max(one, two) for one, two in zip(a, b, strict=True)]))
    assert found.accuracy == 0.5  # 0 and 180 degrees have their own sense nearest, 60 and 90 have each other


@pytest.mark.parametrize("kind", models.MODELS)
def test_states_are_those_of_each_sentence_read_alone(kind, examples, tokenizer):
    shape = {
        "embedding_dim": 8,
        "num_layers": 1,
        **({"num_heads": 2, "context_length": 40} if kind == "transformer" else {"hidden_dim": 8}),
    }
    model = models.MODELS[kind](tokenizer.vocabulary_size, **shape)
    states = list(sense_states(model, tokenizer, examples[::16]).values())[-1]
    for example, state in zip(examples[::16], states, strict=True):
        whole = [[tokenizer.start_id, *tokenizer.tokenize([example.sentence]).to_list()[0]]]
        np.testing.assert_allclose(hidden_states(model, np.array(whole))[0, len(example.left)], state, atol=1e-5)


def test_the_embedding_is_the_same_in_all_sentences_and_the_state_is_not(examples, tokenizer):
    model = models.gru_lm(tokenizer.vocabulary_size, embedding_dim=8, hidden_dim=8, num_layers=1)
    embedding, hidden = sense_states(model, tokenizer, examples[:16]).values()
    assert np.ptp(embedding, axis=0).max() == 0
    assert len(np.unique(hidden.round(6), axis=0)) == 16


def test_means_of_what_stands_before(examples, tokenizer):
    matrix = np.eye(tokenizer.vocabulary_size)
    example = [SenseExample("会", "can", "情况一定会好。")]
    ids = tokenizer.tokenize(["情况一定"]).to_list()[0]
    for window, read in ((None, ids), (2, ids[-2:]), (1, ids[-1:]), (99, ids)):
        found = context_means(matrix, tokenizer, example, window)[0]
        np.testing.assert_allclose(found[read], 1 / len(read))
        assert found.sum() == pytest.approx(1)
    assert not context_means(matrix, tokenizer, [SenseExample("会", "can", "会好。")]).any()


def test_what_cannot_be_used_is_refused(examples, tokenizer):
    with pytest.raises(UserError, match="is not in the sentence"):
        SenseExample("花", "flower", "这道题太难。")
    model = models.gru_lm(tokenizer.vocabulary_size, embedding_dim=8, hidden_dim=8, num_layers=1)
    with pytest.raises(UserError, match="does not know"):
        sense_states(model, tokenizer, [SenseExample("会", "can", "魑魅会好。")])
    with pytest.raises(UserError, match="a row for each"):
        static_vectors(np.zeros([3, 4]), tokenizer, examples)
    with pytest.raises(UserError, match="window"):
        context_means(np.zeros([tokenizer.vocabulary_size, 4]), tokenizer, examples, 0)
    with pytest.raises(UserError, match="one vector an example"):
        sense_separation(np.zeros([3, 4]), examples)
    with pytest.raises(UserError, match="no examples"):
        sense_states(model, tokenizer, [])
    with pytest.raises(UserError, match=r"two senses .* got \{'can': 2\}"):
        sense_separation(np.zeros([2, 4]), [SenseExample("会", "can", "会好。"), SenseExample("会", "can", "也会好。")])
