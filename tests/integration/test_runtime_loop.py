"""The loop that drives an engine, on a real bus: reads back before it acts, one leader, snapshots, bad messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_runtime.pure.effects import Answer, Append, Effect, Request
from fleetlog_runtime.pure.settings import Settings, resolve
from fleetlog_runtime.shell import loop
from fleetlog_runtime.shell.clock import Clock, wall_ms
from fleetlog_runtime.shell.health import ask_health
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.leadership import Leadership
from fleetlog_runtime.shell.loop import EngineRunner
from fleetlog_runtime.shell.service import Context, Fatal, open_context
from fleetlog_schemas import codec, events, spec, subjects
from fleetlog_schemas.ids import new_id
from fleetlog_testing.homes import connected
from fleetlog_testing.nats import running_server
from fleetlog_testing.waiting import until

FAST = resolve(flags=["runtime.leader_ttl_ms=2000", "runtime.append_ms=1000"])
COUNT = "ask.dispatcher.count"


class State(msgspec.Struct):
    """Which tasks were asked for, and how often each was refused."""

    open: list[str] = []
    refused: dict[str, int] = {}


class Live(msgspec.Struct):
    """Questions not yet answered."""

    questions: list[Request] = []


class Refuser:
    """The smallest unit that decides: it refuses every task, once."""

    name = "dispatcher"
    subject = events.DISPATCH
    fences = ()
    passes_over = frozenset()
    state_type = State
    state_version = 1

    def __init__(self) -> None:
        self.folded = 0

    def initial(self) -> State:
        return State()

    def fold(self, state: State, event: codec.Event) -> object:
        self.folded += 1
        if isinstance(event.data, events.TasksSubmitted):
            state.open += [task.task_id for task in event.data.tasks]
        elif isinstance(event.data, events.TasksRefused):
            for refusal in event.data.refusals:
                state.refused[refusal.task_id] = state.refused.get(refusal.task_id, 0) + 1
                state.open = [one for one in state.open if one != refusal.task_id]
        return True

    def awaken(self, state: State, now_ms: int) -> Live:
        return Live()

    def observe(self, state: State, live: Live, observation: object, now_ms: int) -> None:
        match observation:
            case Request():
                live.questions.append(observation)
        done = getattr(observation, "effect", None)
        if isinstance(done, Answer):
            live.questions = [one for one in live.questions if one.reply != done.reply]

    def decide(self, state: State, live: Live, now_ms: int) -> list[Effect]:
        effects: list[Effect] = [Answer(one.reply, msgspec.json.encode(state.refused)) for one in live.questions]
        if state.open:
            refusals = tuple(events.Refusal(task_id=one, code="no", message="no") for one in state.open)
            effects.append(Append((events.TasksRefused(refusals=refusals),)))
        return effects


def submitted(count: int = 1) -> Draft:
    now_ms = Clock().now_ms()
    task = spec.TaskSpec(target="all", payload=spec.Shell(argv=("true",)))
    tasks = tuple(events.Submission(task_id=new_id(now_ms, os.urandom(10)), spec=task) for _ in range(count))
    event = codec.Event(
        id=new_id(now_ms, os.urandom(10)), source="/test", data=events.TasksSubmitted(tasks=tasks), time_ms=now_ms
    )
    return Draft(events.REQUEST, codec.encode(event))


class Running:
    """One runner in this process."""

    def __init__(self, context: Context, runner: EngineRunner[State, Live], task: asyncio.Task[None], unit: Refuser) -> None:
        self.context = context
        self.runner = runner
        self.task = task
        self.unit = unit


@contextlib.asynccontextmanager
async def running(home: Home, settings: Settings = FAST, **more: Any) -> AsyncIterator[Running]:
    stop = asyncio.Event()
    async with open_context("dispatcher", home, settings, stop) as context:
        unit = Refuser()
        runner = EngineRunner(context, unit, (COUNT,), more.pop("snapshot_events", 10_000))
        task = asyncio.create_task(runner.run())
        try:
            yield Running(context, runner, task, unit)
        finally:
            stop.set()
            with contextlib.suppress(Fatal, asyncio.CancelledError):
                await task


async def append(bus: Any, *drafts: Draft) -> None:
    for draft in drafts:
        await bus.append(Batch(drafts=(draft,), message_id=""))


async def refused(bus: Any) -> dict[str, int]:
    return dict(msgspec.json.decode(await bus.request(COUNT, b"", 3000)))


def test_every_task_is_decided_once_and_questions_are_answered_from_what_was_read_back(tmp_path):
    async def scenario():
        async with (
            running_server(tmp_path) as server, connected(server.home, "gateway") as gateway,
            running(server.home) as one,
        ):
            await asyncio.wait_for(one.context.health.ready.wait(), 5)
            for _ in range(20):
                await append(gateway, submitted(3))
            await until(lambda: all_refused(gateway))
            assert set((await refused(gateway)).values()) == {1}
            health = await ask_health(gateway, "dispatcher", 2000)
            assert (health.ready, health.leading, health.lag, health.parked) == (True, True, 0, 0)

    async def all_refused(gateway):
        return len(await refused(gateway)) == 60

    asyncio.run(scenario())


def test_of_two_instances_one_leads_and_the_other_takes_over_at_once_when_it_stops(tmp_path):
    async def scenario():
        async with (
            running_server(tmp_path) as server, connected(server.home, "gateway") as gateway,
            running(server.home) as first,
        ):
            await until(lambda: first.context.health.leading)
            async with running(server.home) as second:
                await asyncio.wait_for(second.context.health.ready.wait(), 5)
                assert not second.context.health.leading
                await append(gateway, submitted())
                await until(lambda: second.runner.engine.state.refused)
                first.context.stop.set()
                await until(lambda: second.context.health.leading, 3)
                await append(gateway, submitted())
                await until(lambda: len(second.runner.engine.state.refused) == 2)
                assert set(second.runner.engine.state.refused.values()) == {1}

    asyncio.run(scenario())


def test_a_leader_that_cannot_renew_stops_leading_before_its_time_is_over(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server, connected(server.home, "dispatcher") as bus:
            with capture_logs():
                leadership = Leadership(bus, "dispatcher", "a", Clock(), 2000, 10_000, _log())
                task = asyncio.create_task(leadership.run())
                await until(lambda: leadership.leading)
                await server.stop()
                began = asyncio.get_running_loop().time()
                await until(lambda: not leadership.leading, 3)
                assert asyncio.get_running_loop().time() - began < 2
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def test_leadership_that_was_not_given_back_is_taken_when_it_expires_with_a_higher_number(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server, connected(server.home, "dispatcher") as bus:
            held = Draft(subjects.leader("dispatcher"), b'{"instance":"killed"}', {"Nats-TTL": "2s"})
            seq = await bus.append(Batch(drafts=(held,), message_id=""))
            leadership = Leadership(bus, "dispatcher", "b", Clock(), 2000, 10_000, _log())
            task = asyncio.create_task(leadership.run())
            await asyncio.wait_for(leadership.known.wait(), 2)
            assert not leadership.leading
            await until(lambda: leadership.leading, 5)
            assert leadership.number > seq
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def test_a_machine_whose_clock_is_wrong_leads_as_soon_as_it_is_set(tmp_path):
    off_ms = [-60_000]
    clock = Clock(lambda: wall_ms() + off_ms[0])

    async def scenario():
        async with running_server(tmp_path) as server, connected(server.home, "dispatcher") as bus:
            with capture_logs() as logs:
                leadership = Leadership(bus, "dispatcher", "a", clock, 2000, 10_000, _log())
                task = asyncio.create_task(leadership.run())
                await until(lambda: any("clock is wrong" in line["event"] for line in logs))
                assert not leadership.leading
                assert clock.now_ms() < wall_ms() - 50_000
                off_ms[0] = 0
                await until(lambda: leadership.leading, 10)
                assert abs(clock.now_ms() - wall_ms()) < 10_000
                assert [line["event"] for line in logs if "was set" in line["event"]] == ["this machine's clock was set: going on by it"]
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def test_a_leader_goes_on_by_the_wall_clock_only_where_the_bus_goes_by_it_too(tmp_path):
    class Deviating(Clock):
        """One whose machine was set, and its bus, by as much as this one is behind."""

        behind_ms = 0

        def now_ms(self) -> int:
            return super().now_ms() - self.behind_ms

    off_ms = [0]
    clock = Deviating(lambda: wall_ms() + off_ms[0])

    async def scenario():
        async with running_server(tmp_path) as server, connected(server.home, "dispatcher") as bus:
            with capture_logs() as logs:
                leadership = Leadership(bus, "dispatcher", "a", clock, 2000, 10_000, _log())
                task = asyncio.create_task(leadership.run())
                await until(lambda: leadership.leading)
                first = last = leadership.number

                async def renewed() -> int:
                    return (await bus.get_last(subjects.LEADERS, subjects.leader("dispatcher"))).seq

                # Its own wall clock alone is set wrongly: it leads on, through renewals, by the time that it had.
                off_ms[0] = 3_600_000
                for _ in range(2):
                    while await renewed() <= last:
                        await asyncio.sleep(0.05)
                    last = await renewed()
                assert leadership.number == first
                assert abs(clock.now_ms() - wall_ms()) < 10_000
                off_ms[0] = 0
                clock.behind_ms = 3_600_000
                await until(lambda: leadership.leading and leadership.number > first, 10)
                assert abs(clock.now_ms() - wall_ms()) < 10_000
                assert [line["moved_ms"] // 1_000_000 for line in logs if "was set" in line["event"]] == [3]
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())


def test_a_restart_goes_on_from_the_snapshot_and_reads_only_the_rest(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server, connected(server.home, "gateway") as gateway:
            async with running(server.home, snapshot_events=10) as one:
                await append(gateway, *(submitted() for _ in range(30)))
                await until(lambda: len(one.runner.engine.state.refused) == 30)
                state = one.runner.engine.state
            await append(gateway, submitted())
            async with running(server.home) as again:
                await until(lambda: len(again.runner.engine.state.refused) == 31)
                # One submission and one refusal: everything before came from the snapshot.
                assert again.unit.folded == 2
                assert set(again.runner.engine.state.refused) > set(state.refused)

    asyncio.run(scenario())


@pytest.mark.parametrize(("bytes_per_event", "is_rare"), [(10**9, False), (1, True)])
def test_the_larger_the_state_is_the_more_events_lie_between_two_copies_of_it(tmp_path, monkeypatch, bytes_per_event, is_rare):
    monkeypatch.setattr(loop, "SNAPSHOT_BYTES_PER_EVENT", bytes_per_event)
    positions = []
    write = loop.snapshots.write

    def noted(path, snapshot, digest):
        positions.append(snapshot.position)
        write(path, snapshot, digest)

    monkeypatch.setattr(loop.snapshots, "write", noted)

    async def scenario():
        async with running_server(tmp_path) as server, connected(server.home, "gateway") as gateway:
            async with running(server.home, snapshot_events=1) as one:
                for number in range(1, 31):
                    await append(gateway, submitted())
                    await until(lambda: len(one.runner.engine.state.refused) == number)  # noqa: B023
            # The last one is taken at the end, whatever the size.
            assert (len(positions[:-1]) < 10) is is_rare, positions

    asyncio.run(scenario())


def test_a_snapshot_of_another_log_or_that_is_damaged_is_passed_over(tmp_path):
    async def scenario():
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        async with running_server(tmp_path / "a") as server, connected(server.home, "gateway") as gateway:
            async with running(server.home) as one:
                await append(gateway, submitted())
                await until(lambda: one.runner.engine.state.refused)
            snapshot = (server.home.path / "snapshots" / "dispatcher.snapshot").read_bytes()
        for foreign in (snapshot, snapshot[:-10], b"nothing of ours"):
            async with running_server(tmp_path / "b") as server, connected(server.home, "gateway") as gateway:
                (server.home.path / "snapshots" / "dispatcher.snapshot").write_bytes(foreign)
                await append(gateway, submitted(), submitted())
                async with running(server.home) as again:
                    last_seq = (await gateway.state("EVENTS")).last_seq
                    await until(lambda: again.runner.engine.position >= last_seq)  # noqa: B023
                    assert again.unit.folded >= last_seq

    asyncio.run(scenario())


def test_a_message_that_is_no_event_is_passed_over_with_an_alarm_and_counted(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server, connected(server.home, "gateway") as gateway:
            with capture_logs() as logs:
                async with running(server.home) as one:
                    await append(gateway, Draft("evt.request", b"{not json"), submitted())
                    await until(lambda: one.runner.engine.state.refused)
                    assert one.context.health.parked == 1
            assert [line["seq"] for line in logs if line.get("alarm")] == [1]

    asyncio.run(scenario())


def test_an_unknown_type_is_passed_over_and_one_that_asks_for_a_newer_reader_stops_the_service(tmp_path):
    def event(**more: object) -> Draft:
        body = {
            "specversion": "1.0", "id": "x", "source": "/future", "time": "2030-01-01T00:00:00Z", "data": {},
            "type": "fleetlog.future.happened.v1", **more,
        }
        return Draft("evt.request", json.dumps(body).encode())

    async def scenario():
        async with (
            running_server(tmp_path) as server, connected(server.home, "gateway") as gateway,
            running(server.home) as one,
        ):
            await append(gateway, event(), submitted())
            await until(lambda: one.runner.engine.state.refused)
            await append(gateway, event(minreader=99))
            with pytest.raises(Fatal, match="upgrade fleetlog"):
                await asyncio.wait_for(one.task, 5)

    asyncio.run(scenario())


def test_decisions_go_on_after_the_bus_was_killed_and_nothing_is_decided_twice(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server, connected(server.home, "gateway") as gateway:
            watching = asyncio.create_task(server.watch())
            async with running(server.home) as one:
                await until(lambda: one.context.health.leading)
                await append(gateway, *(submitted() for _ in range(5)))
                os.kill(server.pid, signal.SIGKILL)
                await until(lambda: not gateway.is_connected)
                await until(lambda: gateway.is_connected)
                await append(gateway, *(submitted() for _ in range(5)))
                await until(lambda: len(one.runner.engine.state.refused) == 10, 15)
                assert set(one.runner.engine.state.refused.values()) == {1}
            watching.cancel()

    asyncio.run(scenario())


def _log() -> Any:
    return structlog.get_logger()
