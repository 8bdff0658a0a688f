"""A reporter on streams in memory: the real service, store and answers; only the bus has no server behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from fleetlog_reporter.service import Reporter
from fleetlog_runtime.pure.bus import Batch, Draft, Handler, NotFound, Stored, StreamState
from fleetlog_runtime.shell.health import Health
from fleetlog_runtime.shell.memory import MemoryStore
from fleetlog_schemas import events, host_events, ids, policy_events, reports, subjects, wire
from fleetlog_schemas.codec import Event, encode
from fleetlog_schemas.lifecycle import apply, task_end
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.questions import unpack_answer
from fleetlog_schemas.records import Tasks
from fleetlog_schemas.spec import Shell, TaskSpec

START_MS = 1_790_000_000_000
DEADLINE_SECONDS = 20.0


class LogBus:
    """The parts of the Bus contract that the reporter uses, and a log that tests write with few words."""

    def __init__(self) -> None:
        self.now_ms = START_MS
        self.store = MemoryStore(lambda: self.now_ms)
        self.tasks = Tasks()
        """The reference: a fold that forgets nothing."""
        self._ids = 0
        self._grown: list[asyncio.Event] = []
        self._handlers: dict[str, Handler] = {}
        self.answers: dict[str, asyncio.Future[bytes]] = {}

    # --- the contract ------------------------------------------------------------------------------------

    async def read(self, stream: str, from_seq: int, *, ahead: bool = True) -> AsyncIterator[list[Stored]]:
        grown = asyncio.Event()
        self._grown.append(grown)
        is_first = True
        while True:
            grown.clear()
            found = self.store.read(stream, from_seq, 500)
            while found and not found[-1].batch_end:
                found += self.store.read(stream, found[-1].seq + 1, 1)
            if found or is_first:
                yield found
                from_seq = found[-1].seq + 1 if found else from_seq
                is_first = False
            else:
                await grown.wait()

    async def get(self, stream: str, seq: int) -> Stored:
        try:
            return self.store.streams[stream].messages[seq]
        except KeyError:
            raise NotFound(str(seq)) from None

    async def get_range(self, stream: str, from_seq: int, count: int, subject: str = "") -> list[Stored]:
        return self.store.read(stream, from_seq, count, subject)

    async def seq_at(self, stream: str, time_ms: int) -> int:
        one = self.store.streams[stream]
        return next((seq for seq, message in one.messages.items() if message.time_ms >= time_ms), one.last_seq + 1)

    async def state(self, stream: str) -> StreamState:
        return self.store.state(stream)

    async def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        self.answers.pop(subject).set_result(body)

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Callable[[], Awaitable[None]]:
        self._handlers[subject] = handler

        async def stop() -> None:
            self._handlers.pop(subject, None)

        return stop

    async def request(self, subject: str, body: bytes, timeout_ms: int) -> bytes:
        self._ids += 1
        reply = f"_INBOX.{self._ids}"
        self.answers[reply] = asyncio.get_running_loop().create_future()
        future = self.answers[reply]
        await self._handlers[subject](subject, body, reply)
        async with asyncio.timeout(timeout_ms / 1000):
            return await future

    # --- writing the log ---------------------------------------------------------------------------------

    def make_id(self) -> str:
        self._ids += 1
        return ids.new_id(self.now_ms, self._ids.to_bytes(10, "big"))

    def raw(self, subject: str, *bodies: bytes) -> int:
        seq = self.store.append(Batch(tuple(Draft(subject, body) for body in bodies), self.make_id()))
        for grown in self._grown:
            grown.set()
        return seq

    def add(self, *data: events.Data, subject: str = "", authid: str | None = "ada") -> int:
        """Store events as one atomic batch; return the last sequence."""
        subject = subject or events.REGISTRY[events.NAMES[type(data[0])]].subject.split()[0]
        made = [Event(id=self.make_id(), source="/t/1", data=one, time_ms=self.now_ms, authid=authid) for one in data]
        last = self.raw(subject, *(encode(one) for one in made))
        for index, one in enumerate(made):
            seq = last - len(made) + 1 + index
            apply(self.tasks, msgspec.structs.replace(one, seq=seq, subject=subject))
        return last

    def enrolled(self, *names: str, labels: dict[str, str] | None = None) -> None:
        for name in names:
            self.add(host_events.HostEnrolled(host_id=f"h-{name}", name=name, labels=labels or {}, public_key=f"K{name}"))

    def submitted(self, *, argv: tuple[str, ...] = ("true",), **fields: Any) -> str:
        task_id = self.make_id()
        spec = TaskSpec(payload=Shell(argv=argv), **{"target": "web*", **fields})
        self.add(events.TasksSubmitted(tasks=(events.Submission(task_id, spec),)))
        return task_id

    def planned(self, *names: str, waves: tuple[int, ...] = (), **fields: Any) -> str:
        task_id = self.submitted(**fields)
        hosts = tuple(events.PlannedHost(f"h-{name}", name) for name in names)
        self.add(events.TasksPlanned(plans=(events.Plan(task_id, hosts, "hash", waves=waves),)))
        return task_id

    def dispatched(self, task_id: str, *names: str, attempt: int = 1, decided_seq: int = 0) -> int:
        made = tuple(events.Dispatch(task_id, f"h-{n}", attempt, epoch=1) for n in names)
        return self.add(events.AttemptsDispatched(made, decided_seq))

    def waiting(self, task_id: str, reason: str, *names: str, message: str = "not yet") -> int:
        """Note why commands wait: those on these hosts, or all that do."""
        commands = (events.WaitingCommands(task_id, tuple(f"h-{name}" for name in names)),)
        return self.add(events.CommandsWaiting((events.WaitingFor(reason, message, commands),)))

    def frozen(self, freeze_id: str = "f1", target: str = "all", reason: str = "incident") -> int:
        return self.add(policy_events.FleetFrozen(freeze_id, target, reason))

    def started(self, task_id: str, name: str, attempt: int = 1, *, slot: int = 0, first: int = 0) -> int:
        return self.add(events.AttemptsStarted((events.Start(task_id, f"h-{name}", attempt, self.now_ms, slot, first),)))

    def ended(
        self, task_id: str, *names: str, outcome: Outcome = Outcome.SUCCESS, attempt: int = 1, decided: bool = False,
        **fields: Any,
    ) -> int:
        fields = {"ran": Ran.YES, "exit_code": 0, "ended_ms": self.now_ms, "duration_ms": 1500, **fields}
        made = tuple(events.End(task_id, f"h-{name}", attempt, outcome=outcome, **fields) for name in names)
        return self.add(events.AttemptsEnded(made), subject=events.DISPATCH if decided else events.RESULT)

    def task_ended(self, task_id: str) -> int:
        return self.add(events.TasksEnded((task_end(self.tasks.by_id[task_id]),)))

    def whole(self, *names: str, outcome: Outcome = Outcome.SUCCESS, **fields: Any) -> str:
        """Run one task from submission to end, a second later."""
        task_id = self.planned(*names, **fields)
        self.dispatched(task_id, *names)
        self.now_ms += 1000
        self.ended(task_id, *names, outcome=outcome)
        self.task_ended(task_id)
        return task_id

    def frame(self, name: str, slot: int, task_id: str, stream: str, offset: int, line: int, data: bytes, **fields: Any) -> int:
        """Store one frame of output."""
        frame = reports.Frame(
            task_id, fields.pop("attempt", 1), reports.Stream(stream), offset, line, self.now_ms, data, **fields
        )
        return self.raw(subjects.output(f"h-{name}", slot), wire.encode(frame))


class Asked(msgspec.Struct):
    """An answer as the gateway gets it."""

    seq: int
    data: Any = None
    problem: dict[str, Any] | None = None


class Running:
    """A reporter that runs."""

    def __init__(self, bus: LogBus, service: Reporter, health: Health) -> None:
        self.bus, self.service, self.health = bus, service, health

    async def ask(self, question: str, **fields: Any) -> Asked:
        """Ask over the bus, and read the answer as the gateway does; by default about everything in the log."""
        if not {"as_of_seq", "as_of_ms"} & set(fields):
            fields = {"at_least_seq": self.bus.store.state(subjects.EVENTS).last_seq, **fields}
        body = await self.bus.request(
            subjects.ask("reporter", question), msgspec.json.encode(fields), int(DEADLINE_SECONDS * 1000)
        )
        return msgspec.json.decode(unpack_answer(body), type=Asked)

    async def data(self, question: str, **fields: Any) -> Any:
        answer = await self.ask(question, **fields)
        assert answer.problem is None, answer.problem
        return answer.data

    async def problem(self, question: str, **fields: Any) -> dict[str, Any]:
        answer = await self.ask(question, **fields)
        assert answer.problem is not None, answer.data
        return answer.problem


@contextlib.asynccontextmanager
async def reporter(bus: LogBus, folder: Path) -> AsyncIterator[Running]:
    """Run a reporter on *bus* with its file in *folder* until the block ends."""
    stop, is_ready, health = asyncio.Event(), asyncio.Event(), Health("reporter", "test")
    service = Reporter(bus, folder, lambda: bus.now_ms, structlog.get_logger(), health)  # type: ignore[arg-type]
    running = asyncio.create_task(service.run(stop, is_ready.set))
    waiting = asyncio.create_task(is_ready.wait())
    async with asyncio.timeout(DEADLINE_SECONDS):
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        waiting.cancel()
        await running
    try:
        yield Running(bus, service, health)
    finally:
        stop.set()
        async with asyncio.timeout(DEADLINE_SECONDS):
            await running
