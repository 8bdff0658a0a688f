"""Let hosts in: check a ticket and a journal counter against the log, and answer. Pure.

A ticket is a keyed hash of host, epoch and the sequence of the event that opened the session, so it needs no
store. A copied key, a machine restored from a snapshot and a lost journal all show in one of the two.
"""

from __future__ import annotations

import msgspec

from fleetlog_runtime.pure.signing import Signer
from fleetlog_schemas import tokens, wire
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.pushes import SessionAnswer, SessionDenied, SessionGranted
from fleetlog_schemas.reports import OpenSession


class Keys(msgspec.Struct, frozen=True):
    """The secrets of a dispatcher."""

    ticket: bytes
    token: bytes
    blob: bytes
    signer: Signer

    @property
    def token_key_id(self) -> str:
        """The public name of the key that attempt tokens are made with."""
        return tokens.key_id(self.token)


def wrong_ticket(host: Host, request: OpenSession, keys: Keys) -> str:
    """Return why the session is not granted (`ticket` or `counter`), or nothing."""
    if host.fresh:
        return ""
    good = [_ticket(keys, host.host_id, host.epoch, host.session_seq)]
    if not host.ticket_used:
        good.append(_ticket(keys, host.host_id, host.previous_epoch, host.previous_seq))
    if not any(tokens.matches(ticket, request.ticket) for ticket in good):
        return "ticket"
    return "counter" if request.counter < host.counter else ""


def shown_epoch(host: Host, request: OpenSession, keys: Keys) -> int:
    """Return the session whose ticket a request shows that is to be granted; 0 when none was asked for."""
    if host.fresh:
        return 0
    current = _ticket(keys, host.host_id, host.epoch, host.session_seq)
    return host.epoch if tokens.matches(current, request.ticket) else host.previous_epoch


def _ticket(keys: Keys, host_id: str, epoch: int, seq: int) -> str:
    return tokens.ticket(keys.ticket, host_id, epoch, seq) if epoch else ""


REASONS = {
    "ticket": "the host shows an old ticket: its key was copied, or the machine was restored or re-imaged",
    "counter": "the host's journal is older than what it reported: the machine was rolled back or its journal lost",
}


def granted(host: Host, request: OpenSession, keys: Keys, now_ms: int) -> bytes:
    """Return the answer to a request whose session was read back."""
    return _encode(
        SessionGranted(
            host_id=host.host_id, nonce=request.nonce, epoch=host.epoch, seq=host.session_seq, server_ms=now_ms,
            ticket=_ticket(keys, host.host_id, host.epoch, host.session_seq),
            signing_keys={keys.signer.key_id: keys.signer.public_key},
        )
    )


def denied(host_id: str, request: OpenSession, code: str, message: str) -> bytes:
    """Return the answer to a request that is not granted; only a revoked host need not ask again."""
    return _encode(
        SessionDenied(
            host_id=host_id, nonce=request.nonce, code=code, message=message, retry=code != "revoked"
        )
    )


def _encode(answer: SessionAnswer) -> bytes:
    return wire.encode(answer)
