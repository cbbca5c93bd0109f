"""A model of this library as a folder that the transformers library loads.

What was loaded is saved as what it was. A `transformer_lm` of one's own is written as the architecture that computes the same: with learned
positions GPT-2, with rotary ones StarCoder2, or Llama where it normalises by the root mean square and its feed-forward parts are gated.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import keras

from keras_lm import models
from keras_lm.errors import UserError
from keras_lm.files import replacing_folder
from keras_lm.layers import TransformerBlock, gelu_tanh
from keras_lm.pretrained import checkpoint
from keras_lm.pretrained.architectures import ARCHITECTURES, Architecture
from keras_lm.pretrained.settings import conflicts, settings
from keras_lm.pretrained.tokenizer_files import save_tokenizer
from keras_lm.pretrained.weights import weights
from keras_lm.tokenizers import Tokenizer


def save(model: keras.Model, tokenizer: Tokenizer | None, folder: str | os.PathLike, *, documents: bool = False) -> str:
    """Writes `config.json`, `model.safetensors`, `generation_config.json` and the tokenizer's files.

    The numbers are those of the model, in float32. A model without biases gets biases of 0 where the architecture always has some. Dropout
    is lost where the architecture has none (Llama), and so is the pooler of a BERT, which `load` does not read.

    Args:
        model: Of `keras_lm.models.transformer_lm`, `transformer_encoder` or `masked_lm`, as trained or loaded.
        tokenizer: The one it was trained with, or none.
        folder: Is made; it must not hold anything yet.
        documents: Whether texts begin with a start token: the tokenizer then puts one in front.

    Returns:
        What could not be written of the tokenizer, in a line; empty where everything was.

    Raises:
        UserError: a model that no architecture of transformers computes; the message says what stands against it. A folder that holds
            something, or a tokenizer of another vocabulary.

    Example:

    >>> import pathlib, tempfile
    >>> from keras_lm.tokenizers import CharacterTokenizer
    >>> tokenizer = CharacterTokenizer.fit(["abc"])
    >>> folder = pathlib.Path(tempfile.mkdtemp()) / "small"
    >>> save(models.transformer_lm(tokenizer.vocabulary_size, embedding_dim=16), tokenizer, folder)
    ''
    >>> sorted(path.name for path in folder.iterdir())[:3]
    ['config.json', 'generation_config.json', 'keras_lm_tokenizer']
    """
    folder = checkpoint.check_free(folder)
    architecture, values = architecture_of(model)
    if tokenizer is not None and tokenizer.vocabulary_size > values["vocabulary_size"]:
        sizes = f"{values['vocabulary_size']} tokens, the tokenizer {tokenizer.vocabulary_size}"
        raise UserError(f"the model knows {sizes}: give the tokenizer that the model was trained with")
    config = {"architectures": [_class_of(architecture, model)], **settings(architecture, values), "dtype": "float32"}
    special = {}
    if architecture.build is models.transformer_lm:  # without a tokenizer none: transformers would take those of its own GPT-2
        names = (("bos", "start_id"), ("eos", "end_id"), ("pad", "pad_id"))
        special = {f"{name}_token_id": getattr(tokenizer, ours, None) for name, ours in names}
    tensors = {name: tensor for weight in weights(architecture, model) for name, tensor in weight.tensors()}
    if config["architectures"] == ["BertModel"]:
        tensors = {name.removeprefix(architecture.prefix): tensor for name, tensor in tensors.items()}
    with replacing_folder(folder) as temporary:
        checkpoint.write(temporary, {**config, **special}, tensors)
        if special:
            checkpoint.write_json(temporary / "generation_config.json", {"_from_model_config": True, **special})
        return "" if tokenizer is None else save_tokenizer(tokenizer, temporary, documents, values["context_length"])


def architecture_of(model: keras.Model) -> tuple[Architecture, dict[str, Any]]:
    """The architecture of transformers that computes what `model` does, and the arguments that `model` was built with.

    Raises:
        UserError: there is none; the message says what stands against it.
    """
    values = _arguments_of(model)
    build = models.transformer_lm if "tied" in values else models.transformer_encoder
    against = {name: conflicts(one, values) for name, one in ARCHITECTURES.items() if one.build is build}
    name = min(against, key=lambda name: len(against[name]))
    if against[name]:
        raise UserError(f"transformers has no architecture that computes this model; nearest is {name}, but {'; '.join(against[name])}")
    return ARCHITECTURES[name], values


def _class_of(architecture: Architecture, model: keras.Model) -> str:
    plain = architecture.build is models.transformer_encoder and not _has_head(model)
    return architecture.classes[-1 if plain else 0]


def _has_head(model: keras.Model) -> bool:
    return any(layer.name == "head_dense" for layer in model.layers)


def _arguments_of(model: keras.Model) -> dict[str, Any]:
    """What `transformer_lm` or `transformer_encoder` was called with to make this model, after whatever training, saving and loading."""
    no_form = UserError(f"{model.name} is not built as transformer_lm, transformer_encoder or masked_lm build: transformers cannot run it")
    layers = {layer.name: layer for layer in model.layers}
    blocks = [layer for layer in model.layers if isinstance(layer, TransformerBlock)]
    embedding = layers.get("embedding")
    if not blocks or not isinstance(embedding, keras.layers.ReversibleEmbedding) or embedding.logit_soft_cap:
        raise no_form
    if any(getattr(layer, "quantization_mode", None) for layer in model._flatten_layers()):
        raise UserError(f"{model.name} is quantized: save the model it was made from")
    block = blocks[0]
    values = {
        "vocabulary_size": embedding.input_dim,
        "context_length": block.context_length,
        "embedding_dim": embedding.output_dim,
        "num_layers": len(blocks),
        "num_heads": block.num_heads,
        "feed_forward_dim": block.feed_forward_dim,
        "positions": "rotary" if block.rotary else "learned",
        "normalization_kind": block.normalization,
        "activation": _name_of(block.activation),
        "use_bias": block.use_bias,
        "epsilon": block.attention_norm.epsilon,
        "dropout": block.dropout,
    }
    if block.causal:
        build = models.transformer_lm
        values |= {
            "num_kv_heads": block.num_kv_heads,
            "head_dim": block.attention.head_dim,
            "tied": embedding.tie_weights,
            "gated": block.gated,
            "rotary_base": block.rotary_base,
        }
    else:
        build = models.transformer_encoder
        values |= {
            "num_token_types": layers["type_embedding"].input_dim,
            "norm_first": block.norm_first,
            "pad_id": _pad_id(model),
        }
    reads_types = {"reads_types": True} if not block.causal and len(model.inputs) > 1 else {}
    narrow = {"vocabulary_size": 1, "embedding_dim": 2 * block.num_heads, "feed_forward_dim": 1}
    twin = build(**{**values, **narrow, "activation": block.activation}, **reads_types)
    twin = models.masked_lm(twin) if _has_head(model) else twin
    if not _alike(model, twin):
        raise no_form
    return values


def _alike(model: keras.Model, twin: keras.Model) -> bool:
    """Whether a model is made of the operations of its narrower twin, with the same settings in every block and normalisation."""
    kinds = lambda model: sorted(type(operation).__name__ for operation in getattr(model, "operations", ()))
    blocks = lambda model: [layer for layer in model.layers if isinstance(layer, TransformerBlock)]
    sizes = {(block.feed_forward_dim, block.attention.head_dim) for block in blocks(model)}
    different = ("feed_forward_dim", "head_dim", "output_stddev", "epsilon", "dtype")
    described = lambda block: {name: value for name, value in block.get_config().items() if name not in different}
    norms = (keras.layers.LayerNormalization, keras.layers.RMSNormalization)
    epsilons = lambda model: {layer.epsilon for layer in model._flatten_layers() if isinstance(layer, norms)}
    return (
        len(sizes) == 1
        and kinds(model) == kinds(twin)
        and list(map(described, blocks(model))) == list(map(described, blocks(twin)))
        and epsilons(model) == epsilons(twin)
    )


def _name_of(activation: Callable) -> str:
    known = {gelu_tanh: "gelu_tanh", **{keras.activations.get(name): name for name in ("gelu", "relu", "silu")}}
    return known.get(activation) or getattr(activation, "__name__", str(activation))


def _pad_id(model: keras.Model) -> int:
    """The id that the encoder takes for padding: its comparison with it is an operation of the model."""
    comparison = next(layer for layer in model.get_config()["layers"] if layer["class_name"] == "NotEqual")
    return comparison["inbound_nodes"][0]["args"][1]
