"""The same for workflows: each way to run parts wrongly is planted once, and an invariant must notice it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from fleetlog_dispatcher import workflow
from fleetlog_schemas import events, parts
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.records import CommandState, PartRecord, Task, Tasks, TaskState
from fleetlog_simulation.flows import has_flows
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.scenario import simulate

SEEDS_MAX = 400
"""Seeds tried before a planted bug counts as unnoticed."""


def begin_without_waiting(patch: pytest.MonkeyPatch) -> None:
    """Begin a part although what it is after has not ended."""
    original = workflow._look

    def look(state: Any, found: Any, task: Any, part: Any) -> None:
        original(state, found, task, msgspec.structs.replace(part, after=(), when="ended"))

    patch.setattr(workflow, "_look", look)


def begin_whatever_came_before(patch: pytest.MonkeyPatch) -> None:
    """Begin a part however what it is after has ended."""
    patch.setattr(parts, "suits", lambda _part, _outcomes: True)


def take_what_comes_after_a_stop(patch: pytest.MonkeyPatch) -> None:
    """Let a task of a part begin although it stands in the log after a stop or a pause."""

    def open_for(tasks: Tasks, one: events.PartOf) -> PartRecord | None:
        flow = tasks.by_id.get(one.task_id)
        record = flow.parts.get(one.part) if flow is not None and flow.state is TaskState.PLANNED else None
        return record if record is not None and record.state is CommandState.RUNNING and one.item not in record.tasks else None

    patch.setattr(parts, "open_for", open_for)


def stop_without_the_parts(patch: pytest.MonkeyPatch) -> None:
    """Stop a workflow and let its open tasks go on."""
    patch.setattr(parts, "family", lambda _tasks, _task: [])


def submit_an_item_twice(patch: pytest.MonkeyPatch) -> None:
    """Make another id each time that the same is decided, and take both."""
    made = iter(range(10**9))
    original = workflow.ids.made_id
    patch.setattr(workflow.ids, "made_id", lambda at_ms, *of: original(at_ms, *of, next(made)))
    opened = parts.open_for

    def open_for(tasks: Tasks, one: events.PartOf) -> PartRecord | None:
        record = opened(tasks, one)
        flow = tasks.by_id.get(one.task_id)
        return record or (flow.parts.get(one.part) if flow is not None else None)

    patch.setattr(parts, "open_for", open_for)


def forget_the_last_item(patch: pytest.MonkeyPatch) -> None:
    """Run a part for all items but one."""
    original = workflow.items_of
    patch.setattr(workflow, "items_of", lambda task, part: original(task, part)[: -1 if part.for_each else None])


def end_well_whatever_happened(patch: pytest.MonkeyPatch) -> None:
    """Say of each workflow that it went well."""
    original = parts.workflow_end

    def workflow_end(task: Task) -> events.TaskEnd:
        return msgspec.structs.replace(original(task), outcome=Outcome.SUCCESS)

    patch.setattr(parts, "workflow_end", workflow_end)


def wait_for_what_was_refused(patch: pytest.MonkeyPatch) -> None:
    """Do not see that a part's task was refused."""
    original = parts.task_ended

    def task_ended(tasks: Tasks, task_id: str, end: Any, now_ms: int) -> Any:
        return [] if isinstance(end, events.Refusal) else original(tasks, task_id, end, now_ms)

    patch.setattr(parts, "task_ended", task_ended)


@pytest.mark.parametrize(
    ("bug", "says"),
    [
        (begin_without_waiting, "began although what it is after"), (begin_whatever_came_before, "began although what it is after"),
        (take_what_comes_after_a_stop, "could not start it"), (stop_without_the_parts, "although it was stopped|never ended"),
        (submit_an_item_twice, "could not start it"), (forget_the_last_item, "items of"),
        (end_well_whatever_happened, "ended with success, and its parts with"), (wait_for_what_was_refused, "never ended"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_a_planted_bug_is_noticed(bug: Callable[[pytest.MonkeyPatch], None], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    for seed in filter(has_flows, range(SEEDS_MAX)):
        try:
            simulate(seed)
        except Violation as violation:
            if re.search(says, str(violation)):
                return
    pytest.fail(f"{SEEDS_MAX} seeds did not notice: {bug.__doc__}")
