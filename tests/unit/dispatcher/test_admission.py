"""Which waiting command goes first, and which limit keeps it back."""

from __future__ import annotations

import pytest

from fleetlog_dispatcher.adapting import slots_of
from fleetlog_dispatcher.gates import slot_gate
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import events, host_events, policy_events, pushes, reports
from fleetlog_schemas.functions import facts_of
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Choose, Function, Retry, TaskSpec
from fleetlog_schemas.workers import Offered
from fleetlog_testing.dispatching import LOAD, Stage, shell

ONE_SLOT = DispatcherSettings(slots_per_host=1)


def test_of_what_waits_for_a_host_the_higher_priority_goes_first() -> None:
    stage = Stage(ONE_SLOT)
    stage.connected("web1")
    running = stage.submitted(shell())
    low, middle, high = (stage.submitted(shell(priority=priority)) for priority in (1, 5, 10))
    for task_id in (running, high, middle):
        stage.ended(task_id, "web1")
    assert stage.dispatched() == [running, high, middle, low]


def test_waiting_makes_up_for_priority_so_that_nothing_starves() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=1, ageing_ms=1_000))
    stage.connected("web1")
    running = stage.submitted(shell())
    patient = stage.submitted(shell(priority=1))
    stage.later(9_001)
    urgent = stage.submitted(shell(priority=10))
    stage.ended(running, "web1")
    stage.ended(patient, "web1")
    assert stage.dispatched() == [running, patient, urgent]


def test_priority_decides_also_between_a_task_with_a_limit_of_its_own_and_one_without() -> None:
    stage = Stage(ONE_SLOT)
    stage.connected("web1")
    running = stage.submitted(shell())
    low = stage.submitted(shell(priority=2))
    high = stage.submitted(shell(priority=9, parallel=3))
    stage.ended(running, "web1")
    stage.ended(high, "web1")
    assert stage.dispatched() == [running, high, low]


def test_a_retry_waits_in_its_place_once_its_backoff_is_over() -> None:
    stage = Stage(ONE_SLOT)
    stage.connected("web1")
    retried = stage.submitted(shell(retry=Retry(attempts_max=2, backoff_ms=3_000)))
    other = stage.submitted(shell())
    stage.ended(retried, "web1", outcome=Outcome.FAILURE, exit_code=1)
    assert stage.dispatched() == [retried, other]
    stage.ended(other, "web1")
    assert stage.dispatched() == [retried, other]
    stage.later(4_000)
    assert stage.dispatched() == [retried, other, retried]


@pytest.mark.parametrize("spec", [{}, {"parallel": 9}], ids=["without-limit", "limited"])
def test_a_queue_has_no_more_in_flight_than_its_limit_over_all_hosts_and_tasks(spec: dict[str, int]) -> None:
    stage = Stage()
    stage.connected("web1", "web2", "web3")
    stage.happened(policy_events.QueueLimited(queue="builds", in_flight_max=2))
    first = stage.submitted(shell(queue="builds", **spec))
    second = stage.submitted(shell(queue="builds", **spec))
    free = stage.submitted(shell())
    assert sorted(stage.dispatched()) == sorted([first, first, free, free, free])
    stage.ended(first, "web1")
    stage.ended(first, "web2")
    assert stage.dispatched().count(first) == 3
    assert stage.dispatched().count(second) == 1


def test_a_queue_whose_limit_is_raised_goes_on() -> None:
    stage = Stage()
    stage.connected("web1", "web2")
    stage.happened(policy_events.QueueLimited(queue="builds", in_flight_max=1))
    stage.submitted(shell(queue="builds"))
    assert len(stage.dispatched()) == 1
    stage.happened(policy_events.QueueLimited(queue="builds", in_flight_max=0))
    stage.later(1_000)
    assert len(stage.dispatched()) == 2


def test_the_whole_system_has_a_limit_and_hands_on_what_becomes_free() -> None:
    stage = Stage(DispatcherSettings(in_flight_max=2))
    stage.connected("web1", "web2", "web3")
    task_id = stage.submitted(shell())
    assert len(stage.dispatched()) == 2
    [left] = {"web1", "web2", "web3"} - {name for name in ("web1", "web2", "web3") if stage.dispatched(name)}
    stage.ended(task_id, next(name for name in ("web1", "web2", "web3") if name != left))
    assert stage.dispatched(left) == [task_id]


def test_runs_of_one_key_share_the_limit_of_that_key() -> None:
    stage = Stage()
    stage.connected("web1", "web2")
    first = stage.submitted(shell(key="backup", key_parallel=1))
    second = stage.submitted(shell(key="backup", key_parallel=1))
    other = stage.submitted(shell(key="other", key_parallel=1))
    assert stage.dispatched() == [first, other]
    stage.ended(first, "web1")
    stage.ended(first, "web2")
    assert stage.dispatched() == [first, other, first, second]


# --- single runs ---


def test_a_second_run_is_refused_while_the_first_is_open() -> None:
    stage = Stage()
    stage.connected("web1")
    first = stage.submitted(shell(key="backup", single_run="refuse"))
    second = stage.submitted(shell(key="backup", single_run="refuse"))
    [refused] = stage.decided(events.TasksRefused)
    assert [(one.task_id, one.code) for one in refused.refusals] == [(second, "locked")]
    stage.ended(first, "web1")
    third = stage.submitted(shell(key="backup", single_run="refuse"))
    assert stage.dispatched() == [first, third]


def test_of_two_single_runs_in_one_submission_only_the_first_is_planned() -> None:
    stage = Stage()
    stage.connected("web1")
    spec = shell(key="backup", single_run="refuse")
    ids = [stage.new_id(), stage.new_id()]
    stage.happened(events.TasksSubmitted(tasks=tuple(events.Submission(task_id=one, spec=spec) for one in ids)))
    assert stage.dispatched() == ids[:1]
    assert stage.decided(events.TasksRefused)[0].refusals[0].task_id == ids[1]


def test_a_queued_single_run_waits_for_the_end_of_the_earlier_one() -> None:
    stage = Stage()
    stage.connected("web1")
    runs = [stage.submitted(shell(key="backup", single_run="queue")) for _ in range(3)]
    assert stage.dispatched() == runs[:1]
    stage.ended(runs[0], "web1")
    assert stage.dispatched() == runs[:2]
    stage.ended(runs[1], "web1")
    assert stage.dispatched() == runs


def test_a_replacing_single_run_stops_the_earlier_one_and_waits_for_the_hosts_word() -> None:
    stage = Stage()
    stage.connected("web1")
    old = stage.submitted(shell(key="deploy"))
    new = stage.submitted(shell(key="deploy", single_run="replace"))
    assert stage.pushed(pushes.CancelPush) == [(old, 1)]
    assert stage.dispatched() == [old], "the lock is free when the host has confirmed, and not before"
    stage.ended(old, "web1", outcome=Outcome.CANCELLED)
    assert stage.dispatched() == [old, new]


# --- load ---


def busy(load_1m: float, memory_ratio: float = 0.1) -> reports.Load:
    return reports.Load(cpu_ratio=1.0, memory_ratio=memory_ratio, disk_ratio=0.1, load_1m=load_1m)


def test_a_busy_host_takes_fewer_at_once_but_always_one() -> None:
    stage = Stage()
    stage.connected("web1")
    for _ in range(5):
        stage.later(10_000)
        stage.beats("web1", load=busy(50))
    tasks = [stage.submitted(shell()) for _ in range(3)]
    assert stage.dispatched() == tasks[:1]


def test_a_host_that_is_short_of_memory_is_busy() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.beats("web1", load=busy(0.1, memory_ratio=0.97))
    assert stage.engine.live is not None
    assert slots_of(stage.settings, stage.engine.live, "h-web1") == 2


def test_a_host_that_is_no_longer_busy_gets_all_of_its_slots_back() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.beats("web1", load=busy(50))
    for _ in range(3):
        stage.later(10_000)
        stage.beats("web1")
    assert stage.engine.live is not None
    assert stage.engine.live.limits == {}


@pytest.mark.parametrize("bears", [3, 8, 20])
def test_the_limit_settles_around_what_the_host_bears(bears: int) -> None:
    stage = Stage(DispatcherSettings(slots_per_host=64))
    stage.connected("web1")
    for _ in range(100):
        stage.submitted(shell())
    found = []
    for _ in range(120):
        stage.later(10_000)
        assert stage.engine.live is not None
        flights = stage.engine.live.flights["h-web1"]
        # Half of what runs ends, as much as fits takes its place, and the host's load is what it now has.
        for task_id, attempt in list(flights)[: len(flights) // 2 + 1]:
            stage.ended(task_id, "web1", attempt)
            stage.submitted(shell())
        stage.beats("web1", load=busy(8.0 if len(stage.engine.live.flights["h-web1"]) > bears else 1.0))
        found.append(slots_of(stage.settings, stage.engine.live, "h-web1"))
    settled = found[40:]
    assert bears // 2 <= min(settled) <= max(settled) <= bears + 1
    assert bears / 2 < sum(settled) / len(settled)


# --- some of the hosts ---


def planned_hosts(stage: Stage) -> list[str]:
    return [host.name for host in stage.decided(events.TasksPlanned)[-1].plans[0].hosts]


def test_the_least_loaded_hosts_are_chosen_and_absent_ones_passed_over() -> None:
    stage = Stage()
    stage.connected("web1", "web2", "web3")
    stage.enrolled("web0")
    stage.beats("web2", load=busy(1.0))
    stage.submitted(shell(choose=Choose(count=2)))
    assert planned_hosts(stage) == ["web1", "web3"]


def test_a_host_that_works_is_passed_over_for_one_that_does_not() -> None:
    stage = Stage()
    stage.connected("web1", "web2")
    stage.submitted(shell(target="web1"))
    stage.submitted(shell(choose=Choose(count=1)))
    assert planned_hosts(stage) == ["web2"]


def test_any_hosts_are_chosen_anew_for_each_task() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=200))
    stage.connected("web1", "web2", "web3")
    chosen = set()
    for _ in range(30):
        stage.submitted(shell(choose=Choose(count=1, by="random")))
        chosen.add(tuple(planned_hosts(stage)))
    assert chosen == {("web1",), ("web2",), ("web3",)}


def test_hosts_are_spread_over_the_values_of_a_label() -> None:
    stage = Stage()
    stage.connected("a1", "a2", "a3", dc="a")
    stage.connected("b1", dc="b")
    stage.connected("x1")
    stage.submitted(shell(choose=Choose(count=3, by="spread", label="dc")))
    assert sorted(name[0] for name in planned_hosts(stage)) == ["a", "a", "b"]


def test_one_host_is_chosen_for_each_value_of_a_label() -> None:
    stage = Stage()
    stage.connected("a1", "a2", dc="a")
    stage.connected("b1", "b2", dc="b")
    stage.submitted(shell(choose=Choose(by="each", label="dc")))
    assert [name[0] for name in planned_hosts(stage)] == ["a", "b"]


def test_a_choice_by_a_label_that_no_host_has_is_refused() -> None:
    stage = Stage()
    stage.connected("web1")
    stage.submitted(shell(choose=Choose(by="each", label="dc")))
    assert stage.decided(events.TasksRefused)[0].refusals[0].code == "target-empty"


def test_a_load_that_was_never_reported_does_not_keep_a_host_from_being_chosen() -> None:
    stage = Stage()
    stage.connected("web1", "web2")
    stage.beats("web1", load=None)
    stage.beats("web2", load=LOAD)
    stage.submitted(shell(choose=Choose(count=2)))
    assert planned_hosts(stage) == ["web1", "web2"]


def test_a_host_that_has_just_joined_is_not_judged_by_a_load_whose_processors_nobody_knows() -> None:
    stage = Stage()
    stage.enrolled("web1")
    stage.opens("web1")
    stage.beats("web1", load=busy(50))
    for _ in range(4):
        stage.submitted(shell())
    assert len(stage.pushed(pushes.StartPush, "web1")) == 4


# --- calls of functions, which their host makes in turn ---------------------------------------------------------


def calling(name: str = "noop", **more: object) -> TaskSpec:
    return TaskSpec(payload=Function(name), target="all", **more)  # type: ignore[arg-type]


def offering(stage: Stage) -> None:
    """Let there be a host that offers a function."""
    stage.connected("web1")
    offered = facts_of([Offered("noop", "default", "jobs", "()")], ["default"])
    stage.happened(host_events.FactsChanged(host_id="h-web1", facts={"cpu.count": 1, **offered}), events.RESULT)


def test_a_host_whose_calls_are_short_is_given_calls_beyond_its_slots_and_one_whose_calls_are_long_is_not() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=2, calls_per_host=12))
    offering(stage)
    calls = [stage.submitted(calling()) for _ in range(30)]
    assert stage.dispatched() == calls[:2], "nothing is known of its calls yet"
    stage.ended(calls[0], "web1", duration_ms=10)
    assert len(stage.dispatched()) == 1 + 2 + 50 // 10
    stage.ended(calls[1], "web1", duration_ms=0)
    assert len(stage.dispatched()) == 2 + 2 + int(50 / 7.5)
    for call in calls[2:5]:
        stage.ended(call, "web1", duration_ms=60_000)
    assert len(stage.dispatched()) == 10, "what was dispatched ends first"
    assert stage.engine.live is not None
    gate = slot_gate(stage.settings, stage.engine.live, stage.state.tasks.by_id[calls[10]], "h-web1")
    assert gate is not None
    assert gate.message.startswith("the host has 5 commands in flight already, of task ")


def test_calls_beyond_the_slots_take_none_from_other_commands() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=2, calls_per_host=5))
    offering(stage)
    first = stage.submitted(calling())
    stage.ended(first, "web1", duration_ms=0)
    calls = [stage.submitted(calling()) for _ in range(3)]
    programs = [stage.submitted(shell()) for _ in range(3)]
    assert stage.dispatched() == [first, *calls, *programs[:2]]
    late = stage.submitted(calling())
    stage.ended(calls[0], "web1", duration_ms=0)
    assert stage.dispatched()[6:] == [], "the program that waits goes first, and has no slot"
    stage.ended(programs[0], "web1")
    assert stage.dispatched()[6:] == [programs[2], late]


def test_a_busy_host_has_no_calls_beyond_what_it_takes() -> None:
    stage = Stage(DispatcherSettings(slots_per_host=4, calls_per_host=14))
    offering(stage)
    first = stage.submitted(calling())
    stage.ended(first, "web1", duration_ms=0)
    stage.beats("web1", load=busy(50))
    calls = [stage.submitted(calling()) for _ in range(8)]
    assert stage.dispatched() == [first, *calls[:2]]
