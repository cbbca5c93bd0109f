"""Figures of classifiers: which classes are taken for which, and how far probabilities can be believed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_lm.plots import _readable, use_chinese_font, write_figure


def confusion_matrix(counts: np.ndarray, classes: Sequence[str], path: str | os.PathLike | None = None) -> Any:
    """How often texts of the class of a row were said to be of that of a column; colours are shares of the row.

    Args:
        counts: `(classes, classes)`, as `keras_lm.tasks.classification.confusion` gives them.
        classes: Their names; in Chinese where there is a font for it, else their numbers stand there.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`, which a notebook shows.

    Example:

    >>> figure = confusion_matrix(np.array([[9, 1], [2, 8]]), ["negative", "positive"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['9', '1', '2', '8']
    """
    from matplotlib.figure import Figure

    chinese = use_chinese_font()
    names = [_readable(name, str(number), chinese) for number, name in enumerate(classes)]
    size = 2.5 + 0.55 * len(names)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        if counts[row, column]:
            color = "white" if shares[row, column] > 0.6 else "black"
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(len(names)), names, rotation=45 if len(names) > 3 else 0, ha="right" if len(names) > 3 else "center")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("said")
    axes.set_ylabel("right")
    figure.colorbar(image, label="share of the row")
    return write_figure(figure, path)


def calibration(probabilities: np.ndarray, labels: Sequence[int], path: str | os.PathLike | None = None) -> Any:
    """The share of right answers over the probability that the chosen class was given, in ten bins, and how many texts each holds.

    Args:
        probabilities: `(texts, classes)`.
        labels: The right class of each text, by number.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    >>> figure = calibration(np.array([[0.95, 0.05], [0.92, 0.08]]), [0, 1])
    >>> figure.axes[0].get_ylabel()
    'share of right answers'

    References:
        Guo et al. 2017, «On Calibration of Modern Neural Networks» (arXiv:1706.04599).
    """
    from matplotlib.figure import Figure

    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == np.asarray(labels)
    bins = np.minimum((confidence * 10).astype(int), 9)
    texts = np.bincount(bins, minlength=10)
    held = np.flatnonzero(texts)
    figure = Figure(figsize=(5.5, 6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], linestyle=":", color="grey", label="as probable as it says")
    means = [confidence[bins == number].mean() for number in held]
    upper.plot(means, [right[bins == number].mean() for number in held], marker="o", label="here")
    upper.set_ylabel("share of right answers")
    upper.set_ylim(0, 1.03)
    upper.legend()
    lower.bar((np.arange(10) + 0.5) / 10, texts, width=0.09)
    lower.set_ylabel("texts")
    lower.set_xlabel("probability of the class that was chosen")
    lower.set_xlim(min(0.5, 1 / probabilities.shape[1]), 1)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return write_figure(figure, path)
