"""The live feed of whoever is interrupted, and of whoever is slow."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from fleetlog import sse

INTERRUPTS = 60
"""Of a feed that can be left with its lock taken, one in seven does it: that none of them does is chance once in ten thousand runs."""
END_S_MAX = 10.0
BUSY_S = 0.0005
"""Whoever is interrupted is in the middle of taking by then."""


class Interrupted(Exception):
    """Raised by a signal, as KeyboardInterrupt is."""


class Line:
    """A gateway and its one stream: it says *pieces* and then nothing until it is closed."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces, self.over = list(pieces), threading.Event()

    def again(self) -> Line:
        return self

    def open_stream(self, *_: object) -> Line:
        return self

    def read1(self, _n: int = -1, /) -> bytes:
        if self.pieces:
            return self.pieces.pop(0)
        self.over.wait()
        return b""

    def abort(self) -> None:
        self.over.set()

    close = abort


def interrupt(*_: object) -> None:
    raise Interrupted


def test_whoever_is_interrupted_at_any_moment_can_close_the_feed() -> None:
    former = signal.signal(signal.SIGUSR1, interrupt)
    me, busy = threading.get_ident(), threading.Event()
    try:
        for _ in range(INTERRUPTS):
            feed = sse.Feed(Line(), "/events")  # type: ignore[arg-type]
            with contextlib.suppress(Interrupted):
                threading.Thread(target=lambda: (busy.wait(BUSY_S), signal.pthread_kill(me, signal.SIGUSR1))).start()
                while True:
                    assert feed.take_ready() is None
            closing = threading.Thread(target=feed.close, daemon=True)
            closing.start()
            closing.join(END_S_MAX)
            assert not closing.is_alive(), "it waits for a lock that nobody gives back"
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_a_reader_that_waits_for_room_goes_on_when_there_is_some_and_ends_when_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "QUEUED_MAX", 2)
    line = Line(*(b"id: %d\ndata: x\n\n" % number for number in range(6)))
    feed = sse.Feed(line, "/events")  # type: ignore[arg-type]
    found = [feed.take(END_S_MAX) for _ in range(3)]
    assert [one.id for one in found if isinstance(one, sse.Item)] == ["0", "1", "2"]
    assert len(line.pieces) >= 1, "it did not read ahead of whoever takes by more than it may"
    reader = next(thread for thread in threading.enumerate() if thread.name == "live-feed" and thread.is_alive())
    feed.close()
    reader.join(END_S_MAX)
    assert not reader.is_alive()
