"""webhook: who is told of what, by HTTP."""

from __future__ import annotations

import time
from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import segment
from fleetlog.render.alerts import deliveries_text, webhook_text, webhooks_text

Json = dict[str, Any]
TEST_SECONDS_MAX = 20.0
"""How long `test` waits: a little longer than a delivery may take."""
LOOK_SECONDS = 0.2


def ls(console: Console) -> int:
    """List webhooks."""
    found: Any = console.gateway.get("/webhooks")["data"]
    if console.json:
        console.put_json(found)
    else:
        console.put(webhooks_text(found, console.out_style))
    return Exit.OK


def set_webhook(console: Console) -> int:
    """Make a webhook, or change it."""
    options = console.options
    body = {
        "url": options.endpoint, "events": options.events, "definitions": options.definition, "tags": options.tag,
        "target": options.target, "reason": options.reason,
    }
    answer = console.gateway.put(f"/webhooks/{segment(options.name)}", body)
    what = f"webhook {options.name} is " + ("set" if answer["secret"] else "changed; its secret is as before")
    return _said(console, answer, what)


def _said(console: Console, answer: Json, text: str) -> int:
    if console.json:
        console.put_json(answer)
        return Exit.OK
    console.say(text)
    if answer["secret"]:
        console.say("  its secret follows; it is not shown again: give it to who receives the messages")
        console.put(answer["secret"])
    return Exit.OK


def show(console: Console) -> int:
    """Show one webhook."""
    found = _found(console)
    if console.json:
        console.put_json(found)
    else:
        console.put(webhook_text(found, console.out_style))
    return Exit.OK


def deliveries(console: Console) -> int:
    """List the deliveries of one webhook."""
    standing = _found(console)["standing"]
    if standing is None:
        raise CliError(Exit.UNREACHABLE, "the keeper does not answer: it knows what was sent", "fleetlog doctor")
    if console.json:
        console.put_json(standing["deliveries"])
    else:
        console.put(deliveries_text(standing["deliveries"], console.out_style))
    return Exit.OK


def _found(console: Console) -> Json:
    found: Json = console.gateway.get(f"/webhooks/{segment(console.options.name)}")["data"]
    return found


def rm(console: Console) -> int:
    """Remove a webhook."""
    options = console.options
    answer = console.gateway.delete(f"/webhooks/{segment(options.name)}", reason=options.reason)
    return _said(console, answer, f"webhook {options.name} is removed")


def rotate(console: Console) -> int:
    """Give a webhook a new secret."""
    options = console.options
    answer = console.gateway.post(f"/webhooks/{segment(options.name)}/rotate")
    return _said(console, answer, f"webhook {options.name} has a new secret; for a while messages are signed with the former one too")


def test(console: Console) -> int:
    """Send a test message and wait for what the endpoint makes of it."""
    options = console.options
    asked = console.gateway.post(f"/webhooks/{segment(options.name)}/test")
    deadline = time.monotonic() + (options.wait_timeout_ms / 1000 if options.wait_timeout_ms else TEST_SECONDS_MAX)
    while time.monotonic() < deadline:
        found = _found(console)["standing"]
        if found is not None and found["disabled"]:
            raise CliError(Exit.CONFLICT, f"webhook {options.name} is disabled: {found['disabled']}", "set it again to enable it")
        delivery = next((one for one in found["deliveries"] if one["seq"] == asked["seq"]), None) if found is not None else None
        if delivery is not None and delivery["attempts"]:
            return _tested(console, delivery)
        time.sleep(LOOK_SECONDS)
    raise CliError(Exit.WAITED, "the message has not been sent yet", f"fleetlog webhook deliveries {options.name}")


def _tested(console: Console, delivery: Json) -> int:
    good = delivery["state"] == "delivered"
    if console.json:
        console.put_json(delivery)
    elif good:
        console.say(f"delivered: the endpoint answered {delivery['status']}")
    else:
        console.say(f"not delivered: {console.err_style.line(delivery['error'])}")
        if delivery["state"] == "waiting":
            console.say(f"  it is tried again; see: fleetlog webhook deliveries {console.options.name}")
    return Exit.OK if good else Exit.INTERNAL
