"""What one request may ask for, and all of them together.

Free of what the server is built on, so that the command line can refuse bad input at once.
"""

from __future__ import annotations

import dataclasses
import math

from keras_lm.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What is allowed.

    Args:
        max_body_bytes: The most bytes of a request's body.
        max_prompts: The most texts that one request may ask for: prompts times n, or rows of :predict.
        max_prompt_tokens: The most tokens of a prompt, its start token among them.
        max_new_tokens: The most new tokens of a text.
        max_batch: The most texts that are drawn at a time.
        max_queue: The most texts that wait for their turn, and the most calls of :predict that do.
        max_unread: The most pieces of a streamed answer that wait for its client to read; when it falls behind further it is cut off.
        max_connections: The most connections at a time.
        max_seconds: The longest that a request may take.
        predict_threads: The most calls of :predict at a time.

    Raises:
        UserError: a value out of range.

    Example:

    >>> Limits(max_queue=2).max_batch
    32
    >>> Limits(max_batch=0)
    Traceback (most recent call last):
    ...
    keras_lm.errors.UserError: max_batch must be at least 1, got 0
    """

    max_body_bytes: int = 8 * 2**20
    max_prompts: int = 32
    max_prompt_tokens: int = 4096
    max_new_tokens: int = 4096
    max_batch: int = 32
    max_queue: int = 256
    max_unread: int = 1024
    max_connections: int = 1000
    max_seconds: float = 300.0
    predict_threads: int = 2

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "max_seconds" and not (value > 0 and math.isfinite(value)):
                raise UserError(f"max_seconds must be over 0, got {value}")
            if field.name != "max_seconds" and value < 1:
                raise UserError(f"{field.name} must be at least 1, got {value}")
