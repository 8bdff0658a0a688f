"""What much output costs: one command, or several at once, that write numbered lines below their quota; all is read back.

The lines are numbered so that one that is lost or comes twice is seen, wherever it is.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.figures import Figure
from bench.measure import TASK_SECONDS_MAX, Watcher, fan_out_once
from bench.system import BenchError, System, part_of
from fleetlog.client import Client
from fleetlog_schemas.spec import Options, Shell, TaskSpec

LINE_BYTES = 100
MEGABYTE = 1_000_000
AT_ONCE = 4
"""As many commands as a host runs at once by default."""
SAMPLE_SECONDS = 0.2
"""Between two looks at the memory: each costs the processes a few milliseconds."""
SETTLE_SECONDS = 5.0
"""How long the end of the output may take to be readable once the command has ended."""
PAGE_BYTES = 524_288
"""Asked for at once: the most that the API gives."""


def output(system: System, megabytes: int, rounds: int) -> list[Figure]:
    """Return rates, memory and losses of *megabytes* megabytes, written by one command and by several at once."""
    watcher = Watcher(system.client())
    fan_out_once(system.client(), watcher, "all", 1)  # the first one also starts the holder
    watcher.feed.close()
    return [*_written_by(1, system, megabytes, rounds), *_written_by(AT_ONCE, system, megabytes, rounds)]


def _written_by(commands: int, system: System, megabytes: int, rounds: int) -> list[Figure]:
    client = system.client()
    watcher = Watcher(client)
    lines = megabytes * MEGABYTE // LINE_BYTES // commands
    written, read, lost, peaks = [], [], [], list[dict[str, float]]()
    for _ in range(rounds):
        with _peaks(system) as peak:
            began = time.perf_counter()
            task_ids = [client.submit(_spec(lines)) for _ in range(commands)]
            watcher.until_tasks_ended(commands)
            written.append(megabytes / (time.perf_counter() - began))
        peaks.append(peak)
        began = time.perf_counter()
        lost.append(float(sum(_lines_lost(client, task_id, lines) for task_id in task_ids)))
        read.append(megabytes / (time.perf_counter() - began))
    watcher.feed.close()
    name = f"{'one command' if commands == 1 else f'{commands} commands at once'} writing {megabytes} MB"
    return [
        Figure(f"{name}: written and stored", "MB/s", tuple(written)),
        Figure(f"{name}: read back through the API", "MB/s", tuple(read)),
        Figure(f"{name}: lines lost below its quota", "lines", tuple(lost), note=f"of {lines * commands:,}"),
        *(
            Figure(f"{name}: most memory of {part} (PSS)", "MiB", tuple(peak.get(part, 0.0) for peak in peaks))
            for part in sorted({part for peak in peaks for part in peak})
        ),
    ]


def _spec(lines: int) -> TaskSpec:
    payload = Shell(argv=("seq", "-f", f"%0{LINE_BYTES - 1}.0f", "1", str(lines)))
    options = Options(output_bytes_max=2 * lines * LINE_BYTES)
    return TaskSpec(payload=payload, target="all", timeout_ms=int(1000 * TASK_SECONDS_MAX), options=options)


@contextmanager
def _peaks(system: System) -> Iterator[dict[str, float]]:
    """Note the most memory of each part meanwhile, in MiB."""
    peak: dict[str, float] = {}
    over = threading.Event()

    def look() -> None:
        processes = [(part_of(process), process) for process in system.processes()]
        while not over.wait(SAMPLE_SECONDS):
            now: dict[str, float] = {}
            for part, process in processes:
                now[part] = now.get(part, 0.0) + process.memory_full_info().pss / 1024**2
            for part, memory_mib in now.items():
                peak[part] = max(memory_mib, peak.get(part, 0.0))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _lines_lost(client: Client, task_id: str, lines: int) -> int:
    """Return how many of the lines are not where they belong. Raises BenchError when the end does not come."""
    host = client.show(task_id).commands[0].host
    found, after, rest, next_line = 0, 0, "", 1
    deadline = time.perf_counter() + SETTLE_SECONDS
    while True:
        page = client.gateway.get(f"/tasks/{task_id}/output", host=host, after_frame=after, limit_bytes=PAGE_BYTES)["data"]
        for chunk in page["chunks"]:
            *whole, rest = (rest + chunk["text"]).split("\n")
            for line in whole:
                number = int(line)
                found += number >= next_line
                next_line = max(next_line, number + 1)
        if page["complete"]:
            return lines - found
        if page["next_frame"] != after:
            deadline = time.perf_counter() + SETTLE_SECONDS
        elif time.perf_counter() > deadline:
            raise BenchError(f"the end of the output of task {task_id} is not readable after {SETTLE_SECONDS:g} s")
        after = page["next_frame"]
