"""Definitions: list, read, make, change, remove, and their history. Folded here, so that no other service is needed.

A change names the version that it rests on (`If-Match`), and the append is fenced: of two people who change the same
version one gets 412 and loses nothing. Older versions are read from the log where the fold says they stand.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway.auth import Permission
from fleetlog_gateway.contents import check_names, contents_of
from fleetlog_gateway.decode import Reason, bad_query, check_reason
from fleetlog_gateway.definition_views import (
    DefinitionSummary,
    DefinitionView,
    VersionSummary,
    scheduled,
    summary,
)
from fleetlog_gateway.definitions import version_of
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.matching import Present, check_match, check_said, etag
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.registry import Answered, Call, Nothing, Paged, reply, route
from fleetlog_runtime.pure.bus import NotFound
from fleetlog_schemas import definition_events, definitions, events, questions
from fleetlog_schemas.catalog import Known
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.definitions import Definition, check_definition
from fleetlog_schemas.limits import DEFINITION_NAMES_MAX, DEFINITIONS_BYTES_MAX, DEFINITIONS_MAX
from fleetlog_schemas.spec import SpecError, kind
from fleetlog_schemas.targets import TargetError, resolve

VERSIONS_PAGE_MAX = 50
"""Versions in one page: each is read from the log."""
_CHANGES = ("invalid", "conflict", "bus-unavailable", "unsettled", "log-full")
_Text = Annotated[str, Meta(max_length=100)]


class ChangedDefinition(msgspec.Struct, frozen=True):
    """What a definition is now."""

    name: str
    definition_id: str
    version: int
    seq: int
    changed: bool
    """False: it was exactly this already, and nothing was stored."""


class RemovedDefinition(msgspec.Struct, frozen=True):
    """A definition that is no more."""

    name: str
    version: int
    """Its last one."""
    seq: int


class SetDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A definition, and what its author says of this version."""

    definition: Definition
    message: Reason = ""


class DefinitionsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Filters of a list of definitions."""

    kind: _Text = ""
    name: _Text = ""
    """May have `*` and `?`."""
    tag: _Text = ""
    limit: Annotated[int, Meta(ge=1, le=questions.PAGE_MAX)] = 100
    cursor: _Text = ""


class VersionQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which version; 0 is the present one."""

    version: Annotated[int, Meta(ge=0, le=2**53)] = 0


class VersionsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A page of a definition's versions, newest first."""

    limit: Annotated[int, Meta(ge=1, le=VERSIONS_PAGE_MAX)] = 20
    cursor: _Text = ""


class ContentQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which content of a version, of a workflow's part as `build/script`; version 0 is the present one."""

    part: Annotated[str, Meta(pattern="^([a-z0-9][a-z0-9_-]{0,62}/)?(script|stdin|env)$")] = "script"
    version: Annotated[int, Meta(ge=0, le=2**53)] = 0


class RemoveQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is removed."""

    message: Reason = ""


def _named(gateway: Gateway, name: str) -> Known:
    """Return the definition of this name or id. Raises HttpProblem."""
    found = gateway.access.definitions.named(name)
    if found is None:
        raise HttpProblem(
            "definition-not-found", f"no definition is named {name[:100]!r}: `fleetlog definition ls` shows them"
        )
    return found


@route("GET", "/api/v1/definitions", auth=Permission.READ, query=DefinitionsQuery,
       answer=Answered[Paged[DefinitionSummary]], problems=("bad-query",))
async def definitions_list(call: Call[Nothing, DefinitionsQuery]) -> web.Response:
    """List definitions by name. Needs no other service."""
    query, seq = call.query, call.gateway.tail.next_seq - 1
    fitting = [
        known for name, known in sorted(call.gateway.access.definitions.by_name.items())
        if name > query.cursor and (not query.kind or kind(known.definition.spec) == query.kind)
        and (not query.name or fnmatch.fnmatchcase(name, query.name))
        and (not query.tag or query.tag in known.definition.spec.tags)
    ]
    page = fitting[: query.limit]
    cursor = page[-1].definition.name if len(fitting) > len(page) else None
    of_them = scheduled(call.gateway.access.schedules, {known.definition.name for known in page})
    now_ms = call.gateway.now_ms()
    items = [DefinitionSummary(**summary(known, of_them.get(known.definition.name, ()), now_ms)) for known in page]
    return reply({"seq": seq, "data": Paged(items=items, next_cursor=cursor)})


@route("POST", "/api/v1/definitions", auth=Permission.RUN, body=SetDefinition, answer=ChangedDefinition, status=201,
       problems=(*_CHANGES, "definition-exists", "too-many-definitions"))
async def make_definition(call: Call[SetDefinition, Nothing]) -> web.Response:
    """Make a definition.

    What its texts are (a script, stdin, the environment) is stored before, by `POST /blobs`. One that is exactly this
    already is no error. The versions of a name that was removed go on where they ended.
    """
    gateway, definition = call.gateway, call.body.definition
    await _check(gateway, definition)
    definition_id = gateway.make_id()

    def decide() -> events.Data:
        known = gateway.access.definitions.by_name.get(definition.name)
        if known is not None:
            if known.definition == definition:
                raise _Unchanged(known)
            raise HttpProblem(
                "definition-exists", f"a definition {definition.name} exists, version {known.version}: change it by PUT"
                " with If-Match", version=known.version,
            )
        return _set(gateway, definition_id, call.body)

    changed = await _change(call, definition.name, decide)
    where = {"Location": f"/api/v1/definitions/{definition.name}"}
    return reply(changed, status=201 if changed.changed else 200, headers={**where, **etag(changed.version)})


@route("GET", "/api/v1/definitions/{name}", auth=Permission.READ, query=VersionQuery, answer=Answered[DefinitionView],
       problems=("definition-not-found", "version-not-found", "bad-query"))
async def show_definition(call: Call[Nothing, VersionQuery]) -> web.Response:
    """Show a definition as it is, or an earlier version of it. Its `ETag` is the version.

    `{name}` is its name or id.
    """
    gateway = call.gateway
    known = await version_of(gateway, _named(gateway, call.path["name"]), call.query.version)
    name = known.definition.name
    fields = summary(known, scheduled(gateway.access.schedules, {name}).get(name, ()), gateway.now_ms())
    shown = DefinitionView(definition=known.definition, **fields)
    body = {"seq": gateway.tail.next_seq - 1, "data": shown}
    return reply(body, headers=etag(known.version))


@route("PUT", "/api/v1/definitions/{name}", auth=Permission.RUN, body=SetDefinition, answer=ChangedDefinition,
       problems=(*_CHANGES, "bad-header", "definition-not-found", "version-changed", "version-missing", "too-many-definitions"))
async def change_definition(call: Call[SetDefinition, Nothing]) -> web.Response:
    """Change a definition: the body is all of its new version.

    `If-Match` says which version was changed, as its `ETag` was; `*` is any. When there is another one by now, nothing
    is stored, and the problem (412) has its number. When nothing changes there is no new version.
    """
    gateway, definition = call.gateway, call.body.definition
    known = _named(gateway, call.path["name"])
    if definition.name != known.definition.name:
        raise invalid("/definition/name", f"is not the one of the path ({known.definition.name}): a name stays")
    await _check(gateway, definition)

    def decide() -> events.Data:
        present = _named(gateway, known.definition_id)
        if present.definition == definition:
            raise _Unchanged(present)
        check_match(call.request, _present(present))
        return _set(gateway, present.definition_id, call.body)

    check_said(call.request, _present(known))
    changed = await _change(call, definition.name, decide)
    return reply(changed, headers=etag(changed.version))


@route("DELETE", "/api/v1/definitions/{name}", auth=Permission.RUN, query=RemoveQuery, answer=RemovedDefinition,
       problems=(*_CHANGES, "bad-header", "bad-query", "definition-not-found", "version-changed", "version-missing"))
async def remove_definition(call: Call[Nothing, RemoveQuery]) -> web.Response:
    """Remove a definition. Tasks of it keep their past, go on, and can be run again.

    `If-Match` as for a change.
    """
    gateway, message = call.gateway, check_reason(call.query.message)
    known = _named(gateway, call.path["name"])
    check_said(call.request, _present(known))
    last = known

    def decide() -> events.Data:
        nonlocal last
        last = _named(gateway, known.definition_id)
        check_match(call.request, _present(last))
        return definition_events.DefinitionRemoved(definition_id=last.definition_id, name=last.definition.name, message=message)

    seq = await gateway.change(events.CATALOG, decide, call.principal, "look at the definitions, then try again")
    return reply(RemovedDefinition(name=last.definition.name, version=last.version, seq=seq))


@route("GET", "/api/v1/definitions/{name}/versions", auth=Permission.READ, query=VersionsQuery,
       answer=Answered[Paged[VersionSummary]], problems=("definition-not-found", "bad-query"))
async def definition_versions(call: Call[Nothing, VersionsQuery]) -> web.Response:
    """List the versions of a definition, newest first: who made each, when, and what was said of it."""
    gateway, query = call.gateway, call.query
    known = _named(gateway, call.path["name"])
    if query.cursor and not (query.cursor.isascii() and query.cursor.isdigit()):
        raise bad_query("cursor", "is the next_cursor of the page before")
    newest = min(known.version, int(query.cursor) - 1) if query.cursor else known.version
    items: list[VersionSummary] = []
    for version in range(newest, max(0, newest - query.limit), -1):
        seq = known.seq_of(version)
        if not seq:
            break
        one = await version_of(gateway, known, version)
        items.append(VersionSummary(version, rfc3339(one.changed_ms), one.changed_by, one.message, seq))
    more = bool(items) and known.seq_of(items[-1].version - 1) > 0
    page = Paged(items=items, next_cursor=str(items[-1].version) if more else None)
    return reply({"seq": gateway.tail.next_seq - 1, "data": page})


@route("GET", "/api/v1/definitions/{name}/schema", auth=Permission.READ, query=VersionQuery, answer=dict[str, Any],
       problems=("definition-not-found", "version-not-found", "bad-query"))
async def definition_schema(call: Call[Nothing, VersionQuery]) -> web.Response:
    """Say what the parameters of a definition may be, as JSON Schema (2020-12)."""
    known = await version_of(call.gateway, _named(call.gateway, call.path["name"]), call.query.version)
    return reply(definitions.json_schema(known.definition), headers=etag(known.version))


@route("GET", "/api/v1/definitions/{name}/content", auth=Permission.READ, query=ContentQuery, answer=bytes,
       problems=("definition-not-found", "version-not-found", "not-found", "bad-query"))
async def definition_content(call: Call[Nothing, ContentQuery]) -> web.Response:
    """Return what a definition's script, stdin or environment is, as bytes.

    An environment is a JSON object of names to values. Secrets are never in a definition.
    """
    gateway = call.gateway
    known = await version_of(gateway, _named(gateway, call.path["name"]), call.query.version)
    found = contents_of(known.definition.spec).get(call.query.part)
    if found is None:
        raise HttpProblem("not-found", f"this definition has no {call.query.part}")
    blob = found.blob
    try:
        content = await gateway.bus.get_blob(blob.sha256)
    except NotFound:
        raise HttpProblem("not-found", f"the content {blob.sha256[:12]} is not there any more") from None
    return web.Response(body=content, content_type="application/octet-stream")


class _Unchanged(Exception):
    """The definition is already what was asked for."""

    def __init__(self, known: Known) -> None:
        super().__init__(known.definition.name)
        self.known = known


async def _change(call: Call[SetDefinition, Nothing], name: str, decide: Callable[[], events.Data]) -> ChangedDefinition:
    """Store what *decide* returns, unless it is so already."""
    gateway = call.gateway
    check_reason(call.body.message)
    stored: list[definition_events.DefinitionSet] = []

    def remember() -> events.Data:
        stored[:] = [data] if isinstance(data := decide(), definition_events.DefinitionSet) else []
        return data

    try:
        seq = await gateway.change(events.CATALOG, remember, call.principal, f"look at definition {name}, then try again")
    except _Unchanged as same:
        return ChangedDefinition(name, same.known.definition_id, same.known.version, same.known.seqs[-1], changed=False)
    return ChangedDefinition(name, stored[0].definition_id, stored[0].version, seq, changed=True)


def _set(gateway: Gateway, definition_id: str, body: SetDefinition) -> definition_events.DefinitionSet:
    """Return the event of a new version. Raises HttpProblem when there is no room for it."""
    catalog, name = gateway.access.definitions, body.definition.name
    version = catalog.last_version(name) + 1
    known = catalog.by_name.get(name)
    if known is None and len(catalog.by_name) >= DEFINITIONS_MAX:
        raise HttpProblem("too-many-definitions", f"there are {DEFINITIONS_MAX} definitions: remove some first")
    if version == 1 and len(catalog.by_name) + len(catalog.removed) >= DEFINITION_NAMES_MAX:
        raise HttpProblem("too-many-definitions", f"{DEFINITION_NAMES_MAX} names were used: take one of a removed definition")
    size = len(msgspec.json.encode(body.definition)) - (known.bytes if known else 0)
    if size > 0 and catalog.bytes + size > DEFINITIONS_BYTES_MAX:
        raise HttpProblem("too-many-definitions", f"all definitions have more than {DEFINITIONS_BYTES_MAX} bytes: remove some first")
    return definition_events.DefinitionSet(definition_id, version, body.definition, check_reason(body.message))


def _present(known: Known) -> Present:
    return Present(f"the definition {known.definition.name}", known.version, known.changed_by, known.changed_ms)


async def _check(gateway: Gateway, definition: Definition) -> None:
    """Check a definition by its rules, and that the content it refers to is stored. Raises HttpProblem."""
    try:
        check_definition(definition)
    except SpecError as error:
        raise invalid(f"/definition{error.pointer}", error.message) from None
    except UnicodeEncodeError:
        raise invalid("/definition", "every text must be valid UTF-8") from None
    if definition.spec.target.strip():
        try:
            resolve(definition.spec.target, (), lenient=True)
        except TargetError as error:
            raise invalid("/definition/spec/target", str(error)) from None
    check_names(gateway, definition.spec, "/definition/spec")
    for pointer, blob in contents_of(definition.spec).values():
        try:
            await gateway.bus.get_blob(blob.sha256)
        except NotFound:
            raise invalid(
                f"/definition/spec{pointer}", f"there is no content {blob.sha256[:12]}: store it first by POST /blobs"
            ) from None
