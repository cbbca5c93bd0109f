import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models, seq2seq
from keras_lm.recurrent import run_model

SMALL = {
    "transformer": {"context_length": 16, "embedding_dim": 16, "num_layers": 2, "num_encoder_layers": 1},
    "transformer-learned": {
        "context_length": 16,
        "embedding_dim": 16,
        "num_layers": 1,
        "positions": "learned",
        "normalization_kind": "rms",
    },
    "transformer-2017": {
        "context_length": 16,
        "embedding_dim": 16,
        "num_layers": 2,
        "positions": "sinusoidal",
        "norm_first": False,
        "activation": "relu",
        "use_bias": True,
        "dropout": 0.1,
    },
    "gru-bahdanau": {"embedding_dim": 16, "hidden_dim": 12},
    "gru-bahdanau-2": {"embedding_dim": 16, "hidden_dim": 12, "num_layers": 2, "dropout": 0.1, "tied": False},
    "transformer-pointer": {"context_length": 16, "embedding_dim": 16, "num_layers": 1, "pointer": True},
    "gru-pointer": {"embedding_dim": 16, "hidden_dim": 12, "pointer": True},
    "gru-luong": {"attention": "luong", "embedding_dim": 12, "hidden_dim": 12},
    "gru-luong-2": {"attention": "luong", "embedding_dim": 16, "hidden_dim": 12, "num_layers": 2},
}
FORMS = pytest.mark.parametrize("name", SMALL)


def build(name, vocabulary_size=20, **changes):
    return seq2seq.SEQ2SEQ[name.partition("-")[0]](vocabulary_size, **{**SMALL[name], **changes})


def some_ids(rows=3, source_time=7, target_time=9, seed=0):
    """Sources of different lengths, each ended by 3 and padded, and targets."""
    random = np.random.default_rng(seed)
    sources, targets = random.integers(4, 20, (rows, source_time)), random.integers(4, 20, (rows, target_time))
    for row in range(rows):
        end = source_time - 1 - row % (source_time - 1)
        sources[row, end], sources[row, end + 1 :] = 3, 0
    targets[:, 0] = 2
    return sources.astype(np.int32), targets.astype(np.int32)


FAST = ("transformer-2017", "gru-bahdanau")


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in SMALL])
def test_model(name, tmp_path):
    """Logits at every position, dynamic batch and times, XLA, mixed precision, `.keras` and back in another process."""
    model = build(name)
    sources, targets = some_ids()
    expected = model([sources, targets]).numpy()
    assert expected.shape == (3, 9, 20)
    assert expected.dtype == np.float32
    assert model.output_shape == (None, None, 20)
    assert model([sources[:1], targets[:1, :1]]).shape == (1, 1, 20)
    for function in (model, lambda inputs: run_model(model, inputs)):
        compiled = tf.function(function, jit_compile=True)
        np.testing.assert_allclose(compiled([tf.constant(sources), tf.constant(targets)]), expected, atol=1e-5)

    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "ids.npz", sources=sources, targets=targets)
    program = (
        "import keras, numpy, keras_lm.seq2seq\n"
        "model, ids = keras.saving.load_model('model.keras'), numpy.load('ids.npz')\n"
        "numpy.save('logits.npy', model([ids['sources'], ids['targets']]))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, capture_output=True)
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-6)

    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = build(name)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(model.get_weights())
    assert mixed([sources, targets]).dtype == tf.float32  # logits stay float32
    np.testing.assert_allclose(mixed([sources, targets]), expected, atol=0.05 * np.abs(expected).max())


@FORMS
def test_padding_of_the_source_changes_nothing(name):
    """Each row as it is in the batch, alone without its padding, and with more."""
    model = build(name)
    sources, targets = some_ids()
    together = model([sources, targets]).numpy()
    for row in range(3):
        length = np.count_nonzero(sources[row])
        alone = model([sources[row : row + 1, :length], targets[row : row + 1]])
        more = model([np.pad(sources[row : row + 1, :length], [(0, 0), (0, 16 - length)]), targets[row : row + 1]])
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)
        np.testing.assert_allclose(more[0], together[row], atol=1e-5)


@FORMS
def test_a_prediction_knows_the_source_and_nothing_of_what_follows(name):
    model = build(name)
    sources, targets = some_ids()
    changed = targets.copy()
    changed[:, 6:] = 4 + (changed[:, 6:] + 1) % 16
    before, after = model([sources, targets]).numpy(), model([sources, changed]).numpy()
    np.testing.assert_array_equal(before[:, :6], after[:, :6])
    assert np.abs(before[:, 6:] - after[:, 6:]).max() > 1e-4
    for place in (0, 6):  # all of the first source, which has no padding, is read at each step
        other = sources.copy()
        other[0, place] = 4 + (other[0, place] + 1) % 16
        assert (np.abs(model([other, targets]).numpy() - before)[0].max(axis=-1) > 1e-7).all()


@FORMS
def test_the_fast_path_is_the_model(name):
    """In training too, where dropout draws the same."""
    model = build(name)
    inputs = [tf.constant(ids) for ids in some_ids()]
    np.testing.assert_allclose(run_model(model, inputs), model(inputs), atol=1e-5)
    drawn = [variable for variable in model.non_trainable_variables if "seed_generator" in variable.path]
    values = [variable.numpy() for variable in drawn]
    slow = model(inputs, training=True)
    for variable, value in zip(drawn, values, strict=True):
        variable.assign(value)
    np.testing.assert_allclose(run_model(model, inputs, training=True), slow, atol=1e-5)
    differs = np.abs(slow - model(inputs)).max() > 1e-4
    assert differs == ("dropout" in SMALL[name])


@FORMS
def test_every_weight_has_a_gradient(name):
    model = build(name)
    sources, targets = map(tf.constant, some_ids())
    with tf.GradientTape() as tape:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets[:, 1:], run_model(model, [sources, targets[:, :-1]]))
        loss = tf.reduce_mean(losses)
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, [v.value for v in model.trainable_variables]), strict=True
    ):
        assert gradient is not None, variable.path
        assert np.abs(tf.convert_to_tensor(gradient)).max() > 0, variable.path


def test_the_encoder_is_a_model_of_its_own():
    """It gives a vector a position, and tells where they stand for text."""
    for name in SMALL:
        encoder = models.encoder_of(build(name))
        vectors, visible = tf.random.normal([2, 5, encoder.input_shape[0][-1]]), tf.sequence_mask([5, 2])
        memory, memory_visible, *states = encoder([vectors, visible])
        assert memory.shape[:2] == (2, 5)
        np.testing.assert_array_equal(memory_visible, visible)
        assert len(states) == (SMALL[name].get("num_layers", 1) if name.startswith("gru") else 0)


def test_tied_output_is_the_embedding_of_both_sides():
    count = lambda name: sum(20 in variable.shape for variable in build(name).trainable_variables)
    assert count("transformer") == count("gru-bahdanau") == 1
    assert count("gru-bahdanau-2") == 2


def test_layers_of_each_side():
    sides = lambda **changes: [
        sum(layer.name.startswith(f"{side}_block") for layer in build("transformer", **changes)._flatten_layers())
        for side in ("encoder", "decoder")
    ]
    assert sides() == [1, 2]
    assert sides(num_encoder_layers=None) == [2, 2]


@pytest.mark.parametrize(
    ("form", "arguments", "message"),
    [
        ("transformer", {"positions": "sinus"}, "positions must be one of rotary, learned, sinusoidal, got 'sinus'"),
        ("transformer", {"normalization_kind": "batch"}, "normalization must be one of layer, rms, got 'batch'"),
        ("transformer", {"embedding_dim": 16, "num_heads": 3}, "num_heads must divide the width: got 3 heads for a width of 16"),
        ("transformer", {"embedding_dim": 12, "num_heads": 4}, "rotary positions need an even head width: got 12 / 4 = 3"),
        ("gru", {"attention": "loung"}, "attention must be one of bahdanau, luong, got 'loung'"),
    ],
)
def test_bad_arguments_are_named(form, arguments, message):
    with pytest.raises(ValueError, match=message):
        seq2seq.SEQ2SEQ[form](20, **arguments)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_text_longer_than_learned_positions_is_refused(side):
    model = build("transformer-learned")
    times = {"source_time": 7, "target_time": 9, f"{side}_time": 17}
    with pytest.raises(ValueError, match="a text of 17 tokens is longer than the context of 16 the model was made for"):
        model(list(some_ids(**times)))
