"""Watch the system calls of a process with strace: what was written, flushed and sent, in the order in which it began.

A call that takes long is cut in two lines by strace; here a write counts from its beginning and a flush from its end,
so that whatever is proved holds whichever way threads were scheduled.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

CALLS = "fsync,fdatasync,write,pwrite64,writev,sendto,sendmsg,execve"
FLUSHES = frozenset({"fsync", "fdatasync"})
_LINE = re.compile(r"^(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*)$")


class Call(NamedTuple):
    """One system call."""

    name: str
    text: str
    """Its arguments as strace shows them, file names in angle brackets."""


@contextmanager
def traced(pid: int, path: Path) -> Iterator[None]:
    """Write the calls of a process and its children to *path* while the block runs. Skips where that is not permitted."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is not installed")
    tracer = subprocess.Popen(
        [program, "-f", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(path), "-p", str(pid)],
        stderr=subprocess.PIPE, text=True,
    )
    assert tracer.stderr is not None
    said = tracer.stderr.readline()
    try:
        if "attached" not in said:
            pytest.skip(f"processes may not be traced here: {said.strip()}")
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        tracer.stderr.close()


def calls(path: Path) -> list[Call]:
    """Return what a trace says."""
    found: list[Call] = []
    pending: dict[str, str] = {}
    for line in path.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue  # a signal, or the end of a thread
        thread, resumed, name, rest = match.groups()
        if resumed:
            begun = pending.pop(thread, "")
            if resumed in FLUSHES:
                found.append(Call(resumed, begun))
        elif name in FLUSHES and "<unfinished ...>" in rest:
            pending[thread] = rest
        else:
            found.append(Call(name, rest))
    return found
