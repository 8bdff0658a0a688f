"""Who is active: a message on `lead.<service>` that expires unless it is renewed; its sequence is the fencing number.

A leader counts its time from before each renewal was sent, by the boot clock, and stops leading well before the
message can have expired at the server; so two never lead at once unless a process was stopped in between, and then
the expected sequence on the service's own subject refuses what it appends. Whatever is uncertain is not leading.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec

from fleetlog_runtime.pure.bus import (
    AppendRefused,
    AppendUnsettled,
    Batch,
    Bus,
    BusFull,
    Draft,
    NoAnswer,
    NotFound,
)
from fleetlog_runtime.shell.clock import Clock, boot_ms
from fleetlog_schemas import subjects

MARGIN = 0.2
"""Part of the time to live that is given away for safety: transit, and the server's own granularity."""
POLL_PART = 0.1
"""A standby looks this often (part of the time to live): it takes over soon after a leader resigns."""
RESIGNED_TTL_SECONDS = 1
"""The least time to live that the server takes."""


class Holder(msgspec.Struct, frozen=True):
    """The body of a leadership message; an empty instance has resigned."""

    instance: str


class Leadership:
    """One instance's part in choosing who is active."""

    def __init__(self, bus: Bus, service: str, instance: str, clock: Clock, ttl_ms: int, skew_ms_max: int, log: Any) -> None:
        """Take part as *instance*; `run` does it."""
        self._bus = bus
        self._subject = subjects.leader(service)
        self._instance = instance
        self._clock = clock
        # The server counts whole seconds.
        self._ttl_s = max(1, round(ttl_ms / 1000))
        self._skew_ms_max = skew_ms_max
        self._log = log
        self._until_ms = 0
        self.number = 0
        """The fencing number: grows with every change of leadership; 0 while not leading."""
        self.changed = asyncio.Event()
        """Set whenever leading begins or ends."""
        self.known = asyncio.Event()
        """Set once it is known whether this instance leads or another does."""
        self._skewed = False

    @property
    def leading(self) -> bool:
        """Whether this instance surely leads now."""
        return self.number > 0 and boot_ms() < self._until_ms

    def seconds_left(self) -> float:
        """Return for how long leading is sure; 0 when it is not."""
        return max(0, self._until_ms - boot_ms()) / 1000 if self.number else 0.0

    async def run(self) -> None:
        """Take leadership when it is free, renew it, give it up when cancelled."""
        seq = 0
        try:
            while True:
                seq = await self._renew(seq) if seq else await self._acquire()
                if seq:
                    await asyncio.sleep(self._ttl_s / 3)
                else:
                    self._end()
                    # A machine whose clock is wrong does not try, and resign, twice a second.
                    await asyncio.sleep(self._ttl_s * (1 if self._skewed else POLL_PART))
        finally:
            if seq:
                await self._resign(seq)

    async def _acquire(self) -> int:
        try:
            found = await self._bus.get_last(subjects.LEADERS, self._subject)
            expected = found.seq if self._free(found.body) else None
        except NotFound:
            expected = 0
        except NoAnswer:
            return 0
        if expected is None:
            self.known.set()
            return 0
        sent_ms, sent_now_ms = boot_ms(), self._clock.now_ms()
        seq = await self._put(Holder(self._instance), expected, self._ttl_s)
        if not seq or not await self._clock_is_right(seq, sent_now_ms):
            return 0
        self._begin(seq, sent_ms)
        return seq

    def _free(self, body: bytes) -> bool:
        try:
            holder = msgspec.json.decode(body, type=Holder)
        except msgspec.MsgspecError:
            # The server's own marker of an expired message, or nothing that holds anything.
            return True
        return holder.instance in ("", self._instance)

    async def _renew(self, seq: int) -> int:
        sent_ms, sent_now_ms = boot_ms(), self._clock.now_ms()
        renewed = await self._put(Holder(self._instance), seq, self._ttl_s)
        if not renewed:
            return 0
        self._until_ms = self._deadline(sent_ms)
        # Whoever sets a machine's clock sets that of its bus. What was decided by the old one is decided anew.
        return renewed if await self._clock_is_right(renewed, sent_now_ms) else 0

    async def _put(self, holder: Holder, expected: int, ttl_s: int) -> int:
        """Write the message and return its sequence, or 0 when that failed or is not known in time."""
        draft = Draft(subject=self._subject, body=msgspec.json.encode(holder), headers={"Nats-TTL": f"{ttl_s}s"})
        batch = Batch(drafts=(draft,), message_id="", expected_subject=self._subject, expected_seq=expected)
        try:
            async with asyncio.timeout(self._ttl_s * (1 - MARGIN) * 2 / 3):
                return await self._bus.append(batch)
        except (AppendUnsettled, BusFull, TimeoutError):
            # It may be stored; then it expires, or this instance finds its own name and takes it again.
            return 0
        except AppendRefused:
            return 0

    async def _clock_is_right(self, seq: int, sent_now_ms: int) -> bool:
        """Compare this clock with the time at which the bus stored a message sent then; resign when they differ.

        A clock that is wrong is set by the wall clock: when that is right, leadership is taken again, by the right time.
        """
        try:
            async with asyncio.timeout(self._ttl_s * (POLL_PART if self.number else 1)):
                stored_ms = (await self._bus.get(subjects.LEADERS, seq)).time_ms
        except (NotFound, NoAnswer, TimeoutError):
            # Who leads goes on: nothing is known against it, and a renewal must not wait for this.
            return self.number > 0
        # It was stored between the sending and now, however long this process was stopped in between.
        skew_ms = self._skew_ms(stored_ms, sent_now_ms, self._clock.now_ms())
        if not skew_ms:
            self._skewed = False
            return True
        moved_ms = self._clock.set_anew()
        left_ms = self._skew_ms(stored_ms, sent_now_ms + moved_ms, self._clock.now_ms())
        if not left_ms:
            self._log.warning("this machine's clock was set: going on by it", moved_ms=moved_ms)
        elif not self._skewed:
            self._log.error(
                "this machine's clock is wrong: not leading until it is set", skew_ms=left_ms, skew_ms_max=self._skew_ms_max
            )
        self._skewed = bool(left_ms)
        await self._resign(seq)
        return False

    def _skew_ms(self, stored_ms: int, earliest_ms: int, latest_ms: int) -> int:
        """Return by how much a clock is ahead (or behind, less than 0) that showed these times before and after; 0: it is near."""
        skew_ms = max(0, earliest_ms - stored_ms) + min(0, latest_ms - stored_ms)
        return skew_ms if abs(skew_ms) > self._skew_ms_max else 0

    def _deadline(self, sent_ms: int) -> int:
        return sent_ms + int(self._ttl_s * 1000 * (1 - MARGIN))

    def _begin(self, seq: int, sent_ms: int) -> None:
        self.number = seq
        self._until_ms = self._deadline(sent_ms)
        self._log.info("leading", number=seq)
        self.known.set()
        self.changed.set()

    def _end(self) -> None:
        if self.number:
            self._log.warning("not leading any more")
            self._set_not_leading()

    def _set_not_leading(self) -> None:
        self.number = 0
        self._until_ms = 0
        self.changed.set()

    async def _resign(self, seq: int) -> None:
        self._set_not_leading()
        with contextlib.suppress(asyncio.CancelledError):
            await self._put(Holder(""), seq, RESIGNED_TTL_SECONDS)
