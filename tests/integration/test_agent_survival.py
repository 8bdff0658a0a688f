"""Agent, holder and bus are killed in every way: nothing runs twice, and every end is told as it was."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from fleetlog_agent.journal import read_journal
from fleetlog_schemas import pushes
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.reports import HeldState
from fleetlog_schemas.spec import Shell
from fleetlog_testing.agent_process import fleet, marked, sh
from fleetlog_testing.waiting import until


def test_a_command_survives_its_agent_and_its_exit_status_is_told_by_the_next_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            go, witness = tmp_path / "go", tmp_path / "witness"
            ends_later = f"echo one; echo ran >> {witness}; while [ ! -e {go} ]; do sleep 0.02; done; echo two; exit 7"
            task = await dispatcher.start(agent, sh(ends_later))
            await dispatcher.started(task)
            agent.kill()
            agent.start()
            await dispatcher.session(agent, 2)
            assert [(held.task_id, held.state) for held in dispatcher.opens[-1].held] == [(task, HeldState.RUNNING)]
            go.touch()
            end = await dispatcher.end_of(task)
            assert (end.outcome, end.exit_code) == (Outcome.FAILURE, 7)
            assert witness.read_text() == "ran\n"
            frames = {(frame.stream, frame.offset): frame for frame in await dispatcher.frames(agent, task)}
            assert b"".join(frames[key].data for key in sorted(frames)) == b"one\ntwo\n"

    asyncio.run(scenario())


def test_a_command_that_ended_while_no_agent_ran_is_reported_as_it_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            go = tmp_path / "go"
            task = await dispatcher.start(agent, sh(f"while [ ! -e {go} ]; do sleep 0.02; done; echo done; exit 5"))
            await dispatcher.started(task)
            agent.kill()
            go.touch()
            await until(lambda: not marked(agent.host_id, task))
            agent.start()
            end = await dispatcher.end_of(task)
            assert (end.outcome, end.exit_code, end.tail) == (Outcome.FAILURE, 5, "done\n")

    asyncio.run(scenario())


def test_an_agent_enforces_the_deadline_of_a_command_that_it_found_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            task = await dispatcher.start(agent, sh("sleep 600"), timeout_ms=1_500)
            await dispatcher.started(task)
            agent.kill()
            agent.start()
            assert (await dispatcher.end_of(task)).outcome == Outcome.TIMEOUT
            assert marked(agent.host_id, task) == []

    asyncio.run(scenario())


def test_when_the_holder_is_killed_its_commands_end_as_lost_and_new_ones_run(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            go = tmp_path / "go"
            task = await dispatcher.start(agent, sh(f"while [ ! -e {go} ]; do sleep 0.02; done"))
            await dispatcher.started(task)
            for pid in agent.holders():
                os.kill(pid, signal.SIGKILL)
            after = await dispatcher.start(agent, Shell(argv=("true",)))
            assert (await dispatcher.end_of(after)).outcome == Outcome.SUCCESS
            assert await dispatcher.items(type(await dispatcher.end_of(after)), task) == [], "it still runs"
            go.touch()
            end = await dispatcher.end_of(task)
            assert (end.outcome, end.ran) == (Outcome.LOST, Ran.UNKNOWN)
            assert "holder died" in end.error

    asyncio.run(scenario())


def test_agent_and_holder_killed_together_leave_a_command_that_can_still_be_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            task = await dispatcher.start(agent, sh("sleep 600"))
            gone = await dispatcher.start(agent, sh("sleep 601"))
            await dispatcher.started(task)
            await dispatcher.started(gone)
            agent.kill()
            for pid in agent.holders():
                os.kill(pid, signal.SIGKILL)
            for pid in marked(agent.host_id, gone):
                os.kill(pid, signal.SIGKILL)
            agent.start()
            await dispatcher.session(agent, 2)
            assert (await dispatcher.end_of(gone)).outcome == Outcome.LOST
            await dispatcher.cancel(agent, task)
            assert (await dispatcher.end_of(task)).outcome == Outcome.LOST
            assert marked(agent.host_id) == []

    asyncio.run(scenario())


def test_what_ran_under_a_dead_holder_is_told_although_the_next_agent_finds_another_holder(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            go = tmp_path / "go"
            ends = await dispatcher.start(agent, sh(f"while [ ! -e {go} ]; do sleep 0.02; done"))
            cancelled = await dispatcher.start(agent, sh("sleep 600"))
            for task in (ends, cancelled):
                await dispatcher.started(task)
            for pid in agent.holders():
                os.kill(pid, signal.SIGKILL)
            after = await dispatcher.start(agent, Shell(argv=("true",)))
            assert (await dispatcher.end_of(after)).outcome == Outcome.SUCCESS
            agent.kill()
            agent.start()
            await dispatcher.session(agent, 2)
            await dispatcher.cancel(agent, cancelled)
            go.touch()
            for task in (ends, cancelled):
                end = await dispatcher.end_of(task)
                assert (end.outcome, end.ran) == (Outcome.LOST, Ran.UNKNOWN)
            assert marked(agent.host_id) == []

    asyncio.run(scenario())


def test_a_goodbye_is_said_commands_go_on_and_the_end_waits_for_the_next_agent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            go = tmp_path / "go"
            task = await dispatcher.start(agent, sh(f"while [ ! -e {go} ]; do sleep 0.02; done"))
            await dispatcher.started(task)
            assert agent.kill(signal.SIGTERM) == 0
            await until(lambda: dispatcher.beats[-1].goodbye)
            assert marked(agent.host_id, task)
            agent.start()
            go.touch()
            assert (await dispatcher.end_of(task)).outcome == Outcome.SUCCESS

    asyncio.run(scenario())


def test_an_idle_host_that_stops_leaves_no_process(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            await dispatcher.end_of(await dispatcher.start(agent, Shell(argv=("true",))))
            assert agent.holders()
            assert agent.kill(signal.SIGTERM) == 0
            await until(lambda: not agent.holders())

    asyncio.run(scenario())


def test_what_is_forgotten_leaves_the_journal_and_the_disk(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            task = await dispatcher.start(agent, sh("echo words"))
            await dispatcher.end_of(task)
            await until(lambda: list((agent.folder / "out").iterdir()) == [], what="nothing of it is left on disk")
            await dispatcher.push(agent, pushes.ForgetPush, [pushes.NamedAttempt(task_id=task, attempt=1)])
            await until(lambda: read_journal(agent.folder / "journal")[0].entries == {})
            agent.kill(signal.SIGTERM)
            agent.start()
            await dispatcher.session(agent, 2)
            assert dispatcher.opens[-1].held == ()
            assert dispatcher.opens[-1].ticket

    asyncio.run(scenario())


def test_ps_shows_what_runs_and_who_asked_without_any_bus(tmp_path: Path) -> None:
    def ask(verb: str, *words: str) -> str:
        argv = [sys.executable, "-m", "fleetlog_agent.main", verb, "--data", str(tmp_path / "host0"), *words]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            await dispatcher.started(await dispatcher.start(agent, sh("sleep 600")))
            agent.kill()

    asyncio.run(scenario())
    # The helper has killed the command too: the journal still knows of it, and says that the process is gone.
    table = ask("ps")
    assert "ann" in table
    assert "sleep 600" in table
    assert "gone, not yet noticed" in table
    assert '"running": false' in ask("status", "-o", "json")


def test_a_stranger_at_the_holders_socket_costs_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fleet(tmp_path) as (dispatcher, (agent,)):
            go = tmp_path / "go"
            task = await dispatcher.start(agent, sh(f"while [ ! -e {go} ]; do sleep 0.02; done; exit 4"))
            await dispatcher.started(task)
            _, writer = await asyncio.open_unix_connection(str(agent.folder / "holder.sock"))
            writer.write(b'{"order": 1}\nnonsense\n[]\n')
            with contextlib.suppress(ConnectionError):
                await writer.drain()  # the holder may have hung up already
            await until(lambda: "connected to the holder anew" in agent.diagnostics())
            go.touch()
            assert (await dispatcher.end_of(task)).exit_code == 4
            writer.close()

    asyncio.run(scenario())
