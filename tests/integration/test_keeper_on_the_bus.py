"""The keeper on a real bus, with its own rights: killed at every step, doubled, without room, and read past meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fleetlog_keeper.folder import Folder
from fleetlog_keeper.main import run
from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.bus import ArchiveMissing, Batch, Draft, NoAnswer, Stored
from fleetlog_runtime.pure.settings import Settings, resolve
from fleetlog_runtime.shell.archived_bus import ArchivedBus
from fleetlog_runtime.shell.home import Home, create_home
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_runtime.shell.service import Context, open_context
from fleetlog_schemas import archive_events, events, ids
from fleetlog_schemas.archive import ArchiveStatus
from fleetlog_testing.homes import connected
from fleetlog_testing.nats import running_server
from fleetlog_testing.waiting import until

FLAGS = (
    "keeper.segment_events=50", "keeper.keep_days=0", "keeper.look_ms=50", "keeper.silent_ms=1",
    "keeper.snapshot_events=10", "runtime.leader_ttl_ms=1000",
)
"""Everything that is sealed is old; no other service runs, and none is waited for."""
SECONDS_MAX = 40
_numbers = itertools.count(1)


def settings_with(*flags: str) -> Settings:
    return resolve(flags=(*FLAGS, *flags))


@contextlib.asynccontextmanager
async def keeper_of(home: Home, settings: Settings) -> AsyncIterator[Context]:
    """Run a keeper as the service does, in this loop."""
    stop = asyncio.Event()
    async with open_context("keeper", home, settings, stop) as context:
        running = asyncio.create_task(run(context))
        await until(lambda: context.health.ready.is_set() or running.done(), SECONDS_MAX, "the keeper is ready")
        try:
            yield context
        finally:
            stop.set()
            await running


class Writers:
    """Who may write what, each on a connection of its own; and everything that was written."""

    def __init__(self) -> None:
        self.buses: dict[str, NatsBus] = {}

    @property
    def prunable(self) -> set[str]:
        """What is written and may be pruned; nobody here has schedules."""
        return set(self.buses) & set(archive_events.PRUNABLE)

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, home: Home) -> AsyncIterator[Writers]:
        async with contextlib.AsyncExitStack() as stack:
            writers = cls()
            for subject, user in (
                (events.REQUEST, "gateway"), (events.HOST, "gateway"), (events.DISPATCH, "dispatcher"),
                (events.RESULT, "result-recorder"),
            ):
                writers.buses[subject] = await stack.enter_async_context(connected(home, user))
            yield writers

    async def write(self, count: int, size: int = 0) -> None:
        """Append so many batches, of one to three messages, on every subject in turn."""
        subjects = list(self.buses)
        for number in itertools.islice(_numbers, count):
            subject = subjects[number % len(subjects)]
            event = {
                "specversion": "1.0", "id": ids.new_id(1_800_000_000_000, number.to_bytes(10, "big")), "source": "/test",
                "type": "fleetlog.host.labelled.v1", "time": "2026-01-01T00:00:00Z",
                "data": {"host_id": "h1", "labels": {"n": str(number), "x": "x" * size}},
            }
            drafts = tuple(Draft(subject, json.dumps(event).encode()) for _ in range(1 + number % 3))
            await self.buses[subject].append(Batch(drafts=drafts, message_id=event["id"]))


async def status(bus: NatsBus) -> ArchiveStatus | None:
    try:
        return ArchiveStatus(**json.loads(await bus.request("ask.keeper.status", b"", 1_000)))
    except NoAnswer:
        return None


async def pruned(home: Home, beyond: int) -> None:
    async def holds() -> bool:
        said = await status(bus)
        held = await bus.get_range("EVENTS", 1, beyond)
        gone = [one.seq for one in held if one.subject in archive_events.PRUNABLE and one.seq < beyond]
        return said is not None and said.pruned_through >= beyond and len(gone) <= len(archive_events.PRUNABLE)

    async with connected(home, "operator") as bus:
        await until(holds, SECONDS_MAX, f"pruned beyond {beyond}", 0.05)


async def whole(bus: NatsBus | ArchivedBus) -> list[Stored]:
    found: list[Stored] = []
    while page := await bus.get_range("EVENTS", len(found) + 1, 500):
        found += page
    return found


@pytest.mark.parametrize("pace_seconds", [0.0, 0.01])
def test_readers_miss_and_repeat_nothing_while_the_log_is_pruned_under_them(tmp_path, pace_seconds):
    async def read(bus: NatsBus, folder: Path, last: asyncio.Future[int]) -> list[Stored]:
        found: list[Stored] = []
        async for chunk in ArchivedBus(bus, folder).read("EVENTS", 1):
            found += chunk
            if last.done() and found and found[-1].seq >= last.result():
                return found
            await asyncio.sleep(pace_seconds)
        raise AssertionError

    async def scenario():
        async with running_server(tmp_path) as server, Writers.on(server.home) as writers:
            home = server.home
            last: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            async with (
                keeper_of(home, settings_with()), connected(home, "dispatcher") as near, connected(home, "reporter") as far,
                connected(home, "operator") as operator,
            ):
                readers = [
                    asyncio.create_task(read(near, home.path / "archive", last)),
                    # This one has no folder: it asks the keeper.
                    asyncio.create_task(read(far, tmp_path / "nowhere", last)),
                ]
                for _ in range(8):
                    await writers.write(100)
                    await asyncio.sleep(0.1)
                await pruned(home, 500)
                await writers.write(10)
                last.set_result((await operator.state("EVENTS")).last_seq)
                # What wakes a reader that had read everything before the end was known.
                await writers.write(1)
                near_found, far_found = await asyncio.gather(*readers)
                assert [one.seq for one in near_found] == list(range(1, near_found[-1].seq + 1))
                assert far_found[: last.result()] == near_found[: last.result()]
                late = await whole(ArchivedBus(operator, tmp_path / "nowhere"))
                assert late[: last.result()] == near_found[: last.result()]

    asyncio.run(scenario())


CRASHES = {
    "begun, and not named": """
        from pathlib import Path
        original = Path.replace
        Path.replace = lambda self, to: os._exit(9) if str(to).endswith(".segment") else original(self, to)
    """,
    "named, and not read back": "Folder.read = lambda self, sealed: os._exit(9)",
    "read back, and not in the log": """
        original = Hands._make
        async def make(self, what):
            if await original(self, what) is not None:
                os._exit(9)
        Hands._make = make
    """,
    "sealed in the log, and not read back from it": """
        original = NatsBus.append
        async def append(self, batch):
            seq = await original(self, batch)
            if b"segment.sealed" in batch.drafts[0].body:
                os._exit(9)
            return seq
        NatsBus.append = append
    """,
    "pruning in the log, and nothing purged": """
        async def purge(self, what):
            os._exit(9)
        Hands._purge = purge
    """,
    "one subject purged, and the others not": """
        original = NatsBus.purge
        async def purge(self, *arguments):
            await original(self, *arguments)
            os._exit(9)
        NatsBus.purge = purge
    """,
}


@pytest.mark.parametrize("where", CRASHES)
def test_a_keeper_that_is_killed_between_any_two_steps_is_followed_by_one_that_finishes(tmp_path, where):
    code = f"""
import os
from fleetlog_keeper.folder import Folder
from fleetlog_keeper.hands import Hands
from fleetlog_keeper.main import run
from fleetlog_runtime.shell.nats_bus import NatsBus
from fleetlog_runtime.shell.service import service_main
{textwrap.dedent(CRASHES[where])}
service_main("keeper", run)
"""

    async def scenario():
        async with running_server(tmp_path) as server, Writers.on(server.home) as writers:
            home = server.home
            await writers.write(100)
            async with connected(home, "operator") as bus:
                everything = await whole(bus)
                argv = [sys.executable, "-c", code, "--data", str(home.path)]
                argv += [word for flag in FLAGS for word in ("--set", flag)]
                killed = await asyncio.to_thread(subprocess.run, argv, capture_output=True, timeout=SECONDS_MAX)
                assert killed.returncode == 9, killed.stderr.decode()
                for path in (home.path / "archive").glob("*.segment"):
                    segments.unpack(path.read_bytes())
                archived = ArchivedBus(bus, home.path / "archive")
                assert (await whole(archived))[: len(everything)] == everything

                async with keeper_of(home, settings_with()):
                    await pruned(home, 150)
                assert (await whole(archived))[: len(everything)] == everything
                heads = Folder(home.path / "archive").heads()
                assert segments.joined(heads) == ""
                sealed = archived.segments.archive.sealed
                assert [head.sealed for head in heads][: len(sealed)] == sealed
                assert len(heads) <= len(sealed) + 1, "one may be written, and not be named in the log yet, when it is stopped"
                assert len({one.first_seq for one in sealed}) == len(sealed)
                said = [one for one in await whole(archived) if b"log.pruned" in one.body]
                assert len(said) == len({json.loads(one.body)["data"]["through_seq"] for one in said})
                for subject in writers.prunable:
                    last = max(one.seq for one in await whole(archived) if one.subject == subject)
                    assert (await bus.get_last("EVENTS", subject)).seq == last

    asyncio.run(scenario())


def test_the_fence_of_a_pruned_subject_still_holds(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server, Writers.on(server.home) as writers:
            await writers.write(100)
            async with connected(server.home, "dispatcher") as bus, keeper_of(server.home, settings_with()):
                last = (await bus.get_last("EVENTS", events.DISPATCH)).seq
                # Nothing but requests from here on, so that the last dispatch is old and alone.
                writers.buses = {events.REQUEST: writers.buses[events.REQUEST]}
                await writers.write(100)
                await pruned(server.home, last + 20)
                assert [one.seq for one in await bus.get_range("EVENTS", 1, 10, events.DISPATCH)] == [last]
                draft = Draft(events.DISPATCH, b"{}")
                for expected in (0, last - 1):
                    with pytest.raises(Exception, match="wrong last sequence"):
                        await bus.append(Batch((draft,), "", events.DISPATCH, expected))
                assert await bus.append(Batch((draft,), "", events.DISPATCH, last)) > last

    asyncio.run(scenario())


def test_of_two_keepers_each_has_the_whole_archive_and_the_other_goes_on_alone(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server, Writers.on(server.home) as writers:
            home = server.home
            folders = [tmp_path / "one", tmp_path / "two"]
            one, two = (settings_with(f"keeper.archive_path={folder}") for folder in folders)
            async with keeper_of(home, two) as standby:
                async with keeper_of(home, one):
                    await writers.write(150)
                    await pruned(home, 200)
                    names = {path.name for path in folders[0].glob("*.segment")} | {segments.name(1)}
                    await until(
                        lambda: names <= {path.name for path in folders[1].glob("*.segment")}, SECONDS_MAX,
                        "the standby has every segment",
                    )
                await until(lambda: standby.health.leading, SECONDS_MAX, "the other leads")
                await writers.write(100)
                await pruned(home, 350)
            everything = sorted(folders[1].glob("*.segment"))
            assert segments.joined(Folder(folders[1]).heads()) == ""
            for path in folders[0].glob("*.segment"):
                assert path.read_bytes() == (folders[1] / path.name).read_bytes()
            assert len(everything) > len(list(folders[0].glob("*.segment")))

    asyncio.run(scenario())


def test_a_segment_that_is_damaged_before_it_is_pruned_is_made_again(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server, Writers.on(server.home) as writers:
            home = server.home
            path = home.path / "archive" / segments.name(1)
            async with keeper_of(home, settings_with("keeper.keep_days=365")):
                await writers.write(100)
                await until(path.exists, SECONDS_MAX, "a segment is made")
                async with connected(home, "operator") as bus:
                    await until(lambda: _sealed(bus), SECONDS_MAX, "it is sealed")
            good = path.read_bytes()
            path.write_bytes(good[:-9] + bytes([good[-9] ^ 4]) + good[-8:])
            async with keeper_of(home, settings_with()):
                await pruned(home, 100)
            assert path.read_bytes() == good

    asyncio.run(scenario())


async def _sealed(bus: NatsBus) -> bool:
    said = await status(bus)
    return said is not None and said.sealed_through >= 100


def test_a_segment_that_is_damaged_and_cannot_be_made_again_keeps_what_the_bus_still_has(tmp_path):
    async def scenario():
        async with running_server(tmp_path) as server, Writers.on(server.home) as writers:
            home = server.home
            await writers.write(60)
            async with keeper_of(home, settings_with()):
                await pruned(home, 100)
            path = home.path / "archive" / segments.name(1)
            path.write_bytes(path.read_bytes()[:-1])
            async with connected(home, "operator") as bus:
                with pytest.raises(ArchiveMissing, match="damaged"):
                    await whole(ArchivedBus(bus, home.path / "archive"))
                # What is not in that segment is read as before.
                found = await ArchivedBus(bus, home.path / "archive").get_range("EVENTS", 60, 10)
                assert [one.seq for one in found] == list(range(60, 70))

    asyncio.run(scenario())


def test_a_log_that_fills_up_is_given_room_whatever_the_age(tmp_path):
    async def scenario():
        home = create_home(tmp_path / "home")
        sizes = {"EVENTS": 2 * 1024**2, "REPORTS": 2**20, "OUTPUT": 2**20, "LEADERS": 2**20, "BLOBS": 2**20}
        (home.path / "nats" / "reserved.json").write_text(json.dumps(sizes))
        async with running_server(tmp_path) as server, Writers.on(server.home) as writers:
            settings = settings_with("keeper.keep_days=365", "keeper.segment_bytes=100000", "keeper.full_ratio=0.5")
            async with keeper_of(home, settings), connected(home, "operator") as bus:
                # What is never pruned is small in a real log. Of the rest, more than twice what fits.
                del writers.buses[events.HOST]
                for _ in range(16):
                    await writers.write(40, size=4_000)

                    async def has_room() -> bool:
                        state = await bus.state("EVENTS")
                        return state.bytes < 0.6 * state.bytes_max

                    await until(has_room, SECONDS_MAX, "there is room again", 0.05)
                archived = ArchivedBus(bus, home.path / "archive")
                found = await whole(archived)
                assert [one.seq for one in found] == list(range(1, found[-1].seq + 1))
                assert sum(len(one.body) for one in found) > 2 * sizes["EVENTS"]
                reasons = {json.loads(one.body)["data"]["reason"] for one in found if b"log.pruned" in one.body}
                assert reasons == {"room"}

    asyncio.run(scenario())


def test_what_a_killed_keeper_had_begun_is_removed_when_it_is_old(tmp_path):
    folder = Folder(tmp_path / "archive")
    folder.prepare()
    old, young = (folder.path / f".{segments.name(1)}.{name}" for name in ("aaa", "bbb"))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    folder.prepare()
    assert not old.exists()
    assert young.exists()
    assert folder.heads() == []
    assert json.loads((folder.path / "manifest.json").read_text()) == []
