"""Alerts and webhooks on a real system with a real receiver: signed, sent again after a keeper was killed, and never elsewhere.

The receiver verifies by the text of the standard, with nothing of what is tested.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import ssl
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fleetlog_keeper import posting, works
from fleetlog_runtime.pure import egress
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.tls import ensure_server_certificate
from fleetlog_testing.fleet import END_S_MAX, Fleet, active
from fleetlog_testing.homes import connected
from fleetlog_testing.waiting import until

DEPLOY = """
name = "deploy"
target = "web01"
argv = ["/bin/sh", "-c", 'exit "$FLEETLOG_PARAM_CODE"']

[parameters.code]
default = "0"
"""
SETTINGS = tuple(
    word for one in ("keeper.webhook_internal=127.0.0.1", "keeper.webhook_retry_ms=300", "keeper.snapshot_events=5")
    for word in ("--set", one)
)
ALLOWED = egress.allowed_of("127.0.0.1")


class Receiver:
    """An endpoint that keeps what it gets."""

    def __init__(self) -> None:
        self.status = 200
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""
        self.answer: bytes | None = None
        """What it says, packed by gzip; None: nothing."""

    async def take(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        headers = {"Location": "http://127.0.0.1:1/elsewhere"}
        if self.answer is not None:
            headers["Content-Encoding"] = "gzip"
        return web.Response(status=self.status, headers=headers, body=self.answer)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]

    def types(self) -> set[str]:
        return {json.loads(body)["type"] for _, body in self.got}


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    application = web.Application()
    application.router.add_post("/hook", receiver.take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    receiver.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/hook"
    try:
        yield receiver
    finally:
        await runner.cleanup()


def verified(headers: dict[str, str], body: bytes, secret: str) -> bool:
    """Verify one message as Standard Webhooks says a receiver does."""
    assert secret.startswith("whsec_")
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(base64.b64decode(secret[6:]), content, hashlib.sha256).digest()).decode()
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 300
    return any(one == f"v1,{expected}" for one in headers["webhook-signature"].split())


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    (folder := tmp_path / "fleet").mkdir()
    running = Fleet(folder, *SETTINGS)
    try:
        yield running
    finally:
        running.close()


def alerts(fleet: Fleet, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(fleet.run("alert", "ls", "-o", "json", *options).stdout)
    return found


def test_what_an_endpoint_missed_comes_with_the_same_id_after_the_keeper_was_killed(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "deploy.toml").write_text(DEPLOY)

    async def typed(*words: str) -> str:
        done = await asyncio.to_thread(fleet.run, *words)
        return done.stdout + done.stderr

    async def scenario() -> None:
        async with receiving() as receiver:
            await fleet.start("web01")
            refused = await typed("webhook", "set", "inside", "https://10.0.0.1/x")
            assert "10.0.0.1 is an address of an internal network" in refused
            secret = (await typed("webhook", "set", "pager", receiver.url, "--on", "task.ended,alert.raised,alert.resolved"))
            secret = next(line for line in secret.split() if line.startswith("whsec_"))
            assert "delivered: the endpoint answered 200" in await typed("webhook", "test", "pager")
            await typed("definition", "push", str(tmp_path / "deploy.toml"))

            receiver.status = 503
            await typed("run", "deploy", "-p", "code=7")
            await until(lambda: {"task.ended", "alert.raised"} <= receiver.types(), END_S_MAX, "both were tried", 0.05)
            (alert,) = await asyncio.to_thread(alerts, fleet)
            assert (alert["kind"], alert["message"]) == ("task-failed", "deploy: failure on 1 of 1 hosts")
            assert "acknowledged" in await typed("alert", "ack", alert["alert_id"][-8:], "--reason", "on it")
            assert "deploy: failure on 1 of 1 hosts" in await typed("doctor")

            missed = set(receiver.ids[1:])
            former = fleet.kill("keeper")
            receiver.status = 204
            before = len(receiver.got)
            await fleet.restarted("keeper", former)
            await until(lambda: missed <= set(receiver.ids[before:]), END_S_MAX, "what was missed has come", 0.05)
            (alert,) = await asyncio.to_thread(alerts, fleet)
            assert (alert["state"], alert["reason"]) == ("acknowledged", "on it")

            await typed("run", "deploy")
            await until(lambda: "alert.resolved" in receiver.types(), END_S_MAX, "it is resolved", 0.05)
            assert await asyncio.to_thread(alerts, fleet) == []
            bodies = {headers["webhook-id"]: body for headers, body in receiver.got}
            assert all(verified(headers, body, secret) and bodies[headers["webhook-id"]] == body for headers, body in receiver.got)

            again = next(line for line in (await typed("webhook", "rotate", "pager")).split() if line.startswith("whsec_"))
            await typed("webhook", "test", "pager")
            assert verified(*receiver.got[-1], secret)
            assert verified(*receiver.got[-1], again)
            log = b"".join(bytes(one.event) for one in await asyncio.to_thread(lambda: list(fleet.client.read_log())))
            said = log.decode() + (fleet.folder / "up.log").read_text() + await typed("webhook", "show", "pager", "-o", "json")
            assert not [one for one in (secret, again) if one[6:] in said], "a secret is nowhere"
            rows = fleet.gateway.post("/sql", {"query": "SELECT count(*) FROM alerts WHERE resolved_at IS NOT NULL"})["data"]["rows"]
            assert rows == [[1]]

    asyncio.run(scenario())


def test_a_delivery_under_way_is_taken_over_by_the_other_keeper(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "deploy.toml").write_text(DEPLOY)

    async def scenario() -> None:
        async with receiving() as receiver:
            await fleet.start("web01")
            fleet.run("webhook", "set", "pager", receiver.url, "--on", "task.ended,alert.raised")
            fleet.run("definition", "push", str(tmp_path / "deploy.toml"))
            fleet.start_service("fleetlog_keeper", None, *SETTINGS)
            second_log = tmp_path / "fleet" / "fleetlog_keeper.log"
            await until(lambda: '"ready"' in second_log.read_text(), END_S_MAX, "the second keeper is ready")
            receiver.status = 503
            await asyncio.to_thread(fleet.run, "run", "deploy", "-p", "code=7")
            await until(lambda: {"task.ended", "alert.raised"} <= receiver.types(), END_S_MAX, "both were tried", 0.05)
            owed = set(receiver.ids)
            async with connected(fleet.home, "operator") as looker:
                former = await active(looker, "keeper")
                os.kill(former, signal.SIGSTOP)  # so that `up` starts no third one before the other leads
                try:
                    receiver.status = 204
                    before = len(receiver.got)
                    await until(lambda: owed <= set(receiver.ids[before:]), END_S_MAX, "the other keeper has sent both", 0.05)
                    assert await active(looker, "keeper") not in (0, former)
                finally:
                    os.kill(former, signal.SIGKILL)

            async def delivered() -> bool:
                found = await asyncio.to_thread(fleet.run, "webhook", "deliveries", "pager", "-o", "json")
                return {one["state"] for one in json.loads(found.stdout)} == {"delivered"}

            await until(delivered, END_S_MAX, "the log says that both were delivered", 0.05)
            assert set(receiver.ids) == owed, "no message has another id"
            good = Counter(receiver.ids[before:])
            assert max(good.values()) <= 2, "at most the try that the former had under way comes beside"

    asyncio.run(scenario())


# --- what sends, alone ---


def post(url: str, body: str = "{}") -> works.Post:
    return works.Post("w", "msg_1", 1, url, body, (1,))


def poster_of(allowed: egress.Allowed = ALLOWED, ca: Path | None = None) -> posting.Poster:
    return posting.Poster(b"key", allowed, posting.trusting(ca))


def sent(url: str, allowed: egress.Allowed = ALLOWED, status: int = 200, body: str = "{}") -> tuple[works.Posted, Receiver]:
    """Send one message to a receiver that answers *status*; `{}` in *url* is its port."""

    async def scenario() -> tuple[works.Posted, Receiver]:
        async with receiving() as receiver:
            receiver.status = status
            port = receiver.url.split(":")[2].split("/")[0]
            poster = poster_of(allowed)
            return await poster.post(post(url.replace("PORT", port), body)), receiver

    return asyncio.run(scenario())


def test_a_redirect_is_not_followed() -> None:
    posted, receiver = sent("http://127.0.0.1:PORT/hook", status=302)
    assert (posted.status, len(receiver.got)) == (302, 1)
    assert "redirects are not followed" in posted.error


@pytest.mark.parametrize("name", ["localhost", "2130706433", "127.1", "0x7f000001"])
def test_a_name_that_resolves_to_this_machine_is_refused_when_it_is_sent(name: str) -> None:
    posted, receiver = sent(f"https://{name}:PORT/hook", egress.Allowed())
    assert (posted.status, receiver.got) == (0, [])
    assert "this machine itself" in posted.error or "not a canonical IPv4 address" in posted.error


def test_a_name_that_leads_elsewhere_when_it_is_resolved_again_is_resolved_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def scenario() -> works.Posted:
        loop = asyncio.get_running_loop()
        resolve = loop.getaddrinfo

        async def rebinding(host: Any, port: Any, **options: Any) -> Any:
            if host != "hooks.example.com":
                return await resolve(host, port, **options)
            asked.append(host)
            return await resolve("127.0.0.1" if len(asked) == 1 else "127.0.0.2", port, **options)

        monkeypatch.setattr(loop, "getaddrinfo", rebinding)
        async with receiving() as receiver:
            url = receiver.url.replace("127.0.0.1", "hooks.example.com").replace("http:", "https:")
            posted = await poster_of().post(post(url))
            assert receiver.got == []  # it speaks no TLS
            return posted

    posted = asyncio.run(scenario())
    assert asked == ["hooks.example.com"]
    assert posted.status == 0
    assert "internal" not in posted.error


def test_a_name_with_one_internal_address_among_its_addresses_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> works.Posted:
        async def both(host: Any, port: Any, **_options: Any) -> Any:
            return [(2, 1, 6, "", ("93.184.216.34", port)), (2, 1, 6, "", ("10.0.0.7", port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
        return await poster_of(egress.Allowed()).post(post("https://hooks.example.com/x"))

    assert "resolves to 10.0.0.7, which is an address of an internal network" in asyncio.run(scenario()).error


def test_an_endpoint_that_does_not_answer_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "SECONDS_MAX", 0.2)

    async def scenario() -> works.Posted:
        async def silent(_reader: Any, writer: Any) -> None:
            await asyncio.sleep(30)
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        return await poster_of().post(post(f"http://127.0.0.1:{port}/hook"))

    assert asyncio.run(scenario()).error.startswith("no answer within")


def test_that_nobody_listens_is_a_text() -> None:
    posted, _ = sent("http://127.0.0.1:1/hook")
    assert posted.status == 0
    assert "connect" in posted.error.lower()


def test_a_message_that_is_too_large_is_not_sent() -> None:
    posted, receiver = sent("http://127.0.0.1:PORT/hook", body="x" * 20_001)
    assert (posted.status, receiver.got) == (0, [])


@pytest.mark.parametrize("named", [True, False])
def test_an_endpoint_with_a_certificate_of_an_own_authority_is_reached_when_that_is_named(tmp_path: Path, named: bool) -> None:
    home = Home(tmp_path)
    ensure_server_certificate(home, ())
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "tls" / "server.pem", tmp_path / "tls" / "server.key")

    async def scenario() -> tuple[works.Posted, Receiver]:
        async with receiving(tls) as receiver:
            return await poster_of(ca=tmp_path / "tls" / "ca.pem" if named else None).post(post(receiver.url)), receiver

    posted, receiver = asyncio.run(scenario())
    assert (posted.status, len(receiver.got)) == ((200, 1) if named else (0, 0))
    assert ("keeper.webhook_ca" in posted.error) is not named


def test_a_file_of_authorities_that_cannot_be_used_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").touch()
    with pytest.raises(posting.BadAuthorities, match=r"empty\.pem is no file of PEM certificates"):
        posting.trusting(tmp_path / "empty.pem")
    with pytest.raises(posting.BadAuthorities, match=r"none\.pem cannot be read: No such file"):
        posting.trusting(tmp_path / "none.pem")


def test_an_answer_that_would_unpack_to_very_much_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    bomb = packer.compress(bytes(64 * 1024**2)) + packer.flush()
    unpacked: list[bytes] = []
    monkeypatch.setattr("aiohttp.http_parser.DeflateBuffer.feed_data", lambda _self, chunk, *_: unpacked.append(chunk))

    async def scenario() -> works.Posted:
        async with receiving() as receiver:
            receiver.answer = bomb
            return await poster_of().post(post(receiver.url))

    assert asyncio.run(scenario()).status == 200
    assert unpacked == []
