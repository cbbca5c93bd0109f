import numpy as np
import pytest
from gensim.models import KeyedVectors
from gensim.test.utils import datapath

from keras_lm.embeddings.evaluation import word_analogies, word_similarity
from keras_lm.embeddings.vectors import WordVectors, start_embedding, vectors_of
from keras_lm.errors import UserError
from keras_lm.models import gru_lm, transformer_lm
from keras_lm.token_names import word_names
from keras_lm.tokenizers import CharacterTokenizer, WordTokenizer

RNG = np.random.default_rng(0)
WORDS = ["the", "king", "中国", "发展", "\\x20", "ß", "a.b", "queen", "man", "woman"]


@pytest.fixture
def vectors():
    return WordVectors(WORDS, RNG.normal(size=[len(WORDS), 7]))


@pytest.mark.parametrize("name", ["v.txt", "v.bin"])
def test_gensim_reads_what_is_written_and_the_other_way_round(vectors, name, tmp_path):
    vectors.save(tmp_path / name)
    theirs = KeyedVectors.load_word2vec_format(tmp_path / name, binary=name.endswith("bin"))
    assert theirs.index_to_key == WORDS
    assert np.array_equal(theirs.vectors, vectors.vectors)
    theirs.save_word2vec_format(tmp_path / f"theirs-{name}", binary=name.endswith("bin"))
    back = WordVectors.load(tmp_path / f"theirs-{name}")
    assert back.words == WORDS
    assert np.allclose(back.vectors, vectors.vectors, atol=1e-6)


def test_files_of_glove_have_no_first_line(vectors, tmp_path):
    vectors.save(tmp_path / "v.txt")
    lines = (tmp_path / "v.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "glove.txt").write_text("".join(lines[1:]), encoding="utf-8")
    assert WordVectors.load(tmp_path / "glove.txt").words == WORDS


def test_neighbours_and_analogies_are_gensims(vectors):
    theirs = KeyedVectors(7)
    theirs.add_vectors(WORDS, vectors.vectors)
    for word in WORDS:
        ours, expected = vectors.nearest(word, 4), theirs.most_similar(word, topn=4)
        assert [name for name, _ in ours] == [name for name, _ in expected]
        assert np.allclose([value for _, value in ours], [value for _, value in expected], atol=1e-5)
    expected = theirs.most_similar(positive=["king", "woman"], negative=["man"], topn=3)
    assert [name for name, _ in vectors.analogy("man", "king", "woman", 3)] == [name for name, _ in expected]
    assert vectors.similarity("king", "queen") == pytest.approx(theirs.similarity("king", "queen"), abs=1e-6)
    assert len(vectors.nearest("the", 99)) == len(WORDS) - 1


def test_evaluations_are_gensims(tmp_path):
    pairs = [line.split("\t")[:2] for line in open(datapath("wordsim353.tsv"), encoding="utf-8").read().splitlines()[2:200]]
    names = sorted({word for pair in pairs for word in pair})
    questions = [line.split() for line in open(datapath("questions-words.txt"), encoding="utf-8").read().splitlines() if line[:1] != ":"]
    names = sorted({*names, *(word for question in questions[:500] + questions[-500:] for word in question)})
    ours = WordVectors(names, np.random.default_rng(1).normal(size=[len(names), 3]))
    theirs = KeyedVectors(3)
    theirs.add_vectors(names, ours.vectors)
    expected = theirs.evaluate_word_pairs(datapath("wordsim353.tsv"), case_insensitive=False)
    found = word_similarity(ours, datapath("wordsim353.tsv"))
    assert found.spearman == pytest.approx(expected[1][0], abs=1e-6)
    assert found.left_out == pytest.approx(expected[2] / 100 * (found.pairs + found.left_out), abs=1e-6)
    score, sections = theirs.evaluate_word_analogies(datapath("questions-words.txt"), case_insensitive=False)
    found = word_analogies(ours, datapath("questions-words.txt"))
    assert found.accuracy == pytest.approx(score)
    for section in sections[:-1]:
        asked = len(section["correct"]) + len(section["incorrect"])
        assert found.sections.get(section["section"], (0, 0)) == (len(section["correct"]), asked)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"2 3\nthe 1 2 3\nking 1 2\n", "a.txt, line 3: a word and 3 numbers are due, there are 2"),
        ("a.txt", b"2 3\nthe 1 2 3\nking 1 x 3\n", "a.txt, line 3: what should be a number"),
        ("a.txt", b"2 3\n\xff\xfe 1 2 3\nking 1 2 3\n", "a.txt, line 2: what should be a number, or UTF-8"),
        ("a.txt", b"3 3\nthe 1 2 3\nking 1 2 3\n", "line 1: 3 words are announced, but 2 follow"),
        ("a.txt", b"2 3\nthe 1 2 3\nthe 1 2 3\n", "line 3: 'the' stands there twice"),
        ("a.txt", b"2 3\nthe 1 2 3\nking 1 nan 3\n", "a.txt, line 3: the vector of 'king' holds a number that is not finite"),
        ("a.txt", b"", "line 1: neither the number of words"),
        ("a.txt", b"0 5\n", "line 1: 0 words of 5 dimensions are no vectors"),
        ("a.txt", b"2 0\nthe\nking\n", "line 1: 2 words of 0 dimensions are no vectors"),
        ("a.txt", b"# heading\n", "line 1: neither the number of words"),
        ("a.txt", b"1 3\nthe " + bytes(12) + b"\n", r"line 2: a word and 3 numbers are due, .* \(is it a binary file\?"),
        ("a.bin", b"1 1\nthe " + np.ones(1, "<f4").tobytes() + b"\nking", "1 words are announced, but more follow"),
        (
            "a.bin",
            b"1 1\nthe " + np.full(1, np.inf, "<f4").tobytes() + b"\n",
            "word 1 of 1: the vector of 'the' holds a number that is not",
        ),
        ("a.bin", b"2 3\nthe " + np.ones(3, "<f4").tobytes() + b"\nking 12", "a.bin, word 2 of 2: the file ends here"),
        ("a.bin", b"nothing\n", "a.bin, line 1: the number of words and of dimensions is due"),
        ("a.bin", b"9999999999 99999\nthe ", "a.bin, line 1: 9999999999 words of 99999 dimensions are announced"),
    ],
)
def test_damaged_files_are_refused_with_the_line(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        WordVectors.load(tmp_path / name)
    with pytest.raises(UserError, match="no such file of word vectors"):
        WordVectors.load(tmp_path / "other.txt")


@pytest.mark.parametrize("word", ["New York", "", "a\nb"])
def test_a_word_that_would_end_early_in_a_file_is_not_saved(word, tmp_path):
    with pytest.raises(UserError, match="is empty or holds a space"):
        WordVectors([word], np.ones([1, 2])).save(tmp_path / "v.txt")
    assert not list(tmp_path.iterdir())


def test_a_word_without_a_vector_is_named(vectors):
    with pytest.raises(UserError, match="'kingg' has no vector: did you mean 'king'"):
        vectors["kingg"]
    with pytest.raises(UserError, match=r"'zzz' has no vector$"):
        vectors.nearest("zzz")
    with pytest.raises(UserError, match="number must be at least 1, got -1"):
        vectors.nearest("the", -1)
    with pytest.raises(UserError, match="stands twice"):
        WordVectors(["a", "a"], np.ones([2, 3]))
    with pytest.raises(UserError, match=r"need vectors of shape \(2, dimensions\)"):
        WordVectors(["a", "b"], np.ones([3, 3]))


def test_rows_of_a_table_have_the_names_of_their_tokens():
    names = word_names(CharacterTokenizer("ab"))
    table = np.zeros([6, 3])
    table[5] = 1
    assert vectors_of(names, table).words == ["b"]


def test_words_are_called_without_the_space_before_them():
    names = word_names(WordTokenizer.fit(["the cat is the cat", "The cat", " The"]))
    assert {"the", "cat", "is", "The"} <= set(names)
    assert len(set(names)) == len(names)


def test_an_embedding_begins_with_the_vectors_at_its_own_scale():
    model = gru_lm(6, embedding_dim=7, hidden_dim=8)
    initial = np.array(model.layers[0].embeddings)
    vectors = WordVectors(["b", "c"], 100 * RNG.normal(size=[2, 7]))
    assert start_embedding(model, ["<pad>", "<unk>", "<s>", "</s>", "a", "b"], vectors) == 1
    table = np.array(model.layers[0].embeddings)
    assert np.array_equal(table[:5], initial[:5])
    assert np.std(table[5]) == pytest.approx(np.std(initial), rel=0.01)
    assert np.corrcoef(table[5], vectors["b"])[0, 1] == pytest.approx(1)


def test_vectors_of_another_width_or_for_other_tokens_are_refused():
    model = transformer_lm(6, embedding_dim=8, num_heads=1, context_length=4)
    with pytest.raises(UserError, match="7 dimensions, but the model's embedding 8: --embedding-dim 7"):
        start_embedding(model, ["b"], WordVectors(["b"], np.ones([1, 7])))
    with pytest.raises(UserError, match="none of the 1 tokens has a vector"):
        start_embedding(model, ["c"], WordVectors(["b"], np.ones([1, 8])))


@pytest.mark.parametrize(("text", "message"), [("a\tb\n", "line 1"), ("a\tb\t1\na\tb\tx\n", "line 2: two words and a number")])
def test_damaged_lists_are_refused_with_the_line(vectors, text, message, tmp_path):
    (tmp_path / "pairs.tsv").write_text(text)
    if message == "line 1":  # a heading
        assert np.isnan(word_similarity(vectors, tmp_path / "pairs.tsv").spearman)
    else:
        with pytest.raises(UserError, match=message):
            word_similarity(vectors, tmp_path / "pairs.tsv")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        word_similarity(vectors, tmp_path)
    (tmp_path / "questions.txt").write_text(": a\nthe king man\n")
    with pytest.raises(UserError, match="line 2: four words are due"):
        word_analogies(vectors, tmp_path / "questions.txt")
