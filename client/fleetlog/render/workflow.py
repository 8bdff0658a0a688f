"""Workflows as text: the parts with where they stand, the order in which they run, what changes while one is followed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fleetlog.render.text import Style, count_of, seconds, shorten, table
from fleetlog_schemas.codec import parse_rfc3339
from fleetlog_schemas.ids import short
from fleetlog_schemas.records import CommandState, PartRecord, Task
from fleetlog_schemas.view import PartView

TASKS_SHOWN_MAX = 3
"""Tasks of one part that are named; of more, how many there are, the bad ones first."""
_WHEN = {"success": "", "any-success": " (one well)", "failure": " (if one fails)", "ended": " (anyhow)"}

Json = Mapping[str, Any]


def parts_table(parts: Sequence[PartView], style: Style) -> str:
    """Return the parts of a workflow in the order given."""
    rows = [
        (
            f"  {part.name}",
            style.state(part.outcome or part.state),
            after_text(part.after, part.when),
            _took(part),
            _tasks(part),
            shorten(style.line(_says(part)), 100),
        )
        for part in parts
    ]
    return table(("  PART", "OUTCOME", "AFTER", "TOOK", "TASKS", "RUNS"), rows, style)


def after_text(after: Sequence[str], when: str) -> str:
    """Return what a part is after, and how that must have ended where it is not the usual way."""
    return ", ".join(after) + _WHEN[when] if after else "-"


def _took(part: PartView) -> str:
    if not (part.begun_at and part.ended_at):
        return "-"
    return seconds((parse_rfc3339(part.ended_at) - parse_rfc3339(part.begun_at)) / 1000)


def _tasks(part: PartView) -> str:
    if part.taken_from:
        return f"of {short(part.taken_from)}"
    bad_first = sorted(part.tasks, key=lambda one: one.outcome in (None, "success"))
    named = " ".join(short(one.task_id) for one in bad_first[:TASKS_SHOWN_MAX])
    if part.items > TASKS_SHOWN_MAX:
        ended = sum(one.outcome is not None for one in part.tasks)
        return f"{ended}/{part.items}: {named} …"
    return named or "-"


def _says(part: PartView) -> str:
    refusals = [one.refusal for one in part.tasks if one.refusal]
    return part.message or (f"refused: {refusals[0]}" if refusals else part.runs)


def planned_parts(parts: Sequence[Json], style: Style) -> list[str]:
    """Return the order of a workflow's parts, those that can run beside each other with one number."""
    rows = [
        (
            f"  {part['rank']}", style.line(part["name"]), after_text(part["after"], part["when"]),
            part["for_each"] or "-", "-" if part["problem"] else str(part["hosts"]),
            shorten(style.line(part["problem"] or part["runs"]), 100),
        )
        for part in parts
    ]
    too_old = [
        f"  {style.line(part['name'])} would be an error on {style.line(text)}" for part in parts for text in part.get("too_old", ())
    ]
    return [table(("  STEP", "PART", "AFTER", "FOR EACH", "HOSTS", "RUNS"), rows, style), *too_old]


def part_line(record: PartRecord, style: Style) -> str:
    """Return the line that says that a part began or ended."""
    name = style.paint(style.line(record.name), "bold")
    if record.state is CommandState.RUNNING:
        tasks = f": {count_of(record.items, 'task')}" if record.items > 1 else ""
        return f"{style.glyph('running')} {name} begins{tasks}"
    assert record.outcome is not None
    because = f"  {style.line(record.message)}" if record.message else ""
    return f"{style.glyph(record.outcome)} {name}  {record.outcome.value}{because}"


class PartLines:
    """Says of each part once that it began, and how it ended."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._said: dict[str, CommandState] = {}

    def of(self, task: Task) -> list[str]:
        """Return the lines of the parts that have moved since the last time."""
        moved = [
            one for one in task.parts.values()
            if one.state is not self._said.get(one.name, CommandState.WAITING) and not one.taken_from
        ]
        self._said.update((one.name, one.state) for one in moved)
        return [part_line(one, self._style) for one in moved]


def open_parts_text(task: Task) -> str:
    """Return which parts run now."""
    names = [one.name for one in task.parts.values() if one.state is CommandState.RUNNING]
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def part_of_text(task_id: str, part: str, item: int) -> str:
    """Return which part of which workflow a task is."""
    return f"part {part} of task {short(task_id)}" + (f", item {item + 1}" if item else "")


