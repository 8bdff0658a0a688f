"""When a rule's ticks are: against a calendar that is read minute by minute, and at every change of the clocks."""

from __future__ import annotations

import datetime as dt
import itertools
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetlog_schemas.occurrences import Rule, RuleError, check_times, last_tick, next_tick, ticks
from fleetlog_schemas.schedule_events import SchedulePolicy

DAY_MS = 86_400_000
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo", "Africa/Casablanca")


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    moment = dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold)
    return round(moment.timestamp() * 1000)


def cron(text: str, zone: str = "UTC", **policy: object) -> Rule:
    return Rule(definition="d", kind="cron", cron=text, zone=zone, policy=msgspec.convert(policy, SchedulePolicy))


def times(rule: Rule, after: int, until: int) -> list[int]:
    return [tick.at_ms for tick in ticks(rule, after, until)]


def by_minutes(minutes: set[int], hours: set[int], zone: str, after: int, until: int) -> list[int]:
    """Return every minute whose wall clock fits: what a clock on the wall would have shown, both times where it comes twice."""
    found = []
    for at_ms in range(after // 60_000 * 60_000 + 60_000, until + 1, 60_000):
        wall = dt.datetime.fromtimestamp(at_ms / 1000, ZoneInfo(zone))
        if wall.minute in minutes and wall.hour in hours and at_ms > after:
            found.append(at_ms)
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_a_year_of_quarter_hours_is_what_a_clock_on_the_wall_shows(zone: str) -> None:
    begin, end = at("2026-01-01T00:00:00"), at("2027-01-01T00:00:00")
    quarters = times(cron("*/15 * * * *", zone), begin, end)
    assert quarters == by_minutes({0, 15, 30, 45}, set(range(24)), zone, begin, end)


@pytest.mark.parametrize("zone", ZONES)
def test_every_day_has_one_daily_tick_whatever_the_clocks_do(zone: str) -> None:
    begin, end = at("2026-01-01T00:00:00", zone), at("2027-01-01T00:00:00", zone)
    for clock in ("02:30", "01:59", "00:15", "02:00"):
        hour, minute = clock.split(":")
        found = times(cron(f"{int(minute)} {int(hour)} * * *", zone), begin, end)
        days = [dt.datetime.fromtimestamp(one / 1000, ZoneInfo(zone)).date() for one in found]
        assert len(days) == len(set(days)) == 365, (zone, clock)


@given(
    zone=st.sampled_from(ZONES), minute=st.integers(0, 59), hour=st.integers(0, 23),
    after=st.integers(at("2020-01-01T00:00:00"), at("2030-01-01T00:00:00")), gap=st.sampled_from(["skip"]),
)
@settings(max_examples=60, deadline=None)
def test_with_both_and_skip_a_daily_tick_is_each_minute_that_the_wall_shows(
    zone: str, minute: int, hour: int, after: int, gap: str
) -> None:
    rule = cron(f"{minute} {hour} * * *", zone, gap=gap, fold="both")
    until = after + 40 * DAY_MS
    assert times(rule, after, until) == by_minutes({minute}, {hour}, zone, after, until)


@given(
    zone=st.sampled_from(ZONES), text=st.sampled_from(["*/20 * * * *", "30 2 * * *", "5 1,2,3 * * *", "*/10 2 * * *", "0 0 1 * *"]),
    fold=st.sampled_from(["auto", "first", "second", "both"]), gap=st.sampled_from(["auto", "run-after", "skip"]),
    begin=st.integers(at("2025-01-01T00:00:00"), at("2028-01-01T00:00:00")), cut=st.floats(0, 1),
)
@settings(max_examples=120, deadline=None)
def test_a_period_has_the_same_ticks_however_it_is_cut(zone: str, text: str, fold: str, gap: str, begin: int, cut: float) -> None:
    rule = cron(text, zone, fold=fold, gap=gap)
    end = begin + 30 * DAY_MS
    middle = begin + int((end - begin) * cut)
    whole = times(rule, begin, end)
    assert whole == sorted(set(whole))
    assert whole == times(rule, begin, middle) + times(rule, middle, end)
    last = last_tick(rule, begin, end)
    assert (last.at_ms if last else None) == (whole[-1] if whole else None)
    following = next_tick(rule, begin)
    assert not whole or (following is not None and following.at_ms == whole[0])


def test_a_time_that_does_not_exist_is_run_when_the_clocks_have_gone_forward_and_says_so() -> None:
    day = at("2026-03-29T00:00:00", "Europe/Berlin")
    (tick,) = ticks(cron("30 2 * * *", "Europe/Berlin"), day, day + 20 * 3_600_000)
    assert tick.at_ms == at("2026-03-29T03:00:00", "Europe/Berlin")
    assert tick.note == "02:30 does not exist on this day: clocks go forward to 03:00"
    assert times(cron("30 2 * * *", "Europe/Berlin", gap="skip"), day, day + 20 * 3_600_000) == []


def test_several_times_that_do_not_exist_are_one_run() -> None:
    day = at("2026-03-29T00:00:00", "Europe/Berlin")
    found = times(cron("*/10 2 * * *", "Europe/Berlin"), day, day + 20 * 3_600_000)
    assert found == [at("2026-03-29T03:00:00", "Europe/Berlin")]


@pytest.mark.parametrize(("fold", "runs"), [("auto", (0,)), ("first", (0,)), ("second", (1,)), ("both", (0, 1))])
def test_a_time_that_comes_twice_is_run_as_the_policy_says(fold: str, runs: tuple[int, ...]) -> None:
    day = at("2026-10-25T00:00:00", "Europe/Berlin")
    found = times(cron("30 2 * * *", "Europe/Berlin", fold=fold), day, day + 20 * 3_600_000)
    assert found == [at("2026-10-25T02:30:00", "Europe/Berlin", fold=one) for one in runs]


def test_every_ten_minutes_stays_every_ten_minutes_in_both_nights() -> None:
    for night in ("2026-03-28T22:00:00", "2026-10-24T22:00:00"):
        begin = at(night, "Europe/Berlin")
        found = times(cron("*/10 * * * *", "Europe/Berlin"), begin, begin + 8 * 3_600_000)
        assert {later - earlier for earlier, later in itertools.pairwise(found)} == {600_000}


def test_the_leap_day_comes_every_fourth_year() -> None:
    found = times(cron("0 12 29 2 *"), at("2023-01-01T00:00:00"), at("2033-01-01T00:00:00"))
    assert found == [at(f"{year}-02-29T12:00:00") for year in (2024, 2028, 2032)]


def test_six_fields_begin_with_seconds_and_words_stand_for_patterns() -> None:
    begin = at("2026-05-01T00:00:00")
    assert times(cron("*/20 * * * * *"), begin, begin + 60_000) == [begin + 20_000, begin + 40_000, begin + 60_000]
    assert times(cron("@daily"), begin, begin + 2 * DAY_MS) == [begin + DAY_MS, begin + 2 * DAY_MS]
    assert times(cron("0 9 * * MON-fri"), begin, begin + 4 * DAY_MS) == [at("2026-05-01T09:00:00"), at("2026-05-04T09:00:00")]


def test_an_interval_is_a_fixed_grid_that_nothing_shifts() -> None:
    begin = at("2026-03-28T12:00:00")
    rule = Rule(definition="d", kind="interval", interval_ms=7_200_000, begins_ms=begin)
    assert times(rule, begin - 5, begin + 7_200_000) == [begin, begin + 7_200_000]
    late = begin + 1_000 * 7_200_000 + 1
    assert times(rule, late, late + 7_200_000) == [begin + 1_001 * 7_200_000]


def test_once_is_once_and_manual_is_never() -> None:
    once = Rule(definition="d", kind="once", begins_ms=5_000_000)
    assert times(once, 0, 10**12) == [5_000_000]
    assert times(once, 5_000_000, 10**12) == []
    assert next_tick(Rule(definition="d"), 0) is None


def test_nothing_comes_before_it_begins_or_after_it_ends() -> None:
    rule = msgspec.structs.replace(cron("@hourly"), begins_ms=at("2026-01-01T03:00:00"), ends_ms=at("2026-01-01T05:00:00"))
    assert times(rule, 0, 10**13) == [at(f"2026-01-01T0{hour}:00:00") for hour in (3, 4, 5)]


@pytest.mark.parametrize(
    ("rule", "pointer"),
    [
        (cron("61 * * * *"), "/cron"), (cron("* * *"), "/cron"), (cron("@reboot"), "/cron"), (cron("0 0 31 2 *"), "/cron"),
        (cron("* * * * * * *"), "/cron"), (cron("0 0 * * *\x00"), "/cron"), (cron("* " * 200), "/cron"), (cron(""), "/cron"),
        (cron("@daily", "Europe/Atlantis"), "/zone"), (cron("@daily", "../../etc/passwd"), "/zone"),
        (Rule(definition="d", kind="interval", interval_ms=999), "/interval_ms"), (Rule(definition="d", kind="once"), "/begins_ms"),
        (Rule(definition="d", kind="manual", cron="@daily"), "/cron"), (Rule(definition="d", kind="once", begins_ms=5, ends_ms=4), "/ends_ms"),
        (Rule(definition="d", kind="once", begins_ms=10**18), "/begins_ms"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_is_refused_and_named(rule: Rule, pointer: str) -> None:
    with pytest.raises(RuleError) as refused:
        check_times(rule)
    assert refused.value.pointer == pointer


@given(text=st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_pattern_or_is_refused(text: str) -> None:
    try:
        check_times(cron(text))
    except RuleError:
        return
    next_tick(cron(text), at("2026-01-01T00:00:00"))
