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
from fleetlog_schemas.reports import BlobChunk
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
