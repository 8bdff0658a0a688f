"""Make a home from a backup, on a place where there is none, and tell its log that it is older than the world.

The lost part of the log may have dispatched anything that was open in the backup. So before anything can read it, the
restored log gets two kinds of events that exist already: every host is refused (nothing is sent to it until a person
accepts it, and what it had open is `lost`), and every open task is paused (what waited may have run: a person resumes
or aborts it). Work goes on in a folder beside the new home, which gets its name last.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
from nats.errors import Error as NatsError

from fleetlog_runtime.pure.bus import (
    AppendRefused,
    AppendUnsettled,
    Batch,
    Bus,
    BusFull,
    Draft,
    NoAnswer,
    StreamState,
)
from fleetlog_runtime.pure.split import split
from fleetlog_runtime.shell.backup import (
    STREAMS,
    BackupError,
    Manifest,
    Say,
    copy_home,
    stored_from,
    verify,
    with_archive,
)
from fleetlog_runtime.shell.clock import Clock
from fleetlog_runtime.shell.files import sync_tree
from fleetlog_runtime.shell.folder_lock import take_over
from fleetlog_runtime.shell.home import Home, HomeError, admin_credentials, create_home
from fleetlog_runtime.shell.nats_admin import INBOX, connect_admin
from fleetlog_runtime.shell.nats_bus import ConnectFailed, NatsBus
from fleetlog_runtime.shell.nats_snapshot import PUT_BACK_RIGHTS
from fleetlog_runtime.shell.put_back_again import put_back_whole
from fleetlog_runtime.shell.streams import StreamError, ensure_streams, reservations
from fleetlog_runtime.shell.supervisor import NatsServer, ServerError
from fleetlog_schemas import (
    chain,
    codec,
    control_events,
    events,
    host_events,
    hosts,
    lifecycle,
    limits,
    records,
    schedules,
    subjects,
)
from fleetlog_schemas.ids import new_id
from fleetlog_schemas.schedule_events import SchedulePaused

SOURCE = "/fleetlog/backup"
AUTHID = "backup-restore"
CODE = "restored"
"""Of the refusal: `fleetlog host accept --restored` lets exactly these hosts in again."""
_RIGHTS = ("$JS.API.>", events.REQUEST, events.DISPATCH, events.SCHEDULE)


class Restored(msgspec.Struct, frozen=True):
    """What was made, and what a person has to decide now."""

    home: str
    made_at: str
    last_seq: int
    hosts_refused: int
    tasks_paused: int
    schedules_paused: int


class _Open(msgspec.Struct):
    """The fold of the restored log."""

    tasks: records.Tasks = msgspec.field(default_factory=records.Tasks)
    hosts: hosts.Hosts = msgspec.field(default_factory=hosts.Hosts)
    schedules: schedules.Schedules = msgspec.field(default_factory=schedules.Schedules)

    def fold(self, event: codec.Event) -> None:
        hosts.apply(self.hosts, event)
        schedules.apply(self.schedules, event)
        for change in lifecycle.apply(self.tasks, event):
            if change.what in ("refused", "task-ended"):
                self.tasks.evict(change.task.task_id)


async def restore(folder: Path, target: Path, say: Say) -> Restored:
    """Make the new home *target* from the backup *folder*.

    Raises:
        BackupError: the backup is damaged, something is at *target*, or the bus refused; nothing is at *target* then.
    """
    work = _place_beside(target)
    say("checking the backup")
    manifest = verify(folder)
    lock = _work_alone(work, say)
    try:
        copy_home(folder, manifest, work)
        create_home(work)
        restored = await _restore(folder, manifest, Home(work), say)
        await asyncio.to_thread(sync_tree, work)
        _take_place(work, target)
    except (
        StreamError, ServerError, HomeError, ConnectFailed, NatsError, NoAnswer, AppendRefused,
        AppendUnsettled, BusFull, TimeoutError, OSError,
    ) as error:
        raise BackupError(f"nothing was restored: {str(error) or type(error).__name__}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(lock)
    return msgspec.structs.replace(restored, home=str(target))


def _place_beside(target: Path) -> Path:
    """Return the folder to work in. Raises BackupError when something is where the home shall be."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BackupError(
            f"{target} exists and is not empty: restore into a new folder (--data NEWFOLDER), or move it away first"
        )
    return target.with_name(f".{target.name}.restoring")


def _work_alone(work: Path, say: Say) -> int:
    """Make the folder to work in, empty, and return its lock. Raises BackupError when another restore works there.

    What an earlier restore left there is half a home that nobody has used: it gets its name when it is whole.
    """
    try:
        for _ in range(2):
            work.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = _locked(work)
            if not any(work.iterdir()):
                return lock
            say(f"removing {work}, which a restore left that was interrupted")
            if (work / "nats").is_dir() and (bus := take_over(work / "nats")) is not None:
                os.close(bus)  # its server was left behind, and has ended now
            shutil.rmtree(work)
            os.close(lock)
    except OSError as error:
        raise BackupError(f"nothing was restored: {error}") from None
    raise BackupError(f"another restore works in {work}: wait until it has ended")


def _locked(work: Path) -> int:
    lock = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise BackupError(f"another restore works in {work}: wait until it has ended") from None
    return lock


def _take_place(work: Path, target: Path) -> None:
    if target.is_dir():
        target.rmdir()
    work.replace(target)


async def _restore(folder: Path, manifest: Manifest, home: Home, say: Say) -> Restored:
    sizes = reservations(home)
    server = NatsServer(home, apart=True)
    await server.start()
    try:
        client = await connect_admin(home, server.url, tls=False, rights=PUT_BACK_RIGHTS)
        try:
            for copy in manifest.streams:
                say(f"putting back {copy.name}")
                bytes_max = sizes[copy.name.removeprefix("OBJ_")]
                used = int(copy.state.get("bytes", 0))
                if used > bytes_max:
                    raise BackupError(
                        f"{copy.name} has {used // 1024**2} MiB and this disk has room for {bytes_max // 1024**2}: free some"
                        " space, or restore to a larger disk"
                    )
                await put_back_whole(client, copy, folder / STREAMS / f"{copy.name}.snapshot", bytes_max, 1, say)
            await ensure_streams(client, sizes, output_seq=manifest.output_seq)
        finally:
            await client.close()
        connected = await NatsBus.connect(server.url, admin_credentials(home, rights=_RIGHTS), "restore", inbox_prefix=INBOX)
        bus = with_archive(connected, home)
        try:
            say("comparing the log with the backup")
            state = await bus.state(subjects.EVENTS)
            return await _tell(bus, manifest, state.last_seq, await _compared(bus, manifest, state))
        finally:
            await bus.close()
    finally:
        await server.stop()


async def _compared(bus: Bus, manifest: Manifest, state: StreamState) -> _Open:
    """Return the fold of the log, which must be the one that was saved. Raises BackupError."""
    known, head = _Open(), chain.START
    async for stored in stored_from(bus, state.first_seq, state.last_seq):
        if stored.seq <= manifest.log.last_seq:
            head = chain.link(head, stored.seq, stored.subject, stored.body)
        try:
            event = codec.decode(
                stored.body, seq=stored.seq, subject=stored.subject, time_ms=stored.time_ms, batch_end=stored.batch_end
            )
        except codec.Malformed:
            continue
        except codec.TooNew as error:
            if error.minreader > codec.READER:
                raise BackupError(f"message {stored.seq} of the log needs a newer fleetlog: {error}") from None
            continue
        known.fold(event)
    if state.last_seq < manifest.log.last_seq or head != manifest.log.chain_head:
        raise BackupError("the log that was put back is not the one that was saved: use another backup")
    return known


async def _tell(bus: Bus, manifest: Manifest, last_seq: int, known: _Open) -> Restored:
    """Refuse every host, pause every open task and every schedule that would fire, in the restored log."""
    message = f"the log was restored from a backup made at {manifest.made_at}: what the host did since is not in it"
    refusals = [
        host_events.SessionRefusal(host_id=host.host_id, code=CODE, message=message)
        for host in known.hosts.by_id.values()
        # A host that was refused before stays refused for that reason.
        if not host.revoked and not host.blocked
    ]
    paused = [task.task_id for task in known.tasks.by_id.values() if not task.stop and not task.hold]
    reason = f"restored from a backup made at {manifest.made_at}: what waits here may have run since; look, then resume or abort"
    await _append(bus, events.DISPATCH, split(lambda entries: host_events.SessionsRefused(hosts=entries), refusals))
    await _append(bus, events.REQUEST, (control_events.PauseRequested(task_id=task_id, reason=reason) for task_id in paused))
    # What is paused for good keeps its reason; what would resume by itself must not.
    firing = [
        one.name for one in known.schedules.by_name.values()
        if one.active and not (one.paused_ms and not one.paused_until_ms)
    ]
    reason = f"restored from a backup made at {manifest.made_at}: what is due may have run since; look, then resume"
    await _append(bus, events.SCHEDULE, (SchedulePaused(name=name, reason=reason) for name in firing))
    return Restored("", manifest.made_at, last_seq, len(refusals), len(paused), len(firing))


async def _append(bus: Bus, subject: str, data: Iterator[events.Data]) -> None:
    clock = Clock()
    drafts: list[Draft] = []
    for one in data:
        event_id = new_id(clock.now_ms(), os.urandom(10))
        event = codec.Event(id=event_id, source=SOURCE, data=one, time_ms=clock.now_ms(), authid=AUTHID)
        drafts.append(Draft(subject=subject, body=codec.encode(event)))
        if len(drafts) == limits.BATCH_MESSAGES_MAX:
            await bus.append(Batch(drafts=tuple(drafts), message_id=event_id))
            drafts = []
    if drafts:
        await bus.append(Batch(drafts=tuple(drafts), message_id=new_id(clock.now_ms(), os.urandom(10))))
