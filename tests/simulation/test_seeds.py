"""Three hundred histories full of faults, in which every promise holds."""

from __future__ import annotations

import pytest

from fleetlog_simulation.scenario import simulate

SEEDS = 300
CHUNK = 20


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_promise_holds_whatever_fails(first: int) -> None:
    results = [simulate(seed) for seed in range(first, first + CHUNK)]
    assert sum(result.executions for result in results) > CHUNK, "the histories are too tame to prove anything"
    assert sum(result.pruned for result in results) > CHUNK, "next to nothing is read from the archive"


def test_a_seed_gives_the_same_history_again() -> None:
    assert simulate(7) == simulate(7)


def test_different_seeds_give_different_histories() -> None:
    assert simulate(7).digest != simulate(8).digest
