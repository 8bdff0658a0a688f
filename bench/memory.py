"""What hosts, commands and tasks cost: in the memory of those who fold the log, counted by tracemalloc, and on disk.

Each fold is fed the same events in this process: hosts, then tasks on all of them that stay open, then small tasks that
end. What the interpreter itself and the libraries need is not in these figures, nor what DuckDB and the bus hold.
"""

from __future__ import annotations

import gc
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from bench.decisions import Desk
from bench.figures import Figure
from bench.projection import HOSTS, one_task
from fleetlog_reporter.apply import Projector
from fleetlog_reporter.store import FILE_NAME, Store
from fleetlog_runtime.pure.bus import Stored
from fleetlog_schemas import codec
from fleetlog_schemas.codec import Event
from fleetlog_schemas.events import CATALOG
from fleetlog_schemas.file_events import FileSaved
from fleetlog_schemas.files import Files, apply
from fleetlog_schemas.spec import Shell, TaskSpec

OPEN_TASKS = 4
"""As many as a host has slots: all of them are in flight."""
ENDED_TASKS = 5_000
STORED_COMMANDS = 50_000
FILES, FILE_VERSIONS = 200, 50
MESSAGE_OVERHEAD_BYTES = 40
"""Of a stored message in its file: lengths, sequence, time, checksum, and the headers of a batch."""
TASKS_PER_TRANSACTION = 200


def _bytes_of(build: Callable[[], object]) -> tuple[object, int]:
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    built = build()
    gc.collect()
    return built, tracemalloc.get_traced_memory()[0] - before


class _Log:
    """Keeps what a desk stored and read back, as the log has it."""

    def __init__(self, hosts: int) -> None:
        self.stored: list[Stored] = []
        self.desk = Desk(hosts)
        original = self.desk.engine.deliver

        def deliver(events: list[Event], now_ms: int) -> None:
            self.stored += [Stored(one.seq, one.subject, one.time_ms, codec.encode(one), one.batch_end) for one in events]
            original(events, now_ms)

        self.desk.engine.deliver = deliver  # type: ignore[method-assign]


def _on_disk(hosts_of_task: int) -> tuple[float, float]:
    """Return the bytes of a command in the log and in the reporter's file, for tasks on so many hosts."""
    projector, seq, log_bytes = Projector(), 0, 0
    with tempfile.TemporaryDirectory(prefix="fleetlog-bench-") as folder:
        store = Store(Path(folder) / FILE_NAME)
        tasks = STORED_COMMANDS // hosts_of_task
        for number in range(tasks):
            now_ms = int(time.time() * 1000)
            for draft in one_task(now_ms, hosts_of_task).drafts:
                seq += 1
                log_bytes += len(draft.body) + len(draft.subject) + MESSAGE_OVERHEAD_BYTES
                projector.fold(Stored(seq, draft.subject, now_ms, draft.body))
            if number % TASKS_PER_TRANSACTION == TASKS_PER_TRANSACTION - 1 or number == tasks - 1:
                batch = projector.take()
                store.write(batch)
                projector.written(batch)
        store.connection.execute("CHECKPOINT")
        store.close()
        return log_bytes / STORED_COMMANDS, (Path(folder) / FILE_NAME).stat().st_size / STORED_COMMANDS


def _file_version_bytes() -> float:
    """Return what a listed version of a task file needs."""
    files = Files()

    def fold() -> None:
        for seq in range(1, FILES * FILE_VERSIONS + 1):
            number, version = seq % FILES, (seq - 1) // FILES + 1
            saved = FileSaved(
                path=f"team/scripts/file-{number:04d}.py", version=version, sha256=f"{seq:064x}", size=2_000,
                interpreter=("/usr/bin/env", "python3"), message=f"change number {version} of this file",
            )
            event = Event(id=f"e{seq}", source="/fleetlog/gateway/g1", data=saved, time_ms=seq, subject=CATALOG, authid="ann")
            apply(files, codec.decode(codec.encode(event), seq=seq, subject=CATALOG, time_ms=seq))

    return _bytes_of(fold)[1] / files.held


def memory(hosts: int) -> list[Figure]:
    """Count bytes on *hosts* hosts."""
    spec = TaskSpec(payload=Shell(argv=("true",)), target="all")
    tracemalloc.start()
    try:
        desk, for_hosts = _bytes_of(lambda: Desk(hosts))
        assert isinstance(desk, Desk)
        ids, for_open = _bytes_of(lambda: [desk.submit(spec)[0] for _ in range(OPEN_TASKS)])
        single = Desk(1)

        def run_many() -> None:
            for _ in range(ENDED_TASKS):
                single.end(single.submit(spec)[0], single.hosts[0])

        _, for_ended = _bytes_of(run_many)
        log = _Log(hosts)
        for _ in range(OPEN_TASKS):
            log.desk.submit(spec)
        projector = Projector()

        def fold() -> None:
            for one in log.stored:
                projector.fold(one)
            projector.take()

        _, for_reporter = _bytes_of(fold)
        for_version = _file_version_bytes()
    finally:
        tracemalloc.stop()
    del ids
    return [
        Figure("an online host: the dispatcher's fold", "B", (for_hosts / hosts,)),
        Figure("an open command: the dispatcher's fold", "B", (for_open / hosts / OPEN_TASKS,)),
        Figure("an ended task: what the dispatcher remembers for a day", "B", (for_ended / ENDED_TASKS,)),
        Figure("an open command: the reporter's fold", "B", (for_reporter / hosts / OPEN_TASKS,)),
        Figure("a listed version of a task file: the gateway's fold", "B", (for_version,)),
        *(
            Figure(f"a command of a task on {count} host{'s' * (count > 1)}: in the {place}", "B", (size,))
            for count in (1, 100, HOSTS)
            for place, size in zip(("log", "reporter's file"), _on_disk(count), strict=True)
        ),
    ]
