"""Many agents in one process: `python -m bench.crowd --data DIR --count 1000`. Real joins, sessions, pushes and reports.

Each speaks the whole protocol on a connection, key and JWT of its own, and checks every signature. Left out are the
journal and the process (an attempt ends with success at once), and what an agent measures of its machine. A heartbeat
goes out every 10 s, spread evenly. Prints `ready` when
every session stands; then obeys lines on its input: `mute NUMBER` (this one says nothing more, as a machine that
stopped), `goodbye NUMBER`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fleetlog.client import Client
from fleetlog.http import Gateway
from fleetlog_runtime.pure.bus import NoAnswer
from fleetlog_runtime.pure.signing import verify
from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas import pushes, reports, subjects, wire
from fleetlog_schemas.ids import new_id
from fleetlog_schemas.outcomes import Outcome, Ran

HEARTBEAT_SECONDS = 10.0
TICK_SECONDS = 0.05
"""Heartbeats due within so long go out together: a timer for each would measure timers."""
ASK_MS_MAX = 5_000
SESSION_TRIES_MAX = 20
CONNECTING_AT_ONCE = 50
JOINING_AT_ONCE = 4
IDLE = reports.Load(cpu_ratio=0.0, memory_ratio=0.0, disk_ratio=0.0, load_1m=0.0)
PREFIX = "sim"


class CrowdError(Exception):
    """The crowd does not stand."""


class OneAgent:
    """One host of the crowd."""

    def __init__(self, host_id: str, trusted: dict[str, str], bus: NatsBus) -> None:
        self.host_id, self.trusted, self.bus = host_id, trusted, bus
        self.counter = 0
        self.newest_seq = 0
        self.epoch = 0
        self.muted = False
        self.held: dict[tuple[str, int], reports.HeldState] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Open a session and send the first heartbeat."""
        request = reports.OpenSession(
            nonce=os.urandom(8).hex(), ticket="", boot_id="crowd", version="bench", counter=0, held=()
        )
        for _ in range(SESSION_TRIES_MAX):
            try:
                body = await self.bus.request(subjects.session(self.host_id), wire.encode(request), ASK_MS_MAX)
            except NoAnswer:
                await asyncio.sleep(random.uniform(0.2, 1.0))
                continue
            signed: pushes.Signed = wire.decode(body, pushes.Signed)
            answer: pushes.SessionAnswer = wire.decode(verify(signed, self.trusted), pushes.SessionAnswer)
            if isinstance(answer, pushes.SessionGranted):
                self.epoch, self.newest_seq = answer.epoch, answer.seq
                await self.beat()
                return
            await asyncio.sleep(1.0)
        raise CrowdError(f"{self.host_id} got no session")

    async def beat(self, *, goodbye: bool = False) -> None:
        """Send one heartbeat."""
        if self.muted:
            return
        held = tuple(reports.Held(task_id, attempt, state) for (task_id, attempt), state in self.held.items())
        beat = reports.Heartbeat(self.epoch, "crowd", self.counter, self.newest_seq, IDLE, held, goodbye=goodbye)
        await self.bus.publish(subjects.heartbeat(self.host_id), wire.encode(beat))

    async def heard(self, _subject: str, body: bytes, _reply: str) -> None:
        """Obey one push."""
        signed: pushes.Signed = wire.decode(body, pushes.Signed)
        push: pushes.Push = wire.decode(verify(signed, self.trusted), pushes.Push)
        if push.epoch != self.epoch or push.seq < self.newest_seq:
            return
        self.newest_seq = push.seq
        if isinstance(push, pushes.ForgetPush):
            for one in push.attempts:
                self.held.pop((one.task_id, one.attempt), None)
        elif isinstance(push, pushes.StartPush):
            fresh = [one for one in push.attempts if (one.task_id, one.attempt) not in self.held]
            self.held.update(dict.fromkeys(((one.task_id, one.attempt) for one in fresh), reports.HeldState.ENDED))
            if fresh:
                task = asyncio.create_task(self._report(fresh))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _report(self, attempts: list[pushes.StartAttempt]) -> None:
        self.counter += 1
        now_ms = int(time.time() * 1000)
        items = tuple(
            reports.ReportEnded(
                task_id=one.task_id, attempt=one.attempt, token=one.token, token_key_id=one.token_key_id,
                outcome=Outcome.SUCCESS, ran=Ran.YES, exit_code=0, started_ms=now_ms, ended_ms=now_ms, duration_ms=0,
            )
            for one in attempts
        )
        report = reports.Report(new_id(now_ms, os.urandom(10)), self.epoch, self.counter, items)
        while True:
            try:
                await self.bus.request(subjects.report(self.host_id), wire.encode(report), ASK_MS_MAX)
            except NoAnswer:
                continue  # the same bytes again, as an agent does
            return


_here = threading.local()


def _client_of_its_own(client: Client) -> None:
    _here.gateway = client.gateway.again()


def _enrol_here(number: int) -> tuple[str, dict[str, str], list[str], str, bytes]:
    return enrol(_here.gateway, number)


def enrol(gateway: Gateway, number: int) -> tuple[str, dict[str, str], list[str], str, bytes]:
    """Join one host and return its id, trusted keys, bus addresses and credentials."""
    seed = nats_auth.new_seed("user")
    invited = gateway.post("/hosts", {"name": f"{PREFIX}{number:05d}", "labels": {"bench": PREFIX}})
    joined = gateway.post("/join", {"token": invited["token"], "public_key": nats_auth.public_key(seed), "boot_id": "crowd"})
    return joined["host_id"], joined["signing_keys"], joined["nats_urls"], joined["user_jwt"], seed


async def run(folder: Path, count: int, first: int) -> None:
    """Join, connect and open *count* agents, numbered from *first*; say `ready`, and obey until killed."""
    client = Client((folder / "gateway" / "url").read_text().strip(), (folder / "gateway" / "token").read_text().strip())
    with ThreadPoolExecutor(JOINING_AT_ONCE, initializer=_client_of_its_own, initargs=(client,)) as pool:
        joined = list(pool.map(_enrol_here, range(first, first + count)))
    gate = asyncio.Semaphore(CONNECTING_AT_ONCE)
    agents: list[OneAgent] = []
    by_number: dict[int, OneAgent] = {}

    async def one(number: int, host_id: str, trusted: dict[str, str], urls: list[str], jwt: str, seed: bytes) -> None:
        async with gate:
            bus = await NatsBus.connect(urls, (jwt, seed), host_id, inbox_prefix=f"_INBOX_{host_id}")
            agent = OneAgent(host_id, trusted, bus)
            await bus.subscribe(subjects.push(host_id), agent.heard)
            await agent.open()
            agents.append(agent)
            by_number[number] = agent

    beating = asyncio.create_task(_beat_for_ever(agents))
    await asyncio.gather(*(one(number, *each) for number, each in enumerate(joined, first)))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.gather(beating, _obey(by_number))


async def _beat_for_ever(agents: list[OneAgent]) -> None:
    """Let each agent send a heartbeat in its turn; the turns are spread over the time between two."""
    turns = round(HEARTBEAT_SECONDS / TICK_SECONDS)
    began, turn = time.monotonic(), 0
    while True:
        for agent in agents[turn % turns :: turns]:
            await agent.beat()
        turn += 1
        await asyncio.sleep(max(0.0, began + turn * TICK_SECONDS - time.monotonic()))


async def _obey(by_number: dict[int, OneAgent]) -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        word, _, number = line.decode().strip().partition(" ")
        agent = by_number[int(number)]
        if word == "goodbye":
            await agent.beat(goodbye=True)
        agent.muted = True


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m bench.crowd")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first, for a crowd of several processes")
    arguments = parser.parse_args()
    asyncio.run(run(arguments.data, arguments.count, arguments.first))


if __name__ == "__main__":
    main()
