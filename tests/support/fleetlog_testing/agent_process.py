"""A real agent process on a real bus, and the least of a dispatcher: it signs pushes and reads what comes back."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fleetlog_agent.identity import Identity, write_identity
from fleetlog_runtime.pure.signing import Signer
from fleetlog_runtime.shell.files import private_folder, write_atomic
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.nats_auth import credentials
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas import pushes, reports, subjects, wire
from fleetlog_schemas.spec import Blob, Options, ParameterValue, Payload, Shell
from fleetlog_testing.homes import Enrolled, connected
from fleetlog_testing.namespaces import Machine
from fleetlog_testing.nats import running_server
from fleetlog_testing.waiting import until

TASK = "01890000-0000-7000-8000-00000000000"


def sh(text: str) -> Shell:
    """Return a payload that runs *text* with /bin/sh."""
    return Shell(argv=("/bin/sh", "-c", text))


class AgentProcess:
    """An agent with a folder of its own."""

    options: tuple[str, ...] = ("--set", "agent.kill_grace_ms=300")
    """Of its command line."""
    machine: Machine | None = None
    """Where it runs, if not here."""

    def __init__(self, home: Home, folder: Path) -> None:
        host = Enrolled(home)
        self.host_id = host.host_id
        self.folder = private_folder(folder)
        self.process: subprocess.Popen[bytes] | None = None
        write_atomic(folder / "creds", credentials(host.jwt, host.seed).encode())
        signer = home.signer()
        write_identity(
            folder, Identity(host.host_id, folder.name, (home.nats_url(),), {signer.key_id: signer.public_key})
        )

    def start(self, *settings: str, code: Path | None = None, **environment: str) -> None:
        """Start it, of this version or of the release in *code*, with more settings (`agent.NAME=VALUE`) and environment."""
        environment |= {"PYTHONPATH": str(code)} if code else {}
        words = [word for setting in settings for word in ("--set", setting)]
        with (self.folder / "diagnostics").open("ab") as diagnostics:
            argv = [sys.executable, "-m", "fleetlog_agent.main", "run", "--data", str(self.folder), *self.options, *words]
            self.process = subprocess.Popen(
                self.machine.argv(*argv) if self.machine else argv, stderr=diagnostics, env={**os.environ, **environment}
            )

    def diagnostics(self) -> str:
        """Return what it said."""
        return (self.folder / "diagnostics").read_text()

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End it and return its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(15)

    def holders(self) -> list[int]:
        """Return the living holders of this folder."""
        return [
            pid for pid in processes() if _argv(pid)[-1:] == [str(self.folder)] and "--holding" in _argv(pid)
        ]

    def end(self) -> None:
        """Leave nothing behind."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        for pid in (*self.holders(), *marked(self.host_id)):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def processes() -> list[int]:
    """Return every process."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def marked(host_id: str, task_id: str = "") -> list[int]:
    """Return the living processes of commands of a host, by their environment."""
    found = []
    for pid in processes():
        try:
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            alive = b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
        except OSError:
            continue
        wanted = {f"FLEETLOG_HOST_ID={host_id}".encode()} | ({f"FLEETLOG_TASK_ID={task_id}".encode()} if task_id else set())
        if alive and wanted <= set(entries):
            found.append(pid)
    return found


class FakeDispatcher:
    """Grants every session, signs what the test wants pushed, and keeps what agents say."""

    def __init__(self, home: Home, bus: NatsBus, recorder: NatsBus, looker: NatsBus) -> None:
        self.signer = home.signer()
        self.bus, self.recorder, self.looker = bus, recorder, looker
        self.seq = 10
        self.epochs: dict[str, int] = {}
        self.opens: list[reports.OpenSession] = []
        self.beats: list[reports.Heartbeat] = []
        self.blobs: dict[str, bytes] = {}
        self.count = 0

    async def open(self) -> None:
        """Begin to serve."""
        await self.bus.subscribe(subjects.SESSIONS, self._session)
        await self.bus.subscribe(subjects.HEARTBEATS, self._beat)
        await self.recorder.subscribe(subjects.BLOB_REQUESTS, self._blob)

    async def _session(self, subject: str, body: bytes, reply: str) -> None:
        request: reports.OpenSession = wire.decode(body, reports.OpenSession)
        self.opens.append(request)
        host_id = subjects.host_of(subject)
        self.epochs[host_id] = self.epochs.get(host_id, 0) + 1
        self.seq += 1
        granted = pushes.SessionGranted(
            host_id=host_id, nonce=request.nonce, epoch=self.epochs[host_id], ticket=f"ticket {self.seq}", seq=self.seq,
            server_ms=time.time_ns() // 1_000_000, signing_keys={self.signer.key_id: self.signer.public_key},
        )
        await self.bus.publish(reply, wire.encode(self.signer.sign(wire.encode(granted))))

    async def _beat(self, _subject: str, body: bytes, _reply: str) -> None:
        self.beats.append(wire.decode(body, reports.Heartbeat))

    async def _blob(self, _subject: str, body: bytes, reply: str) -> None:
        request: reports.BlobRequest = wire.decode(body, reports.BlobRequest)
        content = self.blobs.get(request.sha256, b"")
        error = "" if request.token == f"blob {request.sha256[:8]}" else "the token does not fit"
        data = b"" if error else content[request.offset : request.offset + 256 * 1024]
        await self.recorder.publish(reply, wire.encode(reports.BlobChunk(data=data, size=len(content), error=error)))

    def blob(self, content: bytes, name: str = "") -> Blob:
        """Keep content for agents."""
        digest = hashlib.sha256(content).hexdigest()
        self.blobs[digest] = content
        return Blob(sha256=digest, size=len(content), name=name)

    async def session(self, agent: AgentProcess, epoch: int = 1) -> None:
        """Wait until an agent's session is open."""
        await until(
            lambda: self.epochs.get(agent.host_id, 0) >= epoch
            and any(beat.epoch == self.epochs[agent.host_id] for beat in self.beats),
            what=f"a session of {agent.folder.name}",
        )

    async def push(self, agent: AgentProcess, kind: type, attempts: list[Any], signer: Signer | None = None) -> None:
        """Push what is asked, signed."""
        self.seq += 1
        push = kind(
            host_id=agent.host_id, epoch=self.epochs[agent.host_id], expires_ms=time.time_ns() // 1_000_000 + 30_000,
            seq=self.seq, attempts=tuple(attempts),
        )
        await self.bus.publish(
            subjects.push(agent.host_id), wire.encode((signer or self.signer).sign(wire.encode(push)))
        )

    async def start(
        self, agent: AgentProcess, payload: Payload, *, timeout_ms: int = 60_000, task_id: str = "", attempt: int = 1,
        signer: Signer | None = None, parameters: dict[str, ParameterValue] | None = None, **options: Any,
    ) -> str:
        """Start a command and return its task id."""
        self.count += 1
        task_id = task_id or f"{TASK}{self.count}"
        wanted = Options(**options)
        blobs = [blob for blob in (wanted.env, wanted.stdin, getattr(payload, "content", None)) if blob is not None]
        start = pushes.StartAttempt(
            task_id=task_id, attempt=attempt, payload=payload, options=wanted, timeout_ms=timeout_ms,
            token=f"token {task_id} {attempt}", token_key_id="k", submitted_by="ann",
            blob_tokens={blob.sha256: f"blob {blob.sha256[:8]}" for blob in blobs}, parameters=parameters or {},
        )
        await self.push(agent, pushes.StartPush, [start], signer)
        return task_id

    async def cancel(self, agent: AgentProcess, task_id: str, attempt: int = 1) -> None:
        """Cancel an attempt."""
        named = pushes.NamedAttempt(task_id=task_id, attempt=attempt, token="t", token_key_id="k", reason="cancelled")
        await self.push(agent, pushes.CancelPush, [named])

    async def items(self, kind: type, task_id: str = "") -> list[Any]:
        """Return every report item of a kind that is stored."""
        found = []
        for message in await self.looker.get_range(subjects.REPORTS, 1, 1000):
            report: reports.Report = wire.decode(message.body, reports.Report)
            found += [item for item in report.items if isinstance(item, kind)]
        return [item for item in found if not task_id or getattr(item, "task_id", "") == task_id]

    async def end_of(self, task_id: str, seconds: float = 15) -> reports.ReportEnded:
        """Wait for the end of a command."""

        async def ended() -> list[reports.ReportEnded]:
            return await self.items(reports.ReportEnded, task_id)

        found: list[reports.ReportEnded] = await until(ended, seconds, f"the end of {task_id}")
        return found[0]

    async def started(self, task_id: str) -> reports.ReportStarted:
        """Wait until a command is said to have started."""

        async def started() -> list[reports.ReportStarted]:
            return await self.items(reports.ReportStarted, task_id)

        found: list[reports.ReportStarted] = await until(started, 15, f"the start of {task_id}")
        return found[0]

    async def frames(self, agent: AgentProcess, task_id: str, slot: int = 0) -> list[reports.Frame]:
        """Return the output frames of a command."""
        stored = await self.looker.get_range(subjects.OUTPUT, 1, 10_000, subjects.output(agent.host_id, slot))
        decoded: list[reports.Frame] = [wire.decode(message.body, reports.Frame) for message in stored]
        return [frame for frame in decoded if frame.task_id == task_id]


@asynccontextmanager
async def fleet(folder: Path, agents: int = 1) -> AsyncIterator[tuple[FakeDispatcher, list[AgentProcess]]]:
    """Give a dispatcher and agents with open sessions, on a bus of their own."""
    async with (
        running_server(folder) as server,
        connected(server.home, "dispatcher") as bus,
        connected(server.home, "result-recorder") as recorder,
        connected(server.home, "operator") as looker,
    ):
        dispatcher = FakeDispatcher(server.home, bus, recorder, looker)
        await dispatcher.open()
        hosts = [AgentProcess(server.home, folder / f"host{number}") for number in range(agents)]
        try:
            for host in hosts:
                host.start()
            for host in hosts:
                await dispatcher.session(host)
            yield dispatcher, hosts
        except BaseException:
            for host in hosts:
                sys.stderr.write(host.diagnostics()[-4000:])
            raise
        finally:
            for host in hosts:
                host.end()
            await asyncio.sleep(0)
