"""What each key may do on a real server: agents reach only their own subjects, services only what they write."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from fleetlog_runtime.pure.bus import AppendUnsettled, Batch, Draft, NoAnswer, NotFound
from fleetlog_runtime.shell.home import Home, agent_user_jwt, agents_account_jwt
from fleetlog_runtime.shell.nats_bus import ConnectFailed, NatsBus
from fleetlog_schemas import reports, subjects, wire
from fleetlog_testing.homes import Enrolled, connected, connected_agent
from fleetlog_testing.nats import real_server, running_server
from fleetlog_testing.waiting import fair, until

SHORT_MS = 300


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with real_server(tmp_path_factory.mktemp("security")) as running:
        yield running


def message(subject: str, body: bytes = b"x") -> Batch:
    return Batch(drafts=(Draft(subject, body),), message_id="")


async def let_through(bus: NatsBus, *tried: str) -> list[str]:
    """Return on which of the subjects *tried* a request is answered."""

    async def answered(subject: str) -> bool:
        try:
            await bus.request(subject, b"{}", SHORT_MS)
        except NoAnswer:
            return False
        return True

    answers = await asyncio.gather(*(answered(subject) for subject in tried))
    return [subject for subject, answer in zip(tried, answers, strict=True) if answer]


@asynccontextmanager
async def agents(home: Home) -> AsyncIterator[tuple[Enrolled, NatsBus, Enrolled, NatsBus]]:
    one, other = Enrolled(home), Enrolled(home)
    async with connected_agent(home, one) as left, connected_agent(home, other) as right:
        yield one, left, other, right


async def messages_of(bus: NatsBus, stream: str, subject: str) -> int:
    try:
        await bus.get_last(stream, subject)
    except NotFound:
        return 0
    return 1


def test_an_agent_reports_heartbeats_and_asks_under_its_own_id(home):
    async def scenario():
        async with agents(home) as (one, agent, _, _), connected(home, "dispatcher") as dispatcher:
            heard = []

            async def beat(subject, body, _reply):
                heard.append((subject, body))

            async def opened(subject, body, reply):
                await dispatcher.publish(reply, subject.encode() + b" " + body)

            await dispatcher.subscribe(subjects.HEARTBEATS, beat)
            await dispatcher.subscribe(subjects.SESSIONS, opened)
            assert await agent.append(message(subjects.report(one.host_id))) > 0
            assert await agent.append(message(subjects.output(one.host_id, 3))) > 0
            await agent.publish(subjects.heartbeat(one.host_id), b"alive")
            await until(lambda: heard == [(f"hb.{one.host_id}", b"alive")])
            answer = await agent.request(subjects.session(one.host_id), b"nonce", 2000)
            assert answer == f"open.{one.host_id} nonce".encode()

    asyncio.run(scenario())


def test_an_agent_hears_only_its_own_pushes(home):
    async def scenario():
        async with agents(home) as (one, left, other, right), connected(home, "dispatcher") as dispatcher:
            heard = {"left": [], "right": []}

            async def to_left(_subject, body, _reply):
                heard["left"].append(body)

            async def to_right(_subject, body, _reply):
                heard["right"].append(body)

            await left.subscribe(subjects.push(one.host_id), to_left)
            await right.subscribe(subjects.push(other.host_id), to_right)
            with capture_logs() as logs:
                for foreign in (subjects.push(other.host_id), "cmd.*", "hb.*", f"_INBOX_{other.host_id}.>", ">"):
                    await left.subscribe(foreign, to_left)
                await until(lambda: sum("permissions violation" in str(line.get("error")) for line in logs) == 5)
            await dispatcher.publish(subjects.push(other.host_id), b"for the other")
            await dispatcher.publish(subjects.push(one.host_id), b"for one")
            await until(lambda: heard == {"left": [b"for one"], "right": [b"for the other"]})

    asyncio.run(scenario())


def test_an_agent_cannot_speak_as_another_nor_reach_the_log_or_the_streams(home):
    async def scenario():
        async with agents(home) as (_, agent, other, _), connected(home, "operator") as person:
            before = (await person.state("EVENTS")).last_seq
            assert await let_through(
                agent, subjects.report(other.host_id), subjects.output(other.host_id, 0), subjects.session(other.host_id),
                subjects.push(other.host_id), "evt.dispatch", "evt.result", "lead.dispatcher", "ask.dispatcher.health",
                "$JS.API.INFO", "$JS.API.STREAM.INFO.EVENTS", "$JS.API.DIRECT.GET.EVENTS", "$SYS.REQ.CLAIMS.UPDATE",
                "$JS.API.STREAM.DELETE.EVENTS", f"$JS.API.CONSUMER.MSG.NEXT.REPORTS.{subjects.RECORDER_CONSUMER}",
            ) == []
            assert (await person.state("EVENTS")).last_seq == before
            assert await messages_of(person, "REPORTS", subjects.report(other.host_id)) == 0
            assert await messages_of(person, "OUTPUT", subjects.output(other.host_id, 0)) == 0

    asyncio.run(scenario())


def test_an_invented_reply_subject_reaches_no_stream_and_no_heartbeat(home):
    async def scenario():
        async with (
            agents(home) as (one, agent, other, victim), connected(home, "dispatcher") as dispatcher,
            connected(home, "operator") as person,
        ):
            beats, pushes = [], []

            async def beat(subject, body, _reply):
                beats.append((subject, body))

            async def push(_subject, body, _reply):
                pushes.append(body)

            async def opened(_subject, _body, reply):
                await dispatcher.publish(reply, b"an answer")

            await dispatcher.subscribe(subjects.HEARTBEATS, beat)
            await dispatcher.subscribe(subjects.SESSIONS, opened)
            await victim.subscribe(subjects.push(other.host_id), push)
            before = {name: (await person.state(name)).last_seq for name in ("REPORTS", "EVENTS", "LEADERS")}
            targets = (
                subjects.report(other.host_id), subjects.output(other.host_id, 0), "evt.dispatch", "lead.dispatcher",
                subjects.heartbeat(other.host_id), subjects.push(other.host_id), subjects.session(other.host_id),
            )
            for target in targets:
                await agent.publish(subjects.report(one.host_id), b"bait", target)
                await agent.publish(subjects.session(one.host_id), b"bait", target)
            await agent.publish(subjects.heartbeat(one.host_id), b"last")
            await until(lambda: (f"hb.{one.host_id}", b"last") in beats)
            await until(lambda: reports_stored(person, before["REPORTS"] + len(targets)))
            assert await messages_of(person, "REPORTS", subjects.report(other.host_id)) == 0
            assert await messages_of(person, "OUTPUT", subjects.output(other.host_id, 0)) == 0
            for name in ("EVENTS", "LEADERS"):
                assert (await person.state(name)).last_seq == before[name]
            # Whatever arrives under the victim's name is the server's or a service's own answer: no heartbeat,
            # no report, and no push, for those are signed.
            for subject, body in beats:
                if subject == subjects.heartbeat(other.host_id):
                    with pytest.raises(wire.BadMessage):
                        wire.decode(body, reports.Heartbeat)
            assert all(b"bait" not in body for body in pushes)

    async def reports_stored(person, last_seq):
        return (await person.state("REPORTS")).last_seq == last_seq

    asyncio.run(scenario())


def test_a_revoked_key_is_out_within_a_second_and_others_stay(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server:
            home = server.home
            async with agents(home) as (one, agent, _, stays):
                revoked_s = int(time.time())
                jwt = agents_account_jwt(home, {one.public_key: revoked_s})
                sys = await NatsBus.connect(home.nats_url(), home.creds_path("sys"), "sys", inbox_prefix="_INBOX_sys")
                began = time.monotonic()
                answer = json.loads(await sys.request("$SYS.REQ.CLAIMS.UPDATE", jwt.encode(), 2000))
                await sys.close()
                assert answer["data"]["code"] == 200
                await asyncio.wait_for(agent.closed.wait(), fair(1))
                assert time.monotonic() - began < fair(1)
                assert stays.is_connected
                with pytest.raises(ConnectFailed, match="(?i)authorization"):
                    await NatsBus.connect(home.nats_url(), (one.jwt, one.seed), one.host_id)
            # Still so after the bus restarts with the account it was first configured with.
            await server.stop()
            await server.start()
            with pytest.raises(ConnectFailed, match="(?i)authorization"):
                await NatsBus.connect(home.nats_url(), (one.jwt, one.seed), one.host_id)
            # A person may let the same key in again: the new JWT is younger than the revocation.
            await until(lambda: int(time.time()) > revoked_s)
            one.jwt = agent_user_jwt(home, one.host_id, one.public_key)
            async with connected_agent(home, one) as back:
                assert back.is_connected

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("user", "allowed", "forbidden"),
    [
        ("dispatcher", ["evt.dispatch", "lead.dispatcher"], ["evt.request", "evt.result", "evt.host", "evt.access"]),
        ("result-recorder", ["evt.result"], ["evt.dispatch", "evt.request", "rpt.h1", "lead.dispatcher"]),
        ("gateway", ["evt.request", "evt.host", "evt.access"], ["evt.dispatch", "evt.result", "lead.dispatcher"]),
        ("keeper", ["evt.archive", "lead.keeper"], ["evt.dispatch", "evt.request", "evt.access", "lead.dispatcher"]),
        ("reporter", [], ["evt.dispatch", "evt.result", "evt.request", "evt.host"]),
        ("operator", [], ["evt.dispatch", "evt.result", "evt.request", "evt.host", "rpt.h1", "out.h1.0"]),
    ],
)
def test_a_service_writes_only_its_own_subjects(home, user, allowed, forbidden):
    async def scenario():
        async with connected(home, user, append_seconds=0.3) as bus:
            for subject in allowed:
                assert await bus.append(message(subject)) > 0
            for subject in forbidden:
                with pytest.raises(AppendUnsettled):
                    await bus.append(message(subject))

    asyncio.run(scenario())


@pytest.mark.parametrize("user", ["dispatcher", "result-recorder", "reporter", "gateway", "operator"])
def test_no_running_service_may_change_delete_or_purge_a_stream(home, user):
    async def scenario():
        async with connected(home, user) as bus:
            calls = (
                "STREAM.DELETE.EVENTS", "STREAM.UPDATE.EVENTS", "STREAM.PURGE.EVENTS", "STREAM.MSG.DELETE.EVENTS",
                "STREAM.CREATE.MORE", "STREAM.DELETE.OBJ_BLOBS", "STREAM.PURGE.REPORTS",
                f"CONSUMER.DELETE.REPORTS.{subjects.RECORDER_CONSUMER}",
            )
            tried = [f"$JS.API.{call}" for call in calls]
            assert await let_through(bus, *tried, "$SYS.REQ.CLAIMS.UPDATE") == []

    asyncio.run(scenario())


def test_only_the_keeper_may_prune_and_nothing_but_the_log(home):
    async def scenario():
        async with connected(home, "keeper") as bus:
            calls = (
                "STREAM.DELETE.EVENTS", "STREAM.UPDATE.EVENTS", "STREAM.MSG.DELETE.EVENTS", "STREAM.PURGE.REPORTS",
                "STREAM.PURGE.OUTPUT", "STREAM.PURGE.LEADERS", "STREAM.CREATE.MORE", "STREAM.PURGE.OBJ_BLOBS",
            )
            tried = [f"$JS.API.{call}" for call in calls]
            assert await let_through(bus, *tried, "$SYS.REQ.CLAIMS.UPDATE") == []
            assert await bus.purge("EVENTS", "evt.none", 1) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("user", ["reporter", "result-recorder", "keeper", "gateway", "operator"])
def test_only_the_dispatcher_speaks_to_agents(home, user):
    async def scenario():
        async with agents(home) as (one, agent, _, _), connected(home, user) as bus:
            heard = []

            async def push(_subject, body, _reply):
                heard.append(body)

            await agent.subscribe(subjects.push(one.host_id), push)
            await bus.publish(subjects.push(one.host_id), b"not from the dispatcher")
            async with connected(home, "dispatcher") as dispatcher:
                await dispatcher.publish(subjects.push(one.host_id), b"from the dispatcher")
                await until(lambda: heard)
            assert heard == [b"from the dispatcher"]

    asyncio.run(scenario())


def test_a_message_of_the_log_cannot_be_deleted_even_by_who_manages_streams(home):
    async def scenario():
        from fleetlog_runtime.shell.home import admin_credentials

        jwt, seed = admin_credentials(home)
        admin = await NatsBus.connect(home.nats_url(), (jwt, seed), "admin", inbox_prefix="_INBOX_admin")
        async with connected(home, "gateway") as gateway:
            seq = await gateway.append(message("evt.request"))
        answer = json.loads(await admin.request("$JS.API.STREAM.MSG.DELETE.EVENTS", b'{"seq":%d}' % seq, 2000))
        await admin.close()
        assert "delete" in answer["error"]["description"]

    asyncio.run(scenario())
