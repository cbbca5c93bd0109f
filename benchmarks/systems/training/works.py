"""The work that every system is given: shapes, the text, the weights to begin with and the optimizer, a function of nothing but the work.

The Transformers have nanoGPT's form (pre-norm, learned positions, no biases in projections, the output matrix that of the embedding), but
that their norms keep their biases, which Keras and PyTorch give by default.

References:
    https://github.com/karpathy/nanoGPT, its README's configuration for a CPU.
"""

from __future__ import annotations

import dataclasses

import numpy as np

ACTIVATIONS = ("gelu_tanh", "gelu", "relu")
"""GELU in its tanh form, GELU with the error function, and the one that costs nothing."""

LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY, CLIP_NORM = 1e-3, (0.9, 0.99), 1e-7, 0.1, 1.0
"""Of AdamW; the weight decay on matrices only, the clipping by the norm of all gradients together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """A model's shape and how much of it is trained at a time.

    Args:
        kind: `"transformer"` or `"lstm"`.
        num_layers, embedding_dim, num_heads, hidden_dim, vocabulary_size: The model.
        sequence_length: Tokens a window, the Transformer's context.
        batch_size: Windows a step.
        steps: Of a turn.
        activation: Of the Transformer's feed-forward part, one of `ACTIVATIONS`; an LSTM has its own.
    """

    name: str
    kind: str
    num_layers: int
    embedding_dim: int
    sequence_length: int
    batch_size: int
    steps: int
    num_heads: int = 0
    hidden_dim: int = 0
    vocabulary_size: int = 65
    activation: str = "tanh"

    @property
    def tokens_a_step(self) -> int:
        return self.batch_size * self.sequence_length

    @property
    def operations_a_token(self) -> int:
        """Additions and multiplications of forward and backward pass: six a weight of a matrix, and those of the scores.

        As Chowdhery et al. 2022 count them, appendix B: the scores in full, though half of them are masked.
        """
        output = self.vocabulary_size * (self.hidden_dim or self.embedding_dim)
        if self.kind == "lstm":
            inputs = [self.embedding_dim] + [self.hidden_dim] * (self.num_layers - 1)
            return 6 * (sum((width + self.hidden_dim) * 4 * self.hidden_dim for width in inputs) + output)
        matrices = self.num_layers * 12 * self.embedding_dim**2 + output
        return 6 * matrices + 12 * self.num_layers * self.embedding_dim * self.sequence_length

    def __str__(self) -> str:
        width = self.hidden_dim or self.embedding_dim
        more = f"embedding {self.embedding_dim}" if self.kind == "lstm" else f"{self.num_heads} heads"
        kind = f"{'LSTM' if self.kind == 'lstm' else 'nanoGPT form'} {self.num_layers} x {width}, {more}"
        sizes = f"windows of {self.sequence_length}, batch {self.batch_size}, vocabulary {self.vocabulary_size}"
        return f"{self.name}: {kind}, {sizes}; {self.steps} steps a turn"


_TRANSFORMER = {"kind": "transformer", "activation": "gelu_tanh"}
_LSTM = {"kind": "lstm", "embedding_dim": 256, "sequence_length": 100, "batch_size": 64}
WORKS = {
    work.name: work
    for work in (
        Work(name="W3-4x128", num_layers=4, embedding_dim=128, num_heads=4, sequence_length=64, batch_size=12, steps=64, **_TRANSFORMER),
        Work(name="W3-6x384", num_layers=6, embedding_dim=384, num_heads=6, sequence_length=256, batch_size=8, steps=4, **_TRANSFORMER),
        Work(name="W4-2x512", num_layers=2, hidden_dim=512, steps=3, **_LSTM),
        Work(name="W4-1x1024", num_layers=1, hidden_dim=1024, steps=3, **_LSTM),
    )
}


def text_ids(work: Work) -> np.ndarray:
    """A text as ids, `(tokens,)` int32: a draw from a skewed distribution, so that the first steps have something to learn."""
    frequencies = 1.0 / np.arange(1, work.vocabulary_size + 1)
    return np.random.default_rng(1).choice(work.vocabulary_size, 200_000, p=frequencies / frequencies.sum()).astype(np.int32)


def initial_weights(work: Work) -> dict[str, np.ndarray]:
    """The weights that training begins with, in Keras' layout: kernels are `(inputs, outputs)`, norms have `gamma` and `beta`.

    Keys of a Transformer: `embedding`, `positions`, `final_norm.*`, and for each layer `n.` before `attention_norm.*`, `qkv.kernel`
    (queries, keys, values side by side), `output.kernel`, `feed_forward_norm.*`, `widen.kernel`, `narrow.kernel`. Keys of an LSTM:
    `embedding`, for each layer `n.kernel`, `n.recurrent_kernel`, `n.bias` (gates input, forget, cell, output), `output.kernel` and
    `output.bias`.
    """
    rng = np.random.default_rng(0)
    draw = lambda stddev, *shape: rng.standard_normal(shape, np.float32) * np.float32(stddev)
    width, hidden = work.embedding_dim, work.hidden_dim
    if work.kind == "lstm":
        weights = {"embedding": draw(0.05, work.vocabulary_size, width)}
        for number, inputs in enumerate([width] + [hidden] * (work.num_layers - 1)):
            weights[f"{number}.kernel"] = draw((inputs + 4 * hidden) ** -0.5, inputs, 4 * hidden)
            weights[f"{number}.recurrent_kernel"] = draw(hidden**-0.5, hidden, 4 * hidden)
            weights[f"{number}.bias"] = np.repeat(np.float32([0, 1, 0, 0]), hidden)  # the forget gate begins open
        weights["output.kernel"] = draw(hidden**-0.5, hidden, work.vocabulary_size)
        weights["output.bias"] = np.zeros(work.vocabulary_size, np.float32)
        return weights
    weights = {"embedding": draw(0.02, work.vocabulary_size, width), "positions": draw(0.02, work.sequence_length, width)}
    before_sum = 0.02 * (2 * work.num_layers) ** -0.5
    shapes = {"qkv": (width, 3 * width), "output": (width, width), "widen": (width, 4 * width), "narrow": (4 * width, width)}
    norms = ["final_norm"]
    for number in range(work.num_layers):
        for name, shape in shapes.items():
            weights[f"{number}.{name}.kernel"] = draw(before_sum if name in ("output", "narrow") else 0.02, *shape)
        norms += [f"{number}.attention_norm", f"{number}.feed_forward_norm"]
    for name in norms:
        weights[f"{name}.gamma"], weights[f"{name}.beta"] = np.ones(width, np.float32), np.zeros(width, np.float32)
    return weights
