"""The drill: a running fleet is saved under load, its server is lost for good, and everything goes on from the copy.

Agents and commands are processes and outlive the server. The steps that people take are typed as docs/backup.md has
them. The judge is the file that commands write: nothing may run twice, whatever the restored log does not know.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from fleetlog_runtime.pure.bus import Batch, Draft
from fleetlog_runtime.shell.backup import create, seal, verify
from fleetlog_runtime.shell.home import create_home
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_runtime.shell.restore import restore
from fleetlog_runtime.shell.supervisor import NatsServer
from fleetlog_schemas import host_events
from fleetlog_schemas.view import TaskView
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Fleet
from fleetlog_testing.homes import connected
from fleetlog_testing.nats import running_server
from fleetlog_testing.tree import ROOT
from fleetlog_testing.waiting import until

NAMES = ("web01", "web02", "web03")
BUILD = ("build", "-t", "web01", "--step", "echo built > app", "--artifact", "app")
LOAD_TASKS_MAX = 200
COPIES = 8
BATCH_PAUSE_S = 0.02
"""So that the log that each copy reads stays short."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    running = Fleet(tmp_path)
    try:
        yield running
    finally:
        running.close()


def raw_log(fleet: Fleet, last_seq: int) -> list[tuple[int, str, bytes]]:
    """Return the stored messages of the log through a sequence, byte for byte."""
    return [(one.seq, one.subject, bytes(one.event)) for one in fleet.client.read_log() if one.seq <= last_seq]


async def under_load(fleet: Fleet, stop: asyncio.Event) -> list[str]:
    """Submit small tasks until *stop*."""
    task_ids: list[str] = []
    while not stop.is_set() and len(task_ids) < LOAD_TASKS_MAX:
        task_ids.append(await fleet.submit(fleet.judge.command("true"), target="web0[1-3]"))
    return task_ids


def ok(fleet: Fleet, *words: str) -> str:
    """Type a command that must do its work, and return what it printed."""
    typed = fleet.run(*words)
    assert typed.returncode == 0, f"{words}: {typed.stdout}{typed.stderr}"
    return typed.stdout


async def held(fleet: Fleet, task_id: str) -> None:
    """Wait until a task is shown as paused by the restore."""
    view = await until(lambda: fleet.client.show(task_id), END_S_MAX, task_id, LOOK_S)
    assert view.hold is not None, view
    assert view.hold.kind == "paused"
    assert "restored from a backup" in view.hold.reason


def only_outcome(view: TaskView) -> set[str | None]:
    return {command.outcome for command in view.commands}


def late_outcomes(fleet: Fleet, task_id: str) -> list[str]:
    """Return the ends of a task's attempts that came after those that stand."""
    commands = fleet.client.show(task_id).commands
    return [late.outcome for command in commands for attempt in command.attempts for late in attempt.late]


@pytest.mark.timeout(300)
def test_a_lost_server_is_restored_from_a_backup_taken_under_load_and_nothing_runs_twice(fleet: Fleet) -> None:
    asyncio.run(drill(fleet))


class Work:
    """What the drill has under way."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.gates = {name: fleet.folder / f"gate-{name}" for name in ("before", "after")}
        self.waits = self.ends_before_loss = self.ends_after_loss = ""

    async def begin(self) -> None:
        """Do some work, keep some running on two hosts, and let some wait for a host that is off."""
        fleet = self.fleet
        fleet.join("asleep")
        script = fleet.folder / "greet.sh"
        script.write_text("#!/bin/sh\necho hello from a blob\n")
        ok(fleet, "run", str(script), "-t", "web0[1-3]", "--name", "greeting")
        ok(fleet, *BUILD, "--name", "built")
        ok(fleet, "file", "push", str(script), "--as", "jobs/greet.sh")
        ok(fleet, "file", "rm", "jobs/greet.sh")
        until_open = {name: f"while [ ! -e {gate} ]; do sleep 0.05; done" for name, gate in self.gates.items()}
        self.ends_before_loss = await fleet.submit(fleet.judge.command(until_open["before"]), target="web01")
        self.ends_after_loss = await fleet.submit(fleet.judge.command(until_open["after"]), target="web02")
        self.waits = await fleet.submit(fleet.judge.command("true"), target="asleep", wait_offline_ms=3_600_000)
        await fleet.began(self.ends_before_loss, 1)
        await fleet.began(self.ends_after_loss, 1)

    async def go_on(self, *loaded: str) -> None:
        """Do what the backup does not know: what waited runs, what ran ends, and there is a new task and a new host."""
        fleet = self.fleet
        fleet.hosts["asleep"].start()
        await fleet.online("asleep")
        self.gates["before"].touch()
        unknown = await fleet.submit(fleet.judge.command("true"), target="web03")
        later = await fleet.ended(unknown, self.waits, self.ends_before_loss, *loaded)
        assert all(only_outcome(view) == {"success"} for view in later)
        fleet.join("newcomer").start()
        await fleet.online("newcomer")

    async def is_not_repeated(self) -> None:
        """Require that what may have run is `lost` or was given up by a person, and that the real end is known."""
        fleet = self.fleet
        forgotten, still_held = await fleet.ended(self.ends_before_loss, self.ends_after_loss)
        assert only_outcome(forgotten) == {"lost"}
        # What its host still held when the server came back is told, before or after the verdict.
        if only_outcome(still_held) != {"success"}:
            assert only_outcome(still_held) == {"lost"}
            await until(
                lambda: late_outcomes(fleet, self.ends_after_loss) == ["success"], END_S_MAX, "the late end is shown", LOOK_S
            )
        (aborted,) = await fleet.ended(self.waits)
        assert only_outcome(aborted) == {"skipped"}


def steps(saved: Path, task_id: str) -> list[list[str]]:
    """Return the commands that docs/backup.md says to type when the server is lost."""
    section = (ROOT / "docs" / "backup.md").read_text().partition("## When the server is lost")[2]
    block = section.partition("```sh\n")[2].partition("```")[0]
    lines = [line.replace("/backups/monday", str(saved)).replace(" ID ", f" {task_id} ") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines]


async def drill(fleet: Fleet) -> None:
    # given hosts with all kinds of work, and a backup made under load
    await fleet.start(*NAMES)
    work = Work(fleet)
    await work.begin()
    saved, stop = fleet.folder / "backups" / "one", asyncio.Event()
    load = asyncio.create_task(under_load(fleet, stop))
    await asyncio.to_thread(ok, fleet, "backup", "create", str(saved))
    stop.set()
    manifest = verify(saved)
    assert manifest.hot
    await work.go_on(*await load)
    history = raw_log(fleet, manifest.log.last_seq)
    assert history[-1][0] == manifest.log.last_seq < max(event.seq for event in fleet.log())

    # when the machine is lost, and a person types what the page says
    fleet.lose_machine()
    work.gates["after"].touch()
    for words in steps(saved, work.waits):
        if words == ["up"]:
            await fleet.start()
            await before_anybody_is_accepted(fleet, work, history)
            continue
        ok(fleet, *words)
        if words[:2] == ["host", "accept"]:
            await fleet.online(*NAMES, "asleep")
    # and who joined after the backup is told to join again
    stranger = fleet.hosts["newcomer"]
    await until(lambda: "not enrolled: join it again" in stranger.diagnostics(), END_S_MAX, "the newcomer is told", LOOK_S)

    # then hosts are back, what may have run is not run again, and what is new runs, the saved script among it
    await work.is_not_repeated()
    fresh = await fleet.submit(fleet.judge.command("true"), target="web0[1-3] or asleep")
    (done,) = await fleet.ended(fresh)
    assert only_outcome(done) == {"success"}
    greeting = json.loads(ok(fleet, "ls", "--name", "greeting", "-o", "json"))["items"][0]["task_id"]
    ok(fleet, "rerun", greeting)
    assert fleet.judge.began(fresh) == 4
    assert "hello from a blob" in ok(fleet, "output", "last"), "new frames stand where the log says"
    assert "hello from a blob" in ok(fleet, "file", "show", "jobs/greet.sh", "--version", "1"), "also of a file that was removed"
    built = json.loads(ok(fleet, "ls", "--name", "built", "-o", "json"))["items"][0]["task_id"]
    assert "gone" in ok(fleet, "artifact", "ls", built)
    lost = fleet.run("artifact", "get", built, "app", "--to", "-").stderr
    assert "app is not kept any more" in lost
    assert "restored from a backup without output; what is kept begins at" in lost
    old = fleet.client.show(greeting).commands[0].attempts[0]
    assert old.tail == "hello from a blob\n", "what the log itself keeps of old output is there"
    assert not [line for line, times in fleet.judge.lines().items() if times > 1], "a command ran twice"
    sequences = [event.seq for event in fleet.log()]
    assert sequences == list(range(1, len(sequences) + 1))
    fleet.verify_projection()


async def before_anybody_is_accepted(fleet: Fleet, work: Work, history: list[tuple[int, str, bytes]]) -> None:
    """Require that the log is what it was, that every host is refused for all to see, and that what waited is held."""
    assert raw_log(fleet, history[-1][0]) == history
    for name in (*NAMES, "asleep"):
        await fleet.has(name, "refused")
        assert fleet.shown(name)["refused_code"] == "restored"
    doctor = fleet.run("doctor")
    assert doctor.returncode == 1
    assert "4 hosts refused because the log was restored" in doctor.stdout
    assert "fleetlog host accept --restored" in doctor.stdout
    await held(fleet, work.waits)
    asked = fleet.run("host", "accept", "--restored")
    assert asked.returncode == 2
    assert all(name in asked.stdout for name in (*NAMES, "asleep")), "it shows whom it would let in"
    await fleet.has("web01", "refused")


def test_a_backup_is_for_its_owner_only_and_has_no_secret_in_what_is_printed(fleet: Fleet) -> None:
    asyncio.run(fleet.start())
    saved = fleet.folder / "one"
    told = fleet.run("backup", "create", str(saved), "--with-output")
    assert told.returncode == 0, told.stderr
    open_ones = [path for path in (saved, *saved.rglob("*")) if stat.S_IMODE(path.stat().st_mode) & 0o077]
    assert open_ones == []
    secrets = [path.read_text() for path in saved.rglob("*.seed") if path.name != "signing.seed"]
    secrets.append((saved / "home" / "gateway" / "token").read_text().strip())
    assert len(secrets) > 5
    assert not [secret for secret in secrets if secret in told.stdout + told.stderr + (saved / "manifest.json").read_text()]
    assert {copy.name for copy in verify(saved).streams} == {"REPORTS", "EVENTS", "OBJ_BLOBS", "OUTPUT"}


def test_over_tls_an_agent_finds_the_restored_server_where_it_was_and_trusts_it(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path, "--listen", "0.0.0.0")
    try:
        asyncio.run(lost_over_tls(fleet, tmp_path / "one"))
    finally:
        fleet.close()


async def lost_over_tls(fleet: Fleet, saved: Path) -> None:
    # given
    await fleet.start("web01")
    pinned = {name: (fleet.home.path / name).read_bytes() for name in ("nats/port", "tls/ca.pem")}
    ok(fleet, *BUILD)
    ok(fleet, "backup", "create", str(saved), "--with-output")
    # when
    fleet.lose_machine()
    ok(fleet, "backup", "restore", str(saved))
    assert {name: (fleet.home.path / name).read_bytes() for name in pinned} == pinned
    await fleet.start()
    assert fleet.home.nats_url().startswith("tls://")
    # then
    await fleet.has("web01", "refused")
    assert ok(fleet, "artifact", "get", "last", "app", "--to", "-") == "built\n", "a backup with output has artifacts"
    ok(fleet, "host", "accept", "--restored", "--yes")
    await fleet.online("web01")
    (done,) = await fleet.ended(await fleet.submit(fleet.judge.command("true")))
    assert only_outcome(done) == {"success"}


def test_a_backup_that_was_killed_is_none_and_the_next_one_succeeds(tmp_path: Path) -> None:
    # given a stopped system, whose bus is started by the backup
    fleet = Fleet(tmp_path)
    asyncio.run(fleet.start())
    fleet.close()
    killed = subprocess.Popen(
        [sys.executable, "-m", "fleetlog.main", "--data", str(fleet.home.path), "backup", "create", str(tmp_path / "one")],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    # when
    asyncio.run(until((tmp_path / "one" / "streams").exists, END_S_MAX, "it has begun"))
    killed.kill()
    killed.wait()
    # then
    assert "not a finished backup" in fleet.run("backup", "verify", str(tmp_path / "one")).stderr
    ok(fleet, "backup", "create", str(tmp_path / "two"))
    assert verify(tmp_path / "two")
    assert fleet.server.processes() == [], "the bus that the killed one left behind was taken over and ended"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole backup of a stopped system without hosts."""
    fleet = Fleet(tmp_path_factory.mktemp("saved"))
    asyncio.run(fleet.start())
    fleet.close()
    ok(fleet, "backup", "create", str(fleet.folder / "one"))
    return fleet.folder / "one"


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one bit": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["streams/EVENTS.snapshot", "home/keys/ticket.key", "manifest.json"])
def test_a_damaged_file_of_a_backup_is_named_and_refused(saved: Path, tmp_path: Path, name: str, damage: str) -> None:
    fleet = Fleet(tmp_path)
    copy = shutil.copytree(saved, tmp_path / "copy")
    DAMAGES[damage](copy / name)
    for words in (("verify", str(copy)), ("restore", str(copy))):
        refused = fleet.run("backup", *words)
        assert refused.returncode != 0
        assert name in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not fleet.home.path.exists()


def test_what_was_interrupted_or_is_something_else_is_refused(saved: Path, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    copy = shutil.copytree(saved, tmp_path / "copy")
    (copy / "SHA256SUMS").unlink()
    for folder, expected in ((copy, "not a finished backup"), (tmp_path / "nothing", "no folder")):
        for verb in ("verify", "show", "restore"):
            refused = fleet.run("backup", verb, str(folder))
            assert refused.returncode != 0
            assert expected in refused.stderr
    listed = json.loads(ok(fleet, "backup", "ls", str(tmp_path), "-o", "json"))
    assert [row["whole"] for row in listed if row["folder"] == str(copy)] == [False]


def test_a_log_that_is_not_the_one_that_was_saved_is_refused_and_nothing_is_left(saved: Path, tmp_path: Path) -> None:
    # given a backup whose files are as its sums say, of which one was exchanged before the sums were written
    copy = shutil.copytree(saved, tmp_path / "copy")
    manifest = verify(copy)
    seal(copy, msgspec.structs.replace(manifest, log=msgspec.structs.replace(manifest.log, chain_head="1" * 64)))
    # when
    fleet = Fleet(tmp_path)
    refused = fleet.run("backup", "restore", str(copy))
    # then
    assert refused.returncode == 6
    assert "not the one that was saved" in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "judge"]


def test_a_folder_that_is_there_is_never_overwritten(saved: Path, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    fleet.home.path.mkdir()
    (fleet.home.path / "mine").write_text("kept")
    refused = fleet.run("backup", "restore", str(saved))
    assert refused.returncode == 6
    assert "exists and is not empty" in refused.stderr
    assert (fleet.home.path / "mine").read_text() == "kept"
    refused = fleet.run("backup", "create", str(saved))
    assert refused.returncode == 1
    assert verify(saved)


def test_a_restore_that_was_interrupted_is_begun_again_and_the_restored_log_says_so(saved: Path, tmp_path: Path) -> None:
    # given what a killed restore left, whose server runs on
    fleet = Fleet(tmp_path)
    left = fleet.home.path.with_name(f".{fleet.home.path.name}.restoring")
    server = NatsServer(create_home(left), apart=True)
    asyncio.run(server.start())
    server._unlock()
    # when another restore works there it is let be; when none does it is removed
    with open_folder(left) as folder:
        fcntl.flock(folder, fcntl.LOCK_EX)
        refused = fleet.run("backup", "restore", str(saved))
        assert (refused.returncode, "another restore works in" in refused.stderr) == (6, True), refused.stderr
        assert server.pid
    ok(fleet, "backup", "restore", str(saved))
    # then
    assert not left.exists()
    assert not server.pid
    manifest = verify(saved)
    asyncio.run(fleet.start())
    try:
        log = fleet.log()
        assert [event.seq for event in log][: manifest.log.last_seq] == list(range(1, manifest.log.last_seq + 1))
        assert not [event for event in log if isinstance(event.data, host_events.SessionsRefused)]
    finally:
        fleet.close()


@contextmanager
def open_folder(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def test_copies_made_among_batches_end_where_a_batch_ends_and_a_long_log_is_put_back_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running_server(tmp_path) as server, connected(server.home, "dispatcher") as bus:
            stop = asyncio.Event()
            loading = asyncio.create_task(batches(bus, stop))
            for number in itertools.count(1):
                saved = tmp_path / f"{number}"
                manifest = await create(server.home, saved, "test", print, output=False, agents=False)
                assert not manifest.log.last_seq or (await bus.get("EVENTS", manifest.log.last_seq)).batch_end
                # Messages that are all alike: one small chunk of the copy holds thousands of them.
                if number >= COPIES and manifest.log.last_seq > 2_000:
                    break
            stop.set()
            await loading
        restored = await restore(saved, tmp_path / "new", print)
        assert restored.last_seq == manifest.log.last_seq

    asyncio.run(scenario())


async def batches(bus: NatsBus, stop: asyncio.Event) -> None:
    """Append batches until *stop*, so many that some copies would end within one."""
    batch = tuple(Draft("evt.dispatch", b"x" * 300) for _ in range(200))
    for number in range(1000):
        if stop.is_set():
            return
        await bus.append(Batch(drafts=batch, message_id=f"{number}"))
        await asyncio.sleep(BATCH_PAUSE_S)
