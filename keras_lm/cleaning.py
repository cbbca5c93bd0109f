"""Normalising text before it is split into tokens: string → string, inside the graph (articles A1 and A4, data preparation).

Each cleaner maps a string tensor to a string tensor of the same shape, so that the same function serves `tf.data`, the sampler's
prompts and the exported model. What is cleaned away in training must be cleaned away from a prompt too: the settings of a run
keep the list.

`desensitize` is a map of the same form and no cleaner: it is for texts to learn from alone, before they are cleaned
(`keras_lm.privacy.desensitizing` says why), and Python inside `tf.numpy_function`, so that no export can hold it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lm.errors import unknown_name
from keras_lm.privacy.desensitizing import Desensitizer

Cleaner = Callable[[tf.Tensor], tf.Tensor]


def strip_control(text: tf.Tensor) -> tf.Tensor:
    """Removes control and format characters (Unicode Cc and Cf) but tab and line feed.

    >>> strip_control(tf.constant(["a\\u200bb\\x07c"])).numpy()[0]
    b'abc'
    """
    # RE2 has no class subtraction: the C0 controls are listed around tab (09) and line feed (0A).
    return tf.strings.regex_replace(text, r"[\x00-\x08\x0b-\x1f\x7f-\x{9f}\p{Cf}]", "")


def collapse_whitespace(text: tf.Tensor) -> tf.Tensor:
    """Runs of blanks become one space, three or more line feeds two; blanks at both ends go.

    >>> collapse_whitespace(tf.constant(["  to \\u3000 be\\n\\n\\n\\nor not "])).numpy()[0]
    b'to be\\n\\nor not'
    """
    text = tf.strings.regex_replace(text, r"[\t\p{Zs}]+", " ")
    text = tf.strings.regex_replace(text, r" ?\n ?", "\n")
    text = tf.strings.regex_replace(text, r"\n{3,}", "\n\n")
    return tf.strings.strip(text)


def lower_case(text: tf.Tensor) -> tf.Tensor:
    """Unicode lower case.

    >>> lower_case(tf.constant(["ÀB"])).numpy()[0].decode()
    'àb'
    """
    return tf.strings.lower(text, encoding="utf-8")


def nfkc(text: tf.Tensor) -> tf.Tensor:
    """Unicode normalisation form KC: full-width letters and digits become ordinary ones. Needs tensorflow-text when it runs.

    >>> nfkc(tf.constant(["１９９８"])).numpy()[0]
    b'1998'
    """
    return tensorflow_text().normalize_utf8(text, "NFKC")


CLEANERS: dict[str, Cleaner] = {
    "control": strip_control,
    "lower": lower_case,
    "nfkc": nfkc,
    "whitespace": collapse_whitespace,
}
"""The cleaners by name, as `--clean` takes them."""

NEEDS_TENSORFLOW_TEXT = frozenset({"nfkc"})
"""Cleaners whose graph holds tensorflow-text ops: a process that loads such an export must import tensorflow_text."""


def compose(names: Sequence[str]) -> Cleaner:
    """The cleaners of `names`, applied in the order given; no names give the identity.

    Raises:
        UserError: a name that is not in `CLEANERS`.

    Example:

    >>> compose(["nfkc", "lower"])(tf.constant(["ＡＢ"])).numpy()[0]
    b'ab'
    """
    for name in names:
        if name not in CLEANERS:
            raise unknown_name("cleaner", name, CLEANERS)

    def clean(text: tf.Tensor) -> tf.Tensor:
        for name in names:
            text = CLEANERS[name](text)
        return text

    return clean


def desensitize(texts: tf.Tensor, mask: Desensitizer) -> tf.Tensor:
    """Masks the secrets of texts, each of which is a document.

    Args:
        texts: Strings of any shape; bytes that are not UTF-8 stay as they are.
        mask: What masks one of them.

    Returns:
        Strings of the same shape.

    Example:

    >>> letters = tf.data.Dataset.from_tensor_slices(["手机13812345678", "a@example.com"])
    >>> mask = Desensitizer()
    >>> [text.decode() for text in letters.batch(64).map(lambda texts: desensitize(texts, mask)).unbatch().as_numpy_iterator()]
    ['手机<电话1>', '<EMAIL_1>']
    """
    return each_document(mask, texts)


def each_document(change: Callable[[str], str], texts: tf.Tensor) -> tf.Tensor:
    """Changes texts by a function of Python, inside `tf.numpy_function`, so that no export can hold it.

    Args:
        change: One text → another.
        texts: Strings of any shape; bytes that are not UTF-8 are given on as surrogates.

    Returns:
        Strings of the same shape.

    Example:

    >>> [text.decode() for text in each_document(str.upper, tf.constant(["one", "two"])).numpy()]
    ['ONE', 'TWO']
    """

    def change_all(texts: np.ndarray) -> np.ndarray:
        given = [text.decode("utf-8", "surrogateescape") for text in np.ravel(np.asarray(texts, object))]
        return np.array([change(text).encode("utf-8", "surrogateescape") for text in given], object).reshape(np.shape(texts))

    texts = tf.convert_to_tensor(texts, tf.string)
    changed = tf.numpy_function(change_all, [texts], tf.string, stateful=False)
    changed.set_shape(texts.shape)
    return changed


def tensorflow_text() -> Any:
    """The module tensorflow_text, imported when first needed: it takes a second, and most runs do without it."""
    return importlib.import_module("tensorflow_text")
