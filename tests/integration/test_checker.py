"""A short mix of every fault on one machine, judged by what commands wrote; and a run that is interrupted leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fleetlog_testing.agent_process import processes
from fleetlog_testing.tree import ROOT
from fleetlog_testing.waiting import until

RUN_S_MAX = 400
"""Some twenty seconds of faults, and at most as long again until the last host was heard, on a machine that is busy."""


def torture(*words: str) -> list[str]:
    return [sys.executable, "-m", "fleetlog_checker", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support")}


def left(folder: Path) -> list[str]:
    """Return the command lines of processes that name the folder."""
    found = []
    for pid in processes():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if str(folder) in words and pid != os.getpid():
            found.append(words)
    return found


@pytest.mark.timeout(RUN_S_MAX + 20)
def test_a_short_mix_of_every_fault_breaks_no_promise(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    done = subprocess.run(
        torture("--minutes", "0.35", "--agents", "6", "--seed", "7", "--folder", str(folder), "--json"),
        capture_output=True, text=True, timeout=RUN_S_MAX, env=environment(), check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-4000:]}\n{read(folder / 'table.txt')}"
    report = json.loads(done.stdout)
    assert report["verdict"]["violations"] == []
    assert report["verdict"]["classes"]["success"]["once"] > 20
    assert report["verdict"]["submissions"]["acknowledged"] > 10
    history = json.loads((folder / "history.json").read_bytes())
    assert len([one for one in history["troubles"] if not one["note"]]) >= 5
    assert "again: ./run torture --minutes 0.35" in read(folder / "table.txt")
    assert left(tmp_path) == []


def read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_an_interrupted_run_ends_everything_that_it_started(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    process = subprocess.Popen(
        torture("--minutes", "5", "--agents", "2", "--faults", "stop,partition", "--seed", "1", "--folder", str(folder)),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
    )
    try:
        judged = folder / "system" / "judge"
        asyncio.run(until(lambda: "began" in read(judged), 90, "commands run", 0.1))
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=90)
        assert process.returncode == 130, said
        assert str(folder) in said
        assert left(tmp_path) == []
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--faults", "flood"), "no fault 'flood'"), (("--minutes", "0"), "--minutes is above 0"), (("--agents", "0"), "1 to")],
)
def test_what_is_typed_wrong_is_said_at_once(words: tuple[str, ...], said: str) -> None:
    done = subprocess.run(torture(*words), capture_output=True, text=True, timeout=60, env=environment(), check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_holds_something_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    words = torture("--folder", str(tmp_path))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment(), check=False)
    assert done.returncode == 2
    assert "not an empty folder" in done.stderr
