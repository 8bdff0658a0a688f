"""What is measured of fleetlog, each as a person or program would meet it: over the HTTP API, until it is readable there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.figures import Figure, percentile
from bench.system import FLEETLOG, PAUSE_SECONDS, READY_SECONDS_MAX, BenchError, System, footprint, until
from fleetlog.client import Client, new_task_id
from fleetlog.sse import Feed, Item
from fleetlog_schemas.spec import Shell, TaskSpec

ENDED = "fleetlog.task.ended.v1"
TASK_SECONDS_MAX = 120.0
LATENCY_SAMPLES = 200
IDLE_SECONDS = 10.0
SETTLE_SECONDS = 3.0
CLI_SAMPLES = 10
BATCH_TASKS = 1_000
AGENTS_PER_PROCESS = 5_000
"""Simulated agents in one process: one core can speak for about so many."""


@contextmanager
def fresh_system(*options: str) -> Iterator[System]:
    """Run a system on a folder of its own, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="fleetlog-bench-") as folder, System(Path(folder) / "home", *options) as system:
        yield system


def spec_of(target: str, name: str = "") -> TaskSpec:
    """Return the smallest task there is."""
    return TaskSpec(payload=Shell(argv=("true",)), target=target, name=name, timeout_ms=60_000)


class Watcher:
    """A live feed of the whole log, kept open, to see ends without asking."""

    def __init__(self, client: Client) -> None:
        self.feed = Feed(client.gateway.again(), "/events")

    def until_ended(self, task_id: str) -> None:
        """Return when the end of this task is in the log. Raises BenchError."""
        deadline = time.perf_counter() + TASK_SECONDS_MAX
        while time.perf_counter() < deadline:
            item = self.feed.take(deadline - time.perf_counter())
            if isinstance(item, Item) and item.event == ENDED and task_id in str(item.data):
                return
        raise BenchError(f"task {task_id} did not end within {TASK_SECONDS_MAX:g} s")

    def until_tasks_ended(self, count: int) -> None:
        """Return when the ends of so many tasks have come by. Raises BenchError."""
        deadline = time.perf_counter() + TASK_SECONDS_MAX
        while count > 0:
            item = self.feed.take(deadline - time.perf_counter())
            if isinstance(item, Item) and item.event == "fleetlog.task.ended.v1":
                count -= len(msgspec.json.decode(item.data)["event"]["data"]["tasks"])
            elif time.perf_counter() > deadline:
                raise BenchError(f"{count} tasks did not end within {TASK_SECONDS_MAX:g} s")


def fan_out_once(client: Client, watcher: Watcher, target: str, hosts: int) -> float:
    """Run one task on *hosts* hosts; return the seconds from submitting to the last outcome readable."""
    return run_once(client, watcher, spec_of(target), hosts)


def run_once(client: Client, watcher: Watcher, spec: TaskSpec, hosts: int) -> float:
    """Run a task on *hosts* hosts; return the seconds from submitting to the last outcome readable. Raises BenchError."""
    began = time.perf_counter()
    task_id = client.submit(spec)
    watcher.until_ended(task_id)
    task = client.show(task_id)
    seconds = time.perf_counter() - began
    if task.counts != {"success": hosts}:
        raise BenchError(f"task {task_id} on {hosts} hosts ended as {task.counts}")
    return seconds


def fan_out(system: System, target: str, hosts: int, rounds: int, name: str) -> Figure:
    """Return the seconds of one task on many hosts."""
    client = system.client()
    watcher = Watcher(client)
    fan_out_once(client, watcher, target, hosts)  # the first one also starts holders
    samples = tuple(fan_out_once(client, watcher, target, hosts) for _ in range(rounds))
    watcher.feed.close()
    return Figure(name, "s", samples)


def latency(client: Client, watcher: Watcher, spec: TaskSpec, what: str, samples: int = LATENCY_SAMPLES) -> list[Figure]:
    """Return how long one no-op task on one host takes on an idle system."""
    for _ in range(5):
        run_once(client, watcher, spec, 1)
    waits = [1000 * run_once(client, watcher, spec, 1) for _ in range(samples)]
    groups = [waits[start::5] for start in range(5)]
    return [
        Figure(f"latency of {what}, p50", "ms", tuple(percentile(group, 0.50) for group in groups), note=f"{samples} tasks"),
        Figure(f"latency of {what}, p99", "ms", (percentile(waits, 0.99),), note=f"max {max(waits):.1f} ms"),
    ]


def shell_latency(system: System) -> list[Figure]:
    """Return how long one `true` takes on an idle system."""
    client = system.client()
    watcher = Watcher(client)
    try:
        return latency(client, watcher, spec_of("all"), "one `true`")
    finally:
        watcher.feed.close()


def throughput_once(client: Client, watcher: Watcher, tasks: int, spec: TaskSpec) -> float:
    """Submit *tasks* tasks in batches on one host; return how many per second were readable as ended."""
    sent = msgspec.to_builtins(spec)
    began = time.perf_counter()
    for start in range(0, tasks, BATCH_TASKS):
        batch = [{"task_id": new_task_id(), "spec": sent} for _ in range(min(BATCH_TASKS, tasks - start))]
        client.gateway.post("/tasks/batch", {"tasks": batch})
    watcher.until_tasks_ended(tasks)
    ended = f"SELECT count(*) FROM tasks WHERE name = '{spec.name}' AND outcome = 'success'"
    until(lambda: _count(client, ended) >= tasks, f"{tasks} tasks", TASK_SECONDS_MAX)
    return tasks / (time.perf_counter() - began)


def _count(client: Client, query: str) -> int:
    time.sleep(PAUSE_SECONDS * 4)  # the question itself costs; ask rarely
    return int(client.gateway.post("/sql", {"query": query, "limit": 1})["data"]["rows"][0][0])


def throughput(system: System, tasks: int, rounds: int, starts_per_second: float, slots: int) -> Figure:
    """Return no-op tasks per second on one host, each in the log and readable."""
    client = system.client()
    watcher = Watcher(client)
    throughput_once(client, watcher, min(tasks, 100), spec_of("all", "warm-up"))
    samples = tuple(throughput_once(client, watcher, tasks, spec_of("all", f"round-{number}")) for number in range(rounds))
    name = f"`true` as {tasks} tasks on one host, {slots} slots"
    return Figure(name, "tasks/s", samples, limit=starts_per_second)


def idle(system: System) -> list[Figure]:
    """Return what an idle system weighs, by part, after one command has run (so that the holder is there)."""
    client = system.client()
    fan_out_once(client, Watcher(client), "all", 1)
    time.sleep(SETTLE_SECONDS)
    parts = footprint(system.processes(), IDLE_SECONDS)
    figures = []
    for part, (memory_mib, cpu, processes) in sorted(parts.items()):
        note = f"{processes} process" + ("" if processes == 1 else "es")
        figures.append(Figure(f"idle {part}: memory (PSS)", "MiB", (memory_mib,), note=note))
        figures.append(Figure(f"idle {part}: CPU of one core", "%", (cpu,)))
    figures.append(Figure("idle system: memory (PSS)", "MiB", (sum(one[0] for one in parts.values()),)))
    figures.append(Figure("idle system: CPU of one core", "%", (sum(one[1] for one in parts.values()),)))
    return figures


def start_up(rounds: int) -> list[Figure]:
    """Return how long a fresh system and a restarted one take until they are ready."""
    first, again = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="fleetlog-bench-") as folder:
            system = System(Path(folder) / "home")
            try:
                first.append(system.start())
                system.stop()
                again.append(system.start())
            finally:
                system.stop()
    return [
        Figure("start of a new system until ready", "s", tuple(first)),
        Figure("start of a known system until ready", "s", tuple(again)),
    ]


def command_line(system: System) -> list[Figure]:
    """Return how long the command line itself takes."""
    data = ["--data", str(system.folder)]
    return [
        Figure("`fleetlog --version`", "ms", _timed(lambda: _run([FLEETLOG, "--version"]))),
        Figure("`fleetlog ls`", "ms", _timed(lambda: _run([FLEETLOG, "ls", *data]))),
    ]


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def _timed(call: Callable[[], None]) -> tuple[float, ...]:
    samples = []
    for _ in range(CLI_SAMPLES):
        began = time.perf_counter()
        call()
        samples.append(1000 * (time.perf_counter() - began))
    return tuple(samples)


@contextmanager
def crowd(system: System, count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep *count* simulated agents online, and give their processes, which obey lines (see `bench.crowd`)."""
    processes = []
    try:
        for first in range(0, count, AGENTS_PER_PROCESS):
            command = [sys.executable, "-m", "bench.crowd", "--data", str(system.folder), "--first", str(first)]
            command += ["--count", str(min(AGENTS_PER_PROCESS, count - first))]
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline().strip() != b"ready":
                raise BenchError(f"the crowd of {count} did not come up")
        until(lambda: system.online("sim") >= count, f"{count} simulated agents online", READY_SECONDS_MAX * 2)
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()
