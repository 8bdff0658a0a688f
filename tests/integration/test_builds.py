"""Builds on a real system: what they leave, what becomes of it, and what is said when it cannot be kept."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetlog_schemas import reports, subjects, wire
from fleetlog_schemas.builds import ArtifactRule, Build, Step
from fleetlog_schemas.outcomes import Outcome
from fleetlog_testing.agent_process import fleet
from fleetlog_testing.fleet import Fleet
from fleetlog_testing.typed_page import Operator
from fleetlog_testing.waiting import until


class Builder(Operator):
    """Somebody who builds."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        super().__init__(fleet, folder)
        self.fleet, self.folder = fleet, folder


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    fleet = Fleet(tmp_path_factory.mktemp("builds"), separate=False)
    asyncio.run(fleet.start("ci01", "ci02"))
    try:
        yield Builder(fleet, tmp_path_factory.mktemp("here"))
    finally:
        fleet.close()


def shown(builder: Builder) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(builder.type("fleetlog show last -o json"))
    return found


def request(builder: Builder, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    home = builder.fleet.home
    host, _, port = home.gateway_url().removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", f"/api/v1{path}", headers={"Authorization": f"Bearer {home.gateway_token()}", **headers})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.headers), body


def test_what_the_steps_make_is_kept_by_its_digest_and_comes_back_whole(builder: Builder) -> None:
    (builder.folder / "source.txt").write_text("from here\n")
    said = builder.type(
        "fleetlog build -t ci01 --input source.txt --step 'mkdir -p dist/sub && cp source.txt dist/sub/a && ln -s sub/a dist/b'"
        " --step 'head -c 3000000 /dev/urandom > big.bin; touch empty' --artifact dist --artifact big.bin=app.bin --artifact 'emp*'"
    )
    assert "== step 2/2" in said, said
    task = shown(builder)
    assert (task["kind"], task["outcome"]) == ("build", "success"), said
    kept = {one["name"]: one for one in task["commands"][0]["attempts"][0]["artifacts"]}
    assert {name: one["size"] for name, one in kept.items() if name != "dist"} == {"app.bin": 3_000_000, "empty": 0}
    assert "app.bin" in builder.type("fleetlog artifact ls last")
    got = builder.type("fleetlog artifact get last app.bin --to app")
    assert "sha256" in got, got + (builder.fleet.folder / "up.log").read_text()[-3000:]
    builder.type("fleetlog artifact get last dist")
    builder.type("fleetlog artifact get last empty")
    body = (builder.folder / "app").read_bytes()
    assert hashlib.sha256(body).hexdigest() == kept["app.bin"]["sha256"]
    assert (builder.folder / "empty").read_bytes() == b""
    with tarfile.open(fileobj=io.BytesIO((builder.folder / "dist").read_bytes())) as tar:
        assert [(one.name, one.mtime, one.uid) for one in tar] == [("b", 0, 0), ("sub", 0, 0), ("sub/a", 0, 0)]
        file = tar.extractfile("b")
        assert file is not None
        assert file.read() == b"from here\n"

    path, etag = f"/tasks/{task['task_id']}/artifacts/ci01/app.bin", f'"{kept["app.bin"]["sha256"]}"'
    status, headers, part = request(builder, path, Range="bytes=1000000-1000009")
    assert (status, headers["Content-Range"], part) == (206, "bytes 1000000-1000009/3000000", body[1_000_000:1_000_010])
    assert request(builder, path, Range="bytes=-5")[2] == body[-5:]
    assert request(builder, path, Range="bytes=3000000-")[0] == 416
    status, headers, whole = request(builder, path, Range="bytes=0-1", **{"If-Range": '"other"'})
    assert (status, headers["ETag"], whole) == (200, etag, body), "what is there is not what a part is held of"
    assert request(builder, path, **{"If-None-Match": etag})[0] == 304
    assert request(builder, f"/tasks/{task['task_id']}/artifacts/ci02/app.bin")[0] == 404

    told = json.loads(builder.type("fleetlog artifact provenance last"))
    assert {one["name"]: one["digest"]["sha256"] for one in told["subject"]} == {name: one["sha256"] for name, one in kept.items()}
    (given,) = told["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert given == {"name": "source.txt", "digest": {"sha256": hashlib.sha256(b"from here\n").hexdigest()}}
    assert told["predicate"]["runDetails"]["metadata"]["invocationId"].endswith(task["task_id"])


def test_an_artifact_is_an_input_of_another_build_on_another_host(builder: Builder) -> None:
    builder.type("fleetlog build -t ci01 --step 'echo one > first' --artifact first")
    builder.type("fleetlog build -t ci02 --input last:first --step 'cat first; echo two >> first' --artifact first")
    builder.type("fleetlog artifact get last first --to -")
    assert builder.type("fleetlog artifact get last first --to -") == "one\ntwo\n"


def test_a_build_without_what_it_should_leave_has_not_succeeded(builder: Builder) -> None:
    for step, artifact, outcome, why in (
        ("true", "missing", "error", "artifact missing is missing: no step made it"),
        ("ln -s /etc/passwd leak", "leak", "error", "leak is a link: name what it points to"),
        ("mkdir d && ln -s ../../.. d/out", "d", "error", "the link out leads out of it"),
        ("mkfifo pipe", "pipe", "error", "artifact pipe is neither a file nor a folder"),
        ("mkdir a b && touch a/x b/x", "*/x", "error", "would both be kept as x"),
        ("touch made; exit 3", "made", "failure", ""),
    ):
        builder.type(f"fleetlog build -t ci01 --step '{step}' --artifact '{artifact}'")
        (command,) = shown(builder)["commands"]
        (attempt,) = command["attempts"]
        assert (attempt["outcome"], attempt["artifacts"]) == (outcome, []), attempt
        assert why in attempt["error"], attempt
    assert "step 1 failed with exit code 3" in builder.type("fleetlog output last")
    assert "left no 'made'" in builder.type("fleetlog artifact get last made")


def test_a_build_that_goes_wrong_leaves_what_is_to_be_kept_then(builder: Builder) -> None:
    steps = "--artifact app --artifact-ended report.xml --artifact-ended missing"
    builder.type(f"fleetlog build -t ci01 --step 'touch app; echo 1 failed > report.xml; exit 3' {steps}")
    (attempt,) = shown(builder)["commands"][0]["attempts"]
    assert (attempt["outcome"], attempt["exit_code"], attempt["error"]) == ("failure", 3, ""), attempt
    assert [one["name"] for one in attempt["artifacts"]] == ["report.xml"]
    assert "failure" in builder.type("fleetlog artifact ls last")
    assert builder.type("fleetlog artifact get last report.xml --to -") == "1 failed\n"
    told = json.loads(builder.type("fleetlog artifact provenance last"))
    assert told["subject"] == [], "what a bad attempt left is nothing to be used"
    (left,) = [one for one in told["predicate"]["runDetails"]["byproducts"] if "digest" in one]
    assert (left["name"], left["annotations"]) == ("report.xml", {"attempt": 1, "outcome": "failure"})

    builder.type("fleetlog build -t ci01 --timeout 1s --step 'echo hangs > report.xml; sleep 600' --artifact-ended report.xml")
    (attempt,) = shown(builder)["commands"][0]["attempts"]
    assert (attempt["outcome"], [one["name"] for one in attempt["artifacts"]]) == ("timeout", ["report.xml"]), attempt

    builder.type("fleetlog build -t ci01 --step 'ln -s /etc report.xml; exit 4' --artifact-ended report.xml")
    (attempt,) = shown(builder)["commands"][0]["attempts"]
    assert (attempt["outcome"], attempt["exit_code"]) == ("failure", 4), "how it ended stands"
    assert "report.xml is a link" in attempt["error"]


def test_the_folder_of_a_build_is_gone_when_it_has_ended(builder: Builder) -> None:
    builder.type("fleetlog build -t ci01 --step 'pwd > here' --artifact here")
    folder = Path(builder.type("fleetlog artifact get last here --to -").strip())
    assert folder.name.endswith(".work")
    assert not folder.exists()


APP = """name = "app"
kind = "build"
target = "ci01"
steps = [{argv = ["/bin/sh", "-ec", "echo app > app; echo \\"{\\\\\\"sha256\\\\\\": \\\\\\"$(sha256sum app | cut -c1-64)\\\\\\"}\\" > $FLEETLOG_RETURN"]}]
artifacts = [{path = "app"}]

[schedule.nightly]
cron = "0 3 * * *"
"""
RELEASE = """name = "release"
kind = "workflow"

[parts.build]
definition = "app"

[parts.tell]
argv = ["/bin/sh", "-c", "echo built $FLEETLOG_PARAM_SHA256"]
target = "ci02"
after = ["build"]
given = { sha256 = { part = "build", path = "/sha256" } }
"""


def test_a_build_is_a_part_of_a_workflow_and_is_run_by_a_schedule(builder: Builder) -> None:
    (builder.folder / "app.toml").write_text(APP)
    (builder.folder / "release.toml").write_text(RELEASE)
    assert "version 1" in builder.type("fleetlog definition push app.toml")
    said = builder.type("fleetlog workflow run release.toml")
    digest = hashlib.sha256(b"app\n").hexdigest()
    assert f"tell ci02: built {digest}" in builder.type("fleetlog output last"), said
    (part,) = [one for one in shown(builder)["parts"] if one["name"] == "build"]
    assert digest in builder.type(f"fleetlog artifact ls {part['tasks'][0]['task_id']}"), "an artifact is one of the part's task"

    said = builder.type("fleetlog schedule run nightly")
    task = shown(builder)
    assert (task["kind"], task["outcome"]) == ("build", "success"), said
    assert digest in builder.type("fleetlog artifact ls last")


def test_what_is_sent_can_be_cancelled_and_an_agent_that_is_killed_meanwhile_sends_it_again(tmp_path: Path) -> None:
    size = 64 * 1024 * 1024
    steps = (Step(("/bin/sh", "-ec", f"head -c {size} /dev/urandom > big; sha256sum big")),)

    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            subject = subjects.artifacts(agent.host_id)

            async def chunks(from_seq: int = 1, count: int = 1) -> list[tuple[int, reports.ArtifactChunk]]:
                stored = await dispatcher.looker.get_range(subjects.OUTPUT, from_seq, count, subject)
                return [(one.seq, wire.decode(one.body, reports.ArtifactChunk)) for one in stored]

            unwanted = await dispatcher.start(agent, Build(steps, (ArtifactRule("big"),)))
            await until(chunks, 30, "a chunk is stored", 0.005)
            await dispatcher.cancel(agent, unwanted)
            end = await dispatcher.end_of(unwanted, 60)
            assert (end.outcome, end.exit_code, end.artifacts) == (Outcome.CANCELLED, 0, ())
            assert "it was cancelled while its artifacts were sent (big up to byte" in end.error
            sent = (await chunks(1, 1_000))[-1][0]

            task = await dispatcher.start(agent, Build(steps, (ArtifactRule("big"),)))
            await until(lambda: chunks(sent + 1), 30, "a chunk is stored", 0.005)
            agent.kill()
            assert not await dispatcher.items(reports.ReportEnded, task), "it was killed before it was done"
            agent.start()
            end = await dispatcher.end_of(task, 60)
            (kept,) = end.artifacts
            assert (end.outcome, kept.size) == (Outcome.SUCCESS, size)
            whole, digest, seq, begun = 0, hashlib.sha256(), sent + 1, 0
            while found := await chunks(seq, 64):
                for at, chunk in found:
                    begun += chunk.offset == 0
                    if kept.first_seq <= at <= kept.last_seq and chunk.offset == whole:
                        whole += len(chunk.data)
                        digest.update(chunk.data)
                seq = found[-1][0] + 1
            assert begun == 2, "the first upload was interrupted"
            assert (whole, digest.hexdigest()) == (size, kept.sha256)
            assert kept.sha256 in end.tail

    asyncio.run(scenario())
