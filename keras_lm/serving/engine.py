"""Texts for many callers at once: a thread that draws them together, over an export.

Callers submit a prompt from any thread and get the text piece by piece. What waits joins the running batch between two steps
(`keras_lm.generation.continuous`); who goes away leaves it there. Nothing that one caller does holds up another: pieces are handed on and
not waited for.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import tensorflow as tf

from keras_lm import cleaning, tokenizers
from keras_lm.errors import UserError
from keras_lm.export import layout
from keras_lm.export.decoder import ExportedDecoder
from keras_lm.export.tflite import describe_text
from keras_lm.generation.continuous import MOST_STEPS, ContinuousBatch, Newcomer
from keras_lm.generation.pieces import TextStream
from keras_lm.generation.sampler import Continuation
from keras_lm.generation.settings import SamplingSettings
from keras_lm.generation.text import Token, check_length, prompt_ids, token_biases, written_tokens
from keras_lm.text_codec import KINDS, TextCodec
from keras_lm.tokenizer_base import Tokenizer

CANCELLED, ERROR = "cancelled", "error"
"""Why a text ended, besides `FINISH_REASONS`: its ticket was cancelled, or a step failed."""

_CALL_SECONDS = 0.1  # texts go on for this long between two chances to join

_log = logging.getLogger(__name__)


class QueueFull(Exception):
    """As many requests wait as may."""


class EngineClosed(Exception):
    """The engine takes no more requests."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """What came of a text since the last piece.

    Attributes:
        text: May be empty: bytes of a character that is not whole wait, and so does what may become a stop string.
        tokens: With their log-probabilities; empty where `top_logprobs` did not ask for them.
        num_tokens: How many tokens were drawn.
        finish_reason: In the last piece, one of `FINISH_REASONS`, `"cancelled"` or `"error"`; else empty.
    """

    text: str
    tokens: list[Token]
    num_tokens: int
    finish_reason: str = ""


class Ticket:
    """A request that was taken.

    Attributes:
        num_prompt_tokens: Of the prompt, the start token included.
    """

    def __init__(self, ids: list[int], settings: SamplingSettings, bias: dict[int, float], text: TextStream, deliver: Callable):
        self.num_prompt_tokens = len(ids)
        self._ids, self._settings, self._bias, self._text, self._deliver = ids, settings, bias, text, deliver
        self._stop = [stop.encode() for stop in settings.stop]
        self._tail = b""  # what a stop string may have begun in
        self._cancelled = False

    def cancel(self) -> None:
        """Frees the row at the next step; a last piece says `"cancelled"`. Of a text that has ended nothing happens."""
        self._cancelled = True

    def _take(self, part: Continuation, pieces: Sequence[bytes]) -> Piece:
        """The piece that a part of the ids is. The token that completes a stop string is the last one, as in the sampler."""
        count = next((number for number, token in enumerate(part.ids, 1) if self._stops_at(pieces[token])), None)
        kept = lambda values: values and values[:count]
        part = Continuation(part.ids[:count], "", kept(part.logprobs), kept(part.alternatives)) if count else part
        text = self._text.feed(part.ids)
        ends = count or self._text.stopped or part.finish_reason
        text += self._text.finish() if ends else ""
        tokens = [] if part.logprobs is None else written_tokens(pieces, part)
        return Piece(text, tokens, len(part.ids), "stop" if count or self._text.stopped else part.finish_reason)

    def _stops_at(self, piece: bytes) -> bool:
        if not self._stop:
            return False
        written = self._tail + piece
        self._tail = written[-max(map(len, self._stop)) :]
        # What was there before has no stop string in it, or the text would have ended.
        return any(stop in written for stop in self._stop)


class Engine:
    """Draws texts for many callers with the language model of an export.

    Args:
        folder: One version's folder.
        max_batch: The most texts drawn at a time.
        max_queue: The most requests that wait.
        xla: Whether XLA compiles it, all of it while it loads: drawing is faster, and loading slower.
        progress: Is told what is being done while it loads.

    Attributes:
        name: Of the export.
        context_length: The most tokens of a prompt and its text, or `None` where the model has no bound
            (`keras_lm.generation.continuous.LONGEST` bounds it then).
        vocabulary_size: How many tokens there are.
        tokenizer: The one that the model was trained with.

    Raises:
        UserError: no export, or one that does not go on with a prompt.

    Example: `Engine("saved_models/quickstart/1").submit("我们", SamplingSettings(seed=1), print)`
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        max_batch: int = 32,
        max_queue: int = 256,
        xla: bool = True,
        progress: Callable[[str], None] | None = None,
    ):
        version, metadata = layout.find(folder)
        self.name = version.resolve().parent.name
        if "step" not in metadata["signatures"]:
            raise UserError(f"{self.name} does not go on with prompts ({metadata['model']}): ask its signatures, by :predict")
        tell = progress or (lambda line: None)
        tell(f"loading {version}")
        decoder = ExportedDecoder(version, metadata)
        self.context_length, self.vocabulary_size = decoder.context_length, decoder.vocabulary_size
        self.tokenizer = tokenizers.load(version / layout.TOKENIZER)
        self.max_queue = max_queue
        self._read_prompt = _reader(self.tokenizer, metadata["clean"], metadata["documents"])
        self._pieces = self.tokenizer.pieces()
        of_tokenizer = {"end_id": self.tokenizer.end_id, "never": self.tokenizer.never}
        self._batch = ContinuousBatch(decoder, **of_tokenizer, max_batch=max_batch, jit_compile=xla and decoder.compiles)
        self._batch.warm_up(tell)
        self._waiting: collections.deque[Ticket] = collections.deque()
        self._running: set[Ticket] = set()  # each is its text's key in the batch
        self._step_seconds = 0.0
        self._closing = self._leaving = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"engine of {self.name}", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """How many texts are being drawn."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """How many requests wait for a row."""
        return len(self._waiting)

    def count_tokens(self, prompt: str) -> int:
        """How many tokens the model reads of a prompt, the start token included."""
        return len(self._ids(prompt))

    def submit(self, prompt: str, settings: SamplingSettings, deliver: Callable[[Piece], None]) -> Ticket:
        """Takes a request and returns at once.

        Args:
            prompt: What is gone on with.
            settings: How to sample; one sample, and no `allow`.
            deliver: Is given the pieces, in the engine's thread, which it must not block. One that fails ends its text.

        Raises:
            UserError: a prompt that is too long, a setting that is not known here, a bias for text that is not one token.
            QueueFull: as many wait as may.
            EngineClosed: it takes no more.
        """
        if settings.num_samples != 1:
            raise UserError(f"num_samples must be 1 for a request, got {settings.num_samples}: send several")
        if settings.allow:
            raise UserError("a server knows no allow: generate from the run folder")
        settings = dataclasses.replace(settings, stop=tuple(map(_valid, settings.stop)))
        ids = self._ids(prompt)
        check_length(prompt, len(ids), self._batch.context)
        text = TextStream(self._pieces, settings.stop)
        ticket = Ticket(ids, settings, token_biases(self.tokenizer, settings), text, deliver)
        with self._changed:
            if self._closing:
                raise EngineClosed(f"{self.name} takes no more requests")
            if len(self._waiting) >= self.max_queue:
                raise QueueFull(f"{len(self._waiting)} requests wait already, which is the most")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def close(self, finish: bool = True, timeout: float | None = None) -> None:
        """Takes no more requests, and ends.

        Args:
            finish: Whether what runs and waits is finished first; otherwise it is cancelled.
            timeout: Seconds after which what is not finished is cancelled; default none.
        """
        for leaving in (not finish, True):
            with self._changed:
                self._closing, self._leaving = True, leaving
                self._changed.notify()
            self._thread.join(timeout)
            if not self._thread.is_alive():
                return

    def _ids(self, prompt: str) -> list[int]:
        return self._read_prompt(_valid(prompt))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._running or self._closing)
                if self._closing and not self._waiting and not self._running:
                    return
            self._let_go()
            self._let_in()
            self._step()

    def _let_go(self) -> None:
        """Of those who went away."""
        for ticket in list(self._running):
            if ticket._cancelled or self._leaving:
                self._batch.leave(ticket)
                self._end(ticket, CANCELLED)
        with self._changed:
            gone = [ticket for ticket in self._waiting if ticket._cancelled or self._leaving]
            for ticket in gone:
                self._waiting.remove(ticket)
        for ticket in gone:
            self._hand_on(ticket, Piece("", [], 0, CANCELLED))

    def _let_in(self) -> None:
        """Those who wait, as long as there is room, and for a while where others would wait for it.

        Who comes meanwhile waits for the next few steps: read a few at a time, prompts would take longer, and everybody would wait.
        """
        began = time.monotonic()
        late = lambda: self._running and time.monotonic() - began > _CALL_SECONDS
        tickets = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._batch.free))]
        biased = {number for number, ticket in enumerate(tickets) if ticket._bias}
        unread, groups = self._batch.groups([len(ticket._ids) for ticket in tickets], biased)
        if unread:
            newcomers = _newcomers([tickets[number] for number in unread])
            self._join(newcomers, lambda: self._batch.join_unread(newcomers))
        while groups and not late():
            self._read([tickets[number] for number in groups.pop(0)])
        left = sorted(itertools.chain.from_iterable(groups))
        self._waiting.extendleft(tickets[number] for number in reversed(left))

    def _read(self, tickets: list[Ticket]) -> None:
        newcomers = _newcomers(tickets)
        try:
            prompts = self._batch.read(newcomers)
        except Exception:
            _log.exception("reading prompts of %s tokens failed", ", ".join(str(len(ticket._ids)) for ticket in tickets))
            for ticket in tickets:
                self._hand_on(ticket, Piece("", [], 0, ERROR))
            return
        self._join(newcomers, lambda: self._batch.join(prompts))

    def _join(self, newcomers: list[Newcomer], join: Callable[[], None]) -> None:
        self._running.update(newcomer.key for newcomer in newcomers)
        with self._failures():
            join()

    def _step(self) -> None:
        if not self._running:
            return
        steps = MOST_STEPS if not self._step_seconds else max(1, min(MOST_STEPS, int(_CALL_SECONDS / self._step_seconds)))
        if steps == MOST_STEPS and self._batch.free and self._batch.running > self._batch.max_batch // 4:
            steps //= 2  # who has just been answered often asks again at once, and then finds a row sooner
        began, parts = time.monotonic(), {}
        with self._failures():
            parts = self._batch.step(steps)
        self._step_seconds = (time.monotonic() - began) / steps
        for ticket, part in parts.items():
            piece = ticket._take(part, self._pieces)
            if not self._hand_on(ticket, piece) or piece.finish_reason:
                self._batch.leave(ticket)
                self._running.remove(ticket)

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """What fails here ends the texts that are being drawn, and no other."""
        try:
            yield
        except Exception:
            _log.exception("a step of %d texts failed", len(self._running))
            for ticket in list(self._running):
                self._end(ticket, ERROR)
            with contextlib.suppress(tf.errors.OpError):  # still no memory: the next step fails, and it is tried again
                self._batch.reset()

    def _end(self, ticket: Ticket, reason: str) -> None:
        self._running.remove(ticket)
        self._hand_on(ticket, Piece("", [], 0, reason))

    @staticmethod
    def _hand_on(ticket: Ticket, piece: Piece) -> bool:
        try:
            ticket._deliver(piece)
        except Exception:
            _log.exception("a piece could not be handed on")
            return False
        return True


def _newcomers(tickets: Sequence[Ticket]) -> list[Newcomer]:
    return [Newcomer(ticket, ticket._ids, ticket._settings, ticket._bias) for ticket in tickets]


def _reader(tokenizer: Tokenizer, clean: Sequence[str], documents: bool) -> Callable[[str], list[int]]:
    """From a prompt to the ids that the model reads, the start token in front where it expects one or nothing else is there."""
    if tokenizer.kind in KINDS and not clean:
        # In Python: the same ids as in the graph, whose many small operations take half a millisecond for a few characters.
        codec = TextCodec(describe_text(tokenizer, []))

        def read(text: str) -> list[int]:
            ids = codec.encode(text)
            return [tokenizer.start_id, *ids] if documents or not ids else ids

        return read
    cleaned = cleaning.compose(clean)
    ids_of = lambda texts: prompt_ids(tokenizer, cleaned(texts), documents)
    graph = tf.function(ids_of, [tf.TensorSpec([None], tf.string)], autograph=False).get_concrete_function()
    return lambda text: graph(tf.constant([text])).to_list()[0]


def _valid(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
