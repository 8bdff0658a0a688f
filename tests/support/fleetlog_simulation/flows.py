"""What people want of workflows: drawn by chance of their own, so that the histories of other seeds stay as they are.

The parts are few, and what they run is what any task runs: it fails, is refused, is lost. People cancel a part or all
of it, pause it and let it go on, often just when the next part is about to begin.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from fleetlog_schemas import control_events, events
from fleetlog_schemas.spec import Part, TaskSpec, Workflow
from fleetlog_simulation.fleet import Fleet
from fleetlog_simulation.wishes import Wishes

SHARE = 0.25
"""How many histories have workflows."""
FLOWS_MAX = 4
PARTS_MAX = 5


def _chance_of(seed: int) -> random.Random:
    return random.Random(seed ^ 0x5EED)


def has_flows(seed: int) -> bool:
    """Tell whether the history of a seed has workflows."""
    return _chance_of(seed).random() < SHARE


class Flows:
    """The workflows of one seed."""

    def __init__(self, fleet: Fleet) -> None:
        """Let the seed choose whether there are any."""
        self._fleet = fleet
        self._chance = _chance_of(fleet.world.seed)
        self.in_play = self._chance.random() < SHARE
        self._wishes = Wishes(self._chance, fleet.names)

    def begin(self, time_ms: int) -> None:
        """Let some be asked for within this time."""
        for _ in range(self._chance.randint(1, FLOWS_MAX)):
            self._fleet.world.after(self._chance.randint(0, time_ms), self._submit)

    def _submit(self) -> None:
        chance, fleet = self._chance, self._fleet
        task_id = fleet.submit(self._workflow())
        for _ in range(chance.choice((0, 1, 1, 2))):
            fleet.world.after(chance.choice((5, 60, 2_000, 20_000, 40_000)), lambda: self._steer(task_id))

    def _steer(self, task_id: str) -> None:
        chance = self._chance
        match chance.choice(("cancel", "part", "part", "abort", "pause", "pause")):
            case "cancel":
                self._say(control_events.CancelRequested(task_id=task_id, reason="changed my mind"))
            case "part":
                names = tuple(chance.sample([f"p{number}" for number in range(PARTS_MAX)], chance.randint(1, 2)))
                self._say(control_events.CancelRequested(task_id=task_id, parts=names))
            case "abort":
                self._say(control_events.AbortRequested(task_id=task_id))
            case "pause":
                self._say(control_events.PauseRequested(task_id=task_id, reason="a workflow waits"))
                delay_ms = chance.choice((50, 5_000, 30_000))
                self._fleet.world.after(delay_ms, lambda: self._say(control_events.ResumeRequested(task_id=task_id)))

    def _say(self, data: events.Data) -> None:
        self._fleet.append(data, events.REQUEST)

    def _workflow(self) -> TaskSpec:
        chance = self._chance
        parts: list[Part] = []
        for number in range(chance.randint(2, PARTS_MAX)):
            before = [part.name for part in parts]
            after = tuple(chance.sample(before, chance.randint(0, min(2, len(before)))))
            fields: dict[str, Any] = {}
            if after:
                fields["when"] = chance.choice(("success", "success", "any-success", "failure", "ended"))
                fields["handles"] = fields["when"] == "failure" and chance.random() < 0.5
            if chance.random() < 0.4:
                fields["for_each"] = tuple(range(chance.choice((0, 1, 2, 4))))
                fields["items_parallel"] = chance.choice((0, 1, 2))
            task = msgspec.structs.replace(self._wishes.spec(), task_timeout_ms=chance.choice((0, 0, 30_000)))
            parts.append(Part(f"p{number}", task, after=after, **fields))
        return TaskSpec(payload=Workflow(tuple(parts)), task_timeout_ms=chance.choice((0, 0, 60_000)))
