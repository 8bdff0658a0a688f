"""One whole history from one seed: a fleet, people who submit and cancel, and everything that goes wrong.

For some minutes everything fails; then all is healed, and what was promised must hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fleetlog_agent.journal_records import Commit, SessionOpened
from fleetlog_dispatcher.sessions import Keys
from fleetlog_runtime.pure.bus import AppendUnsettled, Batch, Draft
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_runtime.pure.signing import Signer
from fleetlog_schemas import codec, events
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import Retry, Shell, TaskSpec
from fleetlog_simulation.books import Books
from fleetlog_simulation.hosts import Course, Courses, Machine, SimHost
from fleetlog_simulation.invariants import Invariant
from fleetlog_simulation.invariants.copies_run_nothing import CopiesRunNothing
from fleetlog_simulation.invariants.projection_agrees import ProjectionAgrees
from fleetlog_simulation.invariants.readers_agree import ReadersAgree
from fleetlog_simulation.invariants.results_kept import ResultsKept
from fleetlog_simulation.invariants.runs_once import RunsOnce
from fleetlog_simulation.invariants.slots import Slots
from fleetlog_simulation.invariants.tasks_end import TasksEnd
from fleetlog_simulation.invariants.unreached_never_ran import UnreachedNeverRan
from fleetlog_simulation.reporter import SimReporter
from fleetlog_simulation.services import Lease, SimDispatcher, SimRecorder
from fleetlog_simulation.world import START_MS, Faults, World

BAD_TIME_MS = 240_000
"""How long things go wrong."""
QUIET_MS_MAX = 3_600_000
"""How long, healed, everything may take to end."""
TASKS_MAX = 20
WORK = Shell(argv=("work",))
"""What every task runs: its processes have a course instead of a program."""


@dataclass(frozen=True)
class Result:
    """What came of a seed."""

    seed: int
    digest: str
    events: int
    executions: int
    steps: int


class Scenario:
    """The fleet of one seed, and what happens to it: by chance, unless a subclass tells another history."""

    def __init__(
        self, seed: int, *, faults: Faults | None = None, settings: DispatcherSettings | None = None, hosts: int = 0
    ) -> None:
        """Build everything; `run` lets it happen. What is not given, the seed chooses."""
        self.world = world = World(seed, faults or Faults())
        self.chance = world.random
        self.keys = Keys(ticket=b"t" * 32, token=b"k" * 32, blob=b"b" * 32, signer=Signer(b"s" * 32))
        self.settings = settings or DispatcherSettings(slots_per_host=self.chance.choice((1, 2, 4)))
        self.lease = Lease()
        self.dispatchers = [SimDispatcher(world, name, self.lease, self.keys, self.settings) for name in ("d1", "d2")]
        self.recorders = [SimRecorder(world, name, self.keys) for name in ("r1", "r2")]
        self.reporter = SimReporter(world)
        self.machines: list[Machine] = []
        self.courses: Courses = {}
        self.hosts = [self._host(f"h{number}") for number in range(hosts or self.chance.randint(2, 5))]
        self.copies: list[SimHost] = []
        self.acknowledged: set[str] = set()
        self.submitted: list[str] = []
        self.books = books = Books(world)
        self.tasks_end = TasksEnd(books, self.acknowledged)
        self.invariants: list[Invariant] = [
            RunsOnce(world), Slots(books, self.settings.slots_per_host), UnreachedNeverRan(world, books),
            self.tasks_end, ResultsKept(world, books, self.machines), ReadersAgree(world, books, self.dispatchers),
            CopiesRunNothing(world, self.machines), ProjectionAgrees(world, self.reporter),
        ]
        world.checks = [invariant.check for invariant in self.invariants]

    def _host(self, host_id: str) -> SimHost:
        machine = Machine(host_id, host_id, self.world.new_id(), self.world.now_ms - self.chance.randint(1_000, 10**9))
        self.machines.append(machine)
        pinned = {self.keys.signer.key_id: self.keys.signer.public_key}
        return SimHost(self.world, machine, pinned, courses=self.courses)

    # --- the history ---

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
        for host in self.hosts:
            enrolled = events.HostEnrolled(
                host_id=host.machine.host_id, name=host.machine.host_id, labels={}, public_key="key"
            )
            self.append(enrolled, events.ACCESS)
        for part in (*self.dispatchers, *self.hosts):
            part.start()
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
        return Result(world.seed, world.digest(), count, len(world.executions), world.steps)

    def _happen(self) -> None:
        """Let things happen that are not healed yet."""
        world = self.world
        for _ in range(self.chance.randint(3, TASKS_MAX)):
            world.after(self.chance.randint(0, BAD_TIME_MS), self._submit)
        # A few kinds of trouble, each often, find more than all kinds, each rarely (swarm testing, Groce et al. 2012).
        kinds = self.chance.sample(self._troubles(), self.chance.randint(1, 6))
        for _ in range(self.chance.randint(0, 30)):
            world.after(self.chance.randint(0, BAD_TIME_MS), self.chance.choice(kinds))
        world.run(START_MS + BAD_TIME_MS)

    def append(self, data: events.Data, subject: str, acknowledged: Callable[[], None] = lambda: None) -> None:
        """Append as the gateway does: one batch, resent byte for byte until it is settled."""
        event = codec.Event(
            id=self.world.new_id(), source="/fleetlog/gateway/g1", data=data, time_ms=self.world.now_ms, authid="ann"
        )
        batch = Batch(drafts=(Draft(subject=subject, body=codec.encode(event)),), message_id=event.id)

        def settled(answer: int | Exception) -> None:
            if isinstance(answer, AppendUnsettled):
                self.world.after(500, lambda: self.world.append(batch, settled))
            else:
                acknowledged()

        self.world.append(batch, settled)

    def submit(self, spec: TaskSpec, *courses: Course) -> str:
        """Submit a task and return its id; without *courses* its processes go by chance."""
        task_id = self.world.new_id()
        self.submitted.append(task_id)
        self.courses[task_id] = courses
        submission = events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=spec),))
        self.append(submission, events.REQUEST, lambda: self.acknowledged.add(task_id))
        return task_id

    def _submit(self) -> None:
        chance = self.chance
        retry_on = (Outcome.FAILURE, Outcome.LOST, Outcome.TIMEOUT) if chance.random() < 0.6 else (Outcome.FAILURE,)
        names = [host.machine.host_id for host in self.hosts]
        spec = TaskSpec(
            payload=WORK,
            target=chance.choice(("all", chance.choice(names), "nobody" if chance.random() < 0.1 else "all")),
            timeout_ms=chance.choice((2_000, 10_000, 60_000)),
            task_timeout_ms=chance.choice((0, 0, 0, 30_000)),
            wait_offline_ms=chance.choice((0, 20_000, 200_000)),
            parallel=chance.choice((0, 0, 1, 2)),
            retry=Retry(attempts_max=chance.choice((1, 2, 4)), on=retry_on, backoff_ms=chance.choice((0, 500, 5_000))),
        )
        task_id = self.submit(spec)
        if chance.random() < 0.25:
            hosts = () if chance.random() < 0.6 else (chance.choice(names),)
            cancel = events.CancelRequested(task_id=task_id, host_ids=hosts, reason="changed my mind")
            delay_ms = chance.choice((0, 5, 30, 100, 2_000, 20_000))
            self.world.after(delay_ms, lambda: self.append(cancel, events.REQUEST))

    # --- trouble ---

    def _troubles(self) -> list[Callable[[], None]]:
        return [
            self._kill_dispatcher, self._pause_dispatcher, self._kill_recorder, self._kill_agent, self._stop_agent,
            self._disconnect, self._bus_down, self._reboot, self._roll_back, self._copy, self._maintenance,
            self.reporter.kill,
        ]

    def _soon(self, action: Callable[[], None], low_ms: int, high_ms: int) -> None:
        self.world.after(self.chance.randint(low_ms, high_ms), action)

    def _kill_dispatcher(self) -> None:
        dispatcher = self.chance.choice(self.dispatchers)
        dispatcher.kill()
        self._soon(dispatcher.start, 100, 30_000)

    def _pause_dispatcher(self) -> None:
        """Stop it and continue it, long after another took over: it goes on believing what it believed."""
        leading = [one for one in self.dispatchers if one.engine.live is not None]
        dispatcher = self.chance.choice(leading or self.dispatchers)
        dispatcher.pause()
        self._soon(dispatcher.go_on, 1_000, self.chance.choice((15_000, 90_000)))

    def _kill_recorder(self) -> None:
        self.chance.choice(self.recorders).kill()

    def _kill_agent(self) -> None:
        host = self.chance.choice(self.hosts)
        host.kill()
        self._soon(host.start, 50, self.chance.choice((5_000, 150_000)))

    def _stop_agent(self) -> None:
        host = self.chance.choice(self.hosts)
        host.stop()
        self._soon(host.start, 10_000, 60_000)

    def _disconnect(self) -> None:
        host = self.chance.choice(self.hosts)
        host.disconnect()
        self._soon(host.connect, 50, 100_000)

    def _bus_down(self) -> None:
        self.world.bus_down = True
        for host in (*self.hosts, *self.copies):
            host.disconnect()

        def up() -> None:
            self.world.bus_down = False
            self.world.notify()
            for host in (*self.hosts, *self.copies):
                self._soon(host.connect, 10, 3_000)

        self._soon(up, 500, 12_000)

    def _reboot(self) -> None:
        host = self.chance.choice(self.hosts)
        host.reboot()
        self._soon(host.start, 1_000, 30_000)

    def _roll_back(self) -> None:
        """Restore a machine to what it was: to something that the log has moved beyond, or it could not be seen."""
        host = self.chance.choice(self.hosts)
        machine = host.machine
        keep = self.chance.randint(0, len(machine.disk))
        old = machine.disk[:keep]
        if machine.stale or (old[-1].counter if old else 0) >= self.books.counter_seen(machine.host_id):
            return
        host.reboot()
        machine.disk, machine.stale = old, True
        machine.name = f"{machine.name}~"
        self._soon(host.start, 1_000, 30_000)

    def _copy(self) -> None:
        """Copy a host's key and an old ticket to another machine, with a journal that looks long enough."""
        original = self.chance.choice(self.hosts).machine
        used = self.books.epoch_used(original.host_id)
        ends = [
            number + 1
            for number, commit in enumerate(original.disk)
            if any(isinstance(record, SessionOpened) and record.epoch < used for record in commit.records)
        ]
        if not ends or original.stale or self.copies:
            return
        old = list(original.disk[: ends[-1]])
        copy = self._host(original.host_id)
        copy.machine.name = f"{original.name}-copy"
        copy.machine.disk = [*old, Commit(counter=10**6, records=())]
        copy.machine.holder_sure = False
        copy.machine.stale = True
        self.copies.append(copy)
        copy.start()

    def _maintenance(self) -> None:
        host_id = self.chance.choice(self.hosts).machine.host_id
        self.append(events.MaintenanceSet(host_id=host_id, on=True, reason="work"), events.HOST)
        off = events.MaintenanceSet(host_id=host_id, on=False)
        self._soon(lambda: self.append(off, events.HOST), 1_000, 60_000)

    # --- and peace ---

    def _heal(self) -> None:
        """Everything works again, and a person looks after the hosts that were refused."""
        world = self.world
        world.faults = Faults.none()
        world.bus_down = False
        for copy in self.copies:
            copy.destroyed = True
            copy.kill()
        for dispatcher in self.dispatchers:
            dispatcher.start()
            dispatcher.go_on()
        for host in self.hosts:
            host.start()
            host.connect()
            self.append(events.MaintenanceSet(host_id=host.machine.host_id, on=False), events.HOST)
        self._accept_again()

    def _accept_again(self) -> None:
        for host in self.hosts:
            known = self.dispatchers[0].engine.state.hosts.by_id.get(host.machine.host_id)
            if known is not None and known.blocked:
                host.machine.stale = False
                self.append(events.HostAccepted(host_id=host.machine.host_id), events.HOST)
        if self.world.now_ms < START_MS + BAD_TIME_MS + QUIET_MS_MAX // 2:
            self.world.after(30_000, self._accept_again)


def simulate(seed: int) -> Result:
    """Run one seed. Raises Violation."""
    return Scenario(seed).run()
