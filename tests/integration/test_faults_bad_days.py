"""Hosts on bad days: killed at any moment, stopped, on a full disk, with a wrong clock, set up anew.

The file that the commands write says what ran; what the system says of it must agree.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlog_schemas import events, host_events
from fleetlog_testing.agent_process import marked
from fleetlog_testing.clocks import DAY_S, MISSING, WrongClock
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Fleet, Host
from fleetlog_testing.waiting import until

OFTEN = "agent.heartbeat_ms=500"
SETTINGS = (
    "dispatcher.suspect_ms=1500", "dispatcher.offline_ms=4000", "dispatcher.mass_silence_hosts=4",
    "dispatcher.mass_silence_ratio=0.5", "dispatcher.mass_silence_hold_ms=60000", "dispatcher.end_grace_ms=10000",
)
"""Silence is noticed while a test waits; of four hosts, three that fall silent together are our own fault."""
KILLS = 60
SEED = 20261126
CROWD = ("crowd1", "crowd2", "crowd3", "crowd4")
BALLAST_BYTES = 64 * 1024


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = Fleet(tmp_path_factory.mktemp("bad-days"), *(word for one in SETTINGS for word in ("--set", one)))
    try:
        asyncio.run(running.start())
        yield running
    finally:
        running.close()


async def host_of(fleet: Fleet, name: str, **environment: str) -> Host:
    host = fleet.join(name)
    host.start(OFTEN, **environment)
    await fleet.online(name)
    return host


# --- killed and stopped ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("also_holder", [False, True], ids=["agent", "agent-and-holder"])
def test_killed_at_any_moment_a_host_runs_everything_once_and_says_how_it_ended(fleet: Fleet, also_holder: bool) -> None:
    name = f"killed-{also_holder}".lower()
    chance = random.Random(SEED + also_holder)

    async def scenario() -> None:
        host = await host_of(fleet, name)
        tasks: list[str] = []
        for _ in range(KILLS // 2):
            if len(tasks) < KILLS // 2 and chance.random() < 0.8:
                between = f"sleep {chance.choice((0, 0.01, 0.1, 0.3))}"
                tasks.append(await fleet.submit(fleet.judge.command(between), name, wait_offline_ms=600_000))
            await asyncio.sleep(chance.choice((0, 0.01, 0.05, 0.3, 0.6)))
            holders = host.holders() if also_holder and chance.random() < 0.4 else []
            for pid in holders:
                os.kill(pid, signal.SIGKILL)
            if not holders or chance.random() < 0.5:
                host.kill()
                host.start(OFTEN)
        views = await fleet.ended(*tasks)
        fleet.judge.agrees(views, lost_on=[host.host_id] if also_holder else [])
        outcomes = {view.outcome for view in views}
        assert outcomes <= ({"success", "lost"} if also_holder else {"success"})
        shown = fleet.shown(name)
        assert (shown["presence"], shown["refusals"]) == ("online", []), "an honest host is never refused"

    asyncio.run(scenario())


def test_stopped_beyond_its_limits_a_host_goes_on_where_it_was(fleet: Fleet) -> None:
    go = fleet.folder / "go-stopped"

    async def scenario() -> None:
        host = await host_of(fleet, "stopped")
        assert host.process is not None
        ends_meanwhile = await fleet.submit(fleet.judge.command(f"while [ ! -e {go} ]; do sleep 0.02; done"), host.name)
        overdue = await fleet.submit(fleet.judge.command("sleep 600"), host.name, timeout_ms=1_500)
        for task_id in (ends_meanwhile, overdue):
            await fleet.began(task_id, 1)
        stopped = [host.process.pid, *host.holders()]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        await fleet.has(host.name, "offline")
        go.touch()
        unreached = await fleet.submit(fleet.judge.command("true"), host.name, wait_offline_ms=500)
        waits = await fleet.submit(fleet.judge.command("true"), host.name)
        views = await fleet.ended(unreached)
        assert views[0].outcome == "unreached"
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
        views += await fleet.ended(ends_meanwhile, waits)
        assert [view.outcome for view in views[1:]] == ["success"] * 2
        fleet.judge.agrees(views)
        (late,) = await fleet.ended(overdue)
        assert late.outcome == "timeout", (late, host.diagnostics()[-2_000:])
        assert not marked(host.host_id, overdue)

    asyncio.run(scenario())


def test_many_hosts_that_fall_silent_together_are_not_judged_and_one_alone_is(fleet: Fleet) -> None:
    async def scenario() -> None:
        for other in fleet.hosts.values():  # of earlier tests: they would count as hosts that are heard
            if other.process is not None and other.process.poll() is None:
                other.kill(signal.SIGTERM)
        for other in fleet.hosts.values():
            await until(
                lambda name=other.name: fleet.shown(name)["presence"] != "online", END_S_MAX, f"{other.name} is away", LOOK_S
            )
        hosts = [await host_of(fleet, name) for name in CROWD]
        task = await fleet.submit(fleet.judge.command("sleep 1"), "crowd*")
        await fleet.began(task, len(hosts))
        alone, *silent = [host.process.pid for host in hosts if host.process is not None]
        before = len(fleet.log())
        for pid in silent:
            os.kill(pid, signal.SIGSTOP)
        try:
            # What passes: more than twice the patience with a single host.
            await asyncio.sleep(9)
            assert [fleet.shown(name)["presence"] for name in CROWD] == ["online"] * 4
        finally:
            for pid in silent:
                os.kill(pid, signal.SIGCONT)
        views = await fleet.ended(task)
        assert views[0].counts == {"success": 4}
        fleet.judge.agrees(views)
        crowd = {host.host_id for host in hosts}
        judged = [one.data for one in fleet.log()[before:] if isinstance(one.data, host_events.HostsOffline)]
        assert not crowd & {host.host_id for one in judged for host in one.hosts}
        os.kill(alone, signal.SIGSTOP)
        try:
            await fleet.has(CROWD[0], "offline")
            assert fleet.shown(CROWD[1])["presence"] == "online"
        finally:
            os.kill(alone, signal.SIGCONT)
        await fleet.online(CROWD[0])

    asyncio.run(scenario())


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(fleet: Fleet) -> Iterator[Path]:
    """The folder of the host `full`, on a file system of its own, of 8 MiB."""
    folder = fleet.folder / "full"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        folder.rmdir()
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    if "full" in fleet.hosts:
        fleet.hosts.pop("full").end()
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Take every byte that is left on the disk of *ballast*."""
    with ballast.open("ab", buffering=0) as file:
        size = BALLAST_BYTES
        while size:
            try:
                file.write(b"x" * size)
            except OSError:
                size //= 2


def test_on_a_full_disk_nothing_starts_what_runs_keeps_its_result_and_it_recovers_by_itself(
    fleet: Fleet, small_disk: Path
) -> None:
    go, ballast = fleet.folder / "go-full", small_disk / "ballast"
    padding = "#" + "x" * 20_000
    """More than the rest of a page: what is journaled of it does not fit any more."""

    async def scenario() -> None:
        host = await host_of(fleet, "full")
        running = [
            await fleet.submit(fleet.judge.command(f"while [ ! -e {go} ]; do sleep 0.05; done"), host.name) for _ in range(2)
        ]
        for task_id in running:
            await fleet.began(task_id, 1)
        fill(ballast)
        tried: list[str] = []

        async def is_told() -> bool:
            # The last one may be the one that waits, of which `why` says so a moment later: then no other is tried.
            if not tried or fleet.client.replay(tried[-1]).over:
                tried.append(await fleet.submit(fleet.judge.command(f"true; {padding}\n:"), host.name, wait_offline_ms=600_000))
            return "no room" in fleet.run("why", tried[-1]).stdout

        await until(is_told, END_S_MAX, "a command waits, and why says that the host has no room", LOOK_S)
        fill(ballast)
        go.touch()
        ended = await fleet.ended(*running)
        assert [view.outcome for view in ended] == ["success"] * 2
        host.kill()
        host.start(OFTEN)
        await fleet.online(host.name)
        assert fleet.judge.began(tried[-1]) == 0, "it still waits"
        ballast.unlink()
        last = await fleet.submit(fleet.judge.command("true"), host.name)
        views = await fleet.ended(*tried, last)
        for view in views:
            error = view.commands[0].attempts[-1].error
            assert view.outcome == "success" or "disk" in error or "space" in error, view
        assert [view.outcome for view in views[-2:]] == ["success"] * 2
        fleet.judge.agrees([*ended, *(view for view in views if view.outcome in ("success", "unreached"))])

    asyncio.run(scenario())


# --- a wrong clock ---------------------------------------------------------------------------------------------------

@pytest.mark.skipif(bool(MISSING), reason=MISSING)
@pytest.mark.parametrize("ahead_s", [DAY_S, -DAY_S], ids=["ahead", "behind"])
def test_a_wrong_and_jumping_wall_clock_changes_no_deadline_and_no_time_in_the_log(fleet: Fleet, ahead_s: int) -> None:
    clock = WrongClock(fleet.folder / f"offset{ahead_s}")
    clock.set(ahead_s)

    async def scenario() -> None:
        host = await host_of(fleet, f"clock{ahead_s:+d}".replace("+", "p").replace("-", "m"), **clock.environment)
        said = json.loads(host.diagnostics().splitlines()[0])["timestamp"]
        assert abs(dt.datetime.fromisoformat(said).timestamp() - time.time() - ahead_s) < 3_600, "its clock is wrong"
        says = fleet.folder / f"says{ahead_s}"
        script = f"date +%s > {says}"
        before_ms = time.time_ns() // 1_000_000
        ran = await fleet.submit(fleet.judge.command(f"{script}; echo out"), host.name)
        overdue = await fleet.submit(fleet.judge.command("sleep 600"), host.name, timeout_ms=3_000)
        await fleet.began(overdue, 1)
        # The clock jumps while a deadline is waited for: it comes neither at once nor an hour late.
        for jump_s in (3_600, -3_600, 2 * DAY_S, 0, -ahead_s):
            clock.set(ahead_s + jump_s)
            after_jump = await fleet.submit(fleet.judge.command("true"), host.name)
            views = await fleet.ended(after_jump)
            assert views[0].outcome == "success"
        views += await fleet.ended(ran)
        fleet.judge.agrees(views)
        (late,) = await fleet.ended(overdue)
        assert late.outcome == "timeout", (host.folder / "holder.err").read_text()
        shown = fleet.shown(host.name)
        assert (shown["presence"], shown["refusals"]) == ("online", [])
        now_ms = time.time_ns() // 1_000_000
        ends = [
            end for event in fleet.log() if isinstance(event.data, events.AttemptsEnded)
            for end in event.data.attempts if end.host_id == host.host_id
        ]
        (lasted_ms,) = [end.duration_ms for end in ends if end.task_id == overdue]
        assert lasted_ms is not None
        assert 3_000 <= lasted_ms < 60_000
        for end in ends:
            assert end.ended_ms is not None
            assert before_ms - 5_000 <= end.ended_ms <= now_ms + 5_000, "told by the bus's clock, not by the host's"
        host.kill()
        host.start(OFTEN, **clock.environment)
        await fleet.online(host.name)
        assert abs(int(says.read_text()) - before_ms // 1000) < DAY_S // 2, "commands see the machine's own clock"

    asyncio.run(scenario())


# --- set up anew -----------------------------------------------------------------------------------------------------


def test_a_machine_that_is_set_up_anew_is_a_new_host_and_the_old_ones_commands_are_told_as_lost(fleet: Fleet) -> None:
    go = fleet.folder / "go-anew"

    async def scenario() -> None:
        old = await host_of(fleet, "anew")
        running = await fleet.submit(fleet.judge.command(f"while [ ! -e {go} ]; do sleep 0.05; done"), old.name)
        await fleet.began(running, 1)
        old.end()
        shutil.rmtree(old.folder)
        refused = fleet.run("host", "add", "anew")
        assert refused.returncode != 0
        assert "revoke it first" in refused.stderr + refused.stdout
        assert fleet.run("host", "revoke", "anew", "--reason", "set up anew").returncode == 0
        new = await host_of(fleet, "anew")
        assert new.host_id != old.host_id
        task = await fleet.submit(fleet.judge.command("true"), "anew")
        views = await fleet.ended(running, task)
        assert [view.outcome for view in views] == ["lost", "success"]
        assert views[1].commands[0].host_id == new.host_id
        fleet.judge.agrees(views, lost_on=[old.host_id])

    asyncio.run(scenario())
