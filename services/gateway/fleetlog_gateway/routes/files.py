"""Task files: list, read, save, remove, restore, check. Folded here, so that no other service is needed.

A change names the version that it rests on (`If-Match`), as of definitions. A path stands in the address as one step:
its slashes are written `%2F`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import syntax
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.decode import Reason, check_reason, if_match
from fleetlog_gateway.definitions import keep
from fleetlog_gateway.gateway import Gateway
from fleetlog_gateway.matching import Present, check_absent, check_match, etag
from fleetlog_gateway.problems import HttpProblem, invalid
from fleetlog_gateway.registry import Answered, Call, Nothing, Paged, reply, route
from fleetlog_runtime.pure.bus import NotFound
from fleetlog_schemas import events, questions
from fleetlog_schemas.codec import rfc3339
from fleetlog_schemas.file_events import FileRemoved, FileSaved
from fleetlog_schemas.files import FileVersion, TaskFile, check_path, interpreter_for, language_of
from fleetlog_schemas.limits import FILE_BYTES_MAX, FILE_NAMES_MAX, FILES_MAX
from fleetlog_schemas.spec import SpecError

BODY_BYTES_MAX = 8 * FILE_BYTES_MAX
"""A character of a text may take several bytes as JSON."""
_CHANGES = ("invalid", "conflict", "bus-unavailable", "unsettled", "log-full", "bad-header", "version-changed", "version-missing")
_Version = Annotated[int, Meta(ge=0, le=2**53)]


class FileSummary(msgspec.Struct, frozen=True):
    """A version of a task file."""

    path: str
    version: int
    sha256: str
    size: int
    interpreter: tuple[str, ...]
    message: str
    changed_by: str
    changed_at: str
    restored_version: int
    """The version whose content it has again; 0: none."""
    removed: bool


class SaveFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file is from now on."""

    content: str
    message: Reason = ""


class CheckFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that is not saved."""

    path: Annotated[str, Meta(max_length=1_000)]
    content: str


class RestoreFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which version it becomes again."""

    version: Annotated[int, Meta(ge=1, le=2**53)]
    message: Reason = ""


class SavedFile(msgspec.Struct, frozen=True):
    """What a file is now."""

    path: str
    version: int
    sha256: str
    seq: int
    changed: bool
    """False: it was exactly this already, and nothing was stored."""
    checked: syntax.Checked


class RemovedFile(msgspec.Struct, frozen=True):
    """A file that is no more."""

    path: str
    version: int
    seq: int


class FilesQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Filters of a list of files."""

    glob: Annotated[str, Meta(max_length=300)] = ""
    """Of the path; `*` also stands for slashes."""
    removed: Annotated[str, Meta(pattern="^(only)?$")] = ""
    """`only`: those that were removed, instead of those that there are."""
    limit: Annotated[int, Meta(ge=1, le=questions.PAGE_MAX)] = 100
    cursor: Annotated[str, Meta(max_length=300)] = ""


class FileQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which version; 0 is the newest."""

    version: _Version = 0


class RemoveFileQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why it is removed."""

    message: Reason = ""


def _summary(file: TaskFile, one: FileVersion) -> FileSummary:
    return FileSummary(
        path=file.path, version=one.version, sha256=one.sha256, size=one.size, interpreter=one.interpreter, message=one.message,
        changed_by=one.changed_by, changed_at=rfc3339(one.changed_ms), restored_version=one.restored_version, removed=file.removed,
    )


def _named(gateway: Gateway, path: str, *, also_removed: bool = False) -> TaskFile:
    """Return a file. Raises HttpProblem."""
    found = gateway.access.files.named(path)
    if found is None or (found.removed and not also_removed):
        removed = " (it was removed: `fleetlog file restore` brings it back)" if found else ""
        raise HttpProblem("file-not-found", f"there is no task file {path[:100]!r}{removed}: `fleetlog file ls` shows them")
    return found


def _version(file: TaskFile, version: int) -> FileVersion:
    found = file.of_version(version)
    if found is None:
        raise HttpProblem(
            "version-not-found", f"{file.path} has no version {version} that is listed; the newest is {file.newest.version}"
        )
    return found


@route("GET", "/api/v1/files", auth=Permission.READ, query=FilesQuery, answer=Answered[Paged[FileSummary]], problems=("bad-query",))
async def files_list(call: Call[Nothing, FilesQuery]) -> web.Response:
    """List task files by path. Needs no other service."""
    query = call.query
    fitting = sorted(
        (file for key, file in call.gateway.access.files.by_key.items()
         if file.removed == bool(query.removed) and key > query.cursor and (not query.glob or fnmatch.fnmatchcase(file.path, query.glob))),
        key=lambda file: file.path.lower(),
    )
    page = fitting[: query.limit]
    cursor = page[-1].path.lower() if len(fitting) > len(page) else None
    items = [_summary(file, file.newest) for file in page]
    return reply({"seq": call.gateway.tail.next_seq - 1, "data": Paged(items=items, next_cursor=cursor)})


@route("POST", "/api/v1/files/check", auth=Permission.READ, body=CheckFile, body_bytes_max=BODY_BYTES_MAX, answer=syntax.Checked, problems=("invalid",))
async def check_file(call: Call[CheckFile, Nothing]) -> web.Response:
    """Check a file's path and syntax. Saves nothing and runs nothing of it."""
    content = _content(call.body.path, call.body.content)
    return reply(await syntax.check(language_of(interpreter_for(call.body.path, call.body.content)), content))


@route("GET", "/api/v1/files/{path}", auth=Permission.READ, query=FileQuery, answer=Answered[FileSummary],
       problems=("file-not-found", "version-not-found", "bad-query"))
async def show_file(call: Call[Nothing, FileQuery]) -> web.Response:
    """Show a task file as it is, or an earlier version of it. Its `ETag` is the version."""
    file = _named(call.gateway, call.path["path"], also_removed=bool(call.query.version))
    one = _version(file, call.query.version)
    return reply({"seq": call.gateway.tail.next_seq - 1, "data": _summary(file, one)}, headers=etag(one.version))


@route("GET", "/api/v1/files/{path}/content", auth=Permission.READ, query=FileQuery, answer=bytes,
       problems=("file-not-found", "version-not-found", "not-found", "bad-query"))
async def file_content(call: Call[Nothing, FileQuery]) -> web.Response:
    """Return what a version of a file says, as bytes. Its `ETag` is the version."""
    one = _version(_named(call.gateway, call.path["path"], also_removed=bool(call.query.version)), call.query.version)
    try:
        content = await call.gateway.bus.get_blob(one.sha256)
    except NotFound:
        raise HttpProblem("not-found", f"the content {one.sha256[:12]} is not there any more") from None
    return web.Response(body=content, content_type="application/octet-stream", headers=etag(one.version))


@route("GET", "/api/v1/files/{path}/versions", auth=Permission.READ, answer=Answered[Paged[FileSummary]], problems=("file-not-found",))
async def file_versions(call: Call[Nothing, Nothing]) -> web.Response:
    """List the versions of a file, newest first; at most a hundred are kept in the list. Also of one that was removed."""
    file = _named(call.gateway, call.path["path"], also_removed=True)
    items = [_summary(file, one) for one in reversed(file.versions)]
    return reply({"seq": call.gateway.tail.next_seq - 1, "data": Paged(items=items, next_cursor=None)})


@route("PUT", "/api/v1/files/{path}", auth=Permission.RUN, body=SaveFile, body_bytes_max=BODY_BYTES_MAX, answer=SavedFile,
       problems=(*_CHANGES, "too-many-files"))
async def save_file(call: Call[SaveFile, Nothing]) -> web.Response:
    """Save a task file: make it, or change it. A script whose syntax is wrong is refused.

    To change one, `If-Match` says which version was changed, as its `ETag` was; `*` is any. Without `If-Match` it is made, and
    must not exist. When there is another version by now nothing is stored, and the problem (412) has its number.
    """
    gateway, path, body = call.gateway, call.path["path"], call.body
    content = _content(path, body.content)
    interpreter = interpreter_for(path, body.content)
    checked = await syntax.check(language_of(interpreter), content)
    if checked.fault is not None:
        where = f"line {checked.fault.line}" + (f", column {checked.fault.column}" if checked.fault.column else "") + ": "
        raise invalid("/content", (where if checked.fault.line else "") + checked.fault.message)
    _may_change(call, gateway.access.files.named(path), path)
    sha256 = await keep(gateway, content)

    def decide() -> events.Data:
        known = gateway.access.files.named(path)
        _may_change(call, known, path)
        if known is not None and not known.removed and (known.newest.sha256, known.path) == (sha256, path):
            raise _Unchanged(known)
        return FileSaved(
            path=path, version=_next(gateway, known), sha256=sha256, size=len(content), interpreter=interpreter,
            message=check_reason(body.message),
        )

    return await _save(call, path, decide, checked)


@route("POST", "/api/v1/files/{path}/restore", auth=Permission.RUN, body=RestoreFile, answer=SavedFile,
       problems=(*_CHANGES, "file-not-found", "version-not-found", "too-many-files"))
async def restore_file(call: Call[RestoreFile, Nothing]) -> web.Response:
    """Let a file be what an earlier version was, as a new version; also one that was removed.

    With `If-Match` only if its newest version still is that one; nothing is lost without, for every version stays.
    """
    gateway, path = call.gateway, call.path["path"]
    file = _named(gateway, path, also_removed=True)
    one = _version(file, call.body.version)

    def decide() -> events.Data:
        known = _named(gateway, path, also_removed=True)
        if if_match(call.request) is not None:
            check_match(call.request, _present(known))
        if not known.removed and known.newest.sha256 == one.sha256:
            raise _Unchanged(known)
        return FileSaved(
            path=known.path, version=_next(gateway, known), sha256=one.sha256, size=one.size, interpreter=one.interpreter,
            message=check_reason(call.body.message), restored_version=one.version,
        )

    return await _save(call, file.path, decide, syntax.Checked(""))


@route("DELETE", "/api/v1/files/{path}", auth=Permission.RUN, query=RemoveFileQuery, answer=RemovedFile,
       problems=(*_CHANGES, "bad-query", "file-not-found"))
async def remove_file(call: Call[Nothing, RemoveFileQuery]) -> web.Response:
    """Remove a file. Tasks that ran it keep their past, and its versions can be restored. `If-Match` as for a change."""
    gateway, message = call.gateway, check_reason(call.query.message)
    last = _named(gateway, call.path["path"])

    def decide() -> events.Data:
        present = _named(gateway, call.path["path"])
        check_match(call.request, _present(present))
        return FileRemoved(path=present.path, message=message)

    check_match(call.request, _present(last))
    seq = await gateway.change(events.CATALOG, decide, call.principal, "look at the file, then try again")
    return reply(RemovedFile(path=last.path, version=last.newest.version, seq=seq))


class _Unchanged(Exception):
    """The file is already what was asked for."""

    def __init__(self, known: TaskFile) -> None:
        super().__init__(known.path)
        self.known = known


async def _save(call: Call[SaveFile, Nothing] | Call[RestoreFile, Nothing], path: str, decide: Callable[[], events.Data], checked: syntax.Checked) -> web.Response:
    gateway = call.gateway
    try:
        seq = await gateway.change(events.CATALOG, decide, call.principal, f"look at the file {path}, then try again")
    except _Unchanged as same:
        newest = same.known.newest
        return reply(SavedFile(path, newest.version, newest.sha256, newest.seq, changed=False, checked=checked), headers=etag(newest.version))
    newest = next(one for one in reversed(_named(gateway, path, also_removed=True).versions) if one.seq <= seq)
    saved = SavedFile(path, newest.version, newest.sha256, seq, changed=True, checked=checked)
    return reply(saved, headers=etag(newest.version))


def _content(path: str, text: str) -> bytes:
    """Check a path and what the file is to say. Raises HttpProblem."""
    try:
        check_path(path)
    except SpecError as error:
        raise invalid(error.pointer, error.message) from None
    content = text.encode("utf-8", "surrogatepass")
    if len(content) > FILE_BYTES_MAX:
        raise invalid("/content", f"a task file has at most {FILE_BYTES_MAX} bytes, not {len(content)}")
    if "\x00" in text or content != text.encode("utf-8", "replace"):
        raise invalid("/content", "a task file is a text: valid UTF-8 without NUL characters")
    return content


def _may_change(call: Call[SaveFile, Nothing], known: TaskFile | None, path: str) -> None:
    """Refuse a save that rests on another version, or on none where there is one. Raises HttpProblem."""
    if known is None or known.removed:
        check_absent(call.request, f"the file {path}")
    else:
        check_match(call.request, _present(known))


def _present(file: TaskFile) -> Present:
    return Present(file.path, file.newest.version, file.newest.changed_by, file.newest.changed_ms)


def _next(gateway: Gateway, known: TaskFile | None) -> int:
    """Return the number of the next version. Raises HttpProblem when there is no room for one more file."""
    files = gateway.access.files
    if (known is None or known.removed) and files.present >= FILES_MAX:
        raise HttpProblem("too-many-files", f"there are {FILES_MAX} task files: remove some first")
    if known is None and len(files.by_key) >= FILE_NAMES_MAX:
        raise HttpProblem("too-many-files", f"{FILE_NAMES_MAX} paths were used: take one of a removed file")
    return (known.newest.version if known else 0) + 1
