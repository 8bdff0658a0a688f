"""The host's worker processes: warm, one call each at a time, replaced when they have done enough.

For the runner the pool is what the holder is for programs: it takes orders for attempts, and what it knows of each is
news of the same form. Workers live in sessions of their own and keep a file of their calls, so an agent that was killed
finds what they finished meanwhile; what ran in a worker that is gone did not return, and is never called again for the
same attempt. Workers of a former agent make their last call and leave: a restart is how changed code is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import structlog

from fleetlog_agent import calls, process_tree
from fleetlog_agent.calls import News
from fleetlog_agent.policy import Functions
from fleetlog_runtime.shell.files import private_folder
from fleetlog_schemas import workers
from fleetlog_schemas.functions import facts_of

START_SECONDS_MAX = 30.0
"""Until a worker that was started must say hello: it imports the host's modules first."""
HELLO_SECONDS_MAX = 5.0
"""Until a worker of a former agent must say what it runs."""
RESTART_SECONDS = (0.5, 60.0)
"""Pause before a worker is started again that left unasked: doubled each time, up to the second."""
_POLL_SECONDS = 0.01
_STARTING, _IDLE, _BUSY, _LEAVING = "starting", "idle", "busy", "leaving"


class _Worker:
    """One worker process as the pool sees it."""

    def __init__(self, name: str, mark: str) -> None:
        self.name, self.mark = name, mark
        self.pid = 0
        self.process_start = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.state = _STARTING
        self.running = ""


class Pool:
    """Every worker of one agent."""

    def __init__(
        self, host_id: str, boot_id: str, folder: Path, wanted: Functions, on_news: Callable[[News], None],
        fail: Callable[[BaseException | None], None],
    ) -> None:
        """Run what *wanted* offers, for the agent of *folder*; *on_news* hears of attempts."""
        self._host_id, self._boot, self._wanted = host_id, boot_id[:8], wanted
        self._folder = folder / "workers"
        self._on_news, self._fail = on_news, fail
        self._workers: dict[str, _Worker] = {}
        self._queue: deque[workers.Call] = deque()
        self._files: dict[str, set[str]] = {}
        """Attempts that are known from each worker's file, or stand in it."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0
        self._failures = 0
        self._start_error = ""
        self._closing = False
        self._log = structlog.get_logger("functions")
        self.known: dict[str, News] = {}
        """The last thing known of each attempt."""
        self.offered: tuple[workers.Offered, ...] = ()
        self.errors: tuple[str, ...] = ()
        """Modules that could not be loaded, and why."""
        self.ready = asyncio.Event()
        """A worker said what it offers, or none is wanted."""
        self.on_offered: Callable[[], None] = lambda: None
        self.on_progress: Callable[[workers.Progressed], None] = lambda _: None

    # --- beginning and end -------------------------------------------------------------------------------

    async def find(self, interesting: Collection[str]) -> None:
        """Learn what workers of a former agent did; only *interesting* attempts matter. Then start our own."""
        if self._folder.is_dir():
            for path in sorted(self._folder.glob("*.calls")):
                await self._find_one(path.stem, interesting)
        if not self._wanted.modules:
            self.ready.set()
            return
        private_folder(self._folder)
        for _ in range(self._wanted.workers):
            self._start()

    async def _find_one(self, name: str, interesting: Collection[str]) -> None:
        worker = _Worker(name, process_tree.mark_of(self._host_id, f"worker.{name}"))
        hello = await self._meet(worker, HELLO_SECONDS_MAX)
        # The file after the hello: what it says then is final, but for the call that runs.
        self._read_file(name, interesting, running=hello.running if hello else "")
        if hello is None:
            (self._folder / f"{name}.sock").unlink(missing_ok=True)
            self._forget_file(name)
            return
        worker.state, worker.running = _LEAVING, hello.running
        self._workers[name] = worker
        self._say(worker, workers.Retire())

    def _read_file(self, name: str, interesting: Collection[str], running: str) -> None:
        keys = self._files.setdefault(name, set())
        buffer = bytearray((self._folder / f"{name}.calls").read_bytes())
        with contextlib.suppress(workers.BadFrame):
            for record in workers.take_news(buffer):
                key = getattr(record, "key", "")
                if key not in interesting:
                    continue
                keys.add(key)
                if isinstance(record, workers.Finished):
                    self.known[key] = calls.exited(record)
                elif isinstance(record, workers.Began):
                    self.known[key] = calls.running(record.key, 0, 0, record.began_ms)
        for key in [key for key in keys if self.known[key]["state"] == "running" and key != running]:
            if name.startswith(self._boot):
                self.known[key] = calls.died(self.known[key], None, "while no agent was there")
            else:  # the machine went down: that it had finished may never have reached the disk
                del self.known[key]
                keys.discard(key)

    async def close(self, *, retire: bool) -> None:
        """Let go of the workers; with *retire* they leave when their call is over."""
        self._closing = True
        for worker in self._workers.values():
            if retire:
                self._say(worker, workers.Retire())
            if worker.writer is not None:
                with contextlib.suppress(OSError):
                    await worker.writer.drain()
                worker.writer.close()
        for task in self._tasks:
            task.cancel()

    # --- for the runner ----------------------------------------------------------------------------------

    def holds(self, key: str) -> bool:
        """Whether a worker that listens to us runs *key*, and will tell its end."""
        return any(worker.running == key and worker.writer is not None for worker in self._workers.values())

    def call(self, call: workers.Call) -> None:
        """Have a call made as soon as a worker is free."""
        self._queue.append(call)
        self._assign()

    def withdraw(self, key: str) -> bool:
        """Drop a call that no worker was given yet; False when there is none."""
        for call in self._queue:
            if call.key == key:
                self._queue.remove(call)
                return True
        return False

    def order(self, how: str, key: str) -> None:
        """`terminate` or `kill` the call of an attempt, with everything that it started."""
        for worker in self._workers.values():
            if key and worker.running == key and worker.pid:
                if how == "terminate":
                    process_tree.signal_tree(worker.pid, worker.mark, 15)
                else:
                    process_tree.kill_tree(worker.pid, worker.mark)

    def release(self, key: str) -> None:
        """The end of *key* is in our journal: it need not be known any more."""
        self.known.pop(key, None)
        for name, keys in list(self._files.items()):
            if key in keys:
                keys.discard(key)
                self._forget_file(name)

    def _forget_file(self, name: str) -> None:
        if name not in self._workers and not self._files.get(name):
            self._files.pop(name, None)
            (self._folder / f"{name}.calls").unlink(missing_ok=True)

    # --- workers -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._closing:
            return
        self._number += 1
        name = f"{self._boot}-{process_tree.boot_ms():x}-{self._number}"
        worker = self._workers[name] = _Worker(name, process_tree.mark_of(self._host_id, f"worker.{name}"))
        self._files[name] = set()
        self._go(self._live(worker))

    async def _live(self, worker: _Worker) -> None:
        """One worker's life, from its start until it is gone."""
        try:
            worker.process = await asyncio.to_thread(self._launch, worker)
        except OSError as error:
            self._cannot_start(f"a worker cannot be started: {error}")
            self._gone(worker, "cannot be started")
            return
        worker.pid = worker.process.pid
        hello = await self._meet(worker, START_SECONDS_MAX)
        if hello is None:
            process_tree.kill_tree(worker.pid, worker.mark)
            code = await asyncio.to_thread(worker.process.wait)
            how = "said nothing" if code == -signal.SIGKILL else f"ended with exit code {code}"
            self._cannot_start(f"a worker {how} before its modules were loaded: {self._errors_of(worker)}")
            self._gone(worker, "could not load its modules", code)
            return
        for text in hello.errors:
            self._log.error("a module of [functions] could not be loaded", error=text)
        self._start_error = ""
        if (hello.functions, hello.errors) != (self.offered, self.errors) or not self.ready.is_set():
            self.offered, self.errors = hello.functions, hello.errors
            self.ready.set()
            self.on_offered()
        if worker.state == _STARTING:
            worker.state = _IDLE
        self._assign()

    def _cannot_start(self, error: str) -> None:
        """Say that a worker did not come to be; what waits is not kept waiting when there is no other."""
        self._log.error("a worker of [functions] did not start", error=error)
        if not self._start_error:  # one is told until a worker comes to be: the next may differ in a number only
            self._start_error, self.errors = error, (*self.errors, error)
            self.on_offered()
        while self._queue and not any(worker.state in (_IDLE, _BUSY) for worker in self._workers.values()):
            key = self._queue.popleft().key
            self.known[key] = calls.refused(key, error)
            self._on_news(self.known[key])

    def _launch(self, worker: _Worker) -> subprocess.Popen[bytes]:
        wanted = self._wanted
        words = [
            sys.executable, "-m", "fleetlog.worker", "--folder", str(self._folder), "--name", worker.name,
            "--calls-max", str(wanted.calls_max), "--memory-bytes-max", str(wanted.memory_bytes_max),
            *(word for path in wanted.path for word in ("--path", path)), *wanted.modules,
        ]
        mark, _, value = worker.mark.partition("=")
        with (self._folder / f"{worker.name}.errors").open("wb") as errors:
            return subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True, cwd=self._folder,
                env={**os.environ, mark: value, "FLEETLOG_HOST_ID": self._host_id},
            )

    def _errors_of(self, worker: _Worker) -> str:
        with contextlib.suppress(OSError):
            return (self._folder / f"{worker.name}.errors").read_text(errors="replace")[-500:].strip() or "no word"
        return "no word"

    async def _meet(self, worker: _Worker, seconds: float) -> workers.Hello | None:
        """Connect to a worker and hear its hello; None when it is not there."""
        deadline = asyncio.get_running_loop().time() + seconds
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while True:
                try:
                    # By way of the open folder: a socket's path is limited to 108 bytes.
                    reader, writer = await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/{worker.name}.sock")
                    break
                except OSError:
                    over = asyncio.get_running_loop().time() > deadline
                    if over or worker.process is None or worker.process.poll() is not None:
                        return None
                    await asyncio.sleep(_POLL_SECONDS)
        finally:
            os.close(folder)
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
        worker.writer, worker.pid = writer, hello.pid
        stat = process_tree.process_stat(hello.pid)
        worker.process_start = stat[2] if stat else 0
        self._go(self._listen(worker, reader, buffer, more))
        return hello

    async def _listen(
        self, worker: _Worker, reader: asyncio.StreamReader, buffer: bytearray, first: list[workers.News]
    ) -> None:
        for news in first:
            self._heard(worker, news)
        with contextlib.suppress(OSError, workers.BadFrame):
            while data := await reader.read(256 * 1024):
                buffer += data
                for news in workers.take_news(buffer):
                    self._heard(worker, news)
        await self._over(worker)

    def _heard(self, worker: _Worker, news: workers.News) -> None:
        match news:
            case workers.Finished(key=key):
                self.known[key] = calls.exited(news)
                worker.running = ""
                if news.leaves and worker.state != _LEAVING:
                    worker.state = _LEAVING
                    self._start()
                elif worker.state == _BUSY:
                    worker.state = _IDLE
                self._failures = 0
                self._assign()  # first: the worker goes on while we say what it did
                self._on_news(self.known[key])
            case workers.Progressed():
                self.on_progress(news)
            case _:
                pass

    async def _over(self, worker: _Worker) -> None:
        """A worker's connection ended: it is gone, or will be."""
        if self._closing:
            return
        if worker.writer is not None:
            worker.writer.close()
        worker.writer = None
        code: int | None = None
        if worker.process is not None:
            code = await asyncio.to_thread(worker.process.wait)
        else:
            while (stat := process_tree.process_stat(worker.pid)) is not None and stat[2] == worker.process_start and stat[3] != "Z":
                await asyncio.sleep(_POLL_SECONDS)
        self._gone(worker, "left unasked" if worker.state != _LEAVING else "", code)

    def _gone(self, worker: _Worker, why: str, code: int | None = None) -> None:
        if self._workers.pop(worker.name, None) is None or self._closing:
            return
        key = worker.running
        # A worker of a former agent may run what this agent's journal does not know.
        if key and self.known.get(key, {}).get("state") == "running":
            # What it had finished stands in its file, also if it could not say so any more.
            self._read_file(worker.name, {key}, running="")
            if self.known[key].get("died"):
                killed_by = -code if code is not None and code < 0 else None
                self.known[key] = calls.died(self.known[key], killed_by, f"(exit code {code})" if code and code > 0 else "")
                # Nothing that it started outlives it: the attempt is over, and may be made again. By the mark alone, for
                # the process id may be another's by now.
                process_tree.kill_tree(process_tree.NO_PID, worker.mark)
            self._on_news(self.known[key])
        for suffix in ("sock", "errors"):
            (self._folder / f"{worker.name}.{suffix}").unlink(missing_ok=True)
        self._forget_file(worker.name)
        if why:
            self._failures += 1
            # A call that ends with its worker is the function's doing: the next worker comes at once.
            pause = 0.0 if key else min(RESTART_SECONDS[0] * 2 ** min(self._failures, 10), RESTART_SECONDS[1])
            self._log.warning("a worker is gone", why=why, code=code, again_seconds=pause)
            if self._failures > 1 and not self.ready.is_set():
                self.ready.set()
            asyncio.get_running_loop().call_later(pause * random.uniform(0.8, 1.2), self._start)  # noqa: S311 - jitter

    def _assign(self) -> None:
        """Give calls that wait to workers that are free."""
        for worker in self._workers.values():
            if not self._queue:
                return
            if worker.state == _IDLE and worker.writer is not None:
                call = self._queue.popleft()
                worker.state, worker.running = _BUSY, call.key
                self._files[worker.name].add(call.key)
                self.known[call.key] = calls.running(call.key, worker.pid, worker.process_start, process_tree.boot_ms())
                self._say(worker, call)
                self._on_news(self.known[call.key])

    def _say(self, worker: _Worker, order: workers.Order) -> None:
        if worker.writer is not None:
            worker.writer.write(workers.frame(order))

    def _go(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())

    def facts(self) -> dict[str, str]:
        """Return what the host says of its functions; nothing where it offers none."""
        if not self._wanted.modules:
            return {}
        return facts_of(self.offered, self._wanted.queues, self.errors)
