"""What a run will do follows from its seed; how long things took is counted from the fault that caused it."""

from __future__ import annotations

from fleetlog_checker.faults import FAULTS, LEAD_KIND, plan
from fleetlog_checker.history import Trouble
from fleetlog_checker.system import Part, System
from fleetlog_checker.timings import Recorded, slowest, take_overs
from fleetlog_checker.watching import Turn, longest_gap
from fleetlog_testing.links import Link


class Process(Part):
    process_faults = ("kill", "stop", "restart")


class Held(Part):
    process_faults = ("kill", "stop")


def system() -> System:
    made = System()
    made.parts = [
        Process("dispatcher 1", "dispatcher"), Process("dispatcher 2", "dispatcher", Link(lambda: "")), Process("bus", "bus"),
        Process("agent one", "agent", Link(lambda: ""), "hone"), Held("holder one", "holder", None, "hone"),
    ]
    return made


def test_a_plan_follows_from_the_seed_and_ends_before_the_run() -> None:
    one = plan(7, 120, list(FAULTS), system())
    assert one == plan(7, 120, list(FAULTS), system())
    assert one != plan(8, 120, list(FAULTS), system())
    assert len(one) > 20
    assert {planned.fault for planned in one} == set(FAULTS)
    assert all(planned.at_s < 118 for planned in one)
    assert plan(7, 120, [], system()) == []


def test_what_needs_a_path_hits_only_parts_that_have_one_and_a_holder_is_never_ended_cleanly() -> None:
    for seed in range(20):
        for planned in plan(seed, 60, ["partition", "restart"], system()):
            part = planned.part(system(), ())
            assert part is not None
            assert planned.fault != "partition" or part.way is not None
            assert planned.fault != "restart" or part.kind != "holder"


def test_the_one_that_leads_is_hit_when_it_is_meant_and_another_one_when_it_is_down() -> None:
    made = system()
    made.led_by = lambda kind: "dispatcher 2" if kind == LEAD_KIND else ""
    meant = next(one for one in plan(7, 300, ["kill"], made) if one.which < 0)

    def hit(*down: str) -> str:
        part = meant.part(made, down)
        return part.name if part else ""

    assert hit() == "dispatcher 2"
    assert hit("dispatcher 2") == "dispatcher 1"
    assert hit("dispatcher 1", "dispatcher 2") == ""


def trouble(fault: str, began_ms: int, healed_ms: int, **fields: str) -> Trouble:
    return Trouble(fault, fields.pop("part", "dispatcher 1"), fields.pop("kind", "dispatcher"), began_ms, healed_ms, **fields)


def test_a_take_over_is_counted_from_the_fault_of_the_one_that_led() -> None:
    turns = [Turn(0, "x-1-a", "dispatcher 1"), Turn(14_000, "x-2-b", "dispatcher 2")]
    (found,) = take_overs([trouble("kill", 10_000, 11_000, led="dispatcher")], turns)
    assert (found.by, found.seconds, found.late) == ("dispatcher 2", 4.0, False)
    (found,) = take_overs([trouble("kill", 8_000, 9_000, led="dispatcher")], turns)
    assert (found.seconds, found.late) == (6.0, True)
    hit = [trouble("kill", 8_000, 9_000, led="dispatcher"), trouble("kill", 9_000, 9_500, kind="bus")]
    assert [one.late for one in take_overs(hit, turns)] == [False], "the bus had to elect a leader first"
    slowed = [trouble("kill", 8_000, 9_000, led="dispatcher"), trouble("slow", 9_000, 20_000, part="dispatcher 2")]
    assert [one.late for one in take_overs(slowed, turns)] == [False], "the only one that could follow was on a slow line"
    bus = [trouble("stop", at_ms, at_ms + 2_000, kind="bus") for at_ms in (8_500, 11_000, 20_000, 26_000)]
    long = [Turn(0, "x-1-a", "dispatcher 1"), Turn(34_000, "x-2-b", "dispatcher 2")]
    (found,) = take_overs([trouble("kill", 8_000, 9_000, led="dispatcher"), *bus], long)
    assert (found.seconds, found.well_seconds, found.late) == (26.0, 6.0, False), "it was hit again and again until shortly before"
    (found,) = take_overs([trouble("kill", 8_000, 9_000, led="dispatcher"), *bus[:2]], long)
    assert (found.well_seconds, found.late) == (21.0, True), "it had been whole for long"
    earlier = [trouble("slow", 1_000, 2_000, part="dispatcher 2"), trouble("kill", 8_000, 9_000, led="dispatcher")]
    assert [one.late for one in take_overs(earlier, turns)] == [True], "that line was well again"
    assert take_overs([trouble("kill", 10_000, 11_000)], turns) == [], "it did not lead"
    assert take_overs([trouble("stop", 10_000, 11_000, led="dispatcher")], turns) == [], "it was back before anyone took over"
    assert take_overs([trouble("kill", 15_000, 16_000, led="dispatcher")], turns) == [], "nobody followed"


def test_the_slowest_report_is_one_for_which_neither_host_nor_bus_can_be_blamed() -> None:
    reports = [
        Recorded("quick", "hone", 1, 1_000, 1_100, "success"),
        Recorded("slow", "htwo", 1, 1_000, 3_000, "success"),
        Recorded("cut off", "hone", 1, 20_000, 40_000, "success"),
        Recorded("no bus", "htwo", 1, 60_000, 90_000, "success"),
    ]
    troubles = [
        trouble("partition", 21_000, 39_000, kind="agent", host_id="hone"), trouble("kill", 61_000, 62_000, kind="bus"),
    ]
    found = slowest(reports, troubles)
    assert found is not None
    assert (found.task_id, found.seconds) == ("slow", 2.0)


def test_the_longest_gap_reaches_from_the_begin_to_the_end_of_a_run() -> None:
    assert longest_gap([2_000, 3_000, 9_000], 1_000, 10_000) == (6.0, 3_000)
    assert longest_gap([], 1_000, 10_000) == (9.0, 1_000)
    assert longest_gap([500, 20_000], 1_000, 10_000) == (9.0, 1_000), "what lies outside does not count"
