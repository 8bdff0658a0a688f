"""What is due in workflows: which parts begin, which end without having run, which tasks are submitted. Pure, level-triggered.

A part's tasks have ids made of the workflow, the part and the item: whoever decides the same makes the same task. What a
part is given is taken from what stands in the log, so it is the same whenever somebody looks; it goes into a task as
values of parameters and in no other way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from fleetlog_dispatcher.gates import Gate, task_gate
from fleetlog_dispatcher.live import Live
from fleetlog_dispatcher.state import State
from fleetlog_schemas import definitions, events, ids, limits, parts
from fleetlog_schemas.admission import WaitingGroup
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.graph import Binding
from fleetlog_schemas.outcomes import Outcome, worst
from fleetlog_schemas.parameters import Parameter, ParameterValue
from fleetlog_schemas.records import CommandState, PartRecord, Task
from fleetlog_schemas.spec import Export, Function, Part, TaskSpec
from fleetlog_schemas.workflow_events import PartDecision

TASKS_PER_ROUND_MAX = 500
"""Tasks submitted in one round; the rest follows when these are read back."""
BYTES_PER_ROUND_MAX = 8 * 1024**2
"""Of their specifications, so that a round is far from the messages of one batch."""
_NOTHING = object()


class NoValue(Exception):
    """A part cannot be given what it asks for; the message says what is missing or wrong."""


class Due(msgspec.Struct):
    """What one round collects."""

    decisions: list[PartDecision] = []
    submissions: list[events.Submission] = []
    bytes: int = 0

    @property
    def full(self) -> bool:
        """Whether the rest has to wait for the next round."""
        return len(self.submissions) >= TASKS_PER_ROUND_MAX or self.bytes > BYTES_PER_ROUND_MAX


class _Begun(NamedTuple):
    """A part that has begun, or begins now."""

    part: Part
    record: PartRecord
    items: list[Any]


def due(state: State, live: Live, now_ms: int) -> Due:
    """Return what is due in the workflows that something happened to, or in all of them when a sweep comes by."""
    found = Due()
    for task_id in live.workflows if live.sweep else live.workflows_due:
        task = live.workflows.get(task_id)
        if found.full or len(found.decisions) > limits.EVENT_COMMANDS_MAX:
            break
        if task is None or not task.open:
            continue
        if task.stop:
            found.decisions += _ends_of_stopped(task)
        else:
            gate = task_gate(live, task, now_ms)
            for part in parts.workflow_of(task).parts:
                if gate is None or task.parts[part.name].stop:
                    _look(state, found, task, part)
    return found


def _ends_of_stopped(task: Task) -> Iterator[PartDecision]:
    """Yield the ends of the parts of a stopped workflow that have no open task."""
    outcome = Outcome.CANCELLED if task.stop == "cancelled" else Outcome.SKIPPED
    for record in task.parts.values():
        if record.state is not CommandState.ENDED and not _runs(record):
            yield _end(task, record, outcome, parts.STOPPED, f"the workflow was stopped ({task.stop}) before")


def _runs(record: PartRecord) -> bool:
    return any(one.outcome is None for one in record.tasks.values())


def _end(task: Task, record: PartRecord, outcome: Outcome, reason: str, message: str) -> PartDecision:
    """Return the end of a part without (further) tasks; what its tasks ended with counts too."""
    outcomes = [one.outcome for one in record.tasks.values() if one.outcome is not None]
    return PartDecision(
        task_id=task.task_id, part=record.name, decision="ended", outcome=worst([outcome, *outcomes]), reason=reason,
        message=message,
    )


def _look(state: State, found: Due, task: Task, part: Part) -> None:
    """Collect what is due of one part."""
    record = task.parts[part.name]
    if record.state is CommandState.ENDED or found.full:
        return
    if record.stop:
        if not _runs(record):
            found.decisions.append(_end(task, record, Outcome.CANCELLED, "cancelled", "this part was cancelled"))
        return
    try:
        if record.state is CommandState.RUNNING:
            if len(record.tasks) < record.items:
                _submit(state, found, task, _Begun(part, record, items_of(task, part)))
            return
        outcomes = [task.parts[name].outcome for name in part.after]
        if None in outcomes:
            return
        if not parts.suits(part, outcomes):
            found.decisions.append(_end(task, record, Outcome.SKIPPED, "after", _unsuited(task, part)))
            return
        _begin(state, found, task, part, record)
    except NoValue as error:
        if not _runs(record):
            found.decisions.append(_end(task, record, Outcome.ERROR, "value", str(error)))


def _unsuited(task: Task, part: Part) -> str:
    ends = ", ".join(f"{name} ended with {task.parts[name].outcome}" for name in part.after)
    wanted = {"success": "all to end well", "any-success": "one to end well", "failure": "one to end badly"}[part.when]
    return f"it needs {wanted}: {ends}"


def _begin(state: State, found: Due, task: Task, part: Part, record: PartRecord) -> None:
    items = items_of(task, part)
    if not items:
        found.decisions.append(_end(task, record, Outcome.SUCCESS, "no-items", "its list is empty: there is nothing to do"))
        return
    so_far = sum(one.items for one in task.parts.values())
    if so_far + len(items) > limits.WORKFLOW_TASKS_MAX:
        raise NoValue(f"a workflow has at most {limits.WORKFLOW_TASKS_MAX} tasks: with {len(items)} more there would be"
                      f" {so_far + len(items)}")
    for item in items:
        task_of(task, part, item)  # whatever is wrong with any of them is told before the first one runs
    found.decisions.append(PartDecision(task_id=task.task_id, part=part.name, decision="begun", items=len(items)))
    _submit(state, found, task, _Begun(part, msgspec.structs.replace(record, items=len(items)), items))


def _submit(state: State, found: Due, task: Task, begun: _Begun) -> None:
    """Collect the tasks that a part may have now."""
    part, record = begun.part, begun.record
    running = sum(one.outcome is None for one in record.tasks.values())
    left = part.items_parallel - running if part.items_parallel else record.items
    for index, item in enumerate(begun.items[: record.items]):
        if found.full or left <= 0:
            return
        if index in record.tasks:
            continue
        task_id = parts.task_id_of(task.task_id, part.name, index)
        if task_id in state.tasks.by_id or task_id in state.tasks.closed:
            raise NoValue(f"a task {task_id} exists already, and is not of this workflow")
        spec = task_of(task, part, item)
        found.submissions.append(
            events.Submission(
                task_id=task_id, spec=spec, part_of=events.PartOf(task.task_id, part.name, index),
                submitted_by=task.submitted_by,
            )
        )
        found.bytes += len(msgspec.json.encode(spec))
        left -= 1


# --- what a part is given --------------------------------------------------------------------------------------


def items_of(task: Task, part: Part) -> list[Any]:
    """Return the items for which a part is run; of a part without a list, one that is nothing. Raises NoValue."""
    if part.for_each is None:
        return [None]
    items = list(part.for_each) if isinstance(part.for_each, tuple) else _bound(task, part.for_each, None)
    if items is _NOTHING:
        raise NoValue(f"for_each: the parameter {part.for_each.parameter} has no value" if isinstance(part.for_each, Binding) else "")
    if not isinstance(items, list | tuple):
        raise NoValue("for_each: the value is no list")
    if len(items) > limits.WORKFLOW_ITEMS_MAX:
        raise NoValue(f"for_each: the list has {len(items)} items; at most {limits.WORKFLOW_ITEMS_MAX} may be run")
    return list(items)


def task_of(task: Task, part: Part, item: Any) -> TaskSpec:
    """Return what a part submits for an item. Raises NoValue."""
    spec = part.task
    assert spec is not None, "the gateway has put it there, and planning has looked"
    if isinstance(spec.payload, Export) and spec.payload.of_part:
        spec = msgspec.structs.replace(spec, payload=_exported(task, spec.payload))
    found = {name: _bound(task, binding, item) for name, binding in part.given.items()}
    given = {name: value for name, value in found.items() if value is not _NOTHING and value is not None}
    if isinstance(spec.payload, Function) and spec.definition is None:
        # Arguments of a function are any JSON: nothing is made a text of.
        kwargs = {**spec.payload.kwargs, **part.parameters, **given}
        return msgspec.structs.replace(spec, name=spec.name or part.name, payload=msgspec.structs.replace(spec.payload, kwargs=kwargs))
    values: dict[str, ParameterValue] = {
        name: _checked(name, value, part.declared.get(name)) for name, value in given.items()
    }
    if spec.definition is not None:
        return msgspec.structs.replace(
            spec, definition=msgspec.structs.replace(spec.definition, parameters={**spec.definition.parameters, **values})
        )
    return msgspec.structs.replace(
        spec, name=spec.name or part.name, parameters={**spec.parameters, **part.parameters, **values}
    )


def _exported(task: Task, export: Export) -> Export:
    """Return an export of the tasks of the part that it names. Raises NoValue."""
    tasks = parts.tasks_of(task, export.of_part)
    if not tasks:
        raise NoValue(f"{export.of_part} ended with {task.parts[export.of_part].outcome} and had no task: it left nothing to export")
    if len(tasks) > limits.EXPORT_TASKS_MAX:
        raise NoValue(f"{export.of_part} had {len(tasks)} tasks, and one export is of at most {limits.EXPORT_TASKS_MAX}")
    return msgspec.structs.replace(export, tasks=tasks, of_part="")


def _bound(task: Task, binding: Binding, item: Any) -> Any:
    """Return the value that a binding means; _NOTHING for a parameter that was not given. Raises NoValue."""
    if binding.item:
        value = item
    elif binding.parameter:
        own: Mapping[str, Any] = task.spec.definition.parameters if task.spec.definition else task.spec.parameters
        value = own.get(binding.parameter, _NOTHING)
        if value is _NOTHING:
            return _NOTHING
    else:
        text = parts.value_of(task, binding.part, by_host=binding.by_host)
        if text is None:
            raise NoValue(_why_no_value(task, binding))
        value = msgspec.json.decode(text)
    for step in binding.path.split("/")[1:]:
        value = _step(value, step.replace("~1", "/").replace("~0", "~"), binding)
    return value


def _why_no_value(task: Task, binding: Binding) -> str:
    record = task.parts[binding.part]
    if record.value_bytes > limits.WORKFLOW_VALUE_BYTES_MAX:
        return f"{record.name} returned more than the {limits.WORKFLOW_VALUE_BYTES_MAX} bytes that are kept of a part"
    if record.outcome is not Outcome.SUCCESS:
        return f"{record.name} ended with {record.outcome}, and returned nothing"
    return f"{record.name} returned nothing, or ran on several hosts: then say by_host"


def _step(value: Any, step: str, binding: Binding) -> Any:
    where = f"{binding.part or binding.parameter or 'the item'} has nothing at {binding.path}"
    if isinstance(value, dict):
        if step in value:
            return value[step]
    elif isinstance(value, list | tuple) and step.isascii() and step.isdigit() and int(step[:9]) < len(value):
        return value[int(step[:9])]
    raise NoValue(where)


_TYPES: dict[type, Parameter] = {
    bool: Parameter(type="boolean"), int: Parameter(type="integer"), float: Parameter(type="number"), str: Parameter(),
    tuple: Parameter(type="list"),
}


def _checked(name: str, value: Any, declared: Parameter | None) -> ParameterValue:
    """Return a value as a parameter has it: as its definition declares, or else as it is. Raises NoValue."""
    if isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
        value = tuple(value)
    elif isinstance(value, dict | list | tuple):
        value = msgspec.json.encode(value).decode()
    if declared is None:
        declared = _TYPES[type(value)]
    elif isinstance(value, str) and declared.type in ("integer", "number", "boolean"):
        value = definitions.from_texts(declared, [value])
    elif isinstance(value, bool | int | float) and declared.type in ("string", "enum"):
        value = definitions.as_text(value)
    try:
        return definitions.check_arguments({name: declared}, {name: value}).values[name]
    except definitions.WrongParameters as wrong:
        raise NoValue(str(wrong)) from None


# --- why parts wait ---------------------------------------------------------------------------------------------


def waiting_parts(live: Live, task: Task, now_ms: int) -> list[WaitingGroup]:
    """Return why the open parts of a workflow have not ended."""
    gate = task_gate(live, task, now_ms)
    found = []
    for part in parts.workflow_of(task).parts:
        record = task.parts[part.name]
        if record.state is CommandState.ENDED:
            continue
        reason, message = _why(task, part, record, gate)
        found.append(
            WaitingGroup(
                state=record.state.value, reason=reason, message=message, hosts="", count=0, part=part.name,
                since=rfc3339(record.begun_ms or task.planned_ms),
            )
        )
    return found


def _why(task: Task, part: Part, record: PartRecord, gate: Gate | None) -> Gate:
    if record.state is CommandState.RUNNING:
        open_ids = [ids.short(one.task_id) for one in record.tasks.values() if one.outcome is None]
        named = ", ".join(open_ids[:5]) + (" and others" if len(open_ids) > 5 else "")
        ended = sum(one.outcome is not None for one in record.tasks.values())
        of = f"{ended} of {record.items} tasks have ended; " if record.items > 1 else ""
        return Gate("running", f"{of}open: task {named or 'none yet'} (`fleetlog why` of it says more)")
    if task.stop:
        return Gate("stopping", "the workflow is stopped")
    before = [name for name in part.after if task.parts[name].state is not CommandState.ENDED]
    if before:
        return Gate("after", f"it comes after {', '.join(before)}, which {'has' if len(before) == 1 else 'have'} not ended")
    return gate or Gate("dispatch", "it begins now")
