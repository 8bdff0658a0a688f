"""Run a definition: a task of one version, with parameters that were checked before anything is stored."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from fleetlog_gateway import decode
from fleetlog_gateway.auth import Permission
from fleetlog_gateway.callable import FUNCTION_PROBLEMS, check_callable
from fleetlog_gateway.definitions import Made, keep, make_task, version_of
from fleetlog_gateway.problems import HttpProblem
from fleetlog_gateway.recent import fingerprint
from fleetlog_gateway.registry import Answered, Call, Nothing, reply, route
from fleetlog_gateway.routes.tasks import answer_plan
from fleetlog_schemas import admission, events
from fleetlog_schemas.definitions import Chosen
from fleetlog_schemas.limits import ARGV_BYTES_MAX, HASH_OR_ID_BYTES_MAX

_Target = Annotated[str, Meta(max_length=ARGV_BYTES_MAX)]
_PROBLEMS = ("invalid", *FUNCTION_PROBLEMS, "definition-not-found", "version-not-found")


class RunDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """With what to run a definition."""

    parameters: dict[str, Any] = {}
    """Name to value, also of secrets; the definition's schema says what they may be."""
    target: _Target = ""
    """Instead of the definition's own target."""
    narrow: _Target = ""
    """Only on those of the target's hosts that this means too."""
    version: Annotated[int, Meta(ge=0, le=2**53)] = 0
    """0: the present one."""
    plan_hash: Annotated[str, Meta(max_length=HASH_OR_ID_BYTES_MAX)] = ""
    """Only if the plan is still this one."""


class AcceptedRun(msgspec.Struct, frozen=True):
    """A task of a definition that is durably in the log."""

    task_id: str
    seq: int
    definition: str
    version: int


async def _made(call: Call[RunDefinition, Nothing]) -> Made:
    """Return the task that is asked for. Raises HttpProblem."""
    gateway, body = call.gateway, call.body
    known = gateway.access.definitions.named(call.path["name"])
    if known is None:
        raise HttpProblem(
            "definition-not-found",
            f"no definition is named {call.path['name'][:100]!r}: `fleetlog definition ls` shows them",
        )
    known = await version_of(gateway, known, body.version)
    made = await make_task(gateway, known, body.parameters, Chosen(body.target, body.narrow, body.plan_hash))
    decode.check_task(made.spec, "")
    await check_callable(gateway, made.spec)
    return made


@route("POST", "/api/v1/definitions/{name}/tasks", auth=Permission.RUN, body=RunDefinition, body_optional=True,
       answer=AcceptedRun, status=202, idempotent=True,
       problems=(*_PROBLEMS, "task-id-time", "idempotency-key", "idempotency-key-reused", "bus-unavailable", "unsettled",
                 "log-full"))
async def run_definition(call: Call[RunDefinition, Nothing]) -> web.Response:
    """Run a definition: submit a task of it.

    The task records the version and the values of the parameters, and each process finds them as
    `FLEETLOG_PARAM_<NAME>`; a secret's value is in no event. Otherwise as a task: `Idempotency-Key` is its id.
    """
    gateway, task_id = call.gateway, decode.idempotency_key(call.request) or call.gateway.make_id()

    async def append() -> AcceptedRun:
        decode.check_task_id_time(task_id, gateway.now_ms(), "")
        made = await _made(call)
        if made.environment is not None:
            await keep(gateway, made.environment)
        submitted = events.TasksSubmitted(tasks=(events.Submission(task_id=task_id, spec=made.spec),))
        seq = await gateway.store([submitted], call.principal, task_id, new_tasks=True)
        version = made.spec.definition.version if made.spec.definition else 0
        return AcceptedRun(task_id=task_id, seq=seq, definition=made.spec.name, version=version)

    asked = fingerprint(b"run", call.path["name"].encode("utf-8", "replace"), msgspec.json.encode(call.body))
    accepted = await gateway.recent.once(task_id, asked, append)
    return reply(accepted, status=202, headers={"Location": f"/api/v1/tasks/{task_id}"})


@route("POST", "/api/v1/definitions/{name}/plan", auth=Permission.READ, body=RunDefinition, body_optional=True,
       answer=Answered[admission.PlanAnswer], problems=(*_PROBLEMS, "service-unavailable"))
async def plan_definition(call: Call[RunDefinition, Nothing]) -> web.Response:
    """Say what running this would do now; runs nothing, and stores nothing.

    `difference` compares it with the last task of this definition.
    """
    return await answer_plan(call.gateway, (await _made(call)).spec)
