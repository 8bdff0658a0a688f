"""The Bus contract in memory: `MemoryStore` for what is stored, plain calls for what is not.

For tests and for programs that need no durability. One `MemoryBroker` stands for the server; every `MemoryBus` is a
connection to it, so two services of a test share one broker and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from fleetlog_runtime.pure.bus import (
    Batch,
    Handler,
    NoAnswer,
    NotFound,
    NotSent,
    Stored,
    StreamState,
    Taken,
)
from fleetlog_runtime.shell.clock import Clock
from fleetlog_runtime.shell.memory import MemoryStore, subject_matches
from fleetlog_schemas import limits, subjects

CHUNK_MESSAGES = 1_000
"""Messages read at once; a batch longer than this is still given whole."""
ACK_WAIT_SECONDS = 3.0
"""What was taken and not acknowledged comes again after this, as from the server."""
TAKE_MESSAGES = 256


class MemoryBroker:
    """What all connections share."""

    def __init__(
        self, streams: tuple[subjects.Stream, ...] = subjects.STREAMS, ack_wait_seconds: float = ACK_WAIT_SECONDS
    ) -> None:
        """Make empty streams."""
        self.store = MemoryStore(Clock().now_ms, streams)
        self.ack_wait_seconds = ack_wait_seconds
        self.taken: dict[tuple[str, int], asyncio.TimerHandle] = {}
        """Stream and sequence of what is out with a taker, and when it comes again."""
        self.listeners: list[_Listener] = []
        self._news = asyncio.Event()
        self._answers = 0

    def wake(self) -> None:
        """Let everybody who waits look again."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def wait(self) -> None:
        """Wait until something was stored or given back."""
        await self._news.wait()

    def answer_subject(self) -> str:
        """Return a subject for one answer."""
        self._answers += 1
        return f"_INBOX.memory.{self._answers}"

    def send(self, subject: str, body: bytes, reply: str) -> int:
        """Give a core message to whoever listens, one of each queue; return how many heard it."""
        heard, queues = 0, set()
        for listener in list(self.listeners):
            if subject_matches(listener.pattern, subject) and listener.queue not in queues:
                if listener.queue:
                    queues.add(listener.queue)
                    # The next message of this queue goes to another.
                    self.listeners.remove(listener)
                    self.listeners.append(listener)
                listener.inbox.put_nowait((subject, body, reply))
                heard += 1
        return heard

    def expire(self, stream_name: str, seq: int, after_seconds: float) -> None:
        """Drop a message when its own time to live is over."""
        asyncio.get_running_loop().call_later(after_seconds, self._drop, stream_name, seq)

    def _drop(self, stream_name: str, seq: int) -> None:
        stream = self.store.streams[stream_name]
        message = stream.messages.get(seq)
        if message is not None:
            stream.remove(seq)
            if stream.last_by_subject.get(message.subject) == seq:
                del stream.last_by_subject[message.subject]


class _Listener:
    def __init__(self, pattern: str, queue: str, handler: Handler) -> None:
        self.pattern = pattern
        self.queue = queue
        self.inbox: asyncio.Queue[tuple[str, bytes, str]] = asyncio.Queue()
        self._handler = handler
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            try:
                await self._handler(*await self.inbox.get())
            except Exception as error:  # noqa: BLE001 - like the real client: a handler's failure is told and passed
                structlog.get_logger().warning("bus error", error=str(error) or type(error).__name__)


class MemoryBus:
    """One connection to a MemoryBroker."""

    def __init__(self, broker: MemoryBroker) -> None:
        """Connect."""
        self._broker = broker
        self._store = broker.store
        self._own: list[_Listener] = []

    # --- stored messages ------------------------------------------------------------------------------------

    async def append(self, batch: Batch) -> int:
        """Store a batch; see the Bus contract."""
        # As over a wire, others get their turn before the answer comes.
        await asyncio.sleep(0)
        try:
            seq = self._store.append(batch)
        except NotFound as error:
            raise NotSent(str(error)) from None
        stream = self._store.stream_of(batch.drafts[0].subject)
        for index, draft in enumerate(reversed(batch.drafts)):
            ttl = draft.headers.get("Nats-TTL", "")
            if ttl and stream.definition.ttl:
                self._broker.expire(stream.definition.name, seq - index, float(ttl.removesuffix("s")))
        self._broker.wake()
        return seq

    async def read(self, stream: str, from_seq: int, *, ahead: bool = True) -> AsyncIterator[list[Stored]]:  # noqa: ARG002 - never ahead
        """Follow a stream; see the Bus contract."""
        next_seq, first = max(1, from_seq), True
        while True:
            chunk = self._store.read(stream, next_seq, CHUNK_MESSAGES)
            while chunk and not chunk[-1].batch_end:
                chunk += self._store.read(stream, chunk[-1].seq + 1, 1)
            if chunk or first:
                first = False
                next_seq = chunk[-1].seq + 1 if chunk else next_seq
                yield chunk
                await asyncio.sleep(0)
            else:
                await self._broker.wait()

    async def get(self, stream: str, seq: int) -> Stored:
        """Return one message. Raises NotFound."""
        await asyncio.sleep(0)
        try:
            return self._store.streams[stream].messages[seq]
        except KeyError:
            raise NotFound(f"there is no message {seq} of {stream}") from None

    async def get_last(self, stream: str, subject: str) -> Stored:
        """Return the last message of a subject. Raises NotFound."""
        await asyncio.sleep(0)
        held = self._store.streams[stream]
        try:
            return held.messages[held.last_by_subject[subject]]
        except KeyError:
            raise NotFound(f"there is no message of {subject}") from None

    async def get_range(self, stream: str, from_seq: int, count: int, subject: str = "") -> list[Stored]:
        """Return up to *count* messages from a sequence on."""
        await asyncio.sleep(0)
        return self._store.read(stream, from_seq, count, subject)

    async def seq_at(self, stream: str, time_ms: int) -> int:
        """Return the first sequence stored at or after a time."""
        await asyncio.sleep(0)
        held = self._store.streams[stream]
        return next((seq for seq, one in held.messages.items() if one.time_ms >= time_ms), held.last_seq + 1)

    async def state(self, stream: str) -> StreamState:
        """Return where a stream begins and ends."""
        await asyncio.sleep(0)
        return self._store.state(stream)

    async def purge(self, stream: str, subject: str, below_seq: int) -> int:
        """Remove the messages of one subject below a sequence."""
        await asyncio.sleep(0)
        return self._store.purge(stream, subject, below_seq)

    async def take(self, stream: str, consumer: str) -> AsyncIterator[list[Taken]]:
        """Share a work queue; see the Bus contract. There is one consumer of each queue."""
        while True:
            held = self._store.streams[stream]
            free = [one for one in held.messages.values() if (stream, one.seq) not in self._broker.taken]
            chunk = free[:TAKE_MESSAGES]
            if not chunk:
                await self._broker.wait()
                continue
            for one in chunk:
                self._lend(stream, one.seq)
            yield [
                Taken(
                    subject=one.subject, body=one.body, time_ms=one.time_ms,
                    ack_token=f"{stream}.{consumer}.{one.seq}",
                )
                for one in chunk
            ]

    def _lend(self, stream: str, seq: int) -> None:
        def again() -> None:
            del self._broker.taken[stream, seq]
            self._broker.wake()

        loop = asyncio.get_running_loop()
        self._broker.taken[stream, seq] = loop.call_later(self._broker.ack_wait_seconds, again)

    async def ack(self, taken: list[Taken]) -> None:
        """Tell the work queue that these are done."""
        for one in taken:
            stream, _, seq = one.ack_token.split(".")
            timer = self._broker.taken.pop((stream, int(seq)), None)
            if timer is not None:
                timer.cancel()
            self._store.streams[stream].remove(int(seq))

    # --- core messages --------------------------------------------------------------------------------------

    async def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Send a core message."""
        self._broker.send(subject, body, reply)

    async def request(self, subject: str, body: bytes, timeout_ms: int) -> bytes:
        """Send a core message and return its answer. Raises NoAnswer."""
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def heard(_subject: str, answer: bytes, _reply: str) -> None:
            if not answered.done():
                answered.set_result(answer)

        reply = self._broker.answer_subject()
        stop = await self.subscribe(reply, heard)
        try:
            if not self._broker.send(subject, body, reply):
                raise NoAnswer(f"nobody listens on {subject}")
            return await asyncio.wait_for(answered, timeout_ms / 1000)
        except TimeoutError:
            raise NoAnswer(f"no answer on {subject} within {timeout_ms} ms") from None
        finally:
            await stop()

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Callable[[], Awaitable[None]]:
        """Hear core messages, one after the other; returns how to stop."""
        listener = _Listener(subject, queue, handler)
        self._broker.listeners.append(listener)
        self._own.append(listener)

        async def stop() -> None:
            await self._end(listener)

        return stop

    async def _end(self, listener: _Listener) -> None:
        for known in (self._broker.listeners, self._own):
            if listener in known:
                known.remove(listener)
        listener.task.cancel()
        if listener.task is not asyncio.current_task():
            with contextlib.suppress(asyncio.CancelledError):
                await listener.task

    # --- content --------------------------------------------------------------------------------------------

    async def put_blob(self, body: bytes) -> str:
        """Keep content and return its SHA-256. Raises ValueError when too large."""
        if len(body) > limits.BLOB_BYTES_MAX:
            raise ValueError(f"{len(body)} bytes are more than the {limits.BLOB_BYTES_MAX} of one blob")
        return self._store.put_blob(body)

    async def get_blob(self, sha256: str) -> bytes:
        """Return content. Raises NotFound."""
        return self._store.get_blob(sha256)

    async def close(self) -> None:
        """Stop hearing."""
        for listener in list(self._own):
            await self._end(listener)
