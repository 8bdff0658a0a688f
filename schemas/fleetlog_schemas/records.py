"""The records that the lifecycle moves: tasks, commands, attempts, and what one event did to them.

Only `lifecycle.py` and the modules that it calls change them. Every reader of the log holds the same ones, and snapshots keep them.
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


class Wait(msgspec.Struct):
    """One reason for which a command waited, and from when to when by the log."""

    reason: str
    message: str
    since_ms: int
    until_ms: int = 0
    """0: it still does."""


class Hold(msgspec.Struct, frozen=True):
    """Why a task starts nothing more for the time being."""

    kind: str
    """`paused` by a person, or `halted` by its failure budget."""
    by: str
    reason: str
    since_ms: int


class Wave(msgspec.Struct):
    """One wave of a task: a task without a rollout has one."""

    hosts: int
    open: int
    """Commands that have not ended."""
    begun_ms: int = 0
    """When its first command was dispatched, by the log; 0: not yet."""
    ended_ms: int = 0
    """When its last command ended, by the log; 0: not yet."""


class Command(msgspec.Struct):
    """A task's share on one host."""

    host_id: str
    host_name: str
    state: CommandState = CommandState.WAITING
    attempts: list[Attempt] = []
    due_ms: int = 0
    """While it waits: not before this time of the log (a retry's backoff)."""
    stop: str = ""
    """Why it alone is to end: empty, `cancelled` or `skipped`."""
    wave: int = 0
    """Index of its wave."""
    waits: list[Wait] = []
    """What it waited for, as far as that lasted long enough to be noted; the last may still go on."""

    @property
    def wait(self) -> Wait | None:
        """What it waits for now, if that was noted."""
        return self.waits[-1] if self.waits and not self.waits[-1].until_ms else None

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


class PartTask(msgspec.Struct):
    """One task of a part: the only one, or the one for an item."""

    task_id: str
    outcome: Outcome | None = None
    """None: it has not ended. A task that was refused is an error."""
    ended_ms: int = 0
    refusal: str = ""
    value: str | None = None
    """As in `events.TaskEnd`."""
    by_host: str | None = None


class PartRecord(msgspec.Struct):
    """One part of a workflow, and everything that became of it."""

    name: str
    state: CommandState = CommandState.WAITING
    """Waiting, running or ended."""
    outcome: Outcome | None = None
    items: int = 0
    """Tasks that it has, once it has begun; those that are not in `tasks` are still to be submitted."""
    tasks: dict[int, PartTask] = {}
    """By item."""
    begun_ms: int = 0
    ended_ms: int = 0
    stop: str = ""
    """Why it alone is to end: empty or `cancelled`."""
    reason: str = ""
    """Why it ended without having run, or before all of it did."""
    message: str = ""
    taken_from: str = ""
    """The earlier run from which it was taken over."""
    value: str | None = None
    by_host: str | None = None
    """What it returned there."""
    value_bytes: int = 0
    """Bytes of what its tasks returned; beyond the limit it has no value."""


class Task(msgspec.Struct):
    """One request to run something, and everything that became of it."""

    task_id: str
    spec: TaskSpec
    submitted_by: str
    submitted_ms: int
    submitted_seq: int
    schedule: str = ""
    """The schedule that it is a run of."""
    nominal_ms: int = 0
    """The time that the schedule's rule names, if it was fired for one."""
    state: TaskState = TaskState.SUBMITTED
    commands: dict[str, Command] = {}
    """By host id, in the order of the plan."""
    part_of: events.PartOf | None = None
    """The part of a workflow that it belongs to."""
    parts: dict[str, PartRecord] = {}
    """Of a workflow: its parts by name, in the order given; `open` and `counts` are then of parts."""
    plan_parts: int = 0
    """Parts of the plan that were folded; the plan is whole at the task's first transition to PLANNED."""
    plan_hash: str = ""
    planned_ms: int = 0
    counts: dict[str, int] = {}
    """How many commands are in each state, the ended ones by outcome."""
    open: int = 0
    """Commands that have not ended."""
    waves: list[Wave] = []
    wave: int = 0
    """Index of the first wave that has not ended; the number of waves when all have."""
    wave_ms: int = 0
    """When that wave's turn came: the one before it ended."""
    approved: int = 0
    """Waves (from 1) up to this one were approved."""
    hold: Hold | None = None
    forgiven: int = 0
    """Bad ends that no longer count against the failure budget: a person resumed the task after them."""
    cancelled_early: tuple[str, ...] = ()
    """Host ids whose cancel came before the plan: they are stopped as soon as they are planned."""
    stop: str = ""
    """Why all of it is to end: empty, `cancelled`, `timeout`, `replaced` or `aborted`."""
    stop_by: str = ""
    stop_reason: str = ""
    stop_ms: int = 0
    refusal: events.Refusal | None = None
    outcome: Outcome | None = None
    ended_ms: int = 0
    ended_seq: int = 0

    def interrupts(self, command: Command) -> bool:
        """Tell whether a command in flight is to be stopped: all stops do that but the gentle ones."""
        return bool(self.stop and self.stop != "aborted") or command.stop == "cancelled"


class Change(msgspec.Struct, frozen=True):
    """What one entry of an event did.

    `what` is `submitted`, `planned`, `refused`, `dispatched`, `started`, `ended`, `late`, `report-refused`, `stop`, `held`,
    `resumed`, `approved`, `part` (of a workflow, something about one) or `task-ended`.
    """

    what: str
    task: Task
    command: Command | None = None
    attempt: Attempt | None = None


class Tasks(msgspec.Struct):
    """All tasks that a reader keeps in memory, and the ids of those that it no longer keeps."""

    by_id: dict[str, Task] = {}
    closed: dict[str, int] = {}
    """Task ids that were used and left memory, with the time they carry; kept for as long as they could return."""
    partial: bool = False
    """Whoever folds only what names one task does not know the workflow that it is a part of: what the log says is taken."""
    outline: bool = False
    """Whoever passes over what happens to attempts does not know that a task's commands have ended: that it has is taken."""
    narrowed_seq: int = 0
    """The last event that narrowed admission (a freeze, a window, a limit, maintenance): a dispatch that was decided
    before it is void."""

    def evict(self, task_id: str) -> None:
        """Drop an ended task from memory; its id stays used."""
        self.by_id.pop(task_id, None)
        self.closed[task_id] = id_ms(task_id)
