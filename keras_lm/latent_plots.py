"""Figures of sentence VAEs: how much goes through the vector while one learns, and where sentences lie in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_lm.errors import UserError
from keras_lm.plots import write_figure


def kl_curves(
    metrics: Sequence[Mapping[str, Any]], path: str | os.PathLike | None = None, *, plain: float | None = None, least: float = 3.0
) -> Any:
    """The KL on the validation split over the steps of a run, and below the bound on the perplexity.

    Args:
        metrics: Lines of `metrics.jsonl` of a VAE, as `Run.read_metrics` gives them.
        path: Where to write the picture; default nowhere.
        plain: The perplexity of a language model on the same sentences, for a line beside the bound; default none.
        least: The KL, in nats, below which the posterior counts as collapsed.

    Returns:
        The `matplotlib.figure.Figure`, which a notebook shows.

    Raises:
        UserError: no metrics yet, or not of a VAE.

    Example:

    >>> lines = [{"step": step, "val_kl": kl, "val_perplexity": 90.0, "val_reconstruction": 80.0} for step, kl in ((10, 0.5), (20, 5.0))]
    >>> kl_curves(lines, plain=70.0).axes[0].get_ylabel()
    'KL (nats a sentence)'
    """
    from matplotlib.figure import Figure

    if not metrics or "val_kl" not in metrics[0]:
        raise UserError("no metrics of a VAE to draw: train one (--task vae) up to its first evaluation")
    steps = [line["step"] for line in metrics]
    figure = Figure(figsize=(7, 6), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    upper.plot(steps, [line["val_kl"] for line in metrics], marker=".")
    upper.axhline(least, linestyle=":", color="grey", label="collapsed below")
    upper.set_ylabel("KL (nats a sentence)")
    upper.set_ylim(bottom=0)
    upper.legend()
    lower.plot(steps, [line["val_perplexity"] for line in metrics], marker=".", label="bound of the VAE")
    if plain is not None:
        lower.axhline(plain, linestyle="--", color="C1", label=f"language model: {plain:.1f}")
    lower.set_yscale("log")
    lower.yaxis.set_major_formatter("{x:g}")
    lower.yaxis.set_minor_formatter("{x:g}")
    lower.set_ylabel("perplexity")
    lower.set_xlabel("step")
    lower.legend()
    for axes in (upper, lower):
        axes.grid(alpha=0.3, which="both")
    return write_figure(figure, path)


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors in the plane in which they differ most.

    Args:
        vectors: `(sentences, latent_dim)`.

    Returns:
        `(sentences, 2)`, and the shares of the variance that the two axes have.

    Example:

    >>> points, shares = principal_axes(np.array([[0.0, 0.0, 0.0], [0.0, 4.0, 0.0], [3.0, 2.0, 0.0], [-3.0, 2.0, 0.0]]))
    >>> np.abs(points).round(6).tolist(), shares.round(3).tolist()
    ([[0.0, 2.0], [0.0, 2.0], [3.0, 0.0], [3.0, 0.0]], [0.692, 0.308])
    """
    centred = vectors - vectors.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    return centred @ axes[:2].T, sizes[:2] ** 2 / np.sum(sizes**2)


def latent_map(vectors: np.ndarray, values: Sequence[float] | Sequence[str], label: str, path: str | os.PathLike | None = None) -> Any:
    """Sentences as points, by the two principal axes of their vectors.

    Args:
        vectors: `(sentences, latent_dim)`, as `LatentSpace.encode` gives them.
        values: What colours the points: a number of each sentence, such as its length, or the name of its class.
        label: What these are called.
        path: Where to write the picture; default nowhere.

    Returns:
        The `matplotlib.figure.Figure`.

    Example:

    >>> figure = latent_map(np.eye(4), [5, 9, 7, 12], "characters")
    >>> figure.axes[1].get_ylabel()
    'characters'
    """
    from matplotlib.figure import Figure

    points, shares = principal_axes(np.asarray(vectors))
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.add_subplot()
    if isinstance(values[0], str):
        names = np.asarray(values)
        for number, name in enumerate(dict.fromkeys(values)):
            axes.scatter(*points[names == name].T, s=6, alpha=0.5, color=f"C{number}", label=name)
        axes.legend(title=label, markerscale=3)
    else:
        drawn = axes.scatter(*points.T, c=np.asarray(values), s=6, alpha=0.6, cmap="viridis")
        figure.colorbar(drawn, label=label)
    axes.set_xlabel(f"first principal axis ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"second ({shares[1]:.0%})")
    axes.grid(alpha=0.3)
    return write_figure(figure, path)
