"""The Bus contract on NATS JetStream by nats-py.

One connection that never gives up reconnecting. What nats-py would buffer while disconnected is not sent at all:
appends and requests wait for the connection within their own time limit and then say so; core messages, which may
be lost anyway, are dropped and counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from nats.aio.client import RawCredentials
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from fleetlog_runtime.pure.bus import (
    AppendRefused,
    Batch,
    BusFull,
    Handler,
    NoAnswer,
    NotFound,
    NotSent,
    Stored,
    StreamState,
    Taken,
)
from fleetlog_runtime.shell.nats_append import send_atomic, send_one, sequence_of
from fleetlog_runtime.shell.nats_auth import credentials
from fleetlog_runtime.shell.nats_blobs import Blobs
from fleetlog_runtime.shell.nats_client import LazyClient
from fleetlog_runtime.shell.nats_pull import Pull
from fleetlog_runtime.shell.nats_read import Reading
from fleetlog_runtime.shell.nats_replies import Replies
from fleetlog_schemas import limits

if TYPE_CHECKING:
    from fleetlog_runtime.shell.home import Home

PING_SECONDS = 10
"""A dead connection is noticed within about three of these; the library's default is two minutes."""
SERVICE_PING_SECONDS = 2
"""Of services, which are few: one whose node was stopped goes to another node within about six seconds."""
RECONNECT_SECONDS = 0.25
"""Between tries on one server; agents add their own jitter on top, in when they ask for a session."""
CONNECT_SECONDS = 5
APPEND_SECONDS = 5.0
"""Until an append without an answer counts as unsettled: an fsync on a busy disk may take a second."""
BUFFER_BYTES_MAX = 8 * 1024**2
"""What the library may hold unsent."""

Connected = Callable[[bool], None]


class ConnectFailed(Exception):
    """The bus cannot be reached, or does not let this user in; the message says which."""


class NatsBus:
    """One connection to the bus."""

    def __init__(
        self, client: LazyClient, on_connected: Connected | None, append_seconds: float, *, clustered: bool = False
    ) -> None:
        """Wrap a client; use `connect`."""
        self._client = client
        self._on_connected = on_connected
        self._append_seconds = append_seconds
        self._up = asyncio.Event()
        self._pulls: set[Pull] = set()
        self._replies = Replies(client)
        self._reading = Reading(client, self._replies, self._until_connected, self._pulls, clustered=clustered)
        self._blobs = Blobs(self._reading, self.append)
        self._log = structlog.get_logger("bus")
        self._closing = False
        self._connecting: asyncio.Future[None] | None = None
        self._tries_left = 1
        self._why = ""
        self.closed = asyncio.Event()
        """Set when the connection is gone for good: closed here, or ended by the server (a revoked key)."""
        self.dropped = 0
        """Core messages not sent because the bus was away."""

    @classmethod
    async def connect(
        cls, url: str | list[str], creds: Path | tuple[str, bytes] | None, name: str, *, inbox_prefix: str = "",
        tls_ca: Path | None = None, on_connected: Connected | None = None, append_seconds: float = APPEND_SECONDS,
        in_order: bool = False, ping_seconds: int = PING_SECONDS,
    ) -> NatsBus:
        """Connect as the user of *creds* (a file, or a JWT and its seed); answers come to *inbox_prefix*.

        *url* may be one for each node: any of them, or, with *in_order*, the first of them that answers.
        *on_connected* hears True and False as the connection comes and goes.

        Raises:
            ConnectFailed: unreachable, or refused.
        """
        client = LazyClient()
        urls = [url] if isinstance(url, str) else url
        bus = cls(client, on_connected, append_seconds, clustered=len(urls) > 1)
        bus._tries_left = len(urls)
        user = RawCredentials(credentials(*creds)) if isinstance(creds, tuple) else str(creds) if creds else None
        context = ssl.create_default_context(cafile=str(tls_ca)) if tls_ca is not None else None
        try:
            bus._connecting = asyncio.ensure_future(
                client.connect(
                    urls, name=name, user_credentials=user, tls=context, inbox_prefix=inbox_prefix or "_INBOX",
                    max_reconnect_attempts=-1, reconnect_time_wait=RECONNECT_SECONDS,  # type: ignore[arg-type]  # a float does
                    connect_timeout=CONNECT_SECONDS, ping_interval=ping_seconds, pending_size=BUFFER_BYTES_MAX,
                    dont_randomize=in_order,
                    error_cb=bus._on_error, disconnected_cb=bus._on_disconnect,
                    reconnected_cb=bus._on_reconnect, closed_cb=bus._on_close, allow_reconnect=True,
                )
            )
            await asyncio.wait({bus._connecting}, timeout=CONNECT_SECONDS * len(urls))
            if not bus._connecting.done() or bus._connecting.cancelled():
                bus._connecting.cancel()
                raise TimeoutError(bus._why or "no answer")
            bus._connecting.result()
            bus._connecting = None
            await bus._replies.open()
            await client.flush()
        except (TimeoutError, NatsError, OSError, ssl.SSLError) as error:
            reason = bus._why or str(client.last_error or "") or str(error) or "no answer"
            bus._closing = True
            await client.close()
            client.drop()
            raise ConnectFailed(f"cannot connect to the bus at {', '.join(urls)} as {name}: {reason}") from error
        bus._set_up(True)
        return bus

    @property
    def is_connected(self) -> bool:
        """Whether the connection is up now."""
        return self._up.is_set() and not self.closed.is_set()

    # --- connection -----------------------------------------------------------------------------------------

    def _set_up(self, up: bool) -> None:
        if up == self._up.is_set():
            return
        if up:
            self._up.set()
        else:
            self._up.clear()
        if self._on_connected is not None and not self._closing:
            self._on_connected(up)

    async def _on_error(self, error: Exception) -> None:
        if self._connecting is not None:
            # The library would go on for ever, even with a key that is refused: every server gets one try.
            self._why = str(error) or type(error).__name__
            self._tries_left -= 1
            if self._tries_left <= 0:
                self._connecting.cancel()
        elif not self._closing:
            self._log.warning("bus error", error=str(error) or type(error).__name__)

    async def _on_disconnect(self) -> None:
        self._set_up(False)
        for pull in tuple(self._pulls):
            pull.lose("disconnected")

    async def _on_reconnect(self) -> None:
        for pull in tuple(self._pulls):
            pull.lose("reconnected")
        self._set_up(True)

    async def _on_close(self) -> None:
        self._set_up(False)
        if not self._closing:
            self._log.error("the bus ended the connection", error=str(self._client.last_error or ""))
        self.closed.set()
        # Whoever waits for the connection must learn that it will not come.
        self._up.set()
        for pull in tuple(self._pulls):
            pull.lose("closed")

    async def _until_connected(self) -> None:
        await self._up.wait()
        if self.closed.is_set():
            raise NoAnswer("the connection to the bus is closed")

    # --- stored messages ------------------------------------------------------------------------------------

    async def append(self, batch: Batch) -> int:
        """Store a batch; see the Bus contract. Raises NotSent when surely nothing left this machine."""
        if len(batch.drafts) > limits.BATCH_MESSAGES_MAX:
            raise AppendRefused(f"more than {limits.BATCH_MESSAGES_MAX} messages in one batch")
        if any(len(draft.body) > limits.BUS_MESSAGE_BYTES_MAX - 4096 for draft in batch.drafts):
            raise BusFull(f"a message exceeds the {limits.BUS_MESSAGE_BYTES_MAX} bytes of the bus")
        if not self.is_connected:
            try:
                async with asyncio.timeout(self._append_seconds):
                    await self._until_connected()
            except (TimeoutError, NoAnswer):
                raise NotSent("the bus cannot be reached") from None
        send = send_one if len(batch.drafts) == 1 else send_atomic
        answer = await send(self._client, self._replies, batch, self._append_seconds)
        try:
            return sequence_of(answer)
        except AppendRefused as refused:
            if refused.actual_seq is None and batch.expected_seq is not None:
                raise AppendRefused(str(refused), await self._last_of(batch)) from None
            raise

    async def _last_of(self, batch: Batch) -> int | None:
        """Some refusals do not say which sequence they compared with."""
        stream = next((name for name, subject in _STREAM_OF if batch.expected_subject.startswith(subject)), "")
        try:
            return (await self._reading.get_last(stream, batch.expected_subject)).seq if stream else None
        except (NotFound, NoAnswer):
            return None

    def read(self, stream: str, from_seq: int, *, ahead: bool = True) -> AsyncIterator[list[Stored]]:
        """Follow a stream; see the Bus contract."""
        return self._reading.read(stream, from_seq, ahead=ahead)

    async def get(self, stream: str, seq: int) -> Stored:
        """Return one message. Raises NotFound, NoAnswer."""
        return await self._reading.get(stream, seq)

    async def get_last(self, stream: str, subject: str) -> Stored:
        """Return the last message of a subject. Raises NotFound, NoAnswer."""
        return await self._reading.get_last(stream, subject)

    async def get_range(self, stream: str, from_seq: int, count: int, subject: str = "") -> list[Stored]:
        """Return up to *count* messages from a sequence on. Raises NoAnswer."""
        return await self._reading.get_range(stream, from_seq, count, subject)

    async def seq_at(self, stream: str, time_ms: int) -> int:
        """Return the first sequence at or after a time. Raises NoAnswer."""
        return await self._reading.seq_at(stream, time_ms)

    async def state(self, stream: str) -> StreamState:
        """Return where a stream begins and ends. Raises NoAnswer."""
        return await self._reading.state(stream)

    async def purge(self, stream: str, subject: str, below_seq: int) -> int:
        """Remove the messages of one subject below a sequence. Raises NoAnswer."""
        return await self._reading.purge(stream, subject, below_seq)

    async def api(self, call: str, body: dict[str, Any]) -> dict[str, Any]:
        """Call the JetStream API. Raises NoAnswer, NotFound."""
        return await self._reading.api(call, body)

    async def follow_copy(self, stream: str, from_seq: int) -> tuple[Pull, str]:
        """Return a pull on one copy of a stream, to be closed, and the node whose copy it is. Raises NoAnswer."""
        return await self._reading.follow_copy(stream, from_seq)

    def take(self, stream: str, consumer: str) -> AsyncIterator[list[Taken]]:
        """Share a work queue; see the Bus contract."""
        return self._reading.take(stream, consumer)

    async def ack(self, taken: list[Taken]) -> None:
        """Tell the work queue that these are done; lost while the bus is away, and then they come again."""
        for one in taken:
            await self.publish(one.ack_token, b"+ACK")

    # --- core messages --------------------------------------------------------------------------------------

    async def publish(self, subject: str, body: bytes, reply: str = "") -> None:
        """Send a core message, or drop and count it while the bus is away."""
        if not self.is_connected:
            self.dropped += 1
            return
        try:
            await self._client.publish(subject, body, reply=reply)
        except (NatsError, OSError) as error:
            self.dropped += 1
            self._log.warning("a message was not sent", subject=subject, error=str(error))

    async def request(self, subject: str, body: bytes, timeout_ms: int) -> bytes:
        """Send a core message and return its answer. Raises NoAnswer."""
        return (await self._reading.ask(subject, body, timeout_ms / 1000)).data

    async def subscribe(self, subject: str, handler: Handler, queue: str = "") -> Callable[[], Awaitable[None]]:
        """Hear core messages, one after the other; returns how to stop. Raises NoAnswer when closed."""

        async def heard(message: Msg) -> None:
            await handler(message.subject, message.data, message.reply)

        if self.closed.is_set():
            raise NoAnswer("the connection to the bus is closed")
        subscription = await self._client.subscribe(subject, queue=queue, cb=heard)
        # Whoever is told that we listen may send at once; while the bus is away it listens from its return on.
        with contextlib.suppress(NatsError, OSError, TimeoutError):
            await self._client.flush()

        async def stop() -> None:
            with contextlib.suppress(NatsError):
                await subscription.unsubscribe()

        return stop

    # --- content --------------------------------------------------------------------------------------------

    async def put_blob(self, body: bytes) -> str:
        """Keep content and return its SHA-256. Raises what `append` raises, NoAnswer, or ValueError when too large."""
        return await self._blobs.put(body)

    async def get_blob(self, sha256: str) -> bytes:
        """Return content, verified. Raises NotFound, NoAnswer."""
        return await self._blobs.get(sha256)

    async def close(self) -> None:
        """Flush and disconnect."""
        self._closing = True
        if self._client.is_connected:
            with contextlib.suppress(NatsError, OSError, TimeoutError):
                await self._client.flush()
        await self._client.close()
        self.closed.set()


async def connect_user(home: Home, user: str, name: str = "", **options: Any) -> NatsBus:
    """Connect as a user of a home (a service, `operator` or `sys`): to its own node first, else to another one.

    Raises:
        ConnectFailed: no node can be reached, or none lets this user in.
        HomeError: the home lacks something.
    """
    return await NatsBus.connect(
        home.nats_urls(), home.creds_path(user), name or user, inbox_prefix=f"_INBOX_{user}", tls_ca=home.tls_ca(),
        in_order=True, ping_seconds=SERVICE_PING_SECONDS, **options,
    )


_STREAM_OF = (("EVENTS", "evt."), ("LEADERS", "lead."))
