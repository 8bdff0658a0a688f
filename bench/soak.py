"""Does anything grow? `python -m bench.soak --minutes 20`: the whole real system under steady mixed load, and slopes.

Services are processes of their own, agents too. Load is even over time: short tasks, failures that are retried, output,
scripts, cancels, reruns, readers of the API, watchers that come and go. Every few seconds each process is weighed. After
a warm-up a line is laid through each series (the median of the slopes between its points, which single samples do not
move). What must be flat and is not ends the run with 1; what may grow, files and the ids of a day, is shown with its price.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil

from bench.system import BenchError, System
from fleetlog.client import Client
from fleetlog.exits import CliError
from fleetlog.sse import Feed
from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.health import ask_health
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas.spec import Options, Retry, Script, Shell, TaskSpec

AGENTS = 10
SERVICES = ("dispatcher", "scheduler", "result-recorder", "reporter", "keeper", "gateway")
ASK_MS_MAX = 5_000
SAMPLE_SECONDS = 4.0
WARM_RATIO = 0.35
WARM_SECONDS_MIN = 240.0
"""This share of the time, and at least so long, warms up: the gateway's ring of the newest events is full after about 200 s of
this load, the bus's memory of message ids after 120, allocators reach their size, each kind of task has run."""
POINTS_MIN = 12
"""Fewer samples after the warm-up say nothing."""
TASK_PAUSE_SECONDS = 0.25
READ_PAUSE_SECONDS = 0.2
WATCH_SECONDS = (1.0, 6.0)
WATCHERS = 3

COUNTS_SPREAD = 3.0
"""Descriptors, threads and the like go up and down by a few with what just runs; a leak of one a minute does not."""
MEMORY_MIB_MAX = 3.0
"""What a process may gain by chance over a run: fragmentation, a larger transaction."""
MEMORY_BYTES_PER_TASK = {
    "dispatcher": 600, "scheduler": 200, "result-recorder": 100, "reporter": 18_000, "keeper": 200, "gateway": 600, "agent": 60, "holder": 60,
    "bus": 6_000,
}
"""What a process may keep of each ended task: the dispatcher, the reporter and the gateway remember ids of tasks and
requests for a day (some hundred bytes with their dictionary), the bus caches what it stores up to a limit of its own.
The reporter's database keeps what it stores in memory up to `reporter.memory_bytes_max`: in twenty minutes of this load both its file and its
memory grew by 17 KB for each task. An agent and its holder forget a command that is settled."""
MEMORY_MIB_ONCE = {"keeper": 40.0}
"""What a process may gain once: the keeper holds a segment of the archive, 16 MiB of it, plain and packed, while it seals the first one."""
FLAT = ("fds", "threads", "tasks", "connections", "subscriptions", "consumers")


def part_of(process: psutil.Process) -> str:
    """Return which part of the system a process is: a service by its name, bus, holder or agent."""
    words: list[str] = process.cmdline()
    for word in words:
        if word.startswith("fleetlog_") and word != "fleetlog_agent.main":
            return word.removeprefix("fleetlog_").replace("_", "-")
    if any("nats-server" in word for word in words):
        return "bus"
    if "-I" in words:
        return "holder"
    return "agent" if any("agent" in word for word in words) else "up"


class Load:
    """Everything that asks for something, on threads."""

    def __init__(self, system: System, seed: int) -> None:
        """Prepare it."""
        self._system, self._chance = system, random.Random(seed)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._guarded, args=(what,), daemon=True) for what in self._kinds()]
        self.submitted = 0
        self.troubles: list[str] = []

    def _kinds(self) -> Iterator[Callable[[Client], None]]:
        yield self._submit
        yield self._read
        for _ in range(WATCHERS):
            yield self._watch

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, and wait for all."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _guarded(self, what: Callable[[Client], None]) -> None:
        client = self._system.client()
        while not self._stop.is_set():
            try:
                what(client)
            except (CliError, OSError) as error:
                self.troubles.append(f"{what.__name__}: {error}")
                self._stop.wait(1.0)

    def _submit(self, client: Client) -> None:
        kinds = itertools.cycle((self._short, self._failing, self._writing, self._script, self._cancelled, self._short, self._rerun))
        for kind in kinds:
            if self._stop.wait(TASK_PAUSE_SECONDS):
                return
            kind(client)
            self.submitted += 1

    def _run(self, client: Client, *argv: str, **fields: Any) -> str:
        return client.submit(TaskSpec(payload=Shell(argv=argv), target=self._target(), timeout_ms=20_000, **fields))

    def _target(self) -> str:
        return self._chance.choice(("all", f"soak{self._chance.randrange(AGENTS):03d}"))

    def _short(self, client: Client) -> None:
        self._run(client, "true")

    def _failing(self, client: Client) -> None:
        self._run(client, "false", retry=Retry(attempts_max=3, backoff_ms=200))

    def _writing(self, client: Client) -> None:
        self._run(client, "/bin/sh", "-c", "seq 1 4000; seq 1 100 >&2")

    def _script(self, client: Client) -> None:
        number = self._chance.randrange(20)
        blob = client.put_blob(f"echo script {number}; cat".encode(), "soak.sh")
        stdin = client.put_blob(b"input\n" * (number + 1))
        client.submit(TaskSpec(payload=Script(content=blob), options=Options(stdin=stdin), target=self._target(), timeout_ms=20_000))

    def _cancelled(self, client: Client) -> None:
        task_id = self._run(client, "sleep", "15")
        self._stop.wait(0.3)
        client.gateway.post(f"/tasks/{task_id}/cancel", {})

    def _rerun(self, client: Client) -> None:
        # The newest that failed may still be open: then there is nothing to run again, and the answer says so.
        failed = client.gateway.get("/tasks?state=ended&outcome=failure&limit=1")["data"]["items"]
        for task in failed:
            client.gateway.post(f"/tasks/{task['task_id']}/rerun", {})

    def _read(self, client: Client) -> None:
        sql = "SELECT outcome, count(*) FROM commands GROUP BY ALL"
        for path in ("/tasks", "/hosts", "/stats?by=host", "/admission", "/tasks/last", "/tasks/last/progress", "/log?limit=20", "/queues"):
            client.gateway.get(path)
            if self._stop.wait(READ_PAUSE_SECONDS):
                return
        client.gateway.post("/sql", {"query": sql})

    def _watch(self, client: Client) -> None:
        feed = Feed(client.gateway.again(), "/events")
        try:
            until = time.monotonic() + self._chance.uniform(*WATCH_SECONDS)
            while (left := until - time.monotonic()) > 0 and not self._stop.is_set():
                feed.take(min(left, 0.5))
        finally:
            feed.close()


class Samples:
    """What was weighed, series by series."""

    def __init__(self, system: System) -> None:
        """Weigh *system*."""
        self._system = system
        self._began = time.monotonic()
        self.series: dict[tuple[str, str], list[tuple[float, float]]] = {}
        """By part and measure: seconds and value. Of agents and holders the sum over all."""

    def take(self, tasks: int) -> None:
        """Weigh once."""
        at = time.monotonic() - self._began
        found: dict[tuple[str, str], float] = {("load", "submitted"): tasks}
        for process in self._system.processes():
            with suppress(psutil.NoSuchProcess):
                part = part_of(process)
                for measure, value in (
                    ("memory", process.memory_full_info().pss / 1024**2), ("fds", process.num_fds()), ("threads", process.num_threads()),
                ):
                    found[part, measure] = found.get((part, measure), 0) + value
        found |= self._bus()
        found |= asyncio.run(self._tasks())
        found |= {("files", name): size / 1024**2 for name, size in self._files()}
        for key, value in found.items():
            self.series.setdefault(key, []).append((at, float(value)))

    def _bus(self) -> dict[tuple[str, str], float]:
        url = (self._system.folder / "nats" / "monitor_url").read_text().strip()
        server = _monitored(f"{url}/varz")
        storage = _monitored(f"{url}/jsz")
        return {
            ("bus", "connections"): server["connections"], ("bus", "subscriptions"): server["subscriptions"],
            ("bus", "consumers"): storage["consumers"],
        }

    async def _tasks(self) -> dict[tuple[str, str], float]:
        """Ask every service how it is."""
        home, seed = Home(self._system.folder), nats_auth.new_seed("user")
        jwt = nats_auth.free_user_jwt(home.seed("account-core"), "soak", nats_auth.public_key(seed), [">"])
        bus = await NatsBus.connect(home.nats_url(), (jwt, seed), "soak", inbox_prefix="_INBOX_soak")
        try:
            return {(name, "tasks"): float((await ask_health(bus, name, ASK_MS_MAX)).tasks) for name in SERVICES}
        finally:
            await bus.close()

    def _files(self) -> Iterator[tuple[str, int]]:
        for name in ("nats/jetstream", "reporter", "snapshots", "diagnostics", "joined"):
            yield name, _bytes_under(self._system.folder / name)


def _bytes_under(folder: Path) -> int:
    """Return the size of all files in a folder; files come and go while it is looked at."""
    size = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += path.stat().st_size if path.is_file() else 0
    return size


def _monitored(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return dict(msgspec.json.decode(answer.read()))


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the growth per second: the median of the slopes between all pairs of points (Theil and Sen)."""
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(points, 2) if b[0] > a[0]]
    return statistics.median(slopes) if slopes else 0.0


class Verdict(msgspec.Struct, frozen=True):
    """What is said of one series."""

    part: str
    measure: str
    first: float
    last: float
    per_hour: float
    allowed_per_hour: float | None
    """None: it may grow."""

    @property
    def grows(self) -> bool:
        """Whether it grew more than it may."""
        return self.allowed_per_hour is not None and self.per_hour > self.allowed_per_hour

    def line(self) -> str:
        """Return it as a line of a table."""
        word = "GROWS" if self.grows else "may grow" if self.allowed_per_hour is None else "flat"
        unit = " MiB" if self.measure == "memory" or self.part == "files" else ""
        allowed = "" if self.allowed_per_hour is None else f"   (at most {self.allowed_per_hour:,.1f})"
        return f"{self.part:16} {self.measure:16} {self.first:9.1f} -> {self.last:9.1f}{unit:4} {self.per_hour:+10.1f} an hour  {word}{allowed}"


def verdicts(series: dict[tuple[str, str], list[tuple[float, float]]]) -> list[Verdict]:
    """Judge every series. Raises BenchError when there is too little to judge."""
    ends = max(points[-1][0] for points in series.values())
    warm = max(WARM_SECONDS_MIN, WARM_RATIO * ends)
    steady = {key: [point for point in points if point[0] >= warm] for key, points in series.items()}
    steady = {key: points for key, points in steady.items() if points}
    tasks = steady.get(("load", "submitted"), [])
    if len(tasks) < POINTS_MIN:
        raise BenchError(f"{len(tasks)} samples after the warm-up say nothing: run for longer")
    hours = (tasks[-1][0] - tasks[0][0]) / 3600
    tasks_per_hour = 3600 * slope(tasks)
    found = []
    for (part, measure), points in sorted(steady.items()):
        allowed: float | None = None
        if measure in FLAT:
            allowed = COUNTS_SPREAD / hours
        elif measure == "memory" and part in MEMORY_BYTES_PER_TASK:
            many = AGENTS if part in ("agent", "holder") else 1
            allowed = many * (MEMORY_BYTES_PER_TASK[part] * tasks_per_hour / 1024**2 + MEMORY_MIB_ONCE.get(part, MEMORY_MIB_MAX) / hours)
        found.append(Verdict(part, measure, points[0][1], points[-1][1], 3600 * slope(points), allowed))
    return found


def soak(minutes: float, seed: int) -> list[Verdict]:
    """Run everything for so long and judge it."""
    with tempfile.TemporaryDirectory(prefix="fleetlog-soak-") as name, System(Path(name) / "home", "--processes", "--no-agent") as system:
        system.join(AGENTS, "soak")
        load, samples = Load(system, seed), Samples(system)
        load.start()
        try:
            until = time.monotonic() + 60 * minutes
            while time.monotonic() < until:
                time.sleep(SAMPLE_SECONDS)
                samples.take(load.submitted)
        finally:
            load.stop()
        for trouble in dict.fromkeys(load.troubles):
            sys.stderr.write(f"soak: {trouble}\n")
        sys.stdout.write(f"{load.submitted} tasks in {minutes:g} minutes, {len(load.troubles)} requests answered with an error\n")
        return verdicts(samples.series)


def main() -> int:
    """Read the arguments, run, and say what grows."""
    parser = argparse.ArgumentParser(prog="just soak", description="Run the whole system under load and see what grows.")
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (default 20); the first four only warm up")
    parser.add_argument("--seed", type=int, default=1, help="of the load")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the verdicts here")
    options = parser.parse_args()
    found = soak(options.minutes, options.seed)
    sys.stdout.write("".join(f"{one.line()}\n" for one in found))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    growing = [f"{one.part} {one.measure}" for one in found if one.grows]
    sys.stdout.write(f"growing: {', '.join(growing)}\n" if growing else "flat\n")
    return 1 if growing else 0


if __name__ == "__main__":
    sys.exit(main())
