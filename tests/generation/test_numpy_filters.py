"""The filters in NumPy against those in TensorFlow, which are tested against transformers."""

import numpy as np
import pytest
import tensorflow as tf

from keras_lm.generation import counter_rng, decode, filters, numpy_filters, numpy_rng
from keras_lm.generation.settings import SamplingSettings

VOCABULARY = 1000


def random_rows(rows, forbidden=0.1):
    logits = np.random.normal(size=(rows, VOCABULARY), scale=3).astype(np.float32)
    logits[np.random.random(logits.shape) < forbidden] = -np.inf
    logits[:, 500:510] = logits[:, 490:500]  # some that are equal
    return logits


KNOBS = [  # each with values of its knob, the last of which switches it off
    ("keep_top_k", [1, 2, 5, 40, 899, 999, 5000, 0]),
    ("keep_top_p", [1e-6, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0]),
    ("keep_min_p", [1e-4, 0.01, 0.1, 0.5, 0.99, 0.0]),
    ("keep_typical", [1e-6, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0]),
    ("cut_epsilon", [1e-5, 3e-4, 9e-4, 0.02, 0.9, 0.0]),
    ("cut_eta", [1e-5, 3e-4, 4e-3, 0.1, 0.9, 0.0]),
]
NAMES = {
    "keep_top_k": "top_k",
    "keep_top_p": "top_p",
    "keep_min_p": "min_p",
    "keep_typical": "typical_p",
    "cut_epsilon": "epsilon_cutoff",
    "cut_eta": "eta_cutoff",
}


def knobs_of(**given):
    settings = SamplingSettings(**{"temperature": 1.0, **given})
    return {name: getattr(settings, name) for name in numpy_filters.KNOBS}


def run(logits, knobs, text=(), fresh=(), length=0, bias=None):
    counts = lambda ids: np.bincount(np.array(ids, int), minlength=VOCABULARY).astype(np.int32)
    bias = np.zeros(VOCABULARY, np.float32) if bias is None else bias
    text = np.array(text, np.int32)
    return numpy_filters.Filters(knobs, end_id=3)(logits, bias=bias, text=text, seen=counts(text), fresh=counts(fresh), length=length)


@pytest.mark.parametrize(("function", "values"), KNOBS, ids=[name for name, _ in KNOBS])
def test_a_filter_keeps_what_its_twin_keeps(function, values):
    rows = random_rows(len(values))
    knob = np.array(values, np.int32 if isinstance(values[0], int) else np.float32)
    expected = getattr(filters, function)(tf.constant(rows), tf.constant(knob)).numpy()
    for row, value, wanted in zip(rows, values, expected, strict=True):
        before = row.copy()
        np.testing.assert_array_equal(run(row, {**knobs_of(), NAMES[function]: value}), wanted)
        np.testing.assert_array_equal(row, before)
    assert len({int(np.isfinite(row).sum()) for row in expected}) > 2


def test_rules_that_look_at_the_text_do_what_their_twins_do():
    rows = random_rows(4)
    text, fresh = np.random.randint(0, 30, 40), np.random.randint(0, 30, 20)
    seen_counts, fresh_counts = (np.bincount(ids, minlength=VOCABULARY).astype(np.int32)[None] for ids in (text, fresh))
    one = lambda value: tf.constant([value])
    for logits in rows:
        row = tf.constant(logits[None])
        expected = [
            (knobs_of(repetition_penalty=1.3), filters.apply_repetition_penalty(row, seen_counts, one(1.3))),
            (knobs_of(presence_penalty=0.7), filters.apply_presence_penalty(row, fresh_counts, one(0.7))),
            (knobs_of(frequency_penalty=-0.2), filters.apply_frequency_penalty(row, fresh_counts, one(-0.2))),
            (knobs_of(min_new_tokens=3), filters.hold_back_end(row, tf.constant(2), one(3), 3)),
            (knobs_of(temperature=0.7), filters.apply_temperature(row, one(0.7))),
        ]
        for size in (1, 2, 3, 41):
            blocked = filters.forbid_repeated_ngrams(row, tf.constant(text[None], tf.int32), one(0), tf.constant(40), one(size))
            expected.append((knobs_of(no_repeat_ngram_size=size), blocked))
        for knobs, wanted in expected:
            np.testing.assert_allclose(run(logits, knobs, text, fresh, length=2), wanted.numpy()[0], rtol=1e-6)


def test_all_of_them_together_are_decode_filtered():
    settings = SamplingSettings(
        temperature=0.8,
        top_k=300,
        top_p=0.97,
        min_p=0.001,
        typical_p=0.95,
        epsilon_cutoff=1e-4,
        eta_cutoff=2e-4,
        repetition_penalty=1.2,
        presence_penalty=0.3,
        frequency_penalty=0.1,
        no_repeat_ngram_size=2,
        min_new_tokens=5,
    )
    text, logits = np.random.randint(0, 50, 30).astype(np.int32), random_rows(1)
    bias = np.random.normal(size=[1, VOCABULARY]).astype(np.float32)
    counts = np.bincount(text, minlength=VOCABULARY).astype(np.int32)[None]
    carry = {
        "seen": counts,
        "fresh": counts,
        "history": tf.constant(text[:, None]),
        "padding": tf.constant([0]),
        "length": tf.constant([4]),
    }
    rules = decode.Rules(end_id=3, bias=tf.constant(bias))
    expected = decode.filtered(tf.constant(logits), carry, tf.constant(30), decode.Knobs.of(settings, 1), rules).numpy()[0]
    found = run(logits[0], knobs_of(**{name: getattr(settings, name) for name in numpy_filters.KNOBS}), text, text, 4, bias[0])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert 5 < np.isfinite(found).sum() < 300


def test_the_names_are_those_of_decode():
    assert decode.Knobs.names() == numpy_filters.KNOBS
    off = SamplingSettings()
    assert numpy_filters.nothing_filters({name: getattr(off, name) for name in numpy_filters.KNOBS})
    for name, value in (("top_k", 3), ("min_p", 0.1), ("no_repeat_ngram_size", 2), ("min_new_tokens", 1), ("presence_penalty", -1.0)):
        assert not numpy_filters.nothing_filters({**knobs_of(), name: value})


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.0, "top_k": 5},
        {"top_k": 5},
        {"top_p": 0.9},
        {"temperature": 0.7, "top_k": 300, "top_p": 0.95},
    ],
    ids=str,
)
@pytest.mark.parametrize("vocabulary", [60, 1000, 30000])
def test_a_token_that_is_drawn_is_that_of_decode(knobs, vocabulary):
    knobs = knobs_of(**knobs)
    rows = np.random.normal(size=(50, vocabulary), scale=3).astype(np.float32)
    bias = np.zeros(vocabulary, np.float32)
    bias[::7] = -np.inf
    uniform, shaping = np.random.random(50).astype(np.float32), numpy_filters.Filters(knobs, end_id=3)
    of_all = lambda name: tf.constant([knobs[name]] * 50)
    shaped = filters.keep_top_k(filters.apply_temperature(rows + bias, of_all("temperature")), of_all("top_k"))
    shaped = filters.keep_top_p(shaped, of_all("top_p"))
    expected = filters.choose(shaped, tf.constant(uniform), of_all("temperature")).numpy()
    found = [shaping.draw(row, bias, 0, number) for row, number in zip(rows, uniform, strict=True)]
    np.testing.assert_array_equal(found, expected)
    assert len(set(found)) > 5
    assert not (np.array(found) % 7 == 0).any()


@pytest.mark.parametrize("vocabulary", [4, 4000])
def test_a_draw_at_the_end_of_the_distribution_is_never_a_forbidden_token(vocabulary):
    weights = np.zeros(vocabulary, np.float32)
    weights[:2] = 0.5
    assert numpy_filters.choose(weights, 1.0) in (0, 1)  # as the largest number below 1 times a sum may come out
    assert numpy_filters.choose(weights[::-1].copy(), 0.0) == vocabulary - 2
    assert numpy_filters.choose(weights * 0, 0.5) is None


@pytest.mark.parametrize("knobs", [{"temperature": 0.0}, {}, {"top_k": 2}, {"top_p": 0.5}, {"top_p": 0.5, "min_p": 0.1}], ids=str)
@pytest.mark.filterwarnings("error")
def test_nothing_is_drawn_where_all_is_forbidden(knobs):
    forbidden = np.full(VOCABULARY, -np.inf, np.float32)
    assert numpy_filters.Filters(knobs_of(**knobs), end_id=3).draw(np.zeros(VOCABULARY, np.float32), forbidden, 0, 0.5) is None


def test_random_numbers_and_salts_are_the_same_bits():
    seed, salt = np.array([0, 1, 2**31 - 1, 7], np.int32), np.array([0, -5, 2**31 - 1, -(2**31)], np.int32)
    counters = np.arange(4 * 50).reshape(4, 50).astype(np.int32)
    expected = counter_rng.uniforms(tf.constant(seed), tf.constant(salt), tf.constant(counters)).numpy()
    np.testing.assert_array_equal(numpy_rng.uniforms(seed, salt, counters), expected)
    prompts = [np.random.randint(0, 60000, length).tolist() for length in (1, 2, 31, 200)]
    padded = tf.constant([[0] * (200 - len(prompt)) + prompt for prompt in prompts])
    expected = counter_rng.salt_of(padded, tf.constant([200 - len(prompt) for prompt in prompts])).numpy()
    np.testing.assert_array_equal(numpy_rng.salts_of(prompts), expected)
