"""node and verify log: carry keys from the first node of a cluster to the others, and compare their copies of the log."""

from __future__ import annotations

from pathlib import Path

import msgspec

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit


def export(console: Console) -> int:
    """Write the keys of the data folder to a file for the other nodes.

    Raises:
        CliError: it cannot be written.
    """
    from fleetlog_runtime.shell.home import HomeError
    from fleetlog_runtime.shell.key_bundle import export_keys

    file = Path(console.options.file).absolute()
    try:
        count = export_keys(console.place.folder, file)
    except HomeError as error:
        raise CliError(Exit.CONFLICT, str(error)) from None
    console.put(
        f"{count} keys and credentials are in {file}; whoever has it is this system: copy it over ssh, and remove it then\n"
        f"on each other node: fleetlog node import {file.name}"
    )
    return Exit.OK


def import_keys(console: Console) -> int:
    """Take over the keys of the first node.

    Raises:
        CliError: the file is no such thing, or the folder is of another system.
    """
    from fleetlog_runtime.shell.home import HomeError
    from fleetlog_runtime.shell.key_bundle import import_keys as take_over

    try:
        home = take_over(console.place.folder, Path(console.options.file).absolute())
    except HomeError as error:
        raise CliError(Exit.CONFLICT, str(error)) from None
    console.put(
        f"{home.path} has the keys of the system; start this node with: fleetlog up --cluster NAME=ADDRESS ... "
        "(the same words on every node)"
    )
    return Exit.OK


def verify_log(console: Console) -> int:
    """Compare the copies of the log on all nodes; 1 when one differs.

    Raises:
        CliError: the bus cannot be reached, or this machine has no home.
    """
    import asyncio

    from fleetlog_runtime.pure.bus import NoAnswer
    from fleetlog_runtime.shell.home import Home, HomeError
    from fleetlog_runtime.shell.log_copies import Compared, compare_log
    from fleetlog_runtime.shell.nats_bus import ConnectFailed, connect_user

    async def compared() -> Compared:
        bus = await connect_user(Home(console.place.folder), "operator", "verify log")
        try:
            return await compare_log(bus)
        finally:
            await bus.close()

    try:
        found = asyncio.run(compared())
    except HomeError as error:
        raise CliError(Exit.UNREACHABLE, str(error), "the log is compared on a machine that has its keys") from None
    except (ConnectFailed, NoAnswer) as error:
        raise CliError(Exit.UNREACHABLE, str(error)) from None
    if console.json:
        console.put_json({**msgspec.to_builtins(found), "equal": found.equal})
        return Exit.OK if found.equal else Exit.INTERNAL
    where = ", ".join(node for node in found.nodes if node)
    console.put(
        f"log {'whole' if found.equal else 'DAMAGED'}: sequences {found.first_seq} to {found.last_seq}"
        + (f", compared on {where}" if where else "")
    )
    for fault in found.faults:
        console.put(f"  message {fault.seq}: {fault.node or 'the one copy'} {fault.what}")
    if found.absent:
        console.say(f"not compared, because away: {', '.join(found.absent)}")
    if found.faults and where:
        console.say("heal that node from the others: docs/cluster.md, `A damaged copy`")
    elif found.faults:
        console.say("there is no other copy: restore a backup")
    return Exit.OK if found.equal else Exit.INTERNAL
