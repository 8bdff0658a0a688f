"""How much is sent at once follows from how long the last piece took."""

from __future__ import annotations

import pytest

from fleetlog_agent import pace
from fleetlog_agent.pace import BYTES_MIN, FIRST_BYTES, Pace


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def after(clock: Clock, given: Pace, seconds: float, times: int = 1) -> int:
    """Return how much is sent next, when so many pieces took so long."""
    for _ in range(times):
        given.begins()
        clock.seconds += seconds
        given.answered()
    return given.bytes


def test_on_a_fast_line_pieces_grow_to_what_is_allowed(clock: Clock) -> None:
    given = Pace(64 * 1024)
    assert given.bytes == FIRST_BYTES
    assert after(clock, given, 0.01) == 2 * FIRST_BYTES
    assert after(clock, given, 0.01, times=9) == 64 * 1024
    assert Pace(1_000).bytes == 1_000


def test_on_a_narrow_line_they_shrink_to_what_passes_in_a_second_and_not_below_a_packet_or_two(clock: Clock) -> None:
    given = Pace(64 * 1024)
    assert after(clock, given, 1.7) == FIRST_BYTES // 2
    assert after(clock, given, 0.9) == FIRST_BYTES // 2
    assert after(clock, given, 9.0, times=9) == BYTES_MIN


def test_a_piece_that_is_not_answered_is_followed_by_a_smaller_one(clock: Clock) -> None:
    given = Pace(64 * 1024)
    given.begins()
    given.unanswered()
    assert given.bytes == FIRST_BYTES // 2
