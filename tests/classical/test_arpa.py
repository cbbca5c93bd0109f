import gzip
import pathlib

import numpy as np
import pytest

from keras_lm.classical import arpa
from keras_lm.classical.ngram import NGramModel
from keras_lm.errors import UserError
from keras_lm.token_names import token_names
from keras_lm.tokenizers import ByteTokenizer, CharacterTokenizer
from tests.classical.test_ngram import SIZE, documents, joined

FOLDER = pathlib.Path(__file__).parent / "lmplz"
ARPA = r"""\data\
ngram 1=5
ngram 2=3

\1-grams:
-1.5	<unk>	0
-99	<s>	-0.3
-0.7	</s>
-0.5	a	-0.2
-0.6	b	-0.1

\2-grams:
-0.2	<s> a
-0.4	a b
-0.3	b </s>

\end\
"""


@pytest.mark.parametrize("smoothing", ["modified_kneser_ney", "add_k", "mle"])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_a_round_trip_keeps_every_probability(tmp_path, order, smoothing):
    ids = joined(documents())
    model = NGramModel.fit(ids, order, vocabulary_size=SIZE, smoothing=smoothing)
    names = token_names(CharacterTokenizer("abcdefghij"))
    arpa.write_arpa(model, tmp_path / "model.arpa", names)
    again, same = arpa.read_arpa(tmp_path / "model.arpa", names)
    assert same == names
    test = joined(documents(50, seed=9))
    assert np.allclose(again.log_probabilities(test), model.log_probabilities(test), atol=1e-5, equal_nan=True)


def test_a_file_of_another_program_is_read(tmp_path):
    (tmp_path / "small.arpa").write_text(ARPA)
    model, names = arpa.read_arpa(tmp_path / "small.arpa")
    assert names == ["<pad>", "<unk>", "<s>", "</s>", "a", "b"]
    ids = np.array([2, 4, 5, 3, 2, 5, 4, 1, 3])
    expected = [np.nan, -0.2, -0.4, -0.3, np.nan, -0.3 - 0.6, -0.1 - 0.5, -0.2 - 1.5, -0.7]  # seen; backing off
    assert np.allclose(model.log_probabilities(ids) / np.log(10), expected, atol=1e-6, equal_nan=True)


def test_words_the_file_has_not_are_unknown(tmp_path):
    (tmp_path / "small.arpa").write_text(ARPA)
    model, _ = arpa.read_arpa(tmp_path / "small.arpa", ["<pad>", "<unk>", "<s>", "</s>", "b", "c", "a"])
    values = model.log_probabilities(np.array([2, 6, 5])) / np.log(10)
    assert values[1:] == pytest.approx([-0.2, -0.2 - 1.5], abs=1e-6)


def test_names_have_no_white_space_and_differ():
    for tokenizer in (ByteTokenizer(), CharacterTokenizer(["a", " ", "\n", "\\", "\u3000", "中"])):
        names = token_names(tokenizer)
        assert len(set(names)) == tokenizer.vocabulary_size
        assert all(name and len(name.split()) == 1 for name in names)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", r"line 1: \\data\\ should stand here"),
        ("ngram 2=3", "ngram 3=3", "line 3: the number of 2-grams should stand here"),
        ("-0.5\ta\t-0.2", "-0.5\ta b\t-0.2", "line 9: a 1-gram should stand here"),
        ("-0.4\ta b", "minus\ta b", "line 14: a 2-gram should stand here"),
        ("-0.4\ta b", "-0.4\ta c", "line 14: the word 'c' is not among the 1-grams"),
        ("-0.4\ta b", "-0.2\t<s> a", "line 14: this 2-gram stands twice"),
        ("ngram 2=3", "ngram 2=2", r"line 15: \\end\\ should stand here"),
        ("ngram 2=3", "ngram 2=9", "line 16: a 2-gram should stand here"),
        ("-0.6\tb", "-0.6\ta", "a word stands twice"),
        ("-0.4\ta b", "0.4\ta b", "line 14: log10 P is 0.4: a probability above 1"),
        ("-0.4\ta b", "inf\ta b", "line 14: a 2-gram should stand here"),
        ("-0.2\n-0.6", "nan\n-0.6", "line 9: a 1-gram should stand here"),
    ],
)
def test_a_damaged_file_is_named_with_the_line(tmp_path, old, new, message):
    (tmp_path / "bad.arpa").write_text(ARPA.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"bad.arpa, {message}" if message.startswith("line") else message):
        arpa.read_arpa(tmp_path / "bad.arpa")


def test_a_file_cut_short_is_named(tmp_path):
    (tmp_path / "cut.arpa").write_text(ARPA[: ARPA.index("-0.4")])
    with pytest.raises(UserError, match=r"cut.arpa, line 14: "):
        arpa.read_arpa(tmp_path / "cut.arpa")


def test_a_trigram_without_its_beginning_is_named(tmp_path):
    text = ARPA.replace("ngram 2=3\n", "ngram 2=3\nngram 3=1\n").replace("\\end\\", "\\3-grams:\n-0.1\tb a b\n\n\\end\\")
    (tmp_path / "bad.arpa").write_text(text)
    with pytest.raises(UserError, match=r"line 19: the first 2 words of this 3-gram are not among the 2-grams"):
        arpa.read_arpa(tmp_path / "bad.arpa")


def test_what_is_no_arpa_file_is_said(tmp_path):
    (tmp_path / "bytes.arpa").write_bytes(b"\\data\\\n\n\xff\xfe\x00")
    with pytest.raises(UserError, match=r"bytes.arpa, line 3: this is not UTF-8$"):
        arpa.read_arpa(tmp_path / "bytes.arpa")
    (tmp_path / "packed.arpa").write_bytes(gzip.compress(ARPA.encode()))
    with pytest.raises(UserError, match=r"this is not UTF-8 \(it is a gzip file"):
        arpa.read_arpa(tmp_path / "packed.arpa")
    with pytest.raises(UserError, match=r"no such file: .*none\.arpa"):
        arpa.read_arpa(tmp_path / "none.arpa")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        arpa.read_arpa(tmp_path)
    (tmp_path / "small.arpa").write_text(ARPA)
    with pytest.raises(UserError, match="has the word 'a', which the vocabulary has not"):
        arpa.read_arpa(tmp_path / "small.arpa", ["<pad>", "<unk>", "<s>", "</s>"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda names: names[:1], "has 14 ids, but there are 1 names"),
        (lambda names: [*names[:-1], "a b"], "the name 'a b' of id 13 is empty or holds white space"),
        (lambda names: [*names[:-1], ""], "the name '' of id 13 is empty"),
        (lambda names: [*names[:-1], "a"], "the name 'a' of id 13 stands twice"),
    ],
)
def test_names_that_a_file_cannot_hold_are_refused(tmp_path, change, message):
    model = NGramModel.fit(joined(documents()), 2, vocabulary_size=SIZE)
    names = token_names(CharacterTokenizer("abcdefghij"))
    with pytest.raises(UserError, match=message):
        arpa.write_arpa(model, tmp_path / "x.arpa", change(names))
    with pytest.raises(UserError, match="is a folder: give the name of a file"):
        arpa.write_arpa(model, tmp_path, names)
    assert not list(tmp_path.iterdir())


def test_orders_that_no_text_is_long_enough_for_are_left_out(tmp_path):
    ids = joined([[2, 4, 5, 3], [2, 5, 4, 3], [2, 4, 4, 3]])
    model = NGramModel.fit(ids, 6, vocabulary_size=SIZE)
    names = token_names(CharacterTokenizer("abcdefghij"))
    arpa.write_arpa(model, tmp_path / "model.arpa", names)
    assert "-grams:\n\n" not in (tmp_path / "model.arpa").read_text()
    again, _ = arpa.read_arpa(tmp_path / "model.arpa", names)
    assert (model.order, again.order) == (6, 4)
    test = joined(documents(50, seed=9))
    assert np.allclose(again.log_probabilities(test), model.log_probabilities(test), atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("smoothing", ["modified_kneser_ney", "kneser_ney", "add_k"])
@pytest.mark.parametrize(("order", "characters", "longest"), [(2, 99, 2), (3, 99, 3), (5, 99, 5), (5, 2, 4)])
def test_kenlm_scores_our_files_as_we_do(tmp_path, order, characters, longest, smoothing):
    """KenLM's own reader; pip builds it, so it is there only where a C++ compiler is (`make test` tries)."""
    kenlm = pytest.importorskip("kenlm")
    verses = [verse[:characters] for verse in (FOLDER / "text.txt").read_text(encoding="utf-8").splitlines()[:20]]
    tokenizer = CharacterTokenizer.fit(verses)
    names = token_names(tokenizer)
    rows = [tokenizer.tokenize([verse]).flat_values.numpy() for verse in verses]
    model = NGramModel.fit(joined([[2, *row, 3] for row in rows]), order, vocabulary_size=tokenizer.vocabulary_size, smoothing=smoothing)
    arpa.write_arpa(model, tmp_path / "model.arpa", names)
    theirs = kenlm.Model(str(tmp_path / "model.arpa"))
    assert theirs.order == longest
    generator = np.random.default_rng(0)
    for row in [*rows[:5], *(generator.permutation(row) for row in rows[:5]), [1, 1]]:
        text = " ".join(names[token] for token in row)
        scores = [score for score, *_ in theirs.full_scores(text, bos=True, eos=True)]
        ours = model.log_probabilities(np.array([2, *row, 3]))[1:] / np.log(10)
        np.testing.assert_allclose(ours, scores, atol=1e-4)


def test_modified_kneser_ney_is_that_of_kenlm():
    """`lmplz -o 4` of KenLM on the same verses (the beginning of the King James Bible), token by token."""
    verses = (FOLDER / "text.txt").read_text(encoding="utf-8").splitlines()
    tokenizer = CharacterTokenizer.fit(verses)
    ids = joined([[2, *tokenizer.tokenize([verse]).flat_values.numpy(), 3] for verse in verses])
    ours = NGramModel.fit(ids, 4, vocabulary_size=tokenizer.vocabulary_size)
    reference, _ = arpa.read_arpa(FOLDER / "order4.arpa", token_names(tokenizer))
    assert [ours.index.size(order) for order in (2, 3, 4)] == [reference.index.size(order) for order in (2, 3, 4)]
    shuffled = np.random.default_rng(0).permutation(ids[ids > 3])
    for text in (ids, np.array([2, *shuffled, 1, 3])):  # in the second nearly every n-gram is a new one
        ratio = np.exp(ours.log_probabilities(text) - reference.log_probabilities(text))
        assert np.nanmax(np.abs(ratio - 1)) < 1e-5
    assert (np.diff(ours.index.rows(shuffled)[3]) == 0).sum() > 0.5 * len(shuffled)
