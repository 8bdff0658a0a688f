"""A server that ran alone becomes the first of three nodes, with its whole log in the same sequences."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_runtime.pure.cluster import parse_cluster
from fleetlog_runtime.shell import put_back_again
from fleetlog_runtime.shell.backup import BackupError, chain_of, create
from fleetlog_runtime.shell.home import Home, create_home
from fleetlog_runtime.shell.key_bundle import export_keys, import_keys
from fleetlog_runtime.shell.nats_snapshot import PUT_BACK_BYTES, StreamCopy, put_back
from fleetlog_runtime.shell.restore import restore
from fleetlog_runtime.shell.supervisor import NatsServer
from fleetlog_testing.cluster import NAMES, free_ports
from fleetlog_testing.homes import connected

BATCHES = 40


def test_a_server_that_ran_alone_becomes_the_first_of_three_nodes_with_its_whole_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a restore that is interrupted once, after the cluster took the name and the first piece
    begun: list[str] = []

    async def interrupted(client: Client, copy: StreamCopy, path: Path, bytes_max: int, replicas: int = 1) -> dict[str, Any]:
        begun.append(copy.name)
        if begun.count(copy.name) > 1 or copy.name != "EVENTS":
            return await put_back(client, copy, path, bytes_max, replicas)
        piece = (await asyncio.to_thread(path.read_bytes))[:PUT_BACK_BYTES]
        request = {"config": copy.config | {"max_bytes": bytes_max, "num_replicas": replicas}, "state": copy.state}
        reply = await client.request(f"$JS.API.STREAM.RESTORE.{copy.name}", json.dumps(request).encode(), timeout=60)
        await client.request(json.loads(reply.data)["deliver_subject"], piece, timeout=60)
        await client.close()
        raise TimeoutError

    monkeypatch.setattr(put_back_again, "put_back", interrupted)
    monkeypatch.setattr(put_back_again, "ABANDONED_SECONDS", 6.0)
    asyncio.run(alone_and_then_three(tmp_path))
    assert begun.count("EVENTS") >= 4, "interrupted; its name was taken; again; and once more from the backup"
    assert "restoring EVENTS was interrupted (EVENTS: the bus refused: stream name already in use" in capsys.readouterr().out


async def alone_and_then_three(folder: Path) -> None:
    # given a log whose copy is so small that one chunk of it holds thousands of messages
    home = create_home(folder / NAMES[0])
    alone = NatsServer(home)
    await alone.start()
    async with connected(home, "dispatcher") as bus:
        for number in range(BATCHES):
            drafts = tuple(Draft("evt.dispatch", b"x" * 300) for _ in range(200))
            last_seq = await bus.append(Batch(drafts=drafts, message_id=f"{number}"))
        before = await chain_of(bus, 1, last_seq)
    await alone.stop()
    # when
    export_keys(home.path, folder / "keys.json")
    homes = [home, *(import_keys(folder / name, folder / "keys.json") for name in NAMES[1:])]
    nodes = three(homes)
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        # then every node has it
        for one in homes:
            async with connected(one, "dispatcher") as bus:
                assert (await bus.state("EVENTS")).last_seq == last_seq
                assert await chain_of(bus, 1, last_seq) == before
        # and a backup made on any of them holds it too, and makes a server alone again
        await create(homes[1], folder / "saved", "test", print, output=True, agents=False)
        restored = await restore(folder / "saved", folder / "alone", print)
        assert restored.last_seq == last_seq
    finally:
        await asyncio.gather(*(node.stop() for node in nodes))
    with pytest.raises(BackupError, match="on a node that runs"):
        await create(homes[1], folder / "cold", "test", print, output=False, agents=False)


def three(homes: list[Home]) -> list[NatsServer]:
    """Return the nodes, each with the same list."""
    ports = free_ports(2 * len(homes))
    members = ", ".join(f"{home.path.name}=127.0.0.1:{ports.pop()}:{ports.pop()}" for home in homes)
    return [NatsServer(home, cluster=parse_cluster(members, home.path.name), say=print) for home in homes]
