"""Compare the copies of the log, node by node and message by message.

The server never hands out what it finds damaged, and says nothing of it: a damaged copy has holes. So every copy is
read from its own node, all in step, and each message is compared by sequence, subject, headers and bytes; what most
copies have is right. Nothing is kept in memory but one message's digest for each copy, so any log can be compared.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import AsyncIterator

import msgspec

from fleetlog_runtime.shell.archive import Known
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_runtime.shell.nats_client import RawHeaders
from fleetlog_runtime.shell.nats_pull import Position, Pull, PullLost
from fleetlog_schemas import subjects

PLACING_TRIES_MAX = 60
"""The server chooses the node that reads: with five nodes, one is missed so often once in a million times."""
SILENCE_SECONDS = 5.0
"""A copy that has said nothing for this long has no more: what it still counts is damaged."""
FAULTS_MAX = 100
"""Named at most; a node with more is to be emptied anyway."""


class Fault(msgspec.Struct, frozen=True):
    """One message that one copy lacks or has with other bytes."""

    node: str
    seq: int
    what: str
    """`lacks it` or `has other bytes`."""


class Compared(msgspec.Struct, frozen=True):
    """What was compared, and what was found."""

    nodes: list[str]
    absent: list[str]
    """Nodes whose copy could not be read: they are away."""
    first_seq: int
    last_seq: int
    faults: list[Fault]

    @property
    def equal(self) -> bool:
        """Whether every copy that could be read has every message, and the same."""
        return not self.faults


async def compare_log(bus: NatsBus) -> Compared:
    """Compare all copies of the log as they are now. Raises NoAnswer when the log has no leader."""
    info = await bus.api(f"STREAM.INFO.{subjects.EVENTS}", {})
    first_seq, last_seq = int(info["state"]["first_seq"]), int(info["state"]["last_seq"])
    cluster = info.get("cluster", {})
    copies = cluster.get("replicas") or []
    # One node alone has no name that matters.
    nodes = sorted([cluster.get("leader", ""), *(copy["name"] for copy in copies)]) if copies else [""]
    away = [copy["name"] for copy in copies if copy.get("offline")]
    if not info["state"]["messages"]:
        return Compared(nodes, away, first_seq, last_seq, [])
    readable = [node for node in nodes if node not in away]
    async with contextlib.AsyncExitStack() as stack:
        readers = {}
        for node in readable:
            pull = await _pull_from(bus, node, first_seq)
            if pull is None:
                away.append(node)
                continue
            stack.push_async_callback(pull.close)
            readers[node] = _digests(pull, last_seq)
        pruned_through = (await Known(bus).refresh()).pruned_through
        faults = await _compare(readers, first_seq, last_seq, pruned_through)
    return Compared(sorted(readers), sorted(away), first_seq, last_seq, faults)


async def _pull_from(bus: NatsBus, node: str, from_seq: int) -> Pull | None:
    for _ in range(PLACING_TRIES_MAX):
        pull, where = await bus.follow_copy(subjects.EVENTS, from_seq)
        if node in ("", where):
            return pull
        await pull.close()
    return None


async def _digests(pull: Pull, last_seq: int) -> AsyncIterator[tuple[int, bytes]]:
    """Yield sequence and digest of every message of one copy, through *last_seq*."""
    while True:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                messages = await pull.next()
        except (TimeoutError, PullLost):
            return
        for message in messages:
            position = Position(message.reply)
            if position.seq > last_seq:
                return
            headers: object = message.headers
            raw = headers.raw if isinstance(headers, RawHeaders) else b""
            yield position.seq, hashlib.sha256(b"\0".join([message.subject.encode(), raw, message.data])).digest()
            if position.seq == last_seq:
                return


async def _compare(
    readers: dict[str, AsyncIterator[tuple[int, bytes]]], first_seq: int, last_seq: int, pruned_through: int
) -> list[Fault]:
    faults: list[Fault] = []
    heads: dict[str, tuple[int, bytes] | None] = {node: await anext(reader, None) for node, reader in readers.items()}
    for seq in range(first_seq, last_seq + 1):
        found: dict[str, bytes] = {}
        for node, head in heads.items():
            if head is not None and head[0] == seq:
                found[node] = head[1]
                heads[node] = await anext(readers[node], None)
        if not found and seq <= pruned_through:
            continue  # it is in the archive, whose files have checksums of their own
        right = Counter(found.values()).most_common(1)[0][0] if found else b""
        for node in readers:
            if node not in found:
                faults.append(Fault(node, seq, "lacks it"))
            elif found[node] != right:
                faults.append(Fault(node, seq, "has other bytes"))
        if len(faults) >= FAULTS_MAX:
            break
    return faults[:FAULTS_MAX]
