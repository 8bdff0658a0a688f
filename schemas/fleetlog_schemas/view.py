"""A task as people and programs see it: one shape for `show`, `replay`, the API and the page.

`task_view` derives it from the lifecycle's record. The reporter stores ended tasks as rows and must give back the
same view, byte for byte; a test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from fleetlog_schemas import events, hostset, parts
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.records import Attempt, Command, CommandState, Hold, Task
from fleetlog_schemas.rollout import failures_max
from fleetlog_schemas.spec import TaskSpec, kind, summary

GROUPS_MAX = 20
"""Failure groups shown; the rest are counted in the last one."""


class LateView(msgspec.Struct, frozen=True):
    """An end that came after the one that stands."""

    outcome: str
    exit_code: int | None
    ended_at: str | None
    seq: int


class HowFarView(msgspec.Struct, frozen=True):
    """What a function that runs said of its progress last."""

    done: float
    total: float | None
    note: str


class AttemptView(msgspec.Struct, frozen=True):
    """One try."""

    number: int
    state: str
    dispatched_at: str | None
    started_at: str | None
    ended_at: str | None
    duration_seconds: float | None
    outcome: str | None
    ran: str | None
    exit_code: int | None
    signal: int | None
    error: str
    tail: str
    decided: bool
    """The dispatcher decided this end; the host did not confirm it."""
    late: tuple[LateView, ...]
    return_value: str | None = None
    """What a function returned, as JSON text."""
    traceback: str = ""
    artifacts: tuple[events.Artifact, ...] = ()
    """Files of a build that are kept."""
    progress: HowFarView | None = None
    """Of a function, while it runs."""


class WaitView(msgspec.Struct, frozen=True):
    """A reason for which a command waited; shorter waits than a second or so are not noted."""

    reason: str
    message: str
    since: str
    until: str | None


class WaveView(msgspec.Struct, frozen=True):
    """One wave of a rollout."""

    number: int
    hosts: int
    open: int
    state: str
    """`waiting`, `running` or `ended`."""
    begun_at: str | None
    ended_at: str | None


class HoldView(msgspec.Struct, frozen=True):
    """Why a task starts nothing more for the time being."""

    kind: str
    by: str
    reason: str
    since: str


class CommandView(msgspec.Struct, frozen=True):
    """A task's share on one host."""

    host_id: str
    host: str
    state: str
    outcome: str | None
    ran: str | None
    wave: int
    """From 1."""
    waits: tuple[WaitView, ...]
    attempts: tuple[AttemptView, ...]


class FailureGroup(msgspec.Struct, frozen=True):
    """Commands that ended badly in the same way."""

    outcome: str
    exit_code: int | None
    line: str
    """The last line of output or the error, with numbers and host names masked."""
    hosts: str
    """Folded, ready to paste as a target."""
    count: int
    example: str
    """The line as the first of these hosts wrote it."""


class PartTaskView(msgspec.Struct, frozen=True):
    """A task of a part."""

    task_id: str
    item: int
    outcome: str | None
    ended_at: str | None
    refusal: str


class PartView(msgspec.Struct, frozen=True):
    """A part of a workflow."""

    name: str
    state: str
    """`waiting`, `running` or `ended`."""
    outcome: str | None
    runs: str
    """What it runs, in one line."""
    after: tuple[str, ...]
    when: str
    items: int
    """Tasks that it has, once it has begun."""
    begun_at: str | None
    ended_at: str | None
    stop: str | None
    reason: str | None
    """Why it ended without having run, or before all of it did: a stable word."""
    message: str
    taken_from: str | None
    """The earlier run from which it was taken over."""
    value: str | None
    """What it returned, as JSON, where another part takes it."""
    by_host: str | None
    tasks: tuple[PartTaskView, ...]


class TaskView(msgspec.Struct, frozen=True):
    """Everything about one task."""

    task_id: str
    kind: str
    name: str
    state: str
    outcome: str | None
    target: str
    submitted_by: str
    schedule: str | None
    """The schedule that it is a run of."""
    nominal_at: str | None
    """The time that the schedule's rule names, if it was fired for one."""
    submitted_at: str
    planned_at: str | None
    ended_at: str | None
    duration_seconds: float | None
    plan_hash: str | None
    rerun_of: str | None
    priority: int
    queue: str
    key: str | None
    tags: tuple[str, ...]
    hold: HoldView | None
    """While it is paused or halted."""
    waves: tuple[WaveView, ...]
    failures_max: int | None
    """Bad ends after which it halts: more than this; null is any number."""
    stop: str | None
    stop_by: str | None
    stop_reason: str | None
    refusal_code: str | None
    refusal: str | None
    refusal_pointer: str | None
    hosts: int
    counts: dict[str, int]
    failures: tuple[FailureGroup, ...]
    part_of: events.PartOf | None
    """The part of a workflow that it belongs to."""
    parts: tuple[PartView, ...]
    """Of a workflow, in the order given; `counts` is then of parts."""
    spec: TaskSpec
    commands: tuple[CommandView, ...]


def task_view(task: Task) -> TaskView:
    """Return the view of *task*; commands are in the order of host names."""
    refusal = task.refusal
    commands = sorted(task.commands.values(), key=lambda command: (command.host_name, command.host_id))
    return TaskView(
        task_id=task.task_id,
        kind=kind(task.spec),
        name=task.spec.name,
        state=task.state.value,
        outcome=task.outcome.value if task.outcome else None,
        target=task.spec.target,
        submitted_by=task.submitted_by,
        schedule=task.schedule or None,
        nominal_at=_time(task.nominal_ms),
        submitted_at=rfc3339(task.submitted_ms),
        planned_at=_time(task.planned_ms),
        ended_at=_time(task.ended_ms),
        duration_seconds=(task.ended_ms - task.submitted_ms) / 1000 if task.ended_ms else None,
        plan_hash=task.plan_hash or None,
        rerun_of=task.spec.rerun_of,
        priority=task.spec.priority,
        queue=task.spec.queue,
        key=task.spec.key or None,
        tags=task.spec.tags,
        hold=_hold_view(task.hold) if task.hold else None,
        waves=wave_views(task),
        failures_max=failures_max(task.spec, len(task.commands)) if task.commands else None,
        stop=task.stop or None,
        stop_by=task.stop_by or None,
        stop_reason=task.stop_reason or None,
        refusal_code=refusal.code if refusal else None,
        refusal=refusal.message if refusal else None,
        refusal_pointer=refusal.pointer if refusal else None,
        hosts=len(task.commands),
        counts=dict(sorted(task.counts.items())),
        failures=failure_groups(commands),
        part_of=task.part_of,
        parts=part_views(task),
        spec=task.spec,
        commands=tuple(command_view(command) for command in commands),
    )


def part_views(task: Task) -> tuple[PartView, ...]:
    """Return the parts of a workflow that was planned; of any other task, none."""
    if not task.parts:
        return ()
    return tuple(
        PartView(
            name=part.name, state=record.state.value, outcome=record.outcome.value if record.outcome else None,
            runs=summary(part.task.payload) if part.task else "", after=part.after, when=part.when, items=record.items,
            begun_at=_time(record.begun_ms), ended_at=_time(record.ended_ms), stop=record.stop or None,
            reason=record.reason or None, message=record.message, taken_from=record.taken_from or None,
            value=parts.value_of(task, part.name, by_host=False), by_host=parts.value_of(task, part.name, by_host=True),
            tasks=tuple(
                PartTaskView(
                    task_id=one.task_id, item=item, outcome=one.outcome.value if one.outcome else None,
                    ended_at=_time(one.ended_ms), refusal=one.refusal,
                )
                for item, one in sorted(record.tasks.items())
            ),
        )
        for part in parts.workflow_of(task).parts
        for record in (task.parts[part.name],)
    )


def _hold_view(hold: Hold) -> HoldView:
    return HoldView(kind=hold.kind, by=hold.by, reason=hold.reason, since=rfc3339(hold.since_ms))


def wave_views(task: Task) -> tuple[WaveView, ...]:
    """Return the waves of a task with a rollout; any other has none to show."""
    if task.spec.rollout is None:
        return ()
    return tuple(
        WaveView(
            number=number, hosts=wave.hosts, open=wave.open,
            state="ended" if not wave.open else "running" if wave.begun_ms else "waiting",
            begun_at=_time(wave.begun_ms), ended_at=_time(wave.ended_ms),
        )
        for number, wave in enumerate(task.waves, 1)
    )


def command_view(command: Command) -> CommandView:
    """Return the view of one command."""
    ended = command.state is CommandState.ENDED
    return CommandView(
        host_id=command.host_id,
        host=command.host_name,
        state=command.state.value,
        outcome=command.outcome.value if command.outcome else None,
        ran=command.ran.value if ended else None,
        wave=command.wave + 1,
        waits=tuple(
            WaitView(reason=one.reason, message=one.message, since=rfc3339(one.since_ms), until=_time(one.until_ms))
            for one in command.waits
        ),
        attempts=tuple(_attempt_view(attempt) for attempt in command.attempts),
    )


def _attempt_view(attempt: Attempt) -> AttemptView:
    end, start = attempt.end, attempt.start
    started_ms = end.started_ms if end and end.started_ms is not None else start.started_ms if start else None
    ended_ms = (end.ended_ms if end.ended_ms is not None else attempt.end_ms) if end else None
    duration_ms = end.duration_ms if end else None
    return AttemptView(
        number=attempt.number,
        state=attempt.state.value,
        dispatched_at=_time(attempt.dispatched_ms),
        started_at=_time(started_ms),
        ended_at=_time(ended_ms),
        duration_seconds=duration_ms / 1000 if duration_ms is not None else None,
        outcome=end.outcome.value if end else None,
        ran=end.ran.value if end else None,
        exit_code=end.exit_code if end else None,
        signal=end.signal if end else None,
        error=end.error if end else "",
        tail=end.tail if end else "",
        decided=attempt.decided,
        late=tuple(
            LateView(outcome=late.outcome.value, exit_code=late.exit_code, ended_at=_time(late.ended_ms), seq=seq)
            for late, seq in zip(attempt.late, attempt.late_seq, strict=True)
        ),
        return_value=end.return_value if end else None,
        traceback=end.traceback if end else "",
        artifacts=end.artifacts if end else (),
        progress=HowFarView(start.progress.done, start.progress.total, start.progress.note) if start and start.progress and not end else None,
    )


def _time(time_ms: int | None) -> str | None:
    return rfc3339(time_ms) if time_ms else None


_MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[0-9.,:Z+-]*"), "<time>"),
    (re.compile(r"0x[0-9a-fA-F]+"), "<hex>"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"), "<id>"),
    (re.compile(r"\b[0-9a-f]{12,}\b"), "<hex>"),
    (re.compile(r"\d+"), "<n>"),
)


def normalise_line(line: str, host_name: str) -> str:
    """Return *line* without what differs from host to host: times, numbers, ids and the host's own name."""
    text = line.replace(host_name, "<host>") if host_name else line
    for pattern, mask in _MASKS:
        text = pattern.sub(mask, text)
    return " ".join(text.split())[:200]


def last_line(end: events.End) -> str:
    """Return the line that says most about a bad end: its error, or the last line that is not blank."""
    if end.error:
        return end.error.strip().splitlines()[-1] if end.error.strip() else ""
    lines = [line for line in end.tail.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def failure_groups(commands: Iterable[Command]) -> tuple[FailureGroup, ...]:
    """Group the commands that ended badly by outcome, exit code and normalised last line, largest first."""
    found: dict[tuple[str, int | None, str], list[tuple[str, str]]] = {}
    for command in commands:
        outcome, last = command.outcome, command.last
        if outcome is None or outcome in (Outcome.SUCCESS, Outcome.SKIPPED) or last is None or last.end is None:
            continue
        line = last_line(last.end)
        key = (outcome.value, last.end.exit_code, normalise_line(line, command.host_name))
        found.setdefault(key, []).append((command.host_name, line))
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[1][0]))
    shown = ordered if len(ordered) <= GROUPS_MAX else ordered[: GROUPS_MAX - 1]
    groups = [_group(outcome, exit_code, line, members) for (outcome, exit_code, line), members in shown]
    rest = ordered[len(shown) :]
    if rest:
        members = [member for _, some in rest for member in some]
        groups.append(_group("several", None, f"{len(rest)} further kinds of failure", members))
    return tuple(groups)


def _group(outcome: str, exit_code: int | None, line: str, members: list[tuple[str, str]]) -> FailureGroup:
    return FailureGroup(
        outcome=outcome, exit_code=exit_code, line=line, count=len(members), example=members[0][1][:400],
        hosts=hostset.fold(name for name, _ in members),
    )
