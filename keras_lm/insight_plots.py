"""Pictures of what goes on inside a model along a text: gates, what tokens count for, and what each layer would say."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from keras_lm.errors import UserError
from keras_lm.plots import use_chinese_font, write_figure

_TITLES = {
    "input_gate": "输入门 · input gate",
    "forget_gate": "遗忘门 · forget gate",
    "output_gate": "输出门 · output gate",
    "update_gate": "更新门 · update gate",
    "reset_gate": "重置门 · reset gate",
    "candidate": "候选 · candidate",
    "cell": "细胞状态 · cell state",
    "hidden": "隐藏状态 · hidden state",
}


def gate_map(values: Mapping[str, Sequence[Sequence[float]]], tokens: Sequence[str], path: str | os.PathLike | None = None) -> Any:
    """The gates and states of a recurrent layer along a text: a panel each, a column a token, a row a unit.

    Args:
        values: By name, `(tokens, units)`, as `keras_lm.insight.gates.GateActivations.values` holds them.
        tokens: What stands under the columns; where no font has Chinese, the number of such a one.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        UserError: another number of tokens than of columns.

    Example:

    >>> figure = gate_map({"update_gate": [[0.1, 0.9], [0.8, 0.2]], "hidden": [[0.0, 0.5], [-0.5, 0.1]]}, ["a", "b"])
    >>> figure.axes[0].get_title().endswith("update gate")
    True
    """
    import numpy as np
    from matplotlib.figure import Figure

    chinese = use_chinese_font()
    columns = 1 if len(values) == 1 else 2
    rows = -(-len(values) // columns)
    figure = Figure(figsize=(columns * min(max(0.26 * len(tokens), 3.0), 8.0), 1.9 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    for axes in panels[len(values) :]:
        axes.set_visible(False)
    for axes, (name, value) in zip(panels, values.items(), strict=False):
        value = np.asarray(value)
        _check(tokens, len(value))
        most = float(np.abs(value).max()) or 1.0
        span = {"cmap": "Blues", "vmin": 0, "vmax": 1} if name.endswith("_gate") else {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
        image = axes.imshow(value.T, aspect="auto", interpolation="nearest", **span)
        axes.set_title(_words(_TITLES[name], chinese), fontsize=10)
        axes.set_xticks(range(len(tokens)), _labels(tokens, chinese), fontsize=9)
        axes.tick_params(labelbottom=True, length=2)
        axes.set_ylabel(_words("单元 · unit", chinese), fontsize=9)
        figure.colorbar(image, ax=axes)
    return write_figure(figure, path)


def attribution_bars(
    integrated: Sequence[float], left_out: Sequence[float], tokens: Sequence[str], target: str, path: str | os.PathLike | None = None
) -> Any:
    """What each token counts for, by two methods side by side.

    Args:
        integrated: Integrated gradients, one a token.
        left_out: What the score loses without the token.
        tokens: What stands under the bars.
        target: The token or class whose score is explained, for the title.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        UserError: other numbers of tokens than of values.

    Example:

    >>> figure = attribution_bars([0.5, -0.1], [0.4, 0.0], ["not", "bad"], "good")
    >>> len(figure.axes[0].patches)
    4
    """
    import numpy as np
    from matplotlib.figure import Figure

    _check(tokens, len(integrated))
    _check(tokens, len(left_out))
    chinese = use_chinese_font()
    figure = Figure(figsize=(min(max(0.4 * len(tokens) + 1.5, 5), 16), 3.4), layout="constrained")
    axes = figure.add_subplot()
    places = np.arange(len(tokens))
    axes.bar(places - 0.2, integrated, 0.4, label=_words("积分梯度 · integrated gradients", chinese))
    axes.bar(places + 0.2, left_out, 0.4, label=_words("逐一去掉 · leaving it out", chinese))
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xticks(places, _labels(tokens, chinese))
    axes.set_ylabel(_words("得分之差 · difference of the score (nats)", chinese))
    (shown,) = _labels([target], chinese)
    axes.set_title(_words(f"目标 · target: {shown}", chinese), fontsize=10)
    axes.grid(alpha=0.3, axis="y")
    axes.legend()
    return write_figure(figure, path)


def lens_map(
    candidates: Sequence[Sequence[str]],
    probabilities: Sequence[Sequence[float]],
    layers: Sequence[str],
    tokens: Sequence[str],
    path: str | os.PathLike | None = None,
) -> Any:
    """What a model would say after each layer: the most probable token in each place, darker the more probable, the last layer on top.

    Args:
        candidates: `(layers, tokens)`: the most probable ones, as `LogitLens.candidates[..., 0]` has them.
        probabilities: Theirs, of the same shape.
        layers: Names of the layers.
        tokens: What has been read at each position.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        UserError: another number of tokens than of columns.

    Example:

    >>> figure = lens_map([["a", "b"], ["b", "b"]], [[0.2, 0.4], [0.9, 0.8]], ["embedding", "block_0"], ["a", "b"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['a', 'b', 'b', 'b']
    """
    import numpy as np
    from matplotlib.figure import Figure

    probabilities = np.asarray(probabilities)
    _check(tokens, probabilities.shape[1])
    chinese = use_chinese_font()
    longest = max(len(label) for row in candidates for label in row)
    width = min(max((0.2 + 0.13 * longest) * len(tokens) + 2.2, 4), 20)
    figure = Figure(figsize=(width, 0.34 * len(layers) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(probabilities, cmap="Blues", vmin=0, vmax=1, aspect="auto", origin="lower")
    for row, names in enumerate(candidates):
        for column, label in enumerate(_labels(names, chinese)):
            colour = "w" if probabilities[row, column] > 0.5 else "k"
            axes.text(column, row, label, ha="center", va="center", fontsize=9, color=colour)
    axes.set_xticks(range(len(tokens)), _labels(tokens, chinese))
    axes.set_yticks(range(len(layers)), layers)
    axes.set_xlabel(_words("读到的词元 · token read", chinese))
    figure.colorbar(image, ax=axes, label=_words("概率 · probability", chinese))
    return write_figure(figure, path)


def difference_ranges(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, float]]]],
    labels: Sequence[str],
    path: str | os.PathLike | None = None,
) -> Any:
    """Differences with their intervals, a row each, those of several models side by side; zero is where both sides are alike.

    Args:
        panels: By title, Chinese and English parted by « · », by name of a model: `(mean, low, high)` of each row.
        labels: What the rows are called; where no font has Chinese, the number of such a one.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        UserError: another number of labels than of rows.

    Example:

    >>> figure = difference_ranges({"好 · good": {"plain": [(0.1, 0.0, 0.2)], "other": [(0.0, -0.1, 0.1)]}}, ["he/she"])
    >>> len(figure.axes[0].containers)
    2
    """
    import numpy as np
    from matplotlib.figure import Figure

    chinese = use_chinese_font()
    figure = Figure(figsize=(5.2 * len(panels), 0.42 * len(labels) + 1.4), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False).ravel()
    for place, (title, models) in zip(axes, panels.items(), strict=True):
        for number, (name, rows) in enumerate(models.items()):
            _check(labels, len(rows))
            mean, low, high = np.asarray(rows, float).T
            offset = 0.26 * (number - (len(models) - 1) / 2)
            own = _words(name, chinese) if " · " in name else name
            place.errorbar(
                mean, np.arange(len(rows)) + offset, xerr=[mean - low, high - mean], fmt="o", markersize=4, linewidth=1.4, label=own
            )
        place.axvline(0, color="grey", linewidth=0.8)
        place.set_title(_words(title, chinese), fontsize=10)
        place.grid(alpha=0.3, axis="x")
    axes[0].set_yticks(range(len(labels)), _labels(labels, chinese))
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return write_figure(figure, path)


def _check(tokens: Sequence[str], count: int) -> None:
    if len(tokens) != count:
        raise UserError(f"{count} positions need as many tokens, got {len(tokens)}")


def _words(text: str, chinese: bool) -> str:
    """Both languages, or the second alone where no font has the first."""
    return text if chinese else text.partition(" · ")[2]


def _labels(tokens: Sequence[str], chinese: bool) -> list[str]:
    """Tokens as axes can carry them: white space made visible, and what no font has as its number."""
    visible = [token.strip() or token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥") for token in tokens]
    return [token.replace("$", r"\$") if chinese or token.isascii() else str(number) for number, token in enumerate(visible)]
