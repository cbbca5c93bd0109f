"""Peers on PyTorch: a Transformer in nanoGPT's form, eager and compiled, and `torch.nn.LSTM`; trained as nanoGPT trains."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from systems import THREADS, Unavailable
from systems.training.works import BETAS, CLIP_NORM, EPSILON, LEARNING_RATE, WEIGHT_DECAY, Work, initial_weights

_ACTIVATIONS = {
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu": functional.gelu,
    "relu": functional.relu,
}


class _Block(nn.Module):
    def __init__(self, width: int, num_heads: int, activation: str):
        super().__init__()
        self.num_heads, self.activation = num_heads, _ACTIVATIONS[activation]
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.widen, self.narrow = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self._attend(self.attention_norm(x))
        return x + self.narrow(self.activation(self.widen(self.feed_forward_norm(x))))

    def _attend(self, x: torch.Tensor) -> torch.Tensor:
        batch, time, width = x.shape
        heads = [part.view(batch, time, self.num_heads, -1).transpose(1, 2) for part in self.qkv(x).split(width, dim=2)]
        merged = functional.scaled_dot_product_attention(*heads, is_causal=True)  # (batch, heads, time, head_dim)
        return self.output(merged.transpose(1, 2).contiguous().view(batch, time, width))


class _Transformer(nn.Module):
    def __init__(self, work: Work):
        super().__init__()
        self.embedding = nn.Embedding(work.vocabulary_size, work.embedding_dim)
        self.positions = nn.Embedding(work.sequence_length, work.embedding_dim)
        self.blocks = nn.ModuleList(_Block(work.embedding_dim, work.num_heads, work.activation) for _ in range(work.num_layers))
        self.final_norm = nn.LayerNorm(work.embedding_dim)
        self.load_state_dict({_place(name): torch.from_numpy(value) for name, value in _transposed(initial_weights(work)).items()})

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.final_norm(x), self.embedding.weight)
        return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def _transposed(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`nn.Linear` has its outputs first."""
    return {name: np.ascontiguousarray(value.T) if name.endswith("kernel") else value for name, value in weights.items()}


def _place(name: str) -> str:
    """Our name of a Transformer's weight → that of the module above."""
    layer, _, attribute = name.rpartition(".")
    if not layer:
        return f"{name}.weight"
    return ("blocks." if layer[0].isdigit() else "") + layer + (".bias" if attribute == "beta" else ".weight")


class _Lstm(nn.Module):
    def __init__(self, work: Work):
        super().__init__()
        self.embedding = nn.Embedding(work.vocabulary_size, work.embedding_dim)
        self.lstm = nn.LSTM(work.embedding_dim, work.hidden_dim, work.num_layers, batch_first=True)
        self.output = nn.Linear(work.hidden_dim, work.vocabulary_size)
        weights = _transposed(initial_weights(work))
        state = {"embedding.weight": weights["embedding"], "output.weight": weights["output.kernel"], "output.bias": weights["output.bias"]}
        for number in range(work.num_layers):
            state[f"lstm.weight_ih_l{number}"] = weights[f"{number}.kernel"]
            state[f"lstm.weight_hh_l{number}"] = weights[f"{number}.recurrent_kernel"]
            state[f"lstm.bias_ih_l{number}"] = weights[f"{number}.bias"]
            state[f"lstm.bias_hh_l{number}"] = np.zeros_like(weights[f"{number}.bias"])
        self.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
        for number in range(work.num_layers):  # PyTorch adds two biases where Keras has one: the second stays 0
            getattr(self.lstm, f"bias_hh_l{number}").requires_grad_(False)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        states, _ = self.lstm(self.embedding(ids))
        logits = self.output(states)
        return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


class Eager:
    """One call of the library after the other."""

    def __init__(self, work: Work, batches: Path, folder: Path):
        torch.set_num_threads(THREADS)
        self.batches, self.done = np.load(batches, mmap_mode="r"), 0
        self.model = (_Lstm if work.kind == "lstm" else _Transformer)(work)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [parameter for parameter in trained if parameter.dim() >= 2], "weight_decay": WEIGHT_DECAY},
            {"params": [parameter for parameter in trained if parameter.dim() < 2], "weight_decay": 0.0},
        ]
        self.trained = trained
        self.parameters = sum(parameter.numel() for parameter in trained)
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=BETAS)

    def train(self, steps: int) -> float:
        total = 0.0
        for _ in range(steps):
            ids, targets = torch.from_numpy(self.batches[self.done].astype(np.int64))
            loss = self.model(ids, targets)
            loss.backward()
            nn.utils.clip_grad_norm_(self.trained, CLIP_NORM)
            self._step()
            self.optimizer.zero_grad(set_to_none=True)
            total += loss.item()
            self.done += 1
        return total / steps

    def _step(self) -> None:
        for group in self.optimizer.param_groups:  # Keras adds epsilon before the second moment is corrected, PyTorch after
            group["eps"] = EPSILON / math.sqrt(1 - BETAS[1] ** (self.done + 1))
        self.optimizer.step()


class Compiled(Eager):
    """`torch.compile` of the model, with nothing kept from an earlier compilation."""

    def __init__(self, work: Work, batches: Path, folder: Path):
        compiler = os.environ.get("CXX", "g++")
        if not shutil.which(compiler):
            raise Unavailable(f"torch.compile needs a C++ compiler, and there is no {compiler}")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
        super().__init__(work, batches, folder)
        self.model = torch.compile(self.model)
