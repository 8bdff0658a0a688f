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
            shorten(style.line(item["description"]), 60),
        )
        for item in items
    ]
    return table(("NAME", "VERSION", "KIND", "TARGET", "PARAMETERS", "CHANGED", "BY", "SAYS"), rows, style)


def history_text(items: Sequence[Json], style: Style) -> str:
    """Return versions, newest first, one per line."""
    rows = [
        (str(item["version"]), moment(item["changed_at"]), style.line(item["changed_by"]) or "-", style.line(item["message"]))
        for item in items
    ]
    return table(("VERSION", "CHANGED", "BY", "MESSAGE"), rows, style)


def head_text(told: Json, style: Style) -> str:
    """Return who made this version, when, and what was said of it."""
    by = f" by {style.line(told['changed_by'])}" if told["changed_by"] else ""
    said = f": {style.line(told['message'])}" if told["message"] else ""
    return f"{told['name']} version {told['version']}, changed {moment(told['changed_at'])}{by}{said}"
