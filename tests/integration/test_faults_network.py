"""Hosts on bad lines: slow, narrow and lossy ones, ones that come and go, and ones that are gone for long."""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fleetlog_schemas.spec import Script, Shell
from fleetlog_testing.agent_process import marked
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Fleet, Host
from fleetlog_testing.proxy import Line, Proxy, bad_line
from fleetlog_testing.waiting import until

OFTEN = "agent.heartbeat_ms=500"
SHORT = ("--set", "dispatcher.suspect_ms=1500", "--set", "dispatcher.offline_ms=3000")
"""So that silence is noticed while a test waits: a host is heard twice a second here."""
SLOW = Line(delay_s=0.2, loss=0.01, bytes_per_s=10_000)
LINES = 700


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = Fleet(tmp_path_factory.mktemp("network"), *SHORT)
    try:
        asyncio.run(running.start("bystander"))
        yield running
    finally:
        running.close()


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Fleet]:
    """A fleet with the usual patience: on a narrow line, a heartbeat waits behind output for seconds."""
    running = Fleet(tmp_path)
    try:
        asyncio.run(running.start("quick"))
        yield running
    finally:
        running.close()


@pytest.fixture
def lines() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def behind(fleet: Fleet, name: str, lines: ExitStack, line: Line = Line()) -> tuple[Host, Proxy]:  # noqa: B008 - frozen
    """Start a host that reaches the bus by a bad line."""
    port = urllib.parse.urlsplit(fleet.home.nats_url()).port
    assert port is not None
    proxy = lines.enter_context(bad_line(port, line))
    host = fleet.join(name)
    host.reach_by(proxy.port)
    host.start(OFTEN)
    return host, proxy


def test_over_a_slow_narrow_lossy_line_everything_gets_through_once(patient: Fleet, lines: ExitStack) -> None:
    fleet = patient
    host, proxy = behind(fleet, "slow", lines, SLOW)

    async def scenario() -> None:
        await fleet.online(host.name)
        script = fleet.client.put_blob(b"#!/bin/sh\n# " + b"x" * 20_000 + b"\necho from the script\n", "s.sh")
        plain = [await fleet.submit(fleet.judge.command("sleep 0.1"), host.name) for _ in range(4)]
        written = await fleet.submit(Shell(argv=("seq", "-f", "%099.0f", "1", str(LINES))), host.name)
        scripted = await fleet.submit(Script(content=script), host.name)  # type: ignore[arg-type]
        cancelled = await fleet.submit(fleet.judge.command("sleep 600"), host.name)
        # Nobody else waits for the slow one.
        quick = await fleet.ended(await fleet.submit(fleet.judge.command("true"), "quick"))
        await fleet.began(cancelled, 1)
        assert fleet.run("cancel", cancelled, "--reason", "a test").returncode == 0
        views = await fleet.ended(*plain, written, scripted, cancelled)
        assert [view.outcome for view in views] == ["success"] * 6 + ["cancelled"]
        fleet.judge.agrees([*quick, *views[:4]])
        numbers = [int(line) for line in fleet.run("output", written, "--raw").stdout.split()]
        assert numbers == list(range(1, LINES + 1))
        assert "from the script" in fleet.run("output", scripted).stdout
        assert proxy.connections <= 2, "a slow line is no broken one"
        assert fleet.shown(host.name)["refusals"] == []

    asyncio.run(scenario())


def test_a_host_that_comes_and_goes_every_second_works_and_runs_nothing_twice(fleet: Fleet, lines: ExitStack) -> None:
    host, proxy = behind(fleet, "flapping", lines)

    async def scenario() -> None:
        await fleet.online(host.name)
        tasks: list[str] = []
        for _ in range(8):
            tasks.append(await fleet.submit(fleet.judge.command("sleep 0.7"), f"{host.name} or bystander"))
            proxy.cut()
            await asyncio.sleep(0.5)
            proxy.mend()
            await asyncio.sleep(0.5)
        assert proxy.connections >= 4, "it did come and go"
        views = await fleet.ended(*tasks)
        assert {view.outcome for view in views} == {"success"}
        fleet.judge.agrees(views)
        shown = fleet.shown(host.name)
        assert (shown["presence"], shown["refusals"]) == ("online", [])

    asyncio.run(scenario())


def test_what_waited_too_long_for_an_absent_host_never_runs_and_what_ran_meanwhile_is_told(
    fleet: Fleet, lines: ExitStack
) -> None:
    host, proxy = behind(fleet, "away", lines)
    go = fleet.folder / "go-away"

    async def scenario() -> None:
        await fleet.online(host.name)
        ends_meanwhile = await fleet.submit(fleet.judge.command(f"while [ ! -e {go} ]; do sleep 0.05; done"), host.name)
        out_of_time = await fleet.submit(fleet.judge.command("sleep 600"), host.name, timeout_ms=4_000)
        await fleet.began(ends_meanwhile, 1)
        await fleet.began(out_of_time, 1)
        proxy.cut()
        await fleet.has(host.name, "offline")
        at_once = await fleet.submit(fleet.judge.command("true"), host.name, wait_offline_ms=0)
        a_while = await fleet.submit(fleet.judge.command("true"), host.name, wait_offline_ms=1_000)
        longer = await fleet.submit(fleet.judge.command("true"), host.name, wait_offline_ms=600_000)
        unreached = await fleet.ended(at_once, a_while)
        assert {view.outcome for view in unreached} == {"unreached"}
        go.touch()
        await until(lambda: not marked(host.host_id), END_S_MAX, "both commands are over, one by its deadline", LOOK_S)
        proxy.mend()
        meanwhile = await fleet.ended(ends_meanwhile, out_of_time, longer)
        assert [view.outcome for view in meanwhile] == ["success", "timeout", "success"]
        fleet.judge.agrees([*unreached, meanwhile[0], meanwhile[2]])
        assert fleet.judge.began(at_once) == fleet.judge.began(a_while) == 0
        fleet.verify_projection()

    asyncio.run(scenario())
