"""What is kept is what the log says: any history, any batches, any crash, any file."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetlog_reporter.answers import past
from fleetlog_reporter.answers.find import task_of_rows
from fleetlog_reporter.answers.verify import COMPARED, hashes
from fleetlog_reporter.apply import Projector
from fleetlog_reporter.rows import LateEnd
from fleetlog_reporter.store import (
    BROKEN_FILES_MAX,
    FILE_NAME,
    Damaged,
    FileInUse,
    Store,
    move_aside,
    open_store,
)
from fleetlog_runtime.pure.bus import Stored
from fleetlog_schemas import control_events, events, host_events, policy_events, records, view
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Retry, Rollout
from fleetlog_testing.reporter_rig import LogBus, reporter

HOSTS = ("a", "b", "c")
EVER = 1 << 60


# --- any history ---------------------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> LogBus:
    """Draw a log: sensible stories told in any order, with repetitions, late ends, void and foreign events."""
    bus = LogBus()
    tasks: list[str] = []
    for step in draw(st.lists(st.integers(0, 17), min_size=5, max_size=40)):
        bus.now_ms += draw(st.sampled_from((0, 1, 700, 3_600_000)))
        if step <= 1 or not tasks:
            retry = Retry(attempts_max=draw(st.integers(1, 3)), on=(Outcome.FAILURE, Outcome.LOST), backoff_ms=10)
            names = HOSTS[: draw(st.integers(1, 3))]
            rollout = draw(st.sampled_from((None, Rollout(batch="1"), Rollout(batch="1", approve=(0,)))))
            tasks.append(bus.planned(
                *names, retry=retry, tags=("x",), rollout=rollout, waves=(1,) * len(names) if rollout else (),
                priority=draw(st.sampled_from((1, 5))), queue=draw(st.sampled_from(("default", "night"))),
                key=draw(st.sampled_from(("", "backup"))),
            ))
            continue
        task_id = draw(st.sampled_from(tasks))
        names = draw(st.lists(st.sampled_from(HOSTS), min_size=1, max_size=3, unique=True))
        if step < 14:
            _step(draw, bus, step, task_id, names)
        else:
            _admission_step(draw, bus, step, draw(st.sampled_from(tasks)), task_id, names)
        task = bus.tasks.by_id[task_id]
        if task.state is records.TaskState.PLANNED and not task.open and draw(st.booleans()):
            bus.task_ended(task_id)
    return bus


def _step(draw: st.DrawFn, bus: LogBus, step: int, task_id: str, names: list[str]) -> None:
    attempt = draw(st.integers(1, 3))
    match step:
        case 2 | 3 | 4:
            # Most often the decision is fresh; an old one is void when admission was narrowed after it.
            bus.dispatched(task_id, *names, attempt=attempt, decided_seq=draw(st.sampled_from((0, 0, 3, 9))))
        case 5:
            bus.started(task_id, names[0], attempt, slot=1, first=7)
        case 6 | 7 | 8 | 9:
            outcome = draw(st.sampled_from((Outcome.SUCCESS, Outcome.FAILURE, Outcome.LOST)))
            tail = draw(st.sampled_from(("", "héllo\n", "nul \x00 in it", "line 1\nline 2")))
            summary = events.OutputSummary(slot=1, bytes=3, lines=1, frames=1, sha256="0" * 64, index=(events.OutputMark(0, 1, 5),))
            bus.ended(
                task_id, *names, outcome=outcome, attempt=attempt, tail=tail, ran=draw(st.sampled_from(Ran)),
                exit_code=draw(st.sampled_from((None, 0, 1, 2**70))), duration_ms=draw(st.sampled_from((None, 5, 10))),
                output=draw(st.sampled_from((None, summary))), signal=draw(st.sampled_from((None, 9))),
                return_value=draw(st.sampled_from((None, '{"a": 1}'))),
            )
        case 10:
            decided = draw(st.sampled_from((Outcome.UNREACHED, Outcome.SKIPPED, Outcome.LOST)))
            bus.ended(
                task_id, *names, outcome=decided, attempt=attempt, decided=True, ran=Ran.NO, exit_code=None, ended_ms=None,
                duration_ms=None, error="not today",
            )
        case 11:
            bus.add(control_events.CancelRequested(task_id, tuple(f"h-{name}" for name in names), "enough"))
        case 12:
            bus.add(draw(st.sampled_from((
                events.TasksTimedOut((task_id,)), control_events.CancelRequested(task_id, (), "stop it"),
                events.TasksRefused((events.Refusal(task_id, "code", "text", "/target"),)),
                host_events.ReportsRefused("h-a", 3, {"token": 1}, (events.AttemptKey(task_id, "h-a", 1),)),
            ))))
        case _:
            other = bus.submitted(name="refused one")
            bus.add(events.TasksRefused((events.Refusal(other, "empty-target", "no host fits", "/target"),)))
            bus.raw("evt.request", b"no event at all")
            bus.raw("evt.catalog", b'{"specversion":"1.0","id":"1","source":"/x","type":"fleetlog.new.v9","time":"x","data":{}}')


def _admission_step(draw: st.DrawFn, bus: LogBus, step: int, other: str, task_id: str, names: list[str]) -> None:
    hosts = tuple(f"h-{name}" for name in names)
    match step:
        case 14:
            message = draw(st.sampled_from(("all slots are taken", "nul \x00 \"waits\": in it")))
            bus.waiting(task_id, draw(st.sampled_from(("slot", "freeze"))), *draw(st.sampled_from((names, []))), message=message)
        case 15:
            bus.add(draw(st.sampled_from((
                control_events.PauseRequested(task_id, "look first"), control_events.ResumeRequested(task_id), control_events.TaskApproved(task_id, 2),
                control_events.TaskApproved(task_id, 3), events.TasksHalted((events.Halt(task_id, 2, 1, 1),)),
            ))))
        case 16:
            bus.add(draw(st.sampled_from((
                control_events.AllCancelRequested("everything"), control_events.AbortRequested(task_id, "no more"),
                control_events.SkipRequested(task_id, hosts), events.TasksReplaced((events.Replacement(task_id, other),)),
            ))))
        case _:
            window = policy_events.Window("blackout", "all", (0, 6), "22:00", 90, "Europe/Berlin")
            bus.add(draw(st.sampled_from((
                policy_events.FleetFrozen("f1", "all", "incident"), policy_events.FleetThawed("f1"), policy_events.WindowSet("night", window),
                policy_events.WindowRemoved("night"), policy_events.QueueLimited("night", 2), policy_events.QueueLimited("night", 0),
                host_events.MaintenanceSet("h-a", on=True, reason="disk"),
            ))))


def log_of(bus: LogBus) -> list[Stored]:
    return list(bus.store.streams["EVENTS"].messages.values())


def project(path: Path, log: list[Stored], cuts: list[bool], crashes: set[int]) -> Store:
    """Project a log in batches that end where *cuts* says, with one crash after each index of *crashes*."""
    store = Store(path)
    projector = store.load()
    left, index = set(crashes), 0
    while index < len(log):
        projector.fold(log[index])
        if cuts[index % len(cuts)] and projector.position > store.position:
            batch = projector.take()
            store.write(batch, (projector.position, projector.open_state()) if index % 3 == 0 else None)
            projector.written(batch)
        index += 1
        if index in left:
            left.discard(index)
            # What is in memory is gone; the file is as the last transaction left it.
            store.close()
            store = Store(path)
            projector = store.load()
            index = next((at for at, one in enumerate(log) if one.seq > projector.position), len(log))
    if projector.position > store.position:
        store.write(projector.take(), (projector.position, projector.open_state()))
    return store


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(bus=histories(), cuts=st.lists(st.booleans(), min_size=1, max_size=7))
def test_a_task_read_from_rows_is_the_task_of_the_fold_byte_for_byte(bus: LogBus, cuts: list[bool]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = project(Path(folder) / FILE_NAME, log_of(bus), cuts, set())
        for task_id, task in bus.tasks.by_id.items():
            kept = task_of_rows(store.connection, task_id, EVER)
            if task.state in (records.TaskState.ENDED, records.TaskState.REFUSED):
                assert kept is not None
                expected = msgspec.json.encode(view.task_view(task))
                assert clamped(msgspec.json.encode(view.task_view(kept))) == clamped(expected)
            else:
                assert kept is None
                still_open = after_restart(store, log_of(bus)).tasks.by_id[task_id]
                assert msgspec.json.encode(view.task_view(still_open)) == msgspec.json.encode(view.task_view(task))
        store.close()


def after_restart(store: Store, log: list[Stored]) -> Projector:
    """Return the fold of a reporter that was just started on the file."""
    projector = store.load()
    for stored in log:
        projector.fold(stored)
    assert not projector.take().events
    return projector


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(bus=histories(), cuts=st.lists(st.booleans(), min_size=1, max_size=7))
def test_a_past_task_is_the_task_of_the_fold_up_to_there(bus: LogBus, cuts: list[bool]) -> None:
    log = log_of(bus)
    with tempfile.TemporaryDirectory() as folder:
        store = project(Path(folder) / FILE_NAME, log, [*cuts, True], set())
        still_open = after_restart(store, log).tasks.by_id.values()
        first = min((task.submitted_seq for task in still_open), default=EVER)
        for seq in range(1, len(log) + 1, 5):
            expected = Projector()
            for stored in log[:seq]:
                expected.fold(stored)
            opened = past.fold_open(store.connection, seq, min(first, seq + 1), hosts_too=False)
            assert opened is not None
            assert (opened.policies, opened.stopped) == (expected.policies, expected.stopped)
            for task_id, task in expected.tasks.by_id.items():
                for found in (past.fold_task(store.connection, task_id, seq), opened.tasks.by_id[task_id]):
                    assert msgspec.json.encode(found) == msgspec.json.encode(task)
        store.close()


def clamped(text: bytes) -> bytes:
    """Return a view with the exit code that no column can hold as the tables have it; a late end is kept as text."""
    return text.replace(str(2**70).encode(), str(2**31 - 1).encode())


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    bus=histories(), cuts=st.lists(st.booleans(), min_size=1, max_size=7),
    crashes=st.sets(st.integers(1, 60), max_size=6),
)
def test_a_projection_kept_through_any_batches_and_crashes_equals_one_built_at_once(
    bus: LogBus, cuts: list[bool], crashes: set[int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        kept = project(Path(folder) / "kept", log_of(bus), [*cuts, True], crashes)
        built = project(Path(folder) / "built", log_of(bus), [False], set())
        assert hashes(kept.connection, EVER) == hashes(built.connection, EVER)
        assert len(log_of(bus)) == sum(hashes(kept.connection, EVER)[table][0] for table in ("raw_events", "parked"))
        kept.close()
        built.close()


# --- exactly once --------------------------------------------------------------------------------------------


def test_a_transaction_that_fails_leaves_nothing_behind_and_can_be_written_again(tmp_path: Path) -> None:
    bus = LogBus()
    bus.whole("web01")
    store = Store(tmp_path / FILE_NAME)
    projector = Projector()
    for stored in log_of(bus):
        projector.fold(stored)
    batch = projector.take()
    store.connection.execute("ALTER TABLE late_results RENAME TO away")
    batch.late = [_late(bus)]
    with pytest.raises(duckdb.Error):
        store.write(batch)
    assert (store.position, _count(store, "raw_events")) == (0, 0)
    store.connection.execute("ALTER TABLE away RENAME TO late_results")
    store.write(batch)
    assert (store.position, _count(store, "raw_events"), _count(store, "ended_tasks")) == (5, 5, 1)
    store.close()


def _late(bus: LogBus) -> LateEnd:
    end = events.End(next(iter(bus.tasks.by_id)), "h-web01", 1, outcome=Outcome.LOST, ran=Ran.UNKNOWN)
    return LateEnd(seq=5, time_ms=1, end=end, task_known=True)


def _count(store: Store, table: str) -> int:
    found = store.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert found
    return int(found[0])


def test_a_restart_goes_on_where_the_file_stands(tmp_path: Path) -> None:
    bus = LogBus()
    ended, still = bus.whole("web01"), bus.planned("web01", "web02")

    async def story() -> None:
        async with reporter(bus, tmp_path) as running:
            before = await running.data("task", task_id=still)
        bus.dispatched(still, "web01", "web02")
        async with reporter(bus, tmp_path) as running:
            after = await running.data("task", task_id=still)
            assert (before["counts"], after["counts"]) == ({"waiting": 2}, {"dispatched": 2})
            assert (await running.data("task", task_id=ended))["state"] == "ended"
            rows = await running.data("sql", query="select count(*), count(distinct seq), max(seq) from events")
            assert rows["rows"] == [[8, 8, 8]]

    asyncio.run(story())


def test_an_id_that_was_used_stays_used_after_a_restart(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = bus.whole("web01")
    spec = bus.tasks.by_id[task_id].spec

    async def story() -> None:
        async with reporter(bus, tmp_path):
            pass
        bus.add(events.TasksSubmitted((events.Submission(task_id, spec),)))
        async with reporter(bus, tmp_path) as running:
            page = await running.data("tasks")
            assert [(item["task_id"], item["state"]) for item in page["items"]] == [(task_id, "ended")]

    asyncio.run(story())


# --- bad messages --------------------------------------------------------------------------------------------


def test_what_is_no_event_is_parked_and_what_is_unknown_is_kept_and_the_projection_goes_on(tmp_path: Path) -> None:
    bus = LogBus()
    bus.raw("evt.request", b"\xff\xfe no json", b'{"specversion":"1.0"}')
    bus.raw("evt.request", b'{"specversion":"1.0","id":"7","source":"/x","type":"fleetlog.moon.v1","time":"x","data":{"a":1}}')
    bus.raw("evt.request", b'{"specversion":"1.0","id":"8","source":"/x","type":"fleetlog.task.submitted.v1","time":"2026-01-01T00:00:00Z","data":{"tasks":7}}')
    bus.raw("evt.request", b'{"specversion":"1.0","id":"9","source":"/x","type":"fleetlog.moon.v1","time":"x","minreader":99,"data":{"a":"\xff"}}')
    task_id = bus.whole("web01")

    async def story() -> None:
        async with reporter(bus, tmp_path) as running:
            assert (await running.data("task", task_id=task_id))["state"] == "ended"
            parked = await running.data("sql", query="select seq, error != '' from parked order by seq")
            assert parked["rows"] == [[1, True], [2, True], [4, True], [5, True]]
            assert running.health.parked == 4
            unknown = await running.data("events", type="fleetlog.moon.v1")
            assert [(item["seq"], item["event"]["data"]) for item in unknown["items"]] == [(3, {"a": 1})]

    asyncio.run(story())


# --- files that cannot be used -------------------------------------------------------------------------------


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is not a database" * 1000)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _flip_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\x00\xff" * 20)


def _other_version(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE meta SET version = 99")


def _no_tables(path: Path) -> None:
    path.unlink()
    duckdb.connect(str(path)).close()


def _unreadable_state(path: Path) -> None:
    with duckdb.connect(str(path)) as connection:
        connection.execute("DELETE FROM open_state")
        connection.execute("INSERT INTO open_state VALUES (1, 'nonsense'::BLOB)")


@pytest.mark.parametrize(
    "damage", [_truncate, _garbage, _empty, _flip_header, _other_version, _no_tables, _unreadable_state, Path.unlink]
)
def test_a_file_that_is_missing_damaged_or_of_another_version_is_built_anew(tmp_path: Path, damage: Any) -> None:
    bus = LogBus()
    done, still = bus.whole("web01"), bus.planned("web02")

    async def story() -> None:
        async with reporter(bus, tmp_path) as running:
            before = [await running.data("stats"), await running.data("tasks"), await running.data("task", task_id=done)]
        damage(tmp_path / FILE_NAME)
        async with reporter(bus, tmp_path) as running:
            after = [await running.data("stats"), await running.data("tasks"), await running.data("task", task_id=done)]
            assert after == before
            assert (await running.data("task", task_id=still))["state"] == "planned"
            assert (await running.data("verify"))["equal"]

    asyncio.run(story())
    broken = [one.name for one in tmp_path.iterdir() if ".broken-" in one.name]
    assert bool(broken) == (damage is not Path.unlink)


def test_a_file_that_breaks_while_it_is_read_is_built_anew_while_the_service_runs(tmp_path: Path) -> None:
    bus = LogBus()
    for _ in range(3):
        bus.whole("web01", argv=("echo", "x" * 50_000))
    task_id = bus.whole("web01")

    async def story() -> None:
        async with reporter(bus, tmp_path):
            pass
        path = tmp_path / FILE_NAME
        size = path.stat().st_size
        with path.open("r+b") as file:
            # Every block but the headers: whichever a question reads first is broken.
            for block in range(12 * 1024 + 100, size, 262_144):
                file.seek(block + 1000)
                file.write(b"\x00\xff" * 500)
        async with reporter(bus, tmp_path) as running:
            for _ in range(200):
                answer = await running.ask("task", task_id=task_id)
                if answer.problem is None:
                    break
                assert answer.problem["code"] in ("rebuilding", "starting", "behind"), answer.problem
                await asyncio.sleep(0.02)
            assert answer.data["state"] == "ended"
            assert (await running.data("verify"))["equal"]

    asyncio.run(story())
    assert any(".broken-" in one.name for one in tmp_path.iterdir())


def test_a_projection_of_another_log_is_built_anew(tmp_path: Path) -> None:
    first, other = LogBus(), LogBus()
    first.whole("web01")
    first.whole("web02")
    other.now_ms += 5
    mine = other.whole("web03")

    async def story() -> None:
        async with reporter(first, tmp_path):
            pass
        async with reporter(other, tmp_path) as running:
            assert [item["task_id"] for item in (await running.data("tasks"))["items"]] == [mine]

    asyncio.run(story())


def test_broken_files_are_kept_for_a_look_but_not_without_bound(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    for number in range(BROKEN_FILES_MAX + 4):
        path.write_text(str(number))
        path.with_name(path.name + ".wal").write_text("w")
        move_aside(path)
    kept = sorted(one.read_text() for one in tmp_path.iterdir() if ".wal" not in one.name)
    assert kept == ["4", "5", "6"]
    assert len(list(tmp_path.iterdir())) == 2 * BROKEN_FILES_MAX


def test_a_file_in_use_by_another_process_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    Store(path).close()
    with _held_by_another_process(path), pytest.raises(FileInUse, match="another reporter"):
        open_store(path)
    assert [one.name for one in tmp_path.iterdir() if "broken" in one.name] == []
    Store(path).close()


class _held_by_another_process:  # noqa: N801 - reads as a sentence
    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(self._path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == b"held\n"

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def test_a_store_of_another_version_says_so(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    Store(path).close()
    _other_version(path)
    with pytest.raises(Damaged, match="version 99"):
        Store(path)


def test_the_projections_of_earlier_versions_are_removed_and_built_anew_from_the_log(tmp_path: Path) -> None:
    bus = LogBus()
    done = bus.whole("web01")
    old, newer = tmp_path / "projection-v1.duckdb", tmp_path / "projection-v99.duckdb"
    for path in (old, tmp_path / "projection-v1.duckdb.wal", tmp_path / "projection-v1.duckdb.broken-1", newer):
        path.write_text("a file of another version")
    (tmp_path / "projection-v1.duckdb.tmp").mkdir()

    async def story() -> None:
        async with reporter(bus, tmp_path) as running:
            assert (await running.data("task", task_id=done))["state"] == "ended"

    asyncio.run(story())
    assert sorted(one.name for one in tmp_path.iterdir()) == [FILE_NAME, newer.name]


def test_a_restart_knows_what_narrows_admission(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = bus.planned("web01", "web02")
    bus.frozen()

    async def story() -> None:
        async with reporter(bus, tmp_path) as running:
            await running.data("sql", query="select 1")  # the rows are written, so that what is open is too when it stops
        bus.dispatched(task_id, "web01", decided_seq=2)
        bus.dispatched(task_id, "web02", decided_seq=3)
        async with reporter(bus, tmp_path) as running:
            assert (await running.data("sql", query="select freeze_id from freezes"))["rows"] == [["f1"]]
            assert (await running.data("task", task_id=task_id))["counts"] == {"dispatched": 1, "waiting": 1}
            assert (await running.data("verify"))["equal"]

    asyncio.run(story())


# --- verify --------------------------------------------------------------------------------------------------


def _tampered() -> Iterator[tuple[str, str, str]]:
    yield "ended_tasks", "UPDATE ended_tasks SET outcome = 'failure'", "differ in"
    yield "ended_attempts", "DELETE FROM ended_attempts", "missing from the kept one"
    yield "raw_events", "INSERT INTO raw_events (seq, body) VALUES (2, 'x')", "3 rows"
    yield "late_results", "INSERT INTO late_results (seq, task_id) VALUES (1, 'x')", "which the log does not give"
    yield "parked", "INSERT INTO parked (seq) VALUES (1)", "which the log does not give"


@pytest.mark.parametrize(("table", "statement", "said"), list(_tampered()))
def test_verify_names_the_table_and_row_that_differ(tmp_path: Path, table: str, statement: str, said: str) -> None:
    bus = LogBus()
    bus.whole("web01")
    if table == "raw_events":
        bus, said = LogBus(), "3 rows kept, 2 rebuilt"
        bus.planned("web01")

    async def story() -> None:
        async with reporter(bus, tmp_path) as running:
            verified = await running.data("verify")
            assert verified["equal"], verified
            assert set(verified["tables"]) == {*COMPARED, "open"}
        with duckdb.connect(str(tmp_path / FILE_NAME)) as connection:
            connection.execute(statement)
        async with reporter(bus, tmp_path) as running:
            verified = await running.data("verify")
            assert not verified["equal"]
            assert said in verified["tables"][table]
            assert [name for name, text in verified["tables"].items() if text != "equal"] == [table]

    asyncio.run(story())
    assert not [one for one in tmp_path.iterdir() if one.name.startswith("verify-")]


def test_what_a_killed_verification_left_behind_is_removed_at_the_next_start(tmp_path: Path) -> None:
    left = tmp_path / "verify-abc"
    left.mkdir()
    (left / FILE_NAME).write_text("half a file")

    async def story() -> None:
        async with reporter(LogBus(), tmp_path):
            assert not left.exists()

    asyncio.run(story())
