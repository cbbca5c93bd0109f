"""Which setting of a checkpoint is which argument of a model here, and which of its tensors which layer: a table an architecture.

The tables are read in both directions (`settings.py`, `weights.py`): what is loaded can be saved. What a checkpoint's settings ask for is
done, or refused by name; a setting that no table has is one that transformers does not compute with.

References:
    Radford et al. 2019 (GPT-2); Devlin et al. 2019 (BERT); Touvron et al. 2023 (Llama); Jiang et al. 2023 (Mistral); Lozhkov et al. 2024
    (StarCoder2: what `transformer_lm` is by default, with rotary positions and layer normalisation).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_lm import models

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""The names of transformers, and ours; the first of several is the one that is written."""

Names = str | tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Architecture:
    """How transformers writes a kind of model.

    Attributes:
        model_type: What `config.json` calls it.
        classes: The classes of transformers whose checkpoints can be read; the first is the one that is written.
        build: What makes the model here.
        implied: Arguments of `build` that this kind of model has once and for all.
        settings: By the name in `config.json`, the argument of `build` and transformers' default.
        dropouts: Names of settings that are `dropout` here, with transformers' defaults.
        required: Settings that must have the value given, if they are there at all.
        layers: By the path of a layer here, the name of its tensors there; several are side by side in one layer here.
        output: The name of an output matrix that is not the embedding.
        prefix: What the names of the tensors may lack.
        transposed: Whether the kernels are written as `(outputs, inputs)`.
        always_biased: Whether there are biases in any case.
        unneeded: A regular expression for names of tensors that no model here needs.
        renamed: Ends of names that older checkpoints have, and what they are now.
    """

    model_type: str
    classes: tuple[str, ...]
    build: Callable[..., keras.Model] = models.transformer_lm
    implied: Mapping[str, Any]
    settings: Mapping[str, tuple[str, Any]]
    dropouts: Mapping[str, float]
    required: Mapping[str, Any]
    layers: Mapping[str, Names]
    output: str = "lm_head"
    prefix: str = "model."
    transposed: bool = True
    always_biased: bool = False
    unneeded: str = r"rotary_emb\.inv_freq$"
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)


GPT2 = Architecture(
    model_type="gpt2",
    classes=("GPT2LMHeadModel", "GPT2Model"),
    implied={"positions": "learned", "normalization_kind": "layer", "gated": False, "use_bias": True},
    settings={
        "vocab_size": ("vocabulary_size", 50257),
        "n_positions": ("context_length", 1024),
        "n_embd": ("embedding_dim", 768),
        "n_layer": ("num_layers", 12),
        "n_head": ("num_heads", 12),
        "n_inner": ("feed_forward_dim", None),
        "activation_function": ("activation", "gelu_new"),
        "layer_norm_epsilon": ("epsilon", 1e-5),
        "tie_word_embeddings": ("tied", True),
    },
    dropouts={"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    # reorder_and_upcast_attn is about 16 bits: scores are in float32 here in any case.
    required={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    layers={
        "embedding": "transformer.wte",
        "positions": "transformer.wpe",
        "block_{n}.attention_norm": "transformer.h.{n}.ln_1",
        "block_{n}.attention.qkv": "transformer.h.{n}.attn.c_attn",
        "block_{n}.attention.output_projection": "transformer.h.{n}.attn.c_proj",
        "block_{n}.feed_forward_norm": "transformer.h.{n}.ln_2",
        "block_{n}.widen": "transformer.h.{n}.mlp.c_fc",
        "block_{n}.narrow": "transformer.h.{n}.mlp.c_proj",
        "final_norm": "transformer.ln_f",
    },
    prefix="transformer.",
    transposed=False,
    always_biased=True,
    unneeded=r"h\.\d+\.attn\.(bias|masked_bias)$",
)

BERT = Architecture(
    model_type="bert",
    classes=("BertForMaskedLM", "BertForPreTraining", "BertModel"),
    build=models.transformer_encoder,
    implied={"positions": "learned", "normalization_kind": "layer", "norm_first": False, "use_bias": True},
    settings={
        "vocab_size": ("vocabulary_size", 30522),
        "max_position_embeddings": ("context_length", 512),
        "hidden_size": ("embedding_dim", 768),
        "num_hidden_layers": ("num_layers", 12),
        "num_attention_heads": ("num_heads", 12),
        "intermediate_size": ("feed_forward_dim", 3072),
        "hidden_act": ("activation", "gelu"),
        "layer_norm_eps": ("epsilon", 1e-12),
        "type_vocab_size": ("num_token_types", 2),
        "pad_token_id": ("pad_id", 0),
    },
    dropouts={"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    required={"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute", "tie_word_embeddings": True},
    layers={
        "embedding": "bert.embeddings.word_embeddings",
        "positions": "bert.embeddings.position_embeddings",
        "type_embedding": "bert.embeddings.token_type_embeddings",
        "embedding_norm": "bert.embeddings.LayerNorm",
        "block_{n}.attention.qkv": tuple(f"bert.encoder.layer.{{n}}.attention.self.{name}" for name in ("query", "key", "value")),
        "block_{n}.attention.output_projection": "bert.encoder.layer.{n}.attention.output.dense",
        "block_{n}.attention_norm": "bert.encoder.layer.{n}.attention.output.LayerNorm",
        "block_{n}.widen": "bert.encoder.layer.{n}.intermediate.dense",
        "block_{n}.narrow": "bert.encoder.layer.{n}.output.dense",
        "block_{n}.feed_forward_norm": "bert.encoder.layer.{n}.output.LayerNorm",
        "head_dense": "cls.predictions.transform.dense",
        "head_norm": "cls.predictions.transform.LayerNorm",
        "head_bias": "cls.predictions",
    },
    output="cls.predictions.decoder",
    prefix="bert.",
    always_biased=True,
    # The pooler and what stands behind it answer whether two sentences follow each other.
    unneeded=r"embeddings\.position_ids$|pooler\.|cls\.seq_relationship\.",
    renamed={"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"},
)

_LLAMA_SETTINGS = {
    "vocab_size": ("vocabulary_size", 32000),
    "max_position_embeddings": ("context_length", 2048),
    "hidden_size": ("embedding_dim", 4096),
    "num_hidden_layers": ("num_layers", 32),
    "num_attention_heads": ("num_heads", 32),
    "num_key_value_heads": ("num_kv_heads", None),
    "head_dim": ("head_dim", None),
    "intermediate_size": ("feed_forward_dim", 11008),
    "hidden_act": ("activation", "silu"),
    "rms_norm_eps": ("epsilon", 1e-6),
    "rope_theta": ("rotary_base", 10000.0),
    "tie_word_embeddings": ("tied", False),
}
_ROTARY = {"rope_type": "default", "partial_rotary_factor": 1.0}
_ATTENTION = {
    "embedding": "model.embed_tokens",
    "block_{n}.attention_norm": "model.layers.{n}.input_layernorm",
    "block_{n}.attention.qkv": tuple(f"model.layers.{{n}}.self_attn.{name}_proj" for name in "qkv"),
    "block_{n}.attention.output_projection": "model.layers.{n}.self_attn.o_proj",
    "block_{n}.feed_forward_norm": "model.layers.{n}.post_attention_layernorm",
    "final_norm": "model.norm",
}

LLAMA = Architecture(
    model_type="llama",
    classes=("LlamaForCausalLM",),
    implied={"positions": "rotary", "normalization_kind": "rms", "gated": True},
    settings={**_LLAMA_SETTINGS, "attention_bias": ("use_bias", False), "mlp_bias": ("use_bias", False)},
    dropouts={"attention_dropout": 0.0},
    required=_ROTARY,
    layers={
        **_ATTENTION,
        "block_{n}.gate": "model.layers.{n}.mlp.gate_proj",
        "block_{n}.widen": "model.layers.{n}.mlp.up_proj",
        "block_{n}.narrow": "model.layers.{n}.mlp.down_proj",
    },
)

MISTRAL = dataclasses.replace(
    LLAMA,
    model_type="mistral",
    classes=("MistralForCausalLM",),
    implied={**LLAMA.implied, "use_bias": False},
    settings={
        **_LLAMA_SETTINGS,
        "max_position_embeddings": ("context_length", 131072),
        "num_key_value_heads": ("num_kv_heads", 8),
        "intermediate_size": ("feed_forward_dim", 14336),
        "sliding_window": ("window", 4096),
    },
)

STARCODER2 = Architecture(
    model_type="starcoder2",
    classes=("Starcoder2ForCausalLM",),
    implied={"positions": "rotary", "normalization_kind": "layer", "gated": False},
    settings={
        **{name: setting for name, setting in _LLAMA_SETTINGS.items() if name != "rms_norm_eps"},
        "vocab_size": ("vocabulary_size", 49152),
        "max_position_embeddings": ("context_length", 4096),
        "hidden_size": ("embedding_dim", 3072),
        "num_hidden_layers": ("num_layers", 30),
        "num_attention_heads": ("num_heads", 24),
        "num_key_value_heads": ("num_kv_heads", 2),
        "intermediate_size": ("feed_forward_dim", 12288),
        "hidden_act": ("activation", "gelu_pytorch_tanh"),
        "norm_epsilon": ("epsilon", 1e-5),
        "tie_word_embeddings": ("tied", True),
        "use_bias": ("use_bias", True),
        "sliding_window": ("window", None),
    },
    dropouts={"residual_dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0},
    required=_ROTARY,
    layers={**_ATTENTION, "block_{n}.widen": "model.layers.{n}.mlp.c_fc", "block_{n}.narrow": "model.layers.{n}.mlp.c_proj"},
)

ARCHITECTURES = {architecture.model_type: architecture for architecture in (GPT2, BERT, LLAMA, MISTRAL, STARCODER2)}
"""The architectures by what `config.json` calls them; a model is saved as the first that fits."""
