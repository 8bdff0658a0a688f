"""Directed histories: each brings about what it is for, at every pace, and every promise holds in it."""

from __future__ import annotations

import pytest

from fleetlog_simulation.directed import ONE_SLOT, SEEDS, Directed, History, Tame
from fleetlog_simulation.histories import HISTORIES

by_name = pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)


@by_name
def test_every_promise_holds_in_a_directed_history(history: History) -> None:
    for seed in range(SEEDS):
        history(seed)


@by_name
def test_a_seed_tells_the_same_history_again_and_another_seed_another(history: History) -> None:
    assert history(7) == history(7)
    assert history(7).digest != history(8).digest


def test_a_history_that_brings_nothing_about_is_an_error_that_can_be_repeated() -> None:
    def nothing_comes(fleet: Directed) -> None:
        fleet.until("a task runs", lambda: fleet.world.executions)

    with pytest.raises(Tame, match="it never came that a task runs") as raised:
        Directed(3, nothing_comes, ONE_SLOT, hosts=1).run()
    assert raised.value.__notes__ == ["repeat it with: just simulate 3 --directed nothing_comes"]
