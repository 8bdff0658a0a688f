"""Content is fetched through a bus that comes and goes, from recorders that cannot always read it."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from fleetlog_agent import blobs
from fleetlog_agent.blobs import BlobFailed, Blobs
from fleetlog_runtime.pure.bus import Bus
from fleetlog_runtime.shell.memory_bus import MemoryBroker, MemoryBus
from fleetlog_schemas import subjects, wire
from fleetlog_schemas.reports import BlobChunk, BlobRequest
from fleetlog_schemas.spec import Blob

CONTENT = b"echo deploy"
BLOB = Blob(sha256=hashlib.sha256(CONTENT).hexdigest(), size=len(CONTENT))
WHOLE = BlobChunk(data=CONTENT, size=len(CONTENT))
NOT_NOW = BlobChunk(data=b"", size=0, error="the content cannot be read now", again=True)
NEVER = BlobChunk(data=b"", size=0, error="this host was not given this content")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(blobs, "PATIENCE_SECONDS", 0.3)


async def fetched(folder: Path, *answers: BlobChunk, away: int = 0) -> bytes:
    """Fetch from a recorder that gives *answers* one after the other, over a bus that is not there *away* times."""
    broker = MemoryBroker()
    agent, recorder = MemoryBus(broker), MemoryBus(broker)
    left = list(answers)
    looks = 0

    async def asked(_subject: str, _body: bytes, reply: str) -> None:
        await recorder.publish(reply, wire.encode(left.pop(0) if len(left) > 1 else left[0]))

    def bus() -> Bus | None:
        nonlocal looks
        looks += 1
        return agent if looks > away else None

    if left:
        await recorder.subscribe(subjects.BLOB_REQUESTS, asked)
    return await Blobs("hone", folder, bus).fetch(BLOB, "token")


def test_content_that_cannot_be_read_now_is_asked_for_again(tmp_path: Path) -> None:
    assert asyncio.run(fetched(tmp_path, NOT_NOW, NOT_NOW, WHOLE)) == CONTENT


def test_a_bus_that_comes_back_meanwhile_is_used(tmp_path: Path) -> None:
    assert asyncio.run(fetched(tmp_path, WHOLE, away=3)) == CONTENT


def test_what_is_refused_is_not_asked_for_again(tmp_path: Path) -> None:
    with pytest.raises(BlobFailed, match="was refused: this host was not given"):
        asyncio.run(fetched(tmp_path, NEVER, WHOLE))


@pytest.mark.parametrize(
    ("answers", "away", "why"),
    [((NOT_NOW,), 0, "cannot be read now"), ((), 0, "no recorder answers"), ((WHOLE,), 10_000, "the bus is not there")],
)
def test_in_the_end_it_is_said_why_content_could_not_be_had(
    tmp_path: Path, answers: tuple[BlobChunk, ...], away: int, why: str
) -> None:
    with pytest.raises(BlobFailed, match=why):
        asyncio.run(fetched(tmp_path, *answers, away=away))


# --- exports ---------------------------------------------------------------------------------------------------------


def piece(data: bytes, content: bytes = CONTENT, **fields: object) -> BlobChunk:
    return BlobChunk(data=data, size=len(content), sha256=hashlib.sha256(content).hexdigest(), rows=3, at_ms=5, **fields)  # type: ignore[arg-type]


async def exported(folder: Path, *answers: BlobChunk, stopped_after: int = 1_000) -> tuple[blobs.Exported, list[BlobRequest]]:
    """Fetch an export from a recorder that gives *answers* one after the other."""
    broker = MemoryBroker()
    agent, recorder = MemoryBus(broker), MemoryBus(broker)
    left, asked_for = list(answers), list[BlobRequest]()

    async def asked(_subject: str, body: bytes, reply: str) -> None:
        asked_for.append(wire.decode(body, BlobRequest))
        await recorder.publish(reply, wire.encode(left.pop(0) if len(left) > 1 else left[0]))

    await recorder.subscribe(subjects.BLOB_REQUESTS, asked)
    one = Blobs("hone", folder / "blobs", lambda: agent)
    return await one.export("t1", "token", folder / "file", lambda: len(asked_for) >= stopped_after), asked_for


def test_an_export_is_fetched_piece_by_piece_and_waited_for_while_it_is_made(tmp_path: Path) -> None:
    found, asked_for = asyncio.run(exported(tmp_path, NOT_NOW, NOT_NOW, piece(CONTENT[:4]), NOT_NOW, piece(CONTENT[4:])))
    assert (tmp_path / "file").read_bytes() == CONTENT
    assert found == blobs.Exported(len(CONTENT), BLOB.sha256, 3, 5)
    assert {request.sha256 for request in asked_for} == {"export:t1"}
    assert [request.offset for request in asked_for] == [0, 0, 0, 4, 4]


def test_an_export_that_was_made_anew_and_differs_is_fetched_from_its_beginning(tmp_path: Path) -> None:
    other = b"other content"
    found, _ = asyncio.run(exported(tmp_path, piece(CONTENT[:4]), piece(other[4:], other), piece(other, other)))
    assert (tmp_path / "file").read_bytes() == other
    assert found.sha256 == hashlib.sha256(other).hexdigest()


def test_an_export_that_is_empty_is_a_file_all_the_same(tmp_path: Path) -> None:
    found, _ = asyncio.run(exported(tmp_path, piece(b"", b"")))
    assert (tmp_path / "file").read_bytes() == b""
    assert found.size == 0


@pytest.mark.parametrize(("answers", "why"), [
    ((piece(CONTENT[:4]), piece(b"")), "made anew each time"), ((piece(CONTENT[:-1] + b"X"),), "does not have its digest"), ((NEVER,), "the export was refused"),
])
def test_an_export_that_is_not_whole_is_none(tmp_path: Path, answers: tuple[BlobChunk, ...], why: str) -> None:
    with pytest.raises(BlobFailed, match=why):
        asyncio.run(exported(tmp_path, *answers))


def test_an_export_for_which_the_disk_has_no_room_is_said_to_have_none(tmp_path: Path) -> None:
    (tmp_path / "file").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        asyncio.run(exported(tmp_path, piece(CONTENT)))


def test_an_export_that_is_cancelled_is_fetched_no_further(tmp_path: Path) -> None:
    with pytest.raises(BlobFailed, match="stopped before it ran"):
        asyncio.run(exported(tmp_path, NOT_NOW, stopped_after=2))
