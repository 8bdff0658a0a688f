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
from collections.abc import AsyncGenerator

import msgspec

from fleetlog_runtime.shell.archive import Known
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_runtime.shell.nats_client import RawHeaders
from fleetlog_runtime.shell.nats_pull import Position, Pull, PullLost
from fleetlog_schemas import subjects

PLACING_TRIES_MAX = 60
"""The server chooses the node that reads: with five nodes, one is missed so often once in a million times."""
SILENCE_SECONDS = 3.0
SILENCES_MAX = 3
"""A copy that said nothing for this long, to so many readers one after the other, has no more: what it still counts is
damaged. One reader alone may have been lost with an election, or its node may have been busy."""
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
    async with contextlib.AsyncExitStack() as stack:
        read = [Copy(bus, node, first_seq, last_seq) for node in nodes if node not in away]
        for copy in read:
            stack.push_async_callback(copy.close)
            await copy.advance()
        pruned_through = (await Known(bus).refresh()).pruned_through
        faults = await _compare(read, first_seq, last_seq, pruned_through)
    away += [copy.node for copy in read if copy.is_away]
    return Compared(
        sorted(copy.node for copy in read if not copy.is_away), sorted(away), first_seq, last_seq,
        [fault for fault in faults if fault.node not in away],
    )


class Copy:
    """The copy of one node, read message by message."""

    def __init__(self, bus: NatsBus, node: str, first_seq: int, last_seq: int) -> None:
        """Read it from *first_seq* through *last_seq*."""
        self.node = node
        self.head: tuple[int, bytes] | None = None
        """Sequence and digest of the message at which it stands; None at its end."""
        self.is_away = False
        """Whether its node stopped answering: then it says nothing about its copy."""
        self._bus, self._next_seq, self._last_seq = bus, first_seq, last_seq
        self._pull: Pull | None = None
        self._digests = self._read()

    async def advance(self) -> None:
        """Go to its next message."""
        self.head = await anext(self._digests, None)

    async def close(self) -> None:
        """Read no more."""
        await self._digests.aclose()
        if self._pull is not None:
            await self._pull.close()
        self._pull = None

    async def _read(self) -> AsyncGenerator[tuple[int, bytes]]:
        silences = 0
        while self._next_seq <= self._last_seq:
            if self._pull is None and not await self._open():
                self.is_away = True
                return
            assert self._pull is not None
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    messages = await self._pull.next()
            except (TimeoutError, PullLost):
                silences += 1
                if silences == SILENCES_MAX:
                    return
                former, self._pull = self._pull, None
                await former.close()
                continue
            silences = 0
            for message in messages:
                seq = Position(message.reply).seq
                if seq > self._last_seq:
                    return
                headers: object = message.headers
                raw = headers.raw if isinstance(headers, RawHeaders) else b""
                self._next_seq = seq + 1
                yield seq, hashlib.sha256(b"\0".join([message.subject.encode(), raw, message.data])).digest()

    async def _open(self) -> bool:
        for _ in range(PLACING_TRIES_MAX):
            pull, where = await self._bus.follow_copy(subjects.EVENTS, self._next_seq)
            if self.node in ("", where):
                self._pull = pull
                return True
            await pull.close()
        return False


async def _compare(copies: list[Copy], first_seq: int, last_seq: int, pruned_through: int) -> list[Fault]:
    faults: list[Fault] = []
    for seq in range(first_seq, last_seq + 1):
        found: dict[str, bytes] = {}
        for copy in copies:
            if copy.head is not None and copy.head[0] == seq:
                found[copy.node] = copy.head[1]
                await copy.advance()
        if not found and seq <= pruned_through:
            continue  # it is in the archive, whose files have checksums of their own
        right = Counter(found.values()).most_common(1)[0][0] if found else b""
        for copy in copies:
            if copy.is_away:
                continue
            if copy.node not in found:
                faults.append(Fault(copy.node, seq, "lacks it"))
            elif found[copy.node] != right:
                faults.append(Fault(copy.node, seq, "has other bytes"))
        if len(faults) >= FAULTS_MAX:
            break
    return faults[:FAULTS_MAX]
