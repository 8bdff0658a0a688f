"""The projection's DuckDB file: opened, checked, written in transactions, and made anew when it cannot be used.

The file is never migrated: the log is the truth, so one that is missing, damaged or of another version is moved
aside and built again. One connection writes; every reader has its own. Each transaction holds a batch of the log
and the position behind it, so that a crash between any two instructions leaves every event written once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from fleetlog_reporter import rows
from fleetlog_reporter.apply import Batch, OpenState, Projector
from fleetlog_reporter.rows import LateEnd, Row
from fleetlog_runtime.pure.settings import ReporterSettings
from fleetlog_schemas import events, ids, limits

VERSION = 5
"""Of the tables. A change of `tables.sql`, or of what the columns mean, raises it; older files are built anew."""


def file_name(version: int) -> str:
    """Return what the projection's file is called in a version."""
    return f"projection-v{version}.duckdb"


FILE_NAME = file_name(VERSION)
BROKEN_FILES_MAX = 3
"""Files kept for a look at what went wrong; the oldest goes."""
THREADS = 2
"""More would take cores from the services that share the machine."""
APPEND_ROWS_MAX = 256
"""Rows converted in one call: the call holds the interpreter, and so the event loop, for about 2 ms."""

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "threads": THREADS,
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "lock_configuration": True,
}
UNFIT = (duckdb.ConversionException, duckdb.InvalidInputException)
"""What DuckDB raises for a value that no column can hold, such as an exit code of 2**80 that some report carried."""
_DISK_SIGNS = ("no space left", "disk quota", "read-only file system", "permission denied", "input/output error")
_DAMAGE_SIGNS = ("checksum", "corrupt", "could not read enough bytes", "not a valid duckdb database", "serializ")


class FileInUse(Exception):
    """Another process has the file open: two reporters must not share one data folder."""


class Unwritable(Exception):
    """The disk does not take it: full, read-only or not ours. It is tried again until somebody has made room."""


class Damaged(Exception):
    """The file cannot be read any more; it is to be moved aside and built anew."""


def is_disk_trouble(error: Exception) -> bool:
    """Tell whether an error is about the disk and not about the file: waiting helps, building anew does not."""
    text = str(error).lower()
    return any(sign in text for sign in _DISK_SIGNS)


def is_damage(error: duckdb.Error) -> bool:
    """Tell whether an error says that the file is broken, rather than that a statement was."""
    if isinstance(error, duckdb.FatalException | duckdb.InternalException | duckdb.SerializationException):
        return True
    text = str(error).lower()
    return any(sign in text for sign in _DAMAGE_SIGNS)


@contextlib.contextmanager
def noticing_damage() -> Iterator[None]:
    """Turn errors of DuckDB that say that the file is broken into `Damaged`; others pass."""
    try:
        yield
    except duckdb.Error as error:
        if is_damage(error):
            raise Damaged(str(error)) from None
        raise


def _cannot_use(error: duckdb.Error) -> Unwritable | Damaged:
    return Unwritable(str(error)) if is_disk_trouble(error) else Damaged(str(error))


def sql_of(name: str) -> str:
    """Return the text of one of this package's SQL files."""
    return files("fleetlog_reporter").joinpath(name).read_text(encoding="utf-8")


class Store:
    """An open projection file. Not safe for two threads: one thread writes, readers take a cursor each."""

    def __init__(self, path: Path, memory_bytes_max: int = ReporterSettings().memory_bytes_max) -> None:
        """Open the file of this version, or make it; DuckDB itself may use *memory_bytes_max*.

        Raises:
            FileInUse: another process has it.
            Unwritable: the disk does not take it now.
            Damaged: it is there and cannot be used.
        """
        self.path = path
        try:
            is_new = not path.exists()
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Unwritable(str(error)) from None
        try:
            self.connection = duckdb.connect(
                str(path), config={**_CONFIG, "memory_limit": f"{max(1, memory_bytes_max // 1024**2)}MiB"}
            )
        except duckdb.Error as error:
            if "set lock on file" in str(error):
                raise FileInUse(f"another reporter uses {path}: stop it first ({error})") from None
            raise _cannot_use(error) from None
        try:
            if is_new:
                self._create()
                path.chmod(0o600)
            self._check()
        except duckdb.Error as error:
            self.connection.close()
            raise _cannot_use(error) from None
        except Damaged:
            self.connection.close()
            raise

    def close(self) -> None:
        """Close the file; cursors end with it."""
        self.connection.close()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """Return a connection of its own for one reader."""
        return self.connection.cursor()

    @property
    def position(self) -> int:
        """The last sequence whose rows the tables hold."""
        return int(_one(self.connection, "SELECT position FROM checkpoint")[0])

    def _create(self) -> None:
        self.connection.execute("BEGIN")
        self.connection.execute(sql_of("tables.sql"))
        self.connection.execute("INSERT INTO meta VALUES (?, epoch_ms(now()))", [VERSION])
        self.connection.execute("INSERT INTO checkpoint VALUES (0)")
        self.connection.execute("COMMIT")

    def _check(self) -> None:
        (version,) = _one(self.connection, "SELECT version FROM meta")
        if version != VERSION:
            raise Damaged(f"the file is of version {version}, this is version {VERSION}")
        if _one(self.connection, "SELECT count(*) FROM checkpoint") != (1,):
            raise Damaged("the file has no checkpoint")

    def last_event(self) -> tuple[int, str] | None:
        """Return sequence and body of the newest event kept, to compare with the log. Raises Damaged."""
        with noticing_damage():
            found = self.connection.execute(
                "SELECT seq, body FROM raw_events WHERE seq = (SELECT max(seq) FROM raw_events)"
            ).fetchone()
        return (int(found[0]), str(found[1])) if found else None

    def load(self) -> Projector:
        """Return the fold as it stood at the newest open state; it is to fold on from there.

        Raises:
            Damaged: the open state cannot be read.
        """
        with noticing_damage():
            return self._load()

    def _load(self) -> Projector:
        projector = Projector(written_through=self.position)
        found = self.connection.execute("SELECT state FROM open_state").fetchone()
        if found is None:
            return projector
        try:
            state = msgspec.json.decode(found[0], type=OpenState)
        except (msgspec.MsgspecError, ValueError) as error:
            raise Damaged(f"the open state cannot be read: {error}") from None
        oldest_ms = max(0, state.time_ms - limits.TASK_ID_AGE_MS_MAX - limits.TASK_ID_AHEAD_MS_MAX)
        closed = self.connection.execute(
            "SELECT task_id FROM ended_tasks WHERE ended_seq <= ? AND task_id >= ? ORDER BY ended_seq",
            [state.position, ids.new_id(oldest_ms, bytes(10))],
        ).fetchall()
        projector.restore(state, (task_id for (task_id,) in closed))
        return projector

    def write(self, batch: Batch, open_state: tuple[int, bytes] | None = None) -> None:
        """Write one batch, its position and perhaps the open state, in one transaction.

        Raises:
            Damaged: the file is broken.
            duckdb.Error: it could not be written now, for example because the disk is full.
        """
        with noticing_damage():
            try:
                self._write(batch, open_state, careful=False)
            except UNFIT:
                self._write(batch, open_state, careful=True)

    def _write(self, batch: Batch, open_state: tuple[int, bytes] | None, *, careful: bool) -> None:
        connection = self.connection
        connection.execute("BEGIN")
        try:
            self._append("raw_events", batch.events, careful=careful)
            self._append("parked", batch.parked, careful=careful)
            self._append("ended_tasks", [rows.task_row(ended.task) for ended in batch.ended], careful=careful)
            attempts = (row for ended in batch.ended for row in rows.attempt_rows(ended.task, ended.stopped))
            self._append("ended_attempts", attempts, careful=careful)
            late = self._news(batch.late) if batch.late else []
            self._append("late_results", [rows.late_row(one) for one in late], careful=careful)
            connection.execute("UPDATE checkpoint SET position = ?", [batch.position])
            if open_state is not None:
                connection.execute("DELETE FROM open_state")
                connection.execute("INSERT INTO open_state VALUES (?, ?)", list(open_state))
            connection.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        try:
            self.connection.execute("ROLLBACK")
        except duckdb.Error:
            return  # the failed statement had ended the transaction; its error is the one to show

    def _append(self, table: str, found: Iterable[Row], *, careful: bool) -> None:
        append(self.connection, table, map(clean, found) if careful else found)

    def _news(self, late: Sequence[LateEnd]) -> list[LateEnd]:
        """Return the late ends that say something new, comparing those that the lifecycle could not."""
        unknown = [one for one in late if not one.task_known]
        if not unknown:
            return list(late)
        known = self._known_ends({one.end.task_id for one in unknown}, {one.end.host_id for one in unknown})
        kept = []
        for one in late:
            attempt = (one.end.task_id, one.end.host_id, one.end.attempt)
            if not one.task_known:
                if attempt not in known and one.end.task_id in known.tasks:
                    continue  # void: the task had no such attempt
                if not rows.is_news(one.end, known.get(attempt, ())):
                    continue
            known.setdefault(attempt, []).append(one.end)
            kept.append(one)
        return kept

    def _known_ends(self, task_ids: set[str], host_ids: set[str]) -> KnownEnds:
        wanted = sorted(task_ids)
        known = KnownEnds()
        found = self.connection.execute(
            "SELECT task_id FROM ended_tasks WHERE task_id IN (SELECT unnest(?))", [wanted]
        ).fetchall()
        known.tasks = {task_id for (task_id,) in found}
        for row in self.connection.execute(
            "SELECT * FROM ended_attempts WHERE attempt > 0 AND task_id IN (SELECT unnest(?))"
            " AND host_id IN (SELECT unnest(?))",
            [wanted, sorted(host_ids)],
        ).fetchall():
            command = rows.commands_from_rows([row], ())[row[1]]
            ends = [attempt.end for attempt in command.attempts if attempt.end]
            known[row[0], row[1], row[8]] = ends
        for task_id, host_id, attempt, body in self.connection.execute(
            "SELECT task_id, host_id, attempt, body FROM late_results WHERE task_id IN (SELECT unnest(?)) ORDER BY seq",
            [wanted],
        ).fetchall():
            known.setdefault((task_id, host_id, attempt), []).append(msgspec.json.decode(body, type=events.End))
        return known


class KnownEnds(dict[tuple[str, str, int], list[events.End]]):
    """Ends in the tables by attempt, and which tasks have rows."""

    tasks: set[str]


def append(connection: duckdb.DuckDBPyConnection, table: str, found: Iterable[Row]) -> None:
    """Append rows to a table, in the order of its columns."""
    pending: list[Row] = []
    appender = None
    for row in found:
        if appender is None:
            appender = connection.appender(table)
        pending.append(row)
        if len(pending) >= APPEND_ROWS_MAX:
            appender.append_rows(pending)
            pending.clear()
    if appender is not None:
        appender.append_rows(pending)
        appender.flush()


def clean(row: Row) -> Row:
    """Return the row with each value that no column can hold replaced by the nearest that one can."""
    return tuple(_clean_value(value) for value in row)


def _clean_value(value: Any) -> Any:
    """Return what a column can hold that is nearest to *value*."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, int) and not isinstance(value, bool):
        return max(-(2**31), min(value, 2**31 - 1)) if abs(value) >= 2**63 else value
    return value


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    found = connection.execute(query).fetchone()
    if found is None:
        raise Damaged(f"nothing answers {query!r}")
    return tuple(found)


def open_store(path: Path, memory_bytes_max: int = ReporterSettings().memory_bytes_max) -> tuple[Store, str]:
    """Return the store at *path*, made anew when it cannot be used, and why (empty when it could).

    Raises:
        FileInUse: another process has it.
        Unwritable: the disk does not take it now.
    """
    try:
        return Store(path, memory_bytes_max), ""
    except Damaged as error:
        try:
            move_aside(path)
        except OSError as trouble:
            raise Unwritable(str(trouble)) from None
        return Store(path, memory_bytes_max), str(error)


def position_of(path: Path) -> int:
    """Return how much of the log a projection file nobody has open holds; 0 when there is none, or it cannot be read."""
    if not path.exists():
        return 0
    try:
        with duckdb.connect(str(path), read_only=True, config=_CONFIG) as connection:
            return int(_one(connection, "SELECT position FROM checkpoint")[0])
    except (duckdb.Error, Damaged):
        return 0


def move_aside(path: Path) -> None:
    """Rename a file that cannot be used to `.broken-<n>`, with its write-ahead log, and drop the oldest of these."""
    numbers = sorted(int(one.name.rpartition("-")[2]) for one in _broken(path))
    number = numbers[-1] + 1 if numbers else 1
    for suffix in ("", ".wal"):
        source = path.with_name(path.name + suffix)
        if source.exists():
            source.rename(path.with_name(f"{path.name}{suffix}.broken-{number}"))
    for old in _broken(path):
        if int(old.name.rpartition("-")[2]) <= number - BROKEN_FILES_MAX:
            old.unlink()


def _broken(path: Path) -> list[Path]:
    return [one for one in path.parent.glob(f"{path.name}*.broken-*") if one.name.rpartition("-")[2].isdigit()]
