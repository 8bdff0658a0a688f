"""Definitions and their history as text. These take the API's JSON as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleetlog.render.text import Style, moment, shorten, table

Json = Mapping[str, Any]


def definitions_text(items: Sequence[Json], style: Style) -> str:
    """Return definitions by name, one per line."""
    if not items:
        return "no definitions: write one to a file, then fleetlog definition push FILE"
    rows = [
        (
            item["name"], str(item["version"]), item["kind"], shorten(style.line(item["target"]) or "-", 24),
            shorten(" ".join(item["parameters"]) or "-", 30), moment(item["changed_at"]), style.line(item["changed_by"]) or "-",
            _schedules(item.get("schedules", ()), style), shorten(style.line(item["description"]), 60),
        )
        for item in items
    ]
    return table(("NAME", "VERSION", "KIND", "TARGET", "PARAMETERS", "CHANGED", "BY", "SCHEDULED", "SAYS"), rows, style)


def _schedules(schedules: Sequence[Json], style: Style) -> str:
    """Return which schedules run it, in the few words that a column has room for."""
    if not schedules:
        return "-"
    soonest = min(schedules, key=lambda one: (one["next_at"] is None, one["next_at"] or ""))
    more = f" and {len(schedules) - 1} more" if len(schedules) > 1 else ""
    return f"{_when(soonest)} ({style.line(soonest['name'])}){more}"


def _when(schedule: Json) -> str:
    return moment(schedule["next_at"]) if schedule["next_at"] and schedule["state"] == "active" else str(schedule["state"])


def history_text(items: Sequence[Json], style: Style) -> str:
    """Return versions, newest first, one per line."""
    rows = [
        (str(item["version"]), moment(item["changed_at"]), style.line(item["changed_by"]) or "-", style.line(item["message"]))
        for item in items
    ]
    return table(("VERSION", "CHANGED", "BY", "MESSAGE"), rows, style)


def head_text(told: Json, style: Style) -> str:
    """Return who made this version, when, what was said of it, and what runs the definition."""
    by = f" by {style.line(told['changed_by'])}" if told["changed_by"] else ""
    said = f": {style.line(told['message'])}" if told["message"] else ""
    lines = [f"{told['name']} version {told['version']}, changed {moment(told['changed_at'])}{by}{said}"]
    for one in told.get("schedules", ()):
        following = f", next {moment(one['next_at'])}" if one["next_at"] else ""
        lines.append(f"scheduled by {style.line(one['name'])}: {one['state']}{following}")
    return "\n".join(lines)
