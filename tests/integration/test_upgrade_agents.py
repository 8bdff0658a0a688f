"""Agents of the releases before this one, as they were, against the present server; and the way there and back.

The releases are real: unpacked archives, run as processes. The judge is the file that the commands write.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fleetlog_agent.journal import read_journal
from fleetlog_schemas.spec import Script, Shell
from fleetlog_schemas.version import VERSION
from fleetlog_testing import releases
from fleetlog_testing.agent_process import marked
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Fleet, Host
from fleetlog_testing.waiting import until

RELEASES = releases.versions()
NOW = "now"
"""This checkout, among the names of releases."""
OFTEN = "agent.heartbeat_ms=500"
"""What has ended is told to be forgotten when a heartbeat says that it is still held."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A server of this version, and for each release a host that joined and runs by the release's own code."""
    running = Fleet(tmp_path_factory.mktemp("upgrade"))
    try:
        asyncio.run(running.start())
        for version in RELEASES:
            name = f"old-{version}"
            joined = join_by_release(running, name, version)
            joined.start(code=code(running, version))
        asyncio.run(running.online(*running.hosts))
        yield running
    finally:
        running.close()


def code(fleet: Fleet, version: str) -> Path | None:
    """Return where the code of a version is; None is this checkout."""
    return None if version == NOW else releases.unpacked(version, fleet.folder)


def join_by_release(fleet: Fleet, name: str, version: str) -> Host:
    """Let a release join by the line that is pasted."""
    invited = fleet.gateway.post("/hosts", {"name": name})
    folder = fleet.folder / name
    where = code(fleet, version)
    assert where is not None
    done = releases.agent_command(
        where, "join", fleet.home.gateway_url(), "--token", invited["token"], "--no-start", "--data", str(folder)
    )
    assert done.returncode == 0, done.stderr
    status = releases.agent_command(where, "status", "--data", str(folder), "-o", "json")
    host = fleet.hosts[name] = Host(json.loads(status.stdout)["host_id"], folder)
    return host


def waits_for(fleet: Fleet, go: Path) -> Shell:
    return fleet.judge.command(f"while [ ! -e {go} ]; do sleep 0.05; done; echo done")


async def says_version(fleet: Fleet, name: str, version: str) -> None:
    """Wait until a host is online with a session that an agent of that version opened."""
    wanted = VERSION if version == NOW else version

    def shown() -> bool:
        host = fleet.shown(name)
        return bool(host["presence"] == "online" and host["version"] == wanted)

    await until(shown, END_S_MAX, f"{name} is online with {wanted}", LOOK_S)


async def forgotten(host: Host) -> None:
    """Wait until a host's agent holds nothing any more."""

    def held() -> int:
        return len(read_journal(host.folder / "journal")[0].entries)

    await until(lambda: held() == 0, END_S_MAX, f"{host.name} forgets what has ended")


def test_the_two_releases_before_this_one_are_kept() -> None:
    assert len(RELEASES) == 2
    assert VERSION not in RELEASES


@pytest.mark.parametrize("version", RELEASES)
def test_an_older_agent_does_everything_that_it_knows(fleet: Fleet, version: str) -> None:
    name = f"old-{version}"
    marker = fleet.folder / f"marker-{version}"

    async def scenario() -> None:
        client = fleet.client
        await says_version(fleet, name, version)
        script = client.put_blob(b"#!/bin/sh\ncat; echo $GREETING $SECRET $1 >&2; exit 3\n", "s.sh")
        env = client.put_blob(json.dumps({"GREETING": "hello", "SECRET": "hunter2222"}).encode())
        ran = await fleet.submit(fleet.judge.command("echo out"), name)
        scripted = await fleet.submit(
            Script(content=script, args=("one",)), name,  # type: ignore[arg-type]
            options={"env": env, "env_names": ["GREETING", "SECRET"], "secret_names": ["SECRET"],
                     "stdin": client.put_blob(b"from stdin\n"), "cwd": "/tmp", "exit_codes": [0, 3]},
        )
        retried = await fleet.submit(
            fleet.judge.command(f"[ -e {marker} ] || {{ touch {marker}; exit 9; }}"), name,
            retry={"attempts_max": 2, "backoff_ms": 100},
        )
        missing = await fleet.submit(Shell(argv=("/no/such/program",)), name)
        slow = await fleet.submit(fleet.judge.command("sleep 600"), name, timeout_ms=1_500)
        cancelled = await fleet.submit(fleet.judge.command("sleep 601"), name)
        await fleet.began(cancelled, 1)
        assert fleet.run("cancel", cancelled, "--reason", "a test").returncode == 0
        views = await fleet.ended(ran, scripted, retried, missing, slow, cancelled)
        assert [view.outcome for view in views] == ["success", "success", "success", "error", "timeout", "cancelled"]
        attempts = [attempt.outcome for attempt in views[2].commands[0].attempts]
        assert attempts == ["failure", "success"]
        fleet.judge.agrees(views[:1])
        output = await until(lambda: fleet.run("output", scripted).stdout, END_S_MAX, "the output is there", LOOK_S)
        assert "from stdin" in output
        assert "hello" in output
        assert "hunter2222" not in output
        await forgotten(fleet.hosts[name])

    asyncio.run(scenario())


@pytest.mark.parametrize("version", RELEASES)
def test_an_older_agent_that_restarts_finds_its_commands_again(fleet: Fleet, version: str) -> None:
    host = fleet.hosts[f"old-{version}"]
    go = fleet.folder / f"go-restart-{version}"

    async def scenario() -> None:
        running = await fleet.submit(waits_for(fleet, go), host.name)
        await fleet.began(running, 1)
        host.kill()
        host.start(code=code(fleet, version))
        await says_version(fleet, host.name, version)
        go.touch()
        views = await fleet.ended(running)
        assert views[0].outcome == "success"
        fleet.judge.agrees(views)

    asyncio.run(scenario())


@pytest.mark.parametrize(("first", "second"), [*((one, NOW) for one in RELEASES), tuple(RELEASES)])
def test_an_upgrade_and_a_downgrade_under_running_commands_lose_nothing_and_repeat_nothing(
    fleet: Fleet, first: str, second: str
) -> None:
    name = f"{first}-to-{second}"
    steps = (first, second, first, second)

    async def scenario() -> None:
        host = join_by_release(fleet, name, first)
        host.start(OFTEN, code=code(fleet, first))
        await says_version(fleet, name, first)
        tasks: list[str] = []
        for number, (before, after) in enumerate(itertools.pairwise(steps)):
            over, ends_between = fleet.folder / f"{name}-{number}-over", fleet.folder / f"{name}-{number}-between"
            tasks += [
                await fleet.submit(waits_for(fleet, over), name), await fleet.submit(waits_for(fleet, ends_between), name),
                await fleet.submit(fleet.judge.command("true"), name),
            ]
            for task_id in tasks[-3:]:
                await fleet.began(task_id, 1)
            assert host.kill(15 if number % 2 else 9) == (0 if number % 2 else -9), before
            ends_between.touch()
            waiting = tasks[-2]
            await until(lambda task_id=waiting: not marked(host.host_id, task_id), END_S_MAX, "it ends with no agent there")
            queued = await fleet.submit(fleet.judge.command("true"), name)
            host.start(OFTEN, code=code(fleet, after))
            await says_version(fleet, name, after)
            over.touch()
            tasks.append(queued)
        views = await fleet.ended(*tasks)
        assert {view.outcome for view in views} == {"success"}
        fleet.judge.agrees(views)
        assert fleet.shown(name)["refusals"] == []
        await forgotten(host)

    asyncio.run(scenario())


@pytest.mark.parametrize("version", [*RELEASES, NOW])
def test_a_journal_with_a_record_from_a_later_version_is_refused_and_nothing_of_it_runs(fleet: Fleet, version: str) -> None:
    name = f"from-the-future-{version}"

    async def scenario() -> None:
        host = fleet.join(name)
        host.start()
        await fleet.online(name)
        done = await fleet.ended(await fleet.submit(fleet.judge.command("true"), name))
        host.kill(15)
        await fleet.has(name, "offline")
        journal = host.folder / "journal"
        kept = shutil.copy(journal, fleet.folder / f"{name}-journal")
        journal.write_bytes(journal.read_bytes() + later_record())
        changed = journal.read_bytes()
        queued = await fleet.submit(fleet.judge.command("true"), name)
        host.start(code=code(fleet, version))
        assert host.process is not None
        assert await asyncio.to_thread(host.process.wait, END_S_MAX) == 1
        assert "start the version that wrote it" in host.diagnostics()
        assert journal.read_bytes() == changed, "it was left as it was"
        assert fleet.shown(name)["presence"] == "offline"
        shutil.copy(kept, journal)
        host.start()  # stands for the version that can read it
        done += await fleet.ended(queued)
        assert {view.outcome for view in done} == {"success"}
        fleet.judge.agrees(done)

    asyncio.run(scenario())


def later_record() -> bytes:
    """Return a commit with a record that no version knows yet, framed as the journal's are."""
    body = msgspec.msgpack.encode({"counter": 1_000, "records": [{"record": "suspended", "key": ["t", 1]}]})
    head = struct.pack(">II", len(body), zlib.crc32(body))
    return head + zlib.crc32(head).to_bytes(4, "big") + body
