"""Plan a task: resolve its target to hosts, freeze them, and hash what was frozen. Pure."""

from __future__ import annotations

import hashlib

import msgspec

from fleetlog_schemas import events, limits
from fleetlog_schemas.admission import PlanAnswer, PlannedView
from fleetlog_schemas.hosts import Host, Hosts
from fleetlog_schemas.questions import Problem
from fleetlog_schemas.spec import SpecError, TaskSpec, check_spec
from fleetlog_schemas.targets import TargetError, resolve

_encode = msgspec.json.Encoder(order="deterministic").encode


class Refused(Exception):
    """The task cannot be planned; `refusal` says why, with an empty task id."""

    def __init__(self, code: str, message: str, pointer: str = "") -> None:
        super().__init__(message)
        self.refusal = events.Refusal(task_id="", code=code, message=message, pointer=pointer)


def plan_hash(spec: TaskSpec, host_ids: list[str]) -> str:
    """Return the hash over what would run and where."""
    bare = msgspec.structs.replace(spec, plan_hash="")
    return hashlib.sha256(_encode(bare) + b"\n" + "\n".join(host_ids).encode()).hexdigest()


def choose(spec: TaskSpec, hosts: Hosts) -> tuple[list[Host], str]:
    """Return the hosts of a task by name, and the plan's hash.

    Raises:
        Refused: the specification or its target is wrong, or the plan is not the one that was expected.
    """
    try:
        check_spec(spec)
        chosen = _exact(spec, hosts) if spec.host_ids else resolve(spec.target, hosts.by_id.values())
    except SpecError as error:
        raise Refused("spec", error.message, error.pointer) from None
    except TargetError as error:
        raise Refused(error.code, str(error), "/target") from None
    if len(chosen) > limits.HOSTS_PER_TASK_MAX:
        raise Refused("target-large", f"{len(chosen)} hosts exceed {limits.HOSTS_PER_TASK_MAX} in one task", "/target")
    found = plan_hash(spec, [host.host_id for host in chosen])
    if spec.plan_hash and spec.plan_hash != found:
        raise Refused("plan-changed", "the plan is not the one that was shown: look at it again", "/plan_hash")
    return chosen, found


def _exact(spec: TaskSpec, hosts: Hosts) -> list[Host]:
    missing = [i for i in spec.host_ids if i not in hosts.by_id or hosts.by_id[i].revoked]
    if missing:
        raise Refused("target-unknown", f"no such host, or revoked: {', '.join(missing[:5])}", "/host_ids")
    chosen = {host_id: hosts.by_id[host_id] for host_id in spec.host_ids}
    return sorted(chosen.values(), key=lambda host: (host.name, host.host_id))


def plans(task_id: str, chosen: list[Host], hashed: str) -> list[events.Plan]:
    """Return the plan in parts of at most EVENT_COMMANDS_MAX hosts."""
    size = limits.EVENT_COMMANDS_MAX
    parts = max(1, -(-len(chosen) // size))
    return [
        events.Plan(
            task_id=task_id, plan_hash=hashed, part=part, parts=parts,
            hosts=tuple(
                events.PlannedHost(host_id=host.host_id, name=host.name)
                for host in chosen[part * size : (part + 1) * size]
            ),
        )
        for part in range(parts)
    ]


def plan_answer(spec: TaskSpec, hosts: Hosts) -> PlanAnswer:
    """Return what submitting *spec* would do now."""
    try:
        chosen, hashed = choose(spec, hosts)
    except Refused as error:
        refusal = error.refusal
        problem = Problem(status=422, code=refusal.code, message=refusal.message, pointer=refusal.pointer)
        return PlanAnswer(plan_hash="", hosts=[], offline=0, problem=problem)
    views = [_planned_view(host, spec) for host in chosen]
    return PlanAnswer(plan_hash=hashed, hosts=views, offline=sum(view.would != "run" for view in views))


def _planned_view(host: Host, spec: TaskSpec) -> PlannedView:
    would = "run" if host.online and not host.maintenance else "wait" if spec.wait_offline_ms else "be unreached"
    return PlannedView(
        host_id=host.host_id, name=host.name, presence=host.presence, maintenance=host.maintenance, would=would
    )
