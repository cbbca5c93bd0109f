import json
import subprocess
import sys

import pytest

RECIPE = """
corpus: text.txt
model: gru
sequence_length: 16
embedding_dim: 16
hidden_dim: 16
num_layers: 1
batch_size: 8
steps: 40
evaluate_every: 20
out: runs/first
"""


@pytest.mark.slow
def test_the_table_measures_what_starts_from_a_run_that_is_not_there(repository, tmp_path):
    corpora, recipes = tmp_path / "corpora", tmp_path / "recipes"
    corpora.mkdir()
    recipes.mkdir()
    lines = [f"{number} times {other} is {number * other}" for number in range(40) for other in range(40)]
    (corpora / "text.txt").write_text("\n".join(lines))
    (recipes / "first.yaml").write_text(RECIPE)
    (recipes / "second.yaml").write_text(RECIPE.replace("runs/first", "runs/second") + "start_from: runs/first\n")
    (recipes / "third.yaml").write_text(RECIPE.replace("text.txt", "elsewhere.txt"))
    names = ["first", "second", "third"]
    program = [sys.executable, str(repository / "benchmarks" / "cost.py"), *(f"recipes/{name}.yaml" for name in names)]
    program += ["--corpora", "corpora", "--seconds", "0.2", "--json", "rows.json"]
    printed = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, second, third = json.loads((tmp_path / "rows.json").read_text())
    assert [row["recipe"] for row in (first, second, third)] == names
    assert first["parameters"] == second["parameters"] > 1000 and first["run_flops"] > 40 * 8 * 16 * 1000
    assert "elsewhere.txt" in third["missing"]
    assert "| second | lm, gru |" in printed.stdout and printed.stderr == ""
    assert {path.name for path in tmp_path.iterdir()} == {"corpora", "recipes", "rows.json"}  # no run is left
