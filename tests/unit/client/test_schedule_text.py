"""Schedules in a definition's file: what is written is read again as it was, and what is wrong is said."""

from __future__ import annotations

import tomllib

import pytest

from fleetlog.definition_text import TextError
from fleetlog.schedule_text import based_on, rules_of, schedules_text
from fleetlog_schemas.policy_events import Window
from fleetlog_schemas.schedule_events import Rule, SchedulePolicy

NOON = 1_790_000_000_000
RULES = {
    "nightly": Rule(
        definition="report", kind="cron", cron="30 2 * * mon-fri", zone="Europe/Berlin", target="role=web", parameters={"days": 7, "of": ["a"]},
        policy=SchedulePolicy(overlap="queue-one", misfire="all", misfire_runs_max=3, misfire_window_ms=90_000, jitter_ms=1_500, gap="skip",
                              windows=(Window("maintenance", "all", (0, 4), "22:00", 480, "Europe/Berlin"),
                                       Window("maintenance", "all", (6,), "00:30", 90, "UTC"))),
    ),
    "often": Rule(definition="report", kind="interval", interval_ms=900_000, begins_ms=NOON, ends_ms=NOON + 1_000),
    "once": Rule(definition="report", kind="once", begins_ms=NOON),
    "by-hand": Rule(definition="report"),
}


def test_what_is_written_is_read_again_as_it_was() -> None:
    text = schedules_text(RULES)
    assert rules_of(tomllib.loads(text)["schedule"], "report") == RULES
    assert '[schedule.nightly]\ncron = "30 2 * * mon-fri"\nzone = "Europe/Berlin"' in text
    assert 'windows = ["mon,fri 22:00 8h", "sun 00:30 90m UTC"]' in text
    assert "misfire_window" in text
    assert "fold" not in text, "what is as usual is not written"
    assert schedules_text({}) == ""


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('zone = "UTC"', "schedule.s: say when by one of cron, every, at"),
        ('cron = "@daily"\nevery = "1h"', "say when by one of"),
        ('cron = "@daily"\ncolour = "red"', "there is no colour"),
        ('every = "soon"', "schedule.s.every: cannot read the time 'soon'"),
        ("every = 15", "schedule.s.every: must be a text"),
        ('cron = "@daily"\noverlap = "never"', "schedule.s: Invalid enum value 'never'"),
        ('cron = "@daily"\nwindows = ["always"]', "cannot read the window 'always'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(table: str, says: str) -> None:
    with pytest.raises(TextError, match=says):
        rules_of(tomllib.loads(f"[schedule.s]\n{table}")["schedule"], "report")


def test_a_grid_stays_where_it_is_when_the_file_does_not_say_where() -> None:
    every = Rule(definition="report", kind="interval", interval_ms=900_000)
    assert based_on(every, RULES["often"], 7).begins_ms == NOON
    assert based_on(every, None, 7).begins_ms == 7
    assert based_on(Rule(definition="report", kind="interval", interval_ms=60_000), RULES["often"], 7).begins_ms == 7
    assert based_on(RULES["nightly"], None, 7) == RULES["nightly"]
