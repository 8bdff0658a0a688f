"""What people do to schedules: they register, change, pause, resume, backfill, stop, start and unregister a few, all the time.

The definition is made first, and the schedules are few and fast, so that changes meet ticks that are on their way.
"""

from __future__ import annotations

import datetime as dt

from fleetlog_schemas import definition_events, events, policy_events
from fleetlog_schemas import schedule_events as stored
from fleetlog_schemas.definitions import Definition
from fleetlog_schemas.schedule_events import Rule, SchedulePolicy
from fleetlog_schemas.spec import TaskSpec
from fleetlog_simulation.fleet import WORK, Fleet
from fleetlog_simulation.world import CLOCK_ZONE

NAMES = ("s1", "s2")
CHANGES_MAX = 12
"""Changes by people in one seed; about as many as there are ticks."""
DEFINITION = "report"
CRON, WINDOWED = 0.5, 0.2
"""How many rules are patterns of a wall clock, and how many fire only within a window."""
PATTERNS = ("*/10 * * * * *", "*/10 * 1-2 * * *", "15 * 2 * * *", "*/30 * 0-6 * * *", "0,30 * * * *")
"""The first and the last follow the passing of time through both nights, the others the wall clock."""
ZONES = (CLOCK_ZONE, CLOCK_ZONE, CLOCK_ZONE, "UTC")


class Timetable:
    """The schedules of one seed."""

    def __init__(self, fleet: Fleet) -> None:
        """Nothing is scheduled yet."""
        self._fleet, self._chance = fleet, fleet.chance

    def begin(self, time_ms: int) -> None:
        """Start the schedulers, and let things happen to schedules within this time."""
        fleet, chance = self._fleet, self._chance
        for scheduler in fleet.schedulers:
            scheduler.start()
        spec = TaskSpec(payload=WORK, target=chance.choice(("all", "h0")), timeout_ms=5_000, wait_offline_ms=20_000)
        fleet.append(definition_events.DefinitionSet(fleet.world.new_id(), 1, Definition(DEFINITION, spec)), events.CATALOG)
        for name in NAMES:
            fleet.soon(lambda name=name: self._register(name), 0, time_ms // 4)  # type: ignore[misc]
        for _ in range(chance.randint(0, CHANGES_MAX)):
            fleet.soon(self._change, 0, time_ms)

    def end(self) -> None:
        """Unregister everything: the ledger closes, and what was submitted ends."""
        for name in NAMES:
            self._say(stored.ScheduleUnregistered(name=name, reason="over"))

    def _say(self, data: events.Data) -> None:
        self._fleet.append(data, events.SCHEDULE)

    def _register(self, name: str) -> None:
        chance = self._chance
        policy = SchedulePolicy(
            misfire=chance.choice(("latest", "skip", "all")), overlap=chance.choice(("allow", "skip", "queue-one", "cancel-running")),
            jitter_ms=chance.choice((0, 0, 1_500)), windows=self._windows(),
            gap=chance.choice(("auto", "run-after", "skip")), fold=chance.choice(("auto", "first", "second", "both")),
        )
        if chance.random() < CRON:
            rule = Rule(definition=DEFINITION, kind="cron", cron=chance.choice(PATTERNS), zone=chance.choice(ZONES), policy=policy)
        else:
            every_ms = chance.choice((5_000, 10_000, 30_000))
            rule = Rule(definition=DEFINITION, kind="interval", interval_ms=every_ms, policy=policy)
        self._say(stored.ScheduleRegistered(name=name, rule=rule, active=chance.random() < 0.9))

    def _windows(self) -> tuple[policy_events.Window, ...]:
        """Return, now and then, a window of some minutes that is open now, or soon."""
        if self._chance.random() > WINDOWED:
            return ()
        begins = dt.datetime.fromtimestamp(self._fleet.world.now_ms / 1000, dt.UTC) + dt.timedelta(minutes=self._chance.randint(-1, 2))
        lasts = self._chance.randint(1, 3)
        return (policy_events.Window("maintenance", "all", tuple(range(7)), begins.strftime("%H:%M"), lasts),)

    def _change(self) -> None:
        name, chance = self._chance.choice(NAMES), self._chance
        match chance.choice(("pause", "pause", "pause-until", "stop", "register", "unregister", "backfill")):
            case "pause":
                self._say(stored.SchedulePaused(name=name, reason="wait"))
                self._fleet.soon(lambda: self._say(stored.ScheduleResumed(name=name)), 50, 30_000)
            case "pause-until":
                now_ms = self._fleet.world.now_ms
                self._say(stored.SchedulePaused(name=name, reason="wait", until_ms=now_ms + chance.randint(50, 30_000)))
            case "backfill":
                last_ms = self._fleet.world.now_ms // 10_000 * 10_000 - 100_000
                ticks = tuple(last_ms + 10_000 * number for number in range(chance.randint(1, 3)))
                self._say(stored.BackfillRequested(name=name, ticks=ticks, reason="again"))
            case "stop":
                self._say(stored.ScheduleStopped(name=name))
                self._fleet.soon(lambda: self._say(stored.ScheduleStarted(name=name)), 50, 30_000)
            case "register":
                self._register(name)
            case "unregister":
                self._say(stored.ScheduleUnregistered(name=name))
                self._fleet.soon(lambda: self._register(name), 50, 30_000)
