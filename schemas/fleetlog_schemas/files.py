"""Task files: the names that they may have, what runs them, and which there are, folded from the log.

A name is a relative path of a small alphabet, so that it means the same on every file system and can be written into a
folder without leaving it. Two names that differ in case alone are one.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections import Counter

import msgspec

from fleetlog_schemas import limits
from fleetlog_schemas.codec import Event
from fleetlog_schemas.file_events import FileRemoved, FileSaved
from fleetlog_schemas.spec import Payload, Script, SpecError

_STEP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that Windows takes for devices: who keeps files in git may check them out there."""
PATH_RULE = "steps of A-Z a-z 0-9 _ . + - with / between them, none of which begins or ends with a dot"
_BY_SUFFIX = {".py": ("python3",), ".sh": ("/bin/sh",), ".bash": ("bash",)}
_ENV = "/usr/bin/env"


class FileVersion(msgspec.Struct, frozen=True):
    """One version of a file."""

    version: int
    sha256: str
    size: int
    interpreter: tuple[str, ...]
    message: str
    changed_by: str
    changed_ms: int
    seq: int
    restored_version: int = 0


class TaskFile(msgspec.Struct):
    """A file, or what was one."""

    path: str
    versions: list[FileVersion]
    """The newest last; at most FILE_VERSIONS_MAX."""
    removed: bool = False

    @property
    def newest(self) -> FileVersion:
        """Return the last version."""
        return self.versions[-1]

    def of_version(self, version: int) -> FileVersion | None:
        """Return a version; 0 is the newest."""
        return next((one for one in self.versions if one.version == version), None) if version else self.newest


class Files(msgspec.Struct):
    """Every file that there is or was, by its path in lower case."""

    by_key: dict[str, TaskFile] = {}
    held: int = 0
    """Versions of all of them; at most FILE_VERSIONS_HELD_MAX, or one of each."""

    def named(self, path: str) -> TaskFile | None:
        """Return the file of this path, also one that was removed."""
        return self.by_key.get(path.lower())

    @property
    def present(self) -> int:
        """Return how many there are."""
        return sum(not one.removed for one in self.by_key.values())


def apply(files: Files, event: Event) -> bool:
    """Fold one event and tell whether it changed anything."""
    match event.data:
        case FileSaved() as data:
            known = files.named(data.path)
            if data.version != (known.newest.version if known else 0) + 1:
                return False
            version = FileVersion(
                version=data.version, sha256=data.sha256, size=data.size, interpreter=tuple(map(sys.intern, data.interpreter)),
                message=data.message, changed_by=sys.intern(event.authid or ""), changed_ms=event.time_ms, seq=event.seq, restored_version=data.restored_version,
            )
            if known is None:
                known = files.by_key[data.path.lower()] = TaskFile(data.path, [])
            known.path, known.removed = data.path, False
            known.versions.append(version)
            files.held += 1 - _shorten(known, limits.FILE_VERSIONS_MAX)
            if files.held > limits.FILE_VERSIONS_HELD_MAX:
                _make_room(files)
            return True
        case FileRemoved(path=path):
            known = files.named(path)
            if known is None or known.removed:
                return False
            known.removed = True
            return True
    return False


def _shorten(file: TaskFile, versions_max: int) -> int:
    """Forget the oldest versions of a file and return how many."""
    gone = max(0, len(file.versions) - versions_max)
    del file.versions[:gone]
    return gone


def _make_room(files: Files) -> None:
    """Shorten the longest histories so far that a tenth is free: so this is rarely done, and every reader does it at the same event."""
    lengths = Counter(len(file.versions) for file in files.by_key.values())
    versions_max = limits.FILE_VERSIONS_MAX
    while versions_max > 1 and sum(min(length, versions_max) * count for length, count in lengths.items()) > limits.FILE_VERSIONS_HELD_MAX * 9 // 10:
        versions_max -= 1
    files.held -= sum(_shorten(file, versions_max) for file in files.by_key.values())


def check_path(path: str) -> None:
    """Check the name of a file.

    Raises:
        SpecError: it breaks a rule.
    """
    if len(path) > limits.FILE_PATH_CHARACTERS_MAX:
        raise SpecError("/path", f"a file's path has at most {limits.FILE_PATH_CHARACTERS_MAX} characters")
    steps = path.split("/")
    if len(steps) > limits.FILE_PATH_STEPS_MAX:
        raise SpecError("/path", f"a file's path has at most {limits.FILE_PATH_STEPS_MAX} steps")
    for step in steps:
        if not _STEP.fullmatch(step) or step.endswith("."):
            raise SpecError("/path", f"{path[:100]!r} is no path of a task file: it is {PATH_RULE}")
        if _RESERVED.fullmatch(step):
            raise SpecError("/path", f"{step!r} is the name of a device on some systems: take another one")


def reference_of(text: str) -> tuple[str, int]:
    """Return path and version of `PATH` or `PATH@VERSION`; 0 is the newest.

    Raises:
        SpecError: it is neither.
    """
    path, at, number = text.partition("@")
    if at and not re.fullmatch(r"[1-9][0-9]{0,15}", number, re.ASCII):
        raise SpecError("/path", f"{text[:100]!r}: write PATH@VERSION, as {path[:100]}@3")
    check_path(path)
    return path, int(number or 0)


def file_run_by(payload: Payload) -> str:
    """Return the path of the task file that a task runs, whichever version; empty: it runs none."""
    if not isinstance(payload, Script):
        return ""
    path, at, number = payload.content.name.rpartition("@")
    return path if at and number.isdecimal() else ""


def interpreter_for(path: str, content: str) -> tuple[str, ...]:
    """Return what runs a file: what its `#!` line says, else what its suffix means, else /bin/sh."""
    first = content.split("\n", 1)[0].rstrip("\r")
    if first.startswith("#!"):
        try:
            words = shlex.split(first[2:].strip())
        except ValueError:
            words = first[2:].split()
        if words[:2] == [_ENV, "-S"]:
            del words[:2]  # env's flag to split its one argument: here they are split already
        if words:
            return tuple(words)
    return _BY_SUFFIX.get("." + path.rpartition(".")[2].lower() if "." in path.rpartition("/")[2] else "", ("/bin/sh",))


def language_of(interpreter: tuple[str, ...]) -> str:
    """Return `python`, `sh`, `bash`, or nothing where no syntax is known."""
    words = [word.rpartition("/")[2] for word in interpreter if not word.startswith("-")]
    name = words[1] if len(words) > 1 and words[0] == "env" else words[0] if words else ""
    if re.fullmatch(r"python[0-9.]*", name):
        return "python"
    return {"sh": "sh", "dash": "sh", "bash": "bash"}.get(name, "")
