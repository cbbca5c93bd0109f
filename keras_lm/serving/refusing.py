"""How a request is refused, and its body read, within the limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio
from starlette.requests import Request

from keras_lm.serving.settings import Limits


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: Of HTTP.
        message: What is wrong, and what is allowed.
        param: The parameter at fault, where there is one.
        code: OpenAI's word for it, where it has one.
        headers: Of the answer.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, headers: Mapping[str, str] | None = None
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code, self.headers = status, message, param, code, dict(headers or {})


def shutting_down() -> Refused:
    """What is said to those who come too late."""
    return Refused(503, "the server is shutting down: ask another, or later", headers={"Retry-After": "5", "Connection": "close"})


def queue_full(limits: Limits) -> Refused:
    """What is said to those who come while too many wait."""
    message = f"the queue is full: at most {limits.max_queue} wait for their turn; ask again in a moment"
    return Refused(429, message, code="queue_full", headers={"Retry-After": "1"})


def too_slow(limits: Limits) -> Refused:
    """What is said when a request has taken too long."""
    return Refused(504, f"this took over {limits.max_seconds:g} s, the most that a request may take: ask for less", code="timeout")


async def read_body(request: Request, limits: Limits) -> bytes:
    """The body of a request, of which no more is read than is allowed.

    Raises:
        Refused: it is too long, also where no Content-Length says so, or it does not come.
    """
    too_large = Refused(
        413,
        f"the body is too long: at most {limits.max_body_bytes} bytes are allowed",
        code="body_too_large",
        headers={"Connection": "close"},
    )
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limits.max_body_bytes):
        raise too_large
    parts, size = [], 0
    try:
        with anyio.fail_after(limits.max_seconds):
            async for part in request.stream():
                size += len(part)
                if size > limits.max_body_bytes:
                    raise too_large
                parts.append(part)
    except TimeoutError:
        message = f"the body did not come within {limits.max_seconds:g} s"
        raise Refused(408, message, headers={"Connection": "close"}) from None
    return b"".join(parts)


def parse_json(body: bytes) -> Any:
    """What a body says. `NaN` and `Infinity` are numbers here, as they are for TF Serving.

    Raises:
        ValueError: it is no JSON, or holds what UTF-8 cannot write; the message says where.

    Example:

    >>> parse_json(b'{"inputs": [1, ]}')
    Traceback (most recent call last):
    ...
    ValueError: Invalid value. at offset: 15
    """
    if not body:
        raise ValueError("The document is empty")
    try:
        text = body.decode()
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except json.JSONDecodeError as error:
        raise ValueError(f"{_WORDS.get(error.msg, f'{error.msg}.')} at offset: {error.pos}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"Invalid encoding in string. at offset: {error.start}") from None
    except UnicodeEncodeError:
        raise ValueError("The surrogate pair in string is invalid.") from None
    except RecursionError:
        raise ValueError("The document is nested too deeply.") from None
    except ValueError:
        raise ValueError("Number too big to be stored in double.") from None


_WORDS = {
    "Expecting value": "Invalid value.",
    "Expecting property name enclosed in double quotes": "Missing a name for object member.",
    "Expecting ':' delimiter": "Missing a colon after a name of object member.",
    "Extra data": "The document root must not be followed by other values.",
    "Unterminated string starting at": "Missing a closing quotation mark in string.",
}
"""RapidJSON's words, which TF Serving gives, for those of Python."""
