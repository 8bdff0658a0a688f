"""A node that is cut off from the majority sends its clients away: they would wait there for answers that cannot come.

The server goes on to take connections and to answer pings while nothing can be stored and no push arrives. So a node
that has not seen a majority for a while ends the connections of its clients, who then try another node; whoever
reaches only this one comes back, and is none the worse.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from fleetlog_runtime.pure.cluster import Cluster
from fleetlog_runtime.shell import monitor

LOOK_SECONDS = 1.0
ALONE_LOOKS = 3
"""So many looks in a row: a route that is set up anew is back by then."""
AGAIN_SECONDS = 5.0
"""Whoever came back is sent away again after this."""
CLIENTS_MAX = 100_000
"""As many as a node takes."""


async def send_away(
    port: Callable[[], int], cluster: Cluster, connect: Callable[[], Awaitable[Client]]
) -> None:
    """Look for ever, at the monitoring on *port*; *connect* gives a connection of the system account."""
    log = structlog.get_logger("nats-server")
    alone = 0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        answers = await monitor.serves(port(), cluster)
        seen = await monitor.view(port())
        cut_off = answers and len(seen.connected) + 1 < cluster.majority
        alone = alone + 1 if cut_off else 0
        if alone < ALONE_LOOKS:
            continue
        try:
            count = await _end_connections(port(), connect)
        except (NatsError, OSError, TimeoutError, ValueError, KeyError) as error:
            log.warning("cut off, and clients could not be sent away", error=str(error) or type(error).__name__)
        else:
            log.warning("cut off from the other nodes: clients are sent to them", clients=count)
        await asyncio.sleep(AGAIN_SECONDS)


async def _end_connections(port: int, connect: Callable[[], Awaitable[Client]]) -> int:
    client = await connect()
    try:
        _, body = await monitor.get(port, f"/connz?limit={CLIENTS_MAX}")
        listed = json.loads(body)
        numbers = [one["cid"] for one in listed["connections"] if one["cid"] != client.client_id]
        kick, nobody = f"$SYS.REQ.SERVER.{listed['server_id']}.KICK", client.new_inbox()
        for number in numbers:
            # Without a reply subject the server does nothing.
            await client.publish(kick, json.dumps({"cid": number}).encode(), reply=nobody)
        await client.flush()
        return len(numbers)
    finally:
        await client.close()
