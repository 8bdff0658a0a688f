"""alert: what a person should look at."""

from __future__ import annotations

from fleetlog.console import Console
from fleetlog.exits import Exit
from fleetlog.http import segment
from fleetlog.render.alerts import alert_text, alerts_text


def ls(console: Console) -> int:
    """List alerts."""
    found = console.gateway.get("/alerts", state="all" if console.options.everything else "open")["data"]
    if console.json:
        console.put_json(found)
    else:
        console.put(alerts_text(found, console.out_style))
    return Exit.OK


def show(console: Console) -> int:
    """Show one alert."""
    found = console.gateway.get(f"/alerts/{segment(console.options.alert)}")["data"]
    if console.json:
        console.put_json(found)
    else:
        console.put(alert_text(found, console.out_style))
    return Exit.OK


def ack(console: Console) -> int:
    """Say that somebody sees to an alert."""
    options = console.options
    answer = console.gateway.post(f"/alerts/{segment(options.alert)}/acknowledge", {"reason": options.reason})
    if console.json:
        console.put_json(answer)
    else:
        console.say(f"{answer['alert_id']} is acknowledged; it is resolved when what it is about is over")
    return Exit.OK
