"""The journal on disk: one append-only file of commits, each framed by length and CRC-32 and synced as a whole.

A frame cut off at the end of the file is a write that a crash interrupted: nothing was built on it, and it is
removed. A broken frame in the middle is damage: the agent then refuses to start, for it would not know what it
has run. Beside it lies a reserve of disk space, which is given up when the disk is full: so the ends of what runs can
still be written, and the refusals of what cannot start. When most of the file is about forgotten attempts it is rewritten and replaced in one step.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import struct
import time
import zlib
from pathlib import Path

import msgspec

from fleetlog_agent.journal_records import Commit, JournalState, compacted, fold
from fleetlog_runtime.shell.files import write_atomic

MAGIC = b"fleetlog journal 1\n"
COMPACT_BYTES_MIN = 1024 * 1024
"""A smaller file is not worth rewriting."""
COMPACT_GROWTH = 4
"""Rewrite when the file is so many times larger than after the last rewriting."""
RESERVE_BYTES = 1024 * 1024
"""Room for a few hundred ends: as many as an agent is likely to hold when its disk is full."""
_HEAD = struct.Struct(">II")
"""Length and checksum of the body; a checksum of these two follows, so that a damaged length is not taken for an end."""
_HEAD_BYTES = _HEAD.size + 4
_FULL = (errno.ENOSPC, errno.EDQUOT)
_decode = msgspec.msgpack.Decoder(Commit).decode
_encode = msgspec.msgpack.Encoder().encode


class JournalError(Exception):
    """The journal cannot be used; the message says what to do."""


def _frame(commit: Commit) -> bytes:
    body = _encode(commit)
    head = _HEAD.pack(len(body), zlib.crc32(body))
    return head + zlib.crc32(head).to_bytes(4, "big") + body


def read_journal(path: Path) -> tuple[JournalState, int]:
    """Return the state of a journal file and the length of its whole frames; a missing file is an empty journal.

    Raises:
        JournalError: it is damaged, or not a journal.
    """
    state = JournalState()
    try:
        data = memoryview(path.read_bytes())
    except FileNotFoundError:
        return state, 0
    if len(data) < len(MAGIC):
        return state, 0  # the very first write was interrupted
    if data[: len(MAGIC)] != MAGIC:
        raise JournalError(f"{path} is not a journal of this version: was the folder made by another program?")
    position = len(MAGIC)
    while position < len(data):
        end, commit = _read_frame(data, position)
        if commit is None:
            if end < len(data):
                raise JournalError(
                    f"{path} is damaged at byte {position}: move the file away, start the agent, and accept the host"
                    " again (fleetlog host accept); its open attempts will be reported as lost"
                )
            break
        fold(state, commit)
        position = end
    return state, position


def _read_frame(data: memoryview, position: int) -> tuple[int, Commit | None]:
    """Return where the frame ends, and its commit unless it is torn or damaged."""
    start = position + _HEAD_BYTES
    if start > len(data) or not any(data[position:]):
        return len(data), None  # after a power cut a file may end in zeros
    head = data[position : position + _HEAD.size]
    if zlib.crc32(head).to_bytes(4, "big") != data[position + _HEAD.size : start]:
        return position, None
    length, checksum = _HEAD.unpack(head)
    body = data[start : start + length]
    if len(body) < length or zlib.crc32(body) != checksum:
        return min(start + length, len(data)), None
    try:
        return start + length, _decode(body)
    except msgspec.MsgspecError as error:
        raise JournalError(
            f"the journal has a record that this version cannot read ({error}): start the version that wrote it"
        ) from None


class Journal:
    """The open journal of a running agent."""

    def __init__(self, path: Path) -> None:
        """Read it, repair a torn end, and open it for appending. Raises JournalError."""
        self.path = path
        self.state, length = read_journal(path)
        """As it was read; the core goes on from here."""
        self.torn_bytes = 0
        if length == 0:
            write_atomic(path, MAGIC)
            length = len(MAGIC)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        size = os.fstat(self._file).st_size
        if size > length:
            self.torn_bytes = size - length
            os.ftruncate(self._file, length)
            os.fsync(self._file)
        self.bytes = length
        self.took_seconds = math.inf
        """Time of the last append."""
        self._bytes_compacted = COMPACT_BYTES_MIN // COMPACT_GROWTH
        self._reserve = path.with_name("reserve")
        self.has_reserve = False
        """Whether there is room for what must be written; without it nothing new should be started."""
        self.restore_reserve()

    def append(self, commit: Commit) -> None:
        """Put a commit on disk; when this returns it is there.

        Raises:
            OSError: it is not (no space and no reserve, a broken disk); the file is as before.
        """
        began = time.monotonic()
        frame = _frame(commit)
        try:
            self._put(frame)
        except OSError as error:
            if error.errno not in _FULL or not self._spend_reserve():
                raise
            self._put(frame)
        self.bytes += len(frame)
        self.took_seconds = time.monotonic() - began

    def _put(self, frame: bytes) -> None:
        try:
            written = os.write(self._file, frame)
            while written < len(frame):
                written += os.write(self._file, frame[written:])
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self.bytes)
            raise

    def _spend_reserve(self) -> bool:
        spent, self.has_reserve = self.has_reserve, False
        self._reserve.unlink(missing_ok=True)
        return spent

    def restore_reserve(self) -> None:
        """Lay the reserve back, if there is room for it now."""
        if self.has_reserve:
            return
        try:
            reserve = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # not even an empty file can be made
        try:
            os.posix_fallocate(reserve, 0, RESERVE_BYTES)
            self.has_reserve = True
        except OSError as error:
            # Half a reserve would take room from what is refused now; where nothing can be reserved there is no limit here.
            self.has_reserve = error.errno not in _FULL
            with contextlib.suppress(OSError):
                os.ftruncate(reserve, 0)
        finally:
            os.close(reserve)

    @property
    def wants_compaction(self) -> bool:
        """Whether rewriting would pay."""
        return self.bytes > COMPACT_GROWTH * self._bytes_compacted

    def compact(self, state: JournalState) -> None:
        """Replace the file by one commit that folds to *state*, which must be what the file says. Raises OSError."""
        body = MAGIC + _frame(compacted(state))
        write_atomic(self.path, body)
        os.close(self._file)
        self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self.bytes = len(body)
        self._bytes_compacted = max(len(body), COMPACT_BYTES_MIN // COMPACT_GROWTH)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
