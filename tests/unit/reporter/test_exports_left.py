"""Exports of what commands left: output and artifacts."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fleetlog_schemas import events, subjects, wire
from fleetlog_schemas.reports import ArtifactChunk
from fleetlog_testing.exporting import (
    PASSING,
    exported,
    lines,
    untarred,
    with_reporter,
    written,
)
from fleetlog_testing.reporter_rig import LogBus, Running


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
