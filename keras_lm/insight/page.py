"""One self-contained page of what was seen inside a model: no outside assets, drawn by its own script, light and dark, Chinese and English.

`page.html` is the page without its data; pictures as numbers in it, a byte each, so that it can be pointed at: what stands where.
"""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_lm.errors import UserError, unknown_name

if TYPE_CHECKING:
    from keras_lm.insight.inspection import Inspection

SCORES = {True: "ln P/(1−P)", False: "ln P"}
"""By whether the model is a classifier: what its score is called."""


def render(inspection: Inspection, *, about: str, layer: str | None = None, head: int | None = None) -> str:
    """The page as one HTML text.

    Args:
        inspection: What was found.
        about: What stands under the heading: which run it is.
        layer: The layer that is shown first, by its name or its number in its section; default the last.
        head: The head of an attention that is shown first; default the mean of all.

    Raises:
        UserError: no such layer or head.
    """
    names = {
        "attention": [one.name for one in inspection.attention or ()],
        "gates": [one.layer for one in inspection.gates or ()],
    }
    chosen = {name: max(len(own) - 1, 0) for name, own in names.items()}
    if layer is not None:
        found = {name: _place(layer, own) for name, own in names.items()}
        if all(place is None for place in found.values()):
            raise unknown_name("layer", layer, [name for own in names.values() for name in own])
        chosen |= {name: place for name, place in found.items() if place is not None}
    if head is not None:
        if not inspection.attention:
            raise UserError(f"no attention is shown, and so no head: {inspection.missing.get('attention', 'ask for attention')}")
        heads = len(inspection.attention[chosen["attention"]].weights)
        if not 0 <= head < heads:
            raise UserError(f"head must be from 0 to {heads - 1}, got {head}")
    data: dict[str, Any] = {
        "about": about,
        "text": inspection.text,
        "chosen": {**chosen, "head": -1 if head is None else head},
        "missing": list(inspection.missing.items()),
    }
    if inspection.attention:
        data["attention"] = [
            {"name": one.name, "queries": one.queries, "keys": one.keys, "weights": _packed(one.weights, 0.0, 1.0)}
            for one in inspection.attention
        ]
    if inspection.gates:
        data["gates"] = [_gates(one.layer, one.kind, one.tokens, one.values) for one in inspection.gates]
    if found := inspection.attributions:
        plain = {name: getattr(found, name) for name in ("tokens", "target", "alternatives", "gap", "gradients", "correlation")}
        scores = {name: getattr(found, name) for name in ("score", "baseline_score")}
        rows = {name: _rounded(getattr(found, name)) for name in ("integrated", "left_out")}
        data["attributions"] = {**plain, **scores, **rows, "score_name": SCORES[inspection.classifies]}
    if lens := inspection.lens:
        rows = {name: _rounded(getattr(lens, name)) for name in ("probabilities", "entropy", "divergence")}
        names = {"layers": lens.layers, "tokens": lens.tokens, "candidates": lens.candidates.tolist()}
        data["lens"] = {**names, "following": inspection.writes, "whole": inspection.classifies, **rows}
    template = importlib.resources.files("keras_lm.insight").joinpath("page.html").read_text(encoding="utf-8")
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")  # no text can end the script
    parts = {"TITLE": html.escape(f"{inspection.text[:40]} · {about}"), "DATA": written}
    return re.sub("__(TITLE|DATA)__", lambda match: parts[match[1]], template)  # in one pass: a text may hold such a word itself


def _place(layer: str, names: Sequence[str]) -> int | None:
    """Where a layer stands among others, by its name, the beginning of it up to a slash, or its number."""
    if layer.isdecimal():
        return int(layer) if int(layer) < len(names) else None
    return next((place for place, name in enumerate(names) if layer in (name, name.partition("/")[0])), None)


def _gates(layer: str, kind: str, tokens: Sequence[str], values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    order = unit_order(values["hidden"])
    packed = {}
    for name, value in values.items():
        most = float(np.abs(value).max()) or 1.0
        packed[name] = _packed(value[:, order], *((0.0, 1.0) if name.endswith("_gate") else (-most, most)))
    return {"name": layer, "kind": kind, "tokens": tokens, "order": order.tolist(), "values": packed}


def unit_order(states: np.ndarray) -> np.ndarray:
    """Units in an order in which those that go along a text alike stand together: by their share in its principal component.

    Args:
        states: `(tokens, units)`.

    Returns:
        `(units,)` numbers of units.

    Example:

    >>> unit_order(np.array([[0.0, 1.0, 0.1], [1.0, 0.0, 1.1]])).tolist() in ([1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1])
    True
    """
    _, _, axes = np.linalg.svd(states - states.mean(axis=0), full_matrices=False)
    return np.argsort(axes[0], kind="stable")


def _packed(values: np.ndarray, low: float, high: float) -> dict[str, Any]:
    """An array as bytes, 0 for `low` and 255 for `high`."""
    data = np.rint(255 * (np.clip(values, low, high) - low) / (high - low)).astype(np.uint8).tobytes()
    return {"shape": values.shape, "low": low, "high": high, "data": base64.b64encode(data).decode()}


def _rounded(values: np.ndarray) -> list:
    return np.round(values.astype(np.float64), 4).tolist()
