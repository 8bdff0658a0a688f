"""What a person asks for: the specification of a task. Frozen into the log as it was submitted."""

from __future__ import annotations

import posixpath
import re
import shlex
from typing import Any, Literal

import msgspec

from fleetlog_schemas import limits
from fleetlog_schemas.builds import Build as Build  # noqa: PLC0414  # taken from here by others
from fleetlog_schemas.builds import check_build
from fleetlog_schemas.exports import Export as Export  # noqa: PLC0414  # taken from here by others
from fleetlog_schemas.exports import check_export, check_of_part, exported
from fleetlog_schemas.graph import Binding, GraphError, Item, When, ancestors, check_parts
from fleetlog_schemas.ids import InvalidId, check_host_id
from fleetlog_schemas.outcomes import Outcome
from fleetlog_schemas.parameters import Parameter
from fleetlog_schemas.parameters import ParameterValue as ParameterValue  # noqa: PLC0414  # taken from here by others
from fleetlog_schemas.spec_fields import Blob as Blob  # noqa: PLC0414  # taken from here by others
from fleetlog_schemas.spec_fields import Choose as Choose  # noqa: PLC0414  # taken from here by others
from fleetlog_schemas.spec_fields import Retry as Retry  # noqa: PLC0414  # taken from here by others
from fleetlog_schemas.spec_fields import Rollout as Rollout  # noqa: PLC0414  # taken from here by others
from fleetlog_schemas.spec_fields import SpecError as SpecError  # noqa: PLC0414  # taken from here by others
from fleetlog_schemas.spec_fields import (
    check_argv,
    check_blob,
    check_call,
    check_choose,
    check_rollout,
    check_values,
    check_word,
    in_range,
    utf8_bytes,
)
from fleetlog_schemas.spec_fields import check_queue_name as check_queue_name  # noqa: PLC0414  # taken from here by others
from fleetlog_schemas.spec_fields import share as share  # noqa: PLC0414  # taken from here by others

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
PRIORITY_MAX = 10
QUEUE_DEFAULT = "default"
SUMMARY_CHARACTERS_MAX = 200
"""Length of a one-line summary: it is for lists."""


class Shell(msgspec.Struct, frozen=True, tag="shell", tag_field="kind", forbid_unknown_fields=True):
    """Start a program. No shell is involved unless argv names one."""

    argv: tuple[str, ...]


class Script(msgspec.Struct, frozen=True, tag="script", tag_field="kind", forbid_unknown_fields=True):
    """Run stored content with an interpreter: `interpreter... FILE args...`."""

    content: Blob
    interpreter: tuple[str, ...] = ("/bin/sh",)
    args: tuple[str, ...] = ()


class Function(msgspec.Struct, frozen=True, omit_defaults=True, tag="function", tag_field="kind", forbid_unknown_fields=True):
    """Run a Python function that the host's workers have loaded."""

    name: str
    args: tuple[Any, ...] = ()
    """By position, JSON values."""
    kwargs: dict[str, Any] = {}
    """By name."""


class Part(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One part of a workflow: a task that is submitted when what it is after has ended."""

    name: str
    task: TaskSpec | None = None
    """What it runs; none: a definition, which the gateway puts here when the workflow is submitted."""
    definition: str = ""
    """The name of what it is a run of."""
    target: str = ""
    """Instead of the definition's own target."""
    parameters: dict[str, ParameterValue] = {}
    """Values that stand; secrets are never among them."""
    given: dict[str, Binding] = {}
    """Values that are known only when it begins, by the names of parameters."""
    declared: dict[str, Parameter] = {}
    """What its definition says of the parameters in `given`. Written by the gateway."""
    after: tuple[str, ...] = ()
    """The parts that must have ended before it begins."""
    when: When = "success"
    """How they must have ended: all well; one of them well; one of them badly; or anyhow. Otherwise it is skipped."""
    handles: bool = False
    """With `when: failure`: if this part ends well, what it is after and went wrong no longer makes the workflow fail."""
    for_each: tuple[Item, ...] | Binding | None = None
    """A list, for each item of which it is run."""
    items_parallel: int = 0
    """Of these runs, how many at once; 0 is no limit."""


class Taken(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a part ended in an earlier run of the workflow, which is not run again. Written by the gateway."""

    task_id: str
    """The workflow in which it ran."""
    outcome: Outcome
    value: str | None = None
    """JSON text."""
    by_host: str | None = None
    items: int = 0
    """Tasks that it had."""


class Workflow(msgspec.Struct, frozen=True, omit_defaults=True, tag="workflow", tag_field="kind", forbid_unknown_fields=True):
    """Run tasks one after the other and beside each other, as parts of one task."""

    parts: tuple[Part, ...]
    taken: dict[str, Taken] = {}
    """Parts that are taken over from an earlier run."""


HostPayload = Shell | Script | Function | Build | Export
"""What a host runs."""
Payload = HostPayload | Workflow


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
    parameters: dict[str, ParameterValue] = {}
    """Values that a process finds as a definition's parameters are found, of a task that comes from none."""
    definition: Origin | None = None
    """What it is a run of, when it was made from a definition; the definition's id is then its key."""
    rerun_of: str | None = None
    tags: tuple[str, ...] = ()
    plan_hash: str = ""
    """When set, the task is refused unless its plan has this hash."""


def kind(spec: TaskSpec) -> str:
    """Return the task's kind: the tag of its payload."""
    return kind_of(spec.payload)


def kind_of(payload: Payload) -> str:
    """Return the tag of a payload."""
    return str(payload.__struct_config__.tag)


def summary(payload: Payload) -> str:
    """Return what a payload runs, in one line for lists and plans."""
    if isinstance(payload, Workflow):
        text = ", ".join(part.name for part in payload.parts)
    elif isinstance(payload, Function):
        given = [("", value) for value in payload.args] + [(f"{name}=", value) for name, value in payload.kwargs.items()]
        text = f"{payload.name}({', '.join(name + msgspec.json.encode(value).decode() for name, value in given)})"
    elif isinstance(payload, Build):
        text = "; ".join(step.name or shlex.join(step.argv) for step in payload.steps)
    elif isinstance(payload, Export):
        text = exported(payload)
    elif isinstance(payload, Script):
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
    if isinstance(spec.payload, Workflow):
        _check_workflow(spec, spec.payload)
    else:
        _check_payload(spec, spec.payload)
    _check_options(spec.options)
    if spec.parameters and spec.definition is not None:
        raise SpecError("/parameters", "a task of a definition has its values in `definition`")
    check_values("/parameters", spec.parameters)
    if not isinstance(spec.payload, Workflow) and bool(spec.target.strip()) == bool(spec.host_ids):
        raise SpecError("/target", "give either a target or host_ids: an empty target never means every host")
    in_range("/host_ids", len(spec.host_ids), 0, limits.HOSTS_PER_TASK_MAX)
    for index, host_id in enumerate(spec.host_ids):
        try:
            check_host_id(host_id)
        except InvalidId as error:
            raise SpecError(f"/host_ids/{index}", str(error)) from None
    in_range("/target", utf8_bytes("/target", spec.target), 0, limits.ARGV_BYTES_MAX)
    in_range("/name", utf8_bytes("/name", spec.name), 0, limits.TASK_NAME_BYTES_MAX)
    for field in ("rerun_of", "plan_hash"):
        text = getattr(spec, field) or ""
        in_range(f"/{field}", utf8_bytes(f"/{field}", text), 0, limits.HASH_OR_ID_BYTES_MAX)
    in_range("/timeout_ms", spec.timeout_ms, 1, limits.TIMEOUT_MS_MAX)
    in_range("/task_timeout_ms", spec.task_timeout_ms, 0, limits.TIMEOUT_MS_MAX)
    in_range("/wait_offline_ms", spec.wait_offline_ms, 0, limits.TIMEOUT_MS_MAX)
    in_range("/parallel", spec.parallel, 0, limits.HOSTS_PER_TASK_MAX)
    in_range("/retry/attempts_max", spec.retry.attempts_max, 1, limits.ATTEMPTS_MAX)
    in_range("/retry/backoff_ms", spec.retry.backoff_ms, 0, limits.TIMEOUT_MS_MAX)
    in_range("/retry/backoff_ms_max", spec.retry.backoff_ms_max, spec.retry.backoff_ms, limits.TIMEOUT_MS_MAX)
    for index, outcome in enumerate(spec.retry.on):
        if outcome in (Outcome.SUCCESS, Outcome.CANCELLED, Outcome.SKIPPED):
            raise SpecError(f"/retry/on/{index}", f"{outcome} is never retried")
    in_range("/tags", len(spec.tags), 0, 32)
    for index, tag in enumerate(spec.tags):
        check_word(f"/tags/{index}", tag, "a tag")
    _check_admission(spec)
    if spec.choose is not None:
        check_choose(spec.choose, exact=bool(spec.host_ids))
    if spec.rollout is not None:
        check_rollout(spec.rollout)
    if spec.failures_max:
        share("/failures_max", spec.failures_max)
    in_range("", len(msgspec.json.encode(spec)), 0, limits.SPEC_BYTES_MAX)


def _check_admission(spec: TaskSpec) -> None:
    in_range("/priority", spec.priority, 1, PRIORITY_MAX)
    check_queue_name("/queue", spec.queue)
    if spec.key:
        check_word("/key", spec.key, "a key")
    elif spec.single_run or spec.key_parallel:
        raise SpecError("/key", "single_run and key_parallel need a key: what this is a run of")
    in_range("/key_parallel", spec.key_parallel, 0, limits.HOSTS_PER_TASK_MAX)


_OF_COMMANDS = ("target", "host_ids", "options", "parallel", "retry", "choose", "rollout", "failures_max", "wait_offline_ms",
                "ignore_windows", "key_parallel")
"""Fields that say how commands run: a workflow has none, its parts do."""


def _check_workflow(spec: TaskSpec, workflow: Workflow) -> None:
    plain = TaskSpec(payload=spec.payload)
    for field in _OF_COMMANDS:
        if getattr(spec, field) != getattr(plain, field):
            raise SpecError(f"/{field}", "a workflow runs on no host itself: say it of its parts")
    in_range("/payload/parts", len(workflow.parts), 1, limits.WORKFLOW_PARTS_MAX)
    try:
        check_parts(workflow.parts, None)
        before = ancestors(workflow.parts)
    except GraphError as error:
        raise SpecError(f"/payload/parts{error.pointer}", error.message) from None
    for index, part in enumerate(workflow.parts):
        try:
            _check_part(part, before[part.name])
        except SpecError as error:
            raise SpecError(f"/payload/parts/{index}{error.pointer}", error.message) from None
    for name in workflow.taken:
        if name not in {part.name for part in workflow.parts}:
            raise SpecError("/payload/taken", f"there is no part {name[:100]!r} to be taken over")


def _check_part(part: Part, before: set[str]) -> None:
    if (part.task is None) and not part.definition:
        raise SpecError("/task", f"nothing says what {part.name} runs: give it a task, or the name of a definition")
    if isinstance(part.for_each, tuple):
        in_range("/for_each", len(part.for_each), 0, limits.WORKFLOW_ITEMS_MAX)
    in_range("/items_parallel", part.items_parallel, 0, limits.WORKFLOW_ITEMS_MAX)
    check_values("/parameters", part.parameters)
    if part.when != "success" and not part.after:
        raise SpecError("/when", f"{part.when} of what? Name the parts in `after`")
    if part.handles and part.when != "failure":
        raise SpecError("/handles", "a part handles what went wrong: say when = failure too")
    if both := part.given.keys() & part.parameters.keys():
        raise SpecError("/parameters", f"{min(both)} has a value, and is given one as well")
    if part.task is None:
        return
    if part.task.parameters:
        raise SpecError("/task/parameters", f"say it of {part.name} itself: `parameters`")
    if isinstance(part.task.payload, Workflow):
        raise SpecError("/task/payload", "a part is no workflow itself: put its parts here")
    try:
        task, payload = part.task, part.task.payload
        if isinstance(payload, Export):
            task = msgspec.structs.replace(task, payload=check_of_part(part.name, payload, before))
        check_spec(task)
    except SpecError as error:
        raise SpecError(f"/task{error.pointer}", error.message) from None


def _check_function(spec: TaskSpec, function: Function) -> None:
    check_call(function.name, function.args, function.kwargs)
    for field in ("stdin", "cwd", "user", "umask", "memory_bytes_max", "files_max"):
        if getattr(spec.options, field) is not None:
            raise SpecError(f"/options/{field}", "is not for functions: they run inside the host's worker processes")
    if spec.options.exit_codes != (0,):
        raise SpecError("/options/exit_codes", "a function has no exit code: it returns or raises")


def _check_payload(spec: TaskSpec, payload: HostPayload) -> None:
    if isinstance(payload, Function):
        _check_function(spec, payload)
    elif isinstance(payload, Build):
        check_build(payload, other_user=spec.options.user is not None, cwd=spec.options.cwd is not None)
    elif isinstance(payload, Export):
        check_export(payload, cwd=spec.options.cwd is not None, stdin=spec.options.stdin is not None)
    elif isinstance(payload, Shell):
        check_argv("/payload/argv", payload.argv, at_least=1)
    else:
        check_blob("/payload/content", payload.content)
        check_argv("/payload/interpreter", payload.interpreter, at_least=1)
        check_argv("/payload/args", payload.args, at_least=0)


def _check_options(options: Options) -> None:
    for field in ("env", "stdin"):
        blob = getattr(options, field)
        if blob is not None:
            check_blob(f"/options/{field}", blob)
    for index, name in enumerate(options.env_names):
        if not _ENV_NAME.fullmatch(name):
            raise SpecError(f"/options/env_names/{index}", "an environment name is letters, digits and _")
    for index, name in enumerate(options.secret_names):
        if name not in options.env_names:
            raise SpecError(f"/options/secret_names/{index}", "a secret must be one of env_names")
    if bool(options.env_names) != (options.env is not None):
        raise SpecError("/options/env", "env and env_names come together")
    in_range("/options/cwd", utf8_bytes("/options/cwd", options.cwd or ""), 0, limits.PATH_BYTES_MAX)
    if options.cwd is not None and (not posixpath.isabs(options.cwd) or "\x00" in options.cwd):
        raise SpecError("/options/cwd", "the working directory must be an absolute path")
    if options.user is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", options.user):
        raise SpecError("/options/user", "not a user name")
    in_range("/options/umask", options.umask or 0, 0, 0o777)
    if options.memory_bytes_max is not None:
        in_range("/options/memory_bytes_max", options.memory_bytes_max, 1024 * 1024, 1 << 50)
    if options.files_max is not None:
        in_range("/options/files_max", options.files_max, 8, 1 << 20)
    in_range("/options/output_bytes_max", options.output_bytes_max, 0, 1 << 40)
    in_range("/options/exit_codes", len(options.exit_codes), 1, 256)
    for index, code in enumerate(options.exit_codes):
        in_range(f"/options/exit_codes/{index}", code, 0, 255)
