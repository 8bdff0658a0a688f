"""Which hosts offer which Python functions, by their facts. Pure.

A host whose policy names modules says two facts: `functions`, the names that its workers have loaded, and
`functions.queues`, the queues that it serves.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable

from fleetlog_schemas.hosts import Host

NAMES_FACT = "functions"
QUEUES_FACT = "functions.queues"


def offered_by(host: Host) -> list[str]:
    """Return the names of the functions that a host offers."""
    return str(host.facts.get(NAMES_FACT, "")).split()


def offers(host: Host, name: str) -> bool:
    """Tell whether a host offers a function."""
    return name in offered_by(host)


def serves(host: Host, queue: str) -> bool:
    """Tell whether a host takes tasks of a queue that name no host."""
    return any(fnmatch.fnmatchcase(queue, pattern) for pattern in str(host.facts.get(QUEUES_FACT, "")).split())


def why_nowhere(hosts: Iterable[Host], name: str, queue: str) -> str:
    """Return why no host of *hosts* runs a function, and what to do; nothing when one does."""
    known: set[str] = set()
    offering: list[Host] = []
    for host in hosts:
        names = offered_by(host)
        known.update(names)
        if name in names:
            offering.append(host)
            if serves(host, queue):
                return ""
    if offering:
        return f"{name} is offered by {len(offering)} of these hosts, and none of them serves the queue {queue!r}: see [functions] in their policy.toml"
    near = difflib.get_close_matches(name, sorted(known), n=3)
    if near:
        return f"no host of the target offers the function {name!r}; did you mean {' or '.join(near)}?"
    some = ", ".join(sorted(known)[:10]) or "none: a host offers functions when its policy.toml names their modules under [functions]"
    return f"no host of the target offers the function {name!r}; these are offered: {some}"
