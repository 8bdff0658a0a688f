"""function ls, show, run: Python functions that hosts offer."""

from __future__ import annotations

import difflib
import json
from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.functions import ANY_HOST
from fleetlog.render.text import count_of, shorten, table
from fleetlog.verbs import spec as specs
from fleetlog.verbs.spec import Content
from fleetlog.verbs.submit import submit
from fleetlog_schemas.spec import Function

PAGE_MAX = 500


def ls(console: Console) -> int:
    """List the functions that hosts offer."""
    items = _all(console, console.options.name)
    if console.json:
        console.put_json({"items": items, "next_cursor": None})
        return Exit.OK
    if not items:
        console.put("no host offers a function: name modules under [functions] in a host's policy.toml")
        return Exit.OK
    style = console.out_style
    rows = [
        [style.line(one["name"]), str(one["hosts"]), " ".join(one["queues"]), shorten(style.line(one["signature"]), 60),
         shorten(style.line(one["summary"]), 60)]
        for one in items
    ]
    console.put(table(["FUNCTION", "HOSTS", "QUEUES", "ARGUMENTS", "WHAT IT DOES"], rows, style))
    return Exit.OK


def show(console: Console) -> int:
    """Show one function, and the hosts that offer it. Raises CliError."""
    name = console.options.name
    found = next((one for one in _all(console, name) if one["name"] == name), None)
    if found is None:
        near = difflib.get_close_matches(name, [one["name"] for one in _all(console, "")])
        hint = f"did you mean {' or '.join(near)}?" if near else "`fleetlog function ls` lists them"
        raise CliError(Exit.NOT_FOUND, f"no host offers the function {name!r}", hint)
    if console.json:
        console.put_json(found)
        return Exit.OK
    style = console.out_style
    console.put(f"{style.line(found['name'])}{style.line(found['signature'])}")
    if found["summary"]:
        console.put(f"  {style.line(found['summary'])}")
    console.put(f"  queues  {' '.join(found['queues'])}")
    console.put(f"  hosts   {count_of(found['hosts'], 'host')}: {style.line(', '.join(found['host_names']))}")
    if found["differs"]:
        console.put("  not all hosts have the same version of it: they say different signatures")
    return Exit.OK


def run(console: Console) -> int:
    """Run a function as a task. Raises CliError."""
    options = console.options
    kwargs = {name: _value(text) for name, text in options.keyword}
    payload = Function(name=options.function, args=tuple(map(_value, options.values)), kwargs=kwargs)
    if not options.target:
        options.target, options.any_count = ANY_HOST, options.any_count or 1
    return submit(console, specs.of_payload(options, payload), Content(options))


def _value(text: str) -> Any:
    """Return what was typed as a JSON value, or as the text that it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _all(console: Console, name: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    cursor = None
    while True:
        page = console.gateway.get("/functions", name=name, limit=PAGE_MAX, cursor=cursor)["data"]
        items += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return items
