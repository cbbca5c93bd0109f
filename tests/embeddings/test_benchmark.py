import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_benchmark_trains_both_and_judges_them(repository, tmp_path):
    program = [sys.executable, str(repository / "benchmarks" / "word_vectors.py"), "--corpora", "pydoc", "--vocabulary-size", "3000"]
    shown = subprocess.run([*program, "--rounds", "2", "--epochs", "1"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\| (keras_lm|gensim) (skip_gram|cbow) \| [\d,]+ \| ([\d.]+) \| -?[\d.]+ ± [\d.]+; ", shown, re.MULTILINE)
    assert [row[:2] for row in rows] == [(name, kind) for kind in ("skip_gram", "cbow") for name in ("keras_lm", "gensim")]
    assert [row[2] for row in rows if row[0] == "gensim"] == ["1.00", "1.00"]


@pytest.mark.slow
def test_the_gain_of_vectors_is_measured(repository, tmp_path):
    program = [sys.executable, str(repository / "benchmarks" / "word_vectors.py"), "--gain", "--steps", "2", "--seeds", "0"]
    shown = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\| (a 10th|all) of .* \| (chance|Word2Vec) \| [\d.]+ ± [\d.]+ \| [+-][\d.]+ \|$", shown, re.MULTILINE)
    assert rows == [(share, name) for share in ("a 10th", "all") for name in ("chance", "Word2Vec")]
