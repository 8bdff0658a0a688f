"""How a task differs from an earlier one: the last that ran the same, or the last of its definition that succeeded. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
    fields = {
        name: pair for field in spec.__struct_fields__ if field not in _NOT_COMPARED
        for name, pair in _differing(field, getattr(previous.spec, field), getattr(spec, field))
    }
    if spec.definition is not None:
        # What the environment of a run is follows from the version and the parameters, which are named.
        fields = {name: pair for name, pair in fields.items() if not name.startswith("options.env")}
    return Difference(
        task_id=previous.task_id, submitted_at=previous.submitted_at, outcome=previous.outcome,
        hosts_added=hostset.fold(now - before), hosts_removed=hostset.fold(before - now),
        fields=fields,
    )


def _differing(name: str, before: Any, now: Any) -> Iterator[tuple[str, list[Any]]]:
    """Yield what differs below a field, by its path: `retry.attempts_max`."""
    if isinstance(before, msgspec.Struct) and type(before) is type(now):
        for field in before.__struct_fields__:
            yield from _differing(f"{name}.{field}", getattr(before, field), getattr(now, field))
    elif isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            yield from _differing(f"{name}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield name, msgspec.to_builtins([before, now])
