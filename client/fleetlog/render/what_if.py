"""Two pasts beside one another as text, from the API's JSON as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleetlog.render.text import Style, count_of, moment, seconds, table

Json = Mapping[str, Any]
SCHEDULES_SHOWN_MAX = 20
"""Schedules shown one by one: those in which most has changed."""
DELAY_TOLD_MS_MIN = 1_000
"""A difference of start delays below it says more of the machine than of the rule."""
_FATES = ("fired", "missed", "skipped")
_BARS = "▁▂▃▄▅▆▇█"


def what_if_text(told: Json, style: Style) -> str:
    """Return what was beside what would have been."""
    was, would = told["was"], told["would_be"]
    words = sorted({*was["reasons"], *would["reasons"]})
    rows = [(word, str(was[word]), str(would[word])) for word in _FATES]
    rows += [(f"  {style.line(word)}", str(was["reasons"].get(word, 0)), str(would["reasons"].get(word, 0))) for word in words]
    rows += [
        (f"start delay {label}", _delay(was[field]), _delay(would[field]))
        for label, field in (("p50", "delay_p50_ms"), ("p95", "delay_p95_ms"), ("max", "delay_max_ms"))
    ]
    rows += [
        ("most runs at once", str(was["peak"]), str(would["peak"])),
        ("  first at", moment(was["peak_at"]), moment(would["peak_at"])),
        ("time of all runs", seconds(was["busy_seconds"]), seconds(would["busy_seconds"])),
    ]
    most = max(was["peak"], would["peak"], 1)
    lines = [
        f"{moment(told['since'])} .. {moment(told['until'])}, {count_of(len(told['schedules']), 'schedule')}",
        table(("", "AS IT WAS", "AS IT WOULD HAVE BEEN"), rows, style),
        f"runs at once, as it was    {_bars(was['load'], most, style)}",
        f"  as it would have been    {_bars(would['load'], most, style)}",
        *_each(told["schedules"], style),
        *_footnotes(told),
    ]
    return "\n".join(lines)


def _delay(value_ms: int | None) -> str:
    return seconds(None if value_ms is None else value_ms / 1000)


def _bars(load: Sequence[int], most: int, style: Style) -> str:
    if not style.unicode:
        return " ".join(map(str, load))
    return "".join(" " if not one else _BARS[(one * len(_BARS) - 1) // most] for one in load)


def _each(schedules: Sequence[Json], style: Style) -> list[str]:
    """Return what changes of each of several schedules, those first in which most does."""
    def difference(one: Json) -> tuple[int, ...]:
        """Tell how far apart both pasts are: fates first, then delays and load."""
        was, would = one["was"], one["would_be"]
        delays = abs((was["delay_p95_ms"] or 0) - (would["delay_p95_ms"] or 0)) // DELAY_TOLD_MS_MIN
        return sum(abs(was[word] - would[word]) for word in _FATES), delays, abs(was["peak"] - would["peak"])

    differ = sorted(
        (one for one in schedules if any(difference(one))), key=lambda one: (*(-part for part in difference(one)), one["schedule"])
    )
    if len(schedules) < 2 or not differ:
        return []
    rows = [
        (
            style.line(one["schedule"]), *(f"{one['was'][word]} -> {one['would_be'][word]}" for word in _FATES),
            f"{_delay(one['was']['delay_p95_ms'])} -> {_delay(one['would_be']['delay_p95_ms'])}",
            f"{one['was']['peak']} -> {one['would_be']['peak']}",
        )
        for one in differ[:SCHEDULES_SHOWN_MAX]
    ]
    more = [f"and {len(differ) - len(rows)} more: --json has all"] if len(differ) > len(rows) else []
    return [table(("SCHEDULE", "FIRED", "MISSED", "SKIPPED", "DELAY P95", "AT ONCE"), rows, style), *more]


def _footnotes(told: Json) -> list[str]:
    lines = []
    if told["lengths_usual"]:
        lines.append(f"{count_of(told['lengths_usual'], 'run')} never took place: taken to last the median of those that did")
    if told["lengths_unknown"]:
        lines.append(f"{count_of(told['lengths_unknown'], 'run')} of what has never run to its end: taken to last no time")
    if told["away_seconds"]:
        lines.append(f"no scheduler was there for {seconds(told['away_seconds'])}, by ticks that were late: nor is it in the replay")
    return lines
