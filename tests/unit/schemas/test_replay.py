"""The past under another rule: with its own it is as it was, and with another as that rule would have made it."""

from __future__ import annotations

import random
from collections.abc import Mapping

import msgspec
import pytest

from fleetlog_schemas import events
from fleetlog_schemas.replay import Decided, Past, Span, TooMany, replay
from fleetlog_schemas.schedule_events import (
    BackfillRequested,
    Rule,
    SchedulePaused,
    SchedulePolicy,
    ScheduleResumed,
    TicksDecided,
)
from fleetlog_schemas.what_if import LOAD_BUCKETS, RuleChange, changed, side
from fleetlog_testing.scheduling import Scheduling, at

BEGIN = at("2026-05-04T08:00:00")
SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
GRACE = MINUTE


class Story:
    """A past that is made by the real scheduler: runs end when they should, people act, and nobody is there for a while."""

    def __init__(self, length_ms: int = MINUTE) -> None:
        self.world, self.length_ms = Scheduling(BEGIN), length_ms
        self.ends: dict[str, int] = {}
        self.away: list[Span] = []

    def until(self, until_ms: int) -> None:
        while self.world.now_ms < until_ms:
            for one in self.world.tasks():
                self.ends.setdefault(one.task_id, self.world.now_ms + self.length_ms)
            is_open = set(self.world.open_tasks())
            following = min((end for one, end in self.ends.items() if one in is_open), default=until_ms)
            wake = min((one.wake_at_ms for one in self.world.instances if one.wake_at_ms is not None), default=until_ms)
            self.world.now_ms = max(self.world.now_ms, min(following, wake, until_ms))
            over = [one for one in is_open if self.ends[one] <= self.world.now_ms]
            if over:
                self.world.end(*over)
            else:
                self.world.settle()
                if wake <= self.world.now_ms < until_ms and not set(self.world.open_tasks()) - set(self.ends):
                    self.world.now_ms += 1

    def absent(self, until_ms: int) -> None:
        self.away.append((self.world.now_ms, until_ms))
        self.world.kill()
        self.until(until_ms)
        self.world.lead()
        self.world.settle()

    def past(self) -> Past:
        changes = [event for event in self.world.log if event.subject == events.SCHEDULE]
        return Past("s", changes, {}, self.length_ms)

    def again(self, **change: object) -> list[Decided]:
        asked = msgspec.convert(change, RuleChange)
        return replay(
            self.past(), lambda rule: changed(rule, asked), BEGIN, self.world.now_ms, away=self.away, grace_ms=GRACE,
            ticks_max=1_000, now_ms=self.world.now_ms,
        )

    def ledger(self) -> list[tuple[int, str, str, int, int]]:
        return [
            (tick.nominal_ms, tick.outcome, tick.reason, tick.count, event.time_ms)
            for event in self.world.log if isinstance(event.data, TicksDecided) for tick in event.data.ticks
        ]


def told(decided: list[Decided]) -> list[tuple[int, str, str, int, int]]:
    return [(one.tick.nominal_ms, one.tick.outcome, one.tick.reason, one.tick.count, one.at_ms) for one in decided]


@pytest.mark.parametrize("seed", range(60))
def test_replayed_under_its_own_rule_a_past_is_as_it_was(seed: int) -> None:
    chance = random.Random(seed)
    story = Story(length_ms=chance.choice((10 * SECOND, 7 * MINUTE, 23 * MINUTE)))
    policy: Mapping[str, object] = {
        "overlap": chance.choice(("allow", "skip", "queue-one", "cancel-running")), "misfire": chance.choice(("latest", "skip", "all")),
        "misfire_runs_max": chance.choice((1, 3)), "jitter_ms": chance.choice((0, 0, 90 * SECOND)),
    }
    story.world.register(cron=chance.choice(("*/10 * * * *", "5,20 * * * *", "* 12 * * *")), zone="Europe/Berlin", **policy)
    for _ in range(6):
        story.until(story.world.now_ms + chance.randint(1, 3 * HOUR))
        match chance.choice(("pause", "backfill", "absent")):
            case "pause":
                story.world.say(SchedulePaused(name="s", reason="wait"))
                story.until(story.world.now_ms + chance.randint(1, HOUR))
                story.world.say(ScheduleResumed(name="s"))
            case "backfill":
                ticks = tuple(BEGIN - number * HOUR for number in range(1, 4))
                story.world.say(BackfillRequested(name="s", ticks=ticks))
            case _:
                story.absent(story.world.now_ms + chance.randint(1, 2 * HOUR))
    story.until(story.world.now_ms + HOUR)
    ledger = story.ledger()
    assert any(outcome == "fired" for _, outcome, *_ in ledger)
    assert told(story.again()) == ledger


def test_another_policy_says_what_of_an_absence_would_have_been_caught_up() -> None:
    story = Story()
    story.world.register(cron="*/10 * * * *")
    story.until(BEGIN + HOUR)
    story.absent(BEGIN + 2 * HOUR + MINUTE)
    story.until(BEGIN + 3 * HOUR)
    assert [one[1:4] for one in story.ledger() if one[2] == "late"] == [("missed", "late", 5)]
    again = story.again(misfire="all", overlap="allow")
    late = [one for one in again if one.tick.reason == "late"]
    assert [(one.tick.outcome, one.at_ms) for one in late] == [("fired", BEGIN + 2 * HOUR + MINUTE)] * 6


def test_runs_last_as_the_run_of_the_same_tick_did_and_overlaps_follow_from_it() -> None:
    story = Story(length_ms=25 * MINUTE)
    story.world.register(cron="*/10 * * * *", overlap="skip")
    story.until(BEGIN + 2 * HOUR)
    was = [Decided(tick, event.time_ms, event.time_ms + 25 * MINUTE) for event in story.world.log
           if isinstance(event.data, TicksDecided) for tick in event.data.ticks]
    weighed = side(was, [], BEGIN, story.world.now_ms)
    allowed = side(story.again(overlap="allow"), [], BEGIN, story.world.now_ms)
    queued = side(story.again(overlap="queue-one"), [], BEGIN, story.world.now_ms)
    cancelled = side(story.again(overlap="cancel-running"), [], BEGIN, story.world.now_ms)
    slower = side(story.again(interval_ms=30 * MINUTE), [], BEGIN, story.world.now_ms)
    assert (weighed.fired, weighed.skipped, weighed.peak) == (4, 8, 1)
    assert (allowed.fired, allowed.skipped, allowed.peak) == (12, 0, 3)
    assert (cancelled.fired, cancelled.peak) == (12, 1)
    assert queued.fired > weighed.fired
    assert queued.peak == 1
    assert (queued.delay_max_ms or 0) >= 5 * MINUTE
    assert (slower.fired, slower.skipped, slower.reasons) == (4, 0, {})
    assert len(allowed.load) == LOAD_BUCKETS
    assert max(allowed.load) == 3
    assert allowed.busy_seconds == pytest.approx((9 * 25 + 20 + 10) * 60)


def test_what_was_open_when_the_period_began_stands_in_the_way() -> None:
    story = Story()
    story.world.register(cron="*/10 * * * *", overlap="skip")
    story.until(BEGIN + 2 * HOUR)
    past = msgspec.structs.replace(story.past(), open_until_ms={"t": BEGIN + 75 * MINUTE})
    found = replay(past, lambda rule: rule, BEGIN + HOUR, BEGIN + 2 * HOUR, away=(), grace_ms=GRACE, ticks_max=100, now_ms=BEGIN + 3 * HOUR)
    assert [(one.tick.outcome, (one.tick.nominal_ms - BEGIN) // MINUTE) for one in found] == [
        ("skipped", 70), *(("fired", minute) for minute in (80, 90, 100, 110, 120)),
    ]


def test_too_many_ticks_are_told_and_not_counted() -> None:
    story = Story()
    story.world.register(cron="*/10 * * * *")
    story.until(BEGIN + 2 * HOUR)
    with pytest.raises(TooMany):
        replay(story.past(), lambda rule: rule, BEGIN, BEGIN + 2 * HOUR, away=(), grace_ms=GRACE, ticks_max=5, now_ms=BEGIN + 2 * HOUR)


def test_a_change_touches_only_what_it_names() -> None:
    rule = Rule(definition="d", kind="once", begins_ms=BEGIN, policy=SchedulePolicy(overlap="allow", jitter_ms=5))
    assert changed(rule, RuleChange()) == rule
    assert changed(rule, RuleChange(zone="Europe/Berlin")) == rule, "a zone is of a cron expression"
    other = changed(rule, RuleChange(cron="@daily", zone="Europe/Berlin", misfire="all"))
    assert (other.kind, other.cron, other.zone, other.begins_ms) == ("cron", "@daily", "Europe/Berlin", 0)
    assert other.policy == SchedulePolicy(overlap="allow", jitter_ms=5, misfire="all")
