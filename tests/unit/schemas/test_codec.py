"""The one way in and out of stored bytes: strict, tolerant of what is newer, and never surprised."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_schemas import codec, events, host_events, limits
from fleetlog_schemas.codec import Event, Malformed, TooNew, decode, encode, parse_rfc3339, rfc3339

SAMPLES = {
    name: (resources.files("fleetlog_schemas") / "golden" / f"{name}.json").read_bytes() for name in events.REGISTRY
}


def stored(**changes: Any) -> bytes:
    envelope = json.loads(SAMPLES["fleetlog.host.online.v1"])
    envelope.update(changes)
    return json.dumps({key: value for key, value in envelope.items() if value is not ...}).encode()


def test_what_the_log_says_of_an_event_replaces_what_its_author_wrote() -> None:
    event = decode(stored(), seq=9, subject="evt.dispatch", time_ms=77, batch_end=False)
    assert (event.seq, event.subject, event.time_ms, event.batch_end) == (9, "evt.dispatch", 77, False)


def test_the_time_of_the_author_counts_until_an_event_is_stored() -> None:
    assert decode(stored(time="2026-01-02T03:04:05.678Z")).time_ms == 1_767_323_045_678


def test_an_unknown_field_is_ignored_so_that_an_older_reader_survives_an_added_one() -> None:
    data = {"hosts": [{"host_id": "h1", "epoch": 3, "mood": "good"}], "weather": "fine"}
    event = decode(stored(data=data, newattribute="x"))
    assert event.data == host_events.HostsOnline(hosts=(host_events.HostEpoch(host_id="h1", epoch=3),))


def test_an_unknown_type_is_too_new_and_may_be_passed_over() -> None:
    with pytest.raises(TooNew, match="unknown to this version") as raised:
        decode(stored(type="fleetlog.task.paused.v1"))
    assert raised.value.event_type == "fleetlog.task.paused.v1"
    assert raised.value.minreader <= codec.READER


def test_an_event_that_asks_for_a_newer_reader_says_so_even_if_its_data_is_unreadable() -> None:
    with pytest.raises(TooNew, match="upgrade fleetlog") as raised:
        decode(stored(minreader=codec.READER + 1, data={"hosts": "all of them"}))
    assert raised.value.minreader == codec.READER + 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"specversion":"1.0"',
        b"[" * 100_000,
        stored(specversion="0.3"),
        stored(specversion=1),
        stored(id=...),
        stored(id=7),
        stored(source=...),
        stored(type=...),
        stored(time=...),
        stored(data=...),
        stored(data=None),
        stored(data=[]),
        stored(data={"hosts": [{"host_id": 7, "epoch": 1}]}),
        stored(data={"hosts": [{"host_id": "h1", "epoch": 1.5}]}),
        stored(data={"hosts": [{"host_id": "h1"}]}),
        stored(time="yesterday"),
        stored(time="2026-01-02T03:04:05"),
        stored(time="2026-01-02T03:04:05+99:00"),
        stored(minreader="x"),
        b" " * (limits.EVENT_BYTES_MAX + 1),
    ],
)
def test_bytes_that_are_no_event_of_ours_are_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        decode(body)


def test_an_event_beyond_the_limit_is_refused_when_it_is_written() -> None:
    text = "x" * limits.EVENT_BYTES_MAX
    event = Event(id="i", source="/s", data=host_events.HostAccepted(host_id="h", reason=text), time_ms=0)
    with pytest.raises(Malformed, match="exceeds"):
        encode(event)


def test_an_old_stored_type_is_upcast_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        codec._upcasts, "fleetlog.host.online.v0",
        ("fleetlog.host.online.v00", lambda old: {"one": old["host"]}),
    )
    monkeypatch.setitem(
        codec._upcasts, "fleetlog.host.online.v00",
        ("fleetlog.host.online.v1", lambda old: {"hosts": [{"host_id": old["one"], "epoch": 1}]}),
    )
    event = decode(stored(type="fleetlog.host.online.v0", data={"host": "h7"}))
    assert event.data == host_events.HostsOnline(hosts=(host_events.HostEpoch(host_id="h7", epoch=1),))
    with pytest.raises(Malformed):
        decode(stored(type="fleetlog.host.online.v0", data={"guest": "h7"}))
    with pytest.raises(Malformed):
        decode(stored(type="fleetlog.host.online.v0", data=[]))


@given(st.binary(max_size=400))
def test_random_bytes_are_malformed_or_too_new_and_nothing_else(body: bytes) -> None:
    with pytest.raises((Malformed, TooNew)):
        decode(body)


@given(st.sampled_from(sorted(SAMPLES)), st.data())
def test_a_mutated_event_is_read_or_refused_and_nothing_else(name: str, data: st.DataObject) -> None:
    body = bytearray(json.dumps(json.loads(SAMPLES[name])).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        if not body:
            break
    try:
        event = decode(bytes(body))
    except (Malformed, TooNew):
        return
    assert decode(encode(event)).data == event.data


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(sorted(SAMPLES)), _json, st.one_of(st.none(), st.text(max_size=30)))
def test_any_json_as_data_or_time_is_read_or_malformed(name: str, data: Any, time: str | None) -> None:
    envelope = json.loads(SAMPLES[name])
    envelope["data"] = data
    if time is not None:
        envelope["time"] = time
    try:
        decode(json.dumps(envelope).encode())
    except Malformed:
        return


@given(st.integers(0, 253_402_300_799_999))
def test_a_time_survives_being_written_and_read(time_ms: int) -> None:
    assert parse_rfc3339(rfc3339(time_ms)) == time_ms


@given(st.integers(-(2**64), 2**64))
def test_any_number_can_be_shown_as_a_time(time_ms: int) -> None:
    assert rfc3339(time_ms).endswith("Z")
    assert 0 <= parse_rfc3339(rfc3339(time_ms)) <= 253_402_300_799_999


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_malformed(text: str) -> None:
    try:
        parse_rfc3339(text)
    except Malformed:
        return


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z"])
def test_times_at_the_edge_of_the_calendar_do_not_fail(text: str) -> None:
    assert isinstance(parse_rfc3339(text), int)


def test_data_that_a_reader_passes_over_is_not_looked_at_and_everything_else_of_its_event_is() -> None:
    passing_over = frozenset({host_events.HostsOnline})
    event = decode(stored(data={"hosts": "no list"}), seq=9, subject="evt.dispatch", passing_over=passing_over)
    assert event == msgspec.structs.replace(decode(stored(), seq=9, subject="evt.dispatch"), data=events.PASSED_OVER)
    assert decode(SAMPLES["fleetlog.host.offline.v1"], passing_over=passing_over).data != events.PASSED_OVER


def test_who_passes_an_event_over_still_stops_where_a_newer_reader_is_asked_for() -> None:
    with pytest.raises(TooNew):
        decode(stored(minreader=codec.READER + 1), passing_over=frozenset({host_events.HostsOnline}))
