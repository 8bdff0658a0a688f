"""The stored events of definitions: what can be run again.

Part of the format that `events.py` begins, by the same rules.
"""

from __future__ import annotations

from fleetlog_schemas.definitions import Definition
from fleetlog_schemas.events import CATALOG, Data, event


@event("fleetlog.definition.set.v1", CATALOG, "gateway", "scheduler", "reporter", "gateway")
class DefinitionSet(Data, frozen=True):
    """A definition was made, or changed: this is all of its new version. Who did it stands in `authid`."""

    definition_id: str
    version: int
    """One more than the last of this name; void otherwise."""
    definition: Definition
    message: str = ""


@event("fleetlog.definition.removed.v1", CATALOG, "gateway", "scheduler", "reporter", "gateway")
class DefinitionRemoved(Data, frozen=True):
    """A definition is no more. Its versions stay in the log, and so does what was run from it."""

    definition_id: str
    name: str
    message: str = ""
