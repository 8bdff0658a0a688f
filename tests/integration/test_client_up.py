"""`fleetlog up` for real: one command starts everything, the verbs work on it, and it stops without a trace."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetlog_testing.waiting import fair

READY_S_MAX = 40
STOP_S_MAX = 30


class Running:
    """An `up` in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.log = folder.parent / f"{folder.name}.log"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FLEETLOG_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.argv("up", "--port", "0", *options), stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                env=self.environment, start_new_session=True,
            )

    def argv(self, *arguments: str) -> list[str]:
        """Return a command line on this folder."""
        return [sys.executable, "-m", "fleetlog.main", "--data", str(self.folder), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command line on this folder."""
        return subprocess.run(
            self.argv(*arguments), capture_output=True, text=True, timeout=60, check=False, env=self.environment,
            stdin=subprocess.DEVNULL,
        )

    def until(self, what: str, holds, seconds: float) -> None:
        """Wait for a condition."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"{what}: {self.log.read_text()}\n{self.diagnostics()}"
            time.sleep(0.05)

    def diagnostics(self) -> str:
        """Return the end of every service's diagnostics."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
            for path in sorted((self.folder / "diagnostics").glob("*.log"))
        )

    def ready(self) -> None:
        """Wait until it serves and its own host is online."""
        self.until("ready", lambda: "ready:" in self.log.read_text(), READY_S_MAX)
        self.until("online", lambda: '"online"' in self.run("host", "ls", "-o", "json").stdout, READY_S_MAX)

    def stop(self) -> int:
        """Stop it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S_MAX)

    def left(self) -> list[str]:
        """Return the command lines of processes that belong to this folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if str(self.folder) in command:
                    found.append(f"{entry.name} {command}")
        return found


@pytest.fixture(params=["one process", "several"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """Return a started system, in one process and in several."""
    system = Running(tmp_path / "home", *(["--processes"] if request.param == "several" else []))
    try:
        yield system
    finally:
        if system.process.poll() is None:
            system.stop()
        for line in system.left():
            os.kill(int(line.split()[0]), signal.SIGKILL)


def test_from_one_command_to_a_replayed_outcome_and_a_clean_stop(running: Running) -> None:
    running.ready()

    ran = running.run("exec", "-t", "all", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert ran.returncode == 3, ran.stderr + running.diagnostics()
    assert ran.stdout == "out\n"
    assert "err\n" in ran.stderr
    assert ran.stderr.splitlines()[-1].endswith("fleetlog rerun last --failed")

    shown, replayed = running.run("show", "last", "-o", "json"), running.run("replay", "last", "-o", "json")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == replayed.stdout
    assert json.loads(shown.stdout)["counts"] == {"failure": 1}
    assert "exit 3" in running.run("why").stdout

    typo = time.monotonic()
    assert running.run("exec", "-t", "no-such-host", "--", "true").returncode == 2
    assert time.monotonic() - typo < fair(3)

    second = running.run("up", "--port", "0")
    assert second.returncode == 6, second.stderr
    assert "already runs" in second.stderr

    doctor = running.run("doctor")
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr

    assert running.stop() == 0, running.log.read_text()
    assert running.left() == []


def test_what_was_done_is_still_there_after_a_restart(tmp_path: Path) -> None:
    first = Running(tmp_path / "home")
    try:
        first.ready()
        assert first.run("exec", "-t", "all", "--", "true").returncode == 0
        shown = first.run("show", "last", "-o", "json").stdout
        assert first.stop() == 0
        second = Running(tmp_path / "home")
        try:
            second.ready()
            assert second.run("show", "last", "-o", "json").stdout == shown
            assert second.run("exec", "-t", "all", "--", "true").returncode == 0
        finally:
            second.stop()
    finally:
        first.stop()
    assert first.left() == []


@pytest.mark.parametrize("mode", [(), ("--processes",)])
def test_after_a_kill_the_next_start_takes_over_what_was_left(tmp_path: Path, mode: tuple[str, ...]) -> None:
    first = Running(tmp_path / "home", *mode)
    try:
        first.ready()
        detached = first.run("exec", "-t", "all", "--detach", "-c", "sleep 3; echo survived")
        task_id = detached.stdout.strip()
        first.until(
            "running", lambda: '"running": 1' in first.run("show", task_id, "-o", "json").stdout, READY_S_MAX
        )
        first.process.kill()
        first.process.wait()
        second = Running(tmp_path / "home", *mode)
        try:
            second.ready()
            watched = second.run("watch", task_id)
            assert (watched.returncode, watched.stdout) == (0, "survived\n"), watched.stderr + second.diagnostics()
        finally:
            assert second.stop() == 0
    finally:
        left = first.left()
        for line in left:
            os.kill(int(line.split()[0]), signal.SIGKILL)
    assert left == []
