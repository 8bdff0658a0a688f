"""What a large fleet costs beside a small one: one task on all of it, presence, memory, descriptors, bytes.

The agents are simulated (`bench.crowd`), everything else is real: services as processes of their own, so that each is
weighed alone. Costs are given as processor time of each command too, for that says the same on a busy machine. The
machine's own part in it are one durable append for each batch and one message there and back for each host.
"""

from __future__ import annotations

import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from bench import measure
from bench.figures import Figure
from bench.system import BenchError, System
from fleetlog.sse import Item

IDLE_SECONDS = 20.0
"""Two heartbeats of everybody."""
PARTS = ("dispatcher", "result_recorder", "reporter", "gateway", "nats-server")
SERVICES = PARTS[:-1]
NOTICED_SECONDS_MAX = 90.0
OFFLINE = "fleetlog.host.offline.v1"
SMALL = 100
SMALL_ROUNDS = 20
"""A task on so few hosts is over in no time: many are needed to see what each costs."""


class Weighed(msgspec.Struct, frozen=True):
    """The processes at one moment, by part; bytes of the log, and of the reporter's file."""

    cpu: dict[str, float]
    memory: dict[str, float]
    descriptors: dict[str, int]
    log_bytes: int
    table_bytes: int


def weigh(system: System) -> Weighed:
    """Weigh everything once."""
    cpu, memory, descriptors = dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0.0), dict.fromkeys(PARTS, 0)
    for process in system.processes():
        words = " ".join(process.cmdline())
        part = next((part for part in PARTS if part in words), None)
        if part is not None:
            cpu[part] += sum(process.cpu_times()[:2])
            memory[part] += process.memory_full_info().pss / 1024
            descriptors[part] += process.num_fds()
    table = sum(path.stat().st_size for path in (system.folder / "reporter").glob("*.duckdb*"))
    return Weighed(cpu, memory, descriptors, _log_bytes(system), table)


def _log_bytes(system: System) -> int:
    url = (system.folder / "nats" / "monitor_url").read_text().strip()
    with urllib.request.urlopen(f"{url}/jsz?accounts=true&streams=true", timeout=10) as answer:
        found: dict[str, Any] = msgspec.json.decode(answer.read())
    streams = [stream for account in found["account_details"] for stream in account.get("stream_detail", ())]
    return int(next(stream["state"]["bytes"] for stream in streams if stream["name"] == "EVENTS"))


@contextmanager
def _standing(count: int) -> Iterator[tuple[System, list[subprocess.Popen[bytes]], Weighed, float]]:
    with measure.fresh_system("--processes", "--no-agent") as system:
        before, began = weigh(system), time.perf_counter()
        with measure.crowd(system, count) as processes:
            yield system, processes, before, time.perf_counter() - began


def _one_task(system: System, count: int, rounds: int) -> tuple[list[float], dict[str, float], float, float]:
    """Return seconds of each round, microseconds of each part for a command, and bytes of log and tables for one."""
    client = system.client()
    watcher = measure.Watcher(client)
    measure.fan_out_once(client, watcher, "bench=sim", count)
    before = weigh(system)
    seconds = [measure.fan_out_once(client, watcher, "bench=sim", count) for _ in range(rounds)]
    time.sleep(1.0)  # what is written behind the answer belongs to it
    after = weigh(system)
    watcher.feed.close()
    commands = rounds * count
    spent = {part: 1e6 * (after.cpu[part] - before.cpu[part]) / commands for part in PARTS}
    return seconds, spent, (after.log_bytes - before.log_bytes) / commands, (after.table_bytes - before.table_bytes) / commands


def fleet(count: int, rounds: int) -> list[Figure]:
    """Measure *count* simulated agents, and SMALL ones for comparison."""
    with _standing(SMALL) as (system, _, _, _):
        few_seconds, few, few_log, _ = _one_task(system, SMALL, SMALL_ROUNDS)
    few_cpu = sum(few.values())
    with _standing(count) as (system, processes, before, joined):
        figures = [Figure(f"{count:,} agents joined and online", "s", (joined,))]
        figures += _presence(system, count, before)
        seconds, many, log_bytes, table_bytes = _one_task(system, count, rounds)
        figures += [
            Figure(f"one task on {SMALL} agents", "s", tuple(few_seconds)),
            Figure(f"one task on {count:,} agents", "s", tuple(seconds)),
            Figure(f"a command among {SMALL}: processor time of bus and services", "us", (few_cpu,)),
            Figure(f"a command among {count:,}: processor time of bus and services", "us", (sum(many.values()),), limit=few_cpu),
            *(Figure(f"  of it {part}", "us", (many[part],), limit=few[part] or None) for part in PARTS),
            Figure(f"a command among {SMALL}: in the log", "B", (few_log,)),
            Figure(f"a command among {count:,}: in the log", "B", (log_bytes,)),
            Figure(f"a command among {count:,}: in the reporter's file", "B", (table_bytes,), note="it grows by blocks of 256 KiB"),
        ]
        figures += _noticed(system, processes)
    return figures


def _presence(system: System, count: int, before: Weighed) -> list[Figure]:
    first = weigh(system)
    time.sleep(IDLE_SECONDS)
    second = weigh(system)
    busy = {part: 100 * (second.cpu[part] - first.cpu[part]) / IDLE_SECONDS for part in PARTS}
    memory = {part: (second.memory[part] - before.memory[part]) / count for part in PARTS}
    descriptors = (second.descriptors["nats-server"] - before.descriptors["nats-server"]) / count
    note = f"{count:,} agents, a heartbeat each 10 s"
    return [
        Figure("presence: CPU of one core, services", "%", (sum(busy[part] for part in SERVICES),), note=f"{note}; goal 10 %"),
        *(Figure(f"  of it {part}", "%", (busy[part],)) for part in SERVICES),
        Figure("presence: CPU of one core, bus", "%", (busy["nats-server"],), note=note),
        *(Figure(f"an idle host: memory of {part}", "KiB", (memory[part],)) for part in PARTS),
        Figure("an idle host: descriptors of the bus", "", (descriptors,)),
    ]


def _noticed(system: System, processes: list[subprocess.Popen[bytes]]) -> list[Figure]:
    """Return how long it takes until a host that says goodbye, and one that falls silent, are offline in the log."""
    client = system.client()
    watcher = measure.Watcher(client)
    measure.fan_out_once(client, watcher, "sim00003", 1)  # from here on the feed surely is there
    found = []
    for word, number, note in (("goodbye", 1, ""), ("mute", 2, "by default, dispatch stops after 20 s and offline is said after 60 s")):
        line = processes[0].stdin
        assert line is not None
        line.write(f"{word} {number}\n".encode())
        line.flush()
        began = time.perf_counter()
        _until_offline(watcher)
        found.append(Figure(f"noticed: {word}", "s", (time.perf_counter() - began,), note=note))
    watcher.feed.close()
    return found


def _until_offline(watcher: measure.Watcher) -> None:
    deadline = time.perf_counter() + NOTICED_SECONDS_MAX
    while time.perf_counter() < deadline:
        item = watcher.feed.take(1.0)
        if isinstance(item, Item) and item.event == OFFLINE:
            return
    raise BenchError(f"nobody noticed within {NOTICED_SECONDS_MAX:g} s")
