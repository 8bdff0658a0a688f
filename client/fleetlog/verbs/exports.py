"""export: tasks, commands, events, output or artifacts as one file, here or, as a task, on a host."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError, flag_of
from fleetlog.render.text import count_of
from fleetlog.verbs import spec as specs
from fleetlog.verbs.submit import submit
from fleetlog_schemas.exports import (
    FORMATS,
    Export,
    Format,
    What,
    check_selection,
    file_name_of,
    usual_format,
)
from fleetlog_schemas.spec_fields import SpecError

MAKING_S_MAX = 900.0
"""How long is waited for an export that is being made: longer than the reporter lets it take."""
AGAIN_S = 0.2
"""Before it is asked for again; the gateway waits for it itself, too."""
SUFFIXES = {".jsonl": Format.NDJSON, **{f".{form.value}": form for form in Format if form is not Format.FILE}}
"""Of a file, to the form that it shows."""


class Written(msgspec.Struct, frozen=True):
    """What an export was."""

    file: str
    bytes: int
    sha256: str
    rows: int
    missing: int
    as_of_seq: int


def export(console: Console) -> int:
    """Write an export to a file here; with -t, submit a task that does it there."""
    options = console.options
    what = What(options.what)
    form = Format.FILE if options.artifact else _format(what, options.format, options.to)
    tasks = tuple(console.client.resolve(given) for given in options.task)
    try:
        check_selection(what, form, tasks, options.since_ms, options.until_ms, options.artifact)
    except SpecError as error:
        raise CliError(Exit.TYPED_WRONG, f"{flag_of('/payload' + error.pointer)}: {error.message}") from None
    if options.target:
        if options.as_of or options.force:
            raise CliError(Exit.TYPED_WRONG, "--as-of and --force are for exports to a file here; a task exports as of its submission")
        payload = Export(
            what, form, tasks, options.since_ms, options.until_ms, to=options.to, artifact=options.artifact,
        )
        return submit(console, specs.of_payload(options, payload), specs.Content(options))
    query = {
        "format": form.value, "tasks": ",".join(tasks), "since_ms": options.since_ms, "until_ms": options.until_ms, "as_of": options.as_of,
        "artifact": options.artifact,
    }
    if options.to == "-":
        _fetch(console, query, "-", sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return Exit.OK
    return _to_file(console, query, Path(options.to or file_name_of(what, form, options.artifact)))


def _to_file(console: Console, query: dict[str, Any], file: Path) -> int:
    if file.exists() and not console.options.force:
        raise CliError(Exit.TYPED_WRONG, f"{file} is there already", "name another file by --to, or write --force")
    partial = file.with_name(f"{file.name}.part")
    try:
        with partial.open("wb") as out:
            written = _fetch(console, query, str(file), out.write)
        partial.replace(file)
    except OSError as error:
        raise CliError(Exit.TYPED_WRONG, f"cannot write {file}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    if console.json:
        console.put_json(msgspec.to_builtins(written))
        return Exit.OK
    console.put(f"{file}  {count_of(written.rows, _counted(console.options.what, file))}, {written.bytes} bytes, sha256 {written.sha256}")
    console.put(f"as of sequence {written.as_of_seq}: --as-of {written.as_of_seq} gives the same again")
    if written.missing:
        console.say(f"{written.missing} that the log names are not kept any more, or not whole: see MANIFEST.ndjson of a tar")
    return Exit.OK


def _counted(what: str, file: Path) -> str:
    """Return what one row of an export is called."""
    return "file" if file.suffix == ".tar" or what == What.ARTIFACTS else "piece" if what == What.OUTPUT else what.removesuffix("s")


def _format(what: What, given: str, to: str) -> Format:
    """Return the form: as asked for, or as the file's name says, or the usual one."""
    if given:
        return Format(given)
    shown = SUFFIXES.get(Path(to).suffix.lower())
    return shown if shown in FORMATS[what] else usual_format(what)


def _fetch(console: Console, query: dict[str, Any], name: str, write: Callable[[bytes], Any]) -> Written:
    """Write an export piece by piece, as soon as it is made, and check it. Raises CliError."""
    digest, size = hashlib.sha256(), 0

    def take(data: bytes) -> None:
        nonlocal size
        digest.update(data)
        size += len(data)
        write(data)

    deadline, said = time.monotonic() + MAKING_S_MAX, False
    while True:
        try:
            headers = console.patient_gateway(MAKING_S_MAX).download(f"/exports/{console.options.what}", take, **query)
            break
        except GatewayError as error:
            if error.problem_code not in ("export-being-made", "busy") or time.monotonic() > deadline:
                raise
            time.sleep(AGAIN_S)
        if not said:
            console.say("the export is being made …")
            said = True
    sha256 = headers.get("ETag", "").strip('"')
    if digest.hexdigest() != sha256:
        raise CliError(Exit.INTERNAL, "what came is not whole or was damaged: its digest is another", "export it again")
    numbers = {field: int(headers.get(f"Fleetlog-{name}", "0")) for field, name in (("rows", "Rows"), ("missing", "Missing"), ("as_of_seq", "Seq"))}
    return Written(name, size, sha256, **numbers)
