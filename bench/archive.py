"""What the archive costs: sealing a history, pruning it, and reading it from segments instead of from the bus."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog

from bench.figures import Figure
from bench.history import append_history
from bench.machine import bare_bus
from bench.projection import stored
from fleetlog_keeper.folder import Folder
from fleetlog_keeper.hands import Hands
from fleetlog_keeper.posting import Poster, trusting
from fleetlog_keeper.works import Check, Make
from fleetlog_runtime.pure.bus import Batch
from fleetlog_runtime.pure.egress import Allowed
from fleetlog_runtime.pure.settings import KeeperSettings
from fleetlog_runtime.shell.archived_bus import ArchivedBus
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas import archive_events, events, subjects
from fleetlog_schemas.ids import new_id


async def _say(bus: NatsBus, data: events.Data) -> None:
    now_ms = int(time.time() * 1000)
    await bus.append(Batch(drafts=(stored(data, now_ms, events.ARCHIVE),), message_id=new_id(now_ms, os.urandom(10))))


async def _read(bus: ArchivedBus, through_seq: int) -> float:
    began = time.perf_counter()
    async for chunk in bus.read(subjects.EVENTS, 1):
        if chunk and chunk[-1].seq >= through_seq:
            break
    return through_seq / (time.perf_counter() - began)


async def _measured(folder: Path, count: int, rounds: int) -> list[Figure]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    async with bare_bus(folder) as (home, bus):
        await append_history(bus, count)
        archived = ArchivedBus(bus, home.path / "archive")
        kept = Folder(home.path / "archive")
        kept.prepare()
        hands = Hands(archived, kept, KeeperSettings(), Poster(b"", Allowed(), trusting(None)), structlog.get_logger())
        last_seq = (await bus.state(subjects.EVENTS)).last_seq
        seconds = 0.0
        while True:
            known = await archived.segments.refresh()
            began = time.perf_counter()
            sealed: Any = await hands(Make(known.sealed_through + 1, last_seq, known.chain_head))
            if sealed is None:
                break
            seconds += time.perf_counter() - began
            await _say(bus, sealed)
        through_seq = known.sealed_through
        from_bus = [await _read(archived, through_seq) for _ in range(rounds)]
        began = time.perf_counter()
        await hands(Check(1, through_seq))
        checked = time.perf_counter() - began
        below = {subject: min(through_seq + 1, (await bus.get_last(subjects.EVENTS, subject)).seq) for subject in archive_events.PRUNABLE}
        await _say(bus, archive_events.LogPruned(through_seq=through_seq, below=below, reason="age"))
        began = time.perf_counter()
        gone = sum([await bus.purge(subjects.EVENTS, subject, below_seq) for subject, below_seq in below.items()])
        purged = time.perf_counter() - began
        from_archive = [await _read(archived, through_seq) for _ in range(rounds)]
        content = sum(one.bytes for one in known.sealed)
        files = sum(path.stat().st_size for path in kept.path.glob("*.segment"))
    return [
        Figure("archive: segments made, written and read back", "events/s", (through_seq / seconds,)),
        Figure("archive: segments checked", "events/s", (through_seq / checked,)),
        Figure("archive: purge on the bus", "events/s", (gone / purged,)),
        Figure("archive: size of the files, as a share of the events", "", (files / content,)),
        Figure("log read through the bus", "events/s", tuple(from_bus)),
        Figure("log read from the archive", "events/s", tuple(from_archive)),
    ]


def archive(count: int, rounds: int) -> list[Figure]:
    """Measure the archive of a history of *count* events."""
    with tempfile.TemporaryDirectory(prefix="fleetlog-bench-") as folder:
        return asyncio.run(_measured(Path(folder) / "home", count, rounds))
