"""definition ls, show, schema, history, rm: what can be run again, and how it came to be so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from fleetlog.console import Console
from fleetlog.definition_text import Contents, write
from fleetlog.exits import Exit
from fleetlog.http import Gateway, GatewayError, segment
from fleetlog.render.definitions import definitions_text, head_text, history_text
from fleetlog_schemas.definitions import Definition
from fleetlog_schemas.files import reference_of
from fleetlog_schemas.spec import Blob, Script, SpecError, TaskSpec, Workflow

Json = dict[str, Any]
PAGE_MAX = 500
VERSIONS_PAGE_MAX = 50
NOT_FOUND = 404


def listed(gateway: Gateway, **filters: str) -> list[Json]:
    """Return every definition that fits, by name."""
    found: list[Json] = []
    cursor = ""
    while True:
        page = gateway.get("/definitions", limit=PAGE_MAX, cursor=cursor, **filters)["data"]
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        cursor = page["next_cursor"]


def fetched(gateway: Gateway, name: str, version: int = 0) -> tuple[Json, Definition, Contents]:
    """Return a version of a definition with everything that it refers to."""
    told: Json = gateway.get(f"/definitions/{segment(name)}", version=version)["data"]
    definition = msgspec.convert(told["definition"], Definition)
    contents, path = Contents(), f"/definitions/{segment(name)}/content"
    for part, blob in _references(definition.spec, ""):
        contents.add(gateway.get_bytes(path, part=part, version=told["version"]), blob.name)
        if part.rpartition("/")[2] == "script" and _is_kept(gateway, blob):
            contents.kept[blob.name] = blob.sha256
    return told, definition, contents


def kept_file(gateway: Gateway, reference: str) -> Json:
    """Return what the server says of a task file, `PATH` or `PATH@VERSION`.

    Raises:
        SpecError: it is no such reference.
        GatewayError: there is none.
    """
    path, version = reference_of(reference)
    told: Json = gateway.get(f"/files/{segment(path)}", version=version)["data"]
    return told


def _is_kept(gateway: Gateway, blob: Blob) -> bool:
    """Tell whether content is what its name says: that version of a task file."""
    try:
        return "@" in blob.name and bool(kept_file(gateway, blob.name)["sha256"] == blob.sha256)
    except SpecError:
        return False
    except GatewayError as error:
        if error.status == NOT_FOUND:
            return False
        raise


def _references(spec: TaskSpec, prefix: str) -> Iterator[tuple[str, Blob]]:
    """Yield what a specification refers to, by the names of the API."""
    payload, around = spec.payload, spec.options
    script = payload.content if isinstance(payload, Script) else None
    for part, blob in (("script", script), ("stdin", around.stdin), ("env", around.env)):
        if blob is not None:
            yield f"{prefix}{part}", blob
    for one in payload.parts if isinstance(payload, Workflow) else ():
        if one.task is not None:
            yield from _references(one.task, f"{one.name}/")


def ls(console: Console) -> int:
    """List definitions."""
    options = console.options
    found = listed(console.gateway, kind=options.kind, name=options.name, tag=options.tag)
    if console.json:
        console.put_json(found)
    else:
        console.put(definitions_text(found, console.out_style))
    return Exit.OK


def show(console: Console) -> int:
    """Show a definition, as its file would be."""
    options = console.options
    told, definition, contents = fetched(console.gateway, options.name, options.definition_version)
    if console.json:
        console.put_json(told)
    else:
        console.say(head_text(told, console.err_style))
        console.put(console.out_style.clean(write(definition, told["version"], contents)).rstrip("\n"))
    return Exit.OK


def schema(console: Console) -> int:
    """Print what the parameters of a definition may be."""
    options = console.options
    console.put_json(console.gateway.get(f"/definitions/{segment(options.name)}/schema", version=options.definition_version))
    return Exit.OK


def history(console: Console) -> int:
    """List the versions of a definition, newest first."""
    options = console.options
    items: list[Json] = []
    cursor = ""
    while len(items) < options.limit:
        limit = min(options.limit - len(items), VERSIONS_PAGE_MAX)
        page = console.gateway.get(f"/definitions/{segment(options.name)}/versions", limit=limit, cursor=cursor)["data"]
        items += page["items"]
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
    if console.json:
        console.put_json(items)
    else:
        console.put(history_text(items, console.out_style))
    return Exit.OK


def rm(console: Console) -> int:
    """Remove a definition."""
    options, gateway = console.options, console.gateway
    path = f"/definitions/{segment(options.name)}"
    version = options.definition_version or gateway.get(path)["data"]["version"]
    answer = gateway.delete(path, if_match=str(version), message=options.message)
    if console.json:
        console.put_json(answer)
    else:
        console.say(f"definition {answer['name']} is removed, its last version was {answer['version']}; its tasks keep their past")
    return Exit.OK
