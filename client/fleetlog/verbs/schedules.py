"""schedule: when definitions are run. Everything is asked of the gateway, so all of it works with the other services down."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

from fleetlog.client import new_task_id
from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError, segment
from fleetlog.render.schedules import next_lines, schedule_text, schedules_text, ticks_text
from fleetlog.render.text import count_of, moment
from fleetlog.verbs.runs import given_parameters

NOT_FOUND = 404
_POLICY = ("misfire", "misfire_window_ms", "misfire_runs_max", "overlap", "gap", "fold", "jitter_ms")


def given_policy(options: Namespace) -> dict[str, Any]:
    """Return the policy that options say; what they leave out is not in it."""
    policy = {name: value for name in _POLICY if (value := getattr(options, name)) or (name == "jitter_ms" and value is not None)}
    if options.windows:
        zone = options.zone or "UTC"
        policy["windows"] = [{"kind": "maintenance", "target": "all", "zone": zone, **one} for one in options.windows]
    return policy


def ls(console: Console) -> int:
    """List schedules."""
    options = console.options
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = console.gateway.get("/schedules", definition=options.definition, state=options.state, limit=500, cursor=cursor)["data"]
        found += page["items"]
        cursor = page["next_cursor"]
    missed, silent = _troubles(console)
    if console.json:
        console.put_json([{**one, "missed": missed.get(one["name"], "")} for one in found])
    else:
        console.put(schedules_text(found, console.out_style, missed))
        for text in silent:
            console.say(text)
    return Exit.OK


def _troubles(console: Console) -> tuple[dict[str, str], list[str]]:
    """Return what is said of schedules whose last tick was missed, by name, and of a scheduler that does not fire.

    Nothing while the keeper, who watches over them, is away: that is no reason not to list them.
    """
    try:
        alerts = console.gateway.get("/alerts")["data"]
    except CliError:
        return {}, []
    missed = {name: one["message"] for one in alerts if one["kind"] == "schedule-missed" for name in one["subjects"]}
    return missed, [one["message"] for one in alerts if one["kind"] == "scheduler-silent"]


def show(console: Console) -> int:
    """Show one schedule."""
    options = console.options
    found = console.gateway.get(f"/schedules/{segment(options.name)}", next=options.next_count)["data"]
    missed, silent = _troubles(console)
    if console.json:
        console.put_json({**found, "missed": missed.get(found["name"], "")})
    else:
        console.put(schedule_text(found, console.out_style, missed.get(found["name"], "")))
        for text in silent:
            console.say(text)
    return Exit.OK


def set_schedule(console: Console) -> int:
    """Make a schedule, or change its rule."""
    options = console.options
    kind = "cron" if options.cron else "interval" if options.interval_ms else "once" if options.at_ms else "manual"
    rule: dict[str, Any] = {
        "definition": options.definition, "kind": kind, "begins_ms": options.at_ms or options.begins_ms, "ends_ms": options.ends_ms,
        "policy": given_policy(options), "target": options.target, "parameters": given_parameters(console, options.definition) if options.parameter else {},
    }
    if kind == "cron":
        rule |= {"cron": options.cron, "zone": options.zone}
    if kind == "interval":
        # A grid that begins now, unless something else is said.
        rule |= {"interval_ms": options.interval_ms, "begins_ms": options.begins_ms or int(time.time() * 1000)}
    present = _present(console, options.name)
    body = {"rule": rule, "active": not options.inactive, "reason": options.reason}
    answer = console.gateway.put(f"/schedules/{segment(options.name)}", body, if_match=str(present["etag"]) if present else "")
    found = console.gateway.get(f"/schedules/{segment(options.name)}", next=3)["data"]
    if console.json:
        console.put_json(answer)
        return Exit.OK
    console.say(f"{options.name} is {'changed' if present else 'registered'}, {found['state']}")
    for line in next_lines(found["next"], console.err_style):
        console.say(f"  next {line}")
    return Exit.OK


def _present(console: Console, name: str) -> Any:
    """Return the schedule of this name, None when there is none."""
    try:
        return console.gateway.get(f"/schedules/{segment(name)}", next=0)["data"]
    except GatewayError as error:
        if error.status == NOT_FOUND:
            return None
        raise


def rm(console: Console) -> int:
    """Remove a schedule."""
    options = console.options
    answer = console.gateway.delete(f"/schedules/{segment(options.name)}", reason=options.reason)
    return _done(console, answer, f"{options.name} is removed; what runs goes on")


def start(console: Console) -> int:
    """Activate an inactive schedule."""
    return _change(console, "start", {}, "is active: ticks are expected from now on")


def stop(console: Console) -> int:
    """Make a schedule inactive."""
    return _change(console, "stop", {}, "is inactive: no tick is expected; what runs goes on")


def resume(console: Console) -> int:
    """Let a paused schedule fire again."""
    return _change(console, "resume", {}, "fires again")


def pause(console: Console) -> int:
    """Skip the ticks of a schedule for a while."""
    options = console.options
    if not options.reason.strip():
        raise CliError(Exit.TYPED_WRONG, "--reason: say why: everybody who wonders what became of it will read it")
    if options.until_ms and options.for_ms:
        raise CliError(Exit.TYPED_WRONG, "give either --until or --for")
    until_ms = options.until_ms or (int(time.time() * 1000) + options.for_ms if options.for_ms else 0)
    until = time.strftime(" until %Y-%m-%d %H:%M:%SZ", time.gmtime(until_ms / 1000)) if until_ms else ""
    return _change(console, "pause", {"until_ms": until_ms}, f"is paused{until}: its ticks are skipped, and the ledger says so")


def run(console: Console) -> int:
    """Run now what a schedule runs."""
    options = console.options
    answer = console.gateway.post(f"/schedules/{segment(options.name)}/run", Idempotency_Key=new_task_id())
    return _done(console, answer, f"task {answer['task_id']}   fleetlog watch {answer['task_id'][-8:]}")


def backfill(console: Console) -> int:
    """Run past ticks now."""
    options = console.options
    body = {
        "from_ms": options.from_ms, "until_ms": options.until_ms, "only_missing": not options.everything, "preview": options.plan,
        "reason": options.reason,
    }
    answer = console.gateway.post(f"/schedules/{segment(options.name)}/backfill", body)
    if not answer["ticks"]:
        return _done(console, answer, "nothing is missing in this period")
    if console.json or not options.plan:
        return _done(console, answer, f"{count_of(len(answer['ticks']), 'tick')} to run:  fleetlog schedule ticks {options.name}")
    console.put("\n".join(moment(at) for at in answer["ticks"]))
    return Exit.OK


def ticks(console: Console) -> int:
    """Show what became of a schedule's ticks."""
    options = console.options
    page = console.gateway.get(f"/schedules/{segment(options.name)}/ticks", outcome=options.outcome, limit=options.limit)["data"]
    if console.json:
        console.put_json(page["items"])
    else:
        console.put(ticks_text(page["items"], console.out_style))
    return Exit.OK


def next_times(console: Console) -> int:
    """Say when a schedule, or an expression, fires next."""
    options = console.options
    if bool(options.name) == bool(options.cron):
        raise CliError(Exit.TYPED_WRONG, "name a schedule, or give an expression with --cron")
    if options.name:
        found = console.gateway.get(f"/schedules/{segment(options.name)}", next=options.next_count)["data"]["next"]
    else:
        rule = {"definition": "", "kind": "cron", "cron": options.cron, "zone": options.zone}
        found = console.gateway.post("/schedules/preview", {"rule": rule, "count": options.next_count})["data"]
    if console.json:
        console.put_json(found)
    else:
        console.put("\n".join(next_lines(found, console.out_style)) or "never, as things stand")
    return Exit.OK


def _change(console: Console, verb: str, body: dict[str, Any], text: str) -> int:
    options = console.options
    answer = console.gateway.post(f"/schedules/{segment(options.name)}/{verb}", {**body, "reason": options.reason})
    return _done(console, answer, f"{options.name} {text}")


def _done(console: Console, answer: Any, text: str) -> int:
    if console.json:
        console.put_json(answer)
    else:
        console.say(text)
    return Exit.OK
