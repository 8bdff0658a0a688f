"""`output`: what a command wrote, read from the OUTPUT stream by the slot that the log names.

The end of an attempt says where its frames begin and end, with a sparse index for a page from the middle; while it
runs its start says where they begin. Without either the slot is read from when the attempt was dispatched. Frames
are at least once: duplicates are known by stream and offset. What the stream no longer has is said to be expired.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator

import msgspec

from fleetlog_reporter.answers import find
from fleetlog_reporter.answers.desk import Desk, NoAnswer
from fleetlog_reporter.answers.tasks import the_command
from fleetlog_runtime.pure.bus import Stored
from fleetlog_schemas import events, questions, reports, subjects, wire
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.records import Attempt, AttemptState, Command, Task

BYTES_MAX = 512 * 1024
"""Bytes of output in one page: its JSON fits into a bus message even when most bytes need an escape."""
TAIL_LINES_MAX = 10_000
FRAMES_AT_ONCE = 64
FRAMES_SCANNED_MAX = 4_096
"""Frames looked at for one page; the page then says where to go on."""
LOOKBACK = 256
"""Sequences before a page that are read again: they tell duplicates, and finish characters cut by the page's edge."""


class Place(msgspec.Struct, frozen=True):
    """Where the frames of one attempt stand."""

    task_id: str
    host: str
    host_id: str
    attempt: int
    slot: int
    first_seq: int
    """0: not known."""
    last_seq: int
    """0: not known."""
    dispatched_ms: int
    started: bool
    ended: bool
    summary: events.OutputSummary | None


class Pages(msgspec.Struct):
    """Frames of one attempt on their way into a page."""

    place: Place
    after_frame: int
    stream: str
    bytes_max: int
    keep_newest: bool
    chunks: list[questions.OutputChunk] = []
    sizes: list[int] = []
    size: int = 0
    full: bool = False
    seen_last: bool = False
    incomplete: bool = False
    """Bytes are missing that nobody said were dropped."""
    ends: dict[str, int] = {}
    """By stream, the offset after the newest byte seen."""
    decoders: dict[str, codecs.IncrementalDecoder] = {}
    next_frame: int = 0
    first_offsets: dict[str, int] = {}

    def add(self, stored: Stored) -> None:
        """Take one message of the slot; frames of other attempts and duplicates are passed over."""
        if self.full:
            return
        try:
            frame: reports.Frame = wire.decode(stored.body, reports.Frame)
        except wire.BadMessage:
            self.next_frame = max(self.next_frame, stored.seq)
            return  # its bytes then show as missing
        ours = (frame.task_id, frame.attempt) == (self.place.task_id, self.place.attempt)
        is_duplicate = bool(frame.data) and frame.offset < self.ends.get(frame.stream, 0)
        if ours and not is_duplicate and not self._take(stored.seq, frame):
            return
        if stored.seq > self.after_frame:
            self.next_frame = max(self.next_frame, stored.seq)

    def _take(self, seq: int, frame: reports.Frame) -> bool:
        shown = seq > self.after_frame and (not self.stream or frame.stream == self.stream)
        if shown and self.chunks and not self.keep_newest and self.size + len(frame.data) > self.bytes_max:
            self.full = True
            return False
        gap = self._gap(frame)
        decoder = self.decoders.setdefault(frame.stream, codecs.getincrementaldecoder("utf-8")(errors="replace"))
        text = decoder.decode(frame.data, final=frame.last)
        self.ends[frame.stream] = frame.offset + len(frame.data)
        self.seen_last = self.seen_last or frame.last
        if shown and (frame.data or gap):
            self.chunks.append(
                questions.OutputChunk(
                    stream=frame.stream.value, offset=frame.offset, line=frame.line, at=rfc3339(frame.time_ms), text=text,
                    gap_bytes=gap, frame=seq,
                )
            )
            self.sizes.append(len(frame.data))
            self.size += len(frame.data)
            while self.keep_newest and len(self.chunks) > 1 and self.size - self.sizes[0] >= self.bytes_max:
                self.chunks.pop(0)
                self.size -= self.sizes.pop(0)
        return True

    def reach_end(self) -> None:
        """Note that nothing more is stored: an attempt that has ended writes nothing more either."""
        if self.seen_last or not self.place.ended:
            return
        summary = self.place.summary
        if summary is None or self.next_frame < summary.last_seq:
            self.incomplete = True
        self.seen_last = True

    def _gap(self, frame: reports.Frame) -> int:
        if frame.stream not in self.ends:
            self.first_offsets[frame.stream] = frame.offset - frame.gap_bytes
            return frame.gap_bytes
        missing = frame.offset - self.ends[frame.stream]
        if missing > frame.gap_bytes:
            self.incomplete = True
        return max(missing, frame.gap_bytes)


async def output(desk: Desk, question: questions.OutputQuestion) -> tuple[int, questions.OutputPage]:
    """Answer a piece of what a command wrote; ask again with `after_frame` of `next_frame` for the next."""
    _check(question)
    at = await find.find(desk, question.task_id, question)
    seq, place = await find.with_task(desk, at, lambda task: _place(task, question))
    if not place.started:
        return seq, _page_without_frames(place, question)
    first_kept = (await desk.bus.state(subjects.OUTPUT)).first_seq
    start = await _start(desk, place)
    if question.tail_lines:
        pages = await _tail(desk, place, question, start)
    else:
        pages = Pages(
            place=place, after_frame=question.after_frame, stream=question.stream, bytes_max=question.limit_bytes,
            keep_newest=False, next_frame=question.after_frame,
        )
        await _scan(desk, pages, max(start, question.after_frame - LOOKBACK + 1) if question.after_frame else start)
    from_the_start = question.tail_lines == 0 and question.after_frame < start
    return seq, _page(pages, question, expired=_expired(pages, start, first_kept, from_the_start=from_the_start))


def _check(question: questions.OutputQuestion) -> None:
    if question.as_of_seq or question.as_of_ms:
        raise NoAnswer(400, "bad-query", "output has no past: it is what the command has written", "/as_of")
    if question.stream not in ("", "stdout", "stderr"):
        raise NoAnswer(400, "bad-query", "must be stdout, stderr or empty for both", "/stream")
    if not 1 <= question.limit_bytes <= BYTES_MAX:
        raise NoAnswer(400, "bad-query", f"must be between 1 and {BYTES_MAX}", "/limit_bytes")
    if not 0 <= question.tail_lines <= TAIL_LINES_MAX:
        raise NoAnswer(400, "bad-query", f"must be between 0 and {TAIL_LINES_MAX}", "/tail_lines")
    if question.tail_lines and question.after_frame:
        raise NoAnswer(400, "bad-query", "give either tail_lines or after_frame", "/tail_lines")


def _place(task: Task, question: questions.OutputQuestion) -> Place:
    command = the_command(task, question.host)
    number = question.attempt or len(command.attempts)
    if question.attempt and not 0 < question.attempt <= len(command.attempts):
        raise NoAnswer(
            404, "not-found", f"the command has {len(command.attempts)} attempts, not {question.attempt}", "/attempt"
        )
    return place_of(task, command, command.attempts[number - 1] if number else Attempt(number=0, state=AttemptState.DISPATCHED))


def place_of(task: Task, command: Command, attempt: Attempt) -> Place:
    """Return where an attempt's frames stand, as the log says."""
    end, start = attempt.end, attempt.start
    summary = end.output if end else None
    slot = summary.slot if summary else start.slot if start else 0
    silent = end is not None and summary is None and not attempt.decided  # its host says that it wrote nothing
    return Place(
        task_id=task.task_id, host=command.host_name, host_id=command.host_id, attempt=attempt.number, slot=slot,
        first_seq=(summary.first_seq if summary else 0) or (start.output_first_seq if start else 0),
        last_seq=summary.last_seq if summary else 0, dispatched_ms=attempt.dispatched_ms or 0,
        started=summary.frames > 0 if summary else start is not None and not silent, ended=end is not None, summary=summary,
    )


def _page_without_frames(place: Place, question: questions.OutputQuestion) -> questions.OutputPage:
    summary = place.summary
    return questions.OutputPage(
        task_id=place.task_id, host=place.host, attempt=place.attempt, chunks=[], next_frame=question.after_frame,
        complete=place.ended, expired=False, incomplete=bool(summary and summary.incomplete),
        dropped_bytes=summary.dropped_bytes if summary else 0,
    )


async def _start(desk: Desk, place: Place) -> int:
    if place.first_seq:
        return place.first_seq
    return await desk.bus.seq_at(subjects.OUTPUT, place.dispatched_ms) if place.dispatched_ms else 1


async def _scan(desk: Desk, pages: Pages, from_seq: int) -> None:
    """Read the slot from a sequence on until the page is full, the attempt's output ends or nothing more is there."""
    subject = subjects.output(pages.place.host_id, pages.place.slot)
    scanned = 0
    while not pages.full and not pages.seen_last and scanned < FRAMES_SCANNED_MAX:
        found = await desk.bus.get_range(subjects.OUTPUT, from_seq, FRAMES_AT_ONCE, subject)
        for stored in found:
            if pages.place.last_seq and stored.seq > pages.place.last_seq:
                pages.seen_last = True
                return
            pages.add(stored)
        scanned += len(found)
        if len(found) < FRAMES_AT_ONCE and not pages.full:
            pages.reach_end()
            return
        from_seq = found[-1].seq + 1 if found else from_seq


async def frames_of(desk: Desk, place: Place) -> AsyncIterator[reports.Frame]:
    """Yield every frame with bytes that is kept of an attempt that has ended, in order and each once."""
    if not place.started:
        return
    subject, from_seq, strange = subjects.output(place.host_id, place.slot), await _start(desk, place), 0
    ends: dict[str, int] = {}
    while strange < FRAMES_SCANNED_MAX:
        found = await desk.bus.get_range(subjects.OUTPUT, from_seq, FRAMES_AT_ONCE, subject)
        for stored in found:
            if place.last_seq and stored.seq > place.last_seq:
                return
            try:
                frame: reports.Frame = wire.decode(stored.body, reports.Frame)
            except wire.BadMessage:
                continue
            if (frame.task_id, frame.attempt) != (place.task_id, place.attempt):
                strange += not place.last_seq
                continue
            if frame.data and frame.offset >= ends.get(frame.stream, 0):
                ends[frame.stream] = frame.offset + len(frame.data)
                yield frame
            if frame.last and not place.last_seq:
                return
        if len(found) < FRAMES_AT_ONCE:
            return
        from_seq = found[-1].seq + 1


async def _tail(desk: Desk, place: Place, question: questions.OutputQuestion, start: int) -> Pages:
    """Return the pages behind the last lines: from as near the end as the index allows, and further if need be."""
    summary = place.summary
    wanted = question.tail_lines
    while True:
        from_seq = start
        if summary is not None:
            marks = [mark.seq for mark in summary.index if mark.line <= summary.lines - wanted]
            from_seq = max(marks, default=start)
        pages = Pages(
            place=place, after_frame=0, stream=question.stream, bytes_max=question.limit_bytes, keep_newest=True
        )
        await _scan_all(desk, pages, from_seq)
        lines = sum(chunk.text.count("\n") for chunk in pages.chunks)
        if from_seq <= start or lines > question.tail_lines or pages.size >= question.limit_bytes:
            pages.chunks = last_lines(pages.chunks, question.tail_lines)
            return pages
        wanted = max(wanted * 4, 1)


async def _scan_all(desk: Desk, pages: Pages, from_seq: int) -> None:
    before = -1
    while not pages.seen_last and pages.next_frame != before:
        before = pages.next_frame
        await _scan(desk, pages, max(from_seq, pages.next_frame + 1))


def last_lines(chunks: list[questions.OutputChunk], count: int) -> list[questions.OutputChunk]:
    """Return the chunks cut to their last *count* lines; a last line without a line end counts as one."""
    kept: list[questions.OutputChunk] = []
    left = count + 1 if chunks and chunks[-1].text.endswith("\n") else count
    for chunk in reversed(chunks):
        here = chunk.text.count("\n")
        if here < left:
            kept.append(chunk)
            left -= here
            continue
        pieces = chunk.text.split("\n")
        cut = "\n".join(pieces[len(pieces) - left :])
        if cut:
            skipped = chunk.text[: len(chunk.text) - len(cut)]
            kept.append(
                msgspec.structs.replace(
                    chunk, text=cut, offset=chunk.offset + len(skipped.encode()), line=chunk.line + skipped.count("\n"),
                    gap_bytes=0,
                )
            )
        break
    return kept[::-1]


def _expired(pages: Pages, start: int, first_kept: int, *, from_the_start: bool) -> bool:
    """Tell whether frames of this attempt are older than what OUTPUT keeps."""
    summary = pages.place.summary
    if first_kept > start and pages.place.first_seq:
        return not summary or summary.frames > 0
    return from_the_start and any(offset > 0 for offset in pages.first_offsets.values())


def _page(pages: Pages, question: questions.OutputQuestion, *, expired: bool) -> questions.OutputPage:
    place, summary = pages.place, pages.place.summary
    return questions.OutputPage(
        task_id=place.task_id, host=place.host, attempt=place.attempt, chunks=pages.chunks,
        next_frame=max(pages.next_frame, question.after_frame), complete=pages.seen_last and not pages.full, expired=expired,
        incomplete=bool(summary and summary.incomplete) or (pages.incomplete and not expired),
        dropped_bytes=summary.dropped_bytes if summary else 0,
    )
