"""Snapshots of folded state: a file that saves reading the log from its beginning, and nothing more.

A snapshot is used only if it is whole, of the same unit and version, and if the log still holds at its position the
very message that it was taken after; otherwise it is passed over with a line in the diagnostics.
"""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import msgspec

from fleetlog_runtime.pure.bus import Bus, NotFound
from fleetlog_runtime.pure.engine import Snapshot
from fleetlog_runtime.shell.files import write_atomic
from fleetlog_schemas import subjects


class Kept(msgspec.Struct, frozen=True):
    """The file: a snapshot, and proof of which log it belongs to."""

    snapshot: Snapshot
    message_sha256: str
    """Of the stored bytes at the snapshot's position."""


def digest(body: bytes) -> str:
    """Return what a snapshot remembers of the message it was taken after."""
    return hashlib.sha256(body).hexdigest()


def write(path: Path, snapshot: Snapshot, message_sha256: str) -> None:
    """Replace the snapshot file."""
    write_atomic(path, msgspec.msgpack.encode(Kept(snapshot, message_sha256)))


def position_of(path: Path) -> int:
    """Return the place in the log of a snapshot file, whichever unit and version wrote it; 0 when it cannot be read."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Kept).snapshot.position
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError):
        return 0


async def load(path: Path, unit: str, version: int, bus: Bus, log: Any) -> Snapshot | None:
    """Return the snapshot to start from, or None to read the log from its beginning. Raises NoAnswer."""
    try:
        kept = msgspec.msgpack.decode(await asyncio.to_thread(path.read_bytes), type=Kept)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError) as error:
        log.warning("the snapshot cannot be read and is passed over", path=str(path), error=str(error))
        return None
    snapshot = kept.snapshot
    if (snapshot.unit, snapshot.version) != (unit, version):
        log.info("the snapshot is of another version and is passed over", path=str(path), version=snapshot.version)
        return None
    if not await _of_this_log(bus, snapshot.position, kept.message_sha256):
        log.warning("the snapshot is of another log and is passed over", path=str(path), position=snapshot.position)
        return None
    return snapshot


async def _of_this_log(bus: Bus, position: int, message_sha256: str) -> bool:
    try:
        return digest((await bus.get(subjects.EVENTS, position)).body) == message_sha256
    except NotFound:
        return False
