"""The stored events of schedules: what is to be run when, and what became of every expected time.

Part of the format that `events.py` begins, by the same rules. People's changes stand on `evt.schedule`, written by
the gateway; what the scheduler made of each tick stands on `evt.tick`, in one batch with the tasks that it submits.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from fleetlog_schemas.events import SCHEDULE, TICK, Data, event
from fleetlog_schemas.policy_events import Window

DAY_MS = 86_400_000


class SchedulePolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is done where the plain rule does not say it."""

    misfire: Literal["latest", "skip", "all"] = "latest"
    """What becomes of ticks whose time passed while nobody fired them: the latest is fired, none, or all."""
    misfire_window_ms: int = DAY_MS
    """Ticks that are later than this are never fired."""
    misfire_runs_max: int = 10
    """With `all`: at most so many are fired, the newest."""
    overlap: Literal["allow", "skip", "queue-one", "cancel-running"] = "skip"
    """What is done when an earlier run is still open."""
    gap: Literal["auto", "run-after", "skip"] = "auto"
    """For a time of day that does not exist, because clocks go forward: fire when they have, or not at all.
    `auto`: not at all when the hour is `*`, for the next one is as far off as ever; else when they have."""
    fold: Literal["auto", "first", "second", "both"] = "auto"
    """For a time of day that comes twice, because clocks go back. `auto`: both when the hour is `*`, else the first."""
    jitter_ms: int = 0
    """Each tick is fired up to this much later, always by the same amount for the same tick."""
    windows: tuple[Window, ...] = ()
    """Ticks outside all of these times of the week are skipped; none: there is no such limit."""


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """When a definition is to be run."""

    definition: str
    """The name of the definition; its newest version is run."""
    kind: Literal["manual", "cron", "interval", "once"] = "manual"
    cron: str = ""
    """Five fields (minute, hour, day, month, weekday), six with seconds first, or a word such as `@daily`."""
    zone: str = "UTC"
    """The IANA name of the time zone whose wall clock `cron` goes by."""
    interval_ms: int = 0
    begins_ms: int = 0
    """`once`: the time. `interval`: a point of the grid; the first tick is not before it. `cron`: not before it."""
    ends_ms: int = 0
    """No tick after this; 0: it goes on for ever."""
    policy: SchedulePolicy = SchedulePolicy()
    parameters: dict[str, str | int | float | bool | list[str]] = {}
    target: str = ""
    """Instead of the definition's own target."""


@event("fleetlog.schedule.registered.v1", SCHEDULE, "gateway", "scheduler", "reporter", "gateway")
class ScheduleRegistered(Data, frozen=True):
    """A schedule was made, or its rule was changed; a change keeps its state."""

    name: str
    rule: Rule
    active: bool = True
    """The state of a new schedule: active, or inactive until it is started."""
    reason: str = ""


@event("fleetlog.schedule.unregistered.v1", SCHEDULE, "gateway", "scheduler", "reporter", "gateway")
class ScheduleUnregistered(Data, frozen=True):
    """A schedule is no more. Its ticks and tasks keep their past."""

    name: str
    reason: str = ""


@event("fleetlog.schedule.started.v1", SCHEDULE, "gateway", "scheduler", "reporter", "gateway")
class ScheduleStarted(Data, frozen=True):
    """An inactive schedule is active from here on."""

    name: str
    reason: str = ""


@event("fleetlog.schedule.stopped.v1", SCHEDULE, "gateway", "scheduler", "reporter", "gateway")
class ScheduleStopped(Data, frozen=True):
    """A schedule expects no ticks from here on."""

    name: str
    reason: str = ""


@event("fleetlog.schedule.paused.v1", SCHEDULE, "gateway", "scheduler", "reporter", "gateway")
class SchedulePaused(Data, frozen=True):
    """Ticks from here on are skipped, and the ledger says so, until it is resumed or `until_ms`."""

    name: str
    reason: str
    until_ms: int = 0
    """It resumes by itself at this time; 0: only by a person."""


@event("fleetlog.schedule.resumed.v1", SCHEDULE, "gateway", "scheduler", "reporter", "gateway")
class ScheduleResumed(Data, frozen=True):
    """A paused schedule fires again."""

    name: str
    reason: str = ""


@event("fleetlog.schedule.backfill-requested.v1", SCHEDULE, "gateway", "scheduler", "reporter", "gateway")
class BackfillRequested(Data, frozen=True):
    """A person wants ticks of the past to be run now; which, was settled when it was asked for."""

    name: str
    ticks: tuple[int, ...]
    """Their times, in order."""
    reason: str = ""


class TickDecision(Data, frozen=True):
    """What became of one tick, or of several in a row that met the same fate."""

    name: str
    outcome: Literal["fired", "missed", "skipped", "queued"]
    """`queued` is the one that is not final: the same tick is fired, missed or skipped later."""
    nominal_ms: int
    """The time that the rule names; of several, the first."""
    until_ms: int = 0
    """Of several, the last; 0: there is one."""
    count: int = 1
    more: bool = False
    """There were more than could be counted."""
    reason: str = ""
    """Why it was not fired at its time: a stable word (`late`, `paused`, `overlap` ...); see the glossary."""
    message: str = ""
    """The same for people, where the word does not say it all."""
    task_id: str = ""
    """The task that was submitted for it."""
    version: int = 0
    """The definition's version that is run."""
    backfill_seq: int = 0
    """The place in the log of the backfill that it belongs to: the ledger has the tick's first fate already."""


@event("fleetlog.tick.decided.v1", TICK, "scheduler", "scheduler", "reporter", "gateway")
class TicksDecided(Data, frozen=True):
    """The fate of ticks; those fired stand in one batch with the submission of their tasks."""

    ticks: tuple[TickDecision, ...]
