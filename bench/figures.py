"""Figures with their spread: each is measured several times and shown as median, minimum and maximum."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec


class Figure(msgspec.Struct, frozen=True):
    """One measured thing."""

    name: str
    unit: str
    samples: tuple[float, ...]
    limit: float | None = None
    """What the machine itself can do of the same, in the same unit and run."""
    note: str = ""

    @property
    def median(self) -> float:
        """The middle of the samples."""
        return statistics.median(self.samples)

    @property
    def ratio(self) -> float | None:
        """The median as a share of the machine's limit."""
        return self.median / self.limit if self.limit else None


def percentile(samples: Sequence[float], share: float) -> float:
    """Return the sample below which *share* of all samples lie (nearest rank)."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3f}"


def as_table(figures: Sequence[Figure]) -> str:
    """Return the figures as aligned text."""
    head = ("what", "median", "min", "max", "unit", "of the machine's limit", "")
    rows = [head]
    for one in figures:
        share = f"{one.ratio:.2f} of {_number(one.limit)}" if one.ratio is not None and one.limit else ""
        rows.append((one.name, _number(one.median), _number(min(one.samples)), _number(max(one.samples)), one.unit, share,
                     one.note))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) if 0 < n < 4 else cell.ljust(width) for n, (cell, width) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def write_json(figures: Sequence[Figure], about: dict[str, Any], path: Path) -> None:
    """Write the figures and what they were measured on."""
    rows = [
        {"name": one.name, "unit": one.unit, "median": one.median, "min": min(one.samples), "max": max(one.samples),
         "samples": one.samples, "limit": one.limit, "ratio": one.ratio, "note": one.note}
        for one in figures
    ]
    path.write_text(json.dumps({"about": about, "figures": rows}, indent=1) + "\n")
