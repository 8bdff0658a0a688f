"""Forged, foreign and malformed messages on the bus of a working system: refused, told, and without effect.

Every forgery is right in all but one thing, and a message that is right in everything shows that it is that one
thing which stops it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleetlog.client import new_task_id
from fleetlog_runtime.pure.bus import AppendUnsettled, Batch, Draft, NotFound
from fleetlog_runtime.pure.signing import Signer
from fleetlog_runtime.shell.health import ask_health
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_schemas import events, host_events, pushes, reports, subjects, tokens, wire
from fleetlog_schemas.outcomes import Outcome, Ran
from fleetlog_schemas.spec import Options, Shell
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Fleet, Host, as_agent, now_ms
from fleetlog_testing.homes import connected
from fleetlog_testing.waiting import until

NAMES = ("honest", "traitor", "pushed", "bystander")
REFUSALS_S_MAX = 150
"""Refusals are told when their minute is over, looked for four times a minute; and the machine is busy."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = Fleet(tmp_path_factory.mktemp("forged"))
    try:
        asyncio.run(running.start(*NAMES, role="worker"))
        for name in ("liar", "mumbler"):
            running.join(name)  # a key that lets its holder in, and no agent
        yield running
    finally:
        running.close()


def one(subject: str, body: bytes, message_id: str = "") -> Batch:
    return Batch(drafts=(Draft(subject, body),), message_id=message_id)


def end(fleet: Fleet, task_id: str, host: Host, outcome: Outcome = Outcome.SUCCESS, token: str = "") -> reports.ReportEnded:
    """Return what an agent says of a command that ended; the token is right unless another is given."""
    key = fleet.home.secret("token")
    return reports.ReportEnded(
        task_id=task_id, attempt=1, outcome=outcome, ran=Ran.YES, exit_code=0, token_key_id=tokens.key_id(key),
        token=token or tokens.attempt_token(key, task_id, host.host_id, 1),
    )


def report(*items: Any) -> bytes:
    return wire.encode(reports.Report(report_id=os.urandom(8).hex(), epoch=1, counter=1, items=items))


def waits_for(path: Path, exit_code: int = 0) -> Shell:
    return Shell(argv=("/bin/sh", "-c", f"while [ ! -e {path} ]; do sleep 0.05; done; exit {exit_code}"))


async def recorded(fleet: Fleet, looker: NatsBus) -> None:
    """Wait until recorders have taken everything that is stored for them."""
    last = (await looker.state(subjects.REPORTS)).last_seq

    async def taken() -> list[bool]:
        state = await looker.state(subjects.REPORTS)
        return [True] if state.first_seq > last else []

    found: list[bool] = await until(taken, END_S_MAX, "every report is taken", LOOK_S)
    assert found


# --- reports -------------------------------------------------------------------------------------------------------


def test_no_forged_report_ends_a_command_and_the_true_end_stands(fleet: Fleet) -> None:
    honest, traitor = fleet.hosts["honest"], fleet.hosts["traitor"]
    go = fleet.folder / "go-reports"

    async def scenario() -> None:
        task_id = await fleet.submit(waits_for(go, exit_code=7), "honest or traitor")
        await running(fleet, task_id, 2)
        async with as_agent(traitor) as bad, connected(fleet.home, "operator") as looker:
            for body in (
                report(end(fleet, task_id, honest)),  # a right token, of another host: the host is that of the subject
                report(end(fleet, task_id, traitor, token="0" * 32)),
                report(msgspec.structs.replace(end(fleet, task_id, traitor), token_key_id="unknown")),
                report(msgspec.structs.replace(end(fleet, task_id, traitor), attempt=2)),
                os.urandom(2_000),
                b"",
                msgspec.msgpack.encode({"report_id": "x", "epoch": 1, "counter": 1, "items": [{"report": "ended"}]}),
            ):
                await bad.append(one(subjects.report(traitor.host_id), body))
            with pytest.raises(AppendUnsettled):
                await asyncio.wait_for(
                    bad.append(one(subjects.report(honest.host_id), report(end(fleet, task_id, honest)))), 10
                )
            await recorded(fleet, looker)
        view = fleet.client.show(task_id)
        assert {command.state for command in view.commands} == {"running"}, view
        go.touch()
        (view,) = await fleet.ended(task_id)
        assert [(one.outcome, one.attempts[0].exit_code, one.attempts[0].late) for one in view.commands] == [
            ("failure", 7, ()), ("failure", 7, ()),
        ]

    asyncio.run(scenario())


async def running(fleet: Fleet, task_id: str, hosts: int) -> None:
    await until(
        lambda: fleet.client.show(task_id).counts.get("running") == hosts, END_S_MAX, f"{task_id} runs", LOOK_S
    )


def test_a_report_that_is_replayed_changes_nothing_and_one_that_contradicts_is_late(fleet: Fleet) -> None:
    honest, traitor = fleet.hosts["honest"], fleet.hosts["traitor"]
    subject = subjects.report(honest.host_id)

    async def genuine(looker: NatsBus, task_id: str) -> bytes:
        """Return the bytes of the report that ends a task, from where it waits for a recorder."""

        async def waits() -> list[bytes]:
            try:
                stored = await looker.get_last(subjects.REPORTS, subject)
            except NotFound:
                return []
            return [stored.body] if task_id.encode() in stored.body and b"ended" in stored.body else []

        found: list[bytes] = await until(waits, END_S_MAX, "the report waits", LOOK_S)
        return found[0]

    async def scenario() -> None:
        async with connected(fleet.home, "operator") as looker, as_agent(honest) as ours, as_agent(traitor) as theirs:
            recorder = fleet.pid("result-recorder")
            os.kill(recorder, signal.SIGSTOP)
            try:
                task_id = await fleet.submit(fleet.judge.command("true"), "honest")
                body = await genuine(looker, task_id)
            finally:
                os.kill(recorder, signal.SIGCONT)
            before = await fleet.ended(task_id)
            await theirs.append(one(subjects.report(traitor.host_id), body))
            for name in ("replayed", "replayed again"):
                await ours.append(one(subject, body, name))
            await recorded(fleet, looker)
            assert await fleet.ended(task_id) == before
            await ours.append(one(subject, report(end(fleet, task_id, honest, Outcome.FAILURE))))
            await recorded(fleet, looker)
            (after,) = await fleet.ended(task_id)
            assert after.outcome == "success"
            assert [late.outcome for late in after.commands[0].attempts[0].late] == ["failure"]
            fleet.judge.agrees([after])

    asyncio.run(scenario())


def test_refused_reports_are_an_alert_of_the_host_that_sent_them_and_of_no_other(fleet: Fleet) -> None:
    mumbler = fleet.hosts["mumbler"]

    def told() -> dict[str, int]:
        """Return what was told, by reason: two events when the minute ended in between."""
        sums: dict[str, int] = {}
        for event in fleet.log():
            if isinstance(event.data, host_events.ReportsRefused) and event.data.host_id == mumbler.host_id:
                for reason, count in event.data.counts.items():
                    sums[reason] = sums.get(reason, 0) + count
        return sums

    async def scenario() -> None:
        async with as_agent(mumbler) as bus:
            for _ in range(3):
                await bus.append(one(subjects.report(mumbler.host_id), b"garbage"))
            forged = report(end(fleet, new_task_id(), mumbler, token="made up"))
            await bus.append(one(subjects.report(mumbler.host_id), forged))
        await until(lambda: told() == {"form": 3, "token": 1}, REFUSALS_S_MAX, "the refusals are told", 1.0)
        await until(lambda: fleet.shown("mumbler")["refusals"], END_S_MAX, "the refusal is shown", LOOK_S)
        refusal = fleet.shown("mumbler")["refusals"][-1]
        assert refusal["code"] == "reports-refused"
        assert refusal["message"].startswith("reports refused in one minute: ")
        listed = {line.split()[0]: line for line in fleet.run("host", "ls").stdout.splitlines()}
        assert "reports-refused" in listed["mumbler"]
        assert "reports-refused" not in listed["bystander"]
        assert refusal["message"] in fleet.run("host", "show", "mumbler").stdout

    asyncio.run(scenario())


# --- pushes --------------------------------------------------------------------------------------------------------


class Forger:
    """Somebody with the dispatcher's credentials on the bus, and, where it is said, with the signing key."""

    def __init__(self, fleet: Fleet, bus: NatsBus, host: Host) -> None:
        self.fleet, self.bus, self.host = fleet, bus, host
        self.key = fleet.home.signer()
        self.witness = fleet.folder / "forged"

    def start(self, what: str) -> pushes.StartPush:
        """Return a push that an honest dispatcher could have sent: it writes *what*."""
        epoch = max(
            session.epoch
            for event in self.fleet.log() if isinstance(event.data, host_events.SessionsOpened)
            for session in event.data.sessions if session.host_id == self.host.host_id
        )
        task_id, key = new_task_id(), self.fleet.home.secret("token")
        start = pushes.StartAttempt(
            task_id=task_id, attempt=1, payload=Shell(argv=("/bin/sh", "-c", f"echo {what} >> {self.witness}")),
            options=Options(), timeout_ms=10_000, token=tokens.attempt_token(key, task_id, self.host.host_id, 1),
            token_key_id=tokens.key_id(key), submitted_by="nobody",
        )
        seq = int(self.fleet.gateway.get("/log", limit=1)["seq"])
        return pushes.StartPush(
            host_id=self.host.host_id, epoch=epoch, expires_ms=now_ms() + 30_000, seq=seq, attempts=(start,)
        )

    async def send(self, push: pushes.Push, signer: Signer | None = None, **changed: Any) -> None:
        signed = (signer or self.key).sign(wire.encode(push))
        await self.bus.publish(
            subjects.push(self.host.host_id), wire.encode(msgspec.structs.replace(signed, **changed))
        )


def test_an_agent_obeys_only_what_is_signed_meant_for_it_and_of_now(fleet: Fleet) -> None:
    host, go = fleet.hosts["pushed"], fleet.folder / "go-pushes"
    replace = msgspec.structs.replace

    async def scenario() -> None:
        task_id = await fleet.submit(waits_for(go), "pushed")
        await running(fleet, task_id, 1)
        async with connected(fleet.home, "dispatcher") as bus:
            forger, stranger = Forger(fleet, bus, host), Signer(os.urandom(32))
            await forger.send(forger.start("unknown key"), stranger)
            await forger.send(forger.start("known key id, other key"), stranger, key_id=forger.key.key_id)
            await forger.send(forger.start("no signature"), signature=b"")
            await forger.send(forger.start("changed"), payload=wire.encode(forger.start("changed afterwards")))
            await forger.send(replace(forger.start("expired"), expires_ms=now_ms() - 60_000))
            await forger.send(replace(forger.start("other host"), host_id=fleet.hosts["honest"].host_id))
            await forger.send(replace(forger.start("older epoch"), epoch=0))
            await forger.send(replace(forger.start("below the newest"), seq=1))
            for body in (b"", os.urandom(500), wire.encode(forger.start("not wrapped"))):
                await bus.publish(subjects.push(host.host_id), body)
            cancel = pushes.CancelPush(
                host_id=host.host_id, epoch=forger.start("").epoch, expires_ms=now_ms() + 30_000,
                seq=forger.start("").seq, attempts=(pushes.NamedAttempt(task_id=task_id, attempt=1),),
            )
            await forger.send(cancel, stranger)
            await forger.send(forger.start("right"))
            await until(forger.witness.exists, END_S_MAX, "what is right in everything is obeyed")
        # The bus kept their order: what came before the right one was heard, and is not done.
        go.touch()
        (view,) = await fleet.ended(task_id)
        assert view.outcome == "success", "a forged cancel was obeyed"
        fleet.judge.agrees(await fleet.ended(await fleet.submit(fleet.judge.command("true"), "pushed")))
        assert forger.witness.read_text() == "right\n"
        said = host.diagnostics()
        for reason in ("which is not trusted here", "the signature does not fit", "is meant for host", "cannot be read"):
            assert reason in said

    asyncio.run(scenario())


def test_an_invented_reply_subject_puts_nothing_under_another_name_and_moves_nobody(fleet: Fleet) -> None:
    liar, victim = fleet.hosts["liar"], fleet.hosts["bystander"]
    targets = (
        subjects.report(victim.host_id), subjects.output(victim.host_id, 0), subjects.heartbeat(victim.host_id),
        subjects.session(victim.host_id), subjects.push(victim.host_id), subjects.blob(victim.host_id),
        events.DISPATCH, events.RESULT, subjects.leader("dispatcher"),
    )

    async def scenario() -> None:
        async with as_agent(liar) as bus, connected(fleet.home, "operator") as looker:
            await recorded_or_idle(looker)
            before = await last_seqs(looker)
            for number, target in enumerate(targets):
                await bus.publish(subjects.report(liar.host_id), b"bait", target)
                await bus.publish(subjects.output(liar.host_id, 0), b"bait", target)
                request = reports.OpenSession(
                    nonce=f"bait {number}", ticket="", boot_id="bait", version="1", counter=0, held=()
                )
                await bus.publish(subjects.session(liar.host_id), wire.encode(request), target)
                asked = reports.BlobRequest(sha256="0" * 64, token="bait", offset=0)
                await bus.publish(subjects.blob(liar.host_id), wire.encode(asked), target)

            async def all_stored() -> list[bool]:
                return [True] if (await last_seqs(looker))[0] >= before[0] + len(targets) else []

            stored: list[bool] = await until(all_stored, END_S_MAX, "the bait is stored", LOOK_S)
            assert stored
            # The victim works on, and by then everything above has gone where it goes.
            views = await fleet.ended(await fleet.submit(fleet.judge.command("true"), "bystander"))
            assert views[0].outcome == "success"
            fleet.judge.agrees(views)
            await nothing_of_another(looker, before)
        sessions = [
            session for event in fleet.log() if isinstance(event.data, host_events.SessionsOpened)
            for session in event.data.sessions if session.host_id == victim.host_id
        ]
        assert len(sessions) == 1, "nobody but the victim opens its sessions, and it had no reason to"
        assert fleet.shown("bystander")["presence"] == "online"
        # What the dispatcher signed for the liar did reach the victim, who sees that it is no push.
        assert "cannot be read" in victim.diagnostics()

    async def last_seqs(looker: NatsBus) -> tuple[int, int]:
        stored, output = await looker.state(subjects.REPORTS), await looker.state(subjects.OUTPUT)
        return stored.last_seq, output.last_seq

    async def nothing_of_another(looker: NatsBus, before: tuple[int, int]) -> None:
        for message in await looker.get_range(subjects.OUTPUT, before[1] + 1, 1_000):
            frame_of_victim = message.subject.startswith(f"out.{victim.host_id}.")
            assert not frame_of_victim or wire.decode(message.body, reports.Frame).task_id, message
        for event in fleet.log():
            assert "bait" not in str(event.data) or isinstance(event.data, host_events.SessionsOpened), event
        assert "bait" not in fleet.diagnostics("result-recorder")
        refused = [json.loads(line) for line in fleet.diagnostics("result-recorder").splitlines()]
        assert victim.host_id not in {line.get("host_id") for line in refused}

    asyncio.run(scenario())


async def recorded_or_idle(looker: NatsBus) -> None:
    """Wait until no report waits."""

    async def idle() -> list[bool]:
        state = await looker.state(subjects.REPORTS)
        return [True] if state.first_seq > state.last_seq else []

    found: list[bool] = await until(idle, END_S_MAX, "no report waits", LOOK_S)
    assert found


# --- the log -------------------------------------------------------------------------------------------------------


def unknown_event() -> bytes:
    return json.dumps(
        {
            "specversion": "1.0", "id": "unknown", "source": "/fleetlog/gateway/newer", "data": {"x": 1},
            "type": "fleetlog.unheard.of.v1", "time": "2030-01-01T00:00:00Z",
        }
    ).encode()


def wrong_data(kind: str) -> bytes:
    return unknown_event().replace(b"fleetlog.unheard.of.v1", kind.encode())


def test_what_is_malformed_in_the_log_is_parked_with_an_alarm_and_everything_goes_on(fleet: Fleet) -> None:
    malformed = (
        ("gateway", events.REQUEST, b""), ("gateway", events.REQUEST, b"garbage \xff\xfe"),
        ("gateway", events.REQUEST, wrong_data("fleetlog.task.submitted.v1")),
        ("gateway", events.HOST, b"[" * 50_000), ("gateway", events.ACCESS, b'{"specversion":"0.3"}'),
        ("dispatcher", events.DISPATCH, wrong_data("fleetlog.attempt.dispatched.v1")),
        ("dispatcher", events.DISPATCH, b"\x00" * 100), ("result-recorder", events.RESULT, b"null"),
    )

    async def parked(bus: NatsBus, service: str) -> int:
        return (await ask_health(bus, service, 5_000)).parked

    async def scenario() -> None:
        async with connected(fleet.home, "operator") as asker:
            before = {name: await parked(asker, name) for name in ("dispatcher", "reporter")}
            running_before = await fleet.submit(fleet.judge.command(), "role=worker")
            seqs = []
            for user, subject, body in malformed:
                async with connected(fleet.home, user) as bus:
                    seqs.append(await bus.append(one(subject, body)))
            async with connected(fleet.home, "gateway") as bus:
                await bus.append(one(events.REQUEST, unknown_event()))
            after = await fleet.submit(fleet.judge.command(), "role=worker")
            views = await fleet.ended(running_before, after)
            assert [view.outcome for view in views] == ["success"] * 2
            fleet.judge.agrees(views)
            for name, count in before.items():
                assert await parked(asker, name) == count + len(malformed), name
        alarms = [json.loads(line) for line in fleet.diagnostics("dispatcher").splitlines()]
        assert {line["seq"] for line in alarms if line.get("alarm") is True} >= set(seqs)
        fleet.verify_projection()
        assert fleet.run("events").returncode == 0
        assert fleet.run("replay", after, "-o", "json").stdout == fleet.run("show", after, "-o", "json").stdout
        # A dispatcher and a reporter that read it all again pass over the same.
        for part in ("dispatcher", "reporter"):
            await fleet.restarted(part, fleet.kill(part))
        views = await fleet.ended(await fleet.submit(fleet.judge.command("true"), "role=worker"))
        assert views[0].outcome == "success"
        fleet.judge.agrees(views)
        fleet.verify_projection()

    asyncio.run(scenario())
