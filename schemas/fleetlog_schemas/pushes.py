"""What a dispatcher says to an agent: signed pushes, and the signed answer to a session request.

MessagePack on the wire. Everything that an agent obeys is inside `Signed.payload`: a stolen bus credential
alone runs nothing. The counterpart is `reports.py`.
"""

from __future__ import annotations

import msgspec

from fleetlog_schemas.spec import HostPayload, Options, ParameterValue


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes and who vouches for them (ed25519, RFC 8032)."""

    key_id: str
    signature: bytes
    payload: bytes


class StartAttempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything an agent needs to run one attempt, also when nobody can be reached afterwards."""

    task_id: str
    attempt: int
    payload: HostPayload
    options: Options
    timeout_ms: int
    token: str
    """Goes back with every report about this attempt."""
    token_key_id: str
    submitted_by: str = ""
    task_name: str = ""
    blob_tokens: dict[str, str] = {}
    """Digest to the token that lets this host read it."""
    parameters: dict[str, ParameterValue] = {}
    """Values of the definition's parameters that are no secrets; the agent makes `FLEETLOG_PARAM_<NAME>` of them."""


class NamedAttempt(msgspec.Struct, frozen=True, omit_defaults=True):
    """An attempt that is to be cancelled or forgotten."""

    task_id: str
    attempt: int
    token: str = ""
    """With a cancel: lets the agent report an attempt that it never received."""
    token_key_id: str = ""
    reason: str = ""
    """With a cancel: `cancelled` or `timeout` (of the task), which is the outcome to report."""


class StartPush(msgspec.Struct, frozen=True, tag="start", tag_field="verb"):
    """Run these attempts; one that the journal already has changes nothing."""

    host_id: str
    epoch: int
    expires_ms: int
    """Unix milliseconds by the bus's clock; the agent knows the offset to its own boot clock."""
    seq: int
    """The log position that this rests on. An agent ignores one below the newest it obeyed in this session."""
    attempts: tuple[StartAttempt, ...]


class CancelPush(msgspec.Struct, frozen=True, tag="cancel", tag_field="verb"):
    """Stop these attempts; one that is not here leaves a tombstone, so that a late start is answered too."""

    host_id: str
    epoch: int
    expires_ms: int
    seq: int
    attempts: tuple[NamedAttempt, ...]


class ForgetPush(msgspec.Struct, frozen=True, tag="forget", tag_field="verb"):
    """The ends of these attempts are settled: the journal and spool may drop them. Never obeyed for one that runs."""

    host_id: str
    epoch: int
    expires_ms: int
    seq: int
    attempts: tuple[NamedAttempt, ...]


Push = StartPush | CancelPush | ForgetPush


class SessionGranted(msgspec.Struct, frozen=True, tag="granted", tag_field="answer"):
    """The answer to a session request that fits."""

    host_id: str
    nonce: str
    epoch: int
    ticket: str
    seq: int
    """The session event's own position: the first newest-obeyed sequence of the session."""
    server_ms: int
    """The bus's time now, so that the agent can count expiry by its boot clock."""
    signing_keys: dict[str, str]
    """Every key id that may sign from now on, with its public key in base64."""


class SessionDenied(msgspec.Struct, frozen=True, tag="denied", tag_field="answer"):
    """The answer to one that does not: what is wrong, and whether asking again can help."""

    host_id: str
    nonce: str
    code: str
    """`unknown`, `revoked`, `ticket`, `counter` or `busy`."""
    message: str
    retry: bool


SessionAnswer = SessionGranted | SessionDenied
