"""The bus goes away and comes back: nothing acknowledged is lost, readers go on without gap or repeat."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid

import pytest
from structlog.testing import capture_logs

from fleetlog_runtime.pure.bus import AppendUnsettled, Batch, Draft, NotSent
from fleetlog_runtime.shell import supervisor
from fleetlog_runtime.shell.log_copies import compare_log
from fleetlog_runtime.shell.publisher import Publisher
from fleetlog_runtime.shell.supervisor import NatsServer, ServerError
from fleetlog_testing.homes import connected
from fleetlog_testing.nats import flip_a_bit, running_server
from fleetlog_testing.waiting import until


async def kill(server: NatsServer) -> None:
    os.kill(server.pid, signal.SIGKILL)
    await until(lambda: server.pid == 0)


async def follow(bus, found: list) -> None:
    async for chunk in bus.read("EVENTS", 1):
        found += chunk


def test_a_server_killed_during_appends_and_reads_loses_nothing_acknowledged_and_readers_go_on(tmp_path):
    async def scenario():
        async with (
            running_server(tmp_path) as server, connected(server.home, "dispatcher", append_seconds=1) as writer,
            connected(server.home, "reporter") as reader,
        ):
            watching = asyncio.create_task(server.watch())
            found: list = []
            reading = asyncio.create_task(follow(reader, found))
            acknowledged: dict[bytes, int] = {}
            for round_number in range(3):
                for number in range(60):
                    body = b"%d-%d" % (round_number, number)
                    drafts = tuple(Draft("evt.dispatch", body + b".%d" % index) for index in range(1 + number % 3))
                    batch = Batch(drafts=drafts, message_id=uuid.uuid4().hex)
                    if number == 20:
                        os.kill(server.pid, signal.SIGKILL)
                    while True:
                        try:
                            acknowledged[drafts[-1].body] = await writer.append(batch)
                        except AppendUnsettled:
                            continue
                        except Exception as error:
                            # Sent again after the first copy was stored: it is in the log.
                            assert "duplicate" in str(error), error
                        break
            last_seq = (await writer.state("EVENTS")).last_seq
            await until(lambda: found and found[-1].seq == last_seq, 30)
            assert [stored.seq for stored in found] == list(range(1, last_seq + 1))
            bodies = [stored.body for stored in found]
            assert len(set(bodies)) == len(bodies) == 3 * 120
            by_seq = {stored.seq: stored.body for stored in found}
            assert all(by_seq[seq] == body for body, seq in acknowledged.items())
            reading.cancel()
            watching.cancel()

    asyncio.run(scenario())


def test_while_the_bus_is_away_nothing_is_sent_and_appends_say_so(tmp_path):
    async def scenario():
        ups: list[bool] = []
        async with (
            running_server(tmp_path) as server, connected(server.home, "dispatcher", append_seconds=0.3) as bus,
        ):
            bus._on_connected = ups.append
            await kill(server)
            await until(lambda: not bus.is_connected)
            with pytest.raises(NotSent):
                await bus.append(Batch(drafts=(Draft("evt.dispatch", b"never"),), message_id="never"))
            await bus.publish("cmd.nobody", b"lost")
            assert bus.dropped == 1
            server._unlock()
            await server.start()
            await until(lambda: bus.is_connected)
            assert await bus.append(Batch(drafts=(Draft("evt.dispatch", b"first"),), message_id="m")) == 1
            assert ups == [False, True]

    asyncio.run(scenario())


def test_a_publisher_settles_every_append_across_a_killed_server(tmp_path):
    async def scenario():
        async with (
            running_server(tmp_path) as server, connected(server.home, "gateway", append_seconds=1) as bus,
        ):
            publisher = Publisher(bus, 10_000, _Quiet())
            running = asyncio.create_task(publisher.run())
            watching = asyncio.create_task(server.watch())
            results: dict[bytes, int] = {}

            async def put(number: int) -> None:
                body = b"%d" % number
                results[body] = await publisher.append(Draft("evt.request", body))

            tasks = [asyncio.create_task(put(number)) for number in range(500)]
            await until(lambda: results)
            os.kill(server.pid, signal.SIGKILL)
            tasks += [asyncio.create_task(put(number)) for number in range(500, 1000)]
            async with asyncio.timeout(30):
                await asyncio.gather(*tasks)
            stored = await bus.get_range("EVENTS", 1, 2000)
            assert {one.body: one.seq for one in stored} == results
            assert len(stored) == 1000
            running.cancel()
            watching.cancel()

    asyncio.run(scenario())


class _Quiet:
    def warning(self, *_args: object, **_more: object) -> None:
        """Say nothing."""


def test_a_second_server_on_the_same_folder_is_refused_and_the_first_goes_on(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server:
            second = NatsServer(server.home)
            with pytest.raises(ServerError, match="already runs"):
                await second.start()
            async with connected(server.home, "operator") as bus:
                assert (await bus.state("EVENTS")).last_seq == 0

    asyncio.run(scenario())


def test_a_server_that_is_hit_again_while_it_starts_again_is_started_until_it_serves(tmp_path, monkeypatch):
    async def scenario():
        async with running_server(tmp_path) as server:
            hits, served = [signal.SIGKILL, signal.SIGTERM], asyncio.Event()
            until_ready = server._until_ready

            async def hit_again():
                if hits:
                    os.kill(server.pid, hits.pop())
                    await until(lambda: server.pid == 0)
                await until_ready()
                served.set()

            monkeypatch.setattr(server, "_until_ready", hit_again)
            watching = asyncio.create_task(server.watch())
            with capture_logs() as logs:
                await kill(server)
                async with asyncio.timeout(60):
                    await served.wait()
                async with connected(server.home, "operator") as bus:
                    assert (await bus.state("EVENTS")).last_seq == 0
            assert [line["event"] for line in logs].count("nats-server ended while it started") == 2
            watching.cancel()

    asyncio.run(scenario())


def test_a_server_that_always_ends_while_it_starts_again_ends_the_watch_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "RESTART_TRIES_MAX", 2)

    async def scenario():
        async with running_server(tmp_path) as server:
            (server.home.path / "nats" / "server.conf").unlink()
            monkeypatch.setattr(supervisor, "server_config", lambda *_, **__: "nonsense {")
            watching = asyncio.create_task(server.watch())
            await kill(server)
            with pytest.raises(ServerError, match="ended at once"):
                await watching

    asyncio.run(scenario())


def test_a_server_left_behind_by_a_killed_supervisor_is_ended_and_replaced(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as first:
            async with connected(first.home, "dispatcher") as bus:
                await bus.append(Batch(drafts=(Draft("evt.dispatch", b"kept"),), message_id=""))
            left_behind = first.pid
            # What the kernel does when the supervising process dies: its own locks go, the server's stays.
            first._unlock()
            second = NatsServer(first.home)
            with capture_logs() as logs:
                await second.start()
            try:
                assert any("left behind" in line["event"] for line in logs)
                assert second.pid != left_behind
                assert first.pid == 0
                async with connected(first.home, "operator") as bus:
                    assert (await bus.get_last("EVENTS", "evt.dispatch")).body == b"kept"
            finally:
                await second.stop()

    asyncio.run(scenario())


def test_a_server_that_cannot_start_says_why(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server:
            other = tmp_path / "other"
            from fleetlog_runtime.shell.home import create_home

            taken = NatsServer(create_home(other), port=server.port)
            with pytest.raises(ServerError, match="address already in use"):
                await taken.start()

    asyncio.run(scenario())


def test_the_port_is_kept_over_restarts_so_that_agents_find_the_bus_again(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server:
            port = server.port
            await server.stop()
            again = NatsServer(server.home)
            await again.start()
            assert again.port == port
            await again.stop()

    asyncio.run(scenario())


def test_beyond_loopback_the_bus_speaks_only_tls_with_a_certificate_of_our_authority(tmp_path):
    async def scenario():
        async with running_server(tmp_path, listen="0.0.0.0") as server:
            assert server.url.startswith("tls://127.0.0.1:")
            async with connected(server.home, "operator") as bus:
                assert (await bus.state("EVENTS")).last_seq == 0
            from fleetlog_runtime.shell.nats_bus import ConnectFailed, NatsBus

            with pytest.raises(ConnectFailed):
                # Without the authority the certificate is not trusted.
                await NatsBus.connect(server.url, server.home.creds_path("operator"), "operator")

    asyncio.run(scenario())


def test_a_message_whose_bytes_were_damaged_on_the_only_disk_comes_as_unreadable_and_with_an_alarm(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server, connected(server.home, "dispatcher") as writer:
            for number in range(20):
                await writer.append(Batch(drafts=(Draft("evt.dispatch", b"body %03d" % number),), message_id=""))
            home = server.home
        flip_a_bit(home.path / "nats", b"body 007")
        with capture_logs() as said:
            async with running_server(tmp_path) as server, connected(server.home, "reporter") as reader:
                found: list = []
                reading = asyncio.create_task(follow(reader, found))
                await until(lambda: len(found) == 20)
                reading.cancel()
                ranged = await reader.get_range("EVENTS", 1, 100)
                whole = await compare_log(reader)
        assert [one.seq for one in found] == list(range(1, 21))
        assert [one.seq for one in found if one.body == b""] == [8]
        assert found[8].body == b"body 008"
        assert [one.seq for one in ranged] == [seq for seq in range(1, 21) if seq != 8]
        assert [(fault.seq, fault.what) for fault in whole.faults] == [(8, "lacks it")]
        alarms = {line["event"] for line in said if line.get("alarm")}
        assert "a message of the log is on no copy and is passed over" in alarms

    asyncio.run(scenario())
