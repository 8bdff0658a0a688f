"""Storage on bad days: full disks, emptied and damaged files, each with the real program on a real small disk.

What is promised is in docs/guarantees.md: what was acknowledged stays, what cannot be stored is said, and everything
goes on by itself when there is room again. The log is never begun anew behind anybody's back.
"""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fleetlog.exits import CliError
from fleetlog_agent.journal import Journal, read_journal
from fleetlog_agent.journal_records import Commit
from fleetlog_reporter.store import FILE_NAME, position_of
from fleetlog_runtime.pure.bus import AppendUnsettled, Batch, Draft
from fleetlog_runtime.pure.engine import Snapshot
from fleetlog_runtime.shell import nats_config, snapshots
from fleetlog_runtime.shell.home import create_home
from fleetlog_runtime.shell.supervisor import NatsServer, ServerError
from fleetlog_schemas.limits import DISK_HEADROOM_BYTES
from fleetlog_testing.disks import fill, make_room, protect, small_disk
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Fleet
from fleetlog_testing.homes import connected
from fleetlog_testing.nats import real_server
from fleetlog_testing.reporter_rig import LogBus, reporter
from fleetlog_testing.server import Server
from fleetlog_testing.waiting import until

CHANGES_MAX = 100
BUS_DISK_MB = 512
"""The least that streams reserve is 336 MiB of it."""


# --- the bus -------------------------------------------------------------------------------------------------------


def test_a_bus_whose_disk_was_full_stores_again_by_itself_and_has_lost_nothing_acknowledged(tmp_path: Path) -> None:
    with small_disk(tmp_path / "home" / "nats", BUS_DISK_MB) as disk:
        asyncio.run(full_and_empty(tmp_path / "home", disk))


async def full_and_empty(home: Path, disk: Path) -> None:
    server = NatsServer(create_home(home))
    await server.start()
    watching = asyncio.create_task(server.watch())
    try:
        async with connected(server.home, "dispatcher", append_seconds=1.0) as bus:
            acknowledged: list[int] = []

            async def append() -> bool:
                try:
                    acknowledged.append(await bus.append(Batch(drafts=(Draft("evt.dispatch", b"x" * 30_000),), message_id="")))
                except AppendUnsettled:
                    return False
                return True

            # when the disk fills up in the middle of the log
            fill(disk, 2 * 1024 * 1024)
            while await append():
                assert len(acknowledged) < 1000
            first_pid = server.pid
            assert not await append(), "nothing is acknowledged that is not on disk"
            # then it goes on when there is room, without anybody's help
            make_room(disk)
            await until(append, END_S_MAX, "the bus stores again")
            assert server.pid != first_pid
            for seq in acknowledged:
                assert (await bus.get("EVENTS", seq)).body == b"x" * 30_000
    finally:
        watching.cancel()
        await server.stop()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path)
    try:
        yield running
    finally:
        running.close()


@pytest.mark.timeout(240)
def test_with_little_disk_left_new_tasks_are_refused_and_results_still_fit(tmp_path: Path) -> None:
    with small_disk(tmp_path / "server" / "nats", BUS_DISK_MB) as disk:
        fleet = Fleet(tmp_path)
        try:
            asyncio.run(nearly_full(fleet, disk))
        finally:
            fleet.close()


async def nearly_full(fleet: Fleet, disk: Path) -> None:
    await fleet.start("web01")
    gate = fleet.folder / "gate"
    running = await fleet.submit(fleet.judge.command(f"while [ ! -e {gate} ]; do sleep 0.05; done"))
    await fleet.began(running, 1)
    # when
    fill(disk, DISK_HEADROOM_BYTES // 2)
    # then what is new is refused, and says what to do
    with pytest.raises(CliError, match="nearly full.*free some space"):
        await fleet.submit(fleet.judge.command("true"))
    doctor = json.loads(fleet.run("doctor", "-o", "json").stdout)
    assert [one["state"] for one in doctor if one["check"] == "disk" and str(disk) in one["found"]] == ["bad"]
    # and what runs is recorded to its end
    gate.touch()
    (ended,) = await fleet.ended(running)
    assert ended.outcome == "success"
    # and new tasks are taken as soon as there is room
    make_room(disk)
    # when there is none at all, and a command ends meanwhile
    writing = await fleet.submit(fleet.judge.command(f"while [ -e {gate} ]; do sleep 0.05; done"))
    await fleet.began(writing, 1)
    fill(disk, 0)
    await asyncio.to_thread(until_nothing_is_stored, fleet)
    gate.unlink()
    await until(lambda: "the disk of the bus is full" in fleet.diagnostics("up"), END_S_MAX, "it is said", LOOK_S)
    # then it is recorded as it ended once there is room again, with nobody's help
    make_room(disk)
    (late,) = await fleet.ended(writing)
    assert late.outcome == "success"
    (later,) = await fleet.ended(await fleet.submit(fleet.judge.command("true")))
    assert later.outcome == "success"
    fleet.judge.agrees([ended, late, later])
    fleet.verify_projection()


def until_nothing_is_stored(fleet: Fleet) -> None:
    """Change something small until it is not acknowledged: what is left of a block's last page takes a few."""
    at = f"/hosts/{fleet.hosts['web01'].host_id}/labels"
    with pytest.raises(CliError):  # noqa: PT012 - one of them, nobody knows which
        for number in range(CHANGES_MAX):
            fleet.gateway.post(at, {"labels": {"number": f"{number}" * 20}})


# --- a log that went away ------------------------------------------------------------------------------------------


def stopped(folder: Path) -> Fleet:
    """Return a system that has run and was stopped."""
    fleet = Fleet(folder)
    asyncio.run(fleet.start())
    for number in range(3):
        fleet.gateway.post("/hosts", {"name": f"host{number}"})
    fleet.close()
    return fleet


def refused_to_start(fleet: Fleet) -> str:
    """Start it and return what it says instead."""
    started = fleet.run("up", "--processes", "--no-agent", "--port", "0")
    assert started.returncode == 6, started.stderr
    assert "Traceback" not in started.stderr
    return started.stderr


def test_a_log_that_was_emptied_or_is_shorter_than_what_was_derived_from_it_is_not_begun_anew(tmp_path: Path) -> None:
    fleet = stopped(tmp_path)
    storage = fleet.home.path / "nats" / "jetstream"
    whole = shutil.copytree(storage, tmp_path / "whole")
    # when its storage is emptied
    shutil.rmtree(storage)
    # then nothing starts, twice, and it says what to do
    for _ in range(2):
        said = refused_to_start(fleet)
        assert "there is no log" in said
        assert "fleetlog backup restore" in said
    # and the same when not even the folder of the bus is left
    shutil.rmtree(fleet.home.path / "nats")
    assert "what was derived from it knows" in refused_to_start(fleet)
    # and with its storage back it goes on
    shutil.rmtree(storage)
    shutil.copytree(whole, storage)
    asyncio.run(fleet.start())
    assert fleet.log()[-1].seq >= 3
    fleet.close()


def test_a_log_that_was_set_back_is_refused_and_what_is_left_can_be_saved_and_restored(tmp_path: Path) -> None:
    fleet = stopped(tmp_path)
    storage = fleet.home.path / "nats" / "jetstream"
    earlier = shutil.copytree(storage, tmp_path / "earlier")
    asyncio.run(fleet.start())
    for number in range(3, 6):
        fleet.gateway.post("/hosts", {"name": f"host{number}"})
    fleet.close()
    # when an older copy of the storage was put in place
    shutil.rmtree(storage)
    shutil.copytree(earlier, storage)
    # then
    said = refused_to_start(fleet)
    assert "the log ends at" in said
    assert "fleetlog backup create" in said
    # and the way out that it names works
    assert fleet.run("backup", "create", str(tmp_path / "left")).returncode == 0
    shutil.rmtree(fleet.home.path)
    assert fleet.run("backup", "restore", str(tmp_path / "left")).returncode == 0
    asyncio.run(fleet.start())
    fleet.close()


def test_a_server_whose_storage_is_emptied_under_it_is_not_restarted_on_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = NatsServer(create_home(tmp_path / "home"))
        await server.start()
        watching = asyncio.create_task(server.watch())
        try:
            shutil.rmtree(server.home.path / "nats" / "jetstream")
            assert server._process is not None
            server._process.kill()
            with pytest.raises(ServerError, match="there is no log"):
                await asyncio.wait_for(watching, END_S_MAX)
        finally:
            watching.cancel()
            await server.stop()

    asyncio.run(scenario())


# --- the projection ------------------------------------------------------------------------------------------------


def test_a_projection_without_room_waits_for_it_and_is_equal_afterwards(tmp_path: Path) -> None:
    bus = LogBus()

    async def scenario(disk: Path) -> None:
        async with reporter(bus, disk) as running:
            fill(disk, 0)
            for number in range(300):
                bus.planned("web01", name=f"{number}", argv=("echo", f"{number}" * 3_000))
            # Questions are answered from what was folded; the tables stay behind.
            last_seq = (await running.ask("stats")).seq
            assert running.health.notes["committed"] < last_seq
            make_room(disk)
            await until(lambda: running.health.notes["committed"] == last_seq, END_S_MAX, "the tables have caught up")
            assert (await running.data("verify"))["equal"]

    with small_disk(tmp_path / "reporter", 64) as disk:
        asyncio.run(scenario(disk))


@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_a_projection_that_cannot_even_be_made_is_made_as_soon_as_its_disk_takes_it(
    tmp_path: Path, trouble: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bus = LogBus()
    task_id = bus.whole("web01")

    async def scenario(disk: Path) -> None:
        fill(disk, 0) if trouble == "full" else protect(disk, on=True)
        room = asyncio.create_task(room_once_it_was_said(disk))
        async with reporter(bus, disk) as running:
            assert (await running.data("task", task_id=task_id))["state"] == "ended"
            assert (await running.data("verify"))["equal"]
        await room

    async def room_once_it_was_said(disk: Path) -> None:
        said = ""

        def was_said() -> bool:
            nonlocal said
            said += "".join(capsys.readouterr())
            return "projection-not-writable" in said

        await until(was_said, END_S_MAX, "it is said")
        make_room(disk) if trouble == "full" else protect(disk, on=False)

    with small_disk(tmp_path / "reporter", 64) as disk:
        asyncio.run(scenario(disk))


def test_a_projection_deleted_under_a_running_reporter_answers_on_and_is_built_anew_at_the_next_start(tmp_path: Path) -> None:
    bus = LogBus()
    task_id = bus.whole("web01")

    async def scenario() -> None:
        async with reporter(bus, tmp_path) as running:
            (tmp_path / FILE_NAME).unlink()
            before = await running.data("task", task_id=task_id)
        async with reporter(bus, tmp_path) as running:
            assert await running.data("task", task_id=task_id) == before
            assert (await running.data("verify"))["equal"]

    asyncio.run(scenario())


# --- what doctor sees ---------------------------------------------------------------------------------------------


def findings(fleet: Fleet, check: str) -> list[tuple[str, str]]:
    """Return what a check of `doctor` found: its state, and what it says."""
    return [(one["state"], one["found"] + " " + one["todo"]) for one in json.loads(fleet.run("doctor", "-o", "json").stdout)
            if one["check"] == check]


def test_doctor_names_keys_that_others_may_read_and_settings_that_others_may_change(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    home = create_home(fleet.home.path)
    assert [state for state, _ in findings(fleet, "modes")] == ["ok"]
    (home.path / "settings.toml").write_text("")
    (home.path / "settings.toml").chmod(0o666)
    (home.path / "keys" / "ticket.key").chmod(0o640)
    wrong = findings(fleet, "modes")
    assert [state for state, _ in wrong] == ["bad", "bad"]
    assert any("chmod go= " in text and "ticket.key" in text for _, text in wrong)
    assert any("chmod go-w " in text and "settings.toml" in text for _, text in wrong)


@pytest.mark.parametrize(("interval", "state"), [("always", "ok"), ('"2m"', "bad")])
def test_doctor_asks_the_bus_whether_it_flushes_before_it_acknowledges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interval: str, state: str
) -> None:
    usual = nats_config.server_config
    monkeypatch.setattr(
        "fleetlog_runtime.shell.supervisor.server_config",
        lambda *args, **fields: usual(*args, **fields).replace("sync_interval: always", f"sync_interval: {interval}"),
    )
    with real_server(tmp_path) as home:
        fleet = Fleet(tmp_path)
        fleet.servers = [Server(home.path, tmp_path / "up.log", fleet.environment)]
        assert [found for found, _ in findings(fleet, "bus")] == [state]


# --- journals and snapshots ----------------------------------------------------------------------------------------


def test_a_journal_without_room_says_so_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with small_disk(tmp_path / "agent", 4) as disk:
        journal = Journal(disk / "journal")
        fill(disk, 64 * 1024)
        written = until_full(journal)
        assert written > 10
        assert read_journal(journal.path)[0].counter == written, "what is on disk is what was said to be"
        make_room(disk)
        journal.append(Commit(counter=written + 1, records=()))
        journal.close()
        again = Journal(journal.path)
        assert (again.state.counter, again.torn_bytes) == (written + 1, 0)
        again.close()


@pytest.mark.timeout(240)
def test_what_does_not_fit_on_a_hosts_disk_ends_as_an_error_that_never_ran(tmp_path: Path) -> None:
    with small_disk(tmp_path / "web01", 8) as disk:
        fleet = Fleet(tmp_path)
        try:
            asyncio.run(full_host(fleet, disk))
        finally:
            fleet.close()


async def full_host(fleet: Fleet, disk: Path) -> None:
    await fleet.start("web01")
    (before,) = await fleet.ended(await fleet.submit(fleet.judge.command("true")))
    # when there is room for the agent but not for what the command needs
    content = b"x" * 3_000_000
    fill(disk, 1024 * 1024)
    blob = fleet.client.put_blob(content, "stdin")
    (failed,) = await fleet.ended(await fleet.submit(fleet.judge.command("true"), options={"stdin": blob}))
    # then it never ran, and the reason is said
    assert failed.outcome == "error"
    (attempt,) = failed.commands[0].attempts
    assert "No space left" in (attempt.error or "")
    assert fleet.judge.began(failed.task_id) == 0
    # and the next one runs once there is room
    make_room(disk)
    (later,) = await fleet.ended(await fleet.submit(fleet.judge.command("true")))
    assert later.outcome == "success"
    fleet.judge.agrees([before, later])


def until_full(journal: Journal) -> int:
    """Append commits until the disk refuses one, and return the last that was on disk."""
    for counter in range(1, 100_000):
        try:
            journal.append(Commit(counter=counter, records=()))
        except OSError as error:
            assert error.errno == errno.ENOSPC
            return counter - 1
    raise AssertionError("it never filled")


def test_a_snapshot_that_finds_no_room_leaves_the_former_one_and_nothing_else(tmp_path: Path) -> None:
    with small_disk(tmp_path / "snapshots", 4) as disk:
        path = disk / "dispatcher.snapshot"
        former = Snapshot(unit="dispatcher", version=1, position=77, fence_seqs={}, state=b"x" * 100)
        snapshots.write(path, former, "0" * 64)
        fill(disk, 100 * 1024)
        with pytest.raises(OSError, match="No space left"):
            snapshots.write(path, msgspec.structs.replace(former, position=78, state=b"x" * 1_000_000), "0" * 64)
        assert snapshots.position_of(path) == 77
        make_room(disk)
        assert [one.name for one in disk.iterdir()] == ["dispatcher.snapshot"]


def test_how_far_a_projection_reached_is_known_also_when_its_writer_was_killed(tmp_path: Path) -> None:
    story = (
        "import os, pathlib, sys; from fleetlog_reporter.store import FILE_NAME, Store;"
        " store = Store(pathlib.Path(sys.argv[1]) / FILE_NAME);"
        " store.connection.execute('UPDATE checkpoint SET position = 42'); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", story, str(tmp_path)], check=True)
    assert position_of(tmp_path / FILE_NAME) == 42
    (tmp_path / FILE_NAME).write_bytes(b"garbage")
    assert position_of(tmp_path / FILE_NAME) == 0


@pytest.mark.parametrize("damage", ["cut short", "garbage", "empty"])
def test_a_damaged_snapshot_says_nothing_about_the_log(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "dispatcher.snapshot"
    snapshots.write(path, Snapshot(unit="dispatcher", version=1, position=77, fence_seqs={}, state=b"x" * 100), "0" * 64)
    assert snapshots.position_of(path) == 77
    body = path.read_bytes()
    path.write_bytes({"cut short": body[: len(body) // 2], "garbage": b"\xff" * 50, "empty": b""}[damage])
    assert snapshots.position_of(path) == 0
