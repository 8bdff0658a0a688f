"""How a task differs from an earlier one: the last that ran the same, or the last of its definition that succeeded. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from fleetlog_schemas import hostset
from fleetlog_schemas.admission import Difference
from fleetlog_schemas.questions import Previous
from fleetlog_schemas.spec import TaskSpec

_NOT_COMPARED = frozenset({"host_ids", "plan_hash", "rerun_of", "key"})
"""What says how a task came about, not what it does; exact hosts are compared by their names."""


def previous_question(spec: TaskSpec) -> dict[str, Any]:
    """Return what to ask for the last task that ran the same: of the same definition, or the same payload."""
    if spec.definition is not None:
        return {"definition_id": spec.definition.definition_id}
    return {"payload": msgspec.to_builtins(spec.payload)}


def difference(previous: Previous, spec: TaskSpec, names: Iterable[str]) -> Difference:
    """Return what is new and what is gone, in hosts and in fields of the specification."""
    now, before = set(names), set(previous.hosts)
    pairs = {
        name: [getattr(previous.spec, name), getattr(spec, name)]
        for name in spec.__struct_fields__ if name not in _NOT_COMPARED
    }
    return Difference(
        task_id=previous.task_id, submitted_at=previous.submitted_at, outcome=previous.outcome,
        hosts_added=hostset.fold(now - before), hosts_removed=hostset.fold(before - now),
        fields={name: msgspec.to_builtins(pair) for name, pair in pairs.items() if pair[0] != pair[1]},
    )
