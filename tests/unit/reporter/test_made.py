"""What a reporter has made is kept while it is fetched, and no longer than it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from fleetlog_reporter.made import FILE_PREFIX, BeingMade, Busy, Exports, Made
from fleetlog_schemas.exports import Format, Selection, What
from fleetlog_testing.waiting import until


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(f"{FILE_PREFIX}*"))


def write_small(path: Path, content: bytes = b"x") -> Made:
    path.write_bytes(content)
    return Made(path, len(content), "", 0, 0)


def selection(number: int) -> Selection:
    return Selection(what=What.TASKS, format=Format.CSV, as_of_seq=number)


async def ask(kept: Exports, number: int, make: Callable[[Path], Awaitable[Made]], offset: int = 0, size: int = 9) -> tuple[Made, bytes]:
    return await kept.piece(selection(number), make, offset, size)


def test_one_export_is_made_once_for_all_who_ask_and_again_when_it_failed(tmp_path: Path) -> None:
    made = 0

    async def make(path: Path) -> Made:
        nonlocal made
        made += 1
        await asyncio.sleep(0)
        if made == 1:
            raise OSError(28, "no room")
        return write_small(path)

    async def story() -> None:
        kept = Exports(tmp_path, lambda: 0.0)
        with pytest.raises(OSError, match="no room"):
            await ask(kept, 1, make)
        first, second = await asyncio.gather(ask(kept, 1, make), ask(kept, 1, make))
        assert first[0] is second[0]
        assert made == 2
        await kept.close()
        assert files_in(tmp_path) == []

    asyncio.run(story())


def test_what_nobody_asks_for_any_more_goes_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetlog_reporter.made.KEPT_SECONDS", 0.02)

    async def make(path: Path) -> Made:
        return write_small(path)

    async def story() -> None:
        kept = Exports(tmp_path, asyncio.get_running_loop().time)
        await ask(kept, 1, make)
        await until(lambda: files_in(tmp_path) == [], what="the file is gone")
        await kept.close()

    asyncio.run(story())


def test_only_so_many_are_made_at_once_and_only_so_many_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetlog_reporter.made.WAIT_SECONDS", 0.001)
    monkeypatch.setattr("fleetlog_reporter.made.KEPT_MAX", 3)
    go = None
    now = 0.0

    async def make(path: Path) -> Made:
        assert go is not None
        await go.wait()
        return write_small(path)

    async def story() -> None:
        nonlocal go, now
        go = asyncio.Event()
        kept = Exports(tmp_path, lambda: now)
        for number in (1, 2):
            with pytest.raises(BeingMade):
                await ask(kept, number, make)
        with pytest.raises(Busy):
            await ask(kept, 3, make)
        go.set()
        for number in (1, 2, 3, 4):
            now += 1
            while True:
                try:
                    await ask(kept, number, make)
                    break
                except BeingMade:
                    continue
        assert len(files_in(tmp_path)) == 3
        now += 601
        await ask(kept, 5, make)
        assert len(files_in(tmp_path)) == 1
        await kept.close()

    asyncio.run(story())


def test_what_somebody_fetches_gives_way_to_nothing_and_what_was_fetched_whole_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleetlog_reporter.made.KEPT_MAX", 2)
    now, made = 0.0, 0

    async def make(path: Path) -> Made:
        nonlocal made
        made += 1
        return write_small(path, b"xyz")

    async def story() -> None:
        nonlocal now
        kept = Exports(tmp_path, lambda: now)
        for number in (1, 2):
            assert (await ask(kept, number, make, 0, 2))[1] == b"xy"
        with pytest.raises(Busy):
            await ask(kept, 3, make)
        assert (await ask(kept, 2, make, 2, 2))[1] == b"z"
        await ask(kept, 3, make)
        assert (await ask(kept, 1, make, 2, 2))[1] == b"z"
        assert made == 3
        await ask(kept, 2, make, 0, 2)
        await ask(kept, 1, make, 0, 2)
        now += 31
        await ask(kept, 4, make)
        await kept.close()

    asyncio.run(story())
