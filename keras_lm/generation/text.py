"""Text in, text out: the one place where the sampler meets a tokenizer.

Of an encoder-decoder what is given is a source, and what comes out the target that it writes for it.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf

from keras_lm import cleaning
from keras_lm.errors import UserError
from keras_lm.generation.automata import START, Constraint, Pattern, Regex
from keras_lm.generation.beam import BeamSearch
from keras_lm.generation.contrastive import ContrastiveSearch
from keras_lm.generation.pieces import TextStream
from keras_lm.generation.sampler import Continuation, Sampler
from keras_lm.generation.settings import BeamSettings, ContrastiveSettings, SamplingSettings
from keras_lm.generation.speculative import SpeculativeSampler
from keras_lm.tokenizers import Tokenizer

LOOKUP = "lookup"
"""The `draft` that stands for guesses looked up in the text."""


@dataclasses.dataclass(frozen=True)
class Token:
    """One token of a generated text.

    Attributes:
        text: What it writes; bytes that are no whole character come out as U+FFFD.
        logprob: ln P of it under the model itself, before penalties, temperature and filters.
        alternatives: The most probable tokens in its place, with their ln P, best first.
    """

    text: str
    logprob: float
    alternatives: list[tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class Generated:
    """One generated text.

    Attributes:
        text: What was added to the prompt, without it, up to and without a stop string.
        num_tokens: How many tokens were drawn, an ending one included.
        finish_reason: `"length"`, `"end"` (the model ended the text), `"stop"`, `"context"` (the model's context is full) or `"blocked"`
            (bias, `allow` and the other rules together left nothing to choose). Under `allow` a text is whole with `"length"` and
            `"context"` too: it is led to an end, which may lie at the limit itself.
        tokens: With their log-probabilities, where `top_logprobs` asked for them.
        score: In beam search, what the texts are ordered by.
    """

    text: str
    num_tokens: int
    finish_reason: str
    tokens: list[Token] | None = None
    score: float | None = None


class TextGenerator:
    """Generates text with a model and its tokenizer.

    Args:
        model: A causal model from ids to logits; an encoder-decoder (`keras_lm.seq2seq`), for which prompts are sources, or the part of a
            VAE that writes (`keras_lm.vae.latent_decoder`), for which they are vectors `(batch, latent_dim)`; or a
            `keras_lm.classical.ngram.NGramModel`, which can be sampled, not searched.
        tokenizer: The one it was trained with.
        clean: The cleaners its training text went through.
        documents: Whether its training text was split into documents, each with a start token: prompts then begin with one. A model
            of one long text (`--split contiguous`) gets it for an empty prompt alone.
        draft: A smaller model of the same tokenizer, which guesses ahead (speculative decoding), or `"lookup"`: guesses are looked up in
            the text. `generate` then takes fewer settings; the texts are distributed as without it.
        jit_compile: Whether XLA compiles the sampler.
        longest_source: Tokens of a source that an encoder-decoder reads; of a longer one the end is cut off, with a warning.

    Raises:
        UserError: a tokenizer of another number of tokens than the model's, or a draft that cannot be used.

    Example:

    >>> from keras_lm.models import lstm_lm
    >>> from keras_lm.tokenizers import ByteTokenizer
    >>> generator = TextGenerator(lstm_lm(260, embedding_dim=8, hidden_dim=8), ByteTokenizer())
    >>> result = generator.generate(["Once"], max_new_tokens=5, seed=1)[0]
    >>> result.num_tokens <= 5
    True
    >>> "".join(generator.stream("Once", max_new_tokens=5, seed=1)) == result.text
    True
    """

    def __init__(
        self,
        model: keras.Model,
        tokenizer: Tokenizer,
        *,
        clean: Sequence[str] = (),
        documents: bool = True,
        draft: keras.Model | str | None = None,
        jit_compile: bool = True,
        longest_source: int | None = None,
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.documents = documents
        self.longest_source = longest_source
        self._clean = cleaning.compose(clean)
        self._pieces = tokenizer.pieces()
        self._ids_of = {"end_id": tokenizer.end_id, "never": tokenizer.never, "jit_compile": jit_compile}
        make = getattr(model, "make_sampler", functools.partial(Sampler, model))  # an n-gram model has a sampler of its own
        self.sampler: Sampler = make(pieces=self._pieces, **self._ids_of)
        size = self.sampler.decoder.vocabulary_size
        if size != tokenizer.vocabulary_size:
            sizes = f"the model has {size} tokens, the tokenizer {tokenizer.vocabulary_size}"
            raise UserError(f"{sizes}: give the tokenizer that the model was trained with")
        self.speculative: SpeculativeSampler | None = None
        if draft is not None:
            self._searched()
            if self.sampler.decoder.encoder is not None:
                raise UserError("speculative decoding is for language models: an encoder-decoder takes no draft")
            if isinstance(draft, str) and draft != LOOKUP:
                raise UserError(f"draft must be a model or {LOOKUP!r}, got {draft!r}")
            self.speculative = SpeculativeSampler(model, draft=None if draft == LOOKUP else draft, **self._ids_of)
        self._constraint = functools.lru_cache(maxsize=16)(lambda allow: allow.compile(self._pieces, tokenizer.special_ids))

    def generate(
        self,
        prompts: Sequence[str],
        settings: SamplingSettings | None = None,
        *,
        allow: Pattern | Sequence[Pattern | None] | None = None,
        **knobs: object,
    ) -> list[Generated]:
        """Goes on with each prompt.

        Args:
            prompts: Any number of texts of any lengths.
            settings: How to sample; default `SamplingSettings()`, for an encoder-decoder with temperature 0.
            allow: What the new text may be, in place of `settings.allow`: a `Regex`, a `Choice`, a `Grammar` (`Pattern` says what else), or
                a list with one for each prompt, `None` for a free text. The text is whole at its end, within `max_new_tokens`.
            **knobs: Fields of `SamplingSettings`, in place of `settings` or on top of it.

        Returns:
            `num_samples` `Generated` for each prompt, side by side.

        Raises:
            UserError: a knob out of range, a prompt that fills the context, a bias for text that is not one token, a constraint that no
                text of this tokenizer satisfies, or none short enough.
        """
        settings = dataclasses.replace(settings or self._default, **knobs)
        ids, sources = self._read(prompts)
        rules = self._rules(settings, allow, ids)
        if self.speculative is None:
            continuations = self.sampler.generate(ids, settings, **rules, sources=sources)
        elif allow:
            raise UserError("speculative decoding knows no allow: make the generator without draft")
        else:
            plain = dataclasses.replace(settings, logit_bias=(), forbid=())
            continuations = self.speculative.generate(ids, plain, bias=rules["bias"])
        return [self._generated(continuation, settings.stop) for continuation in continuations]

    def beam_search(
        self,
        prompts: Sequence[str],
        settings: BeamSettings | None = None,
        *,
        stop: Sequence[str] = (),
        allow: Pattern | Sequence[Pattern | None] | None = None,
        **knobs: object,
    ) -> list[list[Generated]]:
        """The most probable continuations of each prompt that a search of some width finds.

        Args:
            prompts: Any number of texts of any lengths.
            settings: How to search; default `BeamSettings()`.
            stop, allow: As in `SamplingSettings` and `generate`.
            **knobs: Fields of `BeamSettings`, in place of `settings` or on top of it.

        Returns:
            For each prompt `num_return` texts, best first, with their scores.

        Raises:
            UserError: as in `generate`.
        """
        settings = dataclasses.replace(settings or BeamSettings(), **knobs)
        ids, sources = self._read(prompts)
        rules = self._rules(dataclasses.replace(settings.sampling(), stop=tuple(stop)), allow, ids)
        found = self._beam_search.generate(ids, settings, **rules, sources=sources)
        return [
            [dataclasses.replace(self._generated(Continuation(beam.ids, beam.finish_reason), stop), score=beam.score) for beam in beams]
            for beams in found
        ]

    def contrastive_search(
        self,
        prompts: Sequence[str],
        settings: ContrastiveSettings | None = None,
        *,
        stop: Sequence[str] = (),
        allow: Pattern | Sequence[Pattern | None] | None = None,
        **knobs: object,
    ) -> list[Generated]:
        """Goes on with each prompt by contrastive search: probable, and unlike what has been said.

        Args:
            prompts, stop, allow: As in `beam_search`.
            settings: How to search; default `ContrastiveSettings()`.
            **knobs: Fields of `ContrastiveSettings`, in place of `settings` or on top of it.

        Returns:
            One text for each prompt.

        Raises:
            UserError: as in `generate`.
        """
        settings = dataclasses.replace(settings or ContrastiveSettings(), **knobs)
        ids, sources = self._read(prompts)
        rules = self._rules(dataclasses.replace(settings.sampling(), stop=tuple(stop)), allow, ids)
        continuations = self._contrastive_search.generate(ids, settings, **rules, sources=sources)
        return [self._generated(continuation, stop) for continuation in continuations]

    @functools.cached_property
    def _default(self) -> SamplingSettings:
        return SamplingSettings() if self.sampler.decoder.encoder is None else SamplingSettings(temperature=0.0)

    @functools.cached_property
    def _beam_search(self) -> BeamSearch:
        return BeamSearch(self._searched(), pieces=self._pieces, **self._ids_of)

    @functools.cached_property
    def _contrastive_search(self) -> ContrastiveSearch:
        return ContrastiveSearch(self._searched(), pieces=self._pieces, **self._ids_of)

    def _searched(self) -> keras.Model:
        if not isinstance(self.model, keras.Model):
            what = "beam search, contrastive search and speculative decoding"
            raise UserError(f"{what} need a Keras model: {type(self.model).__name__} can only be sampled")
        return self.model

    def stream(
        self,
        prompt: str,
        settings: SamplingSettings | None = None,
        *,
        allow: Pattern | None = None,
        chunk_size: int = 8,
        **knobs: object,
    ) -> Iterator[str]:
        """Goes on with one prompt, piece by piece: together they are the text that `generate` gives.

        Args:
            prompt, settings, allow, **knobs: As in `generate`; one sample.
            chunk_size: Tokens drawn in one call of the compiled function: more is faster, fewer come sooner.

        Yields:
            Text that is not empty: whole characters, and never the beginning of a stop string.
        """
        settings = dataclasses.replace(settings or self._default, **{**knobs, "num_samples": 1})
        text = TextStream(self._pieces, settings.stop)
        ids, sources = self._read([prompt])
        rules = self._rules(settings, allow, ids)
        for (part,) in self.sampler.stream(ids, settings, chunk_size=chunk_size, **rules, sources=sources):
            if piece := text.feed(part.ids):
                yield piece
        if piece := text.finish():
            yield piece

    def _read(self, prompts: Sequence[str]) -> tuple[list[list[int]], list[list[int]] | None]:
        """Prompts as the sampler takes them, and what an encoder reads."""
        decoder = self.sampler.decoder
        if decoder.encoder is None:
            return self._ids(prompts), None
        if decoder.source_dim is not None:
            return [[self.tokenizer.start_id] for _ in prompts], prompts
        if not prompts:
            return [], []
        for prompt in prompts:
            if not prompt.strip():
                raise UserError("a source is empty: give at least one word")
        sources = source_ids(self.tokenizer, self._clean(tf.constant(list(prompts)))).to_list()
        longest, limit = max(map(len, sources)), self.longest_source
        if limit and longest > limit:
            warnings.warn(f"a source has {longest} tokens; the model reads the first {limit}", stacklevel=3)
        return [[self.tokenizer.start_id] for _ in prompts], [source[:limit] for source in sources]

    def _ids(self, prompts: Sequence[str]) -> list[list[int]]:
        if not prompts:
            return []
        ids = prompt_ids(self.tokenizer, self._clean(tf.constant(list(prompts))), self.documents).to_list()
        context = self.sampler.decoder.context_length
        for prompt, row in zip(prompts, ids, strict=True):
            check_length(prompt, len(row), context)
        return ids

    def _rules(
        self, settings: SamplingSettings, allow: Pattern | Sequence[Pattern | None] | None, prompts: Sequence[Sequence[int]]
    ) -> dict[str, object]:
        bias = token_biases(self.tokenizer, settings)
        allow = allow or (Regex(settings.allow) if settings.allow else None)
        each = list(allow) if isinstance(allow, Sequence) else [allow] * len(prompts)
        if len(each) != len(prompts):
            raise UserError(f"allow must be one for all prompts, or one for each of the {len(prompts)}, got {len(each)}")
        compiled: dict[Pattern | None, Constraint | None] = {one: one and self._constraint(one) for one in dict.fromkeys(each)}
        limits = self.sampler.limits(list(map(len, prompts)), settings)
        for one, limit in zip(each, limits, strict=True):
            least = compiled[one].distance[START] if one else 0
            if least > limit:
                short = limit == settings.max_new_tokens
                cure = f"raise max_new_tokens from {limit}" if short else f"behind its prompt the context has room for {limit}"
                raise UserError(f"the shortest text that is allowed has {least} tokens: {cure}")
        return {"bias": bias, "stop": [text.encode() for text in settings.stop], "constraint": [compiled[one] for one in each]}

    def _generated(self, continuation: Continuation, stop: Sequence[str]) -> Generated:
        stream = TextStream(self._pieces, stop)
        text = stream.feed(continuation.ids) + stream.finish()
        reason = "stop" if stream.stopped else continuation.finish_reason
        tokens = None if continuation.logprobs is None else written_tokens(self._pieces, continuation)
        return Generated(text, len(continuation.ids), reason, tokens)


def written_tokens(pieces: Sequence[bytes], continuation: Continuation) -> list[Token]:
    """The tokens of a continuation that has log-probabilities, as text."""
    written = lambda token: pieces[token].decode("utf-8", "replace")
    return [
        Token(written(token), logprob, [(written(other), value) for other, value in others])
        for token, logprob, others in zip(continuation.ids, continuation.logprobs, continuation.alternatives, strict=True)
    ]


def token_biases(tokenizer: Tokenizer, settings: SamplingSettings) -> dict[int, float]:
    """`logit_bias` and `forbid` of the settings, by id.

    Raises:
        UserError: text that is not one token.
    """
    biases = {}
    for text, value in settings.biases().items():
        ids = tokenizer.tokenize(tf.constant([text])).to_list()[0]
        if len(ids) != 1 or ids[0] == tokenizer.unknown_id:
            described = "is unknown to" if ids == [tokenizer.unknown_id] else f"is {len(ids)} tokens of"
            raise UserError(f"{text!r} {described} this tokenizer: logit_bias and forbid need exactly one token")
        biases[ids[0]] = value
    return biases


def check_length(prompt: str, length: int, context: int | None) -> None:
    """Raises a `UserError` for a prompt of `length` tokens that leaves no room in the context."""
    if context and length >= context:
        shown = prompt if len(prompt) <= 20 else prompt[:20] + "..."
        raise UserError(f"the prompt {shown!r} has {length} tokens; the context of {context} has room for {context - 1}: shorten it")


def prompt_ids(tokenizer: Tokenizer, prompts: tf.Tensor, documents: bool) -> tf.RaggedTensor:
    """Prompts `(batch,)` → ids `(batch, (tokens))`, the start token in front where the model expects one or the prompt is empty."""
    ids = tokenizer.tokenize(prompts)
    begins = tf.ones_like(ids.row_lengths(), tf.bool) if documents else tf.equal(ids.row_lengths(), 0)
    starts = tf.RaggedTensor.from_row_lengths(
        tf.fill([tf.reduce_sum(tf.cast(begins, tf.int32))], tokenizer.start_id), tf.cast(begins, tf.int64)
    )
    return tf.concat([starts, ids], axis=1)


def source_ids(tokenizer: Tokenizer, sources: tf.Tensor) -> tf.RaggedTensor:
    """Sources `(batch,)` → ids `(batch, (tokens))`, the end token behind each."""
    ids = tokenizer.tokenize(sources)
    ends = tf.fill([ids.nrows(), 1], tf.constant(tokenizer.end_id, tf.int32))
    return tf.concat([ids, ends], axis=1)
