"""A region: agents on a leaf node, a nats-server near them with one connection to the hub, in the agents' account.

The hub runs as always, with a listener for leaf nodes added to its configuration. The leaf knows the operator and the
agents' account, without that account's imports: what crosses into the services' account crosses at the hub. So agents
keep their keys and JWTs, and the leaf holds them to what these allow.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from bench.crowd import OneAgent, enrol
from bench.machine import bare_bus

from fleetlog.client import Client
from fleetlog_runtime.shell import nats_auth, supervisor
from fleetlog_runtime.shell.home import Home
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_runtime.shell.supervisor import find_binary
from fleetlog_schemas import subjects
from fleetlog_schemas.spec import Shell, TaskSpec
from fleetlog_testing.waiting import until

AGENTS = 5
SECONDS_MAX = 60
SERVICES = ("dispatcher", "result_recorder", "reporter", "gateway")
TRUE = TaskSpec(payload=Shell(argv=("true",)), target="all", wait_offline_ms=30_000)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def user(account_seed: bytes, name: str, publish: list[str], subscribe: list[str]) -> tuple[str, bytes]:
    seed = nats_auth.new_seed("user")
    claims = {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1, "pub": {"allow": publish}, "sub": {"allow": subscribe}}
    return nats_auth._mint(nats_auth.public_key(seed), claims, account_seed, name), seed


def leaf_config(home: Home, folder: Path, port: int, hub_port: int) -> str:
    """Return the configuration of a leaf node, and write the key by which the hub lets it in."""
    operator, agents = home.seed("operator"), home.seed("account-agents")
    account, system = nats_auth.public_key(agents), nats_auth.public_key(home.seed("account-sys"))
    rights = {"kind": "user_scope", "key": nats_auth.public_key(home.seed("agents-scope")), "role": "agent", "template": nats_auth._agent_rights()}
    bare = {"type": "account", "version": 2, "limits": nats_auth._ACCOUNT_LIMITS, "signing_keys": [rights], "default_permissions": {"pub": {}, "sub": {}}}
    without_imports = nats_auth._mint(account, bare, operator, "AGENTS")
    publish = [subject.format(id="*") for subject in subjects.AGENT_PUBLISH]
    (folder / "region.creds").write_text(nats_auth.credentials(*user(agents, "region", publish, [">"])))
    return f"""
server_name: region
listen: "127.0.0.1:{port}"
log_file: "{folder / 'leaf.log'}"
operator: {nats_auth.operator_jwt(operator, system)}
system_account: {system}
resolver: MEMORY
resolver_preload {{
  {system}: {nats_auth.system_account_jwt(operator, home.seed("account-sys"))}
  {account}: {without_imports}
}}
leafnodes {{ remotes [ {{ url: "nats-leaf://127.0.0.1:{hub_port}", credentials: "{folder / 'region.creds'}", account: {account} }} ] }}
"""


class Region:
    """A hub with all services, and a leaf node with agents."""

    def __init__(self, home: Home, leaf_url: str) -> None:
        self.home, self.leaf_url = home, leaf_url
        self.client = Client(home.gateway_url(), home.gateway_token())
        self.agents: list[OneAgent] = []

    async def join(self, number: int) -> None:
        """Let a host join over the hub's API and speak over the leaf alone."""
        host_id, trusted, _, jwt, seed = await asyncio.to_thread(enrol, self.client.gateway, number)
        bus = await NatsBus.connect(self.leaf_url, (jwt, seed), host_id, inbox_prefix=f"_INBOX_{host_id}")
        agent = OneAgent(host_id, trusted, bus)
        await bus.subscribe(subjects.push(host_id), agent.heard)
        await agent.open()
        self.agents.append(agent)

    async def run_on_all(self) -> dict[str, int]:
        """Run one task on every host and return how its commands ended."""
        task_id = await asyncio.to_thread(self.client.submit, TRUE)
        return dict((await asyncio.to_thread(self.client.wait, task_id, SECONDS_MAX)).counts)


def started(log_path: Path, *argv: str) -> subprocess.Popen[bytes]:
    with log_path.open("wb") as log:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def is_linked(log_path: Path) -> bool:
    return log_path.exists() and "Leafnode connection created" in log_path.read_text()


@asynccontextmanager
async def region(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Region]:
    hub_port, leaf_port = free_port(), free_port()
    original = supervisor.server_config
    monkeypatch.setattr(
        supervisor, "server_config", lambda *a, **k: f'{original(*a, **k)}\nleafnodes {{ listen: "127.0.0.1:{hub_port}" }}\n'
    )
    processes: list[subprocess.Popen[bytes]] = []
    async with bare_bus(folder / "home") as (home, _):
        try:
            (folder / "leaf.conf").write_text(leaf_config(home, folder, leaf_port, hub_port))
            processes.append(started(folder / "leaf.out", str(find_binary(None)), "-c", str(folder / "leaf.conf")))
            for service in SERVICES:
                words = (sys.executable, "-m", f"fleetlog_{service}", "--data", str(home.path), "--set", "gateway.port=0")
                processes.append(started(folder / f"{service}.log", *words))
            await until((home.path / "gateway" / "url").exists, SECONDS_MAX, "the gateway listens")
            await until(lambda: is_linked(folder / "leaf.log"), SECONDS_MAX, "the leaf is there")
            yield Region(home, f"nats://127.0.0.1:{leaf_port}")
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()


def test_agents_on_a_leaf_node_run_tasks_and_may_do_no_more_than_on_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with region(tmp_path, monkeypatch) as there:
            for number in range(AGENTS):
                await there.join(number)
            assert await there.run_on_all() == {"success": AGENTS}

            forger, victim = there.agents[:2]
            heard: list[str] = []
            overheard: list[str] = []

            async def hear(subject: str, _body: bytes, _reply: str) -> None:
                heard.append(subject)

            async def overhear(subject: str, _body: bytes, _reply: str) -> None:
                overheard.append(subject)

            jwt, seed = user(there.home.seed("account-core"), "spy", ["none"], [">"])
            spy = await NatsBus.connect(there.home.nats_url(), (jwt, seed), "spy", inbox_prefix="_INBOX_spy")
            await spy.subscribe(subjects.HEARTBEATS, hear)
            await forger.bus.publish(subjects.heartbeat(victim.host_id), b"forged")
            await forger.bus.subscribe(subjects.push(victim.host_id), overhear)
            # What comes behind the forged one on the same connection has come: so the forged one never will.
            await until(lambda: _said(forger, heard), SECONDS_MAX, "the forger's own heartbeat is heard")
            assert subjects.heartbeat(victim.host_id) not in heard

            assert await there.run_on_all() == {"success": AGENTS}
            assert overheard == []
            await spy.close()
            for agent in there.agents:
                await agent.bus.close()

    asyncio.run(story())


async def _said(agent: OneAgent, heard: list[str]) -> bool:
    await agent.beat()
    await asyncio.sleep(0)
    return subjects.heartbeat(agent.host_id) in heard
