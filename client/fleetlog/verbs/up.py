"""up: start the whole system on this machine and keep it running."""

from __future__ import annotations

import importlib
from typing import cast

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit


def up(console: Console) -> int:
    """Start the whole system; Ctrl-C or SIGTERM stops it.

    Raises:
        CliError: what the server needs is not installed.
    """
    try:
        module = importlib.import_module("fleetlog.up")
    except ModuleNotFoundError as error:
        raise CliError(
            Exit.INTERNAL, f"the server cannot start: the module {error.name} is missing", "pip install 'fleetlog[server]'"
        ) from None
    return cast("int", module.run(console))
