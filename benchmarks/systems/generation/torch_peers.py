"""Peers on PyTorch: the transformers library's GPT-2 (f32, and int8 by dynamic quantization), and an LSTM called in a loop."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from systems import THREADS
from systems.generation.works import TEMPERATURE, TOP_K, Work, decoder_weights


class Transformers:
    """`GPT2LMHeadModel.generate`."""

    def __init__(self, work: Work, batch: int, precision: str, folder: Path):
        import torch
        import transformers

        torch.set_num_threads(THREADS)
        config = transformers.GPT2Config(
            vocab_size=work.vocabulary_size,
            n_positions=work.context_length,
            n_embd=work.embedding_dim,
            n_layer=work.num_layers,
            n_head=work.num_heads,
            activation_function="gelu_new",
            bos_token_id=None,
            eos_token_id=None,
        )
        self.new_tokens = work.new_tokens
        self.model = transformers.GPT2LMHeadModel(config).eval()
        state = {name: torch.from_numpy(value) for name, value in _state_dict(work).items()}
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        if unexpected or set(missing) - {"lm_head.weight"}:
            raise RuntimeError(f"weights do not fit: missing {missing}, unexpected {unexpected}")
        self.model.tie_weights()
        if precision == "int8":
            _to_int8(self.model)

    def generate(self, prompts: np.ndarray, strategy: str) -> Sequence[Sequence[int]]:
        import torch

        ids = torch.from_numpy(prompts.astype(np.int64))
        knobs = {"do_sample": False} if strategy == "greedy" else {"do_sample": True, "top_k": TOP_K, "temperature": TEMPERATURE}
        with torch.inference_mode():
            outputs = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=self.new_tokens,
                max_new_tokens=self.new_tokens,
                pad_token_id=0,
                **knobs,
            )
        return outputs[:, ids.shape[1] :].tolist()


def _state_dict(work: Work) -> dict[str, np.ndarray]:
    """Our names → those of the transformers library."""
    weights = decoder_weights(work)
    state = {"transformer.wte.weight": weights["embedding"], "transformer.wpe.weight": weights["positions"]}
    names = {"final_norm": "ln_f"}
    for number in range(work.num_layers):
        theirs = {
            "attention_norm": "ln_1",
            "qkv": "attn.c_attn",
            "output": "attn.c_proj",
            "feed_forward_norm": "ln_2",
            "widen": "mlp.c_fc",
            "narrow": "mlp.c_proj",
        }
        names |= {f"{number}.{ours}": f"h.{number}.{name}" for ours, name in theirs.items()}
    for ours, theirs in names.items():
        weight, bias = ("gamma", "beta") if ours.endswith("norm") else ("kernel", "bias")
        state[f"transformer.{theirs}.weight"] = weights[f"{ours}.{weight}"]
        state[f"transformer.{theirs}.bias"] = weights[f"{ours}.{bias}"]
    return state


def _to_int8(model) -> None:
    """Dynamic quantization of every matrix, the output's too; it knows `Linear` alone, so GPT-2's `Conv1D` are turned into it first."""
    import torch
    from transformers.pytorch_utils import Conv1D

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv1D):
                linear = torch.nn.Linear(*child.weight.shape)
                linear.weight, linear.bias = torch.nn.Parameter(child.weight.t().contiguous()), child.bias
                setattr(module, name, linear)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)


class LstmLoop:
    """`torch.nn.LSTM`, called once a character from Python."""

    def __init__(self, work: Work, batch: int, precision: str, folder: Path):
        import torch

        torch.set_num_threads(THREADS)
        self.new_tokens = work.new_tokens
        self.embedding = torch.nn.Embedding(work.vocabulary_size, work.embedding_dim)
        self.lstm = torch.nn.LSTM(work.embedding_dim, work.hidden_dim, work.num_layers, batch_first=True)
        self.output = torch.nn.Linear(work.hidden_dim, work.vocabulary_size)

    def generate(self, prompts: np.ndarray, strategy: str) -> Sequence[Sequence[int]]:
        import torch

        ids, states, result = torch.from_numpy(prompts.astype(np.int64)), None, []
        with torch.inference_mode():
            for _ in range(self.new_tokens):
                outputs, states = self.lstm(self.embedding(ids), states)
                probabilities = torch.softmax(self.output(outputs[:, -1]) / TEMPERATURE, dim=-1)
                ids = torch.multinomial(probabilities, num_samples=1)
                result.append(ids)
        return torch.cat(result, dim=1).tolist()
