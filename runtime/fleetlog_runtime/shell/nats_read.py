"""Read streams: follow one as it grows, look at stored messages, remove old ones, and share a work queue.

Following goes by overlapped pulls on a consumer that the server forgets again; whenever something may have been
missed, a new one is made right after the last message that was handed out, so there is neither gap nor repeat.
Looking goes by direct get (NATS ADR-31).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from fleetlog_runtime.pure.bus import NoAnswer, NotFound, Stored, StreamState, Taken
from fleetlog_runtime.shell.nats_client import LazyClient, ends_batch
from fleetlog_runtime.shell.nats_pull import Position, Pull, PullLost
from fleetlog_runtime.shell.nats_replies import Replies

PULL_MESSAGES = 2_000
"""Asked for at once; the next request goes out when half of it has come."""
PULL_BYTES_MAX = 16 * 1024**2
"""Bounds memory when messages are large."""
TAKE_MESSAGES = 256
"""Taken from a work queue at once, so that several recorders share a burst."""
CONSUMER_INACTIVE_SECONDS = 90
"""The server forgets a reader's consumer this long after its last request; three times a request's life."""
RETRY_SECONDS_MIN = 0.05
RETRY_SECONDS_MAX = 2.0
RANGE_BYTES_MAX = 16 * 1024**2
"""Of one answer to a ranged read; more is asked for again."""
API_SECONDS = 5
PURGE_SECONDS = 120
"""A purge by subject looks at every message below it: a million take the server some seconds."""
_SECOND_NS = 1_000_000_000
_NOT_FOUND = {"404", "408"}


class Reading:
    """The reading half of one connection."""

    def __init__(
        self, client: LazyClient, replies: Replies, connected: Callable[[], Awaitable[None]], pulls: set[Pull]
    ) -> None:
        """Use a connection; *connected* returns once it is up, *pulls* is who must hear of an interruption."""
        self._client = client
        self._replies = replies
        self._connected = connected
        self._pulls = pulls

    # --- follow ---------------------------------------------------------------------------------------------

    async def read(self, stream: str, from_seq: int) -> AsyncIterator[list[Stored]]:
        """Yield chunks for ever, each ending at a batch end; see the Bus contract."""
        next_seq, first, pause_seconds = max(1, from_seq), True, RETRY_SECONDS_MIN
        while True:
            await self._connected()
            pull: Pull | None = None
            try:
                pull, pending = await self._follow(stream, next_seq)
                if first and pending == 0:
                    yield []
                first = False
                async for chunk in _chunks(pull):
                    yield chunk
                    next_seq, pause_seconds = chunk[-1].seq + 1, RETRY_SECONDS_MIN
            except (PullLost, NoAnswer):
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(RETRY_SECONDS_MAX, pause_seconds * 2)
            finally:
                await self._drop(pull)

    async def _follow(self, stream: str, from_seq: int) -> tuple[Pull, int]:
        name = f"read-{uuid.uuid4().hex[:16]}"
        config = {
            "name": name, "ack_policy": "none", "deliver_policy": "by_start_sequence", "opt_start_seq": from_seq,
            "replay_policy": "instant", "mem_storage": True, "num_replicas": 1, "max_deliver": 1,
            "inactive_threshold": CONSUMER_INACTIVE_SECONDS * _SECOND_NS,
        }
        answer = await self.api(f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config})
        pull = Pull(self._client, stream, name, PULL_MESSAGES, PULL_BYTES_MAX)
        self._pulls.add(pull)
        try:
            await pull.open()
        except BaseException:
            await self._drop(pull)
            raise
        return pull, int(answer["num_pending"])

    async def _drop(self, pull: Pull | None) -> None:
        if pull is not None:
            self._pulls.discard(pull)
            await pull.close()

    # --- share a work queue ---------------------------------------------------------------------------------

    async def take(self, stream: str, consumer: str) -> AsyncIterator[list[Taken]]:
        """Yield messages of a work queue for ever; what was not acknowledged comes again."""
        pause_seconds = RETRY_SECONDS_MIN
        while True:
            await self._connected()
            pull = Pull(self._client, stream, consumer, TAKE_MESSAGES, PULL_BYTES_MAX)
            self._pulls.add(pull)
            try:
                await pull.open()
                while True:
                    yield [_taken(message) for message in await pull.next()]
                    pause_seconds = RETRY_SECONDS_MIN
            except PullLost:
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(RETRY_SECONDS_MAX, pause_seconds * 2)
            finally:
                rest = pull.rest()
                await self._drop(pull)
                # Another taker may have them at once instead of after the acknowledgement's time is up.
                with contextlib.suppress(NatsError):
                    for message in rest if self._client.is_connected else ():
                        await self._client.publish(message.reply, b"-NAK")

    # --- look -----------------------------------------------------------------------------------------------

    async def get(self, stream: str, seq: int) -> Stored:
        """Return one message. Raises NotFound."""
        return await self._get_one(f"$JS.API.DIRECT.GET.{stream}", {"seq": seq}, f"message {seq} of {stream}")

    async def get_last(self, stream: str, subject: str) -> Stored:
        """Return the last message of a subject. Raises NotFound."""
        return await self._get_one(f"$JS.API.DIRECT.GET.{stream}.{subject}", None, f"a message of {subject}")

    async def seq_at(self, stream: str, time_ms: int) -> int:
        """Return the first sequence stored at or after a time."""
        moment = dt.datetime.fromtimestamp(time_ms // 1000, dt.UTC)
        start = f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"
        found, _ = await self._get_many(stream, {"start_time": start, "batch": 1})
        return found[0].seq if found else (await self.state(stream)).last_seq + 1

    async def get_range(self, stream: str, from_seq: int, count: int, subject: str = "") -> list[Stored]:
        """Return up to *count* messages from a sequence on."""
        found: list[Stored] = []
        next_seq, pending = max(1, from_seq), 1
        while pending and len(found) < count:
            request: dict[str, Any] = {"seq": next_seq, "batch": count - len(found), "max_bytes": RANGE_BYTES_MAX}
            request["next_by_subj"] = subject or ">"
            some, pending = await self._get_many(stream, request)
            if not some:
                break
            found += some
            next_seq = some[-1].seq + 1
        return found

    async def state(self, stream: str) -> StreamState:
        """Return where a stream begins and ends."""
        info = await self.api(f"STREAM.INFO.{stream}", {})
        state = info["state"]
        last = int(state["last_seq"])
        # An empty stream says 0; what comes first is then what comes next.
        first = int(state["first_seq"]) if state["messages"] else last + 1
        return StreamState(
            first_seq=first, last_seq=last, bytes=int(state["bytes"]), bytes_max=int(info["config"]["max_bytes"])
        )

    async def purge(self, stream: str, subject: str, below_seq: int) -> int:
        """Remove the messages of one subject below a sequence and return how many."""
        answer = await self.api(f"STREAM.PURGE.{stream}", {"filter": subject, "seq": below_seq}, PURGE_SECONDS)
        return int(answer["purged"])

    async def api(self, call: str, body: dict[str, Any], seconds: float = API_SECONDS) -> dict[str, Any]:
        """Call the JetStream API. Raises NoAnswer, or NotFound when it says 404."""
        message = await self.ask(f"$JS.API.{call}", json.dumps(body).encode(), seconds)
        answer: dict[str, Any] = json.loads(message.data)
        error = answer.get("error")
        if error is None:
            return answer
        text = f"{call}: {error.get('description')}"
        raise NotFound(text) if error.get("code") == 404 else NoAnswer(text)

    async def ask(self, subject: str, body: bytes, timeout_seconds: float) -> Msg:
        """Send a request and return its one answer. Raises NoAnswer."""
        reply, answer = self._replies.expect()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._connected()
                await self._client.publish(subject, body, reply=reply)
                message = await answer
        except (TimeoutError, NatsError, OSError) as error:
            raise NoAnswer(f"no answer on {subject}: {str(error) or f'timeout after {timeout_seconds} s'}") from error
        finally:
            answer.cancel()
        if not message.data and message.headers and message.headers.get("Status") == "503":
            raise NoAnswer(f"nobody listens on {subject}")
        return message

    async def _get_one(self, subject: str, request: dict[str, Any] | None, what: str) -> Stored:
        body = b"" if request is None else json.dumps(request).encode()
        message = await self.ask(subject, body, API_SECONDS)
        headers = message.headers or {}
        if headers.get("Status") in _NOT_FOUND:
            raise NotFound(f"there is no {what}")
        return _direct(message, headers)

    async def _get_many(self, stream: str, request: dict[str, Any]) -> tuple[list[Stored], int]:
        """Return the messages of one ranged answer, and how many more there are."""
        found: list[Stored] = []
        pending = 0
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def heard(message: Msg) -> None:
            nonlocal pending
            headers = message.headers or {}
            if not message.data and "Status" in headers:
                if not done.done():
                    done.set_result(None)
                if headers["Status"] == "503":
                    done.cancel()
                return
            pending = int(headers.get("Nats-Num-Pending", 0))
            found.append(_direct(message, headers))

        reply = self._replies.expect_many(heard)
        try:
            async with asyncio.timeout(API_SECONDS):
                await self._connected()
                await self._client.publish(
                    f"$JS.API.DIRECT.GET.{stream}", json.dumps(request).encode(), reply=reply
                )
                await done
        except (TimeoutError, NatsError, OSError) as error:
            raise NoAnswer(f"no answer to a read of {stream}: {str(error) or 'timeout'}") from error
        finally:
            self._replies.forget(reply)
        return found, pending


async def _chunks(pull: Pull) -> AsyncIterator[list[Stored]]:
    """Yield what comes, cut at batch ends. Raises PullLost at the first gap."""
    held: list[Stored] = []
    expected = 1
    while True:
        for message in await pull.next():
            position = Position(message.reply)
            if position.consumer_seq != expected:
                raise PullLost(f"message {expected} of the consumer is missing")
            expected += 1
            held.append(
                Stored(
                    seq=position.seq, subject=message.subject, time_ms=position.time_ns // 1_000_000,
                    body=message.data, batch_end=ends_batch(message.headers),
                )
            )
        if held[-1].batch_end:
            chunk, held = held, []
            yield chunk
        else:
            end = next((index for index in reversed(range(len(held))) if held[index].batch_end), -1)
            if end >= 0:
                chunk, held = held[: end + 1], held[end + 1 :]
                yield chunk


def _direct(message: Msg, headers: Mapping[str, str]) -> Stored:
    return Stored(
        seq=int(headers["Nats-Sequence"]), subject=headers["Nats-Subject"],
        time_ms=_time_ms(headers["Nats-Time-Stamp"]), body=message.data, batch_end=ends_batch(headers),
    )


_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z")


def _time_ms(text: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise NoAnswer(f"the bus gave a time of another form: {text[:40]!r}")
    seconds = int(dt.datetime.fromisoformat(match.group(1) + "+00:00").timestamp())
    return seconds * 1000 + int(((match.group(2) or "") + "000")[:3])


def _taken(message: Msg) -> Taken:
    return Taken(
        subject=message.subject, body=message.data, time_ms=Position(message.reply).time_ns // 1_000_000,
        ack_token=message.reply,
    )
