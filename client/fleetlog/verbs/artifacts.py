"""artifact ls, get and provenance: the files that builds left."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import Gateway, segment
from fleetlog.render.text import table


def ls(console: Console) -> int:
    """List the artifacts of a task."""
    found = _artifacts(console.gateway, console.options.task)
    if console.json:
        console.put_json({"items": found})
        return Exit.OK
    if not found:
        console.say("this task left no artifacts")
        return Exit.OK
    rows = [(console.out_style.line(one["host"]), one["name"], str(one["size"]), one["outcome"] or "", _kept(one), one["sha256"]) for one in found]
    console.put(table(("HOST", "NAME", "BYTES", "OUTCOME", "KEPT", "SHA256"), rows, console.out_style))
    return Exit.OK


def _kept(one: dict[str, Any]) -> str:
    """Say until which day an artifact is kept at the latest."""
    return f"to {(one['kept_until'] or '')[:10]}" if one["kept"] else "gone"


def get(console: Console) -> int:
    """Fetch one artifact."""
    options = console.options
    one = choose(_artifacts(console.gateway, options.task), options.name, options.host)
    if options.to == "-":
        fetch(console.gateway, options.task, one, sys.stdout.buffer.write)
        sys.stdout.buffer.flush()
        return Exit.OK
    path = Path(options.to or one["name"])
    partial = path.with_name(f"{path.name}.part")
    try:
        with partial.open("wb") as file:
            fetch(console.gateway, options.task, one, file.write)
        partial.replace(path)
    except OSError as error:
        raise CliError(Exit.TYPED_WRONG, f"cannot write {path}: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    console.put(f"{path}  {one['size']} bytes  sha256 {one['sha256']}")
    return Exit.OK


def provenance(console: Console) -> int:
    """Print the provenance of a build."""
    told = console.gateway.get(f"/tasks/{segment(console.options.task)}/provenance")
    console.put(json.dumps(told, indent=2, ensure_ascii=False))
    return Exit.OK


def _artifacts(gateway: Gateway, task: str) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", gateway.get(f"/tasks/{segment(task)}/artifacts")["items"])


def choose(found: list[dict[str, Any]], name: str, host: str) -> dict[str, Any]:
    """Return the one artifact that is meant.

    Raises:
        CliError: there is none, or several hosts left one.
    """
    meant = [one for one in found if one["name"] == name and (not host or host in (one["host"], one["host_id"]))]
    if len(meant) == 1:
        return meant[0]
    if meant:
        hosts = ", ".join(sorted(one["host"] for one in meant)[:10])
        raise CliError(Exit.TYPED_WRONG, f"{len(meant)} hosts left a {name}: {hosts}", "name one by --host")
    names = ", ".join(sorted({one["name"] for one in found})[:10]) or "none"
    raise CliError(Exit.TYPED_WRONG, f"the task left no {name!r}" + (f" on {host}" if host else ""), f"its artifacts: {names}")


def fetch(gateway: Gateway, task: str, one: dict[str, Any], write: Callable[[bytes], Any]) -> None:
    """Write an artifact piece by piece, and check it.

    Raises:
        CliError: it is not kept any more, or what came is not it.
    """
    digest = hashlib.sha256()

    def take(data: bytes) -> None:
        digest.update(data)
        write(data)

    gateway.download(f"/tasks/{segment(task)}/artifacts/{segment(one['host_id'])}/{segment(one['name'])}", take)
    if digest.hexdigest() != one["sha256"]:
        raise CliError(Exit.INTERNAL, f"what came of {one['name']} is not whole or damaged: its digest is not {one['sha256']}", "fetch it again")


def content_of(gateway: Gateway, task: str, name: str, bytes_max: int) -> bytes:
    """Return an artifact as bytes. Raises CliError."""
    one = choose(_artifacts(gateway, task), name, "")
    if one["size"] > bytes_max:
        raise CliError(Exit.TYPED_WRONG, f"{name} has {one['size']} bytes; an input has at most {bytes_max}")
    pieces: list[bytes] = []
    fetch(gateway, task, one, pieces.append)
    return b"".join(pieces)
