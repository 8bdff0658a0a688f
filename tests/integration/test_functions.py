"""Python functions on a real system: what they return, raise, print, and what becomes of them when something dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlog.aio import AsyncClient
from fleetlog.completed import as_completed
from fleetlog.exits import CliError, NotEnded
from fleetlog.functions import Handle, TaskFailed
from fleetlog.tasks import WrongArguments
from fleetlog.tasks import task as declared
from fleetlog_testing.fleet import END_S_MAX, LOOK_S, Fleet, Host
from fleetlog_testing.waiting import until

MODULES = Path(__file__).parents[1] / "fixtures" / "functions"
NAME = "py1"
SECRET = "hunter22-of-nobody"
POLICY = f"""
[functions]
modules = ["fleetlog_probe", "not_there"]
path = ["{MODULES}"]
queues = ["default", "slow"]
calls_max = 100
"""


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    running = Fleet(tmp_path_factory.mktemp("functions"), separate=False)

    async def start() -> None:
        await running.start()
        for name, policy in ((NAME, POLICY), ("plain", "")):
            host = await asyncio.to_thread(running.join, name)
            (host.folder / "policy.toml").write_text(policy)
            host.start("agent.kill_grace_ms=500", "agent.heartbeat_ms=500")
        await running.online(NAME, "plain")
        await until(lambda: "functions" in running.shown(NAME)["facts"], END_S_MAX, "the host says what it offers", LOOK_S)

    asyncio.run(start())
    try:
        yield running
    finally:
        running.close()


def host_of(fleet: Fleet) -> Host:
    return fleet.hosts[NAME]


def test_a_function_is_called_with_its_arguments_and_its_value_comes_back(fleet: Fleet) -> None:
    client = fleet.client
    assert client.submit("add", 2, b=3).value(END_S_MAX) == 5
    assert client.submit("add", 2).value(END_S_MAX) == 3
    (waited,) = client.submit_many("wait", [(0.01,)], queue="slow")
    assert waited.value(END_S_MAX) == "waited"
    assert client.submit("returns", "deep").value(END_S_MAX) == [[[1]]]
    assert client.submit("returns", "none").value(END_S_MAX) is None


def test_many_handles_are_given_as_their_tasks_end_by_one_stream(fleet: Fleet) -> None:
    many = [*fleet.client.submit_many("add", [(number,) for number in range(300)]), fleet.client.submit("fails", "no")]
    ended = list(as_completed(many, END_S_MAX))
    assert {one.task_id for one in ended} == {one.task_id for one in many}
    fleet_is_not_asked = [one.value() for one in many[:-1]]
    assert fleet_is_not_asked == list(range(1, 301))
    assert list(as_completed(many, 0.0)) == many, "what has ended is given at once"
    (slow,) = fleet.client.submit_many("wait", [(600.0,)], queue="slow")
    with pytest.raises(NotEnded, match="1 of 1 tasks have not ended in 0.2 s; they go on"):
        list(as_completed([slow], 0.2))

    async def scenario() -> None:
        client = AsyncClient(fleet.home.gateway_url(), fleet.home.gateway_token(), str(fleet.home.tls_ca() or "") or None)
        async with client:
            handles = await client.submit_many("add", [(1,), (2,)])
            assert sorted([await one.value() async for one in client.as_completed(handles, END_S_MAX)]) == [2, 3]

    asyncio.run(scenario())
    slow.cancel()


def test_what_goes_wrong_is_said_so_that_it_can_be_mended(fleet: Fleet) -> None:
    client = fleet.client

    def failed(name: str, *args: object, **options: object) -> TaskFailed:
        (handle,) = client.submit_many(name, [args], **options)
        with pytest.raises(TaskFailed) as caught:
            handle.value(END_S_MAX)
        return caught.value

    raised = failed("fails", "this is why")
    assert (raised.outcome, raised.error) == ("failure", "ValueError: this is why")
    assert 'raise ValueError(text)' in raised.traceback
    assert "worker.py" not in raised.traceback
    assert "at most 65536 are kept" in failed("returns", "large").error
    assert "is no JSON" in failed("returns", "set").error
    assert "RecursionError" in failed("recurses").error
    assert "the worker process was gone before the function returned: (exit code 7)" in failed("leaves", 7).error
    assert client.submit("forks").value(END_S_MAX) == 0, "what the forked child returned is not the task's"


def test_what_no_host_can_run_is_refused_at_submit_and_nothing_is_stored(fleet: Fleet) -> None:
    client, before = fleet.client, fleet.gateway.get("/log", limit=1)["seq"]

    def refused(name: str, *args: object, **options: object) -> str:
        with pytest.raises((CliError, WrongArguments)) as caught:
            client.function(name, **options).submit(*args)
        return str(caught.value)

    assert refused("add", "two") == "argument a of add: Expected `int`, got `str`"
    assert refused("add") == "add(a: int, b: int = 1) -> int: missing a required argument: 'a'"
    assert "did you mean add?" in refused("ad")
    assert f"on {NAME}, module not_there: ModuleNotFoundError" in refused("of_a_module_that_is_not_there")
    assert "none of them serves the queue 'mail'" in refused("add", 1, queue="mail")
    assert "no host of the target offers the function 'add'" in refused("add", 1, target="plain")
    with pytest.raises(WrongArguments, match="^call 2: argument b of add: Expected `int`, got `null`"):
        client.submit_many("add", [(1,), {"a": 1}, (1, None)])
    assert fleet.gateway.get("/log", limit=1)["seq"] == before


def test_numbers_that_no_message_can_carry_stop_nobody(fleet: Fleet) -> None:
    client = fleet.client
    for value in (2**64, [[{"a": -(2**70)}]]):
        with pytest.raises(CliError, match="integer of 64 bits"):
            client.submit("echoes", value)
    deep: list[object] = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(CliError, match="nested more than"):
        client.submit("echoes", deep)
    assert client.submit("echoes", [2**63 - 1, 1e300]).value(END_S_MAX) == [2**63 - 1, 1e300]


def test_what_a_function_prints_is_its_output_also_that_of_its_children(fleet: Fleet) -> None:
    handle = fleet.client.submit("prints", 3)
    handle.wait(END_S_MAX)
    shown = fleet.run("output", handle.task_id)
    assert {"line 0", "line 1", "line 2", "to stderr", "from a child"} <= {line.split(": ")[-1].strip() for line in shown.stdout.splitlines()}


def test_a_function_past_its_timeout_is_ended_and_another_worker_takes_the_next(fleet: Fleet) -> None:
    (handle,) = fleet.client.submit_many("wait", [(600.0,)], queue="slow", timeout_s=0.5)
    assert handle.wait(END_S_MAX).outcome == "timeout"
    assert fleet.client.submit("add", 1).value(END_S_MAX) == 2


def test_a_function_says_how_far_it_is_while_it_runs(fleet: Fleet, tmp_path: Path) -> None:
    async def scenario() -> None:
        client = AsyncClient(fleet.home.gateway_url(), fleet.home.gateway_token(), str(fleet.home.tls_ca() or "") or None)
        handle = await client.submit("writes", str(tmp_path / "lines"), 600.0)

        async def said() -> bool:
            far = await handle.progress()
            return far is not None and (far.total, far.note) == (12_000, "waiting") and far.done > 0

        await until(said, END_S_MAX, "its progress is shown", LOOK_S)
        assert "of 12000 waiting" in fleet.run("show", handle.task_id).stdout
        assert await handle.cancel()
        assert (await handle.wait(END_S_MAX)).outcome == "cancelled"
        assert not await handle.cancel()

    asyncio.run(scenario())


def test_a_function_that_is_cancelled_ends(fleet: Fleet, tmp_path: Path) -> None:
    handle = fleet.client.submit("writes", str(tmp_path / "lines"), 600.0)
    asyncio.run(until((tmp_path / "lines").exists, END_S_MAX, "it began", LOOK_S))
    handle.cancel()
    assert handle.wait(END_S_MAX).outcome == "cancelled"
    assert "ended" not in (tmp_path / "lines").read_text()


def test_a_killed_agent_finds_what_its_functions_did_and_runs_none_twice(fleet: Fleet, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    handles = fleet.client.submit_many("writes", [(str(lines), seconds) for seconds in (1.0, 3.0, 0.1, 0.1)])
    asyncio.run(until(lambda: lines.exists() and lines.read_text().count("began") == 2, END_S_MAX, "both workers are busy", LOOK_S))
    host_of(fleet).kill()
    asyncio.run(until(lambda: "ended" in lines.read_text(), END_S_MAX, "one finishes without an agent", LOOK_S))
    host_of(fleet).start("agent.kill_grace_ms=500", "agent.heartbeat_ms=500")
    for handle in handles:
        assert handle.value(END_S_MAX) > 0
    said = lines.read_text().split("\n")[:-1]
    assert sorted(said) == sorted(f"{handle.task_id} {what}" for handle in handles for what in ("began", "ended"))


def leak(fleet: Fleet, folder: Path, *words: str) -> Handle[object]:
    """Run the function that tells its secret."""
    (folder / "token").write_text(SECRET)
    done = fleet.run("function", "run", "leaks", *words, "--secret", f"TOKEN=@{folder / 'token'}", "--detach")
    assert done.returncode == 0, done.stderr
    return Handle(fleet.client, done.stdout.split()[-1])


def test_no_secret_is_seen_in_what_a_function_says_and_none_when_the_agent_was_away(fleet: Fleet, tmp_path: Path) -> None:
    returned, raised = leak(fleet, tmp_path, "x"), leak(fleet, tmp_path, "x", "raises")
    assert returned.value(END_S_MAX) == {"token": "*" * len(SECRET)}
    with pytest.raises(TaskFailed) as caught:
        raised.value(END_S_MAX)
    assert caught.value.error == f"ValueError: raised {'*' * len(SECRET)}"
    assert "raise ValueError(f" in caught.value.traceback

    gate = tmp_path / "gate"
    away = leak(fleet, tmp_path, str(gate), "waits")
    asyncio.run(until(gate.exists, END_S_MAX, "it began", LOOK_S))
    host_of(fleet).kill()
    gate.unlink()
    files = host_of(fleet).folder / "workers"
    asyncio.run(until(lambda: any(SECRET.encode() in path.read_bytes() for path in files.glob("*.calls")), END_S_MAX, "it returned", LOOK_S))
    host_of(fleet).start("agent.kill_grace_ms=500", "agent.heartbeat_ms=500")
    assert away.value(END_S_MAX) == {"token": "*" * len(SECRET)}
    assert SECRET.encode() not in b"".join(bytes(stored.event) for stored in fleet.client.read_log(task_id=returned.task_id))
    assert f"printed {'*' * len(SECRET)}" in fleet.run("output", returned.task_id).stdout


def test_control_c_ends_the_waiting_and_not_the_task(fleet: Fleet, tmp_path: Path) -> None:
    (handle,) = fleet.client.submit_many("writes", [(str(tmp_path / "lines"), 600.0)])
    asyncio.run(until((tmp_path / "lines").exists, END_S_MAX, "it began", LOOK_S))
    script = "import fleetlog, sys; print('waits', flush=True); fleetlog.Handle(fleetlog.Client.here(), sys.argv[1]).value()"
    environment = {**fleet.environment, "FLEETLOG_URL": fleet.home.gateway_url(), "FLEETLOG_TOKEN": fleet.home.gateway_token()}
    if (ca := fleet.home.tls_ca()) is not None:
        environment["FLEETLOG_CA"] = str(ca)
    waiting = subprocess.Popen(
        [sys.executable, "-c", script, handle.task_id], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "waits\n"
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=END_S_MAX)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert fleet.client.show(handle.task_id).state == "planned"
    handle.cancel()
    handle.wait(END_S_MAX)


def test_a_worker_that_is_killed_under_its_function_is_said_so_and_replaced(fleet: Fleet, tmp_path: Path) -> None:
    pid = fleet.client.submit("writes", str(tmp_path / "first")).value(END_S_MAX)
    victims = fleet.client.submit_many("writes", [(str(tmp_path / f"lines{number}"), 600.0) for number in range(2)])
    asyncio.run(until((tmp_path / "lines1").exists, END_S_MAX, "both workers are busy", LOOK_S))
    os.kill(pid, signal.SIGKILL)
    outcomes: set[str] = set()

    def over() -> bool:
        outcomes.update(str(view.outcome) for view in (fleet.client.show(one.task_id) for one in victims) if view.outcome)
        return bool(outcomes)

    asyncio.run(until(over, END_S_MAX, "its function has ended", LOOK_S))
    assert outcomes == {"failure"}
    for handle in victims:
        handle.cancel()
        handle.wait(END_S_MAX)


def test_a_decorated_function_is_checked_where_it_is_called(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    @declared("add")
    def add(a: int, b: int = 1) -> int:
        return a + b

    monkeypatch.setattr("fleetlog.functions.client_here", lambda: fleet.client)
    handle: Handle[int] = add(20, b=1)
    assert handle.value(END_S_MAX) == 21
    assert add.local(1, 1) == 2
    with pytest.raises(TypeError, match="argument a of add"):
        add("x")  # type: ignore[arg-type]
