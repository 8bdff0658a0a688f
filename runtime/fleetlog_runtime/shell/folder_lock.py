"""Two locks keep two servers off one folder, also when the supervisor of one was killed; see `supervisor.py`."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path

from fleetlog_runtime.shell.home import Home

END_SECONDS_MAX = 60
"""A clean stop writes every consumer's state."""
FIND_SECONDS_MAX = 1.0
"""Whoever has the lock may be between its fork and the start of the server."""
POLL_SECONDS = 0.02


def is_running(home: Home) -> bool:
    """Tell whether somebody runs the bus of this home."""
    path = home.path / "nats" / "supervisor.lock"
    own = try_lock(path) if path.parent.is_dir() else None
    if own is not None:
        os.close(own)
    return own is None and path.exists()


def try_lock(path: Path) -> int | None:
    """Return the lock of a file, held until it is closed, or None when somebody has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def take_over(folder: Path) -> int | None:
    """End the server that holds the lock and return the lock, or None if that cannot be done.

    It is found by the lock, not by its pid file: whoever started it may have been killed before that was written.
    """
    path, began, told = folder / "server.lock", time.monotonic(), set[int]()
    while (found := try_lock(path)) is None:
        for pid in _servers_of(folder) - told:
            told.add(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        if time.monotonic() - began > (END_SECONDS_MAX if told else FIND_SECONDS_MAX):
            return None
        time.sleep(POLL_SECONDS)
    return found


def _servers_of(folder: Path) -> set[int]:
    """Return the processes that run with the configuration of *folder* and have its lock."""
    lock, configuration = (folder / "server.lock").stat(), str(folder / "server.conf").encode()
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            named = entry.name.isdigit() and configuration in (entry / "cmdline").read_bytes().split(b"\0")
            if named and any(os.path.samestat(lock, one.stat()) for one in (entry / "fd").iterdir()):
                found.add(int(entry.name))
    return found
