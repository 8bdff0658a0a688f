"""Live streams and the raw log: nothing missing, nothing twice, nobody slow holds the rest up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fleetlog_gateway import limits
from fleetlog_gateway.assembly import Options
from fleetlog_gateway.sse import StreamLimits
from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_runtime.shell.home import Home
from fleetlog_schemas import events, ids
from fleetlog_testing.gateway_rig import (
    Rig,
    append_as_dispatcher,
    connect,
    gateway_on,
    now_ms,
    reporter_on,
    spec_json,
)
from fleetlog_testing.nats import real_server
from fleetlog_testing.waiting import until


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with real_server(tmp_path_factory.mktemp("bus")) as made:
        yield made


async def submit(rig: Rig, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
    return [(await rig.post("/api/v1/tasks", spec_json(**fields)))[1] for _ in range(count)]


async def last_seq(rig: Rig) -> int:
    return int((await rig.get("/api/v1/log?limit=1"))[1]["seq"])


def test_a_task_is_followed_from_its_submission_and_only_it(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            (before,), (task,), (after,) = [await submit(rig) for _ in range(3)]
            task_id = task["task_id"]
            async with rig.stream(f"/api/v1/tasks/{task_id}/events") as stream:
                assert stream.response.headers["Content-Type"] == "text/event-stream"
                first = await stream.next()
                assert (first["event"], int(first["id"])) == ("fleetlog.task.submitted.v1", task["seq"])
                bus = await connect(home, "dispatcher")
                plans = tuple(events.Plan(one, (), "h") for one in (before["task_id"], task_id))
                await append_as_dispatcher(bus, events.TasksPlanned(plans=plans[:1]))
                planned = await append_as_dispatcher(bus, events.TasksPlanned(plans=plans))
                await bus.close()
                found = await stream.next()
                assert (found["event"], int(found["id"])) == ("fleetlog.task.planned.v1", planned)
                stored = msgspec.json.decode(found["data"])
                assert (stored["seq"], stored["subject"]) == (planned, "evt.dispatch")
                assert stored["event"]["specversion"] == "1.0"
            assert after["task_id"] != task_id

    asyncio.run(scenario())


def test_a_task_whose_maker_has_a_clock_ahead_is_still_seen_from_its_submission(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            key = ids.new_id(now_ms() + 4 * 60_000, bytes(10))
            _, body = await rig.post("/api/v1/tasks", spec_json(), Idempotency_Key=key)
            async with rig.stream(f"/api/v1/tasks/{key}/events") as stream:
                assert await stream.take(1) == [body["seq"]]
            _, page = await rig.get(f"/api/v1/log?task_id={key}")
            assert [item["seq"] for item in page["data"]["items"]] == [body["seq"]]

    asyncio.run(scenario())


def test_a_task_is_followed_by_the_end_of_its_id_or_as_the_last_one(home: Home) -> None:
    async def scenario() -> None:
        async with reporter_on(home), gateway_on(home) as rig:
            (task,) = await submit(rig)
            for name in (task["task_id"][-6:], "last"):
                async with rig.stream(f"/api/v1/tasks/{name}/events") as stream:
                    assert await stream.take(1) == [task["seq"]]
            status, body, _ = await rig.call("GET", "/api/v1/tasks/ffffffff/events", headers={"Accept": "text/event-stream"})
            assert (status, body["code"]) == (404, "task-not-found")

    asyncio.run(scenario())


def test_the_whole_log_is_followed_from_now_or_from_a_sequence(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            old = [one["seq"] for one in await submit(rig, 3)]
            async with rig.stream(f"/api/v1/events?after_seq={old[0]}") as then:
                assert await then.take(2) == old[1:]
                # The gateway has read them: they are the past of whoever begins now.
                async with rig.stream("/api/v1/events") as now:
                    new = [one["seq"] for one in await submit(rig, 2)]
                    assert await now.take(2) == new
                    assert await then.take(2) == new

    asyncio.run(scenario())


def test_a_stream_resumes_across_a_restart_without_gap_or_duplicate(home: Home) -> None:
    async def scenario() -> None:
        seen: list[int] = []
        expected: list[int] = []
        async with gateway_on(home) as rig:
            start = await last_seq(rig)
            async with rig.stream("/api/v1/events", start) as stream:
                expected += [one["seq"] for one in await submit(rig, 5)]
                seen += await stream.take(3)
        async with gateway_on(home) as other:
            expected += [one["seq"] for one in await submit(other, 5)]
        async with gateway_on(home) as rig, rig.stream("/api/v1/events", seen[-1]) as stream:
            seen += await stream.take(4)
            expected += [one["seq"] for one in await submit(rig, 3)]
            seen += await stream.take(6)
        assert seen == expected

    asyncio.run(scenario())


def test_what_the_ring_has_forgotten_comes_from_the_log(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TAIL_EVENTS_MAX", 4)
    monkeypatch.setattr(limits, "LOG_PAGE_MAX", 3)

    async def scenario() -> None:
        async with gateway_on(home) as rig:
            start = await last_seq(rig)
            expected = [one["seq"] for one in await submit(rig, 20)]
            assert rig.gateway.tail.first_seq > expected[10]
            async with rig.stream("/api/v1/events", start) as stream:
                assert await stream.take(20) == expected

    asyncio.run(scenario())


def test_a_stop_ends_streams_at_once(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            stream = rig.stream("/api/v1/events")
            await stream.__aenter__()
        with pytest.raises(StopAsyncIteration):
            await stream.next(2.0)
        await stream.__aexit__()

    asyncio.run(asyncio.wait_for(scenario(), 4))


def test_a_place_that_this_gateway_has_not_read_yet_is_waited_for(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            end = await last_seq(rig)
            # Where the follower was, at a gateway that was ahead: three events on.
            async with rig.stream("/api/v1/events", end + 3) as stream:
                later = [one["seq"] for one in await submit(rig, 5)]
                assert await stream.take(2) == later[3:]

    asyncio.run(scenario())


def test_a_place_that_the_log_does_not_have_is_answered_with_a_reset(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home, Options(port=0, stream_limits=StreamLimits(ahead_seconds_max=0.2))) as rig:
            end = await last_seq(rig)
            async with rig.stream("/api/v1/events", end + 1_000) as stream:
                reset = await stream.next()
                assert (reset["event"], msgspec.json.decode(reset["data"])) == ("reset", {"next_seq": end + 1})
                (task,) = await submit(rig)
                assert await stream.take(1) == [task["seq"]]
            for bad in ("x", "-1", "1.5", "9" * 30, "٣"):
                headers = {"Accept": "text/event-stream", "Last-Event-ID": bad}
                status, body, _ = await rig.call("GET", "/api/v1/events", headers=headers)
                assert (status, body["code"]) == (400, "bad-header")
            headers = {"Accept": "text/event-stream"}
            status, body, _ = await rig.call("GET", "/api/v1/events?host=web1", headers=headers)
            assert (status, body["code"]) == (400, "bad-query")

    asyncio.run(scenario())


def test_silence_is_filled_with_heartbeats_also_while_others_are_busy(home: Home) -> None:
    async def scenario() -> None:
        options = Options(port=0, stream_limits=StreamLimits(heartbeat_seconds=0.05))
        async with gateway_on(home, options) as rig:
            (task,) = await submit(rig)
            async with rig.stream(f"/api/v1/tasks/{task['task_id']}/events") as stream:
                await stream.take(1)
                writing = asyncio.create_task(submit(rig, 60))
                with pytest.raises(TimeoutError):
                    await stream.next(0.4)
                assert stream.comments >= 3
                await writing

    asyncio.run(scenario())


def test_streams_are_counted_and_limited(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home, Options(port=0, stream_limits=StreamLimits(streams_max=1))) as rig:
            async with rig.stream("/api/v1/events"):
                await until(lambda: rig.gateway.streams.open == 1)
                status, body, _ = await rig.call("GET", "/api/v1/events", headers={"Accept": "text/event-stream"})
                assert (status, body["code"]) == (503, "too-many-streams")
            await submit(rig, 2)
            await until(lambda: rig.gateway.streams.open == 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("how", ["takes nothing", "falls out of the ring"])
def test_a_slow_client_is_dropped_and_others_go_on(home: Home, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_seconds = 0.5
    if how == "falls out of the ring":
        monkeypatch.setattr(limits, "TAIL_EVENTS_MAX", 4)
        write_seconds = 60.0

    async def scenario() -> None:
        small = StreamLimits(write_seconds_max=write_seconds, send_buffer_bytes=8_192)
        async with gateway_on(home, Options(port=0, stream_limits=small)) as rig:
            start = await last_seq(rig)
            slow = await stalled_client(rig)
            await until(lambda: rig.gateway.streams.open == 1)
            async with rig.stream("/api/v1/events", start) as quick:
                sent: list[int] = []
                for _ in range(40):
                    (task,) = await submit(rig, payload={"kind": "shell", "argv": ["x" * 60_000]})
                    sent.append(task["seq"])
                    assert await quick.take(1) == sent[-1:]
                if how == "falls out of the ring":
                    slow.settimeout(5)
                    await asyncio.to_thread(drain, slow)
                await until(lambda: rig.gateway.streams.dropped == 1)
                await until(lambda: rig.gateway.streams.open == 1)
            slow.close()

    asyncio.run(scenario())


async def stalled_client(rig: Rig) -> socket.socket:
    """Return a connection that asked for the whole log and does not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    host, port = rig.url.removeprefix("http://").split(":")
    await asyncio.to_thread(client.connect, (host, int(port)))
    client.sendall(
        f"GET /api/v1/events HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {rig.token}\r\n\r\n".encode()
    )
    return client


def drain(client: socket.socket) -> None:
    """Read until the other side closes, or nothing more comes."""
    try:
        while client.recv(65_536):
            pass
    except OSError:
        pass


def test_raw_pages_of_the_log_are_whole_and_in_order(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            await submit(rig, 30)
            end = await last_seq(rig)
            seen: list[int] = []
            next_seq: int | None = 0
            while next_seq is not None:
                _, body = await rig.get(f"/api/v1/log?from_seq={next_seq}&limit=7")
                assert len(body["data"]["items"]) <= 7
                seen += [item["seq"] for item in body["data"]["items"]]
                next_seq = body["data"]["next_seq"]
            assert seen == list(range(1, end + 1))
            _, beyond = await rig.get(f"/api/v1/log?from_seq={end + 1}")
            assert beyond["data"] == {"items": [], "next_seq": None}

    asyncio.run(scenario())


def test_a_page_of_the_log_ends_where_it_grows_too_large_or_too_long(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOG_ANSWER_BYTES_MAX", 3_000)
    monkeypatch.setattr(limits, "LOG_SCAN_MAX", 10)

    async def scenario() -> None:
        async with gateway_on(home) as rig:
            start = await last_seq(rig) + 1
            (task,) = await submit(rig, name="n" * 150)
            await submit(rig, 30, name="n" * 150)
            _, body = await rig.get(f"/api/v1/log?from_seq={start}&limit=500")
            assert 1 <= len(body["data"]["items"]) < 15
            assert body["data"]["next_seq"] == start + len(body["data"]["items"])
            _, body = await rig.get(f"/api/v1/log?from_seq={start}&limit=500&task_id={task['task_id']}")
            assert [item["seq"] for item in body["data"]["items"]] == [task["seq"]]
            assert start < body["data"]["next_seq"] < await last_seq(rig)

    asyncio.run(scenario())


def test_an_event_that_cannot_be_read_is_shown_as_such_and_does_not_end_the_stream(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            bus = await connect(home, "dispatcher")
            bodies = (b"\xffno json\n\ndata: x", b'{"type":"a\\nid: 9",\n"x":\r\n1}', b"null", b'{"type":"fleetlog.later.v9"}')
            async with rig.stream("/api/v1/events") as stream:
                for number, body in enumerate(bodies):
                    batch = Batch(drafts=(Draft(subject="evt.dispatch", body=body),), message_id=f"{now_ms()}-{number}")
                    seq = await bus.append(batch)
                    found = await stream.next()
                    assert int(found["id"]) == seq
                    assert msgspec.json.decode(found["data"])["seq"] == seq
                    assert "\n" not in found["event"]
                (task,) = await submit(rig)
                assert await stream.take(1) == [task["seq"]]
            status, body, _ = await rig.call("GET", f"/api/v1/log?from_seq={task['seq'] - 4}")
            assert (status, len(body["data"]["items"])) == (200, 5)
            await bus.close()

    asyncio.run(scenario())
