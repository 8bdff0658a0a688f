"""A fleet on three nodes: each node an `up --processes` with a home of its own, on loopback or on machines of their own.

Everything of `Fleet` works on it. A person works with the first node that was not taken away; a test names nodes to
kill them, stop them, empty them, or cut them off. Which node leads a stream is asked of the bus.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fleetlog_runtime.pure.bus import NoAnswer, NotFound
from fleetlog_runtime.shell.key_bundle import export_keys, import_keys
from fleetlog_runtime.shell.leadership import Holder
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas import subjects
from fleetlog_testing import namespaces
from fleetlog_testing.fleet import END_S_MAX, Fleet
from fleetlog_testing.homes import connected
from fleetlog_testing.server import LOOK_S, Server
from fleetlog_testing.waiting import until

NAMES = ("a", "b", "c")
TASKS_AT_ONCE = 2
"""In flight under load: enough that every moment of a fault meets some of them in every state."""


class Cluster(Fleet):
    """Three nodes and their hosts."""

    def __init__(self, folder: Path, *options: str, machines: Sequence[namespaces.Machine] = ()) -> None:
        """Prepare a cluster in *folder*; with *machines*, each node runs on one of them."""
        self._machines = dict(zip(NAMES, machines, strict=False))
        self._away: set[str] = set()
        super().__init__(folder, *options)

    def make_servers(self, options: tuple[str, ...]) -> list[Server]:
        """Return one `up` for each node, with the keys of the first."""
        if self._machines:
            self._places = {name: machine.address for name, machine in self._machines.items()}
        else:
            ports = free_ports(2 * len(NAMES))
            self._places = {name: f"127.0.0.1:{ports.pop()}:{ports.pop()}" for name in NAMES}
        keys = self.folder / "keys.json"
        export_keys(self.folder / NAMES[0], keys)
        for name in NAMES[1:]:
            import_keys(self.folder / name, keys)
        self._words = options
        return [self._make_server(name, self.folder / name) for name in NAMES]

    def _make_server(self, name: str, home: Path) -> Server:
        members = [word for one, place in self._places.items() for word in ("--cluster", f"{one}={place}")]
        return Server(
            home, self.folder / f"{name}.up.log", self.environment, "--node", name, *members, *self._words,
            machine=self._machines.get(name),
        )

    async def replace(self, name: str) -> None:
        """Give the name of a node that is gone for good to a new one: another place, another home, the same keys."""
        self.node(name).lose()
        bus_port, route_port = free_ports(2)
        self._places[name] = f"127.0.0.1:{bus_port}:{route_port}"
        home = self.folder / "new" / name
        import_keys(home, self.folder / "keys.json")
        for index, one in enumerate(NAMES):
            with self.without(one):
                former = self.servers[index]
                assert await former.ended() == 0, former.said()
                self.servers[index] = self._make_server(one, home if one == name else former.home.path)
                self.servers[index].begin()
                if one != NAMES[0]:
                    # The first to come back has no majority before the second is there: the third is the new one.
                    await self.servers[index].ready()
        await self.servers[0].ready()

    @property
    def server(self) -> Server:
        """The first node that was not taken away."""
        return next(server for server in self.servers if server.name not in self._away)

    def node(self, name: str) -> Server:
        """Return a node."""
        return next(server for server in self.servers if server.name == name)

    # --- taking nodes away ----------------------------------------------------------------------------------

    @contextmanager
    def without(self, name: str) -> Iterator[Server]:
        """Work with other nodes meanwhile: this one is killed, stopped, cut off or started anew."""
        self._away.add(name)
        try:
            yield self.node(name)
        finally:
            self._away.discard(name)

    @contextmanager
    def stopped(self, name: str, *parts: str) -> Iterator[Server]:
        """Stop a node, or parts of it, where they stand, and let them go on in the end."""
        with self.without(name) as server:
            server.stop(*parts)
            try:
                yield server
            finally:
                server.go_on(*parts)

    @contextmanager
    def partitioned(self, name: str) -> Iterator[Server]:
        """Cut a node off from the other nodes, not from hosts or people; heal it in the end."""
        alone = self._machines[name]
        others = [machine for machine in self._machines.values() if machine is not alone]
        with self.without(name) as server:
            try:
                for other in others:
                    alone.lose_sight_of(other)
                    other.lose_sight_of(alone)
                yield server
            finally:
                for other in others:
                    alone.see_again(other)
                    other.see_again(alone)

    async def restart_emptied(self, name: str) -> None:
        """Start a node again after everything that it stored is gone."""
        with self.without(name) as server:
            server.lose()
            server.empty()
            await server.start()

    # --- looking --------------------------------------------------------------------------------------------

    async def leader(self, stream: str) -> str:
        """Return the node that leads a stream; empty while none does."""
        return str((await self._info(stream)).get("cluster", {}).get("leader", ""))

    async def in_step(self, *streams: str) -> None:
        """Wait until every node has what the leaders have."""
        for stream in streams or [one.name for one in subjects.STREAMS]:

            async def current(stream: str = stream) -> bool:
                copies = (await self._info(stream)).get("cluster", {}).get("replicas", [])
                return len(copies) == len(NAMES) - 1 and all(
                    copy.get("current") and not copy.get("offline") and not copy.get("lag") for copy in copies
                )

            await until(current, END_S_MAX, f"{stream} is in step on all nodes", LOOK_S)

    async def _info(self, stream: str) -> dict[str, Any]:
        try:
            async with connected(self.home, "operator") as bus:
                body = await bus.request(f"$JS.API.STREAM.INFO.{stream}", b"", 2_000)
        except NoAnswer:
            return {}
        found: dict[str, Any] = json.loads(body)
        return found

    async def active(self, service: str = "dispatcher") -> tuple[Server, int]:
        """Return the node and the process id of the instance that leads, waiting until there is one."""

        async def instance() -> tuple[Server, int] | None:
            async with connected(self.home, "operator") as bus:
                pid = await leading_pid(bus, service)
            for server in self.servers:
                if pid and server.pid(service) == pid:
                    return server, pid
            return None

        found = await until(instance, END_S_MAX, f"a {service} leads", LOOK_S)
        assert found is not None
        return found


async def leading_pid(bus: NatsBus, service: str = "dispatcher") -> int:
    """Return the process id of the instance that holds leadership, or 0."""
    try:
        found = await bus.get_last(subjects.LEADERS, subjects.leader(service))
        holder = msgspec.json.decode(found.body, type=Holder)
    except (NotFound, NoAnswer, msgspec.DecodeError):
        return 0  # nobody does: the message has expired
    return int(holder.instance.split("-")[-2]) if holder.instance else 0


@asynccontextmanager
async def load(cluster: Cluster) -> AsyncIterator[list[str]]:
    """Submit tasks one after the other for as long as the block lasts; in the end wait for all, and judge them."""
    tasks: list[str] = []
    enough = asyncio.Event()

    async def one_after_the_other() -> None:
        while not enough.is_set():
            task_id = await cluster.submit(cluster.judge.command())
            tasks.append(task_id)
            await cluster.began(task_id, len(cluster.hosts))

    submitting = [asyncio.create_task(one_after_the_other()) for _ in range(TASKS_AT_ONCE)]
    try:
        await until(lambda: len(tasks) >= TASKS_AT_ONCE, END_S_MAX, "tasks run")
        yield tasks
        until_now = len(tasks)
        await until(lambda: len(tasks) >= until_now + TASKS_AT_ONCE, END_S_MAX, "tasks run again")
    finally:
        enough.set()
        await asyncio.gather(*submitting)
    views = await cluster.ended(*tasks)
    assert {view.outcome for view in views} == {"success"}
    cluster.judge.agrees(views)


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody uses, below those that outgoing connections take."""
    found: list[int] = []
    for port in range(20_000 + (hash(str(Path.cwd())) + id(found)) % 8_000, 32_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")
