"""A fleetlog of its own for measuring: started by the command people type, asked over its HTTP API, weighed by psutil."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from fleetlog.client import Client

READY_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 30.0
PAUSE_SECONDS = 0.02
FLEETLOG = str(Path(sys.executable).parent / "fleetlog")


class BenchError(Exception):
    """Something did not come up or did not end; the message carries the end of its diagnostics."""


def until(holds: Any, what: str, seconds_max: float = READY_SECONDS_MAX) -> float:
    """Wait until *holds* returns something true; return the seconds it took. Raises BenchError."""
    began = time.perf_counter()
    while not holds():
        if time.perf_counter() - began > seconds_max:
            raise BenchError(f"{what}: not within {seconds_max:g} s")
        time.sleep(PAUSE_SECONDS)
    return time.perf_counter() - began


class System:
    """One `fleetlog up`, and the agents that joined it."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
        self.agents: list[subprocess.Popen[bytes]] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it and return the seconds until it was ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "gateway" / "url").unlink(missing_ok=True)
        with (self.folder / "up.log").open("wb") as log:
            self._process = subprocess.Popen(
                [FLEETLOG, "up", "--data", str(self.folder), "--port", "0", *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )
        try:
            return until(self._is_ready, "fleetlog up")
        except BenchError as error:
            raise BenchError(f"{error}\n{self._log_tail()}") from None

    def _log_tail(self) -> str:
        return "\n".join((self.folder / "up.log").read_text(errors="replace").splitlines()[-20:])

    def _is_ready(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            raise BenchError(f"fleetlog up ended with {self._process.returncode}:\n{self._log_tail()}")
        return "\nready: " in f"\n{(self.folder / 'up.log').read_text(errors='replace')}"

    def client(self) -> Client:
        """Return a new client."""
        url = (self.folder / "gateway" / "url").read_text().strip()
        return Client(url, (self.folder / "gateway" / "token").read_text().strip())

    def join(self, count: int, prefix: str, policy: str = "") -> float:
        """Join *count* agents as processes of this machine, with this policy; return the seconds until all were online."""
        client, began = self.client(), time.perf_counter()
        for number in range(count):
            name = f"{prefix}{number:03d}"
            line = client.gateway.post("/hosts", {"name": name, "labels": {"bench": prefix}})["line"]
            folder = self.folder / "joined" / name
            command = [FLEETLOG, *shlex.split(line)[1:], "--no-start", "--data", str(folder)]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=READY_SECONDS_MAX)
            if policy:
                (folder / "policy.toml").write_text(policy)
            with (folder / "agent.log").open("ab") as log:
                self.agents.append(
                    subprocess.Popen(
                        [FLEETLOG, "agent", "run", "--data", str(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
                )
        until(lambda: self.online(prefix) >= count, f"{count} agents online", READY_SECONDS_MAX * 2)
        return time.perf_counter() - began

    def online(self, prefix: str) -> int:
        """Return how many hosts with the label bench=*prefix* are online."""
        query = f"SELECT count(*) FROM hosts WHERE presence = 'online' AND labels ->> 'bench' = '{prefix}'"
        return int(self.client().gateway.post("/sql", {"query": query, "limit": 1})["data"]["rows"][0][0])

    def processes(self) -> list[psutil.Process]:
        """Return every process of the system and of its agents."""
        roots = [one for one in (self._process, *self.agents) if one is not None and one.poll() is None]
        found = []
        for root in roots:
            process = psutil.Process(root.pid)
            found += [process, *process.children(recursive=True)]
        return found

    def stop(self) -> None:
        """End everything, agents first."""
        _end(self.agents)
        _end([self._process] if self._process else [])
        self.agents, self._process = [], None

    def __enter__(self) -> System:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    # Children are found before their parent ends: afterwards nobody could tell whose they were.
    children = [
        child for one in processes if one.poll() is None for child in psutil.Process(one.pid).children(recursive=True)
    ]
    for one in processes:
        if one.poll() is None:
            one.send_signal(signal.SIGTERM)
    deadline = time.perf_counter() + STOP_SECONDS_MAX
    for one in processes:
        try:
            one.wait(max(0.1, deadline - time.perf_counter()))
        except subprocess.TimeoutExpired:
            one.kill()
            one.wait()
    _, alive = psutil.wait_procs(children, timeout=2)
    for child in alive:
        child.kill()


def part_of(process: psutil.Process) -> str:
    """Return which part of the system a process is: bus, holder, agent or services."""
    words = " ".join(process.cmdline())
    if "nats-server" in words:
        return "bus"
    if "holder" in words:
        return "holder"
    return "agent" if "fleetlog_agent" in words or " agent run" in words else "services"


def footprint(processes: Sequence[psutil.Process], seconds: float) -> dict[str, tuple[float, float, int]]:
    """Return MiB (proportional share), CPU percent of one core over *seconds*, and processes, by part."""
    before = {process.pid: sum(process.cpu_times()[:2]) for process in processes}
    time.sleep(seconds)
    found: dict[str, tuple[float, float, int]] = {}
    for process in processes:
        memory_mib = process.memory_full_info().pss / 1024**2
        cpu = 100 * (sum(process.cpu_times()[:2]) - before[process.pid]) / seconds
        total = found.get(part_of(process), (0.0, 0.0, 0))
        found[part_of(process)] = (total[0] + memory_mib, total[1] + cpu, total[2] + 1)
    return found


def load_is_calm(seconds: float = 1.0) -> bool:
    """Tell whether the machine is idle enough to measure on."""
    busy: float = psutil.cpu_percent(interval=seconds)
    return busy < 100 / (os.cpu_count() or 1) / 2
