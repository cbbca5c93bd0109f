import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers

from keras_lm.generation import filters

VOCABULARY = 1000


@pytest.fixture(params=["eager", "graph", "xla"])
def run(request):
    """Calls a filter on arrays: as it is, in a graph with any number of rows, or compiled."""

    def call(function, *arrays):
        tensors = [tf.convert_to_tensor(array) for array in arrays]
        if request.param == "graph":
            specs = [tf.TensorSpec([None, *tensor.shape[1:]] if tensor.shape.rank else [], tensor.dtype) for tensor in tensors]
            function = tf.function(function, input_signature=specs)
        elif request.param == "xla":
            function = tf.function(function, jit_compile=True)
        return function(*tensors).numpy()

    return call


def random_logits(rows, forbidden=0.1):
    logits = np.random.normal(size=(rows, VOCABULARY), scale=3).astype(np.float32)
    logits[np.random.random(logits.shape) < forbidden] = -np.inf
    return logits


def reference(processor, logits, ids=()):
    """What a logits processor of transformers makes of one row; `None` leaves it."""
    if processor is None:
        return logits
    return processor(torch.tensor([list(ids)], dtype=torch.long), torch.tensor(logits[None])).numpy()[0]


def counts_of(texts):
    return np.stack([np.bincount(text, minlength=VOCABULARY) for text in texts]).astype(np.int32)


def floats(*values):
    return np.array(values, np.float32)


PEERS = [  # each with values of its knob, the last of which switches it off
    (filters.apply_temperature, transformers.TemperatureLogitsWarper, floats(0.1, 0.7, 2.5, 1.0)),
    (filters.keep_top_k, transformers.TopKLogitsWarper, np.array([1, 2, 5, 40, 899, VOCABULARY, 5000, 0], np.int32)),
    (filters.keep_top_p, transformers.TopPLogitsWarper, floats(1e-6, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0)),
    (filters.keep_min_p, transformers.MinPLogitsWarper, floats(1e-4, 0.01, 0.1, 0.5, 1.0, 0.0)),
    (filters.keep_typical, transformers.TypicalLogitsWarper, floats(1e-6, 0.1, 0.5, 0.9, 0.95, 0.999, 1.0)),
    (filters.cut_epsilon, transformers.EpsilonLogitsWarper, floats(1e-5, 3e-4, 9e-4, 0.02, 0.9, 0.0)),
    (filters.cut_eta, transformers.EtaLogitsWarper, floats(1e-5, 3e-4, 4e-3, 0.1, 0.9, 0.0)),
]


@pytest.mark.parametrize(("function", "peer", "knob"), PEERS, ids=[peer[0].__name__ for peer in PEERS])
def test_equals_transformers(run, function, peer, knob):
    logits = random_logits(len(knob))
    processors = [*(peer(value.item()) for value in knob[:-1]), None]
    np.testing.assert_allclose(
        run(function, logits, knob),
        [reference(processor, row) for processor, row in zip(processors, logits, strict=True)],
        rtol=1e-6,
    )


def test_repetition_penalty_is_ctrls(run):
    penalties = floats(1.2, 2.0, 0.5, 1.0)
    logits, texts = random_logits(4), np.random.randint(VOCABULARY, size=(4, 300))
    np.testing.assert_allclose(
        run(filters.apply_repetition_penalty, logits, counts_of(texts), penalties),
        [
            reference(transformers.RepetitionPenaltyLogitsProcessor(float(penalty)), row, text)
            for penalty, row, text in zip(penalties, logits, texts, strict=True)
        ],
        rtol=1e-6,
    )


def test_presence_and_frequency_penalties_are_openais(run):
    presence, frequency = floats(0.5, 2.0, -1.0, 0.0), floats(0.0, 0.3, 1.0, -2.0)
    logits, counts = random_logits(4), counts_of(np.random.randint(VOCABULARY, size=(4, 1500)))
    penalised = run(
        lambda logits, counts, presence, frequency: filters.apply_frequency_penalty(
            filters.apply_presence_penalty(logits, counts, presence), counts, frequency
        ),
        *(logits, counts, presence, frequency),
    )
    np.testing.assert_allclose(penalised, logits - counts * frequency[:, None] - (counts > 0) * presence[:, None], rtol=1e-5, atol=1e-5)


def test_no_repeated_ngrams_equals_transformers(run):
    """Few words, so that much is repeated; texts that begin anywhere, with none to 24 tokens; slots around them that hold anything."""
    rows, slots, end, words = 200, 32, 24, 4
    history = np.random.randint(words, size=(rows, slots)).astype(np.int32)
    history[:, end:] = np.random.choice([-1, 0, VOCABULARY + 1], size=(rows, slots - end))
    begin, size = np.random.randint(end + 1, size=rows).astype(np.int32), np.random.randint(6, size=rows).astype(np.int32)
    begin[:3], size[:3] = 0, (1, 24, 2**31 - 1)
    for row in range(rows):
        history[row, : begin[row]] = np.random.choice([-1, 0, VOCABULARY + 1], size=begin[row])
    logits = random_logits(rows)
    kept = run(filters.forbid_repeated_ngrams, logits, history, begin, np.int32(end), size)
    expected = [
        reference(
            transformers.NoRepeatNGramLogitsProcessor(int(size[row])) if size[row] else None, logits[row], history[row, begin[row] : end]
        )
        for row in range(rows)
    ]
    np.testing.assert_array_equal(kept, expected)
    assert 50 < (kept != logits).any(axis=1).sum() < 190


def test_size_one_forbids_every_token_of_the_text():
    logits, history = tf.zeros([1, 6]), tf.constant([[5, 1, 3, 1, 0]])
    kept = filters.forbid_repeated_ngrams(logits, history, tf.constant([1]), tf.constant(4), tf.constant([1]))
    assert np.isfinite(kept.numpy()[0]).tolist() == [True, False, True, False, True, True]


@pytest.mark.parametrize("rows", [1, 3])
def test_bias_equals_transformers(run, rows):
    logits, bias = random_logits(3), np.zeros((rows, VOCABULARY), np.float32)
    bias[:, [7, 8, 9]] = np.random.normal(size=(rows, 3))
    bias[-1, 10] = -np.inf
    biased = run(filters.add_bias, logits, bias)
    for row in range(3):
        wanted = bias[row % rows]
        processor = transformers.SequenceBiasLogitsProcessor({(int(token),): float(wanted[token]) for token in np.flatnonzero(wanted)})
        np.testing.assert_allclose(biased[row], reference(processor, logits[row]), rtol=1e-6)


@pytest.mark.parametrize("num_new", [np.int32(3), np.array([3, 0, 5, 2], np.int32)], ids=["shared", "a_row"])
def test_end_is_held_back_as_in_transformers(run, num_new):
    min_new_tokens, end_id, prompt = np.array([4, 0, 5, 3], np.int32), 3, 2
    logits = random_logits(4, forbidden=0)
    kept = run(lambda logits, new, least: filters.hold_back_end(logits, new, least, end_id), logits, num_new, min_new_tokens)
    for row, (new, least) in enumerate(zip(np.broadcast_to(num_new, 4), min_new_tokens, strict=True)):
        processor = transformers.MinNewTokensLengthLogitsProcessor(prompt, int(least), end_id)
        np.testing.assert_array_equal(kept[row], reference(processor, logits[row], range(prompt + new)))


SWITCHED_OFF = {
    "apply_repetition_penalty": lambda logits, counts, zero: filters.apply_repetition_penalty(logits, counts, zero + 1.0),
    "apply_presence_penalty": filters.apply_presence_penalty,
    "apply_frequency_penalty": filters.apply_frequency_penalty,
    "forbid_repeated_ngrams": lambda logits, counts, zero: filters.forbid_repeated_ngrams(
        logits, counts, tf.cast(zero, tf.int32), tf.constant(VOCABULARY), tf.cast(zero, tf.int32)
    ),
    "add_bias": lambda logits, counts, zero: filters.add_bias(logits, tf.zeros([1, VOCABULARY])),
    "hold_back_end": lambda logits, counts, zero: filters.hold_back_end(logits, tf.constant(0), tf.cast(zero, tf.int32), 3),
    "apply_temperature": lambda logits, counts, zero: filters.apply_temperature(logits, zero + 1.0),
    "keep_top_k": lambda logits, counts, zero: filters.keep_top_k(logits, tf.cast(zero, tf.int32)),
    "keep_top_p": lambda logits, counts, zero: filters.keep_top_p(logits, zero + 1.0),
    "keep_min_p": lambda logits, counts, zero: filters.keep_min_p(logits, zero),
    "keep_typical": lambda logits, counts, zero: filters.keep_typical(logits, zero + 1.0),
    "cut_epsilon": lambda logits, counts, zero: filters.cut_epsilon(logits, zero),
    "cut_eta": lambda logits, counts, zero: filters.cut_eta(logits, zero),
}


def test_every_filter_can_be_switched_off():
    public = {name for name, value in vars(filters).items() if callable(value) and value.__module__ == filters.__name__ and name[0] != "_"}
    assert public - {"choose"} == SWITCHED_OFF.keys()


@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_a_filter_that_is_off_changes_nothing(name):
    logits, counts = random_logits(2), counts_of(np.random.randint(VOCABULARY, size=(2, 1500)))
    np.testing.assert_array_equal(SWITCHED_OFF[name](tf.constant(logits), tf.constant(counts), tf.zeros([2])), logits)


SELECTING = [
    (filters.keep_top_k, 4),
    (filters.keep_top_p, 0.9),
    (filters.keep_min_p, 1e-9),
    (filters.keep_typical, 0.999),
    (filters.cut_epsilon, 1e-9),
    (filters.cut_eta, 1e-9),
]


@pytest.mark.parametrize(("function", "knob"), SELECTING, ids=[selecting[0].__name__ for selecting in SELECTING])
def test_what_is_forbidden_stays_forbidden_and_something_is_kept(function, knob):
    logits = np.array([[1.0, -np.inf, 3.0, -np.inf, 2.0]], np.float32)
    kept = function(logits, tf.constant([knob])).numpy()[0]
    assert kept[[1, 3]].tolist() == [-np.inf, -np.inf]
    assert kept[2] == 3.0 and not np.isnan(kept).any()


def test_equal_logits_are_kept_or_forbidden_together(run):
    logits = np.log(floats(0.3, 0.2, 0.2, 0.2, 0.1))[None]

    def kept(function, knob):
        return np.isfinite(run(function, logits, np.array([knob])))[0].tolist()

    assert kept(filters.keep_top_k, 2) == [True, True, True, True, False]
    assert kept(filters.keep_top_p, np.float32(0.4)) == [True, True, True, True, False]
    assert kept(filters.keep_typical, np.float32(0.1)) == [False, True, True, True, False]


def test_top_k_tells_neighbouring_floats_apart(run):
    steps = [np.nextafter(np.float32(sign * 1.5), np.float32(9)) for sign in (1, -1)]
    logits = np.array([[1.5, steps[0], 0.0, -1.5, steps[1], -1e30, 1e30]], np.float32)
    order = np.argsort(-logits[0])
    for k in range(1, 8):
        assert np.flatnonzero(np.isfinite(run(filters.keep_top_k, logits, np.array([k], np.int32))[0])).tolist() == sorted(order[:k])


def test_temperature_zero_is_greedy():
    logits = tf.constant([[1.0, 2.0], [1.0, 2.0]])
    assert filters.apply_temperature(logits, tf.constant([0.5, 0.0])).numpy().tolist() == [[2.0, 4.0], [1.0, 2.0]]
    assert filters.choose(logits, tf.constant([0.0, 0.0]), tf.constant([1.0, 0.0])).numpy().tolist() == [0, 1]


@pytest.mark.parametrize("size", [2, 37, 1000])
def test_choose_inverts_the_cumulative_distribution(size):
    logits = np.random.normal(size=size, scale=2).astype(np.float32)
    uniform = np.linspace(0, 1, 2000, endpoint=False).astype(np.float32)
    rows = np.repeat(logits[None], 2000, axis=0)
    chosen = filters.choose(rows, uniform, tf.ones([2000])).numpy()
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum()
    expected = np.searchsorted(np.cumsum(probabilities), uniform, side="right")
    assert (chosen != expected).mean() < 0.005  # float32 sums move a border by a hair
    assert np.abs(chosen - expected).max() <= 1


def test_choose_never_takes_what_is_forbidden():
    logits = np.full((1000, 500), -np.inf, np.float32)
    logits[:, [7, 250, 499]] = 0.0
    uniform = np.concatenate([np.linspace(0, 1, 999, endpoint=False), [1 - 2.0**-24]]).astype(np.float32)
    assert set(filters.choose(logits, uniform, tf.ones([1000])).numpy().tolist()) == {7, 250, 499}


def test_choose_draws_the_distribution_of_the_softmax():
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.1], np.float32))
    uniform = np.random.default_rng(0).random(20_000).astype(np.float32)
    chosen = filters.choose(np.repeat(logits[None], 20_000, axis=0), uniform, tf.ones([20_000])).numpy()
    expected = np.exp(logits) * 20_000
    chi_square = float(((np.bincount(chosen, minlength=4) - expected) ** 2 / expected).sum())
    assert chi_square < 16.3  # 99.9 % of the distribution with 3 degrees of freedom
