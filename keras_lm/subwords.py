"""Tokenizers between the character and the text: WordPiece, SentencePiece, and whole words with characters for the rest.

They run inside the graph with tensorflow-text, which is imported only when one of them is made. None changes a text: spaces, line feeds
and case survive a round trip.
"""

from __future__ import annotations

import collections
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_lm.cleaning import tensorflow_text
from keras_lm.errors import UserError
from keras_lm.files import replacing
from keras_lm.segmentation import segmenter as make_segmenter
from keras_lm.text_codec import sentencepiece_pieces, surfaces
from keras_lm.tokenizer_base import (
    END_ID,
    NUM_SPECIAL,
    PAD_ID,
    REPLACEMENT,
    START_ID,
    UNKNOWN_ID,
    Tokenizer,
    batches,
    iterate_texts,
    join,
    without_special,
    write_description,
)

_SPACE = "▁"  # U+2581, as in SentencePiece: a piece that begins with it began with a space
_JOINER = "##"
WORDS = (
    r" ?[^\s\p{N}\p{P}\p{S}\p{Han}\p{Hiragana}\p{Katakana}]+"  # letters, the space before them included
    r"| ?\p{N}+"  # digits
    r"|(?s:.)"  # any other character alone: Chinese and Japanese ones, punctuation, white space
)
"""What WordPiece takes for a word: RE2's regular expression, which covers every text."""


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
        for batch in batches(iterate_texts(texts), 1024):
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
        return join(without_special(ids), self._strings)

    def pieces(self) -> list[bytes]:
        return list(self._strings)

    def save(self, folder: str | os.PathLike) -> None:
        write_description(folder, {"kind": self.kind, "vocabulary": list(self.vocabulary)})

    @classmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> WordPieceTokenizer:
        return cls(description["vocabulary"])


def _split_words(texts: tf.Tensor) -> tf.RaggedTensor:
    """Strings `(batch,)` → words `(batch, (words))` in which `▁` stands for the space; a literal `▁`, or NUL, becomes U+FFFD."""
    texts = tf.strings.regex_replace(texts, rf"[\x00{_SPACE}]", REPLACEMENT)
    words = tensorflow_text().regex_split(texts, WORDS, WORDS)
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
        return self._run("detokenize", without_special(ids))

    def pieces(self) -> list[bytes]:
        import sentencepiece

        sentencepiece.set_min_log_level(2)  # it tells of each model that it changes no text
        return sentencepiece_pieces(sentencepiece.SentencePieceProcessor(model_proto=self._model))

    def save(self, folder: str | os.PathLike) -> None:
        with replacing(pathlib.Path(folder) / self._file) as temporary:
            temporary.write_bytes(self._model)
        write_description(folder, {"kind": self.kind, "model": self._file})

    @classmethod
    def from_folder(cls, folder: pathlib.Path, description: dict[str, Any]) -> SentencePieceTokenizer:
        return cls((folder / description["model"]).read_bytes())


class WordTokenizer(SentencePieceTokenizer):
    """Whole words; what is none of them by characters, and what is none of these by bytes: nothing is unknown, no text is changed.

    The words are learnt from a segmenter (jieba, for Chinese; `keras_lm.segmentation`). Inside the graph, where jieba cannot run, a text
    is cut into the words whose probabilities, each as often as it was counted, have the largest product: what jieba does too, less its
    guesses at words that it does not know. So a model over words can be exported and served like any other.

    Args:
        model: A serialised SentencePiece unigram model, whose pieces are the words.

    Example:

    >>> tokenizer = WordTokenizer.fit(["to be or not to be"])
    >>> ids = tokenizer.tokenize(tf.constant(["to be not bee"]))
    >>> [tokenizer.pieces()[token].decode() for token in ids[0].numpy()]
    ['to', ' be', ' not', ' be', 'e']

    References:
        Kudo 2018, «Subword Regularization» (the unigram model); articles A1 §3 and A4 §2.1 (segmentation).
    """

    kind = "word"

    @classmethod
    def fit(
        cls,
        texts: tf.data.Dataset | Iterable[str],
        vocabulary_size: int | None = None,
        *,
        segmenter: str | Callable[[str], list[str]] = "auto",
    ) -> WordTokenizer:
        """Takes the most frequent words; default 20,000 ids, of which the characters have half at most.

        Args:
            texts: As `Tokenizer.fit` takes them.
            vocabulary_size: The largest number of ids, of which 260 are taken by bytes and special tokens.
            segmenter: A name for `keras_lm.segmentation.segmenter`, or a function from a text to its words, whose join is the text.

        Raises:
            UserError: a size that leaves no room for words.
        """
        split = make_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
        words: collections.Counter[str] = collections.Counter()
        for text in iterate_texts(texts):
            words.update(split(text))
        return cls(_unigram_model(words, 20_000 if vocabulary_size is None else vocabulary_size))


def _unigram_model(words: Mapping[str, int], vocabulary_size: int) -> bytes:
    """A SentencePiece model whose pieces are words, and the characters they are made of, with the logarithms of their frequencies."""
    from sentencepiece import sentencepiece_model_pb2 as messages

    room = vocabulary_size - NUM_SPECIAL - 256
    if room < 2:
        raise UserError(f"vocabulary_size must be over {NUM_SPECIAL + 257} for words (the special tokens and bytes), got {vocabulary_size}")
    words = {word: count for word, count in words.items() if not set(word) & {"\0", _SPACE}}  # which SentencePiece keeps for itself
    characters = collections.Counter({" ": 1})  # SentencePiece's sign for the space has to be a piece: its bytes would come out as the sign
    for word, count in words.items():
        for character in word:
            characters[character] += count
    rank = lambda counts: sorted(counts, key=lambda item: (-counts[item], item))
    pieces = {" ", *rank(characters)[: max(room // 2, room - len(words)) - 1]}
    for word in rank(words):
        if len(pieces) >= room:
            break
        pieces.add(word)
    counts = {piece: words.get(piece, 0) for piece in pieces}
    total = max(sum(counts.values()), 1)
    model = messages.ModelProto()
    kinds = messages.ModelProto.SentencePiece
    for name, kind in (("<pad>", kinds.CONTROL), ("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)):
        model.pieces.add(piece=name, type=kind)
    for piece in rank(counts):
        # A character that never was a word costs as much as the rarest word could.
        model.pieces.add(piece=piece.replace(" ", _SPACE), score=math.log(max(counts[piece], 0.5) / total), type=kinds.NORMAL)
    for value in range(256):
        model.pieces.add(piece=f"<0x{value:02X}>", type=kinds.BYTE)
    spec = model.trainer_spec
    spec.model_type, spec.byte_fallback, spec.vocab_size = messages.TrainerSpec.UNIGRAM, True, len(model.pieces)
    spec.pad_id, spec.unk_id, spec.bos_id, spec.eos_id = PAD_ID, UNKNOWN_ID, START_ID, END_ID
    normalizer = model.normalizer_spec
    normalizer.name, normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = "identity", False, False
    normalizer.escape_whitespaces = True
    return model.SerializeToString()
