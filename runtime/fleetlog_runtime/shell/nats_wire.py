"""The bytes that the server sends, read where they arrive: who hears a message is given it at once.

The library's way is a buffer, a turn of the loop, regular expressions for each line and coroutines for each message.
Nearly all that a service receives is for the few subscriptions that are heard, and those messages are cut out here.
Everything else (a PING, an error, a message for somebody else) is left to the library, with all that comes behind it
until the library has used that up: so what the server sent is seen in its order.

Source of the format: the client protocol of NATS (MSG and HMSG).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

Hear = Callable[[bytes, bytes, bytes, bytes], None]
"""Takes the subject, the reply subject, the headers and the content of one message."""
_MESSAGE = (b"MSG ", b"HMSG ")
_EOL = b"\r\n"
_LINE_BYTES_MAX = 4096
"""Of the protocol; a line that has not ended by then is the library's to refuse."""


class Wire:
    """What stands between the socket of one connection and the library's reader of it."""

    def __init__(self, reader: asyncio.StreamReader, parser: Any, hearers: dict[int, Hear]) -> None:
        """Give messages of the subscriptions in *hearers* to them, the rest to *reader*, which the library's *parser* empties."""
        self._reader = reader
        self._parser = parser
        self._hearers = hearers
        self._pass_on = reader.feed_data
        self._begun = bytearray()
        """A message that is heard, or a line that may begin one, as far as it has come."""
        self._needed = 0
        """Bytes that it has at least."""
        reader.feed_data = self.feed  # type: ignore[method-assign, assignment]  # the library's is wider

    def feed(self, data: bytes) -> None:
        """Take what the socket gave."""
        if self._begun:
            self._begun += data
            if len(self._begun) < self._needed:
                return
            data = bytes(self._begun)
            self._begun.clear()
        elif self._reader._waiter is None or self._parser.buf:  # type: ignore[attr-defined]  # noqa: SLF001 - says whether it waits
            self._pass_on(data)  # it has not used up what it was given before
            return
        at = self._cut(data)
        if at < len(data):
            self._pass_on(data[at:] if at else data)

    def _cut(self, data: bytes) -> int:
        """Give messages to whom they are for; return where that begins which is for the library."""
        at, end = 0, len(data)
        while at < end:
            line_end = data.find(_EOL, at, at + _LINE_BYTES_MAX)
            if line_end < 0:
                begun = data[at : at + 5]
                may_be_heard = end - at < _LINE_BYTES_MAX and any(op.startswith(begun[: len(op)]) for op in _MESSAGE)
                return self._begin(data[at:], 0, end) if may_be_heard else at
            if not data.startswith(_MESSAGE, at):
                return at
            line = data[at:line_end].split()
            with_headers = line[0] == b"HMSG"
            hear = self._hearers.get(int(line[2]))
            if hear is None:
                return at
            # MSG subject subscription [reply] bytes; HMSG subject subscription [reply] bytes-of-headers bytes
            start = line_end + 2
            stop = start + int(line[-1])
            if stop + 2 > end:
                return self._begin(data[at:], stop + 2 - at, end)
            body = start + int(line[-2]) if with_headers else start
            reply = line[3] if len(line) == 5 + with_headers else b""
            hear(line[1], reply, data[start:body], data[body:stop])
            at = stop + 2
        return at

    def _begin(self, data: bytes, needed: int, end: int) -> int:
        """Keep what is not whole yet; return that nothing is left."""
        self._begun += data
        self._needed = needed
        return end
