"""From what was typed to a task's specification; environment, stdin and scripts become blobs on the way.

Everything is checked before anything is sent, so that a wrong option costs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fleetlog.exits import CliError, Exit
from fleetlog.http import flag_of
from fleetlog_schemas import limits
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.spec import (
    Blob,
    Choose,
    Options,
    Payload,
    Retry,
    Rollout,
    Script,
    Shell,
    SpecError,
    TaskSpec,
    check_spec,
)

if TYPE_CHECKING:
    from fleetlog.client import Client

UNSENT = Blob(sha256="0" * 64, size=0)
"""Stands for content while the specification is checked."""


class Content:
    """What has to be uploaded with a task."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.env = _environment(options)
        self.stdin = _stdin(options.stdin)
        self.script: bytes | None = None
        self.script_name = ""

    def upload(self, client: Client, spec: TaskSpec) -> TaskSpec:
        """Store the content and return *spec* with the references to it."""
        around, payload = spec.options, spec.payload
        if self.env:
            encoded = json.dumps(self.env, ensure_ascii=False).encode("utf-8", "surrogateescape")
            around = _replace_options(around, env=client.put_blob(encoded, "env"))
        if self.stdin is not None:
            around = _replace_options(around, stdin=client.put_blob(self.stdin, "stdin"))
        if isinstance(payload, Script) and self.script is not None:
            stored = client.put_blob(self.script, self.script_name)
            payload = Script(content=stored, interpreter=payload.interpreter, args=payload.args)
        return _replace_spec(spec, payload, around)


def _replace_options(options: Options, **fields: Blob) -> Options:
    from msgspec.structs import replace

    return replace(options, **fields)


def _replace_spec(spec: TaskSpec, payload: Payload, options: Options) -> TaskSpec:
    from msgspec.structs import replace

    return replace(spec, payload=payload, options=options)


def of_argv(options: argparse.Namespace) -> tuple[TaskSpec, Content]:
    """Return the task of `exec`.

    Raises:
        CliError: there is nothing to run, or two things.
    """
    if options.shell_text is not None:
        if options.rest:
            raise CliError(Exit.TYPED_WRONG, "give either -c STRING or -- ARGV, not both")
        argv: tuple[str, ...] = ("/bin/sh", "-c", options.shell_text)
    else:
        argv = tuple(options.rest)
    if not argv:
        raise CliError(
            Exit.TYPED_WRONG, "there is nothing to run", "write -- PROGRAM ARGS, or -c 'TEXT' for a shell"
        )
    if len(argv[0].split()) > 1 and "/" not in argv[0]:
        raise CliError(
            Exit.TYPED_WRONG, f"no program is named {argv[0]!r}", f"write it without the quotes, or for a shell: -c {shlex.quote(argv[0])}"
        )
    return of_payload(options, Shell(argv=argv)), Content(options)


def of_file(options: argparse.Namespace) -> tuple[TaskSpec, Content]:
    """Return the task of `run`.

    Raises:
        CliError: the file cannot be read or is too large.
    """
    content = Content(options)
    content.script = read_file(options.file)
    content.script_name = Path(options.file).name
    interpreter = tuple(shlex.split(options.interpreter)) if options.interpreter else interpreter_of(content.script)
    payload = Script(content=UNSENT, interpreter=interpreter, args=tuple(options.rest))
    return of_payload(options, payload), content


def interpreter_of(script: bytes) -> tuple[str, ...]:
    """Return what the `#!` line of a script names, or /bin/sh."""
    first = script.split(b"\n", 1)[0]
    if not first.startswith(b"#!"):
        return ("/bin/sh",)
    words = shlex.split(first[2:].decode("utf-8", "replace").strip())
    if words[:2] == ["/usr/bin/env", "-S"]:
        del words[1]  # env's flag to split its one argument: here they are split already
    return tuple(words) or ("/bin/sh",)


def of_payload(options: argparse.Namespace, payload: Payload) -> TaskSpec:
    """Return the task that runs a payload with these options. Raises CliError."""
    names = tuple(sorted({name for name, _ in [*options.env, *options.secret]}))
    fields = {"output_bytes_max": options.output_max} if options.output_max is not None else {}
    spec = TaskSpec(
        payload=payload,
        target=options.target,
        name=options.name,
        options=Options(
            env=UNSENT if names else None, env_names=names,
            secret_names=tuple(sorted({name for name, _ in options.secret})),
            stdin=UNSENT if options.stdin else None, cwd=options.cwd, user=options.user, umask=options.umask,
            memory_bytes_max=options.memory, files_max=options.files, exit_codes=_codes(options.ok_codes), **fields,
        ),
        timeout_ms=options.timeout_ms, task_timeout_ms=options.task_timeout_ms,
        wait_offline_ms=options.wait_offline_ms, parallel=options.parallel, retry=_retry(options),
        priority=options.priority, queue=options.queue, key=options.key, key_parallel=options.key_parallel,
        single_run=options.single_run, choose=_choose(options), rollout=_rollout(options),
        failures_max=options.failures_max or "", ignore_windows=options.ignore_windows, tags=tuple(options.tag),
        plan_hash=options.plan_hash,
    )
    check(spec)
    return spec


def check(spec: TaskSpec) -> None:
    """Hold a specification to the rules that the gateway holds it to.

    Raises:
        CliError: naming the option that is wrong.
    """
    try:
        check_spec(spec)
    except SpecError as error:
        raise CliError(Exit.TYPED_WRONG, f"{flag_of(error.pointer)}: {error.message}") from None


def _codes(text: str | None) -> tuple[int, ...]:
    if text is None:
        return (0,)
    try:
        return tuple(int(code) for code in text.split(","))
    except ValueError:
        raise CliError(Exit.TYPED_WRONG, f"--ok-codes: cannot read {text!r}: write 0,1,2") from None


def outcomes_of(flag: str, words: Sequence[str]) -> tuple[Outcome, ...]:
    """Return outcomes from their names.

    Raises:
        CliError: one is no outcome.
    """
    known = {outcome.value: outcome for outcome in Outcome}
    for word in words:
        if word not in known:
            raise CliError(Exit.TYPED_WRONG, f"{flag}: {word!r} is not an outcome: {', '.join(known)}")
    return tuple(known[word] for word in words)


def _retry(options: argparse.Namespace) -> Retry:
    retry_on = outcomes_of("--retry-on", options.retry_on)
    chosen = {"on": retry_on} if retry_on else {}
    default_max = Retry().backoff_ms_max
    return Retry(
        attempts_max=options.retries + 1, backoff_ms=options.backoff_ms,
        backoff_ms_max=max(default_max, options.backoff_ms), **chosen,
    )


def _choose(options: argparse.Namespace) -> Choose | None:
    """Return on how many of the hosts it runs; None is all of them."""
    if options.one_per:
        if options.any_count or options.spread or options.choose_by:
            raise CliError(Exit.TYPED_WRONG, "--one-per stands alone: not with --any, --spread or --by")
        return Choose(count=1, by="each", label=options.one_per)
    if not options.any_count:
        if options.spread or options.choose_by:
            raise CliError(Exit.TYPED_WRONG, "--spread and --by go with --any N: on how many hosts?")
        return None
    if options.spread:
        if options.choose_by:
            raise CliError(Exit.TYPED_WRONG, "give either --spread or --by")
        return Choose(count=options.any_count, by="spread", label=options.spread)
    return Choose(count=options.any_count, by=options.choose_by or "load")


def _rollout(options: argparse.Namespace) -> Rollout | None:
    """Return the waves in which it runs; None is all at once."""
    if options.waves or options.batch or options.canary:
        return Rollout(
            waves=options.waves, batch=options.batch or "", canary=options.canary, soak_ms=options.soak_ms,
            approve=options.approve,
        )
    if options.soak_ms or options.approve:
        raise CliError(Exit.TYPED_WRONG, "--soak and --approve go with waves: say how large they are by --waves, --batch"
                       " or --canary")
    return None


def _environment(options: argparse.Namespace) -> dict[str, str]:
    found = {name: _from_here(name, "--env") if value is None else value for name, value in options.env}
    found.update({name: secret_of(name, path) for name, path in options.secret})
    return found


def secret_of(name: str, path: str | None) -> str:
    """Return a secret from a file, or from the environment here.

    Raises:
        CliError: it is not there.
    """
    if path is None:
        return _from_here(name, "--secret")
    return read_file(path).decode("utf-8", "surrogateescape").removesuffix("\n")


def _from_here(name: str, flag: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise CliError(Exit.TYPED_WRONG, f"{flag} {name}: this environment has no {name}", f"export {name} first" + (f", or write --env {name}=VALUE" if flag == "--env" else ""))
    return value


def _stdin(path: str | None) -> bytes | None:
    if path is None:
        return None
    return _bounded(sys.stdin.buffer.read(limits.BLOB_BYTES_MAX + 1), "stdin") if path == "-" else read_file(path)


def read_file(path: str) -> bytes:
    """Return the content of a file that can be sent. Raises CliError."""
    try:
        with Path(path).open("rb") as file:
            return _bounded(file.read(limits.BLOB_BYTES_MAX + 1), path)
    except OSError as error:
        raise CliError(Exit.TYPED_WRONG, f"cannot read {path}: {error.strerror}") from None


def _bounded(content: bytes, what: str) -> bytes:
    if len(content) > limits.BLOB_BYTES_MAX:
        raise CliError(Exit.TYPED_WRONG, f"{what} is larger than {limits.BLOB_BYTES_MAX} bytes")
    return content
