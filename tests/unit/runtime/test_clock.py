"""A service's time: what decides is not moved by a jump of the wall clock, what is shown follows a clock that is set."""

from __future__ import annotations

import pytest

from fleetlog_runtime.shell.clock import FOLLOWED_MS_MIN, Clock, wall_ms

HOUR = 3_600_000


@pytest.mark.parametrize("jump_ms", [HOUR, -HOUR])
def test_a_jump_moves_what_is_shown_and_not_what_decides(jump_ms: int) -> None:
    wall = [0]
    deciding, showing = (Clock(lambda: wall_ms() + wall[0]) for _ in range(2))
    before_ms = deciding.now_ms()
    wall[0] = jump_ms
    assert 0 <= deciding.now_ms() - before_ms < HOUR // 2
    assert abs(showing.shown_ms() - before_ms - jump_ms) < HOUR // 2
    assert abs(deciding.set_anew() - jump_ms) < HOUR // 2
    assert abs(deciding.now_ms() - before_ms - jump_ms) < HOUR // 2


def test_a_slow_correction_is_not_followed() -> None:
    wall = [0]
    clock = Clock(lambda: wall_ms() + wall[0])
    wall[0] = -FOLLOWED_MS_MIN // 2
    before_ms = clock.now_ms()
    assert clock.shown_ms() >= before_ms, "it does not go back"
