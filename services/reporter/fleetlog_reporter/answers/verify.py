"""`verify`: build the projection again from the log, beside the kept one, and compare the two table by table.

Both are taken at one position. A table is the same when both have as many rows and the sum of the rows' hashes is
the same; if not, the rows are compared in order and the first that differs is named. What is open is compared too.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import duckdb
import msgspec

from fleetlog_reporter.answers.desk import Desk, NoAnswer
from fleetlog_reporter.apply import OpenState, Projector
from fleetlog_reporter.follow import BATCH_BYTES_MAX, fold_in_slices, log_from
from fleetlog_reporter.store import FILE_NAME, Store
from fleetlog_schemas import questions

FOLDER_PREFIX = "verify-"
"""Of the temporary folder beside the projection, so that what a kill leaves behind can be removed."""
SETTLE_SECONDS_MAX = 60.0
"""How long the kept tables may take to reach the position that is verified."""

# Table to the column that says at which position of the log a row came to be, and the order of the rows.
COMPARED = {
    "raw_events": ("seq", "seq"),
    "parked": ("seq", "seq"),
    "ended_tasks": ("ended_seq", "task_id"),
    "ended_attempts": ("task_ended_seq", "task_id, host_id, attempt"),
    "late_results": ("seq", "seq, task_id, host_id, attempt, body"),
}


async def verify(desk: Desk, question: questions.VerifyQuestion) -> tuple[int, questions.Verified]:
    """Answer whether the kept projection is what the log gives."""
    if question.as_of_seq or question.as_of_ms:
        raise NoAnswer(400, "bad-query", "the projection is verified as it is now", "/as_of")
    await desk.wait(question)
    if desk.verifying.locked():
        raise NoAnswer(409, "busy", "the projection is being verified already: ask again when that is over")
    async with desk.verifying:
        through = desk.projector.position
        kept_open = desk.projector.open_state()
        if not await desk.follower.in_tables(through, SETTLE_SECONDS_MAX):
            raise NoAnswer(504, "behind", f"the tables do not hold the log up to {through} yet: ask again")
        with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, dir=desk.folder) as folder:
            return through, await _compare(desk, through, kept_open, Path(folder))


async def _compare(desk: Desk, through: int, kept_open: bytes, folder: Path) -> questions.Verified:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="reporter-verify") as thread:
        store = await loop.run_in_executor(thread, Store, folder / FILE_NAME)
        try:
            projector = Projector()
            events = 0
            async for chunk in log_from(desk.bus, 1, through):
                await fold_in_slices(projector, chunk)
                events += len(chunk)
                if projector.batch.bytes > BATCH_BYTES_MAX:
                    await _write(loop, thread, store, projector)
            await _write(loop, thread, store, projector)
            rebuilt = await loop.run_in_executor(thread, lambda: hashes(store.connection, through))
            kept = await desk.run(lambda db: hashes(db, through))
            tables = {name: "equal" for name in COMPARED if kept[name] == rebuilt[name]}
            for name in COMPARED.keys() - tables.keys():
                kept_rows = await desk.run(lambda db, name=name: row_hashes(db, name, through))  # type: ignore[misc]
                rebuilt_rows = await loop.run_in_executor(thread, row_hashes, store.connection, name, through)
                tables[name] = difference(kept_rows, rebuilt_rows)
            tables["open"] = "equal" if canonical(kept_open) == canonical(projector.open_state()) else "what is open differs"
        finally:
            await loop.run_in_executor(thread, store.close)
    return questions.Verified(
        equal=all(said == "equal" for said in tables.values()), through_seq=through, events=events,
        tables=dict(sorted(tables.items())),
    )


async def _write(loop: asyncio.AbstractEventLoop, thread: ThreadPoolExecutor, store: Store, projector: Projector) -> None:
    batch = projector.take()
    await loop.run_in_executor(thread, store.write, batch)
    projector.written(batch)


def hashes(db: duckdb.DuckDBPyConnection, through: int) -> dict[str, tuple[int, str]]:
    """Return how many rows each table has up to a position, and the sum of their hashes."""
    found = {}
    for table, (position, _) in COMPARED.items():
        row = db.execute(
            f"SELECT count(*), sum(hash(kept)::HUGEINT)::VARCHAR FROM {table} AS kept WHERE {position} <= ?",  # noqa: S608 - names of this module
            [through],
        ).fetchone()
        found[table] = row or (0, "")
    return found


def row_hashes(db: duckdb.DuckDBPyConnection, table: str, through: int) -> list[tuple[str, int]]:
    """Return each row's key and hash, in order."""
    position, order = COMPARED[table]
    return db.execute(
        f"SELECT concat_ws('/', {order})[:200], hash(kept) FROM {table} AS kept WHERE {position} <= ? ORDER BY {order}",  # noqa: S608 - names of this module
        [through],
    ).fetchall()


def difference(kept: list[tuple[str, int]], rebuilt: list[tuple[str, int]]) -> str:
    """Say in which rows two tables differ first."""
    for ours, theirs in _pairs(kept, rebuilt):
        if ours == theirs:
            continue
        counts = f"{len(kept)} rows kept, {len(rebuilt)} rebuilt"
        if theirs is None or (ours is not None and ours[0] < theirs[0]):
            return f"{counts}; the kept one has {ours[0] if ours else ''}, which the log does not give"
        if ours is None or theirs[0] < ours[0]:
            return f"{counts}; {theirs[0]} is missing from the kept one"
        return f"{counts}; they differ in {ours[0]}"
    return "equal"


def _pairs(
    kept: list[tuple[str, int]], rebuilt: list[tuple[str, int]]
) -> Iterator[tuple[tuple[str, int] | None, tuple[str, int] | None]]:
    return zip_longest(kept, rebuilt)


def canonical(state: bytes) -> bytes:
    """Return an open state without what depends on the way it was reached: the order of its maps."""
    decoded = msgspec.json.decode(state, type=OpenState)
    return msgspec.json.encode(decoded, order="sorted")
