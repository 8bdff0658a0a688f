"""What questions cost on a long history: ten million ended commands, asked of the real reporter as people ask.

The rows are made by DuckDB itself, in the reporter's own tables: folding as many events would take minutes and give the
same. Two things are left out of them: the bodies of events, but for those around the moment that is asked about, and
what `touches` names. The log goes on behind them (as if what is older had been pruned) with one task that runs.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog

from bench.figures import Figure
from bench.projection import SPEC, stored
from bench.system import BenchError
from fleetlog_reporter.apply import Projector
from fleetlog_reporter.service import Reporter
from fleetlog_reporter.store import FILE_NAME, Store
from fleetlog_runtime.pure.bus import Batch, Draft, Stored
from fleetlog_runtime.shell.health import Health
from fleetlog_runtime.shell.memory_bus import MemoryBroker, MemoryBus
from fleetlog_schemas import events, host_events, questions, subjects
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.ids import new_id
from fleetlog_schemas.outcomes import Outcome, Ran

HOSTS = 10_000
HOSTS_PER_TASK = 50
DAYS = 60
DAY_MS = 86_400_000
OPEN_SLOTS = 2
"""A task ends while the one after the next is submitted, so that some are open at every moment."""
EVENTS_PER_SLOT = 5
"""Two that end an earlier task (`attempt.ended`, `task.ended`), and three that begin one."""
WINDOW_SLOTS = 12
"""Around the moment that is asked about, events have their bodies."""
ROWS_AT_ONCE = 1_000_000
RUNNING_HOSTS = 1_000
ENTRIES = 500
"""Hosts in one event of the preparation."""
FILL_MEMORY_BYTES = 4 * 1024**3
READY_SECONDS_MAX = 60.0

TASK_ID = """(substr(hex, 1, 8) || '-' || substr(hex, 9, 4) || '-7' || substr(md5(i::VARCHAR), 1, 3) || '-8'
    || substr(md5(i::VARCHAR), 4, 3) || '-' || substr(md5(i::VARCHAR), 7, 12))"""
TASKS = f"""
INSERT INTO ended_tasks BY NAME
SELECT {TASK_ID} AS task_id, kind, 'true' AS summary, 'ended' AS state, CASE WHEN i % 10 = 0 THEN 'failure' ELSE 'success' END AS outcome,
    'all' AS target, 'ann' AS submitted_by, at_ms AS submitted_ms, base + i * {EVENTS_PER_SLOT} + 2 AS submitted_seq, at_ms AS planned_ms,
    ended_ms, base + (i + {OPEN_SLOTS}) * {EVENTS_PER_SLOT} + 1 AS ended_seq, 'hash' AS plan_hash, '[]' AS tags, 0 AS stop_ms,
    {HOSTS_PER_TASK} AS hosts, '{{"success":{HOSTS_PER_TASK}}}' AS counts, md5((i % 100)::VARCHAR)[:16] AS payload_key,
    $spec AS spec, 5 AS priority, 'default' AS queue
FROM (SELECT i, $base AS base, $start + i * $gap AS at_ms, $start + (i + {OPEN_SLOTS}) * $gap AS ended_ms,
    CASE WHEN i % 3 = 0 THEN 'script' ELSE 'shell' END AS kind, printf('%012x', $start + i * $gap) AS hex
    FROM range($first, $last) t(i))"""
ATTEMPTS = f"""
INSERT INTO ended_attempts BY NAME
SELECT {TASK_ID} AS task_id, printf('h%05d', number) AS host_id, printf('host%05d', number) AS host,
    CASE WHEN i % 3 = 0 THEN 'script' ELSE 'shell' END AS kind, 'ended' AS command_state, seq AS command_ended_seq, seq + 1 AS task_ended_seq,
    1 AS attempt, at_ms AS dispatched_ms, CASE WHEN dice < 90 THEN 'success' WHEN dice < 97 THEN 'failure' ELSE 'timeout' END AS outcome,
    'yes' AS ran, CASE WHEN dice < 90 THEN 0 ELSE 1 END AS exit_code, at_ms + 20 AS started_ms, at_ms + 20 + took AS ended_ms,
    took AS duration_ms, CASE WHEN dice < 50 THEN 'release 4.2' END AS tail, false AS decided, seq AS end_seq, over_ms AS end_ms,
    '{{"epoch":1,"dispatched_seq":' || (seq - 6) || '}}' AS rest
FROM (SELECT r // {HOSTS_PER_TASK} AS i, (r // {HOSTS_PER_TASK} * 7919 + r % {HOSTS_PER_TASK} * 199) % {HOSTS} AS number,
    hash(r) % 100 AS dice, (hash(r + 1) % 50000)::BIGINT AS took, $start + r // {HOSTS_PER_TASK} * $gap AS at_ms,
    $start + (r // {HOSTS_PER_TASK} + {OPEN_SLOTS}) * $gap AS over_ms,
    $base + (r // {HOSTS_PER_TASK} + {OPEN_SLOTS}) * {EVENTS_PER_SLOT} AS seq,
    printf('%012x', $start + r // {HOSTS_PER_TASK} * $gap) AS hex
    FROM range($first * {HOSTS_PER_TASK}, $last * {HOSTS_PER_TASK}) t(r))"""
EVENTS = """
INSERT INTO raw_events
SELECT $base + r, CASE r % 5 WHEN 0 THEN 'evt.result' WHEN 2 THEN 'evt.request' ELSE 'evt.dispatch' END,
    CASE r % 5 WHEN 0 THEN 'fleetlog.attempt.ended.v1' WHEN 1 THEN 'fleetlog.task.ended.v1' WHEN 2 THEN 'fleetlog.task.submitted.v1'
        WHEN 3 THEN 'fleetlog.task.planned.v1' ELSE 'fleetlog.attempt.dispatched.v1' END,
    $start + r // 5 * $gap, md5(r::VARCHAR), NULL, substr(md5(r::VARCHAR), 1, 8), '{}'
FROM range($first * 5, $last * 5) t(r)"""


class Past:
    """The history that is made."""

    def __init__(self, commands: int) -> None:
        """Spread *commands* evenly over DAYS, up to now."""
        self.tasks = commands // HOSTS_PER_TASK
        self.now_ms = int(time.time() * 1000)
        self.gap_ms = DAYS * DAY_MS // self.tasks
        self.start_ms = self.now_ms - (self.tasks + OPEN_SLOTS + 1) * self.gap_ms
        self.asked_slot = self.tasks // 2
        self.asked_ms = self.start_ms + self.asked_slot * self.gap_ms + 1
        self.hosts = Projector()
        """The fold of the events about hosts."""
        self.host_rows: list[tuple[Any, ...]] = []
        self._enrol()
        self.base = self.hosts.position + 1
        self.last_seq = self.base + (self.tasks + OPEN_SLOTS) * EVENTS_PER_SLOT - 1

    def _enrol(self) -> None:
        now_ms = self.start_ms - DAY_MS
        for first in range(0, HOSTS, ENTRIES):
            some = range(first, first + ENTRIES)
            for number in some:
                enrolled = host_events.HostEnrolled(f"h{number:05d}", f"host{number:05d}", {"rack": str(number % 40)}, f"K{number}")
                self._fold(stored(enrolled, now_ms, events.ACCESS), now_ms)
            sessions = tuple(host_events.Session(f"h{number:05d}", 1, f"n{number}", "boot", "1", 1) for number in some)
            self._fold(stored(host_events.SessionsOpened(sessions), now_ms, events.DISPATCH), now_ms)
            epochs = tuple(host_events.HostEpoch(f"h{number:05d}", 1) for number in some)
            self._fold(stored(host_events.HostsOnline(epochs), now_ms, events.DISPATCH), now_ms)

    def _fold(self, draft: Draft, now_ms: int) -> None:
        self.hosts.fold(Stored(self.hosts.position + 1, draft.subject, now_ms, draft.body))
        self.host_rows += self.hosts.take().events

    def around_the_moment(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of events whose bodies are read when that moment is asked about."""
        kept = Projector()
        kept.position = self.base + (self.asked_slot - WINDOW_SLOTS) * EVENTS_PER_SLOT - 1
        ids: dict[int, str] = {}
        for slot in range(self.asked_slot - WINDOW_SLOTS, self.asked_slot + WINDOW_SLOTS):
            now_ms = self.start_ms + slot * self.gap_ms
            ids[slot] = new_id(now_ms, os.urandom(10))
            over = ids.get(slot - OPEN_SLOTS, new_id(now_ms, os.urandom(10)))
            hosts = [f"h{(slot * 7919 + number * 199) % HOSTS:05d}" for number in range(HOSTS_PER_TASK)]
            for draft in (*_end(over, hosts, now_ms), *_begin(ids[slot], hosts, now_ms)):
                kept.fold(Stored(kept.position + 1, draft.subject, now_ms, draft.body))
            yield from kept.take().events

    def fill(self, store: Store) -> None:
        """Write everything into the tables."""
        db = store.connection
        for row in self.host_rows:
            db.execute("INSERT INTO raw_events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", list(row))
        given = {"base": self.base, "start": self.start_ms, "gap": self.gap_ms}
        step = ROWS_AT_ONCE // HOSTS_PER_TASK
        for first in range(0, self.tasks, step):
            some = {**given, "first": first, "last": min(first + step, self.tasks)}
            db.execute(TASKS, {**some, "spec": msgspec.json.encode(SPEC).decode()})
            db.execute(ATTEMPTS, some)
        window = (self.asked_slot - WINDOW_SLOTS, self.asked_slot + WINDOW_SLOTS)
        db.execute(EVENTS, {**given, "first": 0, "last": window[0]})
        for row in self.around_the_moment():
            db.execute("INSERT INTO raw_events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", list(row))
        db.execute(EVENTS, {**given, "first": window[1], "last": self.tasks + OPEN_SLOTS})
        self.hosts.position, self.hosts.time_ms = self.last_seq, self.now_ms
        self.last = last_of(store, self.last_seq, self.now_ms)
        db.execute("INSERT INTO open_state VALUES (?, ?)", [self.last_seq, self.hosts.open_state()])
        db.execute("UPDATE checkpoint SET position = ?", [self.last_seq])
        db.execute("CHECKPOINT")


def last_of(store: Store, seq: int, now_ms: int) -> Draft:
    """Make the newest event that is kept a real one, and return it: the reporter looks for it in the log."""
    draft = stored(host_events.HostEnrolled("last", "last", {}, "last"), now_ms, events.ACCESS)
    store.connection.execute("UPDATE raw_events SET body = ? WHERE seq = ?", [draft.body.decode(), seq])
    return draft


async def log_behind(draft: Draft, seq: int) -> MemoryBus:
    """Return a bus whose log holds only that event, at *seq*: what is older was pruned."""
    broker = MemoryBroker()
    broker.store.streams[subjects.EVENTS].last_seq = seq - 1
    bus = MemoryBus(broker)
    await bus.append(Batch(drafts=(draft,), message_id="last"))
    return bus


def _begin(task_id: str, hosts: list[str], now_ms: int) -> list[Draft]:
    planned = tuple(events.PlannedHost(host_id, f"host{host_id[1:]}") for host_id in hosts)
    dispatches = tuple(events.Dispatch(task_id, host_id, 1, epoch=1) for host_id in hosts)
    return [
        stored(events.TasksSubmitted((events.Submission(task_id, SPEC),)), now_ms, events.REQUEST),
        stored(events.TasksPlanned((events.Plan(task_id, planned, "bench"),)), now_ms, events.DISPATCH),
        stored(events.AttemptsDispatched(dispatches), now_ms, events.DISPATCH),
    ]


def _end(task_id: str, hosts: list[str], now_ms: int) -> list[Draft]:
    ends = tuple(
        events.End(task_id, host_id, 1, Outcome.SUCCESS, Ran.YES, exit_code=0, ended_ms=now_ms, duration_ms=900) for host_id in hosts
    )
    return [
        stored(events.AttemptsEnded(ends), now_ms, events.RESULT),
        stored(events.TasksEnded((events.TaskEnd(task_id, Outcome.SUCCESS, {Outcome.SUCCESS: len(hosts)}),)), now_ms, events.DISPATCH),
    ]


def _asked(past: Past, running: str, middle: str) -> list[tuple[str, float, str, msgspec.Struct]]:
    """Return what is asked: its words, the milliseconds that it should take, its name on the bus, and the question."""
    week = rfc3339(past.now_ms - 30 * DAY_MS)
    hourly = (
        "SELECT date_trunc('hour', recorded_at) AS hour, count(*), count(*) FILTER (outcome <> 'success') FROM commands"
        f" WHERE state = 'ended' AND recorded_at >= '{week[:19]}' GROUP BY hour ORDER BY hour"
    )
    last = "SELECT * FROM commands WHERE host_id = 'h00042' ORDER BY recorded_at DESC LIMIT 50"
    return [
        ("progress of a running task on 1,000 hosts", 1, "progress", questions.TaskQuestion(task_id=running)),
        ("success and percentiles by kind, 7 days", 50, "stats", questions.StatsQuestion(since_ms=past.now_ms - 7 * DAY_MS)),
        ("hourly histogram, 30 days", 100, "sql", questions.SqlQuestion(query=hourly)),
        ("last 50 commands of a host, SQL", 10, "sql", questions.SqlQuestion(query=last)),
        ("last 50 tasks of a host", 10, "tasks", questions.TasksQuestion(host="h00042", limit=50)),
        ("newest 50 tasks", 10, "tasks", questions.TasksQuestion(limit=50)),
        ("one ended task, by id", 10, "task", questions.TaskQuestion(task_id=middle)),
        ("open tasks as of a time 30 days ago", 200, "tasks", questions.TasksQuestion(state="open", as_of_ms=past.asked_ms)),
        (f"{HOSTS:,} hosts as of a time 30 days ago", 200, "hosts", questions.HostsQuestion(limit=100, as_of_ms=past.asked_ms)),
    ]


async def _ask(reporter: Reporter, name: str, question: msgspec.Struct) -> float:
    began = time.perf_counter()
    body = await reporter.answer(name, msgspec.json.encode(question))
    seconds = time.perf_counter() - began
    answer = msgspec.json.decode(questions.unpack_answer(body))
    if answer.get("problem"):
        raise BenchError(f"{name}: {answer['problem']}")
    if name != "progress" and not (answer["data"].get("items") or answer["data"].get("rows") or answer["data"].get("task_id")):
        raise BenchError(f"{name} answered with nothing: {question}")
    return 1000 * seconds


async def _measure(folder: Path, past: Past, rounds: int) -> list[Figure]:
    bus, running = await log_behind(past.last, past.last_seq), new_id(past.now_ms, os.urandom(10))
    hosts = [f"h{number:05d}" for number in range(RUNNING_HOSTS)]
    for draft in (*_begin(running, hosts, past.now_ms), _end(running, hosts[: RUNNING_HOSTS // 2], past.now_ms)[0]):
        await bus.append(Batch(drafts=(draft,), message_id=new_id(past.now_ms, os.urandom(10))))
    stop, ready = asyncio.Event(), asyncio.Event()
    log: Any = structlog.get_logger()
    reporter = Reporter(bus, folder, lambda: int(time.time() * 1000), log, Health("reporter", "bench"))
    began = time.perf_counter()
    service = asyncio.create_task(reporter.run(stop, ready.set))
    try:
        async with asyncio.timeout(READY_SECONDS_MAX):
            await ready.wait()
        figures = [Figure("reporter opened", "s", (time.perf_counter() - began,))]
        pick = questions.SqlQuestion(query=f"SELECT task_id FROM tasks OFFSET {past.tasks // 2} LIMIT 1")
        found = msgspec.json.decode(questions.unpack_answer(await reporter.answer("sql", msgspec.json.encode(pick))))
        for words, goal_ms, name, question in _asked(past, running, found["data"]["rows"][0][0]):
            await _ask(reporter, name, question)
            waits = [await _ask(reporter, name, question) for _ in range(max(rounds, 3))]
            figures.append(Figure(words, "ms", tuple(waits), note=f"goal {goal_ms:g} ms"))
        return figures
    finally:
        stop.set()
        await service
        await bus.close()


def ask_much(commands: int, rounds: int) -> list[Figure]:
    """Measure questions on *commands* ended commands."""
    with tempfile.TemporaryDirectory(prefix="fleetlog-bench-") as name:
        folder, began = Path(name), time.perf_counter()
        past = Past(commands)
        store = Store(folder / FILE_NAME, FILL_MEMORY_BYTES)
        past.fill(store)
        store.close()
        seconds, size = time.perf_counter() - began, (folder / FILE_NAME).stat().st_size
        figures = asyncio.run(_measure(folder, past, rounds))
    return [
        Figure(f"{commands:,} ended commands: made in", "s", (seconds,)),
        Figure("projection's file", "B a command", (size / commands,), note="without the bodies of events"),
        *figures,
    ]
