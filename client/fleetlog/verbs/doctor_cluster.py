"""The part of doctor that looks at the nodes of a cluster and at their copies of every stream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from fleetlog.console import Console
from fleetlog.verbs.finding import BAD, NOTE, OK, Finding


def cluster(console: Console) -> Iterator[Finding]:
    """Say which nodes answer and whether their copies are in step; nothing where there is one node alone."""
    from fleetlog_runtime.shell.home import Home, HomeError
    from fleetlog_runtime.shell.nats_bus import ConnectFailed
    from fleetlog_runtime.shell.nodes import copies_of, nodes_of

    home = Home(console.place.folder)
    try:
        total = len(home.nats_urls())
        if total < 2:
            return
        found = asyncio.run(nodes_of(home))
        copies = asyncio.run(copies_of(home))
    except HomeError:
        return
    except ConnectFailed as error:
        yield Finding("cluster", BAD, str(error), "start the nodes: `fleetlog up` on each")
        return
    names = ", ".join(node.name for node in found)
    text = f"{len(found)} of {total} nodes answer: {names}"
    if len(found) == total:
        yield Finding("cluster", OK, text)
    elif len(found) > total // 2:
        yield Finding("cluster", NOTE, text, "start the others: if one more is lost, nothing can be stored")
    else:
        yield Finding("cluster", BAD, f"{text}; nothing can be stored", "start the others: a majority is needed")
    for node in found:
        if not node.on_disk:
            yield Finding("cluster", BAD, f"{node.name} acknowledges before the disk has it",
                          "set `sync_interval: always` in its jetstream configuration")
    if len({node.version for node in found}) > 1:
        versions = ", ".join(f"{node.name} {node.version}" for node in found)
        yield Finding("cluster", NOTE, f"nats-server differs: {versions}", "finish the upgrade, one node after the other")
    for one in copies:
        if not one.leader:
            yield Finding("copies", BAD, f"{one.stream:<9} has no leader", "wait some seconds; then start the other nodes")
        elif one.behind:
            how = ", ".join(f"{node} {text}" for node, text in sorted(one.behind.items()))
            yield Finding("copies", NOTE, f"{one.stream:<9} led by {one.leader}; {how}", "wait; take no other node away before")
        else:
            yield Finding("copies", OK, f"{one.stream:<9} led by {one.leader}, the others in step")
