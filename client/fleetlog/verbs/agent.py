"""agent: handed to the agent's own command line, which a host has without anything of the server."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import cast

from fleetlog.console import Console
from fleetlog.exits import CliError, Exit


def agent(console: Console) -> int:
    """Run the agent's command line, with the data folder that was named before the verb."""
    folder = console.options.data
    return agent_with([*console.options.rest, *(["--data", folder] if folder else [])])


def agent_with(arguments: Sequence[str]) -> int:
    """Run the agent's command line.

    Raises:
        CliError: the package is not complete.
    """
    try:
        module = importlib.import_module("fleetlog_agent.main")
    except ModuleNotFoundError as error:
        raise CliError(
            Exit.INTERNAL, f"the agent cannot start: the module {error.name} is missing", "pip install fleetlog"
        ) from None
    return cast("int", module.agent_main(list(arguments)))
