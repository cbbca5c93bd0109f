"""Bags of words: a text as the numbers of its words, in no order, and a linear classifier on them.

Article A2 begins its history of language models here. A bag gives no next word a probability, and it knows no order: it is a vector of a
text, not a model of sequences. For telling texts apart that is a good deal, so this is the floor that every later classifier has to beat.
scikit-learn counts and fits; what is kept is its numbers, in JSON and npz.

References:
    Jurafsky and Martin, «Speech and Language Processing», chapters 4 and 5; Manning, Raghavan and Schütze 2008, «Introduction to
    Information Retrieval», chapters 6 and 13.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_lm.errors import UserError, unknown_name
from keras_lm.files import replacing, replacing_folder
from keras_lm.segmentation import segmenter

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WEIGHTINGS = ("tf_idf", "counts")
MODELS = ("logistic_regression", "naive_bayes")


class BagOfWords:
    """Texts → vectors: an entry for each known word, or run of words.

    Words are in lower case, without white space around them; punctuation marks are words too.

    Args:
        document_counts: In how many texts each word stood; a run of words is written with a space between them. The order is that of the
            entries.
        documents: How many texts there were.
        weighting: `"counts"`: how often the word stands in the text. `"tf_idf"` (default): that times ln((1 + texts) / (1 + texts with the
            word)) + 1, and the vector then scaled to length 1 (an empty one stays 0).
        words: What finds words: `"jieba"`, `"characters"`, or `"auto"`, which takes the one or the other as `segmenter` does.
        ngrams: The longest run of words that has an entry of its own.

    Raises:
        UserError: an option that is not known.

    Example:

    >>> bag = BagOfWords.fit(["水开了", "开了水"], weighting="counts", words="characters")
    >>> bag.vocabulary
    ('了', '开', '水')
    >>> bag.vectors(["水水", "开心"]).toarray().tolist()
    [[0.0, 0.0, 2.0], [0.0, 1.0, 0.0]]
    """

    _file = "bag_of_words.json"

    def __init__(
        self, document_counts: Mapping[str, int], documents: int, *, weighting: str = "tf_idf", words: str = "auto", ngrams: int = 1
    ):
        if weighting not in WEIGHTINGS:
            raise unknown_name("weighting", weighting, WEIGHTINGS)
        if ngrams < 1:
            raise UserError(f"ngrams must be at least 1, got {ngrams}")
        self._cut = segmenter(words)
        if words == "auto":  # what is saved has to say which
            words = "jieba" if importlib.util.find_spec("jieba") else "characters"
        self.document_counts, self.documents = dict(document_counts), documents
        self.weighting, self.words, self.ngrams = weighting, words, ngrams
        self.vocabulary = tuple(self.document_counts)
        shares = (1 + documents) / (1 + np.array(list(self.document_counts.values()), np.float64))
        self._idf = np.log(shares) + 1
        self._counter: Any = None

    @classmethod
    def fit(
        cls, texts: Sequence[str], *, weighting: str = "tf_idf", words: str = "auto", ngrams: int = 1, min_documents: int = 1
    ) -> BagOfWords:
        """Takes the words of `texts`, sorted.

        Args:
            texts: To be counted.
            weighting, words, ngrams: As the class takes them.
            min_documents: Words that stand in fewer texts are left out.

        Raises:
            UserError: no texts, or no word that stands in so many.
        """
        _check_texts(texts)
        bag = cls({}, 0, weighting=weighting, words=words, ngrams=ngrams)
        if not any(text.strip() for text in texts):
            raise UserError("there is nothing to count: no text, or empty ones alone")
        counter = bag._vectorizer(min_df=1)
        document_counts = np.diff(counter.fit_transform(texts).tocsc().indptr)
        counted = zip(counter.get_feature_names_out().tolist(), document_counts.tolist(), strict=True)
        kept = {word: count for word, count in counted if count >= min_documents}
        if not kept:
            raise UserError(f"no word stands in {min_documents} texts: lower min_documents")
        return cls(kept, len(texts), weighting=weighting, words=bag.words, ngrams=ngrams)

    def cut(self, text: str) -> list[str]:
        """The words of a text, in their order.

        Example:

        >>> BagOfWords({}, 0, words="characters").cut(" Windows XP 好用！")
        ['windows', 'xp', '好', '用', '！']
        """
        return list(filter(None, (word.strip() for word in self._cut(text.lower()))))

    def vectors(self, texts: Sequence[str]) -> csr_matrix:
        """Texts → `(texts, vocabulary)` float64, sparse. Words that are not known count nowhere."""
        _check_texts(texts)
        if not len(texts):
            raise UserError("there are no texts")
        if self._counter is None:
            self._counter = self._vectorizer(vocabulary=self.vocabulary)
        counts = self._counter.transform(texts).astype(np.float64)
        if self.weighting == "counts":
            return counts
        return _sklearn("preprocessing").normalize(counts.multiply(self._idf).tocsr())

    def _vectorizer(self, **options: object) -> Any:
        return _sklearn("feature_extraction.text").CountVectorizer(
            tokenizer=self.cut, token_pattern=None, lowercase=False, ngram_range=(1, self.ngrams), **options
        )

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `bag_of_words.json` into `folder`."""
        names = ("weighting", "words", "ngrams", "documents", "document_counts")
        with replacing(pathlib.Path(folder) / self._file) as temporary:
            temporary.write_text(_json({name: getattr(self, name) for name in names}), encoding="utf-8")

    @classmethod
    def load(cls, folder: str | os.PathLike) -> BagOfWords:
        """Reads what `save` wrote.

        Raises:
            UserError: no such file, or a damaged one.
        """
        path = pathlib.Path(folder) / cls._file
        with _undamaged(path):
            return cls(**json.loads(path.read_text(encoding="utf-8")))


@dataclasses.dataclass(frozen=True)
class ClassificationScores:
    """How good a classifier is on texts it has not seen.

    Attributes:
        accuracy: The share of texts whose class was found.
        macro_f1: The mean over classes of the harmonic mean of precision and recall: rare classes count as much as common ones.
        texts: How many there were.
    """

    accuracy: float
    macro_f1: float
    texts: int


class BagOfWordsClassifier:
    """A linear classifier: softmax(vector · weights + biases).

    Args:
        bag: Makes the vectors.
        classes: The labels, whole numbers or strings.
        weights: `(vocabulary, classes)`. What is added to a word's weights in all classes alike changes nothing; `fit` gives each row mean
            0, so that a weight says what the word speaks for.
        biases: `(classes,)`.

    Example:

    >>> texts = ["很好，喜欢", "不错，值得买", "很差，后悔", "失望，太差"]
    >>> classifier = BagOfWordsClassifier.fit(texts, [1, 1, 0, 0])
    >>> classifier.predict(["喜欢！", "太差了"])
    [1, 0]
    >>> [word for word, _ in classifier.heaviest_words(0, 1)]
    ['差']
    """

    def __init__(self, bag: BagOfWords, classes: Sequence[int | str], weights: np.ndarray, biases: np.ndarray):
        self.bag, self.classes, self.weights, self.biases = bag, tuple(classes), weights, biases
        if weights.shape != (len(bag.vocabulary), len(self.classes)) or biases.shape != (len(self.classes),):
            raise ValueError(f"{len(bag.vocabulary)} words and {len(self.classes)} classes, weights {weights.shape}, biases {biases.shape}")

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        labels: Sequence[int | str],
        *,
        model: str = "logistic_regression",
        weighting: str = "tf_idf",
        words: str = "characters",
        ngrams: int = 2,
        min_documents: int = 1,
        **options: object,
    ) -> BagOfWordsClassifier:
        """Counts the words, and fits.

        By default it is characters and pairs of them that count, which did best on validation texts (`benchmarks/bag_of_words.py`).

        Args:
            texts: To learn from.
            labels: The class of each, whole numbers or strings.
            model: `"logistic_regression"` (default) or `"naive_bayes"` (multinomial).
            weighting, words, ngrams, min_documents: As `BagOfWords.fit` takes them.
            **options: Of scikit-learn's `LogisticRegression` (such as `C`, the inverse of the L2 penalty, here 3 by default) or
                `MultinomialNB` (`alpha`).

        Raises:
            UserError: an unknown option, no texts, another number of labels than of texts, or one class alone.
        """
        if model not in MODELS:
            raise unknown_name("model", model, MODELS)
        _check_labels(texts, labels)
        bag = BagOfWords.fit(texts, weighting=weighting, words=words, ngrams=ngrams, min_documents=min_documents)
        labels = np.asarray(labels).tolist()
        classes = sorted(set(labels))
        if len(classes) < 2:
            raise UserError(f"labels must be of two classes at least, all are {classes[0]!r}")
        numbers = np.searchsorted(classes, labels)
        if model == "naive_bayes":
            fitted = _sklearn("naive_bayes").MultinomialNB(**options).fit(bag.vectors(texts), numbers)
            weights, biases = fitted.feature_log_prob_.T, fitted.class_log_prior_
        else:
            fitted = _sklearn("linear_model").LogisticRegression(**{"C": 3.0, "max_iter": 1000, **options}).fit(bag.vectors(texts), numbers)
            weights, biases = fitted.coef_.T, fitted.intercept_
            if len(classes) == 2:  # one column, of the second class against the first
                weights, biases = np.hstack([0 * weights, weights]), np.append(0, biases)
        return cls(bag, classes, weights - weights.mean(axis=1, keepdims=True), biases - biases.mean())

    def predict_probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """Texts → `(texts, classes)` float64, in the order of `classes`. A text without a known word gets what the biases say."""
        logits = self.bag.vectors(texts) @ self.weights + self.biases
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def predict(self, texts: Sequence[str]) -> list[int | str]:
        """The most probable class of each text."""
        return [self.classes[number] for number in self.predict_probabilities(texts).argmax(axis=1)]

    def evaluate(self, texts: Sequence[str], labels: Sequence[int | str]) -> ClassificationScores:
        """Accuracy and macro-F1 on texts with known labels.

        Raises:
            UserError: no texts, or another number of labels than of texts.
        """
        _check_labels(texts, labels)
        metrics, predicted = _sklearn("metrics"), self.predict(texts)
        return ClassificationScores(
            accuracy=float(metrics.accuracy_score(labels, predicted)),
            macro_f1=float(metrics.f1_score(labels, predicted, average="macro")),
            texts=len(predicted),
        )

    def heaviest_words(self, label: int | str, number: int = 10) -> list[tuple[str, float]]:
        """The words that speak most for a class, with their weights, heaviest first.

        Raises:
            UserError: no such class.
        """
        if label not in self.classes:
            raise UserError(f"label must be one of {', '.join(map(repr, self.classes))}, got {label!r}")
        column = self.weights[:, self.classes.index(label)]
        return [(self.bag.vocabulary[place], float(column[place])) for place in np.argsort(-column, kind="stable")[:number]]

    def save(self, folder: str | os.PathLike) -> None:
        """Writes a new folder: `bag_of_words.json`, `classes.json`, `weights.npz`.

        Raises:
            UserError: the folder is there already.
        """
        if pathlib.Path(folder).exists():
            raise UserError(f"{folder} is there already: give a new folder, or remove it first")
        with replacing_folder(folder) as temporary:
            self.bag.save(temporary)
            (temporary / "classes.json").write_text(_json(self.classes), encoding="utf-8")
            np.savez_compressed(temporary / "weights.npz", weights=self.weights, biases=self.biases)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> BagOfWordsClassifier:
        """Reads what `save` wrote.

        Raises:
            UserError: a file that is missing or damaged.
        """
        folder = pathlib.Path(folder)
        bag = BagOfWords.load(folder)
        with _undamaged(folder / "classes.json"):
            classes = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
        with _undamaged(folder / "weights.npz"), np.load(folder / "weights.npz") as arrays:
            return cls(bag, classes, arrays["weights"], arrays["biases"])


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise UserError("texts must be a list of texts, got one text: put it into brackets")


def _check_labels(texts: Sequence[str], labels: Sequence[int | str]) -> None:
    _check_texts(texts)
    if len(texts) != len(labels):
        raise UserError(f"there are {len(texts)} texts, but {len(labels)} labels")


def _sklearn(module: str) -> ModuleType:
    try:
        importlib.import_module("sklearn")
    except ModuleNotFoundError:
        raise UserError("bags of words are counted by scikit-learn: pip install 'keras_lm[tasks]'") from None
    return importlib.import_module(f"sklearn.{module}")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


@contextlib.contextmanager
def _undamaged(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path.parent} holds no {path.name}") from None
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged: {error}") from None
