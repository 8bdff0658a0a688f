"""Ask a reporter for exports, and have something to export."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from fleetlog_reporter.made import FILE_PREFIX
from fleetlog_schemas import events
from fleetlog_testing.reporter_rig import LogBus, Running, reporter

PASSING = ("export-being-made", "behind")
"""Problems that go by: ask again."""


def with_reporter(tmp_path: Path, bus: LogBus, story: Callable[[Running], Awaitable[None]]) -> None:
    """Tell a story of a reporter of a log."""

    async def run() -> None:
        async with reporter(bus, tmp_path) as running:
            await story(running)

    asyncio.run(run())


async def piece(running: Running, **fields: Any) -> dict[str, Any]:
    """Ask until the export is made."""
    while (answer := await running.ask("export", **fields)).problem:
        assert answer.problem["code"] == "export-being-made", answer.problem
    found: dict[str, Any] = answer.data
    return found


async def exported(running: Running, what: str, form: str, limit_bytes: int = 524_288, **fields: Any) -> tuple[bytes, dict[str, Any]]:
    """Return an export, fetched piece by piece."""
    content, first = b"", None
    selection = {"what": what, "format": form, **fields}
    while first is None or len(content) < first["size"]:
        got = await piece(running, selection=selection, offset=len(content), limit_bytes=limit_bytes)
        first = first or got
        selection = got["selection"]
        content += base64.b64decode(got["data"])
    assert hashlib.sha256(content).hexdigest() == first["sha256"]
    return content, first


def lines(content: bytes) -> list[dict[str, Any]]:
    """Return the rows of NDJSON."""
    return [json.loads(line) for line in content.splitlines()]


def files_in(folder: Path) -> list[str]:
    """Return the names of the files that exports are in."""
    return sorted(path.name for path in folder.glob(f"{FILE_PREFIX}*"))


def written(bus: LogBus, *frames: tuple[str, int, bytes], kept: bool = True, **fields: Any) -> str:
    """Run a task that writes."""
    task = bus.planned("web01")
    bus.dispatched(task, "web01")
    seqs = [bus.frame("web01", 3, task, stream, offset, 1, data) if kept else 7 for stream, offset, data in frames]
    size = sum(len(data) for _, _, data in frames)
    summary = events.OutputSummary(
        slot=3, bytes=size, lines=1, frames=len(frames), sha256="0" * 64, first_seq=seqs[0], last_seq=seqs[-1], **fields
    )
    bus.ended(task, "web01", output=summary)
    bus.task_ended(task)
    return task


def untarred(content: bytes) -> dict[str, bytes]:
    """Return the files of a tar."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
