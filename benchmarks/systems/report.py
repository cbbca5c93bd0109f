"""What both reports need: rows as JSON, and how a target is told."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_json(path: Path, rows: Iterable[Any], without: Sequence[str]) -> None:
    """The rows, dataclasses, as a list without some of their fields; beside the file first, then in its place."""
    records = [{name: value for name, value in dataclasses.asdict(row).items() if name not in without} for row in rows]
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(records, indent=1) + "\n")
    os.replace(beside, path)


def target_line(text: str, ratio: float, wanted: str, met: bool) -> str:
    """A target, met or missed."""
    return f"  {text}: {ratio:.2f} ({wanted}: {'met' if met else 'MISSED'})"
