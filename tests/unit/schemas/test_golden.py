"""What is stored stays readable: one golden sample for each event type, and the golden trace of one task."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import msgspec
import pytest

from fleetlog_schemas import codec, events, lifecycle, records
from fleetlog_schemas.records import CommandState, TaskState
from fleetlog_schemas.view import task_view

GOLDEN = resources.files("fleetlog_schemas") / "golden"


def sample(name: str) -> bytes:
    return (GOLDEN / f"{name}.json").read_bytes()


def missing_fields(value: Any, stored: Any, path: str = "") -> list[str]:
    """Name every field of the types in *value* that *stored* does not spell out."""
    if isinstance(value, msgspec.Struct):
        missing = []
        for field, stored_as in zip(type(value).__struct_fields__, type(value).__struct_encode_fields__, strict=True):
            if stored_as in stored:
                missing += missing_fields(getattr(value, field), stored[stored_as], f"{path}/{field}")
            else:
                missing.append(f"{path}/{field}")
        return missing
    if isinstance(value, tuple):
        return [m for n, (one, raw) in enumerate(zip(value, stored, strict=True)) for m in missing_fields(one, raw, f"{path}/{n}")]
    return []


def test_there_is_exactly_one_sample_for_each_event_type() -> None:
    on_disk = {path.name.removesuffix(".json") for path in GOLDEN.iterdir() if path.name.startswith("fleetlog.")}
    assert on_disk == set(events.REGISTRY)


@pytest.mark.parametrize("name", sorted(events.REGISTRY))
def test_a_sample_is_read_and_written_back_without_loss(name: str) -> None:
    event = codec.decode(sample(name))
    assert type(event.data) is events.REGISTRY[name].data
    assert json.loads(codec.encode(event)) == json.loads(sample(name))


@pytest.mark.parametrize("name", sorted(events.REGISTRY))
def test_a_sample_spells_out_every_field(name: str) -> None:
    event = codec.decode(sample(name))
    missing = missing_fields(event.data, json.loads(sample(name))["data"])
    if name == "fleetlog.task.submitted.v1":
        # The first task shows every field; others show a script, a workflow, whose second part shows every field of one,
        # and a task of a part.
        shows = ("/tasks/0/", "/tasks/2/spec/payload/parts/1/", "/tasks/2/spec/payload/taken/", "/tasks/3/part_of/")
        missing = [path for path in missing if path.startswith(shows) and "/parts/1/task/" not in path and "/declared/" not in path]
        # A task has either a target or host_ids; its values in its definition, or of its own; and few belong to a part.
        missing = [path for path in missing if path not in ("/tasks/0/spec/host_ids", "/tasks/0/spec/parameters", "/tasks/0/part_of", "/tasks/0/submitted_by")]
    if name == "fleetlog.definition.set.v1":
        # What only a task has is in no definition.
        of_tasks = {"name", "host_ids", "key", "definition", "parameters", "rerun_of", "plan_hash", "options/secret_names"}
        missing = [path for path in missing if path.removeprefix("/definition/spec/") not in of_tasks]
    assert missing == []


@pytest.mark.parametrize("name", sorted(events.REGISTRY))
def test_a_sample_is_in_the_envelope_of_cloudevents(name: str) -> None:
    stored = json.loads(sample(name))
    assert stored["specversion"] == "1.0"
    assert stored["type"] == name
    assert {"id", "source", "time", "data"} <= set(stored)
    assert all(key.isalnum() and key.islower() and len(key) <= 20 for key in stored), "attribute names of CloudEvents"


def test_the_golden_trace_goes_through_the_states_it_names() -> None:
    tasks = records.Tasks()
    task = None
    for row in json.loads((GOLDEN / "trace.json").read_bytes()):
        event = codec.decode(
            json.dumps(row["event"]).encode(), seq=row["seq"], subject=row["subject"],
            time_ms=codec.parse_rfc3339(row["stored_at"]),
        )
        lifecycle.apply(tasks, event)
        (task,) = tasks.by_id.values()
        commands = {
            command.host_name: f"ended: {command.outcome}" if command.state is CommandState.ENDED else command.state.value
            for command in task.commands.values()
        }
        state = f"ended: {task.outcome}" if task.state is TaskState.ENDED else task.state.value
        assert (row["seq"], state, commands) == (row["seq"], row["task"], row["commands"])
    assert task is not None
    view = task_view(task)
    assert (view.outcome, view.hosts, view.counts) == ("failure", 3, {"failure": 1, "success": 2})
    assert [len(command.attempts) for command in view.commands] == [1, 2, 1]
    assert view.failures[0].hosts == "web03"
    assert view.failures[0].line == "release <n>.<n> found, <n>.<n> expected"


def test_the_golden_trace_retries_no_sooner_than_the_lifecycle_allows() -> None:
    rows = json.loads((GOLDEN / "trace.json").read_bytes())
    tasks = records.Tasks()
    for row in rows:
        stored_ms = codec.parse_rfc3339(row["stored_at"])
        event = codec.decode(
            json.dumps(row["event"]).encode(), seq=row["seq"], subject=row["subject"], time_ms=stored_ms
        )
        due = [c.due_ms for task in tasks.by_id.values() for c in task.commands.values() if c.state is CommandState.WAITING]
        if isinstance(event.data, events.AttemptsDispatched):
            assert all(due_ms <= stored_ms for due_ms in due)
        lifecycle.apply(tasks, event)
