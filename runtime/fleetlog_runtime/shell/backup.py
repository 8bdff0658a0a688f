"""A backup: a folder with a copy of every stream, of the files that cannot be made again, and a manifest.

Taken in the order that makes the cut right while everything runs: reports before the log, so that a report is in one
of them or in both; blobs after the log, so that whatever it refers to is there. `SHA256SUMS` is written last, in the
form of `sha256sum`: a folder without it is no backup. The log is read as well and its messages are chained into one
hash, which the log must give again after it was put back.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from fleetlog_runtime.pure.bus import Bus, NoAnswer, Stored
from fleetlog_runtime.shell.archive import folder_of
from fleetlog_runtime.shell.archived_bus import ArchivedBus
from fleetlog_runtime.shell.clock import Clock
from fleetlog_runtime.shell.files import new_private, write_atomic
from fleetlog_runtime.shell.folder_lock import is_running
from fleetlog_runtime.shell.growing import ran_with_others
from fleetlog_runtime.shell.home import Home, HomeError
from fleetlog_runtime.shell.nats_admin import connect_admin
from fleetlog_runtime.shell.nats_bus import ConnectFailed, NatsBus
from fleetlog_runtime.shell.nats_snapshot import TAKE_RIGHTS, SnapshotError, StreamCopy, take
from fleetlog_runtime.shell.settings_file import load_settings
from fleetlog_runtime.shell.supervisor import NatsServer, ServerError
from fleetlog_schemas import chain, subjects
from fleetlog_schemas.codec import rfc3339

FORMAT = 1
"""Of the folder. A change that an older version could not restore raises it."""
MANIFEST, SUMS, STREAMS, FILES = "manifest.json", "SHA256SUMS", "streams", "home"
BLOBS_STREAM = f"OBJ_{subjects.BLOBS}"
ORDER = (subjects.REPORTS, subjects.EVENTS, BLOBS_STREAM)
KEPT = ("keys", "creds", "tls", "nats/jwt", "nats/agents.jwt", "nats/port", "gateway/token", "settings.toml", "archive")
"""Files and folders of the home that cannot be made again, or that agents and people rely on."""
CUTS_MAX = 20
"""Copies of the log until one does not end within an atomic batch; under a load of nothing but batches of 200 one in seven does."""
READ_MESSAGES = 1_000
"""Of the log at once; the bus bounds the bytes."""
_BLOCK_BYTES = 1024**2

Say = Callable[[str], None]


class BackupError(Exception):
    """It cannot be made, or is not one; the message says which file and what to do."""


class FileCopy(msgspec.Struct, frozen=True):
    """One file of the home."""

    path: str
    bytes: int
    sha256: str


class LogExtent(msgspec.Struct, frozen=True):
    """The log in a backup: its ends, and the hash of everything between them."""

    first_seq: int
    last_seq: int
    chain_head: str


class Manifest(msgspec.Struct, frozen=True):
    """What a backup holds."""

    format: int
    made_at: str
    fleetlog: str
    nats_server: str
    machine: str
    hot: bool
    """Whether it was taken from a running system."""
    log: LogExtent
    output_seq: int
    """The last sequence of OUTPUT: the log names frames by sequence, so a new OUTPUT must go on behind it."""
    streams: tuple[StreamCopy, ...]
    files: tuple[FileCopy, ...]


def with_archive(bus: Bus, home: Home) -> Bus:
    """Return the bus with what was pruned from it: a backup holds both, and its chain is that of the whole log."""
    return ArchivedBus(bus, folder_of(home.path, load_settings(home.path, []).keeper.archive_path))


async def chain_of(bus: Bus, first_seq: int, last_seq: int) -> str:
    """Return the head of the chain from one sequence of the log through another. Raises BackupError."""
    head = chain.START
    async for stored in stored_from(bus, first_seq, last_seq):
        head = chain.link(head, stored.seq, stored.subject, stored.body)
    return head


async def stored_from(bus: Bus, first_seq: int, last_seq: int) -> AsyncIterator[Stored]:
    """Yield the messages of the log from one sequence through another, wherever an atomic batch ends.

    Raises:
        BackupError: one is missing.
    """
    next_seq = max(1, first_seq)
    while next_seq <= last_seq:
        part = await bus.get_range(subjects.EVENTS, next_seq, READ_MESSAGES)
        # A message without a subject stands for one that neither the stream nor the archive can read.
        if not part or any(stored.seq != next_seq + place or not stored.subject for place, stored in enumerate(part)):
            raise BackupError(f"the log reaches {last_seq}, and a message from {next_seq} on is missing")
        for stored in part:
            if stored.seq <= last_seq:
                yield stored
        next_seq = part[-1].seq + 1


# --- making one ----------------------------------------------------------------------------------------------------


async def create(home: Home, target: Path, version: str, say: Say, *, output: bool, agents: bool) -> Manifest:
    """Make a backup of *home* in the new folder *target*; with the streams of *output*, with this machine's *agents*.

    A running bus is asked; otherwise one is started for the moment.

    Raises:
        BackupError: it cannot be made; what is in *target* then is no backup.
    """
    if not home.exists():
        raise BackupError(f"{home.path} is no data folder of fleetlog: name it with --data")
    hot = is_running(home)
    if not hot and ran_with_others(home):
        raise BackupError(f"{home.path} is a node of a cluster: make the backup on a node that runs")
    _new_folder(target)
    server = None if hot else NatsServer(home, apart=True)
    try:
        if server is not None:
            say("the system is stopped: starting its bus for the moment")
            await server.start()
        url, tls = (home.nats_url(), home.tls_ca() is not None) if server is None else (server.url, False)
        names = (*ORDER, subjects.OUTPUT) if output else ORDER
        return await _create(home, target, version, say, names, agents=agents, hot=hot, url=url, tls=tls)
    except (SnapshotError, ConnectFailed, NoAnswer, NatsError, HomeError, ServerError, TimeoutError) as error:
        raise BackupError(f"{target} is not complete, remove it: {str(error) or type(error).__name__}") from error
    except OSError as error:
        raise BackupError(f"{target} is not complete, remove it: {error.strerror} ({error.filename or target})") from error
    finally:
        if server is not None:
            await server.stop()


def _new_folder(target: Path) -> None:
    try:
        target.mkdir(mode=0o700, parents=True)
        for name in (STREAMS, FILES):
            (target / name).mkdir(mode=0o700)
    except FileExistsError:
        hint = "" if (target / SUMS).exists() else " (it is not a finished backup: remove it if it was begun by one)"
        raise BackupError(f"{target} exists{hint}: name a new folder") from None
    except OSError as error:
        raise BackupError(f"cannot make {target}: {error.strerror}") from None


async def _create(
    home: Home, target: Path, version: str, say: Say, names: tuple[str, ...], *, agents: bool, hot: bool, url: str, tls: bool
) -> Manifest:
    connected = await NatsBus.connect(
        url, home.creds_path("operator"), "backup", inbox_prefix="_INBOX_operator", tls_ca=home.ca_path if tls else None
    )
    bus = with_archive(connected, home)
    client = None
    try:
        client = await connect_admin(home, url, tls=tls, rights=TAKE_RIGHTS)
        server_version = str(client.connected_server_version)
        copies = []
        for name in names:
            say(f"copying {name}")
            copies.append(await _copy_stream(client, bus, name, target / STREAMS / f"{name}.snapshot", check=not hot))
        say("copying keys, credentials and files")
        files = tuple(await asyncio.to_thread(_copy_files, home.path, target / FILES, (*KEPT, "agents") if agents else KEPT))
        events = next(copy for copy in copies if copy.name == subjects.EVENTS)
        say(f"reading the log through {events.last_seq}")
        first = (await bus.state(subjects.EVENTS)).first_seq
        output_seq = (await bus.state(subjects.OUTPUT)).last_seq
        extent = LogExtent(first, events.last_seq, await chain_of(bus, first, events.last_seq))
    finally:
        if client is not None:
            await client.close()
        await bus.close()
    manifest = Manifest(
        format=FORMAT, made_at=rfc3339(Clock().now_ms()), fleetlog=version, nats_server=server_version,
        machine=platform.node(), hot=hot, log=extent, output_seq=output_seq, streams=tuple(copies), files=files,
    )
    seal(target, manifest)
    return manifest


async def _copy_stream(client: Client, bus: Bus, name: str, path: Path, *, check: bool) -> StreamCopy:
    """Copy a stream; the log is copied again until the copy ends where an atomic batch ends."""
    for _ in range(CUTS_MAX):
        # Checked where nobody waits: a stream takes no message while the server checks all that it has.
        copy = await take(client, name, path, check=check)
        if name != subjects.EVENTS or not copy.last_seq or (await bus.get(name, copy.last_seq)).batch_end:
            return copy
        await asyncio.to_thread(path.unlink)
    raise BackupError(f"{CUTS_MAX} copies of the log ended within an atomic batch: try again when less is going on")


def _copy_files(home: Path, target: Path, kept: tuple[str, ...]) -> list[FileCopy]:
    return list(_copied(home, target, kept))


def _copied(home: Path, target: Path, kept: tuple[str, ...]) -> Iterator[FileCopy]:
    """Copy files and yield what they are. One that goes while we look (a renewed key) is not there."""
    for path in sorted(_found(home, kept)):
        name = path.relative_to(home)
        into = target / name
        for folder in reversed(into.relative_to(target).parents[:-1]):
            (target / folder).mkdir(mode=0o700, exist_ok=True)
        try:
            with path.open("rb") as source, new_private(into) as file:
                digest, size = _hashed(source, file)
        except FileNotFoundError:
            continue
        yield FileCopy(name.as_posix(), size, digest)


def _found(home: Path, kept: tuple[str, ...]) -> Iterator[Path]:
    for name in kept:
        start = home / name
        if start.is_file():
            yield start
        for folder, _, names in os.walk(start):
            # Sockets and pipes of agents are no content.
            yield from (path for one in names if (path := Path(folder) / one).is_file())


def _hashed(source: BinaryIO, into: BinaryIO | None = None) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while block := source.read(_BLOCK_BYTES):
        digest.update(block)
        size += len(block)
        if into is not None:
            into.write(block)
    return digest.hexdigest(), size


def seal(target: Path, manifest: Manifest) -> None:
    """Write the manifest and the sums of all files: from now on the folder is a backup. Raises OSError."""
    body = msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"
    write_atomic(target / MANIFEST, body)
    lines = [f"{digest}  {name}\n" for name, digest in _sums(manifest).items()]
    lines.append(f"{hashlib.sha256(body).hexdigest()}  {MANIFEST}\n")
    write_atomic(target / SUMS, "".join(lines).encode())


def _sums(manifest: Manifest) -> dict[str, str]:
    """Return the hash of every file of a backup but the manifest."""
    streams = {f"{STREAMS}/{copy.name}.snapshot": copy.sha256 for copy in manifest.streams}
    return streams | {f"{FILES}/{copy.path}": copy.sha256 for copy in manifest.files}


# --- looking at one ------------------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Manifest:
    """Return what a backup says that it holds; its files are not looked at.

    Raises:
        BackupError: it is not a whole backup, or of a later version.
    """
    if not folder.is_dir():
        raise BackupError(f"{folder} is no folder")
    if not (folder / SUMS).exists():
        raise BackupError(f"{folder} is not a finished backup: {SUMS} is missing; it was interrupted, or is something else")
    try:
        body = (folder / MANIFEST).read_bytes()
        sums = (folder / SUMS).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BackupError(f"{folder} cannot be read: {error}") from None
    if f"{hashlib.sha256(body).hexdigest()}  {MANIFEST}\n" not in sums:
        raise BackupError(f"{folder / MANIFEST} is damaged: it is not what {SUMS} says")
    try:
        manifest = msgspec.json.decode(body, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BackupError(f"{folder / MANIFEST} cannot be read: {error}") from None
    if manifest.format > FORMAT:
        raise BackupError(f"{folder} was made by fleetlog {manifest.fleetlog}: this version cannot read it, install that one")
    for name in _sums(manifest):
        parts = PurePosixPath(name).parts
        if ".." in parts or name.startswith("/"):
            raise BackupError(f"{folder / MANIFEST} names a file outside of the backup: {name}")
    return manifest


def verify(folder: Path) -> Manifest:
    """Check every file of a backup against the manifest and return it.

    Raises:
        BackupError: it is not whole; the message names every file that is missing or differs.
    """
    manifest = read_manifest(folder)
    wrong = []
    for name, expected in _sums(manifest).items():
        try:
            with (folder / name).open("rb") as file:
                found, _ = _hashed(file)
        except OSError as error:
            wrong.append(f"{name}: {error.strerror}")
            continue
        if found != expected:
            wrong.append(f"{name}: differs from what was written")
    if wrong:
        raise BackupError(f"{folder} is damaged; use another backup:\n  " + "\n  ".join(wrong))
    return manifest


def copy_home(folder: Path, manifest: Manifest, home: Path) -> None:
    """Copy the files of the home from a verified backup. Raises OSError."""
    for one in manifest.files:
        into = home / one.path
        for parent in reversed(into.relative_to(home).parents[:-1]):
            (home / parent).mkdir(mode=0o700, exist_ok=True)
        with (folder / FILES / one.path).open("rb") as source, new_private(into) as file:
            shutil.copyfileobj(source, file, _BLOCK_BYTES)


