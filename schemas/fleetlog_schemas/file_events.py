"""The stored events of task files: scripts that people keep on the server. Part of the format that `events.py` begins.

The content is a blob; the log has its digest. People's changes stand on `evt.catalog`, written by the gateway.
"""

from __future__ import annotations

from fleetlog_schemas.events import CATALOG, Data, event


@event("fleetlog.file.saved.v1", CATALOG, "gateway", "gateway", "reporter")
class FileSaved(Data, frozen=True):
    """A task file was made, changed, or restored: this is its new version. Who did it stands in `authid`."""

    path: str
    version: int
    """One more than the last of this path, also of one that was removed; void otherwise."""
    sha256: str
    size: int
    interpreter: tuple[str, ...]
    """What runs it."""
    message: str = ""
    restored_version: int = 0
    """The version whose content this is again."""


@event("fleetlog.file.removed.v1", CATALOG, "gateway", "gateway", "reporter")
class FileRemoved(Data, frozen=True):
    """A task file is no more. Its versions stay, and can be restored."""

    path: str
    message: str = ""
