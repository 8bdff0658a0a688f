"""The past of a schedule, run again under another rule: what would have been fired, when, and what not. Pure.

People's changes are those of the log, each with the rule changed as asked; ticks are settled by the code that fires
(`fates.settle`). A run lasts as long as the run of the same tick did, else as long as they usually do. While the
scheduler was away then, it is away here. Nothing of it is stored.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

import msgspec

from fleetlog_schemas import events, schedules
from fleetlog_schemas.codec import Event
from fleetlog_schemas.events import Data
from fleetlog_schemas.fates import NEVER_MS, Due, look_ms, settle
from fleetlog_schemas.occurrences import next_tick
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.schedule_events import Rule, ScheduleRegistered, TickDecision, TicksDecided

Span = tuple[int, int]
"""From and until, in Unix milliseconds."""


class TooMany(Exception):
    """A replay has more ticks than may be replayed at once."""


class Decided(msgspec.Struct, frozen=True):
    """What became of one tick, or of several in a row, and when that was decided."""

    tick: TickDecision
    at_ms: int
    ended_ms: int = 0
    """When its run ended; 0: there is none, or it has not."""


class Past(msgspec.Struct, frozen=True):
    """What is known of one schedule in a period."""

    name: str
    changes: Sequence[Event]
    """Everything that people did to it, in the order of the log."""
    lengths_ms: Mapping[int, int]
    """How long the runs of ticks took, by the time that the rule names."""
    usual_ms: int
    """How long a run takes of which that is not known."""
    open_until_ms: Mapping[str, int] = {}
    """Runs that were open when the period began, and when each ended."""


class _Replay:
    """One schedule under way."""

    def __init__(self, past: Past, rule_of: Callable[[Rule], Rule], away: Sequence[Span], grace_ms: int, ticks_max: int) -> None:
        self._past, self._rule_of, self._away, self._grace_ms, self._ticks_max = past, rule_of, away, grace_ms, ticks_max
        self.folded = schedules.Schedules()
        self.decided: list[Decided] = []
        self.ends: list[tuple[int, str]] = []
        self._index: dict[str, int] = {}

    def begin(self, since_ms: int) -> list[Event]:
        """Fold what people did before the period, and return what they did in it."""
        name = self._past.name
        following = []
        for event in self._past.changes:
            if event.time_ms > since_ms:
                following.append(event)
            else:
                self.change(event)
        track = self.folded.tracks.get(name)
        if track is not None:
            # What was on its way then is of the period before, but for the runs that were still open.
            track.settled_ms, track.queued_ms, track.backfills = max(track.settled_ms, since_ms), 0, []
            track.periods = [one for one in track.periods if not one.until_ms or one.until_ms > since_ms]
            for task_id, until_ms in self._past.open_until_ms.items():
                track.running[task_id], self.folded.names[task_id] = since_ms, name
                heapq.heappush(self.ends, (until_ms, task_id))
        return following

    def change(self, event: Event) -> None:
        """Fold what a person did, with the rule that is asked about."""
        data = event.data
        if isinstance(data, ScheduleRegistered):
            event = msgspec.structs.replace(event, data=msgspec.structs.replace(data, rule=self._rule_of(data.rule)))
        schedules.apply(self.folded, event)

    def look_ms(self, earliest_ms: int) -> int:
        """Return when the scheduler looks next: later, when it was away at that time."""
        due_ms = max(look_ms(self.folded, self._past.name), earliest_ms)
        for from_ms, until_ms in self._away:
            if from_ms <= due_ms < until_ms:
                due_ms = until_ms
        return due_ms

    def end(self, task_id: str, now_ms: int) -> None:
        """Let a run end."""
        if task_id in self.folded.names:
            self._say(events.TasksEnded(tasks=(events.TaskEnd(task_id=task_id, outcome=Outcome.SUCCESS, counts={}),)), now_ms)
            if (index := self._index.get(task_id)) is not None:
                self.decided[index] = msgspec.structs.replace(self.decided[index], ended_ms=now_ms)

    def look(self, now_ms: int) -> bool:
        """Settle what is due, and tell whether there was anything."""
        name, folded = self._past.name, self.folded
        begun: list[str] = []

        def fire(due: Due) -> TickDecision:
            task_id = f"{due.nominal_ms}-{due.backfill_seq}"
            begun.append(task_id)
            heapq.heappush(self.ends, (now_ms + self._past.lengths_ms.get(due.nominal_ms, self._past.usual_ms), task_id))
            return TickDecision(
                name=name, outcome="fired", nominal_ms=due.nominal_ms, reason=due.reason, backfill_seq=due.backfill_seq, task_id=task_id
            )

        settled = settle(name, folded.by_name.get(name), folded.tracks[name], self._grace_ms, now_ms, fire)
        for tick in settled.ticks:
            if tick.task_id:
                self._index[tick.task_id] = len(self.decided)
            self.decided.append(Decided(tick, now_ms))
        if len(self.decided) > self._ticks_max:
            raise TooMany
        if settled.ticks:
            self._say(TicksDecided(ticks=tuple(settled.ticks)), now_ms)
        for task_id in settled.cancels:
            self.end(task_id, now_ms)
        return bool(settled.ticks)

    def is_over(self, until_ms: int) -> bool:
        """Tell whether every tick up to this time has met its fate."""
        track = self.folded.tracks.get(self._past.name)
        if track is None:
            return True
        following = (next_tick(one.rule, max(track.settled_ms, one.from_ms)) for one in track.periods)
        return not track.queued_ms and not any(tick is not None and tick.at_ms <= until_ms for tick in following)

    def _say(self, data: Data, now_ms: int) -> None:
        schedules.apply(self.folded, Event(id="", source="", data=data, time_ms=now_ms))


def replay(
    past: Past, rule_of: Callable[[Rule], Rule], since_ms: int, until_ms: int, *, away: Sequence[Span], grace_ms: int,
    ticks_max: int, now_ms: int,
) -> list[Decided]:
    """Return what would have become of a schedule's ticks later than *since_ms* and not later than *until_ms*.

    *rule_of* changes each rule that it ever had; *away* is when no scheduler was there, in order. What is not settled by
    *now_ms* is not told.

    Raises:
        TooMany: it has more than *ticks_max*.
    """
    run = _Replay(past, rule_of, away, grace_ms, ticks_max)
    changes = run.begin(since_ms)
    at_ms, position, again_ms = since_ms, 0, 0
    while True:
        change_ms = changes[position].time_ms if position < len(changes) else NEVER_MS
        end_ms = run.ends[0][0] if run.ends else NEVER_MS
        wake_ms = run.look_ms(max(at_ms, again_ms))
        following_ms = min(change_ms, end_ms, wake_ms)
        if following_ms > now_ms or (following_ms > until_ms and run.is_over(until_ms)):
            return [one for one in run.decided if one.tick.nominal_ms <= until_ms]
        at_ms = max(at_ms, following_ms)
        if end_ms == following_ms:
            run.end(heapq.heappop(run.ends)[1], at_ms)
        elif wake_ms == following_ms:
            # What is due and waits for something else than time is looked at again, but not at once.
            again_ms = 0 if run.look(at_ms) else at_ms + grace_ms
            continue
        else:
            run.change(changes[position])
            position += 1
        again_ms = 0
