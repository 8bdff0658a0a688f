"""See a cluster as a whole, from any of its nodes: which nodes answer, and how far each copy of each stream is."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from fleetlog_runtime.pure.bus import NoAnswer, NotFound
from fleetlog_runtime.shell.home import Home, admin_credentials
from fleetlog_runtime.shell.nats_bus import NatsBus, connect_user
from fleetlog_schemas import subjects

ANSWER_SECONDS = 1.5
"""How long nodes may take to say that they are there; there is no other way to know that one is not."""
STREAMS = (*(stream.name for stream in subjects.STREAMS), f"OBJ_{subjects.BLOBS}")
_PING = "$SYS.REQ.SERVER.PING.JSZ"


class NodeState(msgspec.Struct, frozen=True):
    """One node that answered."""

    name: str
    on_disk: bool
    """Whether it acknowledges only what is on its disk."""
    version: str


class Copies(msgspec.Struct, frozen=True):
    """One stream and its copies, as its leader says."""

    stream: str
    leader: str
    """Empty when the stream has none: nothing can be stored there."""
    behind: dict[str, str] = {}
    """Nodes whose copy is not what the leader's is, and how so."""


async def nodes_of(home: Home) -> list[NodeState]:
    """Return the nodes that answer, by name. Raises ConnectFailed, HomeError."""
    bus = await NatsBus.connect(
        home.nats_urls(), admin_credentials(home, "account-sys"), "nodes", inbox_prefix="_INBOX_admin", tls_ca=home.tls_ca(),
        in_order=True,
    )
    found: dict[str, NodeState] = {}
    enough = asyncio.Event()

    async def heard(_subject: str, body: bytes, _reply: str) -> None:
        said: dict[str, Any] = json.loads(body)
        server, storage = said.get("server", {}), said.get("data", {}).get("config", {})
        state = NodeState(server.get("name", "?"), bool(storage.get("sync_always")), server.get("ver", "?"))
        found[state.name] = state
        if len(found) == len(home.nats_urls()):
            enough.set()

    try:
        await bus.subscribe("_INBOX_admin.nodes", heard)
        await bus.publish(_PING, b"", reply="_INBOX_admin.nodes")
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await enough.wait()
        except TimeoutError:
            pass  # some are away
    finally:
        await bus.close()
    return [found[name] for name in sorted(found)]


async def copies_of(home: Home) -> list[Copies]:
    """Return how the copies of every stream are. Raises ConnectFailed, HomeError."""
    bus = await connect_user(home, "operator", "copies")
    try:
        return list(await asyncio.gather(*(_copies(bus, stream) for stream in STREAMS)))
    finally:
        await bus.close()


async def _copies(bus: NatsBus, stream: str) -> Copies:
    try:
        cluster = (await bus.api(f"STREAM.INFO.{stream}", {})).get("cluster", {})
    except (NoAnswer, NotFound):
        return Copies(stream, "")
    behind = {}
    for copy in cluster.get("replicas") or ():
        if copy.get("offline"):
            behind[copy["name"]] = "is away"
        elif copy.get("lag"):
            behind[copy["name"]] = f"is {copy['lag']} behind"
        elif not copy.get("current"):
            behind[copy["name"]] = "is catching up"
    return Copies(stream, cluster.get("leader", ""), behind)
