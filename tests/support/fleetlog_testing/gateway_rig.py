"""A gateway on a real bus, with small stand-ins that answer the questions of reporter and dispatcher.

The stand-ins keep the contract of `questions.py`: they fold the log with the shared lifecycle and answer from that,
so what a test sees is what the log says.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import structlog

from fleetlog_gateway import touches
from fleetlog_gateway.assembly import OWNER, Options, build, running
from fleetlog_gateway.gateway import Gateway
from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.health import Health
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas import (
    codec,
    events,
    host_events,
    hosts,
    ids,
    lifecycle,
    questions,
    records,
    subjects,
    view,
)
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Shell, TaskSpec
from fleetlog_testing.waiting import until

DEADLINE_SECONDS = 10.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def spec(**fields: Any) -> TaskSpec:
    return TaskSpec(**{"payload": Shell(argv=("true",)), "target": "web*", **fields})


def spec_json(**fields: Any) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(spec(**fields))
    return made


class Reporter:
    """Folds the log and answers what the gateway asks."""

    def __init__(self, bus: NatsBus) -> None:
        self.bus = bus
        self.tasks = records.Tasks()
        self.ended: dict[str, records.Task] = {}
        self.hosts = hosts.Hosts()
        self.position = 0
        self.stored: list[tuple[codec.Event, bytes]] = []
        self.previous: questions.Previous | None = None
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._stop: Callable[[], Awaitable[None]] | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._reading = asyncio.create_task(self._read())
        self._stop = await self.bus.subscribe(subjects.ask("reporter", "*"), self._heard)

    async def stop(self) -> None:
        assert self._stop is not None
        assert self._reading is not None
        await self._stop()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        async for chunk in self.bus.read(subjects.EVENTS, 1):
            for stored in chunk:
                try:
                    event = codec.decode(
                        stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms
                    )
                except (codec.Malformed, codec.TooNew):
                    self.position = stored.seq
                    continue
                for change in lifecycle.apply(self.tasks, event):
                    self.ended[change.task.task_id] = change.task
                hosts.apply(self.hosts, event)
                self.stored.append((event, stored.body))
                self.position = stored.seq

    async def _heard(self, subject: str, body: bytes, reply: str) -> None:
        name, question = subject.rsplit(".", 1)[1], msgspec.json.decode(body or b"{}")
        if name == "health":
            health = Health("reporter", "test")
            health.ready.set()
            await self.bus.publish(reply, msgspec.json.encode(health.answer()))
            return
        self.asked.append((name, question))
        try:
            await until(lambda: self.position >= question.get("at_least_seq", 0), 2.0)
            answer = questions.Answer(seq=self.position, data=self._answer(name, question))
        except AssertionError:
            answer = self._problem(504, "behind", "the reporter is behind")
        except LookupError as error:
            answer = self._problem(404, "task-not-found", f"no such task: {error}")
        await self.bus.publish(reply, questions.pack_answer(msgspec.json.encode(answer)))

    def _problem(self, status: int, code: str, message: str) -> questions.Answer:
        return questions.Answer(
            seq=self.position, problem=questions.Problem(status=status, code=code, message=message)
        )

    def _task(self, identifier: str) -> records.Task:
        for task_id in reversed(self.ended):
            if identifier == "last" or task_id.endswith(identifier):
                return self.ended[task_id]
        raise LookupError(identifier)

    def _answer(self, name: str, question: dict[str, Any]) -> Any:
        if name == "task":
            return view.task_view(self._task(question["task_id"]))
        if name == "progress":
            task = self._task(question["task_id"])
            return {"task_id": task.task_id, "state": task.state, "outcome": task.outcome}
        if name == "commands":
            found = view.task_view(self._task(question["task_id"])).commands
            start = int(question.get("cursor") or 0)
            part = found[start : start + question["limit"]]
            more = start + len(part) < len(found)
            return questions.Page(items=list(part), next_cursor=str(start + len(part)) if more else None)
        if name == "events" and question.get("type"):
            return questions.Page(items=[self._stored(event, body) for event, body in self.stored if self._meant(event, question)])
        if name == "typical":
            return questions.Typical(commands=3, p50_seconds=1.5, p95_seconds=3.1)
        if name == "previous":
            return self.previous
        return questions.Page(items=[{"asked": question}])

    def _meant(self, event: codec.Event, question: dict[str, Any]) -> bool:
        is_type = events.NAMES[type(event.data)] == question["type"]
        return is_type and question["task_id"] in touches.task_ids(event.data)

    def _stored(self, event: codec.Event, body: bytes) -> questions.StoredEvent:
        return questions.StoredEvent(
            seq=event.seq, subject=event.subject, stored_at=codec.rfc3339(event.time_ms), event=msgspec.Raw(body)
        )


class Rig:
    """One running gateway and a client that holds its token."""

    def __init__(self, gateway: Gateway, url: str, home: Home) -> None:
        self.gateway, self.url, self.home = gateway, url, home
        self.token = home.gateway_token()

    @property
    def authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def call(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, raw: bytes | None = None
    ) -> tuple[int, Any, Any]:
        """Return status, decoded JSON (or text) and headers of one request."""
        given = {**self.authorization, **(headers or {})}
        data = raw if raw is not None else None if body is None else msgspec.json.encode(body)
        if data is not None and "Content-Type" not in given:
            given["Content-Type"] = "application/json"
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, data=data, headers=given) as response,
        ):
            text = await response.read()
            try:
                return response.status, msgspec.json.decode(text), response.headers
            except msgspec.DecodeError:
                return response.status, text.decode(), response.headers

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        status, body, _ = await self.call("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        return status, body

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        status, answer, _ = await self.call(
            "POST", path, body, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        return status, answer

    def stream(self, path: str, last_event_id: int | None = None) -> Sse:
        return Sse(self.url + path, self.authorization, last_event_id)


class Sse:
    """A client of a live stream."""

    def __init__(self, url: str, headers: dict[str, str], last_event_id: int | None) -> None:
        self.url = url
        self.headers = {**headers, "Accept": "text/event-stream"}
        if last_event_id is not None:
            self.headers["Last-Event-ID"] = str(last_event_id)
        self.comments = 0

    async def __aenter__(self) -> Sse:
        self.session = aiohttp.ClientSession(read_bufsize=2**22)
        self.response = await self.session.get(self.url, headers=self.headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.response.close()
        await self.session.close()

    async def next(self, seconds: float = DEADLINE_SECONDS) -> dict[str, str]:
        """Return the fields of the next event. Raises TimeoutError, or StopAsyncIteration at the end."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(seconds):
            while True:
                line = await self.response.content.readline()
                if not line:
                    raise StopAsyncIteration
                text = line.decode().rstrip("\n")
                if not text and "data" in fields:
                    return fields
                if text.startswith(":"):
                    self.comments += 1
                elif text:
                    name, _, value = text.partition(": ")
                    fields[name] = value

    async def take(self, count: int) -> list[int]:
        """Return the ids of the next *count* events."""
        return [int((await self.next())["id"]) for _ in range(count)]


@asynccontextmanager
async def gateway_on(home: Home, options: Options | None = None) -> AsyncIterator[Rig]:
    """Run a gateway on the bus of *home*."""
    options = options or Options(port=0)
    bus = await connect(home, "gateway")
    try:
        gateway = await build(bus, home, now_ms, structlog.get_logger("gateway"), options, Health("gateway", "test"))
        async with running(gateway, options) as url:
            yield Rig(gateway, url, home)
    finally:
        await bus.close()


@asynccontextmanager
async def reporter_on(home: Home) -> AsyncIterator[Reporter]:
    """Run a stand-in for the reporter."""
    bus = await connect(home, "reporter")
    reporter = Reporter(bus)
    await reporter.start()
    try:
        yield reporter
    finally:
        await reporter.stop()
        await bus.close()


async def connect(home: Home, user: str) -> NatsBus:
    return await NatsBus.connect(
        home.nats_url(), home.creds_path(user), user, inbox_prefix=f"_INBOX_{user}", tls_ca=home.tls_ca()
    )


async def append_as_dispatcher(bus: NatsBus, *data: events.Data) -> int:
    """Store events as the dispatcher does, without its fence."""
    drafts = tuple(
        Draft(
            subject=events.DISPATCH,
            body=codec.encode(codec.Event(id=f"test-{time.time_ns()}-{index}", source="/test", data=one, time_ms=now_ms())),
        )
        for index, one in enumerate(data)
    )
    return await bus.append(Batch(drafts=drafts, message_id=f"test-{time.time_ns()}"))


async def dispatched(rig: Rig, *data: events.Data) -> int:
    """Store events as the dispatcher does; what is asked through the gateway from now on reflects them."""
    bus = await connect(rig.home, "dispatcher")
    rig.gateway.appender.appended_seq = seq = await append_as_dispatcher(bus, *data)
    await bus.close()
    return seq


_made = iter(range(1, 1_000_000))


def new_key(offset_ms: int = 0) -> str:
    return ids.new_id(now_ms() + offset_ms, next(_made).to_bytes(10, "big"))


def is_problem(answer: Any, status: int, code: str, pointer: str | None = None) -> bool:
    """Tell whether this is the problem; a traceback in it fails the test."""
    found_status, body = answer[0], answer[1]
    assert (found_status, body.get("code")) == (status, code), answer
    assert body["status"] == status
    assert "Traceback" not in str(body)
    assert ".py" not in str(body)
    if pointer is not None:
        assert [error["pointer"] for error in body["errors"]] == [pointer]
    return True


async def log_of(rig: Rig, task_id: str) -> list[dict[str, Any]]:
    _, body = await rig.get(f"/api/v1/log?task_id={task_id}&limit=500")
    return [item["event"] for item in body["data"]["items"]]


async def planned_task(rig: Rig, hosts: int = 3, waves: tuple[int, ...] = (), **fields: Any) -> str:
    """Submit a task and plan it on hosts h1, h2 ... named web1, web2 ..."""
    _, body = await rig.post("/api/v1/tasks", spec_json(**fields))
    plan = events.Plan(
        body["task_id"], tuple(events.PlannedHost(f"h{n}", f"web{n}") for n in range(1, hosts + 1)), "hash", waves=waves
    )
    await dispatched(rig, events.TasksPlanned(plans=(plan,)))
    return str(body["task_id"])


async def end(rig: Rig, task_id: str, outcomes: dict[str, Outcome], *, task: bool = False) -> None:
    """End the first attempts of a task's hosts, decided by the dispatcher."""
    ends = tuple(events.End(task_id, host, 1, outcome=outcome, ran=Ran.NO) for host, outcome in outcomes.items())
    data: list[events.Data] = [events.AttemptsEnded(attempts=ends)]
    if task:
        data.append(events.TasksEnded(tasks=(events.TaskEnd(task_id, Outcome.FAILURE, {}),)))
    await dispatched(rig, *data)


async def enrol(rig: Rig, *names: str) -> None:
    """Let hosts be enrolled whose id is `h` and the number of their name, as the plans of `planned_task` have them."""
    for name in names:
        if rig.gateway.access.hosts.named(name) is not None:
            continue  # by an earlier test on the same bus
        key = nats_auth.public_key(nats_auth.new_seed("user"))
        host = host_events.HostEnrolled(f"h{name.removeprefix('web')}", name, {"env": "prod"}, key)
        await rig.gateway.change(events.ACCESS, lambda host=host: host, OWNER, "enrolled")


async def revoke(rig: Rig, name: str) -> None:
    """Let a host of `enrol` be revoked."""
    host = rig.gateway.host(name)
    revoked = host_events.HostRevoked(host.host_id, host.public_key)
    await rig.gateway.change(events.ACCESS, lambda: revoked, OWNER, "revoked")
