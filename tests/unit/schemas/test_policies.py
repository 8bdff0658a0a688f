"""Freezes, windows and limits of queues, folded from the log; and when a window is open."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_schemas import events, policies, policy_events
from fleetlog_schemas.codec import Event
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.policies import (
    Policies,
    PolicyError,
    check_window,
    closed_hosts,
    open_until_ms,
    opens_ms,
)
from fleetlog_schemas.policy_events import Window
from fleetlog_schemas.targets import Directory

BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = Window(kind="maintenance", target="role=db", days=(6,), begins="02:00", lasts_minutes=120, zone="Europe/Berlin")


def ms(year: int, month: int, day: int, hour: int, minute: int = 0, zone: dt.tzinfo = BERLIN, fold: int = 0) -> int:
    return round(dt.datetime(year, month, day, hour, minute, tzinfo=zone, fold=fold).timestamp() * 1000)


def folded(*data: events.Data) -> Policies:
    found = Policies()
    for seq, one in enumerate(data, 1):
        policies.apply(found, Event(id=str(seq), source="/t", data=one, time_ms=seq * 1000, seq=seq, authid="ann"))
    return found


def host(name: str, **labels: str) -> Host:
    return Host(host_id=f"h-{name}", name=name, public_key="", labels=labels)


# --- the fold ---


def test_what_is_in_force_is_what_was_set_and_not_taken_back() -> None:
    found = folded(
        policy_events.FleetFrozen(freeze_id="f1", target="all", reason="a"),
        policy_events.FleetFrozen(freeze_id="f2", target="web1", reason="b"),
        policy_events.FleetThawed(freeze_id="f1"),
        policy_events.WindowSet(name="w1", window=NIGHT),
        policy_events.WindowSet(name="w2", window=NIGHT),
        policy_events.WindowRemoved(name="w2"),
        policy_events.QueueLimited(queue="a", in_flight_max=3),
        policy_events.QueueLimited(queue="b", in_flight_max=3),
        policy_events.QueueLimited(queue="b", in_flight_max=0),
    )
    assert list(found.freezes) == ["f2"]
    assert (found.freezes["f2"].by, found.freezes["f2"].since_ms) == ("ann", 2000)
    assert list(found.windows) == ["w1"]
    assert found.queues == {"a": 3}


def test_an_event_that_changes_nothing_says_so() -> None:
    found = folded(policy_events.FleetFrozen(freeze_id="f1", target="all", reason="a"))
    again = Event(id="x", source="/t", data=policy_events.FleetFrozen(freeze_id="f1", target="web1", reason="z"), time_ms=9)
    assert not policies.apply(found, again)
    assert found.freezes["f1"].target == "all", "the first one stands"
    thawed = Event(id="y", source="/t", data=policy_events.FleetThawed(freeze_id="f9"), time_ms=9)
    assert not policies.apply(found, thawed)


# --- windows ---


def test_a_window_is_open_from_its_beginning_until_its_end() -> None:
    sunday = (2026, 11, 22)
    assert not open_until_ms(NIGHT, ms(*sunday, 1, 59))
    assert open_until_ms(NIGHT, ms(*sunday, 2)) == ms(*sunday, 4)
    assert open_until_ms(NIGHT, ms(*sunday, 3, 59))
    assert not open_until_ms(NIGHT, ms(*sunday, 4))
    assert opens_ms(NIGHT, ms(*sunday, 4)) == ms(2026, 11, 29, 2)


def test_a_window_may_reach_over_midnight_and_over_the_week() -> None:
    weekend = Window(kind="blackout", target="all", days=(4,), begins="18:00", lasts_minutes=60 * 62, zone="UTC")
    utc = dt.UTC
    assert open_until_ms(weekend, ms(2026, 11, 22, 23, zone=utc)) == ms(2026, 11, 23, 8, zone=utc)
    assert not open_until_ms(weekend, ms(2026, 11, 23, 8, zone=utc))


def test_a_window_that_begins_in_the_hour_that_the_clock_skips_begins_when_that_hour_would_have() -> None:
    # 29 March 2026: from 02:00 to 03:00 in Berlin. 02:30 does not exist; it is read as 03:30 of summer time.
    skipped = Window(kind="maintenance", target="all", days=(6,), begins="02:30", lasts_minutes=60, zone="Europe/Berlin")
    assert not open_until_ms(skipped, ms(2026, 3, 29, 3, 15))
    assert open_until_ms(skipped, ms(2026, 3, 29, 3, 30)) == ms(2026, 3, 29, 4, 30)


def test_a_window_lasts_real_minutes_also_when_the_clock_goes_back() -> None:
    # 25 October 2026: from 03:00 back to 02:00 in Berlin. Two hours from the first 02:00 end at the second 03:00.
    begins, ends = ms(2026, 10, 25, 2), ms(2026, 10, 25, 2) + 120 * 60_000
    assert open_until_ms(NIGHT, begins) == ends == ms(2026, 10, 25, 3)
    assert open_until_ms(NIGHT, ms(2026, 10, 25, 2, 30, fold=1))


@given(
    st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Pacific/Apia", "Asia/Kolkata"]),
    st.sets(st.integers(0, 6), min_size=1), st.integers(0, 23), st.integers(1, policies.MINUTES_MAX),
    st.integers(1_790_000_000, 1_890_000_000),
)
def test_what_is_said_of_a_window_agrees_with_itself(
    zone: str, days: set[int], hour: int, lasts: int, now_s: int
) -> None:
    window = Window(
        kind="maintenance", target="all", days=tuple(sorted(days)), begins=f"{hour:02}:00", lasts_minutes=lasts, zone=zone
    )
    now_ms = now_s * 1000
    until_ms, next_ms = open_until_ms(window, now_ms), opens_ms(window, now_ms)
    assert next_ms > now_ms
    assert open_until_ms(window, next_ms) >= next_ms + lasts * 60_000
    if until_ms:
        assert open_until_ms(window, until_ms - 1)
    else:
        assert not open_until_ms(window, next_ms - 1)


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"days": ()}, "/days"), ({"days": (7,)}, "/days"), ({"begins": "24:00"}, "/begins"), ({"begins": "2:00"}, "/begins"),
        ({"lasts_minutes": 0}, "/lasts_minutes"), ({"lasts_minutes": 10_081}, "/lasts_minutes"),
        ({"zone": "Europe/Atlantis"}, "/zone"), ({"zone": "../../etc/passwd"}, "/zone"), ({"zone": ""}, "/zone"),
    ],
)
def test_a_window_that_cannot_be_points_at_its_field(fields: dict[str, object], pointer: str) -> None:
    usual: dict[str, object] = {"kind": "blackout", "target": "all", "days": (0,), "begins": "10:00", "lasts_minutes": 5}
    with pytest.raises(PolicyError) as caught:
        check_window(Window(**{**usual, **fields}))  # type: ignore[arg-type]
    assert caught.value.pointer == pointer


# --- what they mean for hosts ---


def test_a_freeze_is_the_reason_where_a_window_is_closed_too() -> None:
    found = folded(
        policy_events.WindowSet(name="w1", window=NIGHT), policy_events.FleetFrozen(freeze_id="f1", target="db1", reason="incident")
    )
    now_ms = ms(2026, 11, 23, 12)
    closed = closed_hosts(found, Directory([host("db1", role="db"), host("db2", role="db"), host("web1")]), now_ms)
    assert {host_id: one.reason for host_id, one in closed.items()} == {"h-db1": "freeze", "h-db2": "window"}
    assert closed["h-db1"].message == "frozen by ann: incident"


def test_a_name_that_no_host_has_any_more_means_nobody() -> None:
    found = folded(policy_events.FleetFrozen(freeze_id="f1", target="gone,web1", reason="x"))
    assert list(closed_hosts(found, Directory([host("web1"), host("web2")]), 0)) == ["h-web1"]
