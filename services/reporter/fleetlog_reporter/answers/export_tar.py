"""What commands left, as files of a tar or as lines: their output, and the artifacts of builds."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import hashlib
import io
import tarfile
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import msgspec

from fleetlog_reporter.answers.desk import Desk, NoAnswer
from fleetlog_reporter.answers.find import At, with_task
from fleetlog_reporter.answers.output import Place, frames_of, place_of
from fleetlog_runtime.shell import stored_artifacts
from fleetlog_schemas import limits, reports
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.exports import Selection, What
from fleetlog_schemas.records import Attempt, Command, Task

MANIFEST = "MANIFEST.ndjson"
"""The last file of a tar: a line for each other one, with its digest, and for each that is missing, with why."""


Spools = dict[reports.Stream, IO[bytes]]
"""Where a file of a tar is gathered, before its size is known."""


class _Left(msgspec.Struct, frozen=True):
    """One attempt that may have left something."""

    task_id: str
    host: str
    host_id: str
    attempt: Attempt
    place: Place
    is_last_with_artifacts: bool


class _Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of the manifest."""

    path: str
    size: int = 0
    sha256: str = ""
    missing: str = ""
    """Why it is not here, or not whole; empty: it is."""


class _Line(msgspec.Struct, frozen=True):
    """A piece of output as it stands in an export: one line of NDJSON."""

    task_id: str
    host: str
    attempt: int
    stream: str
    offset: int
    line: int
    at: str
    text: str


def too_large() -> NoAnswer:
    """Return the answer for an export that nobody can keep."""
    return NoAnswer(
        422, "too-far", f"this export would have more than {limits.EXPORT_BYTES_MAX} bytes: name a shorter time, or fewer tasks"
    )


async def write(desk: Desk, selection: Selection, task_ids: list[str], path: Path) -> tuple[int, int]:
    """Write a tar of what tasks left to *path*; return how many files it has, and how many are missing or not whole."""
    entries: list[_Entry] = []
    with contextlib.ExitStack() as spooled:
        tar = spooled.enter_context(tarfile.open(path, "w", format=tarfile.PAX_FORMAT))
        spools: Spools = {stream: spooled.enter_context(tempfile.TemporaryFile(dir=path.parent)) for stream in reports.Stream}
        for task_id in task_ids:
            for left in await _left(desk, task_id):
                found = _artifacts(desk, left, spools) if selection.what is What.ARTIFACTS else _streams(desk, left, spools)
                async for entry, spool in found:
                    entries.append(entry)
                    if entry.sha256:
                        await asyncio.to_thread(_add, tar, entry, left, spool)
                    if tar.offset > limits.EXPORT_BYTES_MAX:
                        raise too_large()
        manifest = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        info = tarfile.TarInfo(MANIFEST)
        info.size = len(manifest)
        tar.addfile(info, io.BytesIO(manifest))
    return sum(bool(entry.sha256) for entry in entries), sum(bool(entry.missing) for entry in entries)


def _add(tar: tarfile.TarFile, entry: _Entry, left: _Left, spool: IO[bytes]) -> None:
    info = tarfile.TarInfo(entry.path)
    info.size = entry.size
    info.mtime = left.attempt.end_ms // 1000
    spool.seek(0)
    tar.addfile(info, spool)


async def _left(desk: Desk, task_id: str) -> list[_Left]:
    def of(task: Task) -> list[_Left]:
        return [one for command in task.commands.values() for one in _of_command(task, command)]

    _, found = await with_task(desk, At(task_id=task_id, seq=0, is_past=False), of)
    return found


def _of_command(task: Task, command: Command) -> list[_Left]:
    with_artifacts = [one.number for one in command.attempts if one.end is not None and one.end.artifacts]
    return [
        _Left(
            task.task_id, command.host_name, command.host_id, attempt, place_of(task, command, attempt),
            bool(with_artifacts) and attempt.number == with_artifacts[-1],
        )
        for attempt in command.attempts
    ]


async def _artifacts(desk: Desk, left: _Left, spools: Spools) -> AsyncIterator[tuple[_Entry, IO[bytes]]]:
    """Yield what is there of an attempt's artifacts, each with its content."""
    end, spool = left.attempt.end, spools[reports.Stream.STDOUT]
    if end is None or not left.is_last_with_artifacts:
        return
    for artifact in end.artifacts:
        path = f"{left.task_id}/{left.host}/{artifact.name}"
        _empty(spool)
        try:
            async for piece in stored_artifacts.content(desk.bus, left.host_id, left.task_id, left.attempt.number, artifact):
                await asyncio.to_thread(spool.write, piece)
        except stored_artifacts.Gone as gone:
            yield _Entry(path, artifact.size, missing=str(gone)), spool
            continue
        yield _Entry(path, artifact.size, artifact.sha256), spool


async def _streams(desk: Desk, left: _Left, spools: Spools) -> AsyncIterator[tuple[_Entry, IO[bytes]]]:
    """Yield an attempt's output, stream by stream, each with its bytes."""
    digests = {stream: hashlib.sha256() for stream in reports.Stream}
    ends, gaps = dict.fromkeys(reports.Stream, 0), dict.fromkeys(reports.Stream, 0)
    for spool in spools.values():
        _empty(spool)
    async for frame in frames_of(desk, left.place):
        gaps[frame.stream] += max(0, frame.offset - ends[frame.stream])
        ends[frame.stream] = frame.offset + len(frame.data)
        digests[frame.stream].update(frame.data)
        await asyncio.to_thread(spools[frame.stream].write, frame.data)
        if sum(spool.tell() for spool in spools.values()) > limits.EXPORT_BYTES_MAX:
            raise too_large()
    for stream, spool in spools.items():
        if size := spool.tell():
            why = f"{gaps[stream]} bytes were dropped, or are not kept any more" if gaps[stream] else ""
            path = f"{left.task_id}/{left.host}/{left.attempt.number}.{stream.value}"
            yield _Entry(path, size, digests[stream].hexdigest(), missing=why), spool
    if left.place.started and not any(ends.values()):
        path = f"{left.task_id}/{left.host}/{left.attempt.number}"
        yield _Entry(path, missing="what it wrote is not kept any more"), spools[reports.Stream.STDOUT]


async def write_file(desk: Desk, name: str, task_ids: list[str], path: Path) -> int:
    """Write the one artifact of this name that tasks left to *path*, and return 1. Raises NoAnswer: there is none, or several differ."""
    found = [
        (left, artifact)
        for task_id in task_ids
        for left in await _left(desk, task_id)
        if left.attempt.end is not None and left.is_last_with_artifacts
        for artifact in left.attempt.end.artifacts
        if artifact.name == name
    ]
    if not found:
        raise NoAnswer(404, "not-found", f"none of these tasks left an artifact named {name}", "/artifact")
    if len({artifact.sha256 for _, artifact in found}) > 1:
        hosts = ", ".join(sorted({left.host for left, _ in found})[:5])
        raise NoAnswer(
            422, "too-far", f"{len(found)} different artifacts are named {name} (of {hosts}): export them all, as a tar", "/artifact"
        )
    why = ""
    for left, artifact in found:
        try:
            with path.open("wb") as file:
                async for piece in stored_artifacts.content(desk.bus, left.host_id, left.task_id, left.attempt.number, artifact):
                    await asyncio.to_thread(file.write, piece)
            return 1
        except stored_artifacts.Gone as gone:
            why = str(gone)
    raise NoAnswer(404, "not-found", why, "/artifact")


def _empty(spool: IO[bytes]) -> None:
    spool.seek(0)
    spool.truncate()


async def write_lines(desk: Desk, task_ids: list[str], path: Path) -> tuple[int, int]:
    """Write the output of tasks to *path* as NDJSON; return how many lines it has, and of how many attempts nothing is kept."""
    rows = missing = 0
    with path.open("wb") as file:
        for task_id in task_ids:
            for left in await _left(desk, task_id):
                count = await _write_attempt(desk, left, file)
                rows += count
                missing += left.place.started and not count
                if file.tell() > limits.EXPORT_BYTES_MAX:
                    raise too_large()
    return rows, missing


async def _write_attempt(desk: Desk, left: _Left, file: IO[bytes]) -> int:
    decoders: dict[str, codecs.IncrementalDecoder] = {}
    count = 0
    async for frame in frames_of(desk, left.place):
        decoder = decoders.setdefault(frame.stream, codecs.getincrementaldecoder("utf-8")(errors="replace"))
        line = _Line(
            left.task_id, left.host, left.attempt.number, frame.stream.value, frame.offset, frame.line, rfc3339(frame.time_ms),
            decoder.decode(frame.data, final=frame.last),
        )
        await asyncio.to_thread(file.write, msgspec.json.encode(line) + b"\n")
        count += 1
    return count
