"""Read what a process writes and publish it as frames: in order, masked, within its quota, and only once.

The process writes to files, so it never waits for us and its output survives us; this side follows the files and
holds at most one frame in memory. How the output is cut into frames is noted in a file before a frame is sent:
after a restart the same frames are cut again, and what may not have arrived is sent again under the same offset.
Beyond the quota the beginning and the very end are kept; what lies between is skipped, and given back to the file
system while it grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hashlib
import os
import struct
from collections.abc import Awaitable, Callable

import msgspec

from fleetlog_agent.journal_records import Key
from fleetlog_agent.masking import Masker
from fleetlog_agent.pace import Pace
from fleetlog_schemas.events import OutputMark, OutputSummary
from fleetlog_schemas.limits import OUTPUT_FRAME_BYTES_MAX, OUTPUT_INDEX_ENTRIES_MAX, OUTPUT_TAIL_BYTES_MAX
from fleetlog_schemas.reports import Frame, Stream

FRAME_SECONDS_MAX = 0.25
"""What was written waits no longer than this before it is published."""
END_BYTES_MAX = 64 * 1024
"""Of the quota, what is kept for the end of an output that exceeds it (at most a quarter of the quota)."""
RETRY_SECONDS = 1.0
"""After OUTPUT did not take a frame."""
WAIT_SECONDS_MAX = 30.0
"""After the process ended: how long OUTPUT may not take frames, while the bus is there, before we go on without."""
PUNCH_BYTES = 16 * 1024 * 1024
"""Skipped output is given back to the file system in pieces of this size."""
_PUNCH_KEEP_SIZE = 0x03  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_NOTE = struct.Struct(">BQIQQ")
_STREAMS = (Stream.STDOUT, Stream.STDERR)


class NotStored(Exception):
    """OUTPUT did not take a frame now; it may later."""


class _Cut(msgspec.Struct, frozen=True):
    """One frame, and what stands before it."""

    frame: Frame
    number: int
    position: int
    """Bytes kept before it, of both outputs."""


class _File:
    """One of the two outputs."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        self.offset = 0
        """Everything before it is cut into frames, or skipped."""
        self.gap_bytes = 0
        self.punched = 0

    def open(self) -> bool:
        if self.fd < 0:
            try:
                self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        return True

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size if self.open() else 0

    def skip_to(self, offset: int) -> None:
        """Leave out everything before *offset* that was not cut."""
        if offset > self.offset:
            self.gap_bytes += offset - self.offset
            self.offset = offset

    def punch(self, until: int) -> None:
        """Give the skipped bytes back to the file system, if it can."""
        begin = max(self.offset, self.punched) & ~0xFFFF
        if until - begin < PUNCH_BYTES:
            return
        libc = ctypes.CDLL(None)
        arguments = (ctypes.c_int(self.fd), _PUNCH_KEEP_SIZE, ctypes.c_int64(begin), ctypes.c_int64(until - begin))
        libc.fallocate(*arguments)  # a file system that cannot keeps the bytes: then the spool limit speaks
        self.punched = until


class Output:
    """The output of one attempt."""

    def __init__(
        self,
        key: Key,
        prefix: str,
        slot: int,
        quota_bytes: int,
        masker: Masker,
        store: Callable[[Frame], Awaitable[int]],
        unix_ms: Callable[[], int],
        available: Callable[[], bool],
    ) -> None:
        """Follow `PREFIX.stdout` and `PREFIX.stderr`.

        *store* puts a frame into OUTPUT and returns its sequence, or raises NotStored; *available* tells whether
        the bus is there at all.
        """
        self._key = key
        self._slot = slot
        self._masker = masker
        self._store = store
        self._unix_ms = unix_ms
        self._available = available
        self._files = {stream: _File(f"{prefix}.{stream}") for stream in _STREAMS}
        self._notes_path = f"{prefix}.frames"
        self._notes_fd = -1
        self._end_bytes = min(END_BYTES_MAX, quota_bytes // 4)
        self._head_bytes = quota_bytes - self._end_bytes
        self._ended = asyncio.Event()
        self._hash = hashlib.sha256()
        self._tail = b""
        self._pace = Pace(OUTPUT_FRAME_BYTES_MAX)
        self._kept = 0
        self._lines = 0
        self._frames = 0
        self._marks: list[OutputMark] = []
        self._mark_step = 1
        self.first_seq = 0
        self._last_seq = 0
        self._incomplete = False
        self._pending: _Cut | None = None
        """The newest frame of an ended process: not sent before it is known whether it is the last."""

    def ended(self) -> None:
        """The process is gone: nothing more is written."""
        self._ended.set()

    async def follow(self) -> tuple[OutputSummary | None, str]:
        """Publish until the process has ended; return what there was of it, and its end as text."""
        await self._resume()
        while not self._ended.is_set():
            await self._pump(final=False)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FRAME_SECONDS_MAX):
                    await self._ended.wait()
        await self._pump(final=True)
        await self._pump_end()
        await self._mark_end()
        return self._summary(), self._tail.decode(errors="replace")

    # --- cutting -------------------------------------------------------------------------------------------

    async def _pump(self, *, final: bool) -> None:
        for stream, file in self._files.items():
            if not file.open():
                continue
            while self._kept < self._head_bytes:
                if not await self._cut(stream, file, file.size, self._head_bytes - self._kept, final=final):
                    break
            if self._kept >= self._head_bytes and not final:
                file.punch(file.size - self._end_bytes - self._masker.hold_back)

    async def _pump_end(self) -> None:
        """After the quota: keep the end of what is left, shared between the two outputs."""
        left = {stream: file.size - file.offset for stream, file in self._files.items() if file.open()}
        share = self._end_bytes // max(sum(1 for size in left.values() if size > 0), 1)
        for stream, size in left.items():
            file, end = self._files[stream], self._files[stream].size
            file.skip_to(end - min(share, size))
            while file.offset < end and await self._cut(stream, file, end, OUTPUT_FRAME_BYTES_MAX, final=True):
                pass
            file.skip_to(end)

    async def _cut(self, stream: Stream, file: _File, end: int, room: int, *, final: bool) -> bool:
        """Cut and publish one frame of at most *room* bytes; tell whether there was one."""
        # A secret may have begun before: read a little more in front, mask, and cut that off again.
        lead = min(self._masker.hold_back, file.offset) if file.gap_bytes else 0
        size = min(self._pace.bytes, end - file.offset)
        if size <= 0:
            return False
        raw = os.pread(file.fd, lead + size, file.offset - lead)
        data = self._masker.mask(raw, final=final and file.offset + size >= end)[lead:][:room]
        if not data:
            return False
        self._note(stream, file.offset, len(data), self._lines, seq=0)
        await self._send(self._take(stream, file, data))
        return True

    def _take(self, stream: Stream, file: _File, data: bytes) -> _Cut:
        frame = self._frame(stream, file, data)
        cut = _Cut(frame=frame, number=self._frames, position=self._kept)
        file.offset += len(data)
        file.gap_bytes = 0
        self._hash.update(data)
        self._tail = (self._tail + data)[-OUTPUT_TAIL_BYTES_MAX:]
        self._lines += data.count(b"\n")
        self._kept += len(data)
        self._frames += 1
        return cut

    def _frame(self, stream: Stream, file: _File, data: bytes) -> Frame:
        return Frame(
            task_id=self._key.task_id, attempt=self._key.attempt, stream=stream, offset=file.offset,
            line=self._lines + 1, time_ms=self._unix_ms(), data=data, gap_bytes=file.gap_bytes,
        )

    async def _send(self, cut: _Cut) -> None:
        """Publish a frame; of an ended process, the one before it."""
        before, self._pending = self._pending, cut
        if before is not None:
            await self._publish(before)
        if not self._ended.is_set():
            self._pending = None
            await self._publish(cut)

    async def _mark_end(self) -> None:
        """Mark the last frame; if all were sent before, an empty one says that no more come."""
        last = self._pending
        if last is None and self._frames:
            frame = self._frame(Stream.STDOUT, self._files[Stream.STDOUT], b"")
            last = _Cut(frame=frame, number=self._frames, position=self._kept)
        if last is not None:
            await self._publish(msgspec.structs.replace(last, frame=msgspec.structs.replace(last.frame, last=True)))

    async def _publish(self, cut: _Cut) -> None:
        """Store a frame, however long it takes while the process runs; not for ever once it has ended."""
        waited = 0.0
        while not self._incomplete:
            self._pace.begins()
            try:
                seq = await self._store(cut.frame)
                self._pace.answered()
            except NotStored:
                if self._ended.is_set() and self._available():
                    waited += RETRY_SECONDS
                    self._incomplete = waited > WAIT_SECONDS_MAX
                await asyncio.sleep(RETRY_SECONDS)
                continue
            self._note(cut.frame.stream, cut.frame.offset, len(cut.frame.data), cut.frame.line - 1, seq=seq)
            self._stored(cut, seq)
            return

    def _stored(self, cut: _Cut, seq: int) -> None:
        self.first_seq = self.first_seq or seq
        self._last_seq = max(self._last_seq, seq)
        if cut.number % self._mark_step == 0 and cut.frame.data:
            self._marks.append(OutputMark(offset=cut.position, line=cut.frame.line, seq=seq))
        if len(self._marks) > OUTPUT_INDEX_ENTRIES_MAX:
            self._marks = self._marks[::2]
            self._mark_step *= 2

    def _summary(self) -> OutputSummary | None:
        written = sum(file.size for file in self._files.values())
        for file in self._files.values():
            if file.fd >= 0:
                os.close(file.fd)
        if self._notes_fd >= 0:
            os.close(self._notes_fd)
        if not written:
            return None
        return OutputSummary(
            slot=self._slot, bytes=written, lines=self._lines, frames=self._frames, sha256=self._hash.hexdigest(),
            first_seq=self.first_seq, last_seq=self._last_seq, dropped_bytes=written - self._kept,
            incomplete=self._incomplete, index=tuple(self._marks),
        )

    # --- across restarts -------------------------------------------------------------------------------------

    def _note(self, stream: Stream, offset: int, size: int, line: int, *, seq: int) -> None:
        # On a full disk there are no notes: then a restart may send frames twice, which their offsets show.
        with contextlib.suppress(OSError):
            if self._notes_fd < 0:
                self._notes_fd = os.open(self._notes_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(self._notes_fd, _NOTE.pack(_STREAMS.index(stream), offset, size, line, seq))

    async def _resume(self) -> None:
        """Cut the frames of a former agent again; send those of which it did not note that they were stored."""
        try:
            with open(self._notes_path, "rb") as noted:  # noqa: ASYNC230, PTH123 - small, on this disk
                notes = noted.read()
        except FileNotFoundError:
            return
        seqs: dict[tuple[int, int], int] = {}
        cuts: dict[tuple[int, int], int] = {}
        for position in range(0, len(notes) - _NOTE.size + 1, _NOTE.size):
            index, offset, size, _, seq = _NOTE.unpack_from(notes, position)
            cuts.setdefault((index, offset), size)
            seqs[index, offset] = seq
        for (index, offset), size in cuts.items():
            stream = _STREAMS[index]
            file = self._files[stream]
            if not size or not file.open():
                continue
            file.skip_to(offset)
            await self._cut_again(stream, file, size, seqs[index, offset])

    async def _cut_again(self, stream: Stream, file: _File, size: int, seq: int) -> None:
        hold = self._masker.hold_back
        lead = min(hold, file.offset)
        # Behind the cut there may be the rest of a secret that was hidden as a whole.
        raw = os.pread(file.fd, lead + size + hold, file.offset - lead)
        data = self._masker.mask(raw, final=True)[lead : lead + size]
        cut = self._take(stream, file, data)
        if seq:
            self._stored(cut, seq)
        else:
            await self._send(cut)
