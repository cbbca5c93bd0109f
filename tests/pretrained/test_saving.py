import json
import os
import random

import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf
import torch
import transformers

from keras_lm import models, seq2seq, tokenizers
from keras_lm.errors import UserError
from keras_lm.generation.text import TextGenerator
from keras_lm.pretrained import load, save
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer
from tests.pretrained.checkpoints import bert, gpt2, llama, mistral, outputs, random_ids, saved, starcoder2

LOADED = {
    "gpt2": gpt2,
    "gpt2-untied": lambda: gpt2(tie_word_embeddings=False, n_inner=20),
    "bert": lambda: bert("BertModel"),
    "bert-masked": bert,
    "llama": lambda: llama(head_dim=8, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama-biases": lambda: llama(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "mistral": mistral,
    "starcoder2": starcoder2,
}

SHAPE = {"context_length": 32, "embedding_dim": 16, "num_layers": 2, "num_heads": 4}
LLAMA = {"normalization_kind": "rms", "gated": True, "activation": "silu"}
OWN = {
    "default": ("starcoder2", {}),
    "grouped-untied": ("starcoder2", {"num_kv_heads": 2, "tied": False, "use_bias": True, "head_dim": 6, "rotary_base": 500.0}),
    "learned": ("gpt2", {"positions": "learned"}),
    "learned-biased-untied": (
        "gpt2",
        {"positions": "learned", "use_bias": True, "tied": False, "activation": "gelu_tanh", "epsilon": 1e-3},
    ),
    "llama": ("llama", LLAMA),
    "llama-biased": ("llama", {**LLAMA, "use_bias": True, "num_kv_heads": 1, "dropout": 0.1}),
}


def own(vocabulary_size=50, **options):
    """A model of ours with weights that make it say something, norms and biases too."""
    return louder(models.transformer_lm(vocabulary_size, **{**SHAPE, **options}))


def louder(model):
    draw = np.random.default_rng(0)
    model.set_weights(
        [
            weights + 0.1 * draw.normal(size=weights.shape)
            if weights.ndim < 2
            else draw.normal(size=weights.shape) * min(weights.shape) ** -0.5
            for weights in model.get_weights()
        ]
    )
    return model


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def theirs(folder):
    """What transformers loads from a folder: exactly the tensors it wants."""
    kind = getattr(transformers, config_of(folder)["architectures"][0])
    model, report = kind.from_pretrained(folder, output_loading_info=True)
    missing = {name for name in report.pop("missing_keys") if not name.startswith("pooler.")}
    assert not missing
    assert not any(report.values())
    return model.eval()


@pytest.mark.parametrize("name", LOADED)
def test_what_was_loaded_is_saved_as_it_was(name, tmp_path):
    original = LOADED[name]()
    ids = random_ids(50, (2, 20))
    ours = load(saved(original, tmp_path / "before"))
    save(ours.model, None, tmp_path / "after")
    np.testing.assert_allclose(outputs(theirs(tmp_path / "after"), ids), outputs(original, ids), atol=1e-6)
    before, after = config_of(tmp_path / "before"), config_of(tmp_path / "after")
    if name != "mistral":  # whose form without a window is Llama's
        assert after["architectures"] == before["architectures"]
        assert {**before, **before.get("rope_parameters", {})}.items() >= {name: before[name] for name in set(after) & set(before)}.items()
    np.testing.assert_array_equal(load(tmp_path / "after").model(ids), ours.model(ids))


@pytest.mark.parametrize("name", OWN)
def test_a_model_of_ours_in_the_form_that_computes_the_same(name, tmp_path):
    kind, options = OWN[name]
    model = own(**options)
    model.save(tmp_path / "model.keras")
    model = keras.saving.load_model(tmp_path / "model.keras")
    save(model, None, tmp_path / "saved")
    assert config_of(tmp_path / "saved")["model_type"] == kind
    ids = random_ids(50, (2, 20))
    expected = model(ids).numpy()
    assert expected.std() > 0.5
    np.testing.assert_allclose(outputs(theirs(tmp_path / "saved"), ids), expected, atol=1e-4)
    np.testing.assert_allclose(load(tmp_path / "saved").model(ids), expected, atol=1e-5)


@pytest.mark.parametrize("head", [False, True])
def test_an_encoder_of_ours_is_a_bert(head, tmp_path):
    model = models.transformer_encoder(50, **SHAPE, num_token_types=3, reads_types=True, pad_id=1)
    model = louder(models.masked_lm(model) if head else model)
    save(model, None, tmp_path / "saved")
    assert config_of(tmp_path / "saved")["pad_token_id"] == 1
    ids = random_ids(50, (2, 20))
    np.testing.assert_allclose(outputs(theirs(tmp_path / "saved"), ids, token_type_ids=ids % 3), model([ids, ids % 3]), atol=1e-4)


def test_a_model_that_learns_in_16_bits_or_by_lora_is_saved_in_32(tmp_path):
    model = own()
    model.get_layer("block_0").widen.enable_lora(2)
    model.get_layer("block_0").widen.lora_kernel_b.assign(np.ones([2, 64]))
    save(model, None, tmp_path / "lora")
    ids = random_ids(50, (1, 9))
    np.testing.assert_allclose(outputs(theirs(tmp_path / "lora"), ids), model(ids), atol=1e-4)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        save(own(), None, tmp_path / "mixed")
    finally:
        keras.config.set_dtype_policy("float32")
    np.testing.assert_allclose(outputs(theirs(tmp_path / "mixed"), ids), own()(ids), atol=1e-4)


def with_another_layer():
    ids = keras.Input([None], dtype="int32")
    model = own()
    x = model.get_layer("embedding")(ids)
    for layer in model.layers[2:-1]:
        x = keras.layers.Rescaling(2.0)(layer(x))
    return keras.Model(ids, model.get_layer("embedding")(x, reverse=True))


def quantized():
    model = own()
    model.quantize("int8")
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: own(normalization_kind="rms"), "nearest is llama, but gated is False, llama has True"),
        (lambda: own(normalization_kind="rms", positions="learned"), "nearest is gpt2, but normalization_kind is 'rms', gpt2 has 'layer'"),
        (lambda: own(positions="learned", num_kv_heads=2), "nearest is gpt2, but num_kv_heads is 2, gpt2 has 4"),
        (lambda: own(positions="learned", head_dim=8), "nearest is gpt2, but head_dim is 8, gpt2 has 4"),
        (lambda: own(gated=True), "nearest is llama, but normalization_kind is 'layer', llama has 'rms'"),
        (lambda: own(activation="tanh"), "but activation is 'tanh', starcoder2 has 'gelu, gelu_tanh, relu or silu'"),
        (lambda: models.transformer_encoder(20, norm_first=True), "nearest is bert, but norm_first is True, bert has False"),
        (lambda: models.gru_lm(20, embedding_dim=8), "gru_lm is not built as transformer_lm, transformer_encoder or masked_lm build"),
        (lambda: seq2seq.transformer_seq2seq(20, embedding_dim=16), "transformer_seq2seq is not built as transformer_lm"),
        (with_another_layer, "is not built as transformer_lm"),
        pytest.param(quantized, "transformer_lm is quantized: save the model it was made from", marks=pytest.mark.slow),
    ],
)
def test_models_that_transformers_cannot_run(make, message, tmp_path):
    with pytest.raises(UserError) as caught:
        save(make(), None, tmp_path / "saved")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "saved").exists()


def test_others_may_read_it_and_a_full_disk_is_said(tmp_path, monkeypatch):
    save(own(260), ByteTokenizer(), tmp_path / "saved")
    files = [path for path in (tmp_path / "saved").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask()}

    def full(*_, **__):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(UserError, match=r"model\.safetensors cannot be written: .* No space left on device"):
        save(own(), None, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="the model knows 50 tokens, the tokenizer 260: give the tokenizer"):
        save(own(), ByteTokenizer(), tmp_path / "saved")


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "empty").mkdir()
    save(own(), None, tmp_path / "empty")
    with pytest.raises(UserError, match="empty holds something already: choose another folder"):
        save(own(), None, tmp_path / "empty")
    with pytest.raises(UserError, match=r"config\.json is a file"):
        save(own(), None, tmp_path / "empty" / "config.json")


TEXTS = [
    "The assert statement\n\n  if __debug__:\n\tif not expression: raise AssertionError\n",
    "我们喜欢读书，也喜欢编程。\n他们在 1998 年 写了 3,000 行代码！",
    "naïve café — “quotes” … 😀 ①②½",
] * 3
ALPHABET = [*"abc AB  é中文读\n\t.,!?①½０９ひ▁#_<é\u200b\u00a0😀", "<s>", "</s>", "<unk>", "<0x41>"]


@pytest.fixture(scope="module")
def fitted():
    """A tokenizer of each kind, and texts that it has not seen."""
    sizes = {"wordpiece": 300, "sentencepiece": 400, "word": 400}
    draw = random.Random(0)
    texts = ["", *TEXTS, *("".join(draw.choice(ALPHABET) for _ in range(draw.randrange(40))) for _ in range(300))]
    return {kind: tokenizers.get(kind).fit(TEXTS, sizes.get(kind)) for kind in tokenizers.TOKENIZERS if kind in OURS}, texts


OURS = ("char", "byte", "wordpiece", "sentencepiece", "word")


@pytest.mark.parametrize("kind", OURS)
def test_the_tokenizer_gives_the_same_ids_and_texts(kind, fitted, tmp_path):
    """Also where a text has the names of special tokens in it, or what the tokenizer does not know."""
    tokenizer, texts = fitted[0][kind], fitted[1]
    model = own(tokenizer.vocabulary_size)
    assert save(model, tokenizer, tmp_path / "saved") == ""
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert (theirs.pad_token_id, theirs.unk_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 1, 2, 3)
    assert (len(theirs), theirs.model_max_length) == (tokenizer.vocabulary_size, 32)
    ids = tokenizer.tokenize(tf.constant(texts)).to_list()
    assert theirs(texts)["input_ids"] == ids
    known = [[token for token in row if token != tokenizer.unknown_id] for row in ids]
    written = tokenizer.detokenize(tf.ragged.constant(known, dtype=tf.int32, ragged_rank=1)).numpy()
    assert theirs.batch_decode([[2, *row, 3] for row in known], skip_special_tokens=True) == [text.decode() for text in written]
    again = load(tmp_path / "saved").tokenizer
    assert type(again) is type(tokenizer)
    assert again.tokenize(tf.constant(texts)).to_list() == ids


@pytest.mark.parametrize("documents", [False, True])
def test_transformers_goes_on_as_we_do(documents, tmp_path):
    tokenizer = CharacterTokenizer.fit(["abcdefgh ijkl"])
    model = own(tokenizer.vocabulary_size)
    save(model, tokenizer, tmp_path / "saved", documents=documents)
    ours = TextGenerator(model, tokenizer, documents=documents, jit_compile=False)
    expected = ours.generate(["abc", "h"], temperature=0.0, max_new_tokens=12)
    pipeline = transformers.pipeline("text-generation", str(tmp_path / "saved"))
    never = {"suppress_tokens": [0, 1, 2], "do_sample": False, "max_new_tokens": 12, "return_full_text": False}
    for prompt, text in zip(["abc", "h"], expected, strict=True):
        assert pipeline(prompt, **never)[0]["generated_text"] == text.text


def test_a_prompt_of_several_rows_is_padded_on_the_left(tmp_path):
    tokenizer = ByteTokenizer()
    save(own(260), tokenizer, tmp_path / "saved", documents=True)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    rows = theirs(["abc", "a"], padding=True)
    assert rows["input_ids"] == [[2, 101, 102, 103], [0, 0, 2, 101]]
    assert rows["attention_mask"] == [[1, 1, 1, 1], [0, 0, 1, 1]]
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (2, 3, 0)
    with torch.no_grad():
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved").generate(
            **theirs(["a"], return_tensors="pt"), max_new_tokens=2
        )
