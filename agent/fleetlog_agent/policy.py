"""The host's own policy: what its administrator lets nobody run here, whoever asks. Pure but for reading the file.

A file `policy.toml` in the agent's folder, all parts optional. It also says which Python functions the host offers:

    [allow]                     # when a list is there, only what it names may run
    kinds = ["shell", "script"]
    users = ["deploy", "www-*"]
    programs = ["/usr/bin/*", "uptime"]
    [forbid]                    # what it names may not run, allowed or not
    programs = ["reboot", "shutdown"]
    [functions]                 # without it, no function runs here
    modules = ["ops.tasks"]     # imported by worker processes, which run as the agent's user
    path = ["/opt/ops"]         # where they are, beside what the agent's Python has
    queues = ["default"]
    workers = 2

Names are globs. A program is compared as it was typed, as the path it resolves to, and by its last part. A program
that runs others (a shell, an interpreter) can run anything: allow it only if that is meant.
"""

from __future__ import annotations

import fnmatch
import os
import pwd
import shutil
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from fleetlog_schemas.exports import EXPORT_SHELL
from fleetlog_schemas.pushes import StartAttempt
from fleetlog_schemas.spec import QUEUE_DEFAULT, Build, Export, Function, HostPayload, Script, Shell, kind_of

POLICY_BYTES_MAX = 64 * 1024


class PolicyError(Exception):
    """The policy file cannot be understood; the agent does not start rather than guess."""


class Allow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What alone may run; a part that is not given allows everything."""

    kinds: tuple[str, ...] | None = None
    users: tuple[str, ...] | None = None
    programs: tuple[str, ...] | None = None


class Forbid(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may never run."""

    kinds: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()


class Functions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which functions the host offers, and how they are run."""

    modules: tuple[str, ...] = ()
    """Modules whose `@task` functions run here; none: no function does."""
    path: tuple[str, ...] = ()
    """Folders that are searched for them first."""
    queues: tuple[str, ...] = (QUEUE_DEFAULT,)
    """Tasks of these queues come here when they say no host; a glob is allowed."""
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    """Worker processes: as many functions run at once."""
    calls_max: Annotated[int, msgspec.Meta(ge=1)] = 10_000
    """Calls after which a worker is replaced: what a library leaks stays bounded."""
    memory_bytes_max: Annotated[int, msgspec.Meta(ge=32 * 1024**2)] = 512 * 1024**2
    """A worker that has more resident memory than this after a call is replaced."""


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One host's policy."""

    allow: Allow = Allow()
    forbid: Forbid = Forbid()
    functions: Functions = Functions()

    def refuses(self, start: StartAttempt) -> str:
        """Return why this must not run here, or nothing."""
        payload = start.payload
        if isinstance(payload, Function) and not self.functions.modules:
            return "this host offers no functions: name their modules under [functions] in its policy.toml"
        if self is OPEN:
            return ""
        asked = [*_asked(kind_of(payload), start.options.user), *map(_named, _programs(payload))]
        return next(filter(None, (self._refuses(what, names) for what, names in asked)), "")

    def offered(self) -> Functions:
        """Return the functions that the host offers: none when the rest of its policy would refuse every call."""
        refused = any(self._refuses(what, names) for what, names in _asked("function", None))
        return NO_FUNCTIONS if refused else self.functions

    def _refuses(self, what: str, names: tuple[str, ...]) -> str:
        pattern = _match(getattr(self.forbid, what), names)
        if pattern is not None:
            return f"this host's policy forbids {what[:-1]} {names[0]!r} (rule {pattern!r} in policy.toml)"
        allowed = getattr(self.allow, what)
        if allowed is not None and _match(allowed, names) is None:
            return f"this host's policy does not allow {what[:-1]} {names[0]!r} (see [allow] in policy.toml)"
        return ""


def _asked(kind: str, user: str | None) -> list[tuple[str, tuple[str, ...]]]:
    """Return what a task asks for as names to be compared: its kind, and the user that it runs as."""
    return [("kinds", (kind,)), ("users", (user or pwd.getpwuid(os.getuid()).pw_name,))]


def _programs(payload: HostPayload) -> list[str]:
    """Return the programs that a payload names; a build's steps name one each."""
    match payload:
        case Shell(argv=argv):
            return [argv[0]]
        case Script(interpreter=interpreter):
            return [interpreter[0]]
        case Build(steps=steps):
            return [step.argv[0] for step in steps]
        case Export(to=to) if to:
            return [EXPORT_SHELL]  # it writes where it is told to: a host that runs only certain programs does not let it
        case _:
            return []


def _named(program: str) -> tuple[str, tuple[str, ...]]:
    resolved = shutil.which(program) or program
    return "programs", (program, resolved, str(Path(resolved).resolve()), Path(program).name)


NO_FUNCTIONS = Functions()
OPEN = Policy()
"""The policy of a host without a policy file."""


def _match(patterns: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    for pattern in patterns:
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            return pattern
    return None


def read_policy(path: Path) -> Policy:
    """Return the policy of a file; without a file everything is allowed.

    Raises:
        PolicyError: the file cannot be read or understood.
    """
    try:
        body = path.read_bytes()
    except FileNotFoundError:
        return OPEN
    except OSError as error:
        raise PolicyError(f"{path} cannot be read: {error.strerror}") from None
    if len(body) > POLICY_BYTES_MAX:
        raise PolicyError(f"{path} is larger than {POLICY_BYTES_MAX} bytes")
    try:
        return msgspec.convert(tomllib.loads(body.decode()), Policy)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise PolicyError(f"{path} cannot be understood: {error}") from None
