"""Nodes come: a server that ran alone grows into three, and a machine that is gone is replaced. Buses only, no services."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_schemas import events, subjects
from fleetlog_testing.cluster import Cluster
from fleetlog_testing.homes import connected
from fleetlog_testing.server import Server

MESSAGES = 300


def test_what_a_server_stored_alone_is_on_every_node_after_it_has_grown(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start()
        assert f"restored {subjects.EVENTS} on 3 nodes, through {MESSAGES}" in cluster.servers[0].said()
        await cluster.in_step(*(stream.name for stream in subjects.STREAMS), f"OBJ_{subjects.BLOBS}")
        for server in cluster.servers:
            async with connected(server.home, "gateway") as bus:
                stored = await bus.get_range(subjects.EVENTS, 1, 2 * MESSAGES)
                assert [(one.seq, one.body, one.time_ms) for one in stored] == before
                assert await bus.get_blob(digest) == content
        compared = cluster.run("verify", "log")
        assert compared.stdout == f"log whole: sequences 1 to {MESSAGES}, compared on a, b, c\n"
        # What grew is a cluster like any other: its first node may go, and come back.
        with cluster.without("a") as server:
            assert await server.ended() == 0
            async with connected(cluster.home, "gateway") as bus:
                seq = await bus.append(Batch(drafts=(Draft(events.REQUEST, b"{}"),), message_id=""))
            assert seq == MESSAGES + 1
            argv = server.argv("up", "--no-services")
            refused = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, check=False)
            assert (refused.returncode, "name all nodes with --cluster" in refused.stderr) == (6, True), refused
            await server.start()
            assert "saved" not in server.said(), "it grows once"

    async def alone() -> tuple[str, list[tuple[int, bytes, int]]]:
        server = Server(tmp_path / "a", tmp_path / "alone.log", {}, "--no-services")
        await server.start()
        async with connected(server.home, "gateway") as bus:
            for number in range(MESSAGES):
                await bus.append(Batch(drafts=(Draft(events.REQUEST, b'{"n": %d}' % number),), message_id=""))
            found = await bus.get_range(subjects.EVENTS, 1, 2 * MESSAGES)
            kept = await bus.put_blob(content)
        assert await server.ended() == 0
        return kept, [(one.seq, one.body, one.time_ms) for one in found]

    content = bytes(range(256)) * 1024
    digest, before = asyncio.run(alone())
    assert len(before) == MESSAGES
    cluster = Cluster(tmp_path, "--no-services")
    try:
        asyncio.run(scenario(cluster))
    finally:
        cluster.close()
    assert (tmp_path / "a" / "nats" / "jetstream-alone").is_dir()


def test_a_node_that_is_gone_for_good_is_replaced_by_another_machine_under_its_name(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start()
        async with connected(cluster.home, "gateway") as bus:
            for number in range(MESSAGES):
                await bus.append(Batch(drafts=(Draft(events.REQUEST, b'{"n": %d}' % number),), message_id=""))
        await cluster.replace("c")
        await cluster.in_step()
        new = cluster.node("c")
        assert new.home.path == tmp_path / "new" / "c"
        async with connected(new.home, "gateway") as bus:
            assert len(await bus.get_range(subjects.EVENTS, 1, 2 * MESSAGES)) == MESSAGES
        compared = cluster.run("verify", "log")
        assert compared.stdout == f"log whole: sequences 1 to {MESSAGES}, compared on a, b, c\n"

    cluster = Cluster(tmp_path, "--no-services")
    try:
        asyncio.run(scenario(cluster))
    finally:
        cluster.close()
