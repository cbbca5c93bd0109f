import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.insight import recall
from keras_lm.insight.recall import RecallTask, recall_accuracy, recall_model, train_recall

TASK = RecallTask(num_keys=6, num_values=3, length=20, max_distance=8)


def parse(task, ids):
    """Of one sequence, written anew from its words: at each question the distance to the pair, and the pair's id."""
    shown, asked = {}, {}
    for place, word in enumerate(task.describe(ids).split()):
        key = word.rstrip("?").partition("=")[0]
        if word.endswith("?"):
            asked[place] = (place - shown[key][0], shown[key][1])
        elif "=" in word:
            shown.setdefault(key, (place, ids[place]))
    return asked


def test_questions_are_answered_by_the_pair_at_the_distance_that_is_said():
    ids, distances = TASK.sequences(200, seed=0)
    for row, said in zip(ids, distances, strict=True):
        asked = parse(TASK, row)
        assert {place: distance for place, (distance, _) in asked.items()} == {place: d for place, d in enumerate(said) if d}
        for place, (_, answer) in asked.items():
            if place + 1 < TASK.length:
                assert row[place + 1] == answer


def test_keys_are_shown_once_and_asked_once():
    ids, distances = TASK.sequences(200, seed=0)
    for row in ids:
        words = TASK.describe(row).split()
        questions = [word for word in words if word.endswith("?")]
        assert len(set(questions)) == len(questions)
        pairs = [word for before, word in itertools.pairwise(["", *words]) if "=" in word and not before.endswith("?")]
        assert len({pair.partition("=")[0] for pair in pairs}) == len(pairs)
    assert distances.max() <= TASK.max_distance


def test_distances_are_even_in_the_training_set():
    task = RecallTask()
    counts = np.bincount(task.sequences(4000, seed=0)[1].ravel())[1:]
    assert len(counts) == task.max_distance
    assert counts.max() < 1.6 * counts.min()


def test_values_are_drawn_anew():
    """No key goes with a value more often than with another, so a model that knows the key alone is at chance."""
    ids, _ = TASK.questions(6000, 3, seed=0)
    counts = np.bincount(ids[:, :-1].ravel(), minlength=18).reshape(6, 3)
    np.testing.assert_allclose(counts / counts.sum(axis=1, keepdims=True), 1 / 3, atol=0.03)


def test_the_same_seed_gives_the_same_and_another_gives_others():
    first, again, other = (TASK.sequences(20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert (first[0] != other[0]).any(axis=1).all()


def test_a_test_asks_for_the_pair_at_the_distance_and_values_are_balanced():
    for distance in (1, 4, 6):
        ids, answers = TASK.questions(50, distance, seed=0)
        assert ids.shape == (50, 7)
        np.testing.assert_array_equal(ids[:, -1 - distance], answers)
        for row, answer in zip(ids, answers, strict=True):
            assert parse(TASK, row) == {6: (distance, answer)}
            assert (np.bincount(row[:-1] % 3) == 2).all()
    np.testing.assert_array_equal(TASK.questions(50, 1, seed=0)[0][:, :-1], TASK.questions(50, 6, seed=0)[0][:, :-1])


def test_an_answer_by_rote_is_at_chance_and_a_look_up_is_right(monkeypatch):
    """The measure itself, with models that are rules: repeat the last pair, or look the key up."""

    def looks_up(model, ids):
        pairs, key = ids[:, :-1], ids[:, -1:] - TASK.num_keys * TASK.num_values
        found = tf.reduce_max(tf.where(pairs // TASK.num_values == key, pairs, -1), axis=1)
        return tf.one_hot(found, TASK.vocabulary_size)[:, None]

    monkeypatch.setattr(recall, "run_model", looks_up)
    assert (recall_accuracy(None, TASK, range(1, 7), count=100) == 1).all()

    def same_key_last_value(model, ids):
        key = ids[:, -1] - TASK.num_keys * TASK.num_values
        return tf.one_hot(key * TASK.num_values + ids[:, -2] % TASK.num_values, TASK.vocabulary_size)[:, None]

    monkeypatch.setattr(recall, "run_model", same_key_last_value)
    shares = recall_accuracy(None, TASK, range(1, 7), count=3000)
    assert shares[0] == 1
    assert shares.mean() == pytest.approx(1 / TASK.num_values, abs=0.02)


@pytest.mark.parametrize("kind", models.MODELS)
def test_models_have_equally_many_parameters(kind):
    assert abs(recall_model(kind, RecallTask(), 80_000).count_params() / 80_000 - 1) < 0.02
    assert recall_model(kind, TASK, 40_000, seed=1).name in recall.LEARNING_RATES


def test_weights_come_from_the_seed():
    first, again, other = (recall_model("gru", TASK, 30_000, seed=seed).get_weights() for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    assert (first[0] != other[0]).any()


@pytest.mark.slow
def test_a_transformer_learns_it_in_a_few_steps():
    model = recall_model("transformer", TASK, 60_000)
    before = recall_accuracy(model, TASK, [1, 3, 6], count=200)
    loss = train_recall(model, TASK, steps=200, learning_rate=5e-3)
    assert loss < 0.2
    assert (recall_accuracy(model, TASK, [1, 3, 6], count=200) > 0.95).all()
    assert before.max() < 0.5


@pytest.mark.slow
def test_training_is_repeatable():
    losses = [train_recall(recall_model("gru", TASK, 30_000), TASK, steps=10) for _ in range(2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_loss_is_that_of_the_answers():
    """Before any learning it is the logarithm of the vocabulary, or near it."""
    loss = train_recall(recall_model("gru", TASK, 30_000), TASK, steps=2, learning_rate=1e-9)
    assert loss == pytest.approx(np.log(TASK.vocabulary_size), rel=0.05)


def test_what_cannot_be_used_is_refused():
    with pytest.raises(UserError, match="max_distance must be at most 18"):
        RecallTask(length=20, max_distance=19)
    with pytest.raises(UserError, match="num_values"):
        RecallTask(num_values=1)
    with pytest.raises(UserError, match="distance must be from 1 to 6"):
        TASK.questions(1, 7, seed=0)
    with pytest.raises(UserError, match="distance must be from 1 to 6"):
        recall_accuracy(recall_model("gru", TASK, 30_000), TASK, [7])
    with pytest.raises(UserError, match="did you mean 'lstm'"):
        recall_model("lstn", TASK, 30_000)
    with pytest.raises(UserError, match="the nearest has"):
        recall_model("lstm", TASK, 100)
    with pytest.raises(UserError, match="learning_rate"):
        model = recall_model("lstm", TASK, 30_000)
        model.name = "mine"
        train_recall(model, TASK, steps=1)
