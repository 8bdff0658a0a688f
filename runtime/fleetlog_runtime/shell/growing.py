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
from fleetlog_runtime.shell.nats_snapshot import SnapshotError, StreamCopy, put_back, take
from fleetlog_runtime.shell.streams import StreamError, call_api, reservations
from fleetlog_schemas import subjects

STREAMS = (*(stream.name for stream in subjects.STREAMS if stream.name != subjects.LEADERS), f"OBJ_{subjects.BLOBS}")
"""Who led is of no use to a cluster."""

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
    """Restore what was saved, if anything was, on *replicas* nodes; what is there already stays. Raises StreamError."""
    folder = _saved(home)
    if not folder.exists():
        return
    sizes = reservations(home)
    for stream in STREAMS:
        copy = msgspec.json.decode((folder / f"{stream}.json").read_bytes(), type=StreamCopy)
        try:
            state = (await call_api(client, f"STREAM.INFO.{stream}", {}))["state"]
        except StreamError as error:
            if error.code != 404:
                raise
            state = await _put_back(client, copy, folder, sizes[stream.removeprefix("OBJ_")], replicas)
        if int(state["last_seq"]) < copy.last_seq:
            raise StreamError(f"{stream} was restored through {state['last_seq']} of {copy.last_seq}")
        say(f"restored {stream} on {replicas} nodes, through {state['last_seq']}")
    shutil.rmtree(folder)


async def _put_back(client: Client, copy: StreamCopy, folder: Path, bytes_max: int, replicas: int) -> dict[str, Any]:
    try:
        return await put_back(client, copy, folder / f"{copy.name}.snapshot", bytes_max, replicas)
    except SnapshotError as error:
        # A node that is not there yet is waited for.
        raise StreamError(str(error), error.code, error.number) from None
