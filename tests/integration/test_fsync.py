"""On disk before it is said: seen in the system calls of the real nats-server and of the real agent."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_runtime.shell import nats_config
from fleetlog_schemas.spec import Shell
from fleetlog_testing.fleet import END_S_MAX, Fleet
from fleetlog_testing.homes import connected
from fleetlog_testing.nats import running_server
from fleetlog_testing.syscalls import FLUSHES, Call, calls, traced
from fleetlog_testing.waiting import until

APPENDS = 20
_ACKNOWLEDGED = re.compile(r'\\"stream\\":\\"EVENTS\\",\\"seq\\":(\d+)')
_LOG_FILE = "/streams/EVENTS/msgs/"


def acknowledged(found: list[Call]) -> tuple[list[int], list[int]]:
    """Return the sequences that were acknowledged, and those of them before what was written had been flushed."""
    written_not_flushed = False
    said, early = [], []
    for call in found:
        if _LOG_FILE in call.text and call.name in ("write", "pwrite64", "writev"):
            written_not_flushed = True
        elif _LOG_FILE in call.text and call.name in FLUSHES:
            written_not_flushed = False
        elif match := _ACKNOWLEDGED.search(call.text):
            said.append(int(match[1]))
            if written_not_flushed:
                early.append(int(match[1]))
    return said, early


def trace_of_appends(folder: Path) -> tuple[list[int], list[int]]:
    """Append messages one by one and in a batch, and return what `acknowledged` says of the server's calls."""
    async def scenario() -> None:
        async with running_server(folder) as server, connected(server.home, "dispatcher") as bus:
            with traced(server.pid, folder / "trace"):
                for number in range(APPENDS):
                    await bus.append(Batch(drafts=(Draft("evt.dispatch", b"one %d" % number),), message_id=""))
                await bus.append(Batch(drafts=tuple(Draft("evt.dispatch", b"%d" % n) for n in range(10)), message_id="all"))

    asyncio.run(scenario())
    return acknowledged(calls(folder / "trace"))


def test_the_bus_acknowledges_only_what_was_flushed_to_disk(tmp_path: Path) -> None:
    said, early = trace_of_appends(tmp_path)
    assert said == [*range(1, APPENDS + 1), APPENDS + 10]
    assert early == []


def test_the_same_look_at_a_bus_that_flushes_later_finds_that_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = nats_config.server_config
    monkeypatch.setattr(
        "fleetlog_runtime.shell.supervisor.server_config",
        lambda *args, **fields: usual(*args, **fields).replace("sync_interval: always", 'sync_interval: "2m"'),
    )
    said, early = trace_of_appends(tmp_path)
    assert len(said) == APPENDS + 1
    assert early != []


def test_an_agent_starts_a_process_only_after_the_attempt_is_on_its_disk(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    try:
        asyncio.run(one_command(fleet, tmp_path / "trace"))
    finally:
        fleet.close()
    journal, task_id = str(tmp_path / "web01" / "journal"), (tmp_path / "task").read_text()
    found = calls(tmp_path / "trace")
    begun = next(n for n, call in enumerate(found) if call.name == "execve" and "a command of its own" in call.text)
    written = next(n for n, call in enumerate(found) if call.name == "write" and journal in call.text and task_id in call.text)
    flushed = next(n for n, call in enumerate(found) if n > written and call.name in FLUSHES and journal in call.text)
    assert written < flushed < begun


async def one_command(fleet: Fleet, trace: Path) -> None:
    await fleet.start("web01")
    process = fleet.hosts["web01"].process
    assert process is not None
    with traced(process.pid, trace):
        task_id = await fleet.submit(Shell(argv=("/bin/sh", "-c", "exit 0 # a command of its own")))
        (fleet.folder / "task").write_text(task_id)
        await until(lambda: fleet.client.show(task_id).state == "ended", END_S_MAX, "the command ended", 0.1)
