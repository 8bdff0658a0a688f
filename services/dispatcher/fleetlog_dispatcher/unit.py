"""The dispatcher as a unit: its pure functions with their settings and keys, for the engine to drive."""

from __future__ import annotations

from fleetlog_dispatcher import decide as deciding
from fleetlog_dispatcher import live as living
from fleetlog_dispatcher import observe as observing
from fleetlog_dispatcher import state as folding
from fleetlog_dispatcher.live import Live
from fleetlog_dispatcher.sessions import Keys
from fleetlog_dispatcher.state import Folded, State
from fleetlog_runtime.pure.effects import Effect
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import events
from fleetlog_schemas.codec import Event


class Dispatcher:
    """Implements `fleetlog_runtime.pure.engine.Unit`."""

    name = "dispatcher"
    subject = events.DISPATCH
    fences: tuple[str, ...] = ()
    passes_over: frozenset[type[events.Data]] = frozenset()
    state_type = State
    state_version = 4
    """Raised whenever the form or the meaning of `State` changes: an older snapshot is then not used."""

    def __init__(self, settings: DispatcherSettings, keys: Keys) -> None:
        """Decide by these settings, with these secrets."""
        self._settings = settings
        self._keys = keys

    def initial(self) -> State:
        """Return the state of an empty log."""
        return State()

    def fold(self, state: State, event: Event) -> Folded | None:
        """Fold one event."""
        return folding.fold(state, event)

    def awaken(self, state: State, now_ms: int) -> Live:
        """Return the live state of a dispatcher that takes over."""
        return living.awaken(self._settings, state, now_ms)

    def observe(self, state: State, live: Live, observation: object, now_ms: int) -> None:
        """Take in one observation."""
        observing.observe(self._settings, state, live, observation, now_ms)

    def decide(self, state: State, live: Live, now_ms: int) -> list[Effect]:
        """Return what is due."""
        return deciding.decide(self._settings, self._keys, state, live, now_ms)
