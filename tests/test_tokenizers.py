import os

import hypothesis
import hypothesis.strategies as st
import pytest
import sentencepiece
import tensorflow as tf

from keras_lm import corpora, tokenizers
from keras_lm.errors import UserError
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer, SentencePieceTokenizer, WordPieceTokenizer, WordTokenizer

hypothesis.settings.register_profile(
    "tests", derandomize="CI" in os.environ, deadline=None, max_examples=150, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def fitted():
    """All four, fitted to the same mixture of English and Chinese."""
    documents = list(corpora.open_corpus("pydoc").documents())[:500] + list(corpora.open_corpus("peoples-daily").documents())[:300]
    sizes = {"wordpiece": 4000, "sentencepiece": 4000, "word": 6000}
    return {kind: tokenizer.fit(documents, sizes.get(kind)) for kind, tokenizer in tokenizers.TOKENIZERS.items()}


def round_trip(tokenizer, text):
    return tokenizer.detokenize(tokenizer.tokenize(tf.constant([text]))).numpy()[0]


@hypothesis.given(text=ANY_TEXT)
def test_bytes_bring_back_any_text(text):
    assert round_trip(ByteTokenizer(), text).decode() == text


@hypothesis.given(data=st.binary())
def test_bytes_bring_back_any_bytes(data):
    assert round_trip(ByteTokenizer(), data) == data


@hypothesis.given(text=ANY_TEXT)
def test_characters_bring_back_text_they_know(text):
    tokenizer = CharacterTokenizer.fit([text])
    assert round_trip(tokenizer, text).decode() == text
    assert tokenizer.unknown_characters(text) == []


@pytest.mark.parametrize("kind", ["char", "wordpiece"])
@hypothesis.given(text=ANY_TEXT | st.text("abc dE.,'\n  ▁#中国人9"))
def test_text_without_unknowns_comes_back_exactly(fitted, kind, text):
    tokenizer = fitted[kind]
    ids = tokenizer.tokenize(tf.constant([text]))
    back = tokenizer.detokenize(ids).numpy()[0].decode()
    if tokenizer.unknown_id in ids.flat_values.numpy():
        assert "\ufffd" in back
    else:
        assert back == text


@hypothesis.given(text=ANY_TEXT)
def test_sentencepiece_has_no_unknowns(fitted, text):
    # U+2581 is SentencePiece's own sign for the space, and NUL ends its strings.
    hypothesis.assume("▁" not in text and "\0" not in text)
    assert round_trip(fitted["sentencepiece"], text).decode() == text


@pytest.mark.parametrize("kind", ["char", "byte", "wordpiece", "sentencepiece", "word"])
def test_real_text_comes_back(fitted, kind):
    texts = list(corpora.open_corpus("pydoc").documents())[:500]
    ids = fitted[kind].tokenize(tf.constant(texts))
    assert ids.dtype == tf.int32
    assert [text.decode() for text in fitted[kind].detokenize(ids).numpy()] == texts
    assert int(tf.reduce_max(ids)) < fitted[kind].vocabulary_size
    assert int(tf.reduce_min(ids)) >= tokenizers.NUM_SPECIAL


@pytest.mark.parametrize("kind", ["char", "byte", "wordpiece", "sentencepiece", "word"])
def test_save_and_load(fitted, kind, tmp_path):
    fitted[kind].save(tmp_path)
    loaded = tokenizers.load(tmp_path)
    texts = tf.constant(["class A:\n    pass", "中华人民共和国", ""])
    assert type(loaded) is type(fitted[kind])
    assert loaded.vocabulary_size == fitted[kind].vocabulary_size
    assert loaded.tokenize(texts).to_list() == fitted[kind].tokenize(texts).to_list()


@pytest.mark.parametrize("kind", ["char", "byte", "wordpiece", "sentencepiece", "word"])
def test_special_ids_are_not_text(fitted, kind):
    tokenizer = fitted[kind]
    text = tokenizer.tokenize(tf.constant(["the"]))[0].numpy().tolist()
    dense = tf.constant([[tokenizer.pad_id, tokenizer.start_id, *text, tokenizer.end_id]])
    assert tokenizer.detokenize(dense).numpy()[0] == b"the"


@pytest.mark.parametrize("kind", ["char", "byte", "wordpiece"])
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=50)
def test_pieces_joined_are_what_detokenize_writes(fitted, kind, data):
    tokenizer = fitted[kind]
    pieces = tokenizer.pieces()
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocabulary_size - 1), max_size=30))
    assert len(pieces) == tokenizer.vocabulary_size
    assert b"".join(pieces[token] for token in ids) == tokenizer.detokenize(tf.constant([ids], tf.int32)).numpy()[0]


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=50)
def test_pieces_of_sentencepiece_differ_in_broken_characters_alone(fitted, data):
    tokenizer = fitted["sentencepiece"]
    pieces = tokenizer.pieces()
    whole = [[token] for token, piece in enumerate(pieces) if piece.decode(errors="ignore").encode() == piece]
    rare = tokenizer.tokenize(tf.constant(["😀", "𝄞ß", "  ", "\n ", "\x01"])).to_list()  # by single bytes, where no piece has them
    groups = data.draw(st.lists(st.sampled_from(whole) | st.sampled_from(rare), max_size=20))
    ids = [token for group in groups for token in group]
    assert len(pieces) == tokenizer.vocabulary_size
    assert b"".join(pieces[token] for token in ids) == tokenizer.detokenize(tf.constant([ids], tf.int32)).numpy()[0]


def test_pieces_of_sentencepiece_are_single_bytes_where_detokenize_replaces_them(fitted):
    tokenizer = fitted["sentencepiece"]
    ids = [tokenizer.pieces().index(bytes([value])) for value in "中".encode()]
    assert tokenizer.detokenize(tf.constant([ids])).numpy()[0] == "中".encode()
    assert tokenizer.detokenize(tf.constant([ids[:2]])).numpy()[0] == "\ufffd\ufffd".encode()
    assert b"".join(tokenizer.pieces()[token] for token in ids[:2]).decode(errors="replace") == "\ufffd"


@pytest.mark.parametrize("kind", ["char", "byte", "wordpiece", "sentencepiece", "word"])
@hypothesis.given(texts=st.lists(ANY_TEXT.filter(lambda text: "▁" not in text and "\0" not in text), max_size=4))
@hypothesis.settings(max_examples=50)
def test_pieces_of_tokenized_texts(fitted, kind, texts):
    tokenizer, pieces = fitted[kind], fitted[kind].pieces()
    ids = tokenizer.tokenize(tf.constant(texts, tf.string)).flat_values.numpy().tolist()
    assert b"".join(pieces[token] for token in ids) == tokenizer.detokenize(tf.constant([ids], tf.int32)).numpy()[0]


@pytest.mark.parametrize("kind", ["char", "byte", "wordpiece", "sentencepiece", "word"])
def test_special_pieces(fitted, kind):
    tokenizer = fitted[kind]
    pieces = tokenizer.pieces()
    assert pieces[tokenizer.pad_id] == pieces[tokenizer.start_id] == pieces[tokenizer.end_id] == b""
    if kind not in ("sentencepiece", "word"):
        assert pieces[tokenizer.unknown_id].decode() == tokenizers.REPLACEMENT


@pytest.mark.parametrize("kind", ["char", "byte", "wordpiece", "sentencepiece", "word"])
def test_no_texts_and_empty_texts(fitted, kind):
    tokenizer = fitted[kind]
    assert tokenizer.tokenize(tf.constant([], tf.string)).shape[0] == 0
    assert tokenizer.detokenize(tokenizer.tokenize(tf.constant(["", ""]))).numpy().tolist() == [b"", b""]


def test_unknown_characters_are_named_and_shown(fitted):
    tokenizer = CharacterTokenizer.fit(["abc"])
    assert tokenizer.unknown_characters("a☃b☃中") == ["☃", "中"]
    assert round_trip(tokenizer, "a☃b").decode() == "a\ufffdb"
    assert fitted["byte"].unknown_characters("☃") == fitted["sentencepiece"].unknown_characters("☃") == []


def test_invalid_utf8_becomes_unknown():
    assert CharacterTokenizer.fit(["abc"]).tokenize(tf.constant([b"a\xffb"])).to_list() == [[4, 1, 5]]


def test_vocabulary_size_bounds_the_vocabulary(fitted):
    assert CharacterTokenizer.fit(["aaabbc"], 6).vocabulary == ("a", "b")
    assert fitted["wordpiece"].vocabulary_size <= 4000
    with pytest.raises(UserError, match="vocabulary_size must be over 4"):
        CharacterTokenizer.fit(["a"], 4)
    with pytest.raises(UserError, match="too small for WordPiece"):
        WordPieceTokenizer.fit(["some words here"], 8)
    with pytest.raises(UserError, match="SentencePiece could not learn a vocabulary of 50"):
        SentencePieceTokenizer.fit(["some words here"], 50)
    with pytest.raises(UserError, match="leave vocabulary_size out"):
        ByteTokenizer.fit([], 100)


def test_wordpiece_shares_pieces_between_words(fitted):
    ids = fitted["wordpiece"].tokenize(tf.constant(["the the statement statements"]))[0]
    assert len(ids) < 10
    assert ids[1].numpy() == fitted["wordpiece"].tokenize(tf.constant(["a the"]))[0][1].numpy()


def test_sentencepiece_agrees_with_its_own_package(fitted, tmp_path):
    fitted["sentencepiece"].save(tmp_path)
    reference = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "sentencepiece.model"))
    texts = list(corpora.open_corpus("peoples-daily").documents())[300:400]
    assert fitted["sentencepiece"].tokenize(tf.constant(texts)).to_list() == reference.encode(texts)


def test_fit_takes_a_dataset():
    dataset = tf.data.Dataset.from_tensor_slices(["床前明月光", "疑是地上霜"])
    assert CharacterTokenizer.fit(dataset).vocabulary == CharacterTokenizer.fit(["床前明月光", "疑是地上霜"]).vocabulary


def test_works_inside_tf_data(fitted):
    dataset = tf.data.Dataset.from_tensor_slices(["the class", "a"]).batch(2).map(fitted["char"].tokenize)
    assert next(iter(dataset)).to_list() == fitted["char"].tokenize(tf.constant(["the class", "a"])).to_list()


def test_unknown_kind_and_missing_folder(tmp_path):
    with pytest.raises(UserError, match="did you mean 'wordpiece'"):
        tokenizers.get("wordpeice")
    with pytest.raises(UserError, match=r"holds no tokenizer\.json"):
        tokenizers.load(tmp_path)


def test_words_are_those_of_the_segmenter(fitted):
    pieces = fitted["word"].pieces()
    ids = fitted["word"].tokenize(tf.constant(["中国人民银行发展经济 and the statement"]))[0].numpy()
    found = [pieces[token].decode() for token in ids]
    assert "".join(found) == "中国人民银行发展经济 and the statement"
    assert {"中国", "发展", "经济", " the", " statement"} <= set(found)


def test_words_can_be_learnt_from_any_segmenter():
    tokenizer = WordTokenizer.fit(["我喜欢编程"], 270, segmenter=lambda text: ["我", "喜欢", "编程"])
    pieces = tokenizer.pieces()
    assert pieces.index("喜欢".encode()) < 270
    assert [pieces[token].decode() for token in tokenizer.tokenize(tf.constant(["喜欢我"]))[0].numpy()] == ["喜欢", "我"]
    assert round_trip(tokenizer, "他 \n写程序😀").decode() == "他 \n写程序😀"  # characters that were never seen: bytes


def test_a_frequent_word_is_preferred_to_a_rare_one():
    counts = {"研究": 50, "研究生": 1, "生命": 50, "命": 1}
    words = [word for word, count in counts.items() for _ in range(count)]
    tokenizer = WordTokenizer.fit(["".join(words)], segmenter=lambda text: words)
    pieces = tokenizer.pieces()
    assert [pieces[token].decode() for token in tokenizer.tokenize(tf.constant(["研究生命"]))[0].numpy()] == ["研究", "生命"]


def test_words_need_room(fitted):
    with pytest.raises(UserError, match="vocabulary_size must be over 261 for words"):
        WordTokenizer.fit(["a b"], 261)
    assert fitted["word"].vocabulary_size <= 6000
