"""Read streams: follow one as it grows, look at stored messages, remove old ones, and share a work queue.

Following goes by overlapped pulls on a consumer that the server forgets again; whenever something may have been
missed, a new one is made right after the last message that was handed out, so there is neither gap nor repeat.
Looking goes by direct get (NATS ADR-31), which any node answers from its own copy; of a cluster, a copy may be
a moment behind, so what matters there is asked of the leader, or is read once this copy has what the leader has.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime as dt
import json
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from fleetlog_runtime.pure.bus import NoAnswer, NotFound, Stored, StreamState, Taken
from fleetlog_runtime.pure.holes import Hole, Holes
from fleetlog_runtime.shell.archive import Known
from fleetlog_runtime.shell.nats_client import LazyClient, RawHeaders, ends_batch
from fleetlog_runtime.shell.nats_pull import Position, Pull, PullLost
from fleetlog_runtime.shell.nats_replies import Replies
from fleetlog_schemas import subjects

PULL_MESSAGES = 2_000
"""Asked for at once; the next request goes out when half of it has come."""
PULL_BYTES_MAX = 16 * 1024**2
"""Bounds memory when messages are large."""
TAKE_MESSAGES = 256
TAKE_SECONDS = 3
"""How long a request for work stands: a taker that was stopped or cut off swallows what the server hands out for it."""
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
WHOLE = frozenset({subjects.EVENTS})
"""Streams from which nothing is taken out of the middle but by pruning, which the log itself announces."""
HOLE_TRIES_MAX = 12
"""Readings from a copy that the server chooses: with three copies, a good one is missed once in a hundred times."""
_TODO = "`fleetlog verify log` names the node; docs/cluster.md says how to heal it"
_SECOND_NS = 1_000_000_000
_NOT_FOUND = {"404", "408"}


class Reading:
    """The reading half of one connection."""

    def __init__(
        self, client: LazyClient, replies: Replies, connected: Callable[[], Awaitable[None]], pulls: set[Pull],
        *, clustered: bool = False,
    ) -> None:
        """Use a connection; *connected* returns once it is up, *pulls* is who must hear of an interruption."""
        self._clustered = clustered
        self._client = client
        self._replies = replies
        self._connected = connected
        self._pulls = pulls
        self._log = structlog.get_logger("bus")
        self._known = Known(self)

    # --- follow ---------------------------------------------------------------------------------------------

    async def read(self, stream: str, from_seq: int, *, ahead: bool = True) -> AsyncIterator[list[Stored]]:
        """Yield chunks for ever, each ending at a batch end; see the Bus contract."""
        next_seq, first, pause_seconds = max(1, from_seq), True, RETRY_SECONDS_MIN
        holes = Holes(next_seq) if stream in WHOLE else None
        while True:
            await self._connected()
            pull: Pull | None = None
            if holes is not None:
                holes.next_seq = next_seq
            try:
                pull, pending = await self._follow(stream, next_seq, ahead=ahead)
                if first and pending == 0:
                    yield []
                first = False
                async for chunk in _chunks(pull, holes):
                    yield chunk
                    next_seq, pause_seconds = chunk[-1].seq + 1, RETRY_SECONDS_MIN
            except Hole as hole:
                next_seq = await self._after_hole(stream, next_seq, hole, holes)
            except (PullLost, NoAnswer):
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(RETRY_SECONDS_MAX, pause_seconds * 2)
            finally:
                await self._drop(pull)

    async def follow_copy(self, stream: str, from_seq: int) -> tuple[Pull, str]:
        """Return a pull that reads one copy from a sequence on, and the node whose copy it is: the server chooses."""
        pull, answer = await self._open(stream, from_seq)
        return pull, str(answer.get("cluster", {}).get("leader", ""))

    async def _follow(self, stream: str, from_seq: int, *, ahead: bool) -> tuple[Pull, int]:
        pull, answer = await self._open(stream, from_seq, ahead=ahead)
        return pull, int(answer["num_pending"])

    async def _open(self, stream: str, from_seq: int, *, ahead: bool = True) -> tuple[Pull, dict[str, Any]]:
        name = f"read-{uuid.uuid4().hex[:16]}"
        config = {
            "name": name, "ack_policy": "none", "deliver_policy": "by_start_sequence", "opt_start_seq": from_seq,
            "replay_policy": "instant", "mem_storage": True, "num_replicas": 1, "max_deliver": 1,
            "inactive_threshold": CONSUMER_INACTIVE_SECONDS * _SECOND_NS,
        }
        answer = await self.api(f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config})
        pull = Pull(self._client, stream, name, PULL_MESSAGES, PULL_BYTES_MAX, ahead=ahead)
        self._pulls.add(pull)
        try:
            await pull.open()
        except BaseException:
            await self._drop(pull)
            raise
        return pull, answer

    async def _after_hole(self, stream: str, next_seq: int, hole: Hole, holes: Holes | None) -> int:
        """Return from where to read on: at the same place from another copy, or after what the log says was pruned."""
        assert holes is not None
        with contextlib.suppress(NoAnswer):
            pruned_through = (await self._known.refresh()).pruned_through
            if hole.seq <= pruned_through:
                return pruned_through + 1
            given_up = holes.met(hole.seq, HOLE_TRIES_MAX if self._clustered else 2)
            self._log.error(
                "a message of the log is on no copy and is passed over" if given_up else "a copy of the log lacks a message",
                alarm=True, stream=stream, seq=hole.seq, todo=_TODO,
            )
        await asyncio.sleep(RETRY_SECONDS_MIN)
        return next_seq

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
            pull = Pull(self._client, stream, consumer, TAKE_MESSAGES, PULL_BYTES_MAX, TAKE_SECONDS)
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
        what = f"message {seq} of {stream}"
        try:
            return await self._get_one(f"$JS.API.DIRECT.GET.{stream}", {"seq": seq}, what)
        except NotFound:
            if not self._clustered:
                raise
        return await self._get_from_leader(stream, {"seq": seq}, what)

    async def get_last(self, stream: str, subject: str) -> Stored:
        """Return the last message of a subject. Raises NotFound."""
        what = f"a message of {subject}"
        if self._clustered:
            return await self._get_from_leader(stream, {"last_by_subj": subject}, what)
        return await self._get_one(f"$JS.API.DIRECT.GET.{stream}.{subject}", None, what)

    async def seq_at(self, stream: str, time_ms: int) -> int:
        """Return the first sequence stored at or after a time."""
        moment = dt.datetime.fromtimestamp(time_ms // 1000, dt.UTC)
        await self._until_in_step(stream)
        start = f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"
        found, _ = await self._get_many(stream, {"start_time": start, "batch": 1})
        return found[0].seq if found else (await self.state(stream)).last_seq + 1

    async def get_range(self, stream: str, from_seq: int, count: int, subject: str = "") -> list[Stored]:
        """Return up to *count* messages from a sequence on."""
        await self._until_in_step(stream)
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
        if stream in WHOLE and not subject and found:
            found = await self._filled(stream, max(1, from_seq), found)
        return found[:count]

    async def _filled(self, stream: str, from_seq: int, found: list[Stored]) -> list[Stored]:
        """Return *found* with what the copy that answered lacks, as the leader of the stream has it."""
        if found[-1].seq - from_seq + 1 == len(found):
            return found
        by_seq = {one.seq: one for one in found}
        first_seq = max(from_seq, (await self._known.refresh()).pruned_through + 1)
        for seq in sorted(set(range(first_seq, found[-1].seq)) - set(by_seq)):
            self._log.error("a copy of the log lacks a message", alarm=True, stream=stream, seq=seq, todo=_TODO)
            with contextlib.suppress(NotFound):
                by_seq[seq] = await self._get_from_leader(stream, {"seq": seq}, f"message {seq} of {stream}")
        return [by_seq[seq] for seq in sorted(by_seq)]

    async def get_range_from_leader(self, stream: str, from_seq: int, count: int, subject: str) -> list[Stored]:
        """Return up to *count* messages of a subject as the leader of the stream has them, one by one."""
        found: list[Stored] = []
        with contextlib.suppress(NotFound):
            while len(found) < count:
                request = {"seq": found[-1].seq + 1 if found else from_seq, "next_by_subj": subject}
                found.append(await self._get_from_leader(stream, request, subject))
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

    async def _get_from_leader(self, stream: str, request: dict[str, Any], what: str) -> Stored:
        """Return one message as the leader of the stream has it. Raises NotFound, NoAnswer."""
        try:
            message = (await self.api(f"STREAM.MSG.GET.{stream}", request))["message"]
        except NotFound:
            raise NotFound(f"there is no {what}") from None
        headers = RawHeaders(base64.b64decode(message["hdrs"])) if "hdrs" in message else None
        return Stored(
            seq=int(message["seq"]), subject=message["subject"], time_ms=_time_ms(message["time"]),
            body=base64.b64decode(message.get("data", "")), batch_end=ends_batch(headers),
        )

    async def _until_in_step(self, stream: str) -> None:
        """Wait until the copy that answers here has what the leader has now: it is the node's own, if it has one."""
        if not self._clustered:
            return
        state = await self.state(stream)
        deadline = asyncio.get_running_loop().time() + API_SECONDS
        while state.first_seq <= state.last_seq:
            # What is there at the end, or after it by now; in between it may have been acknowledged or have expired.
            found, _ = await self._get_many(stream, {"seq": state.last_seq, "next_by_subj": ">", "batch": 1})
            if found:
                return
            if asyncio.get_running_loop().time() > deadline:
                raise NoAnswer(f"the copy of {stream} on this node is behind the other nodes")
            await asyncio.sleep(RETRY_SECONDS_MIN)
            state = await self.state(stream)

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


async def _chunks(pull: Pull, holes: Holes | None) -> AsyncIterator[list[Stored]]:
    """Yield what comes, cut at batch ends. Raises PullLost at the first gap of the consumer, Hole at one of the stream."""
    held: list[Stored] = []
    expected = 1
    while True:
        for message in await pull.next():
            position = Position(message.reply)
            if position.consumer_seq != expected:
                raise PullLost(f"message {expected} of the consumer is missing")
            expected += 1
            if holes is not None:
                held += holes.before(position.seq)
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
