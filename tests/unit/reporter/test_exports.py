"""Exports as files, each a function of the log up to one position: tables, those of tasks, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from fleetlog_reporter.answers import export_tables
from fleetlog_reporter.made import FILE_PREFIX
from fleetlog_reporter.readers import Moment, Reader
from fleetlog_schemas import events, subjects
from fleetlog_schemas.exports import FORMATS, Format, What
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.questions import unpack_answer
from fleetlog_schemas.spec import Export, TaskSpec
from fleetlog_testing.exporting import (
    PASSING,
    exported,
    files_in,
    lines,
    piece,
    untarred,
    with_reporter,
    written,
)
from fleetlog_testing.reporter_rig import LogBus, Running, reporter

NASTY = 'a,"b"\n=1+1 \u00e9\u2028\ud7ff \\ \x01'


def parquet(tmp_path: Path, content: bytes) -> list[tuple[Any, ...]]:
    path = tmp_path / "export.parquet"
    path.write_bytes(content)
    return duckdb.connect().execute(f"SELECT * FROM '{path}'").fetchall()


# --- tables ----------------------------------------------------------------------------------------------------------


def test_tasks_are_the_same_in_each_form_and_what_is_open_is_in_none(tmp_path: Path) -> None:
    bus = LogBus()
    first = bus.whole("web01", "web02", name=NASTY, tags=("a", "b,c"))
    second = bus.whole("web01", outcome=Outcome.FAILURE)
    bus.planned("web01")

    async def story(running: Running) -> None:
        as_lines, _ = await exported(running, "tasks", "ndjson", limit_bytes=100)
        rows = lines(as_lines)
        assert [row["task_id"] for row in rows] == [first, second]
        assert rows[0]["name"] == NASTY
        assert rows[0]["tags"] == ["a", "b,c"]
        assert rows[0]["counts"] == {"success": 2}
        assert rows[0]["submitted_at"] == "2026-09-21T14:13:20.000Z"
        assert rows[0]["spec"]["target"] == "web*"
        assert "hold" not in rows[0]
        as_csv, _ = await exported(running, "tasks", "csv")
        read = list(csv.DictReader(io.StringIO(as_csv.decode(), newline="")))
        assert [(row["task_id"], row["name"], row["outcome"], int(row["hosts"])) for row in read] == [
            (row["task_id"], row["name"], row["outcome"], row["hosts"]) for row in rows
        ]
        as_parquet, said = await exported(running, "tasks", "parquet")
        assert said["rows"] == 2
        names = list(rows[0])
        kept = [dict(zip(names, row, strict=True)) for row in parquet(tmp_path, as_parquet)]
        assert [(row["task_id"], row["name"], row["tags"]) for row in kept] == [(row["task_id"], row["name"], row["tags"]) for row in rows]
        assert kept[0]["submitted_at"].isoformat() == "2026-09-21T14:13:20"

    with_reporter(tmp_path, bus, story)


def test_commands_are_those_of_the_tasks_that_ended_in_the_time(tmp_path: Path) -> None:
    bus = LogBus()
    bus.whole("web01")
    since_ms = bus.now_ms + 500
    bus.now_ms += 1000
    task = bus.whole("web02", "web03", outcome=Outcome.FAILURE)
    until_ms = bus.now_ms + 500
    bus.now_ms += 1000
    bus.whole("web01")

    async def story(running: Running) -> None:
        content, said = await exported(running, "commands", "ndjson", since_ms=since_ms, until_ms=until_ms)
        assert [(row["task_id"], row["host"], row["outcome"]) for row in lines(content)] == [
            (task, "web02", "failure"), (task, "web03", "failure")
        ]
        assert said["rows"] == 2
        named, _ = await exported(running, "commands", "ndjson", tasks=[task])
        assert named == content
        everything, _ = await exported(running, "commands", "csv")
        assert len(everything.splitlines()) == 5

    with_reporter(tmp_path, bus, story)


@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
@pytest.mark.parametrize(("what", "rows"), [("tasks", 5), ("commands", 20), ("events", 25)])
def test_what_takes_more_than_one_page_is_all_there_in_order_and_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, rows: int, form: str
) -> None:
    bus = LogBus()
    for _ in range(5):
        bus.whole("web01", "web02", "web03", "web04")

    async def story(running: Running) -> None:
        as_of = bus.store.streams[subjects.EVENTS].last_seq
        at_once, said = await exported(running, what, form, as_of_seq=as_of)
        assert said["rows"] == rows
        await running.service.desk.exports.close()  # type: ignore[union-attr]
        monkeypatch.setattr(export_tables, "PAGE_BYTES", 1_300)
        by_pages, said = await exported(running, what, form, as_of_seq=as_of)
        assert said["rows"] == rows
        if form == "parquet":
            assert parquet(tmp_path, by_pages) == parquet(tmp_path, at_once)
        else:
            assert by_pages == at_once
        assert files_in(tmp_path) == [f"{FILE_PREFIX}2"]

    with_reporter(tmp_path, bus, story)


def test_a_page_reads_no_more_than_its_stretch_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_tables, "PAGE_BYTES", 1_300)
    bus = LogBus()
    for _ in range(6):
        bus.whole("web01")
    shown: list[tuple[int, int]] = []
    run = Reader.run

    async def noting(reader: Reader, moment: Moment, ask: Callable[..., Any]) -> Any:
        shown.append((moment.after, moment.committed))
        return await run(reader, moment, ask)

    async def story(running: Running) -> None:
        monkeypatch.setattr(Reader, "run", noting)
        _, said = await exported(running, "tasks", "ndjson")
        pages = [one for one in shown if one != (0, said["selection"]["as_of_seq"])]
        assert len(pages) > 1
        assert [after for after, _ in pages] == [0, *(upto for _, upto in pages[:-1])]

    with_reporter(tmp_path, bus, story)


def test_events_are_the_log_as_it_stands_and_those_of_one_task_name_it(tmp_path: Path) -> None:
    bus = LogBus()
    task = bus.whole("web01", name=NASTY)
    bus.whole("web02")

    async def story(running: Running) -> None:
        content, said = await exported(running, "events", "ndjson")
        rows = lines(content)
        assert [row["seq"] for row in rows] == list(range(1, said["selection"]["as_of_seq"] + 1))
        assert rows[0]["event"] == json.loads(bus.store.streams[subjects.EVENTS].messages[1].body)
        named, _ = await exported(running, "events", "csv", tasks=[task])
        assert len(list(csv.reader(io.StringIO(named.decode(), newline="")))) == 6

    with_reporter(tmp_path, bus, story)


@pytest.mark.parametrize("form", ["ndjson", "csv", "parquet"])
def test_an_export_of_a_past_position_is_the_same_whatever_came_later(tmp_path: Path, form: str) -> None:
    bus = LogBus()
    bus.whole("web01")

    async def story(running: Running) -> None:
        then, said = await exported(running, "tasks", form)
        bus.whole("web02")
        as_of = said["selection"]["as_of_seq"]
        assert len((await exported(running, "tasks", "ndjson"))[0].splitlines()) == 2
        await running.service.desk.exports.close()  # type: ignore[union-attr]
        again, _ = await exported(running, "tasks", form, as_of_seq=as_of)
        assert again == then

    with_reporter(tmp_path, bus, story)


@pytest.mark.parametrize(("what", "form"), [(what.value, form.value) for what, forms in FORMATS.items() for form in forms if form is not Format.FILE])
def test_what_has_nothing_in_it_is_a_file_all_the_same(tmp_path: Path, what: str, form: str) -> None:
    bus = LogBus()

    async def story(running: Running) -> None:
        content, said = await exported(running, what, form)
        assert (said["rows"], said["missing"]) == (0, 0)
        if form == "csv":
            assert content.startswith((b"task_id,", b"seq,"))
        if form == "parquet":
            assert parquet(tmp_path, content) == []
        if form == "tar":
            assert list(untarred(content)) == ["MANIFEST.ndjson"]

    with_reporter(tmp_path, bus, story)


# --- of a task -------------------------------------------------------------------------------------------------------


def test_a_task_exports_what_had_ended_when_it_was_submitted(tmp_path: Path) -> None:
    bus = LogBus()
    old = bus.whole("web01")
    bus.now_ms += 3_600_000
    ended = bus.whole("web01")
    bus.now_ms += 1_000
    task = bus.make_id()
    spec = TaskSpec(payload=Export(what=What.TASKS, last_ms=60_000), target="web01")
    bus.add(events.TasksSubmitted(tasks=(events.Submission(task, spec),)))
    bus.whole("web02")

    async def story(running: Running) -> None:
        got = await piece(running, of_task=task)
        assert [row["task_id"] for row in lines(base64.b64decode(got["data"]))] == [ended]
        assert old != ended
        assert (await running.problem("export", of_task=old))["code"] == "no-export"
        assert (await running.problem("export", of_task=bus.make_id()))["status"] == 404

    with_reporter(tmp_path, bus, story)


def test_a_backfill_exports_the_time_of_its_tick_whenever_it_is_run(tmp_path: Path) -> None:
    bus = LogBus()
    bus.whole("web01")
    bus.now_ms += 3_600_000
    that_day = bus.whole("web01")
    tick_ms = bus.now_ms + 1_000
    bus.now_ms += 30 * 86_400_000
    bus.whole("web01")
    task = bus.make_id()
    spec = TaskSpec(payload=Export(what=What.TASKS, last_ms=60_000, to="/srv/%Y-%m-%d.ndjson"), target="web01")
    bus.add(events.TasksSubmitted(tasks=(events.Submission(task, spec, schedule="nightly", nominal_ms=tick_ms),)))

    async def story(running: Running) -> None:
        got = await piece(running, of_task=task)
        assert [row["task_id"] for row in lines(base64.b64decode(got["data"]))] == [that_day]
        assert (got["selection"]["since_ms"], got["selection"]["until_ms"], got["at_ms"]) == (tick_ms - 60_000, tick_ms, tick_ms)

    with_reporter(tmp_path, bus, story)


@pytest.mark.parametrize(("what", "form"), [("tasks", "parquet"), ("commands", "csv"), ("output", "tar")])
def test_pieces_may_come_from_either_of_two_reporters(tmp_path: Path, what: str, form: str) -> None:
    bus = LogBus()
    written(bus, ("stdout", 0, b"here it is\n"))
    bus.whole("web01", "web02")

    async def story(one: Running) -> None:
        (tmp_path / "other").mkdir()
        async with reporter(bus, tmp_path / "other") as other:
            selection = {"what": what, "format": form, "as_of_seq": bus.store.streams[subjects.EVENTS].last_seq}
            content, said, turn = b"", list[dict[str, Any]](), itertools.cycle((one, other))
            while not said or len(content) < said[0]["size"]:
                question = {"selection": selection, "offset": len(content), "limit_bytes": 400}
                body = await next(turn).service.answer("export", json.dumps(question).encode())
                answer = json.loads(unpack_answer(body))
                if problem := answer.get("problem"):
                    assert problem["code"] in PASSING
                    continue
                said.append(answer["data"])
                content += base64.b64decode(answer["data"]["data"])
            assert len(said) > 1
            assert {one["sha256"] for one in said} == {hashlib.sha256(content).hexdigest()}

    with_reporter(tmp_path, bus, story)


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "pointer"), [
    ({}, "/selection"),
    ({"selection": {"what": "artifacts", "format": "csv"}}, "/format"),
    ({"selection": {"what": "artifacts", "format": "file"}}, "/format"),
    ({"selection": {"what": "tasks", "format": "csv", "artifact": "app"}}, "/artifact"),
    ({"selection": {"what": "tasks", "format": "csv", "tasks": ["nonsense"]}}, "/tasks/0"),
    ({"selection": {"what": "tasks", "format": "csv", "since_ms": 5, "until_ms": 4}}, "/until_ms"),
    ({"selection": {"what": "tasks", "format": "csv", "as_of_seq": -1}}, "/selection/as_of_seq"),
    ({"selection": {"what": "tasks", "format": "csv"}, "limit_bytes": 0}, "/limit_bytes"),
])
def test_a_question_that_is_wrong_is_told_where(tmp_path: Path, fields: dict[str, Any], pointer: str) -> None:
    async def story(running: Running) -> None:
        problem = await running.problem("export", **fields)
        assert (problem["code"], problem["pointer"]) == ("bad-query", pointer)

    with_reporter(tmp_path, LogBus(), story)


def test_a_reporter_that_has_not_read_so_far_is_to_be_asked_again_and_waits_a_moment(tmp_path: Path) -> None:
    bus = LogBus()

    async def story(running: Running) -> None:
        selection = {"what": "tasks", "format": "csv", "as_of_seq": 5}
        problem = await running.problem("export", at_least_seq=0, selection=selection)
        assert (problem["status"], problem["code"]) == (504, "behind")
        asking = asyncio.create_task(piece(running, at_least_seq=0, selection=selection))
        await asyncio.sleep(0)
        bus.whole("web01")
        assert (await asking)["selection"]["as_of_seq"] == 5

    with_reporter(tmp_path, bus, story)


def test_an_export_that_is_too_large_is_refused_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetlog_schemas.limits.EXPORT_BYTES_MAX", 1_000)
    bus = LogBus()
    for _ in range(3):
        bus.whole("web01")

    async def story(running: Running) -> None:
        problem = await running.problem("export", selection={"what": "tasks", "format": "ndjson"})
        assert problem["code"] == "too-far"
        assert files_in(tmp_path) == []

    with_reporter(tmp_path, bus, story)


def test_no_file_of_an_export_outlives_the_reporter(tmp_path: Path) -> None:
    (tmp_path / f"{FILE_PREFIX}9-lines").write_text("of a killed one")

    async def story(running: Running) -> None:
        await exported(running, "tasks", "csv")
        assert files_in(tmp_path) == [f"{FILE_PREFIX}1"]

    with_reporter(tmp_path, LogBus(), story)
    assert files_in(tmp_path) == []


def test_a_disk_that_takes_no_more_is_said_and_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def full(*_: Any) -> None:
        raise duckdb.IOException("could not write")

    monkeypatch.setattr(export_tables._Writer, "_copy", full)

    async def story(running: Running) -> None:
        problem = await running.problem("export", selection={"what": "tasks", "format": "csv"})
        assert (problem["status"], problem["code"]) == (507, "export-no-room")

    with_reporter(tmp_path, LogBus(), story)


def test_a_making_that_takes_too_long_is_interrupted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetlog_reporter.made.SECONDS_MAX", 0.2)
    endless = "SELECT count(*) FROM range(1000000000000) WHERE range % 7 = 0"
    ended: list[type[BaseException]] = []

    async def copy(writer: Any, *_: Any) -> None:
        def run(db: duckdb.DuckDBPyConnection) -> None:
            try:
                db.execute(endless)
            except BaseException as error:
                ended.append(type(error))
                raise

        await writer._duckdb.call(run)

    monkeypatch.setattr(export_tables._Writer, "_copy", copy)

    async def story(running: Running) -> None:
        problem = await running.problem("export", selection={"what": "tasks", "format": "parquet"})
        assert problem["code"] == "too-far"
        assert ended == [duckdb.InterruptException]
        assert files_in(tmp_path) == []

    with_reporter(tmp_path, LogBus(), story)


def test_the_limit_is_of_the_file_that_is_made_and_not_of_the_lines_of_which_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = LogBus()
    for _ in range(200):
        bus.whole("web01")
    monkeypatch.setattr("fleetlog_schemas.limits.EXPORT_BYTES_MAX", 60_000)

    async def story(running: Running) -> None:
        assert (await running.problem("export", selection={"what": "tasks", "format": "ndjson"}))["code"] == "too-far"
        assert (await exported(running, "tasks", "parquet"))[1]["rows"] == 200

    with_reporter(tmp_path, bus, story)
