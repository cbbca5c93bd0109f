"""What an export serves, as graphs: strings in, strings out, around the loop of the library (`keras_lm.generation.decode`).

Every input and output has the batch as its first axis, so that TF Serving can batch requests: what is one number for a person is a
`[batch]` tensor here, or one of `[1]` for all rows. Nothing that a client sends hangs a graph or gives NaN: a knob out of range is taken
for the nearest that is allowed (`BOUNDS`), one that is no number for its default; a text that is too long loses its beginning; bytes
that are not UTF-8 become U+FFFD, on the way in and out; a batch of none gives a batch of none. Of a source that is too long an
encoder-decoder reads the beginning.

A row depends on its own inputs alone, not on the requests it is batched with.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_lm import cleaning
from keras_lm.export.attending import attention_signature
from keras_lm.export.compiled import NARROWEST, CompiledDecode, bucket, jit, padded_rows
from keras_lm.export.signature import Input, Signature
from keras_lm.export.stepping import plain_functions, step_signature
from keras_lm.generation.decode import Knobs, Rules, bias_against, decode, dtype_of, left_padded
from keras_lm.generation.settings import FINISH_REASONS, SamplingSettings
from keras_lm.generation.state import Decoder
from keras_lm.generation.text import prompt_ids, source_ids
from keras_lm.recurrent import run_model
from keras_lm.tokenizers import Tokenizer
from keras_lm.vae import is_vae, latent_decoder, posterior_of

MOST_TOKENS = 4096
"""The most tokens of a prompt that are read, and of new ones, for models without a bounded context."""

MOST_CANDIDATES = 100
"""The most tokens that `next_token` lists."""

_FARTHEST = 100.0  # a number of a VAE's vector that lies farther from 0 is taken for this

_SCORE_WINDOW = 128  # tokens of a text that a recurrent model scores at a time

BOUNDS: dict[str, tuple[float, float]] = {
    "max_new_tokens": (1, MOST_TOKENS),
    "min_new_tokens": (0, MOST_TOKENS),
    "repetition_penalty": (1e-6, 1e6),
    "presence_penalty": (-1e6, 1e6),
    "frequency_penalty": (-1e6, 1e6),
    "no_repeat_ngram_size": (0, MOST_TOKENS),
    "temperature": (0.0, 1e6),
    "top_k": (0, 2**31 - 1),
    "top_p": (1e-6, 1.0),
    "min_p": (0.0, 1.0),
    "typical_p": (1e-6, 1.0),
    "epsilon_cutoff": (0.0, 1.0),
    "eta_cutoff": (0.0, 1.0),
    "seed": (-(2**31), 2**31 - 1),
}
"""The least and the most of each knob; a bounded context may leave room for fewer new tokens."""

_LEAST_TEMPERATURE = 1e-20  # below it logits overflow, and the most probable token comes anyway


class Served(tf.Module):
    """What is saved. It tracks the raw variables, not the Keras model: the saver copies Keras' own variables, and the copies are
    missing in a C++ session, where TF Serving looks for them.

    Args:
        model: A causal model from ids to logits.
        tokenizer: The one it was trained with.
        clean, documents, longest_source: As in `keras_lm.generation.text.TextGenerator`.
        defaults: The knobs of `serving_default`, and those that `generate` takes for what is left out.
        xla: Whether XLA compiles what lies between the strings. Not in `step`, whose sizes are its client's, nor in `attention`.

    Attributes:
        entries: The signatures by name (`signatures` is taken: TensorFlow keeps what it loads there).
        read, extend, extend_one: Of a language model, beside the signatures (`keras_lm.export.stepping.plain_functions`).
    """

    def __init__(
        self,
        model: keras.Model,
        tokenizer: Tokenizer,
        *,
        clean: Sequence[str] = (),
        documents: bool = True,
        defaults: SamplingSettings,
        xla: bool = False,
        longest_source: int | None = None,
    ):
        super().__init__()
        self.weights = [variable.value for variable in model.variables]
        self.tokenizer = tokenizer
        decoder = Decoder(model)
        text = Input(tf.TensorSpec([None], tf.string))
        if decoder.encoder is not None:
            pairs = _PairGraphs(decoder, tokenizer, clean, documents, defaults, xla)
            pairs.longest_source = longest_source or decoder.context_length or MOST_TOKENS
            entries = _pair_entries(pairs, text)
            if is_vae(model):
                vectors = _VectorGraphs(Decoder(latent_decoder(model)), tokenizer, clean, documents, defaults, xla)
                entries |= _latent_entries(vectors, posterior_of(model), pairs, text)
            self.entries: dict[str, Signature] = entries
            return
        graphs = _Graphs(decoder, tokenizer, clean, documents, defaults, xla)
        knobs = graphs.knobs()
        k = Input(tf.TensorSpec([None], tf.int32), np.array([10], np.int32), (1, graphs.most_candidates))
        self.entries = {
            "serving_default": Signature("Goes on with each prompt, with the default knobs.", {"prompts": text}, graphs.generate),
            "generate": Signature(
                "Goes on with each prompt. The knobs are those of keras_lm's SamplingSettings, each a value a row or one for all.",
                {"prompts": text, **knobs},
                graphs.generate,
            ),
            "score": Signature(
                "How probable each text is: ln P summed over its tokens, their number, and the perplexity exp(-mean).",
                {"texts": text},
                graphs.score,
            ),
            "next_token": Signature(
                "The k most probable next tokens under the model itself, best first; behind a row's own k stand '', -1 and 0.",
                {"prompts": text, "k": k},
                graphs.next_token,
            ),
            "step": step_signature(decoder, tokenizer.unknown_id),
        }
        if attention := attention_signature(decoder, tokenizer, graphs.ids):
            self.entries["attention"] = attention
        for name, function in plain_functions(decoder).items():
            setattr(self, name, function)


class _Graphs:
    """The functions behind the signatures, and what they share."""

    def __init__(
        self, decoder: Decoder, tokenizer: Tokenizer, clean: Sequence[str], documents: bool, defaults: SamplingSettings, xla: bool
    ):
        self._decoder, self._tokenizer, self._documents = decoder, tokenizer, documents
        self._cleaner = cleaning.compose(clean)
        self._pieces = tokenizer.pieces()
        self._bias = bias_against(tokenizer.never, decoder.vocabulary_size).numpy()
        self.defaults = {name: np.array([getattr(defaults, name)], dtype_of(name).as_numpy_dtype) for name in Knobs.names()}
        self.most_candidates = min(MOST_CANDIDATES, decoder.vocabulary_size)
        self._xla = xla
        self._decode = CompiledDecode(decoder) if xla else functools.partial(decode, decoder)
        self._probabilities = jit(self._next_probabilities) if xla else self._next_probabilities
        self._sum = jit(self._log_likelihood) if xla else self._log_likelihood
        self._completed = tf.function(self._complete, autograph=False)  # traced once, for two signatures

    def knobs(self) -> dict[str, Input]:
        """What `generate` takes besides the text."""
        return {name: Input(tf.TensorSpec([None], dtype_of(name)), value, BOUNDS[name]) for name, value in self.defaults.items()}

    def generate(self, prompts: tf.Tensor, *knobs: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.shape(prompts)[:1]
        given = dict(zip(Knobs.names(), knobs or self.defaults.values(), strict=True))
        given = {name: tf.broadcast_to(_bounded(name, value, self.defaults[name]), rows) for name, value in given.items()}
        nothing = lambda: (tf.zeros([0], tf.string), tf.zeros([0], tf.int32), tf.zeros([0], tf.string))
        text, lengths, reasons = tf.cond(tf.size(prompts) > 0, lambda: self._completed(prompts, given), nothing)
        return {"text": text, "num_tokens": lengths, "finish_reason": reasons}

    def _complete(self, prompts: tf.Tensor, given: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        rows, context = tf.shape(prompts)[:1], self._decoder.context_length
        knobs = Knobs(**given)
        prompt, padding = self._padded(prompts, context - 1 if context else MOST_TOKENS)
        width = tf.shape(prompt)[1]
        if context:  # what is kept of a prompt leaves room for the new tokens, but they may not push out more than half of it
            padding = tf.maximum(padding, width - (context - tf.minimum(knobs.max_new_tokens, context // 2)))
            room = context - (width - padding)
        else:
            room = tf.fill(rows, MOST_TOKENS)
        capacity = tf.reduce_max(tf.minimum(knobs.max_new_tokens, room))
        return self._written(prompt, padding, knobs, capacity=capacity, room=room)

    def _written(self, prompt: tf.Tensor, padding: tf.Tensor, knobs: Knobs, **sizes: tf.Tensor) -> tuple[tf.Tensor, ...]:
        rules = Rules(end_id=self._tokenizer.end_id, bias=tf.constant(self._bias))
        new, lengths, reasons = self._decode(prompt, padding, knobs, rules, **sizes)
        written = tf.sequence_mask(lengths, tf.shape(new)[1])  # behind a text's end stand ids that are not of it
        text = tf.strings.reduce_join(tf.where(written, tf.gather(tf.constant(self._pieces), new), ""), axis=1)
        return valid_utf8(text), lengths, tf.gather(tf.constant(FINISH_REASONS), reasons)

    def next_token(self, prompts: tf.Tensor, k: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = tf.shape(prompts)[0]
        wanted = tf.broadcast_to(tf.clip_by_value(k, 1, self.most_candidates), [rows])
        most = tf.reduce_max(tf.concat([wanted, [1]], axis=0))

        def look() -> tuple[tf.Tensor, tf.Tensor]:
            prompt, padding = self._padded(prompts, self._decoder.context_length or MOST_TOKENS)
            batch = bucket(rows) if self._xla else rows
            width = tf.shape(prompt)[1]
            probabilities = self._probabilities(padded_rows(prompt, batch), padded_rows(padding, batch, width - 1))
            return tuple(tf.math.top_k(probabilities[:rows], most))

        values, ids = tf.cond(rows > 0, look, lambda: (tf.zeros([0, most]), tf.zeros([0, most], tf.int32)))
        asked = tf.range(most)[None] < wanted[:, None]
        pieces = tf.constant([piece.decode("utf-8", "replace").encode() for piece in self._pieces])
        return {
            "tokens": tf.where(asked, tf.gather(pieces, ids), ""),
            "ids": tf.where(asked, ids, -1),
            "probabilities": tf.where(asked, values, 0.0),
        }

    def _next_probabilities(self, prompt: tf.Tensor, padding: tf.Tensor) -> tf.Tensor:
        state = self._decoder.init_state(*tf.unstack(tf.shape(prompt)))
        logits, _ = self._decoder.extend(prompt, state, 0, padding)
        return tf.nn.softmax(logits)

    def score(self, texts: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = self._tokenizer.tokenize(self._cleaner(valid_utf8(texts)))
        rows = tf.shape(texts)[0]
        if self._documents:
            ids = tf.concat([tf.fill([rows, 1], self._tokenizer.start_id), ids], axis=1)
        count = tf.maximum(tf.cast(ids.row_lengths(), tf.int32) - 1, 0)
        window = self._decoder.context_length or _SCORE_WINDOW
        windows = -(-tf.reduce_max(tf.concat([count, [1]], axis=0)) // window)
        windows, batch = (bucket(windows), bucket(rows)) if self._xla else (windows, rows)
        dense = padded_rows(ids.to_tensor(shape=[None, None]), batch)
        dense = tf.pad(dense, [[0, 0], [0, tf.maximum(windows * window + 1 - tf.shape(dense)[1], 0)]])[:, : windows * window + 1]
        log_likelihood = self._sum(dense, padded_rows(count, batch))[:rows]
        mean = tf.math.divide_no_nan(log_likelihood, tf.cast(count, tf.float32))
        return {"log_likelihood": log_likelihood, "num_tokens": count, "perplexity": tf.exp(-mean)}

    def _log_likelihood(self, ids: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """Sum of ln P(token | tokens before it) over the `count` tokens behind the first of each row.

        A text longer than the context is cut into windows that know nothing of each other, as in `keras_lm.evaluation`.
        """
        decoder, window = self._decoder, self._decoder.context_length or _SCORE_WINDOW
        batch, windows = tf.shape(ids)[0], tf.shape(ids)[1] // window

        def add(number, total, state):
            start = number * window
            piece = tf.gather(ids, start + tf.range(window + 1), axis=1)
            inputs, targets = piece[:, :-1], piece[:, 1:]
            if decoder.context_length is None:  # states go on; padding is on the right, where nothing follows
                logits, state = decoder.extend_all(inputs, state, start, tf.zeros([batch], tf.int32))
            else:
                logits = decoder.model(inputs, training=False)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
            real = tf.cast(start + tf.range(window)[None] < count[:, None], tf.float32)
            return number + 1, total - tf.reduce_sum(losses * real, axis=1), state

        state = decoder.init_state(batch, window) if decoder.context_length is None else {}
        carried = (tf.constant(0), tf.zeros([batch]), state)
        shapes = tf.nest.map_structure(lambda tensor: tensor.shape, carried)
        return tf.while_loop(lambda number, *_: number < windows, add, carried, shape_invariants=shapes)[1]

    def ids(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """What the model reads of each text: `(batch, (tokens))`, the start token in front where it expects one."""
        return prompt_ids(self._tokenizer, self._cleaner(valid_utf8(texts)), self._documents)

    def _padded(self, prompts: tf.Tensor, most: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The last `most` ids of each prompt, padded on the left, and the padding of each row: `(batch, n)` and `(batch,)`, n over 1."""
        ids = self.ids(prompts)
        longest = tf.maximum(tf.minimum(tf.cast(tf.reduce_max(ids.row_lengths()), tf.int32), most), 1)
        return left_padded(ids[:, -most:], 1 + (bucket(longest, min(NARROWEST, most)) if self._xla else longest))


class _PairGraphs(_Graphs):
    """The same of an encoder-decoder: sources in place of prompts."""

    longest_source: int

    def _complete(self, sources: tf.Tensor, given: dict[str, tf.Tensor]) -> tuple[tf.Tensor, ...]:
        rows, context, knobs = tf.shape(sources)[0], self._decoder.context_length, Knobs(**given)
        prompt = tf.repeat([[self._tokenizer.pad_id, self._tokenizer.start_id]], rows, axis=0)
        room = tf.fill([rows], context - 1 if context else MOST_TOKENS)
        capacity = tf.reduce_max(tf.minimum(knobs.max_new_tokens, room))
        return self._written(prompt, tf.ones([rows], tf.int32), knobs, capacity=capacity, room=room, source=self.sources(sources))

    def score(self, sources: tf.Tensor, targets: tf.Tensor) -> dict[str, tf.Tensor]:
        nothing = lambda: (tf.zeros([0]), tf.zeros([0], tf.int32))
        log_likelihood, count = tf.cond(tf.size(sources) > 0, lambda: self._scored(sources, targets), nothing)
        mean = tf.math.divide_no_nan(log_likelihood, tf.cast(count, tf.float32))
        return {"log_likelihood": log_likelihood, "num_tokens": count, "perplexity": tf.exp(-mean)}

    def _scored(self, sources: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        tokenizer, most = self._tokenizer, self._decoder.context_length or MOST_TOKENS
        ids = tokenizer.tokenize(self._cleaner(valid_utf8(targets)))[:, :most]
        start, end = (tf.fill([tf.shape(sources)[0], 1], edge) for edge in (tokenizer.start_id, tokenizer.end_id))
        labels = tf.concat([ids, end], axis=1)[:, :most]
        count = tf.cast(labels.row_lengths(), tf.int32)
        inputs = tf.concat([start, ids], axis=1)[:, :most]
        logits = run_model(self._decoder.model, [self.sources(sources), inputs.to_tensor(shape=[None, None])])
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels.to_tensor(shape=[None, None]), logits)
        return -tf.reduce_sum(losses * tf.sequence_mask(count, tf.shape(losses)[1], tf.float32), axis=1), count

    def sources(self, sources: tf.Tensor) -> tf.Tensor:
        return source_ids(self._tokenizer, self._cleaner(valid_utf8(sources)))[:, : self.longest_source].to_tensor(shape=[None, None])


def _pair_entries(graphs: _PairGraphs, text: Input) -> dict[str, Signature]:
    return {
        "serving_default": Signature("Writes a target for each source, with the default knobs.", {"sources": text}, graphs.generate),
        "generate": Signature(
            "Writes a target for each source. The knobs are those of keras_lm's SamplingSettings, each a value a row or one for all.",
            {"sources": text, **graphs.knobs()},
            graphs.generate,
        ),
        "score": Signature(
            "How probable each target is, given its source: ln P summed over its tokens and its end, their number, and exp(-mean).",
            {"sources": text, "targets": text},
            graphs.score,
        ),
    }


class _VectorGraphs(_PairGraphs):
    """The same of the part of a VAE that writes: vectors in place of sources."""

    def sources(self, vectors: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(tf.where(tf.math.is_nan(vectors), 0.0, vectors), -_FARTHEST, _FARTHEST)


def _latent_entries(vectors: _VectorGraphs, reader: keras.Model, pairs: _PairGraphs, text: Input) -> dict[str, Signature]:
    def encode(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        some = tf.cond(tf.size(texts) > 0, lambda: texts, lambda: tf.constant([""]))
        mean, log_variance = tf.split(run_model(reader, pairs.sources(some))[: tf.size(texts)], 2, axis=1)
        return {"vectors": mean, "deviations": tf.exp(0.5 * log_variance)}

    vector = Input(tf.TensorSpec([None, reader.output_shape[-1] // 2], tf.float32))
    return {
        "encode": Signature("The vector of each sentence: mean and standard deviations of its posterior.", {"texts": text}, encode),
        "decode": Signature(
            "Writes a sentence from each vector, with the default knobs: one of encode, one between two, or one drawn from N(0, 1).",
            {"vectors": vector},
            vectors.generate,
        ),
    }


def _bounded(name: str, value: tf.Tensor, default: np.ndarray) -> tf.Tensor:
    """What a client sends, brought into the range that `SamplingSettings` allows."""
    value = tf.convert_to_tensor(value)
    if value.dtype.is_floating:
        value = tf.where(tf.math.is_nan(value), default, value)
    value = tf.clip_by_value(value, *BOUNDS[name])
    return tf.where(value < _LEAST_TEMPERATURE, 0.0, value) if name == "temperature" else value


def valid_utf8(text: tf.Tensor) -> tf.Tensor:
    return tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace", replace_control_characters=False)
