"""Plan a task: resolve its target to hosts, choose among them, lay out waves, and hash what was decided. Pure."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import msgspec

from fleetlog_dispatcher.choosing import choose
from fleetlog_dispatcher.gates import absence, ignorance, policy_gate
from fleetlog_dispatcher.live import Live
from fleetlog_dispatcher.state import State
from fleetlog_runtime.pure.settings import DispatcherSettings
from fleetlog_schemas import events, hostset, limits
from fleetlog_schemas.admission import PlanAnswer, PlannedPart, PlannedView
from fleetlog_schemas.definitions import check_known_parameters
from fleetlog_schemas.functions import Unfit, runs_on
from fleetlog_schemas.graph import ranks
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.ids import short
from fleetlog_schemas.parts import taken_how
from fleetlog_schemas.questions import Problem
from fleetlog_schemas.records import Task
from fleetlog_schemas.rollout import failures_max, wave_sizes
from fleetlog_schemas.spec import Export, Function, Part, SpecError, TaskSpec, Workflow, check_spec, summary
from fleetlog_schemas.targets import Directory, TargetError

_encode = msgspec.json.Encoder(order="deterministic").encode


class Refused(Exception):
    """The task cannot be planned; `refusal` says why, with an empty task id."""

    def __init__(self, code: str, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.refusal = events.Refusal(task_id="", code=code, message=message, pointer=pointer)


class Layout(NamedTuple):
    """Where a task runs: its hosts in the order of the waves, and the sizes of these."""

    hosts: list[Host]
    waves: tuple[int, ...]
    candidates: int
    """Hosts that the target means."""
    plan_hash: str


def plan_hash(spec: TaskSpec, host_ids: list[str], waves: tuple[int, ...]) -> str:
    """Return the hash over what would run and where.

    Where hosts are chosen by load, *host_ids* are all that the choice is among: the choice itself follows the moment.
    """
    bare = msgspec.structs.replace(spec, plan_hash="") if spec.plan_hash else spec
    sizes = ",".join(map(str, waves))
    return hashlib.sha256(_encode(bare) + f"\n{sizes}\n".encode() + "\n".join(host_ids).encode()).hexdigest()


def lay_out(
    settings: DispatcherSettings, state: State, live: Live, spec: TaskSpec, seed: str, now_ms: int
) -> Layout:
    """Return where a task runs; *seed* decides where hosts are chosen at random.

    Raises:
        Refused: the specification or its target is wrong, or the plan is not the one that was expected.
    """
    hosts = live.directory
    assert hosts is not None, "it is made before every decision"
    if isinstance(spec.payload, Workflow):
        return _lay_out_workflow(spec, spec.payload)
    try:
        check_spec(spec)
        meant = _exact(spec, hosts) if spec.host_ids else hosts.resolve(spec.target)
    except SpecError as error:
        raise Refused("spec", error.message, error.pointer) from None
    except TargetError as error:
        raise Refused(error.code, str(error), "/target") from None
    if isinstance(spec.payload, Function):
        current = [state.hosts.by_id[host.host_id] for host in meant]  # a directory may be older than what its hosts say of themselves
        try:
            meant = runs_on(spec, spec.payload, current)
        except Unfit as error:
            raise Refused(error.code, error.message, error.pointer) from None
    chosen = choose(settings, state, live, spec.choose, meant, seed, now_ms) if spec.choose else meant
    if not chosen:
        raise Refused("target-empty", f"no host of the target has the label {spec.choose and spec.choose.label}", "/choose")
    if len(chosen) > limits.HOSTS_PER_TASK_MAX:
        raise Refused("target-large", f"{len(chosen)} hosts exceed {limits.HOSTS_PER_TASK_MAX} in one task", "/target")
    ordered, waves = _in_waves(spec, hosts, chosen)
    among = meant if spec.choose else ordered
    found = plan_hash(spec, [host.host_id for host in among], waves)
    if spec.plan_hash and spec.plan_hash != found:
        raise Refused("plan-changed", "the plan is not the one that was shown: look at it again", "/plan_hash")
    return Layout(ordered, waves, len(meant), found)


def _lay_out_workflow(spec: TaskSpec, workflow: Workflow) -> Layout:
    """Return where a workflow runs itself: nowhere. Its parts are laid out when they are submitted."""
    try:
        check_spec(spec)
        if spec.definition is None:
            check_known_parameters(spec, spec.parameters)
    except SpecError as error:
        raise Refused("spec", error.message, error.pointer) from None
    for index, part in enumerate(workflow.parts):
        if part.task is None:
            raise Refused("spec", f"nobody has put the definition {part.definition} here", f"/payload/parts/{index}/task")
    found = plan_hash(spec, [], ())
    if spec.plan_hash and spec.plan_hash != found:
        raise Refused("plan-changed", "the plan is not the one that was shown: look at it again", "/plan_hash")
    return Layout([], (), 0, found)


def _in_waves(spec: TaskSpec, hosts: Directory, chosen: list[Host]) -> tuple[list[Host], tuple[int, ...]]:
    """Return the hosts with the canaries first, and the sizes of the waves; none without a rollout."""
    rollout = spec.rollout
    if rollout is None:
        return chosen, ()
    canaries: set[str] = set()
    if rollout.canary.strip():
        try:
            canaries = {host.host_id for host in hosts.resolve(rollout.canary)}
        except TargetError as error:
            raise Refused(error.code, str(error), "/rollout/canary") from None
        canaries &= {host.host_id for host in chosen}
        if not canaries:
            raise Refused("canary-empty", "the canary means none of the task's hosts", "/rollout/canary")
    sizes = wave_sizes(rollout, len(chosen), len(canaries))
    if len(sizes) > limits.WAVES_MAX:
        raise Refused("waves-many", f"{len(sizes)} waves exceed {limits.WAVES_MAX}: make them larger", "/rollout")
    return sorted(chosen, key=lambda host: host.host_id not in canaries), sizes


def refuse_second_run(spec: TaskSpec, earlier: Task | None) -> None:
    """Refuse a single run while an earlier one is open. Raises Refused."""
    if spec.single_run == "refuse" and earlier is not None:
        raise Refused("locked", f"{spec.key} is already running: task {short(earlier.task_id)}", "/single_run")


def _exact(spec: TaskSpec, hosts: Directory) -> list[Host]:
    missing = [i for i in spec.host_ids if i not in hosts.by_id]
    if missing:
        raise Refused("target-unknown", f"no such host, or revoked: {', '.join(missing[:5])}", "/host_ids")
    chosen = {host_id: hosts.by_id[host_id] for host_id in spec.host_ids}
    return sorted(chosen.values(), key=lambda host: (host.name, host.host_id))


def plans(task_id: str, layout: Layout) -> list[events.Plan]:
    """Return the plan in parts of at most EVENT_COMMANDS_MAX hosts."""
    size = limits.EVENT_COMMANDS_MAX
    parts = max(1, -(-len(layout.hosts) // size))
    return [
        events.Plan(
            task_id=task_id, plan_hash=layout.plan_hash, part=part, parts=parts, waves=layout.waves if part == 0 else (),
            hosts=tuple(
                events.PlannedHost(host_id=host.host_id, name=host.name)
                for host in layout.hosts[part * size : (part + 1) * size]
            ),
        )
        for part in range(parts)
    ]


def plan_answer(settings: DispatcherSettings, state: State, live: Live, spec: TaskSpec, now_ms: int) -> PlanAnswer:
    """Return what submitting *spec* would do now."""
    earlier = next(iter(live.keys.get(spec.key, {}).values()), None) if spec.key else None
    try:
        layout = lay_out(settings, state, live, spec, str(now_ms), now_ms)
        refuse_second_run(spec, earlier)
    except Refused as error:
        refusal = error.refusal
        problem = Problem(status=422, code=refusal.code, message=refusal.message, pointer=refusal.pointer)
        return PlanAnswer(plan_hash="", hosts=[], offline=0, problem=problem)
    if isinstance(spec.payload, Workflow):
        of_parts = _planned_parts(settings, state, live, spec.payload, now_ms)
        return PlanAnswer(
            plan_hash=layout.plan_hash, hosts=[], offline=0, runs=summary(spec.payload), parts=of_parts,
            lock=_lock_text(spec, earlier),
        )
    numbers = [number for number, size in enumerate(layout.waves or (len(layout.hosts),), 1) for _ in range(size)]
    views = [_planned_view(live, host, spec, wave) for host, wave in zip(layout.hosts, numbers, strict=True)]
    return PlanAnswer(
        plan_hash=layout.plan_hash, hosts=views, offline=sum(view.would != "run" for view in views),
        runs=summary(spec.payload), waves=list(layout.waves), candidates=layout.candidates,
        failures_max=failures_max(spec, len(layout.hosts)), lock=_lock_text(spec, earlier),
    )


def _planned_parts(
    settings: DispatcherSettings, state: State, live: Live, workflow: Workflow, now_ms: int
) -> list[PlannedPart]:
    by_name = {part.name: part for part in workflow.parts}
    found = []
    for rank, names in enumerate(ranks(workflow.parts), 1):
        for part in map(by_name.__getitem__, names):
            assert part.task is not None, "it was looked at"
            task, hosts, problem = _for_now(part.task), list[Host](), ""
            try:
                hosts = lay_out(settings, state, live, task, part.name, now_ms).hosts
            except Refused as error:
                problem = error.refusal.message
            found.append(
                PlannedPart(
                    name=part.name, rank=rank, after=list(part.after), when=part.when, runs=summary(part.task.payload),
                    target=part.task.target, hosts=len(hosts), for_each=_list_text(part), problem=problem,
                    too_old=_too_old(hosts, task, returns=bool(taken_how(workflow, part.name))),
                )
            )
    return found


def _for_now(task: TaskSpec) -> TaskSpec:
    """Return a part's task as it can be laid out before it begins: which tasks it exports is known only then."""
    if not isinstance(task.payload, Export):
        return task
    return msgspec.structs.replace(task, payload=msgspec.structs.replace(task.payload, of_part=""))


def _too_old(hosts: list[Host], task: TaskSpec, *, returns: bool) -> list[str]:
    """Return which hosts cannot run a part, a line for each reason."""
    names: dict[str, list[str]] = {}
    for host in hosts:
        if why := ignorance(host, task, returns=returns):
            names.setdefault(why, []).append(host.name)
    return [f"{hostset.fold(found)}: {why}" for why, found in names.items()]


def _list_text(part: Part) -> str:
    if part.for_each is None:
        return ""
    if isinstance(part.for_each, tuple):
        return f"each of {len(part.for_each)} items"
    source = part.for_each
    return f"each item of the parameter {source.parameter}" if source.parameter else f"each item that {source.part} returns"


def _lock_text(spec: TaskSpec, earlier: Task | None) -> str:
    if earlier is None or not spec.single_run:
        return ""
    what = "waits for the end of" if spec.single_run == "queue" else "stops, and takes the place of,"
    return f"it {what} task {short(earlier.task_id)}, a run of {spec.key}"


def _planned_view(live: Live, host: Host, spec: TaskSpec, wave: int) -> PlannedView:
    _, absent = absence(host)
    closed = policy_gate(live, spec, host.host_id)
    would = "run" if not absent and closed is None else "wait"
    # A host of a later wave is looked at when its turn comes.
    if absent and not spec.wait_offline_ms and wave == 1:
        would = "be unreached"
    unknown = ignorance(host, spec)
    if unknown:
        would = "be an error"
    return PlannedView(
        host_id=host.host_id, name=host.name, presence=host.presence, maintenance=host.maintenance, would=would,
        wave=wave, reason=absent or unknown or (closed.message if closed else ""),
    )
