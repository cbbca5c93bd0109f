import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import layers, models
from keras_lm.export.stepping import step_signature
from keras_lm.generation.state import Decoder
from tests.export.session import Served
from tests.test_models import SMALL

VOCABULARY = 50


def model_of(name):
    sizes = {**SMALL[name], **({"context_length": 40} if name.startswith("transformer") else {})}
    return models.get(name.partition("-")[0])(VOCABULARY, **sizes)


def served_step(model, folder):
    """`step` alone, saved as the export saves it: all of an export takes ten times as long to write."""
    module = tf.Module()
    module.weights = [variable.value for variable in model.variables]
    tf.saved_model.save(module, str(folder), signatures={"step": step_signature(Decoder(model), unknown_id=1).function})
    return Served(folder)


def steps(served, ids, sizes, **first):
    """Logits after each call that reads the next so many of `ids`; the state is what came out before."""
    state, logits, place = first, [], 0
    for size in sizes:
        outputs = served("step", {"ids": ids[:, place : place + size], **state})
        logits.append(outputs.pop("logits"))
        state, place = outputs, place + size
    return logits, state


@pytest.mark.parametrize("name", [*SMALL, "hybrid"])
def test_steps_give_the_logits_of_the_full_pass(name, tmp_path):
    """One token at a time, and several; for a model with both kinds of memory too."""
    if name == "hybrid":
        attention = layers.TransformerBlock(num_heads=2, feed_forward_dim=32, context_length=40)
        recurrent = keras.layers.GRU(16, return_sequences=True)
        ends = keras.Input([None], dtype="int32"), keras.layers.Embedding(VOCABULARY, 16), keras.layers.Dense(VOCABULARY)
        model = keras.Sequential([*ends[:2], layers.PositionEmbedding(40), recurrent, attention, ends[2]])
    else:
        model = model_of(name)
    served = served_step(model, tmp_path)
    ids = np.random.default_rng(0).integers(4, VOCABULARY, [3, 12]).astype(np.int32)
    full = model(ids).numpy()
    for sizes in ([1] * 12, [5, 1, 4, 2]):
        logits, state = steps(served, ids, sizes)
        np.testing.assert_allclose(np.stack(logits, axis=1), full[:, np.cumsum(sizes) - 1], atol=1e-4)
        assert state["position"].tolist() == [12] * 3


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_prompts_of_several_lengths(name, tmp_path):
    model = model_of(name)
    served = served_step(model, tmp_path)
    ids = np.random.default_rng(0).integers(4, VOCABULARY, [3, 9]).astype(np.int32)
    padding = np.array([0, 4, 2], np.int32)
    logits, state = steps(served, np.where(np.arange(9) < padding[:, None], 0, ids), [6, 1, 2], padding=padding)
    for row in range(3):
        full = model(ids[row : row + 1, padding[row] :]).numpy()[0]
        for call, end in zip(logits, (6, 7, 9), strict=True):
            np.testing.assert_allclose(call[row], full[end - padding[row] - 1], atol=1e-4)
    assert state["padding"].tolist() == padding.tolist()


@pytest.mark.parametrize("name", ["transformer-llama", "transformer-gpt2", "gru"])
def test_rows_at_different_positions_share_a_call(name, tmp_path):
    """As when a server batches two clients, who keep memories of one size: each gets what it gets alone."""
    model = model_of(name)
    served = served_step(model, tmp_path)
    ids = np.random.default_rng(0).integers(4, VOCABULARY, [2, 16]).astype(np.int32)
    memory = {}
    for key, default in served.definitions["step"].defaults.items():
        shape = tf.make_ndarray(default).shape
        if key.startswith("state_"):
            memory[key] = np.zeros([*shape[:2], 16, *shape[3:]] if len(shape) > 2 else shape, np.float32)
    begun = ((0, 9, 2), (1, 4, 0))  # row, tokens read, padding in front of them
    alone = [steps(served, ids[row : row + 1], [read], padding=[padding], **memory)[1] for row, read, padding in begun]
    state = {key: np.concatenate([one[key] for one in alone]) for key in alone[0]}
    for sizes in ([2, 1], [1, 2]):
        together, end = steps(served, np.stack([ids[row, read : read + 3] for row, read, _ in begun]), sizes, **state)
        assert end["position"].tolist() == [12, 7]
        assert all(value.shape[2] == 16 for value in end.values() if value.ndim > 2)
        for row, read, _ in begun:
            expected = steps(served, ids[row : row + 1, read : read + 3], sizes, **alone[row])[0]
            np.testing.assert_allclose([call[row] for call in together], [call[0] for call in expected], atol=1e-4)


def test_wild_inputs_are_bounded(tmp_path):
    served = served_step(model_of("transformer"), tmp_path)
    outputs = served("step", {"ids": [[10**6, -5, 7]], "position": [2**31 - 1], "padding": [-3]})
    assert np.isfinite(outputs["logits"]).all()
    assert outputs["position"].tolist() == [3]
    unknown = served("step", {"ids": [[1, 1, 7]]})
    np.testing.assert_allclose(outputs["logits"], unknown["logits"], atol=1e-5)


def test_the_state_is_described():
    step = step_signature(Decoder(model_of("lstm")), unknown_id=1).describe()
    state = {name: given for name, given in step["inputs"].items() if name.startswith("state_")}
    assert len(state) == 4
    assert set(step["outputs"]) == {"logits", "position", "padding", *state}
    hidden = SMALL["lstm"]["hidden_dim"]
    assert all(given["shape"] == ["batch", hidden] and given["default_shape"] == [1, hidden] for given in state.values())
    assert all(name.isidentifier() and name.isascii() for name in step["inputs"])


def test_bfloat16_is_float32_for_clients(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = model_of("transformer")
    finally:
        keras.config.set_dtype_policy("float32")
    served = served_step(model, tmp_path)
    ids = np.arange(10, 20, dtype=np.int32)[None]
    logits, state = steps(served, ids, [5, 1, 1])
    assert {value.dtype for key, value in state.items() if key.startswith("state")} == {np.dtype(np.float32)}
    np.testing.assert_allclose(logits[2], model(tf.constant(ids[:, :7])).numpy()[:, -1], atol=0.05)
