"""The work that every system is given: shapes, weights and prompts, all a function of nothing but the name of the work.

The decoders have GPT-2's form (pre-norm, learned positions, biases, GELU in its tanh form, the output matrix that of the embedding), since
each peer knows that one. Their weights are the same in every system, so that greedy ids can be compared.
"""

from __future__ import annotations

import dataclasses

import numpy as np

END_ID = 3
BYTES_A_WEIGHT = {"f32": 4.0, "int8": 1.0, "q8_0": 34 / 32}
TEMPERATURE, TOP_K, TOP_P = 1.0, 40, 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """A model's shape and how much it has to write.

    Args:
        kind: `"transformer"` or `"lstm"`.
        num_layers, embedding_dim, num_heads, hidden_dim, context_length, vocabulary_size: The model.
        prompt_length, new_tokens: A row's, in tokens.
        batch_sizes: Those the table has.
        strategies: How tokens are chosen.
    """

    name: str
    kind: str
    num_layers: int
    embedding_dim: int
    vocabulary_size: int
    prompt_length: int
    new_tokens: int
    batch_sizes: tuple[int, ...]
    strategies: tuple[str, ...]
    num_heads: int = 0
    hidden_dim: int = 0
    context_length: int = 0

    @property
    def weights_a_step(self) -> int:
        """How many weights of matrices a step reads; an embedding gives one row, and vectors are next to nothing."""
        output = self.vocabulary_size * (self.hidden_dim or self.embedding_dim)
        if self.kind == "lstm":
            inputs = [self.embedding_dim] + [self.hidden_dim] * (self.num_layers - 1)
            return sum((width + self.hidden_dim) * 4 * self.hidden_dim for width in inputs) + output
        return self.num_layers * 12 * self.embedding_dim**2 + output

    def __str__(self) -> str:
        width = self.hidden_dim or self.embedding_dim
        kind = "LSTM" if self.kind == "lstm" else "GPT-2 form"
        context = f", context {self.context_length}" if self.context_length else ""
        size = f"{kind} {self.num_layers} x {width}{context}, vocabulary {self.vocabulary_size}"
        return f"{self.name}: {size}; {self.prompt_length} -> {self.new_tokens} tokens"


_DECODER = {"kind": "transformer", "prompt_length": 32, "strategies": ("greedy", "top_k", "top_p")}
WORKS = {
    work.name: work
    for work in (
        Work(
            name="W1",
            num_layers=6,
            embedding_dim=384,
            num_heads=6,
            context_length=256,
            vocabulary_size=65,
            new_tokens=224,
            batch_sizes=(1, 16),
            **_DECODER,
        ),
        Work(
            name="W2",
            num_layers=12,
            embedding_dim=768,
            num_heads=12,
            context_length=1024,
            vocabulary_size=50257,
            new_tokens=128,
            batch_sizes=(1, 8),
            **_DECODER,
        ),
        Work(
            name="W4",
            kind="lstm",
            num_layers=2,
            embedding_dim=256,
            hidden_dim=512,
            vocabulary_size=65,
            prompt_length=8,
            new_tokens=1000,
            batch_sizes=(1,),
            strategies=("sample",),
        ),
    )
}


def prompts(work: Work, batch: int) -> np.ndarray:
    """Random ids, `(batch, prompt_length)` int32, none of them one of the special four."""
    return np.random.default_rng(1).integers(END_ID + 1, work.vocabulary_size, [batch, work.prompt_length]).astype(np.int32)


def decoder_weights(work: Work) -> dict[str, np.ndarray]:
    """Random weights of a decoder in GPT-2's form; kernels are `(inputs, outputs)`, norms have `gamma` and `beta`.

    Keys: `embedding`, `positions`, `final_norm.*`, and for each layer `n.` before `attention_norm.*`, `qkv.*` (queries, keys, values side
    by side), `output.*`, `feed_forward_norm.*`, `widen.*`, `narrow.*`.
    """
    rng = np.random.default_rng(0)
    draw = lambda stddev, *shape: rng.standard_normal(shape, np.float32) * np.float32(stddev)
    width = work.embedding_dim
    # Large positions and smaller kernels than usual: a random model with tied embeddings would otherwise write one token over and over, and
    # equal ids would say little.
    weights = {"embedding": draw(0.1, work.vocabulary_size, width), "positions": draw(1.0, work.context_length, width)}
    # The logit of the end is 0, which is never the largest of many: greedy texts end in no system, and none needs to forbid it.
    weights["embedding"][END_ID] = 0.0

    def norm(name: str) -> None:
        weights[f"{name}.gamma"], weights[f"{name}.beta"] = 1 + draw(0.02, width), draw(0.02, width)

    def dense(name: str, inputs: int, outputs: int) -> None:
        weights[f"{name}.kernel"], weights[f"{name}.bias"] = draw(0.5 * inputs**-0.5, inputs, outputs), draw(0.02, outputs)

    for number in range(work.num_layers):
        norm(f"{number}.attention_norm")
        dense(f"{number}.qkv", width, 3 * width)
        dense(f"{number}.output", width, width)
        norm(f"{number}.feed_forward_norm")
        dense(f"{number}.widen", width, 4 * width)
        dense(f"{number}.narrow", 4 * width, width)
    norm("final_norm")
    return weights
