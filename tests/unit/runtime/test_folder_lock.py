"""Whoever was left behind with the lock of a folder is found and ended, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fleetlog_runtime.shell import folder_lock
from fleetlog_runtime.shell.folder_lock import take_over, try_lock


def process_naming(path: Path, *descriptors: int) -> subprocess.Popen[bytes]:
    """Start a process with *path* on its command line that waits for its end."""
    argv = [sys.executable, "-S", "-c", "print(flush=True); import signal; signal.pause()", str(path)]
    started = subprocess.Popen(argv, stdout=subprocess.PIPE, pass_fds=descriptors)
    assert started.stdout is not None
    started.stdout.readline()
    return started


def test_a_server_left_behind_is_ended_whatever_its_pid_file_says(tmp_path: Path) -> None:
    configuration = tmp_path / "server.conf"
    lock = try_lock(tmp_path / "server.lock")
    assert lock is not None
    left, reader = process_naming(configuration, lock), process_naming(configuration)
    os.close(lock)
    (tmp_path / "pid").write_text(str(reader.pid))
    try:
        taken = take_over(tmp_path)
        assert taken is not None
        os.close(taken)
        assert left.wait(10) != 0
        assert reader.poll() is None, "it only looks at the configuration"
    finally:
        for one in (left, reader):
            one.kill()
            one.communicate()


def test_a_lock_whose_holder_cannot_be_found_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "FIND_SECONDS_MAX", 0.1)
    lock = try_lock(tmp_path / "server.lock")
    assert lock is not None
    assert take_over(tmp_path) is None
    os.close(lock)
