"""What the server sends is cut up where it arrives: given its bytes in any pieces, all is seen, once and in its order."""

from __future__ import annotations

import asyncio

import pytest
from nats.protocol.parser import Parser

from fleetlog_runtime.shell.nats_client import RawHeaders
from fleetlog_runtime.shell.nats_wire import Wire

HEADERS = b"NATS/1.0\r\nName: value\r\n\r\n"
BIG = b"x" * 10_000
SENT = (
    b"MSG heard.plain 1 5\r\nhello\r\n"
    b"MSG heard.reply 1 _INBOX.a.1 0\r\n\r\n"
    b"PING\r\n"
    b"HMSG heard.headers 1 %d %d\r\n%scontent\r\n"
    b"HMSG heard.reply-headers 1 reply.to %d %d\r\n%s\r\n"
    b"MSG other 2 4\r\nelse\r\n"
    b"MSG heard.lines 1 12\r\nPING\r\nMSG 1\n\r\n"
    b"+OK\r\n"
    b"MSG heard.big 1 %d\r\n%s\r\n"
    b"HMSG other 2 %d %d\r\n%s!\r\n"
    b"PONG\r\n"
    b"MSG heard.last 1 3\r\nend\r\n"
) % (
    len(HEADERS), len(HEADERS) + 7, HEADERS, len(HEADERS), len(HEADERS), HEADERS, len(BIG), BIG, len(HEADERS), len(HEADERS) + 1,
    HEADERS,
)
SEEN = [
    ("heard", b"heard.plain", b"", b"", b"hello"),
    ("heard", b"heard.reply", b"_INBOX.a.1", b"", b""),
    ("ping",),
    ("heard", b"heard.headers", b"", HEADERS, b"content"),
    ("heard", b"heard.reply-headers", b"reply.to", HEADERS, b""),
    ("library", b"other", b"", b"", b"else"),
    ("heard", b"heard.lines", b"", b"", b"PING\r\nMSG 1\n"),
    ("heard", b"heard.big", b"", b"", BIG),
    ("library", b"other", b"", HEADERS, b"!"),
    ("pong",),
    ("heard", b"heard.last", b"", b"", b"end"),
]


class Library:
    """The library's half: it reads, parses, and does with a message of a subscription that is heard what the client does."""

    def __init__(self):
        self.seen = []
        self.reader = asyncio.StreamReader()
        self.parser = Parser(self)
        self.in_place = 0
        Wire(self.reader, self.parser, {1: self.hear})

    def hear(self, subject, reply, headers, data):
        self.in_place += self.reader._waiter is not None
        self.seen.append(("heard", subject, reply, headers, data))

    async def _process_msg(self, sid, subject, reply, data, headers):
        await asyncio.sleep(0)
        if sid == 1:
            self.hear(subject, reply, headers or b"", data)
        else:
            self.seen.append(("library", subject, reply, headers or b"", data))

    async def _process_ping(self):
        await asyncio.sleep(0)
        self.seen.append(("ping",))

    async def _process_pong(self):
        self.seen.append(("pong",))

    async def read(self):
        while data := await self.reader.read(32_768):
            await self.parser.parse(data)


def seen_of(pieces, *, turns):
    async def scenario():
        library = Library()
        reading = asyncio.create_task(library.read())
        await asyncio.sleep(0)
        for piece in pieces:
            library.reader.feed_data(piece)
            for _ in range(turns):
                await asyncio.sleep(0)
        library.reader.feed_eof()
        await reading
        return library

    return asyncio.run(scenario())


@pytest.mark.parametrize("turns", [0, 1, 5, 30])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 333, 5_000, len(SENT)])
def test_however_the_bytes_come_everything_is_seen_once_and_in_its_order(size, turns):
    pieces = [SENT[at : at + size] for at in range(0, len(SENT), size)]
    assert seen_of(pieces, turns=turns).seen == SEEN


@pytest.mark.parametrize("cut", range(330))
def test_wherever_the_bytes_are_cut_everything_is_seen_once_and_in_its_order(cut):
    assert seen_of([SENT[:cut], SENT[cut:]], turns=10).seen == SEEN


def test_what_is_heard_is_given_without_the_library():
    message = b"MSG heard 1 5\r\nhello\r\n"
    assert seen_of([message * 3, message[:9], message[9:] + message[:18], message[18:]], turns=1).in_place == 5


def test_what_is_no_message_is_left_to_the_library_to_refuse():
    library = seen_of([b"MSG heard 1 5\r\nhello\r\n", b"HELLO"], turns=1)
    assert library.seen == [("heard", b"heard", b"", b"", b"hello")]
    assert library.parser.buf == b"HELLO"


@pytest.mark.parametrize(
    ("raw", "known"),
    [
        (b"NATS/1.0\r\nA: b\r\nC:d:e \r\n\r\n", {"A": "b", "C": "d:e"}),
        (b"NATS/1.0 503\r\n\r\n", {"Status": "503"}),
        (
            b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 7\r\n\r\n",
            {"Status": "408", "Description": "Request Timeout", "Nats-Pending-Messages": "7"},
        ),
    ],
)
def test_headers_are_what_the_server_wrote(raw, known):
    assert dict(RawHeaders(raw)) == known
