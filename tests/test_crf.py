"""The linear chain beside all its paths, enumerated; beside pytorch-crf; and beside the sum that no shift can hurt."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm.crf import CRF, FORBIDDEN, crf_decode, crf_log_likelihood, crf_marginals

LENGTHS = np.array([4, 1, 0, 3, 2], np.int32)
BATCH, TIME, TAGS = 5, 4, 3


def normal(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def weights(seed, tags=TAGS, scale=1.0):
    return normal(seed, tags, tags, scale=scale), normal(seed + 1, tags, scale=scale), normal(seed + 2, tags, scale=scale)


EMISSIONS = normal(0, BATCH, TIME, TAGS, scale=2.0)
GIVEN = np.random.default_rng(1).integers(0, TAGS, [BATCH, TIME]).astype(np.int32)


def path_scores(emissions, length, transitions, start, end):
    """All paths of a text, `(paths, length)`, and the score of each."""
    paths = np.array(list(itertools.product(range(emissions.shape[-1]), repeat=length)))
    scores = tf.gather(start, paths[:, 0]) + tf.gather(end, paths[:, -1])
    scores += sum(tf.gather(emissions[t], paths[:, t]) for t in range(length))
    return paths, scores + sum(tf.gather_nd(transitions, paths[:, t : t + 2]) for t in range(length - 1))


def by_all_paths(emissions, tags, lengths, *chain):
    log_p = []
    for row, length in enumerate(lengths):
        if length:
            paths, scores = path_scores(emissions[row], length, *chain)
            (right,) = np.flatnonzero((paths == tags[row, :length]).all(axis=1))
            log_p.append(scores[right] - tf.reduce_logsumexp(scores))
        else:
            log_p.append(tf.zeros([]))
    return tf.stack(log_p)


COMPILED = pytest.mark.parametrize("jit_compile", [False, True], ids=["graph", "xla"])


@COMPILED
def test_likelihood_and_its_gradients_are_those_of_all_paths(jit_compile):
    chain = [tf.constant(weight) for weight in weights(2)]
    draw = normal(5, BATCH)

    def graded(function):
        inputs = [tf.constant(EMISSIONS), *chain]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            log_p = function(inputs[0], GIVEN, LENGTHS, *inputs[1:])
            total = tf.reduce_sum(log_p * draw)
        return [log_p, *map(tf.convert_to_tensor, tape.gradient(total, inputs))]

    ours = tf.function(lambda: graded(crf_log_likelihood), jit_compile=jit_compile)()
    for one, other in zip(ours, graded(by_all_paths), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)
    assert ours[0][2] == 0


@COMPILED
def test_decoded_is_the_best_of_all_paths(jit_compile):
    decode = tf.function(crf_decode, jit_compile=jit_compile)
    for seed in range(5):
        emissions, chain = tf.constant(normal(seed, BATCH, TIME, TAGS)), [tf.constant(weight) for weight in weights(seed + 10)]
        decoded = decode(emissions, tf.constant(LENGTHS), *chain).numpy()
        assert decoded.dtype == np.int32
        for row, length in enumerate(LENGTHS):
            if length:
                paths, scores = path_scores(emissions[row], length, *chain)
                assert decoded[row, :length].tolist() == paths[int(tf.argmax(scores))].tolist()
            assert not decoded[row, length:].any()


@COMPILED
def test_marginals_are_sums_over_paths(jit_compile):
    chain = weights(20)
    marginals = tf.function(crf_marginals, jit_compile=jit_compile)(EMISSIONS, LENGTHS, *chain).numpy()
    for row, length in enumerate(LENGTHS):
        expected = np.zeros([TIME, TAGS])
        if length:
            paths, scores = path_scores(EMISSIONS[row], length, *chain)
            for path, p in zip(paths, tf.nn.softmax(scores).numpy(), strict=True):
                expected[np.arange(length), path] += p
        np.testing.assert_allclose(marginals[row], expected, atol=1e-5)


@COMPILED
def test_a_signature_of_any_batch_and_time(jit_compile):
    """What an export needs; XLA then compiles each shape."""
    layer = CRF(TAGS)
    layer.build((None, None, TAGS))
    layer.set_weights(weights(3))
    shapes = [tf.TensorSpec([None, None, TAGS]), tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None], tf.int32)]
    both = tf.function(
        lambda emissions, tags, lengths: (layer.decode(emissions, lengths), layer.log_likelihood(emissions, tags, lengths)),
        input_signature=shapes,
        jit_compile=jit_compile,
    )
    for batch, time in ((5, 4), (2, 1)):
        given = EMISSIONS[:batch, :time], GIVEN[:batch, :time], np.minimum(LENGTHS[:batch], time)
        decoded, likelihood = both(*given)
        np.testing.assert_array_equal(decoded, layer.decode(given[0], given[2]))
        np.testing.assert_allclose(likelihood, by_all_paths(*given, *weights(3)), atol=1e-5)


def test_it_agrees_with_pytorch_crf():
    torchcrf, torch = pytest.importorskip("torchcrf"), pytest.importorskip("torch")
    batch, time, tags = 6, 20, 30
    emissions, chain = normal(30, batch, time, tags), weights(31, tags)
    given = np.random.default_rng(32).integers(0, tags, [batch, time]).astype(np.int32)
    lengths = np.array([20, 1, 7, 13, 2, 19], np.int32)
    theirs = torchcrf.CRF(tags, batch_first=True)
    theirs.transitions.data, theirs.start_transitions.data, theirs.end_transitions.data = map(torch.tensor, chain)
    inputs, mask = torch.tensor(emissions, requires_grad=True), torch.tensor(np.arange(time) < lengths[:, None])
    expected = theirs(inputs, torch.tensor(given.astype(np.int64)), mask=mask, reduction="none")
    expected.sum().backward()
    variables = [tf.constant(value) for value in (emissions, *chain)]
    with tf.GradientTape() as tape:
        tape.watch(variables)
        log_p = crf_log_likelihood(variables[0], given, lengths, *variables[1:])
        total = tf.reduce_sum(log_p)
    np.testing.assert_allclose(log_p, expected.detach().numpy(), rtol=1e-5)
    gradients = [inputs.grad, theirs.transitions.grad, theirs.start_transitions.grad, theirs.end_transitions.grad]
    for ours, their in zip(tape.gradient(total, variables), gradients, strict=True):
        np.testing.assert_allclose(ours, their.numpy(), atol=1e-4)
    decoded = crf_decode(emissions, lengths, *chain).numpy()
    assert [row[:length].tolist() for row, length in zip(decoded, lengths, strict=True)] == theirs.decode(inputs, mask)


def broadcast_log_z(emissions, transitions, start, end):
    """ln Z of one text in float64, each sum shifted by its own highest."""
    scores = np.float64(start + emissions[0])
    for here in emissions[1:]:
        scores = np.logaddexp.reduce(scores[:, None] + transitions, axis=0) + here
    return np.logaddexp.reduce(scores + end)


@pytest.mark.parametrize(("scale", "emission_scale", "exact"), [(1, 1, True), (10, 10, True), (10, 1000, True), (60, 60, False)])
def test_large_weights_lose_nothing_and_larger_ones_never_exceed_p_1(scale, emission_scale, exact):
    """Against sums that are shifted one by one; the best path is among the given ones. Emissions may be as large as they like."""
    tags, time = 12, 40
    emissions, chain = normal(40, 3, time, tags, scale=emission_scale), weights(41, tags, scale)
    lengths = np.array([40, 23, 2], np.int32)
    given = crf_decode(emissions, lengths, *chain).numpy()
    given[2, 0] = (given[2, 0] + 1) % tags
    inputs = tf.constant(emissions)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        ours = crf_log_likelihood(inputs, given, lengths, *chain)
    for row, length in enumerate(lengths):
        path, steps = given[row, :length], np.arange(length)
        score = np.float64(emissions[row, steps, path]).sum() + np.float64(chain[0])[path[:-1], path[1:]].sum()
        score += np.float64(chain[1][path[0]]) + chain[2][path[-1]]
        expected = score - broadcast_log_z(emissions[row, :length], *map(np.float64, chain))
        if exact:
            np.testing.assert_allclose(ours[row], expected, rtol=1e-4, atol=1e-2)
        assert ours[row] < expected + 1e-2
    gradient = tape.gradient(ours, inputs).numpy()
    assert np.isfinite(gradient).all() and np.abs(gradient).max() <= 1 + 1e-3


@COMPILED
def test_what_is_behind_a_text_does_not_count(jit_compile):
    """Neither scores that are no numbers nor tags that are none; a text of length 0 has P 1 and no gradient."""
    inside = np.arange(TIME) < LENGTHS[:, None]
    chain = [tf.constant(weight) for weight in weights(50)]
    emissions = tf.constant(np.where(inside[:, :, None], EMISSIONS, np.nan))
    tags = np.where(inside, GIVEN, -1)

    @tf.function(jit_compile=jit_compile)
    def graded(emissions, tags):
        with tf.GradientTape() as tape:
            tape.watch([emissions, *chain])
            log_p = crf_log_likelihood(emissions, tags, LENGTHS, *chain)
        return [log_p, *tape.gradient(log_p, [emissions, *chain])]

    results = graded(emissions, tags)
    for one, other in zip(results, graded(EMISSIONS, GIVEN), strict=True):
        np.testing.assert_array_equal(one, other)
    assert results[0][2] == 0
    assert not results[1].numpy()[~inside].any()
    np.testing.assert_array_equal(crf_decode(emissions, LENGTHS, *chain), crf_decode(EMISSIONS, LENGTHS, *chain))
    assert np.isfinite(crf_marginals(emissions, LENGTHS, *chain)).all()


def test_as_it_begins_it_is_a_softmax_at_each_position():
    layer = CRF(TAGS)
    layer.build((None, None, TAGS))
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(GIVEN, EMISSIONS)
    expected = -tf.reduce_sum(losses * tf.sequence_mask(LENGTHS, TIME, tf.float32), axis=1)
    np.testing.assert_allclose(layer.log_likelihood(EMISSIONS, GIVEN, LENGTHS), expected, atol=1e-5)
    np.testing.assert_array_equal(layer.decode(EMISSIONS, [TIME] * BATCH), EMISSIONS.argmax(axis=-1))


def test_forbidden_is_never_decoded_and_learns_nothing():
    forbidden, starts, ends = ((0, 1), (1, 1), (2, 0)), (1,), (0, 2)
    layer = CRF(TAGS, forbidden, starts, ends)
    emissions = normal(60, 200, 6, TAGS, scale=20.0)
    lengths = np.full([200], 6, np.int32)
    layer(emissions)
    layer.set_weights(weights(61, scale=5.0))
    decoded = layer.decode(emissions, lengths).numpy()
    assert not set(forbidden) & {pair for row in decoded.tolist() for pair in itertools.pairwise(row)}
    assert not set(starts) & set(decoded[:, 0]) and not set(ends) & set(decoded[:, -1])
    free = CRF(TAGS)
    free.build(emissions.shape)
    free.set_weights(layer.get_weights())
    assert set(forbidden) <= {pair for row in free.decode(emissions, lengths).numpy().tolist() for pair in itertools.pairwise(row)}

    tags = tf.zeros([200, 6], tf.int32)  # ends with what is forbidden
    variables = [layer.transitions.value, layer.start.value, layer.end.value]
    with tf.GradientTape() as tape:
        log_p = layer.log_likelihood(emissions, tags, lengths)
    assert np.all(log_p < 0.5 * FORBIDDEN) and np.isfinite(log_p).all()
    transitions, start, end = tape.gradient(log_p, variables)
    assert not any(transitions[pair] for pair in forbidden) and not start[1] and not end[0] and not end[2]
    assert transitions[0, 0] and start[0] and end[1]
    marginals = layer.marginals(emissions, lengths).numpy()
    assert not marginals[:, 0, 1].any() and not marginals[:, -1, [0, 2]].any()
    np.testing.assert_allclose(marginals.sum(axis=-1), 1, atol=1e-5)


def test_it_learns_what_stands_behind_what():
    """Emissions say nothing; after tag n stands n + 1."""
    layer = CRF(TAGS)
    emissions, lengths = tf.zeros([8, 6, TAGS]), tf.fill([8], 6)
    layer(emissions)
    tags = tf.constant([[(row + t) % TAGS for t in range(6)] for row in range(8)])
    optimizer = keras.optimizers.Adam(0.3)
    variables = layer.trainable_variables

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(layer.log_likelihood(emissions, tags, lengths))
        return loss, tape.gradient(loss, [variable.value for variable in variables])

    for _ in range(40):
        loss, steps = gradients()
        optimizer.apply(steps, variables)
    assert loss < 1.2  # ln 3 is what the first tag costs
    decoded = layer.decode(emissions, lengths).numpy()
    assert all(other == (one + 1) % TAGS for row in decoded for one, other in itertools.pairwise(row))


def test_it_is_saved_with_its_model(tmp_path):
    ids = keras.Input([None], dtype="int32")
    x = keras.layers.Dense(TAGS)(keras.layers.Embedding(10, 8)(ids))
    model = keras.Model(ids, CRF(TAGS, [(0, 1)], [1], [2], name="crf")(x))
    layer = model.get_layer("crf")
    layer.set_weights(weights(70))
    model.save(tmp_path / "tagger.keras")
    loaded = keras.saving.load_model(tmp_path / "tagger.keras")
    clone = loaded.get_layer("crf")
    assert clone.get_config() == layer.get_config()
    assert [table.nonzero()[0].tolist() for table in (clone.forbidden, clone.forbidden_start, clone.forbidden_end)] == [[0], [1], [2]]
    assert clone.forbidden[0, 1]
    rows = np.random.default_rng(71).integers(1, 10, [BATCH, TIME])
    np.testing.assert_array_equal(model(rows), loaded(rows))
    np.testing.assert_array_equal(loaded(rows), keras.Model(ids, x)(rows))  # the layer changes nothing
    np.testing.assert_allclose(clone.decode(loaded(rows), LENGTHS), layer.decode(model(rows), LENGTHS))
    np.testing.assert_allclose(clone.log_likelihood(loaded(rows), GIVEN, LENGTHS), layer.log_likelihood(model(rows), GIVEN, LENGTHS))


def test_in_mixed_precision_scores_pass_as_they_are():
    layer = CRF(TAGS, dtype="mixed_bfloat16")
    assert layer(EMISSIONS).dtype == tf.float32
    assert layer.transitions.dtype == "float32"
    np.testing.assert_array_equal(layer(EMISSIONS), EMISSIONS)
    half = tf.cast(EMISSIONS, tf.bfloat16)
    assert layer.log_likelihood(half, GIVEN, LENGTHS).dtype == tf.float32
    np.testing.assert_array_equal(layer.decode(half, LENGTHS), layer.decode(tf.cast(half, tf.float32), LENGTHS))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_tags": 0}, "num_tags must be at least 1, got 0"),
        ({"num_tags": 3, "forbidden": [(0, 3)]}, "forbidden: tags must be from 0 to 2, got 3"),
        ({"num_tags": 3, "forbidden_start": [-1]}, "forbidden_start: tags must be from 0 to 2, got -1"),
    ],
)
def test_tags_that_are_none_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CRF(**arguments)


def test_another_width_is_refused():
    with pytest.raises(ValueError, match="a CRF of 3 tags needs as many scores at each position, got 4"):
        CRF(3)(tf.zeros([1, 2, 4]))
