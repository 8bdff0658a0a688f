"""What people do to a fleet beside asking for work: they hold, approve, stop, freeze, limit; and they make good again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from fleetlog_schemas import control_events, events, policy_events
from fleetlog_schemas.policy_events import Window
from fleetlog_simulation.fleet import Fleet
from fleetlog_simulation.wishes import QUEUES, Wishes

RECENT = 6
"""Tasks submitted last, of which a person picks one: older ones have mostly ended."""
ACTS_MAX = 4
"""Kinds of acts in play in one seed, each of them often."""
Act = Callable[[], None]


class People:
    """The people of one seed."""

    def __init__(self, fleet: Fleet) -> None:
        """Let the seed choose what they ask for and what they do."""
        self._fleet, self._chance = fleet, fleet.chance
        self._wishes = Wishes(self._chance, fleet.names)
        acts: list[Act] = [
            self._pause, self._resume, self._abort, self._skip, self._approve, self._freeze, self._black_out,
            self._limit_queue, self._cancel_all,
        ]
        self.acts = self._chance.sample(acts, self._chance.randint(1, ACTS_MAX))

    def submit(self) -> None:
        """Ask for work; what people do, they often do just then, and what was decided is still under way."""
        chance, fleet = self._chance, self._fleet
        task_id = fleet.submit(self._wishes.spec())
        delay_ms = chance.choice((0, 5, 30, 60, 100, 2_000, 20_000))
        if chance.random() < 0.25:
            hosts = () if chance.random() < 0.6 else (chance.choice(fleet.names),)
            cancel = control_events.CancelRequested(task_id=task_id, host_ids=hosts, reason="changed my mind")
            fleet.world.after(delay_ms, lambda: fleet.append(cancel, events.REQUEST))
        elif chance.random() < 0.25:
            fleet.world.after(delay_ms, chance.choice(self.acts))

    # --- about one task ---

    def _ask(self, data: events.Data) -> None:
        self._fleet.append(data, events.REQUEST)

    def _recent(self) -> str:
        """Return a task, most likely the newest; an id that nobody has before there is one."""
        recent = self._fleet.submitted[-RECENT:]
        return self._chance.choice([*recent, *recent[-1:] * 3]) if recent else "none"

    def _pause(self) -> None:
        task_id = self._recent()
        self._ask(control_events.PauseRequested(task_id=task_id, reason="wait"))
        if self._chance.random() < 0.7:
            self._fleet.soon(lambda: self._ask(control_events.ResumeRequested(task_id=task_id)), 50, 30_000)

    def _resume(self) -> None:
        self._ask(control_events.ResumeRequested(task_id=self._recent(), reason="go on"))

    def _abort(self) -> None:
        self._ask(control_events.AbortRequested(task_id=self._recent(), reason="enough"))

    def _skip(self) -> None:
        hosts = self._chance.sample(self._fleet.names, self._chance.randint(1, 2))
        self._ask(control_events.SkipRequested(task_id=self._recent(), host_ids=tuple(hosts)))

    def _approve(self) -> None:
        self._ask(control_events.TaskApproved(task_id=self._recent(), wave=self._chance.randint(1, 3)))

    def _cancel_all(self) -> None:
        # Rarely, for it leaves little to look at.
        if self._chance.random() < 0.3:
            self._ask(control_events.AllCancelRequested(reason="stop everything"))

    # --- about the fleet ---

    def _rule(self, data: events.Data) -> None:
        self._fleet.append(data, events.CATALOG)

    def _some_hosts(self) -> str:
        return self._chance.choice(("all", self._chance.choice(self._fleet.names), "dc=a"))

    def _freeze(self) -> None:
        freeze_id = self._fleet.world.new_id()
        self._rule(policy_events.FleetFrozen(freeze_id=freeze_id, target=self._some_hosts(), reason="incident"))
        if self._chance.random() < 0.8:
            self._fleet.soon(lambda: self._rule(policy_events.FleetThawed(freeze_id=freeze_id)), 50, 30_000)

    def _black_out(self) -> None:
        """Set a blackout that is open now, or will be within the next minute."""
        chance = self._chance
        name = f"w{chance.randint(1, 3)}"
        begins = dt.datetime.fromtimestamp(self._fleet.world.now_ms / 1000, dt.UTC)
        begins += dt.timedelta(minutes=chance.choice((0, 0, 1)))
        window = Window(
            kind="blackout", target=self._some_hosts(), days=(begins.weekday(),), begins=f"{begins:%H:%M}",
            lasts_minutes=chance.choice((1, 2, 10)),
        )
        self._rule(policy_events.WindowSet(name=name, window=window, reason="sale"))
        if chance.random() < 0.5:
            self._fleet.soon(lambda: self._rule(policy_events.WindowRemoved(name=name)), 50, 60_000)

    def _limit_queue(self) -> None:
        queue = self._chance.choice((*QUEUES, "default"))
        self._rule(policy_events.QueueLimited(queue=queue, in_flight_max=self._chance.choice((1, 1, 2, 4))))
        if self._chance.random() < 0.5:
            self._fleet.soon(lambda: self._rule(policy_events.QueueLimited(queue=queue, in_flight_max=0)), 50, 60_000)

    # --- and peace ---

    def make_good(self) -> None:
        """Undo what keeps work back, as far as the log has it; what comes later is undone the next time."""
        for freeze_id in self._in_force("freeze_id", "fleet.frozen", "fleet.thawed"):
            self._rule(policy_events.FleetThawed(freeze_id=freeze_id, reason="over"))
        for name in self._in_force("name", "window.set", "window.removed"):
            self._rule(policy_events.WindowRemoved(name=name, reason="over"))
        for task_id, task in self._fleet.in_flight.open_tasks().items():
            if task.hold:
                self._ask(control_events.ResumeRequested(task_id=task_id, reason="over"))
            if len(task.waves) > task.approved and task.spec.get("rollout", {}).get("approve"):
                self._ask(control_events.TaskApproved(task_id=task_id, wave=len(task.waves)))

    def _in_force(self, field: str, begins: str, ends: str) -> list[str]:
        """Return what began by the last word that the log has of it: an end may have overtaken its beginning."""
        there: dict[str, bool] = {}
        for line in self._fleet.books.since(0):
            if line.kind in (f"fleetlog.{begins}.v1", f"fleetlog.{ends}.v1"):
                there[line.data[field]] = line.kind == f"fleetlog.{begins}.v1"
        return [name for name, is_there in there.items() if is_there]
