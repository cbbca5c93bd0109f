import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import models
from keras_lm.attention import CrossAttention, SelfAttention
from keras_lm.errors import UserError
from keras_lm.generation.text import TextGenerator
from keras_lm.insight.attention import STEPS, _walk, attention_maps, inference_steps
from keras_lm.models import run_layers
from keras_lm.seq2seq import rnn_seq2seq, transformer_seq2seq
from keras_lm.tokenizers import CharacterTokenizer

RANDOM = np.random.default_rng(0)
IDS = RANDOM.integers(4, 30, size=[2, 7])
LONG_IDS = RANDOM.integers(4, 30, size=[2, 70])  # attention goes over such a text in two blocks of queries
SOURCES = np.array([[9, 4, 7, 3], [5, 3, 0, 0]])
TARGETS = np.array([[2, 8, 6], [2, 7, 5]])
TOKENIZER = CharacterTokenizer.fit(["我喜欢编程。like it"])
SOURCE = "我喜欢编程"
SMALL = {"embedding_dim": 16, "num_layers": 1, "num_heads": 4, "context_length": 80, "dropout": 0.5}
ORIGINAL = {"positions": "sinusoidal", "norm_first": False, "activation": "relu", "use_bias": True}

SINGLE = {
    "causal": lambda size: models.transformer_lm(size, **SMALL | {"num_layers": 2}, num_kv_heads=2, gated=True, activation="silu"),
    "encoder": lambda size: models.transformer_encoder(size, **SMALL),
}
PAIRED = {
    "transformer": lambda size: transformer_seq2seq(size, **SMALL),
    "original": lambda size: transformer_seq2seq(size, **SMALL, **ORIGINAL),
    "bahdanau": lambda size: rnn_seq2seq(size, embedding_dim=16, hidden_dim=12, num_layers=2, dropout=0.5),
    "luong": lambda size: rnn_seq2seq(size, embedding_dim=16, hidden_dim=12, attention="luong", dropout=0.5),
}
TRANSFORMERS = ["transformer", "original"]
paired = pytest.mark.parametrize("kind", PAIRED)


def shaken(make, size, seed=0):
    """A model whose matrices are large enough for its attention to prefer some places to others."""
    model, generator = make(size), np.random.default_rng(seed)
    for weight in model.trainable_variables:
        if len(weight.shape) > 1:
            weight.assign(generator.normal(0, 0.4, size=weight.shape))
    return model


@functools.cache
def looked_into(kind):
    model = shaken(PAIRED[kind], TOKENIZER.vocabulary_size)
    return model, inference_steps(model, TOKENIZER, SOURCE, max_new_tokens=6)


def maps_of(kind):
    if kind in SINGLE:
        return attention_maps(shaken(SINGLE[kind], 30), IDS)
    return attention_maps(shaken(PAIRED[kind], 30), [SOURCES, TARGETS])


@pytest.mark.parametrize("kind", [*SINGLE, *PAIRED])
def test_weights_sum_to_one_and_differ(kind):
    for weights in maps_of(kind).values():
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
        assert weights.min() >= 0 and weights.max() > 1.2 / weights.shape[-1]


def test_every_attention_is_there_under_its_name():
    shapes = {kind: {name: weights.shape for name, weights in maps_of(kind).items()} for kind in ("causal", *PAIRED)}
    assert shapes["causal"] == {"block_0/attention": (2, 4, 7, 7), "block_1/attention": (2, 4, 7, 7)}
    assert shapes["bahdanau"] == {"decoder_1": (2, 1, 3, 4)}
    assert shapes["luong"] == {"attention": (2, 1, 3, 4)}
    assert shapes["transformer"] == {
        "encoder_block_0/attention": (2, 4, 4, 4),
        "decoder_block_0/attention": (2, 4, 3, 3),
        "decoder_block_0/memory_attention": (2, 4, 3, 4),
    }


@pytest.mark.parametrize("kind", ["causal", *TRANSFORMERS])
def test_a_text_that_is_written_looks_back_alone(kind):
    found = {name: weights for name, weights in maps_of(kind).items() if name.endswith("/attention") and "encoder" not in name}
    assert found
    for weights in found.values():
        assert (weights[..., ~np.tri(weights.shape[-1], dtype=bool)] == 0).all()


@paired
def test_padding_is_not_looked_at(kind):
    for name, weights in maps_of(kind).items():
        if weights.shape[-1] == SOURCES.shape[1]:
            assert (weights[1, ..., 2:] == 0).all() and (weights[0] > 0).all(), name


def test_padding_of_an_encoder_is_not_looked_at():
    padded = np.where(np.arange(7) < 4, IDS, 0)
    for weights in attention_maps(shaken(SINGLE["encoder"], 30), padded).values():
        assert (weights[..., 4:] == 0).all()


def test_weights_over_the_same_text_are_those_of_keras():
    """`keras.layers.MultiHeadAttention` says its own; the same matrices in both."""
    model = keras.Sequential(
        [keras.Input([None], dtype="int32"), keras.layers.Embedding(30, 16), SelfAttention(4, rotary=False, name="own")]
    )
    embedding, own = model.layers
    kernel, output = (RANDOM.normal(0, 0.4, size=weight.shape).astype(np.float32) for weight in own.get_weights())
    own.set_weights([kernel, output])
    x = 10 * embedding(IDS)
    embedding.set_weights([10 * embedding.get_weights()[0]])
    theirs = keras.layers.MultiHeadAttention(num_heads=4, key_dim=4, use_bias=False)
    theirs(x, x)
    theirs.set_weights([*kernel.reshape(16, 3, 4, 4).transpose(1, 0, 2, 3), output.reshape(4, 4, 16)])
    _, expected = theirs(x, x, use_causal_mask=True, return_attention_scores=True)
    np.testing.assert_allclose(attention_maps(model, IDS)["own"], expected, atol=1e-6)


def test_weights_over_another_text_are_those_of_keras():
    source, target = keras.Input([None], dtype="int32"), keras.Input([None], dtype="int32")
    embedding, own = (
        keras.layers.Embedding(30, 16, embeddings_initializer=keras.initializers.RandomNormal(stddev=1.0)),
        CrossAttention(4, name="own"),
    )
    model = keras.Model([source, target], own(embedding(target), embedding(source), keras.ops.not_equal(source, 0)))
    query, key_value, output = (RANDOM.normal(0, 0.4, size=weight.shape).astype(np.float32) for weight in own.get_weights())
    own.set_weights([query, key_value, output])
    theirs = keras.layers.MultiHeadAttention(num_heads=4, key_dim=4, use_bias=False)
    x, memory = embedding(TARGETS), embedding(SOURCES)
    theirs(x, memory)
    key, value = key_value.reshape(16, 2, 4, 4).transpose(1, 0, 2, 3)
    theirs.set_weights([query.reshape(16, 4, 4), key, value, output.reshape(4, 4, 16)])
    _, expected = theirs(x, memory, attention_mask=(SOURCES != 0)[:, None], return_attention_scores=True)
    np.testing.assert_allclose(attention_maps(model, [SOURCES, TARGETS])["own"], expected, atol=1e-6)


@pytest.mark.parametrize("ids", [IDS, LONG_IDS], ids=["short", "long"])
def test_values_times_weights_are_what_the_layer_gives(ids):
    model = keras.Sequential(
        [keras.Input([None], dtype="int32"), keras.layers.Embedding(30, 16), SelfAttention(4, num_kv_heads=2, name="own")]
    )
    embedding, own = model.layers
    own.set_weights([RANDOM.normal(0, 1, size=weight.shape) for weight in own.get_weights()])
    values = np.reshape(embedding(ids) @ own.qkv.kernel[:, -8:], [*ids.shape, 2, 4]).repeat(2, axis=2)  # each for two heads
    found = np.einsum("bhqk,bkhd->bqhd", attention_maps(model, ids)["own"], values).reshape([*ids.shape, 16])
    np.testing.assert_allclose(found @ own.output_projection.kernel, model(ids), atol=1e-5)


def test_a_memory_times_weights_is_what_a_recurrent_decoder_found():
    _, inference = looked_into("bahdanau")
    tensors, (weights,) = inference.tensors, inference.weights["decoder_1"]
    np.testing.assert_allclose(tensors["decoder_1"][:, 12:], weights @ tensors["memory"], atol=1e-5)
    model, inference = looked_into("luong")
    tensors, (weights,) = inference.tensors, inference.weights["attention"]
    joined = np.concatenate([weights @ tensors["memory"], tensors["decoder_0"]], axis=-1)
    np.testing.assert_allclose(tensors["attention"], model.get_layer("attention").join(joined), atol=1e-5)


@paired
def test_the_steps_end_in_the_logits_of_the_model(kind):
    model, inference = looked_into(kind)
    tensors = inference.tensors
    logits = model([tensors["source_ids"][None], tensors["target_ids"][None]])[0]
    np.testing.assert_allclose(tensors["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(tensors["probabilities"], tf.nn.softmax(logits), atol=1e-5)


@pytest.mark.parametrize("kind", ["transformer", "bahdanau", "luong"])
def test_the_tokens_are_those_of_the_text_generator(kind):
    model, inference = looked_into(kind)
    expected = TextGenerator(model, TOKENIZER, jit_compile=False).generate([SOURCE], max_new_tokens=6)[0]
    assert (inference.text, inference.finish_reason) == (expected.text, expected.finish_reason)
    assert len(inference.choices) == expected.num_tokens
    assert inference.target_tokens[0] == "<s>" and inference.written_tokens[:-1] == inference.target_tokens[1:]
    assert [choice.token for choice in inference.choices] == inference.written_tokens


@paired
def test_each_choice_is_the_most_probable_token_that_may_be_written(kind):
    _, inference = looked_into(kind)
    for row, chosen, choice in zip(inference.tensors["probabilities"], inference.tensors["chosen_ids"], inference.choices, strict=True):
        assert chosen == 3 + row[3:].argmax()  # padding, unknown and start are never written
        assert choice.probability == row[chosen]
        values = [probability for _, probability in choice.alternatives]
        assert len(values) == 5 and values == sorted(row, reverse=True)[:5]


@paired
def test_a_turn_sees_what_it_would_see_alone(kind):
    """The tensors of all turns come from one pass over the finished target: row t must be what the model gives after t tokens."""
    model, inference = looked_into(kind)
    tensors = inference.tensors
    for length in range(1, len(inference.choices) + 1):
        logits = model([tensors["source_ids"][None], tensors["target_ids"][None, :length]])[0, -1]
        np.testing.assert_allclose(tensors["logits"][length - 1], logits, atol=1e-4)


def test_it_goes_on_from_a_target():
    model, whole = looked_into("luong")
    known = "".join(whole.written_tokens[:2])
    assert len(whole.choices) > 3 and "<" not in known
    rest = inference_steps(model, TOKENIZER, SOURCE, known, max_new_tokens=4)
    assert known + rest.text == whole.text
    assert rest.target_tokens == whole.target_tokens and len(rest.choices) == len(whole.choices) - 2
    np.testing.assert_allclose(rest.tensors["logits"], whole.tensors["logits"], atol=1e-5)
    assert rest.choices[0].probability == pytest.approx(whole.choices[2].probability, abs=1e-5)


def test_the_parts_of_a_block_add_up_to_it():
    _, inference = looked_into("transformer")
    tensors = inference.tensors
    for block, begun in (("encoder_block_0", "source_embedding"), ("decoder_block_0", "target_embedding")):
        parts = [value for name, value in tensors.items() if name.startswith(f"{block}/") and name.endswith("/output")]
        assert len(parts) == (3 if "decoder" in block else 2)
        np.testing.assert_allclose(tensors[begun] + sum(parts), tensors[block], atol=1e-4)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_a_feed_forward_part_has_two_layers(kind):
    """D14 of the articles."""
    model, inference = looked_into(kind)
    narrow = model.get_layer("encoder").get_layer("encoder_block_0").narrow
    hidden = inference.tensors["encoder_block_0/feed_forward/hidden"]
    assert hidden.shape == (6, 64)
    np.testing.assert_allclose(narrow(hidden), inference.tensors["encoder_block_0/feed_forward/output"], atol=1e-4)


@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_weights_are_the_softmax_of_scores_behind_a_mask(kind):
    """D13 of the articles."""
    tensors = looked_into(kind)[1].tensors
    for name in [name.removesuffix("/scores") for name in tensors if name.endswith("/scores")]:
        scores, mask = tensors[f"{name}/scores"], True
        if name.startswith("decoder") and name.endswith("/attention"):
            mask = np.tri(scores.shape[-1], dtype=bool)
        expected = tf.nn.softmax(np.where(mask, scores, -np.inf))
        np.testing.assert_allclose(tensors[f"{name}/weights"], expected, atol=1e-6)
        assert (scores[..., ~np.broadcast_to(mask, scores.shape[1:])] != 0).all()  # those behind the mask are shown too


def test_positions_are_added_to_the_embedding():
    model = transformer_seq2seq(30, **SMALL, positions="learned")
    values = {seen.name: seen.value for seen in _walk(model, [tf.constant(SOURCES), tf.constant(TARGETS)]).seen}
    added = values["source_positions"] - model.get_layer("embedding")(SOURCES)
    np.testing.assert_allclose(added[0], model.get_layer("encoder").get_layer("source_positions").embeddings[:4], atol=1e-6)


def test_steps_are_those_of_the_article():
    _, inference = looked_into("original")
    assert [step.number for step in inference.steps] == [1, 2, 3, 4, 5, 6, 7] and tuple(step.name for step in inference.steps) == STEPS
    assert inference.source_tokens == ["我", "喜", "欢", "编", "程", "</s>"]
    names = [list(step.tensors) for step in inference.steps]
    assert names[0] == ["source_ids"]
    assert names[1] == ["source_embedding", "source_scale", "source_positions"]
    assert names[2] == ["encoder_block_0", "memory"]
    assert names[3] == [f"encoder_block_0/attention/{name}" for name in ("scores", "weights", "output")]
    assert names[4] == ["encoder_block_0/feed_forward/hidden", "encoder_block_0/feed_forward/output"]
    assert names[5][:4] == ["target_ids", "target_embedding", "target_scale", "target_positions"]
    assert names[5][-1] == "decoder_block_0" and len(names[5]) == 4 + 9
    assert names[6] == ["logits", "probabilities", "chosen_ids"]
    np.testing.assert_array_equal(inference.tensors["memory"], inference.tensors["encoder_block_0"])  # one vector a position (D15)
    assert inference.tensors["memory"].shape == (6, 16)


@pytest.mark.parametrize("kind", ["bahdanau", "luong"])
def test_a_recurrent_encoder_has_no_attention_of_its_own(kind):
    _, inference = looked_into(kind)
    assert [bool(step.tensors) for step in inference.steps] == [True, True, True, False, False, True, True]
    assert inference.tensors["memory"].shape == (6, 24)  # read both ways
    assert len(inference.weights) == 1


@paired
def test_the_maps_of_both_functions_agree(kind):
    model, inference = looked_into(kind)
    ids = [inference.tensors[f"{side}_ids"][None] for side in ("source", "target")]
    maps = attention_maps(model, ids)
    assert list(maps) == list(inference.weights)
    for name, weights in inference.weights.items():
        np.testing.assert_allclose(weights, maps[name][0], atol=1e-6)


def test_a_line_for_each_tensor():
    _, inference = looked_into("transformer")
    lines = str(inference).splitlines()
    assert lines[0].split() == ["1", "input", "source_ids", "(6,)"]
    assert len(lines) == len(inference.tensors) and "4 self-attention  encoder_block_0/attention/weights" in lines[6]


def test_half_precision_is_followed_too():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = shaken(PAIRED["transformer"], 30)
    finally:
        keras.config.set_dtype_policy("float32")
    walk = _walk(model, [tf.constant(SOURCES), tf.constant(TARGETS)])
    np.testing.assert_array_equal(walk.logits, run_layers(model, [tf.constant(SOURCES), tf.constant(TARGETS)], lambda layer: layer))
    assert {seen.value.dtype for seen in walk.seen if seen.name.endswith("/output")} == {tf.bfloat16}


def test_a_trained_model_writes_what_it_learned_and_ends():
    keras.utils.set_random_seed(1)
    model = transformer_seq2seq(TOKENIZER.vocabulary_size, embedding_dim=32, num_layers=1, num_heads=2, context_length=16)
    source = np.array(TOKENIZER.tokenize([SOURCE]).to_list()[0] + [TOKENIZER.end_id])[None]
    target = np.array([TOKENIZER.start_id, *TOKENIZER.tokenize(["like it"]).to_list()[0], TOKENIZER.end_id])[None]
    optimizer, loss = keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer.build(model.trainable_variables)

    @tf.function
    def learn():
        for _ in tf.range(60):
            with tf.GradientTape() as tape:
                value = loss(target[:, 1:], model([source, target[:, :-1]]))
            optimizer.apply(tape.gradient(value, model.trainable_variables), model.trainable_variables)

    learn()
    inference = inference_steps(model, TOKENIZER, SOURCE, top=2)
    assert (inference.text, inference.finish_reason) == ("like it", "end")
    assert inference.written_tokens == [*"like it", "</s>"]
    assert inference.choices[0].alternatives[0][0] == "l" and inference.choices[0].probability > 0.9


def test_nothing_of_the_model_is_changed():
    model = shaken(PAIRED["transformer"], 30)
    before = model([SOURCES, TARGETS])
    attention_maps(model, [SOURCES, TARGETS])
    np.testing.assert_array_equal(model([SOURCES, TARGETS]), before)


def test_what_cannot_be_looked_at_is_refused():
    model = transformer_seq2seq(30, embedding_dim=8, num_layers=1, num_heads=2, context_length=4)
    with pytest.raises(UserError, match="ids must be"):
        attention_maps(model, [SOURCES, TARGETS[0]])
    with pytest.raises(UserError, match="has 2 inputs, got 3"):
        attention_maps(model, [SOURCES, TARGETS, TARGETS])
    with pytest.raises(UserError, match="no attention"):
        attention_maps(models.gru_lm(30, embedding_dim=8, hidden_dim=8), IDS)
    with pytest.raises(UserError, match="no encoder"):
        inference_steps(SINGLE["causal"](30), TOKENIZER, SOURCE)
    with pytest.raises(UserError, match="empty"):
        inference_steps(model, TOKENIZER, " ")
    with pytest.raises(UserError, match="has 6 tokens; the model was made for 4"):
        inference_steps(model, TOKENIZER, SOURCE)
