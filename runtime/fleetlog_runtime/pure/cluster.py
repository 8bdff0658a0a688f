"""The nodes of a cluster, as a person writes them: `a=10.0.0.5, b=10.0.0.6, c=10.0.0.7`. Pure.

Every node has the same list, and every stream has a copy on every node. So the list says everything: whom to connect
to, how many copies there are, how many nodes are a majority, and who makes the streams: the first, so that two
nodes never make different ones.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

import msgspec

from fleetlog_runtime.pure.settings import SettingsError

BUS_PORT = 4222
"""Where clients and agents reach the bus of a node."""
ROUTE_PORT = 6222
"""Where nodes reach each other."""
SIZES = (3, 5)
"""Of two, each alone is no majority; with four, no more may be lost than with three. The server copies to five at most."""
PLACE = "cluster.members"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,29}")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:\[\]]+)(?::(\d{1,5}))?(?::(\d{1,5}))?")


class Node(msgspec.Struct, frozen=True):
    """One node: its name and where it is reached."""

    name: str
    address: str
    bus_port: int = BUS_PORT
    route_port: int = ROUTE_PORT

    @property
    def loopback(self) -> bool:
        """Whether only its own machine can reach it."""
        return self.address in ("localhost", "::1") or self.address.startswith("127.")

    @property
    def bus(self) -> str:
        """Address and port of its bus."""
        return f"{self._bracketed}:{self.bus_port}"

    @property
    def route(self) -> str:
        """Address and port for other nodes."""
        return f"{self._bracketed}:{self.route_port}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.address}]" if ":" in self.address else self.address


class Cluster(msgspec.Struct, frozen=True):
    """All nodes, and which of them this is."""

    own: Node
    nodes: tuple[Node, ...]

    @property
    def others(self) -> tuple[Node, ...]:
        """The nodes beside this one."""
        return tuple(node for node in self.nodes if node != self.own)

    @property
    def first(self) -> bool:
        """Whether this node makes the streams."""
        return self.own == self.nodes[0]

    @property
    def majority(self) -> int:
        """How many nodes must agree."""
        return len(self.nodes) // 2 + 1

    @property
    def tls(self) -> bool:
        """Whether the bus speaks TLS: whenever another machine can reach it."""
        return not self.own.loopback

    def urls(self) -> list[str]:
        """Return where clients reach the bus, this node first."""
        scheme = "tls" if self.tls else "nats"
        return [f"{scheme}://{node.bus}" for node in (self.own, *self.others)]


def parse_cluster(members: str, node: str = "", own_addresses: Collection[str] = ()) -> Cluster | None:
    """Return the cluster that the settings mean, or None for one node alone.

    *node* names this one; when it is empty, this is the only node whose address is among *own_addresses*.

    Raises:
        SettingsError: they do not say which nodes there are, or which of them this is.
    """
    nodes = tuple(_node(part.strip()) for part in members.split(",") if part.strip())
    if not nodes:
        if node:
            raise SettingsError(f"node {node!r} of which cluster? Name all nodes: --cluster NAME=ADDRESS for each")
        return None
    _check(nodes)
    return Cluster(_own(nodes, node, own_addresses), nodes)


def _node(text: str) -> Node:
    name, equals, where = text.partition("=")
    found = _ADDRESS.fullmatch(where.strip())
    if not equals or found is None or not _NAME.fullmatch(name.strip()):
        raise SettingsError(
            f"{PLACE}: {text!r} is not NAME=ADDRESS[:BUS-PORT[:ROUTE-PORT]], for instance a=10.0.0.5"
            " (names of lower-case letters, digits and dashes)"
        )
    address, bus_port, route_port = found.groups()
    ports = int(bus_port or BUS_PORT), int(route_port or ROUTE_PORT)
    if not all(0 < port <= 65_535 for port in ports):
        raise SettingsError(f"{PLACE}: {text!r} has a port that is not between 1 and 65535")
    if address in ("0.0.0.0", "[::]"):  # noqa: S104 - compared, not bound
        raise SettingsError(f"{PLACE}: {text!r}: other machines cannot connect to {address}; give this machine's address")
    return Node(name.strip(), address.strip("[]"), *ports)


def _check(nodes: tuple[Node, ...]) -> None:
    for what, found in (
        ("name", [node.name for node in nodes]),
        ("address", [text for node in nodes for text in (node.bus, node.route)]),
    ):
        twice = next((one for one in found if found.count(one) > 1), None)
        if twice is not None:
            raise SettingsError(f"{PLACE}: the {what} {twice} stands there twice")
    if len(nodes) not in SIZES:
        raise SettingsError(f"{PLACE}: a cluster has {' or '.join(map(str, SIZES))} nodes, not {len(nodes)}")
    if len({node.loopback for node in nodes}) > 1:
        raise SettingsError(f"{PLACE}: either every node is on loopback or none: others cannot reach 127.0.0.1")


def _own(nodes: tuple[Node, ...], name: str, own_addresses: Collection[str]) -> Node:
    names = ", ".join(node.name for node in nodes)
    if name:
        found = [node for node in nodes if node.name == name]
        if not found:
            raise SettingsError(f"cluster.node: there is no node {name!r} among {names}")
        return found[0]
    found = [node for node in nodes if _plain(node.address) in {_plain(address) for address in own_addresses}]
    if len(found) != 1:
        raise SettingsError(f"which node is this machine? Say --node NAME, one of {names}")
    return found[0]


def _plain(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address
