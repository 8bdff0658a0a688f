"""Files that a build left: found without following a link, read once, and sent in chunks beside the host's output.

The folder belongs to whatever ran in it, and may change while we look; the agent may be root. So every path is opened
from the folder's own descriptor, name by name, and a link is never followed. What is read is what is hashed and what
is sent. An upload that was interrupted begins anew under another name; the log names only chunks of a whole one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fnmatch
import hashlib
import os
import posixpath
import secrets
import stat
import tarfile
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import IO

import msgspec

from fleetlog_agent.journal_records import Key
from fleetlog_agent.output import RETRY_SECONDS, WAIT_SECONDS_MAX, NotStored
from fleetlog_agent.pace import Pace
from fleetlog_schemas.builds import ArtifactRule, is_artifact_name, is_glob
from fleetlog_schemas.events import Artifact
from fleetlog_schemas.exports import name_of
from fleetlog_schemas.limits import (
    ARTIFACT_BYTES_MAX,
    ARTIFACT_CHUNK_BYTES,
    ARTIFACTS_BYTES_MAX,
    ARTIFACTS_PER_ATTEMPT_MAX,
)
from fleetlog_schemas.reports import ArtifactChunk
from fleetlog_schemas.spec import Build, Export, HostPayload

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class KeepFailed(Exception):
    """An artifact could not be kept; the message says which, and why."""


class Unwanted(KeepFailed):
    """Nothing more is to be kept: `why` is `cancelled` or `timeout`."""

    def __init__(self, why: str, where: str) -> None:
        said = "it was cancelled" if why == "cancelled" else "its time was over"
        super().__init__(f"{said} while its artifacts were sent ({where}): none of them is kept")
        self.why = why


class Found(msgspec.Struct, frozen=True):
    """A file or folder that is to be kept."""

    name: str
    path: str


class Artifacts:
    """Keeps the artifacts of one host's builds."""

    def __init__(self, spool: str, store: Callable[[ArtifactChunk, str], Awaitable[int]], available: Callable[[], bool]) -> None:
        """Make tars in the folder *spool*, and *store* chunks (the text tells one upload from another)."""
        self._spool, self._store, self._available = spool, store, available

    async def keep(
        self, key: Key, folder: str, rules: tuple[ArtifactRule, ...], no_more: Callable[[], str] = lambda: "",
        sent: Callable[[str, int, int], None] = lambda _name, _bytes, _of: None,
    ) -> tuple[Artifact, ...]:
        """Keep what *rules* name in *folder*, unless *no_more* says why not; *sent* hears how far each is. Raises KeepFailed: then nothing of it counts."""
        kept, left = [], ARTIFACTS_BYTES_MAX
        try:
            root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise KeepFailed(f"the build's folder is gone: {error.strerror}") from None
        try:
            for found in await asyncio.to_thread(find, root, rules):
                with await asyncio.to_thread(self._open, root, found) as content:
                    kept.append(await self._send(key, found.name, content, min(ARTIFACT_BYTES_MAX, left), no_more, sent))
                left -= kept[-1].size
        except OSError as error:
            raise KeepFailed(f"artifacts cannot be read: {error.strerror or error}") from None
        finally:
            os.close(root)
        return tuple(kept)

    def _open(self, root: int, found: Found) -> IO[bytes]:
        descriptor = open_within(root, found.path)
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return os.fdopen(descriptor, "rb")
        try:
            if not stat.S_ISDIR(mode):
                raise KeepFailed(f"artifact {found.path} is neither a file nor a folder")
            return self._tar(descriptor, found)
        finally:
            os.close(descriptor)

    def _tar(self, folder: int, found: Found) -> IO[bytes]:
        with contextlib.ExitStack() as unless_whole:
            spooled = unless_whole.enter_context(tempfile.TemporaryFile(dir=self._spool))
            write_tar(folder, found.path, spooled)
            spooled.seek(0)
            unless_whole.pop_all()
            return spooled

    async def _send(
        self, key: Key, name: str, content: IO[bytes], bytes_max: int, no_more: Callable[[], str], sent: Callable[[str, int, int], None]
    ) -> Artifact:
        digest, offset, seqs = hashlib.sha256(), 0, [0, 0]
        upload, pace = secrets.token_hex(8), Pace(ARTIFACT_CHUNK_BYTES)
        if (whole := os.fstat(content.fileno()).st_size) > bytes_max:
            raise KeepFailed(f"artifact {name} has more than the {bytes_max} bytes that can be kept")
        while data := content.read(pace.bytes):
            if offset + len(data) > bytes_max:
                raise KeepFailed(f"artifact {name} has more than the {bytes_max} bytes that can be kept")
            seq = await self._put(ArtifactChunk(key.task_id, key.attempt, name, offset, data), upload, pace, no_more)
            seqs = [seqs[0] or seq, seq]
            digest.update(data)
            offset += len(data)
            sent(name, offset, whole)
        return Artifact(name=name, size=offset, sha256=digest.hexdigest(), first_seq=seqs[0], last_seq=seqs[1])

    async def _put(self, chunk: ArtifactChunk, upload: str, pace: Pace, no_more: Callable[[], str]) -> int:
        """Store a chunk: for as long as the bus is away, but not for ever while it is there."""
        waited = 0.0
        while True:
            if why := no_more():
                raise Unwanted(why, f"{chunk.name} up to byte {chunk.offset}")
            pace.begins()
            try:
                seq = await self._store(chunk, upload)
            except NotStored as error:
                pace.unanswered()
                waited += RETRY_SECONDS if self._available() else 0
                if waited > WAIT_SECONDS_MAX:
                    raise KeepFailed(f"artifact {chunk.name} could not be stored: {error}") from None
                await asyncio.sleep(RETRY_SECONDS)
                continue
            pace.answered()
            return seq


def rules_of(payload: HostPayload) -> tuple[ArtifactRule, ...]:
    """Return which files of an attempt's folder are kept."""
    match payload:
        case Build(artifacts=artifacts):
            return artifacts
        case Export(to=""):
            return (ArtifactRule(name_of(payload)),)
        case _:
            return ()


def find(root: int, rules: tuple[ArtifactRule, ...]) -> list[Found]:
    """Return what *rules* name in the folder *root*, in their order.

    Raises:
        KeepFailed: something that must be there is not, cannot have its name, or is too much.
    """
    found: dict[str, Found] = {}
    for rule in rules:
        matches = sorted(_matches(root, rule.path.split("/"), "")) if is_glob(rule.path) else [rule.path] * _exists(root, rule.path)
        if not matches and not rule.optional:
            raise KeepFailed(f"artifact {rule.path} is missing: no step made it")
        for path in matches:
            name = rule.name or posixpath.basename(path)
            if not is_artifact_name(name):
                raise KeepFailed(f"artifact {path} cannot be kept under its name: give it another by `name`")
            if name in found and found[name].path != path:
                raise KeepFailed(f"artifacts {found[name].path} and {path} would both be kept as {name}")
            found[name] = Found(name, path)
        if len(found) > ARTIFACTS_PER_ATTEMPT_MAX:
            raise KeepFailed(f"more than {ARTIFACTS_PER_ATTEMPT_MAX} artifacts: keep their folder instead")
    return list(found.values())


def _exists(root: int, path: str) -> bool:
    try:
        os.close(open_within(root, path))
    except FileNotFoundError:
        return False
    return True


def _matches(root: int, pattern: list[str], before: str) -> Iterator[str]:
    """Yield the paths that match; links are passed over, and only folders that match are entered."""
    with os.scandir(root) as entries:
        names = [entry.name for entry in entries if not entry.is_symlink() and fnmatch.fnmatchcase(entry.name, pattern[0])]
    for name in names:
        if name.startswith(".") and not pattern[0].startswith("."):
            continue
        if len(pattern) == 1:
            yield f"{before}{name}"
            continue
        try:
            inner = os.open(name, _READ | os.O_DIRECTORY, dir_fd=root)
        except NotADirectoryError:
            continue
        try:
            yield from _matches(inner, pattern[1:], f"{before}{name}/")
        finally:
            os.close(inner)


def open_within(root: int, path: str) -> int:
    """Open what *path* names in the folder *root*, never by way of a link.

    Raises:
        KeepFailed: a link is on the way.
        OSError: it cannot be opened.
    """
    here = os.dup(root)
    try:
        for name in path.split("/"):
            try:
                inner = os.open(name, _READ, dir_fd=here)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise KeepFailed(f"artifact {path}: {name} is a link: name what it points to") from None
                if error.errno == errno.ENXIO:
                    raise KeepFailed(f"artifact {path} is neither a file nor a folder") from None
                raise
            os.close(here)
            here = inner
    except BaseException:
        os.close(here)
        raise
    return here


def write_tar(folder: int, path: str, file: IO[bytes]) -> None:
    """Write a folder as a tar: the same content gives the same bytes, whoever made it and whenever.

    Raises:
        KeepFailed: there is something in it that a tar of it could not hold, or that leads out of it.
    """
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        _add_folder(tar, folder, path, "")


def _add_folder(tar: tarfile.TarFile, folder: int, path: str, before: str) -> None:
    for name in sorted(os.listdir(folder)):
        within = f"{before}{name}"
        info = tarfile.TarInfo(within)
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            info.type, info.linkname, info.mode = tarfile.SYMTYPE, os.readlink(name, dir_fd=folder), 0o777
            target = posixpath.normpath(posixpath.join(posixpath.dirname(within), info.linkname))
            if posixpath.isabs(info.linkname) or target.split("/")[0] == "..":
                raise KeepFailed(f"artifact {path}: the link {within} leads out of it")
            tar.addfile(info)
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise KeepFailed(f"artifact {path}: {within} is neither a file, a folder nor a link")
        descriptor = os.open(name, _READ, dir_fd=folder)
        try:
            status = os.fstat(descriptor)
            info.mode = 0o755 if status.st_mode & 0o100 else 0o644
            if stat.S_ISDIR(status.st_mode):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                _add_folder(tar, descriptor, path, f"{within}/")
                continue
            info.size = status.st_size
            if tar.offset + info.size > ARTIFACT_BYTES_MAX:
                raise KeepFailed(f"artifact {path} has more than the {ARTIFACT_BYTES_MAX} bytes that can be kept")
            with Path(f"/proc/self/fd/{descriptor}").open("rb") as content:
                tar.addfile(info, content)
        finally:
            os.close(descriptor)
