import gzip
import random

import pytest

from keras_lm import corpora
from keras_lm.errors import UserError
from keras_lm.preparation import sections
from keras_lm.preparation.sections import Section
from keras_lm.preparation.settings import PreparationSettings


def cut(*corpus, size, document="line", **kwargs):
    settings = PreparationSettings(corpus=tuple(map(str, corpus)), document=document, shard_tokens=size, **kwargs)
    return sections.cut(settings), settings


def documents(made, settings):
    return [text for section in made for text in section.open(settings).documents()]


def mixed_text(lines, end):
    """Lines of all lengths in several scripts, some blank, some blank to Python alone."""
    rng = random.Random(0)
    letters = "ab ,。中文字😀é"
    choices = ["", " ", "\u3000", "\t "]
    texts = [rng.choice(choices) if rng.random() < 0.3 else "".join(rng.choices(letters, k=rng.randint(1, 60))) for _ in range(lines)]
    return end.join(texts)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("document", ["line", "paragraph", "file"])
def test_sections_together_are_the_corpus(tmp_path, document, end):
    for number in range(3):
        mark = b"\xef\xbb\xbf" if number == 1 else b""
        (tmp_path / f"{number}.txt").write_bytes(mark + (mixed_text(300, end) + end * (number % 2)).encode())
    (tmp_path / "3.txt").write_bytes(b"")
    (tmp_path / "4.txt.gz").write_bytes(gzip.compress(mixed_text(50, end).encode()))
    source = tmp_path / "*"
    expected = list(corpora.open_corpus(str(source), document=document).documents())
    counts = set()
    for size in (1, 97, 1000, 4096, 1 << 30):
        made, settings = cut(source, size=size, document=document)
        assert documents(made, settings) == expected
        assert documents([Section.from_json(section.as_json()) for section in made], settings) == expected
        counts.add(len(made))
    assert len(counts) >= (2 if document == "file" else 4)


def test_a_large_file_is_cut_into_even_sections(tmp_path):
    (tmp_path / "large.txt").write_text("一二三四五六七八九\n" * 10_000, encoding="utf-8")
    made, settings = cut(tmp_path / "large.txt", size=20_000)
    assert len(made) == 14
    assert all(section.size <= 20_000 + 28 for section in made)
    assert len(documents(made, settings)) == 10_000


def test_a_line_without_end_is_not_cut(tmp_path):
    (tmp_path / "one.txt").write_bytes(b"a" * 3_000_000)
    made, settings = cut(tmp_path / "one.txt", size=1000)
    assert documents(made, settings) == ["a" * 3_000_000]


def test_many_small_files_share_a_section(tmp_path):
    for number in range(200):
        (tmp_path / f"{number:03d}.txt").write_text(f"text {number}\n")
    made, settings = cut(tmp_path / "*.txt", size=900)
    assert 2 <= len(made) <= 3
    assert documents(made, settings) == [f"text {number}" for number in range(200)]


def test_several_corpora_stand_in_the_order_given(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).write_text(f"{name} 1\n{name} 2\n")
    made, settings = cut(tmp_path / "b", "pydoc", tmp_path / "a", size=1 << 20)
    texts = documents(made, settings)
    assert texts[:2] == ["b 1", "b 2"]
    assert texts[-2:] == ["a 1", "a 2"]
    assert texts[2:-2] == list(corpora.open_corpus("pydoc").documents())


def test_bad_bytes_in_a_later_section_are_named_by_their_place_in_the_file(tmp_path):
    data = b"good line\n" * 1000 + "好".encode()[:2] + b"\n"
    (tmp_path / "bad.txt").write_bytes(data)
    made, settings = cut(tmp_path / "bad.txt", size=1000)
    assert len(made) > 5
    with pytest.raises(UserError, match=r"bad\.txt is not UTF-8: byte 0xe5 at offset 10000"):
        documents(made, settings)


def test_only_corpora_with_splits_can_give_theirs(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UserError, match="defines no splits of its own"):
        cut(tmp_path / "a.txt", size=10, split="given")


def test_a_dataset_is_cut_by_its_examples(tmp_path):
    import tensorflow_datasets as tfds

    class ManyLines(tfds.core.GeneratorBasedBuilder):
        """Lines in two splits."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

        def _split_generators(self, manager):
            return {"train": self._lines("train", 90), "test": self._lines("test", 30)}

        def _lines(self, name, count):
            for number in range(count):
                yield number, {"text": f"{name} {number}"}

        def _generate_examples(self):
            return {}

    ManyLines(data_dir=str(tmp_path)).download_and_prepare()
    expected = corpora.open_corpus("tfds:many_lines", data_dir=str(tmp_path))
    made, settings = cut("tfds:many_lines", size=400, data_dir=str(tmp_path), split="given")
    assert len(made) > 3
    assert documents(made, settings) == list(expected.documents())
    assert {section.split for section in made} == {"train", "test"}
    for name in ("train", "test"):
        texts = [text for section in made if section.split == name for text in section.open(settings).splits[name]()]
        assert texts == list(expected.splits[name]())
