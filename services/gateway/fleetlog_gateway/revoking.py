"""Tell the bus which keys are revoked, so that it closes their connections.

What is told is always the whole list, as the log has it: telling it twice, or by two gateways, changes nothing. It
is told at start, after every revocation that is read back (whoever asked for it), and again until the bus confirms.
Only this uses the `sys` user, on a connection of its own that lives as long as one push.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from fleetlog_gateway import limits
from fleetlog_runtime.pure.bus import NoAnswer
from fleetlog_runtime.shell.home import Home, agents_account_jwt
from fleetlog_runtime.shell.nats_bus import ConnectFailed, connect_user

CLAIMS_SUBJECT = "$SYS.REQ.CLAIMS.UPDATE"


class _Data(msgspec.Struct, frozen=True):
    code: int = 0


class _Error(msgspec.Struct, frozen=True):
    description: str = ""


class _Confirmation(msgspec.Struct, frozen=True):
    data: _Data = _Data()
    error: _Error | None = None


class Revoker:
    """Keeps the bus's list of revoked keys equal to the log's."""

    def __init__(self, home: Home, revoked: Callable[[], dict[str, int]], log: Any) -> None:
        """Push what *revoked* returns: public key to Unix milliseconds."""
        self._home = home
        self._revoked = revoked
        self._log = log
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._changed = asyncio.Event()
        self._confirmed = -1
        self._stopping = False

    def wake(self) -> None:
        """Push again: the log has another revocation."""
        self._wanted.set()

    def stop(self) -> None:
        """End `run` after the push in hand, also where the client library swallows its cancellation."""
        self._stopping = True
        self._wanted.set()

    def _has_stopped(self) -> bool:
        return self._stopping

    async def told(self, count: int) -> bool:
        """Wait until the bus confirmed a list of at least *count* keys; tell whether it did in time."""
        try:
            async with asyncio.timeout(limits.REVOKE_SECONDS_MAX):
                while self._confirmed < count:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Push whenever there is something new, until `stop`."""
        pause_seconds = limits.REVOKE_PAUSE_SECONDS_MIN
        while not self._has_stopped():
            await self._wanted.wait()
            self._wanted.clear()
            if self._has_stopped():
                return
            revoked = dict(self._revoked())
            try:
                await self._push(revoked)
            except (ConnectFailed, NoAnswer, RuntimeError) as error:
                self._log.warning("revocations not confirmed by the bus yet", keys=len(revoked), reason=str(error))
                await asyncio.sleep(pause_seconds)
                pause_seconds = min(pause_seconds * 2, limits.REVOKE_PAUSE_SECONDS_MAX)
                self._wanted.set()
                continue
            pause_seconds = limits.REVOKE_PAUSE_SECONDS_MIN
            self._confirmed = len(revoked)
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()

    async def _push(self, revoked: dict[str, int]) -> None:
        until_s = {key: time_ms // 1000 + limits.REVOKED_AHEAD_SECONDS for key, time_ms in revoked.items()}
        bus = await connect_user(self._home, "sys", "gateway revocations")
        try:
            jwt = agents_account_jwt(self._home, until_s)
            answer = await bus.request(CLAIMS_SUBJECT, jwt.encode(), limits.REVOKE_MS_MAX)
        finally:
            await bus.close()
        try:
            confirmation = msgspec.json.decode(answer, type=_Confirmation)
        except msgspec.MsgspecError as error:
            raise RuntimeError(f"the bus answered what cannot be read: {error}") from None
        if confirmation.error is not None or confirmation.data.code != 200:
            reason = confirmation.error.description if confirmation.error else f"code {confirmation.data.code}"
            raise RuntimeError(f"the bus refused the claims: {reason}")
