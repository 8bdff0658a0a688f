"""Earlier releases as they were: unpacked from their archives, run with the libraries of this checkout."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from fleetlog_schemas.versions import numbers
from fleetlog_testing.tree import ROOT

FOLDER = ROOT / "tests" / "fixtures" / "releases"
_ARCHIVE = re.compile(r"fleetlog-(\d+\.\d+\.\d+)\.tar\.xz")


def versions() -> list[str]:
    """Return the releases that are kept, the oldest first."""
    found = [match[1] for path in FOLDER.iterdir() if (match := _ARCHIVE.fullmatch(path.name))]
    return sorted(found, key=numbers)


def unpacked(version: str, folder: Path) -> Path:
    """Unpack a release below *folder* once, and return the folder that goes to PYTHONPATH."""
    target = folder / f"release-{version}"
    if not target.exists():
        with tarfile.open(fileobj=io.BytesIO((FOLDER / f"fleetlog-{version}.tar.xz").read_bytes())) as tar:
            tar.extractall(target, filter="data")
    return target


def agent_command(code: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command line of an earlier agent to its end."""
    return subprocess.run(
        [sys.executable, "-m", "fleetlog_agent.main", *words], env={"PYTHONPATH": str(code), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL,
    )
