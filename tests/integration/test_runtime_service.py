"""A service as a process: starts from a folder, stops on a signal, and says clearly why it cannot run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fleetlog_runtime.shell.home import create_home
from fleetlog_testing.nats import real_server

SERVICE = """
import sys
from fleetlog_runtime.shell.service import service_main

async def run(context):
    assert await context.bus.append(__import__("fleetlog_runtime.pure.bus", fromlist=["x"]).Batch(
        drafts=(__import__("fleetlog_runtime.pure.bus", fromlist=["x"]).Draft("evt.result", b"served"),), message_id=""))
    context.log.info("slots", slots=context.settings.dispatcher.slots_per_host, token="flt_" + "x" * 40)
    context.ready()
    await context.stop.wait()

service_main("result-recorder", run, sys.argv[1:])
"""


def start(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SERVICE, *arguments], stderr=subprocess.PIPE, text=True,
        env={**os.environ, **(environment or {})},
    )


def lines_of(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def until_ready(process: subprocess.Popen[str]) -> list[str]:
    assert process.stderr is not None
    seen: list[str] = []
    deadline = time.monotonic() + 20
    while not seen or '"ready"' not in seen[-1]:
        assert time.monotonic() < deadline, seen
        line = process.stderr.readline()
        assert line, seen
        seen.append(line)
    return seen


def test_a_service_serves_until_sigterm_and_ends_with_zero(tmp_path: Path):
    with real_server(tmp_path) as home:
        process = start(
            "--data", str(home.path), "--set", "dispatcher.slots_per_host=7",
            environment={"FLEETLOG_DISPATCHER_SLOTS_PER_HOST": "9"},
        )
        seen = until_ready(process)
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
    assert process.returncode == 0
    found = lines_of("".join(seen) + rest)
    assert {line["service"] for line in found} == {"result-recorder"}
    slots = next(line for line in found if line["event"] == "slots")
    assert (slots["slots"], slots["token"]) == (7, "[cut out]")


def test_a_service_started_before_the_bus_waits_for_it(tmp_path: Path):
    home = create_home(tmp_path / "home")
    process = start("--data", str(home.path))
    with real_server(tmp_path):
        until_ready(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        process.communicate()


def test_a_wrong_setting_is_exit_2_and_one_line_that_says_what_to_write(tmp_path: Path):
    process = start("--data", str(tmp_path), "--set", "dispatcher.slots=7")
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert "slots_per_host" in errors
