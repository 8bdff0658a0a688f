"""Processes that `up` keeps running: started, started again when they die (with growing pauses), ended in order.

Each has a pid file in `run/` and its diagnostics in `diagnostics/`. A process left behind by an `up` that was killed
is found by its pid file and its command line, and is ended first: two of one kind would only get in each other's way.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

RESTART_S_MIN = 0.2
RESTART_S_MAX = 5.0
STEADY_S = 10.0
"""Whoever lived this long did start well: the next pause is short again."""
STOP_S_MAX = 30.0
"""A service writes its snapshot, the agent drains; after this it is killed."""
LOG_BYTES_MAX = 16 * 1024 * 1024
"""Diagnostics of one process are begun anew at a start when they are larger; the former ones are kept once."""
_POLL_S = 0.05

Say = Callable[[str], None]


class Child:
    """One process that is kept running."""

    def __init__(self, name: str, argv: Sequence[str], folder: Path, say: Say) -> None:
        """Prepare to run *argv* for the data folder *folder*; *say* tells a person about restarts."""
        self.name = name
        self._argv = list(argv)
        self._pid_path = folder / "run" / f"{name}.pid"
        self._log_path = folder / "diagnostics" / f"{name}.log"
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int:
        """The process id of the one that runs now or ran last, or 0."""
        return self._process.pid if self._process is not None else 0

    async def start(self) -> None:
        """Start it, and start it again whenever it dies, until `stop`. Raises OSError."""
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")

    async def _spawn(self) -> None:
        if self._log_path.exists() and self._log_path.stat().st_size > LOG_BYTES_MAX:
            self._log_path.replace(self._log_path.with_suffix(".log.1"))
        log = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        finally:
            os.close(log)
        whole = self._pid_path.with_suffix(".pid.new")
        whole.write_text(f"{self._process.pid}\n")
        whole.replace(self._pid_path)

    async def _keep(self) -> None:
        pause_s = RESTART_S_MIN
        while True:
            assert self._process is not None
            began = time.monotonic()
            code = await self._process.wait()
            if self._stopping:
                return
            if time.monotonic() - began > STEADY_S:
                pause_s = RESTART_S_MIN
            self._say(f"{self.name} ended ({_how(code)}); starting it again. Its diagnostics: {self._log_path}")
            await asyncio.sleep(pause_s)
            pause_s = min(RESTART_S_MAX, pause_s * 2)
            await self._spawn()

    async def stop(self) -> None:
        """End it: SIGTERM, then, after STOP_S_MAX, SIGKILL."""
        self._stopping = True
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), STOP_S_MAX)
            except TimeoutError:
                self._say(f"{self.name} did not stop in {STOP_S_MAX:.0f} s and is killed")
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        self._pid_path.unlink(missing_ok=True)


def _how(code: int) -> str:
    if code >= 0:
        return f"exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def end_left_behind(pid_path: Path, marks: Sequence[str]) -> None:
    """End the process of a pid file if it still runs, and its command line has all of *marks*."""
    try:
        pid = int(pid_path.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return
    if not {mark.encode() for mark in marks} <= set(command):
        return  # the number belongs to another process by now
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_S_MAX
    while _alive(pid):
        if time.monotonic() > deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")
