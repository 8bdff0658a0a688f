"""Make the streams of `fleetlog_schemas.subjects` on the server, or see that they are as defined.

Sizes are reservations that must fit the disk: they are scaled down once, when a home is first started, and then
remembered, so that a disk that fills later does not change what the streams were promised.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from nats.aio.client import Client

from fleetlog_runtime.shell.files import write_atomic
from fleetlog_runtime.shell.home import Home, HomeError
from fleetlog_schemas import limits, subjects

DISK_SHARE = 0.8
"""Of the free disk may be reserved: the rest is for the projection, agents and everybody else."""
FIXED_BYTES_MAX = 64 * 1024**2
"""Streams up to this size are not scaled down."""
SLACK_BYTES = 64 * 1024**2
"""Room in the server's own limit beyond the sum of the reservations."""
DUPLICATE_WINDOW_SECONDS = 120
"""How long message ids are remembered; each costs the server about 0.5 KB of memory."""
ACK_WAIT_SECONDS = 3
"""Reports that a recorder took and did not acknowledge come again after this: another one takes over from one that is
gone within five seconds. One that is only slow is helped by the other, for what is appended twice changes nothing."""
ACKS_PENDING_MAX = 5_000
"""Reports that all recorders together may have taken and not acknowledged."""
CONSUMERS_PER_STREAM_MAX = 5_000
"""Readers of one stream at once, as in the server's configuration."""
API_TIMEOUT_SECONDS = 10
PERSIST_MODE = "persist_mode"
"""`async` confirms before it syncs, of one stream. The server takes it only where a stream is made, and not with replicas."""
_NOT_FOUND = 404
_SECOND_NS = 1_000_000_000


NOT_NOW = 503
"""What a cluster says that has no leader at the moment."""
_WAIT_NUMBERS = frozenset({10005, 10059, 10130})
"""Too few nodes are there to hold the copies; a stream that was just made is not known everywhere; one is being restored."""


class StreamError(Exception):
    """A stream cannot be made as defined; the message carries the server's reason."""

    def __init__(self, message: str, code: int = 0, number: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.number = number

    @property
    def refused(self) -> bool:
        """Whether asking again later changes nothing."""
        return self.code != NOT_NOW and self.number not in _WAIT_NUMBERS


def reservations(home: Home) -> dict[str, int]:
    """Return the bytes reserved for each stream, deciding them by the free disk when there are none yet.

    Raises:
        HomeError: the disk is too full to run at all.
    """
    path = home.path / "nats" / "reserved.json"
    wanted = {stream.name: stream.bytes_max for stream in subjects.STREAMS}
    wanted[subjects.BLOBS] = subjects.BLOBS_BYTES_MAX
    kept: dict[str, int] = json.loads(path.read_bytes()) if path.exists() else {}
    missing = {name: size for name, size in wanted.items() if name not in kept}
    if missing:
        free = shutil.disk_usage(home.path / "nats").free - sum(kept.values())
        kept |= _fitted(missing, int(free * DISK_SHARE))
        write_atomic(path, json.dumps(kept, indent=1).encode())
    return kept


def _fitted(wanted: dict[str, int], budget: int) -> dict[str, int]:
    fixed = {name: size for name, size in wanted.items() if size <= FIXED_BYTES_MAX}
    scaled = {name: size for name, size in wanted.items() if size > FIXED_BYTES_MAX}
    room = budget - sum(fixed.values())
    if room < len(scaled) * FIXED_BYTES_MAX:
        raise HomeError(
            f"the disk has room for {max(0, budget) // 1024**2} MiB of streams and at least"
            f" {(len(scaled) * FIXED_BYTES_MAX + sum(fixed.values())) // 1024**2} MiB are needed:"
            " free some space, or name another folder with --data"
        )
    ratio = min(1.0, room / max(1, sum(scaled.values())))
    return fixed | {name: max(FIXED_BYTES_MAX, int(size * ratio)) for name, size in scaled.items()}


def stream_config(stream: subjects.Stream, bytes_max: int, replicas: int = 1) -> dict[str, Any]:
    """Return the server's configuration of one stream."""
    return {
        "name": stream.name,
        "description": stream.why,
        "subjects": list(stream.subjects),
        "retention": "workqueue" if stream.work_queue else "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_bytes": bytes_max,
        "max_msgs_per_subject": stream.per_subject_max or -1,
        "max_age": stream.age_seconds_max * _SECOND_NS,
        "max_msg_size": stream.message_bytes_max,
        "max_consumers": CONSUMERS_PER_STREAM_MAX,
        "discard": "new" if stream.discard_new else "old",
        "discard_new_per_subject": stream.discard_new and stream.per_subject_max > 0,
        "duplicate_window": DUPLICATE_WINDOW_SECONDS * _SECOND_NS,
        "allow_direct": True,
        "allow_atomic": stream.atomic,
        "allow_msg_ttl": stream.ttl,
        "deny_delete": stream.deny_delete,
        "deny_purge": False,
        **({PERSIST_MODE: "async"} if stream.synced_late and replicas == 1 else {}),
    }


def _blobs_config(bytes_max: int, replicas: int) -> dict[str, Any]:
    # The layout of a NATS object store (ADR-20), so that the tools of NATS can read it.
    return {
        "name": f"OBJ_{subjects.BLOBS}",
        "description": "content by SHA-256: scripts, standard input, environment",
        "subjects": [f"$O.{subjects.BLOBS}.C.>", f"$O.{subjects.BLOBS}.M.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_bytes": bytes_max,
        "max_msg_size": limits.BUS_MESSAGE_BYTES_MAX,
        "max_consumers": CONSUMERS_PER_STREAM_MAX,
        "discard": "new",
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": False,
        "deny_purge": False,
    }


async def check_log_reaches(client: Client, known_seq: int) -> None:
    """Check that the log of a home that has run before is there, and no shorter than what was derived from it.

    A new log that began in its place would give out the same sequences again, and know nothing of what ran.

    Raises:
        StreamError: it is not; the message says what to do.
    """
    try:
        last_seq = int((await call_api(client, f"STREAM.INFO.{subjects.EVENTS}", {}))["state"]["last_seq"])
    except StreamError as error:
        if error.code != _NOT_FOUND:
            raise
        last_seq = -1
    if last_seq >= known_seq:
        return
    found = "there is no log" if last_seq < 0 else f"the log ends at {last_seq}"
    known = f", but what was derived from it knows {known_seq} events" if known_seq else ", but this system has run before"
    ways = ["with a backup:    fleetlog backup restore BACKUP --data NEWFOLDER"]
    if last_seq >= 0:
        ways.append("without one:      fleetlog backup create BACKUP saves what is left; restore that into a new folder")
    ways.append("to begin anew:    fleetlog up --data NEWFOLDER, and join every host again")
    text = "\n  ".join([f"{found}{known}: its storage was emptied, damaged or set back. Nothing was changed.", *ways])
    raise StreamError(text)


async def ensure_streams(client: Client, sizes: dict[str, int], replicas: int = 1, output_seq: int = 0) -> None:
    """Make every stream, the bucket of blobs and the recorders' consumer, or bring them to their definition.

    Each has a copy on *replicas* nodes. An OUTPUT that has to be made goes on behind *output_seq*.

    Raises:
        StreamError: the server refused.
    """
    for stream in subjects.STREAMS:
        first = {"first_seq": output_seq + 1} if stream.name == subjects.OUTPUT and output_seq else {}
        await _ensure(client, stream_config(stream, sizes[stream.name], replicas), first)
    await _ensure(client, _blobs_config(sizes[subjects.BLOBS], replicas))
    consumer = {
        "durable_name": subjects.RECORDER_CONSUMER,
        "name": subjects.RECORDER_CONSUMER,
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT_SECONDS * _SECOND_NS,
        "max_ack_pending": ACKS_PENDING_MAX,
        "max_deliver": -1,
        "deliver_policy": "all",
        "replay_policy": "instant",
        "num_replicas": replicas,
    }
    body = {"stream_name": subjects.REPORTS, "config": consumer}
    await call_api(client, f"CONSUMER.CREATE.{subjects.REPORTS}.{subjects.RECORDER_CONSUMER}", body)


async def streams_exist(client: Client) -> bool:
    """Tell whether everything that `ensure_streams` makes is there. Raises StreamError."""
    calls = [f"STREAM.INFO.{stream.name}" for stream in subjects.STREAMS]
    calls += [f"STREAM.INFO.OBJ_{subjects.BLOBS}", f"CONSUMER.INFO.{subjects.REPORTS}.{subjects.RECORDER_CONSUMER}"]
    try:
        for call in calls:
            await call_api(client, call, {})
    except StreamError as error:
        if error.code != _NOT_FOUND:
            raise
        return False
    return True


async def _ensure(client: Client, config: dict[str, Any], first: dict[str, Any] | None = None) -> None:
    """Make a stream, at first with *first*, or bring it to its configuration."""
    try:
        found = (await call_api(client, f"STREAM.INFO.{config['name']}", {}))["config"]
    except StreamError as error:
        if error.code != _NOT_FOUND:
            raise
        await call_api(client, f"STREAM.CREATE.{config['name']}", config | (first or {}))
        return
    if config["num_replicas"] > 1 and found.get(PERSIST_MODE) == "async":
        # Such a stream cannot get copies. It is made anew: whoever sent what it holds has kept it, and sends it again.
        await call_api(client, f"STREAM.DELETE.{config['name']}", {})
        await call_api(client, f"STREAM.CREATE.{config['name']}", config)
        return
    # The server leaves out what is false, zero or empty.
    wanted = {key: value for key, value in config.items() if key != PERSIST_MODE}
    if any(found.get(key, None) != value for key, value in wanted.items() if value or key in found):
        await call_api(client, f"STREAM.UPDATE.{config['name']}", found | wanted)


async def call_api(client: Client, call: str, body: dict[str, Any]) -> dict[str, Any]:
    """Call the JetStream API as the admin. Raises StreamError."""
    reply = await client.request(f"$JS.API.{call}", json.dumps(body).encode(), timeout=API_TIMEOUT_SECONDS)
    answer: dict[str, Any] = json.loads(reply.data)
    if "error" in answer:
        error = answer["error"]
        numbers = int(error.get("code", 0)), int(error.get("err_code", 0))
        raise StreamError(f"nats-server refused {call}: {error.get('description')}", *numbers)
    return answer
