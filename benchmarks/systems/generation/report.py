"""What the generation benchmark prints: the table, our best beside the best peer, and the targets; and the rows as JSON."""

from __future__ import annotations

import dataclasses

from systems.report import target_line

_CLASS = {"f32": "f32", "int8": "int8", "q8_0": "int8"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A system's result at one work, batch size and strategy.

    Args:
        tokens_per_second: Of all rows of the batch together, prefill included; the median over the rounds.
        fraction_of_limit: Against reading every weight once a step.
        first_call_seconds: Of the first call with this strategy, compilation included.
        cores: Used on average, from CPU time; not in the JSON.
    """

    work: str
    system: str
    ours: bool
    batch: int
    precision: str
    strategy: str
    tokens_per_second: float
    fraction_of_limit: float
    first_call_seconds: float
    cores: float


@dataclasses.dataclass(frozen=True)
class Target:
    """A ratio that is aimed at: of the system `over` to the system `under`, both `(label, precision)`; a `batch` of `None` is any."""

    text: str
    least: float
    work: tuple[str, ...]
    over: tuple[str, str]
    under: tuple[str, str]
    batch: int | None = None


TARGETS = (
    Target("XLA / KerasHub", 2.2, ("W1", "W2"), ("keras_lm XLA", "f32"), ("KerasHub", "f32"), 1),
    Target("XLA / KerasHub", 2.8, ("W1", "W2"), ("keras_lm XLA", "f32"), ("KerasHub", "f32"), 16),
    Target("LiteRT int8 / llama.cpp q8_0", 1.2, ("W1", "W2"), ("keras_lm LiteRT", "int8"), ("llama.cpp", "q8_0")),
    Target("XLA / the tutorial's loop", 5.0, ("W4",), ("keras_lm XLA", "f32"), ("TF tutorial loop", "f32")),
)
SLOWEST_TOP_P = 1.1


def table(rows: list[Row]) -> str:
    """A line a row, grouped by work, batch size and strategy, fastest first."""
    lines = [
        f"{'work':<5}{'batch':>5}  {'strategy':<9}{'system':<20}{'precision':<10}"
        f"{'tokens/s':>10}{'of limit':>10}{'first call':>12}{'cores':>7}"
    ]
    for group in _groups(rows):
        lines.append("")
        for row in sorted(group, key=lambda row: (_CLASS[row.precision], -row.tokens_per_second)):
            lines.append(
                f"{row.work:<5}{row.batch:>5}  {row.strategy:<9}{'* ' if row.ours else '  '}{row.system:<18}{row.precision:<10}"
                f"{row.tokens_per_second:>10.1f}{row.fraction_of_limit:>10.2f}{row.first_call_seconds:>10.1f} s{row.cores:>7.2f}"
            )
    return "\n".join([*lines, "", "* keras_lm. of limit: of reading every weight once a step; more than 1 is a cache's doing."])


def ratios(rows: list[Row]) -> str:
    """Our best over the best peer at equal precision (int8 and q8_0 count as equal), in each group that has both."""
    lines = ["Our best over the best peer at equal precision:"]
    for group in _groups(rows):
        for precision in ("f32", "int8"):
            same = [row for row in group if _CLASS[row.precision] == precision]
            ours = max((row for row in same if row.ours), key=lambda row: row.tokens_per_second, default=None)
            peer = max((row for row in same if not row.ours), key=lambda row: row.tokens_per_second, default=None)
            if ours and peer:
                ratio = ours.tokens_per_second / peer.tokens_per_second
                lines.append(f"  {_name(ours)} {precision}: {ratio:.2f} ({_system(ours)} over {_system(peer)})")
    return "\n".join(lines if len(lines) > 1 else [])


def targets(rows: list[Row]) -> str:
    """Each target that the rows can answer, met or missed."""
    lines = ["Targets:"]
    for group in _groups(rows):
        systems = {(row.system, row.precision): row for row in group}
        for target in TARGETS:
            over, under = systems.get(target.over), systems.get(target.under)
            if over and under and over.work in target.work and target.batch in (None, over.batch):
                ratio = over.tokens_per_second / under.tokens_per_second
                lines.append(target_line(f"{_name(over)}: {target.text}", ratio, f">= {target.least}", ratio >= target.least))
    ours = {(row.work, row.batch, row.system, row.precision, row.strategy): row for row in rows if row.ours}
    for (*key, strategy), row in ours.items():
        greedy = ours.get((*key, "greedy"))
        if strategy == "top_p" and greedy:
            ratio = greedy.tokens_per_second / row.tokens_per_second
            lines.append(
                target_line(
                    f"{row.work} batch {row.batch}: {_system(row)}, time of top-p over greedy's",
                    ratio,
                    f"<= {SLOWEST_TOP_P}",
                    ratio <= SLOWEST_TOP_P,
                )
            )
    return "\n".join(lines if len(lines) > 1 else [])


def _groups(rows: list[Row]) -> list[list[Row]]:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.work, row.batch, row.strategy), []).append(row)
    return list(groups.values())


def _name(row: Row) -> str:
    return f"{row.work} batch {row.batch} {row.strategy}"


def _system(row: Row) -> str:
    return f"{row.system} {row.precision}"
