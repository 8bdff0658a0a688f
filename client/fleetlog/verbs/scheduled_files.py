"""The schedules of a definition's file: what of them is there, and registering what the file says.

A push makes and changes schedules, and removes none: `schedule rm` does. It never touches a state, so that a schedule that
somebody paused stays paused when its file is pushed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import Gateway, GatewayError, segment
from fleetlog.schedule_text import based_on
from fleetlog_schemas.schedule_events import Rule

Json = dict[str, Any]
PAGE_MAX = 500
NOT_FOUND = 404


def registered(gateway: Gateway, definition: str) -> dict[str, Rule]:
    """Return the rules of a definition's schedules, by name."""
    found: dict[str, Rule] = {}
    cursor: str | None = ""
    while cursor is not None:
        page = gateway.get("/schedules", definition=definition, next=0, limit=PAGE_MAX, cursor=cursor)["data"]
        found |= {one["name"]: msgspec.convert(one["rule"], Rule) for one in page["items"]}
        cursor = page["next_cursor"]
    return found


def _present(gateway: Gateway, name: str) -> Json | None:
    try:
        told: Json = gateway.get(f"/schedules/{segment(name)}", next=0)["data"]
    except GatewayError as error:
        if error.status == NOT_FOUND:
            return None
        raise
    return told


def _based(rule: Rule, present: Json | None) -> tuple[Rule, Rule | None]:
    there = msgspec.convert(present["rule"], Rule) if present else None
    return based_on(rule, there, int(time.time() * 1000)), there


def as_registered(gateway: Gateway, rules: Mapping[str, Rule]) -> dict[str, Rule]:
    """Return a file's rules as a push would register them."""
    return {name: _based(rule, _present(gateway, name))[0] for name, rule in rules.items()}


def push_schedules(console: Console, definition: str, rules: Mapping[str, Rule]) -> list[Json]:
    """Register what a file says of schedules, and say so. Raises CliError when one is another definition's."""
    done: list[Json] = []
    for name, wanted in sorted(rules.items()):
        present = _present(console.gateway, name)
        rule, there = _based(wanted, present)
        if there is not None and there.definition != definition:
            raise CliError(
                Exit.CONFLICT, f"the schedule {name} runs {there.definition}, and the file says it runs {definition}",
                f"name it otherwise, or remove that one:  fleetlog schedule rm {name}",
            )
        changed = rule != there
        if changed:
            body = {"rule": msgspec.to_builtins(rule), "reason": getattr(console.options, "message", "")}
            match = str(present["etag"]) if present else ""
            console.gateway.put(f"/schedules/{segment(name)}", body, if_match=match)
        done.append({"name": name, "changed": changed})
        if not console.json:
            word = "is unchanged" if not changed else "is registered" if present is None else "is changed"
            console.put(f"  schedule {name} {word}")
    return done
