"""The records that the lifecycle moves: tasks, commands, attempts, and what one event did to them.

Only `lifecycle.py` changes them. Every reader of the log holds the same ones, and snapshots keep them.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from fleetlog_schemas import events
from fleetlog_schemas.ids import id_ms
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import TaskSpec


class AttemptState(StrEnum):
    """Where one try of a command stands."""

    DISPATCHED = "dispatched"
    RUNNING = "running"
    ENDED = "ended"


class CommandState(StrEnum):
    """Where a task's share on one host stands."""

    WAITING = "waiting"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    ENDED = "ended"


class TaskState(StrEnum):
    """Where a task stands."""

    SUBMITTED = "submitted"
    PLANNED = "planned"
    REFUSED = "refused"
    ENDED = "ended"


class Attempt(msgspec.Struct):
    """One try of a command."""

    number: int
    state: AttemptState
    epoch: int = 0
    dispatched_ms: int | None = None
    dispatched_seq: int = 0
    start: events.Start | None = None
    end: events.End | None = None
    end_seq: int = 0
    end_ms: int = 0
    """The log's time of the end: retries count from it."""
    decided: bool = False
    """The dispatcher decided the end; the agent's own may still come, late."""
    late: list[events.End] = []
    late_seq: list[int] = []
    refused: bool = False
    """A recorder refused what the agent said of it."""


class Command(msgspec.Struct):
    """A task's share on one host."""

    host_id: str
    host_name: str
    state: CommandState = CommandState.WAITING
    attempts: list[Attempt] = []
    due_ms: int = 0
    """While it waits: not before this time of the log (a retry's backoff)."""
    stop: str = ""
    """Why it alone is to end: empty or `cancelled`."""

    @property
    def last(self) -> Attempt | None:
        """The newest attempt, if there is one."""
        return self.attempts[-1] if self.attempts else None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended: the outcome of its last attempt."""
        end = self.attempts[-1].end if self.attempts and self.state is CommandState.ENDED else None
        return end.outcome if end else None

    @property
    def ran(self) -> Ran:
        """Whether any attempt ran."""
        ran = {attempt.end.ran for attempt in self.attempts if attempt.end}
        return Ran.YES if Ran.YES in ran else Ran.UNKNOWN if Ran.UNKNOWN in ran else Ran.NO


class Task(msgspec.Struct):
    """One request to run something, and everything that became of it."""

    task_id: str
    spec: TaskSpec
    submitted_by: str
    submitted_ms: int
    submitted_seq: int
    state: TaskState = TaskState.SUBMITTED
    commands: dict[str, Command] = {}
    """By host id, in the order of the plan."""
    parts: int = 0
    """Parts of the plan that were folded; the plan is whole at the task's first transition to PLANNED."""
    plan_hash: str = ""
    planned_ms: int = 0
    counts: dict[str, int] = {}
    """How many commands are in each state, the ended ones by outcome."""
    open: int = 0
    """Commands that have not ended."""
    stop: str = ""
    """Why all of it is to end: empty, `cancelled` or `timeout`."""
    stop_by: str = ""
    stop_reason: str = ""
    stop_ms: int = 0
    refusal: events.Refusal | None = None
    outcome: Outcome | None = None
    ended_ms: int = 0
    ended_seq: int = 0


class Change(msgspec.Struct, frozen=True):
    """What one entry of an event did: `what` is the event's short name, or `late`, `void`, `refused`."""

    what: str
    task: Task
    command: Command | None = None
    attempt: Attempt | None = None


class Tasks(msgspec.Struct):
    """All tasks that a reader keeps in memory, and the ids of those that it no longer keeps."""

    by_id: dict[str, Task] = {}
    closed: dict[str, int] = {}
    """Task ids that were used and left memory, with the time they carry; kept for as long as they could return."""

    def evict(self, task_id: str) -> None:
        """Drop an ended task from memory; its id stays used."""
        self.by_id.pop(task_id, None)
        self.closed[task_id] = id_ms(task_id)
