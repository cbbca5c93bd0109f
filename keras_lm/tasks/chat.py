"""A conversation with a language model: turns over the sampler (article A1 §6).

To the model a conversation is one text in which questions and answers follow each other in a form that never changes (`ChatFormat`); an
answer is what the model goes on with after the question, up to where it would begin the next. What a session adds to the sampler is what
has been said: how it is written down, which part of it the model still has room for, and how to go back. A model answers as the texts
that it was trained on do, and one that never saw the form does not answer at all.

References:
    Vinyals and Le 2015, «A Neural Conversational Model» (arXiv:1506.05869), §3: the context is all that has been said, the output
    is the reply.
"""

from __future__ import annotations

import bisect
import dataclasses
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from keras_lm.errors import UserError
from keras_lm.generation.settings import SamplingSettings
from keras_lm.tasks.conversation import SEEDS, ChatFormat, Conversation, Turn, check_text

if TYPE_CHECKING:
    from keras_lm.generation.text import TextGenerator


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a session gives for a turn.

    Attributes:
        text: The answer, without white space at its ends.
        num_tokens: How many tokens were drawn, those of a stop string or an end included.
        finish_reason: As in `Generated`: `"stop"` (what begins the next turn came), `"end"`, `"length"`, `"blocked"`; or `"interrupted"`.
        turns_cut: How many of the oldest turns the model was not shown, for want of room.
    """

    text: str
    num_tokens: int
    finish_reason: str
    turns_cut: int


class ChatSession:
    """A conversation that goes on.

    The model is shown the system text and as many of the latest turns, whole, as leave room for `max_new_tokens`. All random numbers of an
    answer come of its seed and of what the model is shown: the same seed and the same turns give the same answers.

    Args:
        generator: Of a causal language model.
        format: How the conversation is written down; default `ChatFormat()`.
        settings: How to sample; default `SamplingSettings()`, but at most half the context of new tokens. Its `stop` comes on top of the
            format's.
        longest: Tokens that conversation and answer may have together; default the model's context, and without end where a model has
            none, as recurrent ones.
        **knobs: Fields of `SamplingSettings`, in place of `settings` or on top of it.

    Attributes:
        format: As above. Another one may be set between turns.
        settings: With the knobs in it.
        context: The tokens that conversation and answer share; `None` without end.
        answer: The `Answer` of the last turn; `None` before the first, after `undo` and after `load`.

    Raises:
        UserError: an encoder-decoder; a knob that `TextGenerator.generate` refuses, or more than one sample; no room left beside
            `max_new_tokens`.

    Example:

    >>> import numpy as np
    >>> from keras_lm.classical.ngram import NGramModel
    >>> from keras_lm.generation.text import TextGenerator
    >>> from keras_lm.tokenizers import CharacterTokenizer
    >>> text = ChatFormat().text([Turn("你好", "你好！"), Turn("再见", "下次见。")]) * 2
    >>> tokenizer = CharacterTokenizer.fit([text])
    >>> ids = np.array(tokenizer.tokenize([text]).to_list()[0])
    >>> model = NGramModel.fit(ids, 6, vocabulary_size=tokenizer.vocabulary_size, smoothing="mle")
    >>> session = ChatSession(TextGenerator(model, tokenizer, documents=False, jit_compile=False), temperature=0.0)
    >>> session.say("再见").text
    '下次见。'
    >>> "".join(session.stream("你好"))
    '你好！'
    >>> session.undo().user, session.history
    ('你好', (Turn(user='再见', answer='下次见。', seed=0),))
    """

    def __init__(
        self,
        generator: TextGenerator,
        format: ChatFormat | None = None,
        settings: SamplingSettings | None = None,
        *,
        longest: int | None = None,
        **knobs: object,
    ):
        decoder = generator.sampler.decoder
        if decoder.encoder is not None:
            raise UserError("an encoder-decoder writes a target for a source and knows no turns: chat with a language model")
        self.settings, self.context = shared(settings, context=decoder.context_length, longest=longest, **knobs)
        generator._rules(self.settings, None, [])  # refuses what cannot be forbidden or allowed now, and not at the first turn
        self.format = format or ChatFormat()
        self.answer: Answer | None = None
        self._generator = generator
        self._turns: tuple[Turn, ...] = ()

    @property
    def history(self) -> tuple[Turn, ...]:
        """All turns, oldest first, those that the model is no longer shown among them."""
        return self._turns

    def say(self, text: str) -> Answer:
        """Answers a turn. Interrupted, it leaves the session as it was.

        Args:
            text: What the user says.

        Raises:
            UserError: it is empty, or longer than there is room for; the message says how many tokens it has and how many fit.
        """
        return self._whole(self.stream(text))

    def stream(self, text: str) -> Generator[str, None, None]:
        """As `say`, piece by piece; together they are the text that `say` gives. `answer` has the rest at the end.

        Closed or interrupted (`KeyboardInterrupt`), a stream keeps the turn with what was said so far, and nothing if nothing was. If the
        session has changed since the stream began, the stream keeps nothing.

        Args:
            text: What the user says.

        Returns:
            An iterator of texts that are not empty, in whole characters. To end it early call its `close`.

        Raises:
            UserError: as `say`, at once.
        """
        return self._stream(self._turns, text, self.settings.seed)

    def retry(self) -> Answer:
        """Answers the last turn anew, with the seed after the one it was answered with; at temperature 0 the answer is the same.

        Raises:
            UserError: there is no turn.
        """
        return self._whole(self.stream_retry())

    def stream_retry(self) -> Generator[str, None, None]:
        """As `retry`, piece by piece as in `stream`; the answer before stays until the new one begins."""
        *before, last = self._turns or (None,)
        if last is None:
            raise UserError("nothing has been said yet: there is no answer to give anew")
        return self._stream(tuple(before), last.user, (last.seed + 1) % SEEDS)

    def undo(self) -> Turn:
        """Takes the last turn back, and gives it.

        Raises:
            UserError: there is no turn.
        """
        if not self._turns:
            raise UserError("nothing has been said yet: there is nothing to take back")
        *before, last = self._turns
        self._turns, self.answer = tuple(before), None
        return last

    def save(self, path: str | os.PathLike) -> None:
        """Writes system text and turns as JSON, whole or not at all.

        Raises:
            UserError: the file cannot be written.
        """
        Conversation(self.format.system, self._turns).save(path)

    def load(self, path: str | os.PathLike) -> None:
        """Goes on with a conversation that was saved, in place of this one: its system text, its turns, this session's format.

        Raises:
            UserError: no such file; one that is damaged, or holds something else. The session then stays as it is.
        """
        conversation = Conversation.load(path)
        self.format = dataclasses.replace(self.format, system=conversation.system)
        self._turns, self.answer = conversation.turns, None

    def unknown_characters(self, text: str) -> list[str]:
        """The different characters of a text, cleaned as a turn is, that the model's tokenizer does not know."""
        (cleaned,) = self._cleaned([text])
        return self._generator.tokenizer.unknown_characters(cleaned)

    def _stream(self, before: tuple[Turn, ...], text: str, seed: int) -> Generator[str, None, None]:
        text = text.strip()
        check_text(text, "a turn")
        if not text:
            raise UserError("a turn is empty: say something")
        ids, turns_cut = self._shown(before, text)
        return self._answering(ids, before, Turn(text, "", seed), turns_cut, self._turns)

    def _answering(
        self, ids: list[int], before: tuple[Turn, ...], turn: Turn, turns_cut: int, started: tuple[Turn, ...]
    ) -> Generator[str, None, None]:
        drawn = _Drawn()
        said: list[str] = []

        def keep(reason: str) -> None:
            if self._turns is started:
                answer = "".join(said)
                self._turns = (*before, dataclasses.replace(turn, answer=answer))
                self.answer = Answer(answer, drawn.num_tokens, reason, turns_cut)

        try:
            for piece in without_outer_space(self._draw(ids, turn.seed, drawn)):
                said.append(piece)
                yield piece
        except (GeneratorExit, KeyboardInterrupt):
            if said:
                keep("interrupted")
            raise
        keep(drawn.finish_reason)

    def _draw(self, ids: list[int], seed: int, drawn: _Drawn) -> Iterator[str]:
        """What the model goes on with: `TextGenerator.stream`, for ids, and with an account of it in `drawn`."""
        from keras_lm.generation.pieces import TextStream

        generator, framed = self._generator, [f"x{mark}x" for mark in self.format.stop]  # white space at the ends would be cleaned away
        stop = (*(text[1:-1] for text in self._cleaned(framed)), *self.settings.stop)
        settings = dataclasses.replace(self.settings, seed=seed, stop=stop)
        text = TextStream(generator._pieces, stop)
        for (part,) in generator.sampler.stream([ids], settings, **generator._rules(settings, None, [ids])):
            piece = text.feed(part.ids)
            drawn.num_tokens += len(part.ids)
            drawn.finish_reason = "stop" if text.stopped else part.finish_reason
            if piece:
                yield piece
        if piece := text.finish():
            yield piece

    def _shown(self, turns: Sequence[Turn], user: str) -> tuple[list[int], int]:
        """The ids of the prompt, and how many turns had to be left out of it."""
        latest = lambda kept: self._ids(self.format.prompt(turns[len(turns) - kept :], user))
        ids = latest(len(turns))
        room = None if self.context is None else self.context - self.settings.max_new_tokens
        if room is None or len(ids) <= room:
            return ids, 0
        kept = bisect.bisect_right(range(len(turns)), room, key=lambda kept: len(latest(kept))) - 1
        if kept < 0:
            size = f"{len(latest(0))} tokens" + (", the system text among them" if self.format.system else "")
            left = f"of {self.context} that it shares with {self.settings.max_new_tokens} new ones"
            raise UserError(f"this turn has {size}; {room} fit, {left}: shorten it, or let max_new_tokens be fewer")
        return latest(kept), len(turns) - kept

    def _ids(self, prompt: str) -> list[int]:
        import tensorflow as tf

        from keras_lm.generation.text import prompt_ids

        generator = self._generator
        return prompt_ids(generator.tokenizer, generator._clean(tf.constant([prompt])), generator.documents).to_list()[0]

    def _cleaned(self, texts: Sequence[str]) -> list[str]:
        import tensorflow as tf

        return [text.decode("utf-8", "replace") for text in self._generator._clean(tf.constant(list(texts))).numpy()]

    def _whole(self, pieces: Generator[str, None, None]) -> Answer:
        before = self._turns, self.answer
        try:
            for _ in pieces:
                pass
        except BaseException:
            pieces.close()
            self._turns, self.answer = before
            raise
        return self.answer


@dataclasses.dataclass
class _Drawn:
    num_tokens: int = 0
    finish_reason: str = ""


class OuterSpace:
    """Takes white space away at the ends of a text that comes in pieces.

    Example:

    >>> space = OuterSpace()
    >>> [space.without(piece) for piece in [" ", " a", " b ", "\\n", "c", "\\n"]]
    ['', 'a', ' b', '', ' \\nc', '']
    """

    def __init__(self) -> None:
        self._held, self._begun = "", False

    def without(self, piece: str) -> str:
        """What of the text is certain after this piece and was not before."""
        text = self._held + piece if self._begun else piece.lstrip()
        certain = text.rstrip()
        self._held = text[len(certain) :]
        self._begun = self._begun or bool(certain)
        return certain


def without_outer_space(pieces: Iterable[str]) -> Iterator[str]:
    """Pieces of a text as pieces of the same text without white space at its ends.

    Example:

    >>> list(without_outer_space([" ", " a", " b ", "\\n", "c", "\\n"]))
    ['a', ' b', ' \\nc']
    """
    space = OuterSpace()
    yield from filter(None, map(space.without, pieces))


def shared(
    settings: SamplingSettings | None = None, *, context: int | None = None, longest: int | None = None, **knobs: object
) -> tuple[SamplingSettings, int | None]:
    """How a session samples, and the tokens that conversation and answer share, as `ChatSession` takes them of a model with this context.

    Raises:
        UserError: as `ChatSession`.

    Example:

    >>> settings, size = shared(context=256, longest=100, temperature=0.5)
    >>> settings.max_new_tokens, settings.temperature, size
    (50, 0.5, 100)
    """
    if longest is not None and longest < 2:
        raise UserError(f"longest must be at least 2, a token read and one written, got {longest}")
    size = min((bound for bound in (context, longest) if bound is not None), default=None)
    if settings is None:
        settings = SamplingSettings()
        if size is not None:
            settings = dataclasses.replace(settings, max_new_tokens=max(1, min(settings.max_new_tokens, size // 2)))
    settings = dataclasses.replace(settings, **knobs)
    if settings.num_samples > 1:
        raise UserError(f"num_samples must be 1 in a chat, got {settings.num_samples}")
    if size is not None and settings.max_new_tokens >= size:
        raise UserError(f"max_new_tokens must be under the {size} tokens that conversation and answer share, got {settings.max_new_tokens}")
    return settings, size
