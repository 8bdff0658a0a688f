"""The scheduler as a unit: its pure functions with their settings, for the engine to drive."""

from __future__ import annotations

from fleetlog_runtime.pure.effects import Changed, Effect
from fleetlog_runtime.pure.settings import SchedulerSettings
from fleetlog_scheduler import decide as deciding
from fleetlog_scheduler import live as living
from fleetlog_scheduler import state as folding
from fleetlog_scheduler.live import Live
from fleetlog_scheduler.state import State
from fleetlog_schemas import events
from fleetlog_schemas.codec import Event
from fleetlog_schemas.fates import look_ms
from fleetlog_schemas.host_events import FactsChanged


class Scheduler:
    """Implements `fleetlog_runtime.pure.engine.Unit`."""

    name = "scheduler"
    subject = events.TICK
    fences: tuple[str, ...] = (events.SCHEDULE,)
    """A change by a person that came first voids what was decided without it."""
    passes_over: frozenset[type[events.Data]] = frozenset({
        events.TasksSubmitted, events.TasksPlanned, events.AttemptsDispatched, events.AttemptsStarted, events.AttemptsEnded,
        events.CommandsWaiting, FactsChanged,
    })
    state_type = State
    state_version = 1
    """Raised whenever the form or the meaning of `State` changes: an older snapshot is then not used."""

    def __init__(self, settings: SchedulerSettings) -> None:
        """Decide by these settings."""
        self._settings = settings

    def initial(self) -> State:
        """Return the state of an empty log."""
        return State()

    def fold(self, state: State, event: Event) -> tuple[str, ...]:
        """Fold one event."""
        return folding.fold(state, event)

    def awaken(self, state: State, now_ms: int) -> Live:  # noqa: ARG002 - the engine gives it
        """Return the live state of a scheduler that takes over."""
        return living.awaken(state.schedules)

    def observe(self, state: State, live: Live, observation: object, now_ms: int) -> None:  # noqa: ARG002 - the engine gives it
        """Take in one observation: only what was read from the log matters here."""
        if isinstance(observation, Changed):
            for name in observation.changes:
                live.put(name, look_ms(state.schedules, name))

    def decide(self, state: State, live: Live, now_ms: int) -> list[Effect]:
        """Return what is due."""
        return deciding.decide(self._settings, state, live, now_ms)
