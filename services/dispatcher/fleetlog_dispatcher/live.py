"""What the dispatcher knows beside the log: who is there, what was sent, what is due. Lost at a restart, and rebuilt.

Only `observe.py` changes it. Whatever is concluded from it becomes an event first. The dictionaries here are work
lists that follow from the folded state: `decide` reads them, and an entry leaves when the state says that it is done
or the effect was performed.
"""

from __future__ import annotations

import msgspec

from fleetlog_dispatcher import queues
from fleetlog_dispatcher.queues import Queues, Shares
from fleetlog_dispatcher.state import State
from fleetlog_runtime.pure.effects import Request
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import reports
from fleetlog_schemas.policies import Closed
from fleetlog_schemas.records import Attempt, AttemptState, Command, CommandState, Task, TaskState
from fleetlog_schemas.reports import HeldState
from fleetlog_schemas.spec import Function
from fleetlog_schemas.targets import Directory

Key = tuple[str, int]
"""Task id and attempt number; the host is known from where the key stands."""

SWEEP_MS = 1_000
"""How often deadlines, silences and unanswered pushes are looked at: coarse, for none of them is shorter."""
REQUESTS_WAITING_MAX = 20_000
"""Session requests and questions kept at once; those beyond it are dropped and asked again by their authors."""


class Presence(msgspec.Struct):
    """What the last heartbeat of a host said."""

    heard_ms: int
    epoch: int = 0
    counter: int = 0
    newest_seq: int = 0
    held: dict[Key, HeldState] = {}
    load: reports.Load | None = None
    """None: its session was opened, and no heartbeat of it was heard yet."""
    spool_full: bool = False
    goodbye: bool = False
    opened_here: bool = False
    """Its session was opened while this dispatcher led, so every push of the session is known here."""


class Flight(msgspec.Struct):
    """An attempt that was dispatched and has not ended, as far as it is known."""

    task: Task
    command: Command
    attempt: Attempt
    seen_held: bool = False
    confirmed_ms: int = 0
    """When it was first known that the host has it."""
    pushed_ms: int = 0
    pushes: int = 0
    pushed_epoch: int = 0
    cancelled_ms: int = 0
    cancels: int = 0


class Limit(msgspec.Struct):
    """How many commands a host takes at once now, where that is less than it could be."""

    slots: int
    changed_ms: int
    why: str = ""


class Calls(msgspec.Struct):
    """The calls of functions of a host."""

    in_flight: int = 0
    took_ms: float | None = None
    """The time of the last ones, the newest counting most; None: it is not known yet."""


class PendingOpen(msgspec.Struct, frozen=True):
    """A session request that waits for its event, or for its answer."""

    request: reports.OpenSession
    reply: str
    counter: int
    """The highest journal counter of the host that was folded when the request was heard."""


class Live(msgspec.Struct):
    """Everything that is not in the log."""

    led_ms: int
    presence: dict[str, Presence] = {}
    flights: dict[str, dict[Key, Flight]] = {}
    """By host id."""
    queues: Queues = msgspec.field(default_factory=Queues)
    shares: Shares = msgspec.field(default_factory=Shares)
    limits: dict[str, Limit] = {}
    """By host id, of hosts that are or were busy; any other takes as many as it has slots."""
    calls: dict[str, Calls] = {}
    """By host id, of hosts that were given calls."""
    directory: Directory | None = None
    """The hosts as targets mean them; None when that has changed, until a decision needs them."""
    closed: dict[str, Closed] = {}
    """By host id: why policies let nothing be dispatched there now."""
    closed_stale: bool = True
    steered: bool = False
    """Something happened that may let commands of limited tasks go: to a task, to a host where some wait, or by time."""
    steered_next: bool = False
    """The same, since this look began."""
    budgeted: dict[str, Task] = {}
    """Open tasks with a rollout or a failure budget."""
    keys: dict[str, dict[str, Task]] = {}
    """By key: planned tasks that have not ended."""
    open: dict[str, Task] = {}
    """Planned tasks with commands that have not ended."""
    workflows: dict[str, Task] = {}
    """Planned workflows that have not ended."""
    workflows_due: dict[str, None] = {}
    """Those that something happened to since the last look: a part ended, a person let it go on."""
    workflows_next: dict[str, None] = {}
    """The same, since this look began."""
    fresh: dict[str, dict[Key, Flight]] = {}
    """Flights to be pushed now."""
    cancels: dict[str, dict[Key, Flight | None]] = {}
    forgets: dict[str, dict[Key, None]] = {}
    forgetting: dict[str, None] = {}
    """Hosts whose forgets are due: there are many, or a sweep came by."""
    to_plan: dict[str, Task] = {}
    to_end: dict[str, Task] = {}
    stopped: dict[str, Task] = {}
    """Tasks with a stop, while commands of theirs may still wait."""
    timed: dict[str, Task] = {}
    """Open tasks that have a task timeout."""
    opens: dict[str, PendingOpen] = {}
    outdated: dict[str, None] = {}
    """Hosts that somebody speaks for in another session: told the present epoch, they ask, and the ticket tells who."""
    came: dict[str, None] = {}
    left: dict[str, None] = {}
    """Hosts whose heartbeat calls for `online`, and hosts that said goodbye."""
    open_hosts: dict[str, str] = {}
    """Reply subject of a pending session request to its host."""
    touched: dict[str, None] = {}
    """Hosts where something may have become possible or due since the last look: a command came or ended, the host
    changed or was heard. A sweep looks at all hosts; between two sweeps only these are looked at, once each."""
    touched_next: dict[str, None] = {}
    """Those touched since this look began."""
    heard: dict[str, None] = {}
    """Hosts that said something, or of which the log did, since the last look: between two sweeps, what is in flight there can
    have come to an end for no other reason."""
    heard_next: dict[str, None] = {}
    questions: dict[str, Request] = {}
    """By reply subject."""
    next_sweep_ms: int = 0
    sweep: bool = True
    """This decide looks at everything that time alone makes due."""


def awaken(settings: DispatcherSettings, state: State, now_ms: int) -> Live:
    """Return the live state of a dispatcher that takes over: every host gets its full grace again."""
    live = Live(led_ms=now_ms, next_sweep_ms=now_ms)
    for host in state.hosts.by_id.values():
        if host.online:
            live.presence[host.host_id] = Presence(heard_ms=now_ms)
    for task in state.tasks.by_id.values():
        if task.state is TaskState.SUBMITTED:
            live.to_plan[task.task_id] = task
        elif task.state is TaskState.PLANNED:
            take_up(settings, live, task, now_ms)
    return live


def take_up(settings: DispatcherSettings, live: Live, task: Task, now_ms: int) -> None:
    """Enter a planned task into the work lists."""
    if task.parts:
        live.workflows[task.task_id] = task
        live.workflows_next[task.task_id] = None
    else:
        live.open[task.task_id] = task
    if task.spec.rollout or task.spec.failures_max:
        live.budgeted[task.task_id] = task
    if task.spec.key:
        live.keys.setdefault(task.spec.key, {})[task.task_id] = task
    if task.spec.task_timeout_ms:
        live.timed[task.task_id] = task
    if task.stop or any(command.stop for command in task.commands.values()):
        live.stopped[task.task_id] = task
    if not task.open:
        live.to_end[task.task_id] = task
    for command in task.commands.values():
        if command.state is CommandState.WAITING:
            wait(settings, live, task, command, now_ms)
        elif command.state is not CommandState.ENDED:
            attempt = command.attempts[-1]
            flight = Flight(task, command, attempt)
            if attempt.state is AttemptState.RUNNING:
                flight.seen_held, flight.confirmed_ms = True, now_ms
            take_off(live, flight)


def take_off(live: Live, flight: Flight) -> None:
    """Count an attempt among what its host has."""
    task, host_id = flight.task, flight.command.host_id
    live.flights.setdefault(host_id, {})[task.task_id, flight.attempt.number] = flight
    live.shares.add(task, 1)
    if isinstance(task.spec.payload, Function):
        live.calls.setdefault(host_id, Calls()).in_flight += 1


def landed(live: Live, host_id: str, key: Key) -> bool:
    """Count it no more; tell whether it was."""
    flight = drop(live.flights, host_id, key)
    if flight is None:
        return False
    live.shares.add(flight.task, -1)
    if isinstance(flight.task.spec.payload, Function):
        live.calls[host_id].in_flight -= 1
    return True


def drop(work: dict[str, dict[Key, Flight]], host_id: str, key: Key) -> Flight | None:
    """Take an attempt out of a work list, and its host when it was the last."""
    entries = work.get(host_id)
    if entries is None:
        return None
    gone = entries.pop(key, None)
    if not entries:
        del work[host_id]
    return gone


def wait(settings: DispatcherSettings, live: Live, task: Task, command: Command, now_ms: int) -> None:
    """Let a command wait, and look at its host."""
    queues.add(live.queues, task, command, now_ms, settings.ageing_ms)
    live.touched_next[command.host_id] = None


def put_away(live: Live, task: Task) -> None:
    """Take a task that has ended out of the work lists."""
    for work in (live.to_plan, live.to_end, live.stopped, live.timed, live.open, live.budgeted, live.workflows):
        work.pop(task.task_id, None)
    of_key = live.keys.get(task.spec.key)
    if of_key is not None:
        of_key.pop(task.task_id, None)
        live.workflows_next.update(dict.fromkeys(of_key.keys() & live.workflows.keys()))
        if not of_key:
            del live.keys[task.spec.key]


def backoff_ms(settings: DispatcherSettings, sent: int) -> int:
    """Return how long to wait before a push that was sent *sent* times is sent again."""
    return min(settings.resend_ms << min(max(sent - 1, 0), 20), settings.resend_ms_max)
