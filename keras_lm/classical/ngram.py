"""N-gram language models: the probability of a word after the n - 1 before it, from counts.

Article A2 names them and A3 §4.1 builds on them without saying what happens to words that were never seen together; here are maximum
likelihood, which gives those probability 0, and two ways of smoothing. They work on ids, as everything after the tokenizer does, so any
tokenizer serves; a perplexity is comparable to a neural model's with the same tokenizer, bits a character to any model's.

References:
    Jurafsky and Martin, «Speech and Language Processing», chapter 3.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_lm.classical.counting import NGramIndex, check_ids, count_ngrams
from keras_lm.classical.smoothing import SMOOTHINGS
from keras_lm.errors import UserError, unknown_name
from keras_lm.evaluation import Evaluation
from keras_lm.pipeline import Tokens

if TYPE_CHECKING:
    from keras_lm.classical.sampling import NGramSampler


class NGramModel:
    """An n-gram model over the ids of a tokenizer.

    Args:
        index: Its n-grams.
        log_probabilities: For each order and n-gram ln P of the last word after the others, `(size,)`; -inf is a probability of 0.
        log_backoffs: For each order and n-gram ln of the weight of shorter n-grams, for words never seen after it, `(size,)`.
        start_id: The token that begins a document, which is given and never predicted.

    Example:

    >>> ids = np.array([2, 4, 5, 3, 2, 4, 6, 3])  # two documents: start 4 5 end, start 4 6 end
    >>> model = NGramModel.fit(ids, order=2, vocabulary_size=7, smoothing="mle")
    >>> np.exp(model.log_probabilities(ids)).tolist()
    [nan, 1.0, 0.5, 1.0, nan, 1.0, 0.5, 1.0]
    """

    def __init__(
        self, index: NGramIndex, log_probabilities: Sequence[np.ndarray], log_backoffs: Sequence[np.ndarray], *, start_id: int = 2
    ):
        self.index = index
        self.start_id = start_id
        self.log_probabilities_of = [np.asarray(values, np.float32) for values in log_probabilities]
        self.log_backoffs_of = [np.asarray(values, np.float32) for values in log_backoffs]

    @property
    def order(self) -> int:
        return self.index.order

    @property
    def vocabulary_size(self) -> int:
        return self.index.vocabulary_size

    @classmethod
    def fit(
        cls,
        ids: np.ndarray,
        order: int,
        *,
        vocabulary_size: int,
        smoothing: str = "modified_kneser_ney",
        pad_id: int = 0,
        start_id: int = 2,
        **options: object,
    ) -> NGramModel:
        """Counts and smooths.

        Args:
            ids: `(tokens,)`, as `pipeline.Tokens.ids` are: documents in a row, each begun by `start_id`, or one text.
            order: n, the number of words an n-gram has.
            vocabulary_size: The number of ids.
            smoothing: `"modified_kneser_ney"` (default), `"kneser_ney"`, `"add_k"` or `"mle"` (maximum likelihood).
            pad_id, start_id: The ids that are never predicted.
            **options: `k` of add-k, `discounts` of Kneser-Ney.

        Raises:
            UserError: an order below 1 or above the length of the text, an empty text, an unknown smoothing or option of it.
        """
        if smoothing not in SMOOTHINGS:
            raise unknown_name("smoothing", smoothing, SMOOTHINGS)
        for name in options.keys() - inspect.signature(SMOOTHINGS[smoothing]).parameters.keys():
            raise UserError(f"smoothing {smoothing!r} takes no {name}")
        counts = count_ngrams(ids, order, vocabulary_size=vocabulary_size, pad_id=pad_id, start_id=start_id)
        return cls(counts.index, *SMOOTHINGS[smoothing](counts, **options), start_id=start_id)

    def log_probabilities(self, ids: np.ndarray) -> np.ndarray:
        """ln P of each token after those before it.

        Args:
            ids: `(tokens,)`.

        Returns:
            `(tokens,)` float32; NaN for tokens that begin a document.

        Raises:
            UserError: an id that the vocabulary has not.
        """
        ids = np.asarray(ids[:], np.int64)
        check_ids(ids, self.vocabulary_size)
        rows = self.index.rows(ids)
        longest = (rows >= 0).sum(axis=0)
        result = np.zeros(len(ids), np.float32)
        for length in range(1, self.order + 1):
            here = longest == length
            result[here] = self.log_probabilities_of[length - 1][rows[length - 1, here]]
            # The n-gram with this context was never seen: it is the weight of the context that counts, if the context was.
            context = np.full(len(ids), -1, np.int64)
            context[1:] = rows[length - 1, :-1]
            shortened = (longest <= length) & (context >= 0) & (length < self.order)
            result[shortened] += self.log_backoffs_of[length - 1][context[shortened]]
        return np.where(ids == self.start_id, np.nan, result)

    def next_log_probabilities(self, context: Sequence[int]) -> np.ndarray:
        """ln P of every token after a context, of which the last `order - 1` tokens count.

        Returns:
            `(vocabulary,)` float32.

        Raises:
            UserError: an id that the vocabulary has not.
        """
        last = np.asarray(context[max(0, len(context) - self.order + 1) :] if self.order > 1 else [], np.int64)
        check_ids(last, self.vocabulary_size)
        begin = np.flatnonzero(last == self.start_id)
        last = last[begin[-1] :] if len(begin) else last
        result = self.log_probabilities_of[0].copy()
        for length in range(1, len(last) + 1):
            row = self.index.rows(last[-length:])[-1 if length == self.order else length - 1, -1]
            if row >= 0:
                children = self.index.children(length, row)
                result += self.log_backoffs_of[length - 1][row]
                result[self.index.words(length + 1, children)] = self.log_probabilities_of[length][children]
        return result

    def make_sampler(self, **options: object) -> NGramSampler:
        """What `TextGenerator` samples with; options as in `NGramSampler`."""
        from keras_lm.classical.sampling import NGramSampler  # which needs this module

        return NGramSampler(self, **options)

    def evaluate(self, tokens: Tokens) -> Evaluation:
        """The model on a text: loss, perplexity, bits a character.

        Tokens that begin a document are given, not predicted. Each other token counts, the first of a text without such tokens too. A token
        of probability 0 (maximum likelihood) makes the loss infinite.

        Raises:
            UserError: an empty text.
        """
        values = self.log_probabilities(tokens.ids)
        values = values[~np.isnan(values)].astype(np.float64)
        if not len(values):
            raise UserError("the text to evaluate on is empty: another --split (contiguous cuts any text), or more text")
        total = -float(values.sum())
        bits = total / math.log(2)
        return Evaluation(
            loss=total / len(values),
            perplexity=float(np.exp(total / len(values))),
            bits_per_character=bits / max(tokens.characters, 1),
            bits_per_byte=bits / max(tokens.bytes, 1),
            tokens=len(values),
            characters=tokens.characters,
            bytes=tokens.bytes,
            unknown_tokens=tokens.unknown,
        )
