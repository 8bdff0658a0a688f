"""The host's worker processes: warm, one call each at a time, replaced when they have done enough.

Calls of functions that have been quick are given ahead, a few to each worker: to wait for us between two of them would
take longer than they do. What a worker was given and has not begun can always be given to another.

For the runner the pool is what the holder is for programs: it takes orders for attempts, and what it knows of each is
news of the same form. Workers live in sessions of their own and keep a file of their calls, so an agent that was killed
finds what they finished meanwhile; what ran in a worker that is gone did not return, and is never called again for the
same attempt. Workers of a former agent make their last call and leave: a restart is how changed code is loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import structlog

from fleetlog_agent import calls, process_tree
from fleetlog_agent.calls import News
from fleetlog_agent.policy import Functions
from fleetlog_agent.worker_process import LEAVING, POLL_SECONDS, READY, STARTING, Met, WorkerProcess
from fleetlog_runtime.shell.files import private_folder
from fleetlog_schemas import workers
from fleetlog_schemas.functions import facts_of

START_SECONDS_MAX = 30.0
"""Until a worker that was started must say hello: it imports the host's modules first."""
HELLO_SECONDS_MAX = 5.0
"""Until a worker of a former agent must say what it runs."""
RESTART_SECONDS = (0.5, 60.0)
"""Pause before a worker is started again that left unasked: doubled each time, up to the second."""
QUICK_MS_MAX = 2
"""A function whose last call took no longer is quick: further calls may wait behind it."""
GIVEN_MAX = 16
"""Calls that one worker has at a time, with the one that runs."""


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
        self._workers: dict[str, WorkerProcess] = {}
        self._queue: deque[workers.Call] = deque()
        self._withdrawn: set[str] = set()
        """Calls that are to be dropped if a worker gives them back."""
        self._quick: set[str] = set()
        """Functions whose last call was short."""
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
        worker = WorkerProcess(name, process_tree.mark_of(self._host_id, f"worker.{name}"))
        hello = await self._meet(worker, HELLO_SECONDS_MAX)
        # The file after the hello: what it says then is final, but for the call that runs.
        self._read_file(name, interesting, running=hello.running if hello else "")
        if hello is None:
            (self._folder / f"{name}.sock").unlink(missing_ok=True)
            self._forget_file(name)
            return
        worker.state, worker.running = LEAVING, hello.running
        self._workers[name] = worker
        worker.say(workers.Retire())

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
                worker.say(workers.Retire())
            worker.send_orders()
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
        """Drop a call that no worker was given yet; False when there is none: it may run, or come back from its worker."""
        for call in self._queue:
            if call.key == key:
                self._queue.remove(call)
                return True
        self._withdrawn.add(key)
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
        self._withdrawn.discard(key)
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
        worker = self._workers[name] = WorkerProcess(name, process_tree.mark_of(self._host_id, f"worker.{name}"))
        self._files[name] = set()
        self._go(self._live(worker))

    async def _live(self, worker: WorkerProcess) -> None:
        """One worker's life, from its start until it is gone."""
        try:
            worker.process = await asyncio.to_thread(worker.launch, self._folder, self._wanted, self._host_id)
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
            self._cannot_start(f"a worker {how} before its modules were loaded: {worker.last_words(self._folder)}")
            self._gone(worker, "could not load its modules", code)
            return
        for text in hello.errors:
            self._log.error("a module of [functions] could not be loaded", error=text)
        self._start_error = ""
        if (hello.functions, hello.errors) != (self.offered, self.errors) or not self.ready.is_set():
            self.offered, self.errors = hello.functions, hello.errors
            self.ready.set()
            self.on_offered()
        if worker.state == STARTING:
            worker.state = READY
        self._assign()

    def _cannot_start(self, error: str) -> None:
        """Say that a worker did not come to be; what waits is not kept waiting when there is no other."""
        self._log.error("a worker of [functions] did not start", error=error)
        if not self._start_error:  # one is told until a worker comes to be: the next may differ in a number only
            self._start_error, self.errors = error, (*self.errors, error)
            self.on_offered()
        while self._queue and not any(worker.state == READY for worker in self._workers.values()):
            key = self._queue.popleft().key
            self.known[key] = calls.refused(key, error)
            self._on_news(self.known[key])

    async def _meet(self, worker: WorkerProcess, seconds: float) -> workers.Hello | None:
        met = await worker.meet(self._folder, seconds)
        if met is None:
            return None
        self._go(self._listen(worker, met))
        return met.hello

    async def _listen(self, worker: WorkerProcess, met: Met) -> None:
        self._hear(worker, met.news)
        with contextlib.suppress(OSError, workers.BadFrame):
            while data := await met.reader.read(256 * 1024):
                met.buffer += data
                self._hear(worker, workers.take_news(met.buffer))
        await self._over(worker)

    def _hear(self, worker: WorkerProcess, heard: list[workers.News]) -> None:
        over = []
        for one in heard:
            match one:
                case workers.Finished():
                    over.append(self._finished(worker, one))
                case workers.Slow():
                    worker.slow = True
                    worker.say(workers.Noted())
                    self._give_back(worker, keep=1)
                case workers.Progressed():
                    self._begun(worker)
                    self.on_progress(one)
                case _:
                    pass
        self._assign()  # first: the worker goes on while we say what it did
        for news in over:
            self._on_news(news)
        self._begun(worker)

    def _finished(self, worker: WorkerProcess, finished: workers.Finished) -> News:
        news = self.known[finished.key] = calls.exited(finished)
        self._files[worker.name].add(finished.key)
        worker.running, worker.slow = "", False
        if worker.given and worker.given[0].key == finished.key:
            name = worker.given.popleft().name
            if news["state"] == "exited" and news["duration_ms"] <= QUICK_MS_MAX:
                self._quick.add(name)
            else:
                self._quick.discard(name)
        if finished.leaves and worker.state != LEAVING:
            worker.state = LEAVING
            self._start()
            self._give_back(worker, keep=0)
        self._failures = 0
        return news

    def _begun(self, worker: WorkerProcess) -> None:
        """Say of the call that is a worker's turn now that it runs."""
        if worker.running or not worker.given:
            return
        worker.running = key = worker.given[0].key
        self._files[worker.name].add(key)
        self.known[key] = calls.running(key, worker.pid, worker.process_start, process_tree.boot_ms())
        self._on_news(self.known[key])

    def _give_back(self, worker: WorkerProcess, keep: int) -> None:
        """Let others make the calls that a worker was given and does not begin: all but the first *keep*."""
        calls_back = list(worker.given)[keep:]
        for call in reversed(calls_back):
            worker.given.pop()
            if call.key in self._withdrawn:
                self.known[call.key] = calls.refused(call.key, "it was stopped before it ran")
                self._on_news(self.known[call.key])
            else:
                self._queue.appendleft(call)
        self._assign()

    async def _over(self, worker: WorkerProcess) -> None:
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
                await asyncio.sleep(POLL_SECONDS)
        self._gone(worker, "left unasked" if worker.state != LEAVING else "", code)

    def _gone(self, worker: WorkerProcess, why: str, code: int | None = None) -> None:
        if self._workers.pop(worker.name, None) is None or self._closing:
            return
        key = worker.running
        # A worker of a former agent may run what this agent's journal does not know.
        open_keys = {call.key for call in worker.given} | ({key} if self.known.get(key, {}).get("state") == "running" else set())
        if open_keys:
            # What it had begun, and finished, stands in its file, also if it could not say so any more.
            self._read_file(worker.name, open_keys, running="")
        for one in open_keys & self.known.keys():
            if self.known[one].get("died"):
                killed_by = -code if code is not None and code < 0 else None
                self.known[one] = calls.died(self.known[one], killed_by, f"(exit code {code})" if code and code > 0 else "")
                # Nothing that it started outlives it: the attempt is over, and may be made again. By the mark alone, for
                # the process id may be another's by now.
                process_tree.kill_tree(process_tree.NO_PID, worker.mark)
            self._on_news(self.known[one])
        worker.given = deque(call for call in worker.given if call.key not in self.known)
        self._give_back(worker, keep=0)
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
        """Give calls that wait to the workers that have the fewest."""
        while self._queue:
            able = [worker for worker in self._workers.values() if self._takes_more(worker)]
            if not able:
                return
            worker = min(able, key=lambda one: len(one.given))
            call = self._queue.popleft()
            worker.given.append(call)
            worker.say(call)
            if len(worker.given) == 1:
                self._begun(worker)

    def _takes_more(self, worker: WorkerProcess) -> bool:
        if worker.state != READY or worker.writer is None:
            return False
        given = worker.given
        return not given or (len(given) < GIVEN_MAX and not worker.slow and given[-1].name in self._quick)

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
