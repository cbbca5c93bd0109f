"""OpenAI's `/v1/completions` and `/v1/chat/completions`: its requests as settings of the sampler, and what is drawn in its form.

What the API calls otherwise: `max_tokens` is `max_new_tokens`, `min_tokens` `min_new_tokens`. What is left out has the default of
`SamplingSettings`, but for the seed, which is then drawn. Text number i of a request, of all prompts and their n, draws with seed + i, as
rows of a batch do in the library. A parameter that is not here is refused by name.

References:
    https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

import bisect
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any, Literal

import anyio
import pydantic

from keras_lm.errors import UserError
from keras_lm.generation.settings import MOST_LOGPROBS, SamplingSettings
from keras_lm.serving.engine import Piece
from keras_lm.serving.refusing import Refused, parse_json
from keras_lm.serving.settings import Limits
from keras_lm.serving.streams import Drawing
from keras_lm.serving.versions import Version
from keras_lm.tasks.chat import OuterSpace
from keras_lm.tasks.conversation import ChatFormat, Turn

SEEDS = 2**31

_FINISHED = {"": None, "length": "length", "context": "length", "end": "stop", "stop": "stop", "blocked": "stop"}
_MOST_STOPS = 16
_MOST_BIASES = 300

_Probability = Annotated[float, pydantic.Field(gt=0, le=1)]
_Penalty = Annotated[float, pydantic.Field(ge=-2, le=2)]
_Bias = Annotated[float, pydantic.Field(ge=-100, le=100)]
_Positive = Annotated[int, pydantic.Field(ge=1)]
_Whole = Annotated[int, pydantic.Field(ge=0, lt=SEEDS)]
_Stop = Annotated[str, pydantic.Field(min_length=1)]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(_Strict):
    """What a stream holds besides."""

    include_usage: bool = False


class _Request(_Strict):
    """What the two have in common."""

    model: str
    max_tokens: _Positive | None = None
    min_tokens: _Whole | None = None
    temperature: Annotated[float, pydantic.Field(ge=0, le=100)] | None = None
    top_p: _Probability | None = None
    top_k: _Whole | None = None
    min_p: Annotated[float, pydantic.Field(ge=0, lt=1)] | None = None
    typical_p: _Probability | None = None
    repetition_penalty: Annotated[float, pydantic.Field(gt=0, le=100)] | None = None
    presence_penalty: _Penalty | None = None
    frequency_penalty: _Penalty | None = None
    no_repeat_ngram_size: _Whole | None = None
    logit_bias: Annotated[dict[str, _Bias], pydantic.Field(max_length=_MOST_BIASES)] | None = None
    n: _Positive | None = None
    stop: _Stop | Annotated[list[_Stop], pydantic.Field(max_length=_MOST_STOPS)] | None = None
    seed: _Whole | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    @property
    def longest(self) -> int | None:
        """The most new tokens, where it is said."""
        return self.max_tokens

    @property
    def alternatives(self) -> int | None:
        """As `top_logprobs` of `SamplingSettings`."""
        raise NotImplementedError


class CompletionRequest(_Request):
    """A request for `/v1/completions`."""

    prompt: str | Annotated[list[str], pydantic.Field(min_length=1)]
    logprobs: Annotated[int, pydantic.Field(ge=0, le=MOST_LOGPROBS)] | None = None
    echo: bool | None = None

    @property
    def alternatives(self) -> int | None:
        """As `top_logprobs` of `SamplingSettings`."""
        return self.logprobs


class Part(_Strict):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(_Strict):
    """What somebody said."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    @property
    def text(self) -> str:
        """The whole content."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(_Request):
    """A request for `/v1/chat/completions`."""

    messages: Annotated[list[Message], pydantic.Field(min_length=1)]
    max_completion_tokens: _Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, pydantic.Field(ge=0, le=MOST_LOGPROBS)] | None = None

    @property
    def longest(self) -> int | None:
        """The most new tokens, where it is said."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def alternatives(self) -> int | None:
        """As `top_logprobs` of `SamplingSettings`."""
        return (self.top_logprobs or 0) if self.logprobs else None


def read(body: bytes, kind: type[_Request]) -> Any:
    """A request out of its body; what is null there counts as left out.

    Raises:
        Refused: it is none; the message names the parameter.

    Example:

    >>> read(b'{"model": "a", "prompt": "b", "tools": []}', CompletionRequest)
    Traceback (most recent call last):
    ...
    keras_lm.serving.refusing.Refused: Unrecognized request argument supplied: tools
    """
    try:
        document = parse_json(body)
    except ValueError as error:
        raise Refused(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise Refused(400, "the body must be a JSON object")
    try:
        return kind.model_validate({name: value for name, value in document.items() if value is not None})
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param, inside = str(first["loc"][0])[:100], len(first["loc"]) > 1
        if first["type"] == "extra_forbidden" and not inside:
            raise Refused(400, f"Unrecognized request argument supplied: {param}", param=param, code="unknown_parameter") from None
        if first["type"] == "missing" and not inside:
            raise Refused(400, f"you must provide a {param} parameter", param=param, code="missing_required_parameter") from None
        raise Refused(400, f"Invalid value for {param}: {first['msg']}", param=param, code="invalid_value") from None


def settings_of(request: _Request, version: Version, limits: Limits, stop: Sequence[str] = ()) -> SamplingSettings:
    """How to sample.

    Args:
        request: Says so.
        version: Knows the tokens that biases name.
        limits: Of the server.
        stop: Strings at which a text ends besides those of the request.

    Raises:
        Refused: too many tokens; a bias for what is no token; a value that the sampler does not take.
    """
    given = {
        "min_new_tokens": request.min_tokens,
        "top_logprobs": request.alternatives,
        "seed": secrets.randbelow(SEEDS) if request.seed is None else request.seed,
        **{name: getattr(request, name) for name in _SAME_NAMES},
    }
    context = version.described.get("context_length")
    usual = SamplingSettings().max_new_tokens
    usual = max(1, min(usual, limits.max_new_tokens, context // 2 if context else usual))
    longest = usual if request.longest is None else request.longest
    if longest > limits.max_new_tokens:
        message = f"max_tokens is {longest}: at most {limits.max_new_tokens} are allowed"
        raise Refused(400, message, param="max_tokens", code="invalid_value")
    own = [request.stop] if isinstance(request.stop, str) else request.stop or []
    bias = tuple(f"{_written(token, version)}={value}" for token, value in (request.logit_bias or {}).items())
    given = {name: value for name, value in given.items() if value is not None}
    try:
        return SamplingSettings(max_new_tokens=longest, stop=(*stop, *own), logit_bias=bias, **given)
    except UserError as error:
        raise Refused(400, str(error)) from None


_SAME_NAMES = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "no_repeat_ngram_size",
)


def _written(token: str, version: Version) -> str:
    try:
        if token.isdecimal() and len(token) < 10 and (text := version.pieces[int(token)].decode()):
            return text
    except (IndexError, UnicodeDecodeError):
        pass
    message = f"logit_bias names the token {token[:20]!r}, but keys are ids from 0 to {len(version.pieces) - 1} of tokens that write text"
    raise Refused(400, message, param="logit_bias", code="invalid_value")


class Answering:
    """What is common to both routes: a request on its way to the engine and back.

    Args:
        request: What was asked.
        version: Answers.
        kind: What OpenAI calls such an answer.
        limits: Of the server.
        drawing: The texts.
    """

    prefix = "cmpl-"
    objects = ("text_completion", "text_completion")

    def __init__(self, request: _Request, version: Version, limits: Limits, drawing: Drawing):
        self.request, self.version, self.limits, self.drawing = request, version, limits, drawing
        self._head = {"id": f"{self.prefix}{secrets.token_hex(12)}", "created": int(time.time()), "model": request.model}
        self._num_tokens = 0

    def _check_number(self, prompts: int) -> None:
        number = prompts * (self.request.n or 1)
        if number > self.limits.max_prompts:
            message = f"{number} texts are asked for: at most {self.limits.max_prompts} are allowed in a request"
            raise Refused(400, message, param="n" if prompts == 1 else "prompt", code="invalid_value")
        if self.request.stream_options is not None and not self.request.stream:
            raise Refused(400, "stream_options is only allowed when stream is true", param="stream_options", code="invalid_value")

    async def _submit(self, prompts: Sequence[str], settings: SamplingSettings) -> None:
        number, given = self.request.n or 1, vars(settings)
        wanted = [
            (prompt, SamplingSettings(**{**given, "seed": (settings.seed + row * number + sample) % SEEDS}))
            for row, prompt in enumerate(prompts)
            for sample in range(number)
        ]
        await self.drawing.submit(self.version, wanted)

    async def begin(self) -> None:
        """Submits the texts.

        Raises:
            Refused: they cannot be drawn.
            EngineClosed: as `Drawing.submit`.
        """
        raise NotImplementedError

    async def whole(self) -> dict[str, Any]:
        """The answer in one.

        Raises:
            Refused: as `Drawing.next`.
        """
        pieces: dict[int, list[Piece]] = {}
        while (came := await self.drawing.next()) is not None:
            pieces.setdefault(came[0], []).append(came[1])
        choices = []
        for number, parts in sorted(pieces.items()):
            tokens = [token for part in parts for token in part.tokens]
            text = "".join(part.text for part in parts)
            piece = Piece(text, tokens, sum(part.num_tokens for part in parts), parts[-1].finish_reason)
            self._num_tokens += piece.num_tokens
            choices.append(self._choice(number, piece))
        return {**self._head, "object": self.objects[0], "choices": choices, "usage": self._usage()}

    async def events(self, first: tuple[int, Piece]) -> AsyncIterator[bytes]:
        """The answer as server-sent events, each with a piece; a mistake on the way is one as well.

        Args:
            first: What `Drawing.next` gave first, before the status was sent.
        """
        options = self.request.stream_options
        with_usage = options is not None and options.include_usage
        usage = {"usage": None} if with_usage else {}
        came: tuple[int, Piece] | None = first
        try:
            while came is not None:
                self._num_tokens += came[1].num_tokens
                for choice in self._deltas(*came):
                    yield _event({**self._head, "object": self.objects[1], "choices": [choice], **usage})
                came = await self.drawing.next()
        except Refused as refused:
            yield _event(error(refused))
            return
        if with_usage:
            yield _event({**self._head, "object": self.objects[1], "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _usage(self) -> dict[str, int]:
        read = sum(self.drawing.num_prompt_tokens[:: self.request.n or 1])
        return {"prompt_tokens": read, "completion_tokens": self._num_tokens, "total_tokens": read + self._num_tokens}

    def _choice(self, number: int, piece: Piece) -> dict[str, Any]:
        raise NotImplementedError

    def _deltas(self, number: int, piece: Piece) -> list[dict[str, Any]]:
        raise NotImplementedError


class Completing(Answering):
    """A `CompletionRequest` on its way."""

    request: CompletionRequest

    async def begin(self) -> None:
        """As `Answering.begin`."""
        request = self.request
        self._prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
        self._offsets: dict[int, int] = {}
        self._check_number(len(self._prompts))
        if request.echo and request.logprobs is not None:
            message = "echo gives the prompt without log-probabilities: leave echo or logprobs out"
            raise Refused(400, message, param="echo", code="invalid_value")
        await self._submit(self._prompts, settings_of(request, self.version, self.limits))

    def _choice(self, number: int, piece: Piece) -> dict[str, Any]:
        first = number not in self._offsets
        self._offsets.setdefault(number, 0)
        text = self._prompts[number // (self.request.n or 1)] + piece.text if self.request.echo and first else piece.text
        logprobs = None if self.request.logprobs is None else self._logprobs(number, piece)
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": _FINISHED[piece.finish_reason]}

    def _deltas(self, number: int, piece: Piece) -> list[dict[str, Any]]:
        wanted = piece.text or piece.tokens or piece.finish_reason or number not in self._offsets
        return [self._choice(number, piece)] if wanted else []

    def _logprobs(self, number: int, piece: Piece) -> dict[str, list]:
        offsets = []
        for token in piece.tokens:
            offsets.append(self._offsets[number])
            self._offsets[number] += len(token.text)
        return {
            "tokens": [token.text for token in piece.tokens],
            "token_logprobs": [token.logprob for token in piece.tokens],
            "top_logprobs": [dict(token.alternatives) for token in piece.tokens],
            "text_offset": offsets,
        }


class Chatting(Answering):
    """A `ChatRequest` on its way.

    Args:
        request, version, limits, drawing: As in `Answering`.
        form: How a conversation is written down.
    """

    prefix = "chatcmpl-"
    objects = ("chat.completion", "chat.completion.chunk")
    request: ChatRequest

    def __init__(self, request: ChatRequest, version: Version, limits: Limits, drawing: Drawing, form: ChatFormat):
        super().__init__(request, version, limits, drawing)
        self._form = form
        self._spaces: dict[int, OuterSpace] = {}

    async def begin(self) -> None:
        """As `Answering.begin`."""
        self._check_number(1)
        if self.request.top_logprobs is not None and not self.request.logprobs:
            raise Refused(400, "top_logprobs is only allowed when logprobs is true", param="top_logprobs", code="invalid_value")
        system, turns, user = conversation(self.request.messages)
        stop = [self.version.clean(f"x{mark}x")[1:-1] for mark in self._form.stop]  # white space at the ends would be cleaned away
        settings = settings_of(self.request, self.version, self.limits, stop)
        written = lambda kept: self._written(system, turns[len(turns) - kept :], user)
        prompt = await anyio.to_thread.run_sync(self._fitting, written, len(turns), settings.max_new_tokens)
        await self._submit([prompt], settings)

    def _written(self, system: str, turns: Sequence[Turn], user: str) -> str:
        form = ChatFormat(**{**vars(self._form), "system": system})
        return form.prompt(turns, user)

    def _fitting(self, written: Callable[[int], str], turns: int, new: int) -> str:
        """The conversation with as many of its last turns as fit into the context beside the answer."""
        context, engine = self.version.described.get("context_length"), self.version.engine
        most = min(self.limits.max_prompt_tokens, context - new if context else self.limits.max_prompt_tokens)
        kept = bisect.bisect_right(range(turns + 1), most, key=lambda kept: self._count(engine, written(kept))) - 1
        return written(max(kept, 0))  # where the last turn alone is too long, the engine says so

    @staticmethod
    def _count(engine, prompt: str) -> int:
        try:
            return engine.count_tokens(prompt)
        except UserError:  # a LiteRT file does not count beyond its context
            return SEEDS

    def _choice(self, number: int, piece: Piece) -> dict[str, Any]:
        message = {"role": "assistant", "content": piece.text.strip(), "refusal": None}
        return {"index": number, "message": message, "logprobs": self._logprobs(piece), "finish_reason": _FINISHED[piece.finish_reason]}

    def _deltas(self, number: int, piece: Piece) -> list[dict[str, Any]]:
        deltas = []
        if number not in self._spaces:
            self._spaces[number] = OuterSpace()
            deltas.append({"index": number, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None})
        text = self._spaces[number].without(piece.text)
        if text or piece.tokens:
            deltas.append({"index": number, "delta": {"content": text}, "logprobs": self._logprobs(piece), "finish_reason": None})
        if piece.finish_reason:
            deltas.append({"index": number, "delta": {}, "logprobs": None, "finish_reason": _FINISHED[piece.finish_reason]})
        return deltas

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if not self.request.logprobs:
            return None
        one = lambda text, logprob: {"token": text, "logprob": logprob, "bytes": list(text.encode())}
        return {
            "content": [
                {**one(token.text, token.logprob), "top_logprobs": [one(*alternative) for alternative in token.alternatives]}
                for token in piece.tokens
            ],
            "refusal": None,
        }


def conversation(messages: Sequence[Message]) -> tuple[str, list[Turn], str]:
    """The system text, the turns before, and what the user says now.

    Raises:
        Refused: the messages are not a system text, then the user and the assistant in turns, the user last.

    Example:

    >>> said = [("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c")]
    >>> conversation([Message(role=role, content=text) for role, text in said])
    ('s', [Turn(user='a', answer='b', seed=0)], 'c')
    """
    roles = [message.role for message in messages]
    first = next((number for number, role in enumerate(roles) if role in ("user", "assistant")), len(roles))
    rest, expected = roles[first:], ["user", "assistant"] * len(roles)
    if len(rest) % 2 == 0 or rest != expected[: len(rest)]:
        message = "messages must be a system text, if any, then what user and assistant say in turns, the user first and last"
        raise Refused(400, message, param="messages", code="invalid_value")
    texts = [message.text.strip() for message in messages]
    if not texts[-1]:
        raise Refused(400, "the last message is empty: say something", param="messages", code="invalid_value")
    turns = [Turn(user, answer) for user, answer in zip(texts[first:-1:2], texts[first + 1 : -1 : 2], strict=True)]
    return "\n".join(texts[:first]), turns, texts[-1]


def error(refused: Refused) -> dict[str, Any]:
    """OpenAI's form of an error."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(refused.status, "server_error" if refused.status >= 500 else "invalid_request_error")
    return {"error": {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}}


def described(kind: type[_Request]) -> dict[str, Any]:
    """A request's body for the OpenAPI description, with nothing to be looked up elsewhere."""
    schema = kind.model_json_schema()
    parts = schema.pop("$defs", {})

    def inlined(value: Any) -> Any:
        if isinstance(value, list):
            return [inlined(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return inlined(parts[value["$ref"].rpartition("/")[2]])
        return {key: inlined(each) for key, each in value.items()}

    return {"required": True, "content": {"application/json": {"schema": inlined(schema)}}}


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
