import json
import subprocess
import sys

import pytest

from tests.test_quality import RECIPE, TEXT


@pytest.mark.slow
def test_the_table_measures_what_starts_from_a_run_that_is_not_there(repository, tmp_path):
    corpora, recipes = tmp_path / "corpora", tmp_path / "recipes"
    corpora.mkdir()
    recipes.mkdir()
    (corpora / "text.txt").write_text(TEXT)
    first = RECIPE.format(corpus="text.txt", model="gru")
    (recipes / "first.yaml").write_text(first)
    (recipes / "second.yaml").write_text(first + "start_from: runs/first\n")
    (recipes / "third.yaml").write_text(RECIPE.format(corpus="elsewhere.txt", model="gru"))
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
