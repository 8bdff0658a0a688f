"""definition push, pull, diff: definitions as files, so that people keep them in git.

Everything is read and checked before anything is sent. A push names the version that its file says it changes, so of
two people who change the same one the second is told; then the file says the new version. What is equal stays as it is.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import msgspec

from fleetlog.console import Console
from fleetlog.definition_text import (
    FILE_BYTES_MAX,
    FILE_SUFFIX,
    Kept,
    Read,
    TextError,
    canonical,
    read,
    with_version,
    write,
)
from fleetlog.exits import CliError, Exit
from fleetlog.http import Gateway, GatewayError, segment
from fleetlog.meant import by_name
from fleetlog.render.text import count_of
from fleetlog.schedule_text import rules_of, schedules_text
from fleetlog.verbs.definitions import fetched, kept_file, listed
from fleetlog.verbs.scheduled_files import as_registered, push_schedules, registered
from fleetlog_schemas.definitions import check_definition, is_name
from fleetlog_schemas.limits import BLOB_BYTES_MAX
from fleetlog_schemas.schedule_events import Rule
from fleetlog_schemas.spec import SpecError, Workflow

Json = dict[str, Any]
NOT_FOUND = 404


class File(msgspec.Struct, frozen=True):
    """One file that was read and checked."""

    path: Path
    text: str
    read: Read
    rules: dict[str, Rule]
    """Of its schedules, by name."""

    @property
    def name(self) -> str:
        """The name of its definition."""
        return self.read.definition.name


def _files(console: Console, paths: list[str]) -> list[File]:
    """Return the definitions of files and folders, each once, by name.

    Raises:
        CliError: something cannot be read, is no definition, or is there twice.
    """
    found: dict[str, File] = {}
    for given in paths:
        path = Path(given)
        if not path.exists():
            raise CliError(Exit.TYPED_WRONG, f"there is no {given}")
        chosen = sorted(path.glob(f"*{FILE_SUFFIX}")) if path.is_dir() else [path]
        if not chosen:
            raise CliError(Exit.TYPED_WRONG, f"{given} has no {FILE_SUFFIX} files")
        for one in chosen:
            file = _file(console, one)
            if file.name in found and found[file.name].path.resolve() != one.resolve():
                raise CliError(Exit.TYPED_WRONG, f"{one} and {found[file.name].path} both define {file.name}")
            found[file.name] = file
    return [found[name] for name in sorted(found)]


def read_file(console: Console, path: Path) -> Read:
    """Return what a file defines, checked.

    Raises:
        CliError: it cannot be read, or is no definition.
    """
    return _file(console, path).read


def _file(console: Console, path: Path) -> File:
    try:
        text = _bounded(path, FILE_BYTES_MAX).decode()
        made = read(text, lambda name: _beside(path, name), lambda name: _kept(console.gateway, name))
        check_definition(made.definition)
        rules = rules_of(made.schedules, made.definition.name)
    except UnicodeDecodeError:
        raise CliError(Exit.TYPED_WRONG, f"{path}: not UTF-8") from None
    except TextError as error:
        raise CliError(Exit.TYPED_WRONG, f"{path}: {error}") from None
    except SpecError as error:
        payload = made.definition.spec.payload
        names = [part.name for part in payload.parts] if isinstance(payload, Workflow) else []
        field = by_name(error.pointer.removeprefix("/spec").strip("/").replace("/", "."), names)
        raise CliError(Exit.TYPED_WRONG, f"{path}: {field + ': ' if field else ''}{error.message}") from None
    return File(path, text, made, rules)


def _beside(path: Path, name: str) -> bytes:
    """Return a file that a definition's file names: in its own folder or below. Raises TextError."""
    place = path.parent.resolve()
    try:
        beside = (place / name).resolve()
    except (OSError, ValueError) as error:
        raise TextError(f"cannot read {name[:200]!r}: {error}") from None
    if not beside.is_relative_to(place):
        raise TextError(f"{name[:200]} is not below the folder of this file")
    return _bounded(beside, BLOB_BYTES_MAX)


def _kept(gateway: Gateway, reference: str) -> Kept:
    """Return a version of a task file that a definition's file names; without a version, the newest. Raises TextError."""
    try:
        told = kept_file(gateway, reference)
    except SpecError as error:
        raise TextError(f"task_file: {error.message}") from None
    except GatewayError as error:
        if error.status != NOT_FOUND:
            raise
        raise TextError(f"task_file: {error.message}") from None
    path, version = told["path"], told["version"]
    content = gateway.get_bytes(f"/files/{segment(path)}/content", version=version)
    return Kept(f"{path}@{version}", content, tuple(told["interpreter"]))


def _bounded(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except (OSError, ValueError) as error:
        raise CliError(Exit.TYPED_WRONG, f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > bytes_max:
        raise CliError(Exit.TYPED_WRONG, f"{path} is larger than {bytes_max} bytes")
    return content


def push(console: Console) -> int:
    """Make and change definitions as files say, and with --prune remove the others."""
    options, gateway = console.options, console.gateway
    if options.prune and not all(Path(path).is_dir() for path in options.paths):
        raise CliError(Exit.TYPED_WRONG, "--prune goes with folders: what they do not have is removed")
    files = _files(console, options.paths)
    done: list[Json] = []
    refused: GatewayError | CliError | None = None
    for file in files:
        try:
            answer = _push(console, file)
        except CliError as error:
            if error.code is not Exit.CONFLICT:
                raise
            console.say(f"{file.path}: {error.message}" + (f"\n  {error.hint}" if error.hint else ""))
            refused = error
            continue
        done.append(answer)
        if not console.json:
            word = "is unchanged at" if not answer["changed"] else "is new:" if answer["version"] == 1 else "is now"
            console.put(f"{answer['name']} {word} version {answer['version']}")
        try:
            answer["schedules"] = push_schedules(console, file.name, file.rules)
        except CliError as error:
            console.say(f"{file.path}: {error.message}" + (f"\n  {error.hint}" if error.hint else ""))
            refused = error
    if options.prune and refused is None:
        done += _prune(console, gateway, {file.name for file in files})
    if console.json:
        console.put_json(done)
    return Exit.OK if refused is None else Exit.CONFLICT


def _push(console: Console, file: File) -> Json:
    """Send one file and return what the definition is now. Raises CliError."""
    options, gateway, definition = console.options, console.gateway, file.read.definition
    present = _present(gateway, file.name)
    if present is not None and msgspec.convert(present["definition"], type(definition)) == definition:
        answer: Json = {**{key: present[key] for key in ("name", "definition_id", "version")}, "changed": False}
    else:
        if not options.force:
            _check_version(file, present)
        for content in file.read.contents.by_digest.values():
            gateway.post("/blobs", content)
        body = {"definition": msgspec.to_builtins(definition), "message": options.message}
        if present is None:
            answer = gateway.post("/definitions", body)
        else:
            version = "*" if options.force else str(file.read.version)
            answer = gateway.put(f"/definitions/{segment(file.name)}", body, if_match=version)
    if not options.force and file.read.version != answer["version"]:
        _write(file.path, with_version(file.text, int(answer["version"])))
    return answer


def _present(gateway: Gateway, name: str) -> Json | None:
    try:
        told: Json = gateway.get(f"/definitions/{segment(name)}")["data"]
    except GatewayError as error:
        if error.status == NOT_FOUND:
            return None
        raise
    return told


def _check_version(file: File, present: Json | None) -> None:
    """Refuse what would overwrite a version that the file does not know. Raises CliError."""
    version = file.read.version
    if present is None:
        if version:
            raise CliError(
                Exit.CONFLICT, f"the file says version {version} of {file.name}, and there is none: it was removed, or this"
                " is another system", "remove its line `version`, or say --force, to make it again",
            )
        return
    if not version:
        raise CliError(
            Exit.CONFLICT, f"{file.name} exists, version {present['version']}, and the file does not say which version it changes",
            f"compare:  fleetlog definition diff {file.path}   then write `version = {present['version']}` into it, or say --force",
        )
    if version != present["version"]:
        raise CliError(
            Exit.CONFLICT, f"the file says version {version} of {file.name}, and by now it is {present['version']}, changed by"
            f" {present['changed_by'] or 'nobody named'}",
            f"see what changed:  fleetlog definition diff {file.name} {version}",
        )


def _prune(console: Console, gateway: Gateway, kept: set[str]) -> list[Json]:
    """Remove the definitions that are in no file, after showing them. Raises CliError."""
    others = [one for one in listed(gateway) if one["name"] not in kept]
    if not others:
        return []
    for one in others:
        console.say(f"to be removed: {one['name']} version {one['version']}")
    if not console.options.yes:
        what = f"this removes {count_of(len(others), 'definition')}"
        console.confirm(len(others), what, "nothing was removed", ": nobody can be asked, say --yes", "")
    removed = []
    for one in others:
        path = f"/definitions/{segment(one['name'])}"
        answer = gateway.delete(path, if_match=str(one["version"]), message=console.options.message)
        removed.append({**answer, "changed": True, "removed": True})
        if not console.json:
            console.put(f"{one['name']} is removed")
    return removed


def pull(console: Console) -> int:
    """Write definitions to files."""
    options, gateway = console.options, console.gateway
    if bool(options.names) == options.everything:
        raise CliError(Exit.TYPED_WRONG, "name the definitions, or say --all")
    folder = Path(options.to)
    names = [one["name"] for one in listed(gateway)] if options.everything else options.names
    told = []
    for name in names:
        if not is_name(name):
            raise CliError(Exit.TYPED_WRONG, f"{name!r} is not the name of a definition")
        shown, definition, contents = fetched(gateway, name)
        path = folder / f"{name}{FILE_SUFFIX}"
        _write(path, write(definition, shown["version"], contents) + schedules_text(registered(gateway, name)))
        told.append({"name": name, "version": shown["version"], "path": str(path)})
        if not console.json:
            console.put(f"{path}  version {shown['version']}")
    if console.json:
        console.put_json(told)
    return Exit.OK


def _write(path: Path, text: str) -> None:
    """Write a file, whole or not at all. Raises CliError."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(text.encode())
        if path.exists():
            part.chmod(path.stat().st_mode & 0o777)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise CliError(Exit.TYPED_WRONG, f"cannot write {path}: {error.strerror}") from None


def diff(console: Console) -> int:
    """Compare two versions of a definition, or files with what is there; 1 when they differ."""
    first, *rest = console.options.paths
    pairs = _versions(console, first, rest) if is_name(first) else _of_files(console)
    texts: list[Json] = []
    for (before_name, before), (after_name, after) in pairs:
        lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), before_name, after_name, lineterm=""))
        if lines:
            texts.append({"from": before_name, "to": after_name, "diff": "\n".join(lines)})
    if console.json:
        console.put_json(texts)
    elif texts:
        console.put(console.out_style.clean("\n".join(one["diff"] for one in texts)))
    else:
        console.say("no difference")
    return Exit.INTERNAL if texts else Exit.OK


_Side = tuple[str, str]


def _versions(console: Console, name: str, rest: list[str]) -> list[tuple[_Side, _Side]]:
    if len(rest) > 2 or not all(word.isascii() and word.isdigit() and 0 < len(word) < 16 and int(word) for word in rest):
        raise CliError(Exit.TYPED_WRONG, "versions are numbers: fleetlog definition diff NAME [V1 [V2]]")
    gateway = console.gateway
    told, newest, contents = fetched(gateway, name, int(rest[1]) if len(rest) > 1 else 0)
    before = int(rest[0]) if rest else max(1, told["version"] - 1)
    try:
        _, old, old_contents = fetched(gateway, name, before)
    except GatewayError as error:
        if error.status != NOT_FOUND or rest:
            raise
        console.say(f"version {told['version']} is the first of this {name}: there was another definition of the name before it")
        return []
    return [((f"{name} version {before}", write(old, 0, old_contents)),
             (f"{name} version {told['version']}", write(newest, 0, contents)))]


def _of_files(console: Console) -> list[tuple[_Side, _Side]]:
    pairs = []
    for file in _files(console, console.options.paths):
        before = (f"{file.name} (there is none)", "")
        if _present(console.gateway, file.name) is not None:
            told, definition, contents = fetched(console.gateway, file.name)
            known = registered(console.gateway, file.name) if file.rules else {}
            there = {name: rule for name, rule in known.items() if name in file.rules}
            before = (f"{file.name} version {told['version']}", write(definition, 0, contents) + schedules_text(there))
        pairs.append((before, (str(file.path), canonical(file.read) + schedules_text(as_registered(console.gateway, file.rules)))))
    return pairs
