"""Attention over the text itself and over another, blocks and recurrent layers with it: against Keras, PyTorch and transformers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from transformers.models.llama import modeling_llama
from transformers.models.marian import modeling_marian

from keras_lm import attention, layers, recurrent_attention

WIDTH, MEMORY_WIDTH, HEADS = 16, 12, 4
LENGTHS = [5, 2]  # of two memories, padded to 5


def normal(seed, *shape):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def text(time=6):
    return normal(0, 2, time, WIDTH)


def memory(width=MEMORY_WIDTH):
    return normal(1, 2, max(LENGTHS), width)


VISIBLE = tf.sequence_mask(LENGTHS)
MEMORY = {"memory": memory(), "memory_visible": VISIBLE}


def perturbed(layer, seed=2):
    """Weights that are drawn anew, biases and gains too: as they begin, many are zeros and ones."""
    random = np.random.default_rng(seed)
    layer.set_weights([random.normal(1.0 if "gamma" in weight.path else 0.0, 0.4, weight.shape) for weight in layer.weights])
    return layer


def built(layer, *inputs, **named):
    layer(*inputs, **named)
    return perturbed(layer)


def assert_same_with_gradients(ours, theirs, *inputs, atol=1e-5):
    """Two functions of the same tensors: the same outputs, and the same gradients of a weighted sum of them."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(inputs)
        outputs = [tf.convert_to_tensor(function(*inputs)) for function in (ours, theirs)]
        weighted = [tf.reduce_sum(output * normal(9, *output.shape)) for output in outputs]
    np.testing.assert_allclose(*outputs, atol=atol)
    for one, other in zip(*(tape.gradient(total, inputs) for total in weighted), strict=True):
        np.testing.assert_allclose(one, other, atol=10 * atol)
        assert np.abs(one).max() > 1e-3


def keras_twin(layer, x, memory=None):
    """Keras' layer with the weights of ours, whose heads have keys and values of their own."""
    theirs = keras.layers.MultiHeadAttention(layer.num_heads, key_dim=layer.head_dim, use_bias=layer.use_bias)
    theirs(x, x if memory is None else memory)
    heads = lambda array, parts: np.split(array.reshape(*array.shape[:-1], -1, layer.head_dim), parts, axis=-2)
    if memory is None:
        projections = [heads(np.asarray(weight), 3) for weight in layer.qkv.weights]
    else:
        own = [heads(np.asarray(weight), 1) for weight in layer.query.weights]
        other = [heads(np.asarray(weight), 2) for weight in layer.key_value.weights]
        projections = [query + rest for query, rest in zip(own, other, strict=True)]
    output = [np.asarray(weight) for weight in layer.output_projection.weights]
    output[0] = output[0].reshape(layer.num_heads, layer.head_dim, -1)
    theirs.set_weights([part for parts in zip(*projections, strict=True) for part in parts] + output)
    return theirs


OPTIONS = pytest.mark.parametrize("options", [{}, {"use_bias": True, "head_dim": 6}], ids=["plain", "biases-and-wider-heads"])


@OPTIONS
def test_cross_attention_agrees_with_keras(options):
    """Over a memory of another width, of which one text is padded; the gradients of both texts too."""
    x, m = text(), memory()
    ours = built(attention.CrossAttention(HEADS, **options), x, m, VISIBLE)
    theirs = keras_twin(ours, x, m)
    mask = tf.tile(VISIBLE[:, None], [1, x.shape[1], 1])
    assert_same_with_gradients(lambda x, m: ours(x, m, VISIBLE), lambda x, m: theirs(x, m, attention_mask=mask), x, m)
    _, scores = theirs(x, m, attention_mask=mask, return_attention_scores=True)
    np.testing.assert_allclose(ours.weights_of(x, m, VISIBLE), scores, atol=1e-6)


@pytest.mark.parametrize("time", [7, 70], ids=["short", "as-long-as-causal-texts-are-cut"])
@OPTIONS
def test_attention_to_all_of_a_text_agrees_with_keras(options, time):
    x, visible = text(time=time), tf.sequence_mask([time, time // 2])
    ours = built(attention.SelfAttention(HEADS, rotary=False, causal=False, **options), x)
    theirs = keras_twin(ours, x)
    mask = tf.tile(visible[:, None], [1, time, 1])
    assert_same_with_gradients(lambda x: ours(x, visible), lambda x: theirs(x, x, attention_mask=mask), x)
    assert_same_with_gradients(ours, lambda x: theirs(x, x), x)
    _, scores = theirs(x, x, attention_mask=mask, return_attention_scores=True)
    np.testing.assert_allclose(ours.weights_of(x, visible), scores, atol=1e-6)


def test_causal_weights_agree_with_keras_and_add_up_to_one():
    x = text()
    ours = built(attention.SelfAttention(HEADS, rotary=False), x)
    _, scores = keras_twin(ours, x)(x, x, use_causal_mask=True, return_attention_scores=True)
    np.testing.assert_allclose(ours.weights_of(x), scores, atol=1e-6)
    for weights in (
        ours.weights_of(x),
        built(attention.SelfAttention(HEADS, num_kv_heads=2, causal=False), x).weights_of(x, tf.sequence_mask([6, 3])),
        built(attention.CrossAttention(HEADS, num_kv_heads=2), x, **MEMORY).weights_of(x, **MEMORY),
        built(recurrent_attention.AdditiveAttentionGRU(8), x, **MEMORY).weights_of(x, **MEMORY),
        built(recurrent_attention.DotAttention(8), x, **MEMORY).weights_of(x, **MEMORY),
    ):
        assert weights.dtype == tf.float32
        np.testing.assert_allclose(tf.reduce_sum(weights, axis=-1), tf.ones(weights.shape[:-1]), atol=1e-5)


def test_padding_gets_no_weight():
    x = text()
    for layer in (attention.CrossAttention(HEADS), recurrent_attention.AdditiveAttentionGRU(8), recurrent_attention.DotAttention(8)):
        assert not built(layer, x, **MEMORY).weights_of(x, **MEMORY)[1, ..., LENGTHS[1] :].numpy().any()


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_kv_heads": 2, "use_bias": True, "head_dim": 6}], ids=["plain", "grouped"])
def test_a_remembered_memory_gives_what_the_call_gives(options, jit_compile):
    x = text()
    layer = built(attention.CrossAttention(HEADS, **options), x, **MEMORY)
    remember, attend = (tf.function(function, jit_compile=jit_compile) for function in (layer.remember, layer.attend_to))
    cache = remember(**MEMORY)
    assert {name: tuple(value.shape) for name, value in cache.items()} == {
        "memory_key": (2, layer.num_kv_heads, 5, layer.head_dim),
        "memory_value": (2, layer.num_kv_heads, 5, layer.head_dim),
        "memory_visible": (2, 5),
    }
    for start in range(0, 6, 2):
        np.testing.assert_allclose(attend(x[:, start : start + 2], cache), layer(x, **MEMORY)[:, start : start + 2], atol=1e-5)


def llama(seed=3, **options):
    """The configuration of a Llama block, and one of its layers, with weights that are drawn anew."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    config = modeling_llama.LlamaConfig(
        hidden_size=WIDTH,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        head_dim=6,
        intermediate_size=24,
        rms_norm_eps=1e-4,
        rope_parameters={"rope_type": "default", "rope_theta": 50.0},
        attn_implementation="eager",
    )
    return config, modeling_llama.LlamaRotaryEmbedding(config)


def kernel(*modules):
    """One kernel of several PyTorch projections."""
    return torch.cat([module.weight for module in modules]).detach().numpy().T


@pytest.mark.parametrize("causal", [False, True])
def test_width_of_heads_and_base_of_positions_agree_with_llama(causal):
    config, positions = llama()
    theirs = modeling_llama.LlamaAttention(config, layer_idx=0).eval()
    x = text()
    ours = attention.SelfAttention(HEADS, num_kv_heads=2, head_dim=6, rotary_base=50.0, causal=causal)
    ours.build(x.shape)
    ours.set_weights([kernel(theirs.q_proj, theirs.k_proj, theirs.v_proj), kernel(theirs.o_proj)])
    given = torch.tensor(x.numpy())
    hidden = torch.full([6, 6], -torch.inf).triu(1)[None, None] if causal else None
    with torch.no_grad():
        expected, weights = theirs(given, position_embeddings=positions(given, torch.arange(6)[None]), attention_mask=hidden)
    np.testing.assert_allclose(ours(x), expected, atol=1e-6)
    np.testing.assert_allclose(ours.weights_of(x), weights, atol=1e-6)


def test_a_gated_block_agrees_with_llama():
    config, positions = llama()
    theirs = modeling_llama.LlamaDecoderLayer(config, layer_idx=0).eval()
    x = text()
    ours = layers.TransformerBlock(
        HEADS, 24, 8, num_kv_heads=2, head_dim=6, rotary_base=50.0, normalization="rms", epsilon=1e-4, activation="silu", gated=True
    )
    ours.build(x.shape)
    with torch.no_grad():
        for norm in (theirs.input_layernorm, theirs.post_attention_layernorm):
            norm.weight.normal_(1.0, 0.3)
        given = torch.tensor(x.numpy())
        hidden = torch.full([6, 6], -torch.inf).triu(1)[None, None]
        expected = theirs(given, position_embeddings=positions(given, torch.arange(6)[None]), attention_mask=hidden)
    ours.attention.set_weights(
        [kernel(theirs.self_attn.q_proj, theirs.self_attn.k_proj, theirs.self_attn.v_proj), kernel(theirs.self_attn.o_proj)]
    )
    for layer, module in (
        (ours.attention_norm, theirs.input_layernorm),
        (ours.feed_forward_norm, theirs.post_attention_layernorm),
    ):
        layer.set_weights([module.weight.detach().numpy()])
    for layer, module in ((ours.gate, theirs.mlp.gate_proj), (ours.widen, theirs.mlp.up_proj), (ours.narrow, theirs.mlp.down_proj)):
        layer.set_weights([kernel(module)])
    np.testing.assert_allclose(ours(x), expected, atol=1e-5)


def torch_block(kind, norm_first):
    torch.manual_seed(4)
    torch.set_num_threads(1)
    block = kind(WIDTH, HEADS, 24, dropout=0.0, activation="relu", batch_first=True, norm_first=norm_first)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return block


def copied(block, theirs, norms):
    """Puts the weights of a PyTorch block into ours; `norms` are the names of ours, in PyTorch's order."""
    array = lambda tensor: tensor.detach().numpy().T

    def copy_attention(layer, module, parts):
        kernels, biases = array(module.in_proj_weight), array(module.in_proj_bias)
        for projection, (first, end) in parts.items():
            getattr(layer, projection).set_weights([kernels[:, first * WIDTH : end * WIDTH], biases[first * WIDTH : end * WIDTH]])
        layer.output_projection.set_weights([array(module.out_proj.weight), array(module.out_proj.bias)])

    copy_attention(block.attention, theirs.self_attn, {"qkv": (0, 3)})
    if block.cross:
        copy_attention(block.memory_attention, theirs.multihead_attn, {"query": (0, 1), "key_value": (1, 3)})
    for number, name in enumerate(norms, start=1):
        module = getattr(theirs, f"norm{number}")
        getattr(block, name).set_weights([array(module.weight), array(module.bias)])
    for layer, module in ((block.widen, theirs.linear1), (block.narrow, theirs.linear2)):
        layer.set_weights([array(module.weight), array(module.bias)])
    return block


def torch_gradients(function, *inputs):
    """The outputs of a PyTorch function, and the gradients of the sum of their squares."""
    given = [torch.tensor(value.numpy(), requires_grad=True) for value in inputs]
    outputs = function(*given)
    (outputs**2).sum().backward()
    return outputs.detach().numpy(), [value.grad.numpy() for value in given]


def gradients(function, *inputs):
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
        total = tf.reduce_sum(outputs**2)
    return outputs.numpy(), [gradient.numpy() for gradient in tape.gradient(total, inputs)]


BLOCK = {"num_heads": HEADS, "feed_forward_dim": 24, "context_length": 8, "rotary": False, "use_bias": True, "activation": "relu"}


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    for one, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * max(1.0, np.abs(other).max()))


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
def test_an_encoder_block_agrees_with_that_of_pytorch(norm_first):
    theirs = torch_block(torch.nn.TransformerEncoderLayer, norm_first)
    x, visible = text(), tf.sequence_mask([6, 4])
    block = layers.TransformerBlock(**BLOCK, causal=False, norm_first=norm_first)
    block(x)
    copied(block, theirs, ["attention_norm", "feed_forward_norm"])
    hidden = torch.tensor(~visible.numpy())
    assert_close(gradients(lambda x: block(x, visible), x), torch_gradients(lambda x: theirs(x, src_key_padding_mask=hidden), x))
    assert_close(gradients(block, x), torch_gradients(theirs, x))


@pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
def test_a_decoder_block_with_a_memory_agrees_with_that_of_pytorch(norm_first):
    theirs = torch_block(torch.nn.TransformerDecoderLayer, norm_first)
    x, m = text(), memory(width=WIDTH)
    block = layers.TransformerBlock(**BLOCK, cross=True, norm_first=norm_first)
    block(x, memory=m, memory_visible=VISIBLE)
    copied(block, theirs, ["attention_norm", "memory_norm", "feed_forward_norm"])
    masks = {"tgt_mask": torch.nn.Transformer.generate_square_subsequent_mask(6), "memory_key_padding_mask": torch.tensor(~VISIBLE.numpy())}
    ours = gradients(lambda x, m: block(x, memory=m, memory_visible=VISIBLE), x, m)
    assert_close(ours, torch_gradients(lambda x, m: theirs(x, m, **masks), x, m))


def reference_gru(layer, x, memory, visible, state):
    """The equations of the paper step by step, with Keras' own attention and cell: states and what they found."""
    asks = keras.layers.AdditiveAttention()
    key = layer.key(memory)
    asks.build([(2, 1, layer.units), memory.shape, key.shape])
    outputs, weights = [], []
    for place in range(x.shape[1]):
        with keras.StatelessScope(state_mapping=[(asks.scale, layer.score.value)]):
            found, scores = asks([layer.query(state)[:, None], memory, key], mask=[None, visible], return_attention_scores=True)
        _, (state,) = layer.cell(tf.concat([x[:, place], found[:, 0]], axis=-1), [state])
        outputs.append(tf.concat([state, found[:, 0]], axis=-1))
        weights.append(scores)
    return tf.stack(outputs, axis=1), tf.stack(weights, axis=2)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_attention_before_each_step_agrees_with_keras(jit_compile):
    x, m, state = text(), memory(), normal(5, 2, 8)
    layer = built(recurrent_attention.AdditiveAttentionGRU(8), x, m, VISIBLE)
    draw = normal(6, 2, 6, 8 + MEMORY_WIDTH)

    def value_and_gradients(function):
        with tf.GradientTape() as tape:
            watched = [x, m, state]
            tape.watch(watched)
            outputs = function(*watched)
            total = tf.reduce_sum(outputs * draw)
        return outputs, tape.gradient(total, [*watched, *(weight.value for weight in layer.trainable_variables)])

    ours = tf.function(lambda: value_and_gradients(lambda x, m, state: layer(x, m, VISIBLE, state)), jit_compile=jit_compile)()
    theirs = value_and_gradients(lambda x, m, state: reference_gru(layer, x, m, VISIBLE, state)[0])
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-5)
    assert len(ours[1]) == 3 + 7
    for one, other in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_allclose(layer.weights_of(x, m, VISIBLE, state), reference_gru(layer, x, m, VISIBLE, state)[1], atol=1e-5)


def test_attention_before_each_step_begins_with_zeros():
    x = text()
    layer = built(recurrent_attention.AdditiveAttentionGRU(8), x, **MEMORY)
    expected, weights = reference_gru(layer, x, *MEMORY.values(), tf.zeros([2, 8]))
    np.testing.assert_allclose(layer(x, **MEMORY), expected, atol=1e-5)
    np.testing.assert_allclose(layer.weights_of(x, **MEMORY), weights, atol=1e-5)


def test_attention_after_each_step_agrees_with_keras():
    x, m = text(), memory()
    layer = built(recurrent_attention.DotAttention(8), x, m, VISIBLE)
    asks = keras.layers.Attention(use_scale=True)
    asks.build([x.shape, m.shape, x.shape])
    asks.scale.assign(WIDTH**-0.5)

    def reference(x, m):
        found = asks([x, m, layer.key(m)], mask=[None, VISIBLE])
        return layer.join(tf.concat([found, x], axis=-1))

    assert_same_with_gradients(lambda x, m: layer(x, m, VISIBLE), reference, x, m)
    _, scores = asks([x, m, layer.key(m)], mask=[None, VISIBLE], return_attention_scores=True)
    np.testing.assert_allclose(layer.weights_of(x, m, VISIBLE)[:, 0], scores, atol=1e-6)


def test_a_text_reversed_is_what_keras_reads_backwards():
    """Where there is text; and the end of a text is what Keras' layer that skips padding ends with."""
    x, visible = memory(), VISIBLE
    forward = keras.layers.GRU(8, return_sequences=True)
    forward(x)
    weights = perturbed(forward).get_weights()
    backward, last = keras.layers.GRU(8, return_sequences=True, go_backwards=True), keras.layers.GRU(8)
    for layer in (backward, last):
        layer(x)
        layer.set_weights(weights)
    turned = recurrent_attention.ReverseText()
    ours = turned(forward(turned(x, visible)), visible)
    theirs = backward(x, mask=visible)[:, ::-1]
    np.testing.assert_allclose(ours[visible], theirs[visible], atol=1e-6)
    np.testing.assert_allclose(recurrent_attention.TextEnd()(forward(x), visible), last(x, mask=visible), atol=1e-6)


def test_reversing_leaves_padding_and_undoes_itself():
    x, turned = memory(), recurrent_attention.ReverseText()
    visible = tf.sequence_mask([3, 0], 5)
    once = turned(x, visible).numpy()
    np.testing.assert_array_equal(once[0], np.concatenate([x[0, 2::-1], x[0, 3:]]))
    np.testing.assert_array_equal(once[1], x[1])
    np.testing.assert_array_equal(turned(once, visible), x)
    assert not recurrent_attention.TextEnd()(x, visible)[1].numpy().any()


def test_sinusoidal_positions_are_those_of_transformers():
    x = text(time=9)
    ours = layers.SinusoidalPositions(context_length=9)(x) - x
    theirs = modeling_marian.MarianSinusoidalPositionalEmbedding(9, WIDTH)
    np.testing.assert_allclose(ours[0], theirs.create_weight(), atol=1e-5)
    layer = layers.SinusoidalPositions(context_length=4)
    assert not (layer(x[:, :4]), layer.weights)[1]
    with pytest.raises(ValueError, match="a text of 9 tokens is longer than the context of 4"):
        layer(x)


LAYERS = {
    "attention-to-all": (lambda **kw: attention.SelfAttention(HEADS, causal=False, head_dim=6, rotary_base=50.0, **kw), ("visible",)),
    "cross-attention": (lambda **kw: attention.CrossAttention(HEADS, 2, use_bias=True, dropout=0.1, **kw), ("memory",)),
    "encoder-block": (lambda **kw: layers.TransformerBlock(HEADS, 24, 8, causal=False, norm_first=False, **kw), ("visible",)),
    "decoder-block": (
        lambda **kw: layers.TransformerBlock(HEADS, 24, 8, cross=True, gated=True, activation="silu", normalization="rms", **kw),
        ("memory",),
    ),
    "gru": (lambda **kw: recurrent_attention.AdditiveAttentionGRU(8, **kw), ("memory", "state")),
    "dot-attention": (lambda **kw: recurrent_attention.DotAttention(8, **kw), ("memory",)),
    "reversed": (lambda **kw: recurrent_attention.ReverseText(**kw), ("visible",)),
    "end": (lambda **kw: recurrent_attention.TextEnd(**kw), ("visible",)),
    "sinusoidal": (lambda **kw: layers.SinusoidalPositions(8, **kw), ()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name):
    """Config round trip, dynamic batch and time, XLA on and off, mixed precision, as for the layers of one input."""
    build, wanted = LAYERS[name]
    given = {"inputs": text()}
    given |= {"visible": tf.sequence_mask([6, 4])} if "visible" in wanted else {}
    given |= MEMORY if "memory" in wanted else {}
    given |= {"initial_state": normal(5, 2, 8)} if "state" in wanted else {}
    layer = built(build(), **given)
    expected = layer(**given).numpy()

    clone = type(layer).from_config(layer.get_config())
    clone(**given)
    clone.set_weights(layer.get_weights())
    np.testing.assert_allclose(clone(**given), expected, atol=1e-6)
    assert clone.get_config() == layer.get_config()

    symbolic = layer(**{name: keras.Input(value.shape[1:], dtype=value.dtype.name) for name, value in given.items()})
    assert symbolic.shape[1:] == expected.shape[1:]

    signature = [
        tf.TensorSpec([None] * (len(value.shape) - value.dtype.is_floating) + [value.shape[-1]] * value.dtype.is_floating, value.dtype)
        for value in given.values()
    ]
    for jit_compile in (False, True):
        compiled = tf.function(
            lambda *inputs: layer(**dict(zip(given, inputs, strict=True))), input_signature=signature, jit_compile=jit_compile
        )
        np.testing.assert_allclose(compiled(*given.values()), expected, atol=1e-5)
        np.testing.assert_allclose(compiled(*(value[:1] for value in given.values())), expected[:1], atol=1e-5)
        short = [value[:, :3] if key in ("inputs", "visible") else value for key, value in given.items()]
        assert compiled(*short).shape == ((2, 3, *expected.shape[2:]) if expected.ndim == 3 else expected.shape)

    mixed = build(dtype="mixed_bfloat16")
    mixed(**given)
    mixed.set_weights(layer.get_weights())
    assert mixed(**given).dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(mixed(**given), tf.float32), expected, atol=0.06 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (attention.CrossAttention(3), "num_heads must divide the width: got 3 heads for a width of 16"),
        (layers.TransformerBlock(3, 8, 8, cross=True), "num_heads must divide the width"),
    ],
)
def test_heads_that_do_not_fit(layer, message):
    with pytest.raises(ValueError, match=message):
        layer(text(), **MEMORY)
    with pytest.raises(ValueError, match="num_kv_heads must divide num_heads: got 3 and 4"):
        attention.CrossAttention(4, num_kv_heads=3)


def test_sines_and_cosines_come_in_pairs():
    with pytest.raises(ValueError, match="even"):
        layers.SinusoidalPositions(context_length=4)(np.zeros([1, 2, 5], np.float32))
