"""Processes that are kept running: restarted when they die, ended when asked, taken over when left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from fleetlog.processes import Child, end_left_behind


def _folder(tmp_path: Path) -> Path:
    for name in ("run", "diagnostics"):
        (tmp_path / name).mkdir()
    return tmp_path


async def _until(holds, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def _pid(folder: Path) -> int:
    return int((folder / "run" / "x.pid").read_text())


def _gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_process_that_is_killed_is_started_again_and_stops_when_asked(tmp_path):
    folder, said = _folder(tmp_path), []

    async def story() -> None:
        child = Child("x", [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"], folder, said.append)
        await child.start()
        first = _pid(folder)
        await _until(lambda: (folder / "diagnostics" / "x.log").read_text() == "up\n")
        os.kill(first, signal.SIGKILL)
        await _until(lambda: _pid(folder) != first)
        second = _pid(folder)
        await child.stop()
        assert _gone(second)

    asyncio.run(story())

    assert len(said) == 1
    assert "x ended (killed by SIGKILL); starting it again" in said[0]
    assert not (folder / "run" / "x.pid").exists()


def test_a_process_left_behind_is_ended_before_another_is_started(tmp_path):
    argv = [sys.executable, "-c", "import time; time.sleep(60)", str(tmp_path)]
    pid_path = tmp_path / "x.pid"
    with subprocess.Popen(argv) as left:
        pid_path.write_text(str(left.pid))
        asyncio.run(_until(lambda: Path(f"/proc/{left.pid}/cmdline").read_bytes() != b""))
        end_left_behind(pid_path, ["-c", str(tmp_path)])
        assert left.wait(5) == -signal.SIGTERM


def test_a_pid_that_belongs_to_another_by_now_is_left_alone(tmp_path):
    pid_path = tmp_path / "x.pid"
    pid_path.write_text(str(os.getpid()))
    end_left_behind(pid_path, ["something", "else"])
    pid_path.write_text("not a number")
    end_left_behind(pid_path, ["x"])
