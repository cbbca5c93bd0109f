import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers
from safetensors.numpy import load_file, save_file

from keras_lm import layers
from keras_lm.errors import UserError
from keras_lm.export.saved_model import ExportedGenerator, export_model
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.state import Decoder
from keras_lm.generation.text import TextGenerator
from keras_lm.pretrained import load, save
from keras_lm.pretrained.architectures import ARCHITECTURES
from keras_lm.tokenizers import ByteTokenizer
from tests.pretrained.checkpoints import bert, gpt2, llama, mistral, outputs, random_ids, saved, starcoder2

SMALL = {
    "gpt2": gpt2,
    "gpt2-untied": lambda: gpt2(tie_word_embeddings=False),
    "gpt2-relu-narrow": lambda: gpt2(activation_function="relu", n_inner=20, reorder_and_upcast_attn=True, layer_norm_epsilon=1e-3),
    "bert": lambda: bert("BertModel"),
    "bert-masked": bert,
    "bert-pretraining": lambda: bert("BertForPreTraining"),
    "bert-gelu-new": lambda: bert(hidden_act="gelu_new", type_vocab_size=3, layer_norm_eps=1e-5),
    "llama": llama,
    "llama-tied": lambda: llama(tie_word_embeddings=True, rms_norm_eps=1e-5),
    "llama-one-kv-head": lambda: llama(num_key_value_heads=1, rope_parameters={"rope_type": "default", "rope_theta": 500.0}),
    "llama-wide-heads-and-biases": lambda: llama(head_dim=8, attention_bias=True, mlp_bias=True, hidden_act="gelu"),
    "mistral": mistral,
    "starcoder2": starcoder2,
    "starcoder2-untied": lambda: starcoder2(tie_word_embeddings=False, use_bias=False, hidden_act="relu"),
}
MIDDLE = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 8, "max_position_embeddings": 256}
LARGE = {
    "gpt2": lambda: gpt2(n_embd=256, n_layer=6, n_head=8, n_positions=256, vocab_size=5000),
    "bert": lambda: bert(**MIDDLE, vocab_size=5000),
    "llama": lambda: llama(**MIDDLE, num_key_value_heads=4, vocab_size=5000),
}


@pytest.fixture
def folder(tmp_path):
    """A small GPT-2, to be damaged."""
    return saved(gpt2(), tmp_path / "gpt2")


def changed(folder, **changes):
    """The folder, with other settings in its config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def rewritten(folder, change):
    """The folder, with its tensors as `change` leaves them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def refusal(folder, **kwargs):
    """What a folder is refused with: a single line that names it."""
    with pytest.raises(UserError) as caught:
        load(folder, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize("name", SMALL)
def test_the_logits_of_transformers(name, tmp_path):
    theirs = SMALL[name]()
    ours = load(saved(theirs, tmp_path / "model"))
    ids = random_ids(50, (3, 32))
    expected = outputs(theirs, ids)
    assert expected.std() > 0.5  # random weights as they are drawn give logits that are nearly all alike
    np.testing.assert_allclose(ours.model(ids), expected, atol=1e-4)
    assert ours.config["model_type"] == theirs.config.model_type


@pytest.mark.parametrize("name", LARGE)
def test_the_logits_of_a_larger_model(name, tmp_path):
    theirs = LARGE[name]()
    ours = load(saved(theirs, tmp_path / "model")).model
    ids = random_ids(5000, (2, 200))
    np.testing.assert_allclose(ours(ids), outputs(theirs, ids), atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "bert-masked"])
def test_padding_changes_nothing(name, tmp_path):
    theirs = SMALL[name]()
    ours = load(saved(theirs, tmp_path / "model")).model
    ids = random_ids(50, (3, 12))
    visible = np.arange(12)[None] < [[12], [7], [1]]
    padded = np.where(visible, ids, 0)
    expected = outputs(theirs, padded, attention_mask=visible.astype(int))
    np.testing.assert_allclose(ours(padded).numpy()[visible], expected[visible], atol=1e-4)
    np.testing.assert_allclose(ours(padded)[1, :7], ours(ids[1:2, :7])[0], atol=1e-5)


def test_types_of_tokens_are_a_second_input_where_they_are_wanted(tmp_path):
    theirs = bert()
    folder = saved(theirs, tmp_path / "model")
    ids = random_ids(50, (2, 10))
    types = np.repeat([[0] * 4 + [1] * 6], 2, axis=0).astype(np.int32)
    ours = load(folder, reads_types=True).model
    np.testing.assert_allclose(ours([ids, types]), outputs(theirs, ids, token_type_ids=types), atol=1e-4)
    np.testing.assert_allclose(ours([ids, 0 * types]), load(folder).model(ids), atol=1e-6)


def test_an_encoder_from_a_head_for_masked_tokens(tmp_path):
    theirs = bert()
    ours = load(saved(theirs, tmp_path / "model"))
    ids = random_ids(50, (2, 10))
    np.testing.assert_allclose(ours.encoder(ids), outputs(theirs.bert, ids), atol=1e-4)
    with pytest.raises(UserError, match="a gpt2 model reads from left to right: it is no encoder"):
        load(saved(gpt2(), tmp_path / "gpt2")).encoder  # noqa: B018


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_numbers_become_float32(dtype, tmp_path):
    rounded = llama().to(dtype)
    ours = load(saved(rounded, tmp_path / "model")).model
    ids = random_ids(50, (1, 9))
    assert {variable.dtype for variable in ours.variables} == {"float32"}
    np.testing.assert_allclose(ours(ids), outputs(rounded.float(), ids), atol=1e-4)


def test_shards(tmp_path):
    theirs = llama()
    theirs.save_pretrained(tmp_path / "model", max_shard_size="5KB")
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    ids = random_ids(50, (1, 9))
    np.testing.assert_allclose(load(tmp_path / "model").model(ids), outputs(theirs, ids), atol=1e-4)
    first = min((tmp_path / "model").glob("*.safetensors"))
    first.unlink()
    assert f"holds no {first.name}, which model.safetensors.index.json names" in refusal(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}')
    assert "model.safetensors.index.json is damaged" in refusal(tmp_path / "model")


@pytest.mark.parametrize("prefix", [True, False])
def test_gpt2_with_and_without_the_prefix_and_masks(prefix, tmp_path):
    """`GPT2Model` names its tensors without `transformer.`; older releases wrote masks and a second copy of the embedding."""
    theirs = gpt2()
    folder = saved(theirs if prefix else theirs.transformer, tmp_path / "model")
    start = "transformer." if prefix else ""

    def add(tensors):
        assert all(name.startswith(start) for name in tensors)
        tensors["lm_head.weight"] = tensors[f"{start}wte.weight"].copy()
        for number in range(2):
            tensors[f"{start}h.{number}.attn.bias"] = np.tril(np.ones([1, 1, 32, 32], bool))
            tensors[f"{start}h.{number}.attn.masked_bias"] = np.array(-1e4, np.float32)

    ids = random_ids(50, (1, 9))
    np.testing.assert_allclose(load(rewritten(folder, add)).model(ids), outputs(theirs, ids), atol=1e-4)
    rewritten(folder, lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"] + 1}))
    assert f"lm_head.weight is not {start}wte.weight, to which config.json ties it" in refusal(folder)


@pytest.mark.parametrize("prefix", [True, False])
def test_bert_with_the_names_of_older_releases(prefix, tmp_path):
    theirs = bert() if prefix else bert("BertModel")
    folder = saved(theirs, tmp_path / "model")

    def age(tensors):
        for name in list(tensors):
            if "LayerNorm" in name:
                older = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
                tensors[older] = tensors.pop(name)
        tensors[f"{'bert.' if prefix else ''}embeddings.position_ids"] = np.arange(32)[None]
        if prefix:
            tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].copy()
            tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].copy()
            tensors["cls.seq_relationship.weight"] = np.zeros([2, 16], np.float32)

    ids = random_ids(50, (1, 9))
    np.testing.assert_allclose(load(rewritten(folder, age)).model(ids), outputs(theirs, ids), atol=1e-4)


def test_settings_as_transformers_4_wrote_them(tmp_path):
    theirs = llama(rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    folder = saved(theirs, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"], config["head_dim"]
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 500.0, "rope_scaling": None}))
    ids = random_ids(50, (1, 20))
    np.testing.assert_allclose(load(folder).model(ids), outputs(theirs, ids), atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama", "starcoder2-untied"])
def test_a_loaded_model_writes_what_transformers_writes(name, tmp_path):
    """Greedily, prompts of several lengths at once, up to the end token or the length."""
    theirs = SMALL[name]()
    ours = load(saved(theirs, tmp_path / "model")).model
    prompts = [[5, 6, 7], [9], [10, 11, 12, 13, 14, 15]]
    found = Sampler(ours, end_id=1, never=(), jit_compile=False).generate(prompts, SamplingSettings(temperature=0.0, max_new_tokens=20))
    for prompt, text in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, pad_token_id=0)
        assert text.ids == expected[0, len(prompt) :].tolist()


def test_a_loaded_model_steps_as_it_reads(tmp_path):
    ours = load(saved(llama(head_dim=8), tmp_path / "model")).model
    decoder = Decoder(ours)
    assert decoder.context_length == 32
    ids = random_ids(50, (2, 6))
    state = decoder.init_state(2, 8)
    _, state = decoder.extend(tf.constant(ids[:, :4]), state, 0, tf.zeros([2], tf.int32))
    logits, _ = decoder.extend_all(tf.constant(ids[:, 4:]), state, 4, tf.zeros([2], tf.int32))
    np.testing.assert_allclose(logits, ours(ids)[:, 4:], atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert-masked", "llama"))])
def test_a_loaded_model_learns_and_is_saved_by_keras(name, tmp_path):
    ours = load(saved(SMALL[name](), tmp_path / "model"), dropout=0.0).model
    ids = random_ids(50, (4, 16))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    ours.compile(keras.optimizers.Adam(1e-2), loss, jit_compile=False)
    before = ours.evaluate(ids, ids, verbose=0)
    ours.fit(ids, ids, epochs=15, verbose=0)
    assert ours.evaluate(ids, ids, verbose=0) < 0.5 * before
    ours.save(tmp_path / "model.keras")
    np.testing.assert_allclose(keras.saving.load_model(tmp_path / "model.keras")(ids), ours(ids), atol=1e-5)


def test_dropout_is_the_checkpoints_or_what_is_asked_for(tmp_path):
    folder = saved(gpt2(attn_pdrop=0.3), tmp_path / "gpt2")
    message = refusal(folder)
    assert "resid_pdrop 0.1, embd_pdrop 0.1, attn_pdrop 0.3: a model here drops the same share everywhere; say which by dropout=" in message
    assert rate_of(load(folder, dropout=0.2).model) == {0.2}
    assert rate_of(load(saved(bert(), tmp_path / "bert")).model) == {0.1}
    assert rate_of(load(saved(llama(), tmp_path / "llama")).model) == {0.0}
    assert "attention_dropout 0.1, the other dropouts 0.0" in refusal(saved(llama(attention_dropout=0.1), tmp_path / "other"))


def rate_of(model):
    return {layer.rate for layer in model._flatten_layers() if isinstance(layer, keras.layers.Dropout)}


def test_the_gelu_of_gpt2_is_known_by_name(tmp_path):
    model = load(saved(gpt2(), tmp_path / "gpt2")).model
    assert model.get_layer("block_0").activation is layers.gelu_tanh
    described = model.get_layer("block_0").get_config()["activation"]
    assert described["config"] == "keras_lm>gelu_tanh"
    assert keras.activations.deserialize(described) is layers.gelu_tanh


UNNEEDED = {
    *("architectures", "_name_or_path", "model_type", "transformers_version", "dtype", "id2label", "label2id", "problem_type"),
    *("output_attentions", "output_hidden_states", "return_dict", "use_cache", "chunk_size_feed_forward", "is_encoder_decoder"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "classifier_dropout", "pretraining_tp"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
    "reorder_and_upcast_attn",  # of 16 bits alone; here scores are in float32
    "rope_parameters",  # its parts are looked at
}
"""Settings of transformers that do not change what a model computes."""


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_every_setting_of_transformers_is_known_and_has_its_default(kind):
    theirs = transformers.AutoConfig.for_model(kind).to_dict()
    ours = ARCHITECTURES[kind]
    named = {*ours.settings, *ours.dropouts, *ours.required}
    assert set(theirs) - named <= UNNEEDED
    theirs |= theirs.get("rope_parameters", {})
    for name, (_, default) in ours.settings.items():
        if name in theirs and name not in ("head_dim", "num_key_value_heads", "rope_theta"):
            assert default == theirs[name], name
    assert {name: theirs[name] for name in ours.dropouts} == ours.dropouts
    assert all(theirs.get(name, value) == value for name, value in ours.required.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bloom"}, "model_type 'bloom' is not supported (known: gpt2, bert, llama, mistral, starcoder2)"),
        ({"model_type": None}, "model_type None is not supported"),
        ({"model_type": ["gpt2"]}, "model_type ['gpt2'] is not supported"),
        (
            {"architectures": ["GPT2ForSequenceClassification"]},
            "architecture 'GPT2ForSequenceClassification' is not supported (known for gpt2: GPT2LMHeadModel, GPT2Model)",
        ),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True is not supported, only False"),
        ({"scale_attn_weights": False}, "scale_attn_weights False is not supported, only True"),
        ({"add_cross_attention": True}, "add_cross_attention True is not supported"),
        ({"activation_function": "quick_gelu"}, "activation_function 'quick_gelu' is not supported, only gelu, gelu_new"),
        ({"activation_function": []}, "activation_function [] is not supported"),
        ({"attn_pdrop": "much"}, "attn_pdrop must be a number from 0 to less than 1, got 'much'"),
        ({"n_embd": "16"}, "n_embd must be a whole number, 1 or more, got '16'"),
        ({"n_layer": True}, "n_layer must be a whole number, 1 or more, got True"),
        ({"vocab_size": 0}, "vocab_size must be a whole number, 1 or more, got 0"),
        ({"layer_norm_epsilon": -1}, "layer_norm_epsilon must be a number over 0, got -1"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings must be true or false, got 'no'"),
        ({"n_head": 3}, "num_heads must divide the width: got 3 heads for a width of 16"),
        ({"n_layer": 3}, "lacks transformer.h.2.ln_1.weight and 11 more, which gpt2 needs"),
        ({"n_layer": 1}, "has transformer.h.1.attn.c_attn.bias and 11 more, which a gpt2 of config.json does not know"),
        ({"n_positions": 16}, "transformer.wpe.weight has the shape (32, 16), config.json asks for (16, 16)"),
        ({"tie_word_embeddings": False}, "lacks lm_head.weight, which gpt2 needs"),
    ],
)
def test_settings_that_are_refused(folder, changes, message):
    assert message in refusal(changed(folder, **changes))


@pytest.mark.parametrize(
    ("make", "changes", "message"),
    [
        (llama, {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type 'llama3' is not supported, only 'default'"),
        (llama, {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear' is not supported"),
        (llama, {"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "is not supported: one set of settings for all layers is"),
        (llama, {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported, only 1.0"),
        (llama, {"attention_bias": True}, "attention_bias True with mlp_bias False is not supported: they must be the same"),
        (llama, {"hidden_act": "relu2"}, "hidden_act 'relu2' is not supported"),
        (mistral, {"sliding_window": 16}, "sliding_window 16 is not supported where it is less than max_position_embeddings"),
        (bert, {"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key' is not supported, only 'absolute'"),
        (bert, {"is_decoder": True}, "is_decoder True is not supported"),
        (bert, {"tie_word_embeddings": False}, "tie_word_embeddings False is not supported"),
        (bert, {"architectures": ["BertForSequenceClassification"]}, "architecture 'BertForSequenceClassification' is not supported"),
        (bert, {"architectures": ["BertModel"]}, "has cls.predictions.bias and 4 more, which a bert of config.json does not know"),
    ],
)
def test_settings_of_other_architectures_that_are_refused(tmp_path, make, changes, message):
    assert message in refusal(changed(saved(make(), tmp_path / "model"), **changes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("transformer.ln_f.bias"), "lacks transformer.ln_f.bias, which gpt2 needs"),
        (
            lambda tensors: tensors.update({"transformer.wte.weight": np.zeros([51, 16], np.float32)}),
            "transformer.wte.weight has the shape (51, 16), config.json asks for (50, 16)",
        ),
        (
            lambda tensors: tensors.update({"transformer.h.0.attn.rotary": np.zeros([3], np.float32)}),
            "has transformer.h.0.attn.rotary, which a gpt2 of config.json does not know",
        ),
        (
            lambda tensors: tensors.update({"transformer.ln_f.bias": np.zeros([16], np.int8)}),
            "transformer.ln_f.bias is of type I8; F64, F32, F16, BF16 can be read (is the checkpoint quantized?)",
        ),
    ],
)
def test_tensors_that_are_refused_by_name(folder, change, message):
    assert message in refusal(rewritten(folder, change))


def test_folders_that_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="gpt3 is no folder here: give a folder as save_pretrained of transformers writes it"):
        load("gpt3")
    assert "is a file" in refusal(folder / "config.json")
    weights = (folder / "model.safetensors").read_bytes()
    for content, message in (
        (weights[:-9], "is no whole safetensors file: Error while deserializing header"),
        (b"", "is no whole safetensors file"),
        (b"PK\x03\x04" + bytes(100), "is no whole safetensors file: it is a pickle, whatever its name says"),
    ):
        (folder / "model.safetensors").write_bytes(content)
        assert message in refusal(folder)
    (folder / "model.safetensors").unlink()
    assert "holds no model.safetensors" in refusal(folder)
    torch.save(gpt2().state_dict(), folder / "pytorch_model.bin")
    message = "holds pytorch_model.bin, a pickle, which can run any code when it is read: safetensors only; save it anew with"
    assert message in refusal(folder)
    assert "leave reads_types out" in refusal(saved(gpt2(), tmp_path / "other"), reads_types=True)
    for content, message in (("{", "config.json is damaged"), ("[]", "config.json must hold an object")):
        (folder / "config.json").write_text(content)
        assert message in refusal(folder)
    (folder / "config.json").unlink()
    assert "holds no config.json" in refusal(folder)
    shutil.rmtree(folder)
    assert "is no folder here" in refusal(folder)


@pytest.mark.slow
def test_a_loaded_model_is_exported_and_served_as_ours_are(tmp_path):
    """With the tokenizer in the folder: the text that transformers writes, greedily."""
    theirs = gpt2(vocab_size=260, bos_token_id=2, eos_token_id=3)
    save(load(saved(theirs, tmp_path / "theirs")).model, ByteTokenizer(), tmp_path / "model")
    loaded = load(tmp_path / "model")
    prompts, expected = ["It was", "w", "我们"], []
    for prompt in prompts:
        ids = torch.tensor([[4 + byte for byte in prompt.encode()]])
        wanted = {"do_sample": False, "max_new_tokens": 10, "suppress_tokens": [0, 1, 2], "pad_token_id": 0, "eos_token_id": 3}
        written = theirs.generate(ids, attention_mask=torch.ones_like(ids), **wanted)[0, ids.shape[1] :]
        expected.append(bytes(token - 4 for token in written.tolist() if token > 3).decode("utf-8", "replace"))
    settings = SamplingSettings(temperature=0.0, max_new_tokens=10)
    ours = TextGenerator(loaded.model, loaded.tokenizer, documents=False, jit_compile=False)
    assert [text.text for text in ours.generate(prompts, settings)] == expected
    export_model(loaded.model, loaded.tokenizer, tmp_path / "saved_models" / "gpt2", documents=False)
    exported = ExportedGenerator(tmp_path / "saved_models" / "gpt2")
    assert [text.text for text in exported.generate(prompts, settings)] == expected


def test_a_folder_without_a_tokenizer_says_so(folder):
    loaded = load(folder)
    assert loaded.tokenizer is None
    assert "tokenizer" in loaded.no_tokenizer
