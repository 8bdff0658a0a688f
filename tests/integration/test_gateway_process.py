"""The gateway as a process of its own: started, stopped, in the way of another, and beyond this machine."""

from __future__ import annotations

import asyncio
import signal
import ssl
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest

from fleetlog_agent.join import JoinError, join
from fleetlog_gateway.assembly import Options
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_testing.gateway_rig import gateway_on
from fleetlog_testing.nats import real_server, running_server
from fleetlog_testing.waiting import until


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with real_server(tmp_path_factory.mktemp("bus")) as made:
        yield made


def start(home: Home, *flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fleetlog_gateway", "--data", str(home.path), *flags], stderr=subprocess.PIPE, text=True
    )


def url_of(home: Home, process: subprocess.Popen[str]) -> str:
    path = home.path / "gateway" / "url"
    deadline = time.monotonic() + 15
    while not path.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text()


def test_it_serves_after_start_stops_at_a_signal_and_tells_nobody_its_token(home: Home) -> None:
    process = start(home, "--set", "gateway.port=0")
    try:
        url = url_of(home, process)
        token = home.gateway_token()
        request = urllib.request.Request(f"{url}/api/v1/version", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert msgspec.json.decode(answer.read())["api"] == "v1"
        port = url.rsplit(":", 1)[1]
        second = start(home, "--set", f"gateway.port={port}")
        _, told = second.communicate(timeout=20)
        assert second.returncode == 1
        assert "cannot listen" in told
        assert "--port" in told
        assert "Traceback" not in told
    finally:
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
    assert process.returncode == 0
    assert token not in told
    assert "Traceback" not in told
    mode = stat.S_IMODE((home.path / "gateway" / "token").stat().st_mode)
    assert mode == 0o600


def test_beyond_this_machine_it_speaks_tls_and_a_host_joins_by_the_pasted_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running_server(tmp_path, listen="0.0.0.0") as server,
            gateway_on(server.home, Options(listen="0.0.0.0", port=0)) as rig,
        ):
            assert rig.url == f"https://127.0.0.1:{rig.gateway.addresses.port}"
            trust = ssl.create_default_context(cafile=str(server.home.path / "tls" / "ca.pem"))
            async with aiohttp.ClientSession(headers=rig.authorization) as session:
                sent = session.post(f"{rig.url}/api/v1/hosts", json={"name": "far"}, ssl=trust)
                async with sent as response:
                    invited = await response.json()
            words = invited["line"].split()
            assert words[:3] == ["fleetlog", "agent", "join"]
            flags = dict(zip(words[4::2], words[5::2], strict=True))
            assert set(flags) == {"--token", "--ca-sha256"}
            folder = tmp_path / "agent"
            with pytest.raises(JoinError, match="fingerprint"):
                await asyncio.to_thread(join, folder, rig.url, flags["--token"], "0" * 64)
            found = await asyncio.to_thread(join, folder, rig.url, flags["--token"], flags["--ca-sha256"])
            assert found.name == "far"
            assert found.nats_urls[0].startswith("tls://127.0.0.1:")
            bus = await NatsBus.connect(
                list(found.nats_urls), folder / "creds", "far", inbox_prefix=f"_INBOX_{found.host_id}",
                tls_ca=folder / "ca.pem",
            )
            await until(lambda: bus.is_connected)
            await bus.close()
            with pytest.raises(aiohttp.ClientError):
                async with aiohttp.ClientSession() as session:
                    await session.get(rig.url.replace("https", "http") + "/livez")

    asyncio.run(scenario())


def test_a_host_name_of_this_machine_is_taken_beyond_loopback_and_a_strange_one_is_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            running_server(tmp_path, listen="0.0.0.0") as server,
            gateway_on(server.home, Options(listen="0.0.0.0", port=0)) as rig,
        ):
            names = {"127.0.0.1": 200, "localhost": 200, rig.gateway.addresses.advertised: 200, "evil.example": 421}
            trust = ssl.create_default_context(cafile=str(server.home.path / "tls" / "ca.pem"))
            async with aiohttp.ClientSession() as session:
                for name, expected in names.items():
                    sent = session.get(f"{rig.url}/livez", headers={"Host": name}, ssl=trust)
                    async with sent as response:
                        assert response.status == expected, name

    asyncio.run(scenario())
