"""The definitions that a workflow names are put into it when it is submitted, by the gateway and the scheduler alike."""

from __future__ import annotations

from typing import Any

import pytest

from fleetlog_schemas import catalog, definition_events, events
from fleetlog_schemas.codec import Event
from fleetlog_schemas.definitions import Definition, Parameter
from fleetlog_schemas.graph import Binding
from fleetlog_schemas.schedule_events import Rule
from fleetlog_schemas.schedules import Unfit, task_of
from fleetlog_schemas.spec import Part, Shell, SpecError, TaskSpec, Workflow
from fleetlog_schemas.workflows import resolved

RUN = TaskSpec(payload=Shell(argv=("true",)), target="all")


def known(*definitions: Definition) -> catalog.Catalog:
    found = catalog.Catalog()
    for seq, definition in enumerate(definitions, 1):
        data = definition_events.DefinitionSet(f"id-{definition.name}", 1, definition)
        catalog.apply(found, Event("e", "/t", data, 1, seq, events.CATALOG, "ada"))
    return found


DEPLOY = Definition("deploy", RUN, parameters={"file": Parameter(required=True), "path": Parameter(default="/"), "token": Parameter("secret")})
NEEDY = Definition("needy", RUN, parameters={"token": Parameter("secret", required=True)})
OPEN = Definition("open", TaskSpec(payload=RUN.payload))
FLOW = Definition("flow", TaskSpec(payload=Workflow((Part("a", definition="deploy", parameters={"file": "x"}),))))
CATALOG = known(DEPLOY, NEEDY, OPEN, FLOW)


def flow(**fields: Any) -> TaskSpec:
    return TaskSpec(payload=Workflow((Part("first", RUN), Part("a", after=("first",), **fields))))


def test_a_part_has_the_version_its_values_and_what_is_declared_of_those_to_come() -> None:
    spec = resolved(CATALOG, flow(definition="deploy", target="web1", given={"file": Binding(part="first")}))
    assert isinstance(spec.payload, Workflow)
    part = spec.payload.parts[1]
    assert part.task is not None
    assert part.task.definition is not None
    assert (part.task.target, part.task.key, part.task.definition.version) == ("web1", "id-deploy", 1)
    assert part.task.definition.parameters == {"path": "/"}
    assert part.declared == {"file": Parameter(required=True)}
    assert resolved(CATALOG, spec) == spec, "what was resolved stays"


@pytest.mark.parametrize(
    ("fields", "pointer", "says"),
    [
        ({"definition": "deploi"}, "/definition", "no definition is named 'deploi'"),
        ({"definition": "deploy"}, "/parameters/file", "file is required"),
        ({"definition": "deploy", "parameters": {"file": "x", "fil": "y"}}, "/parameters/fil", "no such parameter"),
        ({"definition": "deploy", "given": {"fil": Binding(part="first")}}, "/given/fil", "has no parameter fil"),
        ({"definition": "needy"}, "/parameters/token", "is a secret"),
        ({"definition": "deploy", "parameters": {"file": "x", "token": "y"}}, "/parameters/token", "is a secret"),
        ({"definition": "flow"}, "/definition", "flow is a workflow, and a part is none"),
        ({"definition": "open"}, "/target", "no target of its own"),
        ({"definition": "open", "task": RUN}, "/task", "either a task, or the name of a definition"),
        ({"task": RUN, "target": "all"}, "/target", "its target stands in its task"),
    ],
)
def test_what_a_definition_does_not_take_is_refused_with_its_place(fields: dict[str, Any], pointer: str, says: str) -> None:
    with pytest.raises(SpecError, match=says) as raised:
        resolved(CATALOG, flow(**fields))
    assert raised.value.pointer == f"/payload/parts/1{pointer}"


def test_a_schedule_runs_a_workflow_with_the_definitions_of_the_moment() -> None:
    spec = task_of(CATALOG, Rule(definition="flow"))
    assert isinstance(spec.payload, Workflow)
    part = spec.payload.parts[0]
    assert part.task is not None
    assert part.task.definition is not None
    assert part.task.definition.parameters == {"file": "x", "path": "/"}
    with pytest.raises(Unfit, match="no definition is named 'deploy'"):
        task_of(known(FLOW), Rule(definition="flow"))
    with pytest.raises(Unfit, match="a workflow runs on no host itself"):
        task_of(CATALOG, Rule(definition="flow", target="web1"))
