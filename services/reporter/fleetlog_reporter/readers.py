"""Reader connections: each shows one moment at a time, now or a past one, to whoever asks.

A *moment* is the position that an answer reflects: kept rows up to `committed`, and as temporary tables what was
open there. Each reader has its own connection and its own thread; DuckDB never runs on the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

import duckdb
import msgspec

from fleetlog_reporter import rows
from fleetlog_reporter.apply import Projector
from fleetlog_reporter.rows import Row
from fleetlog_reporter.store import UNFIT, Store, append, clean, noticing_damage, sql_of
from fleetlog_schemas.records import CommandState

T = TypeVar("T")

READERS = 2
"""For answers; people's SQL has one of its own, so that a slow query cannot keep answers waiting."""

TASKS, ATTEMPTS, HOSTS = "live_tasks", "live_attempts", "live_hosts"
FREEZES, WINDOWS, QUEUES = "live_freezes", "live_windows", "live_queues"
LIVE = (TASKS, ATTEMPTS, HOSTS, FREEZES, WINDOWS, QUEUES)
"""Every temporary table of what is open, or in force, at the moment asked for."""


class Moment(msgspec.Struct, frozen=True):
    """The state that an answer reflects."""

    seq: int
    committed: int
    """Rows of tasks that ended up to here count; later ones are in `live`, if they are at all."""
    live: dict[str, list[Row]]
    """Rows of what was open, by temporary table; only those that the question needs."""
    after: int = 0
    """Rows of tasks that ended, and of events stored, up to here do not count: the history is shown a stretch at a time."""


def moment_of(projector: Projector, committed: int, needs: frozenset[str]) -> Moment:
    """Return the moment at which a fold stands. Costs some microseconds for each open command when they are needed."""
    live: dict[str, list[Row]] = {}
    open_tasks = [(task, projector.stopped.get(task.task_id, {})) for task in projector.tasks.by_id.values()]
    open_tasks += [(one.task, one.stopped) for one in projector.closing.values() if one.task.ended_seq > committed]
    if TASKS in needs:
        live[TASKS] = [rows.open_task_row(task) for task, _ in open_tasks]
    if ATTEMPTS in needs:
        live[ATTEMPTS] = [row for task, stopped in open_tasks for row in rows.attempt_rows(task, stopped)]
    if HOSTS in needs:
        running = running_by_host(projector)
        live[HOSTS] = [rows.host_row(one, running.get(one.host_id, 0)) for one in projector.hosts.by_id.values()]
    if FREEZES in needs:
        live[FREEZES] = [rows.freeze_row(one) for one in projector.policies.freezes.values()]
    if WINDOWS in needs:
        live[WINDOWS] = [rows.window_row(one) for one in projector.policies.windows.values()]
    if QUEUES in needs:
        live[QUEUES] = queue_rows(projector)
    return Moment(seq=projector.position, committed=committed, live=live)


def running_by_host(projector: Projector) -> dict[str, int]:
    """Return how many commands are dispatched or running on each host."""
    running: dict[str, int] = {}
    for task in projector.tasks.by_id.values():
        for command in task.commands.values():
            if command.state in (CommandState.DISPATCHED, CommandState.RUNNING):
                running[command.host_id] = running.get(command.host_id, 0) + 1
    return running


def queue_rows(projector: Projector) -> list[Row]:
    """Return the row of each queue that has a limit, or something in it: its limit, and what is in flight and waits."""
    limits = projector.policies.queues
    found = {queue: [0, 0] for queue in limits}
    for task in projector.tasks.by_id.values():
        if task.parts:
            continue  # its parts wait, in queues of their own
        counted = found.setdefault(task.spec.queue, [0, 0])
        counted[0] += sum(task.counts.get(state.value, 0) for state in (CommandState.DISPATCHED, CommandState.RUNNING))
        counted[1] += task.counts.get(CommandState.WAITING.value, 0)
    return [(queue, limits.get(queue), *counted) for queue, counted in found.items()]


class Connection:
    """A connection to some database, and the one thread that may use it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, name: str) -> None:
        """Take the connection over."""
        self._connection = connection
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"reporter-{name}")

    async def call(self, ask: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Call *ask* with the connection, on its thread. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, ask, self._connection)

    def interrupt(self) -> None:
        """Stop the statement that runs here; it raises in its thread."""
        self._connection.interrupt()

    def close(self) -> None:
        """Stop what runs, wait for the thread and close the connection."""
        self._connection.interrupt()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._connection.close()

    async def __aenter__(self) -> Self:
        """Use it for a while."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it, also when whoever used it was cancelled: nothing runs here afterwards."""
        await asyncio.shield(asyncio.to_thread(self.close))


class Reader(Connection):
    """A connection with the views."""

    def __init__(self, store: Store, name: str) -> None:
        """Take a connection of its own; the views are made when it is first used."""
        super().__init__(store.cursor(), name)
        self._shown: tuple[int, int, int] | None = None
        self._filled: set[str] = set()
        self.waiting = 0
        """Questions that run here or wait for it."""

    async def run(self, moment: Moment, ask: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Call *ask* with the connection, showing *moment*, on this reader's thread.

        Raises:
            Damaged: the file is broken.
        """
        self.waiting += 1
        try:
            return await self.call(lambda db: self._run(db, moment, ask))
        finally:
            self.waiting -= 1

    def _run(self, db: duckdb.DuckDBPyConnection, moment: Moment, ask: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        with noticing_damage():
            self._show(moment)
            return ask(db)

    def _show(self, moment: Moment) -> None:
        position = (moment.after, moment.committed, moment.seq)
        if self._shown != position:
            for name, value in zip(("after", "committed", "seq"), position, strict=True):
                self._connection.execute(f"SET VARIABLE {name} = {value:d}::BIGINT")
            if self._shown is None:
                self._connection.execute(sql_of("views.sql"))
            self._shown, self._filled = position, set()
        for table, found in moment.live.items():
            if table not in self._filled:
                self._fill(table, found)
                self._filled.add(table)

    def _fill(self, table: str, found: list[Row]) -> None:
        # Replaced rather than emptied: deleted rows of a temporary table would keep their memory.
        empty = f"CREATE OR REPLACE TEMP TABLE {table} AS FROM {table} LIMIT 0"
        self._connection.execute(empty)
        try:
            append(self._connection, table, found)
        except UNFIT:
            self._connection.execute(empty)
            append(self._connection, table, map(clean, found))


class Readers:
    """The readers of one store."""

    def __init__(self, store: Store) -> None:
        """Open them all."""
        self._store = store
        self._answers = [Reader(store, f"answers-{number}") for number in range(READERS)]
        self.sql = Reader(store, "sql")

    async def run(self, moment: Moment, ask: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """Call *ask* on the least busy reader for answers. Raises what `Reader.run` does."""
        return await min(self._answers, key=lambda reader: reader.waiting).run(moment, ask)

    def another(self, name: str) -> Reader:
        """Return one more, for what reads for long; whoever asked for it closes it."""
        return Reader(self._store, name)

    def close(self) -> None:
        """Close them all."""
        for reader in [*self._answers, self.sql]:
            reader.close()
