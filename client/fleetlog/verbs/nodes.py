"""node: carry the keys of the first node of a cluster to the others."""

from __future__ import annotations

from pathlib import Path

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
