"""Small disks for tests: a file system in memory of a few megabytes, that a test fills and empties."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_FILLER = "filler"


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Give *folder* a disk of its own. Skips where file systems may not be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)],
        capture_output=True, text=True, check=False,
    ) if shutil.which("mount") else None
    if mounted is None or mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip() if mounted else 'mount is not installed'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, bytes_left: int) -> None:
    """Leave so many bytes free."""
    make_room(folder)
    size = shutil.disk_usage(folder).free - bytes_left
    with (folder / _FILLER).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def make_room(folder: Path) -> None:
    """Take back what `fill` took."""
    (folder / _FILLER).unlink(missing_ok=True)


def protect(folder: Path, *, on: bool) -> None:
    """Make the disk read-only, or writable again."""
    subprocess.run(["mount", "-o", f"remount,{'ro' if on else 'rw'}", str(folder)], check=True)
