"""The keeper as a unit: its pure functions with their settings, for the engine to drive."""

from __future__ import annotations

from fleetlog_keeper import decide as deciding
from fleetlog_keeper import live as living
from fleetlog_keeper import state as folding
from fleetlog_keeper.live import Live
from fleetlog_keeper.state import State
from fleetlog_runtime.pure.effects import Effect
from fleetlog_runtime.pure.settings import KeeperSettings
from fleetlog_schemas import events
from fleetlog_schemas.codec import Event
from fleetlog_schemas.host_events import FactsChanged


class Keeper:
    """Implements `fleetlog_runtime.pure.engine.Unit`."""

    name = "keeper"
    subject = events.ARCHIVE
    fences: tuple[str, ...] = (events.ALERT,)
    passes_over: frozenset[type[events.Data]] = frozenset({
        events.AttemptsDispatched, events.AttemptsStarted, events.AttemptsEnded, events.CommandsWaiting, FactsChanged,
    })
    """What happens between a task's plan and its end; and facts, the largest part of what is known of a host."""
    state_type = State
    state_version = 4
    """Raised whenever the form or the meaning of `State` changes: an older snapshot is then not used."""

    def __init__(self, settings: KeeperSettings) -> None:
        """Decide by these settings."""
        self._settings = settings

    def initial(self) -> State:
        """Return the state of an empty log."""
        return State()

    def fold(self, state: State, event: Event) -> object:
        """Fold one event."""
        return folding.fold(state, event)

    def awaken(self, state: State, now_ms: int) -> Live:
        """Return the live state of a keeper that takes over."""
        del state
        return living.awaken(now_ms)

    def observe(self, state: State, live: Live, observation: object, now_ms: int) -> None:
        """Take in one observation."""
        living.observe(self._settings, state, live, observation, now_ms)

    def decide(self, state: State, live: Live, now_ms: int) -> list[Effect]:
        """Return what is due."""
        return deciding.decide(self._settings, state, live, now_ms)
