"""Keep the projection up with the log: read, fold, and write what came of it in as few transactions as freshness allows.

Folding happens on the event loop in short slices, writing on one thread; while a batch is written the next one
gathers. A batch is written GATHER_SECONDS after its first event, or when it is large, or when a question waits for it;
no answer is older for it, since what the tables do not hold yet is in memory. Backpressure: reading stops while too
much waits to be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor

import duckdb
import structlog

from fleetlog_reporter.apply import Batch, Projector
from fleetlog_reporter.store import Damaged, Store, is_disk_trouble
from fleetlog_runtime.pure.bus import Bus, Stored
from fleetlog_schemas.subjects import EVENTS

BATCH_BYTES_MAX = 8 * 1024 * 1024
"""Bytes of the log in one transaction: about a second's work, so that it is worth its fsync and still soon over."""
GATHER_SECONDS = 0.25
"""A transaction costs some milliseconds whatever it holds, and they would be taken from the task that it is about."""
REST_SECONDS = 0.02
"""After a chunk of a busy log so long is waited for more, unless somebody asks: folding much at once costs half as much."""
BUSY_BYTES = 2_048
"""Of a chunk; what one task alone brings is less, and is folded as it comes."""
CATCHING_UP_BYTES = 256 * 1024
"""A chunk as large as this is of the past, and what follows is folded at once."""
SLICE_SECONDS = 0.005
"""Folding without a break: other work of this loop waits no longer."""
OPEN_STATE_BYTES_MIN = 4 * 1024 * 1024
"""Bytes of the log between two copies of the open state: what a restart folds again in well under a second."""
OPEN_STATE_RATIO = 4
"""And at least this many times the size of the last copy, so that copying stays a small part of the work."""
WRITE_TRIES_MAX = 60
"""Attempts at one batch, a second apart; then the service stops and says why. A disk that is full is waited for."""
TELL_TRIES = 30
"""Failed attempts between two lines about a disk that stays full."""


class Follower:
    """The projection as it is kept up with the log."""

    def __init__(
        self, bus: Bus, store: Store, log: structlog.typing.FilteringBoundLogger, note: Callable[[Follower], None]
    ) -> None:
        """Go on from what *store* holds; *note* hears whenever it has moved on. Raises Damaged."""
        self.projector: Projector = store.load()
        self.committed = store.position
        self.snapshot = self.projector.position
        """After a restart the log is read on from here: the open state is copied less often than rows are written."""
        self.folded_events = 0
        """Messages folded by this process."""
        self._bus, self._store, self._log, self._note = bus, store, log, note
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reporter-writer")
        self._moved = asyncio.Condition()
        self._wanted = 0
        """The highest position that a question waits to see in the tables."""
        self._waiting = 0
        """How many wait until something is folded or written."""
        self._asked = asyncio.Event()
        """Set while what has come must be folded at once."""
        self._resting = False
        self._stopping = False
        self._folded_bytes = self._state_bytes = 0
        self._dirty = asyncio.Event()
        """There is something to write, or to end."""
        self._hurry = asyncio.Event()
        """It must not wait for more."""
        self._in_flight: Batch | None = None

    @property
    def late_is_pending(self) -> bool:
        """Whether late results were folded that the tables do not hold yet."""
        return bool(self.projector.batch.late or (self._in_flight and self._in_flight.late))

    async def run(self) -> None:
        """Follow the log until `stop`. Raises Damaged when the file turns out to be broken."""
        reading = asyncio.create_task(self._read())
        writing = asyncio.create_task(self._write())
        try:
            done, _ = await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                one.result()
        finally:
            for one in (reading, writing):
                one.cancel()
            for one in (reading, writing):
                with contextlib.suppress(asyncio.CancelledError, Damaged, duckdb.Error):
                    await one
            self._thread.shutdown(wait=True)

    def stop(self) -> None:
        """Write what was folded and end."""
        self._stopping = True
        self._dirty.set()
        self._hurry.set()

    async def current(self) -> None:
        """Fold what has come: whoever asks now gets no older answer for our rest."""
        if self._resting:
            self._asked.set()
            # The reader is woken before this goes on, and takes what has come without another wait.
            await asyncio.sleep(0)

    async def folded(self, seq: int, timeout_seconds: float) -> bool:
        """Wait until *seq* is folded; tell whether it was in time."""
        return await self._until(lambda: self.projector.position >= seq, timeout_seconds)

    async def until_folded(self, seq: int) -> None:
        """Wait until *seq* is folded, however long that takes."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.projector.position >= seq)

    async def in_tables(self, seq: int, timeout_seconds: float) -> bool:
        """Wait until the tables hold everything up to *seq*; tell whether they did in time."""
        if self.committed >= seq:
            return True
        self._wanted = max(self._wanted, seq)
        self._dirty.set()
        self._hurry.set()
        return await self._until(lambda: self.committed >= seq, timeout_seconds)

    async def _until(self, condition: Callable[[], bool], timeout_seconds: float) -> bool:
        if condition():
            return True
        self._waiting += 1
        self._asked.set()
        try:
            async with asyncio.timeout(timeout_seconds), self._moved:
                await self._moved.wait_for(condition)
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return True

    async def _read(self) -> None:
        async for chunk in self._bus.read(EVENTS, self.projector.position + 1):
            parked = self.projector.parked
            await fold_in_slices(self.projector, chunk)
            if self.projector.parked > parked:
                self._log.error("message-parked", count=self.projector.parked - parked, through=self.projector.position)
            self.folded_events += len(chunk)
            size = sum(len(stored.body) for stored in chunk)
            self._folded_bytes += size
            self._dirty.set()
            await self._tell_moved()
            if self.projector.batch.bytes > BATCH_BYTES_MAX:
                self._hurry.set()
            while self.projector.batch.bytes > BATCH_BYTES_MAX and not self._stopping:
                async with self._moved:
                    await self._moved.wait()
            if BUSY_BYTES <= size < CATCHING_UP_BYTES and not self._waiting:
                await self._rest()

    async def _rest(self) -> None:
        self._resting = True
        self._asked.clear()
        timer = asyncio.get_running_loop().call_later(REST_SECONDS, self._asked.set)
        try:
            await self._asked.wait()
        finally:
            timer.cancel()
            self._resting = False

    async def _tell_moved(self) -> None:
        self._note(self)
        async with self._moved:
            self._moved.notify_all()

    async def _write(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            at_the_end = self._stopping and self._folded_bytes > 0 and self.projector.position == self.committed
            if self.projector.position > self.committed or at_the_end:
                await self._gather()
                await self._write_batch()
            if self._stopping:
                return

    async def _gather(self) -> None:
        """Wait for more to write, unless somebody waits or there is enough."""
        if self._stopping or self._wanted > self.committed or self.projector.batch.bytes > BATCH_BYTES_MAX:
            return
        self._hurry.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                await self._hurry.wait()

    async def _write_batch(self) -> None:
        # Between two awaits the fold stands at the end of an atomic batch, so what is taken here is whole.
        batch = self._in_flight = self.projector.take()
        open_state = self._open_state()
        for number in itertools.count(1):
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._store.write, batch, open_state)
                break
            except duckdb.Error as error:
                if number % TELL_TRIES == 1:
                    self._log.error("projection-not-written", alarm=True, attempt=number, error=str(error)[:500])
                if self._stopping and is_disk_trouble(error):
                    self._in_flight = None  # the next start reads it from the log again
                    return
                if number >= WRITE_TRIES_MAX and not is_disk_trouble(error):
                    raise
                await asyncio.sleep(1)
        self._settle(batch, open_state)
        await self._tell_moved()

    def _settle(self, batch: Batch, open_state: tuple[int, bytes] | None) -> None:
        self.projector.written(batch)
        self._in_flight = None
        self.committed = batch.position
        if open_state is not None:
            self._state_bytes = len(open_state[1])
            self.snapshot = open_state[0]

    def _open_state(self) -> tuple[int, bytes] | None:
        due = max(OPEN_STATE_BYTES_MIN, OPEN_STATE_RATIO * self._state_bytes)
        if not self._stopping and self._folded_bytes < due:
            return None
        self._folded_bytes = 0
        return self.projector.position, self.projector.open_state()


def _now() -> float:
    """Return the loop's monotonic seconds."""
    return asyncio.get_running_loop().time()


async def fold_in_slices(projector: Projector, chunk: list[Stored]) -> None:
    """Fold a chunk, giving way to other work between atomic batches."""
    began = _now()
    for stored in chunk:
        projector.fold(stored)
        if stored.batch_end and _now() - began > SLICE_SECONDS:
            await asyncio.sleep(0)
            began = _now()


async def log_from(bus: Bus, from_seq: int, through_seq: int) -> AsyncIterator[list[Stored]]:
    """Yield the log from one sequence through another, in chunks."""
    if from_seq > through_seq:
        return
    async for chunk in bus.read(EVENTS, from_seq):
        wanted = [stored for stored in chunk if stored.seq <= through_seq]
        yield wanted
        if chunk and chunk[-1].seq >= through_seq:
            return
