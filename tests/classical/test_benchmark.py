import re
import subprocess
import sys

import pytest

from keras_lm.classical.smoothing import SMOOTHINGS


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["char", "word", "segmented"])
def test_the_benchmark_evaluates_and_counts_what_nltk_counts(repository, tmp_path, unit):
    program = [sys.executable, str(repository / "benchmarks" / "ngram.py"), "--corpora", "pydoc", "--orders", "1", "3", "--tokens", "3000"]
    shown = subprocess.run([*program, "--unit", unit], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^\| (\d) \| (\w+) \| [\d,]+ \| ([\d.]+|inf) \|", shown, re.MULTILINE)
    assert [(int(order), smoothing) for order, smoothing, _ in rows] == [(order, name) for order in (1, 3) for name in SMOOTHINGS]
    losses = {(order, smoothing): float(loss) for order, smoothing, loss in rows}
    assert losses["3", "modified_kneser_ney"] < losses["3", "add_k"]
    assert losses["3", "modified_kneser_ney"] < losses["1", "modified_kneser_ney"]
    assert len(re.findall(r"^\| [13] \| [\d.]+ \| [\d.]+ \| \d+ \|$", shown, re.MULTILINE)) == 2  # it ends where the counts differ
