"""How to sample, as a value that checks itself; free of TensorFlow, so that the command line can refuse bad input at once."""

from __future__ import annotations

import dataclasses

from keras_lm.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """The knobs of the sampler.

    Args:
        max_new_tokens: The most tokens to add to a prompt.
        temperature: Divides the logits; 0 takes the most probable token always (greedy), 1 samples the model's own distribution.
        top_k: Sample among the k most probable tokens; 0 is off.
        top_p: Sample among the fewest tokens whose probabilities sum to p; 1 is off.
        repetition_penalty: Over 1 makes tokens that have occurred less likely; 1 is off.
        stop: Strings at which a text ends; they are not part of it.
        seed: Fixes the text: the same model, prompt, settings and seed give the same text. Prompt number b of a batch draws with seed + b.

    Raises:
        UserError: a value out of range; the message names the field, the value and what is allowed.

    Example:

    >>> SamplingSettings(temperature=0.0).max_new_tokens
    128
    >>> SamplingSettings(top_p=2.0)
    Traceback (most recent call last):
    ...
    keras_lm.errors.UserError: top_p must be over 0 and at most 1, got 2.0
    """

    max_new_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", "at least 1", self.max_new_tokens)
        _require(0 <= self.temperature < float("inf"), "temperature", "0 (greedy) or more", self.temperature)
        _require(self.top_k >= 0, "top_k", "0 (off) or more", self.top_k)
        _require(0 < self.top_p <= 1, "top_p", "over 0 and at most 1", self.top_p)
        _require(0 < self.repetition_penalty < float("inf"), "repetition_penalty", "over 0 (1 is off)", self.repetition_penalty)
        _require(all(self.stop), "stop", "strings that are not empty", self.stop)
        _require(0 <= self.seed < 2**31, "seed", "from 0 to 2147483647", self.seed)


def _require(condition: bool, field: str, allowed: str, value: object) -> None:
    if not condition:
        raise UserError(f"{field} must be {allowed}, got {value!r}")
