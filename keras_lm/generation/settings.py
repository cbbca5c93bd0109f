"""How to sample, as a value that checks itself; free of TensorFlow, so that the command line can refuse bad input at once."""

from __future__ import annotations

import dataclasses
import math

from keras_lm.errors import UserError, unknown_name

FINISH_REASONS = ("length", "end", "stop", "context", "blocked")
"""Why a text ended: it reached its allowed length, the model ended it, a stop string came, the context is full, nothing was allowed."""

LENGTH, END, STOP, CONTEXT, BLOCKED = range(len(FINISH_REASONS))

WHEN_FULL = ("stop", "slide")
"""What happens when a text fills the model's context."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """The knobs of the sampler, in the order in which they act.

    Args:
        max_new_tokens: The most tokens to add to a prompt.
        min_new_tokens: The model may not end a text before this many; 0 is off.
        repetition_penalty: Over 1 makes tokens that occurred in the prompt or the text less likely, whatever their number; 1 is off.
        presence_penalty: Taken from the logits of tokens that occurred in the new text; 0 is off.
        frequency_penalty: Taken from the logits of tokens for each time they occurred in the new text; 0 is off.
        no_repeat_ngram_size: No sequence of this many tokens comes twice in prompt and text; 0 is off.
        logit_bias: `TOKEN=NUMBER` each: added to the logit of that token, a piece of text that is one token of the model (`-inf`: never).
        forbid: Pieces of text, each one token of the model, that never come out.
        temperature: Divides the logits; 0 takes the most probable token always (greedy), 1 samples the model's own distribution.
        top_k: Sample among the k most probable tokens; 0 is off.
        top_p: Sample among the fewest tokens whose probabilities sum to p; 1 is off.
        min_p: Sample among the tokens at least this many times as probable as the most probable one; 0 is off.
        typical_p: Sample among the tokens whose information is nearest the expected one, as many as sum to p; 1 is off.
        epsilon_cutoff: Tokens less probable than this are left out; 0 is off.
        eta_cutoff: As epsilon_cutoff, with a bound that sinks where the model is unsure; 0 is off.
        stop: Strings at which a text ends; they are not part of it.
        allow: A regular expression (in Rust's syntax) that the whole new text must match; it acts on what is drawn, not after the fact.
        num_samples: Texts for each prompt.
        top_logprobs: Gives the log-probability of each token, and this many of the most probable ones beside it; default none.
        when_full: What to do when the model's context is full: stop, or slide (the last half of the text becomes the prompt of the rest).
        seed: Fixes the text: the same model, prompt, settings and seed give the same text. Text number b of a batch draws with seed + b.

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
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int = 0
    logit_bias: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    epsilon_cutoff: float = 0.0
    eta_cutoff: float = 0.0
    stop: tuple[str, ...] = ()
    allow: str = ""
    num_samples: int = 1
    top_logprobs: int | None = None
    when_full: str = "stop"
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.max_new_tokens >= 1, "max_new_tokens", "at least 1", self.max_new_tokens)
        allowed = f"from 0 to max_new_tokens ({self.max_new_tokens})"
        _require(0 <= self.min_new_tokens <= self.max_new_tokens, "min_new_tokens", allowed, self.min_new_tokens)
        _require(0 < self.repetition_penalty < float("inf"), "repetition_penalty", "over 0 (1 is off)", self.repetition_penalty)
        for name in ("presence_penalty", "frequency_penalty"):
            _require(math.isfinite(getattr(self, name)), name, "a finite number", getattr(self, name))
        _require(self.no_repeat_ngram_size >= 0, "no_repeat_ngram_size", "0 (off) or more", self.no_repeat_ngram_size)
        for entry in self.logit_bias:
            _require(_is_bias(entry), "logit_bias", "TOKEN=NUMBER, finite or -inf", entry)
        _require(all(self.forbid), "forbid", "strings that are not empty", self.forbid)
        _require(0 <= self.temperature < float("inf"), "temperature", "0 (greedy) or more", self.temperature)
        _require(self.top_k >= 0, "top_k", "0 (off) or more", self.top_k)
        for name in ("top_p", "typical_p"):
            _require(0 < getattr(self, name) <= 1, name, "over 0 and at most 1", getattr(self, name))
        for name in ("min_p", "epsilon_cutoff", "eta_cutoff"):
            _require(0 <= getattr(self, name) < 1, name, "from 0 (off) to below 1", getattr(self, name))
        _require(all(self.stop), "stop", "strings that are not empty", self.stop)
        _require(self.num_samples >= 1, "num_samples", "at least 1", self.num_samples)
        most = MOST_LOGPROBS
        _require(self.top_logprobs is None or 0 <= self.top_logprobs <= most, "top_logprobs", f"from 0 to {most}", self.top_logprobs)
        if self.when_full not in WHEN_FULL:
            raise unknown_name("when_full", self.when_full, WHEN_FULL)
        _require(0 <= self.seed < 2**31, "seed", "from 0 to 2147483647", self.seed)

    def biases(self) -> dict[str, float]:
        """`logit_bias` and `forbid` as one: from a token's text to what is added to its logit."""
        pairs = (entry.rpartition("=") for entry in self.logit_bias)
        return {text: float(number) for text, _, number in pairs} | dict.fromkeys(self.forbid, float("-inf"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamSettings:
    """How to search for the most probable texts.

    Args:
        max_new_tokens: The most tokens to add to a prompt.
        min_new_tokens: The model may not end a text before this many; 0 is off.
        num_beams: Unfinished texts kept for each prompt; 1 is greedy.
        num_beam_groups: The beams are split into this many groups, each of which avoids what the groups before it say; 1 is off.
        diversity_penalty: Taken from the score of a token for each beam of an earlier group that chose it at the same step.
        length_penalty: A text's score is the sum of its ln P, divided by the number of its tokens to this power: over 0 favours long texts.
        early_stopping: Stop once there are num_beams finished texts, not only when no beam seems able to beat them.
        num_return: Texts for each prompt, best first.
        repetition_penalty: Over 1 makes tokens that occurred in the prompt or the text less likely, whatever their number; 1 is off.
        no_repeat_ngram_size: No sequence of this many tokens comes twice in prompt and text; 0 is off.

    Raises:
        UserError: a value out of range; the message names the field, the value and what is allowed.

    Example:

    >>> BeamSettings(num_beams=2, num_return=3)
    Traceback (most recent call last):
    ...
    keras_lm.errors.UserError: num_return must be from 1 to num_beams (2), got 3
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    num_beams: int = 4
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0
    length_penalty: float = 1.0
    early_stopping: bool = False
    num_return: int = 1
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0

    def __post_init__(self) -> None:
        self.sampling()  # what the two have in common is checked there
        _require(self.num_beams >= 1, "num_beams", "at least 1", self.num_beams)
        divides = self.num_beam_groups >= 1 and self.num_beams % self.num_beam_groups == 0
        _require(divides, "num_beam_groups", f"a divisor of num_beams ({self.num_beams})", self.num_beam_groups)
        _require(0 <= self.diversity_penalty < math.inf, "diversity_penalty", "0 (off) or more", self.diversity_penalty)
        grouped = self.num_beam_groups > 1 or not self.diversity_penalty
        _require(grouped, "diversity_penalty", "0 without num_beam_groups", self.diversity_penalty)
        _require(math.isfinite(self.length_penalty), "length_penalty", "a finite number", self.length_penalty)
        _require(1 <= self.num_return <= self.num_beams, "num_return", f"from 1 to num_beams ({self.num_beams})", self.num_return)

    def sampling(self) -> SamplingSettings:
        """What the filters read."""
        return _for_filters(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveSettings:
    """How to search for a text that is probable and does not repeat itself.

    Args:
        max_new_tokens: The most tokens to add to a prompt.
        min_new_tokens: The model may not end a text before this many; 0 is off.
        alpha: How much a token's likeness to the text counts against it, from 0 (not at all: greedy) to 1 (nothing else counts).
        top_k: Choose among this many most probable tokens.
        repetition_penalty: Over 1 makes tokens that occurred in the prompt or the text less likely, whatever their number; 1 is off.
        no_repeat_ngram_size: No sequence of this many tokens comes twice in prompt and text; 0 is off.

    Raises:
        UserError: a value out of range; the message names the field, the value and what is allowed.

    Example:

    >>> ContrastiveSettings(alpha=1.5)
    Traceback (most recent call last):
    ...
    keras_lm.errors.UserError: alpha must be from 0 to 1, got 1.5
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    alpha: float = 0.6
    top_k: int = 4
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0

    def __post_init__(self) -> None:
        self.sampling()  # what the two have in common is checked there
        _require(0 <= self.alpha <= 1, "alpha", "from 0 to 1", self.alpha)
        _require(self.top_k >= 1, "top_k", "at least 1", self.top_k)

    def sampling(self) -> SamplingSettings:
        """What the filters read."""
        return _for_filters(self)


def _for_filters(settings: BeamSettings | ContrastiveSettings) -> SamplingSettings:
    names = ("max_new_tokens", "min_new_tokens", "repetition_penalty", "no_repeat_ngram_size")
    return SamplingSettings(temperature=1.0, **{name: getattr(settings, name) for name in names})


MOST_LOGPROBS = 20
"""The most alternatives that can be asked for at each token."""


def _is_bias(entry: str) -> bool:
    text, _, number = entry.rpartition("=")
    try:
        return bool(text) and float(number) < math.inf  # which is false of nan as well
    except ValueError:
        return False


def _require(condition: bool, field: str, allowed: str, value: object) -> None:
    if not condition:
        raise UserError(f"{field} must be {allowed}, got {value!r}")
