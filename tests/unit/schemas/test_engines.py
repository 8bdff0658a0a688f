"""The engine that fires, against an engine of others: croniter reads the calendar, a few lines here read the clocks.

croniter is asked on a wall clock without a zone; what each wall time is in UTC, and what becomes of one that does not exist or
comes twice, is worked out minute by minute with zoneinfo, as the documentation says it. Nothing is taken from the engine under test.
Two things are said openly to croniter: its sixth field stands first here, and days of month and week are both needed when one of
them begins with `*`, as in Debian's cron.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import msgspec
import pytest
from croniter import croniter

from fleetlog_schemas.occurrences import ticks
from fleetlog_schemas.schedule_events import Rule, SchedulePolicy

ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/Sao_Paulo", "Pacific/Chatham",
    "Africa/Casablanca", "America/Havana",
)
YEARS = (2027, 2028)
"""One with a leap day, and one without."""
POLICIES = (("auto", "auto"), ("skip", "both"), ("run-after", "first"), ("skip", "second"), ("run-after", "both"))
PATTERNS = (
    "30 2 * * *", "0 0 * * *", "59 23 31 12 *", "0 12 29 2 *", "15 1-3 * * *", "*/20 2 * * *", "0 */6 * * *", "7 * 1 * *", "0 3 * * mon-fri",
    "0 3 * * 0", "0 3 * * 7", "30 1 1,15 * *", "0 4 13 * fri", "0 4 */10 * fri", "45 2 * mar,oct,nov sun", "5,35 0-4/2 * apr-jun tue,thu", "0 2 L * *",
    "10 2 * * sun#1", "0 2 1-7 * *", "23 2 * 3 *", "@monthly", "@weekly", "@yearly", "0 30 2 * * *", "30 59 1 * 11 sun", "*/30 0 3 29 2 *",
)
WORDS = {"@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0", "@yearly": "0 0 1 1 *"}
_MINUTE = dt.timedelta(minutes=1)


def on_the_wall(text: str, begin: dt.datetime, end: dt.datetime) -> Iterator[dt.datetime]:
    """Yield the wall times from *begin* on, before *end*, that croniter finds."""
    fields = WORDS.get(text, text).split()
    seconds = [fields.pop(0)] if len(fields) == 6 else []
    either = not fields[2].startswith("*") and not fields[4].startswith("*")
    engine = croniter(" ".join([*seconds, *fields]), begin - dt.timedelta(seconds=1), second_at_beginning=bool(seconds), day_or=either)
    while (found := engine.get_next(dt.datetime)) < end:
        yield found


def moments(wall: dt.datetime, zone: ZoneInfo) -> list[int]:
    """Return when a clock on the wall of this zone shows that time: never, once or twice, as Unix milliseconds."""
    found = set()
    for fold in (0, 1):
        moment = wall.replace(tzinfo=zone, fold=fold).astimezone(dt.UTC)
        if moment.astimezone(zone).replace(tzinfo=None) == wall:
            found.add(round(moment.timestamp() * 1000))
    return sorted(found)


def after_the_gap(wall: dt.datetime, zone: ZoneInfo) -> int:
    """Return the first moment after the gap in which this wall time lies: minute by minute, to the time that exists again."""
    later = wall.replace(second=0)
    while not (found := moments(later, zone)):
        later += _MINUTE
    return found[0]


def expected(text: str, zone: ZoneInfo, gap: str, fold: str, begin: dt.datetime, end: dt.datetime) -> list[int]:
    fields = WORDS.get(text, text).split()
    hour = fields[-4]
    # Patterns of every hour follow the passing of time; those of an hour follow the clock.
    hourly = hour.startswith("*")
    gap = gap if gap != "auto" else "skip" if hourly else "run-after"
    fold = fold if fold != "auto" else "both" if hourly else "first"
    found: set[int] = set()
    for wall in on_the_wall(text, begin, end):
        shown = moments(wall, zone)
        if not shown and gap == "run-after":
            found.add(after_the_gap(wall, zone))
        elif len(shown) == 2:
            found.update({"first": shown[:1], "second": shown[1:], "both": shown}[fold])
        else:
            found.update(shown)
    return sorted(found)


def compare(text: str, zone_name: str, begin: dt.datetime, end: dt.datetime, gap: str, fold: str) -> None:
    zone = ZoneInfo(zone_name)
    policy = msgspec.convert({"gap": gap, "fold": fold}, SchedulePolicy)
    rule = Rule(definition="d", kind="cron", cron=text, zone=zone_name, policy=policy)
    (from_ms, *_), (until_ms, *_) = moments(begin, zone), moments(end, zone)
    found = [tick.at_ms for tick in ticks(rule, from_ms - 1, until_ms - 1)]
    assert found == expected(text, zone, gap, fold, begin, end), (text, zone_name, begin, gap, fold)


def year_of(number: int) -> tuple[dt.datetime, dt.datetime]:
    return dt.datetime(number, 1, 1), dt.datetime(number + 1, 1, 1)


def nights(zone: ZoneInfo, year: int) -> list[tuple[dt.datetime, dt.datetime]]:
    """Return three days around each change of the clocks."""
    noons = [dt.datetime(year, 1, 1, 12) + dt.timedelta(days=day) for day in range(366)]
    moved = [day for day in noons if day.replace(tzinfo=zone).utcoffset() != (day - dt.timedelta(days=1)).replace(tzinfo=zone).utcoffset()]
    return [(day.replace(hour=0) - dt.timedelta(days=1), day.replace(hour=0) + dt.timedelta(days=2)) for day in moved]


@pytest.mark.parametrize("zone", ZONES)
def test_a_year_of_each_kind_of_pattern_is_what_another_engine_says(zone: str) -> None:
    for number, text in enumerate(PATTERNS):
        for year in YEARS:
            gap, fold = POLICIES[(number + year) % len(POLICIES)]
            compare(text, zone, *year_of(year), gap, fold)


@pytest.mark.parametrize(("gap", "fold"), POLICIES)
def test_both_nights_in_which_clocks_are_moved_are_as_each_policy_says(gap: str, fold: str) -> None:
    compared = 0
    for zone in ZONES:
        for begin, end in nights(ZoneInfo(zone), YEARS[0]):
            for text in ("*/15 * * * *", "*/10 1-3 * * *", "30 2 * * *", "0 0 * * *", "*/7 30 0-3 * * *"):
                compare(text, zone, begin, end, gap, fold)
                compared += 1
    assert compared >= 6 * 2 * 5, "six of these zones move their clocks twice a year"


def field(chance: random.Random, low: int, high: int) -> str:
    """Return a field of a pattern, made by chance."""
    first, second = sorted(chance.sample(range(low, high + 1), 2))
    return chance.choice(("*", "*", str(first), f"{first},{second}", f"{first}-{second}", f"{first}-{high}/{chance.randint(2, 9)}"))


@pytest.mark.parametrize("seed", range(12))
def test_patterns_made_by_chance_are_what_another_engine_says(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(6):
        fields = (str(chance.randrange(60)), field(chance, 0, 23), field(chance, 1, 28), field(chance, 1, 12), field(chance, 0, 6))
        gap, fold = chance.choice(POLICIES)
        compare(" ".join(fields), chance.choice(ZONES), *year_of(chance.choice(YEARS)), gap, fold)
