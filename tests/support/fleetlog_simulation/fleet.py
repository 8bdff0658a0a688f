"""Everything that there is in one simulated history: the units, the hosts, the bus, and the books of what happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleetlog_dispatcher.sessions import Keys
from fleetlog_runtime.pure.bus import AppendUnsettled, Batch, Draft
from fleetlog_runtime.pure.settings import AgentSettings, DispatcherSettings, SchedulerSettings
from fleetlog_runtime.pure.signing import Signer
from fleetlog_scheduler.state import State as SchedulerState
from fleetlog_scheduler.unit import Scheduler
from fleetlog_schemas import codec, events, host_events
from fleetlog_schemas.spec import Shell, TaskSpec
from fleetlog_simulation.books import Books
from fleetlog_simulation.endpoint import Endpoint
from fleetlog_simulation.hosts import Course, Courses, Machine, SimHost
from fleetlog_simulation.in_flight import InFlight
from fleetlog_simulation.keeper import SimKeeper, settings_of
from fleetlog_simulation.reporter import SimReporter
from fleetlog_simulation.services import Lease, SimDispatcher, SimRecorder, SimUnit
from fleetlog_simulation.world import Faults, Pace, World, start_ms

WORK = Shell(argv=("work",))
"""What every task runs: its processes have a course instead of a program."""


class Fleet:
    """The parts of one seed, and how anything gets into the log."""

    def __init__(
        self, seed: int, *, faults: Faults | None = None, settings: DispatcherSettings | None = None, hosts: int = 0,
        pace: Pace | None = None, agent_settings: AgentSettings | None = None,
    ) -> None:
        """Build everything. What is not given, the seed chooses."""
        self.world = world = World(seed, faults or Faults(), now_ms=start_ms(seed), pace=pace or Pace())
        self.chance = world.random
        self.keys = Keys(ticket=b"t" * 32, token=b"k" * 32, blob=b"b" * 32, signer=Signer(b"s" * 32))
        self.settings = settings or DispatcherSettings(
            slots_per_host=self.chance.choice((1, 2, 4)), in_flight_max=self.chance.choice((50_000, 50_000, 2, 5))
        )
        self.agent_settings = agent_settings
        self.lease = Lease(world.pace.lease_ms)
        self.dispatchers = [SimDispatcher(world, name, self.lease, self.keys, self.settings) for name in ("d1", "d2")]
        self.recorders = [SimRecorder(world, name, self.keys) for name in ("r1", "r2")]
        self.reporter = SimReporter(world)
        self.keeper_settings = settings_of(self.chance)
        lease = Lease(world.pace.lease_ms)
        self.endpoint = Endpoint(world)
        self.keepers = [
            SimKeeper(world, name, lease, self.keeper_settings, self._places, self.endpoint) for name in ("k1", "k2")
        ]
        lease = Lease(world.pace.lease_ms)
        self.schedulers: list[SimUnit[SchedulerState]] = [
            SimUnit(world, name, lease, Scheduler(SchedulerSettings())) for name in ("s1", "s2")
        ]
        self.machines: list[Machine] = []
        self.courses: Courses = {}
        self.hosts = [self.new_host(f"h{number}") for number in range(hosts or self.chance.randint(2, 5))]
        self.copies: list[SimHost] = []
        self.acknowledged: set[str] = set()
        self.submitted: list[str] = []
        self.books = Books(world)
        self.in_flight = InFlight(self.books)

    def new_host(self, host_id: str) -> SimHost:
        """Return a host on a machine of its own, which has run for a while."""
        machine = Machine(host_id, host_id, self.world.new_id(), self.world.now_ms - self.chance.randint(1_000, 10**9))
        self.machines.append(machine)
        pinned = {self.keys.signer.key_id: self.keys.signer.public_key}
        return SimHost(self.world, machine, pinned, self.agent_settings, courses=self.courses)

    def _places(self) -> dict[str, int | None]:
        """Return from where each service would read on, as its health answer says; None: it does not answer."""
        answering = [one for one in self.dispatchers if one.alive and not one.paused]
        keepers = [one for one in self.keepers if one.alive and not one.paused]
        schedulers = [one for one in self.schedulers if one.alive and not one.paused]

        def lowest(units: list[Any]) -> int | None:
            return min((one.snapshot[1] if one.snapshot else 0 for one in units), default=None)

        return {
            "dispatcher": lowest(answering), "keeper": lowest(keepers), "scheduler": lowest(schedulers),
            "reporter": self.reporter.would_read_from if self.reporter.alive else None,
        }

    @property
    def names(self) -> list[str]:
        """The names of the hosts, which are also their ids."""
        return [host.machine.host_id for host in self.hosts]

    def start(self) -> None:
        """Enrol the hosts, some of them with a label, and start every unit."""
        for name in self.names:
            place = self.chance.choice(("a", "a", "b", ""))
            labels = {"dc": place} if place else {}
            self.append(host_events.HostEnrolled(host_id=name, name=name, labels=labels, public_key="key"), events.ACCESS)
        for part in (*self.dispatchers, *self.hosts):
            part.start()

    def soon(self, action: Callable[[], None], low_ms: int, high_ms: int) -> None:
        """Let something happen within these times."""
        self.world.after(self.chance.randint(low_ms, high_ms), action)

    def append(self, data: events.Data, subject: str, acknowledged: Callable[[], None] = lambda: None) -> None:
        """Append as the gateway does: one batch, resent byte for byte until it is settled."""
        batch = self.batch(data, subject)

        def settled(answer: int | Exception) -> None:
            if isinstance(answer, AppendUnsettled):
                self.world.after(500, lambda: self.world.append(batch, settled))
            else:
                acknowledged()

        self.world.append(batch, settled)

    def batch(self, data: events.Data, subject: str) -> Batch:
        """Return what the gateway appends."""
        event = codec.Event(
            id=self.world.new_id(), source="/fleetlog/gateway/g1", data=data, time_ms=self.world.now_ms, authid="ann"
        )
        return Batch(drafts=(Draft(subject=subject, body=codec.encode(event)),), message_id=event.id)

    def submit(self, spec: TaskSpec, *courses: Course) -> str:
        """Submit a task and return its id; without *courses* its processes go by chance."""
        task_id = self.world.new_id()
        self.submitted.append(task_id)
        self.courses[task_id] = courses
        submission = events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=spec),))
        self.append(submission, events.REQUEST, lambda: self.acknowledged.add(task_id))
        return task_id
