"""A LiteRT file, asked as an `Engine` is: one text after the other, since such a file has one memory."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

from keras_lm.errors import UserError
from keras_lm.export.tflite_generator import Outcome, TFLiteGenerator
from keras_lm.generation.settings import SamplingSettings
from keras_lm.serving.engine import CANCELLED, ERROR, EngineClosed, Piece, QueueFull


class LiteTicket:
    """A request that was taken, as `keras_lm.serving.engine.Ticket`."""

    def __init__(self, prompt: str, settings: SamplingSettings, deliver: Callable[[Piece], None], num_prompt_tokens: int):
        self.prompt, self.settings, self.deliver, self.num_prompt_tokens = prompt, settings, deliver, num_prompt_tokens
        self.cancelled = False

    def cancel(self) -> None:
        """Ends the text at the next piece."""
        self.cancelled = True


class LiteEngine:
    """Draws texts with a LiteRT file, in a thread.

    Args:
        path: The `.tflite`.
        max_queue: The most requests that wait.

    Raises:
        UserError: as `TFLiteGenerator`.

    Example: `LiteEngine("saved_models/quickstart/model-int8.tflite").submit("我们", SamplingSettings(seed=1), print)`
    """

    def __init__(self, path: str | os.PathLike, *, max_queue: int = 256):
        self.generator = TFLiteGenerator(path)
        self.max_queue, self.running = max_queue, 0
        self._waiting: queue.Queue[LiteTicket | None] = queue.Queue()
        self._closed = self._leaving = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"engine of {path}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return self._waiting.qsize()

    def count_tokens(self, prompt: str) -> int:
        """How many tokens the model reads of a prompt."""
        return len(self.generator.encode(prompt))

    def submit(self, prompt: str, settings: SamplingSettings, deliver: Callable[[Piece], None]) -> LiteTicket:
        """As `Engine.submit`.

        Raises:
            UserError: a prompt that is too long, log-probabilities, a constraint.
            QueueFull, EngineClosed: as there.
        """
        if settings.top_logprobs is not None:
            raise UserError("a LiteRT file gives no log-probabilities: leave logprobs out")
        ticket = LiteTicket(prompt, settings, deliver, self.count_tokens(prompt))
        self.generator.stream(prompt, settings).close()  # what is wrong with the settings is said now
        with self._lock:
            if self._closed:
                raise EngineClosed("this engine takes no more requests")
            if self.waiting >= self.max_queue:
                raise QueueFull(f"{self.waiting} requests wait already, which is the most")
            self._waiting.put(ticket)
        return ticket

    def close(self, finish: bool = True, timeout: float | None = None) -> None:
        """As `Engine.close`."""
        with self._lock:
            self._leaving = not finish
            if not self._closed:
                self._waiting.put(None)
            self._closed = True
        self._thread.join(timeout)
        self._leaving = True
        self._thread.join(timeout)

    def _work(self) -> None:
        while (ticket := self._waiting.get()) is not None:
            self.running = 1
            try:
                self._write(ticket)
            except Exception:
                ticket.deliver(Piece("", [], 0, ERROR))
            self.running = 0

    def _write(self, ticket: LiteTicket) -> None:
        outcome, told = Outcome(), 0
        gone = lambda: ticket.cancelled or self._leaving
        if not gone():
            for text in self.generator.stream(ticket.prompt, ticket.settings, outcome):
                if gone():
                    break
                ticket.deliver(Piece(text, [], outcome.num_tokens - told))
                told = outcome.num_tokens
        ticket.deliver(Piece("", [], outcome.num_tokens - told, outcome.finish_reason or CANCELLED))
