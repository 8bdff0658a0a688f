"""The agent's end of the holder: start it, find it again, and read what it left on disk when it is gone.

`known` merges what a living holder said with the status file, so that for every attempt there is one answer to
"what became of it?". What a dead holder started stays known from that file while another one listens, so `holds` says
whose news are still to come. Messages are those of `holder.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from fleetlog_agent import holder

START_SECONDS_MAX = 10.0
"""Until a holder that was started must listen."""
START_TRIES_MAX = 3
"""One that is killed before it listens has started nothing: another one may be tried."""
_POLL_SECONDS = 0.005
News = dict[str, Any]


class HolderFailed(Exception):
    """The holder cannot be started; the message says why."""


class HolderClient:
    """One agent's connection to its holder, if there is one."""

    def __init__(
        self, folder: Path, on_news: Callable[[News], None], on_break: Callable[[], None],
        fail: Callable[[BaseException | None], None],
    ) -> None:
        """Speak for the agent of *folder*.

        *on_news* hears of attempts. *on_break* hears that the connection broke and everything known must be looked
        at again: the holder died, or (`connected` tells) it lives and we are connected anew. *fail* hears what nobody
        thought of: without an ear for its holder, an agent would wait for ever.
        """
        self._folder = folder
        self._folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._on_news = on_news
        self._on_break = on_break
        self._fail = fail
        self._writer: asyncio.StreamWriter | None = None
        self._orders: list[bytes] = []
        """Given in this turn of the loop; they leave together."""
        self._reading: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._broken = False
        """The connection broke, and nobody has looked yet at what became of what was asked over it."""
        self._held: set[str] = set()
        """What the holder at the other end spoke of."""
        self._process: subprocess.Popen[bytes] | None = None
        self._closing = False
        self._log = structlog.get_logger("holder")
        self.pid = 0
        self.known: dict[str, News] = {}
        """The last thing known of each attempt."""

    @property
    def connected(self) -> bool:
        """Whether a holder listens to us."""
        return self._writer is not None

    def holds(self, key: str) -> bool:
        """Whether the holder that listens to us is the parent of *key*, takes orders for it and will tell its end."""
        return self.connected and key in self._held

    async def find(self) -> bool:
        """Connect to the holder that a former agent started, and learn what it and the status file know."""
        self.known |= self._read_log()
        return await self._connect()

    async def ensure(self, *, fresh: bool) -> None:
        """Have a holder; *fresh*: nothing in the status file is needed any more. Raises HolderFailed."""
        async with self._starting:
            await self._mend()
            if self.connected or await self._connect():
                return
            if fresh:
                self._log_path.unlink(missing_ok=True)
            await self._start()

    async def _start(self) -> None:
        errors = self._folder / "holder.err"
        deadline = asyncio.get_running_loop().time() + START_SECONDS_MAX
        for _ in range(START_TRIES_MAX):
            with errors.open("wb") as stderr:
                self._process = subprocess.Popen(  # noqa: ASYNC220 - once in an agent's life, and it returns at once
                    holder.command(str(self._folder)),
                    stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, start_new_session=True, close_fds=True,
                )
            while (code := self._process.poll()) in (None, 0) and asyncio.get_running_loop().time() < deadline:
                if await self._connect():
                    self._log.info("holder started", pid=self.pid)
                    return
                await asyncio.sleep(_POLL_SECONDS)
            if code is None or code >= 0:
                break
            self._log.warning("a holder was killed before it listened", signal=-code)
        text = errors.read_text(errors="replace")[-500:]
        raise HolderFailed(f"the holder, parent of all commands, does not start: {text or 'no answer'}")

    async def _connect(self) -> bool:
        try:
            # By way of the open folder: a socket's path is limited to 108 bytes.
            reader, writer = await asyncio.open_unix_connection(
                f"/proc/self/fd/{self._folder_fd}/holder.sock", limit=holder.MESSAGE_BYTES_MAX
            )
            hello = json.loads(await asyncio.wait_for(reader.readline(), START_SECONDS_MAX) or b"null")
        except (OSError, TimeoutError, ValueError):
            return False
        if hello is None:
            writer.close()
            return False
        self.pid = hello["pid"]
        held = {one["key"]: one for one in hello["held"]}
        self.known |= held
        self._held = set(held)
        self._writer = writer
        self._reading = asyncio.create_task(self._read(reader))
        self._reading.add_done_callback(self._read_no_more)
        return True

    def _read_no_more(self, reading: asyncio.Task[None]) -> None:
        if not reading.cancelled() and reading.exception() is not None:
            self._fail(reading.exception())

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            # Without a line break it is what a holder was saying when it was killed.
            while (line := await reader.readline()).endswith(b"\n"):
                news = json.loads(line)
                self.known[news["key"]] = news
                self._held.add(news["key"])
                self._on_news(news)
        if self._writer is not None:
            self._writer.close()
        self._writer, self._broken = None, True
        async with self._starting:
            await self._mend()

    async def _mend(self) -> None:
        """After a break, once, and before anything else is asked of a holder: learn what the last one did.

        Its status file comes first: the next holder, which may listen already, knows nothing of what it started.
        """
        if not self._broken or self._closing:
            return
        self._broken = False
        if self._process is not None:
            self._process.poll()
        self.known |= self._read_log()
        await self._connect()
        self._on_break()

    @property
    def _log_path(self) -> Path:
        return self._folder / "holder.log"

    def _read_log(self) -> dict[str, News]:
        known: dict[str, News] = {}
        try:
            body = self._log_path.read_bytes()
        except FileNotFoundError:
            return known
        for line in body.split(b"\n")[:-1]:  # the last one was interrupted, or is empty
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                known[record["key"]] = record
        return known

    def order(self, order: str, key: str = "", **more: object) -> bool:
        """Send an order; False when there is no holder to hear it."""
        if self._writer is None:
            return False
        if not self._orders:
            asyncio.get_running_loop().call_soon(self._send_orders)
        self._orders.append(json.dumps({"order": order, "key": key, **more}).encode() + b"\n")
        return True

    def _send_orders(self) -> None:
        orders, self._orders = self._orders, []
        if self._writer is not None:
            self._writer.write(b"".join(orders))

    def release(self, key: str) -> None:
        """The end of *key* is in our journal: the holder need not remember it."""
        self.known.pop(key, None)
        self._held.discard(key)
        self.order("release", key)

    async def close(self, *, retire: bool) -> None:
        """Disconnect; with *retire* the holder exits as soon as nothing is left to hold."""
        self._closing = True
        if retire:
            self.order("retire")
            self._send_orders()
        if self._writer is not None:
            with contextlib.suppress(OSError):
                await self._writer.drain()
                self._writer.close()
                await self._writer.wait_closed()
        if self._reading is not None:
            self._reading.cancel()
        os.close(self._folder_fd)
