"""A second machine for real: the printed line is pasted in another network namespace, and everything goes over TLS.

Server and host have a network, a host name and a /var/lib of their own, and a cable that is pulled while a command
runs. What must be refused is tried with the real agent, the real client and the real bus.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.nats_bus import ConnectFailed, NatsBus
from fleetlog_testing import namespaces
from fleetlog_testing.clocks import DAY_S, MISSING, WrongClock
from fleetlog_testing.waiting import fair, until

READY_SECONDS = 40
REVOKED_SECONDS = 1.0
PAUSE_SECONDS = 0.05
VENV = Path(sys.executable).parent


def wait(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for a condition; most of them start a process."""
    asyncio.run(until(condition, seconds, what, PAUSE_SECONDS))


class Fleet:
    """A server that listens on the cable, and the machine at the cable's other end."""

    def __init__(self, server: namespaces.Machine, host: namespaces.Machine, folder: Path) -> None:
        self.server, self.host, self.folder = server, host, folder
        self.home = folder / "home"
        self.log = folder / "up.log"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLEETLOG_", "XDG_"))}
        self.environment = {**kept, "PATH": f"{VENV}:{os.environ['PATH']}", "HOME": str(folder)}
        self.url = f"https://{server.address}:8420"
        self.agents: list[Agent] = []

    def up(self, *options: str) -> subprocess.Popen[bytes]:
        """Start the server as a person does, and wait until it says that it is ready, or has ended."""
        self.log.write_bytes(b"")
        process = self.server.start(
            self.log, "fleetlog", "--data", str(self.home), "up", *options, environment=self.environment
        )
        wait(lambda: "ready:" in self.log.read_text() or process.poll() is not None, READY_SECONDS, "the server's start")
        return process

    def fleetlog(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command line on the server."""
        return self.server.run("fleetlog", "--data", str(self.home), *arguments, environment=self.environment)

    def line(self, name: str, *options: str) -> str:
        """Return the line that `host add` prints: one, and nothing else on stdout."""
        added = self.fleetlog("host", "add", name, *options)
        assert added.returncode == 0, added.stderr
        (line,) = added.stdout.splitlines()
        return line

    def paste(self, line: str, *more: str) -> subprocess.CompletedProcess[str]:
        """Paste a line into a shell of the second machine, for something that ends by itself."""
        return self.host.run("/bin/sh", "-c", " ".join([line, *more]), environment=self.environment)

    def join(self, name: str, *options: str) -> Agent:
        """Make the second machine a host with a data folder of its own, and wait until it is online."""
        agent = Agent(self, name)
        joined = self.paste(self.line(name, *options), "--data", str(agent.data), "--no-start")
        assert joined.returncode == 0, joined.stderr
        agent.start()
        return agent

    def presence(self, name: str) -> str:
        """Return how the server sees a host."""
        shown = self.fleetlog("host", "show", name, "-o", "json")
        return str(json.loads(shown.stdout)["presence"]) if shown.returncode == 0 else shown.stderr

    def is_online(self, name: str) -> None:
        """Wait until a host is online."""
        wait(lambda: self.presence(name) == "online", READY_SECONDS, f"{name} online")

    @property
    def bus_port(self) -> int:
        """The port of the bus."""
        return int((self.home / "nats" / "port").read_text())


class Agent:
    """An agent on the second machine."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet, self.name = fleet, name
        self.data = fleet.folder / f"agent-{name}"
        self.log = fleet.folder / f"{name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        fleet.agents.append(self)

    def start(self, *command: str) -> None:
        """Start it, by default as its unit does, and wait until the server sees it."""
        words = command or ("fleetlog", "agent", "run", "--data", str(self.data))
        self.process = self.fleet.host.start(self.log, *words, environment=self.fleet.environment)
        self.fleet.is_online(self.name)

    def stop(self) -> None:
        """Stop it as systemd does."""
        if self.process is not None:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(20)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Return a server that listens, in a namespace of its own, and an empty second machine."""
    reason = namespaces.missing()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("second-machine")
    with namespaces.machines(folder, "server", "web01") as (server, host):
        fleet = Fleet(server, host, folder)
        assert fleet.up("--listen", server.address).poll() is None, fleet.log.read_text()
        yield fleet


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Stop the agents of a test when it is over."""
    yield
    if "fleet" in request.fixturenames:
        fleet: Fleet = request.getfixturevalue("fleet")
        while fleet.agents:
            fleet.agents.pop().stop()


def test_the_pasted_line_makes_another_machine_a_host_that_runs_commands_over_tls(fleet: Fleet) -> None:
    line = fleet.line("web01", "--label", "env=prod", "--label", "role=web")
    agent = Agent(fleet, "web01")
    agent.start("/bin/sh", "-c", line)

    assert agent.log.read_text().startswith("joined as web01 (h")
    assert fleet.host.connections_to(fleet.bus_port) == 1, "the agent talks to the bus over the cable"
    ran = fleet.fleetlog("exec", "-t", "env=prod and role=web", "-c", "hostname; cat /proc/net/fib_trie; echo bad >&2; exit 4")
    assert ran.returncode == 3, ran.stderr
    assert ran.stdout.startswith("web01\n"), "it ran on the other machine"
    assert fleet.host.address in ran.stdout
    assert fleet.server.address not in ran.stdout
    output = fleet.fleetlog("output", "last", "--host", "web01", "--stream", "stderr")
    assert output.stdout.endswith("bad\n")
    assert fleet.fleetlog("replay", "last", "-o", "json").stdout == fleet.fleetlog("show", "last", "-o", "json").stdout

    status = json.loads(fleet.paste("fleetlog agent status -o json").stdout)
    assert status["data"] == "/var/lib/fleetlog-agent"
    assert status["nats_urls"] == [f"tls://{fleet.server.address}:{fleet.bus_port}"]
    assert "nothing runs here" in fleet.paste("fleetlog agent ps").stdout
    again = fleet.paste(line)
    assert (again.returncode, "joined already" in again.stderr) == (1, True), "not twice on one machine either"


def test_a_token_works_once_and_for_a_quarter_of_an_hour(fleet: Fleet) -> None:
    before = dt.datetime.now(dt.UTC)
    invited = json.loads(fleet.fleetlog("host", "add", "once", "-o", "json").stdout)
    left = dt.datetime.fromisoformat(invited["expires_at"]) - before
    assert dt.timedelta(minutes=14, seconds=50) < left < dt.timedelta(minutes=15, seconds=30)

    assert fleet.paste(invited["line"], "--data", str(fleet.folder / "once"), "--no-start").returncode == 0
    again = fleet.paste(invited["line"], "--data", str(fleet.folder / "twice"), "--no-start")
    assert again.returncode == 1
    assert again.stderr.splitlines() == [
        "fleetlog agent: the server refuses: this join token was already used: make another with `fleetlog host add`"
    ]
    unknown = fleet.paste(invited["line"].replace("fltj_", "fltj_x"), "--data", str(fleet.folder / "none"), "--no-start")
    assert unknown.returncode == 1
    assert "unknown or has expired" in unknown.stderr


def test_a_server_with_another_fingerprint_is_not_given_the_token(fleet: Fleet) -> None:
    line = fleet.line("careful")
    fingerprint = line.rsplit(" ", 1)[1]
    pem = (fleet.home / "tls" / "ca.pem").read_text()
    assert fingerprint == hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()

    wrong = fleet.paste(line.replace(fingerprint, "0" * 64), "--data", str(fleet.folder / "careful"), "--no-start")
    assert wrong.returncode == 1
    assert "does not have the fingerprint of the line" in wrong.stderr
    cut = fleet.paste(line[:-4], "--data", str(fleet.folder / "careful"), "--no-start")
    assert cut.returncode == 1
    assert "copy the whole line" in cut.stderr
    plain = fleet.paste(line.replace("https://", "http://"), "--data", str(fleet.folder / "careful"), "--no-start")
    assert plain.returncode == 1
    assert "plain http is only for this machine itself" in plain.stderr
    right = fleet.paste(line, "--data", str(fleet.folder / "careful"), "--no-start")
    assert right.returncode == 0, "the token was never shown to anybody, so it still works: " + right.stderr


def test_whoever_does_not_speak_tls_or_does_not_trust_the_authority_gets_nowhere(fleet: Fleet) -> None:
    speak = (
        "import socket; s = socket.create_connection(('%s', %d), 5); print(s.recv(4096)); "
        "s.sendall(b'CONNECT {\"verbose\":false}\\r\\nPING\\r\\n'); print(s.recv(4096))"
    )
    bus = fleet.host.run(
        sys.executable, "-c", speak % (fleet.server.address, fleet.bus_port), environment=fleet.environment
    )
    told, answered = bus.stdout.splitlines()
    assert '"tls_required":true' in told
    assert answered == "b''", "closed without a word"

    agent = Agent(fleet, "plain")
    assert fleet.paste(fleet.line("plain"), "--data", str(agent.data), "--no-start").returncode == 0
    without = f"nats://{fleet.server.address}:{fleet.bus_port}"
    agent.process = fleet.host.start(
        agent.log, "fleetlog", "agent", "run", "--data", str(agent.data), "--bus", without, environment=fleet.environment
    )
    wait(lambda: "certificate verify failed" in agent.log.read_text(), 10, "the agent says why")

    asked = {**fleet.environment, "FLEETLOG_TOKEN": (fleet.home / "gateway" / "token").read_text().strip()}
    stranger = fleet.host.run("fleetlog", "--url", fleet.url, "ls", environment=asked)
    assert stranger.returncode == 8
    assert "certificate" in stranger.stderr
    assert "FLEETLOG_CA" in stranger.stderr
    plain = fleet.host.run("fleetlog", "--url", fleet.url.replace("https", "http"), "ls", environment=asked)
    assert plain.returncode == 8, plain.stdout
    trusting = {**asked, "FLEETLOG_CA": str(fleet.home / "tls" / "ca.pem")}
    assert fleet.host.run("fleetlog", "--url", fleet.url, "ls", environment=trusting).returncode == 0


def test_a_revoked_host_is_out_within_a_second_and_cannot_come_back(fleet: Fleet) -> None:
    agent = fleet.join("sold")
    assert fleet.host.connections_to(fleet.bus_port) == 1

    revoked = fleet.fleetlog("host", "revoke", "sold", "--reason", "sold")
    began = time.monotonic()
    assert revoked.returncode == 0, revoked.stderr
    wait(lambda: fleet.host.connections_to(fleet.bus_port) == 0, fair(REVOKED_SECONDS), "its connection closed")
    assert time.monotonic() - began < fair(REVOKED_SECONDS)
    assert fleet.presence("sold") == "revoked"
    wait(lambda: "was the host revoked?" in agent.log.read_text(), 5, "the agent says why")

    agent.stop()
    agent.process = fleet.host.start(
        agent.log, "fleetlog", "agent", "run", "--data", str(agent.data), environment=fleet.environment
    )
    wait(lambda: "Authorization Violation" in agent.log.read_text(), 10, "the key is refused")
    assert fleet.presence("sold") == "revoked"
    assert fleet.fleetlog("exec", "-t", "sold", "--", "true").returncode == 2, "it is no target any more"
    other = fleet.line("sold")
    back = fleet.paste(other, "--data", str(agent.data), "--no-start")
    assert back.returncode == 1
    assert "joined already" in back.stderr, "with the old key there is no way back"
    agent.stop()
    assert fleet.paste(other, "--data", str(fleet.folder / "sold-again"), "--no-start").returncode == 0


def test_a_command_outlives_a_cut_network_and_runs_once(fleet: Fleet) -> None:
    fleet.join("far")
    began, ended, go = (fleet.folder / name for name in ("began", "ended", "go"))
    script = f"echo $$ >> {began}; while [ ! -e {go} ]; do sleep 0.05; done; echo said; echo $$ >> {ended}"
    log = fleet.folder / "exec.log"
    running = fleet.server.start(
        log, "fleetlog", "--data", str(fleet.home), "exec", "-t", "far", "-c", script, environment=fleet.environment
    )
    try:
        wait(began.exists, 15, "the start of the command")
        fleet.host.pull_cable()
        go.touch()
        wait(ended.exists, 15, "its end, with nobody to tell")
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(1.5)
        assert "success" not in log.read_text()
    finally:
        fleet.host.plug_cable()
    assert running.wait(60) == 0, log.read_text()
    assert "said" in log.read_text()
    assert len(began.read_text().splitlines()) == 1
    assert len(ended.read_text().splitlines()) == 1
    events = fleet.fleetlog("events", "last", "--type", "fleetlog.attempt.dispatched.v1", "-o", "json").stdout
    assert events.count('"fleetlog.attempt.dispatched.v1"') == 1, events


@pytest.mark.skipif(bool(MISSING), reason=MISSING)
def test_over_tls_a_clock_may_be_days_behind_and_one_before_the_certificate_says_so_until_it_is_set(fleet: Fleet) -> None:
    clock = WrongClock(fleet.folder / "offset")
    agent = fleet.join("late")
    agent.stop()
    words = [f"{name}={value}" for name, value in clock.environment.items()]
    clock.set(-3 * DAY_S)
    agent.start("env", *words, "fleetlog", "agent", "run", "--data", str(agent.data))
    assert fleet.fleetlog("exec", "-t", "late", "--", "true").returncode == 0
    agent.stop()
    wait(lambda: fleet.presence("late") == "offline", 20, "its goodbye")
    clock.set(-30 * DAY_S)
    agent.process = fleet.host.start(
        agent.log, "env", *words, "fleetlog", "agent", "run", "--data", str(agent.data), environment=fleet.environment
    )
    wait(lambda: "not yet valid" in agent.log.read_text(), 30, "it says what is wrong")
    assert fleet.presence("late") == "offline"
    clock.set(0)
    fleet.is_online("late")
    assert json.loads(fleet.fleetlog("host", "show", "late", "-o", "json").stdout)["refusals"] == []


def test_a_machine_that_is_renamed_is_the_same_host(fleet: Fleet) -> None:
    agent = fleet.join("named")
    agent.stop()
    wait(lambda: fleet.presence("named") == "offline", 20, "its goodbye")
    agent.start("/bin/sh", "-c", f"hostname renamed && exec fleetlog agent run --data {agent.data}")
    ran = fleet.fleetlog("exec", "-t", "named", "--", "hostname")
    assert (ran.returncode, "renamed" in ran.stdout) == (0, True)
    assert json.loads(fleet.fleetlog("host", "show", "named", "-o", "json").stdout)["refusals"] == []


def test_a_server_begins_to_listen_with_the_agent_it_has_and_never_moves_the_bus(tmp_path: Path) -> None:
    reason = namespaces.missing()
    if reason:
        pytest.skip(reason)
    with namespaces.machines(tmp_path, "alone", "other") as (server, host):
        fleet = Fleet(server, host, tmp_path)
        for options in ((), ("--listen", server.address)):
            running = fleet.up(*options)
            assert running.poll() is None, fleet.log.read_text()
            assert fleet.fleetlog("exec", "-t", "alone", "--", "true").returncode == 0
            os.killpg(running.pid, signal.SIGINT)
            assert running.wait(30) == 0, fleet.log.read_text()

        hold = "import socket, time; held = socket.create_server(('%s', %d)); print(1, flush=True); time.sleep(99)"
        hold %= (server.address, fleet.bus_port)
        server.start(tmp_path / "held", sys.executable, "-c", hold, environment=fleet.environment)
        wait((tmp_path / "held").read_text, 10, "the port taken")
        taken = fleet.up("--listen", server.address)
        assert taken.wait(30) == 6
        assert f"port {fleet.bus_port} of {server.address} is taken" in fleet.log.read_text()
        nowhere = fleet.up("--listen", "10.99.9.9")
        assert nowhere.wait(30) == 6
        assert "give --listen an address of this machine" in fleet.log.read_text()


def test_an_agent_that_was_promised_tls_says_nothing_to_a_bus_without_it() -> None:
    heard: list[bytes] = []

    async def try_it() -> None:
        async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'INFO {"server_id":"x","version":"2.15.1","headers":true,"max_payload":9,"nonce":"n"}\r\n')
            heard.append(await reader.read(4096))
            writer.close()

        server = await asyncio.start_server(pretend, "127.0.0.1", 0, family=socket.AF_INET)
        port = server.sockets[0].getsockname()[1]
        user = ("e30.e30.x", nats_auth.new_seed("user"))
        with pytest.raises(ConnectFailed, match="speaks no TLS"):
            await NatsBus.connect(f"tls://127.0.0.1:{port}", user, "agent")
        await until(lambda: heard, 5, "the end of the connection")
        server.close()

    asyncio.run(try_it())
    assert heard == [b""]
