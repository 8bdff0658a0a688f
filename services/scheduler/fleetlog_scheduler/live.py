"""When each schedule has to be looked at next: an index over the folded state, made anew by whoever takes over."""

from __future__ import annotations

import bisect
import hashlib

import msgspec

from fleetlog_schemas.occurrences import LATEST_MS, next_tick
from fleetlog_schemas.schedule_events import Rule
from fleetlog_schemas.schedules import Schedules

NEVER_MS = LATEST_MS + 1


class Live(msgspec.Struct):
    """What the active scheduler keeps beside the fold."""

    due: list[tuple[int, str]] = []
    """When to look at which schedule, soonest first."""
    due_ms: dict[str, int] = {}

    def put(self, name: str, due_ms: int) -> None:
        """Look at a schedule at this time instead of the one so far."""
        former_ms = self.due_ms.pop(name, None)
        if former_ms is not None:
            del self.due[bisect.bisect_left(self.due, (former_ms, name))]
        if due_ms < NEVER_MS:
            bisect.insort(self.due, (due_ms, name))
            self.due_ms[name] = due_ms


def jitter_ms(rule: Rule, name: str, nominal_ms: int) -> int:
    """Return by how much a tick is fired later: the same for the same tick, whoever asks."""
    if not rule.policy.jitter_ms:
        return 0
    digest = hashlib.sha256(f"{name}\0{nominal_ms}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % (rule.policy.jitter_ms + 1)


def awaken(schedules: Schedules) -> Live:
    """Return the index of a scheduler that takes over."""
    live = Live()
    found = [(look_ms(schedules, name), name) for name in schedules.tracks]
    live.due = sorted(one for one in found if one[0] < NEVER_MS)
    live.due_ms = {name: due_ms for due_ms, name in live.due}
    return live


def look_ms(schedules: Schedules, name: str) -> int:
    """Return when a schedule has to be looked at: 0 is at once, NEVER_MS only after its next change."""
    track = schedules.tracks.get(name)
    if track is None:
        return NEVER_MS
    schedule = schedules.by_name.get(name)
    if (track.queued_ms or track.backfills) and (schedule is None or not schedule.active):
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
