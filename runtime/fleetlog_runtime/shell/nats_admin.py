"""Connections that may manage streams: their key is minted from the home for the moment, used, and kept nowhere."""

from __future__ import annotations

import nats
import structlog
from nats.aio.client import Client, RawCredentials

from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.home import Home, admin_credentials
from fleetlog_runtime.shell.tls import client_context

INBOX = "_INBOX_admin"


async def connect_admin(
    home: Home, url: str, *, tls: bool, account: str = "account-core", rights: tuple[str, ...] = ()
) -> Client:
    """Connect as the admin of an account, or as somebody who may publish no more than *rights*.

    Raises:
        OSError, nats.errors.Error: the bus cannot be reached, or refuses.
        HomeError: the home lacks the keys.
    """
    log = structlog.get_logger("nats-admin")

    async def on_error(error: Exception) -> None:
        log.warning("bus error", error=str(error) or type(error).__name__)

    return await nats.connect(
        url, user_credentials=RawCredentials(nats_auth.credentials(*admin_credentials(home, account, rights))),
        name="fleetlog admin", inbox_prefix=INBOX, error_cb=on_error, allow_reconnect=False,
        **({"tls": client_context(home.ca_path)} if tls else {}),
    )
