"""Which definitions there are, folded from the log: one fold for every reader.

A change stands when its version is one more than the last of that name, also of one that was removed: a version of a
name never comes twice, so a reader of an old one is never taken for a reader of the new. What does not fit is void.
"""

from __future__ import annotations

import msgspec

from fleetlog_schemas import definition_events, limits
from fleetlog_schemas.codec import Event
from fleetlog_schemas.definitions import Definition


class Known(msgspec.Struct, frozen=True):
    """The newest version of a definition, and where the log has the others."""

    definition_id: str
    version: int
    definition: Definition
    message: str
    changed_by: str
    changed_ms: int
    seqs: tuple[int, ...]
    """Log sequences of its versions, the newest last; at most DEFINITION_VERSIONS_MAX."""
    bytes: int

    def seq_of(self, version: int) -> int:
        """Return the log sequence of a version; 0: there is none, or it is too old to be listed."""
        index = len(self.seqs) - 1 - (self.version - version)
        return self.seqs[index] if 0 <= index < len(self.seqs) else 0


class Catalog(msgspec.Struct):
    """Every definition."""

    by_name: dict[str, Known] = {}
    names: dict[str, str] = {}
    """Id to name, of those that are there."""
    removed: dict[str, int] = {}
    """Names that are free again, and the last version that each had."""
    bytes: int = 0

    def named(self, text: str) -> Known | None:
        """Return the definition of this name or id."""
        return self.by_name.get(self.names.get(text, text))

    def last_version(self, name: str) -> int:
        """Return the last version that this name had; 0: it is new."""
        known = self.by_name.get(name)
        return known.version if known is not None else self.removed.get(name, 0)


def apply(catalog: Catalog, event: Event) -> bool:
    """Fold one event and tell whether it changed anything."""
    match event.data:
        case definition_events.DefinitionSet():
            return _set(catalog, event, event.data)
        case definition_events.DefinitionRemoved(definition_id=definition_id):
            name = catalog.names.pop(definition_id, None)
            if name is None:
                return False
            known = catalog.by_name.pop(name)
            catalog.removed[name] = known.version
            catalog.bytes -= known.bytes
            return True
    return False


def _set(catalog: Catalog, event: Event, data: definition_events.DefinitionSet) -> bool:
    name = data.definition.name
    known = catalog.by_name.get(name)
    if data.version != catalog.last_version(name) + 1:
        return False
    if known.definition_id != data.definition_id if known else data.definition_id in catalog.names:
        return False
    size = len(msgspec.json.encode(data.definition))
    catalog.by_name[name] = Known(
        definition_id=data.definition_id, version=data.version, definition=data.definition, message=data.message,
        changed_by=event.authid or "", changed_ms=event.time_ms, bytes=size,
        seqs=(*(known.seqs if known else ()), event.seq)[-limits.DEFINITION_VERSIONS_MAX :],
    )
    catalog.bytes += size - (known.bytes if known else 0)
    catalog.names[data.definition_id] = name
    catalog.removed.pop(name, None)
    return True
