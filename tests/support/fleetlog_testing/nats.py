"""A real nats-server with real accounts and streams, in a folder of the test, up in about a tenth of a second.

`real_server` is for plain (synchronous) tests and fixtures; `running_server` is the same inside a running loop and
gives the server itself, for tests that kill it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from fleetlog_runtime.shell.home import Home, create_home
from fleetlog_runtime.shell.supervisor import NatsServer


@contextmanager
def real_server(folder: Path) -> Iterator[Home]:
    """Give a home whose bus runs and has all streams; not for use inside a running loop."""
    server = NatsServer(create_home(folder / "home"))
    asyncio.run(server.start())
    try:
        yield server.home
    finally:
        asyncio.run(server.stop())


@asynccontextmanager
async def running_server(folder: Path, listen: str = "127.0.0.1") -> AsyncIterator[NatsServer]:
    """Give a server that runs and has all streams; its home is `server.home`."""
    server = NatsServer(create_home(folder / "home"), listen=listen)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def flip_a_bit(store: Path, mark: bytes) -> None:
    """Flip one bit of the first message of the log that has *mark* in its bytes, in the store of a bus that does not run."""
    for block in sorted(store.rglob("streams/EVENTS/msgs/*.blk")):
        content = bytearray(block.read_bytes())
        at = content.find(mark)
        if at >= 0:
            content[at] ^= 1
            block.write_bytes(content)
            return
    raise AssertionError(f"{mark!r} is in no block")
