"""Several machines on one: network namespaces on a switch, with cables to pull, each with a name and a /var/lib of its own.

A process of a machine sees only that machine's addresses, host name and /var/lib, so that the very line a person would
paste can be run. Whatever was started on a machine ends with it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fleetlog_testing.waiting import until

PRIVATE = "/var/lib"
"""What a machine has for itself: an agent that root starts keeps its data there."""
_ENTER = """
hostname "$1" && mount --bind "$2" "$3" && shift 3 && exec "$@"
"""
_ESTABLISHED = "01"
_switches = itertools.count()
_NOBODY = "02:00:00:00:00:fe"
"""A network card that no machine has."""


def missing() -> str:
    """Return why namespaces cannot be made here; nothing when they can."""
    if os.geteuid() != 0:
        return "needs root to make network namespaces"
    for tool in ("ip", "unshare", "mount", "hostname"):
        if shutil.which(tool) is None:
            return f"needs `{tool}` (Debian: apt-get install iproute2 util-linux mount hostname)"
    name = f"fleetlog-{os.getpid()}-probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"this kernel gives no network namespaces: {made.stderr.strip()}"
    entered = subprocess.run(
        ["ip", "netns", "exec", name, "unshare", "--mount", "--uts", "true"], capture_output=True, text=True, check=False
    )
    subprocess.run(["ip", "netns", "del", name], check=True)
    return "" if entered.returncode == 0 else f"this kernel gives no namespaces: {entered.stderr.strip()}"


class Machine:
    """One namespace, named like the machine it plays."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        """Make it, without a cable yet; its private folders and its diagnostics are in *folder*."""
        self.name = name
        self.address = address
        self.folder = folder
        self.namespace = f"fleetlog-{os.getpid()}-{name}"
        self.cable = f"to-{name}"[:15]
        self.private = folder / "var-lib"
        """What this machine sees as PRIVATE."""
        self.private.mkdir()
        _ip("netns", "add", self.namespace)
        _ip("-n", self.namespace, "link", "set", "lo", "up")

    def argv(self, *command: str) -> list[str]:
        """Return what runs *command* on this machine."""
        return [
            "ip", "netns", "exec", self.namespace, "unshare", "--mount", "--uts", "/bin/sh", "-c", _ENTER, "sh",
            self.name, str(self.private), PRIVATE, *command,
        ]

    def start(self, log: Path, *command: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to *log*."""
        with log.open("ab") as file:
            return subprocess.Popen(
                self.argv(*command), stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=dict(environment),
                start_new_session=True,
            )

    def run(self, *command: str, environment: Mapping[str, str], seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a process to its end."""
        return subprocess.run(
            self.argv(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, env=dict(environment),
            timeout=seconds, check=False,
        )

    def pids(self) -> list[int]:
        """Return every living process of this machine."""
        return [int(line) for line in _ip("netns", "pids", self.namespace).split()]

    def connections_to(self, port: int) -> int:
        """Return how many established connections lead from here to that port of somebody."""
        lines = _ip("netns", "exec", self.namespace, "cat", "/proc/net/tcp").splitlines()[1:]
        fields = [line.split() for line in lines]
        return sum(1 for one in fields if one[3] == _ESTABLISHED and int(one[2].split(":")[1], 16) == port)

    def pull_cable(self) -> None:
        """Cut this machine off: whatever is sent is lost, and nobody is told."""
        _ip("-n", self.namespace, "link", "set", self.cable, "down")

    def plug_cable(self) -> None:
        """Join it again."""
        _ip("-n", self.namespace, "link", "set", self.cable, "up")

    def slow_cable(self, rate: str, queue: str) -> None:
        """Let only so much through each second; what would wait for longer than *queue* is lost."""
        self._tc("add", "root", "tbf", "rate", rate, "burst", "8kb", "latency", queue)

    def free_cable(self) -> None:
        """Let everything through again."""
        self._tc("del", "root")

    def _tc(self, verb: str, *words: str) -> None:
        argv = ["ip", "netns", "exec", self.namespace, "tc", "qdisc", verb, "dev", self.cable, *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"tc qdisc {verb}: {done.stderr.strip()}"

    def remove(self) -> None:
        """End everything that runs here, and take the machine away."""
        for pid in self.pids():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        asyncio.run(until(lambda: not self.pids(), what=f"the end of everything on {self.name}"))
        _ip("netns", "del", self.namespace)


    def lose_sight_of(self, other: Machine) -> None:
        """Cut the way to one other machine only: what is sent there is lost, and nobody is told."""
        _ip("-n", self.namespace, "neigh", "replace", other.address, "lladdr", _NOBODY, "dev", self.cable, "nud", "permanent")

    def see_again(self, other: Machine) -> None:
        """Give the way to the other machine back."""
        _ip("-n", self.namespace, "neigh", "del", other.address, "dev", self.cable)


@contextmanager
def machines(folder: Path, *names: str) -> Iterator[tuple[Machine, ...]]:
    """Give machines that reach each other, and are reached from here, by a switch: 10.77.N.1, 10.77.N.2 and so on (10.78.N for a second switch)."""
    made: list[Machine] = []
    number = next(_switches)
    net = f"10.{77 + number}.{os.getpid() % 250}"
    switch = f"fl{os.getpid() % 1_000_000}-{number}"
    try:
        _ip("link", "add", switch, "type", "bridge")
        _ip("address", "add", f"{net}.254/24", "dev", switch)
        _ip("link", "set", switch, "up")
        for place, name in enumerate(names, 1):
            machine = Machine(name, f"{net}.{place}", Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder)))
            made.append(machine)
            plug = f"{switch}-{place}"
            _ip("link", "add", plug, "type", "veth", "peer", "name", machine.cable, "netns", machine.namespace)
            _ip("link", "set", plug, "master", switch, "up")
            _ip("-n", machine.namespace, "address", "add", f"{machine.address}/24", "dev", machine.cable)
            machine.plug_cable()
        yield tuple(made)
    finally:
        for machine in made:
            machine.remove()
        subprocess.run(["ip", "link", "del", switch], capture_output=True, check=False)


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise AssertionError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
