"""The fate of ticks: which are fired, which are missed, skipped or have to wait, and why. Pure; by the schedule's policy.

The scheduler decides by it, and a replay of the past (`replay.py`) too. Ticks are settled in order. Several in a row
with the same fate are one entry of the ledger, so that a year's absence costs a line and not a million.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence

import msgspec

from fleetlog_schemas import limits, policies
from fleetlog_schemas.occurrences import LATEST_MS, last_tick, next_tick, ticks
from fleetlog_schemas.policy_events import Window
from fleetlog_schemas.schedule_events import Rule, TickDecision
from fleetlog_schemas.schedules import Period, Schedule, Schedules, Track

NEVER_MS = LATEST_MS + 1

TICKS_COUNTED_MAX = 10_000
"""Ticks that are counted one by one; of a longer absence the ledger says `more`. A cron of seconds has as many in three hours."""
WINDOW_PIECES_MAX = 400
"""Times in which windows are open, or closed, of so long an absence: half a year of one window a day."""

CANCELS_MAX = 500
"""Runs that one schedule cancels at once, the oldest; the rest is asked to end with the next tick."""


class Due(msgspec.Struct, frozen=True):
    """A tick that is to be fired, if nothing else stands against it."""

    nominal_ms: int
    reason: str = ""
    """Why it is fired later than its time."""
    backfill_seq: int = 0


Fate = TickDecision | Due


class Settled(msgspec.Struct):
    """What a look at one schedule comes to."""

    ticks: list[TickDecision] = []
    cancels: list[str] = []
    """Tasks that are asked to end, because the schedule runs again."""


def jitter_ms(rule: Rule, name: str, nominal_ms: int) -> int:
    """Return by how much a tick is fired later: the same for the same tick, whoever asks."""
    if not rule.policy.jitter_ms:
        return 0
    digest = hashlib.sha256(f"{name}\0{nominal_ms}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (rule.policy.jitter_ms + 1)


def look_ms(schedules: Schedules, name: str) -> int:
    """Return when a schedule has to be looked at: 0 is at once, NEVER_MS only after its next change."""
    track = schedules.tracks.get(name)
    if track is None:
        return NEVER_MS
    schedule = schedules.by_name.get(name)
    if (track.queued_ms or track.backfills) and (schedule is None or not schedule.active):
        return 0
    if sum(len(one.ticks) for one in track.backfills) > limits.BACKFILL_WAITING_MAX:
        return 0
    look = NEVER_MS
    if schedule is not None and (track.queued_ms or track.backfills):
        overlaps = schedule.rule.policy.overlap == "allow" and not track.queued_ms
        if overlaps or not track.running:
            look = schedule.paused_until_ms if schedule.paused_ms else 0
            look = look or (NEVER_MS if schedule.paused_ms else 0)
    for period in track.periods:
        tick = next_tick(period.rule, max(track.settled_ms, period.from_ms))
        if tick is None or (period.until_ms and tick.at_ms > period.until_ms):
            continue
        if period.paused is None:
            return min(look, tick.at_ms + jitter_ms(period.rule, name, tick.at_ms))
        if period.until_ms:
            return min(look, period.until_ms)  # what is skipped meanwhile is told at the end of the pause
    return look


def settle(
    name: str, schedule: Schedule | None, track: Track, grace_ms: int, now_ms: int, fire: Callable[[Due], TickDecision]
) -> Settled:
    """Return what becomes of every tick that can be settled now, with the runs that are still open in mind.

    *fire* makes the run of a tick: its decision names the task, or says why there is none.
    """
    settled = Settled()
    running = list(track.running)
    queued = bool(track.queued_ms)
    for fate in fates(name, schedule, track, grace_ms, now_ms):
        queued = queued and fate.nominal_ms != track.queued_ms
        if isinstance(fate, TickDecision):
            settled.ticks.append(fate)
            continue
        assert schedule is not None
        overlap = schedule.rule.policy.overlap
        if running and fate.backfill_seq and overlap != "allow":
            break  # one after the other, as the runs end
        if running and not fate.backfill_seq and overlap in ("skip", "queue-one"):
            waits = overlap == "queue-one" and not queued
            settled.ticks.append(
                TickDecision(name=name, outcome="queued" if waits else "skipped", nominal_ms=fate.nominal_ms, reason="overlap")
            )
            queued = queued or waits
            continue
        decision = fire(fate)
        settled.ticks.append(decision)
        if decision.task_id:
            if overlap == "cancel-running":
                settled.cancels += [one for one in running if one not in track.cancelled][:CANCELS_MAX]
                running.clear()
            running.append(decision.task_id)
    return settled


def fates(name: str, schedule: Schedule | None, track: Track, grace_ms: int, now_ms: int) -> Iterator[Fate]:
    """Yield what is to become of every tick of a schedule that can be settled now, in order.

    A tick is late when the next one has come, or when it is looked at *grace_ms* after it should have been fired.
    """
    if track.queued_ms:
        yield from _queued(name, schedule, track, now_ms)
    for period in track.periods:
        after_ms = max(track.settled_ms, period.from_ms)
        if period.until_ms and period.until_ms <= now_ms:
            outcome, reason, message = _closed(period)
            yield from _run(name, period.rule, after_ms, period.until_ms, outcome, reason, message)
        elif period.paused is None and after_ms < now_ms:
            yield from _open(name, period.rule, after_ms, grace_ms, now_ms)
    yield from _backfilled(name, schedule, track, now_ms)


def _backfilled(name: str, schedule: Schedule | None, track: Track, now_ms: int) -> Iterator[Fate]:
    ended = "unregistered" if schedule is None else "" if schedule.active else "stopped"
    room = limits.BACKFILL_WAITING_MAX
    for backfill in () if ended else track.backfills:
        for at_ms in backfill.ticks[max(0, room) :]:
            yield TickDecision(
                name=name, outcome="skipped", nominal_ms=at_ms, reason="backfills-waiting", backfill_seq=backfill.requested_seq,
                message=f"{limits.BACKFILL_WAITING_MAX} ticks of earlier backfills still waited: ask again when they have run",
            )
        room -= len(backfill.ticks)
    room = limits.BACKFILL_WAITING_MAX
    for backfill in track.backfills:
        for at_ms in backfill.ticks if ended else backfill.ticks[: max(0, room)]:
            if ended:
                yield TickDecision(name=name, outcome="skipped", nominal_ms=at_ms, reason=ended, backfill_seq=backfill.requested_seq)
            elif schedule is not None and schedule.state(now_ms) == "active":
                yield Due(at_ms, "backfill", backfill.requested_seq)
        room -= len(backfill.ticks)


def _queued(name: str, schedule: Schedule | None, track: Track, now_ms: int) -> Iterator[Fate]:
    if schedule is None or not schedule.active:
        reason = "unregistered" if schedule is None else "stopped"
        yield TickDecision(name=name, outcome="skipped", nominal_ms=track.queued_ms, reason=reason)
    elif schedule.state(now_ms) == "active" and not track.running:
        if now_ms - track.queued_ms > schedule.rule.policy.misfire_window_ms:
            yield TickDecision(
                name=name, outcome="missed", nominal_ms=track.queued_ms, reason="late",
                message="the earlier run did not end in time",
            )
        else:
            yield Due(track.queued_ms, "overlap")


def _closed(period: Period) -> tuple[str, str, str]:
    if period.paused is not None:
        return "skipped", "paused", period.paused
    return "missed", period.closed_by, f"the schedule was {period.closed_by} before it was fired"


def _open(name: str, rule: Rule, after_ms: int, grace_ms: int, now_ms: int) -> Iterator[Fate]:
    """Yield the fates of the ticks of a period that goes on."""
    policy = rule.policy
    due = []
    for tick in itertools.islice(ticks(rule, after_ms, now_ms), TICKS_COUNTED_MAX + 1):
        if tick.at_ms + jitter_ms(rule, name, tick.at_ms) > now_ms:
            break
        due.append(tick.at_ms)
    if len(due) > TICKS_COUNTED_MAX:
        # Too many to look at: all but those of the last while are beyond what any policy would fire.
        recent_ms = _begin_of_recent(rule, now_ms)
        yield from _of_long_ago(name, rule, after_ms, recent_ms)
        due = [tick.at_ms for tick in ticks(rule, recent_ms, now_ms)]
    # Whatever another tick has followed is late, however soon: a cron of seconds does not fire in bursts.
    in_time = bool(due) and due[-1] + jitter_ms(rule, name, due[-1]) + grace_ms >= now_ms
    late, on_time = (due[:-1], due[-1:]) if in_time else (due, [])
    expected, on_time = ([at_ms for at_ms in some if _is_within(policy.windows, at_ms)] for some in (late, on_time))
    caught_up: list[int] = []
    if policy.misfire == "latest" and not on_time:
        caught_up = expected[-1:]
    elif policy.misfire == "all":
        caught_up = expected[-policy.misfire_runs_max :]
    caught_up = [at_ms for at_ms in caught_up if now_ms - at_ms <= policy.misfire_window_ms]
    fired = {**dict.fromkeys(caught_up, "late"), **dict.fromkeys(on_time, "")}

    def fate_of(at_ms: int) -> tuple[str, str]:
        if not _is_within(policy.windows, at_ms):
            return "skipped", "window"
        return ("fired", fired[at_ms]) if at_ms in fired else ("missed", "late")

    for (outcome, reason), group in itertools.groupby(due, fate_of):
        if outcome == "fired":
            yield from (Due(at_ms, reason) for at_ms in group)
        else:
            yield from _as_one(name, outcome, reason, list(group))


def _of_long_ago(name: str, rule: Rule, after_ms: int, until_ms: int) -> Iterator[TickDecision]:
    """Yield the fates of ticks that are too many to look at, by the times in which the schedule's windows were open."""
    left = TICKS_COUNTED_MAX
    for number, (from_ms, to_ms, is_open) in enumerate(_pieces(rule.policy.windows, after_ms, until_ms)):
        if number == WINDOW_PIECES_MAX:
            message = "so long ago that windows were not looked at"
            yield from _run(name, rule, from_ms, until_ms, "missed", "late", message, max(1, left))
            return
        outcome, reason = ("missed", "late") if is_open else ("skipped", "window")
        for told in _run(name, rule, from_ms, to_ms, outcome, reason, "", max(1, left)):
            left -= told.count
            yield told


def _pieces(windows: Sequence[Window], after_ms: int, until_ms: int) -> Iterator[tuple[int, int, bool]]:
    """Yield the pieces of a time in which a window is open, or none is: after when, until when, and which of both."""
    while after_ms < until_ms:
        at_ms, to_ms = after_ms + 1, until_ms
        is_open = _is_within(windows, at_ms)
        if windows:
            ends = [policies.open_until_ms(window, at_ms) if is_open else policies.opens_ms(window, at_ms) for window in windows]
            known = [one for one in ends if one]
            to_ms = min(until_ms, (max(known) if is_open else min(known, default=until_ms + 1)) - 1)
        yield after_ms, to_ms, is_open
        after_ms = to_ms


def _is_within(windows: Sequence[Window], at_ms: int) -> bool:
    """Tell whether a tick may be fired at all; what is outside of every window was never expected, so nobody missed it."""
    return not windows or any(policies.open_until_ms(window, at_ms) for window in windows)


def _begin_of_recent(rule: Rule, now_ms: int) -> int:
    """Return a time from which on there are at most as many ticks as may be looked at, and at least one."""
    newest = last_tick(rule, 0, now_ms)
    assert newest is not None
    # No rule has more than one tick in a second.
    return newest.at_ms - TICKS_COUNTED_MAX * 1000


def _run(
    name: str, rule: Rule, after_ms: int, until_ms: int, outcome: str, reason: str, message: str, counted_max: int = TICKS_COUNTED_MAX
) -> Iterator[TickDecision]:
    """Yield one entry for all ticks of a time; none when there is none."""
    counted = [tick.at_ms for tick in itertools.islice(ticks(rule, after_ms, until_ms), counted_max + 1)]
    more = len(counted) > counted_max
    if more:
        newest = last_tick(rule, after_ms, until_ms)
        assert newest is not None
        counted[-1] = newest.at_ms
    yield from _as_one(name, outcome, reason, counted, message=message, more=more)


def _as_one(
    name: str, outcome: str, reason: str, at_ms: Sequence[int], *, message: str = "", more: bool = False
) -> Iterator[TickDecision]:
    if at_ms:
        yield msgspec.convert(
            {
                "name": name, "outcome": outcome, "nominal_ms": at_ms[0], "until_ms": at_ms[-1] if len(at_ms) > 1 else 0,
                "count": len(at_ms), "reason": reason, "message": message, "more": more,
            },
            TickDecision,
        )
