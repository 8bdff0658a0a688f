"""A year of ticks, with schedulers that come and go, against a calendar that is read quarter by quarter of an hour."""

from __future__ import annotations

import datetime as dt
import random
from zoneinfo import ZoneInfo

import pytest

from fleetlog_testing.scheduling import Scheduling, at

ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
QUARTER_MS = 900_000


def calendar(zone: str, hours: set[int], minutes: set[int], begin: int, end: int) -> set[int]:
    """Return every quarter of an hour at which a wall clock of the zone shows one of these times."""
    found = set()
    for at_ms in range(begin + QUARTER_MS, end + 1, QUARTER_MS):
        wall = dt.datetime.fromtimestamp(at_ms / 1000, ZoneInfo(zone))
        if wall.hour in hours and wall.minute in minutes:
            found.add(at_ms)
    return found


@pytest.mark.parametrize("year", [2027, 2028], ids=["year", "leap-year"])
def test_every_expected_tick_of_a_year_meets_exactly_one_fate(year: int) -> None:
    begin, end = at(f"{year}-01-01T00:00:00"), at(f"{year + 1}-01-01T00:00:00")
    random_source = random.Random(year)
    world = Scheduling(begin)
    for zone in ZONES:
        world.register(f"day-{zone}", cron="30 2,14 * * *", zone=zone, overlap="allow", gap="skip", fold="both")
        world.register(f"often-{zone}", cron="15,45 */3 * * *", zone=zone, overlap="allow", misfire="skip")
    while world.now_ms < end:
        # Absences of up to two days, takeovers in the middle of everything, and now and then two that lead.
        world.pass_until(min(end, world.now_ms + random_source.randint(1, 20) * 86_400_000), step_ms=random_source.randint(1, 90_000))
        if random_source.random() < 0.5:
            world.kill()
            world.now_ms = min(end, world.now_ms + random_source.randint(1, 48 * 3_600_000))
            world.lead()
        elif len(world.instances) < 3:
            world.lead()
        world.end(*world.open_tasks())
    world.kill()
    world.lead()
    world.settle()
    world.agree()
    for zone in ZONES:
        for name, hours, minutes in (
            (f"day-{zone}", {2, 14}, {30}), (f"often-{zone}", set(range(0, 24, 3)), {15, 45}),
        ):
            expected = calendar(zone, hours, minutes, begin, end)
            fired, ledger = world.fired(name), world.ledger(name)
            assert len(fired) == len(set(fired)), f"{name}: a tick was fired twice"
            assert set(fired) <= expected, f"{name}: something was fired that the calendar does not know"
            others = [tick for tick in ledger if tick.outcome != "fired"]
            assert len(fired) + sum(tick.count for tick in others) == len(expected), f"{name}: a tick has no fate"
            absent = {one for tick in others for one in expected if tick.nominal_ms <= one <= (tick.until_ms or tick.nominal_ms)}
            assert absent | set(fired) == expected, name
            assert len(fired) > len(expected) / 2
