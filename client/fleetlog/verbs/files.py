"""file ls, show, history, push, pull, edit, rm, restore, diff, check, run: task files, which the server keeps."""

from __future__ import annotations

import difflib
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError, segment
from fleetlog.render.text import moment, shorten, table
from fleetlog.verbs import spec as specs
from fleetlog.verbs.spec import Content
from fleetlog.verbs.submit import submit
from fleetlog_schemas.files import check_path, reference_of
from fleetlog_schemas.spec import Blob, Script, SpecError

PAGE_MAX = 500
Json = dict[str, Any]


def ls(console: Console) -> int:
    """List task files by path."""
    options = console.options
    items: list[Json] = []
    cursor = None
    while True:
        page = console.gateway.get("/files", glob=options.path, removed="only" if options.removed else "", limit=PAGE_MAX, cursor=cursor)["data"]
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if console.json:
        console.put_json({"items": items, "next_cursor": None})
    elif not items:
        console.put("there is no such task file; `fleetlog file push FILE` makes one")
    else:
        console.put(table(("FILE", "VERSION", "BYTES", "RUN BY", "SAVED", "BY", "MESSAGE"), [_row(console, one) for one in items], console.out_style))
    return Exit.OK


def _row(console: Console, one: Json) -> tuple[str, ...]:
    style = console.out_style
    restored = f"(version {one['restored_version']} again) " if one["restored_version"] else ""
    return (
        style.line(one["path"]), str(one["version"]), str(one["size"]), style.line(" ".join(one["interpreter"])), moment(one["changed_at"]),
        style.line(one["changed_by"]), shorten(restored + style.line(one["message"]), 60),
    )


def history(console: Console) -> int:
    """List the versions of a file, newest first."""
    page = console.gateway.get(f"/files/{segment(console.options.path)}/versions")["data"]
    if console.json:
        console.put_json(page)
        return Exit.OK
    style = console.out_style
    rows = [(str(one["version"]), one["sha256"][:12], *_row(console, one)[2:]) for one in page["items"]]
    console.put(table(("VERSION", "DIGEST", "BYTES", "RUN BY", "SAVED", "BY", "MESSAGE"), rows, style))
    return Exit.OK


def show(console: Console) -> int:
    """Print a file; with -o json, what is known of it."""
    options = console.options
    if console.json:
        console.put_json(_known(console, options.path, options.file_version))
    else:
        console.put(_text(console, options.path, options.file_version).rstrip("\n"))
    return Exit.OK


def _known(console: Console, path: str, version: int = 0) -> Json:
    found: Json = console.gateway.get(f"/files/{segment(path)}", version=version)["data"]
    return found


def _text(console: Console, path: str, version: int = 0) -> str:
    return console.gateway.get_bytes(f"/files/{segment(path)}/content", version=version).decode()


def push(console: Console) -> int:
    """Save files as they are on this machine. Raises CliError."""
    options = console.options
    if options.as_path and len(options.files) > 1:
        raise CliError(Exit.TYPED_WRONG, "--as goes with one FILE")
    wanted = [(name, options.as_path or os.path.normpath(name).replace(os.sep, "/")) for name in options.files]
    for name, path in wanted:
        try:
            check_path(path)
        except SpecError as error:
            raise CliError(Exit.TYPED_WRONG, f"{name}: {error.message}", "say its path on the server with --as PATH") from None
    contents = [_read(name) for name, _ in wanted]  # all of them, before anything is sent
    for (_, path), content in zip(wanted, contents, strict=True):
        _save(console, path, content, str(options.file_version) if options.file_version else "*")
    return Exit.OK


def _save(console: Console, path: str, content: str, if_match: str) -> None:
    saved = console.gateway.put(f"/files/{segment(path)}", {"content": content, "message": console.options.message}, if_match)
    for warning in saved["checked"]["warnings"]:
        console.say(f"{path}: {warning}")
    if console.json:
        console.put_json(saved)
    elif saved["changed"]:
        console.put(f"{path} is version {saved['version']} now" + ("" if saved["checked"]["language"] else "; its syntax was not checked"))
    else:
        console.put(f"{path} is version {saved['version']} already")


def _read(name: str) -> str:
    try:
        return Path(name).read_bytes().decode()
    except OSError as error:
        raise CliError(Exit.TYPED_WRONG, f"cannot read {name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CliError(Exit.TYPED_WRONG, f"{name} is no UTF-8 text: task files are scripts") from None


def pull(console: Console) -> int:
    """Write files into a folder of this machine. Raises CliError."""
    options = console.options
    for path in options.paths:
        known = _known(console, path, options.file_version)
        content = console.gateway.get_bytes(f"/files/{segment(path)}/content", version=known["version"])
        check_path(known["path"])  # whatever a server says, nothing is written outside the folder
        place = Path(options.to) / known["path"]
        try:
            if not place.resolve().is_relative_to(Path(options.to).resolve()):
                raise CliError(Exit.REFUSED, f"{place} leads out of {options.to} by a link")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        except OSError as error:
            raise CliError(Exit.TYPED_WRONG, f"cannot write {place}: {error.strerror}") from None
        console.put(f"{place}: version {known['version']}")
    return Exit.OK


def edit(console: Console) -> int:
    """Open a file in an editor, and save what it became. Raises CliError."""
    path = console.options.path
    try:
        known = _known(console, path)
        before, if_match = _text(console, path, known["version"]), str(known["version"])
    except GatewayError as error:
        if error.problem_code != "file-not-found":
            raise
        before, if_match = "", ""
    folder = Path(tempfile.mkdtemp(prefix="fleetlog-"))
    copy = folder / path.rpartition("/")[2]
    copy.write_bytes(before.encode())
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        done = subprocess.run([*shlex.split(editor), str(copy)], check=False)
    except OSError as error:
        raise CliError(Exit.TYPED_WRONG, f"cannot start the editor {editor!r}: {error.strerror}", "set EDITOR") from None
    hint = f"your text is in {copy}: mend it or bring both together, then `fleetlog file push {copy} --as {path}`"
    if done.returncode:
        raise CliError(Exit.TYPED_WRONG, f"nothing was saved: the editor left with {done.returncode}", hint)
    try:
        if (after := _read(str(copy))) == before:
            console.put("nothing was saved: nothing was changed")
        else:
            _save(console, path, after, if_match)
    except CliError as error:
        raise CliError(error.code, error.message, hint) from None
    copy.unlink()
    folder.rmdir()
    return Exit.OK


def rm(console: Console) -> int:
    """Remove a file."""
    options = console.options
    gone = console.gateway.delete(f"/files/{segment(options.path)}", str(options.file_version) if options.file_version else "*", message=options.message)
    console.put_json(gone) if console.json else console.put(f"{options.path} is removed; bring it back with: fleetlog file restore {options.path} --version {gone['version']}")
    return Exit.OK


def restore(console: Console) -> int:
    """Let a file be what a version was."""
    options = console.options
    body = {"version": options.file_version, "message": options.message}
    saved = console.gateway.post(f"/files/{segment(options.path)}/restore", body)
    if console.json:
        console.put_json(saved)
    else:
        again = "is what it was in" if saved["changed"] else "is already what it was in"
        console.put(f"{options.path} {again} version {options.file_version}, and that is version {saved['version']} now")
    return Exit.OK


def diff(console: Console) -> int:
    """Compare two versions of a file. Raises CliError."""
    options = console.options
    newest = int(_known(console, options.path)["version"])
    if len(options.versions) > 2:
        raise CliError(Exit.TYPED_WRONG, "give at most two versions")
    old, new = (*options.versions, newest)[:2] if options.versions else (newest - 1, newest)
    if old < 1:
        console.put(f"{options.path} has one version")
        return Exit.OK
    lines = difflib.unified_diff(
        _text(console, options.path, old).splitlines(), _text(console, options.path, new).splitlines(),
        f"{options.path} version {old}", f"{options.path} version {new}", lineterm="",
    )
    console.put("\n".join(console.out_style.line(line) for line in lines) or f"versions {old} and {new} are the same")
    return Exit.OK


def check(console: Console) -> int:
    """Check the syntax of files. Raises CliError."""
    wrong = 0
    for name in console.options.files:
        found = console.gateway.post("/files/check", {"path": Path(name).name, "content": _read(name)})
        fault = found["fault"]
        wrong += fault is not None
        where = f":{fault['line']}:{fault['column']}" if fault and fault["line"] else ""
        said = fault["message"] if fault else f"fine ({found['language']})" if found["language"] else "not checked: no known language"
        console.put(f"{name}{where}: {said}")
        for warning in found["warnings"]:
            console.put(f"{name}: {warning}")
    return Exit.TYPED_WRONG if wrong else Exit.OK


def run(console: Console) -> int:
    """Run a file on hosts. Raises CliError."""
    options = console.options
    try:
        path, version = reference_of(options.path)
    except SpecError as error:
        raise CliError(Exit.TYPED_WRONG, error.message) from None
    known = _known(console, path, version)
    content = Blob(sha256=known["sha256"], size=known["size"], name=f"{known['path']}@{known['version']}")
    interpreter = tuple(shlex.split(options.interpreter)) if options.interpreter else tuple(known["interpreter"])
    return submit(console, specs.of_payload(options, Script(content, interpreter, tuple(options.rest))), Content(options))
