"""Append to the log on behalf of requests: submissions by the shared publisher, and what rests on the fold by a fence.

Fenced: the batch carries the expected last sequence of its subject; who loses reads on and decides anew. An unsettled
batch is sent again byte for byte, and its fate is settled by reading the log. A request waits only so long: then it
says that nobody knows, while the publisher goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from fleetlog_gateway import limits
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.tail import Tail
from fleetlog_runtime.pure.bus import (
    AppendRefused,
    AppendUnsettled,
    Batch,
    Bus,
    BusFull,
    Draft,
    NoAnswer,
    NotSent,
)
from fleetlog_runtime.shell.publisher import Publisher, TooMany
from fleetlog_schemas import events, subjects
from fleetlog_schemas.codec import Event, Malformed, encode
from fleetlog_schemas.ids import new_id


class Unsettled(Exception):
    """It is not known whether the batch is stored."""


class Appender:
    """The one writer of this gateway."""

    def __init__(
        self, bus: Bus, tail: Tail, publisher: Publisher, source: str, now_ms: Callable[[], int],
        has_headroom: Callable[[], bool] = lambda: True,
    ) -> None:
        """Write events whose source is *source*; *has_headroom* tells whether the disk under the bus has room for more."""
        self._bus = bus
        self._tail = tail
        self._publisher = publisher
        self._source = source
        self._now_ms = now_ms
        self._fences = {subject: asyncio.Lock() for subject in (events.HOST, events.ACCESS, events.CATALOG, events.SCHEDULE)}
        self._has_headroom = has_headroom
        self._full_checked_s = float("-inf")
        self._full = False
        self.appended_seq = 0
        """The highest sequence that this gateway has appended."""

    def _draft(self, subject: str, data: events.Data, authid: str) -> tuple[str, Draft]:
        now_ms = self._now_ms()
        event_id = new_id(now_ms, os.urandom(10))
        event = Event(id=event_id, source=self._source, data=data, time_ms=now_ms, authid=authid or None)
        try:
            return event_id, Draft(subject=subject, body=encode(event))
        except Malformed as error:
            raise invalid("", f"this is too large for one event of the log: {error}") from None

    async def check_room(self) -> None:
        """Refuse new tasks when log or disk are nearly full, so that results of running ones fit. Raises HttpProblem."""
        if not self._has_headroom():
            raise disk_full()
        now_s = asyncio.get_running_loop().time()
        if now_s - self._full_checked_s > limits.FULL_CHECK_SECONDS:
            state = await self._bus.state(subjects.EVENTS)
            self._full = state.bytes_max > 0 and state.bytes >= limits.EVENTS_FULL_RATIO * state.bytes_max
            self._full_checked_s = now_s
        if self._full:
            raise log_full()

    async def append(self, data: list[events.Data], authid: str) -> int:
        """Store *data* on `evt.request`, together or not at all, and return the last sequence.

        Raises:
            HttpProblem: nothing was stored.
            Unsettled: nobody can tell.
        """
        drafts = [self._draft(events.REQUEST, one, authid)[1] for one in data]
        if not getattr(self._bus, "is_connected", True):
            # Waits a while for the connection, and says NoAnswer (503) while still nothing was sent.
            await self._bus.state(subjects.EVENTS)
        try:
            async with asyncio.timeout(limits.APPEND_SECONDS_MAX):
                seq = await self._publisher.append(*drafts)
        except TimeoutError:
            raise Unsettled from None
        except BusFull:
            raise log_full() from None
        except TooMany as error:
            raise HttpProblem("bus-unavailable", str(error), headers={"Retry-After": "2"}) from None
        except AppendRefused as error:
            raise HttpProblem("bus-unavailable", f"the bus refused the append: {error}") from None
        self.appended_seq = max(self.appended_seq, seq)
        return seq

    async def fenced(
        self, subject: str, decide: Callable[[], events.Data], last_seq: Callable[[], int], authid: str
    ) -> int:
        """Store what *decide* returns, if nothing else came in between on *subject*, and return when it is read back.

        *decide* is called again after every conflict, on the newer fold.

        Raises:
            HttpProblem: *decide* raised it, or nothing was stored.
            Unsettled: nobody can tell.
        """
        async with self._fences[subject]:
            for _ in range(limits.CONFLICTS_MAX):
                event_id, draft = self._draft(subject, decide(), authid)
                seq = await self._settle(
                    Batch(drafts=(draft,), message_id=event_id, expected_subject=subject, expected_seq=last_seq())
                )
                if seq is None:
                    continue
                self.appended_seq = max(self.appended_seq, seq)
                if not await self._tail.grown_past(seq, limits.APPEND_SECONDS_MAX):
                    raise Unsettled
                return seq
        raise HttpProblem("conflict", "others keep changing this at the same time: try again")

    async def _settle(self, batch: Batch) -> int | None:
        """Return the sequence of a batch of one, or None when the log surely has nothing of it."""
        start_seq, may_be_stored = self._tail.next_seq, False
        try:
            async with asyncio.timeout(limits.APPEND_SECONDS_MAX):
                while True:
                    try:
                        return await self._bus.append(batch)
                    except NotSent:
                        if not may_be_stored:
                            raise HttpProblem(
                                "bus-unavailable", "the bus cannot be reached: nothing was stored, try again",
                                headers={"Retry-After": "2"},
                            ) from None
                    except AppendUnsettled:
                        may_be_stored = True
                    except AppendRefused as refused:
                        return await self._look_up(batch, refused.actual_seq, start_seq)
                    await asyncio.sleep(limits.APPEND_PAUSE_SECONDS)
        except BusFull:
            raise log_full() from None
        except (TimeoutError, NoAnswer):
            raise Unsettled from None

    async def _look_up(self, batch: Batch, actual_seq: int | None, start_seq: int) -> int | None:
        through_seq = actual_seq
        if through_seq is None:
            through_seq = (await self._bus.state(subjects.EVENTS)).last_seq
        if not await self._tail.grown_past(through_seq, limits.APPEND_SECONDS_MAX):
            raise Unsettled
        try:
            return self._tail.find(batch.message_id, start_seq)
        except LookupError:
            raise Unsettled from None


def disk_full() -> HttpProblem:
    """Return the problem of a disk that has little room."""
    return HttpProblem(
        "log-full", "the disk under the bus is nearly full: it takes no new tasks, so that the results of running ones still"
        " fit; free some space there (`fleetlog doctor` says how much is free), then send the same request again",
        headers={"Retry-After": "30"},
    )


def log_full() -> HttpProblem:
    """Return the problem of a log without room."""
    return HttpProblem(
        "log-full", f"the log has used more than {limits.EVENTS_FULL_RATIO:.0%} of its reserved bytes: it takes no new"
        " tasks, so that the results of running ones still fit; archive and prune it, or give it more room",
    )
