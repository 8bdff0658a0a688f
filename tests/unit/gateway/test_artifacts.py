"""An artifact is handed out whole and right, or said to be gone."""

from __future__ import annotations

import asyncio
import hashlib
from unittest.mock import AsyncMock

import pytest

from fleetlog_gateway import artifacts
from fleetlog_gateway.artifacts import Attempt, Command, Kept
from fleetlog_gateway.problems import HttpProblem
from fleetlog_runtime.pure.bus import Batch, Draft, StreamState
from fleetlog_runtime.shell import stored_artifacts
from fleetlog_runtime.shell.memory_bus import MemoryBroker, MemoryBus
from fleetlog_schemas import events, subjects, wire
from fleetlog_schemas.reports import ArtifactChunk

HOST, BODY = "hweb", b"abcdefghi"
Piece = tuple[str, int, str, int, bytes]


def piece(offset: int, data: bytes, task: str = "t", attempt: int = 1, name: str = "app") -> Piece:
    return task, attempt, name, offset, data


def fetched(stored: list[Piece], first_seq: int, last_seq: int, size: int = len(BODY), state: StreamState | None = None) -> bytes:
    async def scenario() -> bytes:
        bus = MemoryBus(MemoryBroker())
        if state is not None:
            bus.state = AsyncMock(return_value=state)  # type: ignore[method-assign]
        for number, one in enumerate(stored):
            draft = Draft(subject=subjects.artifacts(HOST), body=wire.encode(ArtifactChunk(*one)))
            await bus.append(Batch(drafts=(draft,), message_id=str(number)))
        kept = events.Artifact("app", size, hashlib.sha256(BODY).hexdigest(), first_seq, last_seq)
        one_kept = Kept(Command(HOST, "web", ()), Attempt(1, None, None, "success", (kept,)), kept)
        return b"".join([data async for data in artifacts.content(bus, "t", one_kept)])

    return asyncio.run(scenario())


def test_chunks_are_taken_by_offset_whatever_lies_between_them() -> None:
    stored = [
        piece(0, b"xyz"), piece(0, b"abc"), piece(0, b"abc"), piece(0, b"other", task="u"), piece(3, b"oth", name="lib"),
        piece(3, b"def"), piece(6, b"old", attempt=2), piece(6, b"ghi"), piece(9, b"more"),
    ]
    assert fetched(stored, 2, 8) == BODY


def test_many_chunks_are_read_in_several_goes() -> None:
    stored = [piece(offset, BODY[offset : offset + 1]) for offset in range(len(BODY)) for _ in range(3)]
    assert fetched(stored, 1, len(stored)) == BODY


@pytest.mark.parametrize("stored", [[], [piece(0, b"abc")], [piece(3, b"def"), piece(6, b"ghi"), piece(0, b"abc")]])
def test_what_is_not_all_there_any_more_is_gone(stored: list[Piece]) -> None:
    with pytest.raises(HttpProblem) as caught:
        fetched(stored, 1, 3)
    assert (caught.value.code, caught.value.status) == ("artifact-gone", 410)
    assert "not kept any more" in caught.value.detail


def test_bytes_that_do_not_have_the_digest_are_never_handed_out_whole() -> None:
    with pytest.raises(HttpProblem, match="does not have its digest"):
        fetched([piece(0, b"abcdefgh!")], 1, 1)


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (StreamState(50, 60, 95, 100), "which are full, and the oldest went for newer ones"),
        (StreamState(50, 60, 5, 100), "older than the 30 days for which artifacts are kept, or this server was restored from a backup without"),
        (StreamState(1, 60, 5, 100), "removed by hand, or restored"),
    ],
)
def test_what_is_gone_is_said_with_the_reason_and_since_when(state: StreamState, why: str) -> None:
    with pytest.raises(HttpProblem, match=why) as caught:
        fetched([], 1, 3, state=state)
    assert "nothing is kept now" in caught.value.detail
    assert "Its digest was" in caught.value.detail


def test_what_went_for_its_age_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is stored now counts as of the last day, also where two clocks differ by a moment.
    monkeypatch.setattr(stored_artifacts, "AGE_MS_MAX", stored_artifacts.DAY_MS - 60_000)
    with pytest.raises(HttpProblem, match="kept for 0 days, as output is; what is kept begins at 20"):
        fetched([piece(0, b"xyz", task="u")], 0, 3, state=StreamState(1, 1, 5, 100))
