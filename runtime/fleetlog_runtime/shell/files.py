"""Files that must survive a crash or must not be read by others: written whole, synced, then named.

A name either stands for complete bytes or does not exist; nobody ever sees half a file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, body: bytes, mode: int = 0o600) -> None:
    """Replace *path* by a file of these bytes; after a crash it is the old one or the new one."""
    temporary = _written_beside(path, body, mode)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def create_private(path: Path, body: bytes) -> bool:
    """Make *path* with these bytes, readable by its owner only; return False and change nothing if it exists."""
    if path.exists():
        return False
    temporary = _written_beside(path, body, 0o600)
    try:
        # A hard link fails when the name is taken, so of two creators one wins and both read the same bytes.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


@contextlib.contextmanager
def new_private(path: Path) -> Iterator[BinaryIO]:
    """Write a new file for its owner only; it is on disk when the block ends. Raises OSError, also when it exists."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def sync_tree(folder: Path) -> None:
    """Put every file and folder below *folder* on disk. Raises OSError."""
    for parent, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(Path(parent) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        _sync_folder(Path(parent))


def private_folder(path: Path) -> Path:
    """Make a folder that only its owner may enter, and return it."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _written_beside(path: Path, body: bytes, mode: int) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        # On a full disk every try would leave another part behind.
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some file systems do not let a folder be synced; the file itself is.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
