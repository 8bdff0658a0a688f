"""Floods: of output by commands below their quota, and of reports by a hostile host. Nobody else pays for either.

The large figures are measured by bench/output.py; here it is about what is kept, and about memory that stays flat.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from fleetlog_schemas import events, host_events, reports, subjects, wire
from fleetlog_schemas.spec import Shell
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Fleet, as_agent
from fleetlog_testing.homes import connected
from fleetlog_testing.server import PARTS
from fleetlog_testing.waiting import until

LINE_BYTES = 100
FLOOD_LINES, SIDE_LINES = 1_000_000, 40_000
"""100 MB of one command, and 4 MB of each of three beside it."""
GROWTH_MIB_MAX, GROWTH_MIB_MAX_REPORTER = 48, 80
"""Of a process: less than what flows through it, and more than what allocators keep of what was freed (DuckDB's keeps most)."""
PAGE_BYTES = 524_288
MESSAGES = 100_000
SHARE = next(one for one in subjects.STREAMS if one.name == subjects.REPORTS).per_subject_max
NAMES = ("loud", "quiet", "honest")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = Fleet(tmp_path_factory.mktemp("flood"))
    try:
        asyncio.run(running.start(*NAMES))
        running.join("hostile")  # a key that lets its holder in, and no agent
        yield running
    finally:
        running.close()


@contextmanager
def growth(pids: dict[str, int]) -> Iterator[dict[str, float]]:
    """Note by how many MiB each process grew at most meanwhile: what is its own, without file pages."""
    grown: dict[str, float] = {}
    over = threading.Event()
    watched = {name: psutil.Process(pid) for name, pid in pids.items()}
    before = {name: process.memory_full_info().uss for name, process in watched.items()}

    def look() -> None:
        while not over.wait(0.2):
            for name, process in watched.items():
                now = (process.memory_full_info().uss - before[name]) / 1024**2
                grown[name] = max(now, grown.get(name, 0.0))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield grown
    finally:
        over.set()
        thread.join()


def size_of(path: Path) -> int:
    return path.stat().st_size


def numbered(lines: int) -> Shell:
    return Shell(argv=("seq", "-f", f"%0{LINE_BYTES - 1}.0f", "1", str(lines)))


def every_line_is_there(fleet: Fleet, task_id: str, host: str, lines: int) -> None:
    """Require each line once and in order, page by page."""
    after, rest, expected = 0, "", 1
    while True:
        page = fleet.gateway.get(f"/tasks/{task_id}/output", host=host, after_frame=after, limit_bytes=PAGE_BYTES)["data"]
        for chunk in page["chunks"]:
            *whole, rest = (rest + chunk["text"]).split("\n")
            for line in whole:
                assert int(line) == expected
                expected += 1
        if page["complete"]:
            break
        assert page["next_frame"] != after, "the output ends before its end"
        after = page["next_frame"]
    assert (expected - 1, rest) == (lines, "")


def test_a_flood_of_output_is_kept_whole_in_flat_memory_and_holds_up_no_other_host(fleet: Fleet) -> None:
    async def scenario() -> None:
        first = await fleet.ended(await fleet.submit(fleet.judge.command("true"), "loud or quiet"))  # also starts the holders
        fleet.judge.agrees(first)
        loud = fleet.hosts["loud"]
        assert loud.process is not None
        pids = {name: fleet.pid(name) for name in PARTS if name != "nats-server"} | {"agent": loud.process.pid, "holder": loud.holders()[0]}
        options = {"output_bytes_max": 2 * FLOOD_LINES * LINE_BYTES}
        with growth(pids) as grown:
            flood = await fleet.submit(numbered(FLOOD_LINES), "loud", options=options)
            sides = [await fleet.submit(numbered(SIDE_LINES), "loud", options=options) for _ in range(3)]
            meanwhile = []
            while fleet.client.show(flood).state != "ended" or len(meanwhile) < 3:
                meanwhile += await fleet.ended(await fleet.submit(fleet.judge.command("true"), "quiet"))
            views = await fleet.ended(flood, *sides)
            assert {view.outcome for view in [*views, *meanwhile]} == {"success"}
            fleet.judge.agrees(meanwhile)
            for task_id, lines in ((flood, FLOOD_LINES), *((side, SIDE_LINES) for side in sides)):
                await asyncio.to_thread(every_line_is_there, fleet, task_id, "loud", lines)
        grown = {name: round(mib, 1) for name, mib in grown.items()}
        assert grown.pop("reporter", 0.0) < GROWTH_MIB_MAX_REPORTER
        assert max(grown.values()) < GROWTH_MIB_MAX, grown
        order = [
            end.task_id for event in fleet.log() if isinstance(event.data, events.AttemptsEnded)
            for end in event.data.attempts
        ]
        assert order.index(meanwhile[2].task_id) < order.index(flood), "the other host's commands were not held up"

    asyncio.run(scenario())


def test_a_flood_of_reports_fills_only_its_senders_share_and_is_an_alert(fleet: Fleet) -> None:
    hostile = fleet.hosts["hostile"]
    forged = wire.encode(reports.Report(report_id="x", epoch=1, counter=1, items=()))[:-1] + b"\xff"

    async def stored(subject: str) -> int:
        async with connected(fleet.home, "operator") as looker:
            messages = await looker.get_range(subjects.REPORTS, 1, 2 * MESSAGES, subject)
            return len(messages)

    async def flood() -> None:
        async with as_agent(hostile) as bus:
            for number in range(MESSAGES):
                await bus.publish(subjects.report(hostile.host_id), forged)
                if number % 1_000 == 0:
                    await asyncio.sleep(0)

    async def scenario() -> None:
        recorder = fleet.pid("result-recorder")
        diagnostics = fleet.home.path / "diagnostics" / "result-recorder.log"
        said_bytes = size_of(diagnostics)
        before = len(fleet.log())
        os.kill(recorder, signal.SIGSTOP)
        try:
            await flood()
            during = await fleet.submit(fleet.judge.command("true"), "honest or quiet")
            await fleet.began(during, 2)

            async def others_are_in() -> bool:
                counts = [await stored(subjects.report(fleet.hosts[name].host_id)) for name in ("honest", "quiet")]
                return min(counts) > 0

            await until(others_are_in, END_S_MAX, "the honest hosts' reports are stored", LOOK_S)
            assert await stored(subjects.report(hostile.host_id)) == SHARE
        finally:
            os.kill(recorder, signal.SIGCONT)
        with growth({"recorder": recorder}) as grown:
            views = await fleet.ended(during)
        assert views[0].counts == {"success": 2}
        fleet.judge.agrees(views)
        assert grown.get("recorder", 0.0) < GROWTH_MIB_MAX
        os.kill(recorder, signal.SIGTERM)  # what was refused so far is told at the latest now
        await fleet.restarted("result-recorder", recorder)

        def told() -> int:
            refusals = [
                one.data for one in fleet.log()[before:]
                if isinstance(one.data, host_events.ReportsRefused) and one.data.host_id == hostile.host_id
            ]
            return sum(sum(refusal.counts.values()) for refusal in refusals)

        await until(lambda: told() >= 1, END_S_MAX, "the refusals are told", LOOK_S)
        await until(lambda: fleet.shown("hostile")["refusals"], END_S_MAX, "the refusal is shown", LOOK_S)
        assert fleet.shown("hostile")["refusals"][-1]["code"] == "reports-refused"
        assert [fleet.shown(name)["refusals"] for name in NAMES] == [[], [], []]
        assert len(fleet.log()) - before < 100, "the flood is not in the log"
        assert size_of(diagnostics) - said_bytes < 100_000, "nor in the diagnostics"
        fleet.verify_projection()

    asyncio.run(scenario())
