"""Exports: what may be asked for, what a task of one means, and the command that puts it into its place."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleetlog_schemas import exports
from fleetlog_schemas.exports import Export, Format, What, path_at, selection_of
from fleetlog_schemas.spec import (
    Blob,
    Options,
    Part,
    Shell,
    SpecError,
    TaskSpec,
    Workflow,
    check_spec,
    summary,
)

AT_MS = 1_790_000_000_000
TASK = "01a0c450-6c00-7000-8000-000000000001"


def test_a_task_exports_what_ended_up_to_its_tick_and_no_later_than_it_was_submitted() -> None:
    found = selection_of(Export(what=What.TASKS, last_ms=1_000), AT_MS, 7)
    assert (found.since_ms, found.until_ms, found.as_of_seq, found.format) == (AT_MS - 1_000, AT_MS, 7, Format.NDJSON)


def test_named_tasks_are_exported_whenever_they_ended() -> None:
    found = selection_of(Export(what=What.OUTPUT, tasks=(TASK,)), AT_MS, 7)
    assert (found.since_ms, found.until_ms, found.tasks) == (0, 0, (TASK,))


def test_the_last_so_long_counts_back_from_the_end_that_was_given() -> None:
    found = selection_of(Export(what=What.TASKS, until_ms=5_000, last_ms=1_000), AT_MS, 7)
    assert (found.since_ms, found.until_ms) == (4_000, 5_000)


@pytest.mark.parametrize(("path", "expected"), [
    ("/b/tasks-%Y-%m-%d.csv", "/b/tasks-2026-09-21.csv"), ("/b/%H%M%S", "/b/141320"), ("/b/100%%", "/b/100%"), ("/b/%j", "/b/264"), ("", ""),
])
def test_a_path_has_the_time_in_utc_in_place_of_its_fields(path: str, expected: str) -> None:
    assert path_at(path, AT_MS) == expected


@pytest.mark.parametrize(("fields", "pointer"), [
    ({"format": "csv", "what": "artifacts"}, "/payload/format"),
    ({"tasks": ["last"]}, "/payload/tasks/0"),
    ({"tasks": [TASK] * 101}, "/payload/tasks"),
    ({"since_ms": 9, "until_ms": 9}, "/payload/until_ms"),
    ({"since_ms": 9, "last_ms": 9}, "/payload/last_ms"),
    ({"to": "relative"}, "/payload/to"),
    ({"to": "/a/../etc/passwd"}, "/payload/to"),
    ({"to": "/"}, "/payload/to"),
    ({"to": "/a/%Q"}, "/payload/to"),
    ({"to": "/a/%"}, "/payload/to"),
    ({"to": "/" + "a" * 5_000}, "/payload/to"),
])
def test_what_is_wrong_with_an_export_is_said_with_its_field(fields: dict[str, Any], pointer: str) -> None:
    spec = msgspec.convert({"payload": {"kind": "export", "what": "tasks", **fields}, "target": "all"}, TaskSpec)
    with pytest.raises(SpecError) as caught:
        check_spec(spec)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(("options", "pointer"), [
    (Options(cwd="/tmp"), "/options/cwd"), (Options(stdin=Blob(sha256="0" * 64, size=1)), "/options/stdin"),
])
def test_an_export_has_its_own_folder_and_input(options: Options, pointer: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_spec(TaskSpec(payload=Export(what=What.TASKS), target="all", options=options))
    assert caught.value.pointer == pointer


def test_a_list_says_what_is_exported_as_what() -> None:
    assert summary(Export(what=What.TASKS, format=Format.PARQUET, to="/b/x")) == "tasks as parquet to /b/x"
    assert summary(Export(what=What.ARTIFACTS)) == "artifacts as tar"


def test_one_artifact_is_a_file_and_goes_by_its_name() -> None:
    one = Export(what=What.ARTIFACTS, artifact="app.tar", tasks=(TASK,))
    check_spec(TaskSpec(payload=one, target="all"))
    assert exports.format_of(one) is Format.FILE
    assert exports.name_of(one) == "app.tar"
    assert selection_of(one, AT_MS, 7).artifact == "app.tar"
    assert summary(Export(what=What.ARTIFACTS, artifact="app", of_part="build", to="/b/x")) == "artifact app of build to /b/x"


@pytest.mark.parametrize(("payload", "after", "pointer"), [
    (Export(what=What.ARTIFACTS, of_part="build"), (), "/payload/of_part"),
    (Export(what=What.ARTIFACTS, of_part="build", tasks=(TASK,)), ("build",), "/payload/tasks"),
    (Export(what=What.ARTIFACTS, of_part="none"), ("build",), "/payload/of_part"),
])
def test_a_part_exports_what_a_part_before_it_left(payload: Export, after: tuple[str, ...], pointer: str) -> None:
    build = Part(name="build", task=TaskSpec(payload=Shell(argv=("true",)), target="all"))
    export = Part(name="export", after=after, task=TaskSpec(payload=payload, target="all"))
    with pytest.raises(SpecError) as caught:
        check_spec(TaskSpec(payload=Workflow((build, export))))
    assert caught.value.pointer == f"/payload/parts/1/task{pointer}"
    good = msgspec.structs.replace(payload, of_part="build", tasks=())
    export = msgspec.structs.replace(export, after=("build",), task=TaskSpec(payload=good, target="all"))
    check_spec(TaskSpec(payload=Workflow((build, export))))


def put(export: Export, content: bytes, folder: Path) -> tuple[subprocess.CompletedProcess[bytes], Any]:
    """Run the command of an export as a host does."""
    digest, returned = hashlib.sha256(content).hexdigest(), folder / "returned"
    environment = {**os.environ, "FLEETLOG_TASK_ID": "t", "FLEETLOG_RETURN": str(returned)}
    argv = exports.argv_of(export, AT_MS, len(content), digest, 3)
    ran = subprocess.run(argv, input=content, env=environment, capture_output=True, check=False, timeout=30)
    return ran, json.loads(returned.read_text()) if returned.exists() else None


def test_the_file_is_put_where_it_is_told_to_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "it's $(touch here) \"there\""
    folder.mkdir()
    file = folder / "-tasks.csv"
    file.write_bytes(b"of yesterday")
    ran, value = put(Export(what=What.TASKS, to=str(file)), b"a\x00\xff\n", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert file.read_bytes() == b"a\x00\xff\n"
    assert value == {"file": str(file), "bytes": 4, "sha256": hashlib.sha256(b"a\x00\xff\n").hexdigest(), "rows": 3}
    assert str(file) in ran.stdout.decode()
    assert [path.name for path in folder.iterdir()] == ["-tasks.csv"]


def test_a_place_that_is_not_there_is_a_failure_and_leaves_nothing(tmp_path: Path) -> None:
    ran, value = put(Export(what=What.TASKS, to=str(tmp_path / "none" / "x")), b"a", tmp_path)
    assert ran.returncode != 0
    assert value is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_place_for_a_file(tmp_path: Path) -> None:
    (folder := tmp_path / "folder").mkdir()
    ran, value = put(Export(what=What.TASKS, to=str(folder)), b"a", tmp_path)
    assert ran.returncode == 1
    assert b"is a folder: name the file in it" in ran.stderr
    assert value is None
    assert list(folder.iterdir()) == []


def test_without_a_place_nothing_is_written_for_it_is_kept_as_an_artifact(tmp_path: Path) -> None:
    ran, value = put(Export(what=What.COMMANDS, format=Format.CSV), b"a", tmp_path)
    assert ran.returncode == 0
    assert value["file"] == "commands.csv"
    assert [path.name for path in tmp_path.iterdir()] == ["returned"]
