"""The pool of real worker processes, without a bus: what is said of calls when workers are killed, replaced or never start."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fleetlog_agent import functions, process_tree
from fleetlog_agent.calls import News
from fleetlog_agent.functions import Pool
from fleetlog_agent.masking import Masker
from fleetlog_agent.policy import Functions
from fleetlog_agent.preparing import NOT_TEXT, SECRETS_UNKNOWN, Run
from fleetlog_schemas import limits, workers
from fleetlog_schemas.pushes import StartAttempt
from fleetlog_schemas.spec import Function, Options
from fleetlog_testing.waiting import until

FIXTURES = str(Path(__file__).parents[2] / "fixtures" / "functions")
SECONDS_MAX = 30.0


class Heard:
    """A pool, and what it says."""

    def __init__(self, folder: Path, **wanted: Any) -> None:
        self.folder = folder
        self.news: list[News] = []
        self.facts: list[dict[str, str]] = []
        wanted = {"modules": ("fleetlog_edges",), "path": (FIXTURES,), "workers": 1, **wanted}
        self.pool = Pool("host", "boot0000", folder, Functions(**wanted), self.news.append, _fail)
        self.pool.on_offered = lambda: self.facts.append(self.pool.facts())
        self.progress: list[workers.Progressed] = []
        self.pool.on_progress = self.progress.append
        self._number = 0

    def call(self, name: str, *args: Any) -> str:
        self._number += 1
        key = f"task.{self._number}"
        self.pool.call(workers.Call(key, name, args, stdout=str(self.folder / "out"), stderr=str(self.folder / "err")))
        return key

    def end(self, key: str) -> News | None:
        return next((one for one in self.news if one["key"] == key and one["state"] != "running"), None)

    async def ended(self, key: str) -> News:
        found = await until(lambda: self.end(key), SECONDS_MAX, "the call ends")
        assert found is not None
        return found

    async def value(self, name: str, *args: Any) -> str:
        found = await self.ended(self.call(name, *args))
        assert found.get("value") is not None, found
        return str(found["value"])


def _fail(error: BaseException | None) -> None:
    raise AssertionError(error)


@asynccontextmanager
async def pool(folder: Path, **wanted: Any) -> AsyncIterator[Heard]:
    """Run a pool, and leave no process behind."""
    heard = Heard(folder, **wanted)
    await heard.pool.find(set())
    try:
        yield heard
    finally:
        alive = list(heard.pool._workers.values())
        await heard.pool.close(retire=True)
        for worker in alive:
            process_tree.kill_tree(worker.pid or process_tree.NO_PID, worker.mark)
            if worker.process is not None:
                worker.process.wait()


def run(scenario: Callable[[], Any]) -> None:
    asyncio.run(scenario())


def _gone(pid: int) -> bool:
    stat = process_tree.process_stat(pid)
    return stat is None or stat[3] == "Z"


async def _text(path: Path) -> str:
    found = await until(lambda: path.exists() and path.read_text(), SECONDS_MAX, f"{path.name} is written")
    return str(found)


def test_a_worker_that_is_killed_under_its_call_takes_what_that_started_with_it_and_the_next_call_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pool(tmp_path) as heard:
            key = heard.call("forks_and_waits", str(tmp_path / "pids"))
            pid, child = map(int, (await _text(tmp_path / "pids")).split())
            os.kill(pid, signal.SIGKILL)
            end = await heard.ended(key)
            assert (end["state"], end["signal"], end["value"]) == ("exited", signal.SIGKILL, None)
            assert end["error"] == "the worker process was gone before the function returned: killed by signal 9"
            await until(lambda: _gone(child), SECONDS_MAX, "its child is gone")
            assert int(await heard.value("pid")) != pid

    run(scenario)


def test_a_call_that_is_killed_takes_grandchildren_of_other_sessions_with_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pool(tmp_path) as heard:
            key = heard.call("starts_a_child", str(tmp_path / "pid"))
            child = int(await _text(tmp_path / "pid"))
            heard.pool.order("kill", key)
            assert (await heard.ended(key))["signal"] == signal.SIGKILL
            await until(lambda: _gone(child), SECONDS_MAX, "its child is gone")

    run(scenario)


def test_workers_are_replaced_between_calls_and_no_call_is_lost_or_made_twice(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pool(tmp_path, calls_max=2, workers=2) as heard:
            keys = [heard.call("pid") for _ in range(9)]
            pids = [(await heard.ended(key))["value"] for key in keys]
            assert max(map(pids.count, pids)) <= 2
            assert len([one for one in heard.news if one["state"] == "exited"]) == len(keys)

    run(scenario)


async def quick(heard: Heard) -> int:
    """Make calls until they are known to be quick, so that others are given ahead; return the worker of the last one."""
    while True:
        pid = int(await heard.value("pid"))
        if heard.pool._quick:
            return pid


async def given_to_a_dying_one(heard: Heard, count: int, withdrawn: int | None = None) -> tuple[int, list[str]]:
    """Give calls to the one worker while it stands still, and kill it; return its pid, and the calls."""
    pid = await quick(heard)
    os.kill(pid, signal.SIGSTOP)
    keys = [heard.call("pid") for _ in range(count)]
    if withdrawn is not None:
        assert not heard.pool.withdraw(keys[withdrawn]), "the worker has it"
    os.kill(pid, signal.SIGKILL)
    return pid, keys


def test_calls_given_ahead_of_a_slow_one_are_made_and_those_behind_it_are_made_elsewhere(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pool(tmp_path, workers=2) as heard:
            await quick(heard)
            before = [heard.call("pid") for _ in range(12)]
            slow = heard.call("waits_for", str(tmp_path / "over"))
            behind = [heard.call("pid") for _ in range(12)]
            for key in before + behind:
                await heard.ended(key)
            assert heard.end(slow) is None, "nobody waited for it"
            (tmp_path / "over").touch()
            assert (await heard.ended(slow))["error"] == ""
            over = [one["key"] for one in heard.news if one["state"] == "exited"]
            assert len(over) == len(set(over)), "none was made twice"

    run(scenario)


def test_what_a_worker_was_given_ahead_outlives_it_and_what_it_had_begun_is_not_made_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pool(tmp_path) as heard:
            pid, keys = await given_to_a_dying_one(heard, 5)
            first, *others = [await heard.ended(key) for key in keys]
            assert first["signal"] == signal.SIGKILL, "it may have begun"
            assert all(int(one["value"]) != pid for one in others)

    run(scenario)


def test_a_call_that_is_withdrawn_while_a_worker_has_it_is_not_made_when_that_gives_it_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with pool(tmp_path) as heard:
            _, keys = await given_to_a_dying_one(heard, 3, withdrawn=2)
            assert (await heard.ended(keys[2]))["error"] == "it was stopped before it ran"
            assert (await heard.ended(keys[1]))["state"] == "exited"

    run(scenario)


@pytest.mark.parametrize(("hangs", "says"), [("", "a worker ended with exit code 3"), ("1", "a worker said nothing")])
def test_where_no_worker_comes_to_be_a_call_ends_with_the_reason_and_the_host_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hangs: str, says: str
) -> None:
    monkeypatch.setenv("FLEETLOG_TEST_HANGS", hangs)
    monkeypatch.setattr(functions, "START_SECONDS_MAX", 1.0)

    async def scenario() -> None:
        async with pool(tmp_path, modules=("fleetlog_edges", "fleetlog_dies")) as heard:
            end = await heard.ended(heard.call("pid"))
            assert end["state"] == "failed", "it was not called"
            assert end["error"].startswith(f"{says} before its modules were loaded: ")
            assert end["error"].endswith("importing fleetlog_dies")
            assert heard.facts[-1]["functions.errors"] == end["error"]

    run(scenario)


# --- secrets ---------------------------------------------------------------------------------------------


def _run(*secrets: str, known: bool = True) -> Run:
    start = StartAttempt(
        task_id="t", attempt=1, payload=Function(name="f"), options=Options(env_names=("A",), secret_names=("A",)), timeout_ms=1,
        token="", token_key_id="",
    )
    run = Run(start, 0, "0")
    run.masker = Masker(secrets) if known else None
    return run


def test_secrets_are_hidden_in_what_a_function_says_and_returns() -> None:
    run = _run("hunter22")
    assert run.masked("with hunter22 in it", limits.ERROR_TEXT_BYTES_MAX) == "with ******** in it"
    assert run.masked_value('{"password":"hunter22"}') == '{"password":"********"}'
    assert run.masked_value(None) is None


def test_a_number_that_is_a_secret_leaves_a_value_that_is_json_still() -> None:
    assert _run("123456").masked_value('{"pin":123456}') == f'"{NOT_TEXT}"'


def test_where_the_secrets_are_not_known_any_more_nothing_that_may_show_them_is_kept() -> None:
    run = _run(known=False)
    assert run.masked("with hunter22 in it", limits.ERROR_TEXT_BYTES_MAX) == SECRETS_UNKNOWN
    assert run.masked("", limits.ERROR_TEXT_BYTES_MAX) == ""
    assert run.masked_value('"hunter22"') == f'"{SECRETS_UNKNOWN}"'


def test_the_rest_of_a_secret_where_a_text_was_cut_is_not_shown() -> None:
    text = "ter22" + "x" * (limits.ERROR_TEXT_BYTES_MAX - 5)
    assert "ter22" not in _run("hunter22").masked(text, limits.ERROR_TEXT_BYTES_MAX)
