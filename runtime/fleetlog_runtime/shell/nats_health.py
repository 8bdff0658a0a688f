"""Is the bus well? Its own health check says so, and the disk under it says whether it can stay well.

After one failed write a stream of nats-server 2.15 answers no append any more, neither yes nor no, also when the disk
has room again; only a restart helps. What was acknowledged before is on disk.
"""

from __future__ import annotations

import json
import shutil

from fleetlog_runtime.shell import monitor
from fleetlog_runtime.shell.home import Home

DISK_FREE_BYTES_MIN = 64 * 1024**2
"""Below this a restarted server would fail again within a moment: one block of a stream is up to 8 MiB."""
_STUCK = ("write error", "no space left", "insufficient", "disabled", "not enabled")
OK = 200
NO_ANSWER = "no answer"


async def ailment(monitor_port: int) -> str:
    """Return what the server says is wrong with it, empty when it is well and its streams are readable."""
    status, body = await monitor.get(monitor_port, "/healthz")
    if not status:
        return NO_ANSWER
    if status == OK:
        return ""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return "unwell"


def is_stuck(found: str) -> bool:
    """Tell whether an ailment is one that does not pass by itself."""
    return any(sign in found.lower() for sign in _STUCK)


def has_room(home: Home, bytes_min: int = DISK_FREE_BYTES_MIN) -> bool:
    """Tell whether the disk under the bus of this home has some bytes free; one that cannot be looked at has."""
    try:
        return shutil.disk_usage(home.path / "nats").free >= bytes_min
    except OSError:
        return True
