"""From the engine's thread to the event loop: what is drawn for one request, within its limits."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar

import anyio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from keras_lm.errors import UserError
from keras_lm.generation.settings import SamplingSettings
from keras_lm.serving.engine import CANCELLED, ERROR, Piece, QueueFull
from keras_lm.serving.metrics import Metrics
from keras_lm.serving.refusing import Refused, queue_full, shutting_down, too_slow
from keras_lm.serving.settings import Limits
from keras_lm.serving.versions import Version

T = TypeVar("T")

SEND_SECONDS = 60.0
"""How long an answer waits for a client that reads nothing, before the connection is given up."""

_SHORT = 500  # characters that are made into tokens sooner than a thread is told to


class Drawing:
    """The texts that are drawn for one request.

    Args:
        limits: Of the server.
        metrics: Are told of it.
        bounded: Whether pieces that wait for the client are counted, and the texts ended where there are too many.

    Attributes:
        num_prompt_tokens: Of each prompt, once submitted.
    """

    def __init__(self, limits: Limits, metrics: Metrics, bounded: bool):
        self._limits, self._metrics, self._bounded = limits, metrics, bounded
        self._began = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()
        self._late = False
        self._timer = self._loop.call_later(limits.max_seconds, self._time_is_up)  # one: a timer a piece costs more than the piece
        self._waiting: collections.deque[tuple[int, Piece]] = collections.deque()
        self._tickets: list = []
        self._attempt = self._left = 0
        self._cut_off = False
        self._first_at: dict[int, float] = {}
        self._num_tokens: collections.Counter[int] = collections.Counter()
        self.num_prompt_tokens: list[int] = []

    async def submit(self, version: Version, wanted: Sequence[tuple[str, SamplingSettings]]) -> None:
        """Hands all texts to the engine, or none.

        Raises:
            Refused: it takes them not: a prompt or setting that cannot be, or a full queue.
            EngineClosed: the version has been replaced, or the server is shutting down. Another version may be tried.
        """
        self._tickets, self._left = [], len(wanted)
        self._attempt += 1
        try:
            if sum(len(prompt) for prompt, _ in wanted) <= _SHORT:
                self._submit(version.engine, wanted)
            else:  # not left before it ends, so that no ticket is lost
                await anyio.to_thread.run_sync(self._submit, version.engine, wanted)
        except BaseException as error:
            self.cancel()
            if isinstance(error, QueueFull):
                self._metrics.refused.inc()
                raise queue_full(self._limits) from None
            if isinstance(error, UserError):
                raise Refused(400, str(error)) from None
            raise
        self.num_prompt_tokens = [ticket.num_prompt_tokens for ticket in self._tickets]
        self._metrics.prompt_tokens.inc(sum(self.num_prompt_tokens))

    def _submit(self, engine, wanted: Sequence[tuple[str, SamplingSettings]]) -> None:
        most = self._limits.max_prompt_tokens
        for number, (prompt, settings) in enumerate(wanted):
            if len(prompt.encode()) >= most and (count := engine.count_tokens(prompt)) > most:
                raise UserError(f"a prompt has {count} tokens: at most {most} are allowed")
            self._tickets.append(engine.submit(prompt, settings, functools.partial(self._deliver, self._attempt, number)))

    def _deliver(self, attempt: int, number: int, piece: Piece) -> None:
        """In the engine's thread."""
        with contextlib.suppress(RuntimeError):  # a loop that has ended
            self._loop.call_soon_threadsafe(self._put, attempt, number, piece)

    def _put(self, attempt: int, number: int, piece: Piece) -> None:
        if attempt != self._attempt:
            return
        if piece.num_tokens:
            now = time.monotonic()
            if not self._first_at:
                self._metrics.first_token.observe(now - self._began)
            first = self._first_at.setdefault(number, now)
            self._num_tokens[number] += piece.num_tokens
            self._metrics.new_tokens.inc(piece.num_tokens)
            if piece.finish_reason and self._num_tokens[number] > 1:
                self._metrics.token.observe((now - first) / (self._num_tokens[number] - 1))
        if self._cut_off:
            return
        self._waiting.append((number, piece))
        if self._bounded and len(self._waiting) > self._limits.max_unread:
            self._cut_off = True
            self._metrics.cut_off.inc()
            self.cancel()
        self._came.set()

    async def next(self) -> tuple[int, Piece] | None:
        """The number of a text and its next piece; `None` after the last one of all.

        Raises:
            Refused: it takes too long; the client does not read; a step failed; the server is shutting down.
        """
        while not self._waiting:
            if not self._left:
                self._timer.cancel()
                return None
            if self._cut_off:
                raise Refused(504, f"over {self._limits.max_unread} pieces wait to be read, the most that may: read faster", code="unread")
            if self._late:
                self.cancel()
                raise too_slow(self._limits)
            self._came.clear()
            await self._came.wait()
        number, piece = self._waiting.popleft()
        if piece.finish_reason == ERROR:
            raise Refused(500, "a step of the model failed: the server's log says why")
        if piece.finish_reason == CANCELLED:
            raise shutting_down()
        self._left -= bool(piece.finish_reason)
        return number, piece

    def _time_is_up(self) -> None:
        self._late = True
        self._came.set()

    def cancel(self) -> None:
        """Ends what still runs; of texts that have ended nothing happens."""
        self._timer.cancel()
        for ticket in self._tickets:
            ticket.cancel()


class EventStream(StreamingResponse):
    """Server-sent events out of a `Drawing`, which ends with the connection.

    Args:
        events: What is sent.
        drawing: Is cancelled when the client goes away, or reads nothing for a minute.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[bytes], drawing: Drawing):
        super().__init__(events, headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._drawing = drawing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop = asyncio.get_running_loop()
        sending = anyio.CancelScope()  # left like this, an answer has no end, for which uvicorn closes the connection

        async def patiently(message) -> None:
            timer = loop.call_later(SEND_SECONDS, sending.cancel)
            try:
                await send(message)
            finally:
                timer.cancel()

        try:
            with sending:
                await super().__call__(scope, receive, patiently)
        finally:
            self._drawing.cancel()


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """Waits for `work`, and gives it up when the client goes away; the body must have been read.

    Raises:
        ClientDisconnect: it went away.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
