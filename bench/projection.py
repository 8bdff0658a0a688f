"""How fast a reporter takes in the log: a history of its own making, folded by the real reporter process.

Rebuild: the history is there before the reporter starts. Live: it is appended while the reporter follows. Both count
attempts until an answer reflects the last event, with the start of an empty reporter measured apart and subtracted.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench.figures import Figure
from bench.machine import bare_bus
from bench.system import BenchError
from fleetlog_runtime.pure.bus import Batch, Draft, NoAnswer
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas import codec, events, subjects
from fleetlog_schemas.ids import new_id
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.questions import Answer, TasksQuestion
from fleetlog_schemas.spec import Shell, TaskSpec

HOSTS = 500
"""Commands of one task: a plural event carries as many."""
ANSWER_SECONDS_MAX = 300.0
ASK_MS_MAX = 5_000
RETRY_SECONDS = 0.05
SPEC = TaskSpec(payload=Shell(argv=("true",)), target="all")


def stored(data: events.Data, now_ms: int, subject: str) -> Draft:
    event = codec.Event(id=new_id(now_ms, os.urandom(10)), source="/fleetlog/bench/1", data=data, time_ms=now_ms)
    return Draft(subject=subject, body=codec.encode(event))


def one_task(now_ms: int, hosts_count: int = HOSTS) -> Batch:
    """Return a whole task on so many hosts (at most HOSTS: one event for each step), as it stands in the log."""
    task_id = new_id(now_ms, os.urandom(10))
    hosts = [f"h{number:04d}" for number in range(hosts_count)]
    keys = [{"task_id": task_id, "host_id": host_id, "attempt": 1} for host_id in hosts]
    planned = tuple(events.PlannedHost(host_id, host_id) for host_id in hosts)
    ends = tuple(
        events.End(**key, outcome=Outcome.SUCCESS, ran=Ran.YES, exit_code=0, started_ms=now_ms, ended_ms=now_ms + 9, duration_ms=9)  # type: ignore[arg-type]
        for key in keys
    )
    story: list[tuple[events.Data, str]] = [
        (events.TasksSubmitted((events.Submission(task_id, SPEC),)), events.REQUEST),
        (events.TasksPlanned((events.Plan(task_id, planned, "bench"),)), events.DISPATCH),
        (events.AttemptsDispatched(tuple(events.Dispatch(**key, epoch=1) for key in keys)), events.DISPATCH),  # type: ignore[arg-type]
        (events.AttemptsEnded(ends), events.RESULT),
        (events.TasksEnded((events.TaskEnd(task_id, Outcome.SUCCESS, {Outcome.SUCCESS: hosts_count}),)), events.DISPATCH),
    ]
    drafts = tuple(stored(data, now_ms, subject) for data, subject in story)
    return Batch(drafts=drafts, message_id=task_id)


async def _append(bus: NatsBus, tasks: int) -> int:
    last = 0
    for _ in range(tasks):
        last = await bus.append(one_task(int(time.time() * 1000)))
    return last


async def _until_reflected(bus: NatsBus, seq: int, process: subprocess.Popen[bytes]) -> None:
    question = msgspec.json.encode(TasksQuestion(at_least_seq=seq, limit=1))
    deadline = time.perf_counter() + ANSWER_SECONDS_MAX
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise BenchError(f"the reporter ended with {process.returncode}")
        try:
            body = await bus.request(subjects.ask("reporter", "tasks"), question, ASK_MS_MAX)
        except NoAnswer:
            await asyncio.sleep(RETRY_SECONDS)
            continue
        answer = msgspec.json.decode(body, type=Answer)
        if answer.problem is None and answer.seq >= seq:
            return
        await asyncio.sleep(RETRY_SECONDS)
    raise BenchError(f"the reporter did not reflect sequence {seq} within {ANSWER_SECONDS_MAX:g} s")


def _reporter(home: Home) -> subprocess.Popen[bytes]:
    with (home.path / "reporter.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fleetlog_reporter", "--data", str(home.path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


async def _start_seconds(home: Home, bus: NatsBus, seq: int) -> tuple[subprocess.Popen[bytes], float]:
    began = time.perf_counter()
    process = _reporter(home)
    await _until_reflected(bus, seq, process)
    return process, time.perf_counter() - began


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait()


async def _measure(attempts: int, rounds: int) -> list[Figure]:
    live, rebuild = [], []
    tasks = max(1, attempts // HOSTS)
    with tempfile.TemporaryDirectory(prefix="fleetlog-bench-") as folder:
        async with bare_bus(Path(folder) / "home") as (home, bus):
            process, empty_seconds = await _start_seconds(home, bus, await _append(bus, 1))
            total = HOSTS
            for _ in range(rounds):
                began = time.perf_counter()
                await _until_reflected(bus, await _append(bus, tasks), process)
                live.append(tasks * HOSTS / (time.perf_counter() - began))
                total += tasks * HOSTS
            last = (await bus.state(subjects.EVENTS)).last_seq
            for _ in range(rounds):
                _end(process)
                for path in (home.path / "reporter").iterdir():
                    path.unlink()
                process, seconds = await _start_seconds(home, bus, last)
                rebuild.append(total / max(0.001, seconds - empty_seconds))
            _end(process)
    return [
        Figure("projection, live", "attempts/s", tuple(live), note="appending included"),
        Figure("projection, rebuild", "attempts/s", tuple(rebuild), note=f"{total:,} attempts, start subtracted"),
    ]


def projection(attempts: int, rounds: int) -> list[Figure]:
    """Measure both rates with *attempts* attempts in each live round."""
    return asyncio.run(_measure(attempts, rounds))
