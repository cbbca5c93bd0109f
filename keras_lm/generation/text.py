"""Text in, text out: the one place where the sampler meets a tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_lm import cleaning
from keras_lm.errors import UserError
from keras_lm.generation.sampler import Sampler
from keras_lm.generation.settings import SamplingSettings
from keras_lm.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Generated:
    """One generated text.

    Attributes:
        text: What was added to the prompt, without it, up to and without a stop string.
        num_tokens: How many tokens were drawn, an ending one included.
        finish_reason: `"length"`, `"end"` (the model ended the text) or `"stop"`.
    """

    text: str
    num_tokens: int
    finish_reason: str


class TextGenerator:
    """Generates text with a model and its tokenizer.

    Args:
        model: A causal model from ids to logits.
        tokenizer: The one it was trained with.
        clean: The cleaners its training text went through.
        documents: Whether its training text was split into documents, each with a start token: prompts then begin with one. A model
            of one long text (`--split contiguous`) gets it for an empty prompt alone.
        jit_compile: Whether XLA compiles the sampler.

    Example:

    >>> from keras_lm.models import lstm_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> generator = TextGenerator(lstm_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer())
    >>> result = generator.generate(["Once"], max_new_tokens=5, seed=1)[0]
    >>> result.num_tokens <= 5
    True
    """

    def __init__(
        self, model: keras.Model, tokenizer: Tokenizer, *, clean: Sequence[str] = (), documents: bool = True, jit_compile: bool = True
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.documents = documents
        self._clean = cleaning.compose(clean)
        never = (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id)
        self.sampler = Sampler(model, end_id=tokenizer.end_id, never=never, jit_compile=jit_compile)

    def generate(self, prompts: Sequence[str], settings: SamplingSettings | None = None, **knobs: object) -> list[Generated]:
        """Goes on with each prompt.

        Args:
            prompts: Any number of texts of any lengths.
            settings: How to sample; default `SamplingSettings()`.
            **knobs: Fields of `SamplingSettings`, in place of `settings` or on top of it.

        Returns:
            One `Generated` a prompt.

        Raises:
            UserError: a knob out of range, or a prompt that fills the context.
        """
        settings = dataclasses.replace(settings or SamplingSettings(), **knobs)
        if not prompts:
            return []
        ids = prompt_ids(self.tokenizer, self._clean(tf.constant(list(prompts))), self.documents).to_list()
        context = self.sampler.decoder.context_length
        for prompt, row in zip(prompts, ids, strict=True):
            if context and len(row) >= context:
                shown = prompt if len(prompt) <= 20 else prompt[:20] + "..."
                raise UserError(
                    f"the prompt {shown!r} has {len(row)} tokens; the context of {context} has room for {context - 1}: shorten it"
                )
        stop = self.tokenizer.tokenize(tf.constant(list(settings.stop))).to_list() if settings.stop else []
        rows, reasons = self.sampler.generate(ids, settings, stop=stop)
        texts = self.tokenizer.detokenize(tf.ragged.constant(rows, dtype=tf.int32, ragged_rank=1)).numpy()
        results = []
        for text, row, reason in zip(texts, rows, reasons, strict=True):
            text = text.decode("utf-8", "replace")
            found = [place for place in map(text.find, settings.stop) if place >= 0]
            results.append(Generated(text[: min(found)] if found else text, len(row), "stop" if found else reason))
        return results


def prompt_ids(tokenizer: Tokenizer, prompts: tf.Tensor, documents: bool) -> tf.RaggedTensor:
    """Prompts `(batch,)` → ids `(batch, (tokens))`, the start token in front where the model expects one or the prompt is empty."""
    ids = tokenizer.tokenize(prompts)
    begins = tf.ones_like(ids.row_lengths(), tf.bool) if documents else tf.equal(ids.row_lengths(), 0)
    starts = tf.RaggedTensor.from_row_lengths(
        tf.fill([tf.reduce_sum(tf.cast(begins, tf.int32))], tokenizer.start_id), tf.cast(begins, tf.int64)
    )
    return tf.concat([starts, ids], axis=1)
