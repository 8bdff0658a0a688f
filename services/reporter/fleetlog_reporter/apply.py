"""Fold the log into rows to write and a state to keep: the whole projection, without a database.

Pure. Each stored message goes through the one lifecycle. What is open stays in memory; a task that ended leaves
it as rows, once. `take` hands over what is to be written since the last time, and after a restart events at or
below `written_through` are folded and not handed over again, so that every row is written exactly once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import msgspec

from fleetlog_reporter.rows import LateEnd, Row
from fleetlog_runtime.pure.bus import Stored
from fleetlog_schemas import codec, control_events, events, host_events, hosts, lifecycle, policies, records
from fleetlog_schemas.records import CommandState, Task
from fleetlog_schemas.workflow_events import PartsDecided

PARKED_BYTES_MAX = 64 * 1024
"""Bytes kept of a message that is not an event: enough to see what it is; the log has all of it."""


class Ended(msgspec.Struct):
    """A task that has ended and is not yet known to be in the tables."""

    task: Task
    stopped: dict[str, int]
    """Host ids whose command was ended by a request while it waited, and the sequence of that."""


class Batch(msgspec.Struct):
    """What one transaction writes."""

    position: int = 0
    events: list[Row] = []
    parked: list[Row] = []
    ended: list[Ended] = []
    late: list[LateEnd] = []
    bytes: int = 0
    """Bytes of the messages behind it: how much there is to write."""


class OpenState(msgspec.Struct):
    """What is open at a position: all that a restart needs beside the tables."""

    position: int
    time_ms: int
    tasks: list[Task]
    hosts: hosts.Hosts
    policies: policies.Policies
    narrowed_seq: int
    """As in `records.Tasks`: which dispatches are void follows from it."""
    stopped: dict[str, dict[str, int]]


class Projector:
    """The fold of the log that the reporter keeps."""

    def __init__(self, written_through: int = 0) -> None:
        """Start from an empty log; nothing at or below *written_through* is handed over to be written."""
        self.tasks = records.Tasks()
        self.hosts = hosts.Hosts()
        self.policies = policies.Policies()
        self.closing: dict[str, Ended] = {}
        """Tasks that ended and are still being written, by id."""
        self.stopped: dict[str, dict[str, int]] = {}
        self.position = 0
        self.time_ms = 0
        """The log's time of the last event folded."""
        self.parked = 0
        """Messages passed over since the start of this process because they are not events."""
        self.written_through = written_through
        self.batch = Batch()

    def fold(self, stored: Stored) -> None:
        """Fold one message of the log; those already folded are passed over."""
        if stored.seq <= self.position:
            return
        self.position = stored.seq
        self.time_ms = stored.time_ms
        fresh = stored.seq > self.written_through
        try:
            event = codec.decode(
                stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms, batch_end=stored.batch_end
            )
        except codec.TooNew:
            # Kept for whoever can read it; a reader goes on, only a decider must stop.
            if fresh:
                self._keep_unknown(stored)
            return
        except codec.Malformed as error:
            if fresh:
                self._park(stored, str(error))
            return
        self._apply(event, fresh=fresh)
        if fresh:
            self._keep(stored, event.id, events.NAMES[type(event.data)], event.authid, touches(event.data))

    def take(self) -> Batch:
        """Hand over what is to be written since the last time. Only to be called at the end of an atomic batch."""
        batch, self.batch = self.batch, Batch()
        batch.position = self.position
        return batch

    def written(self, batch: Batch) -> None:
        """Learn that the tables now hold *batch*: its tasks leave memory for good."""
        for ended in batch.ended:
            self.closing.pop(ended.task.task_id, None)
        self.written_through = max(self.written_through, batch.position)

    def open_state(self) -> bytes:
        """Return what is open, for a restart. Tasks that ended at or below this position are to be in the tables."""
        state = OpenState(
            position=self.position, time_ms=self.time_ms, tasks=list(self.tasks.by_id.values()), hosts=self.hosts,
            policies=self.policies, narrowed_seq=self.tasks.narrowed_seq, stopped=self.stopped,
        )
        return msgspec.json.encode(state)

    def restore(self, state: OpenState, closed: Iterable[str]) -> None:
        """Go on from what was open; *closed* are the ids that could still return, oldest end first."""
        self.position, self.time_ms = state.position, state.time_ms
        self.tasks.by_id = {task.task_id: task for task in state.tasks}
        self.tasks.narrowed_seq = state.narrowed_seq
        self.hosts, self.policies, self.stopped = state.hosts, state.policies, state.stopped
        for task_id in closed:
            self.tasks.evict(task_id)

    def find(self, task_id: str) -> Task | None:
        """Return a task that is in memory: open, or ended and not yet in the tables."""
        task = self.tasks.by_id.get(task_id)
        if task is None and task_id in self.closing:
            return self.closing[task_id].task
        return task

    def _apply(self, event: codec.Event, *, fresh: bool) -> None:
        hosts.apply(self.hosts, event)
        policies.apply(self.policies, event)
        changes = lifecycle.apply(self.tasks, event)
        match event.data:
            case events.AttemptsEnded():
                if fresh:
                    changes += self._ends_of_closed(event, event.data)
                    self._file_late(event, [change for change in changes if change.what == "late"])
            case events.TasksEnded() | events.TasksRefused():
                for change in changes:
                    if change.what != "part":
                        self._close(change.task, fresh=fresh)
            case events.AttemptsDispatched() | events.AttemptsStarted():
                return  # they have the most entries, and stop nothing
            case _:
                for change in changes:
                    command = change.command
                    if change.what == "stop" and command is not None and command.state is CommandState.ENDED:
                        self.stopped.setdefault(change.task.task_id, {})[command.host_id] = event.seq

    def _file_late(self, event: codec.Event, changes: list[records.Change]) -> None:
        # Two entries of one event may be about one attempt: what is new of it is told by the sequence.
        attempts = {id(change.attempt): change.attempt for change in changes if change.attempt is not None}
        for attempt in attempts.values():
            for end, seq in zip(attempt.late, attempt.late_seq, strict=True):
                if seq == event.seq:
                    self.batch.late.append(LateEnd(seq=seq, time_ms=event.time_ms, end=end, task_known=True))

    def _ends_of_closed(self, event: codec.Event, data: events.AttemptsEnded) -> list[records.Change]:
        """Return late ends of tasks that are still being written; file those of tasks that memory no longer has."""
        closing = False
        for end in data.attempts:
            if end.task_id in self.tasks.by_id:
                continue
            if end.task_id in self.closing:
                closing = True
            elif event.subject != events.DISPATCH:
                self.batch.late.append(LateEnd(seq=event.seq, time_ms=event.time_ms, end=end, task_known=False))
        if not closing:
            return []
        still_here = records.Tasks(by_id={task_id: ended.task for task_id, ended in self.closing.items()})
        return [change for change in lifecycle.apply(still_here, event) if change.what == "late"]

    def _close(self, task: Task, *, fresh: bool) -> None:
        self.tasks.evict(task.task_id)
        ended = Ended(task=task, stopped=self.stopped.pop(task.task_id, {}))
        if fresh:
            self.batch.ended.append(ended)
            self.closing[task.task_id] = ended

    def _keep(self, stored: Stored, event_id: str, name: str, authid: str | None, touched: str) -> None:
        # What JSON readers skip over they do not check: text outside the fields we know may be no UTF-8.
        body = stored.body.decode(errors="replace")
        self.batch.events.append((stored.seq, stored.subject, name, stored.time_ms, event_id, authid, touched, body))
        self.batch.bytes += len(body)

    def _keep_unknown(self, stored: Stored) -> None:
        try:
            content = msgspec.json.decode(stored.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._park(stored, str(error))
            return
        self._keep(stored, content["id"], content["type"], content.get("authid"), "")

    def _park(self, stored: Stored, error: str) -> None:
        self.parked += 1
        row = (stored.seq, stored.subject, stored.time_ms, error[:500], stored.body[:PARKED_BYTES_MAX])
        self.batch.parked.append(row)
        self.batch.bytes += len(stored.body)


def touch_key(identifier: str) -> str:
    """Return what `raw_events.touches` holds of a task id or host id. Several ids may share one."""
    return zlib.crc32(identifier.encode()).to_bytes(4, "big").hex()


def touches(data: events.Data) -> str:
    """Return the keys of every task and host that an event names, each once, joined."""
    match data:
        case events.TasksSubmitted(tasks=entries) | events.TasksEnded(tasks=entries):
            named = {entry.task_id for entry in entries} | {entry.part_of.task_id for entry in entries if entry.part_of}
        case events.TasksPlanned(plans=plans):
            named = {plan.task_id for plan in plans}
            for plan in plans:
                named.update(host.host_id for host in plan.hosts)
        case events.TasksRefused(refusals=refusals):
            named = {refusal.task_id for refusal in refusals} | {one.part_of.task_id for one in refusals if one.part_of}
        case PartsDecided(parts=decisions):
            named = {one.task_id for one in decisions}
        case events.TasksTimedOut(task_ids=task_ids):
            named = set(task_ids)
        case control_events.CancelRequested() | control_events.SkipRequested():
            named = {data.task_id, *data.host_ids}
        case control_events.PauseRequested() | control_events.ResumeRequested() | control_events.TaskApproved() | control_events.AbortRequested():
            named = {data.task_id}
        case events.TasksHalted(halts=halts):
            named = {halt.task_id for halt in halts}
        case events.TasksReplaced(replacements=replacements):
            named = {one.task_id for one in replacements} | {one.by_task_id for one in replacements}
        case events.CommandsWaiting(groups=groups):
            commands = [one for group in groups for one in group.commands]
            named = {one.task_id for one in commands}.union(*(one.host_ids for one in commands))
        case events.AttemptsDispatched(attempts=keys) | events.AttemptsStarted(attempts=keys):
            named = _named_by(keys)
        case events.AttemptsEnded(attempts=keys):
            named = _named_by(keys)
        case host_events.ReportsRefused(attempts=keys):
            named = _named_by(keys) | {data.host_id}
        case host_events.SessionsOpened(sessions=entries):
            named = {entry.host_id for entry in entries}
        case host_events.SessionsRefused(hosts=entries) | host_events.HostsOnline(hosts=entries) | host_events.HostsOffline(hosts=entries):
            named = {entry.host_id for entry in entries}
        case _:
            host_id = getattr(data, "host_id", None)
            named = {host_id} if host_id else set()
    # Sorted, so that a rebuild gives the same text.
    return b"".join(sorted([zlib.crc32(one.encode()).to_bytes(4, "big") for one in named])).hex()


def _named_by(keys: Iterable[events.AttemptKey]) -> set[str]:
    named = {one.task_id for one in keys}
    named.update(one.host_id for one in keys)
    return named
