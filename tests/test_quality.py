import json
import re
import statistics
import subprocess
import sys

import pytest

from keras_lm.training.run import Run

TEXT = "\n".join(f"{number} times {other} is {number * other}" for number in range(40) for other in range(40))

RECIPE = """
corpus: {corpus}
split: contiguous
model: {model}
sequence_length: 16
embedding_dim: 16
hidden_dim: 16
num_layers: 1
batch_size: 8
steps: 40
learning_rate: 0.01
evaluate_every: 20
out: runs/{model}
"""


@pytest.mark.slow
def test_the_benchmark_trains_each_seed_and_goes_on(repository, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    for model in ("gru", "transformer"):
        (tmp_path / f"{model}.yaml").write_text(RECIPE.format(corpus=tmp_path / "text.txt", model=model))
    program = [sys.executable, str(repository / "benchmarks" / "quality.py"), "gru.yaml", "transformer.yaml"]
    program += ["--seeds", "3", "4", "--json", "rows.json"]
    first = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["recipe"], row["model"], row["tokens"]) for row in rows] == [(name, name, 40 * 8 * 16) for name in ("gru", "transformer")]
    for row in rows:
        runs = [Run.open(tmp_path / "runs" / "quality" / f"{row['recipe']}-{seed}") for seed in (3, 4)]
        assert [run.settings.seed for run in runs] == [3, 4]
        assert row["losses"] == [min(line["val_loss"] for line in run.read_metrics()) for run in runs]
        assert row["losses"][0] != row["losses"][1]
        shown = f"{statistics.mean(row['losses']):.3f} ± {statistics.stdev(row['losses']):.3f}"
        assert re.search(rf"^\| {row['recipe']} \|.*\| {re.escape(shown)} \|", first, re.MULTILINE)
    assert (tmp_path / "runs" / "quality" / "quality.png").read_bytes().startswith(b"\x89PNG")
    again = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert again.splitlines()[-6:] == first.splitlines()[-6:]
    changed = subprocess.run([*program, "--learning-rate", "0.02"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert changed.returncode and "holds a run of other settings" in changed.stderr
