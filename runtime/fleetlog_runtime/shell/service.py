"""What every service is given, and how one is started as a process of its own.

`open_context` connects one service with its own credentials; `service_main` is the whole of a `__main__.py`.
`fleetlog up` opens one context for each service and runs them in one loop: still only over the bus.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from fleetlog_runtime.pure.bus import ArchiveMissing, Bus, NoAnswer
from fleetlog_runtime.pure.settings import Settings, SettingsError
from fleetlog_runtime.shell import diagnostics
from fleetlog_runtime.shell.archive import folder_of
from fleetlog_runtime.shell.archived_bus import ArchivedBus
from fleetlog_runtime.shell.clock import Clock
from fleetlog_runtime.shell.health import Health
from fleetlog_runtime.shell.home import Home, HomeError, default_path
from fleetlog_runtime.shell.nats_bus import ConnectFailed, NatsBus, connect_user
from fleetlog_runtime.shell.settings_file import load_settings

EXIT_FAILED = 1
EXIT_TYPED_WRONG = 2
CONNECT_SECONDS_MAX = 30.0
"""How long a service waits for a bus that is just being started."""
CONNECT_RETRY_SECONDS = 0.25
COLLECT_OBJECTS = 10_000
"""New objects before cyclic garbage is looked for. Folding makes many that stay and hardly any cycle: with Python's
own 700, looking costs a twelfth of the services' CPU, and pauses that grow with what they remember."""


class Fatal(Exception):
    """The service cannot go on; the message says why and what to do. It is the last line of its diagnostics."""


@dataclasses.dataclass(kw_only=True)
class Context:
    """What a service works with."""

    name: str
    instance: str
    """Unique among everything that runs: it tells two dispatchers apart."""
    home: Home
    bus: Bus
    """The log reads as one on it, archive and stream."""
    settings: Settings
    clock: Clock
    stop: asyncio.Event
    """Set when the service must end."""
    log: Any
    """A structlog logger, bound to name and instance."""
    health: Health

    def ready(self) -> None:
        """Say that it serves."""
        if not self.health.ready.is_set():
            self.health.ready.set()
            self.log.info("ready")


Run = Callable[[Context], Awaitable[None]]


def new_instance() -> str:
    """Return a name for this start of a service."""
    return f"{instance_prefix(os.getpid())}{secrets.token_hex(3)}"


def instance_prefix(pid: int) -> str:
    """Return how the name of every instance in a process of this machine begins."""
    return f"{socket.gethostname().split('.')[0][:30]}-{pid}-"


@contextlib.asynccontextmanager
async def open_context(
    name: str, home: Home, settings: Settings, stop: asyncio.Event, *, wait_seconds: float = CONNECT_SECONDS_MAX
) -> AsyncIterator[Context]:
    """Connect a service as the user of its name, answer for its health, and disconnect in the end.

    Raises:
        ConnectFailed: the bus could not be reached within *wait_seconds*.
        HomeError: the home lacks something.
        Fatal: the bus ended the connection for good, or a part of the log is missing from the archive.
    """
    instance = new_instance()
    log = structlog.get_logger().bind(service=name, instance=instance)

    def on_connected(up: bool) -> None:
        log.info("connected to the bus") if up else log.warning("disconnected from the bus")

    bus = await _connect(name, home, settings, wait_seconds, on_connected)
    health = Health(name, instance)
    ended = asyncio.create_task(_stop_when_closed(bus, stop))
    try:
        await health.serve(bus)
        try:
            yield Context(
                name=name, instance=instance, home=home,
                bus=ArchivedBus(bus, folder_of(home.path, settings.keeper.archive_path)), settings=settings,
                clock=Clock(), stop=stop, log=log, health=health,
            )
        except ArchiveMissing as error:
            raise Fatal(str(error)) from None
        except NoAnswer:
            if not bus.closed.is_set():
                raise
        if bus.closed.is_set():
            raise Fatal(f"the bus ended the connection of {name}: its key or rights were withdrawn")
    finally:
        ended.cancel()
        await bus.close()


async def _stop_when_closed(bus: NatsBus, stop: asyncio.Event) -> None:
    await bus.closed.wait()
    stop.set()


async def _connect(
    name: str, home: Home, settings: Settings, wait_seconds: float, on_connected: Callable[[bool], None]
) -> NatsBus:
    deadline = asyncio.get_running_loop().time() + wait_seconds
    while True:
        try:
            # The URL may only be written when the bus is up.
            return await connect_user(
                home, name, on_connected=on_connected, append_seconds=settings.runtime.append_ms / 1000
            )
        except (ConnectFailed, HomeError):
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(CONNECT_RETRY_SECONDS)


def service_main(name: str, run: Run, argv: list[str] | None = None) -> None:
    """Run one service as a process: `python -m fleetlog_<service> --data DIR [--settings FILE] [--set G.N=V]`.

    Never returns: the exit code is 0 after a stop by signal, 1 after a failure, 2 when typed wrong.
    """
    parser = argparse.ArgumentParser(prog=f"fleetlog {name}", description=f"Run the {name} of one fleetlog home.")
    parser.add_argument("--data", type=Path, default=default_path(), metavar="DIR", help="the home (default %(default)s)")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="settings file (default DIR/settings.toml)")
    parser.add_argument("--set", action="append", default=[], metavar="GROUP.NAME=VALUE", help="one setting")
    given = parser.parse_args(argv)
    home = Home(given.data)
    try:
        settings = load_settings(given.data, given.set, given.settings)
    except SettingsError as error:
        print(f"fleetlog {name}: {error}", file=sys.stderr)  # noqa: T201 - before diagnostics are configured
        sys.exit(EXIT_TYPED_WRONG)
    diagnostics.configure(settings.runtime.log_level)
    try:
        run_loop(_serve(name, run, home, settings))
    except (Fatal, ConnectFailed, HomeError) as error:
        structlog.get_logger().bind(service=name).error("stopped", reason=str(error))
        sys.exit(EXIT_FAILED)
    sys.exit(0)


async def _serve(name: str, run: Run, home: Home, settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stop.set)
    async with open_context(name, home, settings, stop) as context:
        await run(context)


def run_loop(main: Any) -> Any:
    """Run a coroutine on uvloop, or on asyncio's own loop where uvloop is not installed."""
    gc.set_threshold(COLLECT_OBJECTS)
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
