"""The composition root: bus, services and an agent, started in order and stopped in the opposite one.

By default all services share one process and one loop, each with a bus connection of its own: they still meet only
over the bus. With `--processes` each is a child that is started again when it dies. The agent is always a child, so
that commands never depend on this process. This is the one module that knows every unit, and it knows them by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import logging
import shlex
import signal
import socket
import sys
import time
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from fleetlog.addresses import cluster_flags, cluster_of, own_names
from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import Gateway
from fleetlog.known import known_seq
from fleetlog.processes import Child, end_left_behind
from fleetlog_runtime.pure.bus import NoAnswer
from fleetlog_runtime.pure.settings import Settings, SettingsError
from fleetlog_runtime.shell import diagnostics
from fleetlog_runtime.shell.health import HealthAnswer, ask_health
from fleetlog_runtime.shell.home import Home, HomeError, create_home
from fleetlog_runtime.shell.nats_bus import ConnectFailed, NatsBus, connect_user
from fleetlog_runtime.shell.ports import free_port
from fleetlog_runtime.shell.service import Context, Fatal, instance_prefix, open_context, run_loop
from fleetlog_runtime.shell.settings_file import load_settings
from fleetlog_runtime.shell.supervisor import NatsServer, ServerError

SERVICES = {
    "dispatcher": "fleetlog_dispatcher",
    "scheduler": "fleetlog_scheduler",
    "result-recorder": "fleetlog_result_recorder",
    "reporter": "fleetlog_reporter",
    "keeper": "fleetlog_keeper",
    "gateway": "fleetlog_gateway",
}
"""In the order of starting: the gateway last, so that whoever reaches it is served."""
LED = ("dispatcher", "scheduler")
"""Services of which one is active."""
READY_S_MAX = 60.0
"""A reporter without its file first reads the whole log; a log larger than this allows says so and goes on."""
STOP_S_MAX = 30.0
ASK_MS_MAX = 500
POLL_S = 0.02
JOIN_S_MAX = 30.0
ONLINE_S_MAX = 15.0
"""How long `up` waits for its own agent before it says that it is ready without it."""
DIAGNOSTICS_BYTES_MAX = 16 * 1024 * 1024
"""The file is begun anew at a start when it is larger; the former one is kept once."""


def serves(health: HealthAnswer, *, standby_serves: bool) -> bool:
    """Tell whether a service does its work: one that only follows another does so only beside other nodes."""
    return health.ready and (standby_serves or health.leading or health.service not in LED)


class Hosted:
    """One service in this process."""

    def __init__(self, name: str, home: Home, settings: Settings, *, standby_serves: bool = False) -> None:
        """Prepare the service of that name."""
        self.name = name
        self._standby_serves = standby_serves
        self._home, self._settings = home, settings
        self._stop = asyncio.Event()
        self._context: Context | None = None
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load and start it."""
        run: Callable[[Context], Awaitable[None]] = importlib.import_module(f"{SERVICES[self.name]}.main").run
        self.task = asyncio.create_task(self._serve(run), name=self.name)

    async def _serve(self, run: Callable[[Context], Awaitable[None]]) -> None:
        async with open_context(self.name, self._home, self._settings, self._stop) as context:
            self._context = context
            await run(context)

    async def ready(self) -> bool:
        """Tell whether it serves. Raises what ended it, if something did."""
        if self.task is not None and self.task.done():
            self.task.result()
            raise Fatal(f"the {self.name} ended while it was started")
        if self._context is None:
            return False
        return serves(self._context.health.answer(), standby_serves=self._standby_serves)

    async def stop(self) -> None:
        """Let it end; after STOP_S_MAX it is cancelled."""
        self._stop.set()
        if self.task is None:
            return
        await asyncio.wait([self.task], timeout=STOP_S_MAX)
        if not self.task.done():
            structlog.get_logger().error("did not stop in time and is cancelled", service=self.name)
            self.task.cancel()
        (ended,) = await asyncio.gather(self.task, return_exceptions=True)
        if isinstance(ended, Exception):
            structlog.get_logger().error("ended badly", service=self.name, reason=repr(ended))


class Separate:
    """One service in a process of its own."""

    def __init__(self, name: str, child: Child, asked: NatsBus, *, standby_serves: bool = False) -> None:
        """Stand for *child*; its health is asked over *asked*."""
        self.name = name
        self._standby_serves = standby_serves
        self._child = child
        self._asked = asked
        self.start, self.stop = child.start, child.stop

    async def ready(self) -> bool:
        """Tell whether it serves."""
        try:
            # Other nodes have services of the same name.
            health = await ask_health(self._asked, self.name, ASK_MS_MAX, instance_prefix(self._child.pid))
            return serves(health, standby_serves=self._standby_serves)
        except NoAnswer:
            return False


class System:
    """Everything that `up` runs."""

    def __init__(self, home: Home, console: Console) -> None:
        """Prepare to run on *home* as the options say."""
        options = console.options
        self._home = home
        self._console = console
        flags = [*options.set, *cluster_flags(options)]
        cluster = cluster_of(load_settings(home.path, flags))
        listen = options.listen or (cluster.own.address if cluster else "")
        if listen:
            flags.append(f"gateway.listen={listen}")
        if options.port is not None:
            # A free port is chosen once: a gateway that is started again must be where its clients look for it.
            flags.append(f"gateway.port={options.port or free_port(listen or '127.0.0.1')}")
        self._flags = flags
        self._agent_folder = home.path / "agents" / "local"
        self.settings = load_settings(home.path, flags)
        listen = listen or "127.0.0.1"
        self._server = NatsServer(
            home, listen=listen, names=own_names(listen), cluster=cluster, say=console.say,
            known_seq=0 if cluster else known_seq(home.path),
        )
        self._standby_serves = cluster is not None
        self._watch: asyncio.Task[None] | None = None
        self._asked: NatsBus | None = None
        self._services: list[Hosted | Separate] = []
        self._agent: Child | None = None

    async def start(self) -> None:
        """Start bus, services and agent, and wait until they serve."""
        await self._server.start()
        # Only now: the bus holds the lock of this folder, so nobody else's processes are ended.
        await asyncio.to_thread(self._end_left_behind)
        self._watch = asyncio.create_task(self._server.watch(), name="nats-server")
        for name in () if self._console.options.no_services else SERVICES:
            service = await self._service(name)
            self._services.append(service)
            await service.start()
        await self._until_ready()
        if self._services and not self._console.options.no_agent:
            await self._start_agent()

    def _end_left_behind(self) -> None:
        """End what an `up` that was killed has left running; its bus is taken over by the supervisor."""
        run = self._home.path / "run"
        for name, module in SERVICES.items():
            end_left_behind(run / f"{name}.pid", (module, str(self._home.path)))
        end_left_behind(run / "agent.pid", ("agent", "run", str(self._agent_folder)))

    async def _service(self, name: str) -> Hosted | Separate:
        if not self._console.options.processes:
            return Hosted(name, self._home, self.settings, standby_serves=self._standby_serves)
        if self._asked is None:
            self._asked = await connect_user(self._home, "operator", "up")
        argv = [sys.executable, "-m", SERVICES[name], "--data", str(self._home.path)]
        argv += [word for flag in self._flags for word in ("--set", flag)]
        return Separate(name, Child(name, argv, self._home.path, self._console.say), self._asked,
                        standby_serves=self._standby_serves)

    async def _until_ready(self) -> None:
        deadline = time.monotonic() + READY_S_MAX
        for service in self._services:
            while not await service.ready():
                if time.monotonic() > deadline:
                    self._console.say(f"the {service.name} is still getting ready; see diagnostics/ in {self._home.path}")
                    break
                await asyncio.sleep(POLL_S)

    async def _start_agent(self) -> None:
        folder = self._agent_folder
        if not (folder / "identity.toml").exists() and not await self._join(folder):
            return
        argv = [sys.executable, "-m", "fleetlog.main", "agent", "run", "--data", str(folder)]
        # The bus may be elsewhere than when the agent joined: `--listen` was given, or no longer is.
        argv += [word for url in self._home.nats_urls() for word in ("--bus", url)]
        ca = self._home.tls_ca()
        argv += ["--bus-ca", str(ca)] if ca else []
        self._agent = Child("agent", argv, self._home.path, self._console.say)
        await self._agent.start()
        host_id = tomllib.loads((folder / "identity.toml").read_text())["host_id"]
        await asyncio.to_thread(self._until_online, host_id)

    def _until_online(self, host_id: str) -> None:
        """Wait for this machine's agent, so that the first command typed after `ready` finds it."""
        deadline = time.monotonic() + ONLINE_S_MAX
        gateway = Gateway(self._home.gateway_url(), self._home.gateway_token(), self._home.tls_ca())
        try:
            while time.monotonic() < deadline:
                # A reporter that is busy at the start must not end everything.
                with contextlib.suppress(CliError):
                    if gateway.get(f"/hosts/{host_id}")["data"]["presence"] in ("online", "revoked", "refused"):
                        return
                time.sleep(POLL_S)
            self._console.say(f"the agent of this machine is not online yet; see diagnostics/ in {self._home.path}")
        finally:
            gateway.close()

    async def _join(self, folder: Path) -> bool:
        """Join this machine under its own name; tell what to do when that name is taken."""
        name = socket.gethostname()
        gateway = Gateway(self._home.gateway_url(), self._home.gateway_token(), self._home.tls_ca())
        try:
            line = (await asyncio.to_thread(gateway.post, "/hosts", {"name": name}))["line"]
        except CliError as error:
            self._console.say(
                f"no agent on this machine: {error.message}\n  to join it under another name:"
                f" fleetlog host add NAME, then paste the line with --data {folder}"
            )
            return False
        finally:
            gateway.close()
        words = shlex.split(line)[1:]
        # The line names the address for other machines; this one reaches the gateway over loopback.
        words = [self._home.gateway_url() if word.startswith(("http://", "https://")) else word for word in words]
        argv = [sys.executable, "-m", "fleetlog.main", *words, "--data", str(folder), "--no-start"]
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(), JOIN_S_MAX)
        except TimeoutError:
            process.kill()
            said, _ = await process.communicate()
        if process.returncode != 0:
            self._console.say(f"no agent on this machine: joining failed:\n{said.decode(errors='replace')}")
        return process.returncode == 0

    async def ended(self) -> str:
        """Wait until something ends that must not, and return what."""
        watched = [service.task for service in self._services if isinstance(service, Hosted) and service.task]
        tasks: list[asyncio.Task[None]] = [*watched, self._watch] if self._watch else watched
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        first = done.pop()
        reason = None if first.cancelled() else first.exception()
        return f"{first.get_name()} ended: {reason or 'without a reason'}"

    async def stop(self) -> None:
        """Stop everything, what was started last first."""
        if self._agent is not None:
            await self._agent.stop()
        for service in reversed(self._services):
            await service.stop()
        if self._asked is not None:
            await self._asked.close()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._server.stop()


def run(console: Console) -> int:
    """Start everything, keep it running until a signal, stop it in order.

    Raises:
        CliError: it cannot be started.
    """
    try:
        home = create_home(console.place.folder)
        system = System(home, console)
        _diagnose_into(home.path / "diagnostics" / "up.log", system.settings.runtime.log_level)
        code: int = run_loop(_until_stopped(system, console))
    except SettingsError as error:
        raise CliError(Exit.TYPED_WRONG, str(error)) from None
    except OSError as error:
        raise CliError(Exit.CONFLICT, f"cannot start: {error}") from None
    except HomeError as error:
        raise CliError(Exit.CONFLICT, str(error)) from None
    except ModuleNotFoundError as error:
        raise CliError(
            Exit.INTERNAL, f"the server cannot start: the module {error.name} is missing", "pip install 'fleetlog[server]'"
        ) from None
    except ServerError as error:
        raise CliError(Exit.CONFLICT, str(error)) from None
    except (Fatal, ConnectFailed) as error:
        raise CliError(Exit.INTERNAL, str(error), f"see {console.place.folder / 'diagnostics'}") from None
    return code


def _diagnose_into(path: Path, level: str) -> None:
    """Send the services' diagnostics to a file: the terminal is for people."""
    if path.exists() and path.stat().st_size > DIAGNOSTICS_BYTES_MAX:
        path.replace(path.with_suffix(".log.1"))
    file = path.open("a", buffering=1)
    path.chmod(0o600)
    with contextlib.redirect_stderr(file):
        diagnostics.configure(level)
    logging.basicConfig(handlers=[_ToDiagnostics()], level=logging.WARNING)


class _ToDiagnostics(logging.Handler):
    """What libraries log goes where the services' diagnostics go."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        structlog.get_logger().warning(self.format(record), library=record.name)


async def _until_stopped(system: System, console: Console) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(system.start())
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return Exit.OK
        starting.result()
        _say_ready(console)
        broken = asyncio.create_task(system.ended())
        await asyncio.wait([broken, stopping], return_when=asyncio.FIRST_COMPLETED)
        if broken.done():
            raise Fatal(broken.result())
        broken.cancel()
        console.say("stopping")
        return Exit.OK
    finally:
        stopping.cancel()
        await system.stop()


def _say_ready(console: Console) -> None:
    folder = console.place.folder
    if console.options.no_services:
        urls = Home(folder).nats_urls()
        print(json.dumps({"ready": True, "bus": urls, "data": str(folder)}) if console.json else f"ready: {urls[0]}", flush=True)
        return
    url = (folder / "gateway" / "url").read_text().strip()
    if console.json:
        print(json.dumps({"ready": True, "url": url, "data": str(folder)}), flush=True)
        return
    named = f" --data {shlex.quote(str(folder))}" if console.options.data else ""
    print(
        f"ready: {url}  data in {folder}\n"
        f"  fleetlog{named} exec -t all -- uptime\n"
        f"  fleetlog{named} host add NAME       joins another machine\n"
        f"  fleetlog{named} doctor              checks everything\n"
        "Ctrl-C stops it.",
        flush=True,
    )
