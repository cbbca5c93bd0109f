"""How good a language model is, on text it has not seen: loss, perplexity, bits a character and a byte.

Perplexities of models with different tokenizers cannot be compared, since a token is not the same thing in both; bits a character can.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from keras_lm.errors import UserError
from keras_lm.masking import masked_evaluation_batches
from keras_lm.parallel import DocumentIds, PairIds, pair_evaluation_batches
from keras_lm.pipeline import Tokens, evaluation_batches
from keras_lm.recurrent import run_model, run_stateful, zero_states
from keras_lm.tracing import by_shape


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What a model makes of a text.

    Attributes:
        loss: Mean of -ln P(token | tokens before it), in nats a token.
        perplexity: exp(loss).
        bits_per_character: Cost of the whole text in bits, divided by its Unicode characters.
        bits_per_byte: The same, divided by its UTF-8 bytes.
        tokens: Predicted tokens, document ends included; all but the first.
        characters, bytes: Size of the text.
        unknown_tokens: Tokens that are the unknown one: where there are any, the bits are too few.
    """

    loss: float
    perplexity: float
    bits_per_character: float
    bits_per_byte: float
    tokens: int
    characters: int
    bytes: int
    unknown_tokens: int


@dataclasses.dataclass(frozen=True)
class MaskedEvaluation:
    """What a masked language model makes of a text.

    Attributes:
        loss: Mean of -ln P(token | what is not hidden of its window), in nats a hidden token.
        perplexity: exp(loss).
        tokens: How many tokens were hidden.
    """

    loss: float
    perplexity: float
    tokens: int


class Evaluator:
    """Evaluates one model again and again, compiled once.

    Args:
        model: From ids to logits.
        sequence_length: Tokens a window; a window knows nothing of the one before it, but for `stateful`.
        batch_size: Windows a batch.
        stateful: Whether recurrent states are carried through the text.
        jit_compile: Whether XLA compiles it.

    Example:

    >>> import numpy as np
    >>> from keras_lm.models import gru_lm
    >>> evaluator = Evaluator(gru_lm(10, embedding_dim=4, hidden_dim=4), sequence_length=4, batch_size=2)
    >>> text = Tokens(ids=np.arange(10) % 6 + 4, characters=10, bytes=10, documents=1, unknown=0)
    >>> evaluator(text).tokens
    9
    """

    result_type: type = Evaluation

    def __init__(self, model: keras.Model, *, sequence_length: int, batch_size: int, stateful: bool = False, jit_compile: bool = True):
        self.model, self.sequence_length, self.batch_size, self.stateful = model, sequence_length, batch_size, stateful

        @tf.function(jit_compile=jit_compile, autograph=False)
        def batch_loss(inputs: tf.Tensor | tuple, targets: tf.Tensor, weights: tf.Tensor, states: dict) -> tuple[tf.Tensor, dict]:
            if stateful:
                logits, states = run_stateful(model, inputs, states)
            else:
                logits = run_model(model, list(inputs) if isinstance(inputs, tuple) else inputs)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
            return tf.reduce_sum(losses * weights), states

        self._batch_loss = by_shape(batch_loss, compiled=jit_compile)

    def __call__(
        self,
        tokens: Tokens,
        progress: Callable[[int], None] | None = None,
        *,
        share: tuple[int, int] = (0, 1),
        combine: Callable[[list[float]], list[float]] = list,
    ) -> Evaluation:
        """One pass over `tokens`.

        Args:
            tokens: What to evaluate on.
            progress: Is told the number of tokens done.
            share: `(i, n)`: this process reads every n-th batch from the i-th on; stateful, all of them.
            combine: Sums the total loss and the number of tokens over the processes.

        Raises:
            UserError: fewer than two tokens.
        """
        if len(tokens.ids) < 2:
            raise UserError("the text to evaluate on is empty: another --split (contiguous cuts any text), or more text")
        total, done = 0.0, 0
        states = zero_states(self.model, self.batch_size) if self.stateful else {}
        batches = self._batches(tokens)
        if not self.stateful:
            batches = itertools.islice(batches, share[0], None, share[1])
        for inputs, targets, weights in batches:
            loss, states = self._batch_loss(tf.nest.map_structure(tf.constant, inputs), tf.constant(targets), tf.constant(weights), states)
            total += float(loss)
            done += int(weights.sum())
            if progress:
                progress(done)
        if not self.stateful:
            total, done = combine([total, float(done)])
            done = int(done)
        return self._result(tokens, total, done)

    def _result(self, tokens: Tokens, total: float, done: int) -> Evaluation | MaskedEvaluation:
        bits = total / math.log(2)
        return Evaluation(
            loss=total / done,
            perplexity=math.exp(min(total / done, 700.0)),
            bits_per_character=bits / max(tokens.characters, 1),
            bits_per_byte=bits / max(tokens.bytes, 1),
            tokens=done,
            characters=tokens.characters,
            bytes=tokens.bytes,
            unknown_tokens=tokens.unknown,
        )

    def _batches(self, tokens: Tokens) -> Iterator[tuple]:
        return evaluation_batches(tokens.ids, sequence_length=self.sequence_length, batch_size=self.batch_size, stateful=self.stateful)


class PairEvaluator(Evaluator):
    """Evaluates an encoder-decoder: what it makes of the targets, token by token, given the source and the tokens before.

    Characters and bytes, of which a bit is counted, are those of the targets.

    Args:
        model: From `[source, target]` to logits.
        sequence_length: Tokens to which a source, and a target, is cut.
        batch_size: Pairs a batch.
        jit_compile: Whether XLA compiles it.

    Example:

    >>> import numpy as np
    >>> from keras_lm.seq2seq import rnn_seq2seq
    >>> evaluator = PairEvaluator(rnn_seq2seq(10, embedding_dim=4, hidden_dim=4), sequence_length=8, batch_size=2)
    >>> pair = Tokens(ids=np.array([2, 5, 6, 3, 2, 7, 3]), characters=1, bytes=1, documents=1, unknown=0)
    >>> evaluator(pair).tokens
    2
    """

    def _batches(self, tokens: Tokens) -> Iterator[tuple]:
        for inputs, (labels, weights) in pair_evaluation_batches(PairIds(tokens.ids, self.sequence_length), batch_size=self.batch_size):
            yield inputs, labels, weights


class DocumentEvaluator(Evaluator):
    """Evaluates a language model on documents, each by itself: all of its tokens and its end, and not its start.

    Args:
        model: From ids to logits.
        sequence_length: Tokens to which a document is cut.
        batch_size: Documents a batch.
        jit_compile: Whether XLA compiles it.
    """

    def _batches(self, tokens: Tokens) -> Iterator[tuple]:
        documents = DocumentIds(tokens.ids, self.sequence_length)
        for (_, inputs), (labels, weights) in pair_evaluation_batches(documents, batch_size=self.batch_size):
            yield inputs, labels, weights


class MaskedEvaluator(Evaluator):
    """Evaluates a masked language model on hidden tokens, the same at every pass.

    Args:
        model: From ids to logits, of `keras_lm.models.masked_lm`.
        sequence_length: Tokens a window.
        batch_size: Windows a batch.
        jit_compile: Whether XLA compiles it.
    """

    result_type = MaskedEvaluation

    def _batches(self, tokens: Tokens) -> Iterator[tuple]:
        return masked_evaluation_batches(super()._batches(tokens), self.model.output_shape[-1])

    def _result(self, tokens: Tokens, total: float, done: int) -> MaskedEvaluation:
        return MaskedEvaluation(loss=total / done, perplexity=math.exp(min(total / done, 700.0)), tokens=done)
