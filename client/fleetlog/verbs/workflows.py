"""workflow check, run: a workflow as a file, looked at without running it, or run without being made a definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from fleetlog.client import new_task_id
from fleetlog.console import Console
from fleetlog.definition_text import Read
from fleetlog.exits import CliError, Exit
from fleetlog.render.text import table
from fleetlog.render.workflow import after_text
from fleetlog.verbs.definition_files import read_file
from fleetlog.verbs.runs import typed_values
from fleetlog.verbs.submit import go_on, hosts_of, plan_of, print_plan
from fleetlog_schemas.definitions import WrongParameters, check_arguments
from fleetlog_schemas.graph import ranks
from fleetlog_schemas.spec import Part, TaskSpec, Workflow, summary


def _workflow(console: Console, given: str) -> tuple[Read, Workflow]:
    found = read_file(console, Path(given))
    payload = found.definition.spec.payload
    if not isinstance(payload, Workflow):
        raise CliError(Exit.TYPED_WRONG, f"{given} is no workflow: it has no [parts.NAME]")
    return found, payload


def check(console: Console) -> int:
    """Check a workflow's file, and print the order in which its parts run. Needs no gateway."""
    found, workflow = _workflow(console, console.options.file)
    by_name = {part.name: part for part in workflow.parts}
    ordered = ranks(workflow.parts)
    if console.json:
        console.put_json({"name": found.definition.name, "order": ordered})
        return Exit.OK
    style = console.out_style
    rows = [
        (f"{step}", name, after_text(by_name[name].after, by_name[name].when), style.line(_runs(by_name[name])))
        for step, names in enumerate(ordered, 1) for name in names
    ]
    console.put(table(("STEP", "PART", "AFTER", "RUNS"), rows, style))
    console.say(f"{console.options.file} is a workflow   run it: fleetlog workflow run {console.options.file}")
    return Exit.OK


def _runs(part: Part) -> str:
    return summary(part.task.payload) if part.task else f"the definition {part.definition}"


def run(console: Console) -> int:
    """Run a workflow's file; it becomes no definition."""
    options = console.options
    found, _ = _workflow(console, options.file)
    declared = found.definition.parameters
    if secrets := [name for name, one in declared.items() if one.type == "secret"]:
        raise CliError(Exit.TYPED_WRONG, f"{secrets[0]} is a secret, and a workflow cannot keep one",
                       "let the hosts read it from a file of theirs")
    try:
        arguments = check_arguments(declared, typed_values(declared, options.parameter))
    except WrongParameters as wrong:
        raise CliError(Exit.TYPED_WRONG, "\n  ".join(f"-p {fault.message}" for fault in wrong.faults)) from None
    own = found.definition.spec
    spec = msgspec.structs.replace(
        own, name=found.definition.name, key=found.definition.name if own.single_run else "", parameters=arguments.values,
        plan_hash=options.plan_hash,
    )
    return _submit(console, found, spec)


def _submit(console: Console, found: Read, spec: TaskSpec) -> int:
    options = console.options
    for content in found.contents.by_digest.values():
        console.client.put_blob(content)
    if options.plan or not (options.yes or options.plan_hash):
        plan: dict[str, Any] = plan_of(console, "/plan", msgspec.to_builtins(spec))
        if options.plan:
            return print_plan(console, plan)
        if console.confirm_hosts(hosts_of(plan)):
            spec = msgspec.structs.replace(spec, plan_hash=plan["plan_hash"])
    return go_on(console, console.client.submit(spec, new_task_id()), "last")
