"""The demonstration holds, in less than a minute, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from fleetlog_testing.waiting import fair

SECONDS_MAX = 60


@pytest.mark.timeout(240)
def test_the_eight_steps_hold() -> None:
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "fleetlog.demo"], capture_output=True, text=True, timeout=230, check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    for number in range(1, 9):
        assert f"=== {number}. " in done.stdout
    assert "All eight steps held" in done.stdout
    assert time.monotonic() - began < fair(SECONDS_MAX)
