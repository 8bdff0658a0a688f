"""Grow a home that ran alone into the first node of a cluster: its streams are saved, and restored on all nodes.

A server does not take streams that it stored alone into a cluster: it would delete them as nobody's. So they are
saved by the server's own snapshots while it runs alone once more, unreachable for anybody else; the old store is
moved aside and stays; and the cluster restores them with a copy on every node. Whatever is interrupted is begun again.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg

from fleetlog_runtime.shell.files import private_folder, write_atomic
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.streams import StreamError, call_api, reservations
from fleetlog_schemas import subjects

CHUNK_BYTES = 128 * 1024
CHUNK_SECONDS_MAX = 60.0
"""Between two chunks: the server checks a stream before it sends the first."""
STREAMS = (*(stream.name for stream in subjects.STREAMS if stream.name != subjects.LEADERS), f"OBJ_{subjects.BLOBS}")
"""Who led is of no use to a cluster."""

Say = Callable[[str], None]


def ran_alone(home: Home) -> bool:
    """Tell whether the store of a home is one that no cluster has taken part in."""
    store = home.path / "nats" / "jetstream" / "jetstream"  # the server adds the second one
    return any(store.glob(f"*/streams/{subjects.EVENTS}")) and not any(store.glob("*/_js_/_meta_"))


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
            about = await _save_stream(client, stream, folder / f"{stream}.snapshot")
            write_atomic(folder / f"{stream}.json", json.dumps(about).encode())
            say(f"saved {stream}: {about['state']['messages']} messages through {about['state']['last_seq']}")
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


async def _save_stream(client: Client, stream: str, path: Path) -> dict[str, Any]:
    chunks: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, cb=chunks.put)
    try:
        about = await call_api(client, f"STREAM.SNAPSHOT.{stream}", {
            "deliver_subject": inbox, "no_consumers": True, "jsck": True, "chunk_size": CHUNK_BYTES,
        })
        with path.open("wb") as file:
            while True:
                async with asyncio.timeout(CHUNK_SECONDS_MAX):
                    chunk = await chunks.get()
                if not chunk.data:
                    status = (chunk.headers or {}).get("Status", "")
                    if status and not status.startswith("2"):
                        raise StreamError(f"the snapshot of {stream} broke off: {(chunk.headers or {}).get('Description')}")
                    break
                await asyncio.to_thread(file.write, chunk.data)
                if chunk.reply:
                    await client.publish(chunk.reply, b"")
        return {"config": about["config"], "state": about["state"]}
    finally:
        await subscription.unsubscribe()


async def restore(home: Home, client: Client, replicas: int, say: Say) -> None:
    """Restore what was saved, if anything was, on *replicas* nodes; what is there already stays. Raises StreamError."""
    folder = _saved(home)
    if not folder.exists():
        return
    sizes = reservations(home)
    for stream in STREAMS:
        about = json.loads((folder / f"{stream}.json").read_bytes())
        config = about["config"] | {"num_replicas": replicas, "max_bytes": sizes[stream.removeprefix("OBJ_")]}
        try:
            found = await call_api(client, f"STREAM.INFO.{stream}", {})
        except StreamError as error:
            if error.code != 404:
                raise
            found = await _restore_stream(client, config, about["state"], folder / f"{stream}.snapshot")
        if int(found["state"]["last_seq"]) < int(about["state"]["last_seq"]):
            raise StreamError(f"{stream} was restored through {found['state']['last_seq']} of {about['state']['last_seq']}")
        say(f"restored {stream} on {replicas} nodes, through {found['state']['last_seq']}")
    shutil.rmtree(folder)


async def _restore_stream(client: Client, config: dict[str, Any], state: dict[str, Any], path: Path) -> dict[str, Any]:
    begun = await call_api(client, f"STREAM.RESTORE.{config['name']}", {"config": config, "state": state})
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            await client.request(begun["deliver_subject"], chunk, timeout=CHUNK_SECONDS_MAX)
    ended = json.loads((await client.request(begun["deliver_subject"], b"", timeout=CHUNK_SECONDS_MAX)).data)
    if "error" in ended:
        error = ended["error"]
        raise StreamError(f"nats-server refused to restore {config['name']}: {error.get('description')}", error.get("code", 0))
    found: dict[str, Any] = ended
    return found
