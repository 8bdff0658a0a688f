"""One run: start the system, let writers write and faults happen, heal everything, wait for the end, and gather the history."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError, segment
from fleetlog_checker.faults import FAULTS, LEAD_KIND, Planned, plan
from fleetlog_checker.history import History, Reader, Submission, Trouble
from fleetlog_checker.system import System
from fleetlog_checker.timings import Recorded, recorded
from fleetlog_checker.watching import Asker, Follower, Leaders, LogReader, Turn
from fleetlog_checker.writers import Writer, now_ms
from fleetlog_schemas import codec, events, host_events, lifecycle, records
from fleetlog_schemas.view import task_view
from fleetlog_testing.agent_process import marked
from fleetlog_testing.waiting import until

QUIET_S_MAX = 240
"""Until everything that was asked for is over after the last fault is healed: a command may wait for its host for two
minutes, and for a report that is said again."""
PROCESSES_S_MAX = 30
"""Until the last process of a command has ended: none sleeps for longer than six seconds."""
ASK_S_MAX = 60
WRITERS = 4


class Options(msgspec.Struct, frozen=True):
    """What a person asked for."""

    seed: int
    seconds: float
    faults: tuple[str, ...]
    agents: int
    nodes: int
    writers: int = WRITERS


class Course(msgspec.Struct):
    """How a run went, beside its history."""

    began_ms: int = 0
    ended_ms: int = 0
    """When writers were told to end."""
    healed_ms: int = 0
    """When the last fault was healed."""
    quiet_ms: int = 0
    """When everything was over."""
    turns: list[Turn] = []
    answered_ms: list[int] = []
    broke: list[str] = []
    """What went wrong with the checker itself: then there is no verdict."""


class Run:
    """One run of one system."""

    def __init__(self, system: System, options: Options, folder: Path) -> None:
        """Prepare it; evidence is kept in *folder*."""
        self.system, self.options, self.folder = system, options, folder
        self.history = History()
        self.course = Course()
        self._leaders = Leaders(system)
        self._log = LogReader(system, options.seed)
        self._asker = Asker(system)
        self._follower = Follower(system, options.seed)
        self._writers = [Writer(system, options.seed, number) for number in range(options.writers)]
        self._down: set[str] = set()
        self._healing: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Do all of it. Raises AssertionError when the system could not be started, healed or ended."""
        system, course = self.system, self.course
        try:
            await system.start()
            system.led_by = self._leaders.led_by
            looking = asyncio.create_task(self._leaders.run())
            try:
                await self._break()
                await self._until_quiet()
                course.quiet_ms = now_ms()
                await self._gather()
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
        finally:
            for one in (*self._writers, self._asker, self._log, self._follower):
                one.end()
            for task in self._healing:
                task.cancel()
            await system.close()

    # --- while it runs --------------------------------------------------------------------------------------

    async def _break(self) -> None:
        options, course = self.options, self.course
        planned = plan(options.seed, options.seconds, list(options.faults), self.system)
        course.began_ms = now_ms()
        began = time.monotonic()
        for thread in (*self._writers, self._asker, self._log, self._follower):
            thread.start()
        for one in planned:
            await asyncio.sleep(max(0.0, began + one.at_s - time.monotonic()))
            await self._inject(one)
        await asyncio.sleep(max(0.0, began + options.seconds - time.monotonic()))
        course.ended_ms = now_ms()
        for writer in self._writers:
            writer.end()
        if self._healing:
            await asyncio.wait(self._healing)
        for task in self._healing:
            task.result()
        await self.system.heal()
        course.healed_ms = now_ms()
        for writer in self._writers:
            await asyncio.to_thread(writer.join, ASK_S_MAX)
            if writer.broke or writer.is_alive():
                course.broke.append(writer.broke or f"{writer.name} does not end")

    async def _inject(self, planned: Planned) -> None:
        part = planned.part(self.system, self._down)
        trouble = Trouble(planned.fault, part.name if part else planned.kind, planned.kind, now_ms())
        self.history.troubles.append(trouble)
        if part is None:
            trouble.note = "passed over: all of them were down already"
            trouble.healed_ms = trouble.began_ms
            return
        touched = {part.name, *part.covers}
        trouble.host_id = part.host_id
        if self.system.led_by(LEAD_KIND) in touched:
            trouble.led = LEAD_KIND
        hit = await FAULTS[planned.fault].inject(part)
        if not hit:
            trouble.note = "passed over: there was nothing to hit"
            trouble.healed_ms = trouble.began_ms
            return
        self._down |= touched

        async def heal_later() -> None:
            await asyncio.sleep(planned.lasts_s)
            await FAULTS[planned.fault].heal(part, hit)
            trouble.healed_ms = now_ms()
            self._down.difference_update(touched)

        self._healing.add(asyncio.create_task(heal_later()))

    # --- after the last fault -------------------------------------------------------------------------------

    async def _until_quiet(self) -> None:
        """Wait until every task of the log is over and no process of a command is left; what is not by then is a violation."""

        def over() -> bool:
            tasks = self._folded()
            acknowledged = {task_id for one in self._submissions() if one.acknowledged for task_id in one.task_ids}
            states = [task.state for task in tasks.by_id.values()]
            return acknowledged <= set(tasks.by_id) and all(state in ("ended", "refused") for state in states)

        with contextlib.suppress(AssertionError):
            await until(over, QUIET_S_MAX, pause_seconds=1)
        with contextlib.suppress(AssertionError):
            await until(
                lambda: not any(marked(host.host_id) for host in self.system.hosts), PROCESSES_S_MAX, pause_seconds=0.5
            )

    def _submissions(self) -> list[Submission]:
        return [one for writer in self._writers for one in writer.submissions]

    def _folded(self) -> records.Tasks:
        tasks = records.Tasks()
        for event in self._log.events():
            lifecycle.apply(tasks, event)
        return tasks

    async def _gather(self) -> None:
        history = self.history
        self._asker.end()
        self._log.end()
        await asyncio.to_thread(self._log.join, ASK_S_MAX)
        for name in self.system.gateways:
            await self._answered(f"{name} reads the log", self._log.read_on, name)
        for name in self.system.gateways:
            await self._answered(f"{name} reads the log again", self._log.read_again, name)
        history.submissions = self._submissions()
        history.lines = self.system.judge.in_order()
        history.tasks = {task_id: task_view(task) for task_id, task in self._folded().by_id.items()}
        history.events = named(list(self._log.events()))
        history.rewritten = self._log.rewritten
        history.followed = await self._followed()
        history.alerts = alerts(self._log.events())
        wanted = sorted({task_id for one in history.submissions for task_id in one.task_ids} | set(history.tasks))
        for name in self.system.gateways:
            reader = Reader(name)
            await self._answered(f"{name} shows every task", self._show, reader, wanted)
            await self._answered(f"{name} verifies its projection", self._verify, reader)
            history.readers.append(reader)
        self.course.turns, self.course.answered_ms = self._leaders.turns, self._asker.answered_ms

    async def _followed(self) -> list[str]:
        """Wait until the follower has heard the end of the log, and return what was wrong with what it heard."""
        last_seq = max(self._log.bytes, default=0)
        with contextlib.suppress(AssertionError):
            await until(lambda: self._follower.last_seq >= last_seq, ASK_S_MAX, pause_seconds=0.1)
        self._follower.end()
        short = self._follower.last_seq < last_seq
        late = [f"the follower heard nothing after event {self._follower.last_seq} of {last_seq}"] if short else []
        return [*self._follower.wrong, *late]

    async def _answered(self, what: str, ask: object, *arguments: object) -> None:
        """Ask until there is an answer: everything runs, so there must be one."""
        deadline = time.monotonic() + ASK_S_MAX
        while True:
            try:
                await asyncio.to_thread(ask, *arguments)  # type: ignore[arg-type]
                return
            except CliError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"after everything was healed: {what}: {error.message}") from None
                await asyncio.sleep(0.5)

    def _show(self, reader: Reader, task_ids: list[str]) -> None:
        gateway = self.system.gateways[reader.name]()
        try:
            for task_id in task_ids:
                try:
                    body = msgspec.json.decode(gateway.get_bytes(f"/tasks/{segment(task_id)}"), type=_Shown).data
                    reader.shown[task_id] = bytes(body)
                except GatewayError as error:
                    if error.code is not Exit.NOT_FOUND:
                        raise
                    reader.shown[task_id] = b""
        finally:
            gateway.close()

    def _verify(self, reader: Reader) -> None:
        gateway = self.system.gateways[reader.name]()
        try:
            verified = gateway.post("/verify/projection")["data"]
        finally:
            gateway.close()
        reader.verified = "" if verified["equal"] else json.dumps(verified)[:2000]

    def reports(self) -> list[Recorded]:
        """Return when hosts ended what, and when the log had it."""
        return recorded(self._log.events())

    def keep_evidence(self) -> None:
        """Write what the verdict rests on into the folder."""
        (self.folder / "history.json").write_bytes(msgspec.json.format(msgspec.json.encode(self.history)))
        (self.folder / "course.json").write_bytes(msgspec.json.format(msgspec.json.encode(self.course)))
        with (self.folder / "log.jsonl").open("wb") as file:
            for seq in sorted(self._log.bytes):
                file.write(b"%d %s\n" % (seq, self._log.bytes[seq]))


class _Shown(msgspec.Struct):
    data: msgspec.Raw


def alerts(log: Iterable[codec.Event]) -> list[str]:
    """Return every refusal of a host or of what it reported."""
    found = []
    for event in log:
        if isinstance(event.data, host_events.SessionsRefused):
            found += [f"event {event.seq}: host {one.host_id} is refused ({one.code}): {one.message}" for one in event.data.hosts]
        elif isinstance(event.data, host_events.ReportsRefused):
            found.append(f"event {event.seq}: reports of {event.data.host_id} are refused: {event.data.counts}")
    return found


def named(log: list[codec.Event]) -> dict[str, list[str]]:
    """Return for each task the events that name it, one line each."""
    found: dict[str, list[str]] = defaultdict(list)
    for event in log:
        kind = events.NAMES[type(event.data)].removeprefix("fleetlog.")
        head = f"{event.seq} {codec.rfc3339(event.time_ms)} {kind} {event.source.removeprefix('/fleetlog/')}"
        for field in msgspec.structs.fields(type(event.data)):
            value = getattr(event.data, field.name)
            for entry in value if isinstance(value, tuple) else ():
                task_id = entry if isinstance(entry, str) else getattr(entry, "task_id", "")
                if not task_id:
                    continue
                about = [str(getattr(entry, name)) for name in ("host_id", "attempt", "outcome", "ran") if hasattr(entry, name)]
                found[task_id].append(" ".join([head, *about]))
        task_id = getattr(event.data, "task_id", "")
        if task_id:
            found[task_id].append(head)
    return dict(found)
