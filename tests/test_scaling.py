import subprocess
import sys

import numpy as np
import pytest

from keras_lm import plots
from keras_lm.errors import UserError
from keras_lm.scaling import PowerLaw, SizedRun, fit_power_law


def test_the_law_of_the_paper_is_found_again():
    """Kaplan et al. 2020, table 5: α_N = 0.076, N_c = 8.8e13; with noise of one in a thousand."""
    sizes = np.geomspace(1e3, 1e9, 30)
    losses = (8.8e13 / sizes) ** 0.076 * np.exp(np.random.default_rng(0).normal(0, 1e-3, len(sizes)))
    law = fit_power_law(sizes, losses)
    assert law.exponent == pytest.approx(0.076, rel=0.01)
    assert np.log10(law.scale) == pytest.approx(np.log10(8.8e13), rel=0.01)
    assert law.r_squared > 0.999
    assert law(1e6) == pytest.approx((8.8e13 / 1e6) ** 0.076, rel=0.01)


def test_losses_that_follow_no_law_are_not_explained():
    noise = np.exp(np.random.default_rng(1).normal(0, 1, 200))
    assert fit_power_law(np.geomspace(1, 1e6, 200), noise).r_squared < 0.1


def test_one_size_gives_no_line():
    with pytest.raises(UserError, match="at least two different sizes, got"):
        fit_power_law([100, 100], [2.0, 2.1])


def test_the_picture_shows_every_size_and_both_lines(tmp_path):
    runs = [SizedRun(size, [(tokens, (1e9 / tokens) ** 0.1 + 10 / size) for tokens in (1e4, 1e5, 1e6)]) for size in (1000, 10_000)]
    figure = plots.scaling_laws(runs, PowerLaw(0.1, 1e9, 1.0), PowerLaw(0.2, 1e8, 1.0), tmp_path / "laws.png")
    left, right = figure.axes
    assert [text.get_text() for text in right.get_legend().get_texts()][:2] == ["1,000 parameters", "10,000 parameters"]
    assert len(left.lines) == 2 and len(right.lines) == 3
    assert (tmp_path / "laws.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_benchmark_trains_fits_and_goes_on(repository, tmp_path):
    lines = [f"{number} times {other} is {number * other}" for number in range(40) for other in range(40)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    program = [sys.executable, str(repository / "benchmarks" / "scaling.py"), "--config", str(repository / "recipes" / "scaling.yaml")]
    flags = ["--corpus", str(tmp_path / "text.txt"), "--steps", "400", "--sizes", "1x16", "2x32"]
    first = subprocess.run([*program, *flags], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert (tmp_path / "runs" / "scaling" / "scaling.png").is_file()
    rows = [line for line in first.splitlines() if line.startswith("| ") and line[2].isdigit()]
    sizes, losses = zip(*[(int(row.split("|")[1].replace(",", "")), float(row.split("|")[3])) for row in rows], strict=True)
    assert sizes == (12 * 16**2 + 2 * 2 * 16 + 2 * 16, 2 * 12 * 32**2 + 2 * 2 * 2 * 32 + 2 * 32)
    assert losses[1] < losses[0]
    again = subprocess.run([*program, *flags], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert again.splitlines()[-6:] == first.splitlines()[-6:]
