"""output: what the commands of a task wrote, host by host, folded, or as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit
from fleetlog.http import GatewayError, segment
from fleetlog.render.output import fold_equal
from fleetlog.render.text import Style, size
from fleetlog_schemas import hostset

if TYPE_CHECKING:
    from fleetlog_schemas.records import Task

POLL_S = 0.3
"""How often a command that runs is asked for more."""
SETTLE_S = 5.0
"""How long the end of the output of an ended command may take to be readable."""
FOLLOW_HOSTS_MAX = 20
"""Hosts whose output can be followed at once: more cannot be read, and each is a request every POLL_S."""
HELD_BYTES_MAX = 64 * 1024
"""A line without an end is printed when it is this long."""

Json = dict[str, Any]


class Lines:
    """Turns pieces of output into clean lines; what has no line end yet waits."""

    def __init__(self, style: Style) -> None:
        self._style = style
        self._held: dict[str, str] = {}

    def feed(self, chunk: Json) -> Iterator[tuple[str, str]]:
        """Yield (stream, text) of whole lines."""
        stream = chunk["stream"]
        if chunk["gap_bytes"]:
            yield from self.rest()
            yield stream, f"[… {size(chunk['gap_bytes'])} were not kept …]\n"
        text = self._held.pop(stream, "") + chunk["text"]
        whole, newline, rest = text.rpartition("\n")
        if len(rest) > HELD_BYTES_MAX:
            whole, newline, rest = text, "\n", ""
        if rest:
            self._held[stream] = rest
        if newline:
            yield stream, self._style.clean(whole) + "\n"

    def rest(self) -> Iterator[tuple[str, str]]:
        """Yield what waits for a line end that did not come."""
        for stream, text in self._held.items():
            yield stream, self._style.clean(text) + "\n"
        self._held.clear()


def pages(console: Console, task_id: str, host: str, *, settle_s: float = 0.0, follow: bool = False) -> Iterator[Json]:
    """Yield the output of one command, page by page, to its end.

    An ended command's end may come a moment late: *settle_s* says how long to ask again. With *follow* it is asked
    until the command has ended, and the pace between empty pages is the caller's.
    """
    options = console.options
    query = {
        "host": host, "stream": getattr(options, "stream", ""), "attempt": getattr(options, "attempt", 0),
        "tail_lines": getattr(options, "tail", 0),
    }
    after, deadline = 0, time.monotonic() + settle_s
    while True:
        try:
            page: Json = console.gateway.get(f"/tasks/{segment(task_id)}/output", after_frame=after, **query)["data"]
        except GatewayError as error:
            if error.status != 404 or not (follow or time.monotonic() < deadline):
                raise
            time.sleep(POLL_S)
            continue
        yield page
        if page["complete"]:
            return
        if page["next_frame"] == after:
            if not (follow or time.monotonic() < deadline):
                return
            if not follow:
                time.sleep(POLL_S / 3)
        after = page["next_frame"]
        query["tail_lines"] = 0


def print_whole(console: Console, task: Task) -> None:
    """Print the output of a task on one host as it was written, stdout and stderr apart.

    Its end in the log carries the last lines: they are printed when the rest cannot be had.
    """
    command = next(iter(task.commands.values()))
    end = command.last.end if command.last else None
    if end is None or not (end.tail or (end.output and end.output.bytes)):
        return
    lines = Lines(console.out_style)
    shown = False
    try:
        for page in pages(console, task.task_id, command.host_id, settle_s=SETTLE_S):
            for chunk in page["chunks"]:
                shown = True
                _write(lines.feed(chunk), apart=True)
            _notes(console, page)
    except CliError as error:
        console.say(f"the output cannot be read now ({error.message})")
    _write(lines.rest(), apart=True)
    if not shown:
        console.put(console.out_style.clean(end.tail).rstrip("\n"))


def _write(texts: Iterator[tuple[str, str]], *, apart: bool) -> None:
    for stream, text in texts:
        if apart and stream == "stderr":
            sys.stdout.flush()
            sys.stderr.write(text)
            sys.stderr.flush()
        else:
            sys.stdout.write(text)
    sys.stdout.flush()


def _notes(console: Console, page: Json) -> None:
    host = console.err_style.line(page["host"])
    if page["expired"]:
        console.say(f"{host}: older output is no longer kept")
    if page["complete"] and page["incomplete"]:
        console.say(f"{host}: the host could not deliver all of its output")


def output(console: Console) -> int:
    """Print what a task's commands wrote."""
    options = console.options
    if options.raw and sys.stdout.isatty():
        raise CliError(Exit.TYPED_WRONG, "--raw could act on this terminal", "send it to a file or a pipe")
    if options.follow and (options.group or console.json):
        raise CliError(Exit.TYPED_WRONG, "-f prints lines as they come: not with --group or -o json")
    task = console.gateway.get(f"/tasks/{segment(options.task)}")["data"]
    if task["parts"]:
        return _of_parts(console, task)
    hosts = _chosen(options.host, task["commands"], failed=options.failed)
    if console.json:
        console.put_json([_collected(console, task["task_id"], host_id) for host_id, _ in hosts])
    elif options.follow:
        _follow_task(console, task["task_id"], hosts)
    elif options.group:
        texts = ((name, _text(console, task["task_id"], host_id)) for host_id, name in hosts)
        for folded, text in fold_equal(texts):
            console.put(f"{console.out_style.paint(console.out_style.line(folded), 'bold')}:")
            sys.stdout.write(text)
    else:
        _print(console, task["task_id"], hosts)
    return Exit.OK


def _of_parts(console: Console, workflow: Json) -> int:
    """Print what the tasks of a workflow's parts wrote, each line with its part's name: by parts, or with -f as it comes."""
    options = console.options
    if options.group or console.json:
        raise CliError(Exit.TYPED_WRONG, "--group and -o json are for one task", f"fleetlog ls --part-of {options.task}")
    if options.follow:
        _follow(console, Parts(console, workflow["task_id"]).look)
        return Exit.OK
    for part in workflow["parts"]:
        for one in part["tasks"]:
            task = console.gateway.get(f"/tasks/{one['task_id']}")["data"]
            for host_id, name in _chosen_of_part(console, task):
                lines, prefix = Lines(console.out_style), _prefix_of_part(console, part, one, name)
                for page in pages(console, one["task_id"], host_id):
                    for chunk in page["chunks"]:
                        _prefixed(lines.feed(chunk), prefix)
                    _notes(console, page)
                _prefixed(lines.rest(), prefix)
    return Exit.OK


def _chosen_of_part(console: Console, task: Json) -> list[tuple[str, str]]:
    """Return (host id, name) of the commands of a part's task that are meant: parts run on different hosts."""
    wanted = set(expanded(console.options.host))
    chosen = _chosen([], task["commands"], failed=console.options.failed)
    return [one for one in chosen if not wanted or wanted & set(one)]


def _prefix_of_part(console: Console, part: Json, one: Json, host: str) -> str:
    item = f" {one['item'] + 1}" if part["items"] > 1 else ""
    return console.out_style.paint(f"{part['name']}{item} {console.out_style.line(host)}: ", "dim")


class Parts:
    """The commands of a workflow, as they begin."""

    def __init__(self, console: Console, task_id: str) -> None:
        self._console, self._task_id = console, task_id
        self._told: set[tuple[str, str]] = set()
        self._over: set[str] = set()
        """Tasks of which nothing more can come."""

    def look(self, room: int) -> tuple[list[Followed], bool]:
        """Return up to *room* commands that began, and whether more may come."""
        workflow = self._console.gateway.get(f"/tasks/{segment(self._task_id)}")["data"]
        found: list[Followed] = []
        for part in workflow["parts"]:
            for one in part["tasks"]:
                if one["task_id"] not in self._over and len(found) < room:
                    found += self._of_task(part, one, room - len(found))
        everything = sum(len(part["tasks"]) for part in workflow["parts"]) == len(self._over)
        return found, not (workflow["ended_at"] and everything)

    def _of_task(self, part: Json, one: Json, room: int) -> list[Followed]:
        task_id = one["task_id"]
        task = self._console.gateway.get(f"/tasks/{task_id}")["data"]
        new = [host for host in _chosen_of_part(self._console, task) if (task_id, host[0]) not in self._told]
        if task["ended_at"] and len(new) <= room:
            self._over.add(task_id)
        self._told.update((task_id, host_id) for host_id, _ in new[:room])
        return [Followed(task_id, host_id, _prefix_of_part(self._console, part, one, name)) for host_id, name in new[:room]]


def _chosen(names: list[str], commands: list[Json], *, failed: bool) -> list[tuple[str, str]]:
    """Return (host id, name) of the commands that are meant.

    Raises:
        CliError: a name is not one of the task's hosts.
    """
    if failed:
        commands = [command for command in commands if command["outcome"] not in (None, "success", "skipped")]
    if not names:
        return [(command["host_id"], command["host"]) for command in commands if command["attempts"]]
    wanted = expanded(names)
    known = {
        key: (command["host_id"], command["host"])
        for command in commands
        for key in (command["host"], command["host_id"])
    }
    missing = [name for name in wanted if name not in known]
    if missing:
        which = " that failed" if failed else ""
        raise CliError(Exit.NOT_FOUND, f"this task has no command on {', '.join(missing[:5])}{which}")
    return list(dict.fromkeys(known[name] for name in wanted))


def expanded(names: list[str]) -> list[str]:
    """Return the host names that folded names (`web[01-03],db1`) stand for.

    Raises:
        CliError: a range cannot be read.
    """
    try:
        return [name for folded in names for part in _parts(folded) for name in hostset.expand(part)]
    except hostset.BadRange as error:
        raise CliError(Exit.TYPED_WRONG, f"--host: {error}") from None


def _parts(folded: str) -> list[str]:
    """Split `web[01,03],db1` at the commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(folded):
        depth += (character == "[") - (character == "]")
        if character == "," and depth == 0:
            parts.append(folded[start:index])
            start = index + 1
    return [part for part in [*parts, folded[start:]] if part]


def _collected(console: Console, task_id: str, host_id: str) -> Json:
    whole: Json = {}
    for page in pages(console, task_id, host_id):
        chunks = whole.get("chunks", []) + page["chunks"]
        whole = {**page, "chunks": chunks}
    return whole


def _text(console: Console, task_id: str, host_id: str) -> str:
    lines = Lines(console.out_style)
    pieces: list[str] = []
    for page in pages(console, task_id, host_id):
        for chunk in page["chunks"]:
            pieces += [chunk["text"]] if console.options.raw else [text for _, text in lines.feed(chunk)]
        _notes(console, page)
    return "".join([*pieces, *(text for _, text in lines.rest())])


def _print(console: Console, task_id: str, hosts: list[tuple[str, str]]) -> None:
    for host_id, name in hosts:
        if len(hosts) > 1:
            console.put(f"{console.out_style.paint(console.out_style.line(name), 'bold')}:")
        lines = Lines(console.out_style)
        for page in pages(console, task_id, host_id):
            for chunk in page["chunks"]:
                if console.options.raw:
                    sys.stdout.write(chunk["text"])
                else:
                    _write(lines.feed(chunk), apart=False)
            _notes(console, page)
        _write(lines.rest(), apart=False)


class Followed(NamedTuple):
    """A command whose lines are printed as they come."""

    task_id: str
    host_id: str
    prefix: str


def _follow_task(console: Console, task_id: str, hosts: list[tuple[str, str]]) -> None:
    """Print lines of several hosts as they come, each with its host's name."""
    if len(hosts) > FOLLOW_HOSTS_MAX:
        raise CliError(Exit.TYPED_WRONG, f"{len(hosts)} hosts cannot be followed at once", "name some with --host")
    several = len(hosts) > 1
    found = [
        Followed(task_id, host_id, console.out_style.paint(f"{console.out_style.line(name)}: ", "dim") if several else "")
        for host_id, name in hosts
    ]
    _follow(console, lambda _room: (found, False))


def _follow(console: Console, look: Callable[[int], tuple[list[Followed], bool]]) -> None:
    """Print lines of commands as they come; *look* finds up to so many more, and says whether to look again."""
    open_ones: list[tuple[Followed, Iterator[Json], Lines]] = []
    more, look_s = True, time.monotonic()
    try:
        while more or open_ones:
            if more and (began_s := time.monotonic()) >= look_s:
                found, more = look(FOLLOW_HOSTS_MAX - len(open_ones))
                # Of a workflow of a thousand tasks looking takes long: lines that come have as much of the time.
                look_s = time.monotonic() + max(POLL_S, time.monotonic() - began_s)
                open_ones += [(one, pages(console, one.task_id, one.host_id, follow=True), Lines(console.out_style)) for one in found]
            came = False
            for entry in list(open_ones):
                one, source, lines = entry
                page = next(source, None)
                if page is None:
                    open_ones.remove(entry)
                    _prefixed(lines.rest(), one.prefix)
                    continue
                for chunk in page["chunks"]:
                    came = True
                    _prefixed(lines.feed(chunk), one.prefix)
                _notes(console, page)
            if (more or open_ones) and not came:
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        console.say("\nthe commands go on")
        raise


def _prefixed(texts: Iterator[tuple[str, str]], prefix: str) -> None:
    for _, text in texts:
        for line in text.removesuffix("\n").split("\n"):
            sys.stdout.write(f"{prefix}{line}\n")
    sys.stdout.flush()
