"""Exports on a real system: what is fetched is what the API says, also in the middle of trouble, here and on a host."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import http.client
import json
import os
import pwd
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from fleetlog_schemas.exports import Export, What
from fleetlog_schemas.graph import Binding
from fleetlog_schemas.spec import Part, Shell, TaskSpec, Workflow
from fleetlog_testing.fleet import Fleet
from fleetlog_testing.typed_page import Operator


class Exporter(Operator):
    """Somebody who exports."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        super().__init__(fleet, folder)
        self.fleet, self.folder = fleet, folder


@pytest.fixture(scope="module")
def exporter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    fleet = Fleet(tmp_path_factory.mktemp("exports"), separate=True)

    async def begin() -> None:
        await fleet.start("db01", "web01")
        closed = fleet.join("closed01", role="closed")
        (closed.folder / "policy.toml").write_text('[forbid]\nkinds = ["export"]\n')
        closed.start()
        narrow = fleet.join("narrow01", role="narrow")
        (narrow.folder / "policy.toml").write_text('[allow]\nprograms = ["/bin/true"]\n')
        narrow.start()
        await fleet.online("closed01", "narrow01")

    asyncio.run(begin())
    try:
        yield Exporter(fleet, tmp_path_factory.mktemp("here"))
    finally:
        fleet.close()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter and write to."""
    with tempfile.TemporaryDirectory(prefix="fleetlog-exports-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


def shown(exporter: Exporter) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(exporter.type("fleetlog show last -o json"))
    return found


def test_tables_are_what_the_api_says_in_each_form(exporter: Exporter) -> None:
    exporter.type("fleetlog exec -t db01,web01 --name 'a,\"b\"' -- /bin/sh -c 'echo out; echo err >&2; exit 3'")
    exporter.type("fleetlog exec -t web01 -- /bin/true")
    sql = "SELECT task_id, host, outcome, exit_code, tail FROM commands WHERE state = 'ended' ORDER BY ended_seq, task_id, host_id"
    asked = json.loads(exporter.type(f'fleetlog sql -o json "{sql}"'))["rows"]
    for form in ("ndjson", "csv", "parquet"):
        exporter.type(f"fleetlog export commands --to c.{form}")
    lines = [json.loads(line) for line in (exporter.folder / "c.ndjson").read_text().splitlines()]
    assert [[line[name] for name in ("task_id", "host", "outcome", "exit_code", "tail")] for line in lines] == asked
    with (exporter.folder / "c.csv").open(newline="") as file:
        read = [[row["task_id"], row["host"], row["outcome"], row["exit_code"], row["tail"]] for row in csv.DictReader(file)]
    assert read == [["" if value is None else str(value) for value in row] for row in asked]
    kept = duckdb.connect().execute(f"SELECT task_id, host, outcome, exit_code, tail FROM '{exporter.folder / 'c.parquet'}'").fetchall()
    assert [list(row) for row in kept] == asked
    assert asked


def test_the_same_sequence_gives_the_same_file_after_a_rebuild_of_the_projection(exporter: Exporter) -> None:
    said = json.loads(exporter.type("fleetlog export tasks --to then.csv -o json"))
    exporter.type("fleetlog exec -t web01 -- /bin/true")
    fleet = exporter.fleet

    async def rebuilt() -> None:
        # Another reporter, as far as anybody can tell: what it had made is gone with it.
        for path in (fleet.home.path / "reporter").glob("export-*"):
            path.unlink()
        await fleet.restarted("reporter", fleet.kill("reporter"))

    asyncio.run(rebuilt())
    again = json.loads(exporter.type(f"fleetlog export tasks --to second.csv --as-of {said['as_of_seq']} -o json"))
    assert again == {**said, "file": "second.csv"}
    assert (exporter.folder / "then.csv").read_bytes() == (exporter.folder / "second.csv").read_bytes()


def test_much_output_comes_whole_here_and_on_a_host(exporter: Exporter) -> None:
    exporter.type("fleetlog exec -t web01 --output-max 100Mi -- /bin/sh -c 'seq 1 400000'")
    task = shown(exporter)["task_id"]
    exporter.type("fleetlog export output --task last --to much.tar")
    expected = "".join(f"{number}\n" for number in range(1, 400_001)).encode()
    with tarfile.open(exporter.folder / "much.tar") as tar:
        assert tar.getnames() == [f"{task}/web01/1.stdout", "MANIFEST.ndjson"]
        file = tar.extractfile(f"{task}/web01/1.stdout")
        assert file is not None
        assert file.read() == expected
    there = exporter.folder / "there.tar"
    exporter.type(f"fleetlog export output --task {task} -t db01 --to {there}")
    assert shown(exporter)["outcome"] == "success"
    assert there.read_bytes() == (exporter.folder / "much.tar").read_bytes()
    exporter.type(f"fleetlog export output --task {task} -t db01")
    kept = shown(exporter)["commands"][0]["attempts"][-1]["artifacts"]
    assert [(one["name"], one["sha256"]) for one in kept] == [("output.ndjson", kept[0]["sha256"])]
    exporter.type("fleetlog artifact get last output.ndjson --to lines.ndjson")
    text = "".join(json.loads(line)["text"] for line in (exporter.folder / "lines.ndjson").read_text().splitlines())
    assert text.encode() == expected
    exporter.type("fleetlog export artifacts --task last --to kept.tar")
    with tarfile.open(exporter.folder / "kept.tar") as tar:
        file = tar.extractfile(f"{shown(exporter)['task_id']}/db01/output.ndjson")
        assert file is not None
        assert hashlib.sha256(file.read()).hexdigest() == kept[0]["sha256"]


def test_a_client_that_leaves_midway_costs_nothing_but_what_it_took(exporter: Exporter) -> None:
    exporter.type("fleetlog exec -t web01 --output-max 100Mi -- /bin/sh -c 'seq 1 800000'")
    home = exporter.fleet.home
    host, _, port = home.gateway_url().removeprefix("http://").partition(":")
    headers = {"Authorization": f"Bearer {home.gateway_token()}"}
    path = f"/api/v1/exports/output?format=tar&tasks={shown(exporter)['task_id']}"
    for _ in range(3):
        leaving = http.client.HTTPConnection(host, int(port), timeout=30)
        leaving.request("GET", path, headers=headers)
        assert len(leaving.getresponse().read(1_000)) == 1_000
        leaving.close()
    staying = http.client.HTTPConnection(host, int(port), timeout=30)
    staying.request("GET", path, headers=headers)
    answer = staying.getresponse()
    whole, etag = answer.read(), answer.headers["ETag"]
    assert etag == f'"{hashlib.sha256(whole).hexdigest()}"'
    assert len(whole) > 5_000_000
    staying.request("GET", path, headers={**headers, "If-None-Match": etag})
    answer = staying.getresponse()
    assert (answer.status, answer.read(), answer.headers["ETag"]) == (304, b"", etag)
    staying.close()
    assert "Traceback" not in (exporter.fleet.folder / "up.log").read_text()


def test_a_file_is_the_users_and_only_where_that_user_may_write(exporter: Exporter, open_folder: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root's agent runs commands as others")
    nobody = pwd.getpwnam("nobody")
    closed = open_folder / "closed"
    closed.mkdir(mode=0o755)
    exporter.type(f"fleetlog export tasks -t db01 --user nobody --umask 077 --to {open_folder}/tasks.ndjson")
    status = (open_folder / "tasks.ndjson").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (nobody.pw_uid, nobody.pw_gid, 0o600)
    assert status.st_size > 0
    exporter.type(f"fleetlog export tasks -t db01 --user nobody --to {closed}/tasks.ndjson")
    assert shown(exporter)["outcome"] == "failure"
    assert "Permission denied" in exporter.type("fleetlog output last")
    assert list(closed.iterdir()) == []


def test_a_full_disk_of_the_host_is_said_and_what_was_there_stays(exporter: Exporter, open_folder: Path) -> None:
    small = open_folder / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        (small / "much.ndjson").write_text("of yesterday")
        exporter.type("fleetlog exec -t web01 -- /bin/sh -c 'seq 1 40000'")
        exporter.type(f"fleetlog export output --task last -t db01 --to {small}/much.ndjson")
        assert shown(exporter)["outcome"] == "failure"
        assert "No space left on device" in exporter.type("fleetlog output last")
        assert [(one.name, one.read_text()) for one in small.iterdir()] == [("much.ndjson", "of yesterday")]
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)


def test_a_definition_of_an_export_comes_back_as_it_was_and_one_change_is_one_line(exporter: Exporter) -> None:
    file = exporter.folder / "nightly.toml"
    file.write_text(
        'name = "nightly"\nkind = "export"\ntarget = "db01"\nwhat = "commands"\nformat = "parquet"\nlast_seconds = 86400\n'
        'to = "/var/backups/commands-%Y-%m-%d.parquet"\n\n[options]\nuser = "root"\n\n[schedule.nightly]\ncron = "0 2 * * *"\n'
    )
    assert "nightly is new: version 1" in exporter.type("fleetlog definition push nightly.toml")
    assert "no difference" in exporter.type("fleetlog definition diff nightly.toml")
    exporter.type("fleetlog definition pull nightly --to pulled")
    assert "no difference" in exporter.type("fleetlog definition diff pulled/nightly.toml")
    file.write_text(file.read_text().replace("last_seconds = 86400", "last_seconds = 3600"))
    said = exporter.type("fleetlog definition diff nightly.toml").splitlines()
    assert [line for line in said if line[:1] in "+-" and line[:3] not in ("+++", "---")] == ["-last_seconds = 86400", "+last_seconds = 3600"]


def test_a_reporter_that_dies_while_a_host_fetches_only_costs_time(exporter: Exporter) -> None:
    fleet = exporter.fleet

    async def scenario() -> str:
        spec = TaskSpec(payload=Export(what=What.EVENTS), target="db01")
        former = fleet.kill("reporter")
        task_id = fleet.client.submit(spec)
        await fleet.restarted("reporter", former)
        await fleet.ended(task_id)
        return task_id

    task = asyncio.run(scenario())
    exporter.type(f"fleetlog artifact get {task} events.ndjson --to events.ndjson")
    seqs = [json.loads(line)["seq"] for line in (exporter.folder / "events.ndjson").read_text().splitlines()]
    submitted = fleet.client.replay(task).task
    assert submitted is not None
    assert seqs == [event.seq for event in fleet.log() if event.time_ms < submitted.submitted_ms]


def test_the_next_part_of_a_workflow_knows_the_file(exporter: Exporter) -> None:
    fleet, file = exporter.fleet, exporter.folder / "of-workflow.csv"
    parts = (
        Part(name="export", task=TaskSpec(payload=Export(what=What.TASKS, to=str(file)), target="db01")),
        Part(
            name="use", after=("export",), given={"file": Binding(part="export")},
            task=TaskSpec(payload=Shell(argv=("/bin/sh", "-c", 'echo "$FLEETLOG_PARAM_FILE"')), target="db01"),
        ),
    )
    task_id = fleet.client.submit(TaskSpec(payload=Workflow(parts=parts)))
    assert fleet.client.wait(task_id, 60).outcome == "success"
    assert f'"file":"{file}"' in exporter.type(f"fleetlog output {task_id}")


@pytest.mark.parametrize(("line", "why"), [
    ("-t role=closed", "policy forbids kind 'export'"), ("-t role=narrow --to /tmp/never", "does not allow program '/bin/sh'"),
])
def test_a_host_may_refuse_exports(exporter: Exporter, line: str, why: str) -> None:
    exporter.type(f"fleetlog export tasks {line}")
    command = shown(exporter)["commands"][0]
    assert command["outcome"] == "error"
    assert why in command["attempts"][-1]["error"]
    assert not Path("/tmp/never").exists()


@pytest.mark.parametrize(("line", "why"), [
    ("tasks --to first.csv", "is there already"), ("tasks --format tar", "--format: tasks can be exported as"),
    ("tasks --to /nonexistent/x.csv", "cannot write"), ("tasks --as-of 99999999", "not yet to 99999999"), ("tasks --as-of 2026-01-01T00:00:00Z", "as of a sequence"),
    ("nothing", "there is no"), ("tasks --task 012345", "no task"), ("tasks --since 1d --until 2d", "--until: must be later"),
    ("tasks -t db01 --to x.csv", "--to: must be the absolute path"), ("tasks -t db01 --as-of 5", "for exports to a file here"),
    ("tasks -t db01 --cwd /tmp", "--cwd: an export has a folder of its own"),
])
def test_what_is_typed_wrong_is_said(exporter: Exporter, line: str, why: str) -> None:
    (exporter.folder / "first.csv").write_text("kept")
    assert why in exporter.type(f"fleetlog export {line}")
    assert (exporter.folder / "first.csv").read_text() == "kept"
    assert not list(exporter.folder.glob("*.part"))
