"""Grow a home that ran alone into the first node of a cluster: its streams are saved, and restored on all nodes.

A server does not take streams that it stored alone into a cluster: it would delete them as nobody's. So they are
saved by the server's own snapshots while it runs alone once more, unreachable for anybody else; the old store is
moved aside and stays; and the cluster restores them with a copy on every node. Whatever is interrupted is begun again.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.client import Client

from fleetlog_runtime.shell.files import private_folder, write_atomic
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.nats_snapshot import SnapshotError, StreamCopy, take
from fleetlog_runtime.shell.put_back_again import put_back_whole
from fleetlog_runtime.shell.streams import NOT_NOW, StreamError, call_api, reservations
from fleetlog_schemas import subjects

STREAMS = (*(stream.name for stream in subjects.STREAMS if stream.name != subjects.LEADERS), f"OBJ_{subjects.BLOBS}")
"""Who led is of no use to a cluster."""
_NOT_FOUND = 404

Say = Callable[[str], None]


def ran_alone(home: Home) -> bool:
    """Tell whether the store of a home is one that no cluster has taken part in."""
    return any(_store(home).glob(f"*/streams/{subjects.EVENTS}")) and not ran_with_others(home)


def ran_with_others(home: Home) -> bool:
    """Tell whether the store of a home is that of a node of a cluster."""
    return any(_store(home).glob("*/_js_/_meta_"))


def _store(home: Home) -> Path:
    return home.path / "nats" / "jetstream" / "jetstream"  # the server adds the second one


def _saved(home: Home) -> Path:
    return home.path / "nats" / "growing"


async def save(home: Home, connect: Callable[[], Awaitable[Client]], say: Say) -> None:
    """Write a snapshot of every stream of the server that *connect* leads to. Raises StreamError, OSError."""
    folder = _saved(home)
    shutil.rmtree(folder, ignore_errors=True)
    private_folder(folder)
    client = await connect()
    try:
        for stream in STREAMS:
            copy = await take(client, stream, folder / f"{stream}.snapshot", check=True)
            write_atomic(folder / f"{stream}.json", msgspec.json.encode(copy))
            say(f"saved {stream}: {copy.state['messages']} messages through {copy.last_seq}")
    except SnapshotError as error:
        raise StreamError(str(error)) from None
    finally:
        await client.close()


def put_aside(home: Home) -> Path:
    """Move the store of the server that ran alone aside and return where it is; the next start begins with an empty one."""
    store = home.path / "nats" / "jetstream"
    aside = store.with_name("jetstream-alone")
    if aside.exists():
        raise StreamError(f"{aside} is there already, from an earlier time: move it away")
    store.rename(aside)
    private_folder(store)
    return aside


async def restore(home: Home, client: Client, replicas: int, say: Say) -> None:
    """Restore what was saved, if anything was, on *replicas* nodes; what is there already stays.

    Raises:
        StreamError: a node is waited for, or it cannot be done; then the message says what a person can do.
        OSError: what was saved cannot be read.
    """
    folder = _saved(home)
    done = folder.with_name("growing-done")
    shutil.rmtree(done, ignore_errors=True)
    if not folder.exists():
        return
    await _check_nobody_served(client, folder)
    sizes = reservations(home)
    for stream in STREAMS:
        copy = msgspec.json.decode((folder / f"{stream}.json").read_bytes(), type=StreamCopy)
        path, bytes_max = folder / f"{stream}.snapshot", sizes[stream.removeprefix("OBJ_")]
        try:
            found = await put_back_whole(client, copy, path, bytes_max, replicas, say)
        except StreamError as error:
            if not error.refused:
                raise  # a node that is not there yet is waited for
            raise StreamError(
                f"{error}. Nothing is lost: the streams are saved in {folder}, and begin again at the next start of this node."
                f" See nats/server.log of every node for the reason, such as a full disk", error.code, error.number
            ) from None
        _check_everywhere(stream, found, replicas)
        say(f"restored {stream} on {replicas} nodes, through {found['state']['last_seq']}")
    # At once: half of what was saved would be no reason to stop, and could not be restored.
    folder.rename(done)
    shutil.rmtree(done)


async def _check_nobody_served(client: Client, folder: Path) -> None:
    """Check that what holds less than the saved streams is half-made by this restore. Raises StreamError.

    Who leads is written down in a stream that is made after all others are restored; no service runs before.
    """
    try:
        await call_api(client, f"STREAM.INFO.{subjects.LEADERS}", {})
    except StreamError as error:
        if error.code != _NOT_FOUND:
            raise
        return
    raise StreamError(
        f"this cluster has served already, and what {folder} holds is older: nothing was changed. Move that folder away, and"
        " start again"
    )


def _check_everywhere(stream: str, found: dict[str, Any], replicas: int) -> None:
    """Check that each node has its copy, before the saved one is removed. Raises StreamError, to be waited for."""
    copies = found.get("cluster", {}).get("replicas", [])
    current = sum(1 for one in copies if one.get("current") and not one.get("offline") and not one.get("lag"))
    if current + 1 < replicas:
        raise StreamError(f"{stream} is restored, and copied to {current + 1} of {replicas} nodes", NOT_NOW)
