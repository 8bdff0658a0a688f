"""Put a gateway together and run its parts: the tail, the appender, the revoker, the count of refusals, HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import psutil

import fleetlog_gateway.routes  # noqa: F401  # declares the routes
from fleetlog_gateway import limits
from fleetlog_gateway.addresses import Addresses, is_loopback
from fleetlog_gateway.appending import Appender
from fleetlog_gateway.asking import Asker
from fleetlog_gateway.auth import Principal, Tokens
from fleetlog_gateway.gateway import Gateway, fold_stored, load_access
from fleetlog_gateway.http import Front, Serving, serve
from fleetlog_gateway.problems import HttpProblem
from fleetlog_gateway.readiness import Readiness
from fleetlog_gateway.registry import REGISTRY
from fleetlog_gateway.revoking import Revoker
from fleetlog_gateway.sse import StreamLimits, Streams
from fleetlog_gateway.tail import Tail
from fleetlog_runtime.pure.bus import Bus, Stored
from fleetlog_runtime.pure.egress import Allowed
from fleetlog_runtime.shell.files import create_private, write_atomic
from fleetlog_runtime.shell.health import Health
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.nats_health import has_room
from fleetlog_runtime.shell.publisher import Publisher
from fleetlog_schemas import events, host_events, subjects
from fleetlog_schemas.limits import DISK_HEADROOM_BYTES

OWNER = Principal(name="owner")
"""Who holds the token that was made on first start."""
SELF = Principal(name="gateway", permissions=frozenset())
ANY = frozenset({"0.0.0.0", "::"})  # noqa: S104  # compared, not bound


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How one gateway serves."""

    listen: str = "127.0.0.1"
    port: int = 8420
    instance: str = ""
    waiting_max: int = 10_000
    stream_limits: StreamLimits = StreamLimits()
    egress: Allowed = Allowed()
    """What webhooks may reach beside the public network."""


class CannotServe(Exception):
    """The gateway cannot listen; the message says why and what to do."""


async def build(
    bus: Bus, home: Home, now_ms: Callable[[], int], log: Any, options: Options, health: Health
) -> Gateway:
    """Return a gateway whose hosts are folded up to the present end of the log."""
    create_private(home.path / "gateway" / "token", f"flt_{secrets.token_urlsafe(32)}\n".encode())
    last_seq = (await bus.state(subjects.EVENTS)).last_seq
    access = await load_access(bus, last_seq, log)
    revoker = Revoker(home, lambda: access.revoked, log)

    def on_stored(stored: Stored) -> None:
        revoked = len(access.revoked)
        health.parked += not fold_stored(access, stored, log)
        health.position = health.last_seq = stored.seq
        if len(access.revoked) != revoked:
            revoker.wake()

    tail = Tail(bus, last_seq + 1, on_stored)
    publisher = Publisher(bus, options.waiting_max, log)
    appender = Appender(
        bus, tail, publisher, f"/fleetlog/gateway/{options.instance or 'gateway'}", now_ms,
        lambda: has_room(home, DISK_HEADROOM_BYTES),
    )
    asker = Asker(bus, lambda: appender.appended_seq)
    return Gateway(
        bus=bus, home=home, now_ms=now_ms, log=log, access=access, tail=tail, publisher=publisher, appender=appender,
        asker=asker,
        streams=Streams(bus, tail, options.stream_limits), tokens=Tokens([(home.gateway_token(), OWNER)]),
        addresses=addresses_of(home, options, 0), revoker=revoker, readiness=Readiness(bus, tail), egress=options.egress,
    )


@asynccontextmanager
async def running(gateway: Gateway, options: Options) -> AsyncIterator[str]:
    """Run a gateway and give its URL; stops cleanly at the end of the block.

    Raises:
        CannotServe: the address is taken or not ours.
    """
    async with asyncio.TaskGroup() as group:
        parts = [
            group.create_task(part, name=f"gateway {name}")
            for name, part in (
                ("revoker", gateway.revoker.run()), ("tail", gateway.tail.run()),
                ("publisher", gateway.publisher.run()), ("refusals", write_refusals(gateway)),
            )
        ]
        try:
            serving = await _listen(gateway, options)
            try:
                gateway.addresses = addresses_of(gateway.home, options, serving.port)
                url = gateway.addresses.url("127.0.0.1" if options.listen in ANY else options.listen)
                write_atomic(gateway.home.path / "gateway" / "url", url.encode())
                yield url
            finally:
                gateway.streams.stop()
                await serving.stop()
                await flush_refusals(gateway, before_minute=2**62)
        finally:
            # A push cut short leaves the client library in disorder; it takes milliseconds.
            gateway.revoker.stop()
            await asyncio.wait(parts[:1], timeout=limits.REVOKER_STOP_SECONDS)
            for part in parts:
                part.cancel()


async def _listen(gateway: Gateway, options: Options) -> Serving:
    tls = None if is_loopback(options.listen) else _server_context(gateway.home)
    front = Front(gateway, REGISTRY, own_names(gateway.home, options))
    try:
        return await serve(front, options.listen, options.port, tls)
    except OSError as error:
        raise CannotServe(
            f"cannot listen on {options.listen}:{options.port}: {error.strerror or error};"
            " is another gateway running? choose another with --port, or --port 0 for a free one"
        ) from None


def _server_context(home: Home) -> ssl.SSLContext:
    folder = home.path / "tls"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
    except (OSError, ssl.SSLError) as error:
        raise CannotServe(
            f"listening beyond this machine needs the certificate in {folder}: {error};"
            " it is made when the bus is started with --listen"
        ) from None
    return context


def own_names(home: Home, options: Options) -> set[str]:
    """Return the host names and addresses under which requests may come, loopback's apart."""
    if is_loopback(options.listen):
        return set()
    names = {socket.gethostname(), *_certified(home)}
    names.update(_interface_addresses() if options.listen in ANY else {options.listen})
    return names


def _certified(home: Home) -> list[str]:
    """Return the names that the generated certificate stands for; none when it was given, not generated."""
    try:
        return msgspec.json.decode((home.path / "tls" / "names.json").read_bytes(), type=list[str])
    except (OSError, msgspec.MsgspecError):
        return []


def _advertised(home: Home, options: Options) -> str:
    """Return the host in the line to paste: on all interfaces, one that the certificate stands for if there is any."""
    if options.listen not in ANY:
        return options.listen
    certified, addresses = set(_certified(home)), _interface_addresses()
    candidates = [*addresses, socket.gethostname()]
    return next((name for name in candidates if name in certified), candidates[0])


def _interface_addresses() -> list[str]:
    families = (socket.AF_INET, socket.AF_INET6)
    found = [one.address for all_of in psutil.net_if_addrs().values() for one in all_of if one.family in families]
    return [address for address in found if not is_loopback(address) and "%" not in address]


def addresses_of(home: Home, options: Options, port: int) -> Addresses:
    """Return what other machines are told to connect to."""
    signer = home.signer()
    ca = None if is_loopback(options.listen) else home.tls_ca()
    pem = ca.read_text() if ca else ""
    return Addresses(
        scheme="http" if is_loopback(options.listen) else "https", port=port, advertised=_advertised(home, options),
        nats_urls=tuple(home.nats_urls()), ca_pem=pem,
        ca_sha256=hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest() if pem else "",
        signing_keys={signer.key_id: signer.public_key},
    )


async def write_refusals(gateway: Gateway) -> None:
    """Write what was refused, one event for each minute that had any, for ever."""
    while True:
        await gateway.refused.wait()
        gateway.refused.clear()
        minute = gateway.now_ms() // 60_000
        await asyncio.sleep(((minute + 1) * 60_000 - gateway.now_ms()) / 1000)
        await flush_refusals(gateway, before_minute=minute + 1)


async def flush_refusals(gateway: Gateway, before_minute: int) -> None:
    """Append the counts of the minutes before *before_minute*; what the bus does not take is kept for later."""
    for minute, counts in gateway.refusals.take(before_minute):
        data = host_events.AccessRefused(minute=minute, counts=counts)
        try:
            await gateway.change(events.ACCESS, lambda data=data: data, SELF, "counted again")
        except HttpProblem as problem:
            gateway.log.warning("refusals not recorded yet", minute=minute, counts=counts, reason=problem.detail)
            if problem.code != "unsettled":
                gateway.refusals.put_back(minute, counts)
                gateway.refused.set()
