"""Output of several hosts, folded: hosts that wrote the same stand over it once, as `web[01-03]:`."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fleetlog.render.text import Style, size
from fleetlog_schemas import events, hostset
from fleetlog_schemas.records import Task

GROUPS_MAX = 20
"""Different outputs printed after a task; more is for `fleetlog output`."""
LINES_MAX = 40
"""Lines printed of each."""


class OutputGroup(msgspec.Struct, frozen=True):
    """Hosts whose output is the same."""

    hosts: tuple[str, ...]
    text: str
    bytes: int
    cut: bool
    """`text` is only the end of it."""


def groups_of(task: Task) -> list[OutputGroup]:
    """Return the outputs of an ended task by what is equal, largest group first; hosts that wrote nothing are left out.

    Ends carry size, digest and tail of the output, so nothing has to be fetched.
    """
    found: dict[tuple[str, int, str], list[str]] = {}
    for command in task.commands.values():
        end = command.last.end if command.last else None
        if end is None or not (end.tail or (end.output and end.output.bytes)):
            continue
        digest = end.output.sha256 if end.output else ""
        found.setdefault((digest, _bytes(end), end.tail), []).append(command.host_name)
    groups = [
        OutputGroup(tuple(sorted(hosts)), text, number, cut=number > len(text.encode()))
        for (_, number, text), hosts in found.items()
    ]
    return sorted(groups, key=lambda group: (-len(group.hosts), group.hosts[0]))


def _bytes(end: events.End) -> int:
    return end.output.bytes if end.output else len(end.tail.encode())


def group_text(group: OutputGroup, reference: str, style: Style) -> str:
    """Return the head and the last lines of one group."""
    lines = style.clean(group.text).rstrip("\n").split("\n")
    cut = group.cut or len(lines) > LINES_MAX
    head = f"{style.paint(style.line(hostset.fold(group.hosts)), 'bold')}:"
    if cut:
        host = style.line(group.hosts[0])
        note = f"… the end of {size(group.bytes)}; all of it: fleetlog output {reference} --host {host}"
        head += "\n" + style.paint(note, "dim")
    return "\n".join([head, *lines[-LINES_MAX:]])


def fold_equal(outputs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return (folded hosts, text) from (host, text), equal texts together, largest group first."""
    found: dict[str, list[str]] = {}
    for host, text in outputs:
        found.setdefault(text, []).append(host)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), min(item[1])))
    return [(hostset.fold(hosts), text) for text, hosts in ordered]
