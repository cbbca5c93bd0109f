"""What the training benchmark prints: the table, our best beside each peer, and the targets."""

from __future__ import annotations

import dataclasses

from systems.report import target_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A system's result at one work.

    Args:
        activation: Of the model; not in the JSON.
        tokens_per_second: The median over the rounds.
        fraction_of_limit: Of two threads' float32 operations a second in big products, had the step no others to do.
        first_step_seconds: Of the first step, compilation included.
        cores: Used on average, from CPU time; not in the JSON.
        same: Whether it has as many parameters and the same first losses as the others; not in the JSON.
    """

    work: str
    system: str
    ours: bool
    activation: str
    tokens_per_second: float
    fraction_of_limit: float
    first_step_seconds: float
    cores: float
    same: bool


@dataclasses.dataclass(frozen=True)
class Target:
    """A ratio that is aimed at: of our best to the system `under`."""

    under: str
    least: float
    work: tuple[str, ...]


_LSTM = ("W4-2x512", "W4-1x1024")
TARGETS = (
    Target("PyTorch eager", 1.0, ("W3-4x128", "W3-6x384", *_LSTM)),
    Target("Keras fit", 3.0, _LSTM),
)


def table(rows: list[Row]) -> str:
    """A line a row, grouped by work, fastest first."""
    lines = [f"{'work':<11}{'system':<21}{'activation':<11}{'tokens/s':>10}{'of limit':>10}{'first step':>12}{'cores':>7}"]
    for group in _groups(rows):
        lines.append("")
        for row in sorted(group, key=lambda row: -row.tokens_per_second):
            lines.append(
                f"{row.work:<11}{'* ' if row.ours else '  '}{row.system:<17}{'  ' if row.same else '! '}{row.activation:<11}"
                f"{row.tokens_per_second:>10.0f}{row.fraction_of_limit:>10.2f}{row.first_step_seconds:>10.1f} s{row.cores:>7.2f}"
            )
    lines += ["", "* keras_lm. of limit: of what the cores do in big float32 products, the step's other work not counted."]
    if not all(row.same for row in rows):
        lines.append("! not the same parameters or losses as the others: its speed says nothing.")
    return "\n".join(lines)


def ratios(rows: list[Row]) -> str:
    """Our best over each peer, in each work that has both."""
    lines = ["Our best over each peer:"]
    for group in _groups(rows):
        best = _best(group)
        for row in group:
            if best and row.same and not row.ours:
                lines.append(
                    f"  {row.work} {row.activation}: {best.tokens_per_second / row.tokens_per_second:.2f} ({best.system} over {row.system})"
                )
    return "\n".join(lines if len(lines) > 1 else [])


def targets(rows: list[Row]) -> str:
    """Each target that the rows can answer, met or missed."""
    lines = ["Targets:"]
    for group in _groups(rows):
        best, systems = _best(group), {row.system: row for row in group if row.same}
        for target in TARGETS:
            under = systems.get(target.under)
            if best and under and under.work in target.work:
                ratio = best.tokens_per_second / under.tokens_per_second
                text = f"{best.work} {best.activation}: {best.system} / {under.system}"
                lines.append(target_line(text, ratio, f">= {target.least}", ratio >= target.least))
    return "\n".join(lines if len(lines) > 1 else [])


def _groups(rows: list[Row]) -> list[list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.work, []).append(row)
    return list(groups.values())


def _best(rows: list[Row]) -> Row | None:
    return max((row for row in rows if row.ours and row.same), key=lambda row: row.tokens_per_second, default=None)
