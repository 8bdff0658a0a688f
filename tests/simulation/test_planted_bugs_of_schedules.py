"""The same for schedules: each way to fire wrongly is planted once, and an invariant must notice it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from fleetlog_scheduler import decide
from fleetlog_scheduler.live import Live
from fleetlog_scheduler.state import State
from fleetlog_scheduler.unit import Scheduler
from fleetlog_schemas import fates, occurrences, policies, schedules
from fleetlog_schemas.codec import Event
from fleetlog_schemas.schedule_events import SchedulePaused, TickDecision
from fleetlog_schemas.schedules import Schedules
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.scenario import simulate

SEEDS_MAX = 400
"""Seeds tried before a planted bug counts as unnoticed."""


def forget_the_fence_of_changes(patch: pytest.MonkeyPatch) -> None:
    """Store what was decided although a change by a person came first."""
    patch.setattr(Scheduler, "fences", ())


def fire_again_after_a_takeover(patch: pytest.MonkeyPatch) -> None:
    """Forget, with each takeover, what was settled in the last while."""
    original = Scheduler.awaken

    def awaken(self: Scheduler, state: State, now_ms: int) -> Live:
        for track in state.schedules.tracks.values():
            track.settled_ms -= 60_000
        return original(self, state, now_ms)

    patch.setattr(Scheduler, "awaken", awaken)


def drop_a_misfire(patch: pytest.MonkeyPatch) -> None:
    """Say nothing of ticks that are missed."""
    original = fates._as_one

    def as_one(name: str, outcome: str, *rest: Any, **named: Any) -> Iterator[TickDecision]:
        if outcome != "missed":
            yield from original(name, outcome, *rest, **named)

    patch.setattr(fates, "_as_one", as_one)


def ignore_a_pause(patch: pytest.MonkeyPatch) -> None:
    """Fire as if nobody had paused."""
    original = schedules.apply

    def apply(folded: Schedules, event: Event) -> tuple[str, ...]:
        return () if isinstance(event.data, SchedulePaused) else original(folded, event)

    patch.setattr(schedules, "apply", apply)


def submit_without_a_fate(patch: pytest.MonkeyPatch) -> None:
    """Leave fired ticks out of the ledger."""
    original = decide._fired

    def fired(*given: Any) -> Any:
        decision, submission = original(*given)
        return msgspec.structs.replace(decision, outcome="skipped"), submission

    patch.setattr(decide, "_fired", fired)


def run_beside_an_earlier_run(patch: pytest.MonkeyPatch) -> None:
    """Forget, now and then, what still runs."""
    original = decide.settle

    def settle(name: str, schedule: Any, track: Any, *rest: Any) -> Any:
        return original(name, schedule, msgspec.structs.replace(track, running={}), *rest)

    patch.setattr(decide, "settle", settle)


def leave_what_was_to_make_room(patch: pytest.MonkeyPatch) -> None:
    """Fire with `cancel-running` and cancel nothing."""
    patch.setattr(decide, "_cancels", lambda _task_ids, _name: [])


def forget_what_waits(patch: pytest.MonkeyPatch) -> None:
    """Let a tick wait for ever."""
    patch.setattr(fates, "_queued", lambda *_given: iter(()))


def backfill_again(patch: pytest.MonkeyPatch) -> None:
    """Forget that a tick of a backfill has its fate."""
    original = schedules._decided

    def decided(folded: Schedules, tick: TickDecision) -> None:
        if tick.backfill_seq and tick.outcome == "fired":
            folded.tracks[tick.name].running[tick.task_id] = tick.nominal_ms
            folded.names[tick.task_id] = tick.name
            return
        original(folded, tick)

    patch.setattr(schedules, "_decided", decided)


def fire_both_times_whatever_the_policy(patch: pytest.MonkeyPatch) -> None:
    """Take a time that comes twice for two."""
    original = occurrences._in_piece
    patch.setattr(occurrences, "_in_piece", lambda text, gap, _fold, *rest: original(text, gap, "both", *rest))


def lose_what_does_not_exist(patch: pytest.MonkeyPatch) -> None:
    """Drop a time that clocks jump over, although the policy runs it after."""
    original = occurrences._in_piece
    patch.setattr(occurrences, "_in_piece", lambda text, _gap, *rest: original(text, "skip", *rest))


def take_every_clock_for_utc(patch: pytest.MonkeyPatch) -> None:
    """Forget the zone."""
    original = occurrences.zone_of
    patch.setattr(occurrences, "zone_of", lambda _name: original("UTC"))
    # What was computed by the right zones is kept otherwise, and would hide it; this copy is dropped with the bug.
    patch.setattr(occurrences, "_changes_of", functools.lru_cache(occurrences._changes_of.__wrapped__))


def miss_what_no_window_allows(patch: pytest.MonkeyPatch) -> None:
    """Call a tick missed that was never to be fired."""
    original = fates._as_one

    def as_one(name: str, outcome: str, reason: str, *rest: Any, **named: Any) -> Iterator[TickDecision]:
        if reason == "window":
            outcome, reason = "missed", "late"
        yield from original(name, outcome, reason, *rest, **named)

    patch.setattr(fates, "_as_one", as_one)


def fire_outside_of_windows(patch: pytest.MonkeyPatch) -> None:
    """Take every window for open."""
    patch.setattr(policies, "open_until_ms", lambda _window, _now_ms: 1)


@pytest.mark.parametrize(
    ("bug", "says"),
    [
        (forget_the_fence_of_changes, "when it was|second fate"), (fire_again_after_a_takeover, "second fate"),
        (drop_a_misfire, "ticks without a fate"), (ignore_a_pause, "when it was paused"),
        (submit_without_a_fate, "what fired is not what was submitted"),
        (run_beside_an_earlier_run, "was fired beside"), (leave_what_was_to_make_room, "that nobody cancelled"),
        (forget_what_waits, "a second tick of .* waits|still waiting|without a fate|does not come to an end"),
        (backfill_again, "nobody asked for it, or it was already"),
        (fire_both_times_whatever_the_policy, "not expected|no rule names so many"),
        (lose_what_does_not_exist, "ticks without a fate|no rule names so many"), (take_every_clock_for_utc, "not expected|no rule names"),
        (fire_outside_of_windows, "its window was closed"), (miss_what_no_window_allows, "was late and missed, and its window was closed"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_a_planted_bug_is_noticed(bug: Callable[[pytest.MonkeyPatch], None], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    for seed in range(SEEDS_MAX):
        try:
            simulate(seed)
        except Violation as violation:
            if re.search(says, str(violation)):
                return
    pytest.fail(f"{SEEDS_MAX} seeds did not notice: {bug.__doc__}")
