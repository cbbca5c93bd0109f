"""Text ↔ ids inside the graph: characters, bytes, WordPiece, SentencePiece.

Every tokenizer is a `tf.Module` with the same few methods, so that the pipeline, the sampler and the exported model know no
difference. Ids 0 to 3 are the same everywhere: padding, unknown, start and end of a document. They never come out as text,
but for the unknown token, which comes out as U+FFFD.

Characters and bytes use core TensorFlow ops only: what is exported with them runs wherever TensorFlow runs. The sub-word
tokenizers use tensorflow-text, imported only when asked for. None changes a text: spaces, line feeds and case survive a round trip.
"""

from __future__ import annotations

import abc
import collections
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lm.cleaning import tensorflow_text
from keras_lm.errors import UserError, unknown_name
from keras_lm.files import replacing
from keras_lm.text_codec import sentencepiece_pieces, surfaces

PAD_ID, UNKNOWN_ID, START_ID, END_ID = range(4)
NUM_SPECIAL = 4
REPLACEMENT = "\ufffd"


class Tokenizer(tf.Module, abc.ABC):
    """What every tokenizer offers.

    Attributes:
        kind: The name under which `create` and `load` find the class.
        vocabulary_size: The number of ids, the four special ones included.
        pad_id, unknown_id, start_id, end_id: The special ids 0, 1, 2 and 3.
        needs_tensorflow_text: Whether a process that loads an export must import tensorflow_text.
    """

    kind: str
    needs_tensorflow_text = False
    pad_id, unknown_id, start_id, end_id = PAD_ID, UNKNOWN_ID, START_ID, END_ID

    @property
    @abc.abstractmethod
    def vocabulary_size(self) -> int:
        """The number of ids."""

    @classmethod
    @abc.abstractmethod
    def fit(cls, texts: tf.data.Dataset | Iterable[str], vocabulary_size: int | None = None) -> Tokenizer:
        """Learns a vocabulary.

        Args:
            texts: A dataset of scalar strings, or `str`s; one pass is made.
            vocabulary_size: The largest number of ids wanted; `None` takes the tokenizer's own default.

        Returns:
            A new tokenizer.

        Raises:
            UserError: a vocabulary size that cannot be had from these texts.
        """

    @abc.abstractmethod
    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Strings `(batch,)` → ids `(batch, (tokens))`, int32, without start and end."""

    @abc.abstractmethod
    def detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        """Ids `(batch, tokens)`, dense or ragged → strings `(batch,)`; padding, start and end are left out."""

    @abc.abstractmethod
    def pieces(self) -> list[bytes]:
        """What each id writes, in bytes: the special ids nothing, but for the unknown one, which writes U+FFFD.

        Joined, the pieces of any ids are what `detokenize` makes of them. Only SentencePiece differs: where single bytes form no whole
        UTF-8 character, its `detokenize` writes U+FFFD for each, and the pieces are the bytes themselves; and its unknown token, which
        no text is made of, writes what its model says (` ⁇ ` by default).

        Example:

        >>> CharacterTokenizer(["中", "a"]).pieces()[4:]
        [b'\\xe4\\xb8\\xad', b'a']
        """

    @abc.abstractmethod
    def save(self, folder: str | os.PathLike) -> None:
        """Writes `tokenizer.json` (and, for SentencePiece, its model) into `folder`."""

    @classmethod
    @abc.abstractmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> Tokenizer:
        """Reads back what `save` wrote; `load` calls it."""

    def unknown_characters(self, text: str) -> list[str]:
        """The different characters of `text` that no token covers, in the order they appear.

        Example:

        >>> CharacterTokenizer.fit(["abc"]).unknown_characters("a?b!")
        ['?', '!']
        """
        different = list(dict.fromkeys(text))
        if not different:
            return []
        unknown = tf.reduce_any(self.tokenize(tf.constant(different)) == self.unknown_id, axis=1)
        return [character for character, is_unknown in zip(different, unknown.numpy().tolist(), strict=True) if is_unknown]


class CharacterTokenizer(Tokenizer):
    """One id a Unicode character.

    Args:
        vocabulary: The characters; the first gets id 4.

    Example:

    >>> tokenizer = CharacterTokenizer.fit(["我喜欢编程", "我喜欢读书"])
    >>> ids = tokenizer.tokenize(tf.constant(["我喜欢书"]))
    >>> tokenizer.detokenize(ids).numpy()[0].decode()
    '我喜欢书'
    """

    kind = "char"

    def __init__(self, vocabulary: Sequence[str]):
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        code_points = np.array([ord(character) for character in self.vocabulary], np.int32)
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise UserError("a character stands twice in the vocabulary")
        order = np.argsort(code_points)
        # A sorted array and a binary search: no table to initialise, so it also runs in a bare C++ session.
        self._sorted_code_points = code_points[order]
        self._ids_of_sorted = (order + NUM_SPECIAL).astype(np.int32)
        self._code_points = np.concatenate([np.full(NUM_SPECIAL, ord(REPLACEMENT), np.int32), code_points])

    @property
    def vocabulary_size(self) -> int:
        return NUM_SPECIAL + len(self.vocabulary)

    @classmethod
    def fit(cls, texts: tf.data.Dataset | Iterable[str], vocabulary_size: int | None = None) -> CharacterTokenizer:
        """Takes the characters of `texts`, the most frequent first; `vocabulary_size=None` keeps all of them."""
        counts: collections.Counter[str] = collections.Counter()
        for text in iterate_texts(texts):
            counts.update(text)
        return cls.from_counts(counts, vocabulary_size)

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], vocabulary_size: int | None = None) -> CharacterTokenizer:
        """As `fit`, of texts whose characters were counted elsewhere."""
        ranked = sorted(counts, key=lambda character: (-counts[character], character))
        if vocabulary_size is not None:
            if vocabulary_size <= NUM_SPECIAL:
                raise UserError(f"vocabulary_size must be over {NUM_SPECIAL} (the special tokens), got {vocabulary_size}")
            ranked = ranked[: vocabulary_size - NUM_SPECIAL]
        return cls(ranked)

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        code_points = tf.strings.unicode_decode(texts, "UTF-8")
        flat = code_points.flat_values
        if not self.vocabulary:
            return code_points.with_flat_values(tf.fill(tf.shape(flat), self.unknown_id))
        known = tf.constant(self._sorted_code_points)
        place = tf.minimum(tf.searchsorted(known, flat), len(self.vocabulary) - 1)
        ids = tf.where(tf.gather(known, place) == flat, tf.gather(tf.constant(self._ids_of_sorted), place), self.unknown_id)
        return code_points.with_flat_values(ids)

    def detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        ids = _without_special(ids)
        ids = _without_special(ids)
        return tf.strings.unicode_encode(ids.with_flat_values(tf.gather(tf.constant(self._code_points), ids.flat_values)), "UTF-8")

    def pieces(self) -> list[bytes]:
        return surfaces(self.vocabulary)

    def save(self, folder: str | os.PathLike) -> None:
        _write_description(folder, {"kind": self.kind, "vocabulary": list(self.vocabulary)})

    @classmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> CharacterTokenizer:
        return cls(description["vocabulary"])


class ByteTokenizer(Tokenizer):
    """One id a byte of the UTF-8 text: 260 ids, nothing to learn, nothing unknown.

    Example:

    >>> tokenizer = ByteTokenizer()
    >>> tokenizer.tokenize(tf.constant(["hi"])).to_list()
    [[108, 109]]
    """

    kind = "byte"

    def __init__(self):
        super().__init__()
        self._strings = [*surfaces([]), *(bytes([value]) for value in range(256))]

    @property
    def vocabulary_size(self) -> int:
        return NUM_SPECIAL + 256

    @classmethod
    def fit(cls, texts: tf.data.Dataset | Iterable[str] = (), vocabulary_size: int | None = None) -> ByteTokenizer:
        """Nothing is learnt: the vocabulary is the 256 bytes."""
        if vocabulary_size not in (None, NUM_SPECIAL + 256):
            raise UserError(f"the byte tokenizer has {NUM_SPECIAL + 256} ids; leave vocabulary_size out (got {vocabulary_size})")
        return cls()

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        pieces = tf.strings.bytes_split(texts)
        values = tf.reshape(tf.io.decode_raw(pieces.flat_values, tf.uint8), [-1])
        return pieces.with_flat_values(tf.cast(values, tf.int32) + NUM_SPECIAL)

    def detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        return _join(_without_special(ids), self._strings)

    def pieces(self) -> list[bytes]:
        return list(self._strings)

    def save(self, folder: str | os.PathLike) -> None:
        _write_description(folder, {"kind": self.kind})

    @classmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> ByteTokenizer:
        return cls()


_SPACE = "▁"  # U+2581, as in SentencePiece: a piece that begins with it began with a space
_JOINER = "##"
_WORDS = (
    r" ?[^\s\p{N}\p{P}\p{S}\p{Han}\p{Hiragana}\p{Katakana}]+"  # letters, the space before them included
    r"| ?\p{N}+"  # digits
    r"|(?s:.)"  # any other character alone: Chinese and Japanese ones, punctuation, white space
)


class WordPieceTokenizer(Tokenizer):
    """Sub-words by greedy longest match from the left (Schuster and Nakajima 2012), on words that keep the space before them.

    Unlike BERT's, this form loses nothing: a word takes the space before it along (as in GPT-2), so a round trip gives the same
    text. Chinese characters and punctuation marks are words of their own.

    Args:
        vocabulary: The pieces from id 4 on; a piece inside a word begins with `##`.

    References:
        Song et al. 2021, «Fast WordPiece Tokenization», whose algorithm tensorflow-text runs.
    """

    kind = "wordpiece"
    needs_tensorflow_text = True
    _special = ("[PAD]", "[UNK]", "[START]", "[END]")

    def __init__(self, vocabulary: Sequence[str]):
        super().__init__()
        self.vocabulary = tuple(vocabulary)
        self._text = tensorflow_text()
        self._pieces = self._text.FastWordpieceTokenizer(
            vocab=[*self._special, *self.vocabulary],
            suffix_indicator=_JOINER,
            max_bytes_per_word=1 << 20,  # by default a word of over 100 bytes is one unknown token
            token_out_type=tf.int32,
            unknown_token="[UNK]",
            no_pretokenization=True,
        )
        self._strings = surfaces(piece.removeprefix(_JOINER).replace(_SPACE, " ") for piece in self.vocabulary)

    @property
    def vocabulary_size(self) -> int:
        return NUM_SPECIAL + len(self.vocabulary)

    @classmethod
    def fit(cls, texts: tf.data.Dataset | Iterable[str], vocabulary_size: int | None = None) -> WordPieceTokenizer:
        """Learns pieces with tensorflow-text's own learner; default 8,000."""
        from tensorflow_text.tools.wordpiece_vocab import wordpiece_tokenizer_learner_lib as learner

        vocabulary_size = 8000 if vocabulary_size is None else vocabulary_size
        counts: collections.Counter[bytes] = collections.Counter()
        for batch in _batches(iterate_texts(texts), 1024):
            counts.update(_split_words(tf.constant(batch)).flat_values.numpy().tolist())
        # Words of one character need no learning; the learner would double each as a piece inside words, where none ever stands.
        single = [word.decode() for word, _ in counts.most_common() if len(word.decode()) == 1]
        longer = {word.decode(): count for word, count in counts.items() if len(word.decode()) > 1}
        room = vocabulary_size - NUM_SPECIAL - len(single)
        characters = {character for word in longer for character in word}
        if room < 2 * len(characters):
            needed = NUM_SPECIAL + len(single) + 2 * len(characters)
            raise UserError(
                f"vocabulary_size {vocabulary_size} is too small for WordPiece: the characters of this text alone need {needed}"
            )
        learnt: list[str] = []
        if longer:
            learnt = learner.learn(
                longer,
                vocab_size=room,
                reserved_tokens=[],
                lower_thresh=1,
                max_unique_chars=len(characters),
                joiner=_JOINER,
            )
        known = set(single)
        # The learner may overshoot the size by its slack; it puts characters first and frequent pieces before rare ones.
        return cls(single + [piece for piece in learnt if piece not in known][:room])

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return tf.cast(self._pieces.tokenize(_split_words(texts)), tf.int32).merge_dims(-2, -1)

    def detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        return _join(_without_special(ids), self._strings)

    def pieces(self) -> list[bytes]:
        return list(self._strings)

    def save(self, folder: str | os.PathLike) -> None:
        _write_description(folder, {"kind": self.kind, "vocabulary": list(self.vocabulary)})

    @classmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> WordPieceTokenizer:
        return cls(description["vocabulary"])


def _split_words(texts: tf.Tensor) -> tf.RaggedTensor:
    """Strings `(batch,)` → words `(batch, (words))` in which `▁` stands for the space; a literal `▁`, or NUL, becomes U+FFFD."""
    texts = tf.strings.regex_replace(texts, rf"[\x00{_SPACE}]", REPLACEMENT)
    words = tensorflow_text().regex_split(texts, _WORDS, _WORDS)
    return words.with_flat_values(tf.strings.regex_replace(words.flat_values, " ", _SPACE))


class SentencePieceTokenizer(Tokenizer):
    """Sub-words by SentencePiece's unigram model with byte fallback: nothing is unknown, no text is changed.

    Args:
        model: The serialised model (the bytes of `sentencepiece.model`), whose ids 0 to 3 are padding, unknown, start and end.

    References:
        Kudo and Richardson 2018, «SentencePiece».
    """

    kind = "sentencepiece"
    needs_tensorflow_text = True
    _file = "sentencepiece.model"

    def __init__(self, model: bytes):
        super().__init__()
        self._model = model
        self._load()
        self._size = int(self._pieces.vocab_size().numpy())

    def _load(self) -> None:
        self._pieces = tensorflow_text().SentencepieceTokenizer(model=self._model, out_type=tf.int32)

    def _run(self, method: str, *arguments: object) -> Any:
        try:
            return getattr(self._pieces, method)(*arguments)
        except tf.errors.NotFoundError:  # setting TensorFlow's global seed throws the loaded model away
            self._load()
            return getattr(self._pieces, method)(*arguments)

    @property
    def vocabulary_size(self) -> int:
        return self._size

    @classmethod
    def fit(cls, texts: tf.data.Dataset | Iterable[str], vocabulary_size: int | None = None) -> SentencePieceTokenizer:
        """Trains with the sentencepiece package; default 8,000 pieces, fewer where the text does not give as many."""
        import io

        import sentencepiece

        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=(line for text in iterate_texts(texts) for line in text.split("\n") if line),
                model_writer=model,
                model_type="unigram",
                vocab_size=8000 if vocabulary_size is None else vocabulary_size,
                hard_vocab_limit=False,
                byte_fallback=True,
                character_coverage=1.0,
                normalization_rule_name="identity",
                add_dummy_prefix=False,
                remove_extra_whitespaces=False,
                user_defined_symbols=["\n"],
                required_chars=_SPACE,
                max_sentence_length=1 << 20,
                input_sentence_size=5_000_000,  # bounds the memory: of a larger text, its beginning
                shuffle_input_sentence=False,
                pad_id=PAD_ID,
                unk_id=UNKNOWN_ID,
                bos_id=START_ID,
                eos_id=END_ID,
                num_threads=os.cpu_count() or 1,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"SentencePiece could not learn a vocabulary of {vocabulary_size or 8000}: {reason}") from None
        return cls(model.getvalue())

    def tokenize(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return self._run("tokenize", texts)

    def detokenize(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        return self._run("detokenize", _without_special(ids))

    def pieces(self) -> list[bytes]:
        import sentencepiece

        return sentencepiece_pieces(sentencepiece.SentencePieceProcessor(model_proto=self._model))

    def save(self, folder: str | os.PathLike) -> None:
        with replacing(pathlib.Path(folder) / self._file) as temporary:
            temporary.write_bytes(self._model)
        _write_description(folder, {"kind": self.kind, "model": self._file})

    @classmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> SentencePieceTokenizer:
        return cls((folder / description["model"]).read_bytes())


TOKENIZERS: dict[str, type[Tokenizer]] = {
    tokenizer.kind: tokenizer for tokenizer in (CharacterTokenizer, ByteTokenizer, WordPieceTokenizer, SentencePieceTokenizer)
}
"""The tokenizers by the name that `--tokenizer` takes."""


def get(kind: str) -> type[Tokenizer]:
    """The tokenizer class called `kind`.

    Raises:
        UserError: no such tokenizer; the message names the nearest.
    """
    if kind not in TOKENIZERS:
        raise unknown_name("tokenizer", kind, TOKENIZERS)
    return TOKENIZERS[kind]


def load(folder: str | os.PathLike) -> Tokenizer:
    """Reads a tokenizer that `Tokenizer.save` wrote.

    Example:

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> ByteTokenizer().save(folder)
    >>> load(folder).vocabulary_size
    260
    """
    folder = pathlib.Path(folder)
    try:
        description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no tokenizer.json") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / 'tokenizer.json'} is damaged: {error}") from None
    return get(description["kind"]).from_folder(folder, description)


def iterate_texts(texts: tf.data.Dataset | Iterable[str]) -> Iterator[str]:
    """`str`s from a dataset of scalar strings or from any iterable of `str` or UTF-8 `bytes`."""
    for text in texts.as_numpy_iterator() if isinstance(texts, tf.data.Dataset) else texts:
        yield text.decode("utf-8", "replace") if isinstance(text, bytes) else text


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _without_special(ids: tf.Tensor | tf.RaggedTensor) -> tf.RaggedTensor:
    if not isinstance(ids, tf.RaggedTensor):
        ids = tf.RaggedTensor.from_tensor(ids)
    # On flat values and row splits: `tf.ragged.boolean_mask` and `from_value_rowids` took 17 s for 4 million ids with one very long row.
    flat = tf.cast(ids.flat_values, tf.int32)
    keep = (flat >= NUM_SPECIAL) | (flat == UNKNOWN_ID)
    kept_before = tf.concat([[0], tf.cumsum(tf.cast(keep, tf.int64))], axis=0)
    return tf.RaggedTensor.from_row_splits(tf.boolean_mask(flat, keep), tf.gather(kept_before, ids.row_splits), validate=False)


def _join(ids: tf.RaggedTensor, strings: list[bytes]) -> tf.Tensor:
    # Not `tf.strings.reduce_join`, which pads every row to the longest.
    return tf.strings.unsorted_segment_join(tf.gather(tf.constant(strings), ids.flat_values), ids.value_rowids(), ids.nrows())


def _write_description(folder: str | os.PathLike, description: dict[str, Any]) -> None:
    with replacing(pathlib.Path(folder) / "tokenizer.json") as temporary:
        temporary.write_text(json.dumps(description, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
