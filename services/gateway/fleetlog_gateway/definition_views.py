"""Definitions as people and programs see them: a line of a list, one version, a line of the history."""

from __future__ import annotations

from typing import Any

import msgspec

from fleetlog_schemas.catalog import Known
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.definitions import Definition
from fleetlog_schemas.spec import kind


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


def summary(known: Known) -> dict[str, Any]:
    """Return the fields of a line about a definition."""
    spec = known.definition.spec
    return {
        "name": known.definition.name, "definition_id": known.definition_id, "version": known.version, "kind": kind(spec),
        "description": known.definition.description, "target": spec.target, "parameters": tuple(known.definition.parameters),
        "max_retries": spec.retry.attempts_max - 1, "timeout_seconds": spec.timeout_ms / 1000, "priority": spec.priority,
        "tags": spec.tags, "changed_at": rfc3339(known.changed_ms), "changed_by": known.changed_by, "message": known.message,
    }
