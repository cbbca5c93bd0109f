"""Every figure of the project."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from keras_lm.errors import UserError
from keras_lm.files import replacing
from keras_lm.scaling import PowerLaw, SizedRun


def use_chinese_font() -> bool:
    """Has matplotlib write Chinese characters too: with a font of the machine's, or of the package `mplfonts` (the extra `fonts`).

    Returns:
        Whether there is one. Without, a figure should carry ids or English: each character would be an empty box.

    Example:

    >>> use_chinese_font() in (True, False)
    True
    """
    import matplotlib.pyplot as plt
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    package = importlib.util.find_spec("mplfonts")
    for path in pathlib.Path(package.origin).parent.glob("fonts/NotoSansCJK*") if package and package.origin else ():
        font_manager.fontManager.addfont(path)
    for font in sorted(font_manager.fontManager.ttflist, key=lambda font: "Noto Sans CJK" not in font.name):
        with contextlib.suppress(OSError, RuntimeError):
            if "Last Resort" not in font.name and ord("国") in FT2Font(font.fname).get_charmap():
                plt.rcParams["font.family"] = [font.name, "DejaVu Sans"]
                plt.rcParams["axes.unicode_minus"] = False  # not every such font has a minus of its own
                return True
    return False


def learning_curves(metrics: Sequence[Mapping[str, Any]], path: str | os.PathLike | None = None) -> Any:
    """Training and validation loss over the steps of a run, the best evaluation marked.

    Args:
        metrics: Lines of `metrics.jsonl`, as `Run.read_metrics` gives them.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`, which a notebook shows.

    Raises:
        UserError: no metrics yet.

    Example:

    >>> figure = learning_curves([{"step": 10, "loss": 3.0, "val_loss": 3.1}, {"step": 20, "loss": 2.5, "val_loss": 2.7}])
    >>> figure.axes[0].get_xlabel()
    'step'
    """
    from matplotlib.figure import Figure

    if not metrics:
        raise UserError("no metrics to draw yet: train up to the first evaluation")
    steps = [line["step"] for line in metrics]
    validation = [line["val_loss"] for line in metrics]
    best = min(range(len(steps)), key=validation.__getitem__)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, [line["loss"] for line in metrics], marker=".", label="training (mean since the last evaluation)")
    (line,) = axes.plot(steps, validation, marker=".", label=f"validation (best {validation[best]:.3f} at step {steps[best]:,})")
    axes.plot(steps[best], validation[best], marker="o", markersize=9, markerfacecolor="none", color=line.get_color())
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats a token)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend()
    return _written(figure, path)


def compared_curves(curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]], path: str | os.PathLike | None = None) -> Any:
    """Validation loss over the tokens read, one line a model: the mean of its runs, and a band from the least to the largest.

    Args:
        curves: For each name its runs, which were evaluated at the same steps, as `(tokens read, validation loss)`.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    >>> figure = compared_curves({"lstm": [[(100, 3.0), (200, 2.0)], [(100, 3.2), (200, 2.2)]]})
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [3.1, 2.1]
    """
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, runs in curves.items():
        tokens = [count for count, _ in runs[0]]
        losses = np.array([[loss for _, loss in run] for run in runs])
        (line,) = axes.plot(tokens, losses.mean(axis=0), marker=".", label=f"{name}: {losses.mean(axis=0).min():.3f}")
        axes.fill_between(tokens, losses.min(axis=0), losses.max(axis=0), alpha=0.25, color=line.get_color())
    axes.set_xlabel("tokens read")
    axes.set_ylabel("validation loss (nats a token)")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend()
    return _written(figure, path)


def learning_rates(rates: Sequence[float], losses: Sequence[float], chosen: float, path: str | os.PathLike | None = None) -> Any:
    """The losses of a learning-rate range test, the suggested rate marked.

    Args:
        rates: Learning rates, growing.
        losses: The smoothed training loss at each, in nats a token.
        chosen: The rate that is suggested.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(rates, losses)
    axes.axvline(chosen, linestyle="--", color="grey", label=f"the loss falls fastest at {chosen:.2g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss, smoothed (nats a token)")
    axes.grid(alpha=0.3)
    axes.legend()
    return _written(figure, path)


def scaling_laws(runs: Sequence[SizedRun], by_size: PowerLaw, by_tokens: PowerLaw, path: str | os.PathLike | None = None) -> Any:
    """Loss against parameters and against tokens, both axes logarithmic, with the fitted lines.

    Args:
        runs: One a size, the largest last.
        by_size: Fitted to the best loss of each over its parameters.
        by_tokens: Fitted to the curve of the largest over the tokens it has read.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    sizes = [run.parameters for run in runs]
    left.plot(sizes, [run.loss for run in runs], "o", label="best validation loss")
    left.plot(sizes, [by_size(size) for size in sizes], "--", color="grey", label=f"$(N_c / N)^{{{by_size.exponent:.3f}}}$")
    left.set_xlabel("parameters without embeddings, N")
    left.set_ylabel("validation loss (nats a token)")
    for run in runs:
        right.plot(*zip(*run.curve, strict=True), marker=".", label=f"{run.parameters:,} parameters")
    tokens = [tokens for tokens, _ in runs[-1].curve]
    right.plot(tokens, [by_tokens(count) for count in tokens], "--", color="grey", label=f"$(D_c / D)^{{{by_tokens.exponent:.3f}}}$")
    right.set_xlabel("tokens read, D")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter("{x:.1f}")
        axes.yaxis.set_minor_formatter("{x:.1f}")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
    return _written(figure, path)


def _written(figure: Any, path: str | os.PathLike | None) -> Any:
    if path is not None:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)
    return figure
