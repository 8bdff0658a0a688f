"""The parts of a workflow: how they move, what they returned, and how the workflow ends. Called by `lifecycle.py` alone.

Theory of operation. A part waits until the dispatcher decides that it begins or ends without having run. Once begun it
has ended when each of its tasks has, so a task's end moves its part in the same step of the fold, for every reader. A
task of a part counts only while its workflow may start things: what was decided before a stop or a pause, and stands in
the log after it, is void. What stops, holds or resumes a workflow does the same to its open tasks, at the same place in
the log: so there is no moment at which one is stopped and the other is not.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fleetlog_schemas import events, ids, limits
from fleetlog_schemas.graph import bindings
from fleetlog_schemas.outcomes import Outcome, worst
from fleetlog_schemas.records import Change, CommandState, PartRecord, PartTask, Task, Tasks, TaskState
from fleetlog_schemas.spec import Part, Workflow
from fleetlog_schemas.workflow_events import PartDecision

GOOD = (Outcome.SUCCESS, Outcome.SKIPPED)
"""How a part ends that did not go wrong: it went well, or was not to be run."""


def workflow_of(task: Task) -> Workflow:
    """Return what a task of kind workflow was asked to be."""
    assert isinstance(task.spec.payload, Workflow)
    return task.spec.payload


def part_of(task: Task, name: str) -> Part:
    """Return one part as it was asked for."""
    return next(part for part in workflow_of(task).parts if part.name == name)


def begin(task: Task, now_ms: int) -> None:
    """Make the records of a workflow that is planned now: its parts wait, but for those that are taken over."""
    workflow = workflow_of(task)
    task.open = len(workflow.parts)
    task.counts = {CommandState.WAITING.value: task.open}
    for part in workflow.parts:
        record = task.parts[part.name] = PartRecord(part.name)
        taken = workflow.taken.get(part.name)
        if taken is not None:
            record.taken_from, record.value, record.by_host = taken.task_id, taken.value, taken.by_host
            record.items = taken.items
            record.reason, record.message = "taken-over", "taken over from an earlier run"
            _move(task, record, CommandState.ENDED, now_ms, taken.outcome)


def open_for(tasks: Tasks, one: events.PartOf) -> PartRecord | None:
    """Return the part that a task may be submitted for now; None: the submission is void."""
    workflow = tasks.by_id.get(one.task_id)
    if workflow is None or workflow.state is not TaskState.PLANNED or workflow.stop or workflow.hold:
        return None
    record = workflow.parts.get(one.part)
    if record is None or record.state is not CommandState.RUNNING or record.stop:
        return None
    return None if one.item in record.tasks or not 0 <= one.item < record.items else record


def submitted(record: PartRecord, task: Task) -> None:
    """Enter a task into its part."""
    assert task.part_of is not None
    record.tasks[task.part_of.item] = PartTask(task.task_id)


def decided(tasks: Tasks, now_ms: int, one: PartDecision) -> Change | None:
    """Fold the dispatcher's decision about one part."""
    workflow = tasks.by_id.get(one.task_id)
    record = workflow.parts.get(one.part) if workflow is not None else None
    if workflow is None or record is None or workflow.state is not TaskState.PLANNED or record.state is CommandState.ENDED:
        return None
    if one.decision == "begun":
        if record.state is not CommandState.WAITING or workflow.stop or workflow.hold or record.stop:
            return None
        record.items = one.items
        _move(workflow, record, CommandState.RUNNING, now_ms)
    else:
        if any(task.outcome is None for task in record.tasks.values()):
            return None
        record.reason, record.message = one.reason, one.message
        _move(workflow, record, CommandState.ENDED, now_ms, one.outcome or Outcome.ERROR)
    return Change("part", workflow)


def task_ended(tasks: Tasks, task_id: str, end: events.TaskEnd | events.Refusal, now_ms: int) -> list[Change]:
    """Move the part whose task has ended or was refused.

    What the event says is enough: the events that name a workflow are all that its record needs.
    """
    workflow = tasks.by_id.get(end.part_of.task_id) if end.part_of else None
    record = workflow.parts.get(end.part_of.part) if workflow is not None and end.part_of else None
    entry = record.tasks.get(end.part_of.item) if record is not None and end.part_of else None
    if workflow is None or record is None or entry is None or entry.task_id != task_id or entry.outcome is not None:
        return []
    entry.ended_ms = now_ms
    if isinstance(end, events.Refusal):
        entry.outcome, entry.refusal = Outcome.ERROR, end.message
    else:
        entry.outcome, entry.value, entry.by_host = end.outcome, end.value, end.by_host
        record.value_bytes += len((end.value or "").encode()) + len((end.by_host or "").encode())
        if record.value_bytes > limits.WORKFLOW_VALUE_BYTES_MAX:
            for one in record.tasks.values():
                one.value = one.by_host = None
    if len(record.tasks) == record.items and all(one.outcome for one in record.tasks.values()):
        _move(workflow, record, CommandState.ENDED, now_ms, worst(one.outcome for one in record.tasks.values() if one.outcome))
    return [Change("part", workflow)]


def family(tasks: Tasks, task: Task) -> list[Task]:
    """Return the open tasks of a workflow's parts; of any other task, none."""
    ids = [one.task_id for record in task.parts.values() for one in record.tasks.values() if one.outcome is None]
    return [tasks.by_id[one] for one in ids if one in tasks.by_id]


def cancel_parts(tasks: Tasks, task: Task, names: Iterable[str]) -> list[Task]:
    """Mark parts that a person cancelled; return their open tasks, which are to be stopped."""
    found = []
    for name in names:
        record = task.parts.get(name)
        if record is not None and record.state is not CommandState.ENDED and not record.stop:
            record.stop = "cancelled"
            found += [tasks.by_id[one.task_id] for one in record.tasks.values() if one.task_id in tasks.by_id]
    return found


def _move(task: Task, record: PartRecord, state: CommandState, now_ms: int, outcome: Outcome | None = None) -> None:
    before, record.state, record.outcome = record.state.value, state, outcome
    after = outcome.value if outcome else state.value
    task.counts[before] -= 1
    if not task.counts[before]:
        del task.counts[before]
    task.counts[after] = task.counts.get(after, 0) + 1
    if state is CommandState.RUNNING:
        record.begun_ms = now_ms
    else:
        record.ended_ms = now_ms
        task.open -= 1


# --- what parts returned ---------------------------------------------------------------------------------------


def returned(workflow: Task | None, task: Task) -> tuple[str | None, str | None]:
    """Return what a task of a part returned, where another part takes it: on its one host, and by host."""
    if workflow is None or task.part_of is None:
        return None, None
    wanted = taken_how(workflow_of(workflow), task.part_of.part)
    found = {
        command.host_name: msgspec.Raw(text.encode())
        for command in task.commands.values()
        if command.last and command.last.end and (text := command.last.end.return_value) is not None and _is_json(text)
    }
    only = next(iter(found.values())) if False in wanted and len(task.commands) == 1 and found else None
    return _limited(bytes(only)) if only is not None else None, _limited(msgspec.json.encode(found)) if True in wanted else None


def is_taken(workflow: Task | None, task: Task) -> bool:
    """Tell whether another part of its workflow takes what a task returns."""
    return workflow is not None and task.part_of is not None and bool(taken_how(workflow_of(workflow), task.part_of.part))


def taken_how(workflow: Workflow, name: str) -> set[bool]:
    """Return how others take what a part returns: on its one host (False), by host (True)."""
    return {one.by_host for part in workflow.parts for _, one in bindings(part) if one.part == name}


def _limited(value: bytes) -> str:
    """Return a value as an end carries it. One beyond the limit becomes a text that is as far beyond it."""
    return value.decode() if len(value) <= limits.WORKFLOW_VALUE_BYTES_MAX else f'"{" " * limits.WORKFLOW_VALUE_BYTES_MAX}"'


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return False
    return True


def value_of(task: Task, name: str, *, by_host: bool) -> str | None:
    """Return what a part returned, as JSON; of a part that ran for each item, a list. None: nothing that can be told."""
    record = task.parts[name]
    if record.taken_from:
        return record.by_host if by_host else record.value
    if record.value_bytes > limits.WORKFLOW_VALUE_BYTES_MAX:
        return None
    texts = [record.tasks[item].by_host if by_host else record.tasks[item].value for item in sorted(record.tasks)]
    if part_of(task, name).for_each is None:
        return texts[0] if texts else None
    return f"[{','.join(text or 'null' for text in texts)}]"


def tasks_of(task: Task, name: str) -> tuple[str, ...]:
    """Return the ids of the tasks that a part had, here or in the run that it was taken over from, in the order of its items."""
    record = task.parts[name]
    if record.taken_from:
        return tuple(task_id_of(record.taken_from, name, item) for item in range(record.items))
    return tuple(record.tasks[item].task_id for item in sorted(record.tasks))


def task_id_of(workflow_id: str, name: str, item: int) -> str:
    """Return the id of a part's task: whoever decides the same makes the same task."""
    return ids.made_id(ids.id_ms(workflow_id), "part", workflow_id, name, item)


# --- how it ends ------------------------------------------------------------------------------------------------


def suits(part: Part, outcomes: Iterable[Outcome | None]) -> bool:
    """Tell whether a part is run after these ends of what it is after."""
    found = list(outcomes)
    match part.when:
        case "success":
            return all(one is Outcome.SUCCESS for one in found)
        case "any-success":
            return Outcome.SUCCESS in found
        case "failure":
            return any(one not in GOOD for one in found)
        case _:
            return True


def workflow_end(task: Task) -> events.TaskEnd:
    """Return the end of a workflow whose parts have all ended.

    What went wrong counts unless a part that handles it came after it and went well. What was not to be run says
    nothing, and what a stop kept from running does.
    """
    counts: dict[Outcome, int] = {}
    telling = [Outcome.SUCCESS]
    handled = {
        name for part in workflow_of(task).parts for name in part.after
        if part.handles and task.parts[part.name].outcome is Outcome.SUCCESS
    }
    for name, record in task.parts.items():
        if record.outcome is None:
            continue
        counts[record.outcome] = counts.get(record.outcome, 0) + 1
        if (record.outcome is not Outcome.SKIPPED and name not in handled) or record.reason == STOPPED:
            telling.append(record.outcome)
    return events.TaskEnd(task_id=task.task_id, outcome=worst(telling), counts=counts)


STOPPED = "stopped"
"""Reason of a part that ended because its workflow was stopped."""
