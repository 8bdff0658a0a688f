"""The archive and the bus as one log: archived and pruned while everything runs, and every answer stays what it was."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetlog.exits import CliError, Exit
from fleetlog.http import Gateway
from fleetlog_runtime.pure import segments
from fleetlog_runtime.pure.bus import NoAnswer
from fleetlog_schemas import archive_events, events
from fleetlog_testing.fleet import END_S_MAX, Fleet
from fleetlog_testing.homes import connected
from fleetlog_testing.waiting import until

NAMES = ("web01", "web02")
OPTIONS = tuple(
    word
    for one in (
        "keeper.segment_events=20", "keeper.keep_days=0", "keeper.look_ms=200", "keeper.snapshot_events=10",
        "dispatcher.snapshot_events=10", "scheduler.snapshot_events=10",
    )
    for word in ("--set", one)
)
"""Segments of a minute's work, and nothing is kept on the bus for long."""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = Fleet(tmp_path_factory.mktemp("keeper"), *OPTIONS)

    async def with_a_past() -> None:
        await running.start(*NAMES)
        await work(running)
        # A reporter remembers its place when it stops; until then it would read everything again, and nothing is pruned.
        await running.restarted("reporter", running.kill("reporter", signal.SIGTERM))

    try:
        asyncio.run(with_a_past())
        yield running
    finally:
        running.close()


def archive(fleet: Fleet) -> Path:
    return fleet.home.path / "archive"


def raw_log(fleet: Fleet) -> list[tuple[int, str, bytes]]:
    return [(one.seq, one.subject, bytes(one.event)) for one in fleet.client.read_log()]


async def work(fleet: Fleet, count: int = 8) -> list[str]:
    """Let tasks run and end."""
    ids = [await fleet.submit(fleet.judge.command("true")) for _ in range(count)]
    await fleet.ended(*ids)
    return ids


async def stream(fleet: Fleet) -> dict[str, Any]:
    """Return what the bus alone has: how many messages of EVENTS, and the last sequence of each prunable subject."""
    async with connected(fleet.home, "operator") as bus:
        held = await bus.get_range("EVENTS", 1, 100_000)
        return {"seqs": [one.seq for one in held], "subjects": {one.subject for one in held}}


async def restart(fleet: Fleet, part: str) -> None:
    """Kill a service, and wait until another process stands for it and answers."""
    former = fleet.kill(part)
    await fleet.restarted(part, former)
    await until(lambda: _serves(fleet), END_S_MAX, "the gateway serves", 0.2)


async def pruned_beyond(fleet: Fleet, seq: int) -> None:
    """Wait until the keeper has pruned beyond a sequence; services are restarted so that their snapshots are young."""

    async def pruned() -> bool:
        async with connected(fleet.home, "operator") as bus:
            try:
                answer = json.loads(await bus.request("ask.keeper.status", b"", 2_000))
            except NoAnswer:
                return False
        return answer["pruned_through"] > seq and not (set(range(1, seq)) - catalog(fleet)) & set((await stream(fleet))["seqs"])

    await until(pruned, END_S_MAX, f"the log is pruned beyond {seq}", 0.3)


def catalog(fleet: Fleet) -> set[int]:
    return {seq for seq, subject, _ in raw_log(fleet) if subject not in archive_events.PRUNABLE}


def answers(fleet: Fleet, ids: list[str]) -> dict[str, Any]:
    """Return everything that is answered about the past."""
    replayed = fleet.run("replay", ids[0], "-o", "json")
    assert replayed.returncode == 0, replayed.stderr
    return {
        "log": raw_log(fleet),
        "show": [fleet.run("show", one, "-o", "json").stdout for one in ids],
        "stats": fleet.gateway.get("/stats", by="host")["data"],
        "replay": replayed.stdout,
        "hosts": sorted(one["name"] for one in fleet.gateway.get("/hosts", limit=100)["data"]["items"]),
        "events": fleet.gateway.get("/events", limit=500)["data"]["items"][:50],
    }


def test_everything_is_answered_as_before_when_the_past_is_only_in_the_archive(fleet: Fleet) -> None:
    async def scenario() -> None:
        ids = await work(fleet)
        before = answers(fleet, ids)
        last = before["log"][-1][0]
        # More work, so that what was there is sealed; the reporter remembers its place when it stops.
        await work(fleet, 6)
        await fleet.restarted("reporter", fleet.kill("reporter", signal.SIGTERM))
        await pruned_beyond(fleet, last // 2)
        held = await stream(fleet)
        assert len(held["seqs"]) < last

        # Everything derived goes; everything starts anew from archive and bus.
        for part in ("dispatcher", "reporter", "keeper", "gateway"):
            former = fleet.kill(part)
            if part == "reporter":
                shutil.rmtree(fleet.home.path / "reporter", ignore_errors=True)
            (fleet.home.path / "snapshots" / f"{part}.snapshot").unlink(missing_ok=True)
            await fleet.restarted(part, former)
        await until(lambda: _serves(fleet), END_S_MAX, "the gateway serves", 0.2)
        await fleet.ended(*ids)

        after = answers(fleet, ids)
        assert after["log"][: len(before["log"])] == before["log"]
        assert [seq for seq, _, _ in after["log"]] == list(range(1, len(after["log"]) + 1))
        assert after["show"] == before["show"]
        assert after["replay"] == before["replay"]
        assert after["hosts"] == before["hosts"]
        fleet.verify_projection()
        # And it still works.
        await work(fleet, 2)

    asyncio.run(scenario())


@pytest.mark.parametrize("round_", range(2))
def test_a_keeper_that_is_killed_again_and_again_leaves_no_half_segment_and_loses_nothing(fleet: Fleet, round_: int) -> None:
    async def scenario() -> None:
        before = raw_log(fleet)
        working = asyncio.create_task(work(fleet, 6))
        for number in range(3):
            await asyncio.sleep(0.05 + 0.11 * number + 0.03 * round_)
            await restart(fleet, "keeper")
        await working
        for path in archive(fleet).glob("*.segment"):
            segments.unpack(path.read_bytes())
        assert raw_log(fleet)[: len(before)] == before
        fleet.verify_projection()

    asyncio.run(scenario())


def test_the_last_message_of_each_subject_is_still_on_the_bus(fleet: Fleet) -> None:
    async def scenario() -> None:
        await work(fleet, 2)
        quiet = {events.TICK, events.ALERT}  # nobody here has schedules, and nothing is wrong
        assert set(archive_events.PRUNABLE) - quiet <= (await stream(fleet))["subjects"]

    asyncio.run(scenario())


def test_a_flipped_byte_is_refused_by_readers_and_found_by_verify_and_a_good_copy_heals_it(fleet: Fleet) -> None:
    async def scenario() -> None:
        await pruned_beyond(fleet, 19)
        path = archive(fleet) / segments.name(1)
        good = path.read_bytes()
        path.write_bytes(good[:-30] + bytes([good[-30] ^ 1]) + good[-29:])
        try:
            # A reader that has not unpacked it before: what it refused and why arrives at whoever asked.
            await restart(fleet, "gateway")
            with pytest.raises(CliError, match=rf"{segments.name(1)} is damaged.*archive verify"):
                raw_log(fleet)
            found = fleet.run("archive", "verify")
            assert found.returncode == Exit.INTERNAL
            assert f"{segments.name(1)} is damaged" in found.stdout
        finally:
            path.write_bytes(good)
        assert raw_log(fleet)
        found = fleet.run("archive", "verify")
        assert found.returncode == 0, found.stdout + found.stderr
        assert "and with the log" in found.stdout

    asyncio.run(scenario())


def test_a_missing_segment_is_named_and_the_log_is_read_again_when_it_is_back(fleet: Fleet) -> None:
    async def scenario() -> None:
        await pruned_beyond(fleet, 19)
        path = archive(fleet) / segments.name(1)
        away = path.rename(path.with_suffix(".away"))
        try:
            await restart(fleet, "gateway")
            with pytest.raises(CliError, match=r"does not exist, and the keeper does not give it.*keeper\.archive_path"):
                Gateway(fleet.home.gateway_url(), fleet.home.gateway_token(), None, 60).get("/log", from_seq=1)
            assert f"{path.name} is missing" in fleet.run("archive", "verify").stdout
            # A decider that would have to read it stops, and says what to do; it never folds a log with a hole.
            former = fleet.kill("dispatcher")
            (fleet.home.path / "snapshots" / "dispatcher.snapshot").unlink(missing_ok=True)
            clear = "does not exist, and the keeper does not give it"
            await until(lambda: clear in fleet.diagnostics("dispatcher"), END_S_MAX, "it says what is missing", 0.2)
            assert fleet.pid("dispatcher") != former
        finally:
            away.rename(path)
        assert raw_log(fleet)
        await work(fleet, 1)

    asyncio.run(scenario())


def test_the_archive_is_listed_and_read_without_the_system(fleet: Fleet) -> None:
    async def scenario() -> None:
        await pruned_beyond(fleet, 19)
        listed = json.loads(fleet.run("archive", "ls", "-o", "json").stdout)
        assert listed["segments"][0]["first_seq"] == 1
        assert listed["segments"][0]["pruned"]
        assert "archived through" in fleet.run("archive", "ls").stdout
        lines = fleet.run("archive", "read", "3", "--limit", "25").stdout.splitlines()
        read = [json.loads(line) for line in lines]
        assert [one["seq"] for one in read] == list(range(3, 28))
        assert read[0]["event"] == json.loads(raw_log(fleet)[2][2])
        # What was pruned is missing from every copy, and is no damage.
        compared = fleet.run("verify", "log")
        assert compared.returncode == Exit.OK, compared.stdout + compared.stderr
        assert "log whole" in compared.stdout
        found = fleet.run("doctor", "-o", "json").stdout
        assert [one["state"] for one in json.loads(found) if one["check"] == "keeper"] in (["ok"], ["note"]), found

    asyncio.run(scenario())


def _serves(fleet: Fleet) -> bool:
    try:
        return fleet.gateway.probe("/readyz")[0] == 200
    except CliError:
        return False


def test_a_backup_holds_the_whole_log_also_what_only_the_archive_has(fleet: Fleet, tmp_path: Path) -> None:
    async def scenario() -> None:
        before = raw_log(fleet)
        await work(fleet, 6)
        await fleet.restarted("reporter", fleet.kill("reporter", signal.SIGTERM))
        await pruned_beyond(fleet, before[-1][0] // 2)

    asyncio.run(scenario())
    before = raw_log(fleet)
    saved = fleet.run("backup", "create", str(tmp_path / "backup"))
    assert saved.returncode == 0, saved.stderr
    assert fleet.run("backup", "verify", str(tmp_path / "backup")).returncode == 0
    # Restoring compares the chain of the whole log, archive and stream, with the one that was saved.
    restored = fleet.run("--data", str(tmp_path / "new"), "backup", "restore", str(tmp_path / "backup"))
    assert restored.returncode == 0, restored.stderr
    manifest = json.loads((tmp_path / "backup" / "manifest.json").read_text())
    assert (manifest["log"]["first_seq"], manifest["log"]["last_seq"] >= before[-1][0]) == (1, True)

    # A segment that is gone is named, and nothing is made of such a backup.
    segment = next((tmp_path / "backup" / "home" / "archive").glob("*"))
    segment.unlink()
    refused = fleet.run("--data", str(tmp_path / "other"), "backup", "restore", str(tmp_path / "backup"))
    assert refused.returncode != 0
    assert segment.name in refused.stderr
