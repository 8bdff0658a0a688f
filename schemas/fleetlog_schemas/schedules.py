"""Which schedules there are, in what state, and which of their ticks have met their fate: one fold for every reader.

The past of a schedule is cut into *periods*, each with one rule and either active or paused. A tick belongs to the
period that its time falls into, however late somebody looks, so a pause and a tick never cross: where the pause
stands in the log decides. A period stays until every tick in it is settled.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from fleetlog_schemas import control_events, definitions, events
from fleetlog_schemas.catalog import Catalog
from fleetlog_schemas.codec import Event
from fleetlog_schemas.occurrences import next_tick
from fleetlog_schemas.schedule_events import (
    BackfillRequested,
    Rule,
    SchedulePaused,
    ScheduleRegistered,
    ScheduleResumed,
    ScheduleStarted,
    ScheduleStopped,
    ScheduleUnregistered,
    TickDecision,
    TicksDecided,
)
from fleetlog_schemas.spec import SpecError, TaskSpec, check_spec
from fleetlog_schemas.workflows import resolved

State = Literal["active", "inactive", "paused"]
Change = (
    ScheduleRegistered | ScheduleUnregistered | ScheduleStarted | ScheduleStopped | SchedulePaused | ScheduleResumed
    | BackfillRequested
)


class Unfit(Exception):
    """A definition cannot be run as a rule says. `code` is a stable word, `pointer` (RFC 6901) names the rule's field."""

    def __init__(self, code: str, pointer: str, message: str) -> None:
        super().__init__(message)
        self.code, self.pointer = code, pointer


class Period(msgspec.Struct, frozen=True):
    """A time in which a schedule expects ticks by one rule."""

    from_ms: int
    """Ticks later than this ..."""
    until_ms: int
    """... and not later than this belong to it; 0: it goes on."""
    rule: Rule
    paused: str | None = None
    """Why its ticks are skipped; None: they are fired."""
    closed_by: str = ""
    """What ended it: `paused`, `stopped`, `changed`, `unregistered`, `resumed`."""


class Backfill(msgspec.Struct):
    """Ticks of the past that a person wants to be run, and that still have to meet their fate."""

    requested_seq: int
    by: str
    ticks: list[int]


class Schedule(msgspec.Struct):
    """One schedule that is registered."""

    name: str
    rule: Rule
    registered_seq: int
    """With the name it tells one registration from a later one: ids of tasks are made of it."""
    registered_ms: int
    registered_by: str
    changed_seq: int
    """Its version: the place in the log of the last change by a person."""
    active: bool
    paused_ms: int = 0
    paused_until_ms: int = 0
    paused_reason: str = ""

    def state(self, now_ms: int) -> State:
        """Return its state."""
        if not self.active:
            return "inactive"
        paused = self.paused_ms and not 0 < self.paused_until_ms <= now_ms
        return "paused" if paused else "active"

    def fires_after_ms(self, now_ms: int) -> int | None:
        """Return after which time it fires next: now, or the end of its pause; None when it does not, as things stand."""
        match self.state(now_ms):
            case "active":
                return now_ms
            case "paused":
                return self.paused_until_ms or None
            case "inactive":
                return None


class Track(msgspec.Struct):
    """What a name has on its way: it outlives an unregistered schedule until every expected tick is settled."""

    settled_ms: int
    """Every tick up to this time has met its fate."""
    periods: list[Period] = []
    """In order, without gaps in what is expected; only the last one may go on."""
    queued_ms: int = 0
    """The tick that waits for the end of an earlier run; 0: none does."""
    running: dict[str, int] = {}
    """Open tasks of it, and the tick that each was fired for."""
    cancelled: list[str] = []
    """Those of them that were asked to end."""
    backfills: list[Backfill] = []


class Schedules(msgspec.Struct):
    """Every schedule, and what is on its way."""

    by_name: dict[str, Schedule] = {}
    tracks: dict[str, Track] = {}
    names: dict[str, str] = {}
    """Open tasks, and the schedule of each."""

    def is_settled(self, name: str) -> bool:
        """Tell whether a name has nothing on its way."""
        track = self.tracks.get(name)
        return track is None or not (track.periods or track.queued_ms or track.backfills or track.running)


def task_of(catalog: Catalog, rule: Rule) -> TaskSpec:
    """Return the task that running a rule's definition now is.

    Raises:
        Unfit: there is no such definition, or its present version does not take the rule's parameters or target.
    """
    known = catalog.named(rule.definition)
    if known is None:
        raise Unfit("definition-removed", "/definition", f"there is no definition {rule.definition[:100]!r}")
    declared = known.definition.parameters
    secret = next((n for n, one in declared.items() if one.type == "secret" and (one.required or n in rule.parameters)), "")
    if secret:
        # Whatever a schedule has is in the log, and a secret never is.
        raise Unfit(
            "definition-unfit", f"/parameters/{secret}", f"{secret} is a secret, and a schedule cannot keep one: let the hosts"
            " read it from a file of theirs, or make it a parameter that is not required",
        )
    try:
        arguments = definitions.check_arguments(declared, rule.parameters)
        env, chosen = known.definition.spec.options.env, definitions.Chosen(target=rule.target)
        spec = definitions.task_of(known.definition, known.definition_id, known.version, arguments, env, chosen)
        spec = resolved(catalog, spec)
        check_spec(spec)
    except definitions.WrongParameters as error:
        raise Unfit("definition-unfit", error.faults[0].pointer, str(error)) from None
    except SpecError as error:
        raise Unfit("definition-unfit", error.pointer, str(error)) from None
    return spec


def apply(schedules: Schedules, event: Event) -> tuple[str, ...]:
    """Fold one event and return the names of the schedules that it touched."""
    match event.data:
        case TicksDecided(ticks=ticks):
            for tick in ticks:
                _decided(schedules, tick)
            touched = tuple(dict.fromkeys(tick.name for tick in ticks))
        case events.TasksEnded(tasks=ended):
            touched = _ended(schedules, [one.task_id for one in ended])
        case events.TasksRefused(refusals=refusals):
            touched = _ended(schedules, [one.task_id for one in refusals])
        case control_events.CancelRequested(task_id=task_id, host_ids=()) if task_id in schedules.names:
            track = schedules.tracks[schedules.names[task_id]]
            if task_id not in track.cancelled:
                track.cancelled.append(task_id)
            return ()
        case ScheduleRegistered():
            _registered(schedules, event, event.data)
            touched = (event.data.name,)
        case (
            ScheduleUnregistered(name=name) | ScheduleStarted(name=name) | ScheduleStopped(name=name)
            | SchedulePaused(name=name) | ScheduleResumed(name=name) | BackfillRequested(name=name)
        ):
            schedule = schedules.by_name.get(name)
            if schedule is None:
                return ()
            schedule.changed_seq = event.seq
            _changed(schedules, schedule, event)
            touched = (name,)
        case _:
            return ()
    for name in touched:
        _tidy(schedules, name, event.time_ms)
    return touched


def _registered(schedules: Schedules, event: Event, data: ScheduleRegistered) -> None:
    now_ms = event.time_ms
    track = schedules.tracks.setdefault(data.name, Track(settled_ms=now_ms))
    schedule = schedules.by_name.get(data.name)
    if schedule is None:
        schedules.by_name[data.name] = Schedule(
            name=data.name, rule=data.rule, registered_seq=event.seq, registered_ms=now_ms,
            registered_by=event.authid or "", changed_seq=event.seq, active=data.active,
        )
        if data.active:
            track.periods.append(Period(from_ms=now_ms, until_ms=0, rule=data.rule))
        return
    following = [period for period in track.periods if not period.until_ms or period.until_ms > now_ms]
    _cut(track, now_ms, "changed")
    for period in following:
        begins_ms = max(period.from_ms, now_ms)
        track.periods.append(msgspec.structs.replace(period, from_ms=begins_ms, rule=data.rule))
    schedule.rule, schedule.registered_by, schedule.changed_seq = data.rule, event.authid or "", event.seq


def _changed(schedules: Schedules, schedule: Schedule, event: Event) -> None:
    now_ms = event.time_ms
    track = schedules.tracks.setdefault(schedule.name, Track(settled_ms=now_ms))
    match event.data:
        case ScheduleUnregistered():
            _cut(track, now_ms, "unregistered")
            del schedules.by_name[schedule.name]
        case ScheduleStopped() if schedule.active:
            _cut(track, now_ms, "stopped")
            schedule.active = False
            schedule.paused_ms = schedule.paused_until_ms = 0
        case ScheduleStarted() if not schedule.active:
            schedule.active = True
            track.periods.append(Period(from_ms=now_ms, until_ms=0, rule=schedule.rule))
        case SchedulePaused(reason=reason, until_ms=until_ms) if schedule.active:
            _cut(track, now_ms, "paused")
            track.periods.append(Period(now_ms, max(until_ms, now_ms) if until_ms else 0, schedule.rule, reason, "resumed"))
            if until_ms:
                track.periods.append(Period(max(until_ms, now_ms), 0, schedule.rule))
            schedule.paused_ms, schedule.paused_until_ms, schedule.paused_reason = now_ms, until_ms, reason
        case ScheduleResumed() if schedule.state(now_ms) == "paused":
            _cut(track, now_ms, "resumed")
            track.periods.append(Period(from_ms=now_ms, until_ms=0, rule=schedule.rule))
            schedule.paused_ms = schedule.paused_until_ms = 0
        case BackfillRequested(ticks=ticks) if schedule.active:
            track.backfills.append(Backfill(event.seq, event.authid or "", list(ticks)))


def _cut(track: Track, now_ms: int, closed_by: str) -> None:
    """End what goes on; what would begin later does not."""
    track.periods = [
        period if period.until_ms and period.until_ms <= now_ms
        else msgspec.structs.replace(period, until_ms=now_ms, closed_by=closed_by)
        for period in track.periods if period.from_ms < now_ms or (period.until_ms and period.until_ms <= now_ms)
    ]


def _decided(schedules: Schedules, tick: TickDecision) -> None:
    track = schedules.tracks.get(tick.name)
    if track is None:
        return
    if tick.outcome == "fired" and tick.task_id:
        track.running[tick.task_id] = tick.nominal_ms
        schedules.names[tick.task_id] = tick.name
    if tick.backfill_seq:
        for backfill in track.backfills:
            if backfill.requested_seq == tick.backfill_seq and tick.nominal_ms in backfill.ticks:
                backfill.ticks.remove(tick.nominal_ms)
        track.backfills = [backfill for backfill in track.backfills if backfill.ticks]
        return
    if tick.outcome == "queued":
        track.queued_ms = tick.nominal_ms
    elif track.queued_ms == tick.nominal_ms:
        track.queued_ms = 0
    track.settled_ms = max(track.settled_ms, tick.nominal_ms, tick.until_ms)


def _ended(schedules: Schedules, task_ids: list[str]) -> tuple[str, ...]:
    touched = []
    for task_id in task_ids:
        name = schedules.names.pop(task_id, None)
        if name is not None:
            track = schedules.tracks[name]
            track.running.pop(task_id, None)
            track.cancelled = [one for one in track.cancelled if one != task_id]
            touched.append(name)
    return tuple(dict.fromkeys(touched))


def _tidy(schedules: Schedules, name: str, now_ms: int) -> None:
    """Forget periods that are over and have no tick that must still meet its fate, and names with nothing on their way.

    One that goes on is kept even without a tick, as a pause until some time may be: another rule may have one in it.
    """
    track = schedules.tracks.get(name)
    if track is None:
        return
    while track.periods and 0 < track.periods[0].until_ms <= now_ms:
        period = track.periods[0]
        tick = next_tick(period.rule, max(track.settled_ms, period.from_ms))
        if tick is not None and tick.at_ms <= period.until_ms:
            break
        del track.periods[0]
    if name not in schedules.by_name and schedules.is_settled(name):
        del schedules.tracks[name]
