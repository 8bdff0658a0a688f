"""freeze, thaw, window, queue, admission: what narrows admission beyond single tasks."""

from __future__ import annotations

from typing import Any

from fleetlog.client import new_task_id
from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError, segment
from fleetlog.render.policies import (
    admission_text,
    days_text,
    freeze_text,
    freezes_text,
    hosts_now,
    queues_text,
    windows_text,
)
from fleetlog.render.text import count_of, seconds

Json = dict[str, Any]
MINUTE_MS = 60_000


def _done(console: Console, answer: Any, text: str) -> int:
    if console.json:
        console.put_json(answer)
    else:
        console.say(text)
    return Exit.OK


def freeze(console: Console) -> int:
    """Let hosts get no more work until they are thawed."""
    options = console.options
    if not options.reason.strip():
        raise CliError(Exit.TYPED_WRONG, "--reason: say why: everybody who is held up by this will read it")
    body = {"target": options.target, "reason": options.reason}
    answer = console.gateway.post("/freezes", body, Idempotency_Key=new_task_id())
    what = "all hosts" if options.target.strip() == "all" else console.err_style.line(options.target)
    return _done(
        console, answer, f"frozen: {what}, {hosts_now(answer['hosts'])}; what runs goes on"
        f"   fleetlog thaw {answer['freeze_id'][-8:]}",
    )


def thaw(console: Console) -> int:
    """End a freeze: the one that is named, the only one, or all of them."""
    options = console.options
    if options.everything and options.freeze:
        raise CliError(Exit.TYPED_WRONG, "give either an ID or --all")
    body = {"reason": options.reason}
    if options.freeze:
        answer = console.gateway.post(f"/freezes/{segment(options.freeze)}/thaw", body)
        return _done(console, answer, "thawed: what waited for it goes out now")
    found: list[Json] = console.gateway.get("/freezes")["data"]
    if not found:
        return _done(console, [], "nothing is frozen")
    if len(found) > 1 and not options.everything:
        console.put(freezes_text(found, console.out_style))
        raise CliError(Exit.TYPED_WRONG, f"{len(found)} freezes are in force: name one, or all", "fleetlog thaw ID | --all")
    answers = [console.gateway.post(f"/freezes/{segment(one['freeze_id'])}/thaw", body) for one in found]
    texts = [f"thawed: {freeze_text(one, console.err_style)}" for one in found]
    return _done(console, answers, "\n".join(texts))


def window_ls(console: Console) -> int:
    """List windows."""
    found: Any = console.gateway.get("/windows")["data"]
    if console.json:
        console.put_json(found)
    else:
        console.put(windows_text(found, console.out_style))
    return Exit.OK


def window_set(console: Console) -> int:
    """Make a window, or change it."""
    options = console.options
    minutes, rest = divmod(options.lasts_ms, MINUTE_MS)
    if rest:
        raise CliError(Exit.TYPED_WRONG, "--for: a window lasts whole minutes: write 30m, 2h or 1d")
    body = {
        "kind": options.kind, "target": options.target, "days": options.days, "begins": options.begins,
        "lasts_minutes": minutes, "zone": options.zone, "reason": options.reason,
    }
    answer = console.gateway.put(f"/windows/{segment(options.name)}", body)
    meant = f"{console.err_style.line(options.target)}, {hosts_now(answer['hosts'])}"
    rule = "nothing starts inside it" if options.kind == "blackout" else "things start only inside it"
    return _done(
        console, answer, f"{options.kind} {options.name}: {meant}; {days_text(options.days)} {options.begins} for"
        f" {seconds(minutes * 60)} {options.zone}; {rule}",
    )


def window_rm(console: Console) -> int:
    """Remove a window."""
    options = console.options
    answer = console.gateway.delete(f"/windows/{segment(options.name)}", reason=options.reason)
    return _done(console, answer, f"window {options.name} is removed")


def queue_ls(console: Console) -> int:
    """List queues that have a limit, or something in them."""
    found: Any = console.gateway.get("/queues")["data"]
    if console.json:
        console.put_json(found)
        return Exit.OK
    console.put(queues_text(found, console.out_style))
    if any(one["in_flight"] is None for one in found):
        console.say("the dispatcher does not answer: what is in them is not known; fleetlog doctor tells more")
    return Exit.OK


def queue_limit(console: Console) -> int:
    """Limit how many commands of a queue are in flight at once."""
    options = console.options
    body = {"in_flight_max": options.in_flight_max, "reason": options.reason}
    answer = console.gateway.put(f"/queues/{segment(options.name)}", body)
    most = options.in_flight_max
    said = f"at most {count_of(most, 'command')} in flight at once" if most else "no limit any more"
    return _done(console, answer, f"queue {options.name}: {said}")


def admission(console: Console) -> int:
    """Say what narrows admission now; without the dispatcher, the freezes, windows and limits that are in force."""
    gateway = console.gateway
    try:
        answer: Json = gateway.get("/admission")["data"]
    except GatewayError as error:
        if error.status not in (503, 504):
            raise
        console.say("the dispatcher does not answer: this is what is in force, not what is in flight; fleetlog doctor tells more")
        known: Json = {name: gateway.get(f"/{name}")["data"] for name in ("freezes", "windows", "queues")}
        if console.json:
            console.put_json(known)
            return Exit.UNREACHABLE
        texts = (freezes_text(known["freezes"], console.out_style) if known["freezes"] else "nothing is frozen",
                 windows_text(known["windows"], console.out_style), queues_text(known["queues"], console.out_style))
        console.put("\n\n".join(texts))
        return Exit.UNREACHABLE
    if console.json:
        console.put_json(answer)
    else:
        console.put(admission_text(answer, console.out_style))
    return Exit.OK
