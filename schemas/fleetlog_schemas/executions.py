"""Executions: the records of ended tasks, as the reporter answers for them. A view of the log, not a fourth lifecycle."""

from __future__ import annotations

from typing import Any

import msgspec

from fleetlog_schemas.questions import AsOf


class ExecutionsQuestion(AsOf, frozen=True, kw_only=True, omit_defaults=True):
    """`executions`: the records of ended tasks, newest end first. Answer: Page of Execution."""

    task_id: str = ""
    """A full id: only this one."""
    kind: str = ""
    definition: str = ""
    """Name or id."""
    outcome: str = ""
    since_ms: int = 0
    """Of the end."""
    until_ms: int = 0
    limit: int = 50
    cursor: str = ""


class ExecutionOrigin(msgspec.Struct, frozen=True):
    """The version of a definition that an ended task ran."""

    definition_id: str
    name: str | None
    """Null: it was removed."""
    version: int
    parameters: dict[str, Any]


class Execution(msgspec.Struct, frozen=True):
    """The record of an ended task."""

    task_id: str
    kind: str
    name: str
    definition: ExecutionOrigin | None
    success: bool
    outcome: str | None
    """Null: it was refused."""
    submitted_by: str
    submitted_at: str
    started_at: str | None
    """When the first of its processes began; null when none did."""
    completed_at: str
    duration_seconds: float | None
    """From start to completion."""
    hosts: int
    counts: dict[str, int]
    return_value: Any
    """What it returned, of a task with one command; null otherwise: each command has its own."""
    error: str | None
    """Of the first command, by host name, that ended as the task did; or why the task was refused."""
    traceback: str | None
