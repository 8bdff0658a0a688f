"""From "spawn this attempt" to "it exited, and this is what it wrote": files, content, holder and output together.

For each attempt one asyncio task brings its content, orders the start, follows its output and tells the core what
came of it. What became of an attempt is answered in one place, `_settle`, from what the holder or its status file
knows, for a fresh start, for re-adoption and for the death of the holder alike.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from fleetlog_agent import messages as m
from fleetlog_agent import process_tree, returned
from fleetlog_agent.blobs import BlobFailed, Blobs
from fleetlog_agent.holder_client import HolderClient, HolderFailed, News
from fleetlog_agent.journal_records import Key
from fleetlog_agent.launch import RETURN_FD, SCRIPT_FD
from fleetlog_agent.masking import Masker
from fleetlog_agent.output import Output
from fleetlog_runtime.pure.bus import Bus
from fleetlog_runtime.shell.files import private_folder
from fleetlog_schemas.definitions import variables
from fleetlog_schemas.events import OutputSummary
from fleetlog_schemas.pushes import StartAttempt
from fleetlog_schemas.reports import Frame
from fleetlog_schemas.spec import Script

PATH_DEFAULT = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ORPHAN_SECONDS = 0.5
"""Between looks at a process whose holder is gone."""


class Unrunnable(Exception):
    """An attempt cannot be started on this host; the message says why."""


class _Run:
    """One attempt under way."""

    def __init__(self, start: StartAttempt, slot: int) -> None:
        self.start = start
        self.slot = slot
        self.masker: Masker | None = None
        self.output: Output | None = None
        self.following: asyncio.Task[tuple[OutputSummary | None, str]] | None = None
        self.asked = False
        """The holder was told to start it."""
        self.settled = False
        self.stop = ""
        """A signal asked for before its process was there."""


class Runner:
    """Every attempt under way on this host."""

    def __init__(
        self,
        host_id: str,
        folder: Path,
        tell: Callable[[m.Observation], None],
        bus: Callable[[], Bus | None],
        store_frame: Callable[[int, Frame], Awaitable[int]],
        unix_ms: Callable[[], int],
        fail: Callable[[BaseException | None], None],
    ) -> None:
        """Run what the agent of *folder* is asked to; *tell* takes observations to the core.

        *fail* hears what nobody thought of: the agent must start again from what is on disk.
        """
        self._host_id = host_id
        self._out = str(private_folder(folder / "out"))
        self._me = pwd.getpwuid(os.getuid())
        self._tell = tell
        self._bus = bus
        self._store_frame = store_frame
        self._unix_ms = unix_ms
        self._fail = fail
        self._blobs = Blobs(host_id, folder / "blobs", bus)
        self._runs: dict[Key, _Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.holder = HolderClient(folder, self._heard, self._holder_broke)
        self._log = structlog.get_logger("runner")

    def out_bytes(self) -> int:
        """Return what output files take on disk."""
        total = 0
        with os.scandir(self._out) as entries:
            for entry in entries:
                try:
                    total += entry.stat().st_blocks * 512
                except FileNotFoundError:
                    continue
        return total

    # --- what the core wants -------------------------------------------------------------------------------

    def spawn(self, effect: m.Spawn) -> None:
        """Start an attempt."""
        run = self._runs[effect.key] = _Run(effect.start, effect.slot)
        self._go(self._spawn(effect.key, run))

    def adopt(self, effect: m.Adopt, *, same_boot: bool) -> None:
        """Find out what became of an attempt of a former agent."""
        run = self._runs[effect.key] = _Run(effect.start, effect.slot)
        run.asked = True
        self._settle(effect.key, run, same_boot=same_boot)

    def signal(self, key: Key, how: str) -> None:
        """`terminate` or `kill` an attempt."""
        run = self._runs.get(key)
        news = self.holder.known.get(str(key))
        if run is None:
            return
        if news is None or news["state"] != "running":
            run.stop = how
        elif self.holder.holds(str(key)):
            self.holder.order(how, str(key))
        elif self._is_alive(news):
            if how == "kill":
                process_tree.kill_tree(news["pid"], process_tree.mark_of(self._host_id, str(key)))
            else:
                process_tree.signal_tree(news["pid"], process_tree.mark_of(self._host_id, str(key)), 15)

    def release(self, key: Key) -> None:
        """The end of an attempt is in the journal: nothing of it is needed any more."""
        run = self._runs.pop(key, None)
        if run is not None and run.following is not None:
            run.following.cancel()
        self.holder.release(str(key))
        for suffix in ("stdout", "stderr", "frames", "stdin", "script", returned.SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._file(key, suffix))  # noqa: PTH108 - once for each command: pathlib costs more

    async def close(self, *, retire: bool) -> None:
        """Let go of everything; commands go on under the holder."""
        for task in self._tasks:
            task.cancel()
        for run in self._runs.values():
            if run.following is not None:
                run.following.cancel()
        await self.holder.close(retire=retire)

    # --- starting ------------------------------------------------------------------------------------------

    async def _spawn(self, key: Key, run: _Run) -> None:
        try:
            order = await self._order(key, run)
            fresh = not any(other.asked for other in self._runs.values())
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

    def _unrunnable(self, key: Key, run: _Run, error: str) -> None:
        run.settled = True
        self._tell(m.SpawnFailed(key, error))

    async def _order(self, key: Key, run: _Run) -> dict[str, object]:
        start, options = run.start, run.start.options
        who = self._who(options.user)
        env = await self._environment(key, run, who)
        argv, script = await self._argv(key, start, who)
        stdin = "/dev/null"
        if options.stdin is not None:
            body = await self._blobs.fetch(options.stdin, self._token(start, options.stdin.sha256))
            stdin = self._write(key, "stdin", body, 0o600)
        launch: dict[str, object] | None = None
        limits = (options.cwd, options.umask, options.memory_bytes_max, options.files_max)
        other = options.user is not None and who.pw_uid != os.getuid()
        if other or any(value is not None for value in limits):
            launch = {
                "cwd": options.cwd, "umask": options.umask, "memory": options.memory_bytes_max,
                "files": options.files_max,
            }
            if other:
                groups = os.getgrouplist(who.pw_name, who.pw_gid)
                launch |= {"uid": who.pw_uid, "gid": who.pw_gid, "groups": groups, "script": script}
                launch["returned"] = path = self._write(key, returned.SUFFIX, b"", 0o600)
                os.chown(path, who.pw_uid, who.pw_gid)
                env[returned.VARIABLE] = f"/dev/fd/{RETURN_FD}"
        return {
            "argv": argv, "env": env, "mark": process_tree.mark_of(self._host_id, str(key)), "stdin": stdin, "slot": run.slot, "launch": launch,
            "stdout": self._file(key, "stdout"), "stderr": self._file(key, "stderr"),
        }

    def _who(self, user: str | None) -> pwd.struct_passwd:
        if user is None:
            return self._me
        try:
            who = pwd.getpwnam(user)
        except KeyError:
            raise Unrunnable(f"there is no user {user!r} on this host") from None
        if who.pw_uid != os.getuid() and os.getuid() != 0:
            raise Unrunnable(f"the agent runs as {self._me.pw_name} and cannot run commands as {user}: only root's agent can")
        return who

    async def _environment(self, key: Key, run: _Run, who: pwd.struct_passwd) -> dict[str, str]:
        env = {
            "PATH": os.environ.get("PATH") or PATH_DEFAULT, "LANG": os.environ.get("LANG", "C.UTF-8"),
            "HOME": who.pw_dir, "USER": who.pw_name, "LOGNAME": who.pw_name, "SHELL": who.pw_shell or "/bin/sh",
            "FLEETLOG_HOST_ID": self._host_id, "FLEETLOG_TASK_ID": key.task_id,
            "FLEETLOG_ATTEMPT": str(key.attempt), returned.VARIABLE: self._file(key, returned.SUFFIX),
        }
        given = await self._given_environment(run)
        name, _, value = process_tree.mark_of(self._host_id, str(key)).partition("=")
        return {**env, **given, name: value}

    async def _given_environment(self, run: _Run) -> dict[str, str]:
        """Return the environment that came with the task, and prepare to mask its secrets."""
        options, given = run.start.options, dict[str, str]()
        if options.env is not None:
            body = await self._blobs.fetch(options.env, self._token(run.start, options.env.sha256))
            try:
                given = {str(name): str(value) for name, value in json.loads(body).items()}
            except (ValueError, AttributeError):
                raise Unrunnable("the environment is not a JSON object of names and values") from None
        given |= variables(run.start.parameters)
        if any("\0" in name + value or "=" in name or not name for name, value in given.items()):
            raise Unrunnable("the environment has a name or value that no process can have")
        run.masker = Masker(given[name] for name in options.secret_names if name in given)
        return given

    async def _argv(self, key: Key, start: StartAttempt, who: pwd.struct_passwd) -> tuple[list[str], str | None]:
        payload = start.payload
        if not isinstance(payload, Script):
            return list(payload.argv), None
        body = await self._blobs.cached(payload.content, self._token(start, payload.content.sha256))
        path = self._write(key, "script", body, 0o700)
        if who.pw_uid == os.getuid():
            return [*payload.interpreter, path, *payload.args], None
        # That user cannot enter our folder; the file itself is theirs, and reaches them as an open descriptor.
        os.chown(path, who.pw_uid, who.pw_gid)
        return [*payload.interpreter, f"/dev/fd/{SCRIPT_FD}", *payload.args], path

    def _token(self, start: StartAttempt, sha256: str) -> str:
        token = start.blob_tokens.get(sha256)
        if token is None:
            raise Unrunnable(f"the task refers to content {sha256[:12]} that this host was not given")
        return token

    def _file(self, key: Key, suffix: str) -> str:
        return f"{self._out}/{key}.{suffix}"

    def _write(self, key: Key, suffix: str, body: bytes, mode: int) -> str:
        path = self._file(key, suffix)
        Path(path).unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(body)
        return path

    # --- what became of it -----------------------------------------------------------------------------------

    def _heard(self, news: News) -> None:
        task_id, _, attempt = news["key"].rpartition(".")
        key = Key(task_id, int(attempt))
        run = self._runs.get(key)
        if run is not None and run.asked:
            self._settle(key, run)

    def _holder_broke(self) -> None:
        if self.holder.connected:
            self._log.warning("connected to the holder anew")
        else:
            self._log.error("the holder died; what ran under it is watched, but its exit status is lost")
        for key, run in list(self._runs.items()):
            if run.asked and not run.settled:
                self._settle(key, run)

    def _settle(self, key: Key, run: _Run, *, same_boot: bool = True) -> None:
        """Tell the core the last thing known of an attempt."""
        news = self.holder.known.get(str(key))
        state = "never" if news is None else news["state"]
        if run.settled:
            return
        if news is not None and state == "failed":
            self._unrunnable(key, run, news["error"])
        elif news is not None and state == "exited":
            run.settled = True
            if run.following is None and self._is_silent(key):
                self._tell(_exited(key, news, None, ""))
            else:
                self._follow(key, run)
                self._go(self._finish(key, run, news))
        elif news is not None and state == "running" and (self.holder.holds(str(key)) or self._is_alive(news)):
            self._tell(m.Spawned(key, news["pid"], news["process_start"], news["started_ms"]))
            self._follow(key, run)
            if run.stop:
                self.signal(key, run.stop)
            if not self.holder.holds(str(key)):
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

    def _is_silent(self, key: Key) -> bool:
        """Tell whether an attempt wrote nothing at all: then there is nothing to follow, mask or publish."""
        for stream in ("stdout", "stderr", returned.SUFFIX):
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._file(key, stream)).st_size:  # noqa: PTH116 - once for each command: pathlib costs more
                    return False
        return True

    async def _watch_orphan(self, key: Key, run: _Run, news: News) -> None:
        while self._is_alive(news):
            await asyncio.sleep(ORPHAN_SECONDS)
        await self._lose(key, run, "its holder died before it, so nobody saw its exit status: it may have run to its end")

    async def _lose(self, key: Key, run: _Run, why: str) -> None:
        if run.output is not None and run.following is not None:
            run.output.ended()
            await run.following
        self._tell(m.LostProcess(key, why))

    def _follow(self, key: Key, run: _Run) -> None:
        if run.following is None:
            run.following = asyncio.create_task(self._follow_output(key, run))

    async def _follow_output(self, key: Key, run: _Run) -> tuple[OutputSummary | None, str]:
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
            key, f"{self._out}/{key}", run.slot, run.start.options.output_bytes_max, masker, store, self._unix_ms,
            available=lambda: self._bus() is not None,
        )
        news = self.holder.known.get(str(key))
        if news is None or news["state"] != "running":
            run.output.ended()
        return await run.output.follow()

    async def _know_secrets(self, key: Key, run: _Run) -> Masker | None:
        """After a restart: the secrets must be known again before anything is published. None: they cannot be."""
        while run.masker is None:
            try:
                await self._given_environment(run)
            except (BlobFailed, Unrunnable) as error:
                self._log.warning("output waits for the secrets to hide in it", attempt=str(key), error=str(error))
                if run.settled and self._bus() is not None:
                    return None
                await asyncio.sleep(1)
        return run.masker

    async def _finish(self, key: Key, run: _Run, news: News) -> None:
        self._tell(m.ProcessGone(key))
        assert run.following is not None
        if run.output is not None:
            run.output.ended()
        exited = _exited(key, news, *await run.following)
        value, wrong = returned.read(self._file(key, returned.SUFFIX), run.masker)
        self._tell(msgspec.structs.replace(exited, return_value=value, note=wrong))

    def _go(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._fail(task.exception())


def _exited(key: Key, news: News, summary: OutputSummary | None, tail: str) -> m.Exited:
    return m.Exited(
        key, exit_code=news["exit_code"], signal=news["signal"], duration_ms=news["duration_ms"], output=summary, tail=tail,
        ended_ms=news["ended_ms"],
    )
