"""What people ask for: specifications drawn by chance.

A seed has a few wishes beyond the plain ones in play, and about every second task has each of them: so tasks that share
a queue or a key meet, and plain tasks remain common.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Choose, Retry, Rollout, TaskSpec
from fleetlog_simulation.fleet import WORK

QUEUES = ("builds", "checks")
KEYS = ("backup", "deploy")
WISHES_MAX = 4
"""Kinds of wishes in play in one seed: few kinds, each often, meet more than all kinds, each rarely."""

Wish = Callable[[random.Random, list[str]], dict[str, Any]]
"""Returns fields of a specification for a fleet with these host names."""


def _priority(chance: random.Random, names: list[str]) -> dict[str, Any]:
    return {"priority": chance.randint(1, 10)}


def _queue(chance: random.Random, names: list[str]) -> dict[str, Any]:
    return {"queue": chance.choice(QUEUES)}


def _key(chance: random.Random, names: list[str]) -> dict[str, Any]:
    return {
        "key": chance.choice(KEYS), "key_parallel": chance.choice((0, 0, 1, 2)),
        "single_run": chance.choice(("", "refuse", "queue", "queue", "replace")),
    }


def _choose(chance: random.Random, names: list[str]) -> dict[str, Any]:
    by = chance.choice(("load", "random", "spread", "each"))
    label = "dc" if by in ("spread", "each") else ""
    return {"target": "all", "choose": Choose(count=chance.randint(1, 3), by=by, label=label)}


def _rollout(chance: random.Random, names: list[str]) -> dict[str, Any]:
    shapes: tuple[dict[str, Any], ...] = (
        {"waves": ("1",)}, {"waves": ("1", "50%", "100%")}, {"waves": ("1",), "batch": "2"}, {"batch": "1"},
        {"batch": "50%"}, {"canary": chance.choice(names)}, {"canary": "dc=b", "batch": "1"},
    )
    rollout = Rollout(
        soak_ms=chance.choice((0, 0, 2_000, 8_000)), approve=chance.choice(((), (), (0,), (1,), (2,))),
        **chance.choice(shapes),
    )
    return {"target": "all", "rollout": rollout}


def _budget(chance: random.Random, names: list[str]) -> dict[str, Any]:
    return {"failures_max": chance.choice(("0", "1", "50%"))}


def _ignore_windows(chance: random.Random, names: list[str]) -> dict[str, Any]:
    return {"ignore_windows": True}


WISHES: tuple[Wish, ...] = (_priority, _queue, _key, _choose, _rollout, _budget, _ignore_windows)


class Wishes:
    """What the people of one seed ask for."""

    def __init__(self, chance: random.Random, names: list[str]) -> None:
        """Let the seed choose what is in play."""
        self._chance, self._names = chance, names
        self._in_play = chance.sample(WISHES, chance.randint(0, WISHES_MAX))

    def spec(self) -> TaskSpec:
        """Draw one specification."""
        chance = self._chance
        retry_on = (Outcome.FAILURE, Outcome.LOST, Outcome.TIMEOUT) if chance.random() < 0.6 else (Outcome.FAILURE,)
        fields: dict[str, Any] = {
            "target": chance.choice(("all", chance.choice(self._names), "nobody" if chance.random() < 0.1 else "all")),
            "timeout_ms": chance.choice((2_000, 10_000, 60_000)),
            "task_timeout_ms": chance.choice((0, 0, 0, 30_000)),
            "wait_offline_ms": chance.choice((0, 20_000, 200_000)),
            "parallel": chance.choice((0, 0, 1, 2)),
            "retry": Retry(attempts_max=chance.choice((1, 2, 4)), on=retry_on, backoff_ms=chance.choice((0, 500, 5_000))),
        }
        for wish in self._in_play:
            if chance.random() < 0.5:
                fields |= wish(chance, self._names)
        return TaskSpec(payload=WORK, **fields)
