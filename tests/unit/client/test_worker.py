"""A worker process alone, spoken to as an agent does: what functions may do to it, and what it then says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fleetlog_schemas import limits, workers
from fleetlog_testing.waiting import until

FIXTURES = Path(__file__).parents[2] / "fixtures" / "functions"
LOOK_S_MAX = 30.0
MAIN = "import sys; from fleetlog import worker; worker.LEAVE_SECONDS_MAX, worker.SLOW_SECONDS = 0.2, {slow}; sys.exit(worker.main())"


def until_true(condition: Callable[[], bool], seconds: float, what: str) -> None:
    asyncio.run(until(condition, seconds, what))


class Worker:
    """One worker process and the connection of its agent."""

    def __init__(self, folder: Path, *modules: str, calls_max: int = 1000, memory_bytes_max: int = 1 << 40, slow: float = 600) -> None:
        self.folder = folder
        words = ["--folder", str(folder), "--name", "w", "--calls-max", str(calls_max), "--memory-bytes-max", str(memory_bytes_max)]
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN.format(slow=slow), *words, "--path", str(FIXTURES), *(modules or ("fleetlog_edges",))],
            stdin=subprocess.DEVNULL, stdout=(folder / "log").open("wb"), stderr=subprocess.STDOUT, start_new_session=True,
        )
        self._number = 0
        self.connect()

    def connect(self) -> None:
        self.wire = socket.socket(socket.AF_UNIX)
        self.wire.settimeout(LOOK_S_MAX)
        until_true(self._connected, LOOK_S_MAX, "it listens")
        self._buffer, self._news = bytearray(), list[workers.News]()
        hello = self.news()
        assert isinstance(hello, workers.Hello)
        self.hello = hello

    def _connected(self) -> bool:
        with contextlib.suppress(OSError):
            self.wire.connect(str(self.folder / "w.sock"))
            return True
        return False

    def news(self) -> workers.News | None:
        """Return what it says next; None at the end."""
        while not self._news:
            data = self.wire.recv(65_536)
            if not data:
                return None
            self._buffer += data
            self._news += workers.take_news(self._buffer)
        return self._news.pop(0)

    def begin(self, name: str, *args: Any, **kwargs: Any) -> str:
        self._number += 1
        call = workers.Call(f"t.{self._number}", name, args, kwargs, stdout=str(self.folder / "out"), stderr=str(self.folder / "err"))
        self.wire.sendall(workers.frame(call))
        return call.key

    def finished(self) -> workers.Finished:
        while not isinstance(news := self.news(), workers.Finished):
            assert news is not None, "it ended without a word"
        return news

    def call(self, name: str, *args: Any, **kwargs: Any) -> workers.Finished:
        """Return how a call ends."""
        self.begin(name, *args, **kwargs)
        return self.finished()

    def value(self, name: str, *args: Any, **kwargs: Any) -> str:
        found = self.call(name, *args, **kwargs)
        assert found.value is not None, found.error
        return found.value

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.wire.close()


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    running = Worker(tmp_path_factory.mktemp("worker"))
    yield running
    running.end()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[list[Worker]]:
    """Workers that a test starts for itself."""
    started: list[Worker] = []
    yield started
    for one in started:
        one.end()


# --- values and exceptions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("set", "[1]"), ("struct", '{"x":1,"tag":null}'), ("none in it", "[null]"), ("dataclass", '{"days":1}'), ("bytes", '"YWJj"'),
        ("datetime", '"2026-01-02T00:00:00Z"'), ("amount", "1.5"), ("path", '"/a"'),
    ],
)
def test_what_json_can_say_is_a_value(worker: Worker, what: str, value: str) -> None:
    assert worker.value("gives", what) == value


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("nan", "NaN and infinity are no JSON numbers: use None"), ("infinity", "NaN and infinity are no JSON numbers"),
        ("surrogate", "surrogates not allowed"), ("generator", "objects of type generator are none"), ("keys", "a key is a text or a number"),
        ("function", "objects of type function are none"), ("large", f"at most {limits.RETURN_VALUE_BYTES_MAX} are kept"),
    ],
)
def test_what_it_cannot_say_fails_the_call_and_says_why(worker: Worker, what: str, says: str) -> None:
    found = worker.call("gives", what)
    assert (found.value, found.called) == (None, True)
    assert says in found.error


def test_any_exception_is_how_a_call_ends_also_one_that_cannot_be_shown(worker: Worker) -> None:
    assert worker.call("raises_unprintable").error == "fleetlog_edges.Unprintable: <exception str() failed>"
    assert worker.call("raises_exit").error == "SystemExit: enough"
    assert worker.call("raises_surrogate").error == "ValueError: a?"


def test_a_type_that_refuses_a_value_by_an_exception_of_its_own_makes_wrong_arguments(worker: Worker) -> None:
    found = worker.call("checks", {"days": -1})
    assert (found.called, found.error) == (False, "argument given of checks: LookupError: days are not negative")
    assert worker.value("checks", {"days": 1}) == "1"


# --- what a call leaves behind ---------------------------------------------------------------------------


def test_a_call_finds_nothing_of_what_the_last_one_did_to_the_process(worker: Worker) -> None:
    before = worker.value("looks")
    worker.value("spoils_the_process")
    (worker.folder / "out").write_text("")
    (worker.folder / "err").write_text("")
    assert worker.value("looks") == before
    assert ((worker.folder / "out").read_text(), (worker.folder / "err").read_text()) == ("printed\n", "written\n")


def test_a_line_is_out_while_the_function_still_runs(alone: list[Worker], tmp_path: Path) -> None:
    alone.append(one := Worker(tmp_path))
    one.begin("prints_and_waits", str(tmp_path / "here"))
    until_true((tmp_path / "here").exists, LOOK_S_MAX, "it waits")
    assert (tmp_path / "out").read_text() == "before the wait\n"


def test_progress_is_limited_however_often_a_function_says_it(worker: Worker) -> None:
    for at_total in (False, True):
        key = worker.begin("reports", 10_000, at_total=at_total)
        said = []
        while not isinstance(news := worker.news(), workers.Finished):
            said.append(news)
        assert news.key == key
        assert 1 <= len(said) < 100, "one a second, and the one at the total"


def test_a_child_that_a_function_forked_does_not_hold_the_connection_of_its_worker(alone: list[Worker], tmp_path: Path) -> None:
    alone.append(one := Worker(tmp_path))
    one.begin("forks_and_waits", str(tmp_path / "pids"))
    until_true(lambda: (tmp_path / "pids").exists() and bool((tmp_path / "pids").read_text()), LOOK_S_MAX, "it forked")
    os.kill(one.process.pid, signal.SIGKILL)
    assert one.news() is None, "the end of the worker is seen at once"


# --- calls given ahead -----------------------------------------------------------------------------------


def test_calls_that_are_given_ahead_are_made_in_their_order(worker: Worker) -> None:
    keys = [worker.begin("pid") for _ in range(20)]
    assert [worker.finished().key for _ in keys] == keys


def test_what_was_given_behind_a_slow_call_is_not_begun_nor_what_comes_before_the_agent_has_noted_it(
    alone: list[Worker], tmp_path: Path
) -> None:
    alone.append(one := Worker(tmp_path, slow=0.02))
    slow = one.begin("waits_for", str(tmp_path / "over"))
    one.begin("pid")
    assert one.news() == workers.Slow(slow)
    one.begin("pid")
    one.wire.sendall(workers.frame(workers.Noted()))
    again = one.begin("pid")
    (tmp_path / "over").touch()
    assert [one.finished().key, one.finished().key] == [slow, again]


def test_an_agent_that_comes_back_is_answered_while_a_call_runs_and_what_its_former_connection_gave_is_dropped(
    alone: list[Worker], tmp_path: Path
) -> None:
    alone.append(one := Worker(tmp_path, slow=0.02))
    slow = one.begin("waits_for", str(tmp_path / "over"))
    assert one.news() == workers.Slow(slow)
    one.wire.sendall(workers.frame(workers.Noted()))
    one.begin("pid")
    one.connect()
    assert one.hello.running == slow
    again = one.begin("pid")
    (tmp_path / "over").touch()
    assert [one.finished().key, one.finished().key] == [slow, again]


def test_told_to_leave_it_begins_none_of_the_calls_that_it_has(alone: list[Worker], tmp_path: Path) -> None:
    alone.append(one := Worker(tmp_path, slow=0.02))
    slow = one.begin("waits_for", str(tmp_path / "over"))
    assert one.news() == workers.Slow(slow)
    one.wire.sendall(workers.frame(workers.Noted()))
    one.begin("pid")
    one.wire.sendall(workers.frame(workers.Retire()))
    one.begin("pid")
    (tmp_path / "over").touch()
    assert one.finished().key == slow
    assert one.news() is None
    assert one.process.wait(LOOK_S_MAX) == 0


# --- its life --------------------------------------------------------------------------------------------


def test_it_leaves_after_so_many_calls_and_not_within_one(alone: list[Worker], tmp_path: Path) -> None:
    alone.append(one := Worker(tmp_path, calls_max=2))
    assert [one.call("pid").leaves, one.call("pid").leaves] == [False, True]
    assert one.news() is None
    assert one.process.wait(LOOK_S_MAX) == 0


def test_it_leaves_when_a_call_left_it_too_large_and_not_within_that_call(alone: list[Worker], tmp_path: Path) -> None:
    alone.append(one := Worker(tmp_path, memory_bytes_max=200 * 1024**2))
    assert not one.call("grows", 1).leaves
    found = one.call("grows", 300)
    assert (found.leaves, found.error) == (True, "")
    assert found.value == str(one.process.pid)


def test_a_thread_that_a_function_left_behind_does_not_keep_it(alone: list[Worker], tmp_path: Path) -> None:
    alone.append(one := Worker(tmp_path, calls_max=1))
    assert one.call("leaves_a_thread").leaves
    assert one.process.wait(LOOK_S_MAX) == 0


def test_modules_that_cannot_be_had_are_said_and_the_others_are_there(alone: list[Worker], tmp_path: Path) -> None:
    alone.append(one := Worker(tmp_path, "fleetlog_edges", "fleetlog_exits", "fleetlog_again", "fleetlog_not_there"))
    exits, twice, missing = one.hello.errors
    assert exits == "module fleetlog_exits: SystemExit: not here"
    assert "fleetlog_again and fleetlog_edges both declare the task 'pid': rename one of them" in twice
    assert "ModuleNotFoundError" in missing
    assert {"pid", "own", "looks"} <= {offered.name for offered in one.hello.functions}
    assert one.value("pid") == str(one.process.pid), "the first of the two"
    assert "said at import" in (tmp_path / "log").read_text(), "what a module prints is no task's output"


def test_a_function_that_hides_from_its_end_is_left_to_who_can_kill(alone: list[Worker], tmp_path: Path) -> None:
    alone.append(one := Worker(tmp_path))
    for name in ("swallows_stop", "swallows_cancel"):
        one.begin(name, str(tmp_path / name))
        until_true((tmp_path / name).exists, LOOK_S_MAX, "it began")
        (tmp_path / name).unlink()
        os.kill(one.process.pid, signal.SIGTERM)
        if name == "swallows_stop":
            until_true((tmp_path / name).exists, LOOK_S_MAX, "it went on")
            one.end()
            alone.append(one := Worker(_fresh(tmp_path)))
    assert one.process.poll() is None
    one.connect()
    assert one.hello.running, "an agent that comes back is answered all the same"


def _fresh(folder: Path) -> Path:
    other = folder / "other"
    other.mkdir()
    return other
