"""A host's folder copied or set back, and a host that is revoked: refused, told, and nothing runs twice."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlog_runtime.shell.nats_bus import ConnectFailed
from fleetlog_schemas import host_events, pushes
from fleetlog_testing.agent_process import marked
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Fleet, Host, as_agent, overheard
from fleetlog_testing.waiting import fair, until

NAMES = ("copied", "restored", "restored-late", "revoked", "bystander")
OUT_S_MAX = 1.0
"""What is promised: a revoked host is out within a second."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = Fleet(tmp_path_factory.mktemp("hosts"))
    try:
        asyncio.run(running.start(*NAMES))
        yield running
    finally:
        running.close()


def copy_of(host: Host, folder: Path) -> Host:
    """Copy everything that an agent has on disk, as a backup or a clone of the machine does."""
    sockets = shutil.ignore_patterns("*.sock")
    shutil.copytree(host.folder, folder, ignore=sockets)
    (folder / "diagnostics").unlink()
    return Host(host.host_id, folder)


def epoch(fleet: Fleet, host: Host) -> int:
    """Return the number of a host's newest session."""
    return max(
        session.epoch for event in fleet.log() if isinstance(event.data, host_events.SessionsOpened)
        for session in event.data.sessions if session.host_id == host.host_id
    )


async def session_after(fleet: Fleet, host: Host, former: int) -> None:
    """Wait until a host has a newer session and has used it."""
    await until(lambda: epoch(fleet, host) > former, END_S_MAX, f"{host.name} opens a session", LOOK_S)

    def used() -> bool:
        return any(
            one.host_id == host.host_id and one.epoch > former
            for event in fleet.log() if isinstance(event.data, host_events.HostsOnline) for one in event.data.hosts
        )

    await until(used, END_S_MAX, f"{host.name} uses its session", LOOK_S)


def is_planned(fleet: Fleet, task_id: str) -> bool:
    """Tell whether the log says on which hosts a task runs."""
    task = fleet.client.replay(task_id).task
    return task is not None and bool(task.commands)


def is_refused_for_all_to_see(fleet: Fleet, name: str, code: str) -> None:
    """Require that list, host and doctor show why a host is refused and what to do."""
    shown = fleet.shown(name)
    assert shown["refusals"][-1]["code"] == f"session-{code}"
    listed = {line.split()[0]: line for line in fleet.run("host", "ls").stdout.splitlines()}
    assert "refused" in listed[name]
    assert f"session-{code}" in listed[name]
    assert f"fleetlog host accept {name}" in fleet.run("host", "show", name).stdout
    doctor = fleet.run("doctor", "-o", "json")
    assert doctor.returncode == 1
    found = {one["found"]: one["todo"] for one in json.loads(doctor.stdout) if one["check"] == "host"}
    assert f"fleetlog host accept {name}" in found[f"{name} is refused: {shown['refused_reason']}"]


async def works_again(fleet: Fleet, name: str) -> None:
    """Accept a host and require that it works."""
    assert fleet.run("host", "accept", name, "--reason", "looked at").returncode == 0
    await fleet.has(name, "online")
    (view,) = await fleet.ended(await fleet.submit(fleet.judge.command("true"), name))
    assert view.outcome == "success"
    fleet.judge.agrees([view])


def test_the_copy_of_an_agent_is_refused_its_host_is_stopped_and_nothing_runs_twice(fleet: Fleet) -> None:
    host = fleet.hosts["copied"]
    go = fleet.folder / "go-copied"
    copy = None

    async def scenario() -> None:
        nonlocal copy
        first = epoch(fleet, host)
        running = await fleet.submit(fleet.judge.command(f"while [ ! -e {go} ]; do sleep 0.05; done"), host.name)
        await fleet.began(running, 1)
        copy = copy_of(host, fleet.folder / "the-copy")
        host.kill()
        host.start()
        await session_after(fleet, host, first)
        copy.start()
        await fleet.has(host.name, "refused")
        waiting = await fleet.submit(fleet.judge.command("true"), host.name, wait_offline_ms=0)
        views = await fleet.ended(running, waiting)
        assert [view.outcome for view in views] == ["lost", "unreached"]
        go.touch()
        await until(lambda: not marked(host.host_id, running), END_S_MAX, "the command runs to its end")
        assert fleet.judge.lines()[f"{running} {host.host_id} 1 ended"] == 1
        fleet.judge.agrees(views, lost_on=[host.host_id])
        is_refused_for_all_to_see(fleet, host.name, "ticket")
        assert "the dispatcher refuses this host (ticket)" in copy.diagnostics()
        copy.kill()
        await works_again(fleet, host.name)
        fleet.judge.agrees(views, lost_on=[host.host_id])

    try:
        asyncio.run(scenario())
    finally:
        if copy is not None:
            copy.end()


@pytest.mark.parametrize(("name", "code"), [("restored", "counter"), ("restored-late", "ticket")])
def test_an_agent_whose_folder_was_set_back_is_refused_and_runs_nothing_again(fleet: Fleet, name: str, code: str) -> None:
    host = fleet.hosts[name]
    backup = fleet.folder / f"{name}-backup"

    async def scenario() -> None:
        done = await fleet.ended(await fleet.submit(fleet.judge.command("true"), name))
        copy_of(host, backup)
        if code == "ticket":
            first = epoch(fleet, host)
            host.kill(signal.SIGTERM)
            host.start()
            await session_after(fleet, host, first)
        done += await fleet.ended(await fleet.submit(fleet.judge.command("true"), name))
        running = await fleet.submit(fleet.judge.command("sleep 2"), name)
        await fleet.began(running, 1)
        host.kill()
        shutil.rmtree(host.folder)
        shutil.move(backup, host.folder)
        host.start()
        await fleet.has(name, "refused")
        lost = await fleet.ended(running)
        assert lost[0].outcome == "lost"
        await until(lambda: not marked(host.host_id, running), END_S_MAX, "the command runs to its end")
        is_refused_for_all_to_see(fleet, name, code)
        await works_again(fleet, name)
        assert done[-1].outcome == "success"
        fleet.judge.agrees(done)
        fleet.judge.agrees(lost, lost_on=[host.host_id])
        fleet.verify_projection()

    asyncio.run(scenario())


def test_a_revoked_host_is_out_within_a_second_and_no_command_reaches_it(fleet: Fleet) -> None:
    host = fleet.hosts["revoked"]
    go = fleet.folder / "go-revoked"

    async def scenario() -> None:
        runs_on = fleet.judge.command(f"while [ ! -e {go} ]; do sleep 0.05; done")
        open_tasks = [await fleet.submit(runs_on, "revoked or bystander", wait_offline_ms=0) for _ in range(4)]
        for task_id in open_tasks:
            await fleet.began(task_id, 2)
        queued = await fleet.submit(fleet.judge.command("true"), "revoked", wait_offline_ms=0)
        # Planned only after the revocation, it would be refused: its target would mean nobody.
        await until(lambda: is_planned(fleet, queued), END_S_MAX, "the last task waits for a slot", LOOK_S)
        async with as_agent(host) as beside, overheard(host) as heard:
            fleet.gateway.post(f"/hosts/{host.host_id}/revoke", {"reason": "stolen"})
            await until(beside.closed.is_set, fair(OUT_S_MAX), "its connections are closed")
            go.touch()
            asked_later = await fleet.submit(fleet.judge.command("true"), "", host_ids=[host.host_id])
            views = await fleet.ended(*open_tasks, queued)
            # What was pushed before may be heard a moment later; that it was a command from now on may not be.
            sent = {one.task_id for push in heard if isinstance(push, pushes.StartPush) for one in push.attempts}
            assert sent <= set(open_tasks), "neither what was queued nor what came later"
        for view in views[:4]:
            assert {one.host: one.outcome for one in view.commands} == {"revoked": "lost", "bystander": "success"}
        assert views[4].outcome == "unreached"
        fleet.judge.agrees(views, lost_on=[host.host_id])
        refused = fleet.client.wait(asked_later)
        assert (refused.state, refused.refusal_pointer) == ("refused", "/host_ids")
        assert fleet.judge.began(asked_later) == 0
        await until(lambda: "the bus ended this host's connection" in host.diagnostics(), END_S_MAX, "its agent says so")
        with pytest.raises(ConnectFailed):
            async with as_agent(host):
                pass
        assert (fleet.shown("revoked")["presence"], fleet.shown("bystander")["presence"]) == ("revoked", "online")

    asyncio.run(scenario())
