"""Exports: what is written to a file, of which tasks, and in which form. Said once for people, for tasks and for the reporter.

An export is a function of the log up to one position (`Selection.as_of_seq`): the same selection gives the same content,
whoever makes it and when, as long as output and artifacts are kept. What has ended up to that position is in it, what
has not is not: so exports of one day after another have each task once.
"""

from __future__ import annotations

import datetime as dt
import posixpath
from enum import StrEnum

import msgspec

from fleetlog_schemas import limits
from fleetlog_schemas.builds import is_artifact_name
from fleetlog_schemas.ids import InvalidId, id_ms
from fleetlog_schemas.spec_fields import SpecError, in_range, utf8_bytes

BLOB_PREFIX = "export:"
"""Before a task's id: the content that a host asks for, instead of a digest, when the task is an export."""
_UTC_FIELDS = "YmdHMSj%"
EXPORT_SHELL = "/bin/sh"
"""What puts an export's file into its place on a host, as the user that it is to belong to."""
_PUT = """\
if [ -d "$1" ]; then echo "$1 is a folder: name the file in it" >&2; exit 1; fi
part="$1.$FLEETLOG_TASK_ID.$FLEETLOG_HOST_ID.part"
trap 'rm -f -- "$part"' EXIT
trap 'exit 143' TERM INT HUP
cat > "$part"
sync -- "$part" 2>/dev/null || :
mv -f -- "$part" "$1"
"""
_SAY = """\
printf '%s\\n' "$2"
printf '%s' "$3" > "$FLEETLOG_RETURN"
"""


class What(StrEnum):
    """What can be exported."""

    TASKS = "tasks"
    COMMANDS = "commands"
    """One row for each task and host."""
    EVENTS = "events"
    """The log itself."""
    OUTPUT = "output"
    ARTIFACTS = "artifacts"


class Format(StrEnum):
    """In which form."""

    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"
    TAR = "tar"
    FILE = "file"
    """One artifact as it is."""


FORMATS = {
    What.TASKS: (Format.NDJSON, Format.CSV, Format.PARQUET),
    What.COMMANDS: (Format.NDJSON, Format.CSV, Format.PARQUET),
    What.EVENTS: (Format.NDJSON, Format.CSV, Format.PARQUET),
    What.OUTPUT: (Format.NDJSON, Format.TAR),
    What.ARTIFACTS: (Format.TAR, Format.FILE),
}
"""The forms that each has; the first is the usual one."""


class Selection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What of the log is exported. Times are those of the end of tasks, and of events when they were stored."""

    what: What
    format: Format
    tasks: tuple[str, ...] = ()
    """Ids; none: all."""
    since_ms: int = 0
    until_ms: int = 0
    """Up to, and without, this time; 0: no bound."""
    as_of_seq: int = 0
    """The position of the log; in a question, 0 is the newest."""
    artifact: str = ""
    """The name of the one artifact that a `file` is."""


class Export(msgspec.Struct, frozen=True, omit_defaults=True, tag="export", tag_field="kind", forbid_unknown_fields=True):
    """Write tasks, commands, events, output or artifacts to a file on a host, or keep them as an artifact of this task."""

    what: What
    format: Format | None = None
    """None: the usual one of `what`."""
    tasks: tuple[str, ...] = ()
    since_ms: int = 0
    until_ms: int = 0
    """0: up to the tick of the schedule, or to the submission."""
    last_ms: int = 0
    """Instead of `since_ms`: this long before `until_ms`."""
    to: str = ""
    """The file on the host, with %Y %m %d %H %M %S %j of `until_ms` in UTC; empty: an artifact of the task."""
    artifact: str = ""
    """Of artifacts only this one, as it is and not in a tar."""
    of_part: str = ""
    """In a workflow: of the tasks of this part, which has ended. The dispatcher puts them into `tasks`."""


def usual_format(what: What) -> Format:
    """Return the form of an export that names none."""
    return FORMATS[what][0]


def check_selection(
    what: What, form: Format, tasks: tuple[str, ...], since_ms: int, until_ms: int, artifact: str = ""
) -> None:
    """Check what people may ask for. Raises SpecError, whose pointer names the field."""
    if artifact and what is not What.ARTIFACTS:
        raise SpecError("/artifact", f"names one of the artifacts, and these are {what.value}")
    if artifact and not is_artifact_name(artifact):
        raise SpecError("/artifact", "an artifact's name is 1-128 of A-Z a-z 0-9 _ . + @ = ~ -")
    if bool(artifact) != (form is Format.FILE):
        raise SpecError("/format", "the form `file` is one artifact as it is, and goes with its name")
    if form not in FORMATS[what]:
        raise SpecError("/format", f"{what.value} can be exported as {' or '.join(one.value for one in FORMATS[what])}")
    in_range("/tasks", len(tasks), 0, limits.EXPORT_TASKS_MAX)
    for index, task_id in enumerate(tasks):
        try:
            id_ms(task_id)
        except InvalidId:
            raise SpecError(f"/tasks/{index}", "give the full id of a task") from None
    for pointer, value in (("/since_ms", since_ms), ("/until_ms", until_ms)):
        in_range(pointer, value, 0, limits.EXPORT_TIME_MS_MAX)
    if until_ms and until_ms <= since_ms:
        raise SpecError("/until_ms", "must be later than since_ms")


def check_export(export: Export, *, cwd: bool, stdin: bool) -> None:
    """Check the rules of an export that is a task. Raises SpecError."""
    if export.of_part:
        raise SpecError("/payload/of_part", "only a part of a workflow exports what another part left: name tasks by their ids")
    try:
        check_selection(export.what, format_of(export), export.tasks, export.since_ms, export.until_ms, export.artifact)
    except SpecError as error:
        raise SpecError(f"/payload{error.pointer}", error.message) from None
    in_range("/payload/last_ms", export.last_ms, 0, limits.EXPORT_TIME_MS_MAX)
    if export.last_ms and export.since_ms:
        raise SpecError("/payload/last_ms", "give either since_ms or last_ms")
    in_range("/payload/to", utf8_bytes("/payload/to", export.to), 0, limits.PATH_BYTES_MAX)
    if export.to and (export.to == "/" or "\x00" in export.to or not posixpath.isabs(export.to) or posixpath.normpath(export.to) != export.to):
        raise SpecError("/payload/to", "must be the absolute path of a file on the host, as /var/backups/tasks-%Y-%m-%d.parquet")
    try:
        path_at(export.to, 0)
    except ValueError as error:
        raise SpecError("/payload/to", str(error)) from None
    if stdin:
        raise SpecError("/options/stdin", "an export reads what it writes from there itself")
    if cwd:
        raise SpecError("/options/cwd", "an export has a folder of its own; say by `to` where its file is put")


def check_of_part(name: str, export: Export, before: set[str]) -> Export:
    """Return what the part *name* exports without the part that it is of, which must be one of those *before* it. Raises SpecError."""
    if not export.of_part:
        return export
    if export.tasks:
        raise SpecError("/payload/tasks", "give either tasks or of_part")
    if export.of_part not in before:
        raise SpecError("/payload/of_part", f"{name} exports what {export.of_part[:100]} left and does not come after it: name it in `after`")
    return msgspec.structs.replace(export, of_part="")


def exported(export: Export) -> str:
    """Return what is exported, and where to, in one line."""
    said = f"artifact {export.artifact}" if export.artifact else f"{export.what.value} as {format_of(export).value}"
    return said + (f" of {export.of_part}" if export.of_part else "") + (f" to {export.to}" if export.to else "")


def format_of(export: Export) -> Format:
    """Return the form of an export."""
    return export.format or (Format.FILE if export.artifact else usual_format(export.what))


def selection_of(export: Export, at_ms: int, as_of_seq: int) -> Selection:
    """Return what a task exports whose tick, or submission, was *at_ms* and stands in the log at *as_of_seq*."""
    until_ms = export.until_ms or (0 if export.tasks else at_ms)
    return Selection(
        what=export.what, format=format_of(export), tasks=export.tasks, until_ms=until_ms, as_of_seq=as_of_seq,
        since_ms=max(0, (until_ms or at_ms) - export.last_ms) if export.last_ms else export.since_ms, artifact=export.artifact,
    )


def file_name_of(what: What, form: Format, artifact: str = "") -> str:
    """Return the name that an export's file has when nobody gave it one."""
    return artifact or f"{what.value}.{form.value}"


def name_of(export: Export) -> str:
    """Return the name of the file that a task exports."""
    return file_name_of(export.what, format_of(export), export.artifact)


def path_at(to: str, at_ms: int) -> str:
    """Return the path with a time, in UTC, in place of its %-fields.

    Raises:
        ValueError: it has a field that there is not.
    """
    moment, text, rest = dt.datetime.fromtimestamp(at_ms / 1000, dt.UTC), "", to
    while rest:
        before, percent, rest = rest.partition("%")
        text += before
        if not percent:
            break
        if not rest or rest[0] not in _UTC_FIELDS:
            raise ValueError(f"%{rest[:1]} is no field of a time here: there are %{' %'.join(_UTC_FIELDS[:-1])}, and %% for a percent sign")
        text += moment.strftime(f"%{rest[0]}")
        rest = rest[1:]
    return text


def returned_of(name: str, size: int, sha256: str, rows: int) -> dict[str, str | int]:
    """Return what an export returns, for the parts of a workflow that come after it."""
    return {"file": name, "bytes": size, "sha256": sha256, "rows": rows}


def argv_of(export: Export, at_ms: int, size: int, sha256: str, rows: int) -> tuple[str, ...]:
    """Return the command that a host runs when it has the export, which is its standard input: it puts it where it belongs."""
    to = path_at(export.to, at_ms)
    name = to or name_of(export)
    said = f"{name}  {size} bytes  sha256 {sha256}"
    value = msgspec.json.encode(returned_of(name, size, sha256, rows)).decode()
    return (EXPORT_SHELL, "-ec", (_PUT if to else "") + _SAY, "fleetlog-export", to, said, value)


def blob_name(task_id: str) -> str:
    """Return what a host asks for when its task is an export: content that is made when it is first asked for."""
    return BLOB_PREFIX + task_id


class ExportQuestion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """`export`: a piece of an export, which is made when it is first asked for. Answer: ExportPiece."""

    selection: Selection | None = None
    of_task: str = ""
    """Instead of a selection: that of this task, which is an export."""
    offset: int = 0
    limit_bytes: int = limits.EXPORT_PIECE_BYTES
    at_least_seq: int = 0


class ExportPiece(msgspec.Struct, frozen=True, kw_only=True):
    """Some bytes of an export, and what all of it is."""

    selection: Selection
    size: int
    sha256: str
    rows: int
    """Rows of a table, files in a tar."""
    missing: int
    """What is named in the log and not kept any more: files in a tar, attempts of output."""
    at_ms: int = 0
    """The time that the %-fields of a path stand for."""
    data: bytes
    """As JSON: base64."""
