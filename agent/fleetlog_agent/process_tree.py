"""Find and signal everything that a command started: its session, its descendants, and whoever carries its mark.

Part of the holder, so only the standard library, and little of it.
"""

from __future__ import annotations

import os
import signal
import time

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
NO_PID = -1
"""Of a process that is gone: what it left is found by its mark."""
KILL_ROUNDS_MAX = 50
"""Scans of the process table in one kill: a tree that forks faster than that is killed again by the agent."""


def boot_ms() -> int:
    """Return the boot clock: it counts on while the machine sleeps, and nobody can set it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def boot_ticks() -> int:
    """Return the boot clock in the ticks in which /proc gives the start times of processes."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // _TICK_NS


def process_stat(pid: int) -> tuple[int, int, int, str] | None:
    """Return parent, session, start time and state of a process, or None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib would cost memory here
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[1]), int(fields[3]), int(fields[19]), fields[0].decode()


def tree(root: int, mark: str) -> list[int]:
    """Return the living processes of a command: its session, its descendants, and what carries its mark."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    me = os.getpid()
    for name in os.listdir("/proc"):  # noqa: PTH208 - as above
        stat = process_stat(int(name)) if name.isdigit() else None
        if stat is None or stat[3] == "Z" or int(name) == me:
            continue
        pid = int(name)
        parents[pid] = stat[0]
        # An orphan that left session and parents behind still has the environment that it was born with.
        if pid == root or stat[1] == root or _carries(pid, mark):
            found.add(pid)
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found)


def _carries(pid: int, mark: str) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123
            return mark.encode() in file.read().split(b"\0")
    except OSError:
        return False


def signal_tree(root: int, mark: str, number: int, pids: list[int] | None = None) -> None:
    """Send a signal to every process of a command."""
    for pid in tree(root, mark) if pids is None else pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue  # gone, or made itself another user's: then only root may end it


def kill_tree(root: int, mark: str) -> None:
    """Kill every process of a command, also those that it starts meanwhile."""
    for _ in range(KILL_ROUNDS_MAX):
        pids = tree(root, mark)
        if not pids:
            return
        signal_tree(root, mark, signal.SIGKILL, pids)
        time.sleep(0.001)  # let the kernel take them away before looking again


def mark_of(host_id: str, key: str) -> str:
    """Return the environment entry that marks every process of an attempt.

    It names the host: two hosts may share one process table, and have an attempt of the same task each.
    """
    return f"FLEETLOG_ATTEMPT_ID={host_id}/{key}"
