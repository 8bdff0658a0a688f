"""The verbs of `fleetlog function`. Part of the grammar in `parser.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fleetlog.options import task_options
from fleetlog.values import parameter

AddVerb = Callable[..., argparse.ArgumentParser]


def function_verbs(verbs: AddVerb) -> None:
    """Add the verbs of `fleetlog function`."""
    verb = verbs("ls", "functions:ls", "list the functions that hosts offer")
    verb.add_argument("name", metavar="GLOB", nargs="?", default="", help="only those whose name fits")
    verb = verbs("show", "functions:show", "show a function: what it takes, and which hosts offer it")
    verb.add_argument("name", metavar="NAME")
    verb = verbs(
        "run", "functions:run", "run a function, on any one host that offers it unless -t says where", wait_alias=False,
        usage="fleetlog function run NAME [VALUE...] [-k ARGUMENT=VALUE ...] [-t TARGET] [options]",
    )
    verb.add_argument("function", metavar="NAME")
    verb.add_argument("values", metavar="VALUE", nargs="*", help="arguments by position: a JSON value, or a text")
    verb.add_argument("-k", "--keyword", action="append", default=[], type=parameter, metavar="ARGUMENT=VALUE",
                      help="an argument by name (repeatable)")
    task_options(verb, target_required=False)
