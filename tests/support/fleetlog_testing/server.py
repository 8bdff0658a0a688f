"""One `fleetlog up` of a test: started, looked at, and every part of it killed, stopped, continued.

A part is a service or `nats-server`. What `up` starts again by itself (services, nats-server) is waited for with
`restarted`; a whole server that was killed or emptied is started again by the test. On a machine of its own
(`namespaces.Machine`) every process runs there.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from fleetlog.http import Gateway
from fleetlog_runtime.shell.home import Home
from fleetlog_testing.agent_process import processes
from fleetlog_testing.namespaces import Machine
from fleetlog_testing.waiting import until

READY_S_MAX = 90
"""Start-up on a machine that is busy with other things."""
STOP_S_MAX = 40
LOOK_S = 0.1
"""Between two looks that ask a service."""
PARTS = ("nats-server", "dispatcher", "scheduler", "result-recorder", "reporter", "keeper", "gateway")


class Server:
    """One home and its `up`."""

    def __init__(
        self, home: Path, log: Path, environment: Mapping[str, str], *options: str, machine: Machine | None = None,
        separate: bool = True,
    ) -> None:
        """Prepare it; *options* go to `fleetlog up`, what it says to *log*; its services may be *separate* processes."""
        self.home = Home(home)
        self.name = home.name
        self._log = log
        self._environment = dict(environment)
        self._options = (*options, "--processes") if separate else options
        self._machine = machine
        self._up: subprocess.Popen[bytes] | None = None

    def spawn(self, argv: list[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
        """Start a process on the machine of this server."""
        argv = self._machine.argv(*argv) if self._machine else argv
        with log.open("ab") as file:
            return subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**self._environment, **environment},
                start_new_session=True,
            )

    def argv(self, *words: str) -> list[str]:
        """Return a command line of fleetlog for this home."""
        return [sys.executable, "-m", "fleetlog.main", "--data", str(self.home.path), *words]

    # --- starting and ending --------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start it without waiting."""
        self._log.write_bytes(b"")
        words = ("up", "--no-agent", "--port", "0", *self._options)
        self._up = self.spawn(self.argv(*words), self._log)

    async def ready(self) -> None:
        """Wait until it says that it is ready."""
        await until(self._is_ready, READY_S_MAX, f"{self.name} is ready", LOOK_S)

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self.begin()
        await self.ready()

    def _is_ready(self) -> bool:
        assert self._up is not None
        assert self._up.poll() is None, self.said()
        return "ready:" in self.said()

    @property
    def up_pid(self) -> int:
        """The process of `fleetlog up`, or 0 when it does not run."""
        return self._up.pid if self._up is not None and self._up.poll() is None else 0

    def said(self) -> str:
        """Return what `up` said since its last start."""
        return self._log.read_text()

    def end(self) -> int:
        """Stop it as a person does, kill what does not end, and return the exit code of `up`."""
        if self._up is None or self._up.poll() is not None:
            return 0
        for pid in self.processes():
            _signal(pid, signal.SIGCONT)
        self._up.send_signal(signal.SIGTERM)
        try:
            return self._up.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._up.kill()
            return self._up.wait()

    async def ended(self) -> int:
        """Stop it as a person does, without keeping others waiting."""
        return await asyncio.to_thread(self.end)

    def lose(self) -> None:
        """End all of it at once with SIGKILL, as when the machine loses its power."""
        for _ in range(2):  # `up` may have been about to start one more
            for pid in self.processes():
                _signal(pid, signal.SIGKILL)
        if self._up is not None:
            self._up.wait(STOP_S_MAX)
            self._up = None

    def empty(self) -> None:
        """Take away everything that its bus stored and its services derived; the keys stay."""
        assert self._up is None, "it runs"
        for name in ("nats/jetstream", "snapshots", "reporter"):
            shutil.rmtree(self.home.path / name)

    # --- parts ----------------------------------------------------------------------------------------------

    def pid(self, part: str) -> int:
        """Return the process id of a part."""
        path = self.home.path / ("nats/pid" if part == "nats-server" else f"run/{part}.pid")
        return int(path.read_text())

    def kill(self, part: str, number: signal.Signals = signal.SIGKILL) -> int:
        """End a part with a signal and return the process id that it had."""
        pid = self.pid(part)
        os.kill(pid, number)
        return pid

    def stop(self, *parts: str) -> None:
        """Stop parts where they stand (SIGSTOP); none named: all of this server."""
        self._signal(parts, signal.SIGSTOP)

    def go_on(self, *parts: str) -> None:
        """Let parts that were stopped go on (SIGCONT); none named: all of this server."""
        self._signal(parts, signal.SIGCONT)

    def _signal(self, parts: Iterable[str], number: int) -> None:
        for pid in [self.pid(part) for part in parts] or self.processes():
            _signal(pid, number)

    async def restarted(self, part: str, former_pid: int, seconds: float = READY_S_MAX) -> None:
        """Wait until another process stands for *part*."""
        await until(lambda: self.pid(part) != former_pid, seconds, f"{part} of {self.name} is started again")

    def processes(self) -> list[int]:
        """Return the processes whose command line names the home."""
        return processes_naming(self.home.path)

    def diagnostics(self, part: str) -> str:
        """Return the diagnostics of a service."""
        return (self.home.path / "diagnostics" / f"{part}.log").read_text()

    @property
    def gateway(self) -> Gateway:
        """A new connection to its gateway."""
        return Gateway(self.home.gateway_url(), self.home.gateway_token(), self.home.tls_ca())


def processes_naming(folder: Path) -> list[int]:
    """Return the processes whose command line names a folder or something in it."""
    found = []
    for pid in processes():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        whole, inside = str(folder).encode(), f"{folder}/".encode()
        if pid != os.getpid() and any(word == whole or inside in word for word in command):
            found.append(pid)
    return found


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
