"""Content goes only to the hosts that were given it; an export is asked of the reporter."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import msgspec
import pytest

from fleetlog_result_recorder import blobs
from fleetlog_result_recorder.blobs import BlobServer
from fleetlog_runtime.shell.memory_bus import MemoryBroker, MemoryBus
from fleetlog_schemas import exports, limits, subjects, tokens, wire
from fleetlog_schemas.reports import BlobChunk, BlobRequest

KEY = b"k" * 32
PIECE = {
    "seq": 9,
    "data": {
        "selection": {"what": "tasks", "format": "csv", "as_of_seq": 9}, "size": 3, "sha256": "0" * 64, "rows": 1, "missing": 0, "at_ms": 5,
        "data": base64.b64encode(b"a\xff\n").decode(),
    },
}


def problem(status: int) -> dict[str, Any]:
    return {"seq": 9, "problem": {"status": status, "code": "some", "message": "it is so", "pointer": ""}}


def asked_of(answer: Any, *, host: str = "h1", token_of: str = "h1", name: str = "export:t1") -> tuple[BlobChunk, list[dict[str, Any]]]:
    """Ask as *host* with the token of another, of a reporter that gives *answer*; None: there is none."""
    told: list[dict[str, Any]] = []

    async def scenario() -> BlobChunk:
        broker = MemoryBroker()
        recorder, reporter, agent = MemoryBus(broker), MemoryBus(broker), MemoryBus(broker)
        server = BlobServer(recorder, KEY)

        async def answered(_subject: str, body: bytes, reply: str) -> None:
            told.append(json.loads(body))
            await reporter.publish(reply, msgspec.json.encode(answer))

        if answer is not None:
            await reporter.subscribe(subjects.ask("reporter", "export"), answered)
        await recorder.subscribe(subjects.BLOB_REQUESTS, server.asked)
        request = BlobRequest(sha256=name, token=tokens.blob_token(KEY, token_of, name), offset=2, bytes_max=10**9)
        body = await agent.request(subjects.blob(host), wire.encode(request), 5_000)
        await server.close()
        chunk: BlobChunk = wire.decode(body, BlobChunk)
        return chunk

    return asyncio.run(scenario()), told


def test_a_piece_of_an_export_is_handed_on_and_no_more_of_it_than_a_message_carries() -> None:
    chunk, told = asked_of(PIECE)
    assert (chunk.data, chunk.size, chunk.sha256, chunk.rows, chunk.at_ms, chunk.error) == (b"a\xff\n", 3, "0" * 64, 1, 5, "")
    assert told == [{"of_task": "t1", "offset": 2, "limit_bytes": limits.BLOB_CHUNK_BYTES}]


def test_an_export_that_a_host_was_not_given_is_not_even_asked_for() -> None:
    chunk, told = asked_of(PIECE, host="h2")
    assert (chunk.error, chunk.again, told) == ("this host was not given this content", False, [])


@pytest.mark.parametrize(("status", "again"), [(503, True), (504, True), (404, True), (409, False), (422, False)])
def test_what_the_reporter_cannot_say_yet_is_asked_for_again(status: int, again: bool) -> None:
    chunk, _ = asked_of(problem(status))
    assert (chunk.error, chunk.again) == ("it is so", again)


@pytest.mark.parametrize("answer", [{"seq": "?"}, {"seq": 1, "data": {"size": 3}}, {"seq": 1}])
def test_an_answer_that_makes_no_sense_is_an_error_and_no_crash(answer: Any) -> None:
    chunk, _ = asked_of(answer)
    assert chunk.error
    assert not chunk.again


def test_without_a_reporter_a_host_is_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "EXPORT_MS_MAX", 50)
    chunk, _ = asked_of(None)
    assert (chunk.error, chunk.again) == ("no reporter answers", True)


def test_the_reporters_word_for_a_piece_is_what_the_recorder_reads() -> None:
    piece = msgspec.json.decode(msgspec.json.encode(PIECE["data"]), type=exports.ExportPiece)
    assert piece.data == b"a\xff\n"
