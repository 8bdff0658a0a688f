"""The files into which attempts write their two outputs: a pair for each slot, used again where nothing was written.

To make and to remove two files costs more than a small function, on a file system without a journal a hundred times
more. So the pair of an attempt that wrote nothing stays for the next one of its slot. It must be nobody's any more: what
an attempt left running keeps its outputs open, and would write into another's. The kernel knows: what fcntl(2) calls
F_SETLEASE it grants for reading only on a file that nobody has open for writing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from fleetlog_agent.journal_records import Key

_STREAMS = ("stdout", "stderr")


class OutputFiles:
    """The output files of one agent, in a folder that attempts have for other files too, named by attempt."""

    def __init__(self, folder: str) -> None:
        """Keep them in *folder*."""
        self._folder = folder
        self._fit: set[int] = set()
        """Slots whose files are empty and open nowhere; others may have files of an attempt that ended."""
        # Sent when somebody opens a file for which the kernel has just granted that; by default it ends the process.
        signal.signal(signal.SIGIO, signal.SIG_IGN)

    def give(self, slot: int) -> str:
        """Return the prefix of the files of an attempt that is about to start; they are empty, or not there."""
        prefix = f"{self._folder}/{slot}"
        if slot not in self._fit:
            _remove(prefix)
        self._fit.discard(slot)
        return prefix

    def find(self, key: Key, slot: int) -> str:
        """Return the prefix of the files of an attempt that was started before; agents up to 0.2 named them by attempt."""
        named = f"{self._folder}/{key}"
        return named if any(os.path.lexists(f"{named}.{stream}") for stream in _STREAMS) else f"{self._folder}/{slot}"

    def take_back(self, prefix: str, slot: int, *, read: bool) -> None:
        """Have the files of an attempt that ended, whose output is needed no more; *read*: there may be notes on it."""
        own = prefix == f"{self._folder}/{slot}"
        if own and not read and all(_is_fit(f"{prefix}.{stream}") for stream in _STREAMS):
            self._fit.add(slot)
        else:
            _remove(prefix)


    def bytes_on_disk(self) -> int:
        """Return what everything in the folder takes on disk."""
        total = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat().st_blocks * 512
        return total

    def sweep(self, under_way: Mapping[Key, int]) -> list[str]:
        """Remove what ended attempts left, given those under way and their slots; return folders among it, for removal."""
        owners = {*map(str, under_way), *map(str, under_way.values())}
        left = [entry for entry in Path(self._folder).iterdir() if entry.name.rpartition(".")[0] not in owners]
        folders = [str(entry) for entry in left if entry.is_dir() and not entry.is_symlink()]
        for entry in left:
            if str(entry) not in folders:
                entry.unlink()
        return folders


def is_silent(prefix: str) -> bool:
    """Tell whether nothing at all was written."""
    for stream in _STREAMS:
        with contextlib.suppress(FileNotFoundError):
            if os.stat(f"{prefix}.{stream}").st_size:  # noqa: PTH116 - once for each command: pathlib costs more
                return False
    return True


def _remove(prefix: str) -> None:
    for suffix in (*_STREAMS, "frames"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{prefix}.{suffix}")  # noqa: PTH108 - once for each command: pathlib costs more


def _is_fit(path: str) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        return os.fstat(file).st_size == 0
    except OSError:
        return False  # somebody has it open, or the file system does not know
    finally:
        os.close(file)  # which ends what was granted
