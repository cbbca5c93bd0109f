"""Text from an n-gram model, by the sampler that neural models have: the same knobs, rules and random numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lm.classical.ngram import NGramModel
from keras_lm.generation.decode import Carry
from keras_lm.generation.stepped import SteppedSampler


class NGramSampler(SteppedSampler):
    """A `Sampler` over an n-gram model; `TextGenerator(model, tokenizer)` makes one.

    Args:
        model: An `NGramModel`.
        end_id, never, pieces, jit_compile: As in `Sampler`.

    Example:

    >>> from keras_lm.generation.settings import SamplingSettings
    >>> ids = np.array([2, 4, 5, 6, 3, 2, 4, 5, 6, 3])
    >>> sampler = NGramSampler(NGramModel.fit(ids, 2, vocabulary_size=7, smoothing="mle"), end_id=3, jit_compile=False)
    >>> sampler.generate([[2]], SamplingSettings(seed=1))[0].ids
    [4, 5, 6, 3]
    """

    def __init__(
        self, model: NGramModel, *, end_id: int, never: Sequence[int] = (), pieces: Sequence[bytes] | None = None, jit_compile: bool = True
    ):
        super().__init__(model, end_id=end_id, never=never, pieces=pieces, jit_compile=jit_compile)
        self.model = model

    def _decoder(self, model: NGramModel) -> _NothingToRead:
        return _NothingToRead(model.vocabulary_size)

    def _steps_from(self, carry: Carry) -> _Steps:
        history, padding = carry["history"].numpy(), carry["padding"].numpy()
        end = int(carry["start"]) + int(carry["step"])  # the token there is the one the first step reads
        return _Steps(self.model, [history[first:end, row].tolist() for row, first in enumerate(padding.tolist())])


class _Steps:
    chooses = False

    def __init__(self, model: NGramModel, texts: list[list[int]]):
        self._model, self._texts = model, texts

    def run(self, tokens: np.ndarray) -> np.ndarray:
        rows = []
        for text, token in zip(self._texts, tokens.tolist(), strict=True):
            text.append(token)
            del text[: max(0, len(text) - self._model.order + 1)]
            rows.append(self._model.next_log_probabilities(text))
        return np.stack(rows)


class _NothingToRead:
    """What the sampler asks of a `Decoder`, for a model that keeps nothing but the text."""

    context_length = encoder = None

    def __init__(self, vocabulary_size: int):
        self.vocabulary_size = vocabulary_size

    def init_state(self, *_: Any) -> dict:
        return {}

    def extend(self, *_: Any) -> tuple[None, dict]:
        return None, {}

    def moved(self, *_: Any) -> dict:
        return {}

    def take_rows(self, *_: Any) -> dict:
        return {}

    def input_rows(self) -> tf.Tensor | None:
        return None
