"""A whole system for tests of faults: `fleetlog up --processes`, agents in folders of their own, and a judge.

Hosts join in this process, which is what the pasted line does and costs no interpreter; everything that runs later is
a real process. The judge is a file: each command appends a line when it begins and one when it ends, named by task,
host and attempt, so what ran is known without asking anything that is tested. `close` leaves no process behind.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from fleetlog.client import Client, new_task_id
from fleetlog.exits import CliError, Exit
from fleetlog.http import Gateway
from fleetlog_agent.identity import read_identity, write_identity
from fleetlog_agent.join import join
from fleetlog_runtime.pure.bus import NotFound
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.leadership import Holder
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas import codec, pushes, subjects, wire
from fleetlog_schemas.spec import Shell, TaskSpec
from fleetlog_schemas.view import AttemptView, TaskView, task_view
from fleetlog_testing.agent_process import AgentProcess
from fleetlog_testing.server import LOOK_S, STOP_S_MAX, Server, processes_naming
from fleetlog_testing.waiting import until

END_S_MAX = 90
"""Longest wait for one fact or for the end of a task of a few seconds."""
SERVICES = ("dispatcher", "scheduler", "result-recorder", "reporter", "keeper", "gateway")
WAIT_OFFLINE_MS = 60_000


class Host(AgentProcess):
    """A joined host and its agent."""

    def __init__(self, host_id: str, folder: Path) -> None:
        self.host_id = host_id
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return self.folder.name

    def reach_by(self, port: int) -> None:
        """Let the next start of its agent reach the bus by this port of the machine."""
        identity = read_identity(self.folder)
        write_identity(self.folder, msgspec.structs.replace(identity, nats_urls=(f"nats://127.0.0.1:{port}",)))


class Judge:
    """What really ran, by the lines that commands wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def command(self, between: str = "sleep 1", last: str = "") -> Shell:
        """Return a payload that writes a line, does what is given, writes another line, and does what is *last*."""
        file = shlex.quote(str(self.path))
        line = f'"$FLEETLOG_TASK_ID $FLEETLOG_HOST_ID $FLEETLOG_ATTEMPT %s" >> {file}'
        return Shell(argv=("/bin/sh", "-c", f"echo {line % 'began'}; {between}; echo {line % 'ended'}; {last}"))

    def in_order(self) -> list[str]:
        """Return the lines as they were written."""
        return self.path.read_text().splitlines()

    def lines(self) -> Counter[str]:
        """Return every line and how often it stands there."""
        return Counter(self.in_order())

    def began(self, task_id: str) -> int:
        """Return on how many hosts a task began."""
        return sum(line.startswith(task_id) and line.endswith("began") for line in self.lines())

    def agrees(self, views: Sequence[TaskView], lost_on: Collection[str] = ()) -> None:
        """Require that nothing ran twice and that every outcome is what the file says.

        `lost` is only right on the hosts *lost_on*, and there for every attempt that is not a success.
        """
        lines = self.lines()
        assert not [line for line, times in lines.items() if times > 1], "a command ran twice"
        known = set()
        for view in views:
            assert view.state == "ended", view
            for command in view.commands:
                for attempt in command.attempts:
                    name = f"{view.task_id} {command.host_id} {attempt.number}"
                    known |= {f"{name} began", f"{name} ended"}
                    self._agrees(lines, name, attempt, may_be_lost=command.host_id in lost_on)
        ids = {view.task_id for view in views}
        assert not {line for line in lines if line.split()[0] in ids} - known, "something ran that no attempt accounts for"

    def _agrees(self, lines: Counter[str], name: str, attempt: AttemptView, *, may_be_lost: bool) -> None:
        began, ended = lines[f"{name} began"], lines[f"{name} ended"]
        match attempt.outcome:
            case "success":
                assert (began, ended) == (1, 1), f"{name} succeeded, the file says otherwise"
            case "unreached":
                assert (began, ended) == (0, 0), f"{name} is unreached, and ran"
            case "lost":
                assert may_be_lost, f"{name} is lost: {attempt}"
            case _:
                raise AssertionError(f"{name} ended as {attempt.outcome}: {attempt}")


class Fleet:
    """A running system and its hosts."""

    def __init__(self, folder: Path, *options: str, separate: bool = True) -> None:
        """Prepare a system in *folder*; *options* go to `fleetlog up`.

        Services are *separate* processes where parts are killed; in one process they are up seconds earlier.
        """
        self.folder = folder
        self.judge = Judge(folder / "judge")
        self.hosts: dict[str, Host] = {}
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETLOG_")}
        self.separate = separate
        self.servers = self.make_servers(options)
        self._others: list[subprocess.Popen[bytes]] = []

    def make_servers(self, options: tuple[str, ...]) -> list[Server]:
        """Return what runs the bus and the services: one `up`, or one for each node."""
        return [Server(self.folder / "server", self.folder / "up.log", self.environment, *options, separate=self.separate)]

    @property
    def server(self) -> Server:
        """The one that a person works with."""
        return self.servers[0]

    @property
    def home(self) -> Home:
        """The home of that one."""
        return self.server.home

    # --- starting and ending --------------------------------------------------------------------------------

    async def start(self, *names: str, **labels: str) -> None:
        """Start everything, and have hosts of these names online."""
        for server in self.servers:
            server.begin()
        for server in self.servers:
            await server.ready()
        for name in names:
            self.join(name, **labels).start()
        await self.online(*names)

    def join(self, name: str, **labels: str) -> Host:
        """Make a host of this name, whose agent does not run yet."""
        invited = self.gateway.post("/hosts", {"name": name, "labels": labels})
        pinned = re.search(r"--ca-sha256 (\w+)", invited["line"])
        url = self.server.home.gateway_url()
        identity = join(self.folder / name, url, invited["token"], pinned.group(1) if pinned else "")
        host = self.hosts[name] = Host(identity.host_id, self.folder / name)
        return host

    def start_service(self, package: str, code: Path | None = None, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start one more instance of a service, of this version or of the release in *code*; nobody starts it again."""
        argv = [sys.executable, "-m", package, "--data", str(self.home.path), *options]
        environment |= {"PYTHONPATH": str(code)} if code else {}
        process = self.server.spawn(argv, self.folder / f"{package}.log", **environment)
        self._others.append(process)
        return process

    def close(self) -> None:
        """End everything. Raises AssertionError when an `up` did not stop cleanly or left a service behind."""
        agents = [host.process for host in self.hosts.values() if host.process and host.process.poll() is None]
        for process in agents:
            process.send_signal(signal.SIGTERM)
        for process in self._others:
            process.kill()
            process.wait(STOP_S_MAX)
        for process in agents:
            process.wait(STOP_S_MAX)
        for host in self.hosts.values():
            host.end()
        codes = [server.end() for server in self.servers]
        left = processes_naming(self.folder)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"processes were left: {left}"
        assert not any(codes), "\n".join(server.said() for server in self.servers)

    # --- looking --------------------------------------------------------------------------------------------

    @property
    def gateway(self) -> Gateway:
        """A new connection to the gateway."""
        return self.server.gateway

    @property
    def client(self) -> Client:
        """A new client."""
        return Client.over(self.gateway)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one command line."""
        return subprocess.run(
            self.server.argv(*words), capture_output=True, text=True, check=False, timeout=END_S_MAX, env=self.environment,
            stdin=subprocess.DEVNULL,
        )

    def diagnostics(self, name: str) -> str:
        """Return the diagnostics of a service."""
        return self.server.diagnostics(name)

    def shown(self, name: str) -> dict[str, Any]:
        """Return a host as the API shows it."""
        found: dict[str, Any] = self.gateway.get(f"/hosts/{self.hosts[name].host_id}")["data"]
        return found

    async def has(self, name: str, presence: str) -> None:
        """Wait until a host is `online`, `offline`, `refused` ..."""
        await until(
            lambda: self.shown(name)["presence"] == presence, END_S_MAX, f"{name} is {presence}", LOOK_S
        )

    async def online(self, *names: str) -> None:
        """Wait until hosts are online."""
        for name in names:
            await self.has(name, "online")

    # --- tasks ----------------------------------------------------------------------------------------------

    async def submit(self, payload: Shell, target: str = "all", task_id: str = "", **fields: object) -> str:
        """Submit a task and return its id; a gateway that is away is asked again with the same id."""
        task_id = task_id or new_task_id()
        spec = msgspec.convert(
            {"wait_offline_ms": WAIT_OFFLINE_MS, "payload": payload, "target": target, **fields}, TaskSpec
        )

        def acknowledged() -> bool:
            try:
                return self.client.submit(spec, task_id) == task_id
            except CliError as error:
                if error.code is Exit.UNREACHABLE:
                    return False
                raise

        await until(acknowledged, END_S_MAX, "a task is acknowledged", LOOK_S)
        return task_id

    async def began(self, task_id: str, hosts: int) -> None:
        """Wait until commands of a task began on so many hosts."""
        await until(lambda: self.judge.began(task_id) >= hosts, END_S_MAX, f"{task_id} began on {hosts} hosts")

    async def ended(self, *task_ids: str) -> list[TaskView]:
        """Wait for the end of tasks, and return what `show` and `replay` agree on."""
        for task_id in task_ids:
            await asyncio.to_thread(self.client.wait, task_id, END_S_MAX)
        return [await self._agreed(task_id) for task_id in task_ids]

    async def _agreed(self, task_id: str) -> TaskView:
        """Wait until the reporter has what the log has: then `show` is `replay`, byte for byte."""

        def shown() -> TaskView | None:
            try:
                view = self.client.show(task_id)
            except CliError as error:
                if error.code is Exit.UNREACHABLE:
                    return None
                raise
            return view if view.state == "ended" else None

        view = await until(shown, END_S_MAX, f"the reporter knows that {task_id} ended", LOOK_S)
        assert view is not None
        task = self.client.replay(task_id).task
        assert task is not None
        assert msgspec.json.encode(view) == msgspec.json.encode(task_view(task)), "replay is not what was shown"
        return view

    def log(self) -> list[codec.Event]:
        """Return every event of the log that can be read."""
        found = []
        for record in self.client.read_log():
            try:
                event = codec.decode(
                    bytes(record.event), seq=record.seq, subject=record.subject,
                    time_ms=codec.parse_rfc3339(record.stored_at),
                )
            except (codec.Malformed, codec.TooNew):
                continue
            found.append(event)
        return found

    def verify_projection(self) -> None:
        """Require that the projection is what the log gives."""
        verified = self.gateway.post("/verify/projection")["data"]
        assert verified["equal"], verified

    # --- faults ---------------------------------------------------------------------------------------------

    def pid(self, part: str) -> int:
        """Return the process id of a service or of `nats-server`."""
        return self.server.pid(part)

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> int:
        """End a service or `nats-server` with a signal and return the process id that it had; `up` starts it again."""
        return self.server.kill(part, number)

    def lose_machine(self) -> None:
        """End everything of the server at once, with SIGKILL, and delete its folder; the agents live on."""
        self.server.lose()
        shutil.rmtree(self.home.path)

    async def restarted(self, part: str, former_pid: int) -> None:
        """Wait until another process stands for *part*."""
        await self.server.restarted(part, former_pid)


async def active(bus: NatsBus, service: str = "dispatcher") -> int:
    """Return the process id of the instance of a service that holds leadership, or 0."""
    try:
        found = await bus.get_last(subjects.LEADERS, subjects.leader(service))
        holder = msgspec.json.decode(found.body, type=Holder)
    except (NotFound, msgspec.DecodeError):
        return 0  # nobody does: the message has expired
    return int(holder.instance.split("-")[-2]) if holder.instance else 0


@asynccontextmanager
async def as_agent(host: Host) -> AsyncIterator[NatsBus]:
    """Connect with the key of a host, beside its agent."""
    text = (host.folder / "identity.toml").read_text()
    bus = await NatsBus.connect(
        list(tomllib.loads(text)["nats_urls"]), host.folder / "creds", "beside the agent",
        inbox_prefix=f"_INBOX_{host.host_id}",
    )
    try:
        yield bus
    finally:
        await bus.close()


@asynccontextmanager
async def overheard(*hosts: Host) -> AsyncIterator[list[pushes.Push]]:
    """Collect what is pushed to hosts, in the order in which it comes."""
    heard: list[pushes.Push] = []

    async def push(_subject: str, body: bytes, _reply: str) -> None:
        signed: pushes.Signed = wire.decode(body, pushes.Signed)
        heard.append(wire.decode(signed.payload, pushes.Push))

    async with AsyncExitStack() as stack:
        for host in hosts:
            bus = await stack.enter_async_context(as_agent(host))
            await bus.subscribe(subjects.push(host.host_id), push)
        yield heard


def now_ms() -> int:
    """Return Unix milliseconds."""
    return time.time_ns() // 1_000_000
