"""One self-contained page of a probe over paired prompts: differences with their intervals, and what they do not show; Chinese and English.

`fairness.html` is the page without its data.
"""

from __future__ import annotations

import html
import importlib.resources
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_lm.insight.fairness import MEASURES, PairedPrompt
from keras_lm.insight.fairness_report import Probe

_MOST_SHOWN = 5  # single prompts of a group


def render(probe: Probe, *, about: str, details: Mapping[str, Any] | None = None) -> str:
    """The page as one HTML text.

    Args:
        probe: What was found.
        about: What stands under the heading: which run it is.
        details: More that is said there, by name: the sentiment run, the number of samples.

    Example: `render(probe(run), about="quickstart")`
    """
    measures = {
        name: [
            {
                "group": row.group,
                "pair": row.pair,
                "significant": row.significant,
                "templates": row.templates,
                **{key: _rounded(getattr(row, key)) for key in ("mean", "low", "high", "size", "p", "corrected")},
            }
            for row in probe.rows
            if row.measure == name
        ]
        for name in MEASURES
        if name in probe.measured
    }
    data = {
        "about": about,
        "details": {name: str(value) for name, value in (details or {}).items()},
        "groups": list(dict.fromkeys(one.pair.group for one in probe.prompts)),
        "prompts": len(probe.prompts),
        "pairs": len({one.pair for one in probe.prompts}),
        "templates": len({one.template for one in probe.prompts}),
        "tests": probe.tests,
        "missing": list(probe.missing),
        "measures": measures,
        "largest": _largest(probe),
    }
    template = importlib.resources.files("keras_lm.insight").joinpath("fairness.html").read_text(encoding="utf-8")
    written = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")  # no text can end the script
    parts = {"TITLE": html.escape(about), "DATA": written}
    return re.sub("__(TITLE|DATA)__", lambda match: parts[match[1]], template)


def _largest(probe: Probe) -> list[dict[str, Any]]:
    """By group, the prompts whose favour differs most: what stands behind the means."""
    values = probe.measured["favour"]
    result = []
    for group in dict.fromkeys(one.pair.group for one in probe.prompts):
        own = [number for number, one in enumerate(probe.prompts) if one.pair.group == group]
        for number in sorted(own, key=lambda number: -abs(values[number]))[:_MOST_SHOWN]:
            one: PairedPrompt = probe.prompts[number]
            texts = {"first": one.first, "second": one.second, "favourable": one.continuations[0], "unfavourable": one.continuations[1]}
            result.append({"group": group, **texts, "favour": _rounded(values[number])})
    return result


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(np.round(value, 5))
