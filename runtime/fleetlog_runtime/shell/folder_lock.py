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
    """End the server that holds the lock and return the lock, or None if that cannot be done."""
    try:
        pid = int((folder / "pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return _lock_within(folder / "server.lock", 1)
    if str(folder / "server.conf").encode() not in command:
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    return _lock_within(folder / "server.lock", END_SECONDS_MAX)


def _lock_within(path: Path, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = try_lock(path)
        if found is not None:
            return found
        time.sleep(POLL_SECONDS)
    return None
