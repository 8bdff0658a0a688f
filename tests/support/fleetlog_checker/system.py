"""A system under test as a list of parts, each of which can be killed, stopped, continued, started again and cut off.

One machine or three is only a different list: faults (`faults.py`) know nothing but parts. A part says which process it
is now (a supervisor may have started it again), how it comes back, and by which path, if any, it reaches the bus.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from fleetlog.http import Gateway
from fleetlog_runtime.shell.home import Home
from fleetlog_testing.fleet import Host, Judge
from fleetlog_testing.server import PARTS, Server
from fleetlog_testing.waiting import until

BACK_S_MAX = 60
"""Until a part that was ended runs again: a supervisor pauses for up to 5 s, on a busy machine."""
REQUEST_S_MAX = 8.0
"""A writer's patience; the gateway's own for an append is 5 s."""


class Way(Protocol):
    """How a part reaches the others, as far as that can be disturbed."""

    faults: Collection[str]
    """Names of the faults that it can have."""

    def suffer(self, fault: str) -> bool:
        """Have a fault until `join`; tell whether it is one that it can have."""

    def join(self) -> None:
        """Let everything pass again."""

    async def close(self) -> None:
        """Leave nothing behind."""


class Part:
    """One process of the system, or a way between parts."""

    process_faults: Collection[str] = ()

    def __init__(self, name: str, kind: str, way: Way | None = None, host_id: str = "") -> None:
        self.name = name
        self.kind = kind
        self.way = way
        self.host_id = host_id
        self.covers: tuple[str, ...] = ()
        """Other parts that are hit when this one is."""

    def pid(self) -> int:
        """Return its process, or 0 when there is none now."""
        return 0

    def may_suffer(self, fault: str) -> bool:
        """Tell whether a fault can hit it."""
        return fault in self.process_faults or (self.way is not None and fault in self.way.faults)

    def signal(self, number: int) -> int:
        """Send a signal to it, and return its process; 0 when there is none."""
        pid = self.pid()
        if not pid:
            return 0
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return 0
        return pid

    async def come_back(self) -> None:
        """Run again, if it does not."""

    async def close(self) -> None:
        """Leave nothing behind."""
        if self.way is not None:
            await self.way.close()


class NodePart(Part):
    """A whole node at once, as when its machine dies: `up`, its services and its bus."""

    process_faults = ("kill", "stop", "restart")

    def __init__(self, name: str, server: Server, way: Way | None = None) -> None:
        super().__init__(name, "node", way)
        self._server = server

    def pid(self) -> int:
        """Return its `up`, if it lives."""
        return self._server.up_pid

    def signal(self, number: int) -> int:
        """Send a signal to all of it; SIGTERM to `up` alone, which ends the others."""
        pid = self.pid()
        if number == signal.SIGTERM or not pid:
            return super().signal(number)
        if number == signal.SIGKILL:
            self._server.lose()
        elif number == signal.SIGSTOP:
            self._server.stop()
        else:
            self._server.go_on()
        return pid

    async def come_back(self) -> None:
        """Start it again, if it has ended."""
        if not self.pid():
            self._server.begin()


class SupervisedPart(Part):
    """A process that somebody else keeps running, and whose id is in a file."""

    process_faults = ("kill", "stop", "restart")

    def __init__(self, name: str, kind: str, pid_path: Path, way: Way | None = None) -> None:
        super().__init__(name, kind, way)
        self._pid_path = pid_path

    def pid(self) -> int:
        """Return the process of the file, if it lives."""
        try:
            pid = int(self._pid_path.read_text())
        except (OSError, ValueError):
            return 0
        return pid if is_alive(pid) else 0

    async def come_back(self) -> None:
        """Wait for the supervisor."""
        await until(lambda: self.pid() > 0, BACK_S_MAX, f"{self.name} is started again", 0.1)


class OwnPart(Part):
    """A process that nobody else starts again."""

    process_faults = ("kill", "stop", "restart")

    def __init__(self, name: str, kind: str, argv: Sequence[str], log: Path, way: Way | None = None) -> None:
        super().__init__(name, kind, way)
        self._argv = list(argv)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def pid(self) -> int:
        """Return its process, if it lives."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    async def come_back(self) -> None:
        """Start it, if it does not run."""
        if not self.pid():
            self._start()

    def _start(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FLEETLOG_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=kept, start_new_session=True
            )

    async def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        await super().close()


class AgentPart(Part):
    """An agent of a host; what it runs is under its holder."""

    process_faults = ("kill", "stop", "restart")

    def __init__(self, host: Host, way: Way | None) -> None:
        super().__init__(f"agent {host.name}", "agent", way, host.host_id)
        self.host = host

    def pid(self) -> int:
        """Return its process, if it lives."""
        process = self.host.process
        return process.pid if process is not None and process.poll() is None else 0

    async def come_back(self) -> None:
        """Start it, if it does not run."""
        if not self.pid():
            self.host.start()


class HolderPart(Part):
    """The holder of a host; its agent starts another one with the next command."""

    process_faults = ("kill", "stop")

    def __init__(self, host: Host) -> None:
        super().__init__(f"holder {host.name}", "holder", None, host.host_id)
        self.host = host

    def pid(self) -> int:
        """Return the process of the holder, if there is one now."""
        return next(iter(self.host.holders()), 0)


class System:
    """Everything that runs, and how it is reached."""

    judge: Judge
    home: Home

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.hosts: list[Host] = []
        self.gateways: dict[str, Callable[[], Gateway]] = {}
        """Name of a gateway to a new connection to it."""
        self.led_by: Callable[[str], str] = lambda _service: ""
        """Service to the part that leads it now, as far as known."""

    async def start(self) -> None:
        """Start everything and wait until all hosts are online."""

    async def close(self) -> None:
        """End everything. Raises AssertionError when something was left behind."""

    def kinds(self) -> list[str]:
        """Return the kinds of parts that there are."""
        return list(dict.fromkeys(part.kind for part in self.parts))

    async def heal(self) -> None:
        """Let every part run and reach the others, whatever was done to it."""
        for part in self.parts:
            if part.way is not None:
                part.way.join()
            part.signal(signal.SIGCONT)
        for part in self.parts:
            await part.come_back()


def node_parts(name: str, suffix: str, server: Server, way: Way | None = None) -> list[Part]:
    """Return the parts of a node, the whole of it first."""
    whole = NodePart(name, server, way)
    inside: list[Part] = [
        SupervisedPart(f"bus {suffix}", "bus", server.home.path / "nats" / "pid"),
        *(
            SupervisedPart(f"{service} {suffix}", service, server.home.path / "run" / f"{service}.pid")
            for service in PARTS if service != "nats-server"
        ),
    ]
    whole.covers = tuple(part.name for part in inside)
    return [whole, *inside]


def is_alive(pid: int) -> bool:
    """Tell whether a process runs or is stopped, rather than gone or a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")
