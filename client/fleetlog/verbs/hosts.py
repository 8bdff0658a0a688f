"""host ls, show, add, label, maintenance, accept, revoke."""

from __future__ import annotations

from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import segment
from fleetlog.render.lists import host_text, hosts_text
from fleetlog.render.text import count_of, moment

PAGE_MAX = 500
RESTORED = "restored"
"""The code with which a restore refuses every host."""


def ls(console: Console) -> int:
    """List hosts by name."""
    options = console.options
    items = _all(console, presence=options.presence, label=options.label, as_of=options.as_of)
    if console.json:
        console.put_json({"items": items, "next_cursor": None})
    else:
        console.put(hosts_text(items, console.out_style))
    return Exit.OK


def _all(console: Console, **wanted: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = console.gateway.get("/hosts", **wanted, limit=PAGE_MAX, cursor=cursor)["data"]
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items


def _find(console: Console) -> dict[str, Any]:
    found: dict[str, Any] = console.gateway.get(f"/hosts/{segment(console.options.name)}")["data"]
    return found


def show(console: Console) -> int:
    """Show everything about a host."""
    host = _find(console)
    if console.json:
        console.put_json(host)
    else:
        console.put(host_text(host, console.out_style))
    return Exit.OK


def add(console: Console) -> int:
    """Print the line that joins a machine."""
    options = console.options
    answer = console.gateway.post("/hosts", {"name": options.name, "labels": dict(_set_only(options.label))})
    if console.json:
        console.put_json(answer)
        return Exit.OK
    console.say(f"paste this on {options.name}; it works once, until {moment(answer['expires_at'])}:")
    console.put(answer["line"])
    if "//127.0.0.1:" in answer["line"]:
        console.say("  127.0.0.1 is this machine alone: for another one, first start it with  fleetlog up --listen ITS-ADDRESS")
    return Exit.OK


def _set_only(labels: list[tuple[str, str | None]]) -> list[tuple[str, str]]:
    kept = []
    for key, value in labels:
        if value is None:
            raise CliError(Exit.TYPED_WRONG, f"--label {key}-: a new host has no label to remove")
        kept.append((key, value))
    return kept


def _change(console: Console, what: str, body: dict[str, Any], done: str) -> int:
    host = _find(console)
    answer = console.gateway.post(f"/hosts/{segment(host['host_id'])}/{what}", body)
    if console.json:
        console.put_json(answer)
    else:
        console.say(f"{console.err_style.line(host['name'])}: {done}")
    return Exit.OK


def label(console: Console) -> int:
    """Set or remove labels."""
    return _change(console, "labels", {"labels": dict(console.options.labels)}, "labelled")


def maintenance(console: Console) -> int:
    """Take a host out of work, or give it back."""
    on = console.options.switch == "on"
    done = "takes nothing new; what runs goes on" if on else "takes work again"
    return _change(console, "maintenance", {"on": on, "reason": console.options.reason}, done)


def accept(console: Console) -> int:
    """Let a refused host in again, or all that a restore refused. Raises CliError."""
    options = console.options
    if bool(options.name) == options.restored:
        raise CliError(Exit.TYPED_WRONG, "which host?", "fleetlog host accept NAME, or fleetlog host accept --restored")
    if options.restored:
        return _accept_restored(console)
    return _change(console, "accept", {"reason": console.options.reason}, "accepted; its next session starts from nothing")


def _accept_restored(console: Console) -> int:
    hosts = [host for host in _all(console, presence="refused") if host["refused_code"] == RESTORED]
    if not hosts:
        console.say("no host is refused because the log was restored")
        return Exit.OK
    if not console.json:
        console.put(hosts_text(hosts, console.out_style))
    if not console.options.yes:
        console.confirm(
            len(hosts), f"this lets {count_of(len(hosts), 'host')} in again; hosts that were sold, copied or revoked since the"
            " backup do not belong there: revoke them first", "nobody was let in", ": without a terminal say --yes",
            "they stand above",
        )
    body = {"reason": console.options.reason}
    answers = [console.gateway.post(f"/hosts/{segment(host['host_id'])}/accept", body) for host in hosts]
    if console.json:
        console.put_json({"accepted": [host["name"] for host in hosts], "seq": answers[-1]["seq"]})
    else:
        console.say(f"{count_of(len(hosts), 'host')} accepted; each comes back within a minute   look: fleetlog host ls")
    return Exit.OK


def revoke(console: Console) -> int:
    """Refuse a host's key from now on."""
    return _change(console, "revoke", {"reason": console.options.reason}, "revoked; it can come back only by joining anew")
