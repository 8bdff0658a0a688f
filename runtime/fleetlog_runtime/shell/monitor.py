"""Ask a nats-server's own monitoring, which listens on loopback only: is it up, whom does it see, does it have a leader."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec

from fleetlog_runtime.pure.cluster import Cluster

ANSWER_SECONDS_MAX = 2.0
ANSWER_BYTES_MAX = 16 * 1024**2
"""Thousands of connections are listed in a few megabytes."""


class View(msgspec.Struct, frozen=True):
    """The cluster as one node sees it."""

    connected: frozenset[str] = frozenset()
    """Other nodes that are connected to it."""
    leader: str = ""
    """Who leads the nodes, as far as it knows; empty while they have not agreed on anyone."""


async def get(port: int, path: str) -> tuple[int, bytes]:
    """Return status and body of one page; status 0 when nothing answers in time."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=ANSWER_BYTES_MAX)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                await writer.drain()
                answer = await reader.read(-1)
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), body


async def serves(port: int, cluster: Cluster | None) -> bool:
    """Ask its health check: a node alone has read its streams, one of a cluster is up (the streams come with the others)."""
    status, _ = await get(port, "/healthz?js-server-only=true" if cluster else "/healthz")
    return status == 200


async def view(port: int) -> View:
    """Return the cluster as the node with this monitoring sees it."""
    routes, storage = await asyncio.gather(get(port, "/routez"), get(port, "/jsz"))
    return View(
        connected=frozenset(route["remote_name"] for route in _json(routes).get("routes") or () if "remote_name" in route),
        leader=_json(storage).get("meta_cluster", {}).get("leader", ""),
    )


def _json(answer: tuple[int, bytes]) -> dict[str, Any]:
    status, body = answer
    if status != 200:
        return {}
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
