"""How a conversation is written down: for a language model, as one text, and in a file, as JSON.

Free of TensorFlow, so that the command line can refuse a bad file or format at once.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable

from keras_lm.errors import UserError, unknown_name
from keras_lm.files import read_text, replacing


def check_text(text: str, name: str) -> None:
    """Raises a `UserError` for a string that UTF-8 cannot write: one with half of a surrogate pair."""
    if not _is_text(text):
        raise UserError(f"{name} must be Unicode text, without half a surrogate pair, got {text!r}")


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclasses.dataclass(frozen=True)
class Turn:
    """What the user said and what was answered.

    Attributes:
        user: The user's words, without white space at their ends.
        answer: The model's, likewise.
        seed: What the answer was drawn with.
    """

    user: str
    answer: str
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How a conversation is written down, in texts to train on as in prompts; the default is what `FORMATS` calls `zh`.

    A prompt ends without the spaces at the end of `before_answer`: in most vocabularies a space belongs to the word behind it, and the
    model is left to write it.

    Args:
        system: A text ahead of all turns; default none.
        before_system, after_system: What stands around it, where there is one.
        before_user: What begins a user's turn.
        before_answer: What stands between it and the answer.
        after_answer: What stands behind the answer.

    Raises:
        UserError: `before_user` and `after_answer` are both empty, so that the end of an answer could not be told; half a surrogate pair.

    Example:

    >>> print(ChatFormat(system="甲问，乙答。").prompt([Turn("你好", "你好！")], "再见"))
    甲问，乙答。
    问：你好
    答：你好！
    问：再见
    答：
    >>> ChatFormat().stop, ChatFormat.named("chatml").stop
    (('\\n问：',), ('<|im_end|>',))
    """

    system: str = ""
    before_system: str = ""
    after_system: str = "\n"
    before_user: str = "问："
    before_answer: str = "\n答："
    after_answer: str = "\n"

    def __post_init__(self) -> None:
        if not self.after_answer and not self.before_user:
            raise UserError("after_answer and before_user are both empty: the end of an answer could not be told")
        for field in dataclasses.fields(self):
            check_text(getattr(self, field.name), field.name)

    @classmethod
    def named(cls, name: str, system: str = "") -> ChatFormat:
        """The format of a name in `FORMATS`, with a system text.

        Raises:
            UserError: there is none of that name; the nearest is named.
        """
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
        return dataclasses.replace(FORMATS[name], system=system)

    @property
    def stop(self) -> tuple[str, ...]:
        """Where an answer ends: at `after_answer`, or where that is white space alone, at what begins the next turn.

        White space at the end is left out, as a model may end its text in its place.
        """
        both = self.after_answer + self.before_user
        return (self.after_answer.rstrip() or both.rstrip() or both,)

    def text(self, turns: Iterable[Turn]) -> str:
        """A conversation as it is to be trained on."""
        system = f"{self.before_system}{self.system}{self.after_system}" if self.system else ""
        return system + "".join(f"{self.before_user}{turn.user}{self.before_answer}{turn.answer}{self.after_answer}" for turn in turns)

    def prompt(self, turns: Iterable[Turn], user: str) -> str:
        """What a model is to go on with, when `user` has been said after `turns`."""
        return f"{self.text(turns)}{self.before_user}{user}{self.before_answer.rstrip(' ')}"


FORMATS = {
    "zh": ChatFormat(),
    "en": ChatFormat(before_user="User: ", before_answer="\nAssistant: "),
    "chatml": ChatFormat(
        before_system="<|im_start|>system\n",
        after_system="<|im_end|>\n",
        before_user="<|im_start|>user\n",
        before_answer="<|im_end|>\n<|im_start|>assistant\n",
        after_answer="<|im_end|>\n",
    ),
}
"""Formats by name. `chatml` is ChatML's form as plain text: its marks are read as characters, not as tokens of their own."""


@dataclasses.dataclass(frozen=True)
class Conversation:
    """What a file of a conversation holds: JSON, in which nothing of the format stands, since that is the model's.

    Args:
        system: The system text.
        turns: The turns, oldest first.
    """

    system: str = ""
    turns: tuple[Turn, ...] = ()

    def save(self, path: str | os.PathLike) -> None:
        """Writes a file, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        values = {"kind": _KIND, "version": _VERSION, "system": self.system, "turns": [dataclasses.asdict(turn) for turn in self.turns]}
        try:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror}") from None

    @classmethod
    def load(cls, path: str | os.PathLike) -> Conversation:
        """Reads what `save` wrote.

        Raises:
            UserError: no such file; one that is damaged, or holds something else.
        """
        text = read_text(path)
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {error.lineno}: this is no JSON ({error.msg})") from None
        except (ValueError, RecursionError):  # a number of thousands of digits, brackets in brackets without end
            values = None
        if not isinstance(values, dict) or values.get("kind") != _KIND:
            raise UserError(f"{path} holds no conversation: give a file that a chat was saved in")
        if values.get("version") != _VERSION:
            raise UserError(f"{path} is a conversation of version {values.get('version')!r}, which this keras_lm does not read")
        system, turns = values.get("system"), values.get("turns")
        if not _is_text(system) or not isinstance(turns, list):
            raise UserError(f"{path} is damaged: a system text and a list of turns should stand there")
        for number, turn in enumerate(turns, start=1):
            if not _is_turn(turn):
                raise UserError(f"{path} is damaged: turn {number} should have a user's text, an answer and a seed")
        return cls(system, tuple(Turn(**turn) for turn in turns))


_KIND, _VERSION = "keras_lm conversation", 1
SEEDS = 2**31  # those that a sampler takes


def _is_turn(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {field.name for field in dataclasses.fields(Turn)}:
        return False
    return _is_text(value["user"]) and _is_text(value["answer"]) and type(value["seed"]) is int and 0 <= value["seed"] < SEEDS
