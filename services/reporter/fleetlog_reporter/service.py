"""The reporter without its process: open the projection, follow the log, answer, and begin again when the file breaks."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import structlog

from fleetlog_reporter.answers import (
    earlier,
    executions,
    exports,
    functions,
    hosts,
    log,
    output,
    progress,
    stats,
    table,
    tasks,
    ticks,
    verify,
    what_if,
)
from fleetlog_reporter.answers.desk import Desk, Handler
from fleetlog_reporter.follow import Follower
from fleetlog_reporter.made import FILE_PREFIX
from fleetlog_reporter.readers import Readers
from fleetlog_reporter.store import (
    FILE_NAME,
    VERSION,
    Damaged,
    Store,
    Unwritable,
    file_name,
    move_aside,
    open_store,
)
from fleetlog_runtime.pure.bus import Bus, NoAnswer, NotFound
from fleetlog_runtime.pure.settings import ReporterSettings
from fleetlog_runtime.shell.health import Health
from fleetlog_schemas import questions, subjects
from fleetlog_schemas.executions import ExecutionsQuestion
from fleetlog_schemas.exports import ExportQuestion
from fleetlog_schemas.ledger import TicksQuestion
from fleetlog_schemas.offers import OffersQuestion
from fleetlog_schemas.what_if import WhatIfQuestion

SERVICE = "reporter"
REBUILDS_MAX = 3
"""Rebuilds of one process: a disk that breaks every file needs a person."""
BUS_RETRY_SECONDS = 1.0
"""Between two tries to begin while the bus does not answer."""
DISK_RETRY_SECONDS = 5.0
"""Between two tries to open the projection on a disk that does not take it."""
FINISH_SECONDS_MAX = 2.0
"""How long answers may still take after a stop; a verification would take minutes."""

QUESTIONS: dict[str, tuple[type[msgspec.Struct], Handler]] = {
    "tasks": (questions.TasksQuestion, tasks.tasks),
    "task": (questions.TaskQuestion, tasks.task),
    "commands": (questions.CommandsQuestion, tasks.commands),
    "progress": (questions.TaskQuestion, progress.progress),
    "events": (questions.EventsQuestion, log.events),
    "output": (questions.OutputQuestion, output.output),
    "functions": (questions.FunctionsQuestion, functions.functions),
    "offers": (OffersQuestion, functions.offers),
    "hosts": (questions.HostsQuestion, hosts.hosts),
    "host": (questions.HostsQuestion, hosts.host),
    "ticks": (TicksQuestion, ticks.ticks),
    "what-if": (WhatIfQuestion, what_if.what_if),
    "typical": (questions.TypicalQuestion, earlier.typical),
    "previous": (questions.PreviousQuestion, earlier.previous),
    "executions": (ExecutionsQuestion, executions.executions),
    "execution": (questions.TaskQuestion, executions.execution),
    "stats": (questions.StatsQuestion, stats.stats),
    "export": (ExportQuestion, exports.export),
    "sql": (questions.SqlQuestion, table.sql),
    "verify": (questions.VerifyQuestion, verify.verify),
}
"""Every question the reporter answers: what it is decoded to, and by whom it is answered."""


class Reporter:
    """One running reporter."""

    def __init__(
        self, bus: Bus, folder: Path, now_ms: Callable[[], int], logger: structlog.typing.FilteringBoundLogger,
        health: Health, settings: ReporterSettings = ReporterSettings(),  # noqa: B008 - frozen
    ) -> None:
        """Keep the projection in *folder*, and *health* up to date."""
        self._settings = settings
        self._bus, self._folder, self._now_ms, self._log, self._health = bus, folder, now_ms, logger, health
        self._asked: set[asyncio.Task[None]] = set()
        self.desk: Desk | None = None
        """What answers at the moment; None while the file is opened."""

    async def run(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Serve until *stop* is set; call *ready* once the log is read as far as it reached at the start.

        Raises:
            FileInUse: another reporter has the file.
            Damaged: the file broke again and again.
        """
        await asyncio.to_thread(remove_leftovers, self._folder)
        rebuilds = 0
        while not stop.is_set():
            try:
                await self._serve(stop, ready)
                return
            except Damaged as error:
                self._log.error("projection-damaged", error=str(error)[:500], rebuilds=rebuilds)
                if rebuilds == REBUILDS_MAX:
                    raise
                rebuilds += 1
                await asyncio.to_thread(move_aside, self._folder / FILE_NAME)
            except Unwritable as error:
                # The log is the truth and everybody else goes on: this waits, however long it takes.
                self._log.error("projection-not-writable", alarm=True, folder=str(self._folder), error=str(error)[:500])
                await _pause(stop, DISK_RETRY_SECONDS)
            except NoAnswer as error:
                self._log.warning("bus-silent", error=str(error)[:500])
                await _pause(stop, BUS_RETRY_SECONDS)

    async def _serve(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        store, why = await asyncio.to_thread(
            open_store, self._folder / FILE_NAME, self._settings.memory_bytes_max
        )
        if why:
            self._log.warning("projection-made-anew", reason=why[:500])
        readers: Readers | None = None
        try:
            await check_same_log(self._bus, store)
            follower = Follower(self._bus, store, self._log, self._note)
            readers = await asyncio.to_thread(Readers, store)
            self.desk = Desk(self._bus, follower, readers, self._folder, self._now_ms, self._log)
            await self._follow(follower, self.desk, stop, ready)
        finally:
            desk, self.desk = self.desk, None
            await self._finish_answers()
            if desk is not None:
                await desk.exports.close()
            if readers is not None:
                await asyncio.to_thread(readers.close)
            await asyncio.to_thread(store.close)

    async def _follow(self, follower: Follower, desk: Desk, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        following = asyncio.create_task(follower.run())
        until = self._health.last_seq = (await self._bus.state(subjects.EVENTS)).last_seq
        stopping = asyncio.create_task(stop.wait())
        caught_up = asyncio.create_task(self._say_ready(follower, until, ready))
        ending: set[asyncio.Future[Any]] = {following, stopping, desk.damaged}
        subscriptions = await self._hear_all()
        try:
            await asyncio.wait(ending, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for unsubscribe in subscriptions:
                await unsubscribe()
            caught_up.cancel()
            stopping.cancel()
            follower.stop()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(caught_up, stopping)
            if not desk.damaged.done():
                desk.damaged.cancel()
        # A follower that stops by itself has failed; one that was told to has written what it folded.
        await following
        if not desk.damaged.cancelled():
            desk.damaged.result()

    def _note(self, follower: Follower) -> None:
        """Keep the health up to date; called after each chunk and each batch."""
        health = self._health
        health.position = follower.projector.position
        health.last_seq = max(health.last_seq, health.position)
        health.parked = follower.projector.parked
        health.snapshot = follower.snapshot
        health.notes = {"committed": follower.committed, "open_tasks": len(follower.projector.tasks.by_id)}

    async def _say_ready(self, follower: Follower, until: int, ready: Callable[[], None]) -> None:
        await follower.until_folded(until)
        self._log.info("projection-current", position=follower.projector.position, folded=follower.folded_events)
        ready()

    async def _hear_all(self) -> list[Callable[[], Awaitable[None]]]:
        """Hear every question, all at once: whoever got an answer to one may ask another at that moment."""
        return await asyncio.gather(*(hearing for name in QUESTIONS for hearing in self._hear(name)))

    def _hear(self, name: str) -> tuple[Coroutine[Any, Any, Callable[[], Awaitable[None]]], ...]:
        """Hear a question that one reporter is to answer, and one that another reporter left unanswered."""

        async def asked(_: str, body: bytes, reply: str) -> None:
            # Answered beside the subscription, so that a slow question does not keep the next ones waiting.
            task = asyncio.create_task(self._reply(name, body, reply))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)

        return (
            self._bus.subscribe(subjects.ask(SERVICE, name), asked, queue=SERVICE),
            self._bus.subscribe(subjects.ask_each(SERVICE, name), asked),
        )

    async def _reply(self, name: str, body: bytes, reply: str) -> None:
        if reply:
            await self._bus.publish(reply, await self.answer(name, body))

    async def answer(self, name: str, body: bytes) -> bytes:
        """Return the answer to one question, as it goes over the bus."""
        if self.desk is None:
            problem = questions.Problem(status=503, code="starting", message="the reporter opens its projection: ask again")
            return msgspec.json.encode(questions.Answer(seq=0, problem=problem))
        kind, handler = QUESTIONS[name]
        return await self.desk.answer(kind, handler, body)

    async def _finish_answers(self) -> None:
        if not self._asked:
            return
        _, slow = await asyncio.wait(self._asked, timeout=FINISH_SECONDS_MAX)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def _pause(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed reporter left of verifications and exports, and the projections of versions before this one."""
    # Projections are built from the log, and old ones of no use any more: each may be as large as this one grows.
    for prefix in (verify.FOLDER_PREFIX, FILE_PREFIX, *(file_name(version) for version in range(1, VERSION))):
        for old in folder.glob(f"{prefix}*"):
            if old.is_dir():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.unlink(missing_ok=True)


async def check_same_log(bus: Bus, store: Store) -> None:
    """Check that the newest event kept is the one that the log has at its place.

    Raises:
        Damaged: the projection is of another log.
    """
    newest = store.last_event()
    if newest is None:
        return
    seq, body = newest
    try:
        stored = await bus.get(subjects.EVENTS, seq)
    except NotFound:
        last_seq = (await bus.state(subjects.EVENTS)).last_seq
        raise Damaged(f"the log ends at {last_seq} and the projection at {seq}: it is of another log") from None
    if stored.body.decode(errors="replace") != body:
        raise Damaged(f"the log and the projection differ at {seq}: it is of another log")
