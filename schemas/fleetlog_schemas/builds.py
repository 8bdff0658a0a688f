"""A build: steps that run one after the other in a folder, and the files that are kept of it, by digest.

On the host a build is one attempt of one process: a shell script made of its steps (`script_of`). So everything that
is true of a command's process is true of a build: its output, its time limit, its cancel, its survival of the agent.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from typing import Literal

import msgspec

from fleetlog_schemas import limits
from fleetlog_schemas.spec_fields import Blob, SpecError, check_argv, check_blob, in_range, utf8_bytes

_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@=~-]{0,127}")
_STEP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _./:-]{0,62}")
_GLOB = re.compile(r"[*?\[]")

When = Literal["success", "failure", "ended"]
"""After which end a file is kept: a good one, a bad one (a bad exit code, a signal, the time limit), or any of these."""


class Step(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One program of a build. It runs when the one before it has ended with 0."""

    argv: tuple[str, ...]
    name: str = ""
    """Its heading in the output; empty: its number."""


class ArtifactRule(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A file that the build leaves and that is kept; a folder is kept as a tar of what is in it."""

    path: str
    """In the working directory; with `*`, `?` or `[…]` every file that matches, each under its own name."""
    name: str = ""
    """What it is kept as; empty: as its file is named."""
    optional: bool = False
    """It may be missing. Otherwise a build that did not leave it has not succeeded."""
    when: When = "success"
    """Of a build that did not succeed, what is there of it is kept; what is missing then is no further error."""


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that is put into the working directory before the first step."""

    path: str
    content: Blob


class Build(msgspec.Struct, frozen=True, omit_defaults=True, tag="build", tag_field="kind", forbid_unknown_fields=True):
    """Run steps in a folder, and keep the files that they made."""

    steps: tuple[Step, ...]
    artifacts: tuple[ArtifactRule, ...] = ()
    inputs: tuple[Input, ...] = ()


def check_build(build: Build, *, other_user: bool, cwd: bool) -> None:
    """Check the rules of a build; *cwd*: it runs in a folder that is there already. Raises SpecError."""
    in_range("/payload/steps", len(build.steps), 1, limits.BUILD_STEPS_MAX)
    for index, step in enumerate(build.steps):
        check_argv(f"/payload/steps/{index}/argv", step.argv, at_least=1)
        if step.name and not _STEP_NAME.fullmatch(step.name):
            raise SpecError(f"/payload/steps/{index}/name", "a step's name is 1-63 letters, digits, spaces and _ . / : -")
    in_range("/payload/artifacts", len(build.artifacts), 0, limits.ARTIFACTS_PER_ATTEMPT_MAX)
    for index, rule in enumerate(build.artifacts):
        check_path(f"/payload/artifacts/{index}/path", rule.path)
        if rule.name and is_glob(rule.path):
            raise SpecError(f"/payload/artifacts/{index}/name", "what matches a pattern is kept under its own name")
        if rule.name and not is_artifact_name(rule.name):
            raise SpecError(f"/payload/artifacts/{index}/name", "an artifact's name is 1-128 of A-Z a-z 0-9 _ . + @ = ~ -")
    in_range("/payload/inputs", len(build.inputs), 0, limits.BUILD_INPUTS_MAX)
    for index, given in enumerate(build.inputs):
        check_path(f"/payload/inputs/{index}/path", given.path)
        if is_glob(given.path):
            raise SpecError(f"/payload/inputs/{index}/path", "one file has one name: no * ? [ in it")
        check_blob(f"/payload/inputs/{index}/content", given.content)
    if cwd and build.inputs:
        raise SpecError("/payload/inputs", "files are only put into a build's own folder: leave options.cwd away")
    if other_user and not cwd:
        raise SpecError("/options/cwd", "a build that runs as another user needs a folder of that user's: name it")


def check_path(pointer: str, path: str) -> None:
    """Check a path within a working directory. Raises SpecError."""
    in_range(pointer, utf8_bytes(pointer, path), 1, limits.PATH_BYTES_MAX)
    if "\x00" in path or posixpath.isabs(path) or posixpath.normpath(path) != path or path.partition("/")[0] in (".", ".."):
        raise SpecError(pointer, "must be a plain path within the working directory, as dist/app.tar.gz")


def kept_after(rules: tuple[ArtifactRule, ...], *, success: bool) -> tuple[ArtifactRule, ...]:
    """Return what is kept of a build that ended well, or not: of the latter whatever is there."""
    if success:
        return tuple(rule for rule in rules if rule.when != "failure")
    return tuple(msgspec.structs.replace(rule, optional=True) for rule in rules if rule.when != "success")


def is_glob(path: str) -> bool:
    """Tell whether a path is a pattern."""
    return _GLOB.search(path) is not None


def is_artifact_name(name: str) -> bool:
    """Tell whether an artifact can be kept under this name."""
    return _ARTIFACT_NAME.fullmatch(name) is not None


def script_of(build: Build) -> bytes:
    """Return the shell script that runs the steps: each under a heading, up to the first that fails, whose code is its own."""
    lines = ["#!/bin/sh"]
    for number, step in enumerate(build.steps, 1):
        heading = f"== step {number}/{len(build.steps)}: {step.name or shlex.join(step.argv)[:200]}"
        failed = f"== step {number} failed with exit code"
        lines += [
            f"printf '%s\\n' {shlex.quote(' '.join(heading.split()))}",
            # A shell would take a bare word with `=` or of its own vocabulary for itself: env starts programs only.
            f"env -- {shlex.join(step.argv)} || {{ code=$?; echo \"{failed} $code\" >&2; exit $code; }}",
        ]
    return ("\n".join(lines) + "\n").encode()
