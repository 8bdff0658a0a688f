"""What an export of a long history costs, and what others feel of it: on the real reporter, beside a question asked again and again.

The rows are made by DuckDB itself, in the reporter's own tables: tasks on one host each, with one event for each.
"""

from __future__ import annotations

import asyncio
import base64
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import structlog

from bench.figures import Figure, percentile
from bench.projection import SPEC, stored
from bench.questions import FILL_MEMORY_BYTES, READY_SECONDS_MAX, last_of, log_behind
from bench.system import BenchError
from fleetlog_reporter.apply import Projector
from fleetlog_reporter.service import Reporter
from fleetlog_reporter.store import FILE_NAME, Store
from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_runtime.shell.health import Health
from fleetlog_schemas import events, host_events, questions
from fleetlog_schemas.exports import ExportQuestion, Format, Selection, What

DAY_MS = 86_400_000
PAUSE_SECONDS = 0.02
"""Between two of the questions that are asked meanwhile."""
IDLE_SECONDS = 3.0
HEX = "printf('%012x', $start + i * $gap)"
TASK_ID = f"(substr({HEX}, 1, 8) || '-' || substr({HEX}, 9, 4) || '-7000-8000-' || printf('%012d', i))"
TASKS = f"""
INSERT INTO ended_tasks BY NAME
SELECT {TASK_ID} AS task_id, 'shell' AS kind, 'true' AS summary, 'ended' AS state, 'success' AS outcome, 'all' AS target, 'ann' AS submitted_by,
    $start + i * $gap AS submitted_ms, i + 1 AS submitted_seq, $start + i * $gap AS planned_ms, $start + i * $gap + 900 AS ended_ms, i + 1 AS ended_seq,
    'hash' AS plan_hash, '[]' AS tags, 0 AS stop_ms, 1 AS hosts, '{{"success":1}}' AS counts, md5(i::VARCHAR)[:16] AS payload_key, $spec AS spec,
    5 AS priority, 'default' AS queue
FROM range($rows) t(i)"""
ATTEMPTS = f"""
INSERT INTO ended_attempts BY NAME
SELECT {TASK_ID} AS task_id, printf('h%05d', i % 1000) AS host_id, printf('host%05d', i % 1000) AS host, 'shell' AS kind, 'ended' AS command_state,
    i + 1 AS command_ended_seq, i + 1 AS task_ended_seq, 1 AS attempt, $start + i * $gap AS dispatched_ms, 'success' AS outcome, 'yes' AS ran, 0 AS exit_code,
    $start + i * $gap + 20 AS started_ms, $start + i * $gap + 800 AS ended_ms, 780 AS duration_ms, md5(i::VARCHAR) AS tail, false AS decided, i + 1 AS end_seq,
    $start + i * $gap + 900 AS end_ms, '{{"epoch":1,"dispatched_seq":' || i || '}}' AS rest
FROM range($rows) t(i)"""
EVENTS = """
INSERT INTO raw_events
SELECT i + 1, 'evt.result', 'fleetlog.attempt.ended.v1', $start + i * $gap + 900, md5(i::VARCHAR), NULL, substr(md5(i::VARCHAR), 1, 8),
    '{"id":"' || md5(i::VARCHAR) || '","data":"' || array_to_string([md5((30 * i + n)::VARCHAR) FOR n IN range(30)], '') || '"}'
FROM range($rows) t(i)"""


def _fill(path: Path, rows: int) -> Draft:
    now_ms = int(time.time() * 1000)
    store, gap_ms = Store(path, FILL_MEMORY_BYTES), 30 * DAY_MS // rows
    given = {"start": now_ms - rows * gap_ms, "gap": gap_ms, "rows": rows}
    store.connection.execute(TASKS, {**given, "spec": msgspec.json.encode(SPEC).decode()})
    store.connection.execute(ATTEMPTS, given)
    store.connection.execute(EVENTS, given)
    last = last_of(store, rows, now_ms)
    projector = Projector()
    projector.position, projector.time_ms = rows, now_ms
    store.connection.execute("INSERT INTO open_state VALUES (?, ?)", [rows, projector.open_state()])
    store.connection.execute("UPDATE checkpoint SET position = ?", [rows])
    store.connection.execute("CHECKPOINT")
    store.close()
    return last


def _memory(name: str) -> float:
    """Return a line of this process's status, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise BenchError(f"this machine does not say {name}")


def _forget_peak() -> None:
    """From here on, the most memory that this process had (VmHWM) is that of what follows."""
    Path("/proc/self/clear_refs").write_text("5")


async def _ask(reporter: Reporter, name: str, question: msgspec.Struct) -> Any:
    return msgspec.json.decode(questions.unpack_answer(await reporter.answer(name, msgspec.json.encode(question))))


async def _others(reporter: Reporter, until: asyncio.Event) -> list[float]:
    """Ask for the newest tasks until it is over; return how many milliseconds each answer took."""
    waits = []
    while not until.is_set():
        began = time.perf_counter()
        found = await _ask(reporter, "tasks", questions.TasksQuestion(limit=50))
        waits.append(1000 * (time.perf_counter() - began))
        if not found.get("data"):
            raise BenchError(f"a question was not answered: {found}")
        await asyncio.sleep(PAUSE_SECONDS)
    return waits


async def _export(reporter: Reporter, selection: Selection, rows: int) -> int:
    """Fetch an export whole; return how many bytes it has."""
    offset, size = 0, 1
    while offset < size:
        found = await _ask(reporter, "export", ExportQuestion(selection=selection, offset=offset))
        problem = found.get("problem")
        if problem and problem["code"] != "export-being-made":
            raise BenchError(f"the export failed: {problem}")
        if not problem:
            if found["data"]["rows"] != rows:
                raise BenchError(f"an export of {rows} rows has {found['data']['rows']}")
            size, offset = found["data"]["size"], offset + len(base64.b64decode(found["data"]["data"]))
    return size


async def _measure(folder: Path, last: Draft, rows: int) -> list[Figure]:
    bus = await log_behind(last, rows)
    await bus.append(Batch(drafts=(stored(host_events.HostEnrolled("h", "h", {}, "h"), int(time.time() * 1000), events.ACCESS),), message_id="new"))
    stop, ready = asyncio.Event(), asyncio.Event()
    log: Any = structlog.get_logger()
    reporter = Reporter(bus, folder, lambda: int(time.time() * 1000), log, Health("reporter", "bench"))
    service = asyncio.create_task(reporter.run(stop, ready.set))
    try:
        async with asyncio.timeout(READY_SECONDS_MAX):
            await ready.wait()
        over = asyncio.Event()
        asyncio.get_running_loop().call_later(IDLE_SECONDS, over.set)
        figures = [_waits("newest 50 tasks, nothing else going on", await _others(reporter, over))]
        for what in (What.TASKS, What.COMMANDS, What.EVENTS):
            for form in (Format.NDJSON, Format.PARQUET):
                figures += await _one(reporter, Selection(what=what, format=form, as_of_seq=rows), rows)
        return figures
    finally:
        stop.set()
        await service
        await bus.close()


async def _one(reporter: Reporter, selection: Selection, rows: int) -> list[Figure]:
    words = f"{rows:,} {selection.what.value} as {selection.format.value}"
    over = asyncio.Event()
    _forget_peak()
    before, began = _memory("VmRSS"), time.perf_counter()
    others = asyncio.create_task(_others(reporter, over))
    try:
        size = await _export(reporter, selection, rows)
    finally:
        over.set()
    seconds = time.perf_counter() - began
    return [
        Figure(words, "s", (seconds,), note=f"{size / 1e6:,.0f} MB"),
        Figure(f"{words}: memory at most", "MiB", (_memory("VmHWM") - before,), note=f"above {before:,.0f} MiB"),
        _waits(f"{words}: newest 50 tasks meanwhile", await others),
    ]


def _waits(words: str, waits: list[float]) -> Figure:
    return Figure(words, "ms", tuple(waits), note=f"99 of 100 within {percentile(waits, 0.99):,.1f} ms")


def exports(rows: int) -> list[Figure]:
    """Measure exports of so many rows."""
    with tempfile.TemporaryDirectory(prefix="fleetlog-bench-") as name:
        last = _fill(Path(name) / FILE_NAME, rows)
        return asyncio.run(_measure(Path(name), last, rows))
