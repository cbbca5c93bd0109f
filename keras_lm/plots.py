"""Every figure of the project."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
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
    return write_figure(figure, path)


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
    return write_figure(figure, path)


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
    return write_figure(figure, path)


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
    return write_figure(figure, path)


def heaviest_words(words: Mapping[str, Sequence[tuple[str, float]]], path: str | os.PathLike | None = None) -> Any:
    """The words that speak most for each class of a linear classifier: a panel a class, the heaviest on top.

    Args:
        words: For each class its words with their weights, heaviest first, as `BagOfWordsClassifier.heaviest_words` gives them; where no
            font has Chinese, a Chinese word is called by its rank.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        UserError: no words.

    Example:

    >>> figure = heaviest_words({"negative": [("bad", 2.0), ("broken", 1.5)], "positive": [("good", 1.8)]})
    >>> [axes.get_title() for axes in figure.axes]
    ['negative', 'positive']
    """
    from matplotlib.figure import Figure

    if not any(words.values()):
        raise UserError("there are no words to draw")
    chinese = use_chinese_font()
    most = max(len(own) for own in words.values())
    figure = Figure(figsize=(3.5 * len(words), 0.8 + 0.24 * most), layout="constrained")
    panels = figure.subplots(1, len(words), sharex=True, squeeze=False)[0]
    for color, (axes, (name, own)) in enumerate(zip(panels, words.items(), strict=True)):
        axes.barh(range(len(own)), [weight for _, weight in own], color=f"C{color}")
        axes.set_yticks(range(len(own)), [_readable(word, str(rank), chinese) for rank, (word, _) in enumerate(own, 1)])
        axes.set_ylim(most - 0.5, -0.5)
        axes.set_title(_readable(name, f"class {color}", chinese))
        axes.set_xlabel("weight")
        axes.grid(alpha=0.3, axis="x")
    return write_figure(figure, path)


def bits_by_order(curves: Mapping[str, Mapping[int, float]], path: str | os.PathLike | None = None) -> Any:
    """Bits a character of n-gram models over their order, one line a way of making them.

    Args:
        curves: For each name its bits by order.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    >>> figure = bits_by_order({"add-1": {1: 9.5, 2: 8.0}, "Kneser-Ney": {1: 9.5, 2: 6.7}})
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['add-1', 'Kneser-Ney']
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for marker, (name, bits) in zip(itertools.cycle("os^vD"), curves.items(), strict=False):
        axes.plot(list(bits), list(bits.values()), marker=marker, fillstyle="none", label=name)
    axes.xaxis.set_major_locator(MultipleLocator(1))
    axes.set_xlabel("order n")
    axes.set_ylabel("bits a character, held out")
    axes.grid(alpha=0.3)
    axes.legend()
    return write_figure(figure, path)


def gradient_reach(curves: Mapping[str, Sequence[float]], path: str | os.PathLike | None = None) -> Any:
    """How far back a loss reaches: the size of its gradient over the distance, on a logarithmic axis, one line a model.

    Args:
        curves: For each name the sizes from k = 0 on, as `keras_lm.insight.memory.gradient_reach` gives them; drawn with k = 0 as 1.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        UserError: a size of 0 at k = 0, which the others cannot be compared with.

    Example:

    >>> figure = gradient_reach({"gru": [2.0, 1.0, 0.5]})
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [1.0, 0.5, 0.25]
    """
    from matplotlib.figure import Figure

    chinese = use_chinese_font()
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, sizes in curves.items():
        if not sizes[0] > 0:
            raise UserError(f"the gradient of {name!r} at k = 0 is {sizes[0]}: there is nothing to compare the others with")
        axes.plot([size / sizes[0] for size in sizes], label=name)
    axes.set_yscale("log")
    axes.set_xlabel("距离 k（词元） · distance k (tokens)" if chinese else "distance k (tokens)")
    axes.set_ylabel("梯度的大小，k = 0 处为 1 · size of the gradient" if chinese else "size of the gradient, k = 0 is 1")
    axes.grid(alpha=0.3)
    axes.legend()
    return write_figure(figure, path)


def exposure_over_repetitions(
    panels: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]], most: float, path: str | os.PathLike | None = None
) -> Any:
    """Exposure of canaries over how often each was planted: a panel a model, a line a countermeasure, chance dashed.

    Args:
        panels: For each model, by countermeasure and number of repetitions, the exposure of each canary in bits; drawn are mean, least and
            largest.
        most: The highest exposure that there can be, log2 of the candidates; dotted.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    >>> figure = exposure_over_repetitions({"LSTM": {"plain": {1: [1.0, 2.0], 64: [16.0, 16.0]}}}, 16.6)
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [1.5, 16.0]
    """
    import math

    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 4), layout="constrained")
    for axes, (name, lines) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True):
        for marker, (measure, own) in zip(itertools.cycle("os^vD"), lines.items(), strict=False):
            means = [sum(values) / len(values) for values in own.values()]
            (line,) = axes.plot(list(own), means, marker=marker, fillstyle="none", label=measure)
            axes.fill_between(list(own), list(map(min, own.values())), list(map(max, own.values())), alpha=0.12, color=line.get_color())
        axes.axhline(1 / math.log(2), linestyle="--", color="grey", label="chance (mean)")
        axes.axhline(most, linestyle=":", color="grey", label="rank 1")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_title(name)
        axes.set_xlabel("times planted")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("exposure (bits)")
    figure.axes[0].legend(fontsize=9)
    return write_figure(figure, path)


def recall_over_distance(
    distances: Sequence[int], curves: Mapping[str, Sequence[Sequence[float]]], chance: float, path: str | os.PathLike | None = None
) -> Any:
    """Recall accuracy over the distance, one line a model: the mean of its runs, and a band from the least to the largest.

    Args:
        distances: Steps between what was shown and its question.
        curves: For each name its runs, each an accuracy for every distance.
        chance: What a guess comes to; dashed.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    >>> figure = recall_over_distance([1, 2], {"gru": [[1.0, 0.5], [0.5, 0.5]]}, chance=0.25)
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [0.75, 0.5]
    """
    import numpy as np
    from matplotlib.figure import Figure

    chinese = use_chinese_font()
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, runs in curves.items():
        shares = np.array(runs)
        (line,) = axes.plot(distances, shares.mean(axis=0), marker=".", label=name)
        axes.fill_between(distances, shares.min(axis=0), shares.max(axis=0), alpha=0.25, color=line.get_color())
    axes.axhline(chance, linestyle="--", color="grey", label=("瞎猜 · a guess" if chinese else "a guess") + f": {chance:.2f}")
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("距离（步） · distance (steps)" if chinese else "distance (steps)")
    axes.set_ylabel("答对的比例 · share right" if chinese else "share right")
    axes.grid(alpha=0.3)
    axes.legend()
    return write_figure(figure, path)


def sense_map(
    vectors: Mapping[str, Sequence[Sequence[float]]],
    senses: Sequence[str],
    texts: Sequence[str],
    path: str | os.PathLike | None = None,
) -> Any:
    """Vectors of one word in different sentences in the plane of their largest variance (PCA), coloured by sense: a panel a kind of vector.

    Args:
        vectors: For each name `(sentences, dim)`.
        senses: Of each sentence.
        texts: What to write beside each point, e.g. the end of the left context; where no font has Chinese, a Chinese one's number.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    >>> figure = sense_map({"state": [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]}, ["hard", "hard", "disaster"], ["困难", "很难", "遇难"])
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['hard', 'disaster']
    """
    import numpy as np
    from matplotlib.figure import Figure

    chinese = use_chinese_font()
    figure = Figure(figsize=(5 * len(vectors), 4.5), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(vectors), squeeze=False)[0], vectors.items(), strict=True):
        rows = np.asarray(rows, np.float64)
        centred = rows - rows.mean(axis=0)
        centred[np.abs(centred) < 1e-6 * np.abs(rows).max()] = 0  # what rounding leaves of vectors that are all the same
        _, sizes, axes_of_variance = np.linalg.svd(centred, full_matrices=False)
        plane = centred @ axes_of_variance[:2].T
        for color, sense in enumerate(dict.fromkeys(senses)):
            own = [number for number, other in enumerate(senses) if other == sense]
            label = _readable(sense, f"sense {color}", chinese)
            axes.scatter(plane[own, 0], plane[own, 1], s=14, color=f"C{color}", label=label)
            for number in own:
                text = _readable(texts[number], str(number), chinese)
                axes.annotate(text, plane[number], xytext=(3, 3), textcoords="offset points", fontsize=8, color=f"C{color}")
        share = (sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-12)
        axes.set_title(f"{name}: {share:.0%} of the variance" if sizes[0] else f"{name}: all the same")
        axes.margins(0.15)
        axes.grid(alpha=0.3)
        axes.legend()
    return write_figure(figure, path)


def word_map(
    words: Sequence[str],
    points: Sequence[Sequence[float]],
    groups: Mapping[str, Sequence[str]],
    path: str | os.PathLike | None = None,
) -> Any:
    """Words as points in a plane, coloured by group.

    Args:
        words: None twice; where no font has Chinese, a Chinese one's number is written instead.
        points: `(words, 2)`, e.g. what t-SNE made of their vectors.
        groups: For each name its words; words in none are grey.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    >>> figure = word_map(["日本", "冠军"], [[0.0, 1.0], [1.0, 0.0]], {"countries": ["日本"], "sports": ["冠军"]})
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['countries', 'sports']
    """
    from matplotlib.figure import Figure

    chinese = use_chinese_font()
    figure = Figure(figsize=(9, 7), layout="constrained")
    axes = figure.add_subplot()
    color_of = {word: f"C{number}" for number, own in enumerate(groups.values()) for word in own}
    for number, (word, point) in enumerate(zip(words, points, strict=True)):
        axes.plot(*point, marker=".", color=color_of.get(word, "grey"))
        text = _readable(word, str(number), chinese)
        axes.annotate(text, point, xytext=(3, 3), textcoords="offset points", fontsize=9, color=color_of.get(word, "grey"))
    for number, name in enumerate(groups):
        axes.plot([], [], ".", color=f"C{number}", label=_readable(name, f"group {number}", chinese))
    axes.margins(0.08)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend()
    return write_figure(figure, path)


def _readable(text: str, instead: str, chinese: bool) -> str:
    """The text, or what stands for it where there is no font for its characters (those from U+2E80 on, which Chinese is written with)."""
    return text if chinese or all(character < "\u2e80" for character in text) else instead


def write_figure(figure: Any, path: str | os.PathLike | None) -> Any:
    if path is not None:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150)
    return figure
