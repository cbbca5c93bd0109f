import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import attention, layers, products


def run_layer_test(build, width=16):
    """Config round trip, dynamic batch and time, XLA on and off, mixed precision, for a layer of (batch, time, width)."""
    layer = build()
    x = np.random.normal(size=(2, 5, width)).astype(np.float32)
    expected = layer(x).numpy()
    assert expected.shape == x.shape

    clone = type(layer).from_config(layer.get_config())
    clone.build(x.shape)
    clone.set_weights(layer.get_weights())
    np.testing.assert_allclose(clone(x), expected, atol=1e-6)
    assert clone.get_config() == layer.get_config()

    for jit_compile in (False, True):
        compiled = tf.function(layer, input_signature=[tf.TensorSpec([None, None, width])], jit_compile=jit_compile)
        np.testing.assert_allclose(compiled(x), expected, atol=1e-5)
        assert compiled(x[:1, :3]).shape == (1, 3, width)

    mixed = type(layer).from_config({**layer.get_config(), "dtype": "mixed_bfloat16"})
    mixed.build(x.shape)
    mixed.set_weights(layer.get_weights())
    assert mixed(x).dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(mixed(x), tf.float32), expected, atol=0.1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: attention.SelfAttention(num_heads=4),
        lambda: attention.SelfAttention(num_heads=4, num_kv_heads=2, rotary=False, use_bias=True),
        lambda: layers.TransformerBlock(num_heads=4, feed_forward_dim=32, context_length=8),
        lambda: layers.TransformerBlock(num_heads=4, feed_forward_dim=32, context_length=8, normalization="rms", activation="silu"),
        lambda: layers.PositionEmbedding(context_length=8),
    ],
    ids=["attention", "grouped-attention", "block", "rms-silu-block", "positions"],
)
def test_layer(build):
    run_layer_test(build)


BLOCKS = pytest.mark.parametrize("time", [7, 70, 259], ids=["whole", "two-blocks", "four-uneven-blocks"])


@BLOCKS
def test_attention_agrees_with_keras(time):
    """Against `keras.layers.MultiHeadAttention` with its causal mask, the same weights in both; the gradient too."""
    ours = attention.SelfAttention(num_heads=4, rotary=False)
    x = tf.random.normal([2, time, 16], seed=0)
    ours(x)
    theirs = keras.layers.MultiHeadAttention(num_heads=4, key_dim=4, use_bias=False)
    theirs(x, x, use_causal_mask=True)
    kernel, output = ours.get_weights()
    kernel = kernel.reshape(16, 3, 4, 4)
    theirs.set_weights([kernel[:, 0], kernel[:, 1], kernel[:, 2], output.reshape(4, 4, 16)])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        outputs = ours(x), theirs(x, x, use_causal_mask=True)
    np.testing.assert_allclose(*outputs, atol=1e-6)
    np.testing.assert_allclose(*[tape.gradient(output, x) for output in outputs], atol=1e-5)


@BLOCKS
def test_grouped_attention_agrees_with_keras(time):
    ours = attention.SelfAttention(num_heads=4, num_kv_heads=2, rotary=False)
    x = np.random.normal(size=(2, time, 16)).astype(np.float32)
    ours(x)
    theirs = keras.layers.GroupQueryAttention(head_dim=4, num_query_heads=4, num_key_value_heads=2, use_bias=False)
    theirs(x, x, use_causal_mask=True)
    kernel, output = ours.get_weights()
    kernel = kernel.reshape(16, 8, 4)
    theirs.set_weights([kernel[:, :4], kernel[:, 4:6], kernel[:, 6:], output.reshape(4, 4, 16)])
    np.testing.assert_allclose(ours(x), theirs(x, x, use_causal_mask=True), atol=1e-6)


def test_attention_sees_nothing_of_what_comes_after():
    layer = attention.SelfAttention(num_heads=2)
    x = np.random.normal(size=(1, 6, 8)).astype(np.float32)
    changed = x.copy()
    changed[:, 4:] += 1.0
    np.testing.assert_array_equal(layer(x)[:, :4], layer(changed)[:, :4])
    assert np.abs(layer(x)[:, 4:] - layer(changed)[:, 4:]).max() > 1e-3


def test_rotary_scores_depend_on_the_distance_alone():
    query, key = np.random.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    score = lambda i, j: float(tf.reduce_sum(attention.rotate(query, tf.constant([[i]])) * attention.rotate(key, tf.constant([[j]]))))
    assert score(3, 1) == pytest.approx(score(103, 101), abs=1e-4)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-4)


def test_rotary_is_a_rotation_of_complex_numbers():
    x = np.random.normal(size=(1, 5, 1, 8)).astype(np.float32)
    turned = attention.rotate(tf.constant(x), tf.range(5)[None]).numpy()
    numbers = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * np.arange(5)[None, :, None, None] * 10000.0 ** (-np.arange(4) / 4))
    np.testing.assert_allclose(turned, np.concatenate([numbers.real, numbers.imag], -1), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "num_heads must divide the width: got 3 heads for a width of 16"),
        ({"num_heads": 16}, "rotary positions need an even head width"),
        ({"num_heads": 4, "num_kv_heads": 3}, "num_kv_heads must divide num_heads: got 3 and 4"),
    ],
)
def test_heads_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        attention.SelfAttention(**arguments)(np.zeros((1, 2, 16), np.float32))


def test_gelu_in_its_tanh_form_and_its_gradient():
    """Against Keras', up to where the exponential overflows."""
    x = tf.constant([-1e4, -50.0, -11.0, -1.0, -1e-3, 0.0, 0.5, 3.0, 1e4])
    for jit_compile in (False, True):

        @tf.function(jit_compile=jit_compile)
        def value_and_slope(function, x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = function(x)
            return y, tape.gradient(y, x)

        ours = value_and_slope(layers.gelu_tanh, x)
        theirs = value_and_slope(lambda x: keras.activations.gelu(x, approximate=True), x)
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert keras.activations.deserialize(keras.activations.serialize(layers.gelu_tanh)) is layers.gelu_tanh


@pytest.mark.parametrize(
    "options", [{}, {"reverse_dtype": "float32", "dtype": "mixed_bfloat16"}, {"logit_soft_cap": 5.0}, {"tie_weights": False}]
)
def test_an_embedding_reversed_is_that_of_keras(options):
    layer = keras.layers.ReversibleEmbedding(30, 8, **options)
    layer.build([None, None])
    x = tf.cast(tf.random.normal([2, 3, 8], seed=1), layer.compute_dtype)
    expected = layer(x, reverse=True)
    for jit_compile in (False, True):
        logits = tf.function(lambda x: products.apply_reversed(layer, x), jit_compile=jit_compile)(x)
        assert logits.dtype == expected.dtype
        np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(12, 5), (1028, 1021), (1032, 1021), (1030, 1021), (1032, 4099), (1032, 4100)])
def test_one_row_is_multiplied_in_parts_to_the_same_numbers(inputs, outputs, jit_compile):
    x, matrix = tf.random.normal([1, 1, inputs], seed=1), tf.random.normal([inputs, outputs], seed=2)
    layer = keras.layers.ReversibleEmbedding(outputs, inputs)
    layer.build([None, None])
    layer.embeddings.assign(tf.transpose(matrix))
    compiled = lambda function: tf.function(function, jit_compile=jit_compile)
    expected = x.numpy().astype(float) @ matrix.numpy().astype(float)
    for result in (compiled(products.product)(x, matrix), compiled(lambda x: products.apply_reversed(layer, x))(x)):
        assert result.shape == expected.shape
        np.testing.assert_allclose(result, expected, atol=1e-3)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(
    ("shape", "outputs", "parts"),
    [
        ([2, 1, 776], 1400, 8),
        ([3, 5, 776], 1400, 8),
        ([16, 1, 1040], 1021, 16),
        ([16, 1040], 1021, 16),
        ([0, 1, 1040], 1021, 16),
        ([2, 1, 1030], 1021, 1),  # 16 does not divide it
        ([2, 1, 768], 1024, 1),  # small
        ([2, 1, 768], 3080, 1),  # over a vocabulary
        ([17, 1, 1040], 1021, 1),
    ],
)
def test_few_rows_are_multiplied_in_parts_to_the_same_numbers(shape, outputs, parts, jit_compile):
    layer = keras.layers.Dense(outputs, activation="relu", bias_initializer="random_normal")
    layer.build([None, None, shape[-1]])
    x = tf.random.normal(shape, seed=1)
    traced = tf.function(lambda x: products.apply_dense(layer, x), jit_compile=jit_compile)
    expected = np.maximum(x.numpy().astype(float) @ layer.kernel.numpy().astype(float) + layer.bias.numpy(), 0)
    assert traced(x).shape == expected.shape
    np.testing.assert_allclose(traced(x), expected, atol=1e-3)
    batches = [tuple(op.inputs[1].shape) for op in traced.get_concrete_function(x).graph.get_operations() if "BatchMatMul" in op.type]
    assert batches == ([(parts, shape[-1] // parts, outputs)] if parts > 1 else [])


def test_a_text_longer_than_learned_positions_is_refused():
    layer = layers.PositionEmbedding(context_length=8)
    assert layer(tf.zeros([1, 8, 4])).shape == (1, 8, 4)
    with pytest.raises(ValueError, match="a text of 9 tokens is longer than the context of 8 the model was made for"):
        layer(tf.zeros([1, 9, 4]))
