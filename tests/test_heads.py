import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.heads import answerer, best_labels, best_spans, body_of, classifier, crf_of, summed_loss, tagger, take_body, text_body
from keras_lm.recurrent import run_model

SIZES = {
    "simple_rnn": {"embedding_dim": 8, "hidden_dim": 12, "num_layers": 1},
    "lstm": {"embedding_dim": 8, "hidden_dim": 12, "num_layers": 2, "dropout": 0.1},
    "gru": {"embedding_dim": 8, "hidden_dim": 12, "num_layers": 1},
    "transformer": {"context_length": 16, "embedding_dim": 16, "num_layers": 1, "num_heads": 2},
}
IDS = tf.constant([[2, 7, 8, 9, 3, 0, 0], [2, 5, 3, 0, 0, 0, 0], [2, 11, 12, 13, 14, 15, 3]])


def body(kind, bidirectional=True):
    return text_body(kind, 20, bidirectional=bidirectional, **SIZES[kind])


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("kind", SIZES)
def test_padding_does_not_change_what_is_said_of_a_text(kind, bidirectional):
    model = classifier(body(kind, bidirectional), 3)
    together = model(IDS).numpy()
    for row, length in enumerate((5, 3, 7)):
        np.testing.assert_allclose(model(IDS[row : row + 1, :length])[0], together[row], atol=1e-5)


@pytest.mark.parametrize("kind", SIZES)
def test_only_a_body_that_reads_both_ways_knows_what_follows(kind):
    other = tf.constant(IDS.numpy() * (np.arange(7) < 4) + 6 * (np.arange(7) == 4))[2:]
    for bidirectional in (True, False):
        model = body(kind, bidirectional)
        moved = np.abs(model(IDS[2:]) - model(other))[0, :4].max() > 1e-6
        assert moved == bidirectional


@pytest.mark.parametrize("kind", ["gru", "transformer"])
@pytest.mark.parametrize("make", [lambda body: classifier(body, 3), lambda body: tagger(body, 3, forbidden=[(0, 1)]), answerer])
def test_a_model_with_a_head_is_saved_and_loaded(kind, make, tmp_path):
    model = make(body(kind))
    if crf_of(model):
        crf_of(model).transitions.assign(np.random.normal(size=[3, 3]))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    logits = model(IDS)
    np.testing.assert_array_equal(loaded(IDS), logits)
    np.testing.assert_array_equal(best_labels(loaded, IDS, logits), best_labels(model, IDS, logits))


def test_the_fast_recurrent_path_says_what_keras_layers_say():
    for kind in ("simple_rnn", "lstm", "gru"):
        model = classifier(body(kind), 3)
        np.testing.assert_allclose(run_model(model, IDS), model(IDS), atol=1e-5)


@pytest.mark.parametrize("kind", SIZES)
def test_a_language_models_body_is_taken_over(kind):
    learnt = models.get(kind)(20, **SIZES[kind])
    model = classifier(body(kind, bidirectional=False), 2)
    before = model.layers[-1].kernel.numpy()
    take_body(model, learnt)
    np.testing.assert_allclose(body_of(model)(IDS), body_of(learnt)(IDS), atol=1e-6)
    np.testing.assert_array_equal(model.layers[-1].kernel, before)


def test_the_body_of_a_masked_language_model_is_taken_over_and_so_is_a_classifiers_by_a_tagger():
    masked = models.masked_lm(models.transformer_encoder(20, norm_first=True, use_bias=False, epsilon=None, **SIZES["transformer"]))
    model = classifier(body("transformer"), 2)
    take_body(model, masked)
    np.testing.assert_allclose(body_of(model)(IDS), body_of(masked)(IDS), atol=1e-6)
    marking = tagger(body("transformer"), 4)
    take_body(marking, model)
    np.testing.assert_allclose(body_of(marking)(IDS), body_of(masked)(IDS), atol=1e-6)


def test_a_body_of_another_form_is_refused_by_its_first_weight():
    model = classifier(text_body("gru", 20, bidirectional=False, embedding_dim=8, hidden_dim=16, num_layers=1), 2)
    with pytest.raises(UserError, match=r"kernel is \(8, 48\) here, but .* is \(8, 36\)"):
        take_body(model, models.gru_lm(20, **SIZES["gru"]))
    with pytest.raises(UserError, match="has 4 weights before its head, the one to start from 7"):
        take_body(classifier(body("gru", False), 2), models.gru_lm(20, embedding_dim=8, hidden_dim=12, num_layers=2))
    with pytest.raises(UserError, match="the model other is none that"):
        body_of(keras.Model(*[keras.Input([4])] * 2, name="other"))


def test_the_summed_loss_is_that_of_the_labels_with_weights():
    logits, labels = tf.random.normal([3, 4]), tf.constant([1, 0, 3])
    model = classifier(body("gru"), 4)
    expected = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    assert float(summed_loss(model, labels, logits, tf.constant([1.0, 0.0, 2.0]))) == pytest.approx(float(expected[0] + 2 * expected[2]))


def test_a_crf_whose_weights_are_zero_is_a_softmax_a_position():
    marking = tagger(body("gru"), 3)
    logits, labels = tf.random.normal([3, 7, 3]), tf.random.uniform([3, 7], maxval=3, dtype=tf.int32)
    lengths = tf.math.count_nonzero(IDS, axis=1, dtype=tf.int32) - 2
    weights = tf.pad(tf.sequence_mask(lengths, 6, tf.float32), [[0, 0], [1, 0]])
    plain = tagger(body("gru"), 3, crf=False)
    assert float(summed_loss(marking, labels, logits, weights)) == pytest.approx(
        float(summed_loss(plain, labels, logits, weights)), rel=1e-5
    )
    real = weights.numpy() > 0
    np.testing.assert_array_equal(best_labels(marking, IDS, logits).numpy()[real], best_labels(plain, IDS, logits).numpy()[real])


def test_a_span_stands_in_the_passage_or_at_the_first_position():
    ids = tf.constant([[2, 9, 9, 3, 7, 8, 7, 3, 0], [2, 3, 5, 3, 0, 0, 0, 0, 0]])
    possible = answerer(body("gru"))(ids).numpy() > -1e8
    assert possible[:, 0].tolist() == possible[:, 1].tolist() == [[1, 0, 0, 0, 1, 1, 1, 0, 0], [1, 0, 1, 0, 0, 0, 0, 0, 0]]


def test_the_loss_of_spans_is_that_of_transformers():
    torch = pytest.importorskip("torch")
    logits, places = np.random.normal(size=[3, 2, 9]).astype(np.float32), np.array([[4, 5], [0, 0], [8, 8]])
    ends = [torch.nn.functional.cross_entropy(torch.tensor(logits[:, side]), torch.tensor(places[:, side])) for side in (0, 1)]
    weights = tf.fill([3, 2], 1 / 6)
    expected = float((ends[0] + ends[1]) / 2)  # as BertForQuestionAnswering has it
    assert float(summed_loss(answerer(body("gru")), tf.constant(places, tf.int32), tf.constant(logits), weights)) == pytest.approx(expected)


@pytest.mark.parametrize("longest", [1, 3, 50])
def test_the_best_span_against_all_spans(longest):
    logits = np.random.normal(size=[20, 2, 9]).astype(np.float32)
    first, last, score, chance = (part.numpy() for part in best_spans(tf.constant(logits), longest))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    for row in range(20):
        spans = [(one, other) for one in range(1, 9) for other in range(one, min(one + longest, 9))]
        best = max(spans, key=lambda span, row=row: logits[row, 0, span[0]] + logits[row, 1, span[1]])
        assert (first[row], last[row]) == best
        assert score[row] == pytest.approx(logits[row, 0, best[0]] + logits[row, 1, best[1]] - logits[row, :, 0].sum(), abs=1e-5)
        assert chance[row] == pytest.approx(softmax[row, 0, best[0]] * softmax[row, 1, best[1]], rel=1e-5)
