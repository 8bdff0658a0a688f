"""What a clock on a wall shows, read second by second: the naive book of patterns, daylight saving time and windows.

It knows the few forms that the simulation's patterns have, and takes nothing from the engine that fires.
"""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

SECOND_MS = 1_000
DAY_SECONDS = 86_400


def shown(rule: dict[str, Any], after_ms: int, until_ms: int) -> list[int]:
    """Return the moments, later than *after_ms* and not later than *until_ms*, at which a clock shows what the pattern says."""
    fields = tuple(rule["cron"].split())
    fields = fields if len(fields) == 6 else ("0", *fields)
    policy, by_the_hour = rule.get("policy", {}), fields[2].startswith("*")
    gap, fold = policy.get("gap", "auto"), policy.get("fold", "auto")
    gap = gap if gap != "auto" else "skip" if by_the_hour else "run-after"
    fold = fold if fold != "auto" else "both" if by_the_hour else "first"
    zone, first_ms = rule.get("zone", "UTC"), after_ms // SECOND_MS * SECOND_MS + SECOND_MS
    return [
        at_ms for at_ms in range(first_ms, until_ms + 1, SECOND_MS)
        if _is_shown(fields, zone, at_ms, fold) or (gap == "run-after" and _fell_into_the_gap(fields, zone, at_ms))
    ]


def _is_shown(fields: tuple[str, ...], zone: str, at_ms: int, fold: str) -> bool:
    wall = _wall(zone, at_ms)
    if not _fits(fields, wall):
        return False
    comes_twice = wall.utcoffset() != wall.replace(fold=1 - wall.fold).utcoffset()
    return not comes_twice or fold == "both" or (wall.fold == 1) == (fold == "second")


def _fell_into_the_gap(fields: tuple[str, ...], zone: str, at_ms: int) -> bool:
    """Tell whether clocks are put forward at this moment, over a time that the pattern names."""
    before, after = _wall(zone, at_ms - SECOND_MS), _wall(zone, at_ms)
    moved = (after.utcoffset() or dt.timedelta()) - (before.utcoffset() or dt.timedelta())
    naive = before.replace(tzinfo=None)
    return any(_fits(fields, naive + dt.timedelta(seconds=second + 1)) for second in range(int(moved.total_seconds())))


def _wall(zone: str, at_ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(at_ms / 1000, ZoneInfo(zone))


def _fits(fields: tuple[str, ...], wall: dt.datetime) -> bool:
    return all(value in _values(field) for field, value in zip(fields, (wall.second, wall.minute, wall.hour), strict=False))


@cache
def _values(field: str) -> frozenset[int]:
    """Return what a field names: `*`, `*/10`, `1-2` and `0,30` are all there is."""
    span, _, step = field.partition("/")
    if span == "*":
        return frozenset(range(0, 60, int(step or 1)))
    low, dash, high = span.partition("-")
    return frozenset(range(int(low), int(high) + 1)) if dash else frozenset(int(word) for word in span.split(","))


def is_within(window: dict[str, Any], at_ms: int) -> bool:
    """Tell whether a window of every day, by UTC, is open."""
    hour, _, minute = window["begins"].partition(":")
    begun = (at_ms // SECOND_MS - int(hour) * 3_600 - int(minute) * 60) % DAY_SECONDS
    return bool(begun < window["lasts_minutes"] * 60)
