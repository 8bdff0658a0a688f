"""How far the log reached, by what was derived from it: snapshots and the projection outlive a bus whose storage is emptied."""

from __future__ import annotations

import importlib
from pathlib import Path

from fleetlog_runtime.shell import snapshots


def known_seq(home: Path) -> int:
    """Return the highest sequence of the log that anything in this data folder has read; 0 when nothing has."""
    found = [snapshots.position_of(path) for path in (home / "snapshots").glob("*.snapshot")]
    store = importlib.import_module("fleetlog_reporter.store")
    found.append(store.position_of(home / "reporter" / store.FILE_NAME))
    return max(found)
