"""events: what stands in the log, for one task or for all, and what is added to it now."""

from __future__ import annotations

import json
from typing import Any

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import segment
from fleetlog.render.lists import event_line
from fleetlog.render.text import clean_json
from fleetlog.sse import Feed, Item, Trouble

PAGE_MAX = 500


def events(console: Console) -> int:
    """Print events in the order of the log."""
    if console.options.follow:
        return _follow(console)
    options = console.options
    path = f"/tasks/{segment(options.task)}/events" if options.task else "/events"
    after, items = options.after_seq, list[dict[str, Any]]()
    while len(items) < options.limit:
        asked = min(PAGE_MAX, options.limit - len(items))
        found = console.gateway.get(path, after_seq=after, limit=asked, type=options.type, host=options.host)["data"]["items"]
        items += found
        if len(found) < asked:
            break
        after = found[-1]["seq"]
    if console.json:
        console.put_json({"items": items, "next_cursor": None})
        return Exit.OK
    for item in items:
        console.put(event_line(item, console.out_style))
    if len(items) == options.limit:
        console.say(f"there may be more: --after {items[-1]['seq']}")
    return Exit.OK


def _follow(console: Console) -> int:
    """Print events as they are stored, until Ctrl-C; as JSON one per line."""
    options = console.options
    if options.host:
        raise CliError(Exit.TYPED_WRONG, "-f follows one task or all of the log: not with --host")
    path = f"/tasks/{segment(console.client.resolve(options.task))}/events" if options.task else "/events"
    feed = Feed(console.gateway, path, str(options.after_seq) if options.after_seq else "")
    try:
        while True:
            item = feed.take(60.0)
            if isinstance(item, Trouble):
                console.say(f"the live feed broke off ({item.message}); connecting again")
            elif isinstance(item, Item) and item.event == "reset":
                console.say("the log no longer has what came after that sequence; going on with what it has")
            elif isinstance(item, Item) and options.type in ("", item.event):
                _print(console, item)
    finally:
        feed.close()


def _print(console: Console, item: Item) -> None:
    try:
        stored = json.loads(item.data)
    except ValueError:
        raise CliError(Exit.INTERNAL, "the gateway's feed is not JSON: is it of another version?") from None
    if console.json:
        print(clean_json(json.dumps(stored, ensure_ascii=False)), flush=True)
    else:
        print(event_line(stored, console.out_style), flush=True)
