"""schedule what-if: the past under another rule, beside the past as it was."""

from __future__ import annotations

import time
from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.render.what_if import what_if_text
from fleetlog.verbs.schedules import given_policy


def what_if(console: Console) -> int:
    """Replay a past period of schedules, and compare."""
    options = console.options
    change: dict[str, Any] = given_policy(options)
    for name in ("cron", "zone", "interval_ms"):
        if value := getattr(options, name):
            change[name] = value
    if options.since_ms >= (options.until_ms or time.time() * 1000):
        raise CliError(Exit.TYPED_WRONG, "--since: must be before --until, and before now")
    body = {"schedules": options.names, "since_ms": options.since_ms, "until_ms": options.until_ms, "change": change}
    answer = console.gateway.post("/schedules/what-if", body)["data"]
    if console.json:
        console.put_json(answer)
    else:
        console.put(what_if_text(answer, console.out_style))
    return Exit.OK
