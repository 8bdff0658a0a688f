"""The agent's side of a session: when to ask, which answer to believe, which push to obey. Pure.

A session is one accepted connection: it closes with the connection, and the next one has a new epoch, so that
pushes of the old one, wherever they are still buffered, are void. The request says what the journal holds;
therefore it is not sent while an accepted attempt is on its way to disk: the dispatcher concludes from an
attempt's absence that it never ran.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fleetlog_agent import core_settings as limits
from fleetlog_agent.journal_records import SessionOpened
from fleetlog_agent.reading import Push, read_push
from fleetlog_runtime.pure.signing import BadSignature, verify
from fleetlog_schemas import pushes, wire

_T = TypeVar("_T")


class Untrusted(ValueError):
    """A message that an honest dispatcher would not have sent; the text is for the alarm."""


class Session:
    """What is known of the connection and of the session on it."""

    def __init__(self, host_id: str, boot_id: str, entropy: Callable[[int], bytes]) -> None:
        self.connected = False
        self.is_open = False
        self.newest_seq = 0
        """The highest log position obeyed in this session."""
        self.epoch = 0
        self.denied = ""
        self._host_id = host_id
        self._boot_id = boot_id
        self._entropy = entropy
        self._nonce = ""
        self._asked_ms = 0
        self._tries = 0
        self._granting = False
        self.ask_due_ms: int | None = None

    def connect(self, now_ms: int, *, connected: bool) -> None:
        """Take in that the bus can be reached, or no longer: either way the old session is over."""
        self.connected = connected
        self.close(now_ms)
        if not connected:
            self.ask_due_ms = None

    def close(self, now_ms: int) -> None:
        """End the session; ask for a new one as soon as that is possible."""
        self.is_open = False
        self._granting = False
        self._nonce = ""
        self._tries = 0
        self.ask_due_ms = now_ms

    def ask(self, now_ms: int) -> str | None:
        """Return the nonce to ask with when asking is due. Tries of one request share a nonce, hence an answer."""
        if not self.connected or self.is_open or self._granting:
            return None
        if self.ask_due_ms is None or now_ms < self.ask_due_ms:
            return None
        self._nonce = self._nonce or self._entropy(16).hex()
        self._asked_ms = now_ms
        ceiling_ms = min(limits.SESSION_RETRY_MS_MAX, (2 * limits.SESSION_RETRY_MS_MIN) << min(self._tries, 10))
        self._tries += 1
        self.ask_due_ms = now_ms + limits.SESSION_RETRY_MS_MIN + self._random(
            ceiling_ms - limits.SESSION_RETRY_MS_MIN
        )
        return self._nonce

    def answered(self, body: bytes, trusted: dict[str, str], now_ms: int) -> SessionOpened | None:
        """Return what to journal when *body* grants the session asked for; None when it says nothing to us.

        Raises:
            Untrusted: it is not signed by a trusted key, or is not a session answer.
        """
        answer: pushes.SessionAnswer = _opened(body, trusted, _read_answer)
        fresh = answer.host_id == self._host_id and answer.nonce == self._nonce and self._nonce
        if not fresh or self.is_open or self._granting:
            return None
        if isinstance(answer, pushes.SessionDenied):
            self._deny(answer, now_ms)
            return None
        self._granting = True
        self.denied = ""
        return SessionOpened(
            ticket=answer.ticket, epoch=answer.epoch, seq=answer.seq, nonce=answer.nonce,
            signing_keys=answer.signing_keys or trusted, boot_id=self._boot_id,
            # Counted from when we asked: our idea of the bus's time is never behind it, so no push lives longer.
            offset_ms=answer.server_ms - self._asked_ms,
        )

    def _deny(self, answer: pushes.SessionDenied, now_ms: int) -> None:
        self.denied = f"the dispatcher refuses this host ({answer.code}): {answer.message}"
        if not answer.retry:
            self._nonce = ""
            self._tries = 0
            self.ask_due_ms = now_ms + limits.SESSION_DENIED_MS // 2 + self._random(limits.SESSION_DENIED_MS // 2)

    def journaled(self, opened: SessionOpened) -> None:
        """Take in that a ticket is on disk: unless the connection went meanwhile, the session is open."""
        if not self._granting or opened.nonce != self._nonce:
            return
        self._granting = False
        self.is_open = True
        self.epoch = opened.epoch
        self.newest_seq = opened.seq
        self.ask_due_ms = None

    def trusted_push(self, body: bytes, trusted: dict[str, str]) -> Push:
        """Return the push of *body*.

        Raises:
            Untrusted: it is not signed by a trusted key, is not a push, or is meant for another host.
        """
        push: Push = _opened(body, trusted, read_push)
        if push.host_id != self._host_id:
            raise Untrusted(f"ignored a push that is meant for host {push.host_id[:40]!r}")
        return push

    def obeys(self, push: Push, bus_ms: int) -> bool:
        """Tell whether a trusted push counts now, and remember its position if it does."""
        if not self.is_open or push.epoch != self.epoch or bus_ms > push.expires_ms or push.seq < self.newest_seq:
            return False
        self.newest_seq = push.seq
        return True

    def _random(self, below: int) -> int:
        return int.from_bytes(self._entropy(4), "big") * below >> 32


def _read_answer(payload: bytes) -> pushes.SessionAnswer:
    answer: pushes.SessionAnswer = wire.decode(payload, pushes.SessionAnswer)
    return answer


def _opened(body: bytes, trusted: dict[str, str], read: Callable[[bytes], _T]) -> _T:
    try:
        signed: pushes.Signed = wire.decode(body, pushes.Signed)
        return read(verify(signed, trusted))
    except BadSignature as error:
        raise Untrusted(f"ignored a message: {error}") from None
    except wire.BadMessage as error:
        raise Untrusted(f"ignored a message that cannot be read: {error}") from None
