"""Drive the engine of one unit on a bus: the asynchronous half of what the simulation drives in virtual time.

Three tasks share one loop, so nothing needs a lock: the reader folds the log, leadership says who is active, and
the main task decides and performs. An append runs beside them, sent again byte for byte until the engine has read
its fate from the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import msgspec

from fleetlog_runtime.pure.bus import (
    AppendRefused,
    AppendUnsettled,
    ArchiveMissing,
    Batch,
    BusFull,
    NoAnswer,
    NotFound,
    Stored,
)
from fleetlog_runtime.pure.effects import Answer, Done, Effect, Request, Send, Work
from fleetlog_runtime.pure.engine import Engine, Snapshot, Unit
from fleetlog_runtime.pure.signing import Signer
from fleetlog_runtime.shell import snapshots
from fleetlog_runtime.shell.leadership import Leadership
from fleetlog_runtime.shell.service import Context, Fatal
from fleetlog_schemas import codec, subjects, wire
from fleetlog_schemas.ids import new_id

RESEND_SECONDS = 0.2
"""Before an unsettled append is sent again; the append itself has waited for its own time limit."""
FULL_SECONDS = 5.0
"""Before an append that found no room is sent again."""
SNAPSHOT_BYTES_PER_EVENT = 500
"""A copy of the state is taken again when the log has grown by about its size: a large state would cost more than its events."""
CATCHING_UP_MESSAGES = 1_000
"""A chunk as large as this is of the past, and what follows is read at once."""
IDLE_SECONDS_MAX = 1.0
"""The loop looks at the time at least this often, also when nothing is due."""

Hands = Callable[[Any], Awaitable[Any]]
"""Does what a unit's `Work` asks for and returns what came of it; what cannot be done now is NoAnswer or WorkFailed."""

S = TypeVar("S")
L = TypeVar("L")


class WorkFailed(Exception):
    """What a unit asked for cannot be done now; the message says why."""


class RunnableUnit(Unit[S, L], Protocol[S, L]):
    """A unit whose state can be kept in a file."""

    state_type: type[S]
    state_version: int
    """Raised whenever the form or the meaning of the state changes."""


class EngineRunner(Generic[S, L]):
    """One running service that decides."""

    def __init__(
        self, context: Context, unit: RunnableUnit[S, L], subscriptions: tuple[str, ...], snapshot_events: int,
        snapshot_path: Path | None = None, hands: Hands | None = None, rest_seconds: float = 0,
    ) -> None:
        """Run *unit*: core messages on *subscriptions* are observed, a snapshot is taken every *snapshot_events*.

        *hands* do its `Work`, for a unit that asks for any. One that need not be quick lets news of the log gather for
        *rest_seconds*, except while it waits to read back what it decided.
        """
        self._context = context
        self._bus = context.bus
        self._log = context.log
        self._health = context.health
        self._unit = unit
        self._subscriptions = subscriptions
        self._snapshot_events = snapshot_events
        self._snapshot_path = snapshot_path or context.home.path / "snapshots" / f"{unit.name}.snapshot"
        runtime = context.settings.runtime
        self._leadership = Leadership(
            context.bus, unit.name, context.instance, context.clock, runtime.leader_ttl_ms,
            runtime.clock_skew_ms_max, context.log,
        )
        self.engine: Engine[S, L] = self._new_engine(None)
        self._wake = self._leadership.changed
        """Set by whatever may make something due, leadership among it."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._folded = asyncio.Event()
        self._rest_seconds = rest_seconds
        self._hurry = asyncio.Event()
        """Set while the log's news must not gather."""
        self._append: asyncio.Task[None] | None = None
        self._hands = hands
        self._works: dict[str, asyncio.Task[None]] = {}
        """By lane."""
        self._group: asyncio.TaskGroup | None = None
        self._snapshot_position = self._snapshot_bytes = 0
        self._last_digest = ""

    def _new_engine(self, snapshot: Snapshot | None) -> Engine[S, L]:
        source = f"/fleetlog/{self._unit.name}/{self._context.instance}"
        clock = self._context.clock

        def make_id() -> str:
            return new_id(clock.now_ms(), os.urandom(10))

        if snapshot is None:
            return Engine(self._unit, source, make_id)
        state = msgspec.msgpack.decode(snapshot.state, type=self._unit.state_type)
        return Engine(self._unit, source, make_id, state, snapshot.position, snapshot.fence_seqs)

    @cached_property
    def _signer(self) -> Signer:
        return self._context.home.signer()

    async def run(self) -> None:
        """Run until `context.stop` is set.

        Raises:
            Fatal: the log holds an event that this version must not decide over.
        """
        await self._restore()
        stops = [await self._bus.subscribe(subject, self._heard) for subject in self._subscriptions]
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                tasks = [
                    group.create_task(self._read()), group.create_task(self._leadership.run()),
                    group.create_task(self._decide()), group.create_task(self._say_ready()),
                ]
                await self._context.stop.wait()
                self._cancel_works()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self._cancel_append()
            for stop in stops:
                await stop()
            if self._last_digest:
                self._snapshot()

    # --- reading --------------------------------------------------------------------------------------------

    async def _restore(self) -> None:
        while True:
            try:
                found = await snapshots.load(
                    self._snapshot_path, self._unit.name, self._unit.state_version, self._bus, self._log
                )
                break
            except ArchiveMissing:
                raise
            except NoAnswer as error:
                self._log.warning("the bus does not answer yet", error=str(error))
                await asyncio.sleep(RESEND_SECONDS)
        try:
            self.engine = self._new_engine(found)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._log.warning("the snapshot's state does not fit and is passed over", error=str(error))
            self.engine = self._new_engine(None)
        self._snapshot_position = self._health.snapshot = self.engine.position
        self._snapshot_bytes = len(found.state) if found is not None else 0
        self._health.position = self.engine.position

    async def _read(self) -> None:
        async with contextlib.aclosing(
            cast("Any", self._bus.read(subjects.EVENTS, self.engine.position + 1, ahead=not self._rest_seconds))
        ) as chunks:
            async for chunk in chunks:
                if chunk:
                    self._fold(chunk)
                self._folded.set()
                self._wake.set()
                if self._rest_seconds and len(chunk) < CATCHING_UP_MESSAGES:
                    await self._rest()

    async def _rest(self) -> None:
        """Let the log's news gather, unless a decision is on its way to the log or leadership waits for all of it."""
        timer = asyncio.get_running_loop().call_later(self._rest_seconds, self._hurry.set)
        await self._hurry.wait()
        timer.cancel()
        if self.engine.pending is None:
            self._hurry.clear()

    def _fold(self, chunk: list[Stored]) -> None:
        now_ms = self._context.clock.now_ms()
        good: list[codec.Event] = []
        for stored in chunk:
            event = self._decoded(stored)
            if event is not None:
                good.append(event)
                continue
            self.engine.deliver(good, now_ms)
            good = []
            self.engine.skip(stored.seq, stored.subject, batch_end=stored.batch_end)
        self.engine.deliver(good, now_ms)
        self._health.position = self.engine.position
        self._health.last_seq = max(self._health.last_seq, self.engine.position)
        self._last_digest = snapshots.digest(chunk[-1].body)
        due_events = max(self._snapshot_events, self._snapshot_bytes // SNAPSHOT_BYTES_PER_EVENT)
        if self.engine.at_batch_end and self.engine.position - self._snapshot_position >= due_events:
            self._snapshot()

    def _decoded(self, stored: Stored) -> codec.Event | None:
        try:
            return codec.decode(
                stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms,
                batch_end=stored.batch_end, passing_over=self._unit.passes_over,
            )
        except codec.TooNew as error:
            if error.minreader > codec.READER:
                raise Fatal(f"message {stored.seq} of the log: {error}") from None
            self._log.info("passed over an event of a type unknown here", seq=stored.seq, type=error.event_type)
        except codec.Malformed as error:
            self._health.parked += 1
            self._log.error(
                "a malformed message was passed over", alarm=True, seq=stored.seq, subject=stored.subject,
                error=str(error),
            )
        return None

    def _snapshot(self) -> None:
        engine = self.engine
        if not engine.at_batch_end or engine.position == self._snapshot_position:
            return
        snapshot = Snapshot(
            unit=self._unit.name, version=self._unit.state_version, position=engine.position,
            fence_seqs=engine.fence_seqs, state=msgspec.msgpack.encode(engine.state),
        )
        try:
            snapshots.write(self._snapshot_path, snapshot, self._last_digest)
        except OSError as error:
            self._log.error("the snapshot could not be written", path=str(self._snapshot_path), error=str(error))
            return
        self._snapshot_position = self._health.snapshot = engine.position
        self._snapshot_bytes = len(snapshot.state)

    # --- leading --------------------------------------------------------------------------------------------

    async def _say_ready(self) -> None:
        await self._folded.wait()
        await self._caught_up()
        await self._leadership.known.wait()
        self._context.ready()

    async def _caught_up(self) -> None:
        """Wait until everything that is in the log now has been folded."""
        while True:
            try:
                last_seq = (await self._bus.state(subjects.EVENTS)).last_seq
                break
            except NoAnswer:
                await asyncio.sleep(RESEND_SECONDS)
        self._health.last_seq = max(self._health.last_seq, last_seq)
        while self.engine.position < last_seq:
            self._hurry.set()
            self._folded.clear()
            await self._folded.wait()

    async def _follow_leadership(self) -> bool:
        """Bring the engine into line with leadership and return whether it leads."""
        if self._leadership.leading and self.engine.live is None:
            # Whoever led before may have appended until just now.
            await self._caught_up()
            if self._leadership.leading:
                self.engine.lead(self._context.clock.now_ms())
        elif not self._leadership.leading and self.engine.live is not None:
            self.engine.follow()
            self._cancel_append()
            self._cancel_works()
        self._health.leading = self.engine.live is not None
        return self.engine.live is not None

    # --- deciding -------------------------------------------------------------------------------------------

    async def _heard(self, subject: str, body: bytes, reply: str) -> None:
        if self.engine.live is not None:
            self.engine.observe(Request(subject, body, reply), self._context.clock.now_ms())
            self._wake.set()

    async def _decide(self) -> None:
        while True:
            self._wake.clear()
            if await self._follow_leadership():
                for one in self.engine.step(self._context.clock.now_ms()):
                    await self._perform(one)
            await self._until_something()

    async def _until_something(self) -> None:
        pause_seconds = IDLE_SECONDS_MAX
        if self.engine.live is not None:
            pause_seconds = min(pause_seconds, self._leadership.seconds_left())
            if self.engine.wake_at_ms is not None and self.engine.pending is None:
                due_seconds = (self.engine.wake_at_ms - self._context.clock.now_ms()) / 1000
                pause_seconds = max(0.0, min(pause_seconds, due_seconds))
        self._wake_within(pause_seconds)
        await self._wake.wait()

    def _wake_within(self, seconds: float) -> None:
        """See to it that the loop looks again by then; one look too many costs less than a timer for each."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._timer is not None:
            if self._timer_at <= at:
                return
            self._timer.cancel()
        self._timer, self._timer_at = loop.call_later(seconds, self._timer_over), at

    def _timer_over(self) -> None:
        self._timer = None
        self._wake.set()

    async def _perform(self, one: Effect | Batch) -> None:
        match one:
            case Batch():
                self._hurry.set()
                self._cancel_append()
                self._append = asyncio.create_task(self._settle(one))
            case Send(push=push):
                signed = self._signer.sign(wire.encode(push))
                await self._bus.publish(subjects.push(push.host_id), wire.encode(signed))
            case Answer(reply=reply, body=body, sign=sign):
                if reply:
                    await self._bus.publish(reply, wire.encode(self._signer.sign(body)) if sign else body)
            case Work(what=what, lane=lane):
                assert self._group is not None
                former = self._works.pop(lane, None)
                if former is not None:
                    former.cancel()
                self._works[lane] = self._group.create_task(self._do(what))
                self._works[lane].add_done_callback(lambda done: self._over(lane, done))

    async def _do(self, what: Any) -> None:
        """Have a work done, and let the engine observe what came of it."""
        assert self._hands is not None, f"{self._unit.name} asks for work and has no hands"
        try:
            done = Done(what, await self._hands(what))
        except (NoAnswer, NotFound, WorkFailed) as error:
            self._log.warning("a work could not be done now", what=type(what).__name__, error=str(error))
            done = Done(what, error=str(error))
        self.engine.observe(done, self._context.clock.now_ms())
        self._wake.set()

    async def _settle(self, batch: Batch) -> None:
        """Send a batch until the bus took or refused it, or until reading the log has settled it."""
        while self.engine.pending is batch:
            try:
                seq = await self._bus.append(batch)
                following = self.engine.append_taken(seq) if self.engine.pending is batch else None
                if following is not None:
                    self._append = asyncio.create_task(self._settle(following))
                return
            except AppendRefused as refused:
                if self.engine.pending is batch:
                    self.engine.append_refused(refused.actual_seq)
                    self._wake.set()
                return
            except AppendUnsettled as error:
                self._log.warning("an append is unsettled and is sent again", error=str(error))
                await asyncio.sleep(RESEND_SECONDS)
            except BusFull as error:
                self._log.error("the log has no room: nothing new can be decided", alarm=True, error=str(error))
                await asyncio.sleep(FULL_SECONDS)

    def _cancel_append(self) -> None:
        if self._append is not None:
            self._append.cancel()
            self._append = None

    def _over(self, lane: str, work: asyncio.Task[None]) -> None:
        if self._works.get(lane) is work:
            del self._works[lane]

    def _cancel_works(self) -> None:
        for work in list(self._works.values()):
            work.cancel()
        self._works.clear()
