"""Checkpoints to test with: models of transformers with random weights large enough that logits differ, saved as that library saves."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 1}
WIDE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "vocab_size": 50,
}
CAUSAL = {**WIDE, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 1}


def gpt2(kind: str = "GPT2LMHeadModel", **changes: Any) -> Any:
    return randomised(getattr(transformers, kind)(transformers.GPT2Config(**{**GPT2, **changes})))


def bert(kind: str = "BertForMaskedLM", **changes: Any) -> Any:
    return randomised(getattr(transformers, kind)(transformers.BertConfig(**{**WIDE, **changes})))


def llama(**changes: Any) -> Any:
    return randomised(transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**CAUSAL, **changes})))


def mistral(**changes: Any) -> Any:
    return randomised(transformers.MistralForCausalLM(transformers.MistralConfig(**{**CAUSAL, "sliding_window": None, **changes})))


def starcoder2(**changes: Any) -> Any:
    return randomised(transformers.Starcoder2ForCausalLM(transformers.Starcoder2Config(**{**CAUSAL, **changes})))


def randomised(model: Any, seed: int = 0) -> Any:
    """The model with weights that make it say something: matrices keep the size of what goes through them, norms are near one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                parameter.copy_(0.1 * drawn + (1.0 if name.endswith("weight") else 0.0))
            else:
                parameter.copy_(drawn * min(parameter.shape) ** -0.5)
    return model.eval()


def saved(model: Any, folder: pathlib.Path) -> pathlib.Path:
    model.save_pretrained(folder)
    return folder


def outputs(model: Any, ids: np.ndarray, **inputs: np.ndarray) -> np.ndarray:
    """Logits, or where the model has none its last states."""
    with torch.no_grad():
        given = {name: torch.tensor(value) for name, value in inputs.items()}
        found = model(torch.tensor(ids, dtype=torch.int64), **given)
    logits = next((found[name] for name in ("logits", "prediction_logits") if name in found), None)
    return (found.last_hidden_state if logits is None else logits).numpy()


def random_ids(vocabulary_size: int, shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(4, vocabulary_size, shape).astype(np.int32)
