"""A LiteRT bundle, read and run without TensorFlow: text in, text out, from `model.tflite` and the `vocabulary.json` beside it."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_lm.errors import UserError
from keras_lm.generation.growing_texts import Texts
from keras_lm.generation.litert_runtime import Memory, Step
from keras_lm.generation.numpy_filters import FORBIDDEN
from keras_lm.generation.pieces import TextStream
from keras_lm.generation.settings import FINISH_REASONS, STOP, SamplingSettings
from keras_lm.text_codec import END_ID, PAD_ID, START_ID, UNKNOWN_ID, TextCodec

VOCABULARY = "vocabulary.json"
"""What lies beside the model: the tokenizer, and how to run the file."""

SUFFIX = ".tflite"

FORMAT = 2
"""Of `vocabulary.json`: a later number may mean other things."""


class TFLiteGenerator:
    """Generates text from a file that `keras_lm-export --format tflite` wrote.

    Args:
        path: The `.tflite`; its `vocabulary.json` lies beside it.
        num_threads: For the interpreter; default as many as there are cores.

    Attributes:
        metadata: What `vocabulary.json` holds.
        codec: Text ↔ ids.
        step: The interpreter.

    Raises:
        UserError: no such file, not a LiteRT file, not one of keras_lm, no vocabulary beside it, or LiteRT is not installed.

    Example: `"".join(TFLiteGenerator("saved_models/quickstart/model-int8.tflite").stream("中国", SamplingSettings(seed=1)))`
    """

    def __init__(self, path: str | os.PathLike, num_threads: int | None = None):
        self.metadata = read_metadata(path)
        self.codec = TextCodec(self.metadata["text"])
        memory = [Memory(entry["name"], entry["kind"], tuple(entry["sizes"])) for entry in self.metadata["memory"]]
        self.step = Step(path, memory, num_threads)
        if self.step.vocabulary_size != self.codec.vocabulary_size:
            raise UserError(
                f"{path} has {self.step.vocabulary_size} ids and the {VOCABULARY} beside it {self.codec.vocabulary_size}: "
                "they are of different exports; export again"
            )

    def encode(self, prompt: str) -> list[int]:
        """The ids of a prompt, cleaned, the start token in front where the model expects one or nothing else is there.

        Raises:
            UserError: it fills the model's context.
        """
        ids = self.codec.encode(self.codec.clean(prompt))
        if self.metadata["documents"] or not ids:
            ids = [START_ID, *ids]
        context = self.metadata["context_length"]
        if context and len(ids) >= context:
            raise UserError(f"the prompt has {len(ids)} tokens; the context of {context} has room for {context - 1}: shorten it")
        return ids

    def generate(self, prompt: str, settings: SamplingSettings | None = None) -> list[tuple[str, str]]:
        """Goes on with a prompt, as `TextGenerator.generate` does; a text ends where the model's context does.

        Returns:
            For each of `num_samples` the new text and why it ended, one of `FINISH_REASONS`.

        Raises:
            UserError: as in `stream`.
        """
        settings = settings or SamplingSettings()
        results = []
        for number in range(settings.num_samples):
            outcome = Outcome()
            text = "".join(self._drawn(prompt, settings, settings.seed + number, outcome))
            results.append((text, outcome.finish_reason))
        return results

    def stream(self, prompt: str, settings: SamplingSettings | None = None, outcome: Outcome | None = None) -> Iterator[str]:
        """Goes on with a prompt, piece by piece: together they are the first text that `generate` gives.

        Args:
            prompt: What is gone on with.
            settings: How to sample.
            outcome: Is kept up to date with what is drawn.

        Raises:
            UserError: a prompt that fills the context; a setting that needs TensorFlow; a bias for text that is not one token.
        """
        settings = settings or SamplingSettings()
        return self._drawn(prompt, settings, settings.seed, outcome or Outcome())

    def _drawn(self, prompt: str, settings: SamplingSettings, seed: int, outcome: Outcome) -> Iterator[str]:
        ids = self.encode(prompt)
        texts = self._texts(ids, settings, seed)
        self.step.begin()
        self.step.read(ids[:-1])
        stream, token, follow = TextStream(self.codec.pieces(), settings.stop), np.array(ids[-1:], np.int32), texts.follow(self.step)
        while texts.running and not stream.stopped:
            token = follow(token)
            outcome.num_tokens += 1
            if piece := stream.feed(token.tolist()):
                yield piece
        if piece := stream.finish():
            yield piece
        outcome.finish_reason = FINISH_REASONS[STOP if stream.stopped else int(texts.reason[0])]

    def _texts(self, ids: list[int], settings: SamplingSettings, seed: int) -> Texts:
        for name in ("allow", "top_logprobs"):
            if getattr(settings, name) not in ("", None):
                raise UserError(f"a LiteRT file does not know --{name.replace('_', '-')}: generate from the run folder")
        if settings.when_full == "slide":
            raise UserError("a LiteRT file gives a text within the context: for --when-full slide generate from the run folder")
        bias = np.zeros(self.step.vocabulary_size, np.float32)
        bias[[PAD_ID, UNKNOWN_ID, START_ID]] = FORBIDDEN
        for text, value in settings.biases().items():
            bias[self._single_token(text)] += value
        context = self.metadata["context_length"]
        room = context - len(ids) if context else settings.max_new_tokens + 1
        return Texts.of_prompt(ids, settings, seed=seed, bias=bias, room=room, end_id=END_ID)

    def _single_token(self, text: str) -> int:
        ids = self.codec.encode(text)
        if len(ids) != 1 or ids[0] == UNKNOWN_ID:
            described = "is unknown to" if ids == [UNKNOWN_ID] else f"is {len(ids)} tokens of"
            raise UserError(f"{text!r} {described} this tokenizer: logit_bias and forbid need exactly one token")
        return ids[0]


@dataclasses.dataclass
class Outcome:
    """What is told of a text beside its pieces.

    Attributes:
        num_tokens: How many have been drawn, an ending one included.
        finish_reason: Once it has ended, one of `FINISH_REASONS`.
    """

    num_tokens: int = 0
    finish_reason: str = ""


def is_file(path: str | os.PathLike) -> bool:
    """Whether `path` looks like a LiteRT file, by its name."""
    return pathlib.Path(path).suffix == SUFFIX


def read_metadata(path: str | os.PathLike) -> dict[str, Any]:
    """What stands in the `vocabulary.json` beside a `.tflite`.

    Raises:
        UserError: no such file, not a LiteRT file, or no good vocabulary beside it.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"no such file: {path}")
    with path.open("rb") as file:
        if file.read(8)[4:] != b"TFL3":
            raise UserError(f"{path} is not a LiteRT file")
    beside = path.parent / VOCABULARY
    if not beside.is_file():
        raise UserError(f"{path.parent} holds no {VOCABULARY}: copy it with the model (keras_lm-export --format tflite writes both)")
    try:
        metadata = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{beside} is damaged: {error}") from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(f"{beside} is not of this release of keras_lm: export again")
    return metadata
