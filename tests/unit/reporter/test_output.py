"""Reading output: by the log's word where it is, page by page, with what is missing said."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleetlog_reporter.answers.output import last_lines
from fleetlog_schemas import events, questions
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_testing.reporter_rig import LogBus, Running, reporter


def with_reporter(tmp_path: Path, bus: LogBus, story: Callable[[Running], Awaitable[None]]) -> None:
    async def run() -> None:
        async with reporter(bus, tmp_path) as running:
            await story(running)

    asyncio.run(run())


def text_of(page: dict[str, Any]) -> str:
    return "".join(chunk["text"] for chunk in page["chunks"])


class Writer:
    """A command that writes, as an agent would send it."""

    def __init__(self, bus: LogBus, task_id: str, slot: int = 3) -> None:
        self.bus, self.task_id, self.slot = bus, task_id, slot
        self.offsets = {"stdout": 0, "stderr": 0}
        self.line, self.first, self.last, self.frames, self.index = 1, 0, 0, 0, list[events.OutputMark]()
        self.total = 0

    def write(self, data: bytes, stream: str = "stdout", **fields: Any) -> int:
        offset = self.offsets[stream] + fields.get("gap_bytes", 0)
        seq = self.bus.frame("web01", self.slot, self.task_id, stream, offset, self.line, data, **fields)
        self.index.append(events.OutputMark(self.total, self.line, seq))
        self.offsets[stream] = offset + len(data)
        self.total += len(data)
        self.line += data.count(b"\n")
        self.first, self.last, self.frames = self.first or seq, seq, self.frames + 1
        return seq

    def summary(self, **fields: Any) -> events.OutputSummary:
        return events.OutputSummary(**{
            "slot": self.slot, "bytes": self.total, "lines": self.line - 1, "frames": self.frames, "sha256": "0" * 64,
            "first_seq": self.first, "last_seq": self.last, "index": tuple(self.index), **fields,
        })


def running_task(bus: LogBus) -> str:
    task_id = bus.planned("web01")
    bus.dispatched(task_id, "web01")
    return task_id


def finish(bus: LogBus, task_id: str, **fields: Any) -> None:
    bus.ended(task_id, "web01", **fields)
    bus.task_ended(task_id)


def test_output_is_read_in_pages_with_both_streams_in_the_order_written(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = running_task(bus)
    other = running_task(bus)
    writer, foreign = Writer(bus, task_id), Writer(bus, other)
    foreign.write(b"not mine\n")
    writer.write(b"one\n")
    writer.write(b"bad\n", "stderr")
    foreign.write(b"not mine\n")
    writer.write(b"two\n")
    writer.write(b"", last=True)
    foreign.write(b"not mine\n")
    finish(bus, task_id, output=writer.summary())

    async def story(running: Running) -> None:
        page = await running.data("output", task_id=task_id, host="web01")
        assert [(chunk["stream"], chunk["text"], chunk["line"]) for chunk in page["chunks"]] == [
            ("stdout", "one\n", 1), ("stderr", "bad\n", 2), ("stdout", "two\n", 3)
        ]
        assert (page["complete"], page["expired"], page["incomplete"], page["attempt"]) == (True, False, False, 1)
        assert text_of(await running.data("output", task_id=task_id, host="h-web01", stream="stderr")) == "bad\n"
        pages, after = [], 0
        while not pages or not pages[-1]["complete"]:
            pages.append(await running.data("output", task_id=task_id, host="web01", after_frame=after, limit_bytes=5))
            assert pages[-1]["next_frame"] > after
            after = pages[-1]["next_frame"]
        assert "".join(map(text_of, pages)) == "one\nbad\ntwo\n"
        assert len(pages) > 1

    with_reporter(tmp_path, bus, story)


def test_output_of_a_running_command_grows_and_is_not_complete(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = running_task(bus)
    writer = Writer(bus, task_id)
    writer.write(b"one\n")
    bus.started(task_id, "web01", slot=3, first=writer.first)

    async def story(running: Running) -> None:
        page = await running.data("output", task_id=task_id, host="web01")
        assert (text_of(page), page["complete"]) == ("one\n", False)
        again = await running.data("output", task_id=task_id, host="web01", after_frame=page["next_frame"])
        assert (again["chunks"], again["next_frame"], again["complete"]) == ([], page["next_frame"], False)
        writer.write(b"two\n")
        writer.write(b"", last=True)
        more = await running.data("output", task_id=task_id, host="web01", after_frame=page["next_frame"])
        assert (text_of(more), more["complete"]) == ("two\n", True)

    with_reporter(tmp_path, bus, story)


def test_a_command_that_was_seen_to_run_and_wrote_nothing_lacks_nothing(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = bus.planned("web01")
    bus.dispatched(task_id, "web01")
    bus.started(task_id, "web01", slot=2)
    bus.ended(task_id, "web01")

    async def story(running: Running) -> None:
        page = await running.data("output", task_id=task_id, host="web01")
        assert (page["chunks"], page["complete"], page["incomplete"]) == ([], True, False)

    with_reporter(tmp_path, bus, story)


def test_a_start_that_does_not_say_where_output_begins_is_read_from_the_dispatch_on(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = running_task(bus)
    writer = Writer(bus, task_id)
    writer.write(b"here\n")
    bus.started(task_id, "web01", slot=3, first=0)

    async def story(running: Running) -> None:
        assert text_of(await running.data("output", task_id=task_id, host="web01")) == "here\n"

    with_reporter(tmp_path, bus, story)


def test_repeated_frames_are_shown_once_also_across_pages(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = running_task(bus)
    writer = Writer(bus, task_id)
    writer.write(b"one\n")
    bus.frame("web01", 3, task_id, "stdout", 0, 1, b"one\n")
    writer.write(b"two\n")
    bus.frame("web01", 3, task_id, "stdout", 0, 1, b"one\n")
    bus.frame("web01", 3, task_id, "stdout", 4, 2, b"two\n")
    writer.write(b"", last=True)
    finish(bus, task_id, output=writer.summary())

    async def story(running: Running) -> None:
        assert text_of(await running.data("output", task_id=task_id, host="web01")) == "one\ntwo\n"
        found, after, complete = "", 0, False
        while not complete:
            page = await running.data("output", task_id=task_id, host="web01", after_frame=after, limit_bytes=1)
            found, after, complete = found + text_of(page), page["next_frame"], page["complete"]
        assert found == "one\ntwo\n"

    with_reporter(tmp_path, bus, story)


def test_a_character_cut_by_a_frame_or_a_page_arrives_whole(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = running_task(bus)
    writer = Writer(bus, task_id)
    for byte in "a€b\n".encode():
        writer.write(bytes((byte,)))
    writer.write(b"", last=True)
    finish(bus, task_id, output=writer.summary())

    async def story(running: Running) -> None:
        found, after, complete = "", 0, False
        while not complete:
            page = await running.data("output", task_id=task_id, host="web01", after_frame=after, limit_bytes=1)
            found, after, complete = found + text_of(page), page["next_frame"], page["complete"]
        assert found == "a€b\n"

    with_reporter(tmp_path, bus, story)


def test_dropped_lost_and_expired_output_is_said_to_be_so(tmp_path: Path) -> None:
    bus = LogBus()
    dropped, lost, expired = running_task(bus), running_task(bus), running_task(bus)
    writer = Writer(bus, expired, slot=9)
    old = writer.write(b"old\n")
    writer.write(b"new\n")
    finish(bus, expired, output=writer.summary())
    bus.store.streams["OUTPUT"].remove(old)

    writer = Writer(bus, dropped)
    writer.write(b"head\n")
    writer.write(b"tail\n", gap_bytes=100)
    writer.write(b"", last=True)
    finish(bus, dropped, output=writer.summary(dropped_bytes=100))

    writer = Writer(bus, lost, slot=4)
    first = writer.write(b"here\n")
    writer.offsets["stdout"] += 50
    writer.write(b"there\n")
    bus.started(lost, "web01", slot=4, first=first)
    finish(bus, lost, outcome=Outcome.LOST, ran=Ran.UNKNOWN, decided=True)

    async def story(running: Running) -> None:
        page = await running.data("output", task_id=expired, host="web01")
        assert (text_of(page), page["expired"], page["complete"]) == ("new\n", True, True)
        page = await running.data("output", task_id=dropped, host="web01")
        assert [chunk["gap_bytes"] for chunk in page["chunks"]] == [0, 100]
        assert (page["dropped_bytes"], page["incomplete"], page["expired"]) == (100, False, False)
        page = await running.data("output", task_id=lost, host="web01")
        assert [chunk["gap_bytes"] for chunk in page["chunks"]] == [0, 50]
        assert (page["incomplete"], page["complete"]) == (True, True)

    with_reporter(tmp_path, bus, story)


def test_what_wrote_nothing_has_an_empty_and_complete_page(tmp_path: Path) -> None:
    bus = LogBus()
    silent, waiting, unreached = running_task(bus), bus.planned("web01"), bus.planned("web01")
    finish(bus, silent, output=Writer(bus, silent).summary())
    bus.ended(unreached, "web01", outcome=Outcome.UNREACHED, ran=Ran.NO, decided=True)
    bus.task_ended(unreached)

    async def story(running: Running) -> None:
        for task_id, complete, attempt in ((silent, True, 1), (waiting, False, 0), (unreached, True, 1)):
            page = await running.data("output", task_id=task_id, host="web01")
            assert (page["chunks"], page["complete"], page["attempt"]) == ([], complete, attempt)

    with_reporter(tmp_path, bus, story)


@pytest.mark.parametrize("lines", [1, 3, 10, 500])
def test_the_last_lines_are_found_through_the_index(tmp_path: Path, lines: int) -> None:
    bus = LogBus()
    task_id = running_task(bus)
    writer = Writer(bus, task_id)
    for number in range(200):
        writer.write(f"line {number}\n".encode(), "stderr" if number % 10 == 0 else "stdout")
    writer.write(b"", last=True)
    finish(bus, task_id, output=writer.summary())
    reads: list[int] = []

    async def story(running: Running) -> None:
        original = bus.get_range

        async def counting(stream: str, from_seq: int, count: int, subject: str = "") -> Any:
            reads.append(from_seq)
            return await original(stream, from_seq, count, subject)

        bus.get_range = counting  # type: ignore[method-assign]
        page = await running.data("output", task_id=task_id, host="web01", tail_lines=lines)
        assert text_of(page) == "".join(f"line {number}\n" for number in range(max(0, 200 - lines), 200))
        assert page["complete"]
        if lines == 1:
            assert min(reads) >= 199
        page = await running.data("output", task_id=task_id, host="web01", tail_lines=lines, stream="stderr")
        assert text_of(page) == "".join(f"line {number}\n" for number in range(0, 200, 10)[-lines:])

    with_reporter(tmp_path, bus, story)


def test_wrong_questions_about_output_are_refused(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = running_task(bus)

    async def story(running: Running) -> None:
        for fields, status, pointer in (
            ({"host": "nope"}, 404, "/host"), ({"host": "web01", "attempt": 2}, 404, "/attempt"),
            ({"host": "web01", "stream": "stdlog"}, 400, "/stream"), ({"host": "web01", "limit_bytes": 0}, 400, "/limit_bytes"),
            ({"host": "web01", "tail_lines": -1}, 400, "/tail_lines"), ({"host": "web01", "as_of_seq": 1}, 400, "/as_of"),
            ({"host": "web01", "tail_lines": 1, "after_frame": 1}, 400, "/tail_lines"),
        ):
            problem = await running.problem("output", task_id=task_id, **fields)
            assert (problem["status"], problem["pointer"]) == (status, pointer), fields

    with_reporter(tmp_path, bus, story)


@pytest.mark.parametrize(
    ("texts", "count", "kept"),
    [
        (["a\nb\n", "c\n"], 2, "b\nc\n"), (["a\nb\nc"], 2, "b\nc"), (["a\n"], 5, "a\n"), (["a", "b", "c\nd\n"], 1, "d\n"),
        ([], 3, ""), (["a\n\n\n"], 2, "\n\n"), (["x\n", "partial"], 1, "partial"),
    ],
)
def test_last_lines_cut_exactly(texts: list[str], count: int, kept: str) -> None:
    chunks = [questions.OutputChunk("stdout", 0, 1, "", text, 0, 1) for text in texts]
    assert "".join(chunk.text for chunk in last_lines(chunks, count)) == kept
    assert msgspec.to_builtins(last_lines(chunks, 10**6)) == msgspec.to_builtins(chunks)
