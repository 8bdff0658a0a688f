"""Send one webhook message: resolve once, check every address, connect to those, sign, and read little of the answer.

Nothing that comes of it is an exception: what went wrong is a text for the person who looks at the deliveries.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from fleetlog_keeper import works
from fleetlog_runtime.pure import egress, webhook_signing
from fleetlog_schemas import limits
from fleetlog_schemas.version import VERSION

SECONDS_MAX = 15.0
"""For one message in all, from the name's resolution to the answer: an endpoint takes it and works later."""
ANSWER_BYTES_MAX = 4_096
"""Read of an answer, and not kept: it only lets the endpoint finish."""
ERROR_CHARS_MAX = 300


class CheckedResolver(AbstractResolver):
    """Resolves a name once, and gives the addresses only when none of them is refused."""

    def __init__(self, allowed: egress.Allowed) -> None:
        """Refuse by *allowed*."""
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of *host*. Raises OSError with the reason."""
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results: list[ResolveResult] = []
        for address_family, _, proto, _, sockaddr in found:
            text = str(sockaddr[0])
            address = egress.literal_of(text)
            why = "no address" if address is None else "" if self._allowed.has_host(host) else egress.refusal(address, self._allowed)
            if why:
                raise OSError(f"{host} resolves to {text}, which is {why}: see keeper.webhook_internal")
            results.append(
                ResolveResult(
                    hostname=host, host=text, port=port, family=address_family, proto=proto, flags=socket.AI_NUMERICHOST
                )
            )
        if not results:
            raise OSError(f"{host} has no address")
        return results

    async def close(self) -> None:
        """Nothing is held."""


class BadAuthorities(Exception):
    """The file of `keeper.webhook_ca` cannot be used."""


def trusting(ca: Path | None) -> ssl.SSLContext:
    """Return what verifies endpoints: by the authorities of this machine, and by those in the PEM file *ca* too.

    Raises:
        BadAuthorities: the file cannot be read, or has no certificate.
    """
    context = ssl.create_default_context()
    if ca is None:
        return context
    try:
        context.load_verify_locations(cafile=str(ca))
    except ssl.SSLError:
        raise BadAuthorities(f"keeper.webhook_ca: {ca} is no file of PEM certificates (-----BEGIN CERTIFICATE-----)") from None
    except OSError as error:
        raise BadAuthorities(f"keeper.webhook_ca: {ca} cannot be read: {error.strerror}") from None
    return context


class Poster:
    """Sends messages for one keeper."""

    def __init__(self, key: bytes, allowed: egress.Allowed, trusted: ssl.SSLContext) -> None:
        """Sign with secrets that follow from *key*; verify endpoints by *trusted*."""
        self._key, self._allowed, self._trusted = key, allowed, trusted

    async def post(self, what: works.Post) -> works.Posted:
        """Send one message and return what came of it."""
        try:
            egress.check_url(what.url, self._allowed)
            async with asyncio.timeout(SECONDS_MAX):
                return await self._exchange(what)
        except TimeoutError:
            return works.Posted(error=f"no answer within {SECONDS_MAX:.0f} s")
        except egress.Refused as error:
            return works.Posted(error=str(error)[:ERROR_CHARS_MAX])
        except aiohttp.ClientConnectorCertificateError as error:
            said = getattr(error.certificate_error, "verify_message", "") or str(error.certificate_error)
            return works.Posted(
                error=f"its certificate is not trusted: {said}; an authority of your own is named by keeper.webhook_ca"[:ERROR_CHARS_MAX]
            )
        except aiohttp.ClientConnectorError as error:
            inner = error.os_error
            return works.Posted(error=(inner.strerror or str(inner))[:ERROR_CHARS_MAX])
        except (aiohttp.ClientError, OSError, ValueError, UnicodeError) as error:
            return works.Posted(error=(str(error) or type(error).__name__)[:ERROR_CHARS_MAX])

    async def _exchange(self, what: works.Post) -> works.Posted:
        body = what.body.encode()
        if len(body) > limits.WEBHOOK_BODY_BYTES_MAX:
            return works.Posted(error=f"the message has {len(body)} bytes, more than {limits.WEBHOOK_BODY_BYTES_MAX}")
        secrets = [webhook_signing.secret(self._key, what.webhook_id, number) for number in what.secret_numbers]
        headers = {
            **webhook_signing.signed_headers(secrets, what.message_id, int(time.time()), body),
            "Content-Type": "application/json", "User-Agent": f"fleetlog/{VERSION}",
        }
        connector = aiohttp.TCPConnector(
            resolver=CheckedResolver(self._allowed), use_dns_cache=False, force_close=True, ssl=self._trusted
        )
        async with (
            # No proxy, no cookies, no redirect: nothing decides where this goes but the URL that was checked.
            # Nothing is unpacked: a few bytes of an answer could become very many.
            aiohttp.ClientSession(
                connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
            ) as session,
            session.post(what.url, data=body, headers=headers, allow_redirects=False) as answer,
        ):
            await answer.content.read(ANSWER_BYTES_MAX)
            good = 200 <= answer.status < 300
            moved = " (redirects are not followed: set the webhook to the address that is meant)" if 300 <= answer.status < 400 else ""
            return works.Posted(answer.status, "" if good else f"the endpoint answered {answer.status}{moved}")
