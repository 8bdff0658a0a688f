"""Definitions as people and programs see them: a line of a list, one version, a line of the history."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any, Literal

import msgspec

from fleetlog_schemas.catalog import Known
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.definitions import Definition
from fleetlog_schemas.occurrences import next_tick
from fleetlog_schemas.schedules import Schedule, Schedules
from fleetlog_schemas.spec import kind

SCHEDULES_SHOWN_MAX = 20
"""Schedules of one definition that are shown with it: of more, the first by name; `schedule ls --definition` has all."""


class DefinitionSchedule(msgspec.Struct, frozen=True):
    """A schedule of a definition, as it is now: not a part of any version of it."""

    name: str
    state: Literal["active", "inactive", "paused"]
    next_at: str | None
    """When it fires next, without jitter."""


class DefinitionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a list of definitions."""

    name: str
    definition_id: str
    version: int
    kind: str
    description: str
    target: str
    parameters: tuple[str, ...]
    """Their names."""
    max_retries: int
    timeout_seconds: float
    priority: int
    tags: tuple[str, ...]
    changed_at: str
    changed_by: str
    message: str
    """What its author said of this version."""
    schedules: tuple[DefinitionSchedule, ...]


class DefinitionView(DefinitionSummary, frozen=True, kw_only=True):
    """One version of a definition."""

    definition: Definition


class VersionSummary(msgspec.Struct, frozen=True):
    """One version of a definition, as its history lists it."""

    version: int
    changed_at: str
    changed_by: str
    message: str
    seq: int
    """Where the log has it."""


def scheduled(schedules: Schedules, names: Container[str]) -> dict[str, list[Schedule]]:
    """Return the schedules of definitions, by the definition's name."""
    found: dict[str, list[Schedule]] = {}
    for _, one in sorted(schedules.by_name.items()):
        if one.rule.definition in names:
            of_it = found.setdefault(one.rule.definition, [])
            if len(of_it) < SCHEDULES_SHOWN_MAX:
                of_it.append(one)
    return found


def _schedule(one: Schedule, now_ms: int) -> DefinitionSchedule:
    after_ms = one.fires_after_ms(now_ms)
    tick = None if after_ms is None else next_tick(one.rule, after_ms)
    return DefinitionSchedule(one.name, one.state(now_ms), rfc3339(tick.at_ms) if tick else None)


def summary(known: Known, schedules: Sequence[Schedule], now_ms: int) -> dict[str, Any]:
    """Return the fields of a line about a definition."""
    spec = known.definition.spec
    return {
        "name": known.definition.name, "definition_id": known.definition_id, "version": known.version, "kind": kind(spec),
        "description": known.definition.description, "target": spec.target, "parameters": tuple(known.definition.parameters),
        "max_retries": spec.retry.attempts_max - 1, "timeout_seconds": spec.timeout_ms / 1000, "priority": spec.priority,
        "tags": spec.tags, "changed_at": rfc3339(known.changed_ms), "changed_by": known.changed_by, "message": known.message,
        "schedules": tuple(_schedule(one, now_ms) for one in schedules),
    }
