"""What becomes of ticks: policies, pauses, absence, two schedulers, and what cannot be run."""

from __future__ import annotations

import itertools

import pytest

from fleetlog_schemas import control_events, events, ids, limits
from fleetlog_schemas.definitions import Parameter
from fleetlog_schemas.policy_events import Window
from fleetlog_schemas.schedule_events import (
    BackfillRequested,
    SchedulePaused,
    ScheduleResumed,
    ScheduleStarted,
    ScheduleStopped,
    ScheduleUnregistered,
)
from fleetlog_testing.scheduling import Scheduling, at

BEGIN = at("2026-05-04T08:00:00")
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


@pytest.fixture
def world() -> Scheduling:
    return Scheduling(BEGIN)


def test_a_tick_fires_a_task_of_the_definitions_newest_version(world: Scheduling) -> None:
    world.register(cron="*/10 * * * *")
    world.define("cleanup", version=2)
    world.pass_until(BEGIN + 10 * MINUTE)
    (tick,) = world.ledger()
    (task,) = world.tasks()
    assert (tick.outcome, tick.nominal_ms, tick.version, tick.reason) == ("fired", BEGIN + 10 * MINUTE, 2, "")
    assert (task.schedule, task.nominal_ms, task.task_id) == ("s", tick.nominal_ms, tick.task_id)
    assert task.spec.definition is not None
    assert (task.spec.definition.name, task.spec.definition.version, task.spec.target) == ("cleanup", 2, "all")
    assert ids.is_made(task.task_id)
    assert ids.id_ms(task.task_id) == tick.nominal_ms


def test_nothing_fires_before_its_time_and_jitter_is_the_same_for_everybody(world: Scheduling) -> None:
    world.register(cron="0 * * * *", jitter_ms=5 * MINUTE)
    world.pass_until(BEGIN + HOUR - 1)
    assert world.ledger() == []
    world.pass_until(BEGIN + HOUR + 5 * MINUTE)
    (event,) = [event for event in world.log if event.subject == events.TICK]
    delay = event.time_ms - (BEGIN + HOUR)
    assert 0 < delay <= 5 * MINUTE
    other = Scheduling(BEGIN)
    other.register(cron="0 * * * *", jitter_ms=5 * MINUTE)
    other.pass_until(BEGIN + HOUR + 5 * MINUTE)
    assert [e.time_ms for e in other.log if e.subject == events.TICK] == [event.time_ms]


@pytest.mark.parametrize(
    ("policy", "fates"),
    [
        ({}, [("missed", 5, "late"), ("fired", 1, "late")]),
        ({"misfire": "skip"}, [("missed", 6, "late")]),
        ({"misfire": "all", "overlap": "allow"}, [("fired", 1, "late")] * 6),
        ({"misfire": "all", "overlap": "allow", "misfire_runs_max": 2}, [("missed", 4, "late"), *[("fired", 1, "late")] * 2]),
        ({"misfire": "all", "overlap": "allow", "misfire_window_ms": 2 * HOUR}, [("missed", 4, "late"), *[("fired", 1, "late")] * 2]),
        ({"misfire_window_ms": MINUTE}, [("missed", 6, "late")]),
    ],
)
def test_after_an_absence_the_policy_says_what_is_caught_up(world: Scheduling, policy: dict[str, object], fates: list[object]) -> None:
    world.register(cron="0 * * * *", **policy)
    world.kill()
    world.pass_until(BEGIN + 6 * HOUR + 30 * MINUTE)
    world.lead()
    world.settle()
    assert world.fates() == fates
    world.agree()


def test_a_years_absence_is_a_line_of_the_ledger(world: Scheduling) -> None:
    world.register(cron="* * * * * *")
    world.kill()
    world.pass_until(BEGIN + 365 * DAY)
    world.lead()
    world.settle()
    ledger = world.ledger()
    assert [tick.outcome for tick in ledger] == ["missed", "missed", "fired"]
    assert ledger[0].more, "it says that there were more than it counted"
    assert ledger[-1].nominal_ms == BEGIN + 365 * DAY


def test_of_a_long_absence_what_was_outside_of_every_window_was_not_missed(world: Scheduling) -> None:
    window = Window(kind="maintenance", target="", days=tuple(range(7)), begins="09:00", lasts_minutes=60)
    world.register(cron="* * * * * *", windows=(window,))
    world.kill()
    world.pass_until(BEGIN + 30 * DAY)
    world.lead()
    world.settle()
    ledger = world.ledger()
    assert {(tick.outcome, tick.reason) for tick in ledger} == {("missed", "late"), ("skipped", "window")}
    assert sum(tick.outcome == "missed" for tick in ledger) == 30, "one line for each day"
    for tick in ledger:
        first, last = tick.nominal_ms, tick.until_ms or tick.nominal_ms
        assert all((9 * HOUR <= at_ms % DAY < 10 * HOUR) == (tick.outcome == "missed") for at_ms in (first, last)), tick
        assert tick.more or tick.count == (last - first) // 1000 + 1
    covered = [(tick.nominal_ms, tick.until_ms or tick.nominal_ms) for tick in ledger]
    assert all(later[0] == earlier[1] + 1000 for earlier, later in itertools.pairwise(covered)), "each tick has one fate"


def test_ticks_of_a_pause_are_skipped_and_told_when_it_is_over(world: Scheduling) -> None:
    world.register(cron="0 * * * *")
    world.say(SchedulePaused(name="s", reason="the move"))
    world.pass_until(BEGIN + 3 * HOUR + MINUTE)
    assert world.ledger() == []
    world.say(ScheduleResumed(name="s"))
    world.pass_until(BEGIN + 4 * HOUR)
    (skipped, fired) = world.ledger()
    assert (skipped.outcome, skipped.count, skipped.reason, skipped.message) == ("skipped", 3, "paused", "the move")
    assert (fired.outcome, fired.nominal_ms) == ("fired", BEGIN + 4 * HOUR)


def test_a_pause_ends_by_itself_at_its_time(world: Scheduling) -> None:
    world.register(cron="0 * * * *")
    world.say(SchedulePaused(name="s", reason="the move", until_ms=BEGIN + 2 * HOUR + MINUTE))
    world.pass_until(BEGIN + 3 * HOUR)
    assert world.fates() == [("skipped", 2, "paused"), ("fired", 1, "")]
    assert world.instances[0].state.schedules.by_name["s"].state(world.now_ms) == "active"


def test_a_rule_that_changes_within_a_pause_with_an_end_has_its_ticks_there_skipped(world: Scheduling) -> None:
    world.register(cron="0 0 * * *")
    world.say(SchedulePaused(name="s", reason="the move", until_ms=BEGIN + 3 * HOUR + MINUTE))
    world.pass_until(BEGIN + HOUR + MINUTE)
    world.register(cron="0 * * * *")
    world.pass_until(BEGIN + 4 * HOUR)
    assert world.fates() == [("skipped", 2, "paused"), ("fired", 1, "")]


def test_an_hour_that_a_clock_goes_back_fires_nothing_again_and_expects_nothing_twice(world: Scheduling) -> None:
    world.register(cron="*/10 * * * *", overlap="allow")
    world.pass_until(BEGIN + 2 * HOUR)
    world.kill()
    world.now_ms = BEGIN + HOUR
    world.lead()
    world.pass_until(BEGIN + 90 * MINUTE)
    world.say(SchedulePaused(name="s", reason="the clock was set"))
    world.pass_until(BEGIN + 2 * HOUR + 20 * MINUTE)
    world.say(ScheduleResumed(name="s"))
    world.pass_until(BEGIN + 3 * HOUR)
    assert world.fired() == [BEGIN + n * 10 * MINUTE for n in (*range(1, 13), *range(15, 19))]
    assert world.fates()[12] == ("skipped", 2, "paused")
    world.agree()


def test_hours_that_a_clock_jumps_over_are_late(world: Scheduling) -> None:
    world.register(cron="0 * * * *")
    world.pass_until(BEGIN + HOUR)
    world.end(*world.open_tasks())
    world.kill()
    world.now_ms += 5 * HOUR + 2 * MINUTE
    world.lead()
    world.settle()
    assert world.fates() == [("fired", 1, ""), ("missed", 4, "late"), ("fired", 1, "late")]


def test_a_pause_that_comes_first_in_the_log_stops_a_tick_that_was_already_decided(world: Scheduling) -> None:
    world.register(cron="0 * * * *")
    world.now_ms = BEGIN + HOUR
    (engine,) = world.instances
    decided = world.decide(engine)
    assert decided is not None
    world.say(SchedulePaused(name="s", reason="stop"), settle=False)
    assert not world.store(decided), "the fence on the schedules' subject refuses it"
    engine.append_refused(len(world.log))
    world.settle()
    assert world.tasks() == []
    assert world.fates() == [("missed", 1, "paused")]


def test_a_tick_that_comes_first_is_fired_and_the_pause_holds_from_then_on(world: Scheduling) -> None:
    world.register(cron="0 * * * *")
    world.pass_until(BEGIN + HOUR)
    world.say(SchedulePaused(name="s", reason="stop"))
    world.pass_until(BEGIN + 3 * HOUR)
    assert world.fired() == [BEGIN + HOUR]


def test_two_schedulers_that_both_lead_fire_each_tick_once(world: Scheduling) -> None:
    for number in range(20):
        world.register(f"s{number}", cron="*/5 * * * *", overlap="allow")
    world.lead()
    for _ in range(12):
        world.now_ms += 5 * MINUTE
        first, second = (world.decide(engine) for engine in world.instances)
        assert first is not None
        assert second is not None
        assert world.store(second)
        assert not world.store(first)
        world.instances[0].append_refused(len(world.log))
        world.settle()
    for number in range(20):
        assert world.fired(f"s{number}") == [BEGIN + n * 5 * MINUTE for n in range(1, 13)]
    world.agree()


@pytest.mark.parametrize(
    ("overlap", "fates", "cancelled"),
    [
        ("allow", [("fired", 1, "")] * 3, 0),
        ("skip", [("fired", 1, ""), ("skipped", 1, "overlap"), ("skipped", 1, "overlap")], 0),
        ("queue-one", [("fired", 1, ""), ("queued", 1, "overlap"), ("skipped", 1, "overlap")], 0),
        ("cancel-running", [("fired", 1, "")] * 3, 2),
    ],
)
def test_what_is_done_while_an_earlier_run_is_open(world: Scheduling, overlap: str, fates: list[object], cancelled: int) -> None:
    world.register(cron="0 * * * *", overlap=overlap)
    world.pass_until(BEGIN + 3 * HOUR)
    assert world.fates() == fates
    assert sum(isinstance(event.data, control_events.CancelRequested) for event in world.log) == cancelled


def test_a_queued_tick_is_fired_when_the_earlier_run_ends(world: Scheduling) -> None:
    world.register(cron="0 * * * *", overlap="queue-one")
    world.pass_until(BEGIN + 2 * HOUR + MINUTE)
    world.end(*world.open_tasks())
    assert world.fates() == [("fired", 1, ""), ("queued", 1, "overlap"), ("fired", 1, "overlap")]
    assert world.fired() == [BEGIN + HOUR, BEGIN + 2 * HOUR]
    world.pass_until(BEGIN + 3 * HOUR)
    assert world.fates()[-1] == ("queued", 1, "overlap")


def test_a_queued_tick_that_waited_too_long_is_missed(world: Scheduling) -> None:
    world.register(cron="0 * * * *", overlap="queue-one", misfire_window_ms=10 * MINUTE, ends_ms=BEGIN + 2 * HOUR)
    world.pass_until(BEGIN + 3 * HOUR)
    world.end(*world.open_tasks())
    assert world.fates()[-1] == ("missed", 1, "late")


def test_a_queued_tick_of_a_schedule_that_is_no_more_is_skipped(world: Scheduling) -> None:
    world.register(cron="0 * * * *", overlap="queue-one")
    world.pass_until(BEGIN + 2 * HOUR)
    world.say(ScheduleUnregistered(name="s"))
    assert world.fates()[-1] == ("skipped", 1, "unregistered")
    world.end(*world.open_tasks())
    state = world.instances[0].state.schedules
    assert (state.by_name, state.tracks, state.names) == ({}, {}, {}), "nothing of it is kept in memory"


def test_ticks_that_nobody_fired_before_a_change_are_missed_by_the_old_rule(world: Scheduling) -> None:
    world.register(cron="0 * * * *")
    world.kill()
    world.now_ms = BEGIN + 2 * HOUR + MINUTE
    world.register(cron="30 * * * *")
    world.now_ms = BEGIN + 3 * HOUR
    world.lead()
    world.settle()
    assert world.fates() == [("missed", 2, "changed"), ("fired", 1, "late")]
    assert world.fired() == [BEGIN + 2 * HOUR + 30 * MINUTE]


def test_an_inactive_schedule_expects_nothing(world: Scheduling) -> None:
    world.register(cron="0 * * * *", active=False)
    world.pass_until(BEGIN + 2 * HOUR)
    world.say(ScheduleStarted(name="s"))
    world.pass_until(BEGIN + 3 * HOUR)
    world.say(ScheduleStopped(name="s"))
    world.pass_until(BEGIN + 6 * HOUR)
    assert world.fates() == [("fired", 1, "")]


def test_ticks_outside_their_windows_are_skipped(world: Scheduling) -> None:
    window = {"kind": "maintenance", "target": "", "days": (0,), "begins": "09:00", "lasts_minutes": 60}
    world.register(cron="0 * * * *", windows=(window,))
    world.pass_until(BEGIN + 3 * HOUR)
    assert world.fates() == [("fired", 1, ""), ("skipped", 1, "window"), ("skipped", 1, "window")]


@pytest.mark.parametrize(
    ("misfire", "late"), [("latest", [("missed", 1), ("fired", 1)]), ("skip", [("missed", 2)]), ("all", [("fired", 1), ("fired", 1)])]
)
def test_after_an_absence_ticks_outside_their_windows_are_not_missed_and_the_latest_within_is_caught_up(
    world: Scheduling, misfire: str, late: list[tuple[str, int]]
) -> None:
    window = {"kind": "maintenance", "target": "", "days": (0,), "begins": "10:00", "lasts_minutes": 120}
    world.register(cron="0 * * * *", windows=(window,), misfire=misfire, overlap="allow")
    world.kill()
    world.now_ms = BEGIN + 6 * HOUR + 30 * MINUTE
    world.lead()
    world.settle()
    within = [(outcome, count, "late") for outcome, count in late]
    assert world.fates() == [("skipped", 1, "window"), *within, ("skipped", 3, "window")]
    assert world.fired() == [BEGIN + hour * HOUR for hour in ({"latest": [3], "skip": [], "all": [2, 3]}[misfire])]
    world.agree()


def test_what_cannot_be_run_is_skipped_and_says_why(world: Scheduling) -> None:
    world.define("strict", days=Parameter(type="integer", required=True))
    world.register("no-days", definition="strict", cron="0 * * * *")
    world.register("nothing", definition="strange", cron="0 * * * *")
    world.register("good", definition="strict", cron="0 * * * *", parameters={"days": 3})
    world.pass_until(BEGIN + HOUR)
    (unfit,), (gone,), (good,) = world.ledger("no-days"), world.ledger("nothing"), world.ledger("good")
    assert (unfit.outcome, unfit.reason) == ("skipped", "definition-unfit")
    assert "days is required" in unfit.message
    assert (gone.outcome, gone.reason) == ("skipped", "definition-removed")
    assert good.outcome == "fired"
    assert world.tasks()[0].spec.definition is not None
    assert world.tasks()[0].spec.definition.parameters == {"days": 3}


def test_a_backfill_runs_the_ticks_it_names_one_after_the_other(world: Scheduling) -> None:
    world.register(cron="0 8 * * *")
    days = tuple(BEGIN - n * DAY for n in (3, 2, 1))
    world.say(BackfillRequested(name="s", ticks=days))
    for number in range(1, 4):
        assert len(world.tasks()) == number
        world.end(*world.open_tasks())
    assert world.fired() == list(days)
    assert all(tick.backfill_seq and tick.reason == "backfill" for tick in world.ledger())
    world.say(BackfillRequested(name="s", ticks=days[:1]))
    assert len({task.task_id for task in world.tasks()}) == 4, "a second backfill of a tick is a run of its own"
    world.agree()


@pytest.mark.parametrize(("end", "reason"), [(ScheduleStopped(name="s"), "stopped"), (ScheduleUnregistered(name="s"), "unregistered")])
def test_what_is_left_of_a_backfill_when_its_schedule_ends_is_skipped_and_told(world: Scheduling, end: events.Data, reason: str) -> None:
    world.register(cron="0 8 * * *")
    world.say(BackfillRequested(name="s", ticks=tuple(BEGIN - n * DAY for n in (3, 2, 1))))
    world.say(end)
    assert world.fates() == [("fired", 1, "backfill"), ("skipped", 1, reason), ("skipped", 1, reason)]


def test_a_decision_about_large_tasks_is_cut_so_that_every_tick_has_its_task(world: Scheduling) -> None:
    world.define("large", text=Parameter(default="x" * 15_000, type="string"))
    world.kill()
    for number in range(1_200):
        world.register(f"s{number:04}", definition="large", cron="0 9 * * *")
    world.lead()
    world.pass_until(BEGIN + HOUR)
    assert len(world.tasks()) == 1_200
    ends = [event for event in world.log if event.batch_end and event.subject == events.REQUEST]
    assert len(ends) == 2, "18 MB of tasks are two decisions"
    world.agree()


def test_a_backfill_whose_runs_may_overlap_is_submitted_at_once(world: Scheduling) -> None:
    world.register(cron="0 8 * * *", overlap="allow")
    world.say(BackfillRequested(name="s", ticks=tuple(BEGIN - n * DAY for n in (3, 2, 1))))
    assert len(world.tasks()) == 3


def test_a_run_that_was_refused_is_over(world: Scheduling) -> None:
    world.register(cron="0 * * * *")
    world.pass_until(BEGIN + HOUR)
    (task_id,) = world.open_tasks()
    world.say(events.TasksRefused(refusals=(events.Refusal(task_id=task_id, code="no-hosts", message=""),)))
    world.pass_until(BEGIN + 2 * HOUR)
    assert world.fates() == [("fired", 1, ""), ("fired", 1, "")]


def test_ten_thousand_schedules_of_one_second_are_each_fired_once(world: Scheduling) -> None:
    world.kill()
    for number in range(10_000):
        world.register(f"s{number:05}", cron="0 9 * * *")
    world.lead()
    world.pass_until(BEGIN + HOUR)
    assert len(world.tasks()) == len({task.task_id for task in world.tasks()}) == 10_000
    assert {task.nominal_ms for task in world.tasks()} == {BEGIN + HOUR}
    world.now_ms += 1
    world.settle()
    assert len(world.tasks()) == 10_000


def test_a_tick_that_comes_soon_is_woken_for_although_the_last_look_decided_nothing(world: Scheduling) -> None:
    world.register(cron="* * * * *")
    world.pass_until(BEGIN + MINUTE - 10_000)
    world.decide(world.instances[0])
    assert world.instances[0].wake_at_ms == BEGIN + MINUTE


def test_backfills_that_wait_have_a_limit_and_the_ledger_says_so(world: Scheduling, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BACKFILL_WAITING_MAX", 3)
    world.register(cron="0 0 1 1 *")
    world.say(BackfillRequested(name="s", ticks=(BEGIN - 3 * DAY, BEGIN - 2 * DAY)))
    world.say(BackfillRequested(name="s", ticks=(BEGIN - 9 * DAY, BEGIN - 8 * DAY, BEGIN - 7 * DAY, BEGIN - 6 * DAY)))
    assert world.fates() == [("fired", 1, "backfill"), *[("skipped", 1, "backfills-waiting")] * 2]
    while open_tasks := world.open_tasks():
        world.end(*open_tasks)
    assert world.fired() == [BEGIN - 3 * DAY, BEGIN - 2 * DAY, BEGIN - 9 * DAY, BEGIN - 8 * DAY]
    world.agree()


def test_also_what_fires_nothing_is_refused_when_a_change_came_first(world: Scheduling) -> None:
    world.register(cron="* * * * *", overlap="skip")
    world.pass_until(BEGIN + MINUTE)
    engine = world.instances[0]
    world.now_ms = BEGIN + 2 * MINUTE
    batch = world.decide(engine)
    assert batch is not None
    world.say(SchedulePaused(name="s", reason="wait"), settle=False)
    assert not world.store(batch), "it was decided without the pause"
    engine.append_refused(len(world.log))
    world.settle()
    assert world.fates()[-1] == ("missed", 1, "paused")
