"""Pictures of attention: where each head looks, tokens on both sides."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from typing import Any

from keras_lm import plots
from keras_lm.errors import UserError


def attention_heads(
    weights: Sequence[Sequence[Sequence[float]]],
    queries: Sequence[str],
    keys: Sequence[str],
    path: str | os.PathLike | None = None,
) -> Any:
    """Where the heads of an attention look: a panel a head, a row a query, a column a key; one scale for all.

    Args:
        weights: `(heads, queries, keys)`, as `keras_lm.insight.attention` gives them for one text.
        queries: What to write beside each row: the tokens that look, e.g. of a target.
        keys: What to write under each column: the tokens looked at, e.g. of a source; where no font has Chinese, their numbers.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        UserError: other numbers of labels than of queries and keys.

    Example:

    >>> figure = attention_heads([[[1.0, 0.0], [0.5, 0.5]]] * 2, ["save", "file"], ["保存", "文件"])
    >>> [axes.get_title() for axes in figure.axes[:2]]
    ['head 0', 'head 1']
    """
    import numpy as np

    weights = np.asarray(weights)
    columns = len(weights) if len(weights) <= 3 else 2 if len(weights) == 4 else 3 if len(weights) in (5, 6, 9) else 4
    titles = [f"head {head}" for head in range(len(weights))] if len(weights) > 1 else [""]
    return plots.write_figure(_attention(weights, titles, columns, queries, keys), path)


def attention_map(
    weights: Sequence[Sequence[Sequence[float]]],
    queries: Sequence[str],
    keys: Sequence[str],
    path: str | os.PathLike | None = None,
) -> Any:
    """Where an attention looks, all heads together: the mean of their weights; in small maps with the numbers.

    Args:
        weights, queries, keys, path: As in `attention_heads`.

    Returns:
        The `matplotlib.figure.Figure`.

    Raises:
        UserError: as `attention_heads`.

    Example:

    >>> figure = attention_map([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]], ["save", "file"], ["保存", "文件"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['.50', '.50', '.50', '.50']
    """
    import numpy as np

    weights = np.asarray(weights).mean(axis=0, keepdims=True)
    figure = _attention(weights, [""], 1, queries, keys)
    axes, (image,) = figure.axes[0], figure.axes[0].images
    if max(weights.shape) <= _NUMBERS_UP_TO:
        for place, value in np.ndenumerate(weights[0]):
            if value >= 0.005:
                text = f"{value:.2f}".removeprefix("0")
                axes.text(place[1], place[0], text, ha="center", va="center", fontsize=8, color="w" if image.norm(value) > 0.5 else "k")
    return plots.write_figure(figure, path)


_NUMBERS_UP_TO = 14  # queries and keys: in a larger map numbers would not fit


def _attention(weights: Any, titles: Sequence[str], columns: int, queries: Sequence[str], keys: Sequence[str]) -> Any:
    """Panels of `(heads, queries, keys)` with tokens beside them: those that look on y, those looked at on x."""
    from matplotlib.figure import Figure

    heads, num_queries, num_keys = weights.shape
    if (len(queries), len(keys)) != (num_queries, num_keys):
        raise UserError(f"{num_queries} queries and {num_keys} keys need as many labels, got {len(queries)} and {len(keys)}")
    chinese = plots.use_chinese_font()
    shown = lambda tokens: [_label(token, number, chinese) for number, token in enumerate(tokens)]
    rows = -(-heads // columns)
    least = 1.6 if columns > 1 else 2.4
    width, height = (min(max(0.32 * count, least), most) for count, most in ((num_keys, 15 / columns), (num_queries, 8.0)))
    cells = width / num_keys, height / num_queries  # inches
    longest = [max(map(_label_width, shown(tokens))) for tokens in (queries, keys)]
    upright = longest[1] / 16 + 0.03 <= cells[0]  # half a character takes a sixteenth of an inch; what does not fit is turned
    size = (columns * (width + 0.25) + 0.08 * longest[0] + 1.4, rows * (height + 0.35) + (0.3 if upright else 0.08 * longest[1]) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for number, axes in enumerate(panels):
        if number >= heads:
            axes.set_visible(False)
            continue
        image = axes.imshow(weights[number], cmap="Blues", vmin=0, vmax=weights.max(), aspect="auto")
        axes.set_title(titles[number], fontsize=10)
        axes.set_xticks(range(num_keys), shown(keys), rotation=0 if upright else 90)
        axes.set_yticks(range(num_queries), shown(queries))
        axes.tick_params(labelbottom=number + columns >= heads, length=2)
        for axis, cell in zip("xy", cells, strict=True):
            axes.tick_params(axis, labelsize=min(9, 60 * cell))  # points; what is crowded is written small
    figure.colorbar(image, ax=panels[:heads].tolist(), label="权重 · weight" if chinese else "weight", shrink=0.9)
    figure.supxlabel("键：被看的词元 · keys" if chinese else "keys: looked at", fontsize=10)
    figure.supylabel("查询：在看的词元 · queries" if chinese else "queries: looking", fontsize=10)
    return figure


def _label(token: str, number: int, chinese: bool) -> str:
    """A token as an axis can carry it: white space made visible where there is nothing else; what no font has as its number."""
    text = token.strip() or token.replace(" ", "␣").replace("\n", "↵").replace("\t", "⇥")
    return text.replace("$", r"\$") if chinese or token.isascii() else str(number)


def _label_width(text: str) -> int:
    """In halves of a Chinese character."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)
