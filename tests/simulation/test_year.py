"""Days on end in virtual time: every promise holds, and what the parts keep in memory does not grow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fleetlog_reporter.apply import Projector
from fleetlog_schemas import lifecycle
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.year import simulate_year

WEEK = 7
DAYS_OF_A_LEAK = 12
"""After so many days, one entry for each task is more than the difference between days."""
SEEDS_MAX = 5


def test_every_promise_holds_for_a_week_and_memory_stays_as_it_is() -> None:
    result = simulate_year(1, WEEK)
    assert result.executions > 5 * WEEK, "the days are too quiet to prove anything"


def test_a_seed_gives_the_same_days_again() -> None:
    assert simulate_year(3, 2) == simulate_year(3, 2)


def remember_every_id(patch: pytest.MonkeyPatch) -> None:
    """Never forget the id of a task that has ended."""
    patch.setattr(lifecycle, "_forget_old_ids", lambda tasks, now_ms: None)


def keep_what_the_tables_hold(patch: pytest.MonkeyPatch) -> None:
    """Let the reporter keep every ended task also after it was written."""

    def written(self: Projector, batch: Any) -> None:
        self.written_through = max(self.written_through, batch.position)

    patch.setattr(Projector, "written", written)


def run_until_noticed() -> None:
    for seed in range(1, SEEDS_MAX + 1):
        simulate_year(seed, DAYS_OF_A_LEAK)


@pytest.mark.parametrize("leak", [remember_every_id, keep_what_the_tables_hold])
def test_a_planted_leak_is_noticed(leak: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    leak(monkeypatch)
    # A part that is killed in time starts with little in memory, and hides it: not in every history.
    with pytest.raises(Violation, match="entries in memory"):
        run_until_noticed()
