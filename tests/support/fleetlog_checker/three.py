"""The system on three nodes: each node and each host on a machine (network namespace) of its own, joined by a switch.

A cable that is pulled cuts a host off, or a node with its services; nodes can also lose sight of one another while
hosts and people still reach them all. Needs root, as namespaces do.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from fleetlog.http import Gateway
from fleetlog_checker.single import AGENT_OPTIONS, BRISK, ONLINE_S_MAX
from fleetlog_checker.system import REQUEST_S_MAX, AgentPart, HolderPart, Part, System, node_parts
from fleetlog_testing.cluster import NAMES, Cluster
from fleetlog_testing.namespaces import Machine, machines

SLOW_RATE = "80kbit"
SLOW_QUEUE = "400ms"
"""What waits for longer is dropped."""


class Cable:
    """What joins a machine to the switch."""

    faults = ("partition", "slow")

    def __init__(self, machine: Machine) -> None:
        """Stand for the cable of *machine*."""
        self._machine = machine
        self._slow = False

    def suffer(self, fault: str) -> bool:
        """Pull it, or let little through."""
        if fault == "partition":
            self._machine.pull_cable()
        elif fault == "slow":
            self._machine.slow_cable(SLOW_RATE, SLOW_QUEUE)
            self._slow = True
        return fault in self.faults

    def join(self) -> None:
        """Let everything pass again."""
        self._machine.plug_cable()
        if self._slow:
            self._machine.free_cable()
            self._slow = False

    async def close(self) -> None:
        """Nothing is left: the machine goes as a whole."""


class Routes:
    """What joins a node to the other nodes; hosts and people still reach it."""

    faults = ("partition",)

    def __init__(self, alone: Machine, others: list[Machine]) -> None:
        """Stand for the ways between *alone* and *others*."""
        self._alone, self._others = alone, others
        self._is_cut = False

    def suffer(self, fault: str) -> bool:
        """Let them lose sight of each other."""
        if fault not in self.faults:
            return False
        self._is_cut = True
        for other in self._others:
            self._alone.lose_sight_of(other)
            other.lose_sight_of(self._alone)
        return True

    def join(self) -> None:
        """Let them see each other again."""
        if self._is_cut:
            self._is_cut = False
            for other in self._others:
                self._alone.see_again(other)
                other.see_again(self._alone)

    async def close(self) -> None:
        """Nothing is left: the machine goes as a whole."""


class ThreeNodes(System):
    """Three nodes, each with one of each service, and as many hosts as wanted."""

    def __init__(self, folder: Path, agents: int) -> None:
        """Prepare it in *folder*."""
        super().__init__()
        self._folder = folder
        self._names = [f"web{number:02}" for number in range(1, agents + 1)]
        self._stack = ExitStack()
        self.cluster: Cluster | None = None

    async def start(self) -> None:
        """Start everything and wait until all hosts are online."""
        # Not in a thread: who is interrupted must know what there is to take away.
        made = self._stack.enter_context(machines(self._folder, *NAMES, *self._names))
        nodes, others = made[: len(NAMES)], made[len(NAMES) :]
        options = (word for setting in BRISK for word in ("--set", setting))
        self.cluster = cluster = Cluster(self._folder, *options, machines=nodes)
        self.home, self.judge = cluster.home, cluster.judge
        for server in cluster.servers:
            server.begin()
        for server, machine in zip(cluster.servers, nodes, strict=True):
            await server.ready()
            self._add_node(cluster, server.name, machine, [one for one in nodes if one is not machine])
        for name, machine in zip(self._names, others, strict=True):
            host = await asyncio.to_thread(cluster.join, name)
            host.options, host.machine = AGENT_OPTIONS, machine
            host.start()
            self.hosts.append(host)
            self.parts += [AgentPart(host, Cable(machine)), HolderPart(host)]
        await asyncio.wait_for(self._all_online(cluster), ONLINE_S_MAX)

    def _add_node(self, cluster: Cluster, name: str, machine: Machine, others: list[Machine]) -> None:
        routes = Part(f"routes of {name}", "routes", Routes(machine, others))
        parts = node_parts(f"node {name}", name, cluster.node(name), Cable(machine))
        parts[0].covers += (routes.name,)
        self.parts += [*parts, routes]
        self.gateways[f"gateway {name}"] = partial(self._gateway, name)

    def _gateway(self, name: str) -> Gateway:
        assert self.cluster is not None
        home = self.cluster.node(name).home
        return Gateway(home.gateway_url(), home.gateway_token(), home.tls_ca(), REQUEST_S_MAX)

    async def _all_online(self, cluster: Cluster) -> None:
        for host in self.hosts:
            while (await asyncio.to_thread(cluster.shown, host.name))["presence"] != "online":
                await asyncio.sleep(0.2)

    async def close(self) -> None:
        """End everything. Raises AssertionError when something was left behind."""
        try:
            for part in self.parts:
                if part.way is not None:
                    part.way.join()
                part.signal(signal.SIGCONT)
            if self.cluster is not None:
                await asyncio.to_thread(self.cluster.close)
        finally:
            await asyncio.to_thread(self._stack.close)


