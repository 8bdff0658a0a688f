"""What an attempt needs before it can begin: its content, its environment, its files. And who it runs as."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
from pathlib import Path

import msgspec

from fleetlog_agent import process_tree, returned
from fleetlog_agent.blobs import Blobs
from fleetlog_agent.journal_records import Key
from fleetlog_agent.launch import RETURN_FD, SCRIPT_FD
from fleetlog_agent.masking import Masker
from fleetlog_agent.output import Output
from fleetlog_schemas.builds import script_of
from fleetlog_schemas.definitions import variables
from fleetlog_schemas.events import OutputSummary
from fleetlog_schemas.exports import argv_of, blob_name, name_of
from fleetlog_schemas.pushes import StartAttempt
from fleetlog_schemas.spec import Build, Export, Script, Shell, kind_of

PATH_DEFAULT = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UTF8_BYTES_MAX = 4
"""Of one character: a text that was cut is at most so much shorter than it may be."""
SECRETS_UNKNOWN = "not kept, for the secrets to hide in it are not known any more"
NOT_TEXT = "not kept, for a secret stands in it where no text is"


class Unrunnable(Exception):
    """An attempt cannot be started on this host; the message says why."""


class Run:
    """One attempt under way."""

    def __init__(self, start: StartAttempt, slot: int, prefix: str) -> None:
        self.start = start
        self.slot = slot
        self.prefix = prefix
        """Of the files that take its two outputs."""
        self.masker: Masker | None = None
        self.output: Output | None = None
        self.following: asyncio.Task[tuple[OutputSummary | None, str]] | None = None
        self.follow_timer: asyncio.TimerHandle | None = None
        """Begins to follow, unless it ends before."""
        self.asked = False
        """The holder was told to start it."""
        self.settled = False
        self.stop = ""
        """A signal asked for before its process was there."""

    def unfollow(self) -> None:
        """Read its output no more."""
        for following in (self.follow_timer, self.following):
            if following is not None:
                following.cancel()

    def masked(self, text: str, bytes_max: int) -> str:
        """Return what a function said without the secrets in it; nothing of it, when they are not known any more.

        A worker keeps the last *bytes_max* bytes of a text: where it was cut, its beginning may be the end of a secret.
        """
        if self.masker is None:
            return SECRETS_UNKNOWN if text and self.start.options.secret_names else text
        body = text.encode("utf-8", "replace")
        if len(body) > bytes_max - UTF8_BYTES_MAX:
            body = body[self.masker.hold_back :]
        return self.masker.mask(body, final=True).decode("utf-8", "ignore")

    def masked_value(self, value: str | None) -> str | None:
        """Return what a function returned, still JSON, without the secrets in it."""
        if value is None:
            return None
        if self.masker is None:
            return f'"{SECRETS_UNKNOWN}"' if self.start.options.secret_names else value
        masked = self.masker.mask(value.encode(), final=True)
        try:
            if masked != value.encode():
                msgspec.json.decode(masked)
            return masked.decode()
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return f'"{NOT_TEXT}"'


class Preparation:
    """Prepares the attempts of one host."""

    def __init__(self, host_id: str, out: str, blobs: Blobs) -> None:
        """Put files into the folder *out*, and take content from *blobs*."""
        self._host_id, self._out, self._blobs = host_id, out, blobs
        self._me = pwd.getpwuid(os.getuid())

    async def order(self, key: Key, run: Run) -> dict[str, object]:
        """Return the order with which a holder starts an attempt. Raises Unrunnable, BlobFailed, OSError."""
        start, options = run.start, run.start.options
        who = self._who(options.user)
        env = await self._environment(key, run, who)
        argv, script = await self._argv(key, start, who)
        stdin = "/dev/null"
        if options.stdin is not None:
            body = await self._blobs.fetch(options.stdin, self._token(start, options.stdin.sha256))
            stdin = self._write(key, "stdin", body, 0o600)
        launch: dict[str, object] | None = None
        cwd = options.cwd
        if isinstance(start.payload, Build) and cwd is None:
            cwd = await self._folder(key, start, start.payload)
        if isinstance(start.payload, Export):
            argv, stdin = await self._export(key, run, start.payload)
        limits = (cwd, options.umask, options.memory_bytes_max, options.files_max)
        other = options.user is not None and who.pw_uid != os.getuid()
        if other or any(value is not None for value in limits):
            launch = {
                "cwd": cwd, "umask": options.umask, "memory": options.memory_bytes_max,
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
            "stdout": f"{run.prefix}.stdout", "stderr": f"{run.prefix}.stderr",
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

    async def _environment(self, key: Key, run: Run, who: pwd.struct_passwd) -> dict[str, str]:
        env = {
            "PATH": os.environ.get("PATH") or PATH_DEFAULT, "LANG": os.environ.get("LANG", "C.UTF-8"),
            "HOME": who.pw_dir, "USER": who.pw_name, "LOGNAME": who.pw_name, "SHELL": who.pw_shell or "/bin/sh",
            "FLEETLOG_HOST_ID": self._host_id, "FLEETLOG_TASK_ID": key.task_id,
            "FLEETLOG_ATTEMPT": str(key.attempt), returned.VARIABLE: self.file(key, returned.SUFFIX),
        }
        given = await self.given_environment(run)
        name, _, value = process_tree.mark_of(self._host_id, str(key)).partition("=")
        return {**env, **given, name: value}

    async def given_environment(self, run: Run) -> dict[str, str]:
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
        if isinstance(payload, Shell):
            return list(payload.argv), None
        if isinstance(payload, Build):
            return self._script(key, script_of(payload), ("/bin/sh",), (), who)
        if isinstance(payload, Export):
            return [], None  # it is known when the export is there
        if not isinstance(payload, Script):
            raise Unrunnable(f"the kind {kind_of(payload)} is nothing that a host runs")
        body = await self._blobs.cached(payload.content, self._token(start, payload.content.sha256))
        return self._script(key, body, payload.interpreter, payload.args, who)

    def _script(
        self, key: Key, body: bytes, interpreter: tuple[str, ...], args: tuple[str, ...], who: pwd.struct_passwd
    ) -> tuple[list[str], str | None]:
        path = self._write(key, "script", body, 0o700)
        if who.pw_uid == os.getuid():
            return [*interpreter, path, *args], None
        # That user cannot enter our folder; the file itself is theirs, and reaches them as an open descriptor.
        os.chown(path, who.pw_uid, who.pw_gid)
        return [*interpreter, f"/dev/fd/{SCRIPT_FD}", *args], path

    async def _folder(self, key: Key, start: StartAttempt, build: Build) -> str:
        """Make the folder in which a build runs, with its inputs in it. Raises BlobFailed, OSError."""
        folder = Path(self.file(key, "work"))
        await asyncio.to_thread(_make_empty, folder)
        for given in build.inputs:
            body = await self._blobs.cached(given.content, self._token(start, given.content.sha256))
            _put(folder / given.path, body)
        return str(folder)

    async def _export(self, key: Key, run: Run, export: Export) -> tuple[list[str], str]:
        """Fetch what a task exports; return what puts it where it belongs, and the file. Raises BlobFailed, OSError."""
        folder = Path(self.file(key, "work"))
        await asyncio.to_thread(_make_empty, folder)
        path = folder / name_of(export)
        token = self._token(run.start, blob_name(key.task_id))
        made = await self._blobs.export(key.task_id, token, path, lambda: bool(run.stop))
        return list(argv_of(export, made.at_ms, made.size, made.sha256, made.rows)), str(path)

    def _token(self, start: StartAttempt, sha256: str) -> str:
        token = start.blob_tokens.get(sha256)
        if token is None:
            raise Unrunnable(f"the task refers to content {sha256[:12]} that this host was not given")
        return token

    def file(self, key: Key, suffix: str) -> str:
        """Return the path of one of an attempt's files."""
        return f"{self._out}/{key}.{suffix}"

    def _write(self, key: Key, suffix: str, body: bytes, mode: int) -> str:
        path = self.file(key, suffix)
        Path(path).unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(body)
        return path


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(0o700)


def _put(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
