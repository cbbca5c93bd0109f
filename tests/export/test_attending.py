import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lm import layers, models
from keras_lm.export import layout
from keras_lm.export.attending import attention_signature
from keras_lm.export.saved_model import export_model
from keras_lm.generation.state import Decoder
from keras_lm.insight.attention import attention_maps
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer
from tests.export.session import Served
from tests.test_models import SMALL

TEXTS = ["abc 中国", "", "abca" * 40, b"\xffa"]


@pytest.fixture(scope="module")
def tokenizer():
    return CharacterTokenizer.fit(["abc 中国人民"])


def transformer(tokenizer, **sizes):
    sizes = {"context_length": 80, "embedding_dim": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, **sizes}
    return models.transformer_lm(tokenizer.vocabulary_size, **sizes)


def signature_of(model, tokenizer):
    return attention_signature(Decoder(model), tokenizer, tokenizer.tokenize)


def test_a_session_gives_the_weights_of_insight(tokenizer, tmp_path):
    """Of texts of several lengths in one batch, in an export as it is written: the weights of each text alone."""
    model = transformer(tokenizer)
    version = export_model(model, tokenizer, tmp_path / "model")
    outputs = Served(version)("attention", {"texts": TEXTS})
    assert outputs["weights"].shape == (4, 2, 4, 64, 64)
    assert outputs["weights"].dtype == np.float32
    names = ["<s>", "a", "b", "c", " ", "中", "国"]
    assert [name.decode() for name in outputs["tokens"][0]] == [*names, *[""] * 57]
    assert [name.decode() for name in outputs["tokens"][3][:4]] == ["<s>", "<unk>", "a", ""]
    for row, text in enumerate(TEXTS):
        ids = [tokenizer.start_id, *tokenizer.tokenize(tf.constant([text])).to_list()[0]][:64]
        expected = np.stack(list(attention_maps(model, np.array([ids])).values()), axis=1)[0]
        np.testing.assert_allclose(outputs["weights"][row, :, :, : len(ids), : len(ids)], expected, atol=1e-5)
        assert not outputs["weights"][row, :, :, len(ids) :].any()
        assert not outputs["weights"][row, :, :, :, len(ids) :].any()
        assert sum(name != b"" for name in outputs["tokens"][row]) == len(ids)
    described = layout.find(version)[1]["signatures"]["attention"]
    assert described["outputs"] == {
        "tokens": {"dtype": "string", "shape": ["batch", None]},
        "weights": {"dtype": "float32", "shape": ["batch", 2, 4, None, None]},
    }


def test_a_batch_of_none_gives_none(tokenizer):
    outputs = signature_of(transformer(tokenizer), tokenizer).function(tf.constant([], tf.string))
    assert {name: values.shape[0] for name, values in outputs.items()} == {"tokens": 0, "weights": 0}


def test_no_more_than_the_context_is_read():
    """And bytes that are no characters by themselves have names."""
    tokenizer = ByteTokenizer()
    outputs = signature_of(transformer(tokenizer, context_length=8), tokenizer).function(tf.constant(["中 and more text"]))
    assert [name.decode() for name in outputs["tokens"].numpy()[0]] == ["\\xe4", "\\xb8", "\\xad", " ", "a", "n", "d", " "]
    np.testing.assert_allclose(tf.reduce_sum(outputs["weights"], axis=-1), np.ones([1, 2, 4, 8]), atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_models_with_attention_have_the_signature(name, tokenizer):
    model = models.get(name.partition("-")[0])(tokenizer.vocabulary_size, **SMALL[name])
    assert (signature_of(model, tokenizer) is not None) == name.startswith("transformer")


def test_layers_of_other_numbers_of_heads_have_none(tokenizer):
    blocks = [layers.TransformerBlock(num_heads=heads, feed_forward_dim=16, context_length=16) for heads in (2, 4)]
    ends = keras.layers.Embedding(tokenizer.vocabulary_size, 16), keras.layers.Dense(tokenizer.vocabulary_size)
    model = keras.Sequential([keras.Input([None], dtype="int32"), ends[0], layers.PositionEmbedding(16), *blocks, ends[1]])
    assert signature_of(model, tokenizer) is None
