"""Inviting, joining and revoking hosts, with agents' own credentials on a real bus."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import Container, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

from fleetlog_gateway import enrolment, limits
from fleetlog_gateway.appending import Unsettled
from fleetlog_runtime.pure.bus import AppendUnsettled, Batch, Draft
from fleetlog_runtime.shell import nats_auth
from fleetlog_runtime.shell.home import Home, agents_account_jwt
from fleetlog_runtime.shell.nats_bus import ConnectFailed, NatsBus
from fleetlog_schemas import codec, events, host_events, subjects
from fleetlog_testing.gateway_rig import Rig, connect, gateway_on, now_ms, spec_json
from fleetlog_testing.nats import real_server, running_server
from fleetlog_testing.waiting import fair, until


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with real_server(tmp_path_factory.mktemp("bus")) as made:
        yield made


_names = (f"host{number}" for number in itertools.count(1))


class Agent:
    """A machine that joins: its key is made here."""

    def __init__(self) -> None:
        self.seed = nats_auth.new_seed("user")
        self.public_key = nats_auth.public_key(self.seed)
        self.host_id = nats_auth.host_id_of(self.public_key)
        self.joined: dict[str, Any] = {}

    async def join(self, rig: Rig, token: str) -> tuple[int, Any]:
        body = {"token": token, "public_key": self.public_key, "boot_id": "b"}
        status, answer, _ = await rig.call("POST", "/api/v1/join", body, headers={"Authorization": ""})
        if status == 201:
            self.joined = answer
        return status, answer

    async def connect(self) -> NatsBus:
        return await NatsBus.connect(
            self.joined["nats_urls"], (self.joined["user_jwt"], self.seed), self.host_id,
            inbox_prefix=f"_INBOX_{self.host_id}",
        )


async def invite(rig: Rig, name: str | None = None, **labels: str) -> tuple[str, dict[str, Any]]:
    name = name or next(_names)
    status, body = await rig.post("/api/v1/hosts", {"name": name, "labels": labels})
    assert status == 201, body
    return name, body


def contains(where: Container[str], what: str) -> bool:
    return what in where


async def joined(rig: Rig, **labels: str) -> tuple[str, Agent]:
    name, invited = await invite(rig, **labels)
    agent = Agent()
    assert (await agent.join(rig, invited["token"]))[0] == 201
    return name, agent


def test_an_invited_host_joins_and_reaches_its_own_subjects_only(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            name, invited = await invite(rig, env="prod")
            assert invited["token"].startswith("fltj_")
            assert invited["line"] == f"fleetlog agent join {rig.url} --token {invited['token']}"
            agent = Agent()
            status, body = await agent.join(rig, invited["token"])
            assert (status, body["host_id"], body["name"]) == (201, agent.host_id, name)
            assert body["signing_keys"] == {home.signer().key_id: home.signer().public_key}
            host = rig.gateway.access.hosts.by_id[agent.host_id]
            assert (host.labels, host.public_key) == ({"env": "prod"}, agent.public_key)
            service, bus = await connect(home, "dispatcher"), await agent.connect()
            heard = asyncio.Event()

            async def on_heartbeat(subject: str, body: bytes, reply: str) -> None:
                if subject == subjects.heartbeat(agent.host_id):
                    heard.set()

            await service.subscribe(subjects.HEARTBEATS, on_heartbeat)
            await bus.publish(subjects.heartbeat(agent.host_id), b"x")
            await asyncio.wait_for(heard.wait(), 5)
            await bus.close()
            await service.close()

    asyncio.run(scenario())


def test_the_log_keeps_only_the_hash_of_a_token(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            name, invited = await invite(rig)
            _, body, _ = await rig.call("GET", "/api/v1/log?limit=500")
            text = msgspec.json.encode(body).decode()
            assert invited["token"] not in text
            assert hashlib.sha256(invited["token"].encode()).hexdigest() in text
            assert name in text

    asyncio.run(scenario())


def test_a_token_works_once_and_its_holder_may_repeat_the_request(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            _, invited = await invite(rig)
            first, second = Agent(), Agent()
            assert (await first.join(rig, invited["token"]))[0] == 201
            status, body = await second.join(rig, invited["token"])
            assert (status, body["code"]) == (409, "join-token-used")
            assert (await first.join(rig, invited["token"]))[0] == 201
            assert second.host_id not in rig.gateway.access.hosts.by_id
        async with gateway_on(home) as rig:
            status, body = await second.join(rig, invited["token"])
            assert (status, body["code"]) == (409, "join-token-used")

    asyncio.run(scenario())


def test_of_two_machines_that_race_with_one_token_one_joins(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as one, gateway_on(home) as other:
            for _ in range(5):
                _, invited = await invite(one)
                digest = enrolment.token_sha256(invited["token"])
                await until(partial(contains, other.gateway.access.invitations, digest))
                agents = [Agent() for _ in range(4)]
                rigs = [one, other, one, other]
                answers = await asyncio.gather(
                    *(agent.join(rig, invited["token"]) for agent, rig in zip(agents, rigs, strict=True))
                )
                assert sorted(status for status, _ in answers) == [201, 409, 409, 409]
                assert {body["code"] for status, body in answers if status == 409} == {"join-token-used"}

    asyncio.run(scenario())


def test_an_expired_or_unknown_token_is_refused_and_counted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            monkeypatch.setattr(limits, "INVITATION_MS", -1)
            _, invited = await invite(rig)
            for token in (invited["token"], "fltj_unknown", "", "x" * 200):
                status, body = await Agent().join(rig, token)
                assert (status, body["code"]) == (403, "join-token")
            statuses = [(await Agent().join(rig, "fltj_guess"))[0] for _ in range(limits.AUTH_FAILURES_MAX)]
            assert statuses[-1] == 429
            monkeypatch.setattr(limits, "INVITATION_MS", 60_000)
            _, invited = await invite(rig)
            assert (await Agent().join(rig, invited["token"]))[0] == 201

    asyncio.run(scenario())


def test_names_that_are_taken_or_cannot_be_typed_are_refused(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            name, _ = await joined(rig)
            status, body = await rig.post("/api/v1/hosts", {"name": name})
            assert (status, body["code"]) == (409, "name-taken")
            for bad in ("", "web*", "a b", "all"):
                status, body = await rig.post("/api/v1/hosts", {"name": bad})
                assert (status, body["errors"][0]["pointer"]) == (422, "/name")
            status, body = await rig.post("/api/v1/hosts", {"name": "ok", "labels": {"a": "b c"}})
            assert (status, body["errors"][0]["pointer"]) == (422, "/labels/a")
            twice, first = await invite(rig)
            _, second = await invite(rig, twice)
            assert (await Agent().join(rig, first["token"]))[0] == 201
            status, body = await Agent().join(rig, second["token"])
            assert (status, body["code"]) == (409, "name-taken")

    asyncio.run(scenario())


def test_what_is_not_a_public_key_does_not_spend_a_token(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            _, invited = await invite(rig)
            for key in ("", "x", Agent().public_key[:-1], nats_auth.public_key(nats_auth.new_seed("account"))):
                status, body = await rig.post("/api/v1/join", {"token": invited["token"], "public_key": key})
                assert (status, body["errors"][0]["pointer"]) == (422, "/public_key")
            assert (await Agent().join(rig, invited["token"]))[0] == 201

    asyncio.run(scenario())


def test_labels_maintenance_and_acceptance_are_events_of_the_host(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            name, agent = await joined(rig, env="prod", gone="x")
            at = f"/api/v1/hosts/{name}"
            status, body = await rig.post(f"{at}/labels", {"labels": {"role": "web", "gone": None}})
            assert status == 200
            host = rig.gateway.access.hosts.by_id[agent.host_id]
            assert host.labels == {"env": "prod", "role": "web"}
            assert (await rig.post(f"{at}/maintenance", {"on": True, "reason": "disk"}))[0] == 200
            assert (host.maintenance, host.maintenance_reason) == (True, "disk")
            assert (await rig.post(f"{at}/accept", {"reason": "looked at it"}))[0] == 200
            assert (await rig.post(f"/api/v1/hosts/{agent.host_id}/maintenance", {"on": False}))[0] == 200
            _, page = await rig.get(f"/api/v1/log?from_seq={body['seq']}")
            assert [item["event"]["type"].split(".")[2] for item in page["data"]["items"]] == [
                "labelled", "maintenance-set", "accepted", "maintenance-set",
            ]
            for path, given, status_wanted, code in (
                ("/api/v1/hosts/nobody/labels", {"labels": {"a": "b"}}, 404, "host-not-found"),
                (f"{at}/labels", {"labels": {}}, 422, "invalid"),
                (f"{at}/labels", {"labels": {f"k{n}": "v" for n in range(63)}}, 422, "invalid"),
                (f"{at}/labels", {"labels": {"a": 1}}, 422, "invalid"),
                (f"{at}/maintenance", {}, 422, "invalid"),
                (f"{at}/maintenance", {"on": "yes"}, 422, "invalid"),
            ):
                status, body = await rig.post(path, given)
                assert (status, body["code"]) == (status_wanted, code)

    asyncio.run(scenario())


def test_changes_through_two_gateways_at_once_are_all_kept(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as one, gateway_on(home) as other:
            name, agent = await joined(one)
            await until(lambda: agent.host_id in other.gateway.access.hosts.by_id)
            answers = await asyncio.gather(*(
                rig.post(f"/api/v1/hosts/{name}/labels", {"labels": {f"k{number}": "v"}})
                for number, rig in enumerate([one, other] * 3)
            ))
            assert {status for status, _ in answers} == {200}
            host = one.gateway.access.hosts.by_id[agent.host_id]
            await until(lambda: len(host.labels) == 6)

    asyncio.run(scenario())


def test_a_revoked_host_is_out_within_a_second_and_stays_out(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            name, agent = await joined(rig)
            _, other = await joined(rig)
            bus, bystander = await agent.connect(), await other.connect()
            started = time.monotonic()
            status, body = await rig.post(f"/api/v1/hosts/{name}/revoke", {"reason": "stolen"})
            await until(lambda: not bus.is_connected, fair(1.0))
            assert time.monotonic() - started < fair(1.0)
            assert status == 200, body
            with pytest.raises(ConnectFailed):
                await agent.connect()
            assert bystander.is_connected
            status, body = await rig.post(f"/api/v1/hosts/{agent.host_id}/labels", {"labels": {"a": "b"}})
            assert (status, body["code"]) == (409, "host-revoked")
            assert (await rig.post(f"/api/v1/hosts/{name}/revoke"))[0] == 404
            _, invited = await invite(rig, name)
            status, body = await agent.join(rig, invited["token"])
            assert (status, body["code"]) == (403, "key-revoked")
            fresh = Agent()
            assert (await fresh.join(rig, invited["token"]))[0] == 201
            again = await fresh.connect()
            assert again.is_connected
            for one in (bus, bystander, again):
                await one.close()

    asyncio.run(scenario())


def test_hosts_revoked_within_one_second_are_all_out(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            found = [await joined(rig) for _ in range(3)]
            buses = [await agent.connect() for _, agent in found]
            answers = await asyncio.gather(*(rig.post(f"/api/v1/hosts/{name}/revoke") for name, _ in found))
            assert {status for status, _ in answers} == {200}
            await until(lambda: not any(bus.is_connected for bus in buses), 1.0)
            for bus in buses:
                await bus.close()

    asyncio.run(scenario())


def test_a_gateway_tells_the_bus_about_revocations_that_it_missed(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            name, agent = await joined(rig)
            assert (await rig.post(f"/api/v1/hosts/{name}/revoke"))[0] == 200
            gateway = rig.gateway
        # Somebody restores the bus's old account: nobody is revoked any more.
        sys_bus = await connect(home, "sys")
        claims = agents_account_jwt(home, {}, int(time.time()) + 1)
        assert b'"code":200' in await sys_bus.request("$SYS.REQ.CLAIMS.UPDATE", claims.encode(), 2_000)
        await sys_bus.close()
        bus = await agent.connect()
        await asyncio.sleep(1.1)  # claims carry whole seconds, and the newer ones count
        async with gateway_on(home):
            await until(lambda: not bus.is_connected)
        assert gateway.access.revoked
        await bus.close()

    asyncio.run(scenario())


def test_an_append_whose_answer_was_lost_is_found_in_the_log_and_not_repeated(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            name, agent = await joined(rig)
            real, sent = rig.gateway.bus.append, list[Batch]()

            async def loses_the_first_answer(batch: Batch) -> int:
                sent.append(batch)
                seq = await real(batch)
                if len(sent) == 1:
                    raise AppendUnsettled("the answer was lost")
                return seq

            rig.gateway.bus.append = loses_the_first_answer  # type: ignore[method-assign]  # the wire, not the bus
            status, body = await rig.post(f"/api/v1/hosts/{name}/labels", {"labels": {"a": "b"}})
            assert status == 200
            assert sent[0] == sent[1]
            _, page = await rig.get("/api/v1/log?limit=500")
            labelled = [item for item in page["data"]["items"] if item["event"].get("data", {}).get("host_id") == agent.host_id
                        and "labelled" in item["event"]["type"]]
            assert [item["seq"] for item in labelled] == [body["seq"]]

    asyncio.run(scenario())


def test_what_a_stranger_wrote_on_the_subject_moves_the_fence_and_nothing_else(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            name, _ = await joined(rig)
            later = codec.encode(codec.Event(id="x", source="/test", data=host_events.HostAccepted("nobody"), time_ms=now_ms()))
            other = await connect(home, "gateway")
            for body in (b"not an event", later.replace(b"accepted.v1", b"accepted.v9")):
                await other.append(Batch(drafts=(Draft(subject=events.HOST, body=body),), message_id=str(body)[:40]))
            await other.close()
            assert (await rig.post(f"/api/v1/hosts/{name}/labels", {"labels": {"a": "b"}}))[0] == 200

    asyncio.run(scenario())


def test_a_bus_that_goes_away_is_a_503_and_nothing_is_stored(tmp_path_factory: pytest.TempPathFactory) -> None:
    async def scenario() -> None:
        async with running_server(tmp_path_factory.mktemp("away")) as server, gateway_on(server.home) as rig:
            rig.gateway.bus._append_seconds = 0.3  # type: ignore[attr-defined]  # seconds of waiting are not the point
            await server.stop()
            await until(lambda: not rig.gateway.bus.is_connected)  # type: ignore[attr-defined]
            rig.gateway.appender._full_checked_s = float("inf")
            status, body = await rig.post("/api/v1/tasks", spec_json())
            assert (status, body["code"]) == (503, "bus-unavailable")
            status, body = await rig.post("/api/v1/hosts", {"name": "web1"})
            assert (status, body["code"]) == (503, "bus-unavailable")
            await server.start()
            await until(lambda: rig.gateway.bus.is_connected)  # type: ignore[attr-defined]
            assert (await rig.post("/api/v1/hosts", {"name": "web1"}))[0] == 201
            assert (await rig.get("/api/v1/log?limit=9"))[1]["seq"] == 1

    asyncio.run(scenario())


def test_nobody_knows_is_said_with_the_task_to_ask_for(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            async def nobody_knows(data: Any, authid: str) -> int:
                raise Unsettled

            rig.gateway.appender.append = nobody_knows  # type: ignore[method-assign]  # what remains after every try
            status, body = await rig.post("/api/v1/tasks", spec_json())
            assert (status, body["code"]) == (504, "unsettled")
            assert body["task_id"] in body["detail"]

    asyncio.run(scenario())


def test_a_log_that_is_nearly_full_takes_no_new_tasks_but_still_cancels(home: Home) -> None:
    async def scenario() -> None:
        async with gateway_on(home) as rig:
            _, task = await rig.post("/api/v1/tasks", spec_json())
            rig.gateway.appender._full_checked_s = float("inf")
            rig.gateway.appender._full = True
            for path, body in (("/api/v1/tasks", spec_json()), ("/api/v1/tasks/batch", {"tasks": [{"spec": spec_json()}]})):
                status, answer = await rig.post(path, body)
                assert (status, answer["code"]) == (507, "log-full")
            assert (await rig.post(f"/api/v1/tasks/{task['task_id']}/cancel"))[0] == 202

    asyncio.run(scenario())
