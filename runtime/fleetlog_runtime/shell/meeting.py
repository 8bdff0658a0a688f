"""What a node does before it serves: wait for the others, and see to it that the streams are there.

The first node of the list makes the streams, with the sizes that all nodes got with the keys; the others wait until
they exist. Nothing here gives up: a cluster starts when its nodes are there, and until then each of them says whom it
waits for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from fleetlog_runtime.pure.cluster import Cluster, Node
from fleetlog_runtime.shell import growing, monitor
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.streams import StreamError, ensure_streams, reservations, streams_exist

POLL_SECONDS = 0.1
SAY_SECONDS = 10.0
"""A wait that lasts is mentioned this often; the first time after a third of it, as elections take some seconds."""

Say = Callable[[str], None]


class Waiting:
    """Says what is waited for, now and then."""

    def __init__(self, say: Say) -> None:
        """Speak through *say*."""
        self._say = say
        self._log = structlog.get_logger("nats-server")
        self._due = asyncio.get_running_loop().time() + SAY_SECONDS / 3

    def for_what(self, text: str) -> None:
        """Say *text*, unless something was said a moment ago."""
        now = asyncio.get_running_loop().time()
        if now >= self._due:
            self._due = now + SAY_SECONDS
            self._say(text)
            self._log.warning("waiting", reason=text)


async def meet(port: int, cluster: Cluster, say: Say, alive: Callable[[], None]) -> None:
    """Wait until a majority of nodes has agreed on who leads; *alive* raises when there is nothing to wait for."""
    waiting = Waiting(say)
    while True:
        alive()
        seen = await monitor.view(port)
        if seen.leader:
            return
        absent = [node for node in cluster.others if node.name not in seen.connected]
        if len(seen.connected) + 1 < cluster.majority:
            waiting.for_what(
                f"node {cluster.own.name} is alone: waiting for {_listed(absent)}"
                f" ({cluster.majority} of {len(cluster.nodes)} nodes must be up)"
            )
        else:
            waiting.for_what("waiting for the nodes to agree on who leads" + (f"; absent: {_listed(absent)}" if absent else ""))
        await asyncio.sleep(POLL_SECONDS)


async def provide_streams(
    home: Home, connect: Callable[[], Awaitable[Client]], cluster: Cluster, say: Say, alive: Callable[[], None]
) -> None:
    """Make the streams on every node, or wait until the first node has made them."""
    waiting = Waiting(say)
    said: set[str] = set()

    def once(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    while True:
        alive()
        try:
            client = await connect()
            try:
                if cluster.first:
                    await growing.restore(home, client, len(cluster.nodes), once)
                    await ensure_streams(client, reservations(home), len(cluster.nodes))
                    return
                if await streams_exist(client):
                    return
                waiting.for_what(f"waiting for {_listed([cluster.nodes[0]])} to make the streams")
            finally:
                await client.close()
        except StreamError as error:
            if error.refused:
                raise
            waiting.for_what(f"waiting for the nodes: {error}; the first start needs all {len(cluster.nodes)} of them")
        except (NatsError, OSError, TimeoutError) as error:
            waiting.for_what(f"waiting for the streams to have a leader: {str(error) or type(error).__name__}")
        await asyncio.sleep(POLL_SECONDS)


def _listed(nodes: list[Node]) -> str:
    return ", ".join(f"{node.name} ({node.address})" for node in nodes)
