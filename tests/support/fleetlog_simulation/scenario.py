"""One whole history from one seed: a fleet, people who ask for work and change their minds, and everything that goes wrong.

For some minutes everything fails; then all is healed, and what was promised must hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fleetlog_runtime.pure.settings import AgentSettings, DispatcherSettings
from fleetlog_schemas import events, host_events
from fleetlog_simulation.fleet import Fleet
from fleetlog_simulation.flows import Flows
from fleetlog_simulation.invariants import Invariant
from fleetlog_simulation.invariants.alerts import Alerts
from fleetlog_simulation.invariants.archived import Archived
from fleetlog_simulation.invariants.choices import Choices
from fleetlog_simulation.invariants.copies_run_nothing import CopiesRunNothing
from fleetlog_simulation.invariants.holds import Holds
from fleetlog_simulation.invariants.honest_hosts import HonestHosts
from fleetlog_simulation.invariants.limits import Limits
from fleetlog_simulation.invariants.parts import Parts
from fleetlog_simulation.invariants.patience import Patience
from fleetlog_simulation.invariants.projection_agrees import ProjectionAgrees
from fleetlog_simulation.invariants.readers_agree import ReadersAgree
from fleetlog_simulation.invariants.results_kept import ResultsKept
from fleetlog_simulation.invariants.runs_once import RunsOnce
from fleetlog_simulation.invariants.single_runs import SingleRuns
from fleetlog_simulation.invariants.slots import Slots
from fleetlog_simulation.invariants.tasks_end import TasksEnd
from fleetlog_simulation.invariants.ticks import Ticks
from fleetlog_simulation.invariants.unreached_never_ran import UnreachedNeverRan
from fleetlog_simulation.invariants.waves import Waves
from fleetlog_simulation.people import People
from fleetlog_simulation.services import SimUnit
from fleetlog_simulation.timetable import Timetable
from fleetlog_simulation.troubles import Troubles
from fleetlog_simulation.world import Faults, Pace

BAD_TIME_MS = 240_000
"""How long things go wrong."""
QUIET_MS_MAX = 3_600_000
"""How long, healed, everything may take to end."""
TASKS_MAX = 20
SCHEDULED = 0.4
"""How many histories have schedules: their tasks crowd out others."""


@dataclass(frozen=True)
class Result:
    """What came of a seed."""

    seed: int
    digest: str
    events: int
    executions: int
    steps: int
    pruned: int
    """Events that only the archive has."""


class Scenario(Fleet):
    """What happens to the fleet of one seed: by chance, unless a subclass tells another history."""

    look_ms = 30_000
    """How often a person looks, once all is healed."""

    def __init__(
        self, seed: int, *, faults: Faults | None = None, settings: DispatcherSettings | None = None, hosts: int = 0,
        pace: Pace | None = None, agent_settings: AgentSettings | None = None,
    ) -> None:
        """Build everything; `run` lets it happen. What is not given, the seed chooses."""
        super().__init__(
            seed, faults=faults, settings=settings, hosts=hosts, pace=pace, agent_settings=agent_settings
        )
        self._looks_until_ms = self.world.now_ms + BAD_TIME_MS + QUIET_MS_MAX // 2
        self.people = People(self)
        self.timetable = Timetable(self)
        self.flows = Flows(self)
        self.tasks_end = TasksEnd(self.books, self.acknowledged)
        self.alerts = Alerts(self.books, self.endpoint)
        self.invariants = self._promises()
        self.world.checks = [invariant.check for invariant in self.invariants]

    def _promises(self) -> list[Invariant]:
        world, books, flights, settings = self.world, self.books, self.in_flight, self.settings
        return [
            RunsOnce(world), Slots(flights, settings.slots_per_host), Limits(flights, settings.in_flight_max),
            Holds(world, flights), Waves(world, flights), SingleRuns(flights), Choices(books),
            Patience(world, flights, settings), UnreachedNeverRan(world, books), self.tasks_end,
            ResultsKept(world, books, self.machines), ReadersAgree(world, books, self.dispatchers),
            CopiesRunNothing(world, self.machines), HonestHosts(books, self.machines), ProjectionAgrees(world, self.reporter),
            Archived(world, books), Ticks(world, books), Parts(books), self.alerts,
        ]

    @property
    def recipe(self) -> str:
        """The command that repeats this history."""
        return f"just simulate {self.world.seed}"

    def run(self) -> Result:
        """Let it happen. Raises Violation, with the command that repeats it."""
        try:
            return self._run()
        except AssertionError as error:
            error.add_note(f"repeat it with: {self.recipe}")
            raise

    def _run(self) -> Result:
        world = self.world
        self.start()
        self._happen()
        self._heal()
        deadline_ms = world.now_ms + QUIET_MS_MAX
        world.run(world.now_ms + 60_000)
        while self.tasks_end.open_tasks() and world.now_ms < deadline_ms:
            world.run(world.now_ms + 30_000)
        world.run(world.now_ms + 120_000)
        for invariant in self.invariants:
            invariant.finish()
        count = world.store.state("EVENTS").last_seq
        pruned = count - len(world.store.streams["EVENTS"].messages)
        return Result(world.seed, world.digest(), count, len(world.executions), world.steps, pruned)

    def _happen(self) -> None:
        """Let things happen that are not healed yet."""
        chance, world = self.chance, self.world
        begun_ms = world.now_ms
        for keeper in self.keepers:
            keeper.start()
        if self.endpoint.in_play:
            self.append(*self.endpoint.asked_for)
        if chance.random() < SCHEDULED:
            self.timetable.begin(BAD_TIME_MS)
        if self.flows.in_play:
            self.flows.begin(BAD_TIME_MS)
        for _ in range(chance.randint(3, TASKS_MAX)):
            world.after(chance.randint(0, BAD_TIME_MS), self.people.submit)
        # A few kinds of trouble, each often, find more than all kinds, each rarely (swarm testing, Groce et al. 2012).
        kinds = chance.sample(Troubles(self).kinds(), chance.randint(1, 6))
        for _ in range(chance.randint(0, 30)):
            world.after(chance.randint(0, BAD_TIME_MS), chance.choice(kinds))
        for _ in range(chance.randint(0, 12)):
            world.after(chance.randint(0, BAD_TIME_MS), chance.choice(self.people.acts))
        world.run(begun_ms + BAD_TIME_MS)

    # --- and peace ---

    def _heal(self) -> None:
        """Everything works again, and a person looks after what is refused or kept back."""
        world = self.world
        world.faults = Faults.none()
        world.bus_down = False
        self.endpoint.well = True
        for copy in self.copies:
            copy.destroyed = True
            copy.kill()
        for dispatcher in self.dispatchers:
            dispatcher.start()
            dispatcher.go_on()
        units: list[SimUnit[Any]] = [*self.keepers, *self.schedulers]
        for unit in units:
            if unit.life:
                unit.start()
                unit.go_on()
        for host in self.hosts:
            host.start()
            host.connect()
            host.be_busy(0.1)
            self.append(host_events.MaintenanceSet(host_id=host.machine.host_id, on=False), events.HOST)
        self._look_after()

    def _look_after(self) -> None:
        """What is kept back may still be on its way to the log, or be decided only now: a person looks again and again."""
        self._accept_again()
        self.people.make_good()
        if self.schedulers[0].life:
            self.timetable.end()
        if self.world.now_ms < self._looks_until_ms:
            self.world.after(self.look_ms, self._look_after)

    def _accept_again(self) -> None:
        for host in self.hosts:
            known = self.dispatchers[0].engine.state.hosts.by_id.get(host.machine.host_id)
            if known is not None and known.blocked:
                host.machine.stale = False
                self.append(host_events.HostAccepted(host_id=host.machine.host_id), events.HOST)


def simulate(seed: int) -> Result:
    """Run one seed. Raises Violation."""
    return Scenario(seed).run()
