"""What goes wrong in a fleet: processes that die or stop, machines that restart, are restored or copied, a bus that is gone.

Each trouble begins at once, and is over by itself after a while.
"""

from __future__ import annotations

from collections.abc import Callable

from fleetlog_agent.journal_records import Commit, SessionOpened
from fleetlog_schemas import events, host_events, subjects
from fleetlog_simulation.fleet import Fleet


class Troubles:
    """Everything that can go wrong in one fleet."""

    def __init__(self, fleet: Fleet) -> None:
        """Let nothing go wrong yet."""
        self._fleet, self._chance, self._world = fleet, fleet.chance, fleet.world

    def kinds(self) -> list[Callable[[], None]]:
        """Return each kind of trouble."""
        return [
            self._kill_dispatcher, self._pause_dispatcher, self._kill_recorder, self._kill_agent, self._stop_agent,
            self._disconnect, self._bus_down, self._reboot, self._roll_back, self._copy, self._maintenance,
            self._busy, self._fleet.reporter.kill, self._kill_keeper, self._pause_keeper,
            self._kill_scheduler, self._pause_scheduler,
        ]

    def _kill_dispatcher(self) -> None:
        dispatcher = self._chance.choice(self._fleet.dispatchers)
        dispatcher.kill()
        self._fleet.soon(dispatcher.start, 100, 30_000)

    def _pause_dispatcher(self) -> None:
        """Stop it and continue it, long after another took over: it goes on believing what it believed."""
        leading = [one for one in self._fleet.dispatchers if one.engine.live is not None]
        dispatcher = self._chance.choice(leading or self._fleet.dispatchers)
        dispatcher.pause()
        self._fleet.soon(dispatcher.go_on, 1_000, self._chance.choice((15_000, 90_000)))

    def _kill_keeper(self) -> None:
        keeper = self._chance.choice(self._fleet.keepers)
        if keeper.life:  # not every history has keepers
            keeper.kill()
            self._fleet.soon(keeper.start, 100, 30_000)

    def _pause_keeper(self) -> None:
        keeper = self._chance.choice(self._fleet.keepers)
        keeper.pause()
        self._fleet.soon(keeper.go_on, 1_000, self._chance.choice((15_000, 90_000)))

    def _kill_scheduler(self) -> None:
        scheduler = self._chance.choice(self._fleet.schedulers)
        if scheduler.life:  # not every history has schedules
            scheduler.kill()
            self._fleet.soon(scheduler.start, 100, 30_000)

    def _pause_scheduler(self) -> None:
        leading = [one for one in self._fleet.schedulers if one.engine.live is not None]
        scheduler = self._chance.choice(leading or self._fleet.schedulers)
        scheduler.pause()
        self._fleet.soon(scheduler.go_on, 1_000, self._chance.choice((15_000, 90_000)))

    def _kill_recorder(self) -> None:
        self._chance.choice(self._fleet.recorders).kill()

    def _kill_agent(self) -> None:
        host = self._chance.choice(self._fleet.hosts)
        host.kill()
        self._fleet.soon(host.start, 50, self._chance.choice((5_000, 150_000)))

    def _stop_agent(self) -> None:
        host = self._chance.choice(self._fleet.hosts)
        host.stop()
        self._fleet.soon(host.start, 10_000, 60_000)

    def _disconnect(self) -> None:
        host = self._chance.choice(self._fleet.hosts)
        host.disconnect()
        self._fleet.soon(host.connect, 50, 100_000)

    def _bus_down(self) -> None:
        """Take the bus away; with its machine, reports go too that were confirmed and not yet on its disk."""
        self._world.bus_down = True
        reports = self._world.store.streams[subjects.REPORTS]
        for seq in list(reports.messages) if self._chance.random() < 0.5 else ():
            reports.remove(seq)
        for host in (*self._fleet.hosts, *self._fleet.copies):
            host.disconnect()

        def up() -> None:
            self._world.bus_down = False
            self._world.notify()
            for host in (*self._fleet.hosts, *self._fleet.copies):
                self._fleet.soon(host.connect, 10, 3_000)

        self._fleet.soon(up, 500, 12_000)

    def _reboot(self) -> None:
        host = self._chance.choice(self._fleet.hosts)
        host.reboot()
        self._fleet.soon(host.start, 1_000, 30_000)

    def _roll_back(self) -> None:
        """Restore a machine to what it was: to something that the log has moved beyond, or it could not be seen."""
        host = self._chance.choice(self._fleet.hosts)
        machine = host.machine
        keep = self._chance.randint(0, len(machine.disk))
        old = machine.disk[:keep]
        if machine.stale or (old[-1].counter if old else 0) >= self._fleet.books.counter_seen(machine.host_id):
            return
        host.reboot()
        machine.disk, machine.stale = old, True
        machine.name = f"{machine.name}~"
        self._fleet.soon(host.start, 1_000, 30_000)

    def _copy(self) -> None:
        """Copy a host's key and an old ticket to another machine, with a journal that looks long enough."""
        original = self._chance.choice(self._fleet.hosts).machine
        used = self._fleet.books.epoch_used(original.host_id)
        ends = [
            number + 1
            for number, commit in enumerate(original.disk)
            if any(isinstance(record, SessionOpened) and record.epoch < used for record in commit.records)
        ]
        if not ends or original.stale or self._fleet.copies:
            return
        old = list(original.disk[: ends[-1]])
        copy = self._fleet.new_host(original.host_id)
        copy.machine.name = f"{original.name}-copy"
        copy.machine.disk = [*old, Commit(counter=10**6, records=())]
        copy.machine.holder_sure = False
        copy.machine.stale = True
        self._fleet.copies.append(copy)
        copy.start()

    def _maintenance(self) -> None:
        host_id = self._chance.choice(self._fleet.hosts).machine.host_id
        self._fleet.append(host_events.MaintenanceSet(host_id=host_id, on=True, reason="work"), events.HOST)
        off = host_events.MaintenanceSet(host_id=host_id, on=False)
        self._fleet.soon(lambda: self._fleet.append(off, events.HOST), 1_000, 60_000)

    def _busy(self) -> None:
        """Let a host be busy for a while, so that it is given less at once."""
        host = self._chance.choice(self._fleet.hosts)
        host.be_busy(self._chance.choice((10.0, 50.0)))
        self._fleet.soon(lambda: host.be_busy(0.1), 5_000, 90_000)
