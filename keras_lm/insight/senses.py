"""Does a vector know which sense of a word is meant? A small set of Chinese sentences with the senses of a word marked, and a measure.

A word's row in an embedding, be it Word2Vec's or a language model's own, is one for all its senses; the state of a language model at the
word is another in every sentence (article A4 §2.2 takes the one for the other). Whether that difference is one of sense is measured: the
nearest other sentence with the same word, by cosine, has the same sense or has not.

`senses.tsv` was written for this: 14 words of newspaper Chinese, two senses of each, eight sentences a sense, the word once in each
sentence. A causal model has read nothing right of the word, so it is the left context that tells the senses apart, and that alone is read.

References:
    Peters et al. 2018, arXiv:1802.05365 (contextual vectors). Schütze 1998 (senses as clusters of contexts). Rousseeuw 1987 (silhouette).
"""

from __future__ import annotations

import dataclasses
import importlib.resources
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_lm.errors import UserError
from keras_lm.insight.states import layer_states


@dataclasses.dataclass(frozen=True)
class SenseExample:
    """A sentence, a word in it, and the sense in which it stands there.

    Raises:
        UserError: a word that is not in the sentence.

    Example:

    >>> SenseExample("难", "hard", "这道题太难，没有人做出来。").left
    '这道题太难'
    """

    word: str
    sense: str
    sentence: str

    def __post_init__(self) -> None:
        if not self.word or self.word not in self.sentence:
            raise UserError(f"the word {self.word!r} is not in the sentence {self.sentence!r}")

    @property
    def left(self) -> str:
        """The sentence up to the word's first occurrence and with it: all that a causal model has read there."""
        return self.sentence[: self.sentence.index(self.word) + len(self.word)]


def load_senses() -> list[SenseExample]:
    """The set that comes with the package.

    Returns:
        In the order of words, and of senses in them.

    Example:

    >>> examples = load_senses()
    >>> len(examples), len({example.word for example in examples})
    (224, 14)
    """
    text = importlib.resources.files("keras_lm.insight").joinpath("senses.tsv").read_text(encoding="utf-8")
    return [SenseExample(*line.split("\t")) for line in text.splitlines()[1:]]


def sense_states(model: keras.Model, tokenizer: Any, examples: Sequence[SenseExample]) -> dict[str, np.ndarray]:
    """The states of a language model at the words, layer by layer.

    Args:
        model: Sequential or Functional, from ids to logits, causal.
        tokenizer: The one it was trained with.
        examples: Sentences; each is read from a start token up to its word.

    Returns:
        By layer name, the embedding first, `(examples, units)`: what the layer gives at the word's last token.

    Raises:
        UserError: no examples, or a character that the tokenizer does not know.
    """
    if not examples:
        raise UserError("there are no examples to read")
    rows = [[tokenizer.start_id, *row] for row in _tokens(tokenizer, [example.left for example in examples])]
    ids = np.full([len(rows), max(map(len, rows))], tokenizer.pad_id, np.int32)
    for row, tokens in zip(ids, rows, strict=True):
        row[: len(tokens)] = tokens  # what follows the word is not seen by a causal model
    last = np.array([len(tokens) - 1 for tokens in rows])
    return {name: states[np.arange(len(rows)), last] for name, states in layer_states(model, ids).items()}


def static_vectors(matrix: np.ndarray, tokenizer: Any, examples: Sequence[SenseExample]) -> np.ndarray:
    """The words' vectors as any embedding gives them: the mean over a word's tokens, the same in all sentences.

    Args:
        matrix: `(vocabulary_size, dim)`, a row for each id.
        tokenizer: Gives the ids.
        examples: Sentences.

    Returns:
        `(examples, dim)`.

    Raises:
        UserError: a character that the tokenizer does not know, or a matrix of another vocabulary.
    """
    return _means(matrix, tokenizer, _tokens(tokenizer, [example.word for example in examples]))


def context_means(matrix: np.ndarray, tokenizer: Any, examples: Sequence[SenseExample], window: int | None = None) -> np.ndarray:
    """A bag of what stands before the words: the mean of static vectors. The control: a state worth its name should do better.

    Args:
        matrix: `(vocabulary_size, dim)`, a row for each id.
        tokenizer: Gives the ids.
        examples: Sentences.
        window: How many tokens before the word to take; default all.

    Returns:
        `(examples, dim)`; zeros where nothing stands before the word.

    Raises:
        UserError: as `static_vectors`, and a window below 1.
    """
    if window is not None and window < 1:
        raise UserError(f"window must be at least 1, got {window}")
    rows = _tokens(tokenizer, [example.left[: -len(example.word)] for example in examples])
    return _means(matrix, tokenizer, [row[-window:] if window else row for row in rows])


@dataclasses.dataclass(frozen=True)
class Separation:
    """How well vectors tell the senses of one word apart.

    Attributes:
        word: The word.
        accuracy: Share of sentences whose nearest neighbour among the word's others has the same sense; ties count in part.
        chance: What vectors that are all the same come to: with 8 and 8 sentences 7/15, as a sentence does not count for itself.
        silhouette: Mean of (b - a) / max(a, b), with a the mean distance within the sense and b that to the other; from -1 to 1.
    """

    word: str
    accuracy: float
    chance: float
    silhouette: float


def sense_separation(vectors: np.ndarray, examples: Sequence[SenseExample]) -> list[Separation]:
    """Measures, word by word, whether sentences with the same sense lie together; distances are 1 - cosine.

    Args:
        vectors: `(examples, dim)`, a row for each example.
        examples: With two senses or more of each word, and two sentences or more of each sense.

    Returns:
        One for each word, in the order of their first examples.

    Raises:
        UserError: as many vectors as examples are needed; a word with one sense, or a sense with one sentence.

    Example:

    >>> examples = [SenseExample("难", sense, "难") for sense in ("hard", "hard", "disaster", "disaster")]
    >>> vectors = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> sense_separation(vectors, examples)[0].accuracy
    1.0
    """
    vectors = np.asarray(vectors, np.float64)
    if len(vectors) != len(examples):
        raise UserError(f"one vector an example is needed, got {len(vectors)} for {len(examples)}")
    found = []
    for word in dict.fromkeys(example.word for example in examples):
        rows = [number for number, example in enumerate(examples) if example.word == word]
        senses = np.array([examples[number].sense for number in rows])
        names, counts = np.unique(senses, return_counts=True)
        if len(names) < 2 or counts.min() < 2:
            got = dict(zip(names.tolist(), counts.tolist(), strict=True))
            raise UserError(f"{word!r} needs two senses or more with two sentences or more each, got {got}")
        distances = _cosine_distances(vectors[rows])
        same = senses[:, None] == senses[None]
        found.append(
            Separation(
                word=word,
                accuracy=_nearest_neighbour(distances, same),
                chance=float(np.mean((same.sum(axis=1) - 1) / (len(rows) - 1))),
                silhouette=_silhouette(distances, senses),
            )
        )
    return found


def _tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    rows = tokenizer.tokenize(list(texts)).to_list()
    for text, row in zip(texts, rows, strict=True):
        if tokenizer.unknown_id in row:
            raise UserError(f"{text!r} holds a character that the tokenizer does not know: give it one that was made of more text")
    return rows


def _means(matrix: np.ndarray, tokenizer: Any, rows: list[list[int]]) -> np.ndarray:
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or len(matrix) != tokenizer.vocabulary_size:
        raise UserError(f"the matrix needs a row for each of {tokenizer.vocabulary_size} ids, got {matrix.shape}")
    return np.stack([matrix[row].mean(axis=0) if row else np.zeros(matrix.shape[1]) for row in rows])


def _cosine_distances(vectors: np.ndarray) -> np.ndarray:
    """`(n, n)`, 1 - cosine, rounded so that equal vectors are equally far from all others; a vector of zeros is at 1 from every other."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    distances = np.round(1 - unit @ unit.T, 12)
    np.fill_diagonal(distances, 0)
    return distances


def _nearest_neighbour(distances: np.ndarray, same: np.ndarray) -> float:
    others = distances + np.where(np.eye(len(distances)), np.inf, 0)
    nearest = others == others.min(axis=1, keepdims=True)
    return float(np.mean((nearest & same).sum(axis=1) / nearest.sum(axis=1)))


def _silhouette(distances: np.ndarray, senses: np.ndarray) -> float:
    scores = []
    for row, sense in zip(distances, senses, strict=True):
        within = row[senses == sense].sum() / ((senses == sense).sum() - 1)
        between = min(row[senses == other].mean() for other in set(senses) - {sense})
        scores.append((between - within) / max(between, within) if max(between, within) > 0 else 0.0)
    return float(np.mean(scores))
