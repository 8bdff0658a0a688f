"""The shell of the agent: takes what happens to the core, and performs what the core wants.

One loop. Whatever happens becomes an observation; then the core is stepped once, however much happened, and each
effect is performed. The journal is written in order (`journal_writer.py`), and the core hears of it when it is on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import secrets
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import structlog
from nats.errors import Error as NatsError

from fleetlog_agent import collectors
from fleetlog_agent import messages as m
from fleetlog_agent.core import Core
from fleetlog_agent.identity import Identity
from fleetlog_agent.journal import Journal
from fleetlog_agent.journal_records import Commit, Ended, Tombstone
from fleetlog_agent.journal_writer import JournalWriter
from fleetlog_agent.output import NotStored
from fleetlog_agent.policy import read_policy
from fleetlog_agent.runner import Runner
from fleetlog_runtime.pure.bus import AppendRefused, AppendUnsettled, Batch, Bus, BusFull, Draft, NoAnswer
from fleetlog_runtime.pure.settings import AgentSettings
from fleetlog_runtime.shell.clock import boot_ms
from fleetlog_runtime.shell.files import private_folder
from fleetlog_runtime.shell.nats_bus import ConnectFailed, NatsBus
from fleetlog_schemas import subjects, wire
from fleetlog_schemas.reports import ArtifactChunk, Frame
from fleetlog_schemas.version import VERSION

SESSION_ANSWER_MS_MAX = 5_000
APPEND_SECONDS_MAX = 60.0
"""Until a message counts as not stored while the connection lasts: on a narrow line it takes that long to get through,
and what is sent again too early only narrows it further."""
CONNECT_SECONDS_MIN, CONNECT_SECONDS_MAX = 0.5, 30.0
"""Full jitter between tries to reach the bus."""
REFUSED_SECONDS = 60.0
"""After the bus ended the connection for good (a revoked key): a person must act."""
MEASURE_SECONDS = 10.0
ROOM_SECONDS = 2.0
"""Between looks at the disk space that is left."""
FACTS_SECONDS = 600.0
OFFERED_SECONDS_MAX = 15.0
"""How long the first facts wait for what the host's workers offer."""


class AgentError(Exception):
    """The agent cannot run; the message says why and what to do."""


class Agent:
    """One running agent."""

    def __init__(
        self, folder: Path, identity: Identity, settings: AgentSettings = AgentSettings(),  # noqa: B008 - frozen
        authority: Path | None = None,
    ) -> None:
        """Take over the folder of a joined agent; *authority* signs the bus's certificate, without one it has none.

        Raises:
            AgentError, JournalError, PolicyError: the folder is in use, broken, or its policy cannot be read.
        """
        self.folder = folder
        self._authority = authority
        self.identity = identity
        self._lock = _lock(folder)
        self._journal = Journal(private_folder(folder) / "journal")
        self._disk = JournalWriter(self._journal)
        self._boot = collectors.boot_id()
        self._spool_bytes_max = settings.spool_bytes_max
        policy = read_policy(folder / "policy.toml")
        self.core = Core(
            identity.host_id, self._boot, VERSION, secrets.token_bytes, identity.signing_keys, settings,
            refuses=policy.refuses, state=self._journal.state,
        )
        self._bus: NatsBus | None = None
        self._listening = False
        self._runner = Runner(
            identity.host_id, folder, self.tell, self._bus_if_up, self._store_frame,
            unix_ms=lambda: self.core.bus_ms(boot_ms()) or 0, store_chunk=self._store_chunk, fail=self.fail, ending=self.core.attempts,
            functions=policy.offered(), boot_id=self._boot,
        )
        self._runner.pool.on_offered = self._measure_facts
        self._wake: asyncio.TimerHandle | None = None
        self._stepping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._failure: BaseException | None = None
        self._patience: set[asyncio.Timeout] = set()
        """Of every message whose answer is waited for; it ends with the connection."""
        self._log = structlog.get_logger("agent").bind(host=identity.name)

    # --- the loop ------------------------------------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until *stop* is set and everything is said.

        Raises:
            Exception: a part failed in a way that is not understood; start again, nothing is lost.
        """
        if self._journal.torn_bytes:
            self._log.warning("removed an interrupted write at the journal's end", bytes=self._journal.torn_bytes)
        await self._runner.holder.find()
        self._runner.sweep({key: self.core.state.entries[key].slot for key in self.core.attempts.open})
        await self._runner.pool.find({str(key) for key in self.core.state.entries})
        for work in (self._connect_for_ever(), self._measure_for_ever(), self._watch_room_for_ever(), self._stop_when(stop)):
            self._go(work)
        self._kick()
        await self._stopped.wait()
        if self._wake is not None:
            self._wake.cancel()
        for task in self._tasks:
            task.cancel()
        await self._runner.close(retire=self._failure is None)
        if self._bus is not None:
            await self._bus.close()
        self._disk.close()
        os.close(self._lock)
        if self._failure is not None:
            raise self._failure

    def tell(self, observation: m.Observation) -> None:
        """Something happened."""
        self.core.observe(observation, boot_ms())
        self._kick()

    def _kick(self) -> None:
        """Step soon: once for everything that happens in this turn of the loop."""
        if not self._stepping and not self._stopped.is_set():
            self._stepping = True
            asyncio.get_running_loop().call_soon(self._step)

    def _step(self) -> None:
        self._stepping = False
        for effect in self.core.step(boot_ms()):
            self._perform(effect)

    def _perform(self, effect: m.Effect) -> None:
        match effect:
            case m.WriteJournal(commit=commit):
                self._go(self._write(commit))
            case m.Spawn():
                self._runner.spawn(effect)
            case m.Adopt(key=key):
                accepted = self.core.state.entries[key].accepted
                self._runner.adopt(effect, same_boot=accepted is not None and accepted.boot_id == self._boot)
            case m.Terminate(key=key):
                self._runner.signal(key, "terminate")
            case m.Kill(key=key):
                self._runner.signal(key, "kill")
            case m.SendReport():
                self._go(self._send_report(effect))
            case m.SendHeartbeat(heartbeat=heartbeat):
                self._go(self._publish(subjects.heartbeat(self.identity.host_id), wire.encode(heartbeat)))
            case m.AskSession(request=request):
                self._go(self._ask_session(wire.encode(request)))
            case m.WakeAt(at_ms=at_ms):
                self._wake_at(at_ms)
            case m.Alarm(text=text):
                self._log.error("alarm", text=text)
            case m.Stopped():
                self._go(self._stop_after_flush())

    def _wake_at(self, at_ms: int) -> None:
        if self._wake is not None:
            self._wake.cancel()
        seconds = max(at_ms - boot_ms(), 0) / 1000
        self._wake = asyncio.get_running_loop().call_later(seconds, self._kick)

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.fail(task.exception())

    def fail(self, error: BaseException | None) -> None:
        """Something happened that nobody thought of: end, so that a restart begins from what is on disk."""
        self._failure = self._failure or error
        self._stopped.set()

    # --- effects -------------------------------------------------------------------------------------------

    async def _write(self, commit: Commit) -> None:
        await self._disk.append(commit)
        self.core.journal_written()
        await self._disk.compact(self.core.state)
        self._step()
        # What the step started goes first: removing files takes longer than reporting an end.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for record in commit.records:
            if isinstance(record, Ended | Tombstone):
                self._runner.release(record.key)

    async def _send_report(self, effect: m.SendReport) -> None:
        draft = Draft(subject=subjects.report(self.identity.host_id), body=effect.body)
        try:
            await self._append(draft, effect.report.report_id)
        except NotStored as error:
            self._log.warning("a report is not stored yet", error=str(error))
            return
        self.tell(m.ReportStored(effect.report.report_id))

    async def _store_frame(self, slot: int, frame: Frame) -> int:
        draft = Draft(subject=subjects.output(self.identity.host_id, slot), body=wire.encode(frame))
        last = "/last" if frame.last else ""
        name = f"{self.identity.host_id}/{frame.task_id}.{frame.attempt}/{frame.stream}/{frame.offset}{last}"
        return await self._append(draft, name)

    async def _store_chunk(self, chunk: ArtifactChunk, upload: str) -> int:
        draft = Draft(subject=subjects.artifacts(self.identity.host_id), body=wire.encode(chunk))
        return await self._append(draft, f"{self.identity.host_id}/{upload}/{chunk.offset}")

    async def _append(self, draft: Draft, message_id: str) -> int:
        """Store one message. Raises NotStored."""
        bus = self._bus_if_up()
        if bus is None:
            raise NotStored("the bus is away")
        patience = asyncio.timeout(APPEND_SECONDS_MAX)
        try:
            async with patience:
                self._patience.add(patience)
                return await bus.append(Batch(drafts=(draft,), message_id=message_id))
        except (AppendUnsettled, AppendRefused, BusFull, NoAnswer, TimeoutError) as error:
            raise NotStored(str(error) or "the connection went before an answer came") from error
        finally:
            self._patience.discard(patience)

    async def _publish(self, subject: str, body: bytes) -> None:
        if self._bus is not None:
            await self._bus.publish(subject, body)

    async def _ask_session(self, body: bytes) -> None:
        bus = self._bus_if_up()
        if bus is None:
            return
        try:
            answer = await bus.request(subjects.session(self.identity.host_id), body, SESSION_ANSWER_MS_MAX)
        except NoAnswer:
            return  # the core asks again
        self.tell(m.SessionAnswered(answer))

    async def _stop_after_flush(self) -> None:
        if self._bus is not None:
            await self._bus.close()  # flushes: the goodbye is out before we are gone
        self._stopped.set()

    # --- the world -----------------------------------------------------------------------------------------

    def _bus_if_up(self) -> Bus | None:
        return self._bus if self._bus is not None and self._bus.is_connected else None

    async def _connect_for_ever(self) -> None:
        tries = 0
        while True:
            try:
                await self._connect()
            except ConnectFailed as error:
                tries += 1
                ceiling = min(CONNECT_SECONDS_MAX, CONNECT_SECONDS_MIN * 2 ** min(tries, 10))
                pause = random.uniform(CONNECT_SECONDS_MIN, ceiling)  # noqa: S311 - jitter
                self._log.warning("the bus cannot be reached; commands go on", error=str(error), again_seconds=pause)
                await asyncio.sleep(pause)
                continue
            tries = 0
            assert self._bus is not None
            await self._bus.closed.wait()
            if self.core.stopped:
                return
            self._listening = False
            self._bus = None
            self.tell(m.Connected(connected=False))
            self._log.error("the bus ended this host's connection: was the host revoked?")
            await asyncio.sleep(REFUSED_SECONDS)

    async def _connect(self) -> None:
        identity = self.identity
        self._bus = None
        bus = await NatsBus.connect(
            list(identity.nats_urls), self.folder / "creds", f"agent {identity.name}",
            inbox_prefix=f"_INBOX_{identity.host_id}", tls_ca=self._authority,
            on_connected=self._connection_changed, append_seconds=APPEND_SECONDS_MAX,
        )
        self._bus = bus
        # Who opens a session is sent pushes at once: listen first.
        try:
            await bus.subscribe(subjects.push(identity.host_id), self._heard)
        except (NatsError, OSError, TimeoutError) as error:
            await bus.close()
            raise ConnectFailed(f"the bus went away while we began to listen: {error}") from error
        self._listening = True
        self._connection_changed(bus.is_connected)

    def _connection_changed(self, connected: bool) -> None:
        if not connected:
            waiting, self._patience = self._patience, set()
            for patience in waiting:
                patience.reschedule(0)
        if self._listening and not self.core.stopped:
            self._log.info("connected" if connected else "disconnected; commands go on")
            self.tell(m.Connected(connected=connected))

    async def _heard(self, _subject: str, body: bytes, _reply: str) -> None:
        self.tell(m.Push(body))

    async def _measure_for_ever(self) -> None:
        # Facts are said once in an hour at most: what the host offers should be among the first.
        facts_due = 0.0 if self._runner.pool.ready.is_set() else time.monotonic() + OFFERED_SECONDS_MAX
        while True:
            self.tell(m.LoadMeasured(collectors.load(self.folder)))
            if time.monotonic() >= facts_due:
                facts_due = time.monotonic() + FACTS_SECONDS
                self._measure_facts()
            await asyncio.sleep(MEASURE_SECONDS)

    def _measure_facts(self) -> None:
        self.tell(m.FactsMeasured({**collectors.facts(self.folder), **self._runner.pool.facts()}))

    async def _watch_room_for_ever(self) -> None:
        while True:
            await self._disk.restore_reserve()
            spool = self._journal.bytes + self._runner.output_files.bytes_on_disk()
            self.tell(m.SpoolFull(full=spool > self._spool_bytes_max or not self._journal.has_reserve))
            await asyncio.sleep(ROOM_SECONDS)

    async def _stop_when(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self.tell(m.Stop())


def _lock(folder: Path) -> int:
    try:
        descriptor = os.open(private_folder(folder) / "agent.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AgentError(f"{folder} cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise AgentError(f"another agent runs on {folder}") from None
    return descriptor
