"""Append for writers that decide nothing: many at once share one atomic batch, so a hundred share its disk syncs.

A few go one by one, which takes less time than one batch.

While one batch is in flight what arrives waits, and goes into the next. An unsettled batch is sent again byte for
byte, never cut differently; when the bus then says that it has it already, the log is read forward from where the
batch was first sent, and every caller gets its sequence.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import msgspec

from fleetlog_runtime.pure.bus import AppendRefused, AppendUnsettled, Batch, Bus, BusFull, Draft, NoAnswer
from fleetlog_runtime.pure.split import APART_MAX
from fleetlog_schemas import subjects
from fleetlog_schemas.limits import BATCH_MESSAGES_MAX

GROUP_BYTES_MAX = 8 * 1024**2
"""Bytes of appends that share a batch, unless a single one is larger: a batch must reach the bus within its time."""
RESEND_SECONDS = 0.2
"""Before an unsettled batch is sent again; the append itself has waited for its own time limit."""
REFUSED_MAX = 25
"""So often a batch that may be stored is refused and not found before that counts: some seconds, as long as an election."""
SCAN_MESSAGES = 500


class TooMany(Exception):
    """More appends wait than are allowed: try again in a moment. Nothing was stored."""


class _Waiting(msgspec.Struct):
    drafts: tuple[Draft, ...]
    done: asyncio.Future[int]


class Publisher:
    """One writer of the log; `run` does the work."""

    def __init__(self, bus: Bus, waiting_max: int, log: Any) -> None:
        """Write through *bus*, with at most *waiting_max* appends waiting."""
        self._bus = bus
        self._waiting_max = waiting_max
        self._log = log
        self._waiting: list[_Waiting] = []
        self._arrived = asyncio.Event()
        self._after_seq: int | None = None
        """Everything stored from here on was stored after the batch in flight was first sent."""

    async def append(self, *drafts: Draft) -> int:
        """Store these together, in order, and return the sequence of the last.

        Raises:
            TooMany: the queue is full.
            BusFull: no room, or a message too large.
            AppendRefused: the bus will not take it.
        """
        if len(self._waiting) >= self._waiting_max:
            raise TooMany(f"{self._waiting_max} appends wait for the bus already")
        waiting = _Waiting(drafts, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        return await waiting.done

    async def run(self) -> None:
        """Send batches, one at a time, for ever."""
        try:
            while True:
                await self._arrived.wait()
                await self._send(self._next_group())
                if not self._waiting:
                    self._arrived.clear()
        finally:
            for one in self._waiting:
                one.done.cancel()

    def _next_group(self) -> list[_Waiting]:
        messages, size, count = 0, 0, 0
        for one in self._waiting:
            messages += len(one.drafts)
            size += sum(len(draft.body) for draft in one.drafts)
            if count and (messages > BATCH_MESSAGES_MAX or size > GROUP_BYTES_MAX):
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    async def _send(self, group: list[_Waiting]) -> None:
        drafts = tuple(draft for one in group for draft in one.drafts)
        if len(group) > 1 and len(drafts) <= APART_MAX:
            for one in group:
                await self._send([one])
            return
        try:
            seq = await self._settle(Batch(drafts=drafts, message_id=uuid.uuid4().hex))
        except (BusFull, AppendRefused) as error:
            if len(group) > 1:
                # One that does not fit must not take the others with it.
                for one in group:
                    await self._send([one])
                return
            if not group[0].done.done():
                group[0].done.set_exception(error)
            return
        except asyncio.CancelledError:
            for one in group:
                one.done.cancel()
            raise
        seq -= len(drafts)
        for one in group:
            seq += len(one.drafts)
            if not one.done.done():
                one.done.set_result(seq)

    async def _settle(self, batch: Batch) -> int:
        """Store a batch and return its last sequence; a batch that may be stored is never given up."""
        uncertain, refused = False, 0
        while True:
            try:
                if self._after_seq is None:
                    self._after_seq = (await self._bus.state(subjects.EVENTS)).last_seq
                seq = await self._bus.append(batch)
            except (AppendUnsettled, NoAnswer) as error:
                uncertain = uncertain or isinstance(error, AppendUnsettled)
                self._log.warning("an append is unsettled and is sent again", error=str(error))
                await asyncio.sleep(RESEND_SECONDS)
                continue
            except AppendRefused:
                found = await self._find(batch) if uncertain else None
                if found is None:
                    refused += 1
                    if not uncertain or refused == REFUSED_MAX:
                        raise
                    # Several nodes may still be agreeing on what was sent first: refused already, and not stored yet.
                    await asyncio.sleep(RESEND_SECONDS)
                    continue
                seq = found
            self._after_seq = seq
            return seq

    async def _find(self, batch: Batch) -> int | None:
        """Return the last sequence of a batch that is in the log already."""
        assert self._after_seq is not None
        next_seq = self._after_seq + 1
        while True:
            try:
                some = await self._bus.get_range(subjects.EVENTS, next_seq, SCAN_MESSAGES)
            except NoAnswer:
                await asyncio.sleep(RESEND_SECONDS)
                continue
            for stored in some:
                if stored.body == batch.drafts[0].body and stored.subject == batch.drafts[0].subject:
                    return stored.seq + len(batch.drafts) - 1
            if not some:
                return None
            next_seq = some[-1].seq + 1
