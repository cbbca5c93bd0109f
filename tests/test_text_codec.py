"""Without TensorFlow the same ids and the same text as with it."""

import random
import unicodedata

import pytest
import tensorflow as tf

from keras_lm import cleaning
from keras_lm.errors import UserError
from keras_lm.export.tflite import describe_text
from keras_lm.text_codec import TextCodec
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer, SentencePieceTokenizer, WordPieceTokenizer, WordTokenizer

TEXTS = [
    "The quick brown fox doesn't jump over 2 lazy dogs in 1998 -- it walks.\n",
    "我喜欢编程，也喜欢读书。一九九八年１２月，北京。\n",
    "Où est-ce qu'il a trouvé 3½ kg de naïveté?  ぜんぶ カタカナ\t한국어 ▁ ##x [UNK]",
    "",
    " ",
]


def random_texts(number):
    """Of anything that Unicode 13 has: what is later is known to some releases of TensorFlow and Python and not to others."""
    draw = random.Random(0)
    assigned = [code for code in range(0x20000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co") and code]
    alphabets = ([ord(character) for text in TEXTS for character in text], assigned, list(range(1, 128)))
    return ["".join(chr(draw.choice(draw.choice(alphabets))) for _ in range(draw.randrange(30))) for _ in range(number)]


def fitted(kind):
    texts = [text for text in TEXTS if text.strip()] * 20
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char":
        return CharacterTokenizer.fit(texts)
    return {"wordpiece": WordPieceTokenizer, "sentencepiece": SentencePieceTokenizer, "word": WordTokenizer}[kind].fit(texts, 400)


@pytest.mark.parametrize("kind", ["char", "byte", "wordpiece", "sentencepiece", "word"])
def test_ids_and_pieces_are_those_of_the_tokenizer(kind):
    tokenizer = fitted(kind)
    codec = TextCodec(describe_text(tokenizer, []))
    texts = TEXTS + random_texts(400)
    expected = tokenizer.tokenize(tf.constant(texts)).to_list()
    assert [codec.encode(text) for text in texts] == expected
    assert codec.pieces() == tokenizer.pieces()
    assert codec.vocabulary_size == tokenizer.vocabulary_size
    assert codec.unknown_characters("aæ中\u1234æ") == tokenizer.unknown_characters("aæ中\u1234æ")
    assert len({token for row in expected for token in row}) > 50


@pytest.mark.parametrize("names", [["control"], ["whitespace"], ["lower"], ["nfkc"], ["nfkc", "lower", "control", "whitespace"], []])
def test_cleaners_write_the_same_text(names):
    codec = TextCodec(describe_text(ByteTokenizer(), names))
    given = [
        "a\x0b\u200bc\td\n",
        "  a \u3000\t b \n\n\n\n c ",
        "ÀÉ Straße ΣΑΣ",
        "ＡＢ１２％㎏",
        " Ａ\u3000Ｂ ",
        "\r\n x \v\f",
        *TEXTS,
        *random_texts(400),
    ]
    expected = cleaning.compose(names)(tf.constant(given)).numpy()
    assert [codec.clean(text) for text in given] == [text.decode() for text in expected]


def test_bytes_that_are_no_utf8_become_one_character():
    codec = TextCodec(describe_text(CharacterTokenizer(["a"]), []))
    assert codec.clean(b"a\xff".decode("utf-8", "surrogateescape")) == "a\ufffd"


def test_what_a_later_release_wrote_is_refused():
    description = describe_text(ByteTokenizer(), [])
    with pytest.raises(UserError, match="no tokenizer 'morphemes'"):
        TextCodec({**description, "kind": "morphemes"})
    with pytest.raises(UserError, match="no cleaner 'rhymes'"):
        TextCodec({**description, "clean": ["rhymes"]})
