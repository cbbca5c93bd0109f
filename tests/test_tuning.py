import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.heads import body_of, classifier, text_body
from keras_lm.tuning import tune

IDS = tf.constant([[2, 7, 8, 9, 3, 0], [2, 5, 3, 0, 0, 0]])
SIZES = {"context_length": 16, "embedding_dim": 16, "num_layers": 2, "num_heads": 2}


def model(kind="transformer", **sizes):
    return classifier(text_body(kind, 20, **(sizes or SIZES)), 3)


def learnt(model):
    """One step of plain gradient descent; the largest change of each variable, by path."""
    before = {variable.path: variable.numpy() for variable in model.variables}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(keras.losses.sparse_categorical_crossentropy(tf.constant([1, 2]), model(IDS), from_logits=True))
    for variable, gradient in zip(
        model.trainable_variables, tape.gradient(loss, [v.value for v in model.trainable_variables]), strict=True
    ):
        variable.assign_sub(0.1 * tf.convert_to_tensor(gradient))
    return {path for path, value in before.items() for v in model.variables if v.path == path and np.abs(v.numpy() - value).max() > 0}


@pytest.mark.parametrize("kind", ["transformer", "gru"])
def test_only_the_head_learns(kind):
    changed = model(kind, **({} if kind == "transformer" else {"embedding_dim": 8, "hidden_dim": 8, "num_layers": 1}))
    tune(changed, "head")
    assert learnt(changed) == {"classes/kernel", "classes/bias"}


def test_lora_begins_where_the_model_stood_and_changes_no_matrix_itself():
    changed = model()
    before = changed(IDS).numpy()
    tune(changed, "lora", rank=2)
    np.testing.assert_allclose(changed(IDS), before, atol=1e-6)
    paths = learnt(changed)
    assert {path.rpartition("/")[2] for path in paths if not path.startswith("classes")} == {"lora_kernel_b"}  # a follows when b is not 0
    assert len(paths) > 8
    trained = sum(variable.shape.num_elements() for variable in changed.trainable_variables)
    assert trained < changed.count_params() / 4


def test_what_lora_has_learnt_is_saved_as_a_model_like_any_other(tmp_path):
    changed = model()
    tune(changed, "lora", rank=2)
    for _ in range(3):
        learnt(changed)
    changed.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(IDS), changed(IDS), atol=1e-5)
    assert not any("lora" in variable.path for variable in loaded.variables)
    assert [variable.shape for variable in loaded.variables] == [variable.shape for variable in model().variables]


def test_full_is_everything_and_other_words_are_refused():
    changed = model()
    tune(changed)
    assert len(changed.trainable_variables) == len(changed.variables)
    with pytest.raises(UserError, match="did you mean 'full'"):
        tune(changed, "ful")
    with pytest.raises(UserError, match="lora is for a transformer"):
        tune(model("gru", embedding_dim=8, hidden_dim=8, num_layers=1), "lora")
    assert body_of(changed).trainable_variables
