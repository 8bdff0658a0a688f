"""The system on one machine: `fleetlog up --processes`, one standby of each service, and agents behind paths of their own.

The standbys and the agents reach the bus by a `Link`, so they can be cut off. A standby has a home of its own that
shares the keys of the first one; its projection, its snapshots and its address are its own.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from fleetlog.http import Gateway
from fleetlog_checker.system import REQUEST_S_MAX, AgentPart, HolderPart, OwnPart, System, node_parts
from fleetlog_runtime.shell.files import private_folder
from fleetlog_runtime.shell.home import Home
from fleetlog_testing.fleet import Fleet
from fleetlog_testing.links import Link
from fleetlog_testing.waiting import until

BRISK = (
    "dispatcher.suspect_ms=4000", "dispatcher.offline_ms=9000", "dispatcher.resend_ms=1000", "dispatcher.resend_ms_max=8000",
)
"""A host is suspect and offline within the time of one fault, so that what follows from that is met in minutes."""
AGENT_OPTIONS = (
    "--set", "agent.kill_grace_ms=300", "--set", "agent.heartbeat_ms=1500", "--set", "agent.report_repeat_ms=10000",
)
SERVICES = ("dispatcher", "scheduler", "result-recorder", "reporter", "gateway")
SHARED = ("keys", "creds", "tls")
OWN = ("nats", "gateway", "reporter", "snapshots", "run", "diagnostics")
ONLINE_S_MAX = 90


class OneMachine(System):
    """One node, two of each service, and as many agents as wanted."""

    def __init__(self, folder: Path, agents: int) -> None:
        """Prepare it in *folder*."""
        super().__init__()
        self.fleet = Fleet(folder, *(word for setting in BRISK for word in ("--set", setting)))
        self.home, self.judge = self.fleet.home, self.fleet.judge
        self._names = [f"web{number:02}" for number in range(1, agents + 1)]

    async def start(self) -> None:
        """Start everything and wait until all hosts are online."""
        await self.fleet.start()
        self.parts += node_parts("node 1", "1", self.fleet.server)
        for service in SERVICES:
            self.parts.append(await self._standby(service))
        self.gateways = {"gateway 1": lambda: self._gateway(self.home), "gateway 2": lambda: self._gateway(self._second)}
        for name in self._names:
            await self._join(name)
        await asyncio.wait_for(self._all_online(), ONLINE_S_MAX)

    @property
    def _second(self) -> Home:
        return Home(self.fleet.folder / "second")

    def _gateway(self, home: Home) -> Gateway:
        return Gateway(home.gateway_url(), self.home.gateway_token(), self.home.tls_ca(), REQUEST_S_MAX)

    async def _standby(self, service: str) -> OwnPart:
        link = Link(self.home.nats_url)
        await link.open()
        # One folder for each of them would do for all but the file that says where the bus is: each has a path of its own.
        home = self._second if service == "gateway" else Home(self.fleet.folder / f"second-{service}")
        private_folder(home.path)
        for name in SHARED:
            if (self.home.path / name).exists():
                (home.path / name).symlink_to(self.home.path / name)
        for name in OWN:
            private_folder(home.path / name)
        (home.path / "nats" / "url").write_text(link.url)
        (home.path / "gateway" / "token").symlink_to(self.home.path / "gateway" / "token")
        argv = [sys.executable, "-m", f"fleetlog_{service.replace('-', '_')}", "--data", str(home.path), "--set", "gateway.port=0"]
        argv += [word for setting in BRISK for word in ("--set", setting)]
        part = OwnPart(f"{service} 2", service, argv, self.fleet.folder / f"{service}-2.log", link)
        await part.come_back()
        if service == "gateway":
            await until((home.path / "gateway" / "url").exists, ONLINE_S_MAX, "the second gateway serves", 0.1)
        return part

    async def _join(self, name: str) -> None:
        host = await asyncio.to_thread(self.fleet.join, name)
        link = Link(self.home.nats_url)
        await link.open()
        host.options = (*AGENT_OPTIONS, "--bus", link.url)
        host.start()
        self.hosts.append(host)
        self.parts += [AgentPart(host, link), HolderPart(host)]

    async def _all_online(self) -> None:
        for host in self.hosts:
            while (await asyncio.to_thread(self.fleet.shown, host.name))["presence"] != "online":
                await asyncio.sleep(0.2)

    async def close(self) -> None:
        """End everything. Raises AssertionError when something was left behind."""
        for part in self.parts:
            part.signal(signal.SIGCONT)
            await part.close()
        await asyncio.to_thread(self.fleet.close)
