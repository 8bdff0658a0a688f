"""A wrong wall clock for one Python process: libfaketime, moved by a file. Monotonic clocks stay what they are.

Processes that it starts have the machine's own clock: libfaketime lets a sleep fail during which the clock jumps.
"""

from __future__ import annotations

from pathlib import Path

FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
MISSING = "" if FAKETIME else "needs libfaketime (Debian: apt-get install faketime)"
DAY_S = 86_400


class WrongClock:
    """How far a clock is off; `environment` gives it to a process."""

    def __init__(self, file: Path) -> None:
        """Keep the offset in *file*; it is none so far."""
        self._file = file
        start = file.with_suffix(".start")
        start.mkdir()
        (start / "sitecustomize.py").write_text("import os; os.environ.pop('LD_PRELOAD', None)\n")
        self.environment = {
            "LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": str(start),
        }
        self.set(0)

    def set(self, seconds: int) -> None:
        """Let it be so many seconds ahead, or behind, from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)
