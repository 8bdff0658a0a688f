"""Between the lifecycle's records and rows: what is written when a task ends, and the same task read back.

Reading back gives a `records.Task`, so that `view.task_view`, the one view there is, serves both what is in
memory and what is in the tables. Tuples are in the column order of `tables.sql`. What SQL rarely asks for stands
in one JSON column (`rest`), for each further column costs time with every attempt written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from fleetlog_schemas import events
from fleetlog_schemas.files import file_run_by
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.lifecycle import same_end
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.policies import Freeze, NamedWindow
from fleetlog_schemas.records import (
    Attempt,
    AttemptState,
    Command,
    CommandState,
    PartRecord,
    Task,
    TaskState,
    Wait,
    Wave,
)
from fleetlog_schemas.spec import Blob, Payload, Script, TaskSpec, kind, summary

Row = tuple[Any, ...]

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Payload).decode
_decode_spec = msgspec.json.Decoder(TaskSpec).decode
_decode_counts = msgspec.json.Decoder(dict[str, int]).decode
_decode_end = msgspec.json.Decoder(events.End).decode
_decode_parts = msgspec.json.Decoder(dict[str, PartRecord]).decode
_decode_waves = msgspec.json.Decoder(list[Wave]).decode


class Rest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The parts of an attempt that SQL rarely asks for, and of its command, in the row that describes that."""

    epoch: int = 0
    dispatched_seq: int = 0
    start: events.Start | None = None
    signal: int | None = None
    traceback: str = ""
    return_value: str | None = None
    artifacts: tuple[events.Artifact, ...] = ()
    output: events.OutputSummary | None = None
    refused: bool = False
    wave: int = 0
    waits: tuple[Wait, ...] = ()


_decode_rest = msgspec.json.Decoder(Rest).decode
_NO_REST = Rest()
_NO_WAITS: tuple[Wait, ...] = ()


class LateEnd(msgspec.Struct, frozen=True):
    """An end that is not the one that stands, and where the log has it."""

    seq: int
    time_ms: int
    end: events.End
    task_known: bool
    """The lifecycle compared it with what it knows of the attempt; otherwise that is still to be done."""


def described(payload: Payload) -> tuple[str, str]:
    """Return what a payload runs, in one line, and a digest that is the same for tasks that run the same."""
    return _described(_encode(payload))  # not every payload has a hash


@lru_cache(maxsize=1024)
def _described(encoded: bytes) -> tuple[str, str]:
    payload = _decode(encoded)
    return summary(payload), payload_key(payload)


def payload_key(payload: Payload) -> str:
    """Return a short digest that is the same for tasks that run the same; of a task file, for every version of it."""
    if path := file_run_by(payload):
        payload = Script(Blob("", 0, path), (), payload.args if isinstance(payload, Script) else ())
    return hashlib.sha256(_encode(payload)).hexdigest()[:16]


def task_row(task: Task) -> Row:
    """Return the row of a task, ended or open."""
    refusal, spec, origin = task.refusal, task.spec, task.spec.definition
    summary, key = described(spec.payload)
    # Members of these enumerations are texts: taking `.value` of each would cost more than the rest of a column.
    return (
        task.task_id, kind(spec), spec.name, summary, task.state, task.outcome, spec.target, task.submitted_by, task.submitted_ms,
        task.submitted_seq, task.planned_ms, task.ended_ms, task.ended_seq, task.plan_hash, spec.rerun_of,
        _encode(spec.tags).decode(), task.stop, task.stop_by, task.stop_reason, task.stop_ms,
        refusal.code if refusal else None, refusal.message if refusal else None,
        refusal.pointer if refusal else None, len(task.commands), _encode(task.counts).decode(),
        key, _encode(spec).decode(), spec.priority, spec.queue, spec.key or None,
        _encode(task.waves).decode() if spec.rollout else None,
        *((origin.definition_id, origin.name, origin.version) if origin else (None, None, None)),
        task.schedule or None, task.nominal_ms or None,
        *((task.part_of.task_id, task.part_of.part, task.part_of.item) if task.part_of else (None, None, None)),
        _encode(task.parts).decode() if task.parts else None,
    )


def open_task_row(task: Task) -> Row:
    """Return the row of a task that is open: it may be on hold, which no ended one is."""
    hold = task.hold
    return (*task_row(task), hold.kind if hold else None, hold.reason if hold else None)


def attempt_rows(task: Task, stopped: Mapping[str, int]) -> Iterable[Row]:
    """Yield the rows of a task's attempts; *stopped* names commands that a request ended, and at which sequence."""
    its_kind = kind(task.spec)
    for command in task.commands.values():
        state = command.state
        if not command.attempts:
            yield (
                task.task_id, command.host_id, command.host_name, its_kind, state, None, None, task.ended_seq,
                0, None, None, None, None, None, None, None, None, None, None, None, None, None, _bare_rest(command),
            )
            continue
        ended = command.state is CommandState.ENDED
        last = len(command.attempts)
        for attempt in command.attempts:
            own: Row = (None, None, None)
            wave, waits = 0, _NO_WAITS
            if attempt.number == last:
                ended_seq = stopped.get(command.host_id, attempt.end_seq) if ended else None
                # With one attempt it is that attempt's own `ran`.
                own = (state, command.ran if ended and last > 1 else None, ended_seq)
                wave, waits = command.wave, tuple(command.waits)
            yield (
                task.task_id, command.host_id, command.host_name, its_kind, *own, task.ended_seq,
                *_attempt_columns(attempt, wave, waits),
            )


def _bare_rest(command: Command) -> str | None:
    """Return what `rest` says of a command without an attempt: most often nothing."""
    if not command.wave and not command.waits:
        return None
    return _encode(Rest(wave=command.wave, waits=tuple(command.waits))).decode()


def _attempt_columns(attempt: Attempt, wave: int, waits: tuple[Wait, ...]) -> Row:
    end = attempt.end
    if end is None:
        rest = Rest(
            epoch=attempt.epoch, dispatched_seq=attempt.dispatched_seq, start=attempt.start, refused=attempt.refused,
            wave=wave, waits=waits,
        )
        return (
            attempt.number, attempt.state, attempt.dispatched_ms, None, None, None,
            attempt.start.started_ms if attempt.start else None, None, None, None, None, None, None, None,
            _encode(rest).decode(),
        )
    rest = Rest(
        attempt.epoch, attempt.dispatched_seq, attempt.start, end.signal, end.traceback, end.return_value,
        end.artifacts, end.output, attempt.refused, wave, waits,
    )
    # Null stands for the usual: a text costs three times as much, even an empty one.
    return (
        attempt.number, None, attempt.dispatched_ms, end.outcome, end.ran, end.exit_code,
        end.started_ms, end.ended_ms, end.duration_ms, end.error or None, end.tail or None, attempt.decided, attempt.end_seq,
        attempt.end_ms, _encode(rest).decode(),
    )


def late_row(late: LateEnd) -> Row:
    """Return the row of a late end."""
    end = late.end
    return (
        late.seq, late.time_ms, end.task_id, end.host_id, end.attempt, end.outcome, end.ran, end.exit_code,
        end.ended_ms, _encode(end).decode(),
    )


def host_row(host: Host, running: int) -> Row:
    """Return the row of a host as it is now."""
    return (
        host.host_id, host.name, host.presence, host.presence_ms or None, host.maintenance, host.maintenance_reason,
        host.epoch, host.version, host.enrolled_ms, host.revoked, running, _encode(host.labels).decode(),
        _encode(host.facts).decode(), len(host.refusals),
    )


def freeze_row(freeze: Freeze) -> Row:
    """Return the row of a freeze in force."""
    return (freeze.freeze_id, freeze.target, freeze.reason, freeze.by, freeze.since_ms)


def window_row(named: NamedWindow) -> Row:
    """Return the row of a window in force."""
    window = named.window
    return (
        named.name, window.kind, window.target, _encode(window.days).decode(), window.begins, window.lasts_minutes, window.zone,
        named.reason, named.by, named.since_ms,
    )


def task_from_rows(row: Sequence[Any], attempts: Iterable[Sequence[Any]], late: Iterable[Sequence[Any]]) -> Task:
    """Return the task that these rows were written from; *late* are its late results in the order of the log."""
    (
        task_id, _, _, _, state, outcome, _, submitted_by, submitted_ms, submitted_seq, planned_ms, ended_ms,
        ended_seq, plan_hash, _, _, stop, stop_by, stop_reason, stop_ms, code, message, pointer, _, counts, _, spec,
        _, _, _, waves, _, _, _, schedule, nominal_ms, workflow_id, part, item, parts,
    ) = row  # fmt: skip
    refusal = None
    if code is not None:
        refusal = events.Refusal(task_id=task_id, code=code, message=message, pointer=pointer)
    return Task(
        task_id=task_id, spec=_decode_spec(spec), submitted_by=submitted_by, submitted_ms=submitted_ms,
        submitted_seq=submitted_seq, schedule=schedule or "", nominal_ms=nominal_ms or 0, state=TaskState(state), commands=commands_from_rows(attempts, late),
        plan_hash=plan_hash, planned_ms=planned_ms, counts=_decode_counts(counts),
        waves=_decode_waves(waves) if waves else [], stop=stop, stop_by=stop_by,
        stop_reason=stop_reason, stop_ms=stop_ms, refusal=refusal, outcome=Outcome(outcome) if outcome else None,
        ended_ms=ended_ms, ended_seq=ended_seq, part_of=events.PartOf(workflow_id, part, item) if workflow_id else None,
        parts=_decode_parts(parts) if parts else {},
    )


def commands_from_rows(attempts: Iterable[Sequence[Any]], late: Iterable[Sequence[Any]]) -> dict[str, Command]:
    """Return commands by host id from rows of `ended_attempts`, with their late results."""
    commands: dict[str, Command] = {}
    for row in attempts:
        host_id, host, state = row[1], row[2], row[4]
        command = commands.setdefault(host_id, Command(host_id=host_id, host_name=host))
        rest = _decode_rest(row[-1]) if row[-1] else _NO_REST
        if state is not None:
            command.state, command.wave, command.waits = CommandState(state), rest.wave, list(rest.waits)
        if row[8]:
            command.attempts.append(_attempt_from_row(row, rest))
    for command in commands.values():
        command.attempts.sort(key=lambda attempt: attempt.number)
    for seq, body in late:
        _add_late(commands, _decode_end(body), seq)
    return commands


def _attempt_from_row(row: Sequence[Any], rest: Rest) -> Attempt:
    (
        task_id, host_id, _, _, _, _, _, _, number, state, dispatched_ms, outcome, ran, exit_code, started_ms,
        ended_ms, duration_ms, error, tail, decided, end_seq, end_ms, _,
    ) = row  # fmt: skip
    attempt = Attempt(
        number=number, state=AttemptState(state) if state else AttemptState.ENDED, epoch=rest.epoch, dispatched_ms=dispatched_ms,
        dispatched_seq=rest.dispatched_seq, start=rest.start, refused=rest.refused,
    )
    if outcome is not None:
        attempt.end = events.End(
            task_id=task_id, host_id=host_id, attempt=number, outcome=Outcome(outcome), ran=Ran(ran),
            exit_code=exit_code, signal=rest.signal, started_ms=started_ms, ended_ms=ended_ms,
            duration_ms=duration_ms, error=error or "", traceback=rest.traceback, tail=tail or "", output=rest.output,
            return_value=rest.return_value, artifacts=rest.artifacts,
        )
        attempt.end_seq, attempt.end_ms, attempt.decided = end_seq, end_ms, decided
    return attempt


def _add_late(commands: Mapping[str, Command], end: events.End, seq: int) -> None:
    command = commands.get(end.host_id)
    if command is None or not 0 < end.attempt <= len(command.attempts):
        return
    attempt = command.attempts[end.attempt - 1]
    attempt.late.append(end)
    attempt.late_seq.append(seq)


def is_news(end: events.End, known: Iterable[events.End]) -> bool:
    """Tell whether an end differs from each of those already known of its attempt."""
    return not any(same_end(one, end) for one in known)
