"""Messages to and from agents: what comes in may come from a broken or hostile host."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetlog_schemas import limits, pushes, reports, wire
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Options, Shell

START = pushes.StartAttempt(
    task_id="t", attempt=1, payload=Shell(argv=("true",)), options=Options(), timeout_ms=1_000, token="k", token_key_id="i"
)
NAMED = pushes.NamedAttempt(task_id="t", attempt=1, reason="cancelled")
HELD = reports.Held("t", 1, reports.HeldState.RUNNING, 2)
LOAD = reports.Load(cpu_ratio=0.5, memory_ratio=0.25, disk_ratio=0.1, load_1m=2.0)
ENDED = reports.ReportEnded("t", 1, "k", "i", Outcome.SUCCESS, Ran.YES, exit_code=0)

MESSAGES: list[tuple[Any, Any]] = [
    (pushes.Signed(key_id="k", signature=b"s" * 64, payload=b"p"), pushes.Signed),
    (pushes.StartPush("h1", 2, 3, 4, (START,)), pushes.Push),
    (pushes.CancelPush("h1", 2, 3, 4, (NAMED,)), pushes.Push),
    (pushes.ForgetPush("h1", 2, 3, 4, (NAMED,)), pushes.Push),
    (pushes.SessionGranted("h1", "n", 2, "t", 4, 5, {"k": "public"}), pushes.SessionAnswer),
    (pushes.SessionDenied("h1", "n", "ticket", "it does not fit", retry=False), pushes.SessionAnswer),
    (reports.OpenSession("n", "t", "b", "0.1.0", 7, (HELD,)), reports.OpenSession),
    (reports.Heartbeat(2, "b", 7, 4, LOAD, (HELD,), goodbye=True), reports.Heartbeat),
    (reports.Report("r", 2, 7, (ENDED, reports.ReportFacts({"cpu": 2}))), reports.Report),
    (reports.Frame("t", 1, reports.Stream.STDERR, 0, 1, 9, b"\x00\xff", last=True), reports.Frame),
    (reports.ArtifactChunk("t", 1, "app", 0, b"\x00"), reports.ArtifactChunk),
    (reports.BlobRequest("ab", "t", 0), reports.BlobRequest),
    (reports.BlobChunk(b"x", 1), reports.BlobChunk),
]
KINDS = [kind for _, kind in MESSAGES]


@pytest.mark.parametrize(("message", "kind"), MESSAGES)
def test_a_message_survives_the_wire(message: Any, kind: Any) -> None:
    assert wire.decode(wire.encode(message), kind) == message


def test_every_kind_of_message_has_a_size_limit_below_what_the_bus_carries() -> None:
    assert set(wire._BYTES_MAX) == set(KINDS)
    assert all(0 < size < limits.BUS_MESSAGE_BYTES_MAX for size in wire._BYTES_MAX.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_beyond_its_limit_is_refused_unread(kind: Any) -> None:
    with pytest.raises(wire.BadMessage, match="exceed"):
        wire.decode(b"\xc1" * (wire._BYTES_MAX[kind] + 1), kind)


@pytest.mark.parametrize(("message", "kind"), MESSAGES)
def test_a_message_of_another_kind_is_refused(message: Any, kind: Any) -> None:
    others = {id(other): other for other in KINDS if other is not kind}
    for other in others.values():
        with pytest.raises(wire.BadMessage):
            wire.decode(wire.encode(message), other)


@pytest.mark.parametrize(
    "item",
    [
        {"report": "facts", "facts": {"load": float("nan")}},
        {"report": "facts", "facts": {"load": float("-inf")}},
        {"report": "started", "task_id": "t", "attempt": 1, "token": "k", "token_key_id": "i", "started_ms": 2**60},
        {"report": "started", "task_id": "t", "attempt": 1, "token": "k", "token_key_id": "i", "started_ms": -1},
        {"report": "ended", "task_id": "t", "attempt": 1, "token": "k", "token_key_id": "i", "outcome": "success", "ran": "yes",
         "exit_code": 2**40},
    ],
)
def test_numbers_that_no_reader_could_store_or_show_are_refused(item: dict[str, Any]) -> None:
    body = msgspec.msgpack.encode({"report_id": "r", "epoch": 1, "counter": 1, "items": [item]})
    with pytest.raises(wire.BadMessage):
        wire.decode(body, reports.Report)


def test_nesting_without_end_is_refused() -> None:
    for kind in KINDS:
        with pytest.raises(wire.BadMessage):
            wire.decode(b"\x91" * 100_000 if wire._BYTES_MAX[kind] > 100_000 else b"\x91" * 1_000, kind)


@given(st.sampled_from(range(len(MESSAGES))), st.binary(max_size=200))
def test_random_bytes_are_a_bad_message_and_nothing_else(index: int, body: bytes) -> None:
    try:
        wire.decode(body, KINDS[index])
    except wire.BadMessage:
        return


@given(st.sampled_from(range(len(MESSAGES))), st.data())
def test_a_mutated_message_is_read_or_a_bad_message(index: int, data: st.DataObject) -> None:
    message, kind = MESSAGES[index]
    body = bytearray(wire.encode(message))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        wire.decode(bytes(body), kind)
    except wire.BadMessage:
        return


@given(
    st.sampled_from(range(len(MESSAGES))),
    st.recursive(
        st.none() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
        lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
        max_leaves=20,
    ),
)
def test_any_well_formed_messagepack_is_read_or_a_bad_message(index: int, value: Any) -> None:
    try:
        wire.decode(msgspec.msgpack.encode(value), KINDS[index])
    except wire.BadMessage:
        return
