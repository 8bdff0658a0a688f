"""Homes and connections for tests: real keys, real credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.home import Home, agent_user_jwt
from fleetlog_runtime.shell.nats_bus import NatsBus, connect_user


@asynccontextmanager
async def connected(home: Home, user: str, append_seconds: float = 5.0) -> AsyncIterator[NatsBus]:
    """Connect as one of the service users (or `operator`), with its own rights."""
    bus = await connect_user(home, user, append_seconds=append_seconds)
    try:
        yield bus
    finally:
        await bus.close()


class Enrolled:
    """A host's key and the JWT that lets it in."""

    def __init__(self, home: Home) -> None:
        """Make a key as a host does at join, and enrol it."""
        self.seed = nats_auth.new_seed("user")
        self.public_key = nats_auth.public_key(self.seed)
        self.host_id = nats_auth.host_id_of(self.public_key)
        self.jwt = agent_user_jwt(home, self.host_id, self.public_key)


@asynccontextmanager
async def connected_agent(home: Home, host: Enrolled) -> AsyncIterator[NatsBus]:
    """Connect as an agent."""
    bus = await NatsBus.connect(
        home.nats_url(), (host.jwt, host.seed), host.host_id, inbox_prefix=f"_INBOX_{host.host_id}",
        tls_ca=home.tls_ca(),
    )
    try:
        yield bus
    finally:
        await bus.close()
