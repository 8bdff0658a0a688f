"""What an event of the log is, and the events of tasks and attempts: what is stored, for ever.

These types ARE the stored format, together with those of the modules `*_events.py`, one for each further subject matter
(`codec.py` names them all). A stored version never changes its meaning: a change is a new version with
an upcast in `codec.py` and a golden sample beside the old one. Names are past tense. Events about attempts and
tasks are plural: one dispatch round, one report or one submitted batch is one event.

The counterparts are `pushes.py` (what an agent is asked) and `reports.py` (what an agent says).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec

from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import TaskSpec

REQUEST = "evt.request"
DISPATCH = "evt.dispatch"
RESULT = "evt.result"
HOST = "evt.host"
ACCESS = "evt.access"
CATALOG = "evt.catalog"
SCHEDULE = "evt.schedule"
TICK = "evt.tick"
ARCHIVE = "evt.archive"
ALERT = "evt.alert"
SUBJECTS = (REQUEST, DISPATCH, RESULT, HOST, ACCESS, CATALOG, SCHEDULE, TICK, ARCHIVE, ALERT)
"""The subjects of EVENTS that have writers today."""


class Data(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=False):
    """Base of all event data: unknown fields are ignored, so that an older reader survives an added field."""


class PassedOver(Data, frozen=True):
    """What stands for the data of an event whose reader has no use for it; never stored."""


PASSED_OVER = PassedOver()


class EventType(msgspec.Struct, frozen=True):
    """One row of the registry: the stored type, its data, where it stands, who writes and who reads it."""

    name: str
    data: type[Data]
    subject: str
    written_by: str
    read_by: tuple[str, ...]
    minreader: int = 1
    """A decider that reads less (`codec.READER`) must stop at it."""


REGISTRY: dict[str, EventType] = {}
NAMES: dict[type[Data], str] = {}

_D = TypeVar("_D", bound=type[Data])


def event(name: str, subject: str, written_by: str, *read_by: str, minreader: int = 1) -> Callable[[_D], _D]:
    """Enter a type into the registry, here and in every module `*_events.py`."""

    def register(data: _D) -> _D:
        REGISTRY[name] = EventType(name, data, subject, written_by, read_by, minreader)
        NAMES[data] = name
        return data

    return register


# --- tasks -----------------------------------------------------------------------------------------------


class PartOf(Data, frozen=True):
    """The part of a workflow that a task belongs to."""

    task_id: str
    """The workflow."""
    part: str
    item: int = 0
    """Which item of its list, from 0."""


class Submission(Data, frozen=True):
    """One task as it was asked for. Who asked stands in the event's `authid`."""

    task_id: str
    spec: TaskSpec
    schedule: str = ""
    """The schedule that asked for it."""
    nominal_ms: int = 0
    """The time for which the schedule asked."""
    part_of: PartOf | None = None
    """Of a task that the dispatcher submits for a workflow."""
    submitted_by: str = ""
    """Who asked for that workflow."""


@event(
    "fleetlog.task.submitted.v1", "evt.request evt.request evt.dispatch", "gateway scheduler dispatcher", "dispatcher",
    "reporter",
)
class TasksSubmitted(Data, frozen=True):
    """Tasks were asked for. The first submission of an id stands; a later one changes nothing."""

    tasks: tuple[Submission, ...]


class PlannedHost(Data, frozen=True):
    """A host as the plan froze it."""

    host_id: str
    name: str


class Plan(Data, frozen=True):
    """The frozen hosts of one task. A plan of more than EVENT_COMMANDS_MAX hosts has several parts in one batch."""

    task_id: str
    hosts: tuple[PlannedHost, ...]
    plan_hash: str
    part: int = 0
    parts: int = 1
    waves: tuple[int, ...] = ()
    """Sizes of the waves, in the order of the hosts of all parts; empty: one wave. In the first part only."""


@event("fleetlog.task.planned.v1", DISPATCH, "dispatcher", "dispatcher", "reporter")
class TasksPlanned(Data, frozen=True):
    """Targets were resolved; from here on the hosts of these tasks do not change."""

    plans: tuple[Plan, ...]


class Refusal(Data, frozen=True):
    """Why a task was refused. `code` is stable, `message` is for people."""

    task_id: str
    code: str
    message: str
    pointer: str = ""
    part_of: PartOf | None = None


@event("fleetlog.task.refused.v1", DISPATCH, "dispatcher", "dispatcher", "scheduler", "reporter")
class TasksRefused(Data, frozen=True):
    """Tasks that could not be planned. Nothing of them ran."""

    refusals: tuple[Refusal, ...]


@event("fleetlog.task.timed-out.v1", DISPATCH, "dispatcher", "dispatcher", "reporter")
class TasksTimedOut(Data, frozen=True):
    """Tasks that outlived their task timeout: what waits is skipped, what runs is stopped."""

    task_ids: tuple[str, ...]


class Halt(Data, frozen=True):
    """A task that has used up its failure budget."""

    task_id: str
    failures: int
    """Hosts that ended badly since it was last resumed."""
    failures_max: int
    """As many were allowed."""
    wave: int
    """The last wave that had begun, from 1."""


@event("fleetlog.task.halted.v1", DISPATCH, "dispatcher", "dispatcher", "reporter")
class TasksHalted(Data, frozen=True):
    """Tasks on which too many hosts failed: nothing more is started until a person resumes or aborts them."""

    halts: tuple[Halt, ...]


class Replacement(Data, frozen=True):
    """A task that is stopped for a newer run of the same key."""

    task_id: str
    by_task_id: str


@event("fleetlog.task.replaced.v1", DISPATCH, "dispatcher", "dispatcher", "reporter")
class TasksReplaced(Data, frozen=True):
    """Tasks that are stopped because a newer single run of the same key takes their place."""

    replacements: tuple[Replacement, ...]


class TaskEnd(Data, frozen=True):
    """The end of one task: its outcome, and how many commands ended how."""

    task_id: str
    outcome: Outcome
    counts: dict[Outcome, int]
    """Of a workflow, how many parts."""
    part_of: PartOf | None = None
    value: str | None = None
    """What a task of a part returned on its one host, as JSON, where another part takes it."""
    by_host: str | None = None
    """What it returned on each host: a JSON object of host names."""


@event("fleetlog.task.ended.v1", DISPATCH, "dispatcher", "dispatcher", "scheduler", "reporter")
class TasksEnded(Data, frozen=True):
    """Every command of these tasks has ended."""

    tasks: tuple[TaskEnd, ...]


# --- attempts --------------------------------------------------------------------------------------------


class AttemptKey(Data, frozen=True):
    """Which attempt: a task, a host, and a number that starts at 1."""

    task_id: str
    host_id: str
    attempt: int


class Dispatch(AttemptKey, frozen=True):
    """One attempt handed to delivery."""

    epoch: int
    """The host's session when it was decided."""


@event("fleetlog.attempt.dispatched.v1", DISPATCH, "dispatcher", "dispatcher", "reporter")
class AttemptsDispatched(Data, frozen=True):
    """Attempts that may now be sent. Nothing is sent before this is read back."""

    attempts: tuple[Dispatch, ...]
    decided_seq: int = 0
    """The log sequence that the decision rests on; void when admission was narrowed after it (0: not known)."""


class WaitingCommands(Data, frozen=True):
    """Commands of one task."""

    task_id: str
    host_ids: tuple[str, ...] = ()
    """Empty: every command of the task that waits."""


class WaitingFor(Data, frozen=True):
    """Commands that have come to wait for the same thing."""

    reason: str
    """A stable word; see the glossary."""
    message: str
    commands: tuple[WaitingCommands, ...]


@event("fleetlog.command.waiting.v1", DISPATCH, "dispatcher", "dispatcher", "reporter")
class CommandsWaiting(Data, frozen=True):
    """Commands wait, and why. Written when they have waited for a while, and when the reason is another."""

    groups: tuple[WaitingFor, ...]


class HowFar(Data, frozen=True):
    """What a function said of its progress."""

    done: float
    total: float | None = None
    note: str = ""


class Start(AttemptKey, frozen=True):
    """An attempt's process exists; and again, while it runs, how far it is."""

    started_ms: int
    slot: int = 0
    """Output slot: its frames are on `out.<host_id>.<slot>`."""
    output_first_seq: int = 0
    """A sequence of OUTPUT at or before the first frame; 0: not known, read the slot from its start."""
    progress: HowFar | None = None


@event("fleetlog.attempt.started.v1", RESULT, "result-recorder", "dispatcher", "reporter")
class AttemptsStarted(Data, frozen=True):
    """Attempts that agents started; sent for those that last."""

    attempts: tuple[Start, ...]
    counters: dict[str, int] = {}
    """Journal counter by host id, as the reports carried them."""


class OutputMark(Data, frozen=True):
    """One entry of the sparse index: where in the stream an offset and a line begin."""

    offset: int
    line: int
    seq: int


class OutputSummary(Data, frozen=True):
    """What an attempt wrote, and where to read it."""

    slot: int
    bytes: int
    """Bytes that the process wrote, kept or not."""
    lines: int
    frames: int
    sha256: str
    """Of the kept bytes, in frame order."""
    first_seq: int = 0
    last_seq: int = 0
    dropped_bytes: int = 0
    """Bytes beyond the quota: written by the process and not kept."""
    incomplete: bool = False
    """OUTPUT did not take every frame in time."""
    index: tuple[OutputMark, ...] = ()


class Artifact(Data, frozen=True):
    """A file that an attempt left and that is kept, in the stream OUTPUT on `out.<host_id>.artifacts`."""

    name: str
    size: int
    sha256: str
    first_seq: int
    last_seq: int
    """Its chunks are between these two sequences of OUTPUT; both 0: it is empty."""


class End(AttemptKey, frozen=True):
    """How one attempt ended. The first end of an attempt stands, for every reader."""

    outcome: Outcome
    ran: Ran
    exit_code: int | None = None
    signal: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None
    duration_ms: int | None = None
    """By the host's monotonic clock: right even when its wall clock is wrong."""
    error: str = ""
    traceback: str = ""
    tail: str = ""
    """The end of its output, masked, at most OUTPUT_TAIL_BYTES_MAX."""
    output: OutputSummary | None = None
    return_value: str | None = None
    """JSON text."""
    artifacts: tuple[Artifact, ...] = ()
    """Of a build or an export: what its rules keep after such an end."""


@event(
    "fleetlog.attempt.ended.v1", "evt.result evt.dispatch", "result-recorder dispatcher", "dispatcher", "reporter"
)
class AttemptsEnded(Data, frozen=True):
    """The only end there is: on `evt.result` an agent said so, on `evt.dispatch` the dispatcher decided it.

    A command that waits is ended by ending the attempt that it would have had next.
    """

    attempts: tuple[End, ...]
    counters: dict[str, int] = {}
