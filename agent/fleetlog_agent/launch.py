"""Start one process: directly, or by way of a forked launcher where user, folder, umask or limits must be set.

Part of the holder, so only the standard library, and little of it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from typing import Any

SCRIPT_FD = 3
"""Where a command that runs as another user finds its script: it could not enter the agent's folder."""
RETURN_FD = 4
"""Where such a command leaves what it returns."""
_RESET_SIGNALS = [signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD]


def spawn(order: dict[str, Any]) -> int:
    """Start a process in a session of its own and return its pid. Raises OSError."""
    return os.posix_spawnp(
        order["argv"][0], order["argv"], order["env"],
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, order["stdin"], os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, order["stdout"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_OPEN, 2, order["stderr"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
        ],
        setsid=True, setsigdef=_RESET_SIGNALS, setsigmask=[],
    )


def fork(order: dict[str, Any]) -> tuple[int, int]:
    """Fork a launcher, which arranges user, folder and limits and then becomes the command.

    Returns its pid, and a pipe that ends when the command runs, or says before that why it does not.
    """
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        _launch(order["launch"], order)
    except (OSError, ValueError, OverflowError) as error:
        os.write(writer, error_text(error, order).encode(errors="replace")[:4000])
    finally:
        os._exit(127)


def _launch(how: dict[str, Any], order: dict[str, Any]) -> None:
    os.setsid()
    for number in _RESET_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    opened = [
        os.open(order["stdin"], os.O_RDONLY), os.open(order["stdout"], append, 0o600),
        os.open(order["stderr"], append, 0o600),
    ]
    targets = [0, 1, 2]
    for name, target, flags in (("script", SCRIPT_FD, os.O_RDONLY), ("returned", RETURN_FD, os.O_RDWR)):
        if how.get(name):
            opened.append(os.open(how[name], flags))
            targets.append(target)
    # Move them out of the way first: a target number may be one of those just opened.
    moved = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 16) for descriptor in opened]
    for target, descriptor in zip(targets, moved, strict=True):
        os.dup2(descriptor, target)
    if how.get("umask") is not None:
        os.umask(how["umask"])
    for name, limit in (("memory", resource.RLIMIT_AS), ("files", resource.RLIMIT_NOFILE)):
        if how.get(name) is not None:
            resource.setrlimit(limit, (how[name], how[name]))
    if how.get("uid") is not None:
        os.setgroups(how["groups"])
        os.setgid(how["gid"])
        os.setuid(how["uid"])
    os.chdir(how.get("cwd") or "/")
    os.execvpe(order["argv"][0], order["argv"], order["env"])  # noqa: S606 - the point of it all


_SHELL_WORDS = frozenset((".", "alias", "cd", "eval", "exec", "exit", "export", "if", "for", "set", "source", "ulimit", "umask", "while"))


def error_text(error: Exception, order: dict[str, Any]) -> str:
    """Say what is wrong so that the person who typed the command can mend it."""
    argv0, cwd = order["argv"][0], (order.get("launch") or {}).get("cwd")
    if isinstance(error, OSError) and error.errno == errno.ENOENT and error.filename == cwd and cwd:
        return f"the working directory {cwd!r} does not exist on this host"
    if isinstance(error, OSError) and error.errno == errno.ENOENT:
        word = "; it is a word of the shell: run it with -c" if argv0 in _SHELL_WORDS else ""
        return f"program {argv0!r} was not found on this host{word} (PATH is {os.environ.get('PATH', '')!r})"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"permission denied: {error.filename or argv0!r} (is it executable, may the user enter the folder?)"
    if isinstance(error, OSError) and error.errno == errno.E2BIG:
        return "arguments and environment together are larger than this kernel takes"
    if isinstance(error, OSError) and error.errno == errno.ENOEXEC:
        return f"{argv0!r} is not a program of this machine; a script needs an interpreter line (#!)"
    return f"{argv0!r} could not be started: {error}"
