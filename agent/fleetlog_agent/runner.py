"""From "spawn this attempt" to "it exited, and this is what it wrote": files, content, holder and output together.

For each attempt one asyncio task brings its content, orders the start, follows its output and tells the core what
came of it. What became of an attempt is answered in one place, `_settle`, from what the holder or its status file
knows, for a fresh start, for re-adoption and for the death of the holder alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from fleetlog_agent import messages as m
from fleetlog_agent import process_tree, returned
from fleetlog_agent.artifacts import Artifacts, KeepFailed, Unwanted, rules_of
from fleetlog_agent.blobs import BlobFailed, Blobs
from fleetlog_agent.calls import decoded_parameters
from fleetlog_agent.functions import Pool
from fleetlog_agent.holder_client import HolderClient, HolderFailed, News
from fleetlog_agent.journal_records import Key
from fleetlog_agent.masking import Masker
from fleetlog_agent.output import Output
from fleetlog_agent.output_files import OutputFiles, is_silent
from fleetlog_agent.policy import NO_FUNCTIONS, Functions
from fleetlog_agent.preparing import Preparation, Run, Unrunnable
from fleetlog_runtime.pure.bus import Bus
from fleetlog_runtime.shell.clock import boot_ms
from fleetlog_runtime.shell.files import private_folder
from fleetlog_schemas.builds import kept_after
from fleetlog_schemas.definitions import parameter_of, variable
from fleetlog_schemas.events import OutputSummary
from fleetlog_schemas.limits import ERROR_TEXT_BYTES_MAX, PROGRESS_NOTE_BYTES_MAX, TRACEBACK_BYTES_MAX
from fleetlog_schemas.reports import ArtifactChunk, FarReported, Frame
from fleetlog_schemas.spec import Build, Export, Function
from fleetlog_schemas.workers import Call, Progressed

ORPHAN_SECONDS = 0.5
"""Between looks at a process whose holder is gone."""
FOLLOW_SECONDS = 0.05
"""Until the output of what runs is followed: of what ends sooner it is read once, and not at all when there is none."""


class Ending(Protocol):
    """What the core knows of who wants an attempt to end."""

    def no_more_of(self, key: Key, started_ms: int, now_ms: int) -> str:
        """Return why nothing more is kept of what it left; empty: it may be sent."""

    def was_stopped(self, key: Key, ended_ms: int | None) -> bool:
        """Tell whether its process, which ended at *ended_ms* by the boot clock, had been told to."""


class Runner:
    """Every attempt under way on this host."""

    def __init__(
        self,
        host_id: str,
        folder: Path,
        tell: Callable[[m.Observation], None],
        bus: Callable[[], Bus | None],
        store_frame: Callable[[int, Frame], Awaitable[int]],
        store_chunk: Callable[[ArtifactChunk, str], Awaitable[int]],
        unix_ms: Callable[[], int],
        fail: Callable[[BaseException | None], None],
        ending: Ending,
        functions: Functions = NO_FUNCTIONS,
        boot_id: str = "",
    ) -> None:
        """Run what the agent of *folder* is asked to; *tell* takes observations to the core.

        *ending* knows who wants an attempt to end. *fail* hears what nobody thought of: the agent must start again from what is on disk.
        """
        self._host_id = host_id
        self._out = str(private_folder(folder / "out"))
        self._tell = tell
        self._bus = bus
        self._store_frame = store_frame
        self._unix_ms = unix_ms
        self._fail = fail
        self._ending = ending
        self.output_files = OutputFiles(self._out)
        self._preparation = Preparation(host_id, self._out, Blobs(host_id, folder / "blobs", bus))
        self._artifacts = Artifacts(self._out, store_chunk, available=lambda: bus() is not None)
        self._runs: dict[Key, Run] = {}
        self._by_slot: dict[int, Key] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.holder = HolderClient(folder, self._heard, self._holder_broke, fail)
        self.pool = Pool(host_id, boot_id, folder, functions, self._heard, fail)
        self.pool.on_progress = self._progressed
        self._log = structlog.get_logger("runner")

    # --- what the core wants -------------------------------------------------------------------------------

    def spawn(self, effect: m.Spawn) -> None:
        """Start an attempt."""
        if (former := self._by_slot.get(effect.slot)) in self._runs:
            self.release(former)  # it has ended, or its slot would not be free
        self._by_slot[effect.slot] = effect.key
        run = self._runs[effect.key] = Run(effect.start, effect.slot, self.output_files.give(effect.slot))
        self._go(self._spawn(effect.key, run))

    def adopt(self, effect: m.Adopt, *, same_boot: bool) -> None:
        """Find out what became of an attempt of a former agent."""
        prefix = self.output_files.find(effect.key, effect.slot)
        run = self._runs[effect.key] = Run(effect.start, effect.slot, prefix)
        self._by_slot[effect.slot] = effect.key
        run.asked = True
        self._settle(effect.key, run, same_boot=same_boot)

    def _parent(self, run: Run) -> HolderClient | Pool:
        """Return who runs an attempt, and knows of it."""
        return self.pool if isinstance(run.start.payload, Function) else self.holder

    def signal(self, key: Key, how: str) -> None:
        """`terminate` or `kill` an attempt."""
        run = self._runs.get(key)
        if run is None:
            return
        parent = self._parent(run)
        news = parent.known.get(str(key))
        if news is None or news["state"] != "running":
            run.stop = how
            if parent is self.pool and self.pool.withdraw(str(key)):
                self._unrunnable(key, run, "it was stopped before it ran")
        elif parent.holds(str(key)):
            parent.order(how, str(key))
        elif self._is_alive(news):
            if how == "kill":
                process_tree.kill_tree(news["pid"], process_tree.mark_of(self._host_id, str(key)))
            else:
                process_tree.signal_tree(news["pid"], process_tree.mark_of(self._host_id, str(key)), 15)

    def release(self, key: Key) -> None:
        """The end of an attempt is in the journal: nothing of it is needed any more."""
        run = self._runs.pop(key, None)
        if run is None:
            return  # refused, and never tried; or gone already
        run.unfollow()
        self.output_files.take_back(run.prefix, run.slot, read=run.output is not None)
        if isinstance(run.start.payload, Function):
            self.pool.release(str(key))
            return
        self.holder.release(str(key))
        for suffix in ("stdin", "script", returned.SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._preparation.file(key, suffix))  # noqa: PTH108 - once for each command: pathlib costs more
        if isinstance(run.start.payload, Build | Export):
            self._remove(self._preparation.file(key, "work"))

    def sweep(self, under_way: dict[Key, int]) -> None:
        """Remove what ended attempts left, where a former agent did not come to it; given those under way, and their slots."""
        for folder in self.output_files.sweep(under_way):
            self._remove(folder)

    def _remove(self, folder: str) -> None:
        if os.path.isdir(folder):  # noqa: PTH112 - once for each command: pathlib costs more
            self._go(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))

    async def close(self, *, retire: bool) -> None:
        """Let go of everything; commands go on under the holder."""
        for task in self._tasks:
            task.cancel()
        for run in self._runs.values():
            run.unfollow()
        await self.holder.close(retire=retire)
        await self.pool.close(retire=retire)

    # --- starting ------------------------------------------------------------------------------------------

    async def _spawn(self, key: Key, run: Run) -> None:
        if isinstance(run.start.payload, Function):
            await self._call(key, run, run.start.payload)
            return
        try:
            order = await self._preparation.order(key, run)
            fresh = not any(other.asked and self._parent(other) is self.holder for other in self._runs.values())
            await self.holder.ensure(fresh=fresh)
        except (Unrunnable, BlobFailed, HolderFailed, OSError) as error:
            self._unrunnable(key, run, str(error))
            return
        if run.stop:
            self._unrunnable(key, run, "it was stopped before it ran")
            return
        run.asked = True
        if not self.holder.order("spawn", str(key), **order):
            self._settle(key, run)

    async def _call(self, key: Key, run: Run, function: Function) -> None:
        try:
            environment = await self._preparation.given_environment(run)
        except (Unrunnable, BlobFailed, OSError) as error:
            self._unrunnable(key, run, str(error))
            return
        if run.stop:
            self._unrunnable(key, run, "it was stopped before it ran")
            return
        run.asked = True
        secret = {name: environment[variable(name)] for name in map(parameter_of, run.start.options.secret_names) if name}
        self.pool.call(
            Call(
                str(key), function.name, function.args, function.kwargs, parameters={**decoded_parameters(run.start.parameters), **secret},
                environment={**environment, "FLEETLOG_TASK_ID": key.task_id, "FLEETLOG_ATTEMPT": str(key.attempt)},
                stdout=f"{run.prefix}.stdout", stderr=f"{run.prefix}.stderr",
            )
        )

    def _unrunnable(self, key: Key, run: Run, error: str) -> None:
        run.settled = True
        self._tell(m.SpawnFailed(key, error))

    # --- what became of it -----------------------------------------------------------------------------------

    def _progressed(self, news: Progressed) -> None:
        run = self._runs.get(key := Key.of(news.key))
        if run is not None:
            self._tell(m.Progressed(key, FarReported(news.done, news.total, run.masked(news.note, PROGRESS_NOTE_BYTES_MAX))))

    def _heard(self, news: News) -> None:
        key = Key.of(news["key"])
        run = self._runs.get(key)
        if run is not None and run.asked:
            self._settle(key, run)

    def _holder_broke(self) -> None:
        if self.holder.connected:
            self._log.warning("connected to the holder anew")
        else:
            self._log.error("the holder died; what ran under it is watched, but its exit status is lost")
        for key, run in list(self._runs.items()):
            if run.asked and not run.settled and self._parent(run) is self.holder:
                self._settle(key, run)

    def _settle(self, key: Key, run: Run, *, same_boot: bool = True) -> None:
        """Tell the core the last thing known of an attempt."""
        parent = self._parent(run)
        news = parent.known.get(str(key))
        state = "never" if news is None else news["state"]
        if run.settled:
            return
        if news is not None and state == "failed":
            error = news["error"]
            self._unrunnable(key, run, run.masked(error, ERROR_TEXT_BYTES_MAX) if parent is self.pool else error)
        elif news is not None and state == "exited":
            run.settled = True
            known = run.masker is not None or not run.start.options.secret_names  # after a restart they must be asked for
            if run.following is None and known and not isinstance(run.start.payload, Build | Export) and self._is_silent(key, run):
                self._tell(_exited(key, run, news, None, ""))
            else:
                self._follow(key, run)
                self._go(self._finish(key, run, news))
        elif news is not None and state == "running" and (parent.holds(str(key)) or self._is_alive(news)):
            self._tell(m.Spawned(key, news["pid"], news["process_start"], news["started_ms"]))
            if run.stop:
                self.signal(key, run.stop)
            if parent.holds(str(key)):
                self._follow_soon(key, run)
            else:
                self._follow(key, run)
                run.settled = True
                self._go(self._watch_orphan(key, run, news))
        elif news is None and same_boot:
            del self._runs[key]
            self._tell(m.NeverSpawned(key))
        else:
            run.settled = True
            self._go(self._lose(key, run, "" if same_boot else "the machine restarted: it may have run before"))

    def _is_alive(self, news: News) -> bool:
        stat = process_tree.process_stat(news["pid"])
        return stat is not None and stat[2] == news["process_start"] and stat[3] != "Z"

    def _is_silent(self, key: Key, run: Run) -> bool:
        """Tell whether an attempt wrote nothing at all: then there is nothing to follow, mask or publish."""
        returns = not isinstance(run.start.payload, Function) and os.path.lexists(self._preparation.file(key, returned.SUFFIX))
        return not returns and is_silent(run.prefix)

    async def _watch_orphan(self, key: Key, run: Run, news: News) -> None:
        while self._is_alive(news):
            await asyncio.sleep(ORPHAN_SECONDS)
        await self._lose(key, run, "its holder died before it, so nobody saw its exit status: it may have run to its end")

    async def _lose(self, key: Key, run: Run, why: str) -> None:
        if run.output is not None and run.following is not None:
            run.output.ended()
            await run.following
        self._tell(m.LostProcess(key, why))

    def _follow(self, key: Key, run: Run) -> None:
        if run.follow_timer is not None:
            run.follow_timer.cancel()
        if run.following is None:
            run.following = asyncio.create_task(self._follow_output(key, run))

    def _follow_soon(self, key: Key, run: Run) -> None:
        if run.following is None and run.follow_timer is None:
            run.follow_timer = asyncio.get_running_loop().call_later(FOLLOW_SECONDS, self._follow, key, run)

    async def _follow_output(self, key: Key, run: Run) -> tuple[OutputSummary | None, str]:
        masker = await self._know_secrets(key, run)
        if masker is None:
            return None, ""
        placed = False

        async def store(frame: Frame) -> int:
            nonlocal placed
            seq = await self._store_frame(run.slot, frame)
            if not placed:
                placed = True
                self._tell(m.OutputPlaced(key, seq))
            return seq

        run.output = Output(
            key, run.prefix, run.slot, run.start.options.output_bytes_max, masker, store, self._unix_ms,
            available=lambda: self._bus() is not None,
        )
        news = self._parent(run).known.get(str(key))
        if news is None or news["state"] != "running":
            run.output.ended()
        return await run.output.follow()

    async def _know_secrets(self, key: Key, run: Run) -> Masker | None:
        """After a restart: the secrets must be known again before anything is published. None: they cannot be."""
        while run.masker is None:
            try:
                await self._preparation.given_environment(run)
            except (BlobFailed, Unrunnable) as error:
                self._log.warning("output waits for the secrets to hide in it", attempt=str(key), error=str(error))
                if run.settled and self._bus() is not None:
                    return None
                await asyncio.sleep(1)
        return run.masker

    async def _finish(self, key: Key, run: Run, news: News) -> None:
        self._tell(m.ProcessGone(key))
        assert run.following is not None
        if run.output is not None:
            run.output.ended()
        exited = _exited(key, run, news, *await run.following)
        if not isinstance(run.start.payload, Function):
            value, note = returned.read(self._preparation.file(key, returned.SUFFIX), run.masker)
            exited = await self._keep(key, run, news, msgspec.structs.replace(exited, return_value=value, note=note))
        self._tell(exited)

    async def _keep(self, key: Key, run: Run, news: News, exited: m.Exited) -> m.Exited:
        """Return how an attempt ended, with the artifacts that its rules keep after such an end, or why there are none."""
        options = run.start.options
        success = (
            news["signal"] is None and news["exit_code"] in options.exit_codes and not self._ending.was_stopped(key, news["ended_ms"])
        )
        rules = kept_after(rules_of(run.start.payload), success=success)

        def no_more() -> str:
            return self._ending.no_more_of(key, news["ended_ms"] - news["duration_ms"], boot_ms())

        def sent(name: str, done: int, total: int) -> None:
            self._tell(m.Progressed(key, FarReported(round(done / 1e6, 1), round(total / 1e6, 1), f"MB of {name} sent")))

        if not rules or (not success and no_more() == "cancelled"):
            return exited
        folder = options.cwd or self._preparation.file(key, "work")
        try:
            kept = await self._artifacts.keep(key, folder, rules, no_more, sent)
        except KeepFailed as failed:
            if not success:
                return msgspec.structs.replace(exited, note=str(failed))
            if isinstance(failed, Unwanted):
                return msgspec.structs.replace(exited, unsent=failed.why, note=str(failed))
            return msgspec.structs.replace(exited, error=str(failed))
        return msgspec.structs.replace(exited, artifacts=kept)

    def _go(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())


def _exited(key: Key, run: Run, news: News, summary: OutputSummary | None, tail: str) -> m.Exited:
    return m.Exited(
        key, exit_code=news["exit_code"], signal=news["signal"], duration_ms=news["duration_ms"], output=summary, tail=tail,
        ended_ms=news["ended_ms"], return_value=run.masked_value(news.get("value")),
        raised=run.masked(news.get("error", ""), ERROR_TEXT_BYTES_MAX),
        traceback=run.masked(news.get("traceback", ""), TRACEBACK_BYTES_MAX),
    )
