"""One worker process, as its agent has it: how it is started, met and spoken to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from fleetlog_agent import process_tree
from fleetlog_agent.policy import Functions
from fleetlog_schemas import workers

POLL_SECONDS = 0.01
"""Between looks at whether it listens yet, or is gone."""
STARTING, READY, LEAVING = "starting", "ready", "leaving"


@dataclass
class Met:
    """A connection to a worker that said hello."""

    hello: workers.Hello
    reader: asyncio.StreamReader
    buffer: bytearray
    """What is no whole record yet."""
    news: list[workers.News]
    """What came with the hello."""


class WorkerProcess:
    """One worker process."""

    def __init__(self, name: str, mark: str) -> None:
        self.name, self.mark = name, mark
        self.pid = 0
        self.process_start = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.state = STARTING
        self.running = ""
        """The call that runs, as far as we know and said."""
        self.given: deque[workers.Call] = deque()
        """Calls that are not over, in the order in which it makes them."""
        self.slow = False
        """It said that the call that runs takes long."""
        self._orders: list[bytes] = []
        """Given in this turn of the loop; they leave together."""

    def launch(self, folder: Path, wanted: Functions, host_id: str) -> subprocess.Popen[bytes]:
        """Start it, to listen in *folder* and to run what *wanted* offers. Raises OSError."""
        words = [
            sys.executable, "-m", "fleetlog.worker", "--folder", str(folder), "--name", self.name,
            "--calls-max", str(wanted.calls_max), "--memory-bytes-max", str(wanted.memory_bytes_max),
            *(word for path in wanted.path for word in ("--path", path)), *wanted.modules,
        ]
        mark, _, value = self.mark.partition("=")
        with (folder / f"{self.name}.errors").open("wb") as errors:
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True, cwd=folder,
                env={**os.environ, mark: value, "FLEETLOG_HOST_ID": host_id},
            )

    def last_words(self, folder: Path) -> str:
        """Return the end of what it wrote before it could say anything."""
        with contextlib.suppress(OSError):
            return (folder / f"{self.name}.errors").read_text(errors="replace")[-500:].strip() or "no word"
        return "no word"

    async def meet(self, folder: Path, seconds: float) -> Met | None:
        """Connect to it and hear its hello; None when it is not there."""
        deadline = asyncio.get_running_loop().time() + seconds
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while True:
                try:
                    # By way of the open folder: a socket's path is limited to 108 bytes.
                    reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{opened}/{self.name}.sock")
                    break
                except OSError:
                    over = asyncio.get_running_loop().time() > deadline
                    if over or self.process is None or self.process.poll() is not None:
                        return None
                    await asyncio.sleep(POLL_SECONDS)
        finally:
            os.close(opened)
        buffer = bytearray()
        found: list[workers.News] = []
        try:
            async with asyncio.timeout_at(deadline):
                while not found:
                    data = await reader.read(65_536)
                    if not data:
                        return None
                    buffer += data
                    found = workers.take_news(buffer)
        except (TimeoutError, OSError, workers.BadFrame):
            writer.close()
            return None
        hello, *more = found
        assert isinstance(hello, workers.Hello)
        self.writer, self.pid = writer, hello.pid
        stat = process_tree.process_stat(hello.pid)
        self.process_start = stat[2] if stat else 0
        return Met(hello, reader, buffer, more)

    def say(self, order: workers.Order) -> None:
        """Give an order; one that cannot be given any more is void, for the connection's end is heard."""
        if not self._orders:
            asyncio.get_running_loop().call_soon(self.send_orders)
        self._orders.append(workers.frame(order))

    def send_orders(self) -> None:
        """Send what was said in this turn of the loop now."""
        orders, self._orders = self._orders, []
        if self.writer is not None and orders:
            self.writer.write(b"".join(orders))
