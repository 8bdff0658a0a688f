"""The verbs of alerts and webhooks. Part of the grammar in `parser.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fleetlog.values import separated

_AddVerb = Callable[..., Any]
EVENTS = ("task.ended", "alert.raised", "alert.resolved")


def alert_verbs(add: _AddVerb) -> None:
    """Add the verbs of alerts."""
    verb = add("ls", "alerts:ls", "list alerts that are open, newest first")
    verb.add_argument("--all", dest="everything", action="store_true", help="also those that are resolved")
    verb = add("show", "alerts:show", "show everything about an alert")
    verb.add_argument("alert", metavar="ID", help="its id, or at least the last 6 characters of it")
    verb = add("ack", "alerts:ack", "say that you see to an alert; it stays open until what it is about is over")
    verb.add_argument("alert", metavar="ID", help="its id, or at least the last 6 characters of it")
    verb.add_argument("--reason", default="", help="what you do about it; kept in the log")


def webhook_verbs(add: _AddVerb) -> None:
    """Add the verbs of webhooks."""
    add("ls", "webhooks:ls", "list webhooks, and how their deliveries go")
    verb = add("set", "webhooks:set_webhook", "make a webhook, or change it; prints the secret of a new one, once")
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("endpoint", metavar="URL", help="https://HOST/PATH, at a public address")
    verb.add_argument("--on", dest="events", type=separated, default=("alert.raised", "alert.resolved"), metavar="EVENT,...",
                      help=f"what to send: {', '.join(EVENTS)} (default: alerts)")
    verb.add_argument("--definition", action="append", default=[], metavar="NAME", help="only what is about this definition (repeatable)")
    verb.add_argument("--tag", action="append", default=[], metavar="TAG", help="only what is about a task with this tag (repeatable)")
    verb.add_argument("-t", "--target", default="", metavar="TARGET", help="only what is about a host that this means")
    verb.add_argument("--reason", default="", help="why; kept in the log")
    for name, text in (
        ("show", "show a webhook"),
        ("rm", "remove a webhook; what waits for it is not sent"),
        ("rotate", "give a webhook a new secret and print it, once; for a day messages are signed with both"),
        ("test", "send a test message, and say what the endpoint made of it"),
        ("deliveries", "list the messages that wait, and the newest that were sent"),
    ):
        verb = add(name, f"webhooks:{name}", text)
        verb.add_argument("name", metavar="NAME")
        if name == "rm":
            verb.add_argument("--reason", default="", help="why; kept in the log")
