"""Settings: every number that an operator may change, named with its unit, with its default and its reason.

One struct for each group. Where a value comes from, strongest first: a flag (`--set dispatcher.slots_per_host=8`),
the environment (`FLEETLOG_DISPATCHER_SLOTS_PER_HOST=8`), the settings file (TOML, `[dispatcher]`), the default.
A key that does not exist and a value that does not fit are errors that name their place. Nothing here reads a file
or the environment.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
import tomllib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec

from fleetlog_schemas import limits

ENVIRONMENT_PREFIX = "FLEETLOG_"

Count = Annotated[int, msgspec.Meta(ge=1)]
Size = Annotated[int, msgspec.Meta(ge=1)]
Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=limits.TIMEOUT_MS_MAX)]
Ratio = Annotated[float, msgspec.Meta(gt=0, le=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]


class SettingsError(ValueError):
    """A setting that cannot be used; the message says which, where it was given, and what fits."""


class RuntimeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every service has in common."""

    log_level: str = "info"
    """Diagnostics from this level on: debug, info, warning or error."""
    append_ms: Milliseconds = 5_000
    """Wait for the bus to acknowledge an append before it is sent again: a sync on a busy disk may take a second."""
    leader_ttl_ms: Milliseconds = 3_000
    """A leader that is gone is replaced after this long, and up to two seconds more; it renews three times within it."""
    clock_skew_ms_max: Milliseconds = 10_000
    """A service whose clock is further from the bus's does not lead until it is set: deadlines would be wrong by as much."""
    publisher_waiting_max: Count = 10_000
    """Appends that may wait for the one in flight; more are refused with a clear error."""


class DispatcherSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the dispatcher hands out work and when it gives up."""

    slots_per_host: Count = 4
    """Commands in flight on one host; a busy host takes fewer, but always one."""
    calls_per_host: Count = 256
    """Calls of Python functions in flight on one host while they are short, if these are more than its slots: workers make
    them in turn, so they do not run at once."""
    in_flight_max: Count = 50_000
    """Commands in flight on all hosts together: each costs the dispatcher some kilobytes."""
    ageing_ms: Milliseconds = 60_000
    """Waiting that makes up for one step of priority: the lowest overtakes the highest after nine times this."""
    busy_load_per_cpu: Positive = 8.0
    """Load average per processor from which a host counts as busy, and is given less at once."""
    busy_memory_ratio: Ratio = 0.95
    """Share of memory in use from which a host counts as busy."""
    adapt_ms: Milliseconds = 10_000
    """Pause between two changes of a host's limit: its load must have had time to follow the last one."""
    note_wait_ms: Milliseconds = 1_000
    """A command that waits for longer has its reason written to the log."""
    suspect_ms: Milliseconds = 20_000
    """Silence after which nothing new is dispatched to a host: two missed heartbeats."""
    offline_ms: Milliseconds = 60_000
    """Silence after which a host is offline."""
    push_expiry_ms: Milliseconds = 30_000
    """How long a push may be obeyed."""
    resend_ms: Milliseconds = 2_000
    """Pause before an unconfirmed push is sent again; it doubles."""
    resend_ms_max: Milliseconds = 30_000
    """Longest pause between two sends of one push."""
    kill_grace_ms: Milliseconds = 10_000
    """How long an agent lets a process end by itself before it kills it."""
    end_grace_ms: Milliseconds = 30_000
    """How long after a deadline the host's word is waited for before an attempt is lost."""
    delivery_grace_ms: Milliseconds = 60_000
    """How long a dispatched attempt is offered to a host that does not confirm it."""
    mass_silence_hosts: Count = 20
    """Hosts online before a common silence is suspected to be our own fault."""
    mass_silence_ratio: Ratio = 0.2
    """Share of them that must fall silent together."""
    mass_silence_window_ms: Milliseconds = 10_000
    """What together means."""
    mass_silence_hold_ms: Milliseconds = 300_000
    """How long the verdict then waits."""
    snapshot_events: Count = 5_000
    """Events between two snapshots of the folded state."""


class SchedulerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the scheduler fires."""

    late_ms: Milliseconds = 60_000
    """A tick that is looked at this long after its time was misfired: the schedule's policy says what becomes of it."""
    ticks_per_decision_max: Count = 2_000
    """Schedules looked at in one decision: keeps its batch within the bus's limit, and the rest follows at once."""
    snapshot_events: Count = 5_000
    """Events between two snapshots of the folded state."""


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an agent runs commands and speaks of them."""

    heartbeat_ms: Milliseconds = 10_000
    """Pause between heartbeats; a host is suspect after twice this by default."""
    held_max: Annotated[int, msgspec.Meta(ge=100, le=limits.HELD_MAX)] = limits.HELD_MAX
    """Attempts held at once, some that have ended among them; above it a start is refused as busy."""
    spool_bytes_max: Size = 1024**3
    """Disk space for journal and output until the bus took them; above it, starts are refused."""
    report_repeat_ms: Milliseconds = 30_000
    """Ends are reported again until they are told to be forgotten."""
    kill_grace_ms: Milliseconds = 10_000
    """From SIGTERM to SIGKILL: systemd's default is 90 s, docker's 10 s."""
    started_report_after_ms: Milliseconds = 200
    """`started` is reported only of attempts that last longer: a short one's end says it all."""
    gap_ms: Milliseconds = 10_000
    """A longer pause between two steps means that the machine or the agent was stopped."""


class ReporterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the reporter answers."""

    memory_bytes_max: Size = 1024**3
    """What DuckDB may use; beyond it, it spills to its folder."""


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the gateway listens."""

    listen: str = "127.0.0.1"
    """Address of the HTTP API; beyond loopback it speaks TLS."""
    port: Port = 8_420
    """Port of the HTTP API; 0 takes a free one."""


class RecorderSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a result-recorder gathers reports."""

    reports_per_append: Count = 256
    """Reports that share one append at most: they wait for nothing, this only bounds a burst."""


class KeeperSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the log's past is archived, and when it leaves the bus."""

    archive_path: str = ""
    """Folder of the archive, for the keeper and every reader of the log, below the data folder; empty: `archive`."""
    segment_events: Count = 20_000
    """Events after which a segment of the archive is full."""
    segment_bytes: Annotated[int, msgspec.Meta(ge=1, le=512 * 1024**2)] = 16 * 1024**2
    """Bytes of events after which it is full, however few they are: a reader unpacks one segment at a time."""
    keep_days: Annotated[float, msgspec.Meta(ge=0, le=36_500)] = 30.0
    """Days for which events stay on the bus; older ones are read from the archive."""
    full_ratio: Ratio = 0.7
    """Share of the log's room from which younger events are pruned as well: below the 0.85 at which tasks are refused."""
    look_ms: Milliseconds = 10_000
    """Pause between two looks at how full the log is and from where services would read."""
    silent_ms: Milliseconds = 24 * 3_600_000
    """How long a service that does not answer holds pruning back; afterwards it reads the archive when it returns."""
    host_gone_ms: Milliseconds = 300_000
    """How long a host must have been offline before that is an alert: longer than a restart takes."""
    tick_overdue_ms: Milliseconds = 180_000
    """How long a tick must be overdue before that no scheduler fires is an alert."""
    webhook_internal: str = ""
    """Hosts and networks that webhooks may reach though they are internal, also by http: `hooks.lan, 10.1.0.0/16`."""
    webhook_ca: str = ""
    """PEM file, below the data folder, of authorities by which endpoints are verified too; empty: only this machine's."""
    webhook_retry_ms: Milliseconds = 5_000
    """Pause before a webhook message is sent again; it grows with each try, for about a day in all."""
    webhook_failing_ms: Milliseconds = 5 * 86_400_000
    """How long a webhook's endpoint may fail, without one success, before it is disabled."""
    webhook_rotation_ms: Milliseconds = 86_400_000
    """How long messages are signed with the former secret too after a rotation."""
    snapshot_events: Count = 5_000
    """Events between two snapshots of the folded state."""


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which nodes share the bus: the same on each of them, except `node`."""

    members: str = ""
    """Every node as `NAME=ADDRESS[:BUS-PORT[:ROUTE-PORT]]`, with commas between; empty: one node alone."""
    node: str = ""
    """Which of them this is; empty: the one that has an address of this machine."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All groups; a service uses `runtime` and its own."""

    runtime: RuntimeSettings = RuntimeSettings()
    dispatcher: DispatcherSettings = DispatcherSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    agent: AgentSettings = AgentSettings()
    reporter: ReporterSettings = ReporterSettings()
    gateway: GatewaySettings = GatewaySettings()
    recorder: RecorderSettings = RecorderSettings()
    keeper: KeeperSettings = KeeperSettings()
    cluster: ClusterSettings = ClusterSettings()


GROUPS: dict[str, type[msgspec.Struct]] = {
    "runtime": RuntimeSettings,
    "dispatcher": DispatcherSettings,
    "scheduler": SchedulerSettings,
    "agent": AgentSettings,
    "reporter": ReporterSettings,
    "gateway": GatewaySettings,
    "recorder": RecorderSettings,
    "keeper": KeeperSettings,
    "cluster": ClusterSettings,
}


class SettingRow(msgspec.Struct, frozen=True):
    """One line of the reference: what may be set, to what, and why."""

    key: str
    environment: str
    kind: str
    default: str
    why: str


def describe() -> list[SettingRow]:
    """Return every setting, in the order of the groups."""
    return [
        SettingRow(
            key=f"{group}.{field.name}",
            environment=f"{ENVIRONMENT_PREFIX}{group}_{field.name}".upper(),
            kind=type(field.default).__name__,
            default=str(field.default),
            why=reasons[field.name],
        )
        for group, kind in GROUPS.items()
        for reasons in (_reasons(kind),)
        for field in msgspec.structs.fields(kind)
    ]


def _reasons(kind: type) -> dict[str, str]:
    """Read the texts under the fields of a struct: they stand where a developer reads them, and only there."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
    found: dict[str, str] = {}
    for field, text in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


class _Given(msgspec.Struct):
    """A value as it was given, and where."""

    value: Any
    place: str
    is_text: bool


def resolve(
    *, flags: Iterable[str] = (), environment: Mapping[str, str] | None = None, file_text: str = "",
    file_name: str = "",
) -> Settings:
    """Return the settings that *flags* (`group.name=value`), *environment* and the text of a TOML file ask for.

    Raises:
        SettingsError: a key that does not exist, a value that does not fit, or text that is not TOML.
    """
    given: dict[tuple[str, str], _Given] = {}
    _take_file(given, file_text, file_name)
    _take_environment(given, environment or {})
    _take_flags(given, flags)
    groups: dict[str, dict[str, Any]] = {}
    for (group, name), one in given.items():
        groups.setdefault(group, {})[name] = _converted(group, name, one)
    chosen: dict[str, Any] = {group: GROUPS[group](**values) for group, values in groups.items()}
    return Settings(**chosen)


def _take_file(given: dict[tuple[str, str], _Given], text: str, name: str) -> None:
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name}: not TOML: {error}") from None
    for group, values in content.items():
        place = f"{name}, [{group}]"
        _check_group(group, place)
        if not isinstance(values, dict):
            raise SettingsError(f"{name}: {group} must be a table: [{group}]")
        for key, value in values.items():
            _check_name(group, key, place)
            given[group, key] = _Given(value, place, False)


def _take_environment(given: dict[tuple[str, str], _Given], environment: Mapping[str, str]) -> None:
    for variable, value in sorted(environment.items()):
        # Other variables of ours (FLEETLOG_URL, FLEETLOG_TOKEN ...) are not settings.
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        group, _, name = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
        if name and group in GROUPS:
            place = f"the environment variable {variable}"
            _check_name(group, name, place)
            given[group, name] = _Given(value, place, True)


def _take_flags(given: dict[tuple[str, str], _Given], flags: Iterable[str]) -> None:
    for flag in flags:
        key, equals, value = flag.partition("=")
        group, dot, name = key.strip().partition(".")
        place = f"--set {flag}"
        if not equals or not dot:
            raise SettingsError(f"{place}: write --set GROUP.NAME=VALUE, for instance dispatcher.slots_per_host=8")
        _check_group(group, place)
        _check_name(group, name, place)
        given[group, name] = _Given(value.strip(), place, True)


def _check_group(group: str, place: str) -> None:
    if group not in GROUPS:
        raise SettingsError(f"{place}: there is no group {group!r}, only {', '.join(GROUPS)}")


def _check_name(group: str, name: str, place: str) -> None:
    names = [field.name for field in msgspec.structs.fields(GROUPS[group])]
    if name not in names:
        raise SettingsError(f"{place}: there is no setting {group}.{name}; there are {', '.join(names)}")


def _converted(group: str, name: str, given: _Given) -> Any:
    field = next(field for field in msgspec.structs.fields(GROUPS[group]) if field.name == name)
    try:
        # Text from a flag or the environment may stand for a number; TOML has types of its own.
        value = msgspec.convert(given.value, field.type, strict=not given.is_text)
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"{given.place}: {group}.{name} cannot be {given.value!r}: {error} (default {field.default!r})"
        ) from None
    if (group, name) == ("runtime", "log_level") and value not in ("debug", "info", "warning", "error"):
        raise SettingsError(f"{given.place}: runtime.log_level is debug, info, warning or error, not {value!r}")
    return value
