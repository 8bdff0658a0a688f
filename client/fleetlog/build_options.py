"""The grammar of builds and of what they leave: `build` and `artifact`. Part of the grammar in `parser.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from fleetlog.options import task_options


def build_verb(verb: argparse.ArgumentParser) -> None:
    """Add what `build` takes."""
    verb.add_argument("--step", action="append", default=[], metavar="TEXT",
                      help="run this text with /bin/sh -ec, after the step before it (repeatable)")
    verb.add_argument("--artifact", action="append", default=[], metavar="PATH[=NAME]",
                      help="keep this file, folder (as tar) or pattern of the build's folder (repeatable)")
    verb.add_argument("--input", action="append", default=[], metavar="FILE[=PATH]",
                      help="put this file from here into the build's folder first; ID:NAME is an artifact of a task (repeatable)")
    task_options(verb)
    verb.set_defaults(rest=[])


def artifact_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the verbs of `artifact`."""
    verb = add("ls", "artifacts:ls", "list the files that a build left")
    _task(verb)
    verb = add("get", "artifacts:get", "fetch an artifact and check its digest")
    _task(verb)
    verb.add_argument("name", metavar="NAME")
    verb.add_argument("--host", default="", metavar="NAME", help="of this host (needed where several left one)")
    verb.add_argument("--to", default="", metavar="FILE", help="where to (default: its name, here); - for stdout")
    verb = add("provenance", "artifacts:provenance", "say where a build's artifacts come from, as SLSA provenance (JSON)")
    _task(verb)


def _task(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("task", metavar="ID", help="task id, its last characters, or `last`")
