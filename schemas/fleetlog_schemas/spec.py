"""What a person asks for: the specification of a task. Frozen into the log as it was submitted."""

from __future__ import annotations

import posixpath
import re

import msgspec

from fleetlog_schemas import limits
from fleetlog_schemas.ids import InvalidId, check_host_id
from fleetlog_schemas.outcomes import Outcome

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}")


class SpecError(ValueError):
    """A specification breaks a rule. `pointer` (RFC 6901) names the field."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer
        self.message = message


class Blob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reference to content that is kept outside the log."""

    sha256: str
    size: int
    name: str = ""


class Shell(msgspec.Struct, frozen=True, tag="shell", tag_field="kind", forbid_unknown_fields=True):
    """Start a program. No shell is involved unless argv names one."""

    argv: tuple[str, ...]


class Script(msgspec.Struct, frozen=True, tag="script", tag_field="kind", forbid_unknown_fields=True):
    """Run stored content with an interpreter: `interpreter... FILE args...`."""

    content: Blob
    interpreter: tuple[str, ...] = ("/bin/sh",)
    args: tuple[str, ...] = ()


Payload = Shell | Script


class Options(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The surroundings in which a command runs."""

    env: Blob | None = None
    """JSON object of names to values; the values never enter the log."""
    env_names: tuple[str, ...] = ()
    secret_names: tuple[str, ...] = ()
    """Names in `env` whose values the agent masks in output."""
    stdin: Blob | None = None
    cwd: str | None = None
    user: str | None = None
    umask: int | None = None
    memory_bytes_max: int | None = None
    files_max: int | None = None
    """Open files (RLIMIT_NOFILE)."""
    output_bytes_max: int = 10 * 1024 * 1024
    """Output kept; beyond it the middle is dropped and the gap is marked."""
    exit_codes: tuple[int, ...] = (0,)
    """Exit codes that count as success."""


class Retry(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """When a command that ended badly is tried again. The default is never."""

    attempts_max: int = 1
    on: tuple[Outcome, ...] = (Outcome.FAILURE, Outcome.TIMEOUT, Outcome.ERROR)
    """Outcomes that are retried; `lost` only when it is named here, for it may run a command twice."""
    backoff_ms: int = 1_000
    backoff_ms_max: int = 60_000


class TaskSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One request to run something on hosts."""

    payload: Payload
    target: str = ""
    """Host names, globs, ranges, labels; see the dispatcher's README for the grammar."""
    host_ids: tuple[str, ...] = ()
    """Exact hosts instead of a target (a rerun freezes them)."""
    name: str = ""
    options: Options = Options()
    timeout_ms: int = 3_600_000
    """Longest run of one attempt."""
    task_timeout_ms: int = 0
    """Longest life of the whole task; 0 is none."""
    wait_offline_ms: int = 0
    """How long a command waits for a host that is offline; 0: it is unreached at once."""
    parallel: int = 0
    """Commands in flight at once; 0 is no limit."""
    retry: Retry = Retry()
    rerun_of: str | None = None
    tags: tuple[str, ...] = ()
    plan_hash: str = ""
    """When set, the task is refused unless its plan has this hash."""


def kind(spec: TaskSpec) -> str:
    """Return the task's kind: the tag of its payload."""
    return "shell" if isinstance(spec.payload, Shell) else "script"


def check_spec(spec: TaskSpec) -> None:
    """Check every rule that types cannot express.

    Raises:
        SpecError: the first rule that is broken, with the field it points to.
    """
    _check_payload(spec.payload)
    _check_options(spec.options)
    if bool(spec.target.strip()) == bool(spec.host_ids):
        raise SpecError("/target", "give either a target or host_ids: an empty target never means every host")
    _in_range("/host_ids", len(spec.host_ids), 0, limits.HOSTS_PER_TASK_MAX)
    for index, host_id in enumerate(spec.host_ids):
        try:
            check_host_id(host_id)
        except InvalidId as error:
            raise SpecError(f"/host_ids/{index}", str(error)) from None
    _in_range("/target", _utf8_bytes("/target", spec.target), 0, limits.ARGV_BYTES_MAX)
    _in_range("/name", _utf8_bytes("/name", spec.name), 0, limits.TASK_NAME_BYTES_MAX)
    for field in ("rerun_of", "plan_hash"):
        text = getattr(spec, field) or ""
        _in_range(f"/{field}", _utf8_bytes(f"/{field}", text), 0, limits.HASH_OR_ID_BYTES_MAX)
    _in_range("/timeout_ms", spec.timeout_ms, 1, limits.TIMEOUT_MS_MAX)
    _in_range("/task_timeout_ms", spec.task_timeout_ms, 0, limits.TIMEOUT_MS_MAX)
    _in_range("/wait_offline_ms", spec.wait_offline_ms, 0, limits.TIMEOUT_MS_MAX)
    _in_range("/parallel", spec.parallel, 0, limits.HOSTS_PER_TASK_MAX)
    _in_range("/retry/attempts_max", spec.retry.attempts_max, 1, limits.ATTEMPTS_MAX)
    _in_range("/retry/backoff_ms", spec.retry.backoff_ms, 0, limits.TIMEOUT_MS_MAX)
    _in_range("/retry/backoff_ms_max", spec.retry.backoff_ms_max, spec.retry.backoff_ms, limits.TIMEOUT_MS_MAX)
    for index, outcome in enumerate(spec.retry.on):
        if outcome in (Outcome.SUCCESS, Outcome.CANCELLED, Outcome.SKIPPED):
            raise SpecError(f"/retry/on/{index}", f"{outcome} is never retried")
    _in_range("/tags", len(spec.tags), 0, 32)
    for index, tag in enumerate(spec.tags):
        if not _TAG.fullmatch(tag):
            raise SpecError(f"/tags/{index}", "a tag is 1-63 of A-Z a-z 0-9 _ . / - and starts with a letter or digit")
    _in_range("", len(msgspec.json.encode(spec)), 0, limits.SPEC_BYTES_MAX)


def _check_payload(payload: Payload) -> None:
    if isinstance(payload, Shell):
        _check_argv("/payload/argv", payload.argv, at_least=1)
        return
    _check_blob("/payload/content", payload.content)
    _check_argv("/payload/interpreter", payload.interpreter, at_least=1)
    _check_argv("/payload/args", payload.args, at_least=0)


def _check_argv(pointer: str, argv: tuple[str, ...], *, at_least: int) -> None:
    if len(argv) < at_least or (at_least and not argv[0]):
        raise SpecError(pointer, "there is nothing to run: name a program")
    for index, part in enumerate(argv):
        if "\x00" in part:
            raise SpecError(f"{pointer}/{index}", "an argument cannot contain a NUL character")
    bytes_total = sum(_utf8_bytes(f"{pointer}/{index}", part) + 1 for index, part in enumerate(argv))
    _in_range(pointer, bytes_total, 0, limits.ARGV_BYTES_MAX)


def _check_options(options: Options) -> None:
    for field in ("env", "stdin"):
        blob = getattr(options, field)
        if blob is not None:
            _check_blob(f"/options/{field}", blob)
    for index, name in enumerate(options.env_names):
        if not _ENV_NAME.fullmatch(name):
            raise SpecError(f"/options/env_names/{index}", "an environment name is letters, digits and _")
    for index, name in enumerate(options.secret_names):
        if name not in options.env_names:
            raise SpecError(f"/options/secret_names/{index}", "a secret must be one of env_names")
    if bool(options.env_names) != (options.env is not None):
        raise SpecError("/options/env", "env and env_names come together")
    _in_range("/options/cwd", _utf8_bytes("/options/cwd", options.cwd or ""), 0, limits.PATH_BYTES_MAX)
    if options.cwd is not None and (not posixpath.isabs(options.cwd) or "\x00" in options.cwd):
        raise SpecError("/options/cwd", "the working directory must be an absolute path")
    if options.user is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", options.user):
        raise SpecError("/options/user", "not a user name")
    _in_range("/options/umask", options.umask or 0, 0, 0o777)
    if options.memory_bytes_max is not None:
        _in_range("/options/memory_bytes_max", options.memory_bytes_max, 1024 * 1024, 1 << 50)
    if options.files_max is not None:
        _in_range("/options/files_max", options.files_max, 8, 1 << 20)
    _in_range("/options/output_bytes_max", options.output_bytes_max, 0, 1 << 40)
    _in_range("/options/exit_codes", len(options.exit_codes), 1, 256)
    for index, code in enumerate(options.exit_codes):
        _in_range(f"/options/exit_codes/{index}", code, 0, 255)


def _check_blob(pointer: str, blob: Blob) -> None:
    if not _DIGEST.fullmatch(blob.sha256):
        raise SpecError(f"{pointer}/sha256", "a digest is 64 lower-case hexadecimal digits")
    _in_range(f"{pointer}/size", blob.size, 0, limits.BLOB_BYTES_MAX)
    _in_range(f"{pointer}/name", _utf8_bytes(f"{pointer}/name", blob.name), 0, limits.PATH_BYTES_MAX)


def _utf8_bytes(pointer: str, text: str) -> int:
    """Return the length of *text* in UTF-8; an argument of a shell may be bytes that are no text."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise SpecError(pointer, "must be valid UTF-8") from None


def _in_range(pointer: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise SpecError(pointer, f"must be between {low} and {high}, not {value}")
