"""Is the bus well? Its own health check says so, and the disk under it says whether it can stay well.

After one failed write a stream of nats-server 2.15 answers no append any more, neither yes nor no, also when the disk
has room again; only a restart helps. What was acknowledged before is on disk.
"""

from __future__ import annotations

import asyncio
import json
import shutil

from fleetlog_runtime.shell.home import Home

DISK_FREE_BYTES_MIN = 64 * 1024**2
"""Below this a restarted server would fail again within a moment: one block of a stream is up to 8 MiB."""
ASK_SECONDS = 2.0
_STUCK = ("write error", "no space left", "insufficient", "disabled", "not enabled")
NO_ANSWER = "no answer"


async def ailment(monitor_port: int) -> str:
    """Return what the server says is wrong with it, empty when it is well and its streams are readable."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", monitor_port)
            try:
                writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
                await writer.drain()
                answer = await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return NO_ANSWER
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " in head.split(b"\r\n")[0]:
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
