"""What a person asks for: the specification of a task. Frozen into the log as it was submitted."""

from __future__ import annotations

import posixpath
import re
import shlex
from typing import Literal

import msgspec

from fleetlog_schemas import limits
from fleetlog_schemas.ids import InvalidId, check_host_id
from fleetlog_schemas.outcomes import Outcome

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,62}")
_WORD_RULE = "is 1-63 of A-Z a-z 0-9 _ . / - and starts with a letter or digit"
_SHARE = re.compile(r"(\d{1,6})(%?)")
PRIORITY_MAX = 10
QUEUE_DEFAULT = "default"
SUMMARY_CHARACTERS_MAX = 200
"""Length of a one-line summary: it is for lists."""


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


class Choose(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Run on some of the hosts that the target means. Hosts that can take work now are taken first."""

    count: int = 1
    """How many; with `by: each`, how many for each value of the label."""
    by: Literal["load", "random", "spread", "each"] = "load"
    """The least loaded; any; spread evenly over the values of a label; so many for each value of a label."""
    label: str = ""
    """The label that `spread` and `each` go by; hosts without it are left out."""


class Rollout(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Run on the hosts in waves: the next one begins when the last one has ended well."""

    waves: tuple[str, ...] = ()
    """How many hosts are done after each wave, as a count or a percentage of all: `1`, `5%`, `25%`, `100%`."""
    batch: str = ""
    """Size of each wave after those, as a count or a percentage of all; empty: the rest is one wave."""
    canary: str = ""
    """A target: those of the task's hosts that it means go first, as a wave of their own."""
    soak_ms: int = 0
    """How long the end of a wave must be over before the next one begins."""
    approve: tuple[int, ...] = ()
    """Waves (from 1) that wait until a person approves them; 0 stands for every wave after the first."""


ParameterValue = str | bool | int | float | tuple[str, ...]
"""Value of a parameter."""


class Origin(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The version of a definition that a task is a run of, and the values of its parameters. Written by the gateway."""

    definition_id: str
    version: int
    name: str
    """As it was when the task was submitted."""
    parameters: dict[str, ParameterValue] = {}
    """Given or by default; secrets are never among them."""


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
    priority: int = 5
    """From 1 to 10: a higher one goes first, and waiting makes up for a lower one."""
    queue: str = QUEUE_DEFAULT
    """Tasks of one queue share its limit, where it has one."""
    key: str = ""
    """What this is a run of; tasks with the same key are runs of the same thing."""
    key_parallel: int = 0
    """Commands in flight at once over all tasks with this key; 0 is no limit."""
    single_run: Literal["", "refuse", "queue", "replace"] = ""
    """What becomes of this task while an earlier one with its key is open: it is refused, waits for its end, or
    stops it and then runs. Empty: they run beside each other."""
    choose: Choose | None = None
    """On how many of the target's hosts; none: on all."""
    rollout: Rollout | None = None
    """In waves; none: all hosts at once."""
    failures_max: str = ""
    """How many hosts may fail, as a count or a percentage of all, before the task halts by itself; empty: any
    number, or none when there is a rollout."""
    ignore_windows: bool = False
    """Run outside maintenance windows and inside blackouts; never against a freeze."""
    definition: Origin | None = None
    """What it is a run of, when it was made from a definition; the definition's id is then its key."""
    rerun_of: str | None = None
    tags: tuple[str, ...] = ()
    plan_hash: str = ""
    """When set, the task is refused unless its plan has this hash."""


def kind(spec: TaskSpec) -> str:
    """Return the task's kind: the tag of its payload."""
    return "shell" if isinstance(spec.payload, Shell) else "script"


def summary(payload: Payload) -> str:
    """Return what a payload runs, in one line for lists and plans."""
    if isinstance(payload, Script):
        text = " ".join([payload.content.name or f"script {payload.content.sha256[:12]}", *payload.args])
    else:
        text = shlex.join(payload.argv)
    line = " ".join(text.split())
    return line if len(line) <= SUMMARY_CHARACTERS_MAX else line[: SUMMARY_CHARACTERS_MAX - 1] + "…"


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
        _check_word(f"/tags/{index}", tag, "a tag")
    _check_admission(spec)
    if spec.choose is not None:
        _check_choose(spec.choose, spec)
    if spec.rollout is not None:
        _check_rollout(spec.rollout)
    if spec.failures_max:
        share("/failures_max", spec.failures_max)
    _in_range("", len(msgspec.json.encode(spec)), 0, limits.SPEC_BYTES_MAX)


def share(pointer: str, text: str) -> tuple[int, bool]:
    """Return a count, or a percentage and True, from its text.

    Raises:
        SpecError: it is neither.
    """
    match = _SHARE.fullmatch(text)
    if match is None or (match[2] and int(match[1]) > 100):
        raise SpecError(pointer, f"must be a count (3) or a percentage (5%), not {text[:40]!r}")
    return int(match[1]), bool(match[2])


def _check_word(pointer: str, word: str, what: str) -> None:
    if not _TAG.fullmatch(word):
        raise SpecError(pointer, f"{what} {_WORD_RULE}")


def check_queue_name(pointer: str, name: str) -> None:
    """Check the name of a queue. Raises SpecError."""
    _check_word(pointer, name, "a queue's name")


def _check_admission(spec: TaskSpec) -> None:
    _in_range("/priority", spec.priority, 1, PRIORITY_MAX)
    check_queue_name("/queue", spec.queue)
    if spec.key:
        _check_word("/key", spec.key, "a key")
    elif spec.single_run or spec.key_parallel:
        raise SpecError("/key", "single_run and key_parallel need a key: what this is a run of")
    _in_range("/key_parallel", spec.key_parallel, 0, limits.HOSTS_PER_TASK_MAX)


def _check_choose(choose: Choose, spec: TaskSpec) -> None:
    if spec.host_ids:
        raise SpecError("/choose", "exact hosts (host_ids) leave nothing to choose")
    _in_range("/choose/count", choose.count, 1, limits.HOSTS_PER_TASK_MAX)
    if choose.by in ("spread", "each") and not choose.label:
        raise SpecError("/choose/label", f"name the label that `{choose.by}` goes by")
    _in_range("/choose/label", _utf8_bytes("/choose/label", choose.label), 0, limits.LABEL_BYTES_MAX)


def _check_rollout(rollout: Rollout) -> None:
    _in_range("/rollout/waves", len(rollout.waves), 0, limits.WAVES_MAX)
    last: dict[bool, int] = {}
    for index, text in enumerate(rollout.waves):
        size, percent = share(f"/rollout/waves/{index}", text)
        if size <= last.get(percent, 0):
            raise SpecError(f"/rollout/waves/{index}", f"{text} is no more than the wave before it: each wave adds hosts")
        last[percent] = size
    if rollout.batch and share("/rollout/batch", rollout.batch)[0] == 0:
        raise SpecError("/rollout/batch", "a wave has at least one host")
    if not (rollout.waves or rollout.batch or rollout.canary.strip()):
        raise SpecError("/rollout", "say how large the waves are: waves, batch or canary")
    _in_range("/rollout/canary", _utf8_bytes("/rollout/canary", rollout.canary), 0, limits.ARGV_BYTES_MAX)
    _in_range("/rollout/soak_ms", rollout.soak_ms, 0, limits.TIMEOUT_MS_MAX)
    _in_range("/rollout/approve", len(rollout.approve), 0, limits.WAVES_MAX)
    for index, wave in enumerate(rollout.approve):
        _in_range(f"/rollout/approve/{index}", wave, 0, limits.WAVES_MAX)


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
