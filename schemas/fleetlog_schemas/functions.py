"""Which hosts offer which Python functions, by their facts. Pure.

A host whose policy names modules says so in its facts: `functions`, the names that its workers have loaded;
`functions.queues`, the queues that it serves; and for as many as there is room, `function.NAME`: signature and summary.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable

from fleetlog_schemas import limits
from fleetlog_schemas.hosts import Host
from fleetlog_schemas.workers import Offered

NAMES_FACT = "functions"
QUEUES_FACT = "functions.queues"
ERRORS_FACT = "functions.errors"
ERRORS_CHARACTERS_MAX = 500
DESCRIBED_FACT = "function."
DESCRIPTIONS_BYTES_MAX = 8 * 1024
"""Of all signatures and summaries of one host: half of what its facts may take."""
DESCRIPTION_CHARACTERS_MAX = 200


def facts_of(offered: Iterable[Offered], queues: Iterable[str], errors: Iterable[str] = ()) -> dict[str, str]:
    """Return the facts that say what a host offers, and which of its modules could not be loaded."""
    by_name = {one.name: one for one in offered}
    names = sorted(by_name)[: limits.FUNCTIONS_PER_HOST_MAX]
    facts = {NAMES_FACT: " ".join(names), QUEUES_FACT: " ".join(queues)}
    if text := "; ".join(errors):
        facts[ERRORS_FACT] = text[:ERRORS_CHARACTERS_MAX]
    room = DESCRIPTIONS_BYTES_MAX
    for name in names:
        text = f"{by_name[name].signature}\n{by_name[name].summary}"[:DESCRIPTION_CHARACTERS_MAX]
        room -= len(text.encode()) + len(name)
        if room < 0:
            break
        facts[DESCRIBED_FACT + name] = text
    return facts


def described(host: Host, name: str) -> tuple[str, str]:
    """Return the signature and the summary of a function, as its host says them; empty where it does not."""
    signature, _, text = str(host.facts.get(DESCRIBED_FACT + name, "")).partition("\n")
    return signature, text


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
    broken = ""
    for host in hosts:
        if not broken and ERRORS_FACT in host.facts:
            broken = f"; on {host.name}, {host.facts[ERRORS_FACT]}"
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
        return f"no host of the target offers the function {name!r}; did you mean {' or '.join(near)}?{broken}"
    some = ", ".join(sorted(known)[:10]) or "none: a host offers functions when its policy.toml names their modules under [functions]"
    return f"no host of the target offers the function {name!r}; these are offered: {some}{broken}"
