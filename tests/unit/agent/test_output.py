"""Output is cut, published once, and found again after a restart."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from fleetlog_agent import output
from fleetlog_agent.journal_records import Key
from fleetlog_agent.masking import Masker
from fleetlog_agent.output import NotStored, Output
from fleetlog_schemas.reports import Frame, Stream
from fleetlog_testing.agent_rig import TASK

KEY = Key(TASK, 1)


class Stored:
    """What OUTPUT took; it can be told to take no more."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.room = 1 << 30

    async def store(self, frame: Frame) -> int:
        if len(self.frames) >= self.room:
            raise NotStored("full")
        self.frames.append(frame)
        return 100 + len(self.frames)


def output_of(folder: Path, stored: Stored, quota: int = 1 << 20, secrets: tuple[str, ...] = ()) -> Output:
    return Output(
        KEY, str(folder / "out"), 0, quota, Masker(secrets), stored.store, unix_ms=lambda: 7, available=lambda: True
    )


def write(folder: Path, stdout: bytes = b"", stderr: bytes = b"") -> None:
    for name, data in (("stdout", stdout), ("stderr", stderr)):
        with (folder / f"out.{name}").open("ab") as file:
            file.write(data)


def test_what_wrote_nothing_has_no_frames_and_no_summary(tmp_path: Path) -> None:
    stored = Stored()
    write(tmp_path)
    follower = output_of(tmp_path, stored)
    follower.ended()
    assert asyncio.run(follower.follow()) == (None, "")
    assert stored.frames == []


@pytest.mark.parametrize("cut_at", [0, 1, 2, 3])
def test_an_agent_that_starts_again_publishes_the_rest_under_the_same_offsets(tmp_path: Path, cut_at: int) -> None:
    stored = Stored()
    data = bytes(range(256)) * 800
    write(tmp_path, data, b"errors\n")

    async def first() -> None:
        stored.room = cut_at
        following = asyncio.create_task(output_of(tmp_path, stored).follow())
        for _ in range(50):
            await asyncio.sleep(0)
        following.cancel()

    asyncio.run(first())
    stored.room = 1 << 30
    again = output_of(tmp_path, stored)
    again.ended()
    summary, tail = asyncio.run(again.follow())
    frames = {(frame.stream, frame.offset): frame for frame in stored.frames if frame.data}
    out = b"".join(frames[key].data for key in sorted(frames) if key[0] is Stream.STDOUT)
    assert out == data
    assert stored.frames[-1].last
    assert summary is not None
    assert (summary.frames, summary.dropped_bytes, summary.incomplete) == (len(frames), 0, False)
    assert summary.sha256 == hashlib.sha256(data + b"errors\n").hexdigest()
    assert tail.endswith("errors\n")


def test_when_output_does_not_take_frames_the_end_is_said_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "RETRY_SECONDS", 0.001)
    monkeypatch.setattr(output, "WAIT_SECONDS_MAX", 0.005)
    stored = Stored()
    stored.room = 0
    write(tmp_path, b"hello\n")
    follower = output_of(tmp_path, stored)
    follower.ended()
    summary, tail = asyncio.run(follower.follow())
    assert summary is not None
    assert summary.incomplete
    assert tail == "hello\n"


@pytest.mark.parametrize("quota", [0, 1, 10, 1000])
def test_no_more_than_the_quota_is_kept_and_every_missing_byte_is_counted(tmp_path: Path, quota: int) -> None:
    stored = Stored()
    write(tmp_path, b"o" * 5_000, b"e" * 300)
    follower = output_of(tmp_path, stored, quota)
    follower.ended()
    summary, _ = asyncio.run(follower.follow())
    kept = sum(len(frame.data) for frame in stored.frames)
    assert summary is not None
    assert kept <= quota
    assert kept + summary.dropped_bytes == summary.bytes == 5_300


def test_a_secret_at_the_edge_of_the_gap_is_hidden_too(tmp_path: Path) -> None:
    stored = Stored()
    write(tmp_path, b"a" * 995 + b"hunter2hunter2")
    follower = output_of(tmp_path, stored, quota=20, secrets=("hunter2hunter2",))
    follower.ended()
    asyncio.run(follower.follow())
    assert b"".join(frame.data for frame in stored.frames) == b"a" * 15 + b"*" * 5
