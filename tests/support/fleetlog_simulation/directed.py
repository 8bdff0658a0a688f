"""Directed histories: what chance brings about too rarely, told step by step.

A history is a function that drives a fleet: it acts, lets time pass until what it needs has happened, and acts again.
Units, world and invariants are those of every seed. Messages are delayed as in bad times and none is lost, so each
seed tells the same history at another pace; afterwards everything is healed and must end, as always. A step that
never comes is an error, Tame: a history that no longer brings about what it is for would prove nothing.

    @directed(hosts=2)
    def an_agent_is_away_while_its_command_ends(fleet: Directed) -> None:
        '''The end is reported when it is back.'''
        task_id = fleet.submit(TaskSpec(payload=WORK, target="h0"), Course(lasts_ms=5_000))
        fleet.until("the command runs", lambda: fleet.running(task_id))
        fleet.hosts[0].kill()
        fleet.until("the command has ended", lambda: not fleet.running(task_id))
        fleet.hosts[0].start()
        fleet.until("its end is known", lambda: fleet.books.entries(events.AttemptsEnded, task_id=task_id))

Then it is entered into HISTORIES, in `histories.py`, and into PLANTS, if there is a bug that only it notices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import events, host_events
from fleetlog_simulation.books import entries_of
from fleetlog_simulation.scenario import Result, Scenario
from fleetlog_simulation.services import SimDispatcher
from fleetlog_simulation.world import Execution, Faults

SEEDS = 25
"""Paces at which every directed history is told."""
STEP_MS_MAX = 600_000
"""How long a step may take to come: longer than any grace of the dispatcher."""
SLOW = replace(Faults.none(), delay_ms_max=Faults.delay_ms_max)
"""Messages take their time and overtake one another, and nothing is lost that the history does not lose."""
ONE_SLOT = DispatcherSettings(slots_per_host=1)

History = Callable[[int], Result]
"""Tells itself at the pace of a seed. Raises Violation, or Tame."""


class Tame(AssertionError):
    """A directed history did not bring about what it is for."""


class Directed(Scenario):
    """A fleet that a history drives."""

    def __init__(self, seed: int, tell: Callable[[Directed], None], settings: DispatcherSettings, hosts: int) -> None:
        """Build the fleet that *tell* needs."""
        super().__init__(seed, faults=SLOW, settings=settings, hosts=hosts)
        self._tell = tell

    @property
    def recipe(self) -> str:
        """The command that repeats this history."""
        return f"just simulate {self.world.seed} --directed {self._tell.__name__}"

    def _happen(self) -> None:
        self.until("every host is online", self._all_online)
        self._tell(self)

    def _all_online(self) -> bool:
        return len({one["host_id"] for one in self.books.entries(host_events.HostsOnline)}) == len(self.hosts)

    # --- steps ---

    def until(self, what: str, reached: Callable[[], object]) -> None:
        """Let time pass until it is *reached*. Raises Tame, saying *what* never came."""
        if not reached() and not self.world.run(self.world.now_ms + STEP_MS_MAX, reached):
            raise Tame(f"it never came that {what}")

    def expect(self, what: str, truth: object) -> None:
        """Hold the history to what it is for. Raises Tame, saying *what* is not so."""
        if not truth:
            raise Tame(f"it is not so that {what}")

    def wait(self, low_ms: int, high_ms: int) -> None:
        """Let a time pass that the seed chooses."""
        self.world.run(self.world.now_ms + self.chance.randint(low_ms, high_ms))

    def overtake(self, data: events.Data, subject: str) -> None:
        """Let a person's event stand in the log at once, ahead of everything that is on its way there."""
        self.world.store.append(self.batch(data, subject))
        self.world.notify()

    # --- what there is ---

    def under_way(self, kind: type[events.Data], **fields: object) -> list[dict[str, Any]]:
        """Return the entries of *kind* in what the leader has decided and not read back."""
        pending = self.leader.engine.pending
        return entries_of(pending, kind, **fields) if pending is not None else []

    @property
    def leader(self) -> SimDispatcher:
        """The dispatcher that leads, by the bus's word."""
        return next(one for one in self.dispatchers if one.name == self.lease.holder)

    @property
    def standby(self) -> SimDispatcher:
        """The other one."""
        return next(one for one in self.dispatchers if one.name != self.lease.holder)

    def runs(self, task_id: str, attempt: int = 0, host_id: str = "") -> list[Execution]:
        """Return the processes of a task that were started: all, or of this attempt, or on this host."""
        return [
            run for run in self.world.executions
            if run.task_id == task_id and attempt in (0, run.attempt) and host_id in ("", run.host_id)
        ]

    def running(self, task_id: str, attempt: int = 0, host_id: str = "") -> list[Execution]:
        """Return those that have not ended."""
        return [run for run in self.runs(task_id, attempt, host_id) if run.ended_ms is None]


def directed(
    *, hosts: int = 1, settings: DispatcherSettings = ONE_SLOT
) -> Callable[[Callable[[Directed], None]], History]:
    """Make a history of a function that drives a fleet of so many hosts."""

    def history(tell: Callable[[Directed], None]) -> History:
        def at_the_pace_of(seed: int) -> Result:
            return Directed(seed, tell, settings, hosts).run()

        at_the_pace_of.__name__, at_the_pace_of.__doc__ = tell.__name__, tell.__doc__
        return at_the_pace_of

    return history
