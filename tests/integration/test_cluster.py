"""Three nodes: one is killed, stopped, cut off, emptied or damaged in the middle of work, and nothing is lost or repeated."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Awaitable, Iterator

import pytest

from fleetlog.client import Client
from fleetlog_runtime.shell.nats_bus import ConnectFailed, NatsBus
from fleetlog_schemas.view import task_view
from fleetlog_testing.cluster import TASKS_AT_ONCE, Cluster, leading_pid, load
from fleetlog_testing.fleet import END_S_MAX
from fleetlog_testing.homes import connected
from fleetlog_testing.nats import flip_a_bit
from fleetlog_testing.waiting import until

HOSTS = ("web01", "web02", "web03", "web04", "web05", "web06")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    running = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(running.start(*HOSTS))
        yield running
    finally:
        running.close()


def test_what_was_acknowledged_survives_the_node_that_led_the_log(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with load(cluster) as tasks:
            first = await cluster.leader("EVENTS")
            before = len(tasks)
            with cluster.without(first) as server:
                server.lose()
                await until(lambda: len(tasks) > before + TASKS_AT_ONCE, END_S_MAX, "work goes on without that node")
                assert await cluster.leader("EVENTS") not in ("", first)
                await server.start()
        await cluster.in_step()
        cluster.verify_projection()

    asyncio.run(scenario())


def test_another_dispatcher_takes_over_from_one_that_was_killed_or_stopped(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with load(cluster) as tasks:
            for number in (signal.SIGKILL, signal.SIGSTOP):
                server, pid = await cluster.active()
                before = len(tasks)
                os.kill(pid, number)
                try:
                    async with connected(cluster.home, "operator") as bus:

                        async def successor(bus: NatsBus = bus, pid: int = pid) -> bool:
                            return await leading_pid(bus) not in (0, pid)

                        await until(successor, END_S_MAX, "another dispatcher leads")
                    await until(lambda before=before: len(tasks) > before + TASKS_AT_ONCE, END_S_MAX, "work goes on")
                finally:
                    if number == signal.SIGSTOP:
                        os.kill(pid, signal.SIGCONT)
                    else:
                        await server.restarted("dispatcher", pid)

    asyncio.run(scenario())


def test_a_node_that_stands_still_and_goes_on_loses_and_repeats_nothing(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with load(cluster) as tasks:
            still = await cluster.leader("EVENTS")
            before = len(tasks)
            with cluster.stopped(still):
                await until(lambda: len(tasks) > before + TASKS_AT_ONCE, END_S_MAX, "work goes on without that node")
        await cluster.in_step()
        cluster.verify_projection()

    asyncio.run(scenario())


def test_every_node_is_restarted_under_load_one_after_the_other(cluster: Cluster) -> None:
    async def scenario() -> None:
        async with load(cluster):
            for server in cluster.servers:
                with cluster.without(server.name):
                    assert await server.ended() == 0, server.said()
                    await server.start()
                await cluster.in_step()
        cluster.verify_projection()

    asyncio.run(scenario())


def test_a_node_that_lost_its_store_gets_everything_from_the_others(cluster: Cluster) -> None:
    def is_fetched(task_id: str) -> bool:
        return cluster.run("artifact", "get", task_id, "app", "--to", "-").stdout == "built\n"

    async def scenario() -> None:
        built = cluster.run("build", "-t", "web01", "--step", "echo built > app", "--artifact", "app")
        assert built.returncode == 0, built.stdout + built.stderr
        task_id = json.loads(cluster.run("show", "last", "-o", "json").stdout)["task_id"]
        async with load(cluster):
            await cluster.restart_emptied("b")
            await cluster.in_step()
        # Now the others may go: what the node got is all there is to work with.
        async with load(cluster):
            first = await cluster.leader("EVENTS")
            with cluster.without(first if first != "b" else "c") as server:
                server.lose()
                await until(lambda: asyncio.to_thread(is_fetched, task_id), END_S_MAX, "the artifact, which every node has")
                await server.start()
        await cluster.in_step()
        cluster.verify_projection()

    asyncio.run(scenario())


def test_a_revoked_host_is_refused_by_every_node_also_by_one_that_was_away(cluster: Cluster) -> None:
    async def scenario() -> None:
        host = cluster.join("gone")
        urls = {url.rsplit(":", 1)[1]: url for url in cluster.home.nats_urls()}
        assert len(urls) == len(cluster.servers)

        async def is_let_in(url: str) -> bool:
            try:
                bus = await NatsBus.connect(url, host.folder / "creds", "beside", inbox_prefix=f"_INBOX_{host.host_id}")
            except ConnectFailed:
                return False
            await bus.close()
            return True

        for url in urls.values():
            assert await is_let_in(url)
        with cluster.without("c") as server:
            await server.ended()
            cluster.gateway.post("/hosts/gone/revoke", {"reason": "sold"})
            away = server.home.nats_url()
            for url in urls.values():
                if url != away:
                    await until(lambda url=url: _not(is_let_in(url)), END_S_MAX, f"{url} refuses it")
            await server.start()
        await until(lambda: _not(is_let_in(away)), END_S_MAX, "the node that was away refuses it")
        cluster.hosts.pop("gone").end()

    asyncio.run(scenario())


async def _not(found: Awaitable[bool]) -> bool:
    return not await found


def test_a_bit_that_flips_in_one_copy_of_the_log_is_named_never_served_and_healed(cluster: Cluster) -> None:
    async def scenario() -> None:
        task_id = await cluster.submit(cluster.judge.command("true"))
        views = await cluster.ended(task_id)
        seq = next(record.seq for record in cluster.client.read_log() if task_id.encode() in bytes(record.event))
        with cluster.without("c") as server:
            assert await server.ended() == 0
            flip_a_bit(server.home.path / "nats" / "jetstream", task_id.encode())
            for folder in ("snapshots", "reporter"):
                shutil.rmtree(server.home.path / folder)
            # Its services read the whole log anew, from whatever copy they are given.
            await server.start()
            for _ in range(5):
                assert Client.over(server.gateway).show(task_id) == views[0]
                assert task_view(Client.over(server.gateway).replay(task_id).task) == views[0]
        await cluster.in_step()
        found = json.loads(cluster.run("verify", "log", "-o", "json").stdout)
        assert (found["equal"], found["faults"]) == (False, [{"node": "c", "seq": seq, "what": "lacks it"}])
        said = cluster.run("verify", "log")
        assert said.returncode == 1
        assert f"message {seq}: c lacks it" in said.stdout
        await cluster.restart_emptied("c")
        await cluster.in_step()
        assert json.loads(cluster.run("verify", "log", "-o", "json").stdout)["equal"]

    asyncio.run(scenario())
