"""Exports: tables, output and artifacts as files, each a function of the log up to one position."""

from __future__ import annotations

import asyncio
import base64
import csv
import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from fleetlog_reporter.answers import export_tables
from fleetlog_reporter.made import FILE_PREFIX
from fleetlog_reporter.readers import Moment, Reader
from fleetlog_schemas import events, subjects, wire
from fleetlog_schemas.exports import FORMATS, Format, What
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.questions import unpack_answer
from fleetlog_schemas.reports import ArtifactChunk
from fleetlog_schemas.spec import Export, TaskSpec
from fleetlog_testing.reporter_rig import LogBus, Running, reporter

NASTY = 'a,"b"\n=1+1 \u00e9\u2028\ud7ff \\ \x01'


PASSING = ("export-being-made", "behind")


def with_reporter(tmp_path: Path, bus: LogBus, story: Callable[[Running], Awaitable[None]]) -> None:
    async def run() -> None:
        async with reporter(bus, tmp_path) as running:
            await story(running)

    asyncio.run(run())


async def piece(running: Running, **fields: Any) -> dict[str, Any]:
    """Ask until the export is made."""
    while (answer := await running.ask("export", **fields)).problem:
        assert answer.problem["code"] == "export-being-made", answer.problem
    found: dict[str, Any] = answer.data
    return found


async def exported(running: Running, what: str, form: str, limit_bytes: int = 524_288, **fields: Any) -> tuple[bytes, dict[str, Any]]:
    """Return an export, fetched piece by piece."""
    content, first = b"", None
    selection = {"what": what, "format": form, **fields}
    while first is None or len(content) < first["size"]:
        got = await piece(running, selection=selection, offset=len(content), limit_bytes=limit_bytes)
        first = first or got
        selection = got["selection"]
        content += base64.b64decode(got["data"])
    assert hashlib.sha256(content).hexdigest() == first["sha256"]
    return content, first


def lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.splitlines()]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{FILE_PREFIX}*"))


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


# --- what commands left ----------------------------------------------------------------------------------------------


def written(bus: LogBus, *frames: tuple[str, int, bytes], kept: bool = True, **fields: Any) -> str:
    """Run a task that writes."""
    task = bus.planned("web01")
    bus.dispatched(task, "web01")
    seqs = [bus.frame("web01", 3, task, stream, offset, 1, data) if kept else 7 for stream, offset, data in frames]
    size = sum(len(data) for _, _, data in frames)
    summary = events.OutputSummary(
        slot=3, bytes=size, lines=1, frames=len(frames), sha256="0" * 64, first_seq=seqs[0], last_seq=seqs[-1], **fields
    )
    bus.ended(task, "web01", output=summary)
    bus.task_ended(task)
    return task


def untarred(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]


def test_output_is_a_tar_of_the_very_bytes_with_a_manifest(tmp_path: Path) -> None:
    bus = LogBus()
    task = written(bus, ("stdout", 0, b"a\xff"), ("stderr", 0, b"e"), ("stdout", 2, b"b"), ("stdout", 0, b"a\xff"))
    lost = written(bus, ("stdout", 0, b"gone"), kept=False)
    gap = written(bus, ("stdout", 10, b"end"))
    bus.whole("web02")

    async def story(running: Running) -> None:
        content, said = await exported(running, "output", "tar")
        files = untarred(content)
        manifest = lines(files.pop("MANIFEST.ndjson"))
        assert files == {
            f"{task}/web01/1.stdout": b"a\xffb", f"{task}/web01/1.stderr": b"e", f"{gap}/web01/1.stdout": b"end",
        }
        assert manifest[0] == {"path": f"{task}/web01/1.stdout", "size": 3, "sha256": hashlib.sha256(b"a\xffb").hexdigest()}
        assert manifest[2] == {"path": f"{lost}/web01/1", "missing": "what it wrote is not kept any more"}
        assert manifest[3]["missing"] == "10 bytes were dropped, or are not kept any more"
        assert (said["rows"], said["missing"]) == (3, 2)

    with_reporter(tmp_path, bus, story)


def test_output_as_lines_says_of_each_piece_where_it_stood(tmp_path: Path) -> None:
    bus = LogBus()
    task = written(bus, ("stdout", 0, b"caf\xc3"), ("stderr", 0, b"e\n"), ("stdout", 4, b"\xa9 \xff\n"))

    async def story(running: Running) -> None:
        content, said = await exported(running, "output", "ndjson", tasks=[task])
        rows = lines(content)
        assert [(row["stream"], row["offset"], row["text"]) for row in rows] == [
            ("stdout", 0, "caf"), ("stderr", 0, "e\n"), ("stdout", 4, "\u00e9 \ufffd\n")
        ]
        assert {(row["task_id"], row["host"], row["attempt"]) for row in rows} == {(task, "web01", 1)}
        assert said["rows"] == 3

    with_reporter(tmp_path, bus, story)


def test_artifacts_are_a_tar_and_what_is_gone_is_named(tmp_path: Path) -> None:
    bus = LogBus()
    task = bus.planned("web01")
    bus.dispatched(task, "web01")
    chunk = ArtifactChunk(task, 1, "app", 0, b"binary\x00")
    seq = bus.raw(subjects.artifacts("h-web01"), wire.encode(chunk))
    kept = events.Artifact("app", 7, hashlib.sha256(b"binary\x00").hexdigest(), seq, seq)
    empty = events.Artifact("empty", 0, hashlib.sha256(b"").hexdigest(), 0, 0)
    gone = events.Artifact("old", 3, "0" * 64, 900, 901)
    bus.ended(task, "web01", artifacts=(kept, gone, empty))
    bus.task_ended(task)

    async def story(running: Running) -> None:
        content, said = await exported(running, "artifacts", "tar")
        files = untarred(content)
        manifest = lines(files.pop("MANIFEST.ndjson"))
        assert files == {f"{task}/web01/app": b"binary\x00", f"{task}/web01/empty": b""}
        assert manifest[1]["path"] == f"{task}/web01/old"
        assert "not kept any more" in manifest[1]["missing"]
        assert (said["rows"], said["missing"]) == (2, 1)

    with_reporter(tmp_path, bus, story)


def test_one_artifact_is_the_file_itself_unless_several_differ_or_none_is_kept(tmp_path: Path) -> None:
    bus = LogBus()

    def left(content: bytes, *, kept: bool = True) -> str:
        task = bus.planned("web01")
        bus.dispatched(task, "web01")
        seq = bus.raw(subjects.artifacts("h-web01"), wire.encode(ArtifactChunk(task, 1, "app", 0, content))) if kept else 900
        bus.ended(task, "web01", artifacts=(events.Artifact("app", len(content), hashlib.sha256(content).hexdigest(), seq, seq),))
        bus.task_ended(task)
        return task

    first, same, other, gone = left(b"binary\x00"), left(b"binary\x00"), left(b"other"), left(b"old", kept=False)

    async def story(running: Running) -> None:
        for tasks in ([first], [first, same]):
            content, said = await exported(running, "artifacts", "file", tasks=tasks, artifact="app")
            assert (content, said["rows"]) == (b"binary\x00", 1)
        for tasks, name, why in (
            ([first, other], "app", "different artifacts are named app"), ([first], "none", "left an artifact named none"),
            ([gone], "app", "not kept any more"),
        ):
            selection = {"what": "artifacts", "format": "file", "tasks": tasks, "artifact": name}
            while (problem := await running.problem("export", selection=selection))["code"] in PASSING:
                pass
            assert why in problem["message"], problem

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
                    assert problem["code"] in ("behind", "export-being-made")
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
