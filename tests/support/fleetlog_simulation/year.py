"""A long time in one history: a small fleet through a year (or fewer days), with some work and some trouble each day.

Between the events of a day nothing happens, so the parts look at the time once in some minutes (`Pace`), and settings
make agents speak as rarely. Each day people ask for work, now and then something breaks for a while, versions change,
an old request is sent again; in the evening a person looks after the fleet and all comes to rest. Every invariant of
every seed holds, and one more: what the parts keep in memory is the same after a year as after a week.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from fleetlog_runtime.pure.settings import AgentSettings, DispatcherSettings
from fleetlog_schemas import events
from fleetlog_schemas.hosts import HostRefusal
from fleetlog_schemas.spec import TaskSpec
from fleetlog_simulation.invariants import Violation
from fleetlog_simulation.scenario import BAD_TIME_MS, Result, Scenario
from fleetlog_simulation.troubles import Troubles
from fleetlog_simulation.world import Faults, Pace, World, start_ms

YEAR_DAYS = 365
HOSTS = 3
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
TASKS_A_DAY = 6
BAD_DAY = 0.15
"""How often a day has minutes in which everything fails at once, as in every seed."""
TROUBLES_A_DAY_MAX = 2
"""Single troubles on other days."""
UPGRADE = 0.1
"""How often a day brings another version: of an agent, or of a service that then cannot use its snapshot."""
REPEATS_A_DAY = 2
"""Requests of the last three days that some client sends again."""
EVENING_MS = 20 * HOUR_MS
FEW_DAYS = 15
WARM_DAYS = 2
"""Ids are remembered for a day: memory is compared from here on."""
GROWTH_RATIO_MAX = 1.1
GROWTH_ENTRIES_MAX = 30
"""No two days are the same: so much more may be in memory at the end, an id for each task may not."""

SPARSE = Pace(lease_ms=5 * MINUTE_MS, renew_ms=MINUTE_MS, recorder_ms=10 * MINUTE_MS, idle_ms=5 * MINUTE_MS)
RARE = AgentSettings(heartbeat_ms=10 * MINUTE_MS, gap_ms=HOUR_MS)
PATIENT = DispatcherSettings(slots_per_host=2, suspect_ms=20 * MINUTE_MS, offline_ms=HOUR_MS)


class Year(Scenario):
    """Many days, one like the other."""

    def __init__(self, seed: int, days: int = YEAR_DAYS) -> None:
        """Build a small fleet."""
        super().__init__(seed, faults=Faults.none(), settings=PATIENT, hosts=HOSTS, pace=SPARSE, agent_settings=RARE)
        self._days = days
        self._versions = 0
        self.entries: list[int] = []
        """What the parts hold in memory each evening."""

    look_ms = 15 * MINUTE_MS

    @property
    def recipe(self) -> str:
        """The command that repeats this history."""
        return f"just simulate --year {self.world.seed} --days {self._days}"

    def _happen(self) -> None:
        for day in range(self._days):
            begins_ms = start_ms(self.world.seed) + day * DAY_MS
            self._plan_day(begins_ms)
            self.world.run(begins_ms + EVENING_MS)
            self._evening(begins_ms + DAY_MS)
        self._looks_until_ms = self.world.now_ms + HOUR_MS // 2

    def _run(self) -> Result:
        result = super()._run()
        steady = self.entries[WARM_DAYS:]
        share = len(steady) // 2 if len(steady) < FEW_DAYS else len(steady) // 5
        # The least of some evenings: on others there are tasks whose host was lost, which are kept for a day.
        before, after = (min(some, default=0) for some in (steady[:share], steady[-share:]))
        if after > GROWTH_RATIO_MAX * before + GROWTH_ENTRIES_MAX:
            raise Violation(f"{after:,.0f} entries in memory after {self._days} days, {before:,.0f} after some")
        return result

    def _plan_day(self, begins_ms: int) -> None:
        chance, world = self.chance, self.world

        def at(action: Any) -> None:
            world.after(begins_ms + chance.randint(0, EVENING_MS - HOUR_MS) - world.now_ms, action)

        for hour in range(2, EVENING_MS // HOUR_MS, 2):
            world.after(begins_ms + hour * HOUR_MS - world.now_ms, self._look_at_alerts)
        for _ in range(TASKS_A_DAY):
            at(self.people.submit)
        for _ in range(REPEATS_A_DAY):
            at(self._ask_again)
        if chance.random() < 0.5:
            at(chance.choice(self.people.acts))
        if chance.random() < UPGRADE:
            at(chance.choice((self._upgrade_agent, self._upgrade_dispatcher)))
        if chance.random() < BAD_DAY:
            at(self._go_wrong)
        else:
            for _ in range(chance.randint(0, TROUBLES_A_DAY_MAX)):
                at(chance.choice(Troubles(self).kinds()))

    def _evening(self, until_ms: int) -> None:
        """Look after the fleet until nothing is open and a day is over, and see what is still in memory."""
        self._looks_until_ms = self.world.now_ms + HOUR_MS
        self._heal()
        self.copies.clear()
        self.world.run(self.world.now_ms + 2 * HOUR_MS)
        while self.tasks_end.open_tasks() and self.world.now_ms < until_ms:
            self.world.run(self.world.now_ms + MINUTE_MS)
        still = self.tasks_end.open_tasks()
        if still:
            raise Violation(f"a whole evening was not enough for {still}")
        self.world.run(until_ms)
        self.entries.append(sum(1 for part in self._memory() for _ in contents(part)))

    def _memory(self) -> Iterator[object]:
        for dispatcher in self.dispatchers:
            yield dispatcher.engine
        yield self.reporter.projector
        for host in self.hosts:
            yield host.core
        yield from self.recorders

    # --- what a day brings ---

    def _look_at_alerts(self) -> None:
        """A person takes copies away and lets hosts in again that were refused."""
        for copy in self.copies:
            copy.destroyed = True
            copy.kill()
        self.copies.clear()
        self._accept_again()

    def _ask_again(self) -> None:
        """A client that never heard of its receipt sends the same request, perhaps days later."""
        known = list(self.in_flight.specs)[-3 * TASKS_A_DAY :]
        if known:
            task_id = self.chance.choice(known)
            spec = msgspec.convert(self.in_flight.specs[task_id], type=TaskSpec)
            self.append(events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=spec),)), events.REQUEST)

    def _go_wrong(self) -> None:
        """For some minutes everything fails, as in every seed."""
        world, chance = self.world, self.chance
        world.faults = Faults()
        kinds = chance.sample(Troubles(self).kinds(), chance.randint(1, 6))
        for _ in range(chance.randint(5, 20)):
            world.after(chance.randint(0, BAD_TIME_MS), chance.choice(kinds))
        for _ in range(3):
            world.after(chance.randint(0, BAD_TIME_MS), self.people.submit)

        def over() -> None:
            world.faults = Faults.none()

        world.after(BAD_TIME_MS, over)

    def _upgrade_agent(self) -> None:
        host = self.chance.choice(self.hosts)
        host.stop()
        self._versions += 1
        host.version = f"1.{self._versions}"
        self.soon(host.start, 5_000, MINUTE_MS)

    def _upgrade_dispatcher(self) -> None:
        """The new version cannot read the old one's snapshot: it folds the whole log again."""
        dispatcher = self.chance.choice(self.dispatchers)
        dispatcher.kill()
        dispatcher.snapshot = None
        self.soon(dispatcher.start, 1_000, MINUTE_MS)


def contents(root: object) -> Iterator[object]:
    """Yield everything that *root* holds, each once: what a snapshot has, and what it has not.

    But for alerts, of which the newest are kept: they take months to fill their share.
    """
    seen: set[int] = set()
    found = [root]
    while found:
        one = found.pop()
        if id(one) in seen or isinstance(one, World | HostRefusal):
            continue
        if isinstance(one, str | bytes | int | float | bool | None):
            yield one
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, dict):
            found += [*one.keys(), *one.values()]
        elif isinstance(one, list | tuple | set | frozenset | deque):
            found += one
        elif isinstance(one, msgspec.Struct):
            found += [getattr(one, field) for field in one.__struct_fields__]
        elif type(one).__module__.startswith("fleetlog_"):
            found += vars(one).values()


def simulate_year(seed: int, days: int = YEAR_DAYS) -> Result:
    """Run one seed for so many days. Raises Violation."""
    return Year(seed, days).run()
