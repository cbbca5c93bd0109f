"""Files by hand, correlations against NumPy's and gensim's vectors, floors against scikit-learn's cosines."""

import gzip
import itertools
import sys

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics.pairwise import paired_cosine_distances

from keras_lm.classical.bag_of_words import BagOfWords
from keras_lm.embeddings.vectors import WordVectors
from keras_lm.errors import UserError
from keras_lm.segmentation import segmenter
from keras_lm.similar import ScoredPairs, averaged_vectors, pearson, read_scored, row_cosines, spearman, tf_idf_cosines, unit_length

PAIRS = ScoredPairs(
    name="x.tsv", firsts=("一个女孩在梳头。", "A man eats."), seconds=("女孩给头发做发型。", "Someone is eating."), scores=(2.0, 4.25)
)


def test_lines_of_three_columns_are_read(tmp_path):
    text = "\ufeff一个女孩在梳头。\t女孩给头发做发型。\t2\r\n\n A man eats. \tSomeone is eating.\t4.25\n"
    (tmp_path / "x.tsv").write_text(text, encoding="utf-8")
    assert read_scored(tmp_path / "x.tsv") == PAIRS
    with gzip.open(tmp_path / "x.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    assert read_scored(tmp_path / "x.gz").scores == PAIRS.scores


def test_sts_bs_own_form_is_read(tmp_path):
    """Quotation marks are part of the text there, and sources may follow."""
    lines = [
        "main-captions\tMSRvid\t2012test\t0024\t2.500\tA girl is styling her hair.\tA girl is brushing her hair.",
        'main-news\theadlines\t2013\t0001\t0\t"Yes" he said.\t5 died.\thttp://a\thttp://b',
    ]
    (tmp_path / "sts-test.csv").write_text("\n".join(lines) + "\n")
    found = read_scored(tmp_path / "sts-test.csv")
    assert found.firsts == ("A girl is styling her hair.", '"Yes" he said.')
    assert found.seconds == ("A girl is brushing her hair.", "5 died.")
    assert found.scores == (2.5, 0)


def test_a_line_that_names_the_columns_is_heeded(tmp_path):
    glue = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
    (tmp_path / "glue.tsv").write_text(f"{glue}0\tmain\tMSRvid\t2012\t0001\tnone\tnone\tA plane.\tAn air plane.\t5.000\n")
    assert read_scored(tmp_path / "glue.tsv").scores == (5,)
    assert read_scored(tmp_path / "glue.tsv").seconds == ("An air plane.",)
    (tmp_path / "plain.tsv").write_text("one\tother\tScore\na\tb\t1\n")
    assert read_scored(tmp_path / "plain.tsv").firsts == ("a",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\t1\n\na\tb\n", r"bad.tsv, line 3: a sentence, a sentence and a score between tabs should stand here, there are 2 columns"),
        ("a b 1\n", r"bad.tsv, line 1: .* should stand here, there is 1 column"),
        ("a\tb\tc\t1\n", r"bad.tsv, line 1: .* there are 4 columns"),
        ("g\tf\ty\tn\t1\ta\tb\ng\tf\ty\tn\t1\ta\n", r"bad.tsv, line 2: 7 columns or more should stand here, there are 6 columns"),
        ("a\tb\t3,5\n", r"bad.tsv, line 1: the score should be a number, got '3,5'"),
        ("a\tb\tnan\n", r"bad.tsv, line 1: the score should be a number, got 'nan'"),
        ("a\tb\t1\n\tb\t1\n", r"bad.tsv, line 2: the first sentence is empty"),
        ("a\t \t1\n", r"bad.tsv, line 1: the second sentence is empty"),
        ("one\tother\tscore\n", r"bad.tsv holds no pairs"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    (tmp_path / "bad.tsv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_scored(tmp_path / "bad.tsv")


def test_what_are_no_pairs_is_refused():
    with pytest.raises(UserError, match=r"no such file of scored pairs: 'none\.tsv'"):
        read_scored("none.tsv")
    with pytest.raises(UserError, match="odd: 2 first sentences, 1 second ones and 1 scores are no pairs"):
        ScoredPairs(name="odd", firsts=("a", "b"), seconds=("a",), scores=(1,))


def test_no_sentence_stands_in_two_splits():
    draw = np.random.default_rng(0)
    firsts, seconds = ([f"第{number}句" for number in draw.integers(9_000, size=1_500)] for _ in range(2))
    pairs = ScoredPairs(name="many", firsts=tuple(firsts), seconds=tuple(seconds), scores=tuple(map(float, range(1_500))))
    splits = pairs.split()
    found = {name: {*part.firsts, *part.seconds} for name, part in splits.items()}
    assert list(splits) == ["train", "validation", "test"] and splits["test"].name == "many, test"
    assert all(found.values()) and all(one.isdisjoint(other) for one, other in itertools.combinations(found.values(), 2))
    rows = sorted(row for part in splits.values() for row in zip(part.scores, part.firsts, part.seconds, strict=True))
    assert rows == list(zip(pairs.scores, pairs.firsts, pairs.seconds, strict=True))
    assert len(splits["train"]) > 1_200
    backwards = ScoredPairs(name="many", firsts=pairs.seconds[::-1], seconds=pairs.firsts[::-1], scores=pairs.scores[::-1]).split()
    assert {name: {*part.firsts, *part.seconds} for name, part in backwards.items()} == found


def test_correlations_are_those_of_ranks_and_of_values():
    """Spearman's is Pearson's between ranks, of which equal ones share their mean; Pearson's is NumPy's."""
    draw = np.random.default_rng(0)
    predicted = draw.normal(size=200)
    right = np.round(predicted + draw.normal(size=200))
    ranks = [np.array([np.sum(values < own) + (np.sum(values == own) + 1) / 2 for own in values]) for values in (predicted, right)]
    assert spearman(predicted, right) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert pearson(predicted, right) == pytest.approx(np.corrcoef(predicted, right)[0, 1])
    assert spearman(predicted, right) > 0.5 and spearman(predicted, -right) < -0.5
    assert spearman(np.exp(predicted), right) == pytest.approx(spearman(predicted, right))


@pytest.mark.parametrize("correlation", [spearman, pearson])
@pytest.mark.parametrize(
    ("predicted", "right", "message"),
    [
        ([1, 1, 1], [1, 2, 3], "all predicted scores are 1: where nothing varies there is no correlation"),
        ([1, 2], [5, 5], "all right scores are 5: "),
        ([1, 2], [1, 2, 3], "2 predicted scores cannot be compared with 3 right ones"),
        ([1], [2], "a correlation needs two pairs at least, got 1"),
        ([1, float("nan")], [1, 2], "predicted score number 2 is not finite"),
    ],
)
def test_what_has_no_correlation_is_refused(correlation, predicted, right, message):
    with pytest.raises(UserError, match=message):
        correlation(predicted, right)


def test_without_scipy_it_is_said_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"correlations come with SciPy: pip install 'keras_lm\[tasks\]'"):
        spearman([1, 2], [1, 2])


WORDS = WordVectors(["喜欢", "猫", "狗", "cats"], np.random.default_rng(0).normal(size=(4, 8)))


def test_a_text_is_the_mean_of_its_words():
    found = averaged_vectors(["我喜欢猫，猫", "I like Cats", "鱼", ""], WORDS, segmenter("jieba"))
    mean = (WORDS["喜欢"] + 2 * WORDS["猫"]) / 3
    assert found.shape == (4, 8) and found.dtype == np.float32
    assert found[0] == pytest.approx(mean / np.linalg.norm(mean))
    assert found[1] == pytest.approx(WORDS["cats"] / np.linalg.norm(WORDS["cats"]))
    assert not found[2:].any()


def test_averages_are_gensims():
    gensim = pytest.importorskip("gensim.models.keyedvectors")
    theirs = gensim.KeyedVectors(8)
    theirs.add_vectors(WORDS.words, WORDS.vectors)
    words = ["喜欢", "狗", "cats", "喜欢"]
    mean = theirs.get_mean_vector(words, pre_normalize=False, post_normalize=True)
    assert averaged_vectors(["".join(words)], WORDS, lambda text: words)[0] == pytest.approx(mean, abs=1e-6)


def test_one_text_is_no_list():
    with pytest.raises(UserError, match="texts must be a list of texts, got one text"):
        averaged_vectors("猫", WORDS, list)


def test_zeros_are_like_nothing():
    vectors = np.array([[0.0, 0.0], [3.0, 4.0]])
    assert unit_length(vectors).tolist() == [[0, 0], [0.6, 0.8]]
    assert row_cosines(vectors, vectors).tolist() == [0, pytest.approx(1)]


@pytest.mark.parametrize("weighting", ["tf_idf", "counts"])
def test_cosines_of_bags_are_scikit_learns(weighting):
    known = [*PAIRS.firsts, *PAIRS.seconds]
    bag = BagOfWords.fit(known, words="characters", ngrams=2, weighting=weighting)
    unknown = ScoredPairs(name="more", firsts=(*PAIRS.firsts, "鱼"), seconds=(*PAIRS.seconds, "女孩"), scores=(1, 2, 3))
    vectorizer = TfidfVectorizer(
        tokenizer=bag.cut, token_pattern=None, lowercase=False, ngram_range=(1, 2), use_idf=weighting == "tf_idf"
    ).fit(known)
    distances = paired_cosine_distances(vectorizer.transform(unknown.firsts), vectorizer.transform(unknown.seconds))
    found = tf_idf_cosines(unknown, bag)
    assert found[:2] == pytest.approx(1 - distances[:2]) and found[0] > 0.1
    assert found[2] == 0
