"""What the scheduler knows from the log, and nothing else: schedules and definitions.

`fold` is the only thing that changes it; only this is snapshotted.
"""

from __future__ import annotations

import msgspec

from fleetlog_schemas import catalog, schedules
from fleetlog_schemas.codec import Event
from fleetlog_schemas.events import PASSED_OVER


class State(msgspec.Struct):
    """The folded log."""

    schedules: schedules.Schedules = msgspec.field(default_factory=schedules.Schedules)
    catalog: catalog.Catalog = msgspec.field(default_factory=catalog.Catalog)


def fold(state: State, event: Event) -> tuple[str, ...]:
    """Fold one event; return the names of the schedules that it touched."""
    if event.data is PASSED_OVER:
        return ()
    catalog.apply(state.catalog, event)
    return schedules.apply(state.schedules, event)
