"""exec, run FILE, rerun and watch: everything that ends in following a task."""

from __future__ import annotations

import shlex
import time
from typing import Any

import msgspec

from fleetlog.client import new_task_id
from fleetlog.console import Console
from fleetlog.exits import CliError, Exit, of_refusal
from fleetlog.http import GatewayError, flag_of, segment
from fleetlog.render.plan import plan_text
from fleetlog.render.text import count_of
from fleetlog.verbs import spec as specs
from fleetlog.verbs.following import follow_to_end
from fleetlog.verbs.spec import Content
from fleetlog_schemas.ids import short
from fleetlog_schemas.outcomes import RERUN_OUTCOMES
from fleetlog_schemas.spec import TaskSpec

PLAN_WAIT_S = 10.0
"""Twice the time after which another dispatcher takes the place of one that died."""
PLAN_PAUSE_S = 0.3


def exec_argv(console: Console) -> int:
    """Run a program on hosts."""
    return submit(console, *specs.of_argv(console.options))


def run_file(console: Console) -> int:
    """Run a script on hosts."""
    options = console.options
    if not options.target:
        raise CliError(Exit.TYPED_WRONG, "-t TARGET is needed: on which hosts?")
    if options.parameter or options.narrow or options.definition_version:
        raise CliError(Exit.TYPED_WRONG, f"-p, --narrow and --version go with a definition, and {options.file} is a file")
    return submit(console, *specs.of_file(console.options))


def submit(console: Console, spec: TaskSpec, content: Content) -> int:
    """Plan a task or submit it, and follow it as the options say. Raises CliError."""
    spec = content.upload(console.client, spec)
    options = console.options
    if options.plan or not (options.yes or spec.plan_hash):
        plan = plan_of(console, "/plan", msgspec.to_builtins(spec))
        if options.plan:
            return print_plan(console, plan)
        if console.confirm_hosts(len(plan["hosts"])):
            # What was confirmed is what runs: another plan is refused.
            spec = msgspec.structs.replace(spec, plan_hash=plan["plan_hash"])
    task_id = new_task_id()
    try:
        task_id = console.client.submit(spec, task_id)
    except KeyboardInterrupt:
        console.say(f"\ninterrupted while submitting:  fleetlog show {task_id}  says whether it was")
        return Exit.INTERRUPTED
    return go_on(console, task_id, "last")


def go_on(console: Console, task_id: str, reference: str) -> int:
    """Follow a task that was submitted, or print its id."""
    if not console.options.detach:
        return follow_to_end(console, task_id, reference)
    if console.json:
        console.put_json({"task_id": task_id})
    else:
        console.put(task_id)
    return Exit.OK


def hosts_of(plan: dict[str, Any]) -> int:
    """Return on how many hosts a plan runs; of a workflow, those of all parts together."""
    return len(plan["hosts"]) + sum(int(part["hosts"]) for part in plan.get("parts") or ())


def plan_of(console: Console, path: str, body: Any) -> dict[str, Any]:
    """Return what submitting would do, as *path* says of *body*.

    Raises:
        CliError: it would be refused.
    """
    answer = _ask_plan(console, path, body)
    plan: dict[str, Any] = answer.get("data", answer)
    problem = plan.get("problem")
    if problem:
        field = f"{flag_of(problem['pointer'])}: " if problem.get("pointer") else ""
        raise CliError(of_refusal(problem["code"], problem.get("pointer", "")), f"{field}{problem['message']}")
    return plan


def _ask_plan(console: Console, path: str, body: Any) -> dict[str, Any]:
    """Ask the dispatcher, and ask again for a while when none is active: another may just be taking over."""
    deadline = time.monotonic() + PLAN_WAIT_S
    said = False
    while True:
        try:
            return console.gateway.post(path, body)
        except GatewayError as error:
            if error.status not in (503, 504) or time.monotonic() > deadline:
                raise
        if not said:
            console.say("no dispatcher is active yet; asking again")
            said = True
        time.sleep(PLAN_PAUSE_S)


def print_plan(console: Console, plan: dict[str, Any]) -> int:
    """Print a plan, and what to type to run exactly it."""
    if console.json:
        console.put_json(plan)
        return Exit.OK
    console.put(plan_text(plan, _again(console, plan["plan_hash"]), console.out_style))
    return Exit.OK


def _again(console: Console, plan_hash: str) -> str:
    """Return what was typed as it submits exactly this plan."""
    typed = console.options.typed
    cut = typed.index("--") if "--" in typed else len(typed)
    head = [word for word in typed[:cut] if word != "--plan"]
    return shlex.join(["fleetlog", *head, "--plan-hash", plan_hash, *typed[cut:]])


def rerun(console: Console) -> int:
    """Run a task again, on all of its hosts or on those where it failed."""
    options = console.options
    if options.include_lost and not options.failed:
        raise CliError(Exit.TYPED_WRONG, "--include-lost goes with --failed")
    if bool(options.failed) + bool(options.outcomes) + bool(options.part) > 1:
        raise CliError(Exit.TYPED_WRONG, "give one of --failed, --outcome and --part")
    outcomes = [outcome.value for outcome in specs.outcomes_of("--outcome", options.outcomes)]
    answer = console.gateway.get(f"/tasks/{segment(options.task)}/progress")["data"]
    task_id, counts = str(answer["task_id"]), answer["counts"]
    body: dict[str, Any] | None = {"outcomes": outcomes} if outcomes else None
    if options.failed:
        outcomes = [outcome.value for outcome in RERUN_OUTCOMES] + (["lost"] if options.include_lost else [])
        body = {"failed": True, "include_lost": options.include_lost}
    if options.part:
        body = {"parts": options.part}
    if options.latest:
        body = {**(body or {}), "latest": True}
    console.confirm_hosts(sum(counts.get(name, 0) for name in outcomes) if outcomes else answer["hosts"])
    started = console.gateway.post(f"/tasks/{task_id}/rerun", body, Idempotency_Key=new_task_id())
    again = str(started["task_id"])
    where = f": {', '.join(started['parts'])}" if started.get("parts") else f" on {count_of(int(started['hosts']), 'host')}"
    console.say(f"task {short(again)} runs {short(task_id)} again{where}")
    if started.get("gone"):
        console.say(f"left out, for they are gone: {console.err_style.line(started['gone'])}")
    return go_on(console, again, "last")


def watch(console: Console) -> int:
    """Follow a task until it ends."""
    return follow_to_end(console, console.client.resolve(console.options.task))
