"""What the gateway asks the dispatcher: what a plan would do, why commands wait, what narrows admission.

As with `questions.py`, every answer travels in an `Answer`, and these shapes are the API's.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleetlog_schemas import policies
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.questions import Problem, Typical
from fleetlog_schemas.spec import TaskSpec
from fleetlog_schemas.targets import Directory


class PlanQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`plan`, to the dispatcher: what submitting this would do now. Answer: PlanAnswer."""

    spec: TaskSpec


class WaitingQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`waiting`, to the dispatcher: why commands of an open task have not ended. Answer: list of WaitingGroup."""

    task_id: str


class AdmissionQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`admission`, to the dispatcher: what narrows admission now. Answer: AdmissionAnswer."""


class PlannedView(msgspec.Struct, frozen=True):
    """A host in a plan."""

    host_id: str
    name: str
    presence: str
    maintenance: bool
    would: str
    """`run`, `wait`, `be unreached`, or `be an error`: its agent does not know what is asked for."""
    wave: int = 1
    reason: str = ""
    """Why it would not run at once."""


class Difference(msgspec.Struct, frozen=True):
    """How a plan differs from the last task that ran the same."""

    task_id: str
    submitted_at: str
    outcome: str | None
    hosts_added: str
    """Folded names."""
    hosts_removed: str
    fields: dict[str, list[Any]]
    """Fields of the specification that differ: path (`retry.attempts_max`) to the earlier and the present value."""


class PlannedPart(msgspec.Struct, frozen=True):
    """A part of a workflow in a plan."""

    name: str
    rank: int
    """From 1: those of one rank can run beside each other."""
    after: list[str]
    when: str
    runs: str
    target: str
    hosts: int
    """On how many hosts it would run now; 0 when that cannot be told, as `problem` says."""
    for_each: str = ""
    """The list for which it runs, in words."""
    problem: str = ""
    too_old: list[str] = []
    """Of these hosts, which of them cannot run it and why: their agents do not know what it asks for, or do not return what others take."""


class PlanAnswer(msgspec.Struct, frozen=True):
    """What submitting would do; `problem` when it would be refused."""

    plan_hash: str
    hosts: list[PlannedView]
    """In the order of the waves."""
    offline: int
    problem: Problem | None = None
    runs: str = ""
    """What each host would run, in one line."""
    waves: list[int] = []
    """Hosts of each wave."""
    candidates: int = 0
    """Hosts that the target means; with `choose`, more than are planned."""
    failures_max: int | None = None
    parts: list[PlannedPart] = []
    """Of a workflow, in the order in which they can run; it has no hosts itself."""
    lock: str = ""
    """What a single run would meet: an earlier task with the same key, and what becomes of which."""
    difference: Difference | None = None
    """Filled in by the gateway; null also when the reporter does not answer, or nothing ran the same before."""


class FreezeView(msgspec.Struct, frozen=True):
    """A freeze in force."""

    freeze_id: str
    target: str
    reason: str
    by: str
    since: str
    hosts: int


class WindowView(msgspec.Struct, frozen=True):
    """A window in force."""

    name: str
    kind: str
    target: str
    days: tuple[int, ...]
    begins: str
    lasts_minutes: int
    zone: str
    reason: str
    by: str
    hosts: int
    open: bool
    open_until: str | None
    opens_at: str | None


class QueueView(msgspec.Struct, frozen=True):
    """A queue that has a limit, or something in it."""

    queue: str
    in_flight_max: int
    """0: no limit."""
    in_flight: int
    waiting: int


class HostLimit(msgspec.Struct, frozen=True):
    """A host whose limit was lowered because it is busy."""

    host_id: str
    name: str
    slots: int
    slots_max: int
    in_flight: int
    why: str


class AdmissionAnswer(msgspec.Struct, frozen=True):
    """What narrows admission now."""

    in_flight: int
    in_flight_max: int
    waiting: int
    freezes: list[FreezeView]
    windows: list[WindowView]
    queues: list[QueueView]
    busy: list[HostLimit]


class WaitingGroup(msgspec.Struct, frozen=True):
    """Commands that wait for the same thing."""

    state: str
    reason: str
    """A stable word. Of the host: host-offline, host-suspect, host-revoked, refused-host, maintenance, freeze, window,
    slot, load. Of the task: planning, paused, halted, wave, soak, approval, lock, parallel, backoff. Of what tasks share:
    key, queue, system, priority. Of a workflow's part: after. In flight: delivery, running, stopping. `dispatch`: it goes out now."""
    message: str
    hosts: str
    """Folded names."""
    count: int
    since: str | None
    typical: Typical | None = None
    """Of running commands: how long the same took before. Filled in by the gateway."""
    part: str = ""
    """Of a workflow: which part; it has no hosts itself."""


def freeze_view(freeze: policies.Freeze, hosts: Directory) -> FreezeView:
    """Return the view of a freeze, with how many of *hosts* it means."""
    return FreezeView(
        freeze_id=freeze.freeze_id, target=freeze.target, reason=freeze.reason, by=freeze.by,
        since=rfc3339(freeze.since_ms), hosts=len(policies.meant(freeze.target, hosts)),
    )


def window_view(named: policies.NamedWindow, hosts: Directory, now_ms: int) -> WindowView:
    """Return the view of a window, with whether it is open and when it opens next."""
    window = named.window
    until_ms, opens_ms = policies.open_until_ms(window, now_ms), policies.opens_ms(window, now_ms)
    return WindowView(
        name=named.name, kind=window.kind, target=window.target, days=window.days, begins=window.begins,
        lasts_minutes=window.lasts_minutes, zone=window.zone, reason=named.reason, by=named.by,
        hosts=len(policies.meant(window.target, hosts)), open=bool(until_ms),
        open_until=rfc3339(until_ms) if until_ms else None, opens_at=rfc3339(opens_ms) if opens_ms else None,
    )
