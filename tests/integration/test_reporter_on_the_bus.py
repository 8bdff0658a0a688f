"""The reporter on a real bus, with its own rights: it reads the log, answers, and loses nothing when it is killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from fleetlog_reporter.main import run
from fleetlog_runtime.pure.bus import Batch, Draft, NoAnswer
from fleetlog_runtime.pure.settings import Settings
from fleetlog_runtime.shell.clock import Clock
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_runtime.shell.service import open_context
from fleetlog_schemas import events, host_events, questions, reports, subjects, wire
from fleetlog_testing.homes import Enrolled, connected, connected_agent
from fleetlog_testing.nats import running_server
from fleetlog_testing.reporter_rig import LogBus
from fleetlog_testing.waiting import until

ANSWER_MS_MAX = 20_000


@contextlib.asynccontextmanager
async def reporter_of(home: Home) -> AsyncIterator[None]:
    """Run the reporter as the service does, in this loop."""
    stop = asyncio.Event()
    async with open_context("reporter", home, Settings(), stop) as context:
        running = asyncio.create_task(run(context))
        await until(lambda: context.health.ready.is_set() or running.done(), what="the reporter is ready")
        try:
            yield
        finally:
            stop.set()
            await running


async def ask(bus: NatsBus, question: str, **fields: Any) -> Any:
    body = await bus.request(subjects.ask("reporter", question), msgspec.json.encode(fields), ANSWER_MS_MAX)
    answer = msgspec.json.decode(questions.unpack_answer(body), type=questions.Answer)
    assert answer.problem is None, answer.problem
    return answer.data


class Log:
    """A story told by `LogBus`, appended to the real log by those who may."""

    def __init__(self, home: Home, stack: contextlib.AsyncExitStack) -> None:
        self.story = LogBus()
        self._home, self._stack = home, stack
        self._buses: dict[str, NatsBus] = {}
        self._sent = 0

    async def append(self) -> int:
        """Append what the story has told since the last time, batch by batch; return the last sequence."""
        last = 0
        drafts: list[Draft] = []
        for stored in list(self.story.store.streams["EVENTS"].messages.values())[self._sent :]:
            self._sent += 1
            drafts.append(Draft(subject=stored.subject, body=stored.body))
            if stored.batch_end:
                user = {"evt.request": "gateway", "evt.dispatch": "dispatcher", "evt.result": "result-recorder"}.get(
                    stored.subject, "gateway"
                )
                if user not in self._buses:
                    self._buses[user] = await self._stack.enter_async_context(connected(self._home, user))
                last = await self._buses[user].append(Batch(tuple(drafts), self.story.make_id()))
                drafts = []
        return last


@contextlib.asynccontextmanager
async def system(folder: Path) -> AsyncIterator[tuple[Home, Log, NatsBus]]:
    async with running_server(folder) as server, contextlib.AsyncExitStack() as stack:
        asker = await stack.enter_async_context(connected(server.home, "gateway"))
        log = Log(server.home, stack)
        # Task ids carry their time, and the fold refuses those that are far from the log's.
        log.story.now_ms = Clock().now_ms()
        yield server.home, log, asker


def test_every_question_is_answered_with_the_rights_that_the_reporter_has(tmp_path: Path) -> None:
    async def story() -> None:
        async with system(tmp_path) as (home, log, asker), reporter_of(home):
            host = Enrolled(home)
            log.story.add(host_events.HostEnrolled(host.host_id, "web01", {}, host.public_key))
            task_id = log.story.submitted()
            log.story.add(events.TasksPlanned((events.Plan(task_id, (events.PlannedHost(host.host_id, "web01"),), "hash"),)))
            log.story.add(events.AttemptsDispatched((events.Dispatch(task_id, host.host_id, 1, epoch=1),)))
            frame = _frame(log.story, task_id)
            async with connected_agent(home, host) as agent:
                first = await agent.append(Batch((Draft(subjects.output(host.host_id, 2), frame),), "f1"))
            log.story.add(events.AttemptsStarted((events.Start(task_id, host.host_id, 1, log.story.now_ms, 2, first),)))
            log.story.frozen()
            last = await log.append()
            now = {"at_least_seq": last}
            assert (await ask(asker, "tasks", **now))["items"][0]["task_id"] == task_id
            assert (await ask(asker, "task", task_id="last", **now))["state"] == "planned"
            assert (await ask(asker, "commands", task_id=task_id))["items"][0]["state"] == "running"
            assert (await ask(asker, "progress", task_id=task_id))["hosts"] == 1
            assert await ask(asker, "typical", task_id=task_id) == {"commands": 0, "p50_seconds": None, "p95_seconds": None}
            previous = await ask(asker, "previous", payload={"kind": "shell", "argv": ["true"]})
            assert (previous["task_id"], previous["hosts"]) == (task_id, ["web01"])
            assert (await ask(asker, "sql", query="select reason from freezes"))["rows"] == [["incident"]]
            assert len((await ask(asker, "events", task_id=task_id))["items"]) == 4
            assert (await ask(asker, "output", task_id=task_id, host="web01"))["chunks"][0]["text"] == "hello\n"
            assert (await ask(asker, "hosts"))["items"][0]["running"] == 1
            assert (await ask(asker, "host", name="web01"))["host_id"] == host.host_id
            assert (await ask(asker, "stats"))["items"] == []
            assert (await ask(asker, "sql", query="select state from tasks"))["rows"] == [["planned"]]
            assert (await ask(asker, "task", task_id=task_id, as_of_seq=2))["state"] == "submitted"
            verified = await ask(asker, "verify")
            assert (verified["equal"], verified["events"]) == (True, 6)

    asyncio.run(story())


def _frame(story: LogBus, task_id: str) -> bytes:
    return wire.encode(reports.Frame(task_id, 1, reports.Stream.STDOUT, 0, 1, story.now_ms, b"hello\n"))


def test_answers_follow_the_log_within_a_moment_and_batches_are_taken_whole(tmp_path: Path) -> None:
    async def story() -> None:
        async with system(tmp_path) as (home, log, asker), reporter_of(home):
            names = [f"web{number:04d}" for number in range(1500)]
            big = log.story.submitted()
            parts = [tuple(events.PlannedHost(f"h-{name}", name) for name in names[at : at + 500]) for at in (0, 500, 1000)]
            log.story.add(*(events.TasksPlanned((events.Plan(big, part, "hash", number, 3),)) for number, part in enumerate(parts)))
            last = await log.append()
            shown = await ask(asker, "task", task_id=big, at_least_seq=last)
            assert (shown["state"], len(shown["commands"])) == ("planned", 1500)
            for _ in range(20):
                log.story.whole("web0001")
                last = await log.append()
                task = await ask(asker, "task", task_id="last", at_least_seq=last)
                assert task["state"] == "ended"

    asyncio.run(story())


def test_a_killed_reporter_goes_on_exactly_where_its_file_stands(tmp_path: Path) -> None:
    async def story() -> None:
        async with system(tmp_path) as (home, log, asker):
            for number in range(6):
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "fleetlog_reporter", "--data", str(home.path), stderr=asyncio.subprocess.DEVNULL
                )
                still = log.story.planned("web01", "web02")
                for _ in range(5):
                    log.story.whole("web01")
                last = await log.append()
                await until(lambda: _answers(asker, last), what="the reporter has read the log")  # noqa: B023 - awaited here
                if number < 5:
                    process.send_signal(signal.SIGKILL)
                    await process.wait()
                    log.story.dispatched(still, "web01", "web02")
            # It hears its questions one after the other: the first may be answered before the last is heard.
            assert (await until(lambda: _verified(asker), what="the reporter verifies"))["equal"]
            counted = await ask(asker, "sql", query="select count(*), count(distinct seq), max(seq) from events")
            assert counted["rows"] == [[last, last, last]]
            assert (await ask(asker, "tasks", state="open"))["items"][0]["counts"] == {"waiting": 2}
            assert len((await ask(asker, "tasks", state="ended"))["items"]) == 30
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0

    asyncio.run(story())


async def _verified(asker: NatsBus) -> Any:
    try:
        return await ask(asker, "verify")
    except NoAnswer:
        return None


async def _answers(asker: NatsBus, seq: int) -> bool:
    try:
        await ask(asker, "tasks", at_least_seq=seq, limit=1)
    except (NoAnswer, AssertionError):
        return False
    return True


def test_a_second_reporter_on_the_same_home_stops_and_says_why(tmp_path: Path) -> None:
    async def story() -> None:
        async with system(tmp_path) as (home, log, asker):
            command = [sys.executable, "-m", "fleetlog_reporter", "--data", str(home.path)]
            first = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
            log.story.whole("web01")
            last = await log.append()
            await until(lambda: _answers(asker, last), what="the reporter has read the log")
            second = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env={**os.environ})
            _, said = await second.communicate()
            assert second.returncode == 1
            assert b"another reporter uses" in said
            assert b"Traceback" not in said
            first.send_signal(signal.SIGTERM)
            assert await first.wait() == 0

    asyncio.run(story())
